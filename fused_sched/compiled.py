"""What torch.compile runs as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """Break the graph around ``function``, as torch does around its schedulers, and let Python run it.

    What it reads and writes is memory that Dynamo can neither see nor guard. Dynamo is imported at the first call:
    that takes a second, and Triton with it.
    """

    disabled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            reason = "fused_sched keeps hyperparameters and schedules in memory that Dynamo cannot see"
            disabled = torch.compiler.disable(function, reason=reason)
        return disabled(*args, **kwargs)

    return cast(Function, call)
