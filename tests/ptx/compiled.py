"""PTX of both GPU backends, for tests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from .build import kept

ROOT = Path(__file__).parents[2]


@cache
def triton_ptx(*arguments: str) -> dict[str, tuple[str, int]]:
    """By name, PTX and bytes of dynamic shared memory; ``arguments`` of compile_triton.py."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("compile_triton.py")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {name: (ptx, shared) for name, (ptx, shared) in json.loads(done.stdout).items()}


@cache
def _build_cuda() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "build_cuda.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nvcc() -> str:
    """The compiler; a test without it is skipped, and fails where CI says that all is there."""
    found: str | None = _build_cuda().find_nvcc()
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail("nvcc was not found, but CI is set: install the CUDA toolkit or set CUDA_HOME")
    pytest.skip("nvcc was not found")


@cache
def nvcc_ptx(name: str) -> str:
    """What nvcc makes of csrc/cuda/kernels_NAME.cu for sm_90, compiled as the library is."""
    source = ROOT / f"csrc/cuda/kernels_{name}.cu"
    command = [nvcc(), *_build_cuda().FLAGS, "-arch=sm_90", "-ptx", str(source)]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout

    def compile_it(path: Path) -> None:
        done = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)

    sources = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cuh", ".cu"))
    return kept(f"{name}.ptx", [version, *command, *sources], compile_it).read_text()


@cache
def entries(ptx: str) -> dict[str, str]:
    """The names of a module's entries as C++ writes them, without namespaces and arguments, to those in the PTX."""
    names = re.findall(r"\.entry ([\w$]+)\(", ptx)
    plain = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True).stdout
    shorter = (re.sub(r"fused_sched::|\(anonymous namespace\)::|^void ", "", line) for line in plain.splitlines())
    return {line.rsplit("(", 1)[0]: name for line, name in zip(shorter, names, strict=True)}
