"""AdamW over lists of tensors with Apex's launch pattern: compiles apex_like.cu on demand and calls it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("apex_like.cu")


class Unavailable(Exception):
    """It cannot be built or run here; says why."""


def compile_command(output: Path, arch: str | None) -> list[str]:
    """How the source is compiled: by nvcc for ``arch`` (``sm_90``), or by g++ for the host if that is None.

    Raises:
        Unavailable: there is no compiler.
    """
    tool = "g++" if arch is None else "nvcc"
    path = shutil.which(tool) or next(iter(map(str, Path("/usr/local/cuda/bin").glob(tool))), None)
    if path is None:
        raise Unavailable(f"not built: {tool} was not found")
    common = [path, "-O3", "-std=c++17", "-shared", "-o", str(output)]
    if arch is None:
        return [*common, "-fPIC", "-DON_HOST", "-x", "c++", str(SOURCE)]
    return [*common, f"-arch={arch}", "-Xcompiler", "-fPIC", str(SOURCE)]


def built(arch: str | None, folder: Path) -> Path:
    """The library for ``arch`` in ``folder``, compiled if it is not there yet.

    Raises:
        Unavailable: it cannot be compiled.
    """
    name = hashlib.sha256(SOURCE.read_bytes() + str(arch).encode()).hexdigest()[:16]
    path = folder / f"fused_sched_apex_like_{name}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch, path.name)
            done = subprocess.run(compile_command(made, arch), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(f"not built: {(done.stderr.strip() or 'the compiler failed').splitlines()[0]}")
            shutil.copy(made, f"{path}.{name}")
            Path(f"{path}.{name}").replace(path)
    return path


@functools.cache
def library(arch: str | None) -> Any:
    """The compiled library, from the folder that ``APEX_LIKE`` names, else a folder that later processes use too.

    Raises:
        Unavailable: it cannot be compiled or loaded.
    """
    path = built(arch, Path(os.environ.get("APEX_LIKE") or tempfile.gettempdir()))
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"not loaded: {error}") from error
    pointer, real, whole = ctypes.c_void_p, ctypes.c_float, ctypes.c_int
    loaded.apex_like_adam.argtypes = [
        pointer, pointer, whole, whole, pointer, pointer, real, real, real, real, pointer, whole,
    ]  # fmt: skip
    return loaded


def launches(sizes: list[int], arch: str | None = None) -> int:
    """How many launches a list of tensors of ``sizes`` elements takes."""
    host = torch.tensor(sizes, dtype=torch.int64)
    nothing = torch.zeros(4 * len(sizes), dtype=torch.int64)
    count = library(arch).apex_like_adam(
        nothing.data_ptr(), host.data_ptr(), len(sizes), 0, None, None, 0.9, 0.999, 1e-8, 0.0, None, 1
    )
    return int(count)


class ApexLike(torch.optim.Optimizer):
    """AdamW; one list a param group, whose parameters and gradients stay where they are.

    Args:
        groups: param groups with an ``lr`` that is a float32 tensor on the parameters' device; float32 or
            bfloat16 parameters. States are float32.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float, decay: float) -> None:
        super().__init__(groups, {"lr": 1e-3})
        device = self.param_groups[0]["params"][0].device
        arch = None
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            arch = f"sm_{major}{minor}"
        self._cuda = device.type == "cuda"
        self._run = library(arch).apex_like_adam
        self._numbers = (*betas, eps, decay)
        self._lists = []
        for group in self.param_groups:
            params = group["params"]
            states = [[torch.zeros_like(p, dtype=torch.float32) for p in params] for _ in range(2)]
            columns = [[p.grad for p in params], params, *states]
            addresses = torch.tensor([t.data_ptr() for column in columns for t in column], dtype=torch.int64)
            sizes = torch.tensor([p.numel() for p in params], dtype=torch.int64)
            count = torch.zeros((), dtype=torch.int32, device=device)
            self._lists.append((group, addresses, sizes, int(params[0].element_size() == 2), count, states))

    def step(self, closure: Any = None) -> None:
        stream = torch.cuda.current_stream().cuda_stream if self._cuda else None
        for group, addresses, sizes, short, count, _ in self._lists:
            count += 1
            done = self._run(
                addresses.data_ptr(), sizes.data_ptr(), len(sizes), short, group["lr"].data_ptr(), count.data_ptr(),
                *self._numbers, stream, 0,
            )  # fmt: skip
            if done < 0:
                raise RuntimeError("the kernel was not launched: see the CUDA error")
