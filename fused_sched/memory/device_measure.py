"""What a device has to measure gradients: chunks of all tables, a place for the sum of each, and the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .device_table import DeviceTable, chunk_map, chunk_size
from .parameter_table import RECORD, dtypes_of
from .platforms import Platform
from .reduction import Reduction

LARGEST_CHUNK = 32768  # bytes; one array is read and none is written, so there may be fewer chunks than of an update


@dataclass
class NormChunks:
    """What one launch measures.

    Attributes:
        table: position of the table.
        grad: dtype of the gradients.
        size: elements of a chunk.
        chunks: int32 ``(chunks, 3)`` on the device: record, first element in units of ``UNIT``, place of its sum.
    """

    table: int
    grad: torch.dtype
    size: int
    chunks: torch.Tensor


class DeviceMeasurement:
    """What the launches of one :class:`Measurement` point to, beside its tables.

    The launches go over the gradients in the reverse order of the update, which so finds in the cache what they have
    read last. The sums of a group lie side by side.

    Attributes:
        parts: of each launch.
        sums: float64 on the device, one for each chunk.
        groups: int32 ``(groups, 4)`` on the device: row, first and end of its sums, whether it has a ``max_grad_norm``.
        decides: whether its last launch sees what comes of the sums; else :class:`SumsOfAll` does.

    Args:
        tables: those of the step.
        groups: row of each group, and whether it has a ``max_grad_norm``.
        platform: what is asked about the device.
        size: elements of a chunk, a multiple of ``UNIT``; default: what suits the number of elements.
        counted: of each table, bool CPU tensor: which records to measure; default: all of them.
    """

    decides = True

    def __init__(
        self,
        tables: Sequence[DeviceTable],
        groups: Sequence[tuple[int, bool]],
        platform: Platform,
        device: torch.device,
        size: int | None = None,
        counted: Sequence[torch.Tensor] | None = None,
    ) -> None:
        position = {row: i for i, (row, _) in enumerate(groups)}
        cut = [
            self._cut(i, table, platform.processors(device), size, None if counted is None else counted[i])
            for i, table in enumerate(tables)
        ]
        found = [piece for pieces in reversed(cut) for piece in pieces]
        owners = [[position[row] for row in rows] for _, _, rows in found]
        owner = torch.tensor([x for piece in owners for x in piece], dtype=torch.int64, device="cpu")
        place = torch.empty_like(owner)
        place[torch.sort(owner, stable=True).indices] = torch.arange(len(owner), dtype=torch.int64, device="cpu")
        ends = torch.cumsum(torch.bincount(owner, minlength=len(groups)), 0)
        self.parts: list[NormChunks] = []
        first = 0
        for part, chunks, _ in found:
            own = place[first : first + len(chunks), None].to(torch.int32)
            part.chunks = platform.upload(torch.cat([chunks, own], dim=1).contiguous(), device)
            self.parts.append(part)
            first += len(chunks)
        self.sums = torch.zeros(max(1, len(owner)), dtype=torch.float64, device=device)
        self.n_sums = len(owner)
        rows = [[row, 0, 0, int(clips)] for row, clips in groups]
        table = torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, 4)
        table[:, 2] = ends
        table[1:, 1] = ends[:-1]
        self.n_groups = len(groups)
        self.groups = platform.upload(table.to(torch.int32), device)
        self.lengths = platform.upload(table[:, 2] - table[:, 1], device)

    @staticmethod
    def _cut(
        position: int, table: DeviceTable, processors: int, given: int | None, counted: torch.Tensor | None
    ) -> list[tuple[NormChunks, torch.Tensor, list[int]]]:
        """Of each launch, chunks and the row of each."""
        cut = []
        for each in reversed(table.signatures):
            grad = dtypes_of(each.signature)[1]
            positions = each.positions if counted is None else each.positions[counted[each.positions]]
            if not len(positions):
                continue
            elements = int(table.host[positions, RECORD["numel"]].sum())
            size = given or chunk_size(elements, grad.itemsize, processors, LARGEST_CHUNK)
            chunks = chunk_map(table.host, positions, size).flip(0)
            rows = table.host[chunks[:, 0].long(), RECORD["row"]].tolist()
            cut.append((NormChunks(position, grad, size, chunks), chunks, rows))
        return cut

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of it that launches point to."""
        return [self.sums, self.groups, self.lengths, *(part.chunks for part in self.parts)]


class SumsOfAll:
    """What follows the launches of a :class:`DeviceMeasurement` where other processes have parts of the gradients.

    One number a group is added up over the processes, and one launch without gradients sees what comes of them.

    Attributes:
        parts, sums, n_sums, groups, n_groups, decides: as of a :class:`DeviceMeasurement` of no gradients.
        found_inf: float32 on the device, one element: whether any process found an infinity.

    Args:
        own: what is measured on this process.
        groups, platform, device: as of ``own``.
    """

    decides = True

    def __init__(
        self, own: DeviceMeasurement, groups: Sequence[tuple[int, bool]], platform: Platform, device: torch.device
    ) -> None:
        own.decides = False
        self._own = own
        self.parts: list[NormChunks] = []
        self.n_sums = self.n_groups = len(groups)
        self.sums = torch.zeros(len(groups) + 1, dtype=torch.float64, device=device)  # the last for found_inf
        self.found_inf = torch.zeros(1, dtype=torch.float32, device=device)
        rows = [[row, i, i + 1, int(clips)] for i, (row, clips) in enumerate(groups)]
        table = torch.tensor(rows, dtype=torch.int32, device="cpu").reshape(-1, 4)
        self.groups = platform.upload(table, device)

    def add_up(self, reduction: Reduction, found_inf: torch.Tensor | None) -> torch.Tensor | None:
        """Have the sums of all processes, in stream order; returns found_inf of all, None if it was."""
        own = self._own
        sums = torch.segment_reduce(own.sums[: own.n_sums], "sum", lengths=own.lengths, initial=0.0, unsafe=True)
        self.sums[:-1].copy_(sums)
        if found_inf is not None:
            self.sums[-1:].copy_(found_inf.reshape(1))
        reduction.add_up(self.sums)
        if found_inf is None:
            return None
        return self.found_inf.copy_(self.sums[-1:])

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of it that launches point to."""
        return [*self._own.tensors, self.sums, self.groups, self.found_inf]
