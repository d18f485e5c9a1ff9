"""From the graph to a program: the lines of a traced function, emitted for all param groups or with numbers of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..program.builder import Builder, Value
from .operations import TABLE, Node, in_order
from .paths import Untraceable

MOST_OPERATIONS = 2000


@dataclass(frozen=True, eq=False)
class Form:
    """Lines ``(operation, value, places)`` that refer to each other by place; constants and tables stand apart.

    Forms of equal :attr:`signature` differ in numbers only. ``results`` and ``trap`` are places; ``trap`` is None for a
    function that never raises.
    """

    lines: tuple[tuple[str, Any, tuple[int, ...]], ...]
    results: tuple[int, ...]
    trap: int | None
    constants: tuple[float, ...]
    tables: tuple[tuple[float, ...], ...]

    def __str__(self) -> str:
        shown = []
        for k, (op, value, places) in enumerate(self.lines):
            words = [op, *([] if value is None else [str(value)]), *(f"%{p}" for p in places)]
            shown.append(f"%{k} = {' '.join(words)}" + (f" ({self.constants[value]!r})" if op == "const" else ""))
        ends = "" if self.trap is None else f", raises where %{self.trap}"
        return "\n".join([*shown, f"returns {', '.join(f'%{p}' for p in self.results)}{ends}"])

    @property
    def signature(self) -> tuple[Any, ...]:
        return self.lines, self.results, self.trap, tuple(map(len, self.tables))

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for forms that are the same to the bit."""
        return self.signature, repr(self.constants), repr(self.tables)

    @property
    def inexact(self) -> list[str]:
        """Operations whose last place is not the same for every evaluator."""
        return sorted({op for op, _, _ in self.lines if op in TABLE and TABLE[op].units})


def make_form(values: Sequence[Node], trap: Node, rename: Callable[[str], str] = str) -> Form:
    """The lines that ``values`` and ``trap`` need; ``rename`` gives the name of an input in them.

    Raises:
        Untraceable: the program would be too long.
    """
    never = trap.is_const and not trap.value
    nodes = in_order([*values] if never else [*values, trap])
    if len(nodes) > MOST_OPERATIONS:
        raise Untraceable(f"its program would have more than {MOST_OPERATIONS} operations")
    place = {node: k for k, node in enumerate(nodes)}
    lines: list[tuple[str, Any, tuple[int, ...]]] = []
    constants: list[float] = []
    tables: list[tuple[float, ...]] = []
    for node in nodes:
        value = rename(node.value) if node.op == "input" else node.value
        if node.is_const or isinstance(value, tuple):
            kept: list[Any] = constants if node.is_const else tables
            kept.append(value)
            value = len(kept) - 1
        lines.append((node.op, value, tuple(place[a] for a in node.args)))
    results = tuple(place[v] for v in values)
    return Form(tuple(lines), results, None if never else place[trap], tuple(constants), tuple(tables))


def emit_form(
    b: Builder, forms: Sequence[Form], inputs: Mapping[str, Callable[[], Value]]
) -> tuple[tuple[Value, ...], Value | None]:
    """Append forms of one signature, one for each group or a single one for all; the values, and where it raises."""
    form, values = forms[0], list[Value]()
    for op, value, places in form.lines:
        operands = [values[p] for p in places]
        if op == "const":
            numbers = [f.constants[value] for f in forms]
            alike = len(set(map(repr, numbers))) == 1
            values.append(b.const(b.free_name("c"), numbers[0] if alike else numbers))
        elif op == "input":
            values.append(inputs[value]())
        elif op in ("lookup", "count_lt"):
            tables = [f.tables[value] for f in forms]
            name, n, width = b.free_name("t"), len(tables[0]), 1 if len(set(map(repr, tables))) == 1 else len(tables)
            b.table(name, [t[row] for row in range(n) for t in tables[:width]], width=width)
            values.append(b.lookup(name, *operands) if op == "lookup" else b.count_below(name, n, *operands))
        else:
            values.append(b.op(op, *operands, library=value))
    return tuple(values[k] for k in form.results), None if form.trap is None else values[form.trap]


def emit_groups(
    b: Builder, forms: Sequence[Form], inputs: Mapping[str, Callable[[], Value]], *, same_for_all: bool = False
) -> tuple[Value, ...]:
    """One form for each param group, or the first for all; where one raises, the program traps.

    Equal structures become one with a constant for each group; others are selected by the number of their kind.

    Raises:
        Untraceable: the groups differ too much for one program.
    """
    forms = forms[:1] if same_for_all else forms
    kinds: dict[Any, list[int]] = {}
    for g, form in enumerate(forms):  # a trap stops all groups together, so its condition cannot have numbers of each
        kinds.setdefault(form.signature if form.trap is None else form.identity, []).append(g)
    if sum(len(forms[groups[0]].lines) for groups in kinds.values()) > MOST_OPERATIONS:
        raise Untraceable(f"the {len(kinds)} kinds of functions of the param groups are too long for one program")
    results: tuple[Value, ...] = ()
    for k, groups in enumerate(kinds.values()):
        own = {g: forms[g] for g in groups}
        uniform = len({form.identity for form in own.values()}) == 1
        first = forms[groups[0]]
        values, trap = emit_form(b, [first] if uniform else [own.get(g, first) for g in range(b.n_groups)], inputs)
        if trap is not None:
            b.trap(trap)
        if k:
            here = b.const(b.free_name("kind"), [float(g in own) for g in range(b.n_groups)])
            values = tuple(b.where(here, new, old) for new, old in zip(values, results, strict=True))
        results = values
    return results
