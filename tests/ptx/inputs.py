"""Arguments of operations as schedules have them, and wider ones; how to draw them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

Draw = Callable[[random.Random], tuple[float, ...]]


def _annealed(r: random.Random) -> tuple[float, ...]:
    """The argument of a cosine annealing."""
    return (math.pi * r.randrange(100000) / r.randrange(1, 100000),)


def decayed(r: random.Random) -> tuple[float, ...]:
    """A factor to the power of a step, down to e^-600."""
    n = r.randrange(1, 100000)
    return math.exp(-r.uniform(0, 600) / n), float(n)


def _uniform(low: float, high: float) -> Draw:
    return lambda r: (r.uniform(low, high),)


def _magnitudes(low: float, high: float) -> Draw:
    return lambda r: (10 ** r.uniform(low, high),)


INPUTS: dict[str, dict[str, Draw]] = {
    "pow": {
        "gamma^n": decayed,
        "beta^t": lambda r: (r.choice([0.9, 0.95, 0.98, 0.99, 0.999, 0.9999]), float(int(10 ** r.uniform(0, 5)))),
        "polynomial": lambda r: (r.randrange(1, 10000) / 10000, r.choice([0.5, 0.9, 1.0, 1.5, 2.0, 3.0])),
        "any": lambda r: (math.exp(r.uniform(-20, 20)), r.uniform(-30, 30)),
    },
    "cos": {"annealing": _annealed, "steps": _uniform(0, 1e5), "far": _magnitudes(5, 12)},
    "sin": {"annealing": _annealed, "steps": _uniform(0, 1e5), "far": _magnitudes(5, 12)},
    "tan": {"one turn": _uniform(-1.57, 1.57), "steps": _uniform(0, 1e5)},
    "exp": {"decay": _uniform(-50, 5), "any": _uniform(-700, 700)},
    "expm1": {"small": _uniform(-1, 1), "any": _uniform(-30, 700)},
    "log": {"steps": _magnitudes(0, 6), "around 1": _uniform(0.5, 2), "any": _magnitudes(-300, 300)},
    "log2": {"steps": _magnitudes(0, 6), "around 1": _uniform(0.5, 2)},
    "log10": {"steps": _magnitudes(0, 6), "around 1": _uniform(0.5, 2)},
    "log1p": {"steps": _magnitudes(-6, 6), "negative": _uniform(-0.99, 0)},
    "atan": {"any": _uniform(-10, 10), "far": _magnitudes(0, 12)},
    "tanh": {"any": _uniform(-5, 5), "small": _magnitudes(-8, 0), "where glibc's is off by two": _uniform(0.5, 0.56)},
}
