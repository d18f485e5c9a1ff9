"""Tracing a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

from ..program.builder import Builder, Value
from . import verify
from .emit import Form, emit_form, emit_groups, make_form
from .explore import LAST_STEP, Explorer, Fork, Leaf, Tree, Untraceable, current
from .expression import Node
from .mathematics import learn_numpy
from .objects import name_of
from .sandbox import Sandbox, refuse_unfit
from .symbol import Sym, lift
from .watch import Watch

SPARSE_AFTER = 8  # functions of one structure that are checked at every step up to verify.DENSE


class Traced:
    """A function of the step as operations.

    Attributes:
        outputs: how many numbers it returns.
        checked: how many steps were compared with the function itself.
        horizon: the last step up to which its whole numbers are exact.
    """

    def __init__(self, name: str, form: Form, watch: Watch, leaves: int, checked: int, horizon: int) -> None:
        self.name, self.form, self.watch = name, form, watch
        self.outputs, self.leaves, self.checked, self.horizon = _outputs_of(form.shape), leaves, checked, horizon

    @property
    def traps(self) -> bool:
        """Whether it raises at some steps."""
        return self.form.traps

    def emit(self, b: Builder, step: Value) -> tuple[Value, ...]:
        """Append the function of ``step``; a step at which it raises becomes a trap (:meth:`Builder.trap`)."""
        values, trapped = emit_form(b, [self.form], {"step": lambda: step})
        if trapped is not None:
            b.trap(trapped)
        return values

    def changed(self) -> bool:
        """Whether something that the function read from outside is not what it was: trace it again."""
        return self.watch.changed()

    def explain(self) -> str:
        """What was traced and how it was checked, in one line."""
        ends = "raises at some steps" if self.traps else "never raises"
        return (
            f"{self.name}: {self.leaves} path(s), {len(self.form.lines)} values, {ends}; equal to the function bit for "
            f"bit at {self.checked} steps up to {min(self.horizon, 2**31 + 1)}"
        )


def _outputs_of(shape: Any) -> int:
    if shape[0] == "fork":
        return max(_outputs_of(shape[2]), _outputs_of(shape[3]))
    return len(shape[1]) if shape[0] == "leaf" else 0


def trace(function: Callable[[int], Any], outputs: int = 1, *, sparse: bool = False) -> Traced:
    """A Python function of the step as a program that has its bits.

    The function is run on a symbolic step, in a sandbox that lets nothing be changed, once for each path
    through its decisions. The result is then compared, bit for bit and exception for exception, with the
    function itself: at every step up to 1,000, 8 steps around every threshold and every constant, and about
    300 steps spread over 10**7 and around 2**31.

    Args:
        function: takes the step, an int from 0 on, and returns a number.
        outputs: 1 for a number; n for a tuple or list of n numbers.
        sparse: leave out most of the steps up to 1,000, for one of many functions that differ in numbers only.

    Raises:
        Untraceable: it does what a program cannot, or what has effects outside of it; its ``reason`` says what.
    """
    name = describe(function)
    try:
        return _trace(function, name, outputs, sparse)
    except Untraceable as error:
        reason = error.reason if error.reason.startswith(name) else f"{name}: {error.reason}"
        raise Untraceable(reason) from None
    except RecursionError:
        raise Untraceable(f"{name}: it recurses too deeply") from None


def _trace(function: Callable[[int], Any], name: str, outputs: int, sparse: bool) -> Traced:
    if not callable(function):
        raise Untraceable("it cannot be called")
    refuse_unfit(function)
    learn_numpy()
    explorer = Explorer({"step": ((0.0, float(LAST_STEP), False), True)})
    with Sandbox(explorer) as box:

        def once() -> tuple[Any, ...]:
            result = box.wrap(function)(Sym(explorer.inputs["step"], "int"))
            return returned(result, outputs)

        tree = explorer.explore(once)
    if all_raise(tree):
        raise Untraceable(f"it raises {show_error(tree)} at every step")
    form = make_form(tree, leaf_nodes)
    checked = verify.check(form, function, explorer, sparse)
    return Traced(name, form, box.watch, count_leaves(tree), checked, explorer.horizon)


def trace_all(functions: Sequence[Callable[[int], Any]], outputs: int = 1) -> list[Traced]:
    """:func:`trace` for one function of each param group; the same function is traced once.

    Functions after the first 8 of one structure are checked at fewer steps.
    """
    known: dict[Any, Traced] = {}
    counts: dict[Any, int] = {}
    result = []
    for function in functions:
        key = _identity(function)
        if key not in known:
            code = getattr(getattr(function, "func", function), "__code__", None)
            counts[code] = counts.get(code, 0) + 1
            known[key] = trace(function, outputs, sparse=counts[code] > SPARSE_AFTER)
        result.append(known[key])
    return result


def _identity(function: Any) -> Any:
    if type(function).__name__ == "partial" and all(
        type(x) in (int, float, str, bool, type(None)) for x in (*function.args, *function.keywords.values())
    ):
        arguments = tuple((k, type(v), repr(v)) for k, v in function.keywords.items())
        return id(function.func), tuple((type(x), repr(x)) for x in function.args), arguments
    return id(function)


def emit_per_group(b: Builder, traces: Sequence[Traced], step: Value) -> tuple[Value, ...]:
    """Append one traced function for each param group.

    One function for all stays uniform. Functions of one structure, such as partials of one function, become one
    whose constants differ between groups; others are selected by the number of their kind.

    Raises:
        Untraceable: the functions are too many and too different for one program.
    """
    if len(traces) != b.n_groups:
        raise ValueError(f"{len(traces)} functions for {b.n_groups} param groups; give one a group")
    same = all(t is traces[0] for t in traces)
    values, trapped = emit_groups(b, [t.form for t in traces], {"step": lambda: step}, same=same)
    if trapped is not None:
        b.trap(trapped)
    return values


# -- results -----------------------------------------------------------------------------------------------


def returned(result: Any, outputs: int) -> tuple[Any, ...]:
    """The nodes of what a function returned."""
    if outputs == 1:
        return (_node(result),)
    if not isinstance(result, (tuple, list)) or len(result) != outputs:
        raise current().stop(f"it returns {_show(result)}, not {outputs} numbers")
    return tuple(_node(x) for x in result)


def _node(value: Any) -> Node:
    if type(value) is not Sym and (type(value) is complex or type(value).__name__ in ("str", "NoneType")):
        raise current().stop(f"it returns {_show(value)}, not a number")
    number = lift(value)
    if number is None:
        raise current().stop(f"it returns {_show(value)}, not a number")
    return number.node


def _show(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def leaf_nodes(leaf: Leaf) -> tuple[Node, ...]:
    """The results of a path."""
    return leaf.values


def all_raise(tree: Tree) -> bool:
    """Whether no path returns."""
    return all_raise(tree.true) and all_raise(tree.false) if isinstance(tree, Fork) else tree.error is not None


def show_error(tree: Tree) -> str:
    """The first exception, in words."""
    while isinstance(tree, Fork):
        tree = tree.true
    return f"{type(tree.error).__name__} ({' '.join(str(tree.error).split())})"


def count_leaves(tree: Tree) -> int:
    """How many paths there are."""
    return count_leaves(tree.true) + count_leaves(tree.false) if isinstance(tree, Fork) else 1


def describe(function: Any) -> str:
    """Name and place of a function, in a few words."""
    while hasattr(function, "func") and hasattr(function, "keywords"):
        function = function.func
    inner = function
    while not isinstance(inner, (FunctionType, MethodType)) and hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    if isinstance(inner, (FunctionType, MethodType)):
        code = inner.__code__
        return f"{inner.__qualname__} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"
    return name_of(function if hasattr(function, "__name__") else type(function))
