"""Float64 functions as the Triton backend compiles them are within two units in the last place of the exact value.

The inputs are those that schedules have, and wider ones. The reference is mpmath, with twice the digits.
"""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import mpmath
import pytest
import torch

pytest.importorskip("triton")

from fused_sched.kernels.program_source import EXPRESSIONS
from fused_sched.memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.program.operations import OPERATIONS
from ptx import Kernel, perturb
from ptx.compile_triton import LANES, operation
from ptx.compiled import triton_ptx
from ptx.inputs import INPUTS, decayed

pytestmark = pytest.mark.slow

MOST_UNITS = 2.0
SAMPLES = 8 * LANES
INEXACT = ("pow", "exp", "expm1", "log", "log2", "log10", "log1p", "cos", "sin", "tan", "atan", "tanh")
CASES = [(name, what) for name, sets in INPUTS.items() for what in sets]


def _exact(name: str, values: tuple[float, ...]) -> Any:
    function = {"pow": mpmath.power}.get(name) or getattr(mpmath, name, None)
    if name == "log2":
        return mpmath.log(values[0], 2)
    if function is None:
        raise AssertionError(f"mpmath has no {name}")
    return function(*(mpmath.mpf(v) for v in values))


def _on_device(kernel: Kernel, name: str, values: list[tuple[float, ...]]) -> list[float]:
    """The function of each, by one lane each."""
    program = operation(name)
    control = torch.zeros(GROUPS_OFFSET + LANES * GROUP_STRIDE, dtype=torch.float64)
    results: list[float] = []
    for start in range(0, len(values), LANES):
        memory = program.initial_memory(range(program.n_groups))
        for k, operand in enumerate(("x", "y")[: OPERATIONS[name].operands]):
            at = program.offsets[operand]
            memory[at : at + LANES] = torch.tensor([v[k] for v in values[start : start + LANES]], dtype=torch.float64)
        schedules = torch.tensor([memory.data_ptr()])
        scratch = len(kernel.translation.parameters) - 2
        kernel(1, [control.data_ptr(), schedules.data_ptr(), *[0] * scratch])
        results += control[GROUPS_OFFSET + FIELDS["lr"] :: GROUP_STRIDE].tolist()[:LANES]
    return results


def _units(got: float, exact: Any) -> float:
    """Distance in units of the last place of the exact value."""
    return float(abs((mpmath.mpf(got) - exact) / math.ulp(float(exact))))


def _kernel(name: str) -> Kernel:
    ptx, shared = triton_ptx("operation", *INPUTS)[name]
    return Kernel(ptx, dynamic_shared=shared)


def test_every_inexact_function_is_tried() -> None:
    assert set(INPUTS) == set(INEXACT) <= set(EXPRESSIONS)


@pytest.mark.parametrize(("name", "what"), CASES)
def test_within_two_units(name: str, what: str, rng: random.Random) -> None:
    values = [INPUTS[name][what](rng) for _ in range(SAMPLES)]
    got = _on_device(_kernel(name), name, values)
    with mpmath.workdps(60):
        units = [_units(g, _exact(name, v)) for g, v in zip(got, values, strict=True)]
    worst = max(range(SAMPLES), key=lambda i: units[i])
    assert units[worst] <= MOST_UNITS, f"{name}{values[worst]} = {got[worst]!r} is off by {units[worst]:.2f} units"


def test_what_approximate_instructions_give_is_refined(rng: random.Random) -> None:
    """A unit more or less in them, as hardware may have it, does not matter."""
    values = [decayed(rng) for _ in range(LANES)]
    kernel = _kernel("pow")
    plain = _on_device(kernel, "pow", values)
    for units in (-1, 1):
        perturb(units)
        try:
            moved = _on_device(kernel, "pow", values)
        finally:
            perturb(0)
        with mpmath.workdps(60):
            assert max(_units(g, _exact("pow", v)) for g, v in zip(moved, values, strict=True)) <= MOST_UNITS
    assert plain == _on_device(kernel, "pow", values)


def test_a_wrong_bit_is_seen() -> None:
    x = 0.1
    third = struct.unpack("<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", math.exp(x)))[0] + 3))[0]
    with mpmath.workdps(60):
        assert _units(third, _exact("exp", (x,))) > MOST_UNITS
