"""What stands for a GPU in this run of the tests.

By default Triton's interpreter. With ``FUSED_SCHED_TEST_PTX`` the backends ``triton`` and ``cuda`` run their compiled
PTX on CPU tensors: ``fibers``, or ``races``, which also finds accesses without an order between them (and ``tsan`` or
``asan``, in the environment of :func:`ptx.sanitizer`). Then tests with a ``backend`` are about these two only.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from fused_sched import backends
from fused_sched.memory.platforms import TORCH, Platform

if TYPE_CHECKING:
    from fused_sched.kernels.launcher import Launcher

PTX = os.environ.get("FUSED_SCHED_TEST_PTX", "")
if PTX not in ("", "fibers", "races", "tsan", "asan"):
    raise ValueError(f"FUSED_SCHED_TEST_PTX={PTX} must be fibers, races, tsan or asan, or unset")
RUN_SEED = "FUSED_SCHED_TEST_RUN_SEED"  # from which all seeds of a run come
SEED = int(os.environ.setdefault(RUN_SEED, str(random.SystemRandom().randrange(2**31))))  # workers inherit it
NAMES = ("triton", "cuda") if PTX else backends.NAMES


def reason_unavailable(name: str) -> str | None:
    """Why a backend cannot run in this run of the tests; None if it can."""
    return None if PTX and name in NAMES else backends.reason_unavailable(name)


def backend(name: str, platform: Platform = TORCH) -> str | backends.Backend:
    """A backend to give to an optimizer: by name where that is enough."""
    if not PTX or name not in NAMES:
        return name if platform is TORCH else backends.make(name, platform)
    if name == "cuda":
        from ptx.cuda_operators import PtxOperators

        from fused_sched.backends.cuda import CudaBackend

        return CudaBackend(PtxOperators(PTX, seed=SEED), platform)
    from fused_sched.backends.triton import TritonBackend

    return TritonBackend(launcher=launcher(), platform=platform)


def launcher() -> Launcher:
    """A launcher for Triton's kernels, with fresh counters."""
    if PTX:
        from ptx.triton_launcher import PtxLauncher

        return PtxLauncher(PTX, seed=SEED)
    from fused_sched.kernels.launcher import make_launcher

    return make_launcher()
