"""What torch.compile runs as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """Break the graph around ``function``, as torch does around its schedulers, and let Python run it.

    What it reads and writes is memory that Dynamo can neither see nor guard.
    """
    reason = "fused_sched keeps hyperparameters and schedules in memory that Dynamo cannot see"
    return torch.compiler.disable(function, reason=reason)  # type: ignore[no-any-return]
