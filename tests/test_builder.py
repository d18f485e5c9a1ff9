"""Builder.scope, when and trap: what nested schedules are made of, in every evaluator."""

from __future__ import annotations

import math
import random
from typing import Any

import lane
import pytest
import torch
from schedule_twins import device_of, patience

from fused_sched import backends
from fused_sched.memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET, ControlBlock
from fused_sched.program.builder import TRAP, Builder, Value
from fused_sched.program.program import Program
from fused_sched.program.schedule import Schedule


class Machine:
    """A program at work: on a backend, or by the host's evaluation where ``backend`` is ``"host"``."""

    def __init__(
        self, program: Program, backend: str | backends.Backend, lrs: list[float], guarded: bool = False
    ) -> None:
        self.program, self.n_groups = program, len(lrs)
        self._host = backend == "host"
        if self._host:
            self.memory = program.initial_memory(range(program.n_groups)).tolist()
            self.control = [0.0] * (GROUPS_OFFSET + GROUP_STRIDE * len(lrs))
            self._run = program.compile_host()
        else:
            device = torch.device(device_of(backend))
            chosen = backends.choose(device, backend)
            self.block = ControlBlock(device, len(lrs), 1, chosen.platform)
            self.rows = [self.block.claim_row() for _ in lrs]
            self.schedule = Schedule(program, range(program.n_groups), self.block, chosen, guarded)
        for group, lr in enumerate(lrs):
            self.set_field(group, "lr", lr)

    def advance(self) -> None:
        if self._host:
            self._run(self.memory, self.control)
        else:
            self.schedule.advance()

    def read(self, name: str) -> float:
        return float(self.memory[self.program.offsets[name]]) if self._host else self.schedule.read(name)

    def read_group(self, name: str) -> list[float]:
        if self._host:
            start = self.program.offsets[name]
            return list(self.memory[start : start + self.n_groups])
        return self.schedule.read_group(name)

    def write(self, name: str, value: float) -> None:
        if self._host:
            self.memory[self.program.offsets[name]] = value
        else:
            self.schedule.write(name, value)

    def field(self, name: str) -> list[float]:
        slots = [ControlBlock.slot(g, name) for g in range(self.n_groups)]
        return [self.control[s] for s in slots] if self._host else [self.block.read(s) for s in slots]

    def set_field(self, group: int, name: str, value: float) -> None:
        if self._host:
            self.control[ControlBlock.slot(group, name)] = value
        else:
            self.block.write(ControlBlock.slot(group, name), value)

    def everything(self) -> tuple[list[float], list[float]]:
        if self._host:
            return list(self.memory), list(self.control)
        rows = self.block.tensor[: GROUPS_OFFSET + GROUP_STRIDE * self.n_groups]
        return self.schedule.memory.tensor.tolist(), rows.tolist()


@pytest.fixture(params=["host", *lane.NAMES])
def evaluator(request: pytest.FixtureRequest) -> str | backends.Backend:
    """Every evaluator: Python, and each backend."""
    name = str(request.param)
    if name == "host":
        return name
    reason = lane.reason_unavailable(name)
    if reason is not None:
        pytest.skip(f"backend {name} cannot run here: {reason}")
    return lane.backend(name)


# -- scope -------------------------------------------------------------------------------------------------


def _counter(b: Builder) -> Value:
    """One more each time; the names are the same wherever it stands."""
    n = b.register("n", 0.0) + b.const("by", 1.0)
    b.set_register("n", n)
    return n


def test_scope_keeps_equal_names_apart(evaluator: str) -> None:
    b = Builder(2)
    with b.scope("0."):
        first = _counter(b)
        b.table("t", [10.0, 20.0, 30.0])
        with b.scope("1."):
            inner = _counter(b)
            b.group_register("x", [1.0, 2.0])
            b.set_register("x", b.group_register("x", [1.0, 2.0]) + inner)
        b.set_field("momentum", b.lookup("t", first))
    with b.scope("2."):
        b.register("n", 5.0)
        b.set_register("n", b.register("n", 5.0) * b.const("by", 2.0))
    outer = _counter(b)
    b.set_field("lr", first + inner + outer)
    program = b.finish("scopes")
    assert {"0.n", "0.1.n", "2.n", "n", "0.by", "2.by", "by", "0.t", "0.1.x"} <= set(program.offsets)
    machine = Machine(program, evaluator, [0.5, 0.5])
    for _ in range(3):
        machine.advance()
    assert [machine.read(name) for name in ("0.n", "0.1.n", "2.n", "n")] == [3.0, 3.0, 40.0, 3.0]
    assert machine.read_group("0.1.x") == [7.0, 8.0]
    assert machine.field("lr") == [9.0, 9.0]
    assert machine.field("momentum") == [30.0, 30.0]


