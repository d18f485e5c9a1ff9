"""The program: a schedule as straight-line float64 arithmetic, and its evaluation on the host.

A :class:`Program` is a tuple of operations in static single assignment form. Running it once is one
*advance*: it reads registers (state of the schedule that lasts, such as ``last_epoch``), constants and
the fields of the control block, and writes the next registers and fields. All groups of the program advance
at once; an operation that depends on no group is computed once (*uniform*), the rest once a group, in a *lane*.
Which row of the control block a lane drives stands in the memory of the schedule.

Constants are data and operations are structure: a new value of ``gamma`` is written into the memory of
the schedule and changes no code.

Three evaluators share these semantics: :meth:`Program.compile_host` (Python floats), ``csrc/program.h``
(CPU and CUDA) and the Triton source generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field

import torch

from ..memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET
from .operations import (
    ARITHMETIC,
    FIELD_OPERATIONS,
    FIELD_STORES,
    HOST_FUNCTIONS,
    LOADS,
    NUMPY,
    OP_CODES,
    OPERATIONS,
    STORES,
    host_function,
)

MAX_OPERATIONS = 4096  # csrc/program.h keeps the values of one advance on the stack
CODE_WIDTH = 5  # int32 words of one encoded operation: code, a, b, c, width

LAST_EPOCH = "last_epoch"
STEP_COUNT = "_step_count"


@dataclass(frozen=True)
class Operation:
    """One line of a program: ``value[i] = name(value[operands...])``.

    ``symbol`` names what a load or store touches. Of an arithmetic operation it may be ``"numpy"``: the host
    then computes as numpy rounds it, which is not always the C library's last place.
    """

    name: str
    operands: tuple[int, ...] = ()
    symbol: str | None = None

    def __str__(self) -> str:
        words = [self.name]
        if self.symbol is not None:
            words.append(self.symbol)
        words += [f"%{i}" for i in self.operands]
        return " ".join(words)


@dataclass(frozen=True)
class Slot:
    """A named part of a schedule's memory: kind is register, constant or table."""

    kind: str
    initial: tuple[float, ...]
    group: bool
    width: int = 1


