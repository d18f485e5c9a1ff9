"""What explain() promises of a traced function is kept by every evaluator.

These are the host's mirror, C++ on the CPU, and the compiled PTX of Triton and of CUDA. An operation with units in the
last place is at most so far from Python's own function; the others have its bits. So have functions of these alone.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch

pytest.importorskip("triton")

from enclosure import enclosures, is_point
from ptx import Kernel, watch_memory
from ptx.compile_triton import LANES, function, of_steps, operation
from ptx.compiled import nvcc, triton_ptx
from ptx.cuda_operators import PtxOperators
from ptx.inputs import INPUTS
from schedule_twins import same_bits
from trace_cases import IMAGINED

from fused_sched import backends
from fused_sched.backends.cuda import CudaBackend
from fused_sched.memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET, ControlBlock
from fused_sched.program.operations import ARITHMETIC, NUMPY, OPERATIONS, host_function
from fused_sched.program.program import Program
from fused_sched.program.schedule import Schedule
from fused_sched.trace import Untraceable, trace

EVALUATORS = ("host", "cpu", "triton", "cuda")
SAMPLES = 4 * LANES
INEXACT = tuple(name for name in ARITHMETIC if OPERATIONS[name].units)
EXACT = tuple(name for name in ARITHMETIC if not OPERATIONS[name].units)
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -2.5, 3.0, -3.0, 7.0, 0.1, -0.3, 1e-5, 1e16, -1e16, 2.0**53, 2.0**53 - 1,
    -(2.0**53), 4503599627370495.5, 1e300, -1e300, 1.7e308, 5e-324, -5e-324, 2.3e-308, -1.1e-308, math.pi, math.inf,
    -math.inf, math.nan,
]  # fmt: skip
EXACT_FUNCTIONS = ["method", "guarded", "imports inside", "lists of its own", "true division", "step ** 2"]
RANDOM_FUNCTIONS = 4  # of each kind
Found = list[tuple[float, float]]  # of each lane, lr and momentum


# -- evaluators --------------------------------------------------------------------------------------------


def evaluate(name: str, program: Program, columns: Sequence[Sequence[float]], kernel: Kernel | None) -> Found:
    """The program on columns of operands x, y and z, by one of the evaluators."""
    found: Found = []
    for start in range(0, len(columns[0]), LANES):
        memory = program.initial_memory(range(LANES))
        for letter, column in zip("xyz", columns, strict=False):
            part = torch.tensor(column[start : start + LANES], dtype=torch.float64)
            memory[program.offsets[letter] :][: len(part)] = part
        found += _RUN[name](program, memory, kernel)
    return found[: len(columns[0])]


def _fields(control: Sequence[float]) -> Found:
    lr, momentum = (control[GROUPS_OFFSET + FIELDS[name] :: GROUP_STRIDE] for name in ("lr", "momentum"))
    return [*zip(lr, momentum, strict=False)][:LANES]


def _on_host(program: Program, memory: torch.Tensor, kernel: Kernel | None) -> Found:
    control = [0.0] * (GROUPS_OFFSET + LANES * GROUP_STRIDE)
    program.compile_host()(memory.tolist(), control)
    return _fields(control)


def _scheduled(backend: backends.Backend) -> Callable[[Program, torch.Tensor, Kernel | None], Found]:
    def run(program: Program, memory: torch.Tensor, kernel: Kernel | None) -> Found:
        block = ControlBlock(torch.device("cpu"), LANES, 0, backend.platform)
        rows = [block.claim_row() for _ in range(LANES)]
        schedule = Schedule(program, [row.index for row in rows], block, backend, False)
        schedule.memory.tensor.copy_(memory)
        schedule.advance()
        return _fields(block.tensor.tolist())

    return run


def _in_triton(program: Program, memory: torch.Tensor, kernel: Kernel | None) -> Found:
    assert kernel is not None
    control = torch.zeros(GROUPS_OFFSET + LANES * GROUP_STRIDE, dtype=torch.float64)
    schedules = torch.tensor([memory.data_ptr()])
    kernel(1, [control.data_ptr(), schedules.data_ptr(), *[0] * (len(kernel.translation.parameters) - 2)])
    return _fields(control.tolist())


_RUN: dict[str, Callable[[Program, torch.Tensor, Kernel | None], Found]] = {
    "host": _on_host,
    "cpu": lambda *given: _scheduled(_backend("cpu"))(*given),
    "triton": _in_triton,
    "cuda": lambda *given: _scheduled(_backend("cuda"))(*given),
}


@pytest.fixture(autouse=True, scope="module")
def _known_memory() -> None:
    if shutil.which("g++"):
        watch_memory()


@cache
def _backend(name: str) -> backends.Backend:
    if name == "cuda":
        nvcc()
        return CudaBackend(PtxOperators())
    return backends.choose(torch.device("cpu"), name)


def _kernel(evaluator: str, what: str, name: str, among: Sequence[str]) -> Kernel | None:
    if evaluator != "triton":
        return None
    ptx, shared = triton_ptx(what, *among)[name]
    return Kernel(ptx, dynamic_shared=shared)


# -- operations --------------------------------------------------------------------------------------------


def test_every_operation_is_tried() -> None:
    assert set(INEXACT) == set(INPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("name", INEXACT)
def test_units_in_the_last_place(name: str, evaluator: str, rng: random.Random) -> None:
    """Also between an evaluator and numpy's function."""
    program, kernel = operation(name), _kernel(evaluator, "operation", name, INEXACT)
    for what, draw in INPUTS[name].items():
        values = [draw(rng) for _ in range(SAMPLES)]
        found = evaluate(evaluator, program, [*zip(*values, strict=True)], kernel)
        for library in (None, NUMPY):
            function = host_function(name, library)
            for given, (ours, _) in zip(values, found, strict=True):
                expected = function(*given)
                off = abs(ours - expected) / math.ulp(expected)
                whose = library or "Python"
                assert off <= OPERATIONS[name].units, (
                    f"{what}: {name}{given} is {ours!r}, {whose}'s {expected!r}: {off} units"
                )


