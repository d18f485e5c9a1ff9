"""What a scheduler knows of the optimizer that it drives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

import torch

from .. import backends
from ..memory.control_block import FIELDS, ControlBlock
from ..program.program import Program
from ..program.schedule import Schedule
from .live_dict import Changes


class Rehearsal(Protocol):
    """Runs of a training function that are put back; see ``graphs/rehearsal.py``.

    Attributes:
        watches: what runs now is the user's own code.
    """

    watches: bool

    def keep_finished(self, tensor: torch.Tensor) -> None:
        """Note what a tensor begins with, that launches will write to."""

    def before_update(self, optimizer: Any) -> None:
        """An update is about to be launched; its states are there."""

    def work_of(self, home: Home) -> AbstractContextManager[None]:
        """Inside, a step of an optimizer or of a schedule does what it tells of by itself."""


class Home:
    """Where schedules work: the groups of one optimizer as rows of a control block, and what runs programs there.

    An optimizer of this package is one, a :class:`ForeignOptimizer` is one for any other; schedulers get it from
    :func:`home_of`, and reach the optimizer through nothing else but torch's own attributes.

    Attributes:
        advances_schedules: whether its updates can advance schedules, which ``fused=True`` asks for.
        groups_seen: the groups at the last look; another list whenever they, their order or their tensors changed.
    """

    rehearsal: ClassVar[Rehearsal | None] = None  # that goes on now, of whatever optimizer
    advances_schedules: ClassVar[bool]
    groups_seen: list[Any]

    _backend_given: str | backends.Backend | None
    _backend: backends.Backend
    _block: ControlBlock
    _changes: Changes
    _schedules: list[Schedule]  # in the order in which updates advance them
    _kept_schedulers: list[Any]  # of them, those that the user let go of
    _scheduled_fields: set[str]  # what programs may write, unseen by the host
    _schedules_made: WeakSet[Schedule]  # all that there are

    def _move_to(self, device: torch.device, n_groups: int, n_tensors: int) -> None:
        """Begin with an empty control block on ``device``."""
        self._backend = backends.choose(device, self._backend_given)
        self._block = ControlBlock(device, n_groups, n_tensors, self._backend.platform)
        self._changes = Changes()
        self._schedules, self._kept_schedulers, self._scheduled_fields = [], [], set()
        self._schedules_made = WeakSet()

    # -- groups ------------------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[int, ...]:
        """The control block's row of each group, in their order."""
        raise NotImplementedError

    def groups_changed(self) -> bool:
        """Whether there are other groups than there were, or in another order, or other tensors in them."""
        raise NotImplementedError

    def sync_groups(self) -> None:
        """Take in the groups as they are now."""
        raise NotImplementedError

    def values_assigned(self) -> int:
        """How often a value that no field has was assigned to a group; another number each time if nothing tells."""
        raise NotImplementedError

    def watch_fields(self, fields: Collection[str]) -> str | None:
        """Take note of the fields that a program reads and writes; returns why only Python can set them, if so."""
        raise NotImplementedError

    def note_lrs_scheduled(self) -> None:
        """The lrs assigned last are a scheduler's, not a user's."""
        self._changes.lr_by_hand = False

    def snapshot_groups(self) -> Callable[[], None]:
        """What puts all fields of the groups, and the tensors that they follow, back to what they are now."""
        block = self._block
        slots = [block.slot(row, field) for row in self.rows for field in FIELDS]
        values = [block.read(slot) for slot in slots]
        tensors = [(tensor, tensor.detach().clone()) for tensor in block.bindings.tensors(self.rows)]

        def put_back() -> None:
            for slot, value in zip(slots, values, strict=True):
                block.write(slot, value)
            for tensor, before in tensors:
                tensor.detach().copy_(before)

        return put_back

    def keep_for_rehearsal(self, keep: Callable[[torch.Tensor], None]) -> Callable[[], None]:
        """Call ``keep`` with all that launches write to; returns what puts the host's own notes back."""
        block = self._block
        for tensor in (block.counts, *(array.tensor for array in block.mirrors), *block.bindings.tensors(self.rows)):
            keep(tensor)
        noted = [(s, copy.copy(s.account), s.has_advanced, s._resumes_at) for s in self._schedules_made]

        def put_back() -> None:
            for schedule, account, has_advanced, resumes_at in noted:
                schedule.account, schedule.has_advanced, schedule._resumes_at = account, has_advanced, resumes_at
            block.expire()
            if not block.capturing():
                for array in block.mirrors:
                    array.refresh()  # now, as it cannot be asked for in a capture
            for schedule in list(self._schedules_made):
                if schedule.before_advance is not None:
                    schedule.before_advance.after_rehearsal()

        return put_back

    # -- schedules ---------------------------------------------------------------------------------------

    @property
    def fused_schedules(self) -> tuple[Schedule, ...]:
        """Those that every update advances."""
        return tuple(self._schedules)

    @property
    def fields_bound(self) -> frozenset[str]:
        """The fields that may follow a tensor, which programs have to be made for."""
        return self._block.bindings.fields

    def suits_program(self, program: Program) -> bool:
        """Whether a program was made for the fields that may follow a tensor."""
        return program.fields & self.fields_bound == program.fields_bound

    def why_not_in_one(self, program: Program) -> str | None:
        """Why only Python can run a program, where fields that it has to do with follow one tensor."""
        shared = self._block.bindings.shared_fields(self.rows, program.fields_written, program.fields)
        if not shared:
            return None
        return f"{' and '.join(shared)} are one tensor in the param groups, and {program.name} has to do with both"

    def captured_schedules(self) -> list[Schedule]:
        """Those at work that a CUDA graph advances, be it as part of an update or not."""
        captured = [schedule for schedule in self._schedules_made if schedule.memory.captured]
        return [schedule for schedule in captured if schedule.before_advance.at_work is schedule]

    def make_schedule(self, program: Program, guarded: bool) -> Schedule:
        """Put a program on the device, where it drives the groups; see :class:`Schedule`."""
        schedule = Schedule(program, self.rows, self._block, self._backend, guarded)
        self._schedules_made.add(schedule)
        if Home.rehearsal is not None:
            Home.rehearsal.keep_finished(schedule.memory.tensor)
        return schedule

    def redirect_schedule(self, schedule: Schedule) -> bool:
        """Let a schedule drive the groups that there are now; False if it has to be made anew for them."""
        program = schedule.program
        fits = schedule.block is self._block and program.n_groups == len(self.groups_seen)
        if not fits or not self.suits_program(program) or self.watch_fields(program.fields) is not None:
            return False
        if self.why_not_in_one(program) is not None:
            return False
        schedule.drive(self.rows)
        schedule.note_sharing()
        return True

    def take_in_schedule(self, schedule: Schedule, instead_of: Schedule | None, in_updates: bool) -> None:
        """A schedule goes to work.

        Args:
            schedule: of :meth:`make_schedule`.
            instead_of: whose place it takes.
            in_updates: every update advances it.
        """
        self._scheduled_fields |= schedule.program.fields_written
        self._changes.structure = True  # which state tensors are needed may depend on the program
        if instead_of in self._schedules:
            self._schedules[self._schedules.index(instead_of)] = schedule
        elif in_updates:
            self._schedules.append(schedule)

    def stop_advancing(self, schedule: Schedule) -> None:
        """No update advances this schedule any more, if any did."""
        if schedule in self._schedules:
            self._schedules.remove(schedule)

    def keep_scheduler(self, scheduler: Any) -> None:
        """Have a scheduler that its user let go of, since its schedule goes on."""
        self._kept_schedulers.append(scheduler)

    # -- the device --------------------------------------------------------------------------------------

    def expire_mirrors(self) -> None:
        """Let the next read of a field or register ask the device, whose bits are those that count."""
        self._block.expire()

    def in_capture(self) -> bool:
        """Whether what is launched now is recorded into a CUDA graph."""
        return self._block.capturing()

    def _keep_for_graph(self, tensors: list[torch.Tensor]) -> None:
        """Have tensors for as long as a graph that is being captured may be replayed."""
        raise NotImplementedError

    def refuse_in_capture(self, what: str) -> None:
        """Raise RuntimeError if ``what`` the host does now would end up in a CUDA graph."""
        self._block.refuse_in_capture(what)


def refuse_in_rehearsal(what: str) -> None:
    """Raise RuntimeError inside the warm-up of a graphed function, for what a replay would not do."""
    if Home.rehearsal is not None:
        raise RuntimeError(f"{what} inside a graphed function, which replays would not do again: do it between calls")
