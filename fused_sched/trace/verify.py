"""A traced program is not trusted before it has equalled the real function, bit for bit, at many steps."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..program.builder import Builder
from .emit import Form, emit_form
from .explore import Explorer, Untraceable

DENSE = 1000  # every step up to here
AROUND = 8  # steps on both sides of each threshold and constant
FARTHEST = 10**7
MOST_AROUND = 1500
SECONDS = 0.03  # the function may be slow: what is left of the dense part is thinned out after this long


def compile_form(form: Form) -> Callable[[float], tuple[float, ...] | None]:
    """The form as the host evaluates it: results, or None where it traps."""
    b = Builder(1)
    step = b.register("step", 0.0)
    values, trapped = emit_form(b, [form], {"step": lambda: step})
    for k, value in enumerate(values):
        b.register(f"result{k}", 0.5)
        b.set_register(f"result{k}", value)
    b.register("trapped", 0.0)
    if trapped is not None:
        b.set_register("trapped", trapped)
    program = b.finish("traced")
    advance = program.compile_host()
    initial: list[float] = program.initial_memory([0]).tolist()
    at = program.offsets["step"]
    outputs, flag = [program.offsets[f"result{k}"] for k in range(len(values))], program.offsets["trapped"]

    def run(x: float) -> tuple[float, ...] | None:
        memory = initial.copy()
        memory[at] = x
        advance(memory, [])
        return None if memory[flag] else tuple(memory[k] for k in outputs)

    return run


def steps_to_check(explorer: Explorer, sparse: bool) -> tuple[list[int], list[int]]:
    """Steps that must be checked, and those that are checked while time lasts."""
    horizon = explorer.horizon
    centres = sorted(p for p in explorer.points if p <= horizon)
    centres += sorted(int(c) for c in explorer.constants if 0 <= c <= horizon and c.is_integer())
    must = set(range(33))
    for centre in centres:
        around = range(max(0, centre - AROUND), min(horizon, centre + AROUND) + 1)
        must.update(around if len(must) < MOST_AROUND else (centre,))
    spread = {int(1.12**k) for k in range(10, 143)}
    generator = random.Random(0)
    spread.update(generator.randrange(FARTHEST) for _ in range(20 if sparse else 150))
    spread.update((FARTHEST, 2**24 + 1, 2**31 - 1, 2**31, 2**31 + 1))
    rest = [] if sparse else [x for x in range(33, DENSE) if x not in must]
    return sorted(must | {x for x in spread if x <= horizon}), rest


def check(form: Form, function: Callable[[int], Any], explorer: Explorer, sparse: bool) -> int:
    """Compare with the function; the number of steps compared.

    Raises:
        Untraceable: they differ somewhere.
    """
    program = compile_form(form)
    must, rest = steps_to_check(explorer, sparse)
    start, compared = time.perf_counter(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (must, rest):
            stride = 1
            for i, x in enumerate(part):
                if part is rest and i % 64 == 0 and time.perf_counter() - start > SECONDS:
                    stride = 16
                if i % stride == 0:
                    _compare(program(float(x)), expected_of(function, x), f"step {x}")
                    compared += 1
    return compared


def expected_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, as floats; None where it raises."""
    try:
        result = function(*arguments)
    except Exception:
        return None
    return as_floats(result)


def as_floats(result: Any) -> Any:
    """A number, or a list or tuple of numbers, as a tuple of floats; what is neither, as it is."""
    values = result if isinstance(result, (tuple, list)) else (result,)
    try:
        return tuple(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        return result


def _compare(found: tuple[float, ...] | None, expected: Any, when: str) -> None:
    if not same(found, expected):
        shown = ["an exception" if x is None else _show(x) for x in (found, expected)]
        raise Untraceable(f"at {when} its program gives {shown[0]}, but the function {shown[1]}")


def _show(values: Any) -> str:
    return ", ".join(map(repr, values)) if isinstance(values, tuple) else repr(values)


def same(found: Sequence[float] | None, expected: Any) -> bool:
    """Equal bits; a NaN equals a NaN."""
    if found is None or expected is None:
        return found is expected
    if type(expected) is not tuple or len(found) != len(expected):
        return False
    return all(_same_bits(a, b) for a, b in zip(found, expected, strict=True))


def _same_bits(a: float, b: float) -> bool:
    if a == b:
        return a != 0.0 or math.copysign(1.0, a) == math.copysign(1.0, b)
    return a != a and b != b