@dataclass(frozen=True)
class Program:
    """A schedule: ``operations`` (the first ``n_uniform`` depend on no group) and the memory they use.

    ``trap_awaited``: see :meth:`Builder.trap`. ``offsets`` says where each part of the memory begins, ``rows_offset``
    where the rows begin that the lanes drive.
    """

    name: str
    operations: tuple[Operation, ...]
    n_uniform: int
    n_groups: int
    memory: Mapping[str, Slot]
    trap_awaited: bool = False
    offsets: Mapping[str, int] = field(init=False)
    rows_offset: int = field(init=False)

    def __post_init__(self) -> None:
        offsets, end = {}, 0
        for kind in ("register", "constant", "table"):  # registers first: resuming rewrites one contiguous part
            for symbol, slot in self.memory.items():
                if slot.kind == kind:
                    offsets[symbol] = end
                    end += len(slot.initial)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "rows_offset", end)

    def __str__(self) -> str:
        head = f"program {self.name}: {len(self.operations)} operations, {self.n_groups} param group(s)"
        lines = [head]
        for symbol, slot in self.memory.items():
            shown = ", ".join(f"{x:g}" for x in slot.initial[:4]) + (", ..." if len(slot.initial) > 4 else "")
            lines.append(f"  {slot.kind} {symbol}{' (one a group)' if slot.group else ''} = {shown}")
        for i, op in enumerate(self.operations):
            if i == self.n_uniform:
                lines.append("  for each group:")
            indent = "    " if i >= self.n_uniform else "  "
            if op.name in STORES:
                lines.append(f"{indent}{op.name.removeprefix('store_')} {op.symbol} <- %{op.operands[0]}")
            else:
                lines.append(f"{indent}%{i} = {op}")
        return "\n".join(lines)

    @property
    def fields_written(self) -> frozenset[str]:
        """Names of the control-block fields that an advance writes."""
        return frozenset(op.symbol for op in self.operations if op.name in FIELD_STORES and op.symbol is not None)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the control-block fields that an advance reads or writes."""
        return frozenset(op.symbol for op in self.operations if op.name in FIELD_OPERATIONS and op.symbol is not None)

    @property
    def fields_bound(self) -> frozenset[str]:
        """Those of :attr:`fields` that may follow a tensor."""
        bound = ("bound_field", "store_bound")
        return frozenset(op.symbol for op in self.operations if op.name in bound and op.symbol is not None)

    @property
    def structure(self) -> tuple[Operation, ...]:
        """What has to be compiled: equal for programs that differ in values only."""
        return self.operations

    @property
    def layout(self) -> tuple[tuple[str, int, int], ...]:
        """Symbol, length and width of each part of the memory, in order."""
        return tuple((symbol, len(self.memory[symbol].initial), self.memory[symbol].width) for symbol in self.offsets)

    def initial_memory(self, rows: Sequence[int]) -> torch.Tensor:
        """Float64 CPU tensor: registers, then constants, then tables, at :attr:`offsets`; then the rows.

        Args:
            rows: see :meth:`check_rows`.
        """
        self.check_rows(rows)
        values: list[float] = []
        for symbol in self.offsets:
            values += self.memory[symbol].initial
        values += map(float, rows)
        return torch.tensor(values or [0.0], dtype=torch.float64, device="cpu")

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse what is not one row of a control block for each lane, each another one.

        Raises:
            ValueError: see above.
        """
        if len(rows) != self.n_groups:
            raise ValueError(f"{len(rows)} rows for a program of {self.n_groups} param group(s): give one a group")
        if any(row != int(row) or row < 0 for row in rows):
            raise ValueError(f"rows={list(rows)} must be whole numbers from 0 on: give rows of the control block")
        if len(set(rows)) != len(rows):
            raise ValueError(f"rows={list(rows)} has a row twice: one program drives a row in one lane")

    def encode(self) -> torch.Tensor:
        """Int32 CPU tensor of shape ``(operations, 5)``: op code, three operands, table width.

        Arithmetic has its operands' positions in words 1 to 3. A load or store has the offset into the
        schedule's memory (or the field number) in word 1 and the position of the value to store in
        word 2; a lookup has offset, position of the row, number of rows, width.
        """
        rows = []
        for op in self.operations:
            words = [OP_CODES[op.name], *op.operands, 0, 0, 0]
            if op.symbol is not None and op.name not in ARITHMETIC:
                where = FIELDS[op.symbol] if op.name in FIELD_OPERATIONS else self.offsets[op.symbol]
                value = op.operands[0] if op.operands else 0
                words = [OP_CODES[op.name], where, value, 0, 0]
                if op.name == "lookup":
                    slot = self.memory[op.symbol]
                    words[3:] = [len(slot.initial) // slot.width, slot.width]
            rows.append(words[:CODE_WIDTH])
        return torch.tensor(rows, dtype=torch.int32, device="cpu").reshape(-1, CODE_WIDTH)

    def compile_host(self) -> Callable[[MutableSequence[float], MutableSequence[float]], None]:
        """``advance(memory, control)`` in Python float64, on flat sequences laid out as on the device."""
        lines = ["def advance(memory, control):"]
        lines += [f"    {line}" for line in map(self._host_line, *self._numbered(0, self.n_uniform))]
        grouped = [f"        {line}" for line in map(self._host_line, *self._numbered(self.n_uniform, None))]
        if grouped:
            lines.append(f"    for lane in range({self.n_groups}):")
            lines.append(f"        row = {GROUPS_OFFSET} + int(memory[{self.rows_offset} + lane]) * {GROUP_STRIDE}")
            lines += grouped
        namespace: dict[str, object] = dict(HOST_FUNCTIONS)
        for op in self.operations:
            if op.symbol == NUMPY and op.name in ARITHMETIC:
                namespace[f"numpy_{op.name}"] = host_function(op.name, NUMPY)
        if len(lines) == 1:
            lines.append("    pass")
        exec(compile("\n".join(lines), f"<program {self.name}>", "exec"), namespace)  # noqa: S102
        return namespace.pop("advance")  # type: ignore[return-value]  # which has the namespace

    def _numbered(self, start: int, stop: int | None) -> tuple[list[int], list[Operation]]:
        part = self.operations[start:stop]
        return list(range(start, start + len(part))), list(part)

    def _host_line(self, i: int, op: Operation) -> str:
        a = [f"v{k}" for k in op.operands]
        if op.name in ARITHMETIC:
            template = OPERATIONS[op.name].host if op.symbol != NUMPY else _numpy_call(op.name)
            return f"v{i} = " + template.format(*a)
        if op.name in FIELD_OPERATIONS:  # a mirror does not run where a field follows a tensor
            assert op.symbol is not None
            place = f"control[row + {FIELDS[op.symbol]}]"
        else:
            assert op.symbol is not None
            column = " + lane" if op.name in ("load_group", "store_group") else ""
            place = f"memory[{self.offsets[op.symbol]}{column}]"
        if op.name in STORES:
            return f"{place} = {a[0]}"
        if op.name in LOADS:
            return f"v{i} = {place}"
        assert op.symbol is not None
        slot = self.memory[op.symbol]
        last = len(slot.initial) // slot.width - 1
        column = " + lane" if slot.width > 1 else ""
        return f"v{i} = memory[{self.offsets[op.symbol]} + table_row({a[0]}, {last}) * {slot.width}{column}]"


def _numpy_call(name: str) -> str:
    return f"numpy_{name}({', '.join(f'{{{k}}}' for k in range(OPERATIONS[name].operands))})"
