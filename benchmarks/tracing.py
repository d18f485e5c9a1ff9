"""Turning a function of the step into a program: what it costs, once, when a scheduler is made."""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Callable

from harness import Row, interleave, time_text

from fused_sched import schedules
from fused_sched.trace import trace

WARM_UP = {"num_warmup_steps": 500, "num_training_steps": 20_000}
MILESTONES = list(range(1000, 20_000, 1000))


def _in_place(step: int) -> float:
    """Warm-up, cosine and floor, as many training scripts write it."""
    if step < 500:
        return (step + 1) / 501
    if step > 20_000:
        return 0.1
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * (step - 500) / 19_500))


def _loop(step: int) -> float:
    """A decay at each of 19 milestones, tested one by one."""
    factor = 1.0
    for milestone in MILESTONES:
        if step >= milestone:
            factor *= 0.9
    return factor


FUNCTIONS: dict[str, Callable[[int], float]] = {
    "lambda step: 0.99**step": lambda step: 0.99**step,
    "schedules.linear": functools.partial(schedules.linear, **WARM_UP),
    "schedules.cosine": functools.partial(schedules.cosine, **WARM_UP),
    "schedules.cosine_with_restarts": functools.partial(schedules.cosine_with_restarts, num_cycles=4, **WARM_UP),
    "schedules.inverse_sqrt": functools.partial(schedules.inverse_sqrt, num_warmup_steps=500),
    "schedules.warmup_stable_decay": functools.partial(
        schedules.warmup_stable_decay,
        num_warmup_steps=500,
        num_stable_steps=10_000,
        num_decay_steps=9_500,
        decay_type="1-sqrt",
    ),
    "warm-up, cosine, floor": _in_place,
    "bisect in a list": lambda step: 0.9 ** bisect_right(MILESTONES, step),
    "a loop over 19 milestones": _loop,
}


def rows(seconds: float) -> list[Row]:
    """Time of a trace with its check against the function, and of a call of the function beside it."""
    result = []
    for name, function in FUNCTIONS.items():
        traced = trace(function)
        calls = {"trace": functools.partial(trace, function), "call": functools.partial(function, 5000)}
        times = interleave(calls, seconds, 3, 1e-3)
        row = {"function": name, "paths": traced.outcome.paths, "operations": len(traced.outcome.nodes)}
        result.append({**row, "checked": traced.compared, "times": times})
        print(f"{name:32} {time_text(times['trace']['median_us'])}", flush=True)
    return result
