"""What the package asks about a device, and does on it beside launching kernels; all that asks torch.cuda."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .captures import CAPTURES

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_PROCESSORS_OF_NO_GPU = 132


def _stream_that_is_not_captured() -> torch.cuda.Stream:
    for _ in range(100):  # torch hands out streams of a small pool in turn: it may be one of the capture's
        stream = torch.cuda.Stream(priority=-1)
        with torch.cuda.stream(stream):
            if not torch.cuda.is_current_stream_capturing():
                return stream
    raise RuntimeError("every stream is being captured: take one optimizer.step() before the capture")


class Download:
    """Tensors on their way to the host.

    Attributes:
        values: CPU tensors, which have what was copied once it :meth:`has_arrived`.

    Args:
        event: of what copies them, None if they are there.
    """

    def __init__(self, values: Sequence[torch.Tensor], event: Any = None) -> None:
        self.values, self._event = values, event

    def has_arrived(self) -> bool:
        """Whether they are there; does not wait."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> None:
        """Until they are there."""
        if self._event is not None:
            self._event.synchronize()


class Platform:
    """The devices as torch and CUDA have them. A backend owns one and hands it to all that work with it."""

    def is_remote(self, device: torch.device) -> bool:
        """Whether the host cannot read the device's memory, and so keeps a mirror of what it has to know."""
        return device.type != "cpu"

    def is_capturing(self, device: torch.device) -> bool:
        """Whether the current stream is being captured into a CUDA graph."""
        return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def watch_captures(self) -> None:
        """Be ready for :meth:`graph_being_captured`."""
        CAPTURES.watch()

    def graph_being_captured(self) -> Any | None:
        """The graph that the user captures now, if torch tells of its replays; else None."""
        return CAPTURES.current()

    def follow_graph(self, graph: Any, captured: Callable[[], None], replayed: Callable[[], None]) -> None:
        """Call ``captured`` when the capture of such a graph ends, and ``replayed`` at each of its replays."""
        CAPTURES.follow(graph, captured, replayed)

    @contextmanager
    def outside_of_capture(self) -> Iterator[None]:
        """Let this thread allocate, copy and load code at once while one of its streams is being captured.

        Inside, another stream is current, and what it does is not recorded but done by the end. The
        driver's default is to refuse such calls, lest a program believes that they were recorded.
        """
        mode = ctypes.c_int(_RELAXED)
        exchange = None
        if torch.version.cuda is not None:
            exchange = ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
            exchange(ctypes.byref(mode))
        try:
            with torch.cuda.stream(_stream_that_is_not_captured()):
                yield
                done = torch.cuda.Event()
                done.record()
                done.synchronize()
        finally:
            if exchange is not None:
                exchange(ctypes.byref(mode))

    @contextmanager
    def capture(self, device: torch.device, pool: Any = None) -> Iterator[Any]:
        """Record what is done inside; gives the graph, which can ``replay()`` afterwards.

        Other threads may allocate and pin memory meanwhile.
        """
        graph = torch.cuda.CUDAGraph()
        with self.current(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            yield graph

    @contextmanager
    def aside(self, device: torch.device) -> Iterator[None]:
        """Inside, another stream is current, as CUDA asks for before a capture."""
        if device.type != "cuda":
            yield
            return
        with self.current(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                yield
            torch.cuda.current_stream().wait_stream(stream)

    def random_state(self, device: torch.device) -> Callable[[], None]:
        """What puts torch's random numbers, of the host and of ``device``, back to where they are now."""
        host = torch.get_rng_state()
        of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def put_back() -> None:
            torch.set_rng_state(host)
            if of_device is not None:
                torch.cuda.set_rng_state(of_device, device)

        return put_back

    def upload(self, values: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A copy of a CPU tensor on ``device``, in stream order and without waiting.

        During a capture the copy is done at once, on another stream, instead of being recorded: a recorded
        one would read host memory at every replay.
        """
        values = values.contiguous()  # else the copy would go through pageable memory, and wait
        if device.type == "cpu":
            return values.clone()
        if not self.is_capturing(device):
            return values.pin_memory().to(device, non_blocking=True)
        with self.outside_of_capture():
            return values.pin_memory().to(device, non_blocking=True)

    def download(self, tensors: Sequence[torch.Tensor]) -> Download:
        """Copies of tensors of one device for the host, in stream order and without waiting; not inside a capture."""
        device = tensors[0].device
        if device.type != "cuda":
            return Download([tensor.clone() for tensor in tensors])
        values = [torch.empty(t.shape, dtype=t.dtype, device="cpu", pin_memory=True) for t in tensors]
        with self.current(device):
            for value, tensor in zip(values, tensors, strict=True):
                value.copy_(tensor, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        return Download(values, done)

    def current(self, device: torch.device) -> AbstractContextManager[Any]:
        """Makes ``device`` the current one."""
        if device.type != "cuda" or torch.cuda.current_device() == device.index:
            return nullcontext()
        return torch.cuda.device(device)

    def record_stream(self, tensors: Any) -> None:
        """Let the memory of tensors that are dropped now wait for what the current stream still does with it.

        Args:
            tensors: a tensor, or a list or tuple of such, nested in any way; whatever else is in it does not count.
        """
        if isinstance(tensors, (list, tuple)):
            for each in tensors:
                self.record_stream(each)
        elif isinstance(tensors, torch.Tensor) and tensors.is_cuda and not self.is_capturing(tensors.device):
            tensors.record_stream(torch.cuda.current_stream(tensors.device))

    def dlpack_device(self, tensor: torch.Tensor) -> tuple[int, int]:
        """Kind and index of a tensor's device, as DLPack writes them."""
        kind, index = tensor.__dlpack_device__()
        return int(kind), int(index)

    def processors(self, device: torch.device) -> int:
        """Number of multiprocessors, or a usual number where there is no GPU."""
        if device.type != "cuda":
            return _PROCESSORS_OF_NO_GPU
        return torch.cuda.get_device_properties(device).multi_processor_count


TORCH = Platform()
