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
from ..memory.device_measure import DeviceMeasurement, SumsOfAll
from ..memory.device_table import DeviceTable
from ..memory.platforms import TORCH, Platform
from ..rules import RULES
from .base import Backend, Measurement, Update
from .device_backend import DeviceBackend

if TYPE_CHECKING:
    from ..program.schedule import Run

_GRADS, _GRAD_SCALE, _FOUND_INF = "grads", "grad_scale", "found_inf"


@dataclass
class _Launch:
    """One kernel with its arguments; ``names`` are those of the kernel's signature."""

    compiled: Any
    programs: int
    names: list[str]
    arguments: list[Any]


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

    def _compiled_for(self, update: Update | Measurement) -> tuple[Any, ...]:
        bound = bool(update.block.bindings.fields)
        return update.grad_scale is not None, update.found_inf is not None, bound

    def _launch_update(
        self, prepared: list[_Launch], control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        for launch in prepared:
            if scale is not None:
                self._set(launch, _GRAD_SCALE, scale)
            if found is not None:
                self._set(launch, _FOUND_INF, found)
            self.launcher.launch(launch.compiled, launch.programs, launch.arguments)

    def _launch_advance(self, prepared: _Launch, control: torch.Tensor) -> None:
        self.launcher.launch(prepared.compiled, prepared.programs, prepared.arguments)

    def _point_to(self, prepared: list[_Launch], grads: torch.Tensor) -> None:
        for launch in prepared:
            self._set(launch, _GRADS, grads)

    def _set(self, launch: _Launch, name: str, tensor: torch.Tensor) -> None:
        if name in launch.names:
            launch.arguments[launch.names.index(name)] = self.launcher.argument(tensor)

    def _prepare_update(self, update: Update, table: DeviceTable) -> tuple[list[_Launch], list[Any]]:
        control, device = update.block.tensor, table.device
        advance, schedules = self._schedules(update.schedules, control)
        options = variants.Options(
            update.rule.name,
            optional_state=False,
            scaled=update.grad_scale is not None,
            guarded=update.found_inf is not None,
            advance=advance,
            bound=bool(update.block.bindings.fields),
            measured=update.measured,
            clipped=update.clipped,
            zeroes=update.zeroes,
            draws=update.draws,
        )
        tensors = {
            "control": control,
            "counts": update.block.counts,
            "records": table.records,
            "schedules": schedules,
            # set before a launch; where there is no number of GradScaler's, the kernel does not look
            **dict.fromkeys((_GRADS, _GRAD_SCALE, _FOUND_INF), control),
        }
        numbers = {"n_records": len(table.host)}
        launches = []
        for each in table.signatures:
            last = each is table.signatures[-1]
            chosen = replace(options, optional_state=each.optional_state, last=last, at_once=each.at_once)
            kernel = variants.update(each.signature, chosen, tuning=self._tuning)
            given = {**tensors, "chunks": each.chunks}
            launches.append(self._launch(kernel, device, len(each.chunks), given, {**numbers, "chunk_size": each.size}))
        if not launches:
            launches.append(self._launch(variants.finish(options), device, 1, tensors, numbers))
        return launches, [schedules]

    def _prepare_measurement(
        self, measurement: Measurement, on_device: DeviceMeasurement | SumsOfAll, tables: list[DeviceTable]
    ) -> tuple[list[tuple[int, _Launch]], list[Any]]:
        m, device = measurement, measurement.block.device
        control = m.block.tensor
        options = variants.NormOptions(
            each=m.options.norm_scope == "group",
            scaled=m.grad_scale is not None,
            guarded=m.found_inf is not None,
            only_finite=m.options.may_skip,
            spikes=m.options.skip_spikes,
            bound=bool(m.block.bindings.fields),
        )
        tensors = {
            "control": control,
            "sums": on_device.sums,
            "groups": on_device.groups,
            "norms": control if m.norms is None else m.norms,
            # the launch of no gradients reads none of these
            **dict.fromkeys(("records", "chunks", _GRADS, _GRAD_SCALE, _FOUND_INF), control),
        }
        numbers = {"n_sums": on_device.n_sums, "n_groups": on_device.n_groups, "chunk_size": 0}
        launches = []
        for part in on_device.parts:
            last = on_device.decides and part is on_device.parts[-1]
            kernel = variants.norm(part.grad, replace(options, last=last))
            given = {**tensors, "records": tables[part.table].records, "chunks": part.chunks}
            given_numbers = {**numbers, "chunk_size": part.size}
            launches.append((part.table, self._launch(kernel, device, len(part.chunks), given, given_numbers)))
        if not launches and on_device.decides:
            launches.append((0, self._launch(variants.norm(None, options), device, 1, tensors, numbers)))
        return launches, []

    def _point_measurement_to(self, prepared: list[tuple[int, _Launch]], grads: list[torch.Tensor]) -> None:
        for table, launch in prepared:
            self._set(launch, _GRADS, grads[table])

    def _launch_measurement(
        self,
        prepared: list[tuple[int, _Launch]],
        control: torch.Tensor,
        scale: torch.Tensor | None,
        found: torch.Tensor | None,
    ) -> None:
        self._launch_update([launch for _, launch in prepared], control, scale, found)

    def _prepare_advance(self, schedule: Run) -> tuple[_Launch, list[Any]]:
        control = schedule.block.tensor
        function, addresses = self._schedules([schedule], control)
        tensors = {"control": control, "schedules": addresses}
        return self._launch(variants.advance(function), schedule.block.device, 1, tensors, {}), [addresses]

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

    def _schedules(self, schedules: Sequence[Run], control: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The function that runs ``schedules``, and the addresses of their memories on the device."""
        if not schedules:
            return None, control
        addresses = torch.tensor([s.memory.tensor.data_ptr() for s in schedules], dtype=torch.int64, device="cpu")
        function = advance_function([(s.program, s.guarded) for s in schedules])
        return function, self.platform.upload(addresses, control.device)


def make(platform: Platform) -> Backend:
    from ..kernels.numerics import INTERPRETED

    if not INTERPRETED and not torch.cuda.is_available():
        raise ImportError("no GPU was found (TRITON_INTERPRET=1, set before the start, runs the kernels on the CPU)")
    return TritonBackend(platform=platform)
