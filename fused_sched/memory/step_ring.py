"""Rows that the device writes, one a step, and the host reads without waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from .platforms import Download, Platform

NOBODYS = -1  # the number of a row that was never written


class StepRing:
    """Has the last rows; each is its step's number, and words that say something of the step.

    A row of another length than those before goes into a further ring of the same capacity, with the same numbers: what
    a captured CUDA graph writes stays in the ring that it was captured with.

    Attributes:
        overwritten: rows that were, before the host had read them.

    Args:
        capacity: rows of a ring.
        first_step: number of the first step, at least 0.
        platform: how the host reads.
    """

    def __init__(self, capacity: int, first_step: int, platform: Platform) -> None:
        self.overwritten = 0
        self._capacity, self._platform = torch.tensor(capacity, dtype=torch.int64, device="cpu"), platform
        self._first_step = self._expected = first_step
        self._next: torch.Tensor | None = None  # int64 (1) on the device: number of the coming step
        self._rings: dict[int, torch.Tensor] = {}  # by length of a row, int64 (capacity, length); the last is in use
        self._captured: set[int] = set()  # lengths whose ring a graph writes to
        self._on_their_way: deque[Download] = deque()

    @property
    def on_their_way(self) -> int:
        """How often the rings are being copied to the host at present."""
        return len(self._on_their_way)

    @torch.no_grad()
    def write(self, words: Sequence[torch.Tensor], capturing: bool) -> list[torch.Tensor]:
        """Write the row of a step; returns what is used for that.

        Args:
            words: int64, one-dimensional, on the device.
            capturing: into a graph.
        """
        length = 1 + sum(word.numel() for word in words)
        ring = self._ring(length, words[0].device, capturing)
        assert self._next is not None
        row = torch.cat([self._next, *words])
        ring.index_copy_(0, self._next.remainder(self._capacity), row.unsqueeze(0))
        self._next.add_(1)
        if capturing:
            self._captured.add(length)
        return [self._next, ring]

    def _ring(self, length: int, device: torch.device, capturing: bool) -> torch.Tensor:
        """The ring for rows of a length, which is the one in use afterwards."""
        if length in self._rings:
            if length != next(reversed(self._rings)):
                self._rings[length] = self._rings.pop(length)
            return self._rings[length]
        # tensors of inference mode could not be written to outside of it
        with self._platform.outside_of_capture() if capturing else nullcontext(), torch.inference_mode(False):
            if self._next is None:
                self._next = torch.full((1,), self._first_step, dtype=torch.int64, device=device)
            made = torch.full((int(self._capacity), length), NOBODYS, dtype=torch.int64, device=device)
        self._rings[length] = made
        if not capturing and len(self._rings) > 1:
            self.start_reading()  # which lets go of the ring before
        return made

    def start_reading(self) -> None:
        """Copy what there is to the host, in stream order and without waiting. Not inside a capture."""
        if self._next is None:
            return
        self._on_their_way.append(self._platform.download([self._next, *self._rings.values()]))
        in_use = next(reversed(self._rings))
        for length in [n for n in self._rings if n != in_use and n not in self._captured]:
            self._platform.record_stream(self._rings.pop(length))

    def arrived(self, wait: bool = False) -> list[list[int]]:
        """Rows that the host has not had yet, in the order of their steps: those that have arrived, or all asked for.

        Args:
            wait: for the device.
        """
        rows: list[list[int]] = []
        while self._on_their_way and (wait or self._on_their_way[0].has_arrived()):
            if wait:
                self._on_their_way[0].wait()
            coming, *rings = self._on_their_way.popleft().values
            end = int(coming)
            new = [row for ring in rings for row in self._new_rows(ring, end)]
            self.overwritten += max(0, end - self._expected) - len(new)
            self._expected = max(end, self._expected)
            rows += sorted(new)
        return rows

    def _new_rows(self, ring: torch.Tensor, end: int) -> list[list[int]]:
        numbers = ring[:, 0]
        found: list[list[int]] = ring[(numbers >= self._expected) & (numbers < end)].tolist()
        return found

    def release(self) -> None:
        """Nobody reads any more: memory may wait for what the current stream still writes."""
        self._platform.record_stream([self._next, *self._rings.values()])
