"""Which steps of a scheduler the optimizer has made: where host and device keep what ``fused=True`` needs to know.

An update advances a fused schedule, and the call of ``scheduler.step()`` that follows is bookkeeping. An update that
was skipped does not advance it; then that call makes the advance. Only the device knows which it was, and in a replay
of a CUDA graph the host is not there at all. So a register of the program, :data:`MADE`, is 1 where an update has made
the coming step, and three programs share one memory: the schedule's own, the one that updates run (:func:`noting`), and
the one for a step that only the device can decide on (:func:`unless_made`). Every evaluator runs them as it runs any
other program.

Where the host knows, nothing is launched.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from .program import Operation, Program

MADE = "step made by an update"
_LOADS = {"store": "load", "store_group": "load_group", "store_field": "field", "store_bound": "bound_field"}


def noting(program: Program) -> Program:
    """``program``, which also sets :data:`MADE` to 1."""
    at = program.n_uniform
    one = Operation("load", (), MADE), Operation("eq", (at, at)), Operation("store", (at + 1,), MADE)

    def moved(op: Operation) -> Operation:
        return replace(op, operands=tuple(k if k < at else k + len(one) for k in op.operands))

    operations = (*program.operations[:at], *one, *map(moved, program.operations[at:]))
    return replace(program, operations=operations, n_uniform=at + len(one))


def unless_made(program: Program) -> Program:
    """``program`` where :data:`MADE` is 0; where it is 1, it becomes 0 and nothing else happens."""
    made = Operation("load", (), MADE)
    operations = [made, Operation("sub", (0, 0)), Operation("store", (1,), MADE)]
    place: list[int] = []
    n_uniform = len(operations)
    for i, op in enumerate(program.operations):
        operands = tuple(place[k] for k in op.operands)
        if op.name in _LOADS:
            kept, before = len(operations), Operation(_LOADS[op.name], (), op.symbol)
            operations += [before, Operation("where", (0, kept, *operands))]
            operands = (kept + 1,)
        place.append(len(operations))
        operations.append(replace(op, operands=operands))
        if i < program.n_uniform:
            n_uniform = len(operations)
    return replace(program, operations=tuple(operations), n_uniform=n_uniform)


class Step(Enum):
    """What the coming call of ``scheduler.step()`` is."""

    OWN = "an advance of its own: every update is accounted for"
    MADE = "bookkeeping: an update has made it"
    ASK = "one or the other: the last update may have been skipped"


class Account:
    """What the host knows of the steps of one fused schedule.

    On the device, :data:`MADE` is right whenever the host has to ask. After bookkeeping that launched nothing it is
    still 1 (``outdated``), and is put right before it matters.

    Attributes:
        coming: what the coming ``scheduler.step()`` is.
        outdated: :data:`MADE` may be 1 though no update is open.
        updates: since the last ``scheduler.step()``.
        warned: the user was told that it is never called.
    """

    def __init__(self, coming: Step = Step.OWN) -> None:
        self.coming = coming
        self.outdated = False
        self.updates = 0
        self.warned = False
        self._outdated_by_replays = False
        self._open_in_capture = False  # an update was captured, and no step after it
        self._open_in_replays = False  # and then the capture ended: replays leave steps open, unseen by the host
        self._met_in_capture = False  # the last call was captured

    def _meet(self, capturing: bool) -> None:
        if not capturing and self._open_in_capture:
            self._open_in_replays, self._open_in_capture = True, False
        self._met_in_capture = capturing

    def note_update(self, may_be_skipped: bool, capturing: bool) -> None:
        """An update was launched; it may have been skipped without having advanced the schedule."""
        self._meet(capturing)
        self.updates += 1
        if capturing:
            self._open_in_replays |= self._open_in_capture  # of another capture, for all that is known
            self._open_in_capture = True
        if not may_be_skipped:
            self.coming = Step.MADE
        elif self.coming is Step.OWN:
            self.coming = Step.ASK

    def follows_replays(self, capturing: bool) -> bool:
        """Whether a step made now begins a captured loop, so that each replay's may be that of the update before."""
        return capturing and not self._met_in_capture and self.coming is Step.OWN

    def take_step(self, capturing: bool) -> Step:
        """What the call of ``scheduler.step()`` is that is made now; the next one is a step of its own."""
        follows_replays = self.follows_replays(capturing)
        self._meet(capturing)
        self._open_in_capture = False
        self.updates = 0
        step, self.coming = self.coming, Step.OWN
        if follows_replays or self._open_in_replays:
            step = Step.ASK
        if step is Step.MADE:
            self.outdated = True
            self._outdated_by_replays |= capturing
        return step

    def note_cleared(self) -> None:
        """:data:`MADE` is 0 on the device."""
        self.outdated = self._outdated_by_replays

    @property
    def open(self) -> bool:
        """Whether only the device knows what the coming step is."""
        return self.coming is Step.ASK or self._open_in_replays or self._open_in_capture
