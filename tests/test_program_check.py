"""Encoded programs that nobody encoded: what the checker accepts is safe to run, and the rest it refuses.

The proof ``sanitizers`` runs this with C++ code that stops at any access beside a program's own memory.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch
from schedule_twins import same_bits

from fused_sched.memory.control_block import BOUND, GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.program.operations import ARITHMETIC, FIELD_OPERATIONS, OP_CODES, OPERATIONS, host_function
from fused_sched.program.program import CODE_WIDTH

_C: Any = pytest.importorskip("fused_sched._C", reason="the C++ extension has the checker")

PROGRAMS = int(os.environ.get("FUSED_SCHED_TEST_PROGRAMS", "3000"))
NAMES = tuple(OPERATIONS)
FIELD_STORES = ("store_field", "store_bound")
LIBM = {"pow", "exp", "expm1", "log", "log2", "log10", "log1p", "cos", "sin", "tan", "atan", "tanh"}
EXACT = tuple(name for name in ARITHMETIC if name not in LIBM)
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.0, 7.0, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan")]
EXTREMES = [-(2**31), -(2**31) + 1, -1, 0, 1, 2, 3, 15, 16, 41, 42, 4096, 65536, 2**30, 2**31 - 1]


class Case:
    """An encoded program, mostly sound, with a memory and a control block that have not one number too many."""

    def __init__(self, rng: random.Random) -> None:
        self.n_lanes = rng.choice([0, 1, 1, 2, 3, 5])
        self.rows_offset = rng.randint(1, 24)
        self.size = self.rows_offset + self.n_lanes + rng.choice([0, 0, 1, 6])
        self.code: list[list[int]] = []
        self._values: list[int] = []
        self._arithmetic = ARITHMETIC if rng.random() < 0.25 else EXACT
        once, each = rng.randint(0, 10), rng.randint(0, 10)
        for _ in range(once):
            self._append(rng, once=True)
        self.n_uniform = len(self.code)
        for _ in range(each):
            self._append(rng, once=False)
        self.n_rows = self.n_lanes + rng.randint(0, 3)
        self.rows = rng.sample(range(self.n_rows), self.n_lanes)

    def _append(self, rng: random.Random, once: bool) -> None:
        names = ["load", "lookup", "store", *self._arithmetic]
        if not once:
            names = [
                "load",
                "load_group",
                "field",
                "bound_field",
                "lookup",
                "store_group",
                *FIELD_STORES,
                *self._arithmetic,
            ]
        name = rng.choice(names)
        if OPERATIONS[name].operands and not self._values:
            name = "load"
        value = rng.choice(self._values) if OPERATIONS[name].operands else 0
        words = [OP_CODES[name], *(rng.choice(self._values) for _ in range(OPERATIONS[name].operands)), 0, 0, 0]
        if name in FIELD_OPERATIONS:
            words = [OP_CODES[name], rng.randrange(BOUND), value, 0, 0]
        elif name == "lookup":
            width = 1 if once or self.n_lanes == 0 else rng.choice([1, self.n_lanes])
            rows = rng.randint(1, 4)
            words = [OP_CODES[name], self._offset(rng, rows * width), value, rows, width]
        elif name not in ARITHMETIC:
            length = self.n_lanes if name.endswith("group") else 1
            words = [OP_CODES[name], self._offset(rng, length), value, 0, 0]
        if not name.startswith("store"):
            self._values.append(len(self.code))
        self.code.append(words[:CODE_WIDTH])

    def _offset(self, rng: random.Random, length: int) -> int:
        return rng.randint(0, max(0, self.rows_offset - length))

    def mutate(self, rng: random.Random) -> None:
        """Change a word or two, or how much of everything there is; what results may be sound all the same."""
        for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
            if self.code and rng.random() < 0.85:
                word, place = rng.choice(self.code), rng.randrange(CODE_WIDTH)
                word[place] = rng.choice([word[place] + rng.choice([-1, 1]), rng.choice(EXTREMES), rng.randrange(32)])
                word[place] = max(-(2**31), min(2**31 - 1, word[place]))
            else:
                self.n_uniform = max(0, min(len(self.code), self.n_uniform + rng.choice([-1, 1])))
                self.rows_offset = max(0, self.rows_offset + rng.choice([0, 0, -1, 1, -9]))
                self.size = max(1, self.size + rng.choice([0, 0, -1, 1]))

    def accepted(self, code: torch.Tensor) -> bool:
        try:
            _C.check_program(code, self.n_uniform, self.size, self.n_lanes, self.rows_offset)
        except ValueError:
            return False
        return True


def by_hand(case: Case, memory: list[float], control: list[float]) -> None:
    """One advance, as the words say it."""
    values: list[float] = [float("nan")] * len(case.code)

    def run(i: int, lane: int, row: int) -> None:
        op, a, b, c, width = case.code[i]
        name = NAMES[op]
        if name in ARITHMETIC:
            values[i] = host_function(name)(*(values[k] for k in (a, b, c)[: OPERATIONS[name].operands]))
        elif name == "lookup":
            x = values[b]
            place = int(min(max(x, 0.0), c - 1.0)) if x == x else 0
            values[i] = memory[a + place * width + (lane if width > 1 else 0)]
        elif name.startswith("store"):
            target = control if name in FIELD_STORES else memory
            target[a + {"store": 0, "store_group": lane}.get(name, row)] = values[b]
        else:
            source = control if name in FIELD_OPERATIONS else memory
            values[i] = source[a + {"load": 0, "load_group": lane}.get(name, row)]

    for i in range(case.n_uniform):
        run(i, 0, 0)
    for lane in range(case.n_lanes):
        row = GROUPS_OFFSET + int(memory[case.rows_offset + lane]) * GROUP_STRIDE
        for i in range(case.n_uniform, len(case.code)):
            run(i, lane, row)


def run_both(case: Case, code: torch.Tensor, rng: random.Random) -> bool:
    """Advance in C++, and by hand where that has the same bits; whether it has."""
    memory = [rng.choice(NUMBERS) for _ in range(case.size)]
    memory[case.rows_offset : case.rows_offset + case.n_lanes] = map(float, case.rows)
    control = [0.0] * GROUPS_OFFSET
    for _ in range(case.n_rows):  # no field follows a tensor
        control += [*(rng.choice(NUMBERS) for _ in range(BOUND)), *[0.0] * (GROUP_STRIDE - BOUND)]
    found = [torch.tensor(x, dtype=torch.float64) for x in (memory, control)]
    _C.advance(found[1], (code, case.n_uniform, found[0], case.n_lanes, case.rows_offset, 0))
    if LIBM & {NAMES[word[0]] for word in case.code}:
        return False
    by_hand(case, memory, control)
    for tensor, expected in zip(found, (memory, control), strict=True):
        for k, (a, b) in enumerate(zip(tensor.tolist(), expected, strict=True)):
            assert same_bits(a, b), f"number {k} is {a!r}, by hand {b!r}; {vars(case)}"
    return True


def test_what_the_checker_accepts_can_run_on_the_cpu(rng: random.Random) -> None:
    sound = mutated = compared = 0
    for _ in range(PROGRAMS):
        case = Case(rng)
        before = vars(case) | {"code": [word.copy() for word in case.code]}
        case.mutate(rng)
        code = torch.tensor(case.code, dtype=torch.int32).reshape(-1, CODE_WIDTH)
        if case.accepted(code):
            sound += 1
            mutated += vars(case) != before
            compared += run_both(case, code, rng)
    print(f"of {PROGRAMS} programs {sound} were accepted, {mutated} of them mutated; {compared} were compared")
    assert sound > PROGRAMS / 4
    assert mutated > PROGRAMS / 20
    assert compared > PROGRAMS / 5
    assert sound < PROGRAMS * 0.9


def test_mere_noise_is_refused_on_the_cpu(rng: random.Random) -> None:
    accepted = 0
    for _ in range(PROGRAMS):
        case = Case(rng)
        case.code = [[rng.choice([*EXTREMES, rng.randrange(48)]) for _ in range(CODE_WIDTH)] for _ in range(3)]
        case.n_uniform = rng.randint(0, 3)
        code = torch.tensor(case.code, dtype=torch.int32)
        if case.accepted(code):
            accepted += 1
            run_both(case, code, rng)
    assert accepted < PROGRAMS / 10


def test_unused_words_of_a_program_are_not_read_on_the_cpu() -> None:
    """They are refused; and if nobody asked the checker, they are not followed either."""
    code = torch.tensor([[0, 0, 0, 0, 0], [OP_CODES["not"], 0, -(2**31), -(2**31), 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match="has a word that it does not use and that is not 0"):
        _C.check_program(code, 2, 1, 0, 1)
    memory = torch.zeros(1, dtype=torch.float64)
    _C.advance(torch.zeros(GROUPS_OFFSET, dtype=torch.float64), (code, 2, memory, 0, 1, 0))
