"""Generated Triton source computes what the host's evaluation of the same program does."""

from __future__ import annotations

import math
from collections.abc import Callable

import lane
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fused_sched.memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.program.builder import Builder, Value
from fused_sched.program.operations import FIELD_OPERATIONS, OPERATIONS
from fused_sched.program.program import Program

pytest.importorskip("triton")

from fused_sched.kernels import variants
from fused_sched.kernels.numerics import INTERPRETED
from fused_sched.kernels.program_source import EXPRESSIONS, advance_function, advance_source

pytestmark = pytest.mark.skipif(
    not INTERPRETED and not lane.PTX, reason="runs on CPU tensors: set TRITON_INTERPRET=1 or FUSED_SCHED_TEST_PTX"
)

INEXACT = ("pow", "exp", "expm1", "log", "log2", "log10", "log1p", "cos", "sin", "tan", "atan", "tanh")
EXACT = sorted(set(EXPRESSIONS) - set(INEXACT))
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -0.5, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan, 3.0, 7.0]
NUMBERS = st.sampled_from(SPECIAL) | st.floats(-1e6, 1e6) | st.integers(-50, 50).map(float)


def run(program: Program, memory: torch.Tensor, control: torch.Tensor, guarded: bool = False) -> None:
    kernel = variants.advance(advance_function([(program, guarded)]))
    launcher = lane.launcher()
    addresses = torch.tensor([memory.data_ptr()], dtype=torch.int64)
    launcher.launch(launcher.get(kernel, control.device), 1, [control, addresses])


def new_control(n_groups: int, values: list[float]) -> torch.Tensor:
    control = torch.zeros(GROUPS_OFFSET + n_groups * GROUP_STRIDE, dtype=torch.float64)
    for g in range(n_groups):
        for k in range(len(FIELDS)):
            control[GROUPS_OFFSET + g * GROUP_STRIDE + k] = values[(3 * g + k) % len(values)]
    return control


def check(program: Program, control: torch.Tensor, advances: int, relative: float) -> None:
    """Both evaluators agree on memory and control block after some advances."""
    memory = program.initial_memory(range(program.n_groups))
    expected_memory, expected_control = memory.tolist(), control.tolist()
    host = program.compile_host()
    for _ in range(advances):
        run(program, memory, control)
        host(expected_memory, expected_control)
        for got, expected in ((memory, expected_memory), (control, expected_control)):
            torch.testing.assert_close(
                got, torch.tensor(expected, dtype=torch.float64), rtol=relative, atol=0, equal_nan=True
            )
            if relative == 0:
                zeros = torch.tensor(expected, dtype=torch.float64) == 0
                signs = torch.tensor(expected, dtype=torch.float64).signbit()
                assert torch.equal(got.signbit()[zeros], signs[zeros]), "the sign of a zero differs"


@st.composite
def programs(draw: Callable[..., object], names: list[str]) -> tuple[Program, int]:
    n = draw(st.sampled_from([1, 2, 3, 5]))
    b = Builder(n)
    values: list[Value] = [
        b.register("r0", draw(NUMBERS)),
        b.group_register("r1", [draw(NUMBERS) for _ in range(n)]),
        b.const("c0", draw(NUMBERS)),
        b.const("c1", [draw(NUMBERS) for _ in range(n)]),
        b.field("lr"),
        b.field("beta1"),
    ]
    b.table("narrow", [draw(NUMBERS) for _ in range(4)])
    b.table("wide", [draw(NUMBERS) for _ in range(3 * n)], width=n)
    for _ in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from([*names, "lookup"]))
        if name == "lookup":
            values.append(b.lookup(draw(st.sampled_from(["narrow", "wide"])), draw(st.sampled_from(values))))
        else:
            values.append(b.op(name, *(draw(st.sampled_from(values)) for _ in range(OPERATIONS[name].operands))))
    uniform = [v for v in values if v.uniform]
    b.set_register("r0", draw(st.sampled_from(uniform)))
    b.set_register("r1", draw(st.sampled_from(values)))
    b.set_field("lr", values[-1])
    b.set_field("momentum", draw(st.sampled_from(values)))
    return b.finish("random"), n


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(EXACT), st.lists(NUMBERS, min_size=5, max_size=5))
def test_exact_operations_agree_bit_for_bit(program: tuple[Program, int], fields: list[float]) -> None:
    check(program[0], new_control(program[1], fields), advances=2, relative=0.0)


@pytest.mark.parametrize("name", EXACT)
def test_exact_operation_on_special_values(name: str) -> None:
    pairs = [(a, b) for a in SPECIAL for b in SPECIAL]
    b = Builder(len(pairs))
    x = b.const("x", [p[0] for p in pairs])
    y = b.const("y", [p[1] for p in pairs])
    b.set_field("lr", b.op(name, *[x, y, x][: OPERATIONS[name].operands]))
    check(b.finish(name), new_control(len(pairs), [0.0]), advances=1, relative=0.0)


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_operation_is_within_two_units(name: str) -> None:
    numbers = [0.1, 0.5, 0.9, 0.999, 1.0, 1.5, 3.0, 20.0, 0.0, math.nan, math.inf]
    pairs = [(a, b) for a in numbers for b in [*numbers, -2.0, -0.5, 100.0]]
    b = Builder(len(pairs))
    x = b.const("x", [p[0] for p in pairs])
    y = b.const("y", [p[1] for p in pairs])
    b.set_field("lr", b.op(name, *[x, y][: OPERATIONS[name].operands]))
    check(b.finish(name), new_control(len(pairs), [0.0]), advances=1, relative=4.5e-16)


def test_every_operation_has_an_expression() -> None:
    memory_operations = {"load", "load_group", "lookup", "store", "store_group", *FIELD_OPERATIONS}
    assert set(EXPRESSIONS) | memory_operations == set(OPERATIONS)


def halving(gamma: float, n_groups: int = 2) -> Program:
    b = Builder(n_groups)
    b.set_register("last_epoch", b.register("last_epoch", 0) + 1)
    b.set_field("lr", b.field("lr") * b.const("gamma", gamma))
    return b.finish("halving")


def test_another_constant_gives_the_same_function() -> None:
    assert advance_function([(halving(0.5), False)]) is advance_function([(halving(0.25), False)])
    assert advance_function([(halving(0.5), False)]) is not advance_function([(halving(0.5), True)])
    assert advance_function([(halving(0.5), False)]) is not advance_function([(halving(0.5, 3), False)])


def test_source_is_one_line_for_each_operation() -> None:
    _, (source,) = advance_source([(halving(0.5), False)])
    program = halving(0.5)
    assert source.count("tl.store(") == 2
    assert sum(line.strip().startswith("v") for line in source.splitlines()) == len(program.operations) - 2


def test_a_guarded_program_stands_still_after_a_skipped_update() -> None:
    program = halving(0.5)
    control, memory = new_control(2, [1.0]), program.initial_memory(range(program.n_groups))
    control.view(torch.int64)[0] = 1
    run(program, memory, control, guarded=True)
    assert control[GROUPS_OFFSET] == 1.0
    run(program, memory, control, guarded=False)
    assert control[GROUPS_OFFSET] == 0.5
