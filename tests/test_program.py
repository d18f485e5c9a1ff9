"""Programs: how they are built, shown and encoded, and that every evaluator computes the same."""

from __future__ import annotations

import bisect
import math
import random
import struct
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as starting_from
from hypothesis import strategies as st
from schedule_twins import device_of, patience, same_bits
from tolerances import SCHEDULE_RELATIVE

from fused_sched import backends
from fused_sched.memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET, ControlBlock
from fused_sched.program.builder import Builder
from fused_sched.program.operations import ARITHMETIC, NUMPY, OP_CODES, OPERATIONS
from fused_sched.program.program import CODE_WIDTH, MAX_OPERATIONS, Operation, Program, Slot
from fused_sched.program.schedule import Schedule

# Rounded as the library at hand does it. sqrt is IEEE's, but not in torch's vector library on the CPU.
LIBM = ("pow", "exp", "expm1", "log", "log2", "log10", "log1p", "cos", "sin", "tan", "atan", "tanh")
EXACT = tuple(name for name in ARITHMETIC if name not in LIBM)
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2.0, 3.0, 7.0, 0.1, 1e-5, -1e-5, 1e16, -1e16, 2.0**53, 1e300,
    -1e300, 1.7e308, 5e-324, -5e-324, 2.3e-308, math.pi, math.inf, -math.inf, math.nan,
]  # fmt: skip
NUMBERS = st.sampled_from(SPECIAL) | st.floats() | st.floats(-10, 10) | st.integers(-20, 20).map(float)


def _small() -> Builder:
    b = Builder(2)
    epoch = b.register("last_epoch", 3) + 1
    b.set_register("last_epoch", epoch)
    b.set_field("lr", b.field("lr") * b.const("gamma", 0.5))
    return b


def _control(lrs: list[list[float]]) -> list[float]:
    control = [0.0] * GROUPS_OFFSET
    for row in lrs:
        control += row + [0.0] * (GROUP_STRIDE - len(row))
    return control


def _advance_host(program: Program, memory: list[float], control: list[float]) -> None:
    program.compile_host()(memory, control)


def _schedule(program: Program, backend: str, control: list[float], guarded: bool = False) -> Schedule:
    device = torch.device(device_of(backend))
    chosen = backends.choose(device, backend)
    block = ControlBlock(device, program.n_groups, 0, chosen.platform)
    rows = [block.claim_row() for _ in range(program.n_groups)]
    block.write_range(0, control)
    schedule = Schedule(program, [row.index for row in rows], block, chosen, guarded)
    schedule.owners = rows  # type: ignore[attr-defined]  # of the rows, which would be free without them
    return schedule


# -- building ----------------------------------------------------------------------------------------------


def test_text_of_a_program() -> None:
    b = _small()
    b.table("rows", [1, 2, 3, 4, 5, 6], width=2)
    b.set_field("momentum", b.lookup("rows", b.register("last_epoch", 3)))
    b.set_register("_last_lr", b.group_register("_last_lr", [0.1, 0.2]) + b.field("lr"))
    assert str(b.finish("Example")).splitlines() == [
        "program Example: 13 operations, 2 param group(s)",
        "  register last_epoch = 3",
        "  constant 1.0 = 1",
        "  constant gamma = 0.5",
        "  table rows = 1, 2, 3, 4, ...",
        "  register _last_lr (one a group) = 0.1, 0.2",
        "  %0 = load last_epoch",
        "  %1 = load 1.0",
        "  %2 = add %0 %1",
        "  %3 = load gamma",
        "  store last_epoch <- %2",
        "  for each group:",
        "    %5 = field lr",
        "    %6 = mul %5 %3",
        "    %7 = lookup rows %2",
        "    %8 = load_group _last_lr",
        "    %9 = add %8 %6",
        "    field lr <- %6",
        "    field momentum <- %7",
        "    group _last_lr <- %9",
    ]


