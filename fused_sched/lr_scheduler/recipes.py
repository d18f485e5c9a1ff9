"""Hugging Face's schedules by name: its functions and its ``get_scheduler``, with this package's schedulers.

Names, parameters, defaults and values are those of ``transformers.optimization``, which is not needed here.
Every function takes two keywords more, ``fused`` and ``skip_with_optimizer``; see the package's docstring.

Steps are steps of the optimizer, and whole numbers. ``last_epoch`` is -1 to start, else the step to resume
after, as in torch. What the lr does at each step is said by the function of :mod:`fused_sched.schedules`
that a constructor names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, overload

from torch.optim import Optimizer

from .. import schedules
from ..notice import warn
from .lambda_lr import LambdaLR
from .reduce_lr_on_plateau import ReduceLROnPlateau

__all__ = [
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
    "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup",
    "get_polynomial_decay_schedule_with_warmup",
    "get_reduce_on_plateau_schedule",
    "get_scheduler",
    "get_wsd_schedule",
]

_RAMPS = ("linear", "cosine", "1-sqrt")


def get_constant_schedule(
    optimizer: Optimizer, last_epoch: int = -1, *, fused: bool = False, skip_with_optimizer: bool = False
) -> LambdaLR:
    """The base lr at every step.

    After the function of the same name of transformers, as are all in this module.
    """
    return LambdaLR(optimizer, schedules.constant, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.constant_with_warmup` times the base lr.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from 0 up to the base lr.
        last_epoch, fused, skip_with_optimizer: see the module.
    """
    factor = partial(schedules.constant_with_warmup, num_warmup_steps=num_warmup_steps)
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.linear` times the base lr.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from 0 up to the base lr.
        num_training_steps: steps in all; the lr is 0 from there on.
        last_epoch, fused, skip_with_optimizer: see the module.
    """
    factor = partial(schedules.linear, num_warmup_steps=num_warmup_steps, num_training_steps=num_training_steps)
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.cosine` times the base lr.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from 0 up to the base lr.
        num_training_steps: steps in all.
        num_cycles: waves of the cosine; 0.5 is one way down to 0.
        last_epoch, fused, skip_with_optimizer: see the module.
    """
    factor = partial(
        schedules.cosine,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: int = 1,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.cosine_with_restarts` times the base lr (SGDR: Loshchilov and Hutter, 2017).

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from 0 up to the base lr.
        num_training_steps: steps in all; the lr is 0 from there on.
        num_cycles: how many times the lr falls from the base lr to 0.
        last_epoch, fused, skip_with_optimizer: see the module.
    """
    factor = partial(
        schedules.cosine_with_restarts,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.polynomial` times the base lr.

    Args:
        optimizer: any one; see :class:`OnDevice`. As in transformers, the lr it was constructed with counts,
            and not that of a param group.
        num_warmup_steps: steps from 0 up to the base lr.
        num_training_steps: steps in all.
        lr_end: the lr from ``num_training_steps`` on.
        power: exponent of the part of the way that is left.
        last_epoch, fused, skip_with_optimizer: see the module.

    Raises:
        ValueError: ``lr_end`` is not below the optimizer's lr.
    """
    lr_init = float(optimizer.defaults["lr"])
    if not lr_init > lr_end:
        raise ValueError(f"{lr_end=} must be below the optimizer's lr, {lr_init}: lower it, or raise the lr")
    factor = partial(
        schedules.polynomial,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        lr_init=lr_init,
        lr_end=lr_end,
        power=power,
    )
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    timescale: int | None = None,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.inverse_sqrt` times the base lr (Vaswani et al., 2017).

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from 0 up to the base lr.
        timescale: steps that the root is relative to; default ``num_warmup_steps``, or 10,000 without a warm-up.
        last_epoch, fused, skip_with_optimizer: see the module.
    """
    factor = partial(schedules.inverse_sqrt, num_warmup_steps=num_warmup_steps, timescale=timescale)
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.cosine_with_min_lr` times the base lr.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from 0 up to the base lr.
        num_training_steps: steps in all.
        num_cycles: waves of the cosine; 0.5 is one way down.
        min_lr: the lowest lr, taken relative to the lr that the optimizer was constructed with.
        min_lr_rate: instead of ``min_lr``, the lowest lr over the base lr.
        last_epoch, fused, skip_with_optimizer: see the module.

    Raises:
        ValueError: not exactly one of ``min_lr`` and ``min_lr_rate`` is given.
    """
    factor = partial(
        schedules.cosine_with_min_lr,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
        min_lr_rate=_min_lr_rate(optimizer, min_lr, min_lr_rate),
    )
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.cosine_warmup_with_min_lr` times the base lr.

    Args:
        warmup_lr_rate: first lr over the base lr; default ``1 / num_warmup_steps``.

    Other arguments and errors are those of :func:`get_cosine_with_min_lr_schedule_with_warmup`.
    """
    factor = partial(
        schedules.cosine_warmup_with_min_lr,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
        min_lr_rate=_min_lr_rate(optimizer, min_lr, min_lr_rate),
        warmup_lr_rate=warmup_lr_rate,
    )
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def _min_lr_rate(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    if min_lr is not None and min_lr_rate is not None:
        raise ValueError(f"{min_lr=} and {min_lr_rate=} say the same thing in two units: give one of them")
    if min_lr is not None:
        return min_lr / float(optimizer.defaults["lr"])
    if min_lr_rate is None:
        raise ValueError(
            "min_lr and min_lr_rate are both None, but the lowest lr has to be known: give one of them "
            "(to get_scheduler in scheduler_specific_kwargs)"
        )
    return min_lr_rate


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR:
    """:func:`fused_sched.schedules.warmup_stable_decay` times the base lr (MiniCPM: Hu et al., 2024).

    Args:
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps from the lowest lr up to the base lr.
        num_decay_steps: steps from the base lr down to the lowest.
        num_training_steps: steps in all; the base lr lasts for what warm-up and decay leave of them.
        num_stable_steps: instead of ``num_training_steps``, how many steps the base lr lasts.
        warmup_type, decay_type: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``.
        min_lr_ratio: the lowest lr over the base lr.
        num_cycles: waves of a cosine decay; 0.5 is one way down.
        last_epoch, fused, skip_with_optimizer: see the module.

    Raises:
        ValueError: neither ``num_training_steps`` nor ``num_stable_steps`` is given, or a type is unknown.
    """
    if num_stable_steps is None:
        if num_training_steps is None:
            raise ValueError(
                "num_training_steps and num_stable_steps are both None, but the length of the stable part has to be "
                "known: give one of them"
            )
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    elif num_training_steps is not None:
        warn(f"{num_training_steps=} has no effect beside {num_stable_steps=}: leave one of them out")
    for name, value in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if value not in _RAMPS:
            raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(map(repr, _RAMPS))}")
    factor = partial(
        schedules.warmup_stable_decay,
        num_warmup_steps=num_warmup_steps,
        num_stable_steps=num_stable_steps,
        num_decay_steps=num_decay_steps,
        warmup_type=warmup_type,
        decay_type=decay_type,
        min_lr_ratio=min_lr_ratio,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)


def get_reduce_on_plateau_schedule(
    optimizer: Optimizer, *, fused: bool = False, skip_with_optimizer: bool = False, **kwargs: Any
) -> ReduceLROnPlateau:
    """:class:`~fused_sched.lr_scheduler.ReduceLROnPlateau`, which lowers the lr when a metric stops improving.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        fused, skip_with_optimizer: must be False; here only because every schedule has them.
        kwargs: the class's arguments.

    Raises:
        ValueError: ``fused`` or ``skip_with_optimizer``, or torch's reasons.
    """
    if fused or skip_with_optimizer:
        raise ValueError(
            f"{fused=}, {skip_with_optimizer=}: ReduceLROnPlateau advances when its step() is given a metric, and not "
            "with the optimizer: leave both out"
        )
    return ReduceLROnPlateau(optimizer, **kwargs)


class _Recipe(NamedTuple):
    """What ``get_scheduler`` does for a name."""

    make: Callable[..., Any]
    required: tuple[str, ...] = ()  # numbers of steps that must be given
    optional: tuple[str, ...] = ()  # those passed on as they are
    specific: bool = True  # whether scheduler_specific_kwargs are passed on


_WARMUP, _BOTH = ("num_warmup_steps",), ("num_warmup_steps", "num_training_steps")
_BY_NAME = {
    "linear": _Recipe(get_linear_schedule_with_warmup, _BOTH),
    "cosine": _Recipe(get_cosine_schedule_with_warmup, _BOTH),
    "cosine_with_restarts": _Recipe(get_cosine_with_hard_restarts_schedule_with_warmup, _BOTH),
    "polynomial": _Recipe(get_polynomial_decay_schedule_with_warmup, _BOTH),
    "constant": _Recipe(get_constant_schedule, specific=False),
    "constant_with_warmup": _Recipe(get_constant_schedule_with_warmup, _WARMUP, specific=False),
    "inverse_sqrt": _Recipe(get_inverse_sqrt_schedule, _WARMUP),
    "reduce_lr_on_plateau": _Recipe(get_reduce_on_plateau_schedule),
    "cosine_with_min_lr": _Recipe(get_cosine_with_min_lr_schedule_with_warmup, _BOTH),
    "cosine_warmup_with_min_lr": _Recipe(get_cosine_with_min_lr_schedule_with_warmup_lr_rate, _BOTH),
    "warmup_stable_decay": _Recipe(get_wsd_schedule, _WARMUP, optional=("num_training_steps",)),
}
_REFUSED = {
    "greedy": "it raises and lowers the lr by a metric and by rules of its own, and no program here has them: use "
    "'reduce_lr_on_plateau', or transformers.optimization.GreedyLR, which sets the lr of these optimizers by hand"
}


_Decaying = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip


@overload
def get_scheduler(
    name: _Decaying,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> LambdaLR: ...


@overload
def get_scheduler(
    name: Literal["reduce_lr_on_plateau"],
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> ReduceLROnPlateau: ...


@overload
def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> Any: ...


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
    *,
    fused: bool = False,
    skip_with_optimizer: bool = False,
) -> Any:
    """A schedule by the name that transformers has for it.

    Args:
        name: ``"linear"``, ``"cosine"``, ``"cosine_with_restarts"``, ``"polynomial"``, ``"constant"``,
            ``"constant_with_warmup"``, ``"inverse_sqrt"``, ``"reduce_lr_on_plateau"``, ``"cosine_with_min_lr"``,
            ``"cosine_warmup_with_min_lr"`` or ``"warmup_stable_decay"``, or an enum's member with such a value.
        optimizer: any one; see :class:`OnDevice`.
        num_warmup_steps: steps of the warm-up; for all but ``"constant"`` and ``"reduce_lr_on_plateau"``.
        num_training_steps: steps in all, for schedules that end.
        scheduler_specific_kwargs: further arguments of the schedule's constructor. As in transformers,
            ``"constant"`` and ``"constant_with_warmup"`` ignore them.
        fused, skip_with_optimizer: see the module.

    Returns:
        :class:`~fused_sched.lr_scheduler.LambdaLR`, or ReduceLROnPlateau.

    Raises:
        ValueError: the name is unknown or refused, or a number of steps is missing.
        TypeError: the constructor does not have such an argument.
    """
    key = getattr(name, "value", name)
    if key in _REFUSED:
        raise ValueError(f"name={key!r} is not supported: {_REFUSED[key]}")
    if key not in _BY_NAME:
        raise ValueError(f"name={key!r} is not a schedule: choose one of {', '.join(_BY_NAME)}")
    recipe = _BY_NAME[key]
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for parameter in recipe.required:
        if steps[parameter] is None:
            raise ValueError(f"{parameter}=None, but the schedule {key!r} is defined by it: give a number of steps")
    arguments: dict[str, Any] = {parameter: steps[parameter] for parameter in (*recipe.required, *recipe.optional)}
    specific = (scheduler_specific_kwargs or {}) if recipe.specific else {}
    return recipe.make(optimizer, **arguments, **specific, fused=fused, skip_with_optimizer=skip_with_optimizer)
