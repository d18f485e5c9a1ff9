"""What is kept beside a 16-bit parameter so that the two have all digits of a float32, as torch operations.

A **master** is that float32; the parameter is its rounding. Where it is not, somebody else wrote to the parameter, and
its value is the one that counts.

A **remainder** is the rest of a float32 beside the bfloat16 that it is rounded to: their bits' difference. Halves are
rounded away from zero. So 65,536 float32 have the same bfloat16, as many as there are remainders; with halves to even
it were one more, or one less. Where somebody else wrote to the parameter, the remainder that was there stays: the
value is off by no more than half a unit in the parameter's last place. Beside 0 or infinity, and of the wrong sign, it
is nothing.

csrc/master.h and kernels/master.py do the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# Dtype of what is kept -> its code in a record's kind.
MASTERS: Mapping[torch.dtype, int] = {torch.float32: 1, torch.int16: 2}


def value_of(param: torch.Tensor, master: torch.Tensor) -> torch.Tensor:
    """The float32 that a parameter and its master stand for."""
    p, kept = param.detach(), master.detach()
    if kept.dtype == torch.int16:
        joined = (p.float().view(torch.int32) + kept).view(torch.float32)
        return torch.where(joined.isnan(), p.float(), joined)
    same = kept.to(p.dtype).view(torch.int16) == p.view(torch.int16)
    return torch.where(same, kept, p.float())


def store_value(value: torch.Tensor, param: torch.Tensor, master: torch.Tensor) -> None:
    """Write a float32 to a parameter and its master."""
    if master.dtype == torch.int16:
        param.detach().copy_(round_away(value))
        bits = torch.where(value.isnan(), 0, value.view(torch.int32))
        master.detach().copy_(bits)  # the low 16 bits
    else:
        param.detach().copy_(value)
        master.detach().copy_(value)


def round_away(value: torch.Tensor) -> torch.Tensor:
    """A float32 as bfloat16, halves rounded away from zero."""
    high = ((value.view(torch.int32) + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(value.isnan(), value.to(torch.bfloat16), high)
