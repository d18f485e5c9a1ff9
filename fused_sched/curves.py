"""Any scheduler as a function of the step: its values without training.

:mod:`fused_sched.schedules` exports what is public here.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import operator
import sys
import warnings
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from . import backends
from .optim import SGD, Adam, AdamW
from .optim.fused_optimizer import FusedOptimizer

T = TypeVar("T")


def as_function(
    scheduler: Any, group: int = 0, key: str = "lr", *, lr: float | None = None, momentum: float | None = None
) -> ScheduleFunction:
    """What a scheduler will write, as a function of the step.

    A private copy of the scheduler, on an optimizer of its own, is stepped as far as it is asked about, and
    its values are kept. So the first call costs one step of the schedule for each step up to the one asked
    about, later calls nothing, and memory is 8 bytes a step. The scheduler given, its optimizer and its
    parameters are left as they are; parameters are not copied.

    Args:
        scheduler: a scheduler of this package or of torch, nested or your own, at any point of its run; or a
            function that takes an optimizer and returns one, such as ``lambda optimizer: StepLR(optimizer, 30)``.
        group: index of the param group.
        key: number in the param group: ``"lr"``, ``"momentum"``, ``"weight_decay"``, or ``"beta1"`` and
            ``"beta2"`` for the parts of ``betas``.
        lr: with a function, the lr of the optimizer (SGD with one parameter) that it gets; default 0.1.
        momentum: with a function, the optimizer's momentum; default 0.9.

    Returns:
        ``schedule(step)``, the value of ``key`` at that epoch (the optimizer's step number ``step``, from 0):
        of an int a float, of a sequence a list, of an integer tensor a float64 tensor of the same shape on
        the same device, of an integer numpy array a float64 array. Steps begin at the scheduler's present epoch.

    Raises:
        TypeError: the scheduler, or a part of it, needs more than the step, as ReduceLROnPlateau needs a metric and
            KLAdaptiveLR what it is to follow; or it is neither a scheduler nor a function; or lr or momentum is given
            with a scheduler.
        ValueError: ``group`` or ``key`` does not exist, or lr is not a finite number above 0.

    Functions that the scheduler calls (``lr_lambda``) are called again, so they should depend on the step
    alone. What a scheduler raises at some step is raised when that step, or a later one, is asked about.
    """
    if _is_scheduler(scheduler):
        if lr is not None or momentum is not None:
            raise TypeError("lr and momentum are for a function that makes a scheduler: this one has its optimizer's")
        return ScheduleFunction(_Run(*_private_copy(scheduler), group, (key,)), key)
    made, optimizer = _make(scheduler, 0.1 if lr is None else lr, 0.9 if momentum is None else momentum)
    return ScheduleFunction(_Run(made, optimizer, group, (key,)), key)


def curves(
    make_scheduler: Callable[[Any], Any],
    steps: int,
    keys: Sequence[str],
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
) -> dict[str, list[float]]:
    """The values that each of the first ``steps`` optimizer steps uses.

    Args:
        make_scheduler: takes an optimizer and returns a scheduler for it, for example
            ``lambda optimizer: StepLR(optimizer, step_size=30)``.
        steps: number of values, at least 1; the first is the one right after construction.
        keys: numbers in the param group, such as ``("lr", "momentum")``; see :func:`as_function`.
        lr: learning rate that the optimizer (SGD with one parameter) is made with.
        momentum: momentum that the optimizer is made with; 0 for none.

    Returns:
        For each key its values, one a step.

    Raises:
        ValueError: ``steps`` or ``lr`` is out of range.

    Whatever ``make_scheduler`` and the scheduler raise is passed on.
    """
    if steps < 1:
        raise ValueError(f"{steps=} must be at least 1")
    run = _Run(*_make(make_scheduler, lr, momentum), 0, keys)
    run.advance_to(run.first + steps - 1)
    return {key: values.tolist() for key, values in run.values.items()}


def lr_curve(
    make_scheduler: Callable[[Any], Any], steps: int, *, lr: float = 0.1, momentum: float = 0.9
) -> list[float]:
    """The lr of each of the first ``steps`` optimizer steps; arguments and errors as in :func:`curves`."""
    return curves(make_scheduler, steps, ("lr",), lr=lr, momentum=momentum)["lr"]


class ScheduleFunction:
    """A schedule as a function of the step; :func:`as_function` makes it and says how it is called."""

    def __init__(self, run: _Run, key: str) -> None:
        self._run = run
        self._key = key

    def __repr__(self) -> str:
        return f"<{self._key} of {self._run.name} from step {self._run.first} on>"

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: Sequence[int]) -> list[float]: ...
    @overload
    def __call__(self, step: torch.Tensor) -> torch.Tensor: ...
    @overload
    def __call__(self, step: Any) -> Any: ...

    def __call__(self, step: Any) -> Any:
        if isinstance(step, torch.Tensor):
            if step.dtype == torch.bool or step.is_floating_point() or step.is_complex():
                raise TypeError(f"steps are whole numbers, but the tensor has dtype {step.dtype}: use torch.int64")
            flat = self._look_up(step.reshape(-1).tolist())
            return torch.tensor(flat, dtype=torch.float64, device=step.device).reshape(step.shape)
        numpy = sys.modules.get("numpy")  # who has an array has imported it
        if numpy is not None and isinstance(step, numpy.ndarray):
            if step.dtype.kind not in "iu":
                raise TypeError(f"steps are whole numbers, but the array has dtype {step.dtype}: use numpy.int64")
            flat = self._look_up(step.reshape(-1).tolist())
            return numpy.array(flat, dtype=numpy.float64).reshape(step.shape)
        if isinstance(step, Sequence) and not isinstance(step, (str, bytes, bytearray)):
            return self._look_up([_whole(x) for x in step])
        return self._look_up([_whole(step)])[0]

    def _look_up(self, steps: list[int]) -> list[float]:
        if not steps:
            return []
        run, first = self._run, self._run.first
        if min(steps) < max(first, 0):
            raise ValueError(
                f"step {min(steps)} is before step {max(first, 0)}, where {run.name} stood when this function was "
                f"made: ask for steps from {max(first, 0)} on"
            )
        run.advance_to(max(steps))
        values = run.values[self._key]
        return [values[step - first] for step in steps]


def _whole(step: Any) -> int:
    try:
        if not isinstance(step, bool):
            return operator.index(step)
    except TypeError:
        pass
    raise TypeError(
        f"{step=} is of type {type(step).__name__}: give an int, a sequence of ints, or an integer tensor or array"
    )


class _Run:
    """A scheduler that nobody else steps, and the values that it has given so far.

    Args:
        scheduler: the scheduler.
        optimizer: its optimizer, which nobody else steps either.
        group, keys: what to read after each step; see :func:`as_function`.
    """

    def __init__(self, scheduler: Any, optimizer: Any, group: int, keys: Sequence[str]) -> None:
        groups = optimizer.param_groups
        if not 0 <= group < len(groups):
            raise ValueError(f"{group=} must be from 0 to {len(groups) - 1}: the optimizer has {len(groups)} groups")
        self.name = type(scheduler).__name__
        self._scheduler, self._optimizer, self._group = scheduler, optimizer, group
        self._failure: Exception | None = None
        self.first = _epoch(scheduler)
        self.values = {key: array("d") for key in keys}
        for key in keys:
            try:
                float(_entry(groups[group], key))
            except (KeyError, TypeError, ValueError):
                known = sorted(k for k in _flat(groups[group]) if k != "params")
                raise ValueError(
                    f"{key=} is not a number in param group {group}: choose one of {', '.join(known)}"
                ) from None
        self._record()

    def _record(self) -> None:
        # afresh at every step: a scheduler may put another dict into param_groups
        group = self._optimizer.param_groups[self._group]
        for key, values in self.values.items():
            values.append(float(_entry(group, key)))

    def advance_to(self, step: int) -> None:
        """Step until the values of ``step`` are known; raises what the scheduler raises."""
        if not self.values:
            return
        known = next(iter(self.values.values()))
        while self.first + len(known) <= step:
            if self._failure is not None:
                raise _copied(self._failure)
            try:
                if isinstance(self._optimizer, FusedOptimizer) and self._optimizer.fused_schedules:
                    self._optimizer.step()  # schedules inside the update advance here
                self._scheduler.step()
                self._record()
            except Exception as error:
                self._failure = _copied(error)
                raise


def _copied(error: Exception) -> Exception:
    """Without the traceback, which has the run, and that the exception."""
    made = type(error).__new__(type(error), *error.args)
    made.__dict__.update(vars(error))
    return made


def _entry(group: Any, key: str) -> Any:
    if key in ("beta1", "beta2") and key not in group:
        return group["betas"][key == "beta2"]
    return group[key]


def _flat(group: Any) -> list[str]:
    numbers = [k for k, v in group.items() if isinstance(v, (int, float, torch.Tensor))]
    return [*numbers, *(("beta1", "beta2") if "betas" in group else ())]


def _is_scheduler(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return isinstance(value, LRScheduler) or (hasattr(value, "step") and hasattr(value, "optimizer"))


def _make(make_scheduler: Any, lr: float, momentum: float) -> tuple[Any, Any]:
    """A scheduler by the user's function, and the optimizer it was made for."""
    if not callable(make_scheduler):
        raise TypeError(
            f"{type(make_scheduler).__name__} is neither a scheduler with step() and optimizer, nor a function that "
            "makes one: give a scheduler, or for example lambda optimizer: StepLR(optimizer, 30)"
        )
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"{lr=} must be a finite number above 0")
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float32, device="cpu"))
    optimizer: Any = SGD([parameter], lr=lr, momentum=momentum, backend=_host_backend())
    optimizer._opt_called = True  # nobody is to be warned about the order of calls here
    scheduler = make_scheduler(optimizer)
    if not callable(getattr(scheduler, "step", None)):
        raise TypeError(f"the function returned {type(scheduler).__name__}, but must return a scheduler")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("the function must make the scheduler for the optimizer that it is given")
    _refuse_metric(scheduler)
    return scheduler, optimizer