def test_scope_ends_with_its_block_and_after_an_error() -> None:
    b = Builder(1)
    with pytest.raises(RuntimeError, match="^in the middle$"), b.scope("0."):
        raise RuntimeError("in the middle")
    b.register("n", 1.0)
    assert list(b._memory) == ["n"]
    with b.scope("0."):
        b.register("n", 2.0)  # another one: no conflict
        with pytest.raises(ValueError, match=r"^'0\.n' is declared twice in one program"):
            b.register("n", 3.0)
    with pytest.raises(KeyError, match=r"1\.n"), b.scope("1."):
        b.set_register("n", 0.0)


def test_equal_numbers_are_shared_between_scopes_only_by_name() -> None:
    """Constants can be changed one by one: a scope's has a slot of its own."""
    b = Builder(1)
    b.const("gamma", 0.5)
    with b.scope("0."):
        b.const("gamma", 0.5)
    program = b.finish("two")
    assert program.offsets["gamma"] != program.offsets["0.gamma"]


# -- when --------------------------------------------------------------------------------------------------


def test_writes_take_effect_only_where_the_condition_holds(evaluator: str) -> None:
    b = Builder(3)
    n = b.register("n", 0.0) + 1
    b.set_register("n", n)
    b.register("even", 0.0)
    b.group_register("x", [0.0, 0.0, 0.0])
    with b.when(n % 2 == 0):
        b.set_register("even", b.register("even", 0.0) + 1)
        b.set_field("lr", b.field("lr") * 2)
        b.set_register("x", b.field("lr"))
    machine = Machine(b.finish("when"), evaluator, [1.0, 2.0, 3.0])
    expected = [1.0, 2.0, 3.0]
    for step in range(1, 6):
        machine.advance()
        if step % 2 == 0:
            expected = [2 * x for x in expected]
        assert machine.read("n") == step
        assert machine.read("even") == step // 2
        assert machine.field("lr") == expected
        assert machine.read_group("x") == (expected if step > 1 else [0.0] * 3)


def test_what_was_written_inside_is_read_inside_and_after(evaluator: str) -> None:
    b = Builder(1)
    on = b.register("on", 1.0)
    b.register("seen", 0.0)
    b.register("after", 0.0)
    with b.when(on):
        b.set_field("lr", 5.0)
        b.set_register("seen", b.register("seen", 0.0) + 1)
        b.set_field("lr", b.field("lr") + b.register("seen", 0.0))
    b.group_register("last", [0.0])
    b.set_register("last", b.field("lr"))
    b.set_register("after", b.register("seen", 0.0) * 10)
    machine = Machine(b.finish("inside"), evaluator, [0.5])
    machine.advance()
    assert (machine.field("lr"), machine.read_group("last"), machine.read("after")) == ([6.0], [6.0], 10.0)
    machine.write("on", 0.0)
    machine.set_field(0, "lr", 0.25)
    machine.advance()
    assert (machine.field("lr"), machine.read_group("last"), machine.read("after")) == ([0.25], [0.25], 10.0)


def test_conditions_nest(evaluator: str) -> None:
    b = Builder(2)
    a, c = b.register("a", 0.0), b.register("c", 0.0)
    for name in ("both", "outer", "only c"):
        b.register(name, 0.0)
    with b.when(a):
        with b.when(c), b.scope("in."):
            b.register("both", 0.0)
            b.set_register("both", b.register("both", 0.0) + 1)
        b.set_register("outer", b.register("outer", 0.0) + 1)
    with b.when(c):
        b.set_register("only c", b.register("only c", 0.0) + 1)
    machine = Machine(b.finish("nested"), evaluator, [0.5, 0.5])
    for values in ((0, 0), (0, 1), (1, 0), (1, 1), (math.nan, 1)):
        machine.write("a", float(values[0]))
        machine.write("c", float(values[1]))
        machine.advance()
    assert [machine.read(name) for name in ("in.both", "outer", "only c")] == [2.0, 3.0, 3.0]


def test_condition_of_each_group_for_fields_but_not_for_scalars(evaluator: str) -> None:
    b = Builder(3)
    b.register("n", 0.0)
    with b.when(b.field("lr") > 1.5):
        b.set_field("lr", b.field("lr") / 2)
        b.set_field("momentum", 0.25)
        with pytest.raises(ValueError, match=r"^register 'n' holds one number, but the value differs between"):
            b.set_register("n", 1.0)
    machine = Machine(b.finish("per group"), evaluator, [1.0, 2.0, 3.0])
    machine.advance()
    assert machine.field("lr") == [1.0, 1.0, 1.5]
    assert machine.field("momentum") == [0.0, 0.25, 0.25]


