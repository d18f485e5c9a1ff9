"""Functions of the step as users write them, for the tests of tracing."""

from __future__ import annotations

import bisect
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from fused_sched.program.builder import Builder
from fused_sched.program.program import Program
from fused_sched.trace import Traced, emit_per_group

MILESTONES = [30, 60, 90, 400, 1000, 5000]
FACTORS = {0: 1.0, 30: 0.5, 60: 0.25, 400: 0.125}

# nanoGPT's globals
learning_rate = 6e-4
warmup_iters = 2000
lr_decay_iters = 12_000
min_lr = 6e-5


def nano_gpt(it: int) -> float:
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    assert 0 <= decay_ratio <= 1
    coeff = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return min_lr + coeff * (learning_rate - min_lr)


def warmup_stable_decay(
    current_step: int, warmup_steps: int, stable_steps: int, decay_steps: int, decay_type: str, min_lr_factor: float
) -> float:
    warmup_stable_steps = warmup_steps + stable_steps
    if current_step < warmup_steps:
        current_step += 1
        assert warmup_steps != 0, "warmup_steps must not be zero to reach this branch"
        curr_adjustment = float(current_step / warmup_steps)
    elif current_step < warmup_stable_steps:
        curr_adjustment = 1.0
    else:
        current_step += 1
        assert decay_steps != 0
        progress = float(current_step - warmup_stable_steps) / decay_steps
        if decay_type == "linear":
            curr_adjustment = 1 - progress
        elif decay_type == "sqrt":
            curr_adjustment = 1 - math.sqrt(progress)
        elif decay_type == "cosine":
            curr_adjustment = 0.5 * (1.0 + math.cos(math.pi * progress))
        curr_adjustment = min_lr_factor + (1 - min_lr_factor) * curr_adjustment
        curr_adjustment = max(curr_adjustment, min_lr_factor)
    return curr_adjustment


def milestones_and_dict(step: int) -> float:
    """bisect over a global list, a dict by key, membership in a set, conditional expressions."""
    phase = bisect.bisect_right(MILESTONES, step)
    base = FACTORS.get(step, 0.9) if step in FACTORS else 0.8**phase
    return base * (2.0 if step in {5, 17, 400} else 1.0) if step != 31 else 0.0


def closures_and_loops(power: float = 1.5) -> Callable[[int], float]:
    cycles = [50, 150, 450, 2000]

    def inner(step: int, *, scale: float = 2.0) -> float:
        length = 0
        left = step
        for i, cycle in enumerate(cycles):  # noqa: B007
            length = cycle
            if left < cycle:
                break
            left -= cycle
            scale *= 0.5
        else:
            left = left % length
        parts = [left / length, (left / length) ** power]

        def mix(a: float, b: float, weight: float = 0.3) -> float:
            return a * weight + b * (1 - weight)

        return scale * mix(*parts) + sum(x * x for x in parts) + 1e-3 * i

    return inner


class Base:
    floor = 1e-4

    def __init__(self, warmup: int, rates: list[float]) -> None:
        self.warmup, self.rates = warmup, rates

    def slope(self) -> float:
        return 1.0 / self.warmup

    def __call__(self, step: int) -> float:
        return max(self.value(step), self.floor)

    def value(self, step: int) -> float:
        return step * self.slope() if step <= self.warmup else 1.0

    @staticmethod
    def halves(n: int) -> float:
        return 0.5**n


class Derived(Base):
    __slots__ = ("limit",)
    label = "Derived"

    def __init__(self, warmup: int, rates: list[float], limit: int) -> None:
        super().__init__(warmup, rates)
        self.limit = limit

    @classmethod
    def name(cls) -> str:
        return cls.label

    def value(self, step: int) -> float:
        quotient, rest = divmod(step, self.limit)
        index = min(quotient, len(self.rates) - 1)
        scale = self.halves(index) if isinstance(step, int) and self.name() == "Derived" else -1.0
        return super().value(step) * self.rates[index] * scale + rest * 1e-6


