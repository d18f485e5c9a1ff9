"""What torch.compile runs as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch._C._dynamo.eval_frame import get_eval_frame_callback

Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """Break the graph around ``function``, as torch does around its schedulers, and let Python run it.

    What it reads and writes is memory that Dynamo can neither see nor guard. Dynamo is told at the first call, by when
    torch's own optimizer has imported it, and Triton with it. What torch.compiler.disable makes costs half a
    microsecond a call, so it is called only where Dynamo is at work.
    """
    disabled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            reason = "fused_sched keeps hyperparameters and schedules in memory that Dynamo cannot see"
            disabled = torch.compiler.disable(function, reason=reason)
            torch._dynamo.decorators.skip(call)
        if get_eval_frame_callback() is None:
            return function(*args, **kwargs)
        return disabled(*args, **kwargs)

    return cast(Function, call)
