"""How a scheduler's program is put to work on a device, and follows what changed."""

from __future__ import annotations

import weakref
from typing import Any

from ..compiled import not_compiled
from ..notice import warn
from ..optim.foreign import home_of
from ..program.account import Step
from ..program.builder import WRITTEN
from ..program.program import Program
from ..program.schedule import Schedule
from .host_steps import HostSteps
from .programmed import Programmed

UPDATES_ALONE = 100  # without a call of scheduler.step(), before a warning


class Bound(HostSteps):
    """A program and its scheduler on the optimizer's device: built, exchanged when something changed, let go of."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        other = name == "optimizer" and self.__dict__.get(name, value) is not value
        if other and not self._is_part:
            self._stop_advancing()
            self._go_to_host()
        super().__setattr__(name, value)
        if other:
            self._move_in(value)
            if self._is_part:
                self._note_method()  # the scheduler around it drives another optimizer
            elif self._home is not None:
                self._bind()

    def _move_in(self, optimizer: Any) -> None:
        """Drive this optimizer from now on."""
        self._home = home_of(optimizer)
        if self._home is None or self._home.advances_schedules or not (self._fused or self._skip_with_optimizer):
            return
        name = type(optimizer).__name__
        raise ValueError(
            f"fused and skip_with_optimizer need an optimizer of fused_sched.optim, whose step advances the "
            f"schedule, but got {name}: leave them out"
        )

    def _stop_advancing(self) -> None:
        if self._home is not None and self._schedule in self._home._schedules:
            self._home._schedules.remove(self._schedule)

    @not_compiled
    def detach(self) -> None:
        """Stop advancing inside ``optimizer.step()``, for a ``fused`` scheduler that another one replaces."""
        self._stop_advancing()
        self._fused = False

    def _bind(self, made: bool = False) -> None:
        """Build the program and put it on the optimizer's device.

        Args:
            made: an update has made the coming step of a fused scheduler.
        """
        home = self._home
        if home.groups_changed():
            home.sync_groups()
        program = self._program_or_reason()
        if program is None:
            self._go_to_host()
            return
        previous = self._schedule
        schedule = Schedule(program, home.rows, home._block, home._backend, self._skip_with_optimizer)
        self._groups_seen = home._group_snapshot
        schedule.before_advance = Hold(self)
        if previous is not None:
            schedule.before_advance = previous.before_advance
            schedule.take_account(previous)
        elif made and schedule.account is not None:
            schedule.account.coming = Step.MADE
        home._scheduled_fields |= schedule.program.fields_written
        self._take_over(schedule, "", None)
        self._note_all_constants()
        schedules = home._schedules
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
        home._changes.structure = True  # which state tensors are needed may depend on the program

    def _program_or_reason(self) -> Program | None:
        """The program; if there is none, ``_host_reason`` says why."""
        home = self._home
        self._host_reason = home.watch({"lr"})
        if self._host_reason is not None:
            return None  # torch's way with such an optimizer, and nothing to warn of
        self._host_reason = self._why_on_host()
        if self._fused and self._stand_in.is_overridden(self, "step"):
            raise ValueError(
                f"{type(self).__name__} has a step() of its own, but with fused=True it is the optimizer that advances "
                "the schedule, whatever that step() does: leave out fused"
            )
        if self._host_reason is not None:
            self._refuse_or_warn(self._host_reason)
            return None
        self._take_values()
        program = self._build()
        self._host_reason = home.watch(program.fields)
        if self._host_reason is not None:
            return None
        return program if self._suits_tensors(program) else self._build()

    def _suits_tensors(self, program: Program) -> bool:
        """Whether the program knows which fields follow a tensor."""
        return bool(program.fields & self._home._block.bindings.fields == program.fields_bound)

    def _refuse_or_warn(self, reason: str) -> None:
        if self._fused or self._skip_with_optimizer:
            raise ValueError(f"{reason}: leave out fused and skip_with_optimizer")
        self._methods_touched = False
        warn(f"{reason}: its lr is computed on the host at every step()")

    def _go_to_host(self) -> None:
        """From now on Python makes the steps."""
        if self._schedule is not None:
            for one in self._family():
                one._pull()
            for one in self._family():
                one._leave_schedule()
                one._schedule = one._outer_reference = None

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

    def _before_advance(self, fused: bool = False, prepared: bool = False) -> None:
        """Take in what was changed by hand: groups, constants, values of a user's function.

        Args:
            fused: the optimizer asks, and has looked at its groups.
            prepared: the values of a user's function were there for the update before, and are those of this step.
        """
        schedule, home = self._schedule, self._home
        assert schedule is not None
        if not fused and home.groups_changed():
            home.sync_groups()
        if schedule.may_trap and schedule.trapped:
            self._step_by_python()
        if self._groups_seen is not home._group_snapshot:  # the program drives others
            self._take_groups()
            if self._schedule is None:
                return
        changed = self._touched or (self._methods_seen != () and self._methods_changed())
        changed = changed or (self._watches_itself and self._constants_changed())
        for one in self._watched_parts:
            changed = changed or one._constants_changed()
        if changed:
            self._refresh()
        if self._tabulates and (changed or not prepared):
            self._prepare(restart=False)

    def _look_again(self) -> None:
        """On the host, where a method was assigned or deleted: go back to a program if that can be."""
        self._methods_touched = False
        if self._why_on_host() is None:
            self._bind()

    def _take_groups(self) -> None:
        """Drive the groups that the optimizer has now: as with torch, what is given per group goes by the list."""
        schedule, groups = self._schedule, self.optimizer.param_groups
        assert schedule is not None
        for one in self._family():
            one._values_seen = -1  # what torch keeps in the groups may be another's
        suits = self._suits_tensors(schedule.program) and schedule.block is self._home._block
        if schedule.n_groups == len(groups) and suits and self._home.watch(schedule.program.fields) is None:
            self._drive_rows(schedule)
            self._groups_seen = self._home._group_snapshot
            return
        self._bind()

    def _drive_rows(self, schedule: Schedule) -> None:
        """Drive the optimizer's rows as they are now; what was the last lr stays it, whoever shared a tensor then."""
        shared = WRITTEN in schedule.program.offsets
        kept = [(one, one._last_lr) for one in self._family()] if shared else []
        schedule.drive(self._home.rows)
        schedule.note_sharing()
        if shared:
            schedule.write(WRITTEN, 0.0)
        for one, values in kept:
            one._last_lr = values

    def _refresh(self) -> None:
        assert self._schedule is not None
        self._take_values()
        other_methods = self._methods_touched or self._methods_changed()
        if other_methods or self._why_on_host() is not None or not self._schedule.take_constants(self._build()):
            self._bind()
        self._note_all_constants()

    def _take_values(self) -> None:
        """Have all of what a new program begins with: registers, and functions as they are now."""
        for one in self._family():
            one._pull()
            one._ensure_source()
            if one._source is not None:
                one._source.forget()  # rows computed ahead are in the memory of another schedule

    def _look_for_steps(self) -> None:
        """Warn once where updates advance what the user's loop seems to step at another rate."""
        assert self._schedule is not None
        account = self._schedule.account
        assert account is not None
        if account.warned:
            return
        account.warned = True
        warn(
            f"{type(self).__name__} is fused=True and has advanced at each of {account.updates} optimizer.step() calls "
            "without a call of its own step(): a loop that steps it less often, such as once an epoch, means another "
            "schedule. Leave out fused there, or call scheduler.step() after every optimizer.step()"
        )

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
        self._weak = weakref.ref(scheduler)
        self._users = True  # who may call its step()

    def let_go(self, scheduler: Bound) -> None:
        """The user did; what collected a cycle has cleared the reference."""
        self._weak, self._users = weakref.ref(scheduler), False

    def __call__(self) -> None:
        """What has to be done before an advance."""
        scheduler = self._weak()
        if scheduler is not None:
            account = None if scheduler._schedule is None else scheduler._schedule.account
            if self._users and account is not None and account.updates >= UPDATES_ALONE:
                scheduler._look_for_steps()
            scheduler._before_advance(fused=True)