def _refuse_metric(scheduler: Any) -> None:
    """A scheduler that follows a measurement, or whose ``step`` takes more than nothing, is no function of the step."""
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau) or getattr(scheduler, "_follows_measurement", False):
        raise TypeError(
            f"{name} follows a metric that only training gives, so its lr is not a function of the step: "
            "read the lr while training"
        )
    for part in getattr(scheduler, "_schedulers", ()):
        _refuse_metric(part)
    try:
        inspect.signature(scheduler.step).bind()
    except TypeError as error:
        raise TypeError(f"step() of {name} needs arguments ({error}), so it is no function of the step") from None


def _epoch(scheduler: Any) -> int:
    """The epoch that a scheduler stands at: that of its first part, if it keeps none itself."""
    epoch = getattr(scheduler, "last_epoch", None)
    if epoch is None:
        parts = getattr(scheduler, "_schedulers", None)  # torch's ChainedScheduler
        if not parts:
            return 0
        return _epoch(parts[0])
    if epoch != int(epoch):
        raise ValueError(f"{type(scheduler).__name__} stands at epoch {epoch}, which is no whole number of steps")
    return int(epoch)


# -- a private copy ----------------------------------------------------------------------------------------


def _host_backend() -> str:
    # by name: FUSED_SCHED_BACKEND may name one that serves no CPU tensors
    return "cpu" if backends.reason_unavailable("cpu") is None else "reference"


