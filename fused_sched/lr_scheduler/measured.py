"""Schedules that follow a measurement: what is handed over with ``observe()``, and used by the next step."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..compiled import not_compiled
from ..memory.values import as_float
from ..program.builder import Builder, Value
from ..program.program import LAST_EPOCH, STEP_COUNT
from ..program.schedule import Schedule
from .attributes import kept
from .base import OnDevice

# Two registers, one behind the other, so that one copy sets both: what was observed, twice. Once it is used they are a
# NaN and a 0, which nothing that is observed can be.
OBSERVED = "observed"
_AGAIN = "observed again"
_USED = (math.nan, 0.0)


class _Observation:
    """``scheduler.observed``: what the next step uses; None if there is nothing new."""

    def __get__(self, scheduler: Any, owner: type | None = None) -> Any:
        if scheduler is None:
            return self
        schedule = scheduler._schedule
        if schedule is None:
            return scheduler._pending
        value, again = (schedule.read(scheduler._scope + name) for name in (OBSERVED, _AGAIN))
        return None if math.isnan(value) and not math.isnan(again) else value

    def __set__(self, scheduler: Any, value: Any) -> None:
        scheduler._pending = None if value is None else as_float(value)
        schedule = scheduler._schedule
        if schedule is None:
            return
        at = schedule.program.offsets[scheduler._scope + OBSERVED]
        if value is None:
            schedule.memory.write_range(at, _USED)
        else:
            schedule.memory.write(at, scheduler._pending, count=2)


class Measured(OnDevice):
    """A scheduler whose steps use a number that was measured; the part that all such have in common.

    :meth:`observe` hands the number over, and the next step uses it up: a step without a new one keeps the lr.
    """

    _order_matters = False  # it is natural to adapt the lr before the update that it is for
    _follows_measurement = True  # so it is no function of the step

    observed = _Observation()

    @not_compiled
    def observe(self, signal: SupportsFloat) -> None:
        """Hand over what was measured, for the next step of the schedule.

        Of several, the last one counts. A tensor on the optimizer's device never comes to the host, and may be handed
        over inside the capture of a CUDA graph: each replay then reads it anew. Inside a SequentialLR that is not at
        this scheduler, it is ignored.

        Args:
            signal: a number, or a tensor with one element, of any integer or floating dtype, on any device.

        Raises:
            TypeError: ``signal`` is no real number.
            ValueError: ``signal`` has several elements, or none.
            RuntimeError: ``signal`` is on the host, or Python computes the lr, and a CUDA graph is being captured.
        """
        if type(signal) is not float:
            _check(signal)
        self._settle()
        if not self._observing:
            self._observing = True
        if self._schedule is not None and self._schedule.may_trap and self._schedule.trapped:
            outer = self if self._outer is None else self._outer
            outer._step_by_python()  # type: ignore[attr-defined]  # it is about another signal
        schedule = self._schedule
        if schedule is None:
            why = self._host_reason or "its lr is no tensor that a program can write"
            self._home.refuse_in_capture(
                f"a signal was read by the host, where the lr of {type(self).__name__} is computed ({why}),"
            )
            self.observed = signal
            return
        self._hand_over(schedule, signal, "a signal")
        schedule.backend.note_write(schedule)

    def _hand_over(self, schedule: Schedule, signal: Any, what: str) -> None:
        memory, at = schedule.memory, schedule.program.offsets[self._scope + OBSERVED]
        if memory.remote:
            if isinstance(signal, torch.Tensor) and signal.device == memory.device:
                memory.copy_from_device(at, signal, count=2)
                return
            memory.refuse_in_capture(f"{what} was read by the host", "give a tensor on the optimizer's device")
        memory.write(at, signal if type(signal) is float else as_float(signal), count=2)

    def _advance_with(self, schedule: Schedule, signal: Any, what: str) -> None:
        """A step that uses ``signal``, which is not left behind where the step is not made."""
        if type(signal) is not float and not isinstance(signal, torch.Tensor):
            signal = as_float(signal)
        local = not schedule.memory.remote
        before = self.observed if local and self._observing else None
        try:
            self._hand_over(schedule, signal, what)
            schedule.advance()
        except BaseException:
            if local or not schedule.memory.capturing():  # such a graph is no more
                self.observed = before
            raise

    def _emit_observed(self, b: Builder) -> tuple[Value, Value]:
        """Append what uses the observation up; returns it twice, or a NaN and a number if there is none."""
        first, again = _USED if self._pending is None else (self._pending, self._pending)
        both = b.register(OBSERVED, first), b.register(_AGAIN, again)
        self._emit_ignore(b)
        return both

    def _emit_ignore(self, b: Builder) -> None:
        for name, value in zip((OBSERVED, _AGAIN), _USED, strict=True):
            b.set_register(name, value)

    def _emit_step(self, b: Builder) -> None:
        b.set_register(LAST_EPOCH, b.register(LAST_EPOCH, kept(self, LAST_EPOCH)) + 1)
        b.set_register(STEP_COUNT, b.register(STEP_COUNT, kept(self, STEP_COUNT)) + 1)
        signal, _ = self._emit_observed(b)
        self._emit_lr(b, self._lr_after(b, signal))

    def _emit_restart(self, b: Builder) -> None:
        b.register(LAST_EPOCH, kept(self, LAST_EPOCH))
        b.set_register(LAST_EPOCH, 0.0)
        self._emit_lr(b, b.field("lr"))

    def _lr_after(self, b: Builder, signal: Value) -> Value:
        """Append the operations that give the next lr of each group, the present one where ``signal`` is NaN."""
        raise NotImplementedError

    def _steps_taken(self) -> int:
        return 0  # for a sequence or chain that begins with it: as for itself, no order of calls is wrong

    def _pull(self) -> None:
        self._pending = self.observed
        super()._pull()

    def _in_program(self) -> list[str]:
        return [*super()._in_program(), OBSERVED]

    def _unused(self) -> float | None:
        return self.observed  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """As torch's classes; where something was observed and no step has used it, with that as ``"observed"``."""
        state, unused = super().state_dict(), self.observed
        return state if unused is None else {**state, OBSERVED: unused}

    def _load(self, state_dict: dict[str, Any]) -> None:
        super()._load({name: value for name, value in state_dict.items() if name != OBSERVED})
        self.observed, self._observing = state_dict.get(OBSERVED), True


