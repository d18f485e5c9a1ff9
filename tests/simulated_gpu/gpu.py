"""The simulated GPU, as tests use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import lane
from gpus import DEVICE, Body
from ptx.compiled import nvcc
from ptx.cuda_operators import PtxOperators
from ptx.triton_launcher import PtxLauncher

from fused_sched.backends.cuda import CudaBackend
from fused_sched.backends.triton import TritonBackend

from . import device
from .backends import SimulatedPlatform, StreamedLauncher, StreamedOperators
from .graph import STREAM, Graph
from .hooks import HOOKS

assert device.NAME == DEVICE


@cache
def _backend(name: str) -> Any:
    if name == "cuda":
        return CudaBackend(StreamedOperators(PtxOperators(lane.PTX, seed=lane.SEED)), SimulatedPlatform())
    return TritonBackend(launcher=StreamedLauncher(PtxLauncher(lane.PTX, seed=lane.SEED)), platform=SimulatedPlatform())


class SimulatedGpu:
    """See :class:`gpus.Gpu`."""

    def backend(self, name: str | None) -> Any:
        name = name or os.environ.get("FUSED_SCHED_BACKEND") or "triton"
        if name == "cuda":
            nvcc()  # skips the test where there is none
        return _backend(name)

    def synchronize(self) -> None:
        STREAM.host_waits("synchronize()")

    def no_sync(self) -> AbstractContextManager[None]:
        return STREAM.no_sync()

    @contextmanager
    def telling_of_replays(self) -> Iterator[None]:
        HOOKS.on = True
        try:
            yield
        finally:
            HOOKS.on = False

    def capture(self, body: Body, graph: Any = None) -> Graph:
        with STREAM.capture(graph) as graph:
            body()
        return graph  # type: ignore[no-any-return]

    def warm_up(self, body: Body, times: int) -> None:
        for _ in range(times):
            body()

    def work(self, body: Body, folder: Path) -> list[str]:
        with STREAM.watched() as names:
            body()
        return names