def test_encoding_of_a_program() -> None:
    program = _small().finish("Example")
    assert program.n_uniform == 5
    assert dict(program.offsets) == {"last_epoch": 0, "1.0": 1, "gamma": 2}
    assert program.initial_memory(range(program.n_groups)).tolist() == [3.0, 1.0, 0.5, 0.0, 1.0]
    code = program.encode()
    assert (code.dtype, code.shape) == (torch.int32, (8, CODE_WIDTH))
    assert code.tolist() == [
        [OP_CODES["load"], 0, 0, 0, 0],
        [OP_CODES["load"], 1, 0, 0, 0],
        [OP_CODES["add"], 0, 1, 0, 0],
        [OP_CODES["load"], 2, 0, 0, 0],
        [OP_CODES["store"], 0, 2, 0, 0],
        [OP_CODES["field"], FIELDS["lr"], 0, 0, 0],
        [OP_CODES["mul"], 5, 3, 0, 0],
        [OP_CODES["store_field"], FIELDS["lr"], 6, 0, 0],
    ]


def test_encoding_of_lookups_and_group_registers() -> None:
    b = Builder(3)
    b.table("shared", [1, 2, 3, 4])
    b.table("wide", [1, 2, 3, 4, 5, 6], width=3)
    x = b.group_register("x", [7, 8, 9])
    b.set_register("x", b.where(b.lookup("shared", 2), b.lookup("wide", x), x))
    program = b.finish("tables")
    assert dict(program.offsets) == {"x": 0, "2.0": 3, "shared": 4, "wide": 8}
    assert program.encode().tolist() == [
        [OP_CODES["load"], 3, 0, 0, 0],
        [OP_CODES["lookup"], 4, 0, 4, 1],
        [OP_CODES["load_group"], 0, 0, 0, 0],
        [OP_CODES["lookup"], 8, 2, 2, 3],
        [OP_CODES["where"], 1, 3, 2, 0],
        [OP_CODES["store_group"], 0, 4, 0, 0],
    ]
    memory = program.initial_memory(range(program.n_groups)).tolist()
    _advance_host(program, memory, _control([[0.0]] * 3))
    assert memory[:3] == [4.0, 5.0, 6.0]  # rows 7, 8 and 9 are outside: the nearest is row 1


def test_what_is_computed_twice_is_one_operation() -> None:
    b = Builder(1)
    lr = b.field("lr")
    b.set_field("lr", (lr + 1) * (b.field("lr") + 1) + b.const("1.0", 1.0))
    names = [op.name for op in b.finish("shared").operations]
    assert names == ["load", "field", "add", "mul", "add", "store_field"]


def test_what_is_written_back_unchanged_is_not_written() -> None:
    b = Builder(1)
    b.set_field("lr", b.field("lr"))
    b.set_register("x", b.register("x", 1.0))
    program = b.finish("nothing")
    assert not any(op.name.startswith("store") for op in program.operations)
    assert program.fields_written == frozenset()
    assert _small().finish("x").fields_written == {"lr"}


def test_structure_depends_on_operations_not_on_values() -> None:
    def build(gamma: float, epochs: list[float], n: int = 1, twice: bool = False) -> Program:
        b = Builder(n)
        b.table("epochs", epochs)
        lr = b.field("lr") * b.const("gamma", gamma) + b.lookup("epochs", 0)
        b.set_field("lr", lr * lr if twice else lr)
        return b.finish("structure")

    assert build(0.5, [1, 2]).structure == build(0.25, [3, 4]).structure
    assert build(0.5, [1, 2]).initial_memory([0]).tolist() != build(0.25, [3, 4]).initial_memory([0]).tolist()
    assert build(0.5, [1, 2]).structure != build(0.5, [1, 2], twice=True).structure
    assert hash(build(0.5, [1, 2]).structure) == hash(build(0.25, [3, 4]).structure)


