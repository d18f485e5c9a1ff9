"""The Triton backend: the update of all tensors, the counts and the fused schedules in one launch.

Tables and code are prepared once. A step with unchanged pointers is one check of the pointers, in C++
where the extension was built, and one launch with a handful of addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..kernels import pointers, variants
from ..kernels.device_table import DeviceTable, is_capturing, outside_of_capture, upload
from ..kernels.launcher import Launcher
from ..kernels.program_source import advance_function
from ..parameter_table import ParameterTable
from .base import Backend, Update

if TYPE_CHECKING:
    from ..schedule import Schedule

_GRADS, _GRAD_SCALE, _FOUND_INF = "grads", "grad_scale", "found_inf"


@dataclass
class _Launch:
    """One kernel with its arguments; ``names`` are those of the kernel's signature."""

    compiled: Any
    programs: int
    names: list[str]
    arguments: list[Any]


@dataclass
class _Plan:
    """The launches of a step. ``key`` tells what they were made for; ``kept`` holds what they point to."""

    key: tuple[Any, ...]
    launches: list[_Launch]
    kept: list[Any]


class _Tracked:
    """What the backend knows about a parameter table: its device copy, and whether that is out of date.

    ``where`` is for the pointer scan.
    """

    def __init__(self) -> None:
        self.device: DeviceTable | None = None
        self.where: tuple[int, int] | None = None
        self.moved = True
        self.rebuilt = True
        self.plan: _Plan | None = None


