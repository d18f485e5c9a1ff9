"""Tracing a function of the step, and checking what came of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor

from ..program.bounds import Interval
from ..program.builder import Builder, Value
from .graph import TABLE, Node
from .mathematics import quiet_numpy
from .outside import Watch, is_a, shown
from .paths import LAST_STEP, Explorer, Outcome, Path, Untraceable, current
from .sandbox import Sandbox
from .symbol import Sym, lift, node_of

MOST_OPERATIONS = 2000  # of a program
AROUND = 8  # steps on both sides of each threshold and constant
FARTHEST = 2**31 + 1  # step that is compared
MOST_AROUND = 600
SPARSE_AFTER = 8  # functions of one code that are compared at all steps
Evaluator = Callable[[Mapping[str, Any]], "tuple[float, ...] | None"]  # from inputs to results; None: it raises


@dataclass(frozen=True)
class Given:
    """What functions of one kind are given.

    Attributes:
        arguments: in their order, by name: between which numbers each is, and whether it is an int, or else a float.
        draw: numbers for which a function is compared with its program; may be few where the second argument says so.
        drawn: what these are, in messages.
    """

    arguments: Mapping[str, tuple[Interval, bool]]
    draw: Callable[[Explorer, bool], Sequence[Mapping[str, Any]]]
    drawn: str


@dataclass(frozen=True, eq=False)
class Traced:
    """A function as operations.

    Attributes:
        outcome: the operations.
        evaluator: computes it on the host.
        watch: what it read.
        compared: at how many of what it was given.
    """

    name: str
    given: Given
    outcome: Outcome
    evaluator: Evaluator
    watch: Watch
    compared: int

    @property
    def traps(self) -> bool:
        """Whether it raises for some arguments."""
        return not self.outcome.trap.is_const

    def evaluate(self, *arguments: float) -> tuple[float, ...] | None:
        """Its values as the host computes them; None where it raises."""
        return self.evaluator(dict(zip(self.given.arguments, arguments, strict=True)))

    def changed(self) -> bool:
        """Whether something that the function read from outside is not what it was: trace it again."""
        return self.watch.changed()

    def explain(self) -> str:
        """What was traced, how it was checked and what is promised."""
        drawn, one = self.given.drawn, self.outcome
        ends = f"raises at some {drawn}" if self.traps else "never raises"
        return (
            f"{self.name}: {one.paths} path(s), {len(one.nodes)} values, {ends}; {promise([one])}; "
            f"compared at {self.compared} {drawn}"
        )


def promise(outcomes: Iterable[Outcome]) -> str:
    """How near programs are to the functions, in words."""
    inexact = sorted({op for outcome in outcomes for op in outcome.inexact})
    units = max((TABLE[op].units for op in inexact), default=0)
    but = f", but for {', '.join(inexact)}, each within {units} units in the last place"
    return f"the same bits as the function{but if inexact else ' on every device'}"


def steps_to_compare(explorer: Explorer, sparse: bool) -> list[int]:
    """Around each number in the function and each step where a decision changes, and spread over what can come."""
    last, steps = min(explorer.horizon, FARTHEST), set(range(33))
    for centre in sorted(int(p) for p in {*explorer.points, *explorer.graph.numbers()} if 0 <= p <= last):
        steps.update(range(centre - AROUND, centre + AROUND + 1) if len(steps) < MOST_AROUND else (centre,))
    generator = random.Random(0)
    steps.update(int(1.12**k) for k in range(10, 190))
    steps.update(generator.randrange(10**7) for _ in range(20 if sparse else 150))
    found = sorted(x for x in {*steps, 2**24 + 1, 2**31 - 1, 2**31, last} if 0 <= x <= last)
    # a function that runs long is compared at fewer
    return found[:: 1 + len(found) * explorer.lines_of_a_path // 500_000]


STEP = Given(
    {"step": (Interval(0.0, float(LAST_STEP)), True)},
    lambda explorer, sparse: [{"step": step} for step in steps_to_compare(explorer, sparse)],
    "steps",
)


def trace(
    function: Callable[..., Any],
    outputs: int = 1,
    *,
    given: Given = STEP,
    sparse: bool = False,
    is_valid: Callable[[Any], Any] | None = None,
) -> Traced:
    """A Python function as a program.

    It is not called: its code is run in the sandbox on symbolic numbers, once for each path through its decisions. The
    result is compared, bit for bit and exception for exception, with that code run on numbers.

    Args:
        function: takes numbers and returns a number.
        outputs: 1 for a number; n for a tuple or list of n numbers.
        given: what it takes; default, the step, an int from 0 on. It is compared around every constant and decision
            about the step, and at steps spread up to 2**31.
        sparse: compare at fewer, for one of many functions that differ in numbers only.
        is_valid: whether what it returned may be used; where not, it is as if the function raised.

    Raises:
        Untraceable: it does what is not on the list, or not what a program can; its ``reason`` says what.
    """
    name = describe(function)
    with naming(name), quiet_numpy(), closing(Sandbox()) as box:
        explorer, rebuilt = Explorer(given.arguments), box.wrap(function)

        def run(values: Mapping[str, Any]) -> Any:
            result = rebuilt(*values.values())
            if is_valid is not None and not is_valid(result):
                raise ValueError
            return result

        outcome = explorer.explore(lambda: returned(run(symbols(explorer)), outputs))
        evaluator, drawn = evaluator_of(outcome), given.draw(explorer, sparse)
        compare(explorer, evaluator, run, drawn)
        return Traced(name, given, outcome, evaluator, box.watch, len(drawn))


def symbols(explorer: Explorer) -> dict[str, Sym]:
    """The inputs as a function gets them."""
    return {name: Sym(node, "int" if node.whole else "float") for name, node in explorer.inputs.items()}


def trace_all(functions: Sequence[Callable[..., Any]], outputs: int = 1, **options: Any) -> list[Traced]:
    """:func:`trace` for one function of each param group; the same function is traced once.

    Functions after the first 8 of one name and place are compared at fewer steps.
    """
    known: dict[int, Traced] = {}
    counts = Counter[str]()
    for function in functions:
        if id(function) not in known:
            counts[describe(function)] += 1
            sparse = counts[describe(function)] > SPARSE_AFTER
            known[id(function)] = trace(function, outputs, sparse=sparse, **options)
    return [known[id(function)] for function in functions]


def emit(
    b: Builder, outcomes: Sequence[Outcome], inputs: Mapping[str, Value]
) -> tuple[tuple[Value, ...], Value | None]:
    """Append outcomes of one shape, one for each param group or a single one for all; the values, and the trap.

    Their graphs are gone through together: where numbers differ, a constant or table has one for each group.
    """
    if len(outcomes[0].nodes) > MOST_OPERATIONS:
        raise Untraceable(f"its program would have more than {MOST_OPERATIONS} operations")
    made: dict[Node, Value] = {}
    for node, *others in zip(*(outcome.nodes for outcome in outcomes), strict=True):
        numbers = [n.value for n in (node, *others)]
        if len(set(map(repr, numbers))) == 1:
            numbers = numbers[:1]
        operands = [made[a] for a in node.args]
        if node.is_const:
            made[node] = b.const(b.free_name("c"), numbers if len(numbers) > 1 else node.value)
        elif node.op == "input":
            made[node] = inputs[node.field]
        elif node.op in ("lookup", "count_lt"):
            name, n = b.free_name("t"), len(node.value)
            b.table(name, [table[row] for row in range(n) for table in numbers], width=len(numbers))
            made[node] = b.lookup(name, *operands) if node.op == "lookup" else b.count_below(name, n, *operands)
        else:
            made[node] = b.op(node.op, *operands, library=node.value)
    first = outcomes[0]
    return tuple(made[v] for v in first.values), None if first.trap.is_const else made[first.trap]


def emit_per_group(
    b: Builder, outcomes: Sequence[Outcome], inputs: Mapping[str, Value], *, trap_lasts: bool = False
) -> tuple[Value, ...]:
    """Append one function for each param group, or the only one for all, which stays uniform.

    Those of one shape become one; others are selected by the number of their kind. Where one raises, and past the
    horizon, the program traps.

    Args:
        trap_lasts: of a trap that does not come back by itself; see :meth:`Builder.trap`, also for ``awaited``.

    Raises:
        Untraceable: the functions are too many and too different for one program, or whether one raises is not the
            same for all groups.
    """
    if len(outcomes) not in (1, b.n_groups):
        raise ValueError(f"{len(outcomes)} functions for {b.n_groups} param groups; give one a group")
    kinds: dict[Any, dict[int, Outcome]] = {}
    for g, one in enumerate(outcomes):  # a trap stops all groups together, so its condition cannot have numbers of each
        kinds.setdefault(one.form if one.trap.is_const else one.bits, {})[g] = one
    if sum(len(next(iter(own.values())).nodes) for own in kinds.values()) > MOST_OPERATIONS:
        raise Untraceable(f"the {len(kinds)} kinds of functions of the param groups are too long for one program")
    horizon = min(one.horizon for one in outcomes)
    for name in outcomes[0].counted if horizon < LAST_STEP else ():
        b.trap(inputs[name] > horizon)
    results: tuple[Value, ...] = ()
    for own in kinds.values():
        first = next(iter(own.values()))
        uniform = len({one.bits for one in own.values()}) == 1
        values, trap = emit(b, [first] if uniform else [own.get(g, first) for g in range(b.n_groups)], inputs)
        if trap is not None:
            if not trap.uniform:
                raise Untraceable("whether it raises depends on the lr, or another value of each param group")
            b.trap(trap, awaited=trap_lasts, lasts=trap_lasts)
        if results:
            here = b.const(b.free_name("kind"), [float(g in own) for g in range(b.n_groups)])
            values = tuple(b.where(here, new, old) for new, old in zip(values, results, strict=True))
        results = values
    return results


def returned(result: Any, outputs: int) -> tuple[Node, ...]:
    """The nodes of what a function returned."""
    values = (result,) if outputs == 1 else result
    found = [lift(value) for value in values] if is_a(values, tuple, list) else []
    if len(found) != outputs or any(x is None for x in found):
        shown = "None" if result is None else f"a {type(result).__name__}"
        raise current().stop(f"it returns {shown}, not {'a number' if outputs == 1 else f'{outputs} numbers'}")
    return tuple(map(node_of, found))


def describe(function: Any) -> str:
    """Name and place of a function, in a few words."""
    while type(function) is partial:
        function = function.func
    if is_a(function, FunctionType, MethodType):
        code = function.__code__
        return f"{function.__qualname__} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"
    return shown(function)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let the reason of what cannot be traced begin with the function's name."""
    try:
        yield
    except Untraceable as error:
        raise Untraceable(error.reason if error.reason.startswith(name) else f"{name}: {error.reason}") from None
    except RecursionError:
        raise Untraceable(f"{name}: it recurses too deeply") from None


