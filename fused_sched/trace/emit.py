"""From a tree of paths to operations of a program, for one function or for one of each param group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..program.builder import Builder, Value
from .explore import Fork, Leaf, Tree, Untraceable
from .expression import Node

MOST_OPERATIONS = 2000
# A step of the tree's shape: ("leaf", places), ("trap",) or ("fork", place, shape, shape)
Shape = tuple[Any, ...]


@dataclass(frozen=True)
class Form:
    """A traced function as lines that refer to each other by place; constants and tables stand apart.

    ``lines`` and ``shape`` are the structure: forms of equal :attr:`signature` differ in numbers only.
    """

    lines: tuple[tuple[str, Any, tuple[int, ...]], ...]
    shape: Shape
    constants: tuple[float, ...]
    tables: tuple[tuple[float, ...], ...]

    @property
    def signature(self) -> tuple[Any, ...]:
        return self.lines, self.shape, tuple(map(len, self.tables))

    @property
    def traps(self) -> bool:
        return any_trap(self.shape)


def any_trap(shape: Shape) -> bool:
    """Whether some path ends in an exception."""
    return shape[0] == "trap" or (shape[0] == "fork" and (any_trap(shape[2]) or any_trap(shape[3])))


def make_form(tree: Tree, leaf_nodes: Callable[[Leaf], tuple[Node, ...]], rename: Callable[[str], str] = str) -> Form:
    """The lines of a tree.

    Args:
        leaf_nodes: the results of a leaf; empty for one that raises.
        rename: name of an input in the lines.

    Raises:
        Untraceable: the program would be too long.
    """
    tree = simplify(tree, leaf_nodes)
    needed: dict[int, Node] = {}
    stack = list(_roots(tree, leaf_nodes))
    while stack:
        node = stack.pop()
        if node.id not in needed:
            needed[node.id] = node
            stack += node.args
    if len(needed) > MOST_OPERATIONS:
        raise Untraceable(f"its program would have more than {MOST_OPERATIONS} operations")
    place = {i: k for k, i in enumerate(sorted(needed))}
    lines: list[tuple[str, Any, tuple[int, ...]]] = []
    constants: list[float] = []
    tables: list[tuple[float, ...]] = []
    for i in sorted(needed):
        node, value = needed[i], needed[i].value
        if node.op == "const":
            constants.append(value)
            value = len(constants) - 1
        elif node.op == "input":
            value = rename(value)
        elif isinstance(value, tuple):
            tables.append(value)
            value = len(tables) - 1
        lines.append((node.op, value, tuple(place[a.id] for a in node.args)))
    return Form(tuple(lines), _shape(tree, leaf_nodes, place), tuple(constants), tuple(tables))


def _roots(tree: Tree, leaf_nodes: Callable[[Leaf], tuple[Node, ...]]) -> Iterator[Node]:
    """All results and conditions."""
    if isinstance(tree, Leaf):
        yield from leaf_nodes(tree)
    else:
        yield tree.condition
        yield from _roots(tree.true, leaf_nodes)
        yield from _roots(tree.false, leaf_nodes)


def _shape(tree: Tree, leaf_nodes: Callable[[Leaf], tuple[Node, ...]], place: Mapping[int, int]) -> Shape:
    if isinstance(tree, Leaf):
        nodes = leaf_nodes(tree)
        return ("leaf", tuple(place[n.id] for n in nodes)) if tree.error is None else ("trap",)
    sides = (_shape(side, leaf_nodes, place) for side in (tree.true, tree.false))
    return "fork", place[tree.condition.id], *sides


def simplify(tree: Tree, leaf_nodes: Callable[[Leaf], tuple[Node, ...]]) -> Tree:
    """Without forks whose two sides end alike."""
    if isinstance(tree, Leaf):
        return tree
    true, false = simplify(tree.true, leaf_nodes), simplify(tree.false, leaf_nodes)
    leaves = isinstance(true, Leaf) and isinstance(false, Leaf)
    if leaves and (true.error is None) == (false.error is None) and leaf_nodes(true) == leaf_nodes(false):  # type: ignore[union-attr,arg-type]
        return true
    return Fork(tree.condition, true, false)


def emit_form(
    b: Builder, forms: Sequence[Form], inputs: Mapping[str, Callable[[], Value]]
) -> tuple[tuple[Value, ...], Value | None]:
    """Append forms of one signature: one for each group, or a single one for all.

    Returns:
        The values, and the condition under which the function raises (None: never).
    """
    form = forms[0]
    values: list[Value] = []
    for op, value, places in form.lines:
        operands = [values[p] for p in places]
        if op == "const":
            values.append(_constant(b, [f.constants[value] for f in forms]))
        elif op == "input":
            values.append(inputs[value]())
        elif op in ("lookup", "count_lt", "count_le"):
            table, n = _table(b, [f.tables[value] for f in forms])
            values.append(b.lookup(table, operands[0]) if op == "lookup" else _count(b, op, table, n, operands[0]))
        elif value is not None:
            values.append(b.op(op, *operands, library=value))
        else:
            values.append(b.op(op, *operands))
    n_outputs = _outputs(form.shape)
    if n_outputs == 0:
        return (), None
    results = tuple(_choose(b, form.shape, values, k) for k in range(n_outputs))
    trapped = _trapped(b, form.shape, values)
    return results, (b.number(trapped) if isinstance(trapped, float) else trapped) if form.traps else None


def _outputs(shape: Shape) -> int:
    if shape[0] == "leaf":
        return len(shape[1])
    return max(_outputs(shape[2]), _outputs(shape[3])) if shape[0] == "fork" else 0


def _choose(b: Builder, shape: Shape, values: Sequence[Value], k: int) -> Any:
    if shape[0] == "leaf":
        return values[shape[1][k]]
    if shape[0] == "trap":
        return None
    true, false = _choose(b, shape[2], values, k), _choose(b, shape[3], values, k)
    if true is None or false is None or true is false:
        return false if true is None else true
    return b.where(values[shape[1]], true, false)


def _trapped(b: Builder, shape: Shape, values: Sequence[Value]) -> Any:
    if shape[0] != "fork":
        return 1.0 if shape[0] == "trap" else 0.0
    true, false = _trapped(b, shape[2], values), _trapped(b, shape[3], values)
    if isinstance(true, float) and isinstance(false, float) and true == false:
        return true
    return b.where(values[shape[1]], true, false)


def _constant(b: Builder, numbers: Sequence[float]) -> Value:
    first = repr(numbers[0])
    if all(repr(x) == first for x in numbers):
        return b.const(b.free_name("c"), numbers[0])
    return b.const(b.free_name("c"), list(numbers))


def _table(b: Builder, tables: Sequence[tuple[float, ...]]) -> tuple[str, int]:
    name, n = b.free_name("t"), len(tables[0])
    if all(t == tables[0] for t in tables):
        b.table(name, tables[0])
    else:
        b.table(name, [t[row] for row in range(n) for t in tables], width=len(tables))
    return name, n


def _count(b: Builder, op: str, table: str, rows: int, x: Value) -> Value:
    """How many of a sorted table's rows are less than x (``count_lt``), or at most x."""
    if op == "count_lt":
        return b.count_below(table, rows, x)
    below = b.number(0.0)
    span = 1 << max(0, rows.bit_length() - 1)
    while span and rows:
        probe = below + span
        below = b.where((probe <= rows) & (b.lookup(table, probe - 1) <= x), probe, below)
        span //= 2
    return below