@pytest.mark.parametrize("changed", ["constants", "table", "structure"])
def test_new_constants_are_taken_in_place(changed: str, host_backend: str) -> None:
    def build(gamma: float, rows: list[float]) -> Program:
        b = Builder(1)
        b.table("rows", rows)
        b.set_register("n", b.register("n", 0.0) + 1)
        b.set_field("lr", b.field("lr") * b.const("gamma", gamma) + b.lookup("rows", b.register("n", 0.0)))
        return b.finish("constants")

    schedule = _schedule(build(0.5, [1, 2, 3, 4]), host_backend, _control([[1.0]]))
    schedule.advance()
    address = schedule.memory.tensor.data_ptr()
    new = {
        "constants": build(0.25, [1, 2, 3, 4]),
        "table": build(0.5, [1, 2, 30, 4]),
        "structure": build(0.5, [1, 2, 3, 4, 5]),
    }[changed]
    assert schedule.take_constants(new) is (changed != "structure")
    schedule.advance()
    expected = {"constants": 2.5 * 0.25 + 3, "table": 2.5 * 0.5 + 30, "structure": 2.5 * 0.5 + 3}[changed]
    assert schedule.block.read(schedule.block.slot(0, "lr")) == expected
    assert schedule.read("n") == 2.0  # registers stay
    assert schedule.memory.tensor.data_ptr() == address


