"""What GPU tests share; every test of this folder is skipped without a CUDA device."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@contextmanager
def _no_sync() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


@pytest.fixture
def no_sync() -> Callable[[], object]:
    """A context in which whatever waits for the device raises."""
    return _no_sync


@pytest.fixture
def capture() -> Callable[[Callable[[], None]], torch.cuda.CUDAGraph]:
    """Captures a call into a graph, on the side stream that torch uses for it."""

    def record(body: Callable[[], None]) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        return graph

    return record


@pytest.fixture
def warm_up() -> Callable[[Callable[[], None], int], None]:
    """Runs a call some times on a side stream, as before every capture."""

    def run(body: Callable[[], None], times: int) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(times):
                body()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    return run


@pytest.fixture
def work(tmp_path: Path) -> Callable[[Callable[[], None]], list[str]]:
    """Names of the kernels, copies and fills of memory that a call gives the device to do."""
    trace = tmp_path / "trace.json"

    def seen(body: Callable[[], None]) -> list[str]:
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            body()
            torch.cuda.synchronize()
        recorded.export_chrome_trace(str(trace))
        # by category: there are events of the profiler itself, too
        events = json.loads(trace.read_text())["traceEvents"]
        return [e["name"] for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]

    number = torch.zeros((), device="cuda")
    if len(seen(lambda: number.add_(1))) != 1:
        pytest.skip("torch's profiler does not see kernels on this machine")
    return seen
