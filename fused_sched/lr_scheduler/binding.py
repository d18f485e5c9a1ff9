"""How a scheduler's program is put to work on a device, and follows what changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from operator import is_
from typing import Any

from ..compiled import not_compiled
from ..notice import warn
from ..optim.foreign import home_of
from ..optim.home import Home
from ..program.account import Step
from ..program.builder import WRITTEN
from ..program.program import Program
from ..program.schedule import Schedule
from .attributes import all_kept, put_back
from .host_steps import HostSteps
from .programmed import Programmed
from .undo import UndoneOnError

UPDATES_ALONE = 100  # without a call of scheduler.step(), before a warning


class Bound(HostSteps):
    """A program and its scheduler on the optimizer's device: built, exchanged when something changed, let go of."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            self._take_dict(value)
        elif name == "optimizer" and self.__dict__.get(name, value) is not value:
            self._drive_another(value)
        else:
            super().__setattr__(name, value)

    def _take_dict(self, attributes: dict[str, Any]) -> None:
        """Other attributes were assigned in one."""
        state, attributes = self.__dict__, dict(attributes)
        for name in [name for name in state if name not in attributes]:
            del state[name]
        state.update(attributes)

    def _take_assigned(self, name: str, value: Any) -> None:
        if name == "optimizer" and self._home is not None and dict.get(self.__dict__, name) is not value:
            self._drive_another(value)
        super()._take_assigned(name, value)

    def _drive_another(self, optimizer: Any) -> None:
        """Another optimizer is assigned; where that raises, nothing has changed."""
        home, left, schedule = self._home_in(optimizer), self._home, self._schedule
        if home is left:  # only the wrapper around it is another
            super().__setattr__("optimizer", optimizer)
            return
        with UndoneOnError(self._to_drive_as_now()):
            if not self._is_part:
                self._go_to_host()
            super().__setattr__("optimizer", optimizer)
            self._home = home
            if self._is_part:
                self._note_method()  # the scheduler around it drives another optimizer
            elif home is not None:
                self._bind()
        if schedule is not None and not self._is_part:
            left.stop_advancing(schedule)

    def _to_drive_as_now(self) -> Callable[[], None]:
        """What puts all that this scheduler and its parts have back to what it is now."""
        slots = [name for name in Programmed.__slots__ if name != "__weakref__"]
        before = [(one, all_kept(one), {name: getattr(one, name) for name in slots}) for one in self._family()]

        def undo() -> None:
            for one, attributes, values in before:
                put_back(one, attributes)
                for name, value in values.items():
                    setattr(one, name, value)
            self._touched = True  # a look was taken at its functions, for another program

        return undo

    def _home_in(self, optimizer: Any) -> Home | None:
        """What is driven of this optimizer.

        Raises:
            ValueError: it cannot do what this scheduler was made for.
        """
        home = home_of(optimizer)
        if home is None or home.advances_schedules or not (self._fused or self._skip_with_optimizer):
            return home
        name = type(optimizer).__name__
        raise ValueError(
            f"fused and skip_with_optimizer need an optimizer of fused_sched.optim, whose step advances the "
            f"schedule, but got {name}: leave them out"
        )

    @not_compiled
    def detach(self) -> None:
        """Stop advancing inside ``optimizer.step()``, for a ``fused`` scheduler that another one replaces."""
        if self._schedule is not None:
            self._home.stop_advancing(self._schedule)
        self._fused = False

    def _settle(self) -> None:
        """Put a copy to work, as soon as something is asked of it; its ``__setstate__`` may be the user's."""
        if self._home is None:
            self._home = self._home_in(self.optimizer)
            self._bind(self._step_was_made)

    def _bind(self, made: bool = False) -> None:
        """Build the program and put it on the optimizer's device.

        Args:
            made: an update has made the coming step of a fused scheduler.
        """
        home = self._home
        if home.groups_changed():
            home.sync_groups()
        for part in self._parts():
            if isinstance(part, Bound):
                part._settle()
        program = self._program_or_reason()
        if program is None:
            self._go_to_host()
            return
        previous = self._schedule
        schedule = home.make_schedule(program, self._skip_with_optimizer)
        self._groups_seen = home.groups_seen
        schedule.before_advance = Hold(self)
        if previous is not None:
            schedule.before_advance = previous.before_advance
            schedule.take_account(previous)
        elif made and schedule.account is not None:
            schedule.account.coming = Step.MADE
        self._take_over(schedule, "", None)
        self._note_all_constants()
        if self._fused and previous not in home.fused_schedules:
            self._warn_of_rivals(program)
        home.take_in_schedule(schedule, instead_of=previous, in_updates=self._fused)
        try:
            for one in self._family():
                if one._source is not None and one._source.horizon > 1:
                    one._prepare(restart=False)
        except BaseException:
            if previous is None:  # this scheduler is not there yet
                home.stop_advancing(schedule)
            raise

    def _warn_of_rivals(self, program: Program) -> None:
        others = [schedule.program for schedule in self._home.fused_schedules]
        rivals = [other.name for other in others if other.fields_written & program.fields_written]
        if rivals:
            warn(
                f"{type(self).__name__} is one more fused scheduler on an optimizer that advances "
                f"{', '.join(rivals)} already: every optimizer.step() advances all of them. Call detach() on a "
                "scheduler that is replaced"
            )

    def _program_or_reason(self) -> Program | None:
        """The program; if there is none, ``_host_reason`` says why."""
        home = self._home
        self._host_reason = home.watch_fields({"lr"})
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
        self._host_reason = home.watch_fields(program.fields)
        if self._host_reason is not None:
            return None
        self._host_reason = home.why_not_in_one(program)
        if self._host_reason is not None:
            self._refuse_or_warn(self._host_reason)
            return None
        return program if home.suits_program(program) else self._build()

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
        changed = self._take_in_changes(fused)
        if self._schedule is not None and (self._tabulates or self._comparing) and (changed or not prepared):
            self._prepare_step()

    def after_rehearsal(self) -> None:
        """Steps were put back: compute anew what is computed ahead, if rows were computed for them."""
        if self._tabulates:
            for one in self._family():
                if one._source is not None:
                    one._source.forget()
            if any(one._source is not None and one._source.horizon > 1 for one in self._family()):
                self._prepare_step()

    def before_replay(self) -> None:
        """As before an advance, for one that a captured graph makes: what is computed ahead stays as it is."""
        if self._schedule is not None and self._take_in_changes() and self._schedule is not None and self._tabulates:
            self._prepare_step()

    def _take_in_changes(self, fused: bool = False) -> bool:
        """Bring the program up to date with what was changed by hand; whether anything was, but for the groups."""
        schedule, home = self._schedule, self._home
        assert schedule is not None
        schedule.lent = None
        if not fused and home.groups_changed():
            home.sync_groups()
        if schedule.may_trap and schedule.trapped:
            self._step_by_python()
        if self._groups_seen is not home.groups_seen:  # the program drives others
            self._take_groups()
            if self._schedule is None:
                return True
        changed = self._touched or self._outdated()
        if self._watches_groups:
            changed = changed or self._groups_values_changed()
        for one in self._watched_parts:
            changed = changed or one._groups_values_changed()
        if changed:
            self._refresh()
        return changed

    def _prepare_step(self) -> None:
        """Call functions of the user's as torch does in the coming step: for a table, or to compare."""
        schedule = self._schedule
        assert schedule is not None
        if not self._tabulates and schedule.block.remote and schedule.is_mirror_old():
            self._comparing = False  # the host makes the steps no more, and would have to wait to know them
            return
        self._prepare(restart=False)
        self._comparing = self._comparing and any(one._compares() for one in self._family())
        if any(one._left_program() for one in self._family()):
            self._bind()
            if self._schedule is not None:
                self._prepare(restart=False)

    def _compare_first(self) -> None:
        """Compare a user's function with what torch's constructor wrote by it."""
        written = None if self._source is None else self._written()
        if written is not None and self._source is not None and self._schedule is not None:
            self._source.compare_first(self.last_epoch, written)
            if self._source.left_program:
                self._bind()

    def _left_program(self) -> bool:
        """Whether a function turned out to be another one than the program has."""
        if self._get_lr_differs is not None and self._schedule is not None:
            return True
        return self._source is not None and self._source.left_program

    def _look_again(self) -> None:
        """On the host, where a method was assigned or deleted: go back to a program if that can be."""
        self._settle()
        self._methods_touched = False
        if self._why_on_host() is None:
            self._bind()

    def _take_groups(self) -> None:
        """Drive the groups that the optimizer has now: as with torch, what is given per group goes by the list."""
        schedule, home = self._schedule, self._home
        assert schedule is not None
        for one in self._family():
            one._values_seen = -1  # what torch keeps in the groups may be another's
        # what was the last lr stays it, whoever shared a tensor then
        shared = WRITTEN in schedule.program.offsets
        kept = [(one, one._last_lr) for one in self._family()] if shared else []
        if not home.redirect_schedule(schedule):
            self._bind()
            return
        self._groups_seen = home.groups_seen
        if shared:
            schedule.write(WRITTEN, 0.0)
        for one, values in kept:
            one._last_lr = values

    def _refresh(self) -> None:
        assert self._schedule is not None
        others = self._part_with_others()
        self._take_values()
        others = others or self._methods_touched or self._methods_outdated()
        if others or self._why_on_host() is not None or not self._schedule.take_constants(self._build()):
            self._bind()
        self._note_all_constants()

    def _part_with_others(self) -> bool:
        """Let parts go that are in the lists no longer: on their own they go on. Whether there are other parts."""
        members, before = [*self._family()][1:], self._parts_seen
        if len(members) == len(before) and all(map(is_, members, before)):
            return False
        gone = [one for one in before if not any(one is other for other in members)]
        for one in gone:
            one._pull()
        for one in gone:
            one._schedule = one._outer_reference = None
            one._scope = ""
            one._methods_touched = True  # so that its next step puts it to work
        return True

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
        schedule, self._restarts = self._schedule, restart
        if schedule is None:
            return
        if self._source is not None and (self._source.comparing or not self._source.traced):
            self._source.prepare(schedule, self._scope, lambda: self._coming_epoch(restart))
        if self._compares() and self._traced_get_lr is not None and not schedule.memory.capturing():
            self._compare_get_lr(self._coming_epoch(restart))


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

    @property
    def at_work(self) -> Schedule | None:
        """What the scheduler's steps are now."""
        scheduler = self._weak()
        return None if scheduler is None else scheduler._schedule

    def after_rehearsal(self) -> None:
        """Steps were put back: what functions of the user's gave for them is given anew."""
        scheduler = self._weak()
        if scheduler is not None:
            scheduler.after_rehearsal()

    def before_replay(self) -> Schedule | None:
        """What has to be done before an advance by a captured graph; the schedule that is at work after it."""
        scheduler = self._weak()
        if scheduler is None:
            return None
        scheduler.before_replay()
        return self.at_work

    def __call__(self) -> None:
        """What has to be done before an advance."""
        scheduler = self._weak()
        if scheduler is not None:
            account = None if scheduler._schedule is None else scheduler._schedule.account
            if self._users and account is not None and account.updates >= UPDATES_ALONE:
                scheduler._look_for_steps()
            Bound._before_advance(scheduler, fused=True)
