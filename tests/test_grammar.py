"""Random functions of a grammar, as programs on the host and in C++, against the functions themselves.

What a program promises: the function's own bits, where its operations are exact; otherwise each operation that is
not lies within its units in the last place, see :mod:`enclosure`. Where the function raises the program traps, and
past the horizon too.
"""

from __future__ import annotations

import ast
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from enclosure import enclosures, is_point
from random_functions import Writer
from schedule_twins import same_bits
from trace_cases import program_of

from fused_sched.memory.control_block import GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.trace import Traced, Untraceable, trace
from fused_sched.trace.paths import LAST_STEP

FUNCTIONS = 200  # of each round, see prove.py
STEPS, FARTHEST = 300, 2**31
MOST_CONSTANTS, MOST_THRESHOLDS = 100, 40
LEAST_TRACED = 0.6
RESULT = 0.5  # of the program, before it has run
# A refusal that says these is a fault of the tracing's own: the program was not what the function is.
FAULTS = ("its program gives",)
Outcome = float | None  # None: it raises


class _Watched(ast.NodeTransformer):
    """Lets a function say how each of its conditions turns out, and each turn of a loop."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        return ast.Call(ast.Name("_see", ast.Load()), [node], [])

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        turn = ast.Expr(ast.Call(ast.Name("_see", ast.Load()), [ast.Constant(2)], []))
        node.body.insert(0, turn)
        return node


class Candidate:
    """A function of the grammar.

    Attributes:
        function: as a user writes it.
        inexact: whether it may use an operation whose last place is not the same everywhere.
    """

    def __init__(self, rng: random.Random, name: str) -> None:
        writer = Writer(rng)
        self.source = writer.module()
        self.inexact, self._seen = writer.inexact, list[int]()
        self.function = self._made(ast.parse(self.source), name)
        self._watched = self._made(ast.fix_missing_locations(_Watched().visit(ast.parse(self.source))), name)

    def _made(self, tree: ast.AST, name: str) -> Callable[[int], Any]:
        def see(found: Any) -> Any:
            self._seen.append(int(bool(found)))
            return found

        namespace: dict[str, Any] = {"__name__": name, "_see": see}
        exec(compile(tree, f"<{name}>", "exec"), namespace)  # noqa: S102 - it is written in random_functions
        return namespace["schedule"]  # type: ignore[no-any-return]

    def outcome(self, step: int) -> Outcome:
        return outcome(self.function, step)

    def decisions(self, step: int) -> tuple[Any, ...]:
        """How its conditions turn out."""
        self._seen.clear()
        raised = outcome(self._watched, step) is None
        return raised, *self._seen

    def steps(self, rng: random.Random, horizon: int) -> list[int]:
        """At random; around every number in the source, and where a decision changes; and past the horizon."""
        found = {*range(9), FARTHEST, FARTHEST - 1}
        found.update(rng.randrange(FARTHEST + 1) for _ in range(STEPS // 3))
        found.update(int(2.0 ** rng.uniform(0, 31)) for _ in range(STEPS - STEPS // 3))
        known = [n.value for n in ast.walk(ast.parse(self.source)) if isinstance(n, ast.Constant)]
        numbers = sorted({abs(int(x)) for x in known if type(x) in (int, float) and abs(x) <= FARTHEST})
        centres = rng.sample(numbers, min(len(numbers), MOST_CONSTANTS))
        centres += [*self._thresholds(sorted(found)), *([horizon + 1] if horizon < LAST_STEP else [])]
        found.update(x for c in centres for x in range(max(c - 2, 0), c + 3))
        return sorted(found)

    def _thresholds(self, steps: list[int]) -> Iterator[int]:
        left = MOST_THRESHOLDS
        for low, high in itertools.pairwise(steps):
            before = self.decisions(low) if high - low > 4 and left > 0 else ()
            if not before or before == self.decisions(high):
                continue
            left -= 1
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self.decisions(middle) == before else (low, middle)
            yield high


def outcome(function: Callable[[int], Any], step: int) -> Outcome:
    try:
        with np.errstate(all="ignore"):
            return float(function(step))
    except Exception:
        return None


class Evaluators:
    """One program as the host's mirror and as C++ run it: what it gives, or None where it traps."""

    def __init__(self, traced: Traced) -> None:
        program = program_of(traced)
        self._at = at = program.offsets
        self._initial = program.initial_memory([0])
        advance = program.compile_host()
        self._run: dict[str, Callable[[Any], None]] = {"host": lambda memory: advance(memory, [])}
        self._memory: dict[str, Any] = {"host": self._initial.tolist()}
        _C = pytest.importorskip("fused_sched._C")
        memory, control = self._initial.clone(), torch.zeros(GROUPS_OFFSET + GROUP_STRIDE, dtype=torch.float64)
        code = program.encode()
        _C.check_program(code, program.n_uniform, len(memory), 1, program.rows_offset)
        self._memory["cpu"] = memory.numpy()
        schedule = code, program.n_uniform, memory, 1, program.rows_offset, 0
        self._run["cpu"] = lambda _: _C.advance(control, schedule)
        self._result, self._step, self._trap = at["result0"], at["step"], at.get("trap")

    def __call__(self, step: int) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        for name, memory in self._memory.items():
            memory[self._step], memory[self._result] = float(step), RESULT
            if self._trap is not None:
                memory[self._trap] = 0.0
            self._run[name](memory)
            found[name] = float(memory[self._result])
            if self._trap is not None and memory[self._trap]:
                assert found[name] == RESULT
                found[name] = None
        return found


