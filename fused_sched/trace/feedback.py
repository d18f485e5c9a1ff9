"""Tracing a function of the lr and of what was measured."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from ..program.builder import Builder, Value
from .function import (
    SPARSE_AFTER,
    Evaluator,
    compare,
    describe,
    emit_groups,
    evaluator_of,
    naming,
    promise,
    returned,
)
from .mathematics import quiet_numpy
from .operations import ANY, Interval
from .outside import Watch
from .paths import Explorer, Outcome, Untraceable
from .sandbox import Sandbox
from .symbol import Sym

Function = Callable[[float, float], Any]
_EDGES = (0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-8, 0.01, 0.1, 1e8, 1.7e308, -1.7e308, math.inf, -math.inf)
MOST_AROUND = 40  # numbers of a function around which it is compared
RANDOM = 300  # pairs


class TracedFeedback:
    """Functions of the present lr and a signal as operations: one for each param group, or one for all."""

    def __init__(
        self, functions: Sequence[Function], made: dict[int, tuple[str, Outcome, Evaluator, int]], watch: Watch
    ) -> None:
        self.given, self.watch = [*functions], watch
        self._made = made

    @property
    def traps(self) -> bool:
        """Whether one of them raises at some signals."""
        return any(not outcome.trap.is_const for _, outcome, *_ in self._made.values())

    def emit(self, b: Builder, lr: Value, signal: Value) -> Value:
        """Append the next lr of each group; a signal at which a function raises becomes a trap, which lasts.

        Raises:
            Untraceable: the functions are too many and too different for one program.
        """
        outcomes = [self._made[id(f)][1] for f in self.given]
        same_for_all = len(self._made) == 1
        inputs = {"lr": lambda: lr, "signal": lambda: signal}
        return emit_groups(b, outcomes[: 1 if same_for_all else None], inputs, trap_lasts=True)[0]

    def evaluate(self, lrs: Sequence[float], signal: float) -> list[float] | None:
        """The next lrs as the host computes them; None where a function raises."""
        found: list[float] = []
        for function, lr in zip(self.given * (len(lrs) if len(self.given) == 1 else 1), lrs, strict=True):
            values = self._made[id(function)][2]({"lr": lr, "signal": signal})
            if values is None:
                return None
            found += values
        return found

    def changed(self) -> bool:
        """Whether something that a function read from outside is not what it was: trace them again."""
        return self.watch.changed()

    def explain(self) -> str:
        """What was traced, how it was checked and what is promised."""
        lines = []
        for name, outcome, _, compared in self._made.values():
            ends = "never raises" if outcome.trap.is_const else "raises at some signals: each step waits for the device"
            lines.append(
                f"its function is part of the program: {name}: {outcome.paths} path(s), {len(outcome.nodes)} values, "
                f"{ends}; {promise([outcome])}; compared at {compared} pairs of lr and signal"
            )
        return "\n".join(lines)


def trace_feedback(functions: Sequence[Function]) -> TracedFeedback:
    """Functions of two floats, the lr and a signal that is no NaN, as a program; see :func:`trace`.

    The same function is traced once. Each is compared, bit for bit and exception for exception, with its code run on
    numbers: around the numbers that occur in it, at the ends of float64, and at random.

    Args:
        functions: one for each param group, each of which returns a number.

    Raises:
        Untraceable: one does what is not on the list, or not what a program can, or whether it raises depends on the
            lr; its ``reason`` says what.
    """
    made: dict[int, tuple[str, Outcome, Evaluator, int]] = {}
    with quiet_numpy(), closing(Sandbox()) as box:
        for function in functions:
            if id(function) not in made:
                made[id(function)] = _trace(box, function, sparse=len(made) >= SPARSE_AFTER)
        return TracedFeedback(functions, made, box.watch)


def _trace(box: Sandbox, function: Function, *, sparse: bool) -> tuple[str, Outcome, Evaluator, int]:
    name = describe(function)
    with naming(name):
        explorer = Explorer({"lr": (ANY, False), "signal": (Interval(), False)})
        rebuilt = box.wrap(function)
        lr, signal = (Sym(explorer.inputs[name], "float") for name in ("lr", "signal"))
        outcome = explorer.explore(lambda: returned(rebuilt(lr, signal), 1))
        if "lr" in outcome.trap.inputs:
            raise Untraceable("whether it raises depends on the lr, which a program has no answer to")
        evaluator, pairs = evaluator_of(outcome), _pairs(explorer, sparse)
        compare(explorer, evaluator, lambda x: rebuilt(x["lr"], x["signal"]), pairs)
        return name, outcome, evaluator, len(pairs)


def _pairs(explorer: Explorer, sparse: bool) -> list[dict[str, float]]:
    """Each number that decides may be one of the function's, or an end of what float64 has, beside any of the other."""
    generator = random.Random(0)
    around = [*_EDGES]
    for number in sorted(explorer.graph.numbers(), key=abs)[:MOST_AROUND]:
        for x in (number, -number):
            around += [math.nextafter(x, -math.inf), x, math.nextafter(x, math.inf)]

    def drawn(low: float, high: float) -> float:
        return float(10 ** generator.uniform(low, high))

    pairs = [(drawn(-6, 0), signal) for signal in around]
    pairs += [(lr, drawn(-5, 1)) for lr in (*around, math.nan)]
    pairs += [(generator.choice(around), generator.choice(around)) for _ in range(RANDOM // 3)]
    signs = (1.0, 1.0, 1.0, -1.0)
    pairs += [(drawn(-8, 0), generator.choice(signs) * drawn(-8, 3)) for _ in range(RANDOM)]
    step = 1 + len(pairs) * explorer.lines_of_a_path // (50_000 if sparse else 500_000)
    return [{"lr": lr, "signal": signal} for lr, signal in pairs[::step]]