class TritonBackend(Backend):
    """See the module. ``launcher`` counts launches and compilations."""

    name = "triton"
    walks_memory = True

    def __init__(self) -> None:
        self.launcher = Launcher()
        self._tracked: WeakKeyDictionary[ParameterTable, _Tracked] = WeakKeyDictionary()
        self._advances: WeakKeyDictionary[Schedule, _Plan] = WeakKeyDictionary()
        # What captured launches point to, as long as a parameter (or a schedule) lives: tensors only.
        self._captured: Any = WeakIdKeyDictionary()

    def prepare(self, table: ParameterTable) -> None:
        pointers.note_layouts(table)
        tracked = self._tracked.setdefault(table, _Tracked())
        tracked.rebuilt = True
        tracked.where = pointers.where_in_c(table)

    def scan(self, table: ParameterTable, states: Sequence[int]) -> bool:
        tracked = self._tracked.get(table)
        if tracked is None:
            return False
        result = pointers.scan(table, states, tracked.where)
        tracked.moved |= result == pointers.MOVED
        return bool(result != pointers.REBUILD)

    def update(self, update: Update) -> None:
        table, block = update.table, update.block
        device = block.tensor.device
        if table.staged:
            table.stage_in()
        with self._on(device):
            capturing = is_capturing(device)
            moving = self._prepare_launches(update, capturing)
            plan = self._tracked[table].plan
            assert plan is not None
            for launch in plan.launches:
                for name, value in moving.items():
                    if name in launch.names:
                        launch.arguments[launch.names.index(name)] = self.launcher.argument(value)
                self.launcher.launch(launch.compiled, launch.programs, launch.arguments)
        if capturing:
            owner = table.entries[0].param if table.entries else block
            self._note_capture(owner, [plan.kept, [*moving.values()]], [block, *(s.memory for s in update.schedules)])
        if table.staged:
            table.stage_out(update.grad_scale is not None)

    def advance(self, schedule: Schedule) -> None:
        device = schedule.block.tensor.device
        with self._on(device):
            capturing = is_capturing(device)
            plan = self._advance_plan(schedule, capturing)
            launch = plan.launches[0]
            self.launcher.launch(launch.compiled, launch.programs, launch.arguments)
        if capturing:
            self._note_capture(schedule, [plan.kept], [schedule.block, schedule.memory])

    @staticmethod
    def _on(device: torch.device) -> AbstractContextManager[Any]:
        if device.type != "cuda" or torch.cuda.current_device() == device.index:
            return nullcontext()
        return torch.cuda.device(device)

    def _note_capture(self, owner: Any, kept: list[Any], hosted: list[Any]) -> None:
        """Keep what the graph points to, and stop trusting host mirrors: replays are not seen here."""
        self._captured.setdefault(owner, []).extend([*kept, [h.tensor for h in hosted]])
        for array in hosted:
            array.note_capture()

    def _device_table(self, update: Update, capturing: bool) -> DeviceTable:
        tracked = self._tracked[update.table]
        if tracked.device is None or (tracked.rebuilt and not tracked.device.matches(update.table)):
            if capturing:
                raise RuntimeError(
                    "the optimizer's parameters, state or gradients changed in kind inside a CUDA graph capture: "
                    "run one optimizer.step() with all gradients before the capture, so that the graph finds its state"
                )
            tracked.device = DeviceTable(update.table, update.block.tensor.device)
        elif tracked.rebuilt or tracked.moved or update.table.staged:
            tracked.device.follow(update.table)
        tracked.rebuilt = tracked.moved = False
        return tracked.device

    def _prepare_launches(self, update: Update, capturing: bool) -> dict[str, torch.Tensor]:
        """Bring table and plan up to date; returns the arguments that may be other tensors at each step."""
        tracked = self._tracked[update.table]
        table = self._device_table(update, capturing)
        scaled, guarded = update.grad_scale is not None, update.found_inf is not None
        key: tuple[Any, ...] = (table, update.block.tensor, update.rule, scaled, guarded)
        for schedule in update.schedules:
            key += (schedule.memory.tensor, schedule.program, schedule.guarded)
        if tracked.plan is None or not _same(tracked.plan.key, key):
            with outside_of_capture() if capturing else nullcontext():
                tracked.plan = self._make_plan(update, table, key)
        moving = {_GRADS: table.grads}
        if update.grad_scale is not None:
            moving[_GRAD_SCALE] = _one_float(update.grad_scale, table.device)
        if update.found_inf is not None:
            moving[_FOUND_INF] = _one_float(update.found_inf, table.device)
        return moving

    def _make_plan(self, update: Update, table: DeviceTable, key: tuple[Any, ...]) -> _Plan:
        control, device = update.block.tensor, table.device
        advance, schedules = self._schedules(update.schedules, control)
        options = variants.Options(
            update.rule, False, update.grad_scale is not None, update.found_inf is not None, True, advance
        )
        tensors = {
            "control": control,
            "records": table.records,
            "schedules": schedules,
            _GRADS: table.grads,
            _GRAD_SCALE: control,  # where none is given, the kernel does not look
            _FOUND_INF: control,
        }
        launches = []
        for i, part in enumerate(table.parts):
            options = variants.Options(
                options.rule, part.extra, options.scaled, options.guarded, i == len(table.parts) - 1, advance
            )
            numbers = {"n_records": len(table.host), "chunk_size": table.size}
            kernel = variants.update(part.kind, options)
            launches.append(self._launch(kernel, device, len(part.chunks), {**tensors, "chunks": part.chunks}, numbers))
        if not launches:
            launches.append(self._launch(variants.finish(options), device, 1, tensors, {"n_records": len(table.host)}))
        return _Plan(key, launches, [control, table, schedules, *key])

    def _launch(
        self,
        kernel: variants.Kernel,
        device: torch.device,
        programs: int,
        tensors: dict[str, torch.Tensor],
        numbers: dict[str, int],
    ) -> _Launch:
        names = [name for name, _ in kernel.signature]
        arguments = [numbers[n] if n in numbers else self.launcher.argument(tensors[n]) for n in names]
        return _Launch(self.launcher.get(kernel, device), programs, names, arguments)

    def _schedules(self, schedules: Sequence[Schedule], control: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The function that runs ``schedules``, and the addresses of their memories on the device."""
        if not schedules:
            return None, control
        addresses = torch.tensor([s.memory.tensor.data_ptr() for s in schedules], dtype=torch.int64)
        return advance_function([(s.program, s.guarded) for s in schedules]), upload(addresses, control.device)

    def _advance_plan(self, schedule: Schedule, capturing: bool) -> _Plan:
        key = schedule.memory.tensor, schedule.program, schedule.block.tensor, schedule.guarded
        plan = self._advances.get(schedule)
        if plan is None or not _same(plan.key, key):
            with outside_of_capture() if capturing else nullcontext():
                function, addresses = self._schedules([schedule], schedule.block.tensor)
                tensors = {"control": schedule.block.tensor, "schedules": addresses}
                launch = self._launch(variants.advance(function), schedule.block.tensor.device, 1, tensors, {})
            plan = self._advances[schedule] = _Plan(key, [launch], [*key, addresses])
        return plan


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _one_float(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A GradScaler's number as float32 on ``device``; the same tensor where it is that already."""
    return value.detach().to(device=device, dtype=torch.float32, non_blocking=True)


def make() -> Backend:
    from ..kernels.numerics import INTERPRETED

    if not INTERPRETED and not torch.cuda.is_available():
        raise ImportError("no GPU was found (TRITON_INTERPRET=1, set before the start, runs the kernels on the CPU)")
    return TritonBackend()
