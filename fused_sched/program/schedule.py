"""A schedule at work: one program, its memory on the device, and the optimizer it drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..memory.control_block import ControlBlock
from ..memory.hosted_array import HostedArray
from ..memory.mirrors import Replay
from .account import MADE, Account, Step, noting, unless_made
from .builder import TRAP, WRITTEN
from .program import Program

if TYPE_CHECKING:
    from ..backends import Backend


class Run:
    """A program on the memory of a schedule, as a backend runs it.

    Args:
        program: what one advance computes.
        memory: of the schedule.
        rows: that its lanes drive now.
        block: see :class:`Schedule`.
        guarded: do nothing when the optimizer's last update was skipped.
    """

    def __init__(
        self, program: Program, memory: HostedArray, rows: Sequence[int], block: ControlBlock, guarded: bool
    ) -> None:
        self.program, self.memory, self.block, self.guarded = program, memory, block, guarded
        self.rows = tuple(rows)
        self.code = program.encode()
        # (code, uniform operations, memory, lanes, where their rows are, guarded), as csrc/schedule.h takes it
        self.launch_arguments = (
            *(self.code, program.n_uniform, memory.tensor),
            *(program.n_groups, program.rows_offset, int(guarded)),
        )


class Schedule(Run):
    """Runs a program on a device.

    A program with the register :data:`MADE` is that of a fused schedule: updates run :attr:`in_update`, and
    :attr:`account` knows what a step of the scheduler is.

    Args:
        program: what one advance computes.
        rows: of the control block, one for each lane of the program; see :meth:`drive`.
        block: control block of the optimizer whose fields it reads and writes.
        backend: who runs it.
        guarded: do nothing when the optimizer's last update was skipped.
    """

    def __init__(
        self, program: Program, rows: Sequence[int], block: ControlBlock, backend: Backend, guarded: bool
    ) -> None:
        self.n_groups = program.n_groups
        self.block = block
        self.rows = self._checked(program, rows)
        self.backend = backend
        memory = HostedArray(
            program.initial_memory(self.rows), block.device, platform=block.platform, mirrors=block.mirrors
        )
        super().__init__(program, memory, self.rows, block, guarded)
        self.host_advance = program.compile_host()
        self.before_advance: Any = None  # called by the optimizer before it advances the schedule
        self.has_advanced = False
        self.lent: object | None = None  # of the present step, what was read as a list and stays it until the next
        self._writers: list[int] | None = None  # for each lane, the one whose lr is the last in its tensor
        self.note_sharing()
        self._trap = program.offsets.get(TRAP)
        self.may_trap = self._trap is not None
        self.account: Account | None = None
        self._others: tuple[Run, ...] = ()
        if MADE in program.offsets:
            self.account = Account()
            # an update that was skipped leaves the step to scheduler.step()
            self._others = (
                Run(noting(program), memory, self.rows, block, True),
                Run(unless_made(program), memory, self.rows, block, guarded),
            )
        self._graph_asks = False  # the replays of a graph use what MADE is on the device
        self._resumes_at: int | None = None  # the age of a mirror that is right again once the step is made
        for run in self.runs:
            backend.check_program(run)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All that a backend may run of it."""
        return (self, *self._others)

    @property
    def in_update(self) -> Run:
        """What updates run."""
        return self._others[0] if self._others else self

    def drive(self, rows: Sequence[int]) -> None:
        """Drive these rows of the control block from now on, instead of :attr:`rows`; nothing else changes.

        Raises:
            ValueError: they are not as many, or one occurs twice.
            IndexError: the control block does not have such a row.
            RuntimeError: inside a CUDA graph capture, as every replay would set them again.
        """
        rows = self._checked(self.program, rows)
        if rows != self.rows:
            self.memory.write_range(self.program.rows_offset, [float(row) for row in rows])
            for run in self.runs:
                run.rows = rows

    def _checked(self, program: Program, rows: Sequence[int]) -> tuple[int, ...]:
        program.check_rows(rows)
        end = self.block.row_capacity
        if beyond := [row for row in rows if row >= end]:
            raise IndexError(f"rows {beyond} are driven, but the control block has rows 0 to {end - 1}: add them first")
        return tuple(map(int, rows))

    def advance(self) -> None:
        """One step of the schedule, as its own launch; the caller has run :attr:`before_advance`."""
        self.backend.advance(self)
        if self.block.remote or not self.has_advanced:
            self.follow()

    def retire(self) -> None:
        """Another schedule takes the place of this one, whose last advance may be running still."""
        self.backend.retire(self)

    def follow(self) -> None:
        """Keep the host's mirror in step after the device advanced."""
        if self.block.remote:
            if self.guarded:
                self.block.expire()
            else:
                self._follow_certain(self._recorded())
        self._note_advance()

    def _recorded(self) -> Replay | None:
        return self.block.mirrors.recorded(self.memory.capturing)

    def _follow_certain(self, recorded: Replay | None) -> None:
        """An advance that is made for sure: now, or by every replay of what is being captured."""
        if recorded is not None:
            recorded.add(self._follow_one)
        else:
            self._follow_one()

    def _follow_one(self) -> None:
        if self.is_mirror_old():
            self.block.expire()
        else:
            self.host_advance(self.memory.host, self.block.host)

    def _note_advance(self) -> None:
        if not self.has_advanced:
            self.has_advanced = not self.trapped

    def is_mirror_old(self) -> bool:
        """Whether the host would have to ask the device what an advance made."""
        block, memory = self.block, self.memory
        return block.stale or block.volatile or memory.stale or memory.volatile

    # -- fused=True: steps that updates make -----------------------------------------------------------

    def prepare_skippable_update(self) -> None:
        """Before an update that runs :attr:`in_update`, and may be skipped."""
        account = self.account
        if account is None or self.guarded or not account.outdated:
            return
        if account.coming is Step.OWN and not account.open:
            self._clear_made()  # in a capture it is recorded: each replay begins with it

    def _clear_made(self) -> None:
        self.memory.tensor[self.program.offsets[MADE]].fill_(0.0)
        if self.account is not None:
            self.account.note_cleared()

    def note_update(self, may_be_skipped: bool) -> None:
        """After such an update.

        Args:
            may_be_skipped: it was given a ``found_inf``, whose value the host does not know.
        """
        account = self.account
        if account is None:
            self.follow()
            return
        if not self.block.remote and not may_be_skipped:
            account.updates += 1
            account.coming = Step.MADE
            if not self.has_advanced:
                self._note_advance()
            return
        if self.block.remote:
            self._follow_update(may_be_skipped, account.coming is Step.OWN and not self.guarded)
        if not may_be_skipped or not (self.block.remote or self.block.skipped()):
            self._note_advance()
        account.note_update(may_be_skipped and not self.guarded, self.memory.capturing())

    def _follow_update(self, may_be_skipped: bool, is_made_up_for: bool) -> None:
        """Args:
        may_be_skipped: it may not have advanced the schedule.
        is_made_up_for: then the coming step will.
        """
        recorded = self._recorded()
        if not may_be_skipped:
            self._follow_certain(recorded)
        elif recorded is not None and is_made_up_for:
            recorded.leave_open(self)
        else:
            if is_made_up_for and not self.is_mirror_old():
                self._resumes_at = self.block.mirrors.age
            self.block.expire()

    def take_certain_step(self) -> bool:
        """As :meth:`take_step` where the host knows, and nothing is captured, that it is bookkeeping; else False."""
        account = self.account
        if account is None or self.block.remote or account.coming is not Step.MADE:
            return False
        account.coming = Step.OWN
        account.updates = 0
        account.outdated = True
        return True

    def take_step(self) -> bool:
        """A call of ``scheduler.step()``: False if it is an advance of its own, which is left to the caller."""
        account = self.account
        if account is None:
            return False
        capturing = self.memory.capturing()
        if account.outdated and account.follows_replays(capturing):
            with self.memory.platform.outside_of_capture():  # once, and not at every replay
                self._clear_made()
        step = account.take_step(capturing)
        if step is Step.ASK:
            self._graph_asks |= capturing
            self._step_where_due()
        elif step is Step.MADE and self._graph_asks:
            self._clear_made()
        return step is not Step.OWN

    def _step_where_due(self) -> None:
        """The device decides: the step that an update has not made is made now."""
        account, block, memory = self.account, self.block, self.memory
        assert account is not None
        self.backend.advance(self._others[1])
        account.note_cleared()
        resumes_at, self._resumes_at = self._resumes_at, None
        if block.remote and (recorded := self._recorded()) is not None:
            recorded.close(self, self._follow_one, lambda: account.coming is Step.OWN and not account.open)
        elif block.remote:
            # nobody has read since, or written: whether the update or this launch did it, it was one advance
            if resumes_at is not None and block.resume(resumes_at, memory):
                self.host_advance(memory.host, block.host)
            else:
                block.expire()
        self._note_advance()

    def forget_step(self) -> None:
        """Other values were loaded: what an update had made is gone, and the coming step is one of its own."""
        account = self.account
        if account is not None:
            if self.is_step_made():
                if account.open:
                    self.write(MADE, 0.0)
                else:
                    account.outdated = True
            account.coming, account.updates = Step.OWN, 0

    @property
    def may_not_have_advanced(self) -> bool:
        """Whether the last advance may have been none, as the update was skipped."""
        return self.guarded or (self.account is not None and self.account.coming is Step.ASK)

    def take_account(self, previous: Schedule) -> None:
        """Go on for a schedule that this one takes the place of."""
        mine, others = self.account, previous.account
        if mine is None or others is None:
            return
        mine.updates, mine.warned = others.updates, others.warned
        mine.coming = Step.MADE if previous.is_step_made() else Step.OWN

    def is_step_made(self) -> bool:
        """Whether an update has made the coming step of the scheduler; asks the device where only that knows."""
        account = self.account
        if account is None:
            return False
        if not account.open:
            return account.coming is Step.MADE
        self.block.expire()  # mirrors that follow leave it as it is
        return self.read(MADE) != 0.0

    def step_lent(self) -> object:
        """The same until the next step that the host makes."""
        if self.lent is None:
            self.lent = object()
        return self.lent

    @property
    def trapped(self) -> bool:
        """Whether the host knows that an advance did nothing, waiting for Python to raise."""
        if self._trap is None:
            return False
        memory = self.memory
        if memory.volatile or (memory.remote and memory.stale):
            return self.program.trap_awaited and not self.block.capturing() and self.read_trap()
        return memory.host[self._trap] != 0.0

    def read_trap(self) -> bool:
        """As :attr:`trapped`, after asking the device where only that knows."""
        return self._trap is not None and self.memory.read(self._trap) != 0.0

    def read(self, symbol: str) -> float:
        """The present value of a scalar register."""
        return self.memory.read(self.program.offsets[symbol])

    def read_group(self, symbol: str) -> list[float]:
        """The present values of a group register."""
        start = self.program.offsets[symbol]
        return self.memory.read_range(start, start + self.program.n_groups)

    def note_sharing(self) -> None:
        """Take note of which groups share the tensor that their lr follows, as of the coming advance."""
        bindings = self.block.bindings
        if "lr" in bindings.fields:
            lane = {row: i for i, row in enumerate(self.rows)}
            writers = [bindings.writer(row, "lr") for row in self.rows]
            self._writers = [lane.get(row, i) if field == "lr" else i for i, (row, field) in enumerate(writers)]

    @property
    def shares_tensors(self) -> bool:
        """Whether groups share the tensor that their lr follows."""
        return self._writers is not None and self._writers != [*range(self.n_groups)]

    def as_written(self, lrs: list[float]) -> list[float]:
        """What groups that share a tensor have, once all of them have written their lr to it."""
        written = self.program.offsets.get(WRITTEN)
        if self._writers is None or written is None or self.memory.read(written) == 0.0:
            return lrs
        return [lrs[i] for i in self._writers]

    def write(self, symbol: str, value: float) -> None:
        """Set a scalar register."""
        self.memory.write(self.program.offsets[symbol], value)

    def write_row(self, symbol: str, values: Sequence[float], row: int = 0) -> None:
        """Set a group register, or a row of a table."""
        self.memory.write_range(self.program.offsets[symbol] + row * len(values), values)

    def take_constants(self, program: Program) -> bool:
        """Write the constants and tables of ``program`` in place; False if its structure is another."""
        if program.n_groups != self.n_groups or program.structure != self.program.structure:
            return False
        if program.layout != self.program.layout:
            return False
        for symbol, slot in program.memory.items():
            if slot.kind != "register" and repr(slot) != repr(self.program.memory[symbol]):  # 0.0 is not -0.0
                self.memory.write_range(self.program.offsets[symbol], slot.initial)
        self.program = program
        return True