def _arguments(arity: int, rng: random.Random) -> list[tuple[float, ...]]:
    """All special values together, and random ones of all magnitudes."""
    pairs = [(a, b) for a in SPECIAL for b in SPECIAL]
    pairs += [(_anything(rng), _anything(rng)) for _ in range(SAMPLES)]
    return [(*pair, rng.choice(SPECIAL))[:arity] for pair in (pairs if arity > 1 else [*{*pairs}])]


def _anything(rng: random.Random) -> float:
    magnitude = 10.0 ** rng.choice((rng.uniform(-3, 9), rng.uniform(-320, 308)))
    value = rng.choice((magnitude, float(int(min(magnitude, 2.0**53))), float(rng.randint(0, 50))))
    return value if rng.random() < 0.6 else -value


@pytest.mark.slow
@pytest.mark.parametrize("evaluator", EVALUATORS[1:])
@pytest.mark.parametrize("name", EXACT)
def test_the_same_bits(name: str, evaluator: str, rng: random.Random) -> None:
    values = _arguments(OPERATIONS[name].operands, rng)
    function = host_function(name)
    kernel = _kernel(evaluator, "operation", name, EXACT)
    found = evaluate(evaluator, operation(name), [*zip(*values, strict=True)], kernel)
    for given, (ours, _) in zip(values, found, strict=True):
        assert same_bits(ours, function(*given)), f"{name}{given} is {ours!r}, {function(*given)!r} on the host"


# -- functions ---------------------------------------------------------------------------------------------


def _steps(rng: random.Random, last: int) -> list[int]:
    return [*range(40), *(int(2.0 ** rng.uniform(0, 31)) for _ in range(SAMPLES - 40)), *range(last - 2, last + 1)]


def _compare(name: str, evaluator: str, kernel: Kernel | None, rng: random.Random) -> None:
    traced = trace(function(name))
    steps = [x for x in _steps(rng, min(traced.outcome.horizon, 2**31)) if x <= traced.outcome.horizon]
    for step, (found, trapped) in zip(steps, evaluate(evaluator, of_steps(traced), [steps], kernel), strict=True):
        expected = traced.evaluate(step)
        ((low, high),), trap = enclosures(traced.outcome, float(step))
        if not is_point(trap):
            continue  # whether it raises depends on a last place
        where = f"step {step} of {name}: {evaluator} has {(found, trapped)}, the host {expected}"
        assert bool(trapped) is (expected is None), where
        if expected is not None and not same_bits(found, expected[0]):
            assert traced.outcome.inexact, where
            assert low <= found <= high, f"{where}, which may be from {low!r} to {high!r}"


@pytest.mark.slow
@pytest.mark.parametrize("evaluator", EVALUATORS[1:])
def test_exact_functions_have_the_hosts_bits(evaluator: str, rng: random.Random) -> None:
    assert not any(trace(IMAGINED[name]).outcome.inexact for name in EXACT_FUNCTIONS)
    for name in EXACT_FUNCTIONS:
        _compare(name, evaluator, _kernel(evaluator, "function", name, EXACT_FUNCTIONS), rng)


@pytest.mark.slow
def test_random_functions_everywhere(rng: random.Random) -> None:
    """Functions of the grammar, see test_grammar.py."""
    names: dict[bool, list[str]] = {True: [], False: []}  # by whether all of their operations are exact
    while len(names[True]) < RANDOM_FUNCTIONS or len(names[False]) < RANDOM_FUNCTIONS:
        seed = str(rng.randrange(2**31))
        try:
            exact = not trace(function(seed)).outcome.inexact
        except Untraceable:
            continue
        if len(names[exact]) < RANDOM_FUNCTIONS:
            names[exact].append(seed)
    chosen = [*names[True], *names[False]]
    for evaluator in EVALUATORS[1:]:
        for name in chosen:
            _compare(name, evaluator, _kernel(evaluator, "function", name, chosen), rng)
