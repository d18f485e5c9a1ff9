"""The program: a schedule as straight-line float64 arithmetic, and its evaluation on the host.

A :class:`Program` is a tuple of operations in static single assignment form. Running it once is one
*advance*: it reads registers (state of the schedule that lasts, such as ``last_epoch``), constants and
the fields of the control block, and writes the next registers and fields. All groups of the program advance
at once; an operation that depends on no group is computed once (*uniform*), the rest once a group, in a *lane*.
Which row of the control block a lane drives stands in the memory of the schedule.

Constants are data and operations are structure: a new value of ``gamma`` is written into the memory of
the schedule and changes no code.

Three evaluators share these semantics: :meth:`Program.compile_host` (Python floats), ``csrc/program.h``
(CPU and CUDA) and the Triton source generator. All are IEEE float64 without contraction. Where
Python raises (``1/0``, an overflowing power), a program gives the IEEE value instead: a kernel cannot raise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field

import torch

from ..memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET

# Name -> number of value operands. The position is the op code, shared with csrc/program.h.
OPERATIONS: dict[str, int] = {
    "load": 0,  # memory[offset]: a register or a constant
    "load_group": 0,  # memory[offset + lane]
    "field": 0,  # control block, field of the row that the lane drives
    "lookup": 1,  # memory[offset + row * width + (lane if width > 1)]
    "store": 1,
    "store_group": 1,
    "store_field": 1,
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,
    "pow": 2,
    "mod": 2,  # Python's %: the sign of the divisor
    "floordiv": 2,  # Python's //
    "min": 2,  # Python's min(a, b): a unless b < a
    "max": 2,
    "lt": 2,
    "le": 2,
    "eq": 2,
    "ne": 2,
    "and": 2,
    "or": 2,
    "not": 1,
    "neg": 1,
    "abs": 1,
    "sqrt": 1,
    "exp": 1,
    "expm1": 1,
    "log": 1,
    "log2": 1,
    "log10": 1,
    "log1p": 1,
    "cos": 1,
    "sin": 1,
    "tan": 1,
    "atan": 1,
    "tanh": 1,
    "floor": 1,
    "ceil": 1,
    "trunc": 1,
    "round": 1,  # half to even
    "where": 3,  # where(condition, a, b); a condition is true when it is not 0
    "bound_field": 0,  # a field that follows a tensor: see memory/bindings.py
    "store_bound": 1,  # ... and into the tensor
}
OP_CODES: dict[str, int] = {name: code for code, name in enumerate(OPERATIONS)}
MAX_OPERATIONS = 4096  # csrc/program.h keeps the values of one advance on the stack
CODE_WIDTH = 5  # int32 words of one encoded operation: code, a, b, c, width

_STORES = ("store", "store_group", "store_field", "store_bound")
_FIELD_STORES = ("store_field", "store_bound")
FIELD_OPERATIONS = ("field", "bound_field", *_FIELD_STORES)  # their symbol is a field of the control block
NUMPY = "numpy"
_LOADS = ("load", "load_group", "field", "bound_field")
ARITHMETIC = tuple(name for name in OPERATIONS if name not in ("lookup", *_LOADS, *_STORES))

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
            if op.name in _STORES:
                lines.append(f"{indent}{op.name.removeprefix('store_')} {op.symbol} <- %{op.operands[0]}")
            else:
                lines.append(f"{indent}%{i} = {op}")
        return "\n".join(lines)

    @property
    def fields_written(self) -> frozenset[str]:
        """Names of the control-block fields that an advance writes."""
        return frozenset(op.symbol for op in self.operations if op.name in _FIELD_STORES and op.symbol is not None)

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
        namespace: dict[str, object] = dict(_HOST_FUNCTIONS)
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
            template = _HOST_EXPRESSIONS[op.name] if op.symbol != NUMPY else _numpy_call(op.name)
            return f"v{i} = " + template.format(*a)
        if op.name in FIELD_OPERATIONS:  # a mirror does not run where a field follows a tensor
            assert op.symbol is not None
            place = f"control[row + {FIELDS[op.symbol]}]"
        else:
            assert op.symbol is not None
            column = " + lane" if op.name in ("load_group", "store_group") else ""
            place = f"memory[{self.offsets[op.symbol]}{column}]"
        if op.name in _STORES:
            return f"{place} = {a[0]}"
        if op.name in _LOADS:
            return f"v{i} = {place}"
        assert op.symbol is not None
        slot = self.memory[op.symbol]
        last = len(slot.initial) // slot.width - 1
        column = " + lane" if slot.width > 1 else ""
        return f"v{i} = memory[{self.offsets[op.symbol]} + table_row({a[0]}, {last}) * {slot.width}{column}]"


@functools.cache
def host_function(name: str, library: str | None = None) -> Callable[..., float]:
    """Arithmetic operation ``name`` as the host computes it; ``library`` as :attr:`Operation.symbol`."""
    if library == NUMPY:
        import numpy  # an extra of the tests and of users' functions, not a requirement

        function = getattr(numpy, {"pow": "power", "atan": "arctan"}.get(name, name))

        def rounded_by_numpy(*operands: float) -> float:
            with numpy.errstate(all="ignore"):
                return float(function(*operands))

        return rounded_by_numpy
    names = "abc"[: OPERATIONS[name]]
    source = f"lambda {', '.join(names)}: {_HOST_EXPRESSIONS[name].format(*names)}"
    return eval(source, dict(_HOST_FUNCTIONS))  # type: ignore[no-any-return]  # noqa: S307 - from the table below


def _numpy_call(name: str) -> str:
    return f"numpy_{name}({', '.join(f'{{{k}}}' for k in range(OPERATIONS[name]))})"


_HOST_EXPRESSIONS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "_div({0}, {1})",
    "pow": "_pow({0}, {1})",
    "mod": "_mod({0}, {1})",
    "floordiv": "_floordiv({0}, {1})",
    "min": "({1} if {1} < {0} else {0})",
    "max": "({1} if {1} > {0} else {0})",
    "lt": "(1.0 if {0} < {1} else 0.0)",
    "le": "(1.0 if {0} <= {1} else 0.0)",
    "eq": "(1.0 if {0} == {1} else 0.0)",
    "ne": "(1.0 if {0} != {1} else 0.0)",
    "and": "(1.0 if {0} != 0.0 and {1} != 0.0 else 0.0)",
    "or": "(1.0 if {0} != 0.0 or {1} != 0.0 else 0.0)",
    "not": "(1.0 if {0} == 0.0 else 0.0)",
    "neg": "-{0}",
    "abs": "abs({0})",
    "sqrt": "_sqrt({0})",
    "exp": "_exp({0})",
    "expm1": "_expm1({0})",
    "log": "_log({0})",
    "log2": "_log2({0})",
    "log10": "_log10({0})",
    "log1p": "_log1p({0})",
    "cos": "_cos({0})",
    "sin": "_sin({0})",
    "tan": "_tan({0})",
    "atan": "math.atan({0})",
    "tanh": "math.tanh({0})",
    "floor": "_whole(math.floor, {0})",
    "ceil": "_whole(math.ceil, {0})",
    "trunc": "_whole(math.trunc, {0})",
    "round": "_whole(round, {0})",
    "where": "({1} if {0} != 0.0 else {2})",
}


def _div(a: float, b: float) -> float:
    if b != 0.0:
        return a / b
    if a == 0.0 or a != a or b != b:
        return math.nan
    return math.copysign(math.inf, math.copysign(1.0, a) * math.copysign(1.0, b))


def _pow(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0.0 and b % 2.0 == 1.0 else math.inf
    except ValueError:
        # pow(0, negative) is an infinity; a negative base with a fraction has no real power.
        if a == 0.0:
            return math.copysign(math.inf, a) if b % 2.0 == 1.0 else math.inf
        return math.nan


def _mod(a: float, b: float) -> float:
    return a % b if b != 0.0 and math.isfinite(a) else math.nan


def _floordiv(a: float, b: float) -> float:
    if b == 0.0:
        return math.nan if a == 0.0 or a != a else _div(a, b)
    return a // b if math.isfinite(a) else math.nan


def _sqrt(a: float) -> float:
    return math.sqrt(a) if a >= 0.0 else math.nan


def _exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def _expm1(a: float) -> float:
    try:
        return math.expm1(a)
    except OverflowError:
        return math.inf


def _log(a: float) -> float:
    if a > 0.0:
        return math.log(a)
    return -math.inf if a == 0.0 else math.nan


def _log2(a: float) -> float:
    return math.log2(a) if a > 0.0 else _log(a)


def _log10(a: float) -> float:
    return math.log10(a) if a > 0.0 else _log(a)


def _log1p(a: float) -> float:
    return math.log1p(a) if a > -1.0 else _log(a + 1.0)


def _cos(a: float) -> float:
    return math.cos(a) if math.isfinite(a) else math.nan


def _sin(a: float) -> float:
    return math.sin(a) if math.isfinite(a) else math.nan


def _tan(a: float) -> float:
    return math.tan(a) if math.isfinite(a) else math.nan


def _whole(function: Callable[[float], int], a: float) -> float:
    # copysign keeps the sign of zero, as the C functions do
    return math.copysign(float(function(a)), a) if math.isfinite(a) else a


def table_row(x: float, last: int) -> int:
    """The row that a lookup reads: the nearest that there is; of a NaN the first, as the clamped conversion in C."""
    return int(min(max(x, 0.0), float(last))) if x == x else 0


_HOST_FUNCTIONS: dict[str, object] = {
    "math": math,
    "_div": _div,
    "_pow": _pow,
    "_mod": _mod,
    "_floordiv": _floordiv,
    "_sqrt": _sqrt,
    "_exp": _exp,
    "_expm1": _expm1,
    "_log": _log,
    "_log2": _log2,
    "_log10": _log10,
    "_log1p": _log1p,
    "_cos": _cos,
    "_sin": _sin,
    "_tan": _tan,
    "_whole": _whole,
    "table_row": table_row,
}
