"""The GPU that the tests of tests/gpu run on: a real one, or the simulated one where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fused_sched import backends

REAL = torch.cuda.is_available()
DEVICE = "cuda" if REAL else "simulated"
# Backends for tests that do not choose one. None is the automatic choice.
DEFAULTS: tuple[str | None, ...] = (None,) if REAL else ("triton", "cuda")

Body = Callable[[], None]


class Graph(Protocol):
    """A captured CUDA graph."""

    def replay(self) -> None: ...
    def reset(self) -> None: ...


class Gpu(Protocol):
    """What a test needs of a GPU."""

    def backend(self, name: str | None) -> Any:
        """What to give as an optimizer's ``backend``; skips the test where it cannot run."""

    def synchronize(self) -> None:
        """Wait for all that was launched."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Inside, whatever waits for the device raises."""

    def telling_of_replays(self) -> AbstractContextManager[None]:
        """Inside, graphs that are captured tell of their replays, as from torch 2.14 on; skips the test elsewhere."""

    def capture(self, body: Body, graph: Any = None) -> Graph:
        """Capture a call into a graph, a new one or one that was reset."""

    def warm_up(self, body: Body, times: int) -> None:
        """Run a call some times, as before every capture."""

    def work(self, body: Body, folder: Path) -> list[str]:
        """Names of the kernels, copies and fills of memory that a call gives the device to do."""


class RealGpu:
    """torch.cuda's current device."""

    def backend(self, name: str | None) -> str | None:
        reason = None if name is None else backends.reason_unavailable(name)
        if reason is not None:
            pytest.skip(f"backend {name} cannot run here: {reason}")
        return name

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        torch.cuda.synchronize()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.synchronize()

    def telling_of_replays(self) -> AbstractContextManager[None]:
        if not hasattr(torch.cuda.graphs, "register_graph_replay_end_hook"):
            pytest.skip("graphs of this torch tell nobody of their replays")
        return nullcontext()

    def capture(self, body: Body, graph: Any = None) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph() if graph is None else graph
        with torch.cuda.graph(graph):
            body()
        return graph

    def warm_up(self, body: Body, times: int) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(times):
                body()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def work(self, body: Body, folder: Path) -> list[str]:
        number = torch.zeros((), device="cuda")
        if len(self._seen(lambda: number.add_(1), folder)) != 1:
            pytest.skip("torch's profiler does not see kernels on this machine")
        return self._seen(body, folder)

    def _seen(self, body: Callable[[], Any], folder: Path) -> list[str]:
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            body()
            torch.cuda.synchronize()
        trace = folder / "trace.json"
        recorded.export_chrome_trace(str(trace))
        # by category: there are events of the profiler itself, too
        events = json.loads(trace.read_text())["traceEvents"]
        return [e["name"] for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
