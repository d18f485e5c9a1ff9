"""Who is told of every step: on the device, as a part of it, so that replays of a captured CUDA graph tell too."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from .. import backends
from ..memory.control_block import HEADER, ControlBlock
from ..notice import warn
from .home import Home

ABSENT = 0x7FF8_0000_0000_0001  # bits of a NaN that no arithmetic makes: the step did not have this number


class Observer(Protocol):
    """What :meth:`Observing.add_observer` takes."""

    def record(self, words: Sequence[torch.Tensor], capturing: bool) -> Sequence[torch.Tensor]:
        """Let the device write down a step, by operations that a CUDA graph can repeat.

        Args:
            words: int64, one-dimensional, on the device: bits of the float64 lr of each group; bits of the float64
                norm of all gradients, or :data:`ABSENT`; 1 if the step was skipped, else 0; bits of GradScaler's scale
                as float64, or :data:`ABSENT`.
            capturing: the step is only recorded into a graph.

        Returns:
            The tensors that it has used, which are kept for the graph.
        """

    def note_step(self) -> None:
        """The host has made a step; not called for one that was only recorded."""


class Observing(Home):
    """The part of an optimizer that tells of its steps."""

    _block: ControlBlock
    _backend: backends.Backend
    _measurement: backends.Measurement | None
    _observers: tuple[weakref.ref[Observer], ...] = ()
    _unobserved = 0  # how many blocks of unobserved() we are in
    _observed_groups: Any = None  # for which the following three are
    _lr_places: torch.Tensor
    _lr_tensors: Sequence[tuple[torch.Tensor, list[torch.Tensor]]] = ()
    _absent: torch.Tensor

    def add_observer(self, observer: Observer) -> None:
        """Tell ``observer`` of every step from now on, for as long as somebody else has it.

        Raises:
            RuntimeError: inside the capture of a CUDA graph.
        """
        self.refuse_in_capture(f"a {type(observer).__name__} was made")
        block = self._block
        if block.captured:
            warn(
                f"a {type(observer).__name__} was made after a CUDA graph was captured: replays of that graph tell it "
                "nothing. Make it before the capture, or capture again, as graphed() does by itself"
            )
        self._absent = block.platform.upload(torch.tensor([ABSENT], dtype=torch.int64, device="cpu"), block.device)
        self._observers = (*self._observers, weakref.ref(observer))

    @property
    def observers(self) -> tuple[weakref.ref[Observer], ...]:
        """Those that are told of steps."""
        return self._observers

    def remove_observer(self, observer: Observer) -> None:
        """Tell it no more; nothing if it is not told."""
        self._observers = tuple(r for r in self._observers if r() is not None and r() is not observer)

    @contextmanager
    def unobserved(self) -> Iterator[None]:
        """Within the block, steps, and what is captured, tell nobody: ``with optimizer.unobserved(): warm_up()``."""
        self._unobserved += 1
        try:
            yield
        finally:
            self._unobserved -= 1

    def _present_observers(self) -> Sequence[Observer]:
        if self._unobserved:
            return []
        found = [observer for reference in self._observers if (observer := reference()) is not None]
        if len(found) < len(self._observers):
            self._observers = tuple(map(weakref.ref, found))
        return found

    @torch.no_grad()
    def _coming_lrs(self) -> torch.Tensor:
        """The lr of each group as the coming update uses it: bits of float64."""
        block = self._block
        if self._observed_groups is not self.groups_seen:
            self._note_lr_places()
        lrs = block.tensor.index_select(0, self._lr_places)
        for places, tensors in self._lr_tensors:  # what follows a tensor, as bindings.imported() reads it
            given = torch.stack([t.detach().reshape(()) for t in tensors])
            kept = lrs.index_select(0, places)
            lrs.index_copy_(0, places, torch.where(kept.to(given.dtype) == given, kept, given.to(kept.dtype)))
        return lrs.view(torch.int64)

    def _note_lr_places(self) -> None:
        block, rows = self._block, self.rows
        followed: dict[torch.dtype, list[tuple[int, torch.Tensor]]] = {}
        for i, row in enumerate(rows):
            tensor = block.bindings.get(row, "lr")
            if tensor is not None:
                followed.setdefault(tensor.dtype, []).append((i, tensor))
        self._lr_places = self._uploaded([block.slot(row, "lr") for row in rows])
        self._lr_tensors = [(self._uploaded([i for i, _ in x]), [t for _, t in x]) for x in followed.values()]
        self._observed_groups = self.groups_seen

    def _uploaded(self, numbers: list[int]) -> torch.Tensor:
        return self._block.platform.upload(torch.tensor(numbers, dtype=torch.int64, device="cpu"), self._block.device)

    @torch.no_grad()
    def _tell(self, observers: Sequence[Observer], lrs: torch.Tensor) -> None:
        """Tell of the step that was made with these lrs."""
        block, scale = self._block, getattr(self, "grad_scale", None)
        header = block.integers
        norm = self._absent if self._measurement is None else _word(header, "grad_norm")
        scaled = self._absent
        if scale is not None:
            scaled = scale.detach().to(block.device, torch.float64, non_blocking=True).reshape(1).view(torch.int64)
        words = (lrs, norm, _word(header, "skipped"), scaled)
        capturing = block.capturing()
        used = [tensor for observer in observers for tensor in observer.record(words, capturing)]
        if capturing:
            followed = [t for places, tensors in self._lr_tensors for t in (places, *tensors)]
            self._keep_for_graph([self._lr_places, self._absent, *followed, *used])
            return
        for observer in observers:
            observer.note_step()


def _word(header: torch.Tensor, name: str) -> torch.Tensor:
    return header[HEADER[name] : HEADER[name] + 1]