def test_python_operators() -> None:
    b = Builder(1)
    x, y = b.register("x", 7.5), b.register("y", -2.0)
    expressions = {
        "x + y": (x + y, 5.5), "1 + x": (1 + x, 8.5), "x - y": (x - y, 9.5), "1 - x": (1 - x, -6.5),
        "x * y": (x * y, -15.0), "3 * x": (3 * x, 22.5), "x / y": (x / y, -3.75), "15 / x": (15 / x, 2.0),
        "x ** y": (x**y, 7.5**-2.0), "2 ** y": (2**y, 0.25), "x % y": (x % y, 7.5 % -2.0), "x // y": (x // y, -4.0),
        "-x": (-x, -7.5), "abs(y)": (abs(y), 2.0), "x < y": (x < y, 0.0), "x <= 7.5": (x <= 7.5, 1.0),
        "x > y": (x > y, 1.0), "x >= 8": (x >= 8, 0.0), "x == 7.5": (x == 7.5, 1.0), "x != 7.5": (x != 7.5, 0.0),
        "and": ((x > 0) & (y > 0), 0.0), "or": ((x > 0) | (y > 0), 1.0), "not": (~(x > 0), 0.0),
        "where": (b.where(x > y, 4, 5), 4.0),
    }  # fmt: skip
    for name in expressions:
        b.register(name, math.nan)
    for name, (value, _) in expressions.items():
        b.set_register(name, value)
    program = b.finish("operators")
    memory = program.initial_memory(range(program.n_groups)).tolist()
    _advance_host(program, memory, _control([[0.0]]))
    assert {name: memory[program.offsets[name]] for name in expressions} == {k: v for k, (_, v) in expressions.items()}


def test_a_register_reads_as_it_was_last_set() -> None:
    b = Builder(1)
    b.set_register("n", b.register("n", 5.0) + 1)
    b.set_register("n", b.register("n", 5.0) * 2)
    program = b.finish("twice")
    memory = program.initial_memory(range(program.n_groups)).tolist()
    _advance_host(program, memory, _control([[0.0]]))
    assert memory[program.offsets["n"]] == 12.0
    assert sum(op.name == "store" for op in program.operations) == 1


# -- errors ------------------------------------------------------------------------------------------------


def test_errors_while_building() -> None:
    b = Builder(2)
    x = b.register("x", 1.0)
    with pytest.raises(TypeError, match=r"^a program value has no truth value .*: use where\(condition, a, b\)"):
        bool(x > 0)
    with pytest.raises(TypeError, match="no truth value"):
        _ = 0 < x < 3
    for act in (lambda: b.field("rate"), lambda: b.set_field("rate", 1.0)):
        with pytest.raises(ValueError, match=r"^field='rate' is not a control-block field; known are lr, weight_decay"):
            act()
    with pytest.raises(ValueError, match=r"^width=3 of table 't' must be 1 or the number of param groups \(2\)"):
        b.table("t", [1, 2, 3], width=3)
    with pytest.raises(ValueError, match=r"^register 'x' holds one number, but the value differs between param groups"):
        b.set_register("x", b.field("lr"))
    with pytest.raises(ValueError, match=r"^a value of another program was used"):
        _ = x + Builder(2).register("x", 1.0)
    with pytest.raises(ValueError, match=r"^'x' is declared twice in one program, as "):
        b.const("x", 1.0)
    with pytest.raises(ValueError, match=r"^'x' is declared twice in one program, as "):
        b.register("x", 2.0)
    for make in (b.const, b.group_register):
        with pytest.raises(ValueError, match=r"^'bases' has 3 values for 2 param groups; give one a group"):
            make("bases", [1, 2, 3])
    assert b._memory["x"] == Slot("register", (1.0,), False)
    assert "t" not in b._memory
    assert "bases" not in b._memory


def test_too_many_operations() -> None:
    def build(n: int) -> Program:
        b = Builder(1)
        lr = b.field("lr")
        for _ in range(n):
            lr = lr + lr
        b.set_field("lr", lr)
        return b.finish("long")

    assert len(build(MAX_OPERATIONS - 2).operations) == MAX_OPERATIONS
    with pytest.raises(ValueError, match=r"^program 'long' has 4097 operations; at most 4096 are supported"):
        build(MAX_OPERATIONS - 1)


def test_longest_program_runs(backend: str) -> None:
    b = Builder(1)
    lr = b.field("lr")
    for i in range(patience(backend, MAX_OPERATIONS) - 3):
        lr = lr + b.const("one", 1.0) if i % 2 else -lr
    b.set_field("lr", lr)
    program = b.finish("long")
    schedule = _schedule(program, backend, _control([[0.5]]))
    control = _control([[0.5]])
    _advance_host(program, program.initial_memory(range(program.n_groups)).tolist(), control)
    schedule.advance()
    assert schedule.block.read(schedule.block.slot(0, "lr")) == control[GROUPS_OFFSET]


def test_a_program_that_does_nothing(backend: str) -> None:
    schedule = _schedule(Builder(1).finish("empty"), backend, _control([[0.5]]))
    schedule.advance()
    assert schedule.block.read(schedule.block.slot(0, "lr")) == 0.5


@pytest.mark.parametrize(
    ("word", "change", "message"),
    [
        (0, {0: 99}, "has an unknown op code"),
        (0, {0: -1}, "has an unknown op code"),
        (2, {1: 2}, "uses a value that is not computed before it"),
        (2, {2: -1}, "uses a value that is not computed before it"),
        (0, {0: OP_CODES["field"]}, "depends on the group, but is among the operations that run once"),
        (0, {1: 5}, "reads or writes outside of the schedule's memory"),
        (0, {1: -1}, "reads or writes outside of the schedule's memory"),
        (5, {1: GROUP_STRIDE}, "names a field outside of the group's row"),
        (5, {1: -1}, "names a field outside of the group's row"),
        (6, {0: OP_CODES["lookup"], 1: 0, 2: 0, 3: 0, 4: 1}, "reads a table without rows"),
        (6, {0: OP_CODES["lookup"], 1: 0, 2: 0, 3: 1, 4: 3}, "whose width is not 1 or the number of groups"),
        (6, {0: OP_CODES["lookup"], 1: 0, 2: 0, 3: 3, 4: 2}, "reads or writes outside of the schedule's memory"),
        (6, {0: OP_CODES["lookup"], 1: 0, 2: 0, 3: 2**31 - 1, 4: 1}, "outside of the schedule's memory"),
        (6, {0: OP_CODES["lookup"], 1: 0, 2: 0, 3: 2, 4: 2}, "reads or writes the rows that the lanes drive"),
        (6, {0: OP_CODES["load_group"], 1: 4, 2: 0}, "reads or writes outside of the schedule's memory"),
        (6, {0: OP_CODES["load_group"], 1: 2, 2: 0}, "reads or writes the rows that the lanes drive"),
        (6, {0: OP_CODES["load"], 1: 4, 2: 0}, "reads or writes the rows that the lanes drive"),
        (4, {1: 3}, "reads or writes the rows that the lanes drive"),
        (7, {0: OP_CODES["store_group"], 1: 2}, "reads or writes the rows that the lanes drive"),
        (7, {0: OP_CODES["store"], 1: 0}, "writes one number, but is among the operations that run for each group"),
        (6, {1: 4}, "uses the value of a store"),
        (0, {2: 1}, "has a word that it does not use and that is not 0"),
        (4, {4: 1}, "has a word that it does not use and that is not 0"),
        (6, {0: OP_CODES["neg"], 2: -(2**31), 3: -(2**31)}, "has a word that it does not use and that is not 0"),
    ],
)
def test_cpp_refuses_code_that_would_touch_what_is_not_its_own(word: int, change: dict[int, int], message: str) -> None:
    _C = pytest.importorskip("fused_sched._C")
    program = _small().finish("broken")
    code = program.encode()
    _C.check_program(code, program.n_uniform, 5, 2, 3)
    for position, value in change.items():
        code[word, position] = value
    with pytest.raises(ValueError, match=rf"^operation {word} of the program .*{message}.*: encode the program again"):
        _C.check_program(code, program.n_uniform, 5, 2, 3)


# -- evaluation --------------------------------------------------------------------------------------------


@st.composite
def programs(draw: Any, libm: bool) -> tuple[Program, list[float]]:
    """A program and a control block for it.

    With ``libm``, such operations come last: were others applied to their results, a unit in the last
    place would decide a comparison or survive a cancellation.
    """
    n = draw(st.integers(1, 5))
    b = Builder(n)
    lists = st.lists(NUMBERS, min_size=n, max_size=n)
    values = [b.field(name) for name in draw(st.sets(st.sampled_from(["lr", "momentum", "beta1", "eps"]), min_size=1))]
    values += [b.register(f"r{i}", x) for i, x in enumerate(draw(st.lists(NUMBERS, min_size=1, max_size=3)))]
    values += [b.group_register(f"g{i}", x) for i, x in enumerate(draw(st.lists(lists, min_size=1, max_size=2)))]
    values += [b.const(f"c{i}", x) for i, x in enumerate(draw(st.lists(NUMBERS | lists, min_size=1, max_size=4)))]
    b.table("narrow", draw(st.lists(NUMBERS, min_size=1, max_size=5)))
    b.table("wide", [x for row in draw(st.lists(lists, min_size=1, max_size=4)) for x in row], width=n)
    pick = st.integers(0, 10**6)
    for name in draw(st.lists(st.sampled_from([*EXACT, "lookup narrow", "lookup wide"]), min_size=1, max_size=40)):
        if name.startswith("lookup"):
            values.append(b.lookup(name.split()[1], values[draw(pick) % len(values)]))
        else:
            values.append(b.op(name, *(values[draw(pick) % len(values)] for _ in range(OPERATIONS[name].operands))))
    last = values[-1:]
    if libm:
        last = [
            b.op(name, *(values[draw(pick) % len(values)] for _ in range(OPERATIONS[name].operands)))
            for name in draw(st.lists(st.sampled_from(LIBM), min_size=1, max_size=8))
        ]
    for i, value in enumerate(last):
        b.group_register(f"result{i}", [0.0] * n)
        b.set_register(f"result{i}", value)
    if not libm:
        for i in range(draw(st.integers(0, 3))):
            value = values[draw(pick) % len(values)]
            if value.uniform:
                b.register(f"u{i}", 0.0)
                b.set_register(f"u{i}", value)
            else:
                b.set_field(("lr", "dampening", "momentum")[i], value)
        b.set_register("r0", b.op("add", b.register("r0", b._memory["r0"].initial[0]), 1.0))
    control = [0.0] * GROUPS_OFFSET
    for _ in range(n):
        control += [draw(NUMBERS) if i < len(FIELDS) - 1 else 0.0 for i in range(GROUP_STRIDE)]
    return b.finish("random"), control


def _bits(x: float) -> str:
    return struct.pack(">d", x).hex()


def _compare(program: Program, control: list[float], backend: str, relative: float, advances: int) -> None:
    schedule = _schedule(program, backend, control)
    memory = program.initial_memory(range(program.n_groups)).tolist()
    advance = program.compile_host()
    for turn in range(advances):
        advance(memory, control)
        schedule.advance()
        found = schedule.memory.tensor.tolist() + schedule.block.tensor[: len(control)].tolist()
        for i, (a, b) in enumerate(zip(found, [*memory, *control], strict=True)):
            near = same_bits(a, b) or (relative and math.isclose(a, b, rel_tol=relative, abs_tol=1e-300))
            assert near, f"advance {turn}, slot {i}: {backend} {a!r} ({_bits(a)}), host {b!r} ({_bits(b)})\n{program}"


QUICK = settings(
    max_examples=250,
    deadline=None,
    derandomize=False,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


def _given(backend: str, seed: int, libm: bool, check: Any) -> None:
    budget = QUICK if patience(backend, 10) == 10 else settings(QUICK, max_examples=8)
    budget(starting_from(seed)(given(programs(libm=libm))(check)))()


@pytest.mark.thin
def test_random_programs_have_the_hosts_bits(backend: str, seed: int) -> None:
    _given(backend, seed, False, lambda case: _compare(case[0], list(case[1]), backend, 0.0, advances=3))


@pytest.mark.thin
def test_random_programs_with_libm_agree_with_the_host(backend: str, seed: int) -> None:
    _given(backend, seed, True, lambda case: _compare(case[0], list(case[1]), backend, SCHEDULE_RELATIVE, advances=1))


def test_every_operation_on_special_values(backend: str) -> None:
    """All pairs of special values at once: one param group for each pair."""
    specials = SPECIAL if patience(backend, 1000) == 1000 else SPECIAL[::4]
    pairs = [(a, b) for a in specials for b in specials]
    for name in ARITHMETIC:
        b = Builder(len(pairs))
        x, y = b.group_register("x", [p[0] for p in pairs]), b.group_register("y", [p[1] for p in pairs])
        b.group_register("z", [0.0] * len(pairs))
        b.set_register("z", b.op(name, *(x, y, x + y)[: OPERATIONS[name].operands]))
        program = b.finish(name)
        memory = program.initial_memory(range(program.n_groups)).tolist()
        _advance_host(program, memory, [0.0] * (GROUPS_OFFSET + GROUP_STRIDE * len(pairs)))
        schedule = _schedule(program, backend, []) if len(pairs) <= 1024 else None
        assert schedule is not None
        schedule.advance()
        rounded = name in LIBM
        found, expected = schedule.read_group("z"), memory[program.offsets["z"] :][: len(pairs)]
        for (a, c), ours, host in zip(pairs, found, expected, strict=True):
            near = same_bits(ours, host) or (rounded and math.isclose(ours, host, rel_tol=SCHEDULE_RELATIVE))
            assert near, f"{name}({a!r}, {c!r}) is {ours!r} on {backend}, {host!r} on the host"


def test_host_gives_pythons_results_where_python_has_one() -> None:
    """The host evaluator itself, against Python's operators."""
    pythons = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
        "mod": lambda a, b: a % b, "floordiv": lambda a, b: a // b, "min": min, "max": max, "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b, "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "pow": math.pow,
        "neg": lambda a: -a, "abs": abs, "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "cos": math.cos,
        "sin": math.sin,
        "tan": math.tan, "atan": math.atan, "tanh": math.tanh, "expm1": math.expm1, "log2": math.log2,
        "log10": math.log10, "log1p": math.log1p,
        "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "round": round,
        "not": lambda a: not a, "and": lambda a, b: bool(a and b), "or": lambda a, b: bool(a or b),
        "where": lambda a, b: b,
    }  # fmt: skip
    assert set(pythons) == set(ARITHMETIC)
    compared = 0
    for name, python in pythons.items():
        b = Builder(1)
        x, y = b.register("x", 0.0), b.register("y", 0.0)
        b.register("z", 0.0)
        b.set_register("z", b.op(name, *(x, y, y)[: OPERATIONS[name].operands]))
        program = b.finish(name)
        advance = program.compile_host()
        for a in SPECIAL:
            for c in SPECIAL:
                try:
                    expected = python(a) if OPERATIONS[name].operands == 1 else python(a, c)
                except (ArithmeticError, ValueError):
                    continue  # the next test has the IEEE values
                memory = [a, c, 0.0]
                advance(memory, [0.0] * 32)
                equal = memory[2] == float(expected) or (math.isnan(memory[2]) and math.isnan(expected))
                assert equal, f"{name}({a!r}, {c!r}) is {memory[2]!r}, Python has {expected!r}"
                compared += 1
    assert compared > 15_000


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("div", (1.0, 0.0), math.inf),
        ("div", (1.0, -0.0), -math.inf),
        ("div", (-1.0, 0.0), -math.inf),
        ("div", (0.0, 0.0), math.nan),
        ("mod", (5.0, 0.0), math.nan),
        ("mod", (math.inf, 2.0), math.nan),
        ("mod", (-7.0, 3.0), 2.0),
        ("mod", (7.0, -3.0), -2.0),
        ("mod", (-0.0, 3.0), 0.0),
        ("mod", (6.0, -3.0), -0.0),
        ("mod", (-1.0, math.inf), math.inf),
        ("floordiv", (7.0, -2.0), -4.0),
        ("floordiv", (1.0, 0.0), math.inf),
        ("floordiv", (0.0, 0.0), math.nan),
        ("floordiv", (math.inf, 2.0), math.nan),
        ("pow", (2.0, 1024.0), math.inf),
        ("pow", (-2.0, 1025.0), -math.inf),
        ("pow", (0.0, -1.0), math.inf),
        ("pow", (-0.0, -1.0), -math.inf),
        ("pow", (-0.0, -2.0), math.inf),
        ("pow", (-2.0, 0.5), math.nan),
        ("pow", (math.nan, 0.0), 1.0),
        ("sqrt", (-1.0,), math.nan),
        ("log", (0.0,), -math.inf),
        ("log", (-1.0,), math.nan),
        ("exp", (1000.0,), math.inf),
        ("expm1", (1000.0,), math.inf),
        ("expm1", (-0.0,), -0.0),
        ("log2", (0.0,), -math.inf),
        ("log2", (-1.0,), math.nan),
        ("log10", (-0.0,), -math.inf),
        ("log10", (-2.0,), math.nan),
        ("log1p", (-1.0,), -math.inf),
        ("log1p", (-1.5,), math.nan),
        ("log1p", (-0.0,), -0.0),
        ("tan", (math.inf,), math.nan),
        ("atan", (-math.nan,), math.nan),
        ("tanh", (-math.inf,), -1.0),
        ("cos", (math.inf,), math.nan),
        ("sin", (-math.inf,), math.nan),
        ("round", (0.5,), 0.0),
        ("round", (1.5,), 2.0),
        ("round", (-0.5,), -0.0),
        ("round", (2.5,), 2.0),
        ("trunc", (-0.5,), -0.0),
        ("floor", (-math.inf,), -math.inf),
        ("ceil", (math.nan,), math.nan),
        ("not", (math.nan,), 0.0),
        ("and", (math.nan, 1.0), 1.0),
        ("min", (1.0, math.nan), 1.0),
        ("min", (math.nan, 1.0), math.nan),
        ("max", (0.0, -0.0), 0.0),
        ("where", (math.nan, 1.0, 2.0), 1.0),
        ("where", (-0.0, 1.0, 2.0), 2.0),
    ],
)
def test_ieee_values_where_python_raises(name: str, operands: tuple[float, ...], expected: float, backend: str) -> None:
    b = Builder(1)
    b.register("z", 0.5)
    b.set_register("z", b.op(name, *(b.register(f"x{i}", x) for i, x in enumerate(operands))))
    program = b.finish(name)
    memory = program.initial_memory(range(program.n_groups)).tolist()
    _advance_host(program, memory, _control([[0.0]]))
    assert same_bits(memory[0], expected), memory[0]
    schedule = _schedule(program, backend, _control([[0.0]]))
    schedule.advance()
    assert same_bits(schedule.read("z"), expected), schedule.read("z")