def _private_copy(scheduler: Any) -> tuple[Any, Any]:
    """A copy of the scheduler that drives a small optimizer of its own, and that optimizer."""
    _refuse_metric(scheduler)
    optimizer = scheduler.optimizer
    if isinstance(optimizer, FusedOptimizer):
        optimizer.expire_mirrors()  # groups and scheduler are copied one after the other
    stub = _stub(optimizer)
    memo: dict[int, Any] = {id(optimizer): stub}
    for group, copied in zip(optimizer.param_groups, stub.param_groups, strict=True):
        memo[id(group)] = copied
        # a function that holds the model would take its parameters along
        memo.update((id(p), p) for p in group["params"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn about was said when the original was made
        return copy.deepcopy(scheduler, memo), stub


def _stub(optimizer: Any) -> Any:
    """An optimizer with the same groups, but one small parameter in each."""
    parameters = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float32, device="cpu")) for _ in optimizer.param_groups]
    stub = _bare(optimizer, [{"params": [p]} for p in parameters])
    stub.defaults = dict(optimizer.defaults)
    clones: dict[int, Any] = {}
    for copied, group, p in zip(stub.param_groups, optimizer.param_groups, parameters, strict=True):
        values = {k: _clone(v, clones) for k, v in group.items() if k != "params"}
        values["params"] = [p]
        if isinstance(stub, FusedOptimizer):
            copied.replace(values)
        else:
            copied.update(values)
    if isinstance(stub, FusedOptimizer):
        stub.note_lrs_scheduled()  # an lr of 0 here is the schedule's, not that of a checkpoint's trial step
    stub._opt_called = True
    return stub


def _bare(optimizer: Any, groups: list[dict[str, Any]]) -> Any:
    """A new optimizer of the same class, or of the class of ours or torch's that it comes from."""
    ours = next((c for c in type(optimizer).__mro__ if c in (SGD, Adam, AdamW)), None)
    if ours is not None:
        stub: Any = ours(groups, backend=_host_backend())
        stub.step = _tracked(weakref.WeakMethod(stub.step))
        return stub
    base = next((c for c in type(optimizer).__mro__ if c.__module__.startswith("torch.optim.")), Optimizer)
    return _still(base)(groups, dict(optimizer.defaults))


def _clone(value: T, clones: dict[int, Any]) -> T:
    """A copy of a value of a param group; a tensor that several groups share stays shared."""
    if isinstance(value, torch.Tensor):
        if id(value) not in clones:
            clones[id(value)] = value.detach().to("cpu", copy=True)
        return clones[id(value)]  # type: ignore[no-any-return]
    return copy.deepcopy(value)


def _tracked(step: weakref.WeakMethod[Any]) -> Callable[[], Any]:
    """``step`` of an optimizer that will have it, marked as torch's schedulers mark it when they are made."""

    def tracked() -> Any:
        return step()()  # type: ignore[misc]  # whoever calls it has the optimizer

    tracked._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    return tracked


@functools.cache
def _still(base: Any) -> Any:
    return type(base.__name__, (_Still, base), {})


class _Still:
    """Mixin in front of one of torch's optimizers: schedulers see its groups and its class, and nothing is updated."""

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
        Optimizer.__init__(self, groups, defaults)  # type: ignore[arg-type]

    def step(self, closure: Any = None) -> None:
        """Does nothing."""

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