def evaluator_of(outcome: Outcome) -> Evaluator:
    """Computes it on the host."""
    b = Builder(1)
    inputs = {n.field: b.register(n.field, 0.0) for n in outcome.nodes if n.op == "input"}
    values, trap = emit(b, [outcome], inputs)
    results = [f"result {k}" for k in range(len(values) + 1)]
    for name, value in zip(results, [*values, b.number(0.0) if trap is None else trap], strict=True):
        b.register(name, 0.5)
        b.set_register(name, value)
    program = b.finish("traced")
    advance, at = program.compile_host(), program.offsets
    initial: list[float] = program.initial_memory([0]).tolist()

    def run(given: Mapping[str, float]) -> tuple[float, ...] | None:
        memory = initial.copy()
        for name in inputs:
            # a device has no ints, whose arithmetic is another; an lr that is a tensor rounds as torch's does
            memory[at[name]] = given[name] if is_a(given[name], Tensor) else float(given[name])
        advance(memory, [])
        *found, trapped = (memory[at[name]] for name in results)
        return None if trapped else tuple(found)

    return run


def compare(
    explorer: Explorer, evaluator: Evaluator, rebuilt: Callable[[Any], Any], inputs: Sequence[Mapping[str, Any]]
) -> None:
    """Compare a program with the function's code on numbers in the sandbox; Untraceable if they differ somewhere."""
    for given in inputs:
        found = evaluator(given)
        run = lambda given=given: tuple(map(float, x if is_a(x := rebuilt(given), tuple, list) else (x,)))  # noqa: E731
        expected = Path(explorer, [], symbolic=False).run(run)
        if not same(found, expected):
            when = ", ".join(f"{name} {value}" for name, value in given.items())
            shown = ["an exception" if x is None else ", ".join(map(repr, x)) for x in (found, expected)]
            raise Untraceable(f"at {when} its program gives {shown[0]}, but the function {shown[1]}")


def same(found: Sequence[float] | None, expected: Sequence[float] | None) -> bool:
    """Equal bits; a NaN equals a NaN, and None is an exception."""
    shown = [None if x is None else [repr(float(v)) for v in x] for x in (found, expected)]
    return shown[0] == shown[1]
