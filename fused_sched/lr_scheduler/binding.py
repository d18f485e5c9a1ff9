"""How a scheduler's program is put to work on a device, and follows what changed."""

from __future__ import annotations

import weakref

from ..notice import warn
from ..program.schedule import Schedule
from .host_steps import HostSteps
from .programmed import Programmed


class Bound(HostSteps):
    """A program and its scheduler on the optimizer's device: built, exchanged when something changed, let go of."""

    __slots__ = ()

    def _bind(self, pending: bool = False) -> None:
        """Build the program and put it on the optimizer's device."""
        self._host_reason = self._why_on_host()
        if self._host_reason is not None:
            if self._fused or self._skip_with_optimizer:
                raise ValueError(f"{self._host_reason}: leave out fused and skip_with_optimizer")
            warn(f"{self._host_reason}: its lr is computed on the host at every step()")
            if self._schedule is not None:
                for one in self._family():
                    one._pull()
                for one in self._family():
                    one._leave_schedule()
                    one._schedule = one._outer_reference = None
            return
        optimizer = self.optimizer
        previous = self._schedule
        self._take_values()
        if optimizer.groups_changed():
            optimizer.sync_groups()
        block, backend = optimizer._block, optimizer._backend
        schedule = Schedule(self._build(), optimizer.rows, block, backend, self._skip_with_optimizer)
        self._groups_seen = optimizer._group_snapshot
        schedule.before_advance = Hold(self)
        schedule.pending = pending if previous is None else previous.pending
        optimizer._scheduled_fields |= schedule.program.fields_written
        self._take_over(schedule, "", None)
        self._note_all_constants()
        schedules = optimizer._schedules
        if previous in schedules:
            schedules[schedules.index(previous)] = schedule
        elif self._fused:
            written = schedule.program.fields_written
            rivals = [s.program.name for s in schedules if s.program.fields_written & written]
            if rivals:
                warn(
                    f"{type(self).__name__} is one more fused scheduler on an optimizer that advances "
                    f"{', '.join(rivals)} already: every optimizer.step() advances all of them. Call detach() on a "
                    "scheduler that is replaced"
                )
            schedules.append(schedule)
        for one in self._family():
            if one._source is not None and one._source.horizon > 1:
                one._prepare(restart=False)
        optimizer._changes.structure = True  # which state tensors are needed may depend on the program

    def _take_over(self, schedule: Schedule, scope: str, outer: Programmed | None) -> None:
        """Let this scheduler and its parts be run by ``schedule``."""
        self._leave_schedule()
        self._schedule, self._scope = schedule, scope
        self._outer_reference = None if outer is None else weakref.ref(outer)
        for i, part in enumerate(self._parts()):
            part._take_over(schedule, f"{scope}{i}.", outer or self)

    def _leave_schedule(self) -> None:
        if self._schedule is not None:
            self._schedule.retire()

    def _before_advance(self, fused: bool = False) -> None:
        """Take in what was changed by hand: groups, constants, values of a user's function.

        Args:
            fused: the optimizer asks, and has looked at its groups.
        """
        schedule, optimizer = self._schedule, self.optimizer
        assert schedule is not None
        if not fused and optimizer.groups_changed():
            optimizer.sync_groups()
        if schedule.trapped:
            self._step_by_python()
        if self._groups_seen is not optimizer._group_snapshot:  # the program drives others
            self._take_groups()
            if self._schedule is None:
                return
        changed = self._touched or (self._watches_itself and self._constants_changed())
        for one in self._watched_parts:
            changed = changed or one._constants_changed()
        if changed:
            self._refresh()
        if self._tabulates:
            self._prepare(restart=False)

    def _take_groups(self) -> None:
        """Drive the groups that the optimizer has now: as with torch, what is given per group goes by the list."""
        schedule, groups = self._schedule, self.optimizer.param_groups
        assert schedule is not None
        for one in self._family():
            one._values_seen = -1  # what torch keeps in the groups may be another's
        if schedule.n_groups == len(groups):
            schedule.drive(self.optimizer.rows)
            self._groups_seen = self.optimizer._group_snapshot
            return
        self._bind()

    def _refresh(self) -> None:
        assert self._schedule is not None
        self._take_values()
        if self._why_on_host() is not None or not self._schedule.take_constants(self._build()):
            self._bind()
        self._note_all_constants()

    def _take_values(self) -> None:
        """Have all of what a new program begins with: registers, and functions as they are now."""
        for one in self._family():
            one._pull()
            one._ensure_source()
            if one._source is not None:
                one._source.forget()  # rows computed ahead are in the memory of another schedule

    def _prepare(self, restart: bool) -> None:
        """Put on the device what Python has to compute for the coming step (``restart``: to epoch 0)."""
        if self._source is not None and not self._source.traced:
            assert self._schedule is not None
            self._source.prepare(self._schedule, self._scope, lambda: self._coming_epoch(restart))


class Hold:
    """The scheduler of a fused schedule, as the schedule has it: weakly.

    The user has it, and it has the optimizer. When the user lets go of it, it is the optimizer that has it, and it has
    the optimizer weakly from then on: so the schedule goes on, and there is never a cycle.
    """

    def __init__(self, scheduler: Bound) -> None:
        self.point_to(scheduler)

    def point_to(self, scheduler: Bound) -> None:
        """Have this one; what collected a cycle has cleared the reference."""
        self._weak = weakref.ref(scheduler)

    def __call__(self) -> None:
        """What has to be done before an advance."""
        scheduler = self._weak()
        if scheduler is not None:
            scheduler._before_advance(fused=True)
