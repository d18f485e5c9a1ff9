"""What is kept beside a 16-bit parameter so that the two have all digits of a float32, as torch operations.

A **master** is that float32; the parameter is its rounding. Where it is not, somebody else wrote to the parameter, and
its value is the one that counts. csrc/master.h and kernels/master.py do the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# Dtype of what is kept -> its code in a record's kind.
MASTERS: Mapping[torch.dtype, int] = {torch.float32: 1}


def value_of(param: torch.Tensor, master: torch.Tensor) -> torch.Tensor:
    """The float32 that a parameter and its master stand for."""
    p, kept = param.detach(), master.detach()
    same = kept.to(p.dtype).view(torch.int16) == p.view(torch.int16)
    return torch.where(same, kept, p.float())


def store_value(value: torch.Tensor, param: torch.Tensor, master: torch.Tensor) -> None:
    """Write a float32 to a parameter and its master."""
    param.detach().copy_(value)
    master.detach().copy_(value)