def test_operations_of_numpy_are_rounded_as_numpy_does(host_backend: str, rng: random.Random) -> None:
    np = pytest.importorskip("numpy")
    functions = {"exp": np.exp, "tanh": np.tanh, "log10": np.log10, "atan": np.arctan}
    for name, function in functions.items():
        x = rng.uniform(0.1, 5)
        b = Builder(1)
        b.register("z", 0.5)
        value = b.register("x", x)
        b.set_register("z", b._append(Operation(name, (value.index,), NUMPY), uniform=True))
        program = b.finish(name)
        memory = program.initial_memory(range(program.n_groups)).tolist()
        _advance_host(program, memory, _control([[0.0]]))
        assert same_bits(memory[program.offsets["z"]], float(function(x))), (name, x)
        assert f"= {name} numpy %" in str(program)
        assert [OP_CODES[name], value.index, 0, 0, 0] in program.encode().tolist()
        schedule = _schedule(program, host_backend, _control([[0.0]]))
        schedule.advance()
        assert math.isclose(schedule.read("z"), float(function(x)), rel_tol=SCHEDULE_RELATIVE)


def test_count_below_is_bisect_left(rng: random.Random) -> None:
    for rows in [*range(1, 18), 31, 32, 33, 100]:
        table = sorted(rng.choice([rng.uniform(-5, 5), float(rng.randint(-5, 5))]) for _ in range(rows))
        b = Builder(1)
        b.table("table", table)
        b.register("count", 0.0)
        b.set_register("count", b.count_below("table", rows, b.register("value", 0.0)))
        program = b.finish("search")
        advance = program.compile_host()
        for value in [*table, -100.0, 100.0, *(rng.uniform(-6, 6) for _ in range(20))]:
            memory = program.initial_memory(range(program.n_groups)).tolist()
            memory[program.offsets["value"]] = value
            advance(memory, [0.0] * 32)
            assert memory[program.offsets["count"]] == bisect.bisect_left(table, value)


