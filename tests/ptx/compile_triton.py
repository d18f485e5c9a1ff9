"""Prints the PTX of kernels of the Triton backend, as JSON: name to text and bytes of dynamic shared memory.

    python compile_triton.py update RULE EXTRA GROUPS DTYPES... | operation NAME... | function NAME...

An update with GROUPS other than 0 has a fused schedule for so many groups, see :func:`momentum`. A function is one of
``trace_cases``, or for a number the random function with that seed.

A process of its own, because kernels that are to be compiled cannot be made where TRITON_INTERPRET=1 was read.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from triton.backends.compiler import GPUTarget

from fused_sched.kernels import variants
from fused_sched.kernels.launcher import compile_kernel
from fused_sched.kernels.program_source import advance_function
from fused_sched.memory.parameter_table import kind_code
from fused_sched.program.builder import Builder
from fused_sched.program.operations import OPERATIONS
from fused_sched.program.program import Program
from fused_sched.trace import Traced, trace
from fused_sched.trace.function import emit

TARGET = GPUTarget("cuda", 90, 32)
LANES = 128  # one for each thread


def operation(name: str) -> Program:
    """The lr of each of 128 groups becomes an operation on constants of the group; and epochs are counted."""
    b = Builder(LANES)
    b.set_register("last_epoch", b.register("last_epoch", 0) + 1)
    operands = [b.const(letter, [0.0] * LANES) for letter in "xyz"]
    b.set_field("lr", b.op(name, *operands[: OPERATIONS[name].operands]))
    return b.finish(name)


def function(name: str) -> Callable[[int], Any]:
    """A function of the step."""
    if not name.isdigit():
        return import_module("trace_cases").IMAGINED[name]  # type: ignore[no-any-return]
    source = import_module("random_functions").Writer(random.Random(int(name))).module()
    namespace: dict[str, Any] = {"__name__": f"function_{name}"}
    exec(compile(source, f"<function {name}>", "exec"), namespace)  # noqa: S102
    return namespace["schedule"]  # type: ignore[no-any-return]


def of_steps(traced: Traced) -> Program:
    """The lr of each of 128 groups becomes a function of a step of the group's own, the momentum whether it raises."""
    b = Builder(LANES)
    step = b.const("x", [0.0] * LANES)
    values, trap = emit(b, [traced.outcome], {"step": step})
    b.set_field("lr", values[0])
    b.set_field("momentum", b.number(0.0) if trap is None else trap)
    return b.finish(traced.name)


def momentum(n_groups: int) -> Program:
    """The momentum of each group is halved."""
    b = Builder(n_groups)
    b.set_field("momentum", b.field("momentum") * b.const("half", 0.5))
    return b.finish("momentum")


def _update(rule: str, extra: str, n_groups: str, *dtypes: str) -> dict[str, variants.Kernel]:
    kind = kind_code(*(getattr(torch, d) for d in dtypes))
    advance = advance_function([(momentum(int(n_groups)), False)]) if n_groups != "0" else None
    options = variants.Options(rule, extra == "1", guarded=True, advance=advance)
    return {"update": variants.update(kind, options)}


def main() -> None:
    what, *given = sys.argv[1:]
    if what == "update":
        kernels = _update(*given)
    else:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        programs = {n: operation(n) if what == "operation" else of_steps(trace(function(n))) for n in given}
        kernels = {name: variants.advance(advance_function([(p, False)])) for name, p in programs.items()}
    compiled = {name: compile_kernel(kernel, TARGET) for name, kernel in kernels.items()}
    print(json.dumps({name: [c.asm["ptx"], c.metadata.shared] for name, c in compiled.items()}))


if __name__ == "__main__":
    main()
