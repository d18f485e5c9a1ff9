"""Writing a program: values with Python's operators, and the builder that collects their operations."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from ..memory.control_block import FIELDS
from .operations import ARITHMETIC, OPERATIONS
from .program import MAX_OPERATIONS, Operation, Program, Slot


class Value:
    """A float64 value inside a program under construction; Python's operators append operations.

    Comparisons give 1.0 or 0.0. ``&``, ``|`` and ``~`` are the logical and, or, not of such values.
    """

    __slots__ = ("_builder", "index", "uniform")
    __hash__ = object.__hash__

    def __init__(self, builder: weakref.ref[Builder], index: int, uniform: bool) -> None:
        self._builder, self.index, self.uniform = builder, index, uniform

    @property
    def builder(self) -> Builder:
        """Of the program that it is a value of."""
        builder = self._builder()
        if builder is None:
            raise ReferenceError("a program value was used after its builder was gone: keep the builder")
        return builder

    def __bool__(self) -> bool:
        raise TypeError(
            "a program value has no truth value while the program is built: use where(condition, a, b) instead of if"
        )

    def __add__(self, other: Operand) -> Value:
        return self.builder.op("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.builder.op("add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.builder.op("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.builder.op("sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.builder.op("mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.builder.op("mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.builder.op("div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.builder.op("div", other, self)

    def __pow__(self, other: Operand) -> Value:
        return self.builder.op("pow", self, other)

    def __rpow__(self, other: Operand) -> Value:
        return self.builder.op("pow", other, self)

    def __mod__(self, other: Operand) -> Value:
        return self.builder.op("mod", self, other)

    def __floordiv__(self, other: Operand) -> Value:
        return self.builder.op("floordiv", self, other)

    def __neg__(self) -> Value:
        return self.builder.op("neg", self)

    def __abs__(self) -> Value:
        return self.builder.op("abs", self)

    def __lt__(self, other: Operand) -> Value:
        return self.builder.op("lt", self, other)

    def __le__(self, other: Operand) -> Value:
        return self.builder.op("le", self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.builder.op("lt", other, self)

    def __ge__(self, other: Operand) -> Value:
        return self.builder.op("le", other, self)

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return self.builder.op("eq", self, other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return self.builder.op("ne", self, other)  # type: ignore[arg-type]

    def __and__(self, other: Operand) -> Value:
        return self.builder.op("and", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.builder.op("or", self, other)

    def __invert__(self) -> Value:
        return self.builder.op("not", self)


Operand = Value | float | int

_STORE_OF = {"load": "store", "load_group": "store_group", "field": "store_field", "bound_field": "store_bound"}
TRAP = "trap"  # register: 1 after an advance that did nothing because of Builder.trap
WRITTEN = "written"  # register: 1 once an advance has written fields that follow a tensor


class Builder:
    """Collects the operations of one program.

    Programs nest: inside ``with b.scope("0.")`` every name of a register, constant or table gets that
    prefix, and inside ``with b.when(condition)`` writes take effect only where the condition holds.

    Args:
        n_groups: number of param groups of the optimizer; lists given to :meth:`const` and
            :meth:`group_register` must have this length.
        bound: fields that follow a tensor, in some group at least.
    """

    def __init__(self, n_groups: int, bound: Collection[str] = ()) -> None:
        self.n_groups = n_groups
        self._bound = bound
        self._weakly = weakref.ref(self)  # as the values have it, which it has
        self._operations: list[Operation] = []
        self._uniform: list[bool] = []
        self._known: dict[Operation, Value] = {}
        self._memory: dict[str, Slot] = {}
        self._current: dict[tuple[str, str], Value] = {}
        self._names: dict[str, int] = {}
        self._prefix = ""
        self._condition: Value | None = None
        self._trapped: Value | None = None
        self._trap_awaited = self._trap_lasts = False

    @contextmanager
    def scope(self, prefix: str) -> Iterator[None]:
        """Names declared and used inside get ``prefix``."""
        outer, self._prefix = self._prefix, self._prefix + prefix
        try:
            yield
        finally:
            self._prefix = outer

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Writes and traps inside take effect only where ``condition`` holds."""
        outer = self._condition
        self._condition = condition if outer is None else outer & condition
        try:
            yield
        finally:
            self._condition = outer

    def trap(self, condition: Value, *, awaited: bool = False, lasts: bool = False) -> None:
        """Where ``condition`` holds, the whole advance does nothing but set the register :data:`TRAP` to 1.

        For what a device cannot do: raise. The host clears the register and raises when it next looks.

        Args:
            condition: see above.
            awaited: the host looks after every advance, waiting for the device where it has to.
            lasts: all further advances do nothing either, until the host has looked.

        Raises:
            ValueError: the condition differs between param groups.
        """
        if self._condition is not None:
            condition = self._condition & condition
        if not condition.uniform:
            raise ValueError("a trap stops all param groups together, but its condition differs between them")
        self._trapped = condition if self._trapped is None else self._trapped | condition
        self._trap_awaited = self._trap_awaited or awaited
        self._trap_lasts = self._trap_lasts or lasts

    def register(self, name: str, initial: float) -> Value:
        """A scalar that lasts from one advance to the next; the value as of the last :meth:`set_register`."""
        name = self._prefix + name
        self._declare(name, "register", [float(initial)], group=False)
        return self._read("load", name, uniform=True)

    def group_register(self, name: str, initial: Sequence[float]) -> Value:
        """One lasting value for each param group."""
        name = self._prefix + name
        self._declare(name, "register", self._per_group(name, initial), group=True)
        return self._read("load_group", name, uniform=False)

    def const(self, name: str, value: float | Sequence[float]) -> Value:
        """A named constant: a number, or a list with one number for each param group."""
        return self._const(self._prefix + name, value)

    def _const(self, name: str, value: float | Sequence[float]) -> Value:
        if value is None or isinstance(value, (str, bytes)):
            raise TypeError(f"{name}={value!r} must be a number: give an int or a float")
        if isinstance(value, (list, tuple)):
            self._declare(name, "constant", self._per_group(name, value), group=True)
            return self._read("load_group", name, uniform=False)
        self._declare(name, "constant", [float(value)], group=False)  # type: ignore[arg-type]
        return self._read("load", name, uniform=True)

    def number(self, value: float) -> Value:
        """An unnamed constant."""
        return self._coerce(value)

    def field(self, name: str) -> Value:
        """The current value of a control-block field (``lr``, ``momentum``, ...) of each group."""
        if name not in FIELDS:
            raise ValueError(f"field={name!r} is not a control-block field; known are {', '.join(FIELDS)}")
        return self._read(self._field_kind(name), name, uniform=False)

    def _field_kind(self, name: str) -> str:
        return "bound_field" if name in self._bound else "field"

    def table(self, name: str, rows: Sequence[float], width: int = 1) -> None:
        """Declare a table: ``len(rows) / width`` rows of ``width`` 1 (one value) or ``n_groups`` (one a group)."""
        if width not in (1, self.n_groups):
            raise ValueError(f"{width=} of table {name!r} must be 1 or the number of param groups ({self.n_groups})")
        self._declare(self._prefix + name, "table", [float(x) for x in rows], group=False, width=width)

    def lookup(self, table: str, row: Operand) -> Value:
        """``table[row]``; a row outside the table reads the nearest one."""
        index = self._coerce(row)
        table = self._prefix + table
        uniform = index.uniform and self._memory[table].width == 1
        return self._append(Operation("lookup", (index.index,), table), uniform)

    def count_below(self, table: str, rows: int, value: Operand) -> Value:
        """How many of a sorted one-column table's ``rows`` entries are less than ``value`` (``bisect_left``)."""
        below: Value = self._coerce(0.0)
        span = 1 << max(0, rows.bit_length() - 1)
        while span and rows:
            probe = below + span
            inside = (probe <= rows) & (self.lookup(table, probe - 1) < value)
            below = self.where(inside, probe, below)
            span //= 2
        return below

    def set_register(self, name: str, value: Operand) -> None:
        """The value of a scalar or group register from the next advance on."""
        name = self._prefix + name
        slot = self._memory[name]
        kind = "load_group" if slot.group else "load"
        new = self._gated(kind, name, value, uniform=not slot.group)
        if not slot.group and not new.uniform:
            raise ValueError(f"register {name!r} holds one number, but the value differs between param groups")
        self._current[kind, name] = new

    def set_field(self, name: str, value: Operand) -> None:
        """Write a control-block field of every group."""
        if name not in FIELDS:
            raise ValueError(f"field={name!r} is not a control-block field; known are {', '.join(FIELDS)}")
        kind = self._field_kind(name)
        self._current[kind, name] = self._gated(kind, name, value, uniform=False)

    def _gated(self, kind: str, name: str, value: Operand, *, uniform: bool) -> Value:
        new = self._coerce(value)
        if self._condition is None:
            return new
        return self.where(self._condition, new, self._read(kind, name, uniform=uniform))

    def op(self, name: str, *operands: Operand, library: str | None = None) -> Value:
        """Append arithmetic operation ``name``; Python numbers become constants.

        Args:
            library: whose rounding the host's evaluation has, for example :data:`operations.NUMPY`; default Python's.

        Raises:
            ValueError: there is no such operation, or it takes another number of operands.
        """
        if name not in ARITHMETIC:
            raise ValueError(f"operation {name!r} is unknown; known are {', '.join(ARITHMETIC)}")
        if len(operands) != OPERATIONS[name].operands:
            raise ValueError(f"operation {name!r} takes {OPERATIONS[name].operands} operand(s), got {len(operands)}")
        values = [self._coerce(x) for x in operands]
        return self._append(Operation(name, tuple(v.index for v in values), library), all(v.uniform for v in values))

    def free_name(self, stem: str) -> str:
        """A name for a constant or table that is not taken; the same one again in a program of the same form."""
        self._names[stem] = self._names.get(stem, -1) + 1
        return f"{stem}{self._names[stem]}"

    def where(self, condition: Operand, a: Operand, b: Operand) -> Value:
        """``a`` where ``condition`` is not 0, else ``b``; both are computed."""
        return self.op("where", condition, a, b)

    def finish(self, name: str) -> Program:
        """The program: uniform operations first, then those of each group, then the writes."""
        writes: list[tuple[Operation, bool]] = []
        if any(kind == "bound_field" for kind, _ in self._current):
            self._declare(WRITTEN, "register", [0.0], group=False)
            self._read("load", WRITTEN, uniform=True)
            self._current["load", WRITTEN] = self._coerce(1.0)
        if self._trapped is not None:
            self._hold_where_trapped()
        for (kind, symbol), value in self._current.items():
            store = _STORE_OF[kind]
            if self._operations[value.index] != Operation(kind, (), symbol):
                writes.append((Operation(store, (value.index,), symbol), store == "store"))
        writes.sort(key=lambda write: write[0].name == "store_bound")  # last: kernels look there for whether any is
        lines = [*zip(self._operations, self._uniform, strict=True), *writes]
        if len(lines) > MAX_OPERATIONS:
            raise ValueError(f"program {name!r} has {len(lines)} operations; at most {MAX_OPERATIONS} are supported")
        order = [i for i, line in enumerate(lines) if line[1]] + [i for i, line in enumerate(lines) if not line[1]]
        position = {old: new for new, old in enumerate(order)}
        ordered = [lines[i][0] for i in order]
        operations = tuple(Operation(op.name, tuple(position[i] for i in op.operands), op.symbol) for op in ordered)
        n_uniform = sum(uniform for _, uniform in lines)
        return Program(name, operations, n_uniform, self.n_groups, dict(self._memory), self._trap_awaited)

    def _hold_where_trapped(self) -> None:
        trapped = self._trapped
        assert trapped is not None
        self._declare(TRAP, "register", [0.0], group=False)
        if self._trap_lasts:
            trapped = self._read("load", TRAP, uniform=True) | trapped
        for (kind, symbol), value in list(self._current.items()):
            before = self._append(Operation(kind, (), symbol), kind == "load")
            if value is not before:
                self._current[kind, symbol] = self.where(trapped, before, value)
        self._current["load", TRAP] = self.op("max", self._read("load", TRAP, uniform=True), trapped)

    def _read(self, kind: str, symbol: str, *, uniform: bool) -> Value:
        current = self._current.get((kind, symbol))
        if current is None:
            current = self._current[kind, symbol] = self._append(Operation(kind, (), symbol), uniform)
        return current

    def _append(self, operation: Operation, uniform: bool) -> Value:
        value = self._known.get(operation)
        if value is None:
            value = self._known[operation] = Value(self._weakly, len(self._operations), uniform)
            self._operations.append(operation)
            self._uniform.append(uniform)
        return value

    def _coerce(self, x: Operand) -> Value:
        if isinstance(x, Value):
            if x._builder is not self._weakly:
                raise ValueError("a value of another program was used: values belong to the builder that made them")
            return x
        return self._const(f"{float(x)!r}", float(x))

    def _declare(self, name: str, kind: str, initial: list[float], *, group: bool, width: int = 1) -> None:
        slot = Slot(kind, tuple(initial), group, width)
        known = self._memory.setdefault(name, slot)
        if known != slot:
            raise ValueError(f"{name!r} is declared twice in one program, as {known} and as {slot}")

    def _per_group(self, name: str, values: Sequence[float]) -> list[float]:
        if len(values) != self.n_groups:
            raise ValueError(f"{name!r} has {len(values)} values for {self.n_groups} param groups; give one a group")
        return [float(v) for v in values]
