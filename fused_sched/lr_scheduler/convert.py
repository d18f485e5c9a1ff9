"""on_device: schedulers that were made with torch's classes, or with the user's own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from .base import OF_TORCHS, OnDevice, copy_of
from .registers import Register


class TracedLR(OnDevice, LRScheduler):
    """Any scheduler whose ``get_lr`` can be traced; the base of what :func:`on_device` makes of the user's classes."""

    def _maker_of_copies(self) -> tuple[Any, type]:
        return _copy_of, next(c for c in type(self).__mro__ if not issubclass(c, OnDevice))


# Weakly, so that a class that was made in a function goes when nobody uses it any more.
_made: weakref.WeakKeyDictionary[type, weakref.ref[type[Any]]] = weakref.WeakKeyDictionary()


def _device_class(users: Any) -> type[Any]:
    """Our class for one of torch's, or one that puts the user's subclass in front of ours."""
    if users in OF_TORCHS:
        return OF_TORCHS[users]
    known = _made.get(users)
    cls = None if known is None else known()
    if cls is None:
        cls = _make_device_class(users)
        _made[users] = weakref.ref(cls)
    return cls


def _make_device_class(users: Any) -> type[Any]:
    torchs = next(c for c in users.__mro__ if c in OF_TORCHS)
    ours = OF_TORCHS[torchs]
    own = {name for c in users.__mro__ if c not in torchs.__mro__ for name in c.__dict__}
    _refuse_names(users, own, ours)
    names = {
        "__module__": users.__module__,
        "__qualname__": users.__qualname__,
        "__doc__": users.__doc__,
        "_maker_of_copies": TracedLR._maker_of_copies,
    }
    return type(users.__name__, (users, ours), names)


def _refuse_names(users: type, names: Iterable[str], ours: type[OnDevice]) -> None:
    """Refuse names that mean something else in our classes, and that torch's do not have."""
    private = {n for n in dir(ours) if n.startswith("_") and not n.startswith("__")} - ours._stand_in.names
    taken = sorted(n for n in private & set(names) if not isinstance(getattr(ours, n), Register))
    if taken:
        raise TypeError(
            f"{users.__name__} has {taken[0]!r}, a name that schedulers on the device use themselves: give it another"
        )


def _copy_of(users: Any, *arguments: Any) -> OnDevice:
    return copy_of(_device_class(users), *arguments)  # type: ignore[no-any-return]


def on_device(
    scheduler: LRScheduler, *, fused: bool = False, skip_with_optimizer: bool = False, horizon: int = 1
) -> Any:
    """Put a scheduler on the device that was made with torch's class, or with the user's own subclass.

    A subclass may override ``get_lr``, in the recursive form or from ``base_lrs``: it is traced like a
    function of the step (:mod:`fused_sched.trace`). Where that is impossible the schedule goes on by Python,
    with a warning that says why. SequentialLR and ChainedScheduler are taken over with all their parts.

    Args:
        scheduler: drives any optimizer, at any point of its run.
        fused, skip_with_optimizer: see the package.
        horizon: see :class:`LambdaLR`.

    Returns:
        A scheduler that goes on from there, also an instance of ``scheduler``'s class. Use it instead of
        ``scheduler``.

    Raises:
        TypeError: ``scheduler`` is not a scheduler of torch, or has attributes with names that this package's
            schedulers use.
        ValueError: see :class:`OnDevice`.
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
    _refuse_names(users, scheduler.__dict__, OF_TORCHS[made._torch_class])
    made._horizon = horizon
    made._reset_slots(fused, skip_with_optimizer)
    made._home = made._home_in(scheduler.optimizer)
    made.__dict__.update(scheduler.__dict__)
    parts = made.__dict__.get("_schedulers")
    if parts is not None:
        made.__dict__["_schedulers"] = [
            part if isinstance(part, OnDevice) else on_device(part, horizon=horizon) for part in parts
        ]
    if hasattr(made, "_init_scale_fn"):
        made._init_scale_fn()  # CyclicLR: it was bound to the scheduler given
    made._bind()
    made._home.note_lrs_scheduled()
    return made
