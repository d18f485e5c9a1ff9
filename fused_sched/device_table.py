"""The parameter table on the device, and copies to the device that work inside a graph capture too."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .parameter_table import RECORD, ParameterTable

GRAD = RECORD["grad"]
UNIT = 1024  # elements; chunks start at multiples of it
LARGEST_CHUNK = 8 * UNIT
CHUNKS_PER_PROCESSOR = 64  # small enough chunks that the last wave of programs is a small part of all
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream is being captured into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _stream_that_is_not_captured() -> torch.cuda.Stream:
    for _ in range(100):  # torch hands out streams of a small pool in turn: it may be one of the capture's
        stream = torch.cuda.Stream(priority=-1)
        with torch.cuda.stream(stream):
            if not torch.cuda.is_current_stream_capturing():
                return stream
    raise RuntimeError("every stream is being captured: take one optimizer.step() before the capture")


@contextmanager
def outside_of_capture() -> Iterator[None]:
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


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a CPU tensor on ``device``, in stream order and without waiting.

    During a capture the copy is done at once, on another stream, instead of being recorded: a recorded
    one would read host memory at every replay.
    """
    values = values.contiguous()  # else the copy would go through pageable memory, and wait
    if device.type == "cpu":
        return values.clone()
    if not is_capturing(device):
        return values.pin_memory().to(device, non_blocking=True)
    with outside_of_capture():
        return values.pin_memory().to(device, non_blocking=True)


def chunk_size(elements: int, device: torch.device) -> int:
    """Elements of a chunk: a power of two times ``UNIT``, smaller for fewer elements."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
    size = UNIT
    while size < LARGEST_CHUNK and 2 * size * processors * CHUNKS_PER_PROCESSOR <= elements:
        size *= 2
    return size


def chunk_map(records: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """Int32 ``(chunks, 2)``: record and first element in units of ``UNIT``, the largest tensors first.

    Args:
        records: the table's records.
        positions: which of them to cut up.
        size: elements of a chunk.
    """
    numel = records[positions, RECORD["numel"]]
    order = torch.sort(numel, descending=True, stable=True).indices
    positions, numel = positions[order], numel[order]
    pieces = (numel + size - 1) // size
    source = torch.repeat_interleave(pieces)
    first = torch.cumsum(pieces, 0) - pieces
    unit = (torch.arange(source.numel()) - first[source]) * (size // UNIT)
    return torch.stack([positions[source], unit], dim=1).to(torch.int32).contiguous()


@dataclass
class Part:
    """The chunks of one dtype signature; ``extra`` as in :class:`variants.Options`."""

    kind: int
    chunks: torch.Tensor
    extra: bool


class DeviceTable:
    """Device copies of a parameter table; none is rewritten, so a captured graph may keep them.

    Args:
        table: filled.
        device: where the kernels run.
        size: elements of a chunk, a multiple of ``UNIT``; default: what suits the number of elements.
    """

    def __init__(self, table: ParameterTable, device: torch.device, size: int | None = None) -> None:
        self.device = device
        self.host = table.records.clone()
        self.layouts = table.layouts.clone()
        self.records = upload(self.host, device)
        self.size = size or chunk_size(int(self.host[:, RECORD["numel"]].sum()), device)
        self.parts = self._cut()
        self.grads = upload(self.host[:, GRAD], device)

    def _cut(self) -> list[Part]:
        kinds = self.host[:, RECORD["kind"]]
        filled = self.host[:, RECORD["numel"]] > 0
        parts = []
        for kind in torch.unique(kinds[filled]).tolist():
            positions = torch.nonzero(filled & (kinds == kind)).flatten()
            rows = self.host[positions]
            adam = bool((rows[:, RECORD["state1"]] != 0).any())
            extra = bool((rows[:, RECORD["state2" if adam else "state0"]] != 0).any())
            parts.append(Part(kind, upload(chunk_map(self.host, positions, self.size), self.device), extra))
        return parts

    def matches(self, table: ParameterTable) -> bool:
        """Whether ``table`` differs in the addresses of gradients at most."""
        if self.host.shape != table.records.shape or not torch.equal(self.layouts, table.layouts):
            return False
        same = self.host == table.records
        same[:, GRAD] = True
        return bool(same.all())

    def follow(self, table: ParameterTable) -> None:
        """Take over the addresses of gradients that moved."""
        if torch.equal(self.host[:, GRAD], table.records[:, GRAD]):
            return
        self.host[:, GRAD] = table.records[:, GRAD]
        if self.device.type == "cuda" and not is_capturing(self.device):
            self.grads.record_stream(torch.cuda.current_stream(self.device))
        self.grads = upload(self.host[:, GRAD], self.device)
