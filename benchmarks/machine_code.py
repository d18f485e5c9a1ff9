"""What the compiler makes of the kernels, read from the machine code; needs no GPU.

Figures of one kernel: registers a thread, spilled bytes, shared memory, global loads and stores by
width, float64 multiply-adds (all, and those formed from separate operations: there should be none),
and machine instructions of the aligned path for each element (slow paths of division and square root
lie outside of its loop and do not count).
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
from triton.backends.nvidia.compiler import get_ptxas

from fused_sched.kernels import variants
from fused_sched.kernels.launcher import compile_kernel

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
    wide_outside_loop: int | None = None  # 16-byte accesses that are not in the aligned loop
    local_in_loop: int | None = None  # accesses of spilled values in the aligned loop
    fma64: int = 0
    formed_fma64: int | None = None
    barrier_before_ticket: bool | None = None
    dependent_loads: int | None = None  # global loads before the ticket that wait for one another


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
    report = _inspect_cuda(compiled, _bytes_moved(kernel)) if chosen.backend == "cuda" else _inspect_hip(compiled)
    report.formed_fma64 = _formed_fma64(compiled)
    report.dependent_loads = _dependent_loads(compiled.asm.get("ptx", ""))
    return report


def _bytes_moved(kernel: variants.Kernel) -> int | None:
    """Bytes that an update kernel loads and stores for each element."""
    given = dict(kernel.constants)
    if "BLOCK" not in given:
        return None
    if "P" not in given:  # a norm kernel
        return given["G"].primitive_bitwidth // 8
    param, grad, state = (given[name].primitive_bitwidth // 8 for name in ("P", "G", "S"))
    states = given["REQUIRED"] + given["EXTRA"]
    average = 0 if given["A"] is None else given["A"].primitive_bitwidth // 8
    return int(2 * (param + states * state + average) + grad * (1 + (given["SCALED"] or given["ZEROED"])))


def _tool(command: list[str], data: bytes) -> str:
    """Output of a tool that comes with Triton, called with a file of ``data`` as its last argument."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel")
        path.write_bytes(data)
        environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}
        line = [str(TOOLS / command[0]), *command[1:], str(path)]  # an absolute path stays as it is
        result = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    return result.stdout + result.stderr


def _spilled_bytes(ptx: str) -> int:
    """What the assembler says; the stack also holds tables of the trigonometric functions."""
    name = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]  # type: ignore[index]
    assembler = get_ptxas(int(re.sub(r"\D", "", name))).path
    options = "-v", "-lineinfo", "--fmad=false", f"--gpu-name={name}"  # Triton's: others allocate other registers
    said = _tool([assembler, *options, "-o", os.devnull], ptx.encode())
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", said))


def _inspect_cuda(compiled: Any, bytes_moved: int | None) -> Report:
    cubin = compiled.asm["cubin"]
    registers = int(re.search(r"\bREG:(\d+)", _tool(["cuobjdump", "-res-usage"], cubin))[1])  # type: ignore[index]
    code = [(int(a, 16), text) for a, text in _INSTRUCTION.findall(_tool(["cuobjdump", "-sass"], cubin))]
    counts: dict[str, collections.Counter[int]] = {"LDG": collections.Counter(), "STG": collections.Counter()}
    for _, text in code:
        found = _CUDA_MEMORY.search(text)
        if found:
            counts[found[1]][_cuda_width(found[2])] += 1
    texts = [text for _, text in code]
    ticket = next((i for i, text in enumerate(texts) if "ATOM" in text), None)
    loop = [] if bytes_moved is None else _wide_loop(code)
    elements = _bytes_accessed(loop) / bytes_moved if bytes_moved else 0
    return Report(
        registers,
        _spilled_bytes(compiled.asm["ptx"]),
        compiled.metadata.shared,
        dict(sorted(counts["LDG"].items())),
        dict(sorted(counts["STG"].items())),
        len(code),
        len(loop) / elements if elements else None,
        _wide_accesses(texts) - _wide_accesses(loop) if bytes_moved else None,
        sum("LDL" in text or "STL" in text for text in loop) if bytes_moved else None,
        fma64=sum("DFMA" in text for text in texts),
        barrier_before_ticket=None if ticket is None else any("BAR.SYNC" in t for t in texts[:ticket]),
    )


def _cuda_width(modifiers: str) -> int:
    for name, width in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1)):
        if name in modifiers:
            return width
    return 4


def _bytes_accessed(texts: list[str]) -> int:
    return sum(_cuda_width(found[2]) for text in texts if (found := _CUDA_MEMORY.search(text)))


def _wide_accesses(texts: list[str]) -> int:
    return sum(1 for text in texts if (found := _CUDA_MEMORY.search(text)) and ".128" in found[2])


def _wide_loop(code: list[tuple[int, str]]) -> list[str]:
    """Instructions of the shortest loop that moves the most bytes by 16 at a time."""
    best: list[str] = []
    for end, text in code:
        jump = re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", text)
        if jump is None or int(jump[1], 16) >= end:
            continue
        body = [t for address, t in code if int(jump[1], 16) <= address <= end]
        gain = _wide_accesses(body) - _wide_accesses(best)
        if gain > 0 or (gain == 0 and best and len(body) < len(best)):
            best = body
    return best


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


def _dependent_loads(ptx: str) -> int | None:
    """The longest chain of global loads before the ticket, each of which needs what the one before it loaded."""
    head, ticket, _ = ptx.partition("atom.")
    if not ticket:
        return None
    depth: dict[str, int] = {}
    for line in head[head.find("{", head.find(".entry")) :].splitlines():
        names = re.findall(r"%[a-z]+\d+", line)
        if not names or line.strip().startswith((".reg", "bra")):
            continue
        targets, sources = _operands(line)
        found = max((depth.get(name, 0) for name in sources), default=0) + ("ld.global" in line)
        depth.update({name: max(found, depth.get(name, 0)) for name in targets})
    return max(depth.values(), default=0)


def _operands(line: str) -> tuple[list[str], list[str]]:
    """Registers that an instruction of PTX writes, and those that it reads, a predicate among them."""
    predicate = re.match(r"\s*@!?(%p\d+)", line)
    body = line[predicate.end() :] if predicate else line
    first = re.search(r"\{[^}]*\}|%[a-z]+\d+", body)
    writes = first is not None and not re.match(r"\s*(?:st|bar|bra|red|ret)\b", body)
    targets = re.findall(r"%[a-z]+\d+", first[0]) if writes and first is not None else []
    rest = body[first.end() :] if writes and first is not None else body
    sources = re.findall(r"%[a-z]+\d+", rest) + ([predicate[1]] if predicate else [])
    return targets, sources


def _formed_fma64(compiled: Any) -> int | None:
    """Float64 multiply-adds that the translation to PTX made of separate operations."""
    if "ptx" not in compiled.asm:
        return None
    asked = len(re.findall(r"call.*@llvm\.(?:fma\.f64|nvvm\.fma\.rn\.d)\b", compiled.asm["llir"]))
    return max(0, len(re.findall(r"\bfma\.rn\.f64\b", compiled.asm["ptx"])) - asked)  # some are optimised away
