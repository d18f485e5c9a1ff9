"""What the GPU backends share: when launches are prepared anew, and what a CUDA graph needs to stay valid."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..memory import pointers
from ..memory.control_block import ControlBlock
from ..memory.device_measure import DeviceMeasurement
from ..memory.device_table import DeviceTable, Launches
from ..memory.parameter_table import ParameterTable
from ..memory.platforms import TORCH, Platform
from ..rules import Rule
from .base import Backend, Measurement, Update

if TYPE_CHECKING:
    from ..program.schedule import Run, Schedule


class DeviceBackend(Backend):
    """Prepares launches, and does them again at each step for as long as they serve.

    Attributes:
        device_tables: what the device has of each parameter table, from its first update on.
        measurements: launches that measure the gradients of an update.
        advances: launches of schedules that are not advanced by an update.
        captured: what captured launches point to, as long as a parameter (or a schedule) lives.

    Args:
        chunk_size: elements of a chunk; default: what suits the number of elements.
        platform: see :class:`Backend`.
    """

    walks_memory = True

    def __init__(self, chunk_size: int | None = None, platform: Platform = TORCH) -> None:
        super().__init__(platform)
        self._chunk_size = chunk_size
        self.device_tables: WeakKeyDictionary[ParameterTable, DeviceTable] = WeakKeyDictionary()
        self.measurements: WeakKeyDictionary[Measurement, Launches] = WeakKeyDictionary()
        self.advances: WeakKeyDictionary[Run, Launches] = WeakKeyDictionary()
        self.captured: Any = WeakIdKeyDictionary()

    def prepare(self, table: ParameterTable) -> None:
        pointers.prepare(table, self.platform)

    def discard(self, table: ParameterTable) -> None:
        dropped = self.device_tables.pop(table, None)
        if dropped is not None:
            self.platform.record_stream(dropped.tensors)
            self._drop(dropped.launches)

    def scan(self, table: ParameterTable) -> bool:
        return pointers.scan(table)

    def _update(self, update: Update) -> None:
        block = update.block
        with self.platform.current(block.device):
            capturing = self.platform.is_capturing(block.device)
            table = self._device_table(update.table, update.rule, block, capturing)
            ways = update.measured, update.clipped, update.zeroes, update.draws
            key = block.tensor, block.counts, update.rule, *self._compiled_for(update), *ways
            for schedule in update.schedules:
                key += (schedule.memory.tensor, schedule.program, schedule.guarded)
            launches = table.launches
            if launches is None or not launches.serve(key):
                make = partial(self._prepare_update, update, table)
                launches = table.launches = self._renewed(launches, key, make, capturing)
            if not launches.reads([table.grads]):
                self._point_to(launches.prepared, table.grads)
            scale = None if update.grad_scale is None else one_float(update.grad_scale, block.device)
            found = None if update.found_inf is None else one_float(update.found_inf, block.device)
            self._launch_update(launches.prepared, block.tensor, scale, found)
        if capturing:
            entries = update.table.entries
            kept = [launches.kept, table.tensors, scale, found]
            hosted = [block, *(s.memory for s in update.schedules)]
            self._note_capture(entries[0].param if entries else block, kept, hosted)

    def _measure(self, measurement: Measurement) -> None:
        m, block = measurement, measurement.block
        with self.platform.current(block.device):
            capturing = self.platform.is_capturing(block.device)
            tables = [self._device_table(table, m.rule, block, capturing) for table in m.tables]
            key = block.tensor, *tables, *self._compiled_for(m)
            launches = self.measurements.get(m)
            if launches is None or not launches.serve(key):
                make = partial(self._make_measurement, m, tables)
                launches = self.measurements[m] = self._renewed(launches, key, make, capturing)
            grads = [table.grads for table in tables]
            if not launches.reads(grads):
                self._point_measurement_to(launches.prepared, grads)
            scale = None if m.grad_scale is None else one_float(m.grad_scale, block.device)
            found = None if m.found_inf is None else one_float(m.found_inf, block.device)
            self._launch_measurement(launches.prepared, block.tensor, scale, found)
        if capturing:
            entries = m.tables[0].entries
            kept = [launches.kept, *(table.tensors for table in tables), scale, found]
            self._note_capture(entries[0].param if entries else block, kept, [block])

    def _make_measurement(self, measurement: Measurement, tables: list[DeviceTable]) -> tuple[Any, list[Any]]:
        m = measurement
        on_device = DeviceMeasurement(tables, m.groups, self.platform, m.block.device, self._chunk_size)
        prepared, made = self._prepare_measurement(m, on_device, tables)
        return prepared, [on_device.tensors, m.norms, *made]

    def advance(self, schedule: Run) -> None:
        block = schedule.block
        with self.platform.current(block.device):
            capturing = self.platform.is_capturing(block.device)
            key = schedule.memory.tensor, schedule.program, block.tensor, schedule.guarded
            launches = self.advances.get(schedule)
            if launches is None or not launches.serve(key):
                make = partial(self._prepare_advance, schedule)
                launches = self.advances[schedule] = self._renewed(launches, key, make, capturing)
            self._launch_advance(launches.prepared, block.tensor)
        if capturing:
            self._note_capture(schedule, [launches.kept], [block, schedule.memory])

    def note_write(self, schedule: Run) -> None:
        if self.platform.is_capturing(schedule.block.device):
            self._note_capture(schedule, [], [schedule.memory])

    def retire(self, schedule: Schedule) -> None:
        super().retire(schedule)
        for run in schedule.runs:
            self._drop(self.advances.pop(run, None))

    def _prepare_measurement(
        self, measurement: Measurement, on_device: DeviceMeasurement, tables: list[DeviceTable]
    ) -> tuple[Any, list[Any]]:
        """The launches of a measurement, as yet without gradients, and what else was made for them to point to."""
        raise NotImplementedError

    def _point_measurement_to(self, prepared: Any, grads: list[torch.Tensor]) -> None:
        """Let launches of a measurement read these addresses of gradients, those of each table."""
        raise NotImplementedError

    def _launch_measurement(
        self, prepared: Any, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        raise NotImplementedError

    def _compiled_for(self, update: Update | Measurement) -> tuple[Any, ...]:
        """What kernels are compiled for, besides rule, dtypes and programs: objects to compare by identity."""
        return ()

    def _prepare_update(self, update: Update, table: DeviceTable) -> tuple[Any, list[Any]]:
        """The launches of an update, as yet without gradients, and what was made for them to point to."""
        raise NotImplementedError

    def _prepare_advance(self, schedule: Run) -> tuple[Any, list[Any]]:
        """The launch of a schedule's program, and what was made for it to point to."""
        raise NotImplementedError

    def _point_to(self, prepared: Any, grads: torch.Tensor) -> None:
        """Let launches of an update read these addresses of gradients."""
        raise NotImplementedError

    def _launch_update(
        self, prepared: Any, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        raise NotImplementedError

    def _launch_advance(self, prepared: Any, control: torch.Tensor) -> None:
        raise NotImplementedError

    def _note_capture(self, owner: Any, kept: list[Any], hosted: list[Any]) -> None:
        """Keep what the graph points to, and stop trusting host mirrors: replays are not seen here."""
        self.captured.setdefault(owner, []).extend([*kept, [h.tensor for h in hosted]])
        for array in hosted:
            array.note_capture()

    def _drop(self, launches: Launches | None) -> None:
        if launches is not None:
            self.platform.record_stream(launches.kept)

    def _renewed(
        self,
        launches: Launches | None,
        key: tuple[Any, ...],
        make: Callable[[], tuple[Any, list[Any]]],
        capturing: bool,
    ) -> Launches:
        """Launches in the place of others, made at once even during a capture."""
        self._drop(launches)
        with self.platform.outside_of_capture() if capturing else nullcontext():
            prepared, made = make()
        return Launches(key, prepared, [*key, *made])

    def _device_table(self, table: ParameterTable, rule: Rule, block: ControlBlock, capturing: bool) -> DeviceTable:
        """What the device has of a table, up to date."""
        found = self.device_tables.get(table)
        if found is None:
            if capturing:
                raise RuntimeError(
                    "the optimizer's parameters, state or gradients changed in kind inside a CUDA graph capture: "
                    "run one optimizer.step() with all gradients before the capture, so that the graph finds its state"
                )
            found = DeviceTable(table, rule, block.device, self._chunk_size, self.platform)
            self.device_tables[table] = found
        elif table.moved or table.staged:
            found.follow(table)
        table.moved = False
        return found


def one_float(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A GradScaler's number as float32 on ``device``; the same tensor where it is that already."""
    return value.detach().to(device=device, dtype=torch.float32, non_blocking=True)