def test_values_that_are_not_chosen_may_be_nan(evaluator: str) -> None:
    b = Builder(1)
    x = b.register("x", 0.0)
    with b.when(x > 0):
        b.set_field("lr", 1 / x)
    with b.when(x < 0):
        b.set_field("momentum", x % 0)
    machine = Machine(b.finish("nan"), evaluator, [0.5])
    machine.advance()
    assert (machine.field("lr"), machine.field("momentum")) == ([0.5], [0.0])


def test_condition_ends_with_its_block_and_after_an_error() -> None:
    b = Builder(1)
    with pytest.raises(RuntimeError, match="^in the middle$"), b.when(b.number(0.0)):
        raise RuntimeError("in the middle")
    assert b._condition is None
    b.set_field("lr", 1.0)
    machine = Machine(b.finish("after"), "host", [0.5])
    machine.advance()
    assert machine.field("lr") == [1.0]


# -- trap --------------------------------------------------------------------------------------------------


def _with_trap(at: float) -> Builder:
    """Something of everything that can be written, and a trap when ``n`` gets past ``at``."""
    b = Builder(2)
    n = b.register("n", 0.0) + 1
    b.set_register("n", n)
    b.set_field("lr", b.field("lr") * 0.5)  # written before the trap is declared
    b.trap(n > b.const("at", at))
    b.set_field("momentum", n)
    b.group_register("x", [1.0, 2.0])
    b.set_register("x", b.field("lr") + n)
    return b


def test_trapped_advance_changes_nothing_but_the_flag(evaluator: str) -> None:
    machine = Machine(_with_trap(3.0).finish("trap"), evaluator, [1.0, 2.0])
    for _ in range(3):
        machine.advance()
        assert machine.read(TRAP) == 0.0
    memory, control = machine.everything()
    assert (machine.read("n"), machine.field("lr"), machine.field("momentum")) == (3.0, [0.125, 0.25], [3.0, 3.0])
    for _ in range(3):
        machine.advance()
        assert machine.read(TRAP) == 1.0
        found, rows = machine.everything()
        assert rows == control
        flag = machine.program.offsets[TRAP]
        assert [x for i, x in enumerate(found) if i != flag] == [x for i, x in enumerate(memory) if i != flag]
    machine.write("at", 10.0)  # the flag stays until the host clears it, and does not stop a later advance
    machine.advance()
    assert (machine.read(TRAP), machine.read("n")) == (1.0, 4.0)
    machine.write(TRAP, 0.0)
    machine.advance()
    assert (machine.read(TRAP), machine.read("n")) == (0.0, 5.0)


def test_any_of_several_traps_stops_all(evaluator: str) -> None:
    b = Builder(1)
    first, second = b.register("first", 0.0), b.register("second", 0.0)
    b.register("n", 0.0)
    with b.scope("0."):
        b.trap(first)
    b.set_register("n", b.register("n", 0.0) + 1)
    with b.scope("1."):
        b.trap(second)
    machine = Machine(b.finish("two traps"), evaluator, [0.5])
    for a, c in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 0)):
        machine.write("first", float(a))
        machine.write("second", float(c))
        machine.write(TRAP, 0.0)
        before = machine.read("n")
        machine.advance()
        assert machine.read(TRAP) == float(a or c)
        assert machine.read("n") == before + (not (a or c))


def test_trap_inside_a_condition_counts_only_there(evaluator: str) -> None:
    b = Builder(1)
    active, over = b.register("active", 0.0), b.register("over", 0.0)
    b.register("n", 0.0)
    b.set_register("n", b.register("n", 0.0) + 1)
    with b.when(active), b.when(b.register("also", 1.0)):
        b.trap(over)
    machine = Machine(b.finish("conditional trap"), evaluator, [0.5])
    for a, o, also in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)):
        for name, value in (("active", a), ("over", o), ("also", also)):
            machine.write(name, float(value))
        machine.advance()
    assert (machine.read("n"), machine.read(TRAP)) == (3.0, 1.0)


def test_trap_that_differs_between_groups_is_refused() -> None:
    b = Builder(2)
    with pytest.raises(ValueError, match="^a trap stops all param groups together, but its condition differs between"):
        b.trap(b.field("lr") > 1)
    with b.when(b.field("lr") > 1), pytest.raises(ValueError, match="^a trap stops all param groups together"):
        b.trap(b.register("n", 0.0) > 1)
    b.set_field("lr", 2.0)
    assert TRAP not in b.finish("no trap").offsets


