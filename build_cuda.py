"""Builds the CUDA library ``fused_sched/_cuda.so`` with nvcc; setup.py calls this.

The library uses torch's stable ABI and no Python API, so one file serves torch 2.11 and later and every
Python. The CUDA runtime is linked statically: a wheel then needs no particular ``libcudart`` beside it,
only a driver that is new enough, whatever CUDA torch itself was built for. That nothing is linked against
``libtorch_cuda`` lets it be built beside a CPU build of torch.

``FUSED_SCHED_BUILD_CUDA``: 1 builds it or fails, 0 leaves it out; by default it is built where nvcc and a
CUDA build of torch are, and a failure is noted. ``TORCH_CUDA_ARCH_LIST`` has the usual form: ``8.0;9.0+PTX``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent
NAME = "fused_sched._cuda"
FILE = Path("fused_sched", "_cuda.so")
SOURCES = ["csrc/cuda/ops.cpp", *sorted(f"csrc/cuda/{path.name}" for path in (ROOT / "csrc/cuda").glob("*.cu"))]
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cuda").glob("*.cuh"))
DEFAULT_ARCHITECTURES = "8.0;8.6;9.0;10.0;12.0+PTX"
TORCH_TARGET = "0x020b000000000000"  # torch 2.11, the oldest that is supported
# The update rules and programs say where a multiply-add is one operation: nvcc must not make more.
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden,-g0"]


def wanted() -> str:
    """``FUSED_SCHED_BUILD_CUDA``: ``"1"``, ``"0"`` or ``"auto"``."""
    value = os.environ.get("FUSED_SCHED_BUILD_CUDA", "auto")
    if value not in ("0", "1", "auto"):
        raise SystemExit(f"FUSED_SCHED_BUILD_CUDA={value} must be 1 (required), 0 (left out) or unset (if possible)")
    return value


def find_nvcc() -> str | None:
    """The compiler of ``CUDA_HOME``, else the first on the path, else that of the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=str(Path(home, "bin")))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def require_nvcc() -> str:
    """As :func:`find_nvcc`; a RuntimeError where there is none."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc was not found: install the CUDA toolkit or set CUDA_HOME")
    return nvcc


def reason_to_skip() -> str | None:
    """Why the library is not to be built on this machine; None if it is."""
    if wanted() == "0":
        return "FUSED_SCHED_BUILD_CUDA=0"
    if wanted() == "1":
        return None
    import torch

    if torch.version.cuda is None:
        return "torch is not a CUDA build (FUSED_SCHED_BUILD_CUDA=1 builds it all the same)"
    return None if find_nvcc() else "nvcc was not found: install the CUDA toolkit or set CUDA_HOME"


def architectures(nvcc: str, text: str | None = None) -> list[str]:
    """nvcc's options for the GPUs to build for.

    Args:
        nvcc: the compiler; of the default list, what it does not know is left out.
        text: default ``TORCH_CUDA_ARCH_LIST``, else :data:`DEFAULT_ARCHITECTURES`.
    """
    text = text or os.environ.get("TORCH_CUDA_ARCH_LIST")
    known = None
    if not text:
        text = DEFAULT_ARCHITECTURES
        known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    options: list[str] = []
    for item in re.split(r"[;,\s]+", text.strip()):
        found = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", item)
        if found is None:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST={text!r} has {item!r}: write numbers, as in 8.0;9.0+PTX")
        number = found[1] + found[2]
        if known is not None and f"compute_{number}" not in known:
            continue
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if found[3]:
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options


def release(nvcc: str) -> tuple[int, int]:
    """The toolkit's version, such as (13, 0)."""
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", version)
    if found is None:
        raise RuntimeError(f"{nvcc} --version does not say its release: {version!r}")
    return int(found[1]), int(found[2])


def version_suffix() -> str:
    """What a wheel with the library has at the end of its version, as torch's have: ``cu130`` for a toolkit 13.0."""
    return "cu{}{}".format(*release(require_nvcc()))


def compression(nvcc: str) -> list[str]:
    """Options for a library of a tenth of the size; drivers older than CUDA 13 may not be able to read it."""
    return ["--compress-mode=size"] if release(nvcc) >= (13, 0) else []


def build(output: Path, folder: Path, extra: Sequence[str] = ()) -> str:
    """Compile and link.

    Args:
        output: the library to write.
        folder: for object files.
        extra: further options of nvcc.

    Returns:
        What the compiler said.

    Raises:
        RuntimeError: nvcc is missing or failed; the message has what it said.
    """
    from torch.utils.cpp_extension import include_paths, library_paths

    nvcc = require_nvcc()
    folder.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    jobs = int(os.environ.get("MAX_JOBS") or min(4, os.cpu_count() or 1))
    common = [nvcc, *FLAGS, *extra, f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *(f"-I{p}" for p in include_paths())]
    code = [*architectures(nvcc), *compression(nvcc), f"--threads={jobs}"]
    said, objects = "", []
    for source in SOURCES:
        objects.append(str(folder / (Path(source).stem + ".o")))
        options = code if source.endswith(".cu") else []
        said += _run([*common, *options, "-c", str(ROOT / source), "-o", objects[-1]])
    libraries = [*(f"-L{p}" for p in library_paths()), "-ltorch_cpu"]
    said += _run([nvcc, "-shared", "-cudart=static", *objects, *libraries, "-Xlinker=-s", "-o", str(output)])
    return said


def _run(command: list[str]) -> str:
    print(" ".join(command), flush=True)
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise RuntimeError(f"nvcc failed on {command[-3]}: " + "\n".join(lines[:20]))
    return result.stdout + result.stderr