def test_groups_do_not_see_each_others_writes(backend: str) -> None:
    """A register of one group, a field and a uniform register, all read before any is written."""
    b = Builder(3)
    n, x = b.register("n", 1.0), b.group_register("x", [10.0, 20.0, 30.0])
    lr = b.field("lr")
    b.set_register("n", n * 2)
    b.set_register("x", x + lr + n)
    b.set_field("lr", x - lr * n)
    b.set_field("momentum", n)
    schedule = _schedule(b.finish("swap"), backend, _control([[1.0], [2.0], [3.0]]))
    for _ in range(2):
        schedule.advance()
    # first: x = 12, 23, 34; lr = 9, 18, 27; second, with n = 2: x = 23, 43, 63; lr = 12-18, 23-36, 34-54
    assert schedule.read_group("x") == [23.0, 43.0, 63.0]
    assert [schedule.block.read(schedule.block.slot(g, "lr")) for g in range(3)] == [-6.0, -13.0, -20.0]
    assert [schedule.block.read(schedule.block.slot(g, "momentum")) for g in range(3)] == [2.0, 2.0, 2.0]
    assert schedule.read("n") == 4.0


def test_guarded_schedule_stands_still_after_a_skipped_update(backend: str, mirrored: bool) -> None:
    for guarded in (False, True):
        schedule = _schedule(_small().finish("guarded"), backend, _control([[1.0], [2.0]]), guarded=guarded)
        schedule.block.integers[0] = 1
        schedule.advance()
        assert schedule.read("last_epoch") == (3.0 if guarded else 4.0)
        assert schedule.block.read(schedule.block.slot(1, "lr")) == (2.0 if guarded else 1.0)
        schedule.block.integers[0] = 0
        schedule.advance()
        assert schedule.read("last_epoch") == (4.0 if guarded else 5.0)


def test_operation_text() -> None:
    assert str(Operation("add", (1, 2))) == "add %1 %2"
    assert str(Operation("lookup", (3,), "table")) == "lookup table %3"