def test_trap_flag_has_one_name_in_all_scopes() -> None:
    b = Builder(1)
    with b.scope("0."), b.scope("1."):
        b.trap(b.register("n", 0.0) > 1)
        b.set_register("n", b.register("n", 0.0) + 1)
    program = b.finish("inner trap")
    assert [name for name in program.offsets if name.endswith(TRAP)] == [TRAP]


def test_the_host_learns_of_a_trap(backend: str, mirrored: bool) -> None:
    machine = Machine(_with_trap(1.0).finish("known"), backend, [1.0, 2.0])
    schedule = machine.schedule
    assert schedule.memory.remote or not mirrored
    assert not schedule.trapped
    machine.advance()
    assert not schedule.trapped
    machine.advance()
    assert schedule.trapped
    assert schedule.read_trap()
    schedule.write(TRAP, 0.0)
    assert not schedule.trapped
    schedule.memory.volatile = True  # a graph was captured: only a read tells
    machine.schedule.backend.advance(schedule)
    assert not schedule.trapped
    assert schedule.read_trap()


def test_skipped_update_does_not_trap_a_guarded_schedule(backend: str) -> None:
    machine = Machine(_with_trap(0.0).finish("guarded"), backend, [1.0, 2.0], guarded=True)
    machine.block.integers[0] = 1
    machine.advance()
    assert machine.read(TRAP) == 0.0
    machine.block.integers[0] = 0
    machine.advance()
    assert (machine.read(TRAP), machine.read("n")) == (1.0, 0.0)


def _random_body(b: Builder, rng: random.Random, state: dict[str, Any], depth: int, path: tuple[Any, ...]) -> list[Any]:
    """Random nested scopes, conditions, traps and writes, and the same as plain instructions."""
    steps: list[Any] = []
    for i in range(rng.randint(1, 4)):
        act = rng.random()
        name = f"r{rng.randrange(3)}"
        if act < 0.45 or depth == 0:
            factor = rng.choice([2.0, 3.0, -1.0])
            b.set_register(name, b.register(name, 0.0) * factor + 1)
            state.setdefault(b._prefix + name, 0.0)
            steps.append(("set", b._prefix + name, factor))
        elif act < 0.55:
            limit = rng.choice([40.0, 400.0])
            b.trap(b.register(name, 0.0) > limit)
            state.setdefault(b._prefix + name, 0.0)
            steps.append(("trap", b._prefix + name, limit))
        elif act < 0.8:
            modulus = float(rng.choice([2, 3]))
            condition = b.register(name, 0.0) % modulus == 0
            state.setdefault(b._prefix + name, 0.0)
            key = b._prefix + name
            with b.when(condition):
                steps.append(("when", key, modulus, _random_body(b, rng, state, depth - 1, (*path, i))))
        else:
            with b.scope(f"{i}."):
                steps += _random_body(b, rng, state, depth - 1, (*path, i))
    return steps


def _interpret(steps: list[Any], state: dict[str, float]) -> bool:
    """Run the instructions on ``state``; whether a trap was met."""
    trapped = False
    for step in steps:
        if step[0] == "set":
            state[step[1]] = state[step[1]] * step[2] + 1
        elif step[0] == "trap":
            trapped |= state[step[1]] > step[2]
        elif state[step[1]] % step[2] == 0:
            trapped |= _interpret(step[3], state)
    return trapped


def test_random_nestings_do_what_python_does(evaluator: str, rng: random.Random) -> None:
    slow = evaluator != "host" and patience(evaluator, 1000) < 1000
    met = 0
    for _ in range(6 if slow else 60):
        b = Builder(rng.randint(1, 3))
        state: dict[str, float] = {}
        steps = _random_body(b, rng, state, 3, ())
        program = b.finish("random")
        machine = Machine(program, evaluator, [0.5] * b.n_groups)
        for turn in range(4 if slow else 12):
            after = dict(state)
            trapped = _interpret(steps, after)
            met += trapped
            machine.advance()
            state = state if trapped else after
            found = {name: machine.read(name) for name in state}
            assert found == state, f"turn {turn} of {steps}\n{program}"
            if trapped:
                assert machine.read(TRAP) == 1.0
                break
    assert met or slow


def test_fields_are_all_held() -> None:
    b = Builder(1)
    for name in FIELDS:
        b.set_field(name, b.field(name) + 1)
    b.trap(b.number(1.0))
    machine = Machine(b.finish("all fields"), "host", [0.5])
    before = list(machine.control)
    machine.advance()
    assert machine.control == before
    assert machine.read(TRAP) == 1.0
