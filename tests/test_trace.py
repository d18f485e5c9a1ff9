"""Functions of the step become programs with the functions' own bits."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import trace_cases
from schedule_twins import device_of, same_bits
from tolerances import SCHEDULE_RELATIVE
from trace_cases import IMAGINED, nano_gpt, on_host, program_of, warmup_stable_decay
from transformers import optimization

from fused_sched import backends
from fused_sched.memory.control_block import GROUP_STRIDE, GROUPS_OFFSET, ControlBlock
from fused_sched.program.bounds import Interval
from fused_sched.program.builder import Builder
from fused_sched.program.schedule import Schedule
from fused_sched.trace import Untraceable, emit_per_group, trace, trace_all
from fused_sched.trace.graph import Graph, Ranges


def _assert_same(function: Callable[[int], Any], steps: int = 20_000) -> None:
    host = on_host(trace(function))
    for step in range(steps):
        assert same_bits(host(step), float(function(step))), f"step {step}: {host(step)!r}, not {function(step)!r}"


def _hugging_face(rng: random.Random) -> dict[str, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rng.uniform(1e-3, 1))
    o = optimization
    warm, total = rng.choice([0, 1, rng.randint(2, 500)]), rng.randint(600, 15_000)
    made = {
        "constant": o.get_constant_schedule(optimizer),
        "constant with warmup": o.get_constant_schedule_with_warmup(optimizer, warm),
        "linear": o.get_linear_schedule_with_warmup(optimizer, warm, total),
        "cosine": o.get_cosine_schedule_with_warmup(optimizer, warm, total, rng.choice([0.5, 1, rng.uniform(0.2, 5)])),
        "restarts": o.get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, warm, total, rng.randint(1, 5)),
        "polynomial": o.get_polynomial_decay_schedule_with_warmup(optimizer, warm, total, power=rng.uniform(0.5, 3)),
        "inverse sqrt": o.get_inverse_sqrt_schedule(optimizer, warm, rng.choice([None, rng.randint(501, 900)])),
        "min lr": o.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warm, total, min_lr_rate=rng.random()),
        "min lr and warmup rate": o.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
            optimizer, warm, total, min_lr=1e-4, warmup_lr_rate=rng.choice([None, 0.1])
        ),
    }
    for w in ("linear", "cosine", "1-sqrt"):
        for d in ("linear", "cosine", "1-sqrt"):
            made[f"wsd {w} {d}"] = o.get_wsd_schedule(
                optimizer, warm, rng.randint(10, 5000), num_stable_steps=rng.randint(0, 900), warmup_type=w,
                decay_type=d, min_lr_ratio=rng.choice([0, rng.random()]),
            )  # fmt: skip
    return {name: scheduler.lr_lambdas[0] for name, scheduler in made.items()}


@pytest.mark.parametrize("name", _hugging_face(random.Random(0)))
def test_transformers_schedules(name: str, rng: random.Random) -> None:
    for _ in range(3):
        _assert_same(_hugging_face(rng)[name], 6000)


@pytest.mark.parametrize("decay", ["linear", "sqrt", "cosine"])
def test_warmup_stable_decay(decay: str, rng: random.Random) -> None:
    curried = functools.partial(
        warmup_stable_decay, warmup_steps=rng.randint(1, 300), stable_steps=rng.randint(0, 3000),
        decay_steps=20_000 - rng.randint(0, 99), decay_type=decay, min_lr_factor=rng.choice([0.0, 0.1]),
    )  # fmt: skip
    try:
        traced = trace(curried)
    except Untraceable as error:  # the square root and cosine go on for ever, linear too
        pytest.fail(error.reason)
    host = on_host(traced)
    assert all(same_bits(host(step), float(curried(step))) for step in range(20_000))


@pytest.mark.parametrize("name", IMAGINED)
def test_functions_of_the_worst_imagination(name: str) -> None:
    _assert_same(IMAGINED[name])


@pytest.mark.parametrize("name", IMAGINED)
def test_functions_far_away_and_in_any_order(name: str, rng: random.Random) -> None:
    """Steps as far as whole numbers are exact or 2**40, spread evenly over magnitudes."""
    function, traced = IMAGINED[name], trace(IMAGINED[name])
    host, magnitudes = on_host(traced), math.log2(min(traced.outcome.horizon + 1, 2**40))
    for _ in range(1000):
        step = int(2.0 ** rng.uniform(0, magnitudes)) - 1
        assert same_bits(host(step), float(function(step))), f"step {step}"


def _negative_size(step: int) -> float:
    return math.copysign(float(step), -35)


def test_zeros_have_signs() -> None:
    _assert_same(_negative_size, steps=50)


def test_a_row_that_is_no_number_is_the_first() -> None:
    graph, table = Graph(), (0.5, 0.25, 0.125)
    assert graph.apply("lookup", graph.const(math.nan), value=table).value == table[0]
    row = graph.input("row", whole=False)
    known = Ranges({"row": Interval(1.0, 2.0, nan=True)}, set())
    assert known.bounds(graph.apply("lookup", row, value=table)) == Interval(0.125, 0.5)


def test_a_pair_of_numbers() -> None:
    traced = trace(lambda step: (0.9, 1 - 1 / (step + 2)), outputs=2)
    program = program_of(traced)
    memory = program.initial_memory(range(program.n_groups)).tolist()
    memory[program.offsets["step"]] = 8.0
    program.compile_host()(memory, [])
    assert (memory[program.offsets["result0"]], memory[program.offsets["result1"]]) == (0.9, 0.9)
    with pytest.raises(Untraceable, match="not 2 numbers"):
        trace(lambda step: 0.5, outputs=2)


def test_twelve_milestones_are_thirteen_paths() -> None:
    def stairs(step: int) -> float:
        rate = 1.0
        for m in range(100, 1300, 100):
            if step >= m:
                rate *= 0.9
        return rate

    assert trace(stairs).outcome.paths == 13


def test_a_trap_stops_the_program_where_the_function_raises() -> None:
    def raises(step: int) -> float:
        return 1.0 / (step - 5)

    program = program_of(trace(raises))
    memory, at = program.initial_memory(range(program.n_groups)).tolist(), program.offsets
    for step, trapped in ((4, 0.0), (5, 1.0)):
        memory[at["step"]] = float(step)
        program.compile_host()(memory, [])
        assert memory[at["trap"]] == trapped
    assert memory[at["result0"]] == -1.0  # as it was


@pytest.mark.parametrize("name", ["nanoGPT", "object", "milestones and dict", "lists of its own"])
def test_backends_agree_with_the_host(name: str, backend: str) -> None:
    traced = trace(IMAGINED[name])
    b = Builder(1)
    epoch = b.register("last_epoch", -1.0) + 1
    b.set_register("last_epoch", epoch)
    b.set_field("lr", emit_per_group(b, [traced.outcome], {"step": epoch})[0])
    device = torch.device(device_of(backend))
    block = ControlBlock(device, 1, 0)
    row = block.claim_row()
    schedule = Schedule(b.finish(name), [row.index], block, backends.choose(device, backend), False)
    for step in range(40):
        schedule.advance()
        found = block.read(block.slot(row.index, "lr"))
        assert math.isclose(found, float(IMAGINED[name](step)), rel_tol=SCHEDULE_RELATIVE), step


# -- what was read -------------------------------------------------------------------------------------------


def test_changes_of_what_was_read_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace(nano_gpt)
    assert not traced.changed()
    monkeypatch.setattr(trace_cases, "min_lr", 7e-5)
    assert traced.changed()

    rates = [0.1, 0.2]
    holder = trace_cases.Derived(10, rates, 100)
    traced = trace(holder)
    assert not traced.changed()
    rates.append(0.5)
    assert traced.changed()
    traced = trace(holder)
    holder.warmup = 11
    assert traced.changed()
    traced = trace(holder)
    holder.limit = 99
    assert traced.changed()

    factor = 0.5
    partial = functools.partial(lambda step, *, a: step * a * factor, a=2)
    traced = trace(partial)
    assert not traced.changed()
    partial.keywords["a"] = 3
    assert traced.changed()
    traced = trace(partial)
    factor = 0.25
    assert traced.changed()


# -- param groups --------------------------------------------------------------------------------------------


def _groups_program(functions: list[Any]) -> Any:
    b = Builder(len(functions))
    step = b.register("step", 0.0)
    b.set_field("lr", emit_per_group(b, [one.outcome for one in trace_all(functions)], {"step": step})[0])
    return b.finish("groups")


def _advance(program: Any, step: int) -> list[float]:
    memory, control = (
        program.initial_memory(range(program.n_groups)).tolist(),
        [0.0] * (GROUPS_OFFSET + GROUP_STRIDE * program.n_groups),
    )
    memory[program.offsets["step"]] = float(step)
    program.compile_host()(memory, control)
    return [control[GROUPS_OFFSET + GROUP_STRIDE * g] for g in range(program.n_groups)]


def test_partials_of_one_function_are_one_program(rng: random.Random) -> None:
    functions = [
        functools.partial(optimization._get_linear_schedule_with_warmup_lr_lambda, num_warmup_steps=w,
                          num_training_steps=t)
        for w, t in [(rng.randint(2, 99), rng.randint(200, 999)) for _ in range(20)] for _ in range(23)
    ]  # fmt: skip
    program = _groups_program(functions)
    assert len(program.operations) < 40
    for step in (0, 1, 50, 150, 700, 2000):
        assert _advance(program, step) == [f(step) for f in functions]


def test_functions_that_differ_in_numbers_alone_are_one_program() -> None:
    def shifted(step: int, by: float) -> float:
        return step * 0.5 + by if step else by

    shifts = [0.0, -0.0, 0.25, math.inf]
    program = _groups_program([functools.partial(shifted, by=by) for by in shifts])
    assert len(program.operations) == len(_groups_program([functools.partial(shifted, by=0.25)] * 4).operations)
    for step in (0, 1, 7):
        assert all(map(same_bits, _advance(program, step), [shifted(step, by) for by in shifts]))


def test_one_function_for_all_groups_is_uniform() -> None:
    program = _groups_program([nano_gpt] * 465)
    assert program.n_uniform == len(program.operations) - 1


def test_groups_with_different_functions() -> None:
    functions: list[Any] = [nano_gpt, lambda step: 0.9**step, lambda step: 0.5, lambda step: 0.8**step]
    program = _groups_program(functions)
    for step in (0, 3, 2500, 13_000):
        assert _advance(program, step) == [f(step) for f in functions]