def guarded(step: int, offset: int = 37) -> float:
    """try/except, chained comparisons, any and all."""
    try:
        x = 100 / (step - offset)
    except ZeroDivisionError:
        x = 7.0
    if 10 <= step < 20 or 1_000 <= step <= 1_010:
        x = -x
    if any(step == m for m in MILESTONES) and all(m >= 30 for m in MILESTONES):
        x += 0.25
    return round(abs(x)) + math.floor(x) + x % 1.0 + int(x) // 3 + (not x > 2) + True


def nested(a: float, b: float, step: int, *, c: float) -> float:
    scale = operator.mul(a, b)
    return scale * math.log1p(step / c) + math.tanh(step / 1000) + math.atan(step) + math.log2(step + 1)


twice_partial = functools.partial(functools.partial(nested, 0.5), 0.25, c=11.0)


def doubled(function: Callable[[int], float]) -> Callable[[int], float]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> float:
        return 2 * function(*args, **kwargs)

    return wrapper


@doubled
def triangle(step: int) -> float:
    cycle = math.floor(1 + step / (2 * 150))
    x = abs(step / 150 - 2 * cycle + 1)
    return 0.1 + 0.9 * max(0, (1 - x)) * (0.99 ** (step // 300))


def numpy_mix(step: int) -> float:
    progress = np.clip(step / 5000, 0.0, 1.0)
    cosine = 0.5 * (1 + np.cos(np.pi * progress))
    smooth = np.exp(-np.maximum(step - 100, 0) / 3000.0) * np.tanh(step / 50)
    return float(np.where(step < 200, cosine, smooth)) + np.log1p(step) * 1e-3 + np.power(0.5, progress)


def imports_inside(step: int) -> float:
    import math as m
    from bisect import bisect_left

    return m.sqrt(step) / (1 + bisect_left(MILESTONES, step)) + m.copysign(0.5, 100 - step) + m.fmod(step, 7.5)


def keyed_lists(step: int) -> float:
    """Lists, tuples and dicts of the function's own, and a while loop with an end."""
    table = [0.1, 0.2, 0.4]
    names = {0: "up", 1: "down", 2: "flat"}
    kind = names[step // 100 % 3]
    x = table[step % 3] + (3.0, 2.0, 1.0)[-1 - step % 3]
    edge, n = 16, 0
    while n < 8 and step >= edge:
        edge, n = edge * 2, n + 1
    return x * n if kind == "up" else x if kind == "down" else -x + max(MILESTONES[:3], key=lambda m: -m)


IMAGINED: dict[str, Callable[[int], Any]] = {
    "nanoGPT": nano_gpt,
    "milestones and dict": milestones_and_dict,
    "closures and loops": closures_and_loops(),
    "object": Derived(200, [1.0, 0.9, 0.5, 0.25], 1500),
    "method": Base(300, []).value,
    "guarded": guarded,
    "nested partials": twice_partial,
    "decorated": triangle,
    "numpy": numpy_mix,
    "imports inside": imports_inside,
    "lists of its own": keyed_lists,
    "lambda": lambda step: 0.95**step,
    "true division": lambda step: min(1.0, (step + 1) / 1000) if step else 0,
    "inverse square root": lambda step: 512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 4000**-1.5),
    "step ** 2": lambda step: (step**2 % 97) / 97 + (step & 7) + (step >> 3) * 1e-3,
}


def program_of(traced: Traced) -> Program:
    """A program that computes it from a register ``step``."""
    b = Builder(1)
    step = b.register("step", 0.0)
    for k, value in enumerate(emit_per_group(b, [traced.outcome], {"step": step})):
        b.register(f"result{k}", 0.5)
        b.set_register(f"result{k}", value)
    return b.finish("traced")


def on_host(traced: Traced) -> Callable[[int], float]:
    """Its first result as the host computes it."""
    program = program_of(traced)
    advance, memory = program.compile_host(), program.initial_memory(range(program.n_groups)).tolist()
    at, result = program.offsets["step"], program.offsets["result0"]

    def run(step: int) -> float:
        memory[at] = float(step)
        advance(memory, [])
        return memory[result]

    return run
