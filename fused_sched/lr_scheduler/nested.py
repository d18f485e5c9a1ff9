"""SequentialLR and ChainedScheduler: several schedulers as one program."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ..compiled import not_compiled
from ..memory.values import as_float
from ..program.builder import Builder, Value
from ..program.program import LAST_EPOCH
from .attributes import kept
from .base import OnDevice
from .host_steps import groups_to_put_back
from .measured import Measured
from .undo import UndoneOnError


class _Nested(OnDevice):
    """A scheduler that is made of others; nested in any way, all of them are one program.

    The parts go on working on their own as in torch: their attributes read and write the one program, and
    calling their ``step()`` is done on the host.
    """

    _registers: ClassVar[tuple[str, ...]] = ()
    _constants: ClassVar[tuple[str, ...]] = ("_schedulers",)
    _schedulers: Any

    def _parts(self) -> list[Any]:
        return list(self._schedulers)

    def _refuse_fused_parts(self, schedulers: Sequence[Any]) -> None:
        for i, part in enumerate(schedulers):
            if isinstance(part, OnDevice) and (part._fused or part._skip_with_optimizer):
                raise ValueError(
                    f"{type(part).__name__} at index {i} was made with fused or skip_with_optimizer, but it advances "
                    f"with the {type(self).__name__} around it: give these keywords to the outermost scheduler only"
                )

    def _check(self) -> None:
        self._refuse_fused_parts(self._schedulers)

    def _why_parts_on_host(self) -> str | None:
        for part in self._parts():
            if isinstance(part, Measured):
                part._observing = True  # the step of a part has no metric
        return super()._why_parts_on_host()

    def _emit_ignore(self, b: Builder) -> None:
        for i, part in enumerate(self._schedulers):
            with b.scope(f"{i}."):
                part._emit_ignore(b)

    def _check_order(self) -> None:
        if self._schedule is not None:  # else the parts do
            super()._check_order()

    def _torchs_step(self, epoch: float | None) -> None:
        self._torch_class.step(self)  # type: ignore[arg-type]

    def _pull(self) -> None:
        super()._pull()
        if self._schedule is not None:
            for part in self._parts():
                if isinstance(part, OnDevice):  # perhaps one of torch's was just put into the list
                    part._pull()


class SequentialLR(_Nested, lr_scheduler.SequentialLR):
    """Schedulers one after the other, after :class:`torch.optim.lr_scheduler.SequentialLR`.

    Args:
        optimizer, schedulers, milestones, last_epoch: as in torch.

    Raises:
        ValueError: a scheduler other than the first is itself made of schedulers, where torch fails at
            the milestone; or torch's reasons.
    """

    _registers = (LAST_EPOCH,)
    _constants = ("_milestones", "_schedulers")

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        self._refuse_fused_parts(schedulers)
        self._refuse_nested_parts(schedulers)
        with UndoneOnError(*(undo for part in schedulers for undo in _to_put_back(part))):
            super().__init__(
                optimizer, schedulers, milestones, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
            )

    def _construct(self, optimizer: Any, schedulers: list[Any], *arguments: Any) -> None:
        shown = _shown_to_torch(schedulers)
        if shown is not schedulers and isinstance(optimizer, Optimizer):
            for group in optimizer.param_groups:  # a plateau leaves none, and a sequence begins with it
                group.setdefault("initial_lr", as_float(group["lr"]))
        super()._construct(optimizer, shown, *arguments)
        self._schedulers = schedulers

    def _refuse_nested_parts(self, schedulers: Sequence[Any]) -> None:
        for i, part in enumerate(schedulers[1:], 1):
            if isinstance(part, (lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler)):
                raise ValueError(
                    f"{type(part).__name__} at index {i} cannot be started at a milestone (in torch, "
                    "NotImplementedError there): make it the first, or write its parts into this sequence"
                )

    def _check(self) -> None:
        super()._check()
        self._refuse_nested_parts(self._schedulers)

    @not_compiled
    def step(self) -> None:  # type: ignore[override]
        """One step of the schedule."""
        if not OnDevice._advance(self):
            self._step_on_host()

    def _emit_step(self, b: Builder) -> None:
        epoch = b.register(LAST_EPOCH, kept(self, LAST_EPOCH)) + 1
        b.set_register(LAST_EPOCH, epoch)
        thresholds = [b.const(f"milestone {i}", m) for i, m in enumerate(self._milestones)]
        active = self._bisect(b, thresholds, epoch, 0, len(thresholds))
        if len(self._schedulers) <= len(thresholds):
            b.trap(active >= len(self._schedulers), awaited=True)  # torch's code raises there
        for i, part in enumerate(self._schedulers):
            mine = active == i
            if 0 < i <= len(thresholds):
                at_milestone = thresholds[i - 1] == epoch
                with b.scope(f"{i}."), b.when(mine & at_milestone):
                    part._emit_restart(b)
                mine = mine & ~at_milestone
            with b.scope(f"{i}."), b.when(mine):
                part._emit_step(b)
        self._emit_ignore(b)  # of parts that it is not at
        self._emit_last_lr(b, b.field("lr"))

    def _torchs_step(self, epoch: float | None) -> None:
        super()._torchs_step(epoch)
        for one in self._family():
            if isinstance(one, Measured):
                one.observed = None

    def _bisect(self, b: Builder, thresholds: list[Value], epoch: Value, low: int, high: int) -> Value:
        # the search itself and not a count, for milestones that are not sorted
        if low == high:
            return b.number(low)
        middle = (low + high) // 2
        return b.where(
            epoch < thresholds[middle],
            self._bisect(b, thresholds, epoch, low, middle),
            self._bisect(b, thresholds, epoch, middle + 1, high),
        )

    def _prepare(self, restart: bool) -> None:
        if self._home.in_capture():
            for part in self._schedulers:  # the epoch cannot be read here, and replays may reach every part
                part._prepare(restart)
            return
        epoch = self._coming_epoch(restart)
        active = bisect_right(self._milestones, epoch)
        for part in self._schedulers[active : active + 1]:
            part._prepare(restart=active > 0 and self._milestones[active - 1] == epoch)

    def _steps_taken(self) -> int:
        active = bisect_right(self._milestones, self.last_epoch)
        return int(self._schedulers[min(active, len(self._schedulers) - 1)]._steps_taken())


class ChainedScheduler(_Nested, lr_scheduler.ChainedScheduler):
    """Schedulers that act one on the other at every step, after :class:`torch.optim.lr_scheduler.ChainedScheduler`."""

    def __init__(
        self,
        schedulers: Sequence[LRScheduler],
        optimizer: Optimizer | None = None,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        self._refuse_fused_parts(schedulers)
        for i, part in enumerate(schedulers):
            if not hasattr(part, "optimizer"):
                raise TypeError(f"ChainedScheduler at index {i} has {part!r}, which is no scheduler: give one")
        self._reset_slots(fused, skip_with_optimizer)
        lr_scheduler.ChainedScheduler.__init__(self, _shown_to_torch(schedulers), optimizer)
        self._schedulers = schedulers
        self._home = self._home_in(self.optimizer)
        with UndoneOnError(groups_to_put_back(self.optimizer)):
            self._bind()
        self._home.note_lrs_scheduled()

    @not_compiled
    def step(self) -> None:  # type: ignore[override]
        """One step of the schedule."""
        if not OnDevice._advance(self):
            self._step_on_host()

    def _emit_step(self, b: Builder) -> None:
        for i, part in enumerate(self._schedulers):
            with b.scope(f"{i}."):
                part._emit_step(b)
        self._emit_last_lr(b, b.field("lr"))

    def _prepare(self, restart: bool) -> None:
        for part in self._schedulers:
            part._prepare(restart)

    def _coming_epoch(self, restart: bool) -> int:
        coming: int = self._schedulers[0]._coming_epoch(restart)
        return coming

    def _steps_taken(self) -> int:
        return int(self._schedulers[0]._steps_taken())


class _Plateau:
    """Stands for a ReduceLROnPlateau of ours in torch's constructors, which refuse one as its step takes a metric."""

    def __init__(self, part: Any) -> None:
        self.optimizer = part.optimizer
        self.get_last_lr = part.get_last_lr

    def _initial_step(self) -> None:
        """It makes none."""


def _shown_to_torch(schedulers: Any) -> Any:
    plateaus = [isinstance(x, Measured) and isinstance(x, lr_scheduler.ReduceLROnPlateau) for x in schedulers]
    if not any(plateaus):
        return schedulers
    return [_Plateau(part) if plateau else part for part, plateau in zip(schedulers, plateaus, strict=True)]


def _to_put_back(part: Any) -> Iterator[Callable[[], None]]:
    """What makes a part be as it is now: torch's constructor of a sequence starts its parts anew."""
    if isinstance(part, OnDevice):
        yield part._to_drive_as_now()
        yield part._to_put_back()
    elif isinstance(part, LRScheduler):
        attributes = dict(part.__dict__)

        def undo() -> None:
            part.__dict__.clear()
            part.__dict__.update(attributes)

        yield undo
