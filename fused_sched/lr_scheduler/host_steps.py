"""Steps by torch's own Python code: where there is no program, where it trapped, and to an epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch.optim import Optimizer

from ..memory.control_block import FIELDS, PARTS
from ..program.builder import TRAP
from ..program.program import LAST_EPOCH, STEP_COUNT
from .attributes import all_kept, keep, kept, put_back
from .by_hand import EditedByHand
from .overrides import CLOSED_FORM
from .registers import LAST_LR, is_counted
from .undo import UndoneOnError

# Keys of a group that may have tensors, but for the lr, to which torch writes by itself.
TENSORS = {PARTS.get(field, (field,))[0] for field in FIELDS} - {"lr", "flags"}


class HostSteps(EditedByHand):
    """Steps that torch's code makes, and what is put back where it raises."""

    __slots__ = ()

    def _coming_epoch(self, restart: bool) -> int:
        coming: int = 0 if restart else self.last_epoch + 1  # a float after the user gave one
        return coming

    def _step_on_host(self, epoch: float | None = None) -> None:
        """One step by torch's Python code."""
        self._home.refuse_in_capture(f"{self._sets} of {type(self).__name__} was computed by Python")
        if self._is_initial and self._home.watch_fields({"lr"}) is None:
            self._ensure_source()  # before torch calls the user's function, which may never return
        with UndoneOnError(self._to_put_back(), groups_to_put_back(self.optimizer)):
            try:
                self._in_torchs_step = True
                self._torchs_step(epoch)
            finally:
                self._in_torchs_step = False

    def _step_to(self, epoch: float | None) -> None:
        """As :meth:`_step_on_host`. If ``epoch`` is given, it is instead of the step that an update has made."""
        schedule = self._schedule
        if epoch is None or self._is_part or schedule is None or schedule.account is None:
            self._step_on_host(epoch)
            return
        self._home.refuse_in_capture(f"a step to an epoch of {type(self).__name__}")
        self._raise_if_trapped()
        made, count, last = schedule.is_step_made(), self._step_count, self.last_epoch
        overwrites = hasattr(self, CLOSED_FORM) or (self._overwrites and self._traced_get_lr is None)
        if made and not overwrites and epoch != last:
            raise RuntimeError(
                f"step({epoch}) of a fused {type(self).__name__} after an update that has advanced it to epoch {last}: "
                "it sets values by those before, which are gone. Leave out fused, or step without an epoch"
            )
        if overwrites or not made:
            self._step_on_host(epoch)
            if made:
                self._step_count = count
        schedule.forget_step()

    def _torchs_step(self, epoch: float | None) -> None:
        given, self._get_lr_given = self._get_lr_given, None
        if given is not None:  # it was called for this step already
            keep(self, "get_lr", lambda: given)
        try:
            if self._stand_in.is_step_replaced:
                self._torch_class.step(self, epoch)  # type: ignore[arg-type]
            else:
                self._step_count += 1
                self._update_lr(epoch)  # type: ignore[attr-defined]
        finally:
            if given is not None:
                dict.__delitem__(self.__dict__, "get_lr")

    def _as_in_step(self, epoch: int, call: Callable[[], Any]) -> Any:
        """Let code of the user's, which ``call`` calls, see the scheduler as it is inside torch's step to ``epoch``."""
        inside: dict[str, Any] = {LAST_EPOCH: epoch}
        if STEP_COUNT in self.__dict__ and not self._restarts:
            inside[STEP_COUNT] = self._step_count + 1
        shown = partial(self._shown_as, inside, self._enabling_get_lr(call) if self._enables_get_lr else call)
        outer = self._outer
        if isinstance(outer, HostSteps) and LAST_EPOCH in outer._registers:
            return outer._shown_as({LAST_EPOCH: outer.last_epoch + 1}, shown)
        return shown()

    def _enabling_get_lr(self, call: Callable[[], Any]) -> Callable[[], Any]:
        def enabled() -> Any:
            with UndoneOnError(disable):
                keep(self, "_get_lr_called_within_step", True)
                result = call()
                disable()
            return result

        def disable() -> None:
            keep(self, "_get_lr_called_within_step", False)

        return enabled

    def _shown_as(self, inside: dict[str, Any], call: Callable[[], Any]) -> Any:
        """Call with registers as attributes, as torch's are, of these values; what code adds to one is added."""
        self._pull()
        schedule = self._schedule
        before = {name: kept(self, name) for name in (*self._registers, LAST_LR) if name in self.__dict__}

        def put_back() -> None:
            self._schedule = schedule
            for name, value in before.items():
                keep(self, name, value)

        with UndoneOnError(put_back):
            self._schedule = None  # attributes are those in __dict__
            for name, value in inside.items():
                keep(self, name, value)
            result = call()
            moved = {name: kept(self, name) - value for name, value in inside.items() if kept(self, name) != value}
            put_back()
        for name, by in moved.items():
            setattr(self, name, getattr(self, name) + by)
        return result

    def _call_functions(self, epoch: int) -> list[list[Any]]:
        """:meth:`_called`, as inside torch's step."""
        called: list[list[Any]] = self._as_in_step(epoch, lambda: self._called(epoch))
        return called

    def _compare_get_lr(self, epoch: int) -> None:
        """Compare a traced get_lr with what the user's own gives in the step to ``epoch``."""
        traced, audit = self._traced_get_lr, self._get_lr_audit
        assert traced is not None
        assert self._schedule is not None
        count, groups = self._step_count + 1, self.optimizer.param_groups
        counted = is_counted(LAST_EPOCH, epoch - 1) and is_counted(STEP_COUNT, self._step_count)
        if not counted or len(groups) != len(traced.outcomes) or audit.is_skipped_step(self._schedule, epoch):
            return
        found: Sequence[float | None] = traced.evaluate(epoch, count, groups) or [None] * len(groups)
        lrs = self._as_in_step(epoch, lambda: [*self.get_lr()])  # type: ignore[attr-defined]
        audit.called_for = epoch
        self._get_lr_differs = audit.difference(f"epoch {epoch}", zip_longest(found, lrs))
        if max(epoch, count) > traced.horizon:
            self._get_lr_differs = f"its whole numbers are not exact at epoch {epoch}"
        if self._get_lr_differs is None:
            audit.note()
            return
        if self._schedule.memory.captured:
            raise RuntimeError(f"{self._get_lr_differs}, and a CUDA graph that was captured has its program")
        self._traced_get_lr, self._get_lr_given = None, lrs

    def _to_put_back(self) -> Callable[[], None]:
        """What puts the attributes, here and in the parts, back to what they are now."""

        def values_of(one: Any) -> list[tuple[str, Any]]:
            return [(name, getattr(one, name)) for name in one._in_program()]

        before = [(one, all_kept(one), values_of(one)) for one in self._family()]

        def undo() -> None:
            for one, state, values in before:
                put_back(one, state)
                for name, value in values:
                    setattr(one, name, value)

        return undo

    def _step_by_python(self) -> None:
        """The program trapped: let torch's code make the step, or raise what it raises there."""
        schedule = self._schedule
        assert schedule is not None
        self._home.refuse_in_capture(f"the lr of {type(self).__name__} was computed by Python")
        schedule.write(TRAP, 0.0)
        self._home.expire_mirrors()  # what is put back must be what the device had
        saved = [(one, name, getattr(one, name)) for one in self._family() for name in one._in_program()]
        put_groups_back = self._home.snapshot_groups()

        def put_back() -> None:
            for one, name, value in saved:
                setattr(one, name, value)
            put_groups_back()

        try:
            self._step_on_host()
        except BaseException as error:  # known by this name in the handler alone: its traceback has this frame
            put_back()
            schedule.forget_step()  # none was made, so the next call makes it, or raises again
            if not schedule.memory.captured or not isinstance(error, Exception):
                raise
            raise self._stopped(f"{type(error).__name__}: {error}") from error
        if schedule.memory.captured:
            put_back()
            ahead = any(one._source is not None and not one._source.traced for one in self._family())
            why = "the values computed ahead by Python had been used up" if ahead else "a function raised there"
            raise self._stopped(why)

    def _stopped(self, why: str) -> RuntimeError:
        epoch = self._coming_epoch(restart=False)
        return RuntimeError(
            f"{type(self).__name__} stopped before epoch {epoch}, and what it sets has stayed as it was in all "
            f"replays of the CUDA graph since then: {why}"
        )

    def _raise_if_trapped(self) -> None:
        schedule = self._schedule
        if schedule is not None and not self._is_part and schedule.read_trap():
            self._step_by_python()


