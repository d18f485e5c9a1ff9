"""Schedules as plain functions of the step, and the values that any scheduler gives, without training.

The functions here are the factors of Hugging Face's ``transformers.optimization``, under the names that its
``get_scheduler`` has for them. Each takes the step, an int of at least 0, and returns the factor on the base
lr, to the bit what transformers computes; with :func:`functools.partial` it is an ``lr_lambda``. They use
arithmetic, comparisons, ``max`` and ``math`` alone, so that they can be translated into programs.

:func:`as_function` goes the other way: it makes a function of the step of any scheduler.
"""

from __future__ import annotations

import math

from .curves import ScheduleFunction, as_function, curves, lr_curve

__all__ = [
    "ScheduleFunction",
    "as_function",
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_warmup_with_min_lr",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "curves",
    "inverse_sqrt",
    "linear",
    "lr_curve",
    "polynomial",
    "warmup_stable_decay",
]

# -- factors of the base lr --------------------------------------------------------------------------------
# The order of operations is that of transformers, and each function stands alone: both are on purpose.


def constant(step: int) -> float:
    """1 at every step."""
    return 1.0


def constant_with_warmup(step: int, *, num_warmup_steps: int) -> float:
    """From 0 up to 1 in ``num_warmup_steps`` steps, then 1."""
    if step < num_warmup_steps:
        return step / float(max(1.0, num_warmup_steps))
    return 1.0


def linear(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    """Up to 1 in ``num_warmup_steps`` steps, then in a line down to 0 at ``num_training_steps``, and 0 beyond."""
    if step < num_warmup_steps:
        return step / float(max(1, num_warmup_steps))
    return max(0.0, (num_training_steps - step) / float(max(1, num_training_steps - num_warmup_steps)))


def cosine(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5) -> float:
    """Up to 1, then along ``num_cycles`` waves of a cosine; 0.5 is one way down to 0.

    Beyond ``num_training_steps`` the wave goes on, and rises.
    """
    if step < num_warmup_steps:
        return step / float(max(1, num_warmup_steps))
    progress = (step - num_warmup_steps) / float(max(1, num_training_steps - num_warmup_steps))
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress)))


def cosine_with_restarts(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1) -> float:
    """Up to 1, then ``num_cycles`` times along half a cosine from 1 to 0; 0 from ``num_training_steps`` on.

    Warm restarts are of Loshchilov and Hutter, SGDR (2017).
    """
    if step < num_warmup_steps:
        return step / float(max(1, num_warmup_steps))
    progress = (step - num_warmup_steps) / float(max(1, num_training_steps - num_warmup_steps))
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(num_cycles) * progress) % 1.0))))


def polynomial(
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_init: float,
    lr_end: float = 1e-7,
    power: float = 1.0,
) -> float:
    """Up to 1, then along ``(1 - progress) ** power`` down to ``lr_end / lr_init``, and that beyond.

    ``lr_init`` is the base lr, which the factor is relative to; ``lr_end`` is an lr, not a factor.
    """
    if step < num_warmup_steps:
        return step / float(max(1, num_warmup_steps))
    if step > num_training_steps:
        return lr_end / lr_init
    remaining = 1 - (step - num_warmup_steps) / (num_training_steps - num_warmup_steps)
    lr: float = (lr_init - lr_end) * remaining**power + lr_end
    return lr / lr_init


def inverse_sqrt(step: int, *, num_warmup_steps: int, timescale: int | None = None) -> float:
    """Up to 1, then down as one over the square root of the step, after Vaswani et al. (2017).

    ``timescale`` is a number of steps: three times as many after the warm-up, the factor is 1/2. None is
    ``num_warmup_steps``, or 10,000 without a warm-up.
    """
    if timescale is None:
        timescale = num_warmup_steps or 10_000
    if step < num_warmup_steps:
        return step / float(max(1, num_warmup_steps))
    return 1.0 / math.sqrt((step + (timescale - num_warmup_steps)) / timescale)


def cosine_with_min_lr(
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr_rate: float = 0.0,
) -> float:
    """As :func:`cosine`, between 1 and ``min_lr_rate``."""
    if step < num_warmup_steps:
        return step / float(max(1, num_warmup_steps))
    progress = (step - num_warmup_steps) / float(max(1, num_training_steps - num_warmup_steps))
    wave = 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress))
    return max(0.0, wave * (1 - min_lr_rate) + min_lr_rate)


def cosine_warmup_with_min_lr(
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr_rate: float = 0.0,
    warmup_lr_rate: float | None = None,
) -> float:
    """As :func:`cosine_with_min_lr`, with a warm-up from ``warmup_lr_rate``, and a step ahead.

    Without ``warmup_lr_rate`` the warm-up begins at ``1 / num_warmup_steps``.
    """
    if step < num_warmup_steps:
        if warmup_lr_rate is None:
            return (step + 1.0) / max(1.0, float(num_warmup_steps))
        start = float(warmup_lr_rate)
        return start + (1.0 - start) * step / max(1.0, float(num_warmup_steps) - 1.0)
    length = max(1.0, float(num_training_steps) - float(num_warmup_steps))
    progress = (step - float(num_warmup_steps) + 1.0) / length
    wave = 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress))
    return max(0.0, wave * (1 - min_lr_rate) + min_lr_rate)


def warmup_stable_decay(
    step: int,
    *,
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> float:
    """Up from ``min_lr_ratio`` to 1, 1 for ``num_stable_steps``, down to ``min_lr_ratio``, and that beyond.

    After MiniCPM (Hu et al., 2024). Both ways are ``"linear"``, ``"cosine"`` or ``"1-sqrt"``; ``num_cycles``
    is that of :func:`cosine`, for the way down.
    """
    if step < num_warmup_steps:
        progress = step / float(max(1, num_warmup_steps))
        if warmup_type == "linear":
            factor = progress
        elif warmup_type == "cosine":
            factor = 0.5 * (1.0 - math.cos(math.pi * progress))
        else:
            factor = 1.0 - math.sqrt(1.0 - progress)
        return max(0.0, factor * (1.0 - min_lr_ratio) + min_lr_ratio)
    if step < num_warmup_steps + num_stable_steps:
        return 1.0
    if step < num_warmup_steps + num_stable_steps + num_decay_steps:
        progress = (step - num_warmup_steps - num_stable_steps) / float(max(1, num_decay_steps))
        if decay_type == "linear":
            factor = 1.0 - progress
        elif decay_type == "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress))
        else:
            factor = 1.0 - math.sqrt(progress)
        return max(0.0, factor * (1.0 - min_lr_ratio) + min_lr_ratio)
    return min_lr_ratio
