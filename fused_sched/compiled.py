"""What torch.compile runs as it is."""

from __future__ import annotations

import inspect
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

    def tell_dynamo() -> Any:
        reason = "fused_sched keeps hyperparameters and schedules in memory that Dynamo cannot see"
        known["disabled"] = torch.compiler.disable(function, reason=reason)
        torch._dynamo.decorators.skip(call)
        known["compiling"] = get_eval_frame_callback
        return get_eval_frame_callback()

    # with the function's own parameters: to pass *args and **kwargs on takes longer than all else here
    names = ", ".join(inspect.signature(function).parameters)
    source = f"def call({names}): return function({names}) if compiling() is None else disabled({names})"
    # with a name of this package's, whose frames are no caller's of a warning
    known: dict[str, Any] = {"__name__": __name__, "function": function, "compiling": tell_dynamo}
    exec(compile(source, __file__, "exec"), known)  # noqa: S102
    call = known["call"]
    call.__defaults__ = function.__defaults__
    return cast(Function, wraps(function)(call))