def groups_to_put_back(optimizer: Any) -> Callable[[], None]:
    """What puts the param groups, and the numbers in their tensors, back to what they are now."""
    if not isinstance(optimizer, Optimizer):
        return lambda: None  # torch says so
    before = [(group, dict(group)) for group in optimizer.param_groups]
    given = [x for _, values in before for value in values.values() for x in _each(value)]
    numbers = [x for x in given if isinstance(x, torch.Tensor) and x.numel() == 1]
    tensors = [(x, x.detach().clone()) for x in numbers]

    def undo() -> None:
        for tensor, number in tensors:
            tensor.detach().copy_(number)
        for group, values in before:
            for key in [k for k in group if k not in values]:
                del group[key]
            for key, value in values.items():
                if key not in group or (group[key] is not value and not _equal(group[key], value)):
                    group[key] = value

    return undo


@contextmanager
def tensors_kept(optimizer: Any) -> Iterator[None]:
    """Let tensors in the groups take the numbers that a constructor puts in their places, as torch does with the lr.

    Not those that are in other places of the groups too: what torch wrote there last is in them.
    """
    before = [(group, dict(group)) for group in getattr(optimizer, "param_groups", [])]
    yield
    elsewhere = frozenset(id(x) for group in optimizer.param_groups for value in group.values() for x in _each(value))
    for group, values in before:
        for key, value in values.items():
            if key in TENSORS and group.get(key) is not value:
                group[key] = refilled(value, group[key], elsewhere)


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple) else (value,)


def refilled(before: Any, now: Any, elsewhere: Collection[int] = ()) -> Any:
    """What an assignment of ``now`` leaves: where there was a tensor, that tensor with the number.

    Args:
        elsewhere: identities of tensors that stay as they are, and give way to the number.
    """
    if isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now):
        return tuple(refilled(x, y, elsewhere) for x, y in zip(before, now, strict=True))
    if not isinstance(before, torch.Tensor) or isinstance(now, torch.Tensor) or id(before) in elsewhere:
        return now
    return before.fill_(now)


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):  # of tensors
        return False
