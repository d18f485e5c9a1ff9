"""What the GPU backends share: the table's copy on the device, and what a CUDA graph needs to stay valid."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..memory import pointers
from ..memory.device_table import DeviceTable
from ..memory.parameter_table import ParameterTable
from ..memory.platforms import TORCH, Platform
from .base import Backend, Update

if TYPE_CHECKING:
    from ..program.schedule import Run, Schedule


class Tracked:
    """What a backend knows about a parameter table: its device copy, and whether that is out of date.

    ``plan`` is the backend's own: the prepared launches of a step.
    """

    def __init__(self) -> None:
        self.device: DeviceTable | None = None
        self.where: tuple[int, int] | None = None  # for the pointer scan
        self.moved = True
        self.rebuilt = True
        self.plan: Any = None


class DeviceBackend(Backend):
    """Keeps device copies of parameter tables and prepared launches, for as long as they are of use.

    Args:
        chunk_size: elements of a chunk; default: what suits the number of elements.
        platform: see :class:`Backend`.
    """

    walks_memory = True

    def __init__(self, chunk_size: int | None = None, platform: Platform = TORCH) -> None:
        super().__init__(platform)
        self._chunk_size = chunk_size
        self._tracked: WeakKeyDictionary[ParameterTable, Tracked] = WeakKeyDictionary()
        self._advances: WeakKeyDictionary[Run, Any] = WeakKeyDictionary()
        # What captured launches point to, as long as a parameter (or a schedule) lives: tensors only.
        self._captured: Any = WeakIdKeyDictionary()

    def prepare(self, table: ParameterTable) -> None:
        pointers.note_layouts(table)
        tracked = self._tracked.setdefault(table, Tracked())
        tracked.rebuilt = True
        tracked.where = pointers.where_in_c(table, self.platform)

    def discard(self, table: ParameterTable) -> None:
        tracked = self._tracked.pop(table, None)
        if tracked is not None:
            self.platform.record_stream([] if tracked.device is None else tracked.device.tensors)
            self.platform.record_stream([] if tracked.plan is None else tracked.plan.kept)

    def scan(self, table: ParameterTable) -> bool:
        tracked = self._tracked.get(table)
        if tracked is None:
            return False
        result = pointers.scan(table, tracked.where)
        tracked.moved |= result == pointers.MOVED
        return result != pointers.REBUILD

    def _update(self, update: Update) -> None:
        table, block = update.table, update.block
        with self.platform.current(block.device):
            capturing = self.platform.is_capturing(block.device)
            kept = self._launch_update(update, capturing)
        if capturing:
            owner = table.entries[0].param if table.entries else block
            self._note_capture(owner, kept, [block, *(s.memory for s in update.schedules)])

    def advance(self, schedule: Run) -> None:
        device = schedule.block.device
        with self.platform.current(device):
            capturing = self.platform.is_capturing(device)
            kept = self._launch_advance(schedule, capturing)
        if capturing:
            self._note_capture(schedule, kept, [schedule.block, schedule.memory])

    def retire(self, schedule: Schedule) -> None:
        super().retire(schedule)
        for run in schedule.runs:
            plan = self._advances.pop(run, None)
            if plan is not None:
                self.platform.record_stream(plan.kept)

    def _launch_update(self, update: Update, capturing: bool) -> list[Any]:
        """Launch an update; returns what a graph that captured it must keep."""
        raise NotImplementedError

    def _launch_advance(self, schedule: Run, capturing: bool) -> list[Any]:
        """Launch a schedule's program; returns what a graph that captured it must keep."""
        raise NotImplementedError

    def _note_capture(self, owner: Any, kept: list[Any], hosted: list[Any]) -> None:
        """Keep what the graph points to, and stop trusting host mirrors: replays are not seen here."""
        self._captured.setdefault(owner, []).extend([*kept, [h.tensor for h in hosted]])
        for array in hosted:
            array.note_capture()

    def _renewed(self, plan: Any, make: Callable[[], Any], capturing: bool) -> Any:
        """A new plan in the place of ``plan``, made at once even during a capture."""
        if plan is not None:
            self.platform.record_stream(plan.kept)
        with self.platform.outside_of_capture() if capturing else nullcontext():
            return make()

    def _device_table(self, update: Update, capturing: bool) -> DeviceTable:
        """The device's copy of ``update.table``, up to date."""
        tracked = self._tracked[update.table]
        if tracked.device is None or (tracked.rebuilt and not tracked.device.matches(update.table)):
            if capturing:
                raise RuntimeError(
                    "the optimizer's parameters, state or gradients changed in kind inside a CUDA graph capture: "
                    "run one optimizer.step() with all gradients before the capture, so that the graph finds its state"
                )
            if tracked.device is not None:
                self.platform.record_stream(tracked.device.tensors)
            tracked.device = DeviceTable(
                update.table, update.rule, update.block.device, self._chunk_size, self.platform
            )
        elif tracked.rebuilt or tracked.moved or update.table.staged:
            tracked.device.follow(update.table)
        tracked.rebuilt = tracked.moved = False
        return tracked.device


def same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether two keys hold the very same objects."""
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def one_float(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A GradScaler's number as float32 on ``device``; the same tensor where it is that already."""
    return value.detach().to(device=device, dtype=torch.float32, non_blocking=True)
