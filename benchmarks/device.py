"""What runs a benchmark: a GPU with graphs and events, the CPU, or a dry run that stands in for a GPU.

The dry run takes the same path through every GPU benchmark with tensors on the CPU, Triton's interpreter, plain
calls for graphs and the host's clock for events. Its numbers mean nothing and are never saved.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from harness import Call, on_the_clock

FLUSH_BYTES = 256 * 2**20  # several times the L2 cache of any GPU of today


@dataclass
class Captured:
    """A call that was captured. ``nodes``: of its graph; None where that cannot be asked."""

    replay: Callable[[], None]
    nodes: int | None
    graph: object = None


class Host:
    """The CPU."""

    name = "cpu"  # as torch calls the device
    gpu = False  # whether GPU benchmarks run on it
    dry = False

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        """What runs inside is the warm-up of a capture."""
        yield

    def timed(self, call: Call, calls: int) -> float:
        """Microseconds of one of ``calls`` calls on the device."""
        return on_the_clock(call, calls)

    def enqueued(self, call: Call, calls: int) -> float:
        """Microseconds for which the host is busy with one of ``calls`` calls; the device is idle before."""
        return on_the_clock(call, calls)

    def wall(self, call: Call, calls: int) -> float:
        """Microseconds of one of ``calls`` calls until the device is done."""
        return on_the_clock(call, calls)

    def allocated(self) -> int | None:
        """Bytes allocated on the device."""
        return None

    def peak(self) -> int | None:
        """Most bytes allocated since the last :meth:`forget_peak`."""
        return None

    def forget_peak(self) -> None: ...

    def launches(self, call: Call) -> int | None:
        """Kernels, copies and fills that one call puts on the device."""
        return None

    def release(self) -> None:
        """Give unused memory back."""


class Dry(Host):
    """A dry run of GPU benchmarks on the CPU."""

    gpu = True
    dry = True
    copies = 2

    def captured(self, body: Call, copies: int = 1) -> Captured:
        def replay() -> None:
            for _ in range(copies):
                body()

        return Captured(replay, copies)

    def timed_cold(self, call: Call, calls: int) -> float:
        return on_the_clock(call, calls)

    def allocated(self) -> int | None:
        return 0

    def peak(self) -> int | None:
        return 0

    def launches(self, call: Call) -> int | None:
        call()
        return 1


class Cuda(Host):
    """One NVIDIA GPU."""

    name = "cuda"
    gpu = True
    copies = 20

    def __init__(self) -> None:
        self._rubbish: torch.Tensor | None = None

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def captured(self, body: Call, copies: int = 1) -> Captured:
        """``copies`` calls in one graph."""
        torch.cuda.synchronize()
        try:
            graph = torch.cuda.CUDAGraph(keep_graph=True)
        except TypeError:  # a torch that cannot show the graph
            graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(copies):
                body()
        nodes = None
        if hasattr(graph, "raw_cuda_graph"):
            count = ctypes.c_size_t()
            library = ctypes.CDLL("libcuda.so.1")
            if library.cuGraphGetNodes(ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count)) == 0:
                nodes = count.value
            graph.instantiate()
        return Captured(graph.replay, nodes, graph)

    def timed(self, call: Call, calls: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / calls

    def timed_cold(self, call: Call, calls: int) -> float:
        """As :meth:`timed`, each call by itself after the L2 cache was filled with something else."""
        if self._rubbish is None:
            self._rubbish = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
        pairs = []
        for i in range(calls):
            self._rubbish.fill_(i)  # takes longer than the host needs for what follows
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            call()
            pair[1].record()
            pairs.append(pair)
        torch.cuda.synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in pairs)) * 1e3 / calls

    def enqueued(self, call: Call, calls: int) -> float:
        torch.cuda.synchronize()
        return on_the_clock(call, min(calls, 50))  # so that the queue never fills up

    def wall(self, call: Call, calls: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls * 1e6

    def allocated(self) -> int | None:
        return int(torch.cuda.memory_allocated())

    def peak(self) -> int | None:
        return int(torch.cuda.max_memory_allocated())

    def forget_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def launches(self, call: Call) -> int | None:
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            call()
            torch.cuda.synchronize()
        return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in recorded.events())

    def release(self) -> None:
        torch.cuda.empty_cache()
