"""What the compiler makes of the Triton kernels, for GPUs that need not be there.

    python benchmarks/codegen.py
    python benchmarks/codegen.py --arch sm_90 gfx942 --json codegen.json

A row is one kernel on one architecture. ``loads`` and ``stores`` count global accesses by bytes
(``16x4``: four of 16 bytes); ``/element`` is machine instructions of the aligned path for each element;
``formed fma`` are float64 multiply-adds that the compiler made of separate operations; ``chain``: so many global
loads wait for one another before an update kernel touches the data. Programs are compiled as
``scheduler.step()`` runs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled

import torch

from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, MultiStepLR
from fused_sched.memory.parameter_table import kind_code
from fused_sched.optim import SGD
from fused_sched.program.builder import Builder
from fused_sched.program.program import Program
from fused_sched.step_options import SpikeRule

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
F32, F64, B16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
SIGNATURES = {
    "float32": (F32, F32, F32),
    "bfloat16": (B16, B16, B16),
    "float16": (F16, F16, F16),
    "float64": (F64, F64, F64),
    "bfloat16, state float32": (B16, B16, F32),
    "float16, state float32": (F16, F16, F32),
    "float32, grad bfloat16": (F32, B16, F32),
    "float32, grad float16": (F32, F16, F32),
    "float32, state bfloat16": (F32, F32, B16),
    "bfloat16, grad float32, state float32": (B16, F32, F32),
    "float16, grad float32, state float32": (F16, F32, F32),
    "bfloat16, grad float32": (B16, F32, B16),
    "float16, grad float32": (F16, F32, F16),
}
# With what is kept beside them.
MASTERED = {
    "bfloat16, master": ((B16, B16, B16), F32),
    "bfloat16, state float32, master": ((B16, B16, F32), F32),
    "float16, state float32, master": ((F16, F16, F32), F32),
    "bfloat16, remainder": ((B16, B16, B16), torch.int16),
    "bfloat16, state float32, remainder": ((B16, B16, F32), torch.int16),
}
RULES = {"SGD": ("sgd", False), "SGD momentum": ("sgd", True), "Adam": ("adam", False), "Adam amsgrad": ("adam", True)}


def products_and_sums(n_groups: int = 2) -> Program:
    """Only operations that a compiler could contract into multiply-adds."""
    b = Builder(n_groups)
    x = b.field("lr")
    for i in range(4):
        x = x * b.const(f"a{i}", [0.5 + i + g for g in range(n_groups)]) + b.const(f"b{i}", 0.1)
    b.set_field("lr", x - b.const("c", 2.0) * x)
    return b.finish("products and sums")


def programs() -> Iterator[tuple[str, Program]]:
    """Names and programs of two param groups."""
    yield "products and sums", products_and_sums()
    makers = {
        "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, T_max=1000),
        "MultiStepLR": lambda o: MultiStepLR(o, milestones=[10, 20, 40]),
        "CyclicLR": lambda o: CyclicLR(o, base_lr=0.1, max_lr=1.0),
    }
    for name, make in makers.items():
        params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        program = make(SGD([{"params": [p]} for p in params], lr=0.1, momentum=0.9, backend="reference")).program
        assert program is not None
        yield name, program


def rows(architectures: list[str], only: str = "") -> Iterator[dict[str, Any]]:
    """One dict for each architecture and each kernel whose name matches ``only``."""
    from machine_code import inspect, target

    from fused_sched.kernels import variants
    from fused_sched.kernels.program_source import advance_function

    cosine = advance_function([(dict(programs())["CosineAnnealingLR"], False)])
    kernels: list[tuple[str, str, Any]] = []
    for arch in architectures:
        size = target(arch).warp_size
        for name, (rule, extra) in RULES.items():
            for dtypes, signature in SIGNATURES.items():
                if (rule, extra) == ("sgd", False) and signature[2] != signature[0]:
                    continue  # without a state, its type counts as the parameter's
                options = variants.Options(rule, extra)
                kernels.append((arch, f"{name}, {dtypes}", variants.update(kind_code(*signature), options, size)))
        many = variants.Options("adam", False, at_once=False)
        kernels.append((arch, "Adam, float32, many", variants.update(kind_code(F32, F32, F32), many, size)))
        fused = variants.Options("adam", False, advance=cosine)
        kernels.append((arch, "Adam, float32, fused cosine", variants.update(kind_code(F32, F32, F32), fused, size)))
        scaled = variants.Options("adam", False, scaled=True, guarded=True)
        kernels.append((arch, "Adam, float32, GradScaler", variants.update(kind_code(F32, F32, F32), scaled, size)))
        clipped = variants.Options("adam", False, measured=True, clipped=True)
        whole = dataclasses.replace(clipped, zeroes=True)
        for name, (rule, extra) in RULES.items():
            mine = dataclasses.replace(clipped, rule=rule, optional_state=extra)
            all_of_it = dataclasses.replace(whole, rule=rule, optional_state=extra)
            for dtypes in ("float32", "bfloat16", "float64"):
                signature = SIGNATURES[dtypes]
                averaged = kind_code(*signature, F32 if dtypes == "bfloat16" else signature[0])
                kernels.append((arch, f"{name}, {dtypes}, clipped", variants.update(kind_code(*signature), mine, size)))
                kernels.append((arch, f"{name}, {dtypes}, averaged too", variants.update(averaged, all_of_it, size)))
        for name, (rule, extra) in RULES.items():
            mine = variants.Options(rule, extra)
            all_of_it = dataclasses.replace(whole, rule=rule, optional_state=extra)
            for dtypes, (signature, beside) in MASTERED.items():
                mastered, averaged = kind_code(*signature, None, beside), kind_code(*signature, F32, beside)
                kernels.append((arch, f"{name}, {dtypes}", variants.update(mastered, mine, size)))
                kernels.append((arch, f"{name}, {dtypes}, averaged", variants.update(averaged, all_of_it, size)))
        each = variants.NormOptions(True, False, False, True, SpikeRule(), False)
        of_all = dataclasses.replace(each, each=False, spikes=None)
        for dtype in (F32, B16, F16, F64):
            name = str(dtype).removeprefix("torch.")
            kernels.append((arch, f"norm, {name}", variants.norm(dtype, of_all, size)))
        kernels.append((arch, "norms of groups, spikes, float32", variants.norm(F32, each, size)))
        for name, program in programs():
            kernels.append((arch, f"program {name}", variants.advance(advance_function([(program, False)]))))
    for arch, name, kernel in kernels:
        if re.search(only, name) is not None:
            yield {"arch": arch, "kernel": name, **dataclasses.asdict(inspect(kernel, arch))}


def _widths(counts: dict[int, int]) -> str:
    return " ".join(f"{width}x{count}" for width, count in sorted(counts.items(), reverse=True))


def _line(row: dict[str, Any]) -> str:
    per_element = "" if row["instructions_per_element"] is None else f"{row['instructions_per_element']:.1f}"
    formed = "?" if row["formed_fma64"] is None else row["formed_fma64"]
    chain = "" if row["dependent_loads"] is None else row["dependent_loads"]
    return (
        f"{row['arch']:7} {row['kernel']:38} {row['registers']:4} {row['spilled_bytes']:6} {row['shared_bytes']:6} "
        f"{row['instructions']:6} {per_element:>8} {row['fma64']:6} {formed:>6} {chain:>5}  "
        f"{_widths(row['loads']):24} {_widths(row['stores'])}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="REGEX", help="only kernels whose names match")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    import triton

    print(f"triton {triton.__version__}")
    print(f"{'arch':7} {'kernel':38} regs spills shared instrs /element  fma64 formed chain  {'loads':24} stores")
    found = []
    try:
        for row in rows(arguments.arch, arguments.only):
            found.append(row)
            print(_line(row), flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.write_text(json.dumps({"triton": triton.__version__, "rows": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
