"""A schedule at work: one program, its memory on the device, and the optimizer it drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..memory.control_block import ControlBlock
from ..memory.hosted_array import HostedArray
from .builder import TRAP
from .program import Program

if TYPE_CHECKING:
    from ..backends import Backend


class Schedule:
    """Runs a program on a device.

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
        self.program = program
        self.n_groups = program.n_groups
        self.block = block
        self.rows = self._checked(rows)
        self.backend = backend
        self.guarded = guarded
        self.code = program.encode()
        self.memory = HostedArray(
            program.initial_memory(self.rows), block.device, platform=block.platform, mirrors=block.mirrors
        )
        self.host_advance = program.compile_host()
        # (code, uniform operations, memory, lanes, where their rows are, guarded), as csrc/schedule.h takes it
        self.launch_arguments = (
            *(self.code, program.n_uniform, self.memory.tensor),
            *(program.n_groups, program.rows_offset, int(guarded)),
        )
        self.before_advance: Any = None  # called by the optimizer before it advances the schedule
        self.pending = False  # the optimizer advanced it since the scheduler's last step()
        self.withheld = False  # the optimizer made what looked like a trial step, and did not advance it
        self.has_advanced = False
        self._trap = program.offsets.get(TRAP)
        backend.check_program(self)

    def drive(self, rows: Sequence[int]) -> None:
        """Drive these rows of the control block from now on, instead of :attr:`rows`; nothing else changes.

        Raises:
            ValueError: they are not as many, or one occurs twice.
            IndexError: the control block does not have such a row.
            RuntimeError: inside a CUDA graph capture, as every replay would set them again.
        """
        rows = self._checked(rows)
        if rows != self.rows:
            self.memory.write_range(self.program.rows_offset, [float(row) for row in rows])
            self.rows = rows

    def _checked(self, rows: Sequence[int]) -> tuple[int, ...]:
        self.program.check_rows(rows)
        end = self.block.row_capacity
        if beyond := [row for row in rows if row >= end]:
            raise IndexError(f"rows {beyond} are driven, but the control block has rows 0 to {end - 1}: add them first")
        return tuple(map(int, rows))

    def advance(self) -> None:
        """One step of the schedule, as its own launch; the caller has run :attr:`before_advance`."""
        self.backend.advance(self)
        self.follow()

    def retire(self) -> None:
        """Another schedule takes the place of this one, whose last advance may be running still."""
        self.backend.retire(self)

    def follow(self) -> None:
        """Keep the host's mirror in step after the device advanced."""
        if self.block.remote:
            self._run_mirror()
        if not self.has_advanced:
            self.has_advanced = not self.trapped

    def _run_mirror(self) -> None:
        if self.guarded or self.block.stale or self.block.volatile or self.memory.stale or self.memory.volatile:
            self.block.expire()
        else:
            self.host_advance(self.memory.host, self.block.host)

    @property
    def trapped(self) -> bool:
        """Whether the host knows that an advance did nothing, waiting for Python to raise."""
        if self._trap is None:
            return False
        if self.memory.stale or self.memory.volatile:
            return self.program.trap_awaited and not self.block.capturing() and self.read_trap()
        return self.memory.host[self._trap] != 0.0

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
            if slot.kind != "register" and slot != self.program.memory[symbol]:
                self.memory.write_range(self.program.offsets[symbol], slot.initial)
        self.program = program
        return True
