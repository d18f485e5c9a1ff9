"""Prints the PTX of kernels of the Triton backend, as JSON: name to text and bytes of dynamic shared memory.

    python compile_triton.py update RULE EXTRA GROUPS DTYPES... | operation NAME...

An update with GROUPS other than 0 has a fused schedule for so many groups, see :func:`momentum`.

A process of its own, because kernels that are to be compiled cannot be made where TRITON_INTERPRET=1 was read.
"""

from __future__ import annotations

import json
import sys

import torch
from triton.backends.compiler import GPUTarget

from fused_sched.kernels import variants
from fused_sched.kernels.launcher import compile_kernel
from fused_sched.kernels.program_source import advance_function
from fused_sched.memory.parameter_table import kind_code
from fused_sched.program.builder import Builder
from fused_sched.program.program import OPERATIONS, Program

TARGET = GPUTarget("cuda", 90, 32)
LANES = 128  # one for each thread


def operation(name: str) -> Program:
    """The lr of each of 128 groups becomes an operation on two constants of the group; and epochs are counted."""
    b = Builder(LANES)
    b.set_register("last_epoch", b.register("last_epoch", 0) + 1)
    operands = [b.const("x", [0.0] * LANES), b.const("y", [0.0] * LANES)]
    b.set_field("lr", b.op(name, *operands[: OPERATIONS[name]]))
    return b.finish(name)


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
        kernels = {name: variants.advance(advance_function([(operation(name), False)])) for name in given}
    compiled = {name: compile_kernel(kernel, TARGET) for name, kernel in kernels.items()}
    print(json.dumps({name: [c.asm["ptx"], c.metadata.shared] for name, c in compiled.items()}))


if __name__ == "__main__":
    main()
