"""Programs as generated Triton source: one line for each operation, no file on disk.

Uniform operations are scalars, the others blocks of lanes, one lane for each param group, which are looped over
where there are many. Constants stay in the schedule's memory, so a new value compiles nothing; offsets and table
sizes are part of the structure and stand in the source. All reads come before a barrier and all writes after it,
because a scalar is written by one thread while others may still be reading. In a loop this is so in each turn:
a lane reads and writes its own numbers and its own row, and the scalars, which all lanes may read, are written
after the last turn.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from ..kernels import fields, numerics
from ..memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET
from ..program.operations import FIELD_OPERATIONS

if TYPE_CHECKING:
    from ..program.program import Operation, Program

EXPRESSIONS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "pow": "power({0}, {1})",
    "mod": "python_mod({0}, {1})",
    "floordiv": "python_floordiv({0}, {1})",
    "min": "tl.where({1} < {0}, {1}, {0})",
    "max": "tl.where({1} > {0}, {1}, {0})",
    "lt": "({0} < {1}).to(tl.float64)",
    "le": "({0} <= {1}).to(tl.float64)",
    "eq": "({0} == {1}).to(tl.float64)",
    "ne": "({0} != {1}).to(tl.float64)",
    # not & and |: the interpreter cannot broadcast truth values
    "and": "tl.where({0} != 0.0, tl.where({1} != 0.0, 1.0, 0.0), 0.0).to(tl.float64)",
    "or": "tl.where({0} != 0.0, 1.0, tl.where({1} != 0.0, 1.0, 0.0)).to(tl.float64)",
    "not": "({0} == 0.0).to(tl.float64)",
    "neg": "{0} * -1.0",  # Triton 3.6 computes -x as 0 - x, with the wrong zero
    "abs": "tl.abs({0})",
    "sqrt": "tl.sqrt({0})",
    "exp": "tl.exp({0})",
    "expm1": "expm1({0})",
    "log": "tl.log({0})",
    "log2": "log2({0})",
    "log10": "log10({0})",
    "log1p": "log1p({0})",
    "cos": "tl.cos({0})",
    "sin": "tl.sin({0})",
    "tan": "tan({0})",
    "atan": "atan({0})",
    "tanh": "tanh({0})",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "trunc": "truncate({0})",
    "round": "round_even({0})",
    "where": "tl.where({0} != 0.0, {1}, {2})",
}
_LIBM = ("expm1", "log2", "log10", "log1p", "tan", "atan", "tanh")
_FIELD_FUNCTIONS = ("bound_field", "store_bound")
_FUNCTIONS = ("power", "python_mod", "python_floordiv", "truncate", "round_even", "table_row", *_LIBM)
_STORES = ("store", "store_group", "store_field", "store_bound")
MOST_LANES = 128  # at a time
_known: dict[str, Any] = {}


def _place(program: Program, op: Operation) -> tuple[str, bool]:
    """Where a load or store goes, and whether that is a block of lanes."""
    assert op.symbol is not None
    if op.name in FIELD_OPERATIONS:
        return f"fields + {FIELDS[op.symbol]}", True
    offset = f"memory + {program.offsets[op.symbol]}"
    return (f"{offset} + lanes", True) if op.name in ("load_group", "store_group") else (offset, False)


def _lookup(program: Program, op: Operation, row: str, uniform: bool) -> str:
    assert op.symbol is not None
    slot = program.memory[op.symbol]
    last = len(slot.initial) // slot.width - 1
    place = f"memory + {program.offsets[op.symbol]} + table_row({row}, {float(last)!r}) * {slot.width}"
    if slot.width > 1:
        place += " + lanes"
    return f"tl.load({place})" if uniform else f"tl.load({place} + no_lanes, mask=inside, other=0.0)"


def program_source(program: Program) -> str:
    """Source of ``name(control, memory)``, where the name depends on the rest of the source."""
    n, once = program.n_groups, program.n_uniform
    loads, stores = _lines(program, range(once))
    lane_loads, lane_stores = _lines(program, range(once, len(program.operations)))
    if n > MOST_LANES:
        turn = [*_lanes(program, MOST_LANES, "first + "), *lane_loads, "tl.debug_barrier()", *lane_stores]
        loop = [f"for first in range(0, {n}, {MOST_LANES}):", *(f"    {line}" for line in turn)]
        lines = [*loads, *loop, *stores]
    else:
        lanes = _lanes(program, triton.next_power_of_2(max(n, 1)))
        lines = [*lanes, *loads, *lane_loads, "tl.debug_barrier()", *stores, *lane_stores]
    body = "".join(f"    {line}\n" for line in lines)
    return f"def program_{_digest(body)}(control, memory):\n{body}"


def _lanes(program: Program, count: int, first: str = "") -> list[str]:
    return [
        f"lanes = {first}tl.arange(0, {count})",
        f"inside = lanes < {program.n_groups}",
        "no_lanes = lanes * 0",
        f"rows = tl.load(memory + {program.rows_offset} + lanes, mask=inside, other=0.0).to(tl.int64)",
        f"fields = control + {GROUPS_OFFSET} + rows * {GROUP_STRIDE}",
    ]


def _lines(program: Program, positions: range) -> tuple[list[str], list[str]]:
    """Lines of some operations: what is computed, and what is stored."""
    lines, stores = [], []
    for i in positions:
        op = program.operations[i]
        a = [f"v{k}" for k in op.operands]
        if op.name in _STORES:
            place, block = _place(program, op)
            if op.name == "store_bound":
                stores.append(f"store_bound({place}, {a[0]}, inside)")
            else:
                stores.append(f"tl.store({place}, {a[0]}" + (", mask=inside)" if block else ")"))
        elif op.name == "lookup":
            lines.append(f"v{i} = " + _lookup(program, op, a[0], i < program.n_uniform))
        elif op.symbol is not None and op.name not in EXPRESSIONS:
            place, block = _place(program, op)
            if op.name == "bound_field":
                lines.append(f"v{i} = bound_field({place}, inside)")
            else:
                lines.append(f"v{i} = tl.load({place}" + (", mask=inside, other=0.0)" if block else ")"))
        else:
            lines.append(f"v{i} = " + EXPRESSIONS[op.name].format(*a))
    return lines, stores


def advance_source(programs: Sequence[tuple[Program, bool]]) -> tuple[str, list[str]]:
    """Source of ``name(control, schedules, skipped)`` and of the programs it calls.

    Args:
        programs: each program, and whether it stands still when the update was ``skipped``.
    """
    body, sources = "", []
    for i, (program, guarded) in enumerate(programs):
        sources.append(program_source(program))
        call = f"{_name(sources[-1])}(control, tl.load(schedules + {i}).to(tl.pointer_type(tl.float64)))"
        if i > 0:
            body += "    tl.debug_barrier()\n"
        body += f"    if skipped == 0:\n        {call}\n" if guarded else f"    {call}\n"
    return f"def advance_{_digest(body)}(control, schedules, skipped):\n{body}", sources


def advance_function(programs: Sequence[tuple[Program, bool]]) -> Any:
    """The jitted function of :func:`advance_source`; the same object for the same source."""
    source, parts = advance_source(programs)
    if source not in _known:
        functions = {_name(part): _jit(part, _namespace()) for part in parts}
        _known[source] = _jit(source, {"tl": tl, **functions})
    return _known[source]


def _namespace() -> dict[str, Any]:
    functions = {name: getattr(numerics, name) for name in _FUNCTIONS}
    return {"tl": tl, **functions, **{name: getattr(fields, name) for name in _FIELD_FUNCTIONS}}


def _jit(source: str, namespace: dict[str, Any]) -> Any:
    if source not in _known:
        name = _name(source)
        file = f"<fused_sched {name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        namespace["__name__"] = "fused_sched.generated"
        exec(compile(source, file, "exec"), namespace)  # noqa: S102 - the source is written above, from op codes
        _known[source] = triton.jit(namespace[name])
    return _known[source]


def _name(source: str) -> str:
    return source[len("def ") : source.index("(")]


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