def _check(signal: Any) -> None:
    if isinstance(signal, torch.Tensor):
        if signal.numel() != 1:
            raise ValueError(f"signal has shape {tuple(signal.shape)}: give a number or a one-element tensor")
        if signal.is_complex():
            raise TypeError(f"signal is of {signal.dtype}, but a schedule follows a real number: give its real part")
    elif isinstance(signal, (str, bytes, type(None))) or not hasattr(signal, "__float__"):
        raise TypeError(f"{signal=} is a {type(signal).__name__}: give a number or a one-element tensor")


class HostMeasured(LRScheduler):
    """What schedules that follow a measurement mean, in torch's terms: :meth:`get_lr` uses ``observed``, once."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.observed: float | None = None
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        groups, signal = self.optimizer.param_groups, self.observed
        if signal is None or math.isnan(signal):
            return [group["lr"] for group in groups]
        return self._adapted([as_float(group["lr"]) for group in groups], signal)

    def _adapted(self, lrs: list[float], signal: float) -> list[float]:
        """The next lrs."""
        raise NotImplementedError

    def _update_lr(self, epoch: Any = None) -> None:
        if epoch is not None:  # a start at a milestone, or a step to an epoch
            self.observed = None
        super()._update_lr(epoch)
        self.observed = None


def one_a_group(name: str, values: Any, n_groups: int) -> list[Any]:
    """A value for each param group, of a list or of one for all.

    Raises:
        ValueError: the list has another length.
    """
    if not isinstance(values, (list, tuple)):
        return [values] * n_groups
    if len(values) != n_groups:
        raise ValueError(f"{name} is a list of {len(values)} for {n_groups} param groups: give one a group")
    return [*values]