def emit_groups(
    b: Builder, forms: Sequence[Form], inputs: Mapping[str, Callable[[], Value]], *, same: bool
) -> tuple[tuple[Value, ...], Value | None]:
    """One form for each param group; equal structures become one with a constant for each group.

    Args:
        same: all groups have one form.

    Raises:
        Untraceable: the groups differ too much for one program.
    """
    if same or len(set(forms)) == 1:
        return emit_form(b, forms[:1], inputs)
    classes: dict[Any, list[int]] = {}
    for g, form in enumerate(forms):
        classes.setdefault(form if form.traps else form.signature, []).append(g)
    if sum(len(forms[members[0]].lines) for members in classes.values()) > MOST_OPERATIONS:
        raise Untraceable(f"the {len(classes)} kinds of functions of the param groups are too long for one program")
    emitted = []
    for members in classes.values():
        representative = forms[members[0]]
        own = [representative] * b.n_groups
        for g in members:
            own[g] = forms[g]
        emitted.append(emit_form(b, own[:1] if representative.traps else own, inputs))
    number = [0.0] * b.n_groups
    for k, members in enumerate(classes.values()):
        for g in members:
            number[g] = float(k)
    results = emitted[0][0]
    if len(emitted) > 1:
        group = b.const(b.free_name("kind"), number)
        for k in range(1, len(emitted)):
            here = group == float(k)
            results = tuple(b.where(here, new, old) for new, old in zip(emitted[k][0], results, strict=True))
    trapped: Value | None = None
    for _, condition in emitted:
        if condition is not None:
            trapped = condition if trapped is None else trapped | condition
    return results, trapped
