"""What the compiler makes of the kernels, read from the machine code; needs no GPU.

Figures of one kernel: registers a thread, spilled bytes, shared memory, global loads and stores by
width, float64 multiply-adds (all, and those formed from separate operations: there should be none),
and machine instructions of the aligned path for each element (slow paths of division and square root lie outside of its loop and do not count).
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from . import variants
from .launcher import compile_kernel

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", re.MULTILINE)
_CUDA_MEMORY = re.compile(r"\b(LDG|STG)\.E((?:\.\w+)*)")
_HIP_MEMORY = re.compile(r"\b(?:global|flat)_(load|store)_(\w+)")
_HIP_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "short": 2, "short_d16": 2}


@dataclass
class Report:
    """Figures of one kernel; ``loads`` and ``stores`` count instructions by bytes."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    instructions: int = 0
    instructions_per_element: float | None = None
    fma64: int = 0
    formed_fma64: int | None = None
    barrier_before_ticket: bool | None = None


def target(arch: str) -> GPUTarget:
    """``sm_90`` or ``gfx942`` as Triton's target."""
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    if arch.startswith("gfx9"):
        return GPUTarget("hip", arch, 64)
    raise ValueError(f"{arch=} is not known: give sm_80, sm_90, sm_100 or gfx942")


def inspect(kernel: variants.Kernel, arch: str) -> Report:
    """Compile ``kernel`` for ``arch`` and read the machine code."""
    chosen = target(arch)
    compiled = compile_kernel(kernel, chosen)
    block = dict(kernel.constants).get("BLOCK")
    per_thread = block / (kernel.warps * chosen.warp_size) if block else None
    report = _inspect_cuda(compiled, per_thread) if chosen.backend == "cuda" else _inspect_hip(compiled)
    report.formed_fma64 = _formed_fma64(compiled)
    return report


def _tool(name: str, binary: bytes, option: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(binary)
        environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}
        result = subprocess.run(
            [str(TOOLS / name), option, str(path)], capture_output=True, text=True, check=True, env=environment
        )
    return result.stdout + result.stderr


def _inspect_cuda(compiled: Any, per_thread: float | None) -> Report:
    usage = _tool("cuobjdump", compiled.asm["cubin"], "-res-usage")
    code = [(int(a, 16), text) for a, text in _INSTRUCTION.findall(_tool("cuobjdump", compiled.asm["cubin"], "-sass"))]
    registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    counts: dict[str, collections.Counter[int]] = {"LDG": collections.Counter(), "STG": collections.Counter()}
    for _, text in code:
        found = _CUDA_MEMORY.search(text)
        if found:
            counts[found[1]][_cuda_width(found[2])] += 1
    spills = sum(text.split()[0 if text[0] != "@" else 1].startswith(("LDL", "STL")) for _, text in code)
    texts = [text for _, text in code]
    ticket = next((i for i, text in enumerate(texts) if "ATOM" in text), None)
    return Report(
        registers,
        stack if spills else 0,
        compiled.metadata.shared,
        dict(sorted(counts["LDG"].items())),
        dict(sorted(counts["STG"].items())),
        len(code),
        None if per_thread is None else _wide_loop_length(code) / per_thread,
        fma64=sum("DFMA" in text for text in texts),
        barrier_before_ticket=None if ticket is None else any("BAR.SYNC" in t for t in texts[:ticket]),
    )


def _cuda_width(modifiers: str) -> int:
    for name, width in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1)):
        if name in modifiers:
            return width
    return 4


def _wide_loop_length(code: list[tuple[int, str]]) -> int:
    """Instructions of the innermost loop that has the most 16-byte accesses."""
    best = (0, 0)
    for end, text in code:
        jump = re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", text)
        if jump is None or int(jump[1], 16) >= end:
            continue
        body = [t for address, t in code if int(jump[1], 16) <= address <= end]
        wide = sum(1 for t in body if (m := _CUDA_MEMORY.search(t)) and ".128" in m[2])
        if wide > best[0] or (wide == best[0] and wide and len(body) < best[1]):
            best = wide, len(body)
    return best[1]


def _inspect_hip(compiled: Any) -> Report:
    text = compiled.asm["amdgcn"]

    def figure(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        return int(found[1]) if found else 0

    counts: dict[str, collections.Counter[int]] = {"load": collections.Counter(), "store": collections.Counter()}
    for what, width in _HIP_MEMORY.findall(text):
        counts[what][_HIP_WIDTHS.get(width, 0)] += 1
    instructions = re.findall(r"^\s+(?:v|s|global|flat|ds|buffer)_\w+", text, re.MULTILINE)
    return Report(
        figure("vgpr_count"),
        4 * figure("vgpr_spill_count"),
        compiled.metadata.shared,
        dict(sorted(counts["load"].items())),
        dict(sorted(counts["store"].items())),
        len(instructions),
        fma64=text.count("v_fma_f64"),
    )


def _formed_fma64(compiled: Any) -> int | None:
    """Float64 multiply-adds that the translation to PTX made of separate operations."""
    if "ptx" not in compiled.asm:
        return None
    asked = len(re.findall(r"call.*@llvm\.(?:fma\.f64|nvvm\.fma\.rn\.d)\b", compiled.asm["llir"]))
    return len(re.findall(r"\bfma\.rn\.f64\b", compiled.asm["ptx"])) - asked
