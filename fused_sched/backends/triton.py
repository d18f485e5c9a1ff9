"""The Triton backend: the update of all tensors, the counts and the fused schedules in one launch.

Tables and code are prepared once. A step with unchanged pointers is one check of the pointers, in C++
where the extension was built, and one launch with a handful of addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..kernels import rules as kernel_rules
from ..kernels import variants
from ..kernels.launcher import Launcher, make_launcher
from ..kernels.program_source import advance_function
from ..memory.device_table import DeviceTable
from ..memory.platforms import TORCH, Platform
from ..rules import RULES
from .base import Backend, Update
from .device_backend import DeviceBackend, one_float, same

if TYPE_CHECKING:
    from ..program.schedule import Schedule

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


class TritonBackend(DeviceBackend):
    """See the module.

    Args:
        tuning: of the update kernels.
        chunk_size: elements of a chunk; default: what suits the number of elements.
        launcher: compiles and launches, and counts both; default: what suits this process.
        platform: see :class:`Backend`.
    """

    name = "triton"
    rules: ClassVar = {name: RULES[name] for name in kernel_rules.RULES}

    def __init__(
        self,
        tuning: variants.Tuning = variants.DEFAULT,
        chunk_size: int | None = None,
        *,
        launcher: Launcher | None = None,
        platform: Platform = TORCH,
    ) -> None:
        super().__init__(chunk_size, platform)
        self.launcher = make_launcher() if launcher is None else launcher
        self._tuning = tuning

    def _launch_update(self, update: Update, capturing: bool) -> list[Any]:
        moving = self._prepare_launches(update, capturing)
        plan: _Plan = self._tracked[update.table].plan
        for launch in plan.launches:
            for name, value in moving.items():
                if name in launch.names:
                    launch.arguments[launch.names.index(name)] = self.launcher.argument(value)
            self.launcher.launch(launch.compiled, launch.programs, launch.arguments)
        return [plan.kept, [*moving.values()]]

    def _launch_advance(self, schedule: Schedule, capturing: bool) -> list[Any]:
        plan = self._advance_plan(schedule, capturing)
        launch = plan.launches[0]
        self.launcher.launch(launch.compiled, launch.programs, launch.arguments)
        return [plan.kept]

    def _prepare_launches(self, update: Update, capturing: bool) -> dict[str, torch.Tensor]:
        """Bring table and plan up to date; returns the arguments that may be other tensors at each step."""
        tracked = self._tracked[update.table]
        table = self._device_table(update, capturing)
        scaled, guarded = update.grad_scale is not None, update.found_inf is not None
        key: tuple[Any, ...] = (table, update.block.tensor, update.block.counts, update.rule, scaled, guarded)
        for schedule in update.schedules:
            key += (schedule.memory.tensor, schedule.program, schedule.guarded)
        if tracked.plan is None or not same(tracked.plan.key, key):
            tracked.plan = self._renewed(tracked.plan, lambda: self._make_plan(update, table, key), capturing)
        moving = {_GRADS: table.grads}
        if update.grad_scale is not None:
            moving[_GRAD_SCALE] = one_float(update.grad_scale, table.device)
        if update.found_inf is not None:
            moving[_FOUND_INF] = one_float(update.found_inf, table.device)
        return moving

    def _make_plan(self, update: Update, table: DeviceTable, key: tuple[Any, ...]) -> _Plan:
        control, device = update.block.tensor, table.device
        advance, schedules = self._schedules(update.schedules, control)
        options = variants.Options(
            update.rule.name, False, update.grad_scale is not None, update.found_inf is not None, True, advance
        )
        tensors = {
            "control": control,
            "counts": update.block.counts,
            "records": table.records,
            "schedules": schedules,
            _GRADS: table.grads,
            _GRAD_SCALE: control,  # where none is given, the kernel does not look
            _FOUND_INF: control,
        }
        launches = []
        for i, part in enumerate(table.parts):
            last = i == len(table.parts) - 1
            chosen = replace(options, extra=part.extra, last=last, at_once=part.at_once)
            numbers = {"n_records": len(table.host), "chunk_size": part.size}
            kernel = variants.update(part.kind, chosen, tuning=self._tuning)
            launches.append(self._launch(kernel, device, len(part.chunks), {**tensors, "chunks": part.chunks}, numbers))
        if not launches:
            launches.append(self._launch(variants.finish(options), device, 1, tensors, {"n_records": len(table.host)}))
        return _Plan(key, launches, [*key, *table.tensors, schedules])

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
        addresses = torch.tensor([s.memory.tensor.data_ptr() for s in schedules], dtype=torch.int64, device="cpu")
        function = advance_function([(s.program, s.guarded) for s in schedules])
        return function, self.platform.upload(addresses, control.device)

    def _advance_plan(self, schedule: Schedule, capturing: bool) -> Any:
        key = schedule.memory.tensor, schedule.program, schedule.block.tensor, schedule.guarded
        plan = self._advances.get(schedule)
        if plan is None or not same(plan.key, key):
            plan = self._renewed(plan, lambda: self._make_advance_plan(schedule, key), capturing)
            self._advances[schedule] = plan
        return plan

    def _make_advance_plan(self, schedule: Schedule, key: tuple[Any, ...]) -> _Plan:
        function, addresses = self._schedules([schedule], schedule.block.tensor)
        tensors = {"control": schedule.block.tensor, "schedules": addresses}
        launch = self._launch(variants.advance(function), schedule.block.device, 1, tensors, {})
        return _Plan(key, [launch], [*key, addresses])


def make(platform: Platform) -> Backend:
    from ..kernels.numerics import INTERPRETED

    if not INTERPRETED and not torch.cuda.is_available():
        raise ImportError("no GPU was found (TRITON_INTERPRET=1, set before the start, runs the kernels on the CPU)")
    return TritonBackend(platform=platform)
