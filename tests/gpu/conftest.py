"""What GPU tests share. Without a CUDA device they run on a simulated GPU, where FUSED_SCHED_TEST_PTX says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lane
import pytest
from gpus import REAL, Body, Gpu, Graph, RealGpu

from fused_sched import backends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not REAL and not lane.PTX:
            reason = "no CUDA device; with FUSED_SCHED_TEST_PTX=fibers it runs on a simulated one"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif not REAL and item.get_closest_marker("real_gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@cache
def the_gpu() -> Gpu:
    if REAL:
        return RealGpu()
    from simulated_gpu.gpu import SimulatedGpu  # takes over a device type of torch's, so only where it is needed

    return SimulatedGpu()


@pytest.fixture(autouse=True)
def gpu() -> Gpu:
    """The GPU that all tests run on."""
    return the_gpu()


@pytest.fixture(params=[name for name in ("triton", "cuda") if name in backends.NAMES])
def gpu_backend(request: pytest.FixtureRequest, gpu: Gpu) -> Any:
    """Each GPU backend in turn, as an optimizer's ``backend``."""
    return gpu.backend(request.param)


@pytest.fixture
def no_sync(gpu: Gpu) -> Callable[[], Any]:
    """A context in which whatever waits for the device raises."""
    return gpu.no_sync


@pytest.fixture
def capture(gpu: Gpu) -> Callable[[Body], Graph]:
    """Captures a call into a graph, on the side stream that torch uses for it."""
    return gpu.capture


@pytest.fixture
def warm_up(gpu: Gpu) -> Callable[[Body, int], None]:
    """Runs a call some times on a side stream, as before every capture."""
    return gpu.warm_up


@pytest.fixture
def work(gpu: Gpu, tmp_path: Path) -> Callable[[Body], list[str]]:
    """Names of the kernels, copies and fills of memory that a call gives the device to do."""
    return lambda body: gpu.work(body, tmp_path)
