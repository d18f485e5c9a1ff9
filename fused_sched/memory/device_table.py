"""The parameter table on the device, and the launches prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch

from ..rules import Rule
from .parameter_table import RECORD, ParameterTable, widest_of
from .platforms import TORCH, Platform

GRAD, COUNT = RECORD["grad"], RECORD["count"]
UNIT = 1024  # elements; chunks start at multiples of it
LARGEST_CHUNK = 8192  # bytes of one array; more was slower on an H100
CHUNKS_PER_PROCESSOR = 32  # small enough chunks that the last wave of programs is a small part of all
PROGRAMS_AT_ONCE = 8  # that fit a processor


def chunk_size(elements: int, width: int, processors: int, largest: int = LARGEST_CHUNK) -> int:
    """Elements of a chunk: a power of two times ``UNIT``, smaller for fewer elements.

    Args:
        elements: to be cut up.
        width: bytes of the widest type that an element has.
        processors: of the device.
        largest: bytes of one array of a chunk.
    """
    size = UNIT
    while 2 * size * width <= largest and 2 * size * processors * CHUNKS_PER_PROCESSOR <= elements:
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
    unit = (torch.arange(source.numel(), dtype=torch.int64, device="cpu") - first[source]) * (size // UNIT)
    return torch.stack([positions[source], unit], dim=1).to(torch.int32).contiguous()


@dataclass
class SignatureChunks:
    """All parameters of one dtype signature, cut up for one launch.

    Attributes:
        signature: dtypes of parameter, gradient and state, as a record writes them.
        positions: of their records in the table.
        size: elements of a chunk.
        chunks: from :func:`chunk_map`, on the device; one program each.
        optional_state, at_once: as in :class:`variants.Options`.
    """

    signature: int
    positions: torch.Tensor
    size: int
    chunks: torch.Tensor
    optional_state: bool
    at_once: bool


@dataclass
class Launches:
    """Launches that a backend prepared: of an update, or of a schedule alone.

    Attributes:
        key: what they were prepared for.
        prepared: in the backend's own form.
        kept: all that they point to, but for the table.
        grads: the addresses of gradients that they read, of each table.
    """

    key: tuple[Any, ...]
    prepared: Any
    kept: list[Any]
    grads: list[torch.Tensor] = field(default_factory=list)

    def serve(self, key: tuple[Any, ...]) -> bool:
        """Whether they were prepared for the very same objects."""
        return _are_the_same(self.key, key)

    def reads(self, grads: list[torch.Tensor]) -> bool:
        """Whether they read these addresses; from now on they do."""
        before, self.grads = self.grads, grads
        return _are_the_same(before, grads)


def _are_the_same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


class DeviceTable:
    """What a device has of a parameter table, and the launches prepared for it.

    No tensor is rewritten, so a captured graph may keep them. ``grads`` has what moves most often, and what the end of
    a step reads of every record, side by side: the address of each gradient, 0 for none, and the slot of the count.

    Args:
        table: filled.
        rule: by which it will be updated.
        device: where the kernels run.
        size: elements of a chunk, a multiple of ``UNIT``; default: what suits the number of elements.
        platform: what is asked about ``device``.
    """

    def __init__(
        self,
        table: ParameterTable,
        rule: Rule,
        device: torch.device,
        size: int | None = None,
        platform: Platform = TORCH,
    ) -> None:
        self.device = device
        self.platform = platform
        self.host = table.records.clone()
        records = self.host.clone()
        records[:, GRAD] = 0  # what launches read is in `grads`, and what is here is never rewritten
        self.records = platform.upload(records, device)
        self.signatures = self._cut(rule, size)
        self.grads = self._upload_grads()
        self.launches: Launches | None = None

    def _upload_grads(self) -> torch.Tensor:
        return self.platform.upload(self.host[:, [GRAD, COUNT]], self.device)

    def _cut(self, rule: Rule, given: int | None) -> list[SignatureChunks]:
        processors = self.platform.processors(self.device)
        signatures = self.host[:, RECORD["kind"]]
        filled = self.host[:, RECORD["numel"]] > 0
        cut = []
        for signature in torch.unique(signatures[filled]).tolist():
            positions = torch.nonzero(filled & (signatures == signature)).flatten()
            rows = self.host[positions]
            optional = rows[:, [RECORD["state0"] + i for i in range(rule.optional_state, len(rule.states))]]
            size = given or chunk_size(int(rows[:, RECORD["numel"]].sum()), widest_of(signature), processors)
            chunks = chunk_map(self.host, positions, size)
            at_once = len(chunks) <= PROGRAMS_AT_ONCE * processors
            chunks = self.platform.upload(chunks, self.device)
            cut.append(SignatureChunks(signature, positions, size, chunks, bool((optional != 0).any()), at_once))
        return cut

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of it that launches point to."""
        return [self.records, self.grads, *(each.chunks for each in self.signatures)]

    def follow(self, table: ParameterTable) -> None:
        """Take over the addresses of gradients that moved."""
        if torch.equal(self.host[:, GRAD], table.records[:, GRAD]):
            return
        self.host[:, GRAD] = table.records[:, GRAD]
        self.platform.record_stream(self.grads)
        self.grads = self._upload_grads()
