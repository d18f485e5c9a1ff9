"""on_device: schedulers that were made with torch's classes, or with the user's own."""

from __future__ import annotations

import weakref
from typing import Any

from torch.optim import lr_scheduler, swa_utils
from torch.optim.lr_scheduler import LRScheduler

from .base import OnDevice
from .constant_lr import ConstantLR
from .cosine_annealing_lr import CosineAnnealingLR
from .cosine_annealing_warm_restarts import CosineAnnealingWarmRestarts
from .cyclic_lr import CyclicLR
from .exponential_lr import ExponentialLR
from .lambda_lr import LambdaLR
from .linear_lr import LinearLR
from .multi_step_lr import MultiStepLR
from .multiplicative_lr import MultiplicativeLR
from .nested import ChainedScheduler, SequentialLR
from .one_cycle_lr import OneCycleLR
from .polynomial_lr import PolynomialLR
from .reduce_lr_on_plateau import ReduceLROnPlateau
from .step_lr import StepLR
from .swalr import SWALR


class TracedLR(OnDevice, LRScheduler):
    """Any scheduler whose ``get_lr`` can be traced; the base of what :func:`on_device` makes of the user's classes."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        users = next(c for c in type(self).__mro__ if not issubclass(c, OnDevice))
        return _empty, (users,), self.__getstate__()


_OURS: dict[type, type[OnDevice]] = {
    lr_scheduler.ChainedScheduler: ChainedScheduler,
    lr_scheduler.ConstantLR: ConstantLR,
    lr_scheduler.CosineAnnealingLR: CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts: CosineAnnealingWarmRestarts,
    lr_scheduler.CyclicLR: CyclicLR,
    lr_scheduler.ExponentialLR: ExponentialLR,
    lr_scheduler.LambdaLR: LambdaLR,
    lr_scheduler.LinearLR: LinearLR,
    lr_scheduler.MultiStepLR: MultiStepLR,
    lr_scheduler.MultiplicativeLR: MultiplicativeLR,
    lr_scheduler.OneCycleLR: OneCycleLR,
    lr_scheduler.PolynomialLR: PolynomialLR,
    lr_scheduler.ReduceLROnPlateau: ReduceLROnPlateau,
    lr_scheduler.SequentialLR: SequentialLR,
    lr_scheduler.StepLR: StepLR,
    swa_utils.SWALR: SWALR,
    LRScheduler: TracedLR,
}


# Weakly, so that a class that was made in a function goes when nobody uses it any more.
_made: weakref.WeakKeyDictionary[type, weakref.ref[type[Any]]] = weakref.WeakKeyDictionary()


def _device_class(users: Any) -> type[Any]:
    """Our class for one of torch's, or one that puts the user's subclass in front of ours."""
    if users in _OURS:
        return _OURS[users]
    known = _made.get(users)
    cls = None if known is None else known()
    if cls is None:
        cls = _make_device_class(users)
        _made[users] = weakref.ref(cls)
    return cls


def _make_device_class(users: Any) -> type[Any]:
    ours = next(_OURS[c] for c in users.__mro__ if c in _OURS)
    names = {
        "__module__": users.__module__,
        "__qualname__": users.__qualname__,
        "__doc__": users.__doc__,
        "__reduce_ex__": TracedLR.__reduce_ex__,
    }
    return type(users.__name__, (users, ours), names)


def _empty(users: Any) -> OnDevice:
    cls: Any = _device_class(users)
    return cls.__new__(cls)  # type: ignore[no-any-return]


def on_device(scheduler: Any, *, fused: bool = False, skip_with_optimizer: bool = False, horizon: int = 1) -> Any:
    """Put a scheduler on the device that was made with torch's class, or with the user's own subclass.

    A subclass may override ``get_lr``, in the recursive form or from ``base_lrs``: it is traced like a
    function of the step (:mod:`fused_sched.trace`). Where that is impossible the schedule goes on by Python,
    with a warning that says why. SequentialLR and ChainedScheduler are taken over with all their parts.

    Args:
        scheduler: drives an optimizer of :mod:`fused_sched.optim`, at any point of its run.
        fused, skip_with_optimizer: see the package.
        horizon: see :class:`LambdaLR`.

    Returns:
        A scheduler that goes on from there, also an instance of ``scheduler``'s class. Use it instead of
        ``scheduler``.

    Raises:
        TypeError: ``scheduler`` is not a scheduler of torch, or its optimizer not one of fused_sched.optim.
    """
    if isinstance(scheduler, OnDevice):
        raise TypeError(f"this {type(scheduler).__name__} is on the device already: use it as it is")
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"{type(scheduler).__name__} is not a torch.optim.lr_scheduler.LRScheduler: give the scheduler itself"
        )
    users: Any = type(scheduler)
    cls: Any = _device_class(users)
    made = cls.__new__(cls)
    made._require_ours(scheduler.optimizer)
    made._horizon = horizon
    made._reset_slots(fused, skip_with_optimizer)
    made.__dict__.update(scheduler.__dict__)
    parts = made.__dict__.get("_schedulers")
    if parts is not None:
        made.__dict__["_schedulers"] = [
            part if isinstance(part, OnDevice) else on_device(part, horizon=horizon) for part in parts
        ]
    if hasattr(made, "_init_scale_fn"):
        made._init_scale_fn()  # CyclicLR: it was bound to the scheduler given
    made._bind()
    return made