def difference(candidate: Candidate, traced: Traced, step: int, found: dict[str, Outcome]) -> str:
    """What is not as promised at a step; "" if all is."""
    expected = candidate.outcome(step) if step <= traced.outcome.horizon else None
    if not traced.outcome.inexact:
        wrong = [name for name, x in found.items() if not _same(x, expected)]
    else:
        wrong = [] if _same(found["host"], expected) else ["host"]
        (result,), trap = enclosures(traced.outcome, float(step))
        if not is_point(trap):
            return f"the host gives {found['host']!r}, not {expected!r}" if wrong else ""
        other = found["cpu"]
        if expected is None or other is None or other != other or expected != expected:
            wrong += [] if _same(other, expected) else ["cpu"]
        elif not min(result[0], expected) <= other <= max(result[1], expected):
            wrong.append(f"cpu (which may be from {result[0]!r} to {result[1]!r})")
    shown = ["raises" if x is None else repr(x) for x in (expected, *found.values())]
    return f"step {step}: the function {shown[0]}, the host {shown[1]}, cpu {shown[2]}: {wrong}" if wrong else ""


def _same(a: Outcome, b: Outcome) -> bool:
    return a is b if a is None or b is None else same_bits(a, b)


def refused_wrongly(candidate: Candidate, reason: str, rng: random.Random) -> bool:
    """Whether a reason is not true, or tells that the program was wrong before it was compared."""
    if " at every step" in reason:
        return any(candidate.outcome(x) is not None for x in candidate.steps(rng, LAST_STEP))
    return any(text in reason for text in FAULTS)


def _kind(reason: str) -> str:
    """A reason without names, places and numbers."""
    reason = re.sub(r"^.*?(\(<[^>]*>:\d+\)|Schedule): |line \d+ of \S+: ", "", reason)
    return re.sub(r"-?\d[\d.e+-]*", "N", re.sub(r"line \d+ of \S+: ", "", reason))


def check(rng: random.Random, name: str) -> tuple[str, str]:
    """Why a random function was not traced ("": it was), and what is wrong ("": nothing)."""
    candidate = Candidate(rng, name)
    try:
        traced = trace(candidate.function)
    except Untraceable as error:
        wrong = refused_wrongly(candidate, error.reason, rng)
        return _kind(error.reason), f"refused: {error.reason}\n{candidate.source}" if wrong else ""
    if traced.outcome.inexact and not candidate.inexact:
        return "", f"{traced.explain()}, but the function has no such operation\n{candidate.source}"
    evaluate = Evaluators(traced)
    for step in candidate.steps(rng, traced.outcome.horizon):
        wrong_at = difference(candidate, traced, step, evaluate(step))
        if wrong_at:
            return "", f"{wrong_at}\n{traced.explain()}\n{candidate.source}"
    return "", ""


@pytest.mark.skipif("FUSED_SCHED_TEST_ROUNDS" not in os.environ, reason="run by make prove PROOF=grammar")
@pytest.mark.slow
def test_random_functions(rng: random.Random) -> None:
    refused: Counter[str] = Counter()
    for k in range(FUNCTIONS):
        reason, wrong = check(rng, f"function {k}")
        assert not wrong, wrong
        refused[reason] += 1
    for reason, count in refused.most_common():
        print(f"{count:5} {reason or 'traced'}")
    assert refused[""] >= LEAST_TRACED * FUNCTIONS, "too few can be traced"
