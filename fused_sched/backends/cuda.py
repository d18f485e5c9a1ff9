"""The CUDA backend: kernels compiled ahead by nvcc, for where Triton is missing or unwanted.

One launch for each dtype signature updates all tensors; the last block of the last one counts the
update and advances the fused schedules. Where gradients are measured first, that is one more launch for each
of their dtypes. Tables are prepared once: a step with unchanged pointers is one check of the pointers in C++
and one or two calls of a torch operator.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..memory.device_measure import DeviceMeasurement, NormChunks, SumsOfAll
from ..memory.device_table import UNIT, DeviceTable, SignatureChunks
from ..memory.parameter_table import DTYPES
from ..memory.platforms import TORCH, Platform
from ..rules import ADAM, SGD
from ..step_options import SpikeRule
from .base import Backend, Measurement, Update
from .device_backend import DeviceBackend

try:
    from .. import _C as _extension
except ImportError:
    _extension = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from ..program.schedule import Run

_C: Any = _extension
_PACKAGE = Path(__file__).parent.parent
BLOCK_THREADS = 128  # as in csrc/cuda/launch.h

# Words of a launch, as in csrc/cuda/plan.h, and of a schedule, as in csrc/cuda/step.h.
LAUNCH = (
    "rule", "kind", "extra", "last", "n_blocks", "chunks", "chunk_size", "unit",
    "records", "grads", "n_records", "counts", "schedules", "n_schedules", "ways",
)  # fmt: skip
LAUNCH_WIDTH = 16
NORM_LAUNCH = (
    "dtype", "last", "n_blocks", "chunks", "chunk_size", "unit", "records", "grads", "sums", "n_sums",
    "groups", "n_groups", "each", "only_finite", "norms", "window", "least", "deviations",
)  # fmt: skip
NORM_LAUNCH_WIDTH = len(NORM_LAUNCH)
SCHEDULE = ("code", "memory", "scratch", "n_ops", "n_uniform", "n_lanes", "guarded", "rows_offset", "exports")
SCHEDULE_WIDTH = 9
_GRADS = LAUNCH.index("grads")
_NORM_GRADS = NORM_LAUNCH.index("grads")


def _row(names: Sequence[str], width: int, values: dict[str, int]) -> list[int]:
    return [values[name] for name in names] + [0] * (width - len(names))


def _words(each: SignatureChunks) -> dict[str, int]:
    """What a launch's row has of a dtype signature."""
    return {
        "kind": each.signature,
        "extra": int(each.optional_state),
        "n_blocks": len(each.chunks),
        "chunks": each.chunks.data_ptr(),
        "chunk_size": each.size,
    }


def _norm_words(part: NormChunks, table: DeviceTable) -> dict[str, int]:
    """What a measurement's row has of the gradients of one launch."""
    return {
        "dtype": DTYPES[part.grad],
        "n_blocks": len(part.chunks),
        "chunks": part.chunks.data_ptr(),
        "chunk_size": part.size,
        "records": table.records.data_ptr(),
    }


def _spike_words(rule: SpikeRule | None, norms: torch.Tensor | None) -> dict[str, int]:
    """What a measurement's row has of what a SpikeRule remembers; zeros without one."""
    if rule is None or norms is None:
        return dict.fromkeys(("norms", "window", "least", "deviations"), 0)
    (deviations,) = struct.unpack("<q", struct.pack("<d", rule.deviations))
    return {"norms": norms.data_ptr(), "window": rule.window, "least": rule.least, "deviations": deviations}


@dataclass
class _Norms:
    """The plan of a measurement.

    Attributes:
        rows: of the launches.
        tables: position of the table that each of them measures.
    """

    rows: torch.Tensor
    tables: list[int]


class Operators:
    """The operators of the library, bound once."""

    def __init__(self) -> None:
        self.update = torch.ops.fused_sched.cuda_update.default
        self.measure = torch.ops.fused_sched.cuda_measure.default
        self.advance = torch.ops.fused_sched.cuda_advance.default
        self.prepare = torch.ops.fused_sched.cuda_prepare.default


class CudaBackend(DeviceBackend):
    """See the module.

    Args:
        operators: with the methods of :class:`Operators`.
        platform: see :class:`Backend`.
    """

    name = "cuda"
    rules: ClassVar = {rule.name: rule for rule in (SGD, ADAM)}  # as csrc/rules.h, of which the library is made

    def __init__(self, operators: Any, platform: Platform = TORCH) -> None:
        super().__init__(platform=platform)
        self._operators = operators

    def _launch_update(
        self, prepared: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        self._operators.update(prepared, control, scale, found)

    def _launch_measurement(
        self, prepared: _Norms, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        if len(prepared.rows):
            self._operators.measure(prepared.rows, control, scale, found)

    def _launch_advance(self, prepared: torch.Tensor, control: torch.Tensor) -> None:
        self._operators.advance(prepared, control)

    def _point_to(self, prepared: torch.Tensor, grads: torch.Tensor) -> None:
        prepared[:, _GRADS] = grads.data_ptr()

    def _point_measurement_to(self, prepared: _Norms, grads: list[torch.Tensor]) -> None:
        for row, table in enumerate(prepared.tables):
            prepared.rows[row, _NORM_GRADS] = grads[table].data_ptr()

    def check_program(self, schedule: Run) -> None:
        if _C is not None:
            program = schedule.program
            size = schedule.memory.tensor.numel()
            _C.check_program(schedule.code, program.n_uniform, size, program.n_groups, program.rows_offset)

    def _prepare_update(self, update: Update, table: DeviceTable) -> tuple[torch.Tensor, list[Any]]:
        schedules, made = self._schedule_table(update.schedules, table.device)
        values = {
            "rule": update.rule.code,
            "unit": UNIT,
            "records": table.records.data_ptr(),
            "grads": 0,
            "n_records": len(table.host),
            "counts": update.block.counts.data_ptr(),
            "schedules": schedules.data_ptr(),
            "n_schedules": len(schedules),
            "ways": update.ways,
            "last": 0,
        }
        # Without any elements there still is a step to end: one block does it.
        nothing = {"kind": -1, "extra": 0, "n_blocks": 1, "chunks": 0, "chunk_size": 0}
        launches = [{**values, **words} for words in [*map(_words, table.signatures)] or [nothing]]
        launches[-1]["last"] = 1
        rows = torch.tensor(
            [_row(LAUNCH, LAUNCH_WIDTH, launch) for launch in launches], dtype=torch.int64, device="cpu"
        )
        self._operators.prepare(rows, table.device.index)  # inside a capture, the first launch is too late
        return rows, [schedules, *made]

    def _prepare_measurement(
        self, measurement: Measurement, on_device: DeviceMeasurement | SumsOfAll, tables: list[DeviceTable]
    ) -> tuple[_Norms, list[Any]]:
        values = {
            "unit": UNIT,
            "grads": 0,
            "sums": on_device.sums.data_ptr(),
            "n_sums": on_device.n_sums,
            "groups": on_device.groups.data_ptr(),
            "n_groups": on_device.n_groups,
            "each": int(measurement.options.norm_scope == "group"),
            "only_finite": int(measurement.options.may_skip),
            **_spike_words(measurement.options.skip_spikes, measurement.norms),
            "last": 0,
        }
        # Without any elements there still is a norm, of 0: one block notes it.
        nothing = {"dtype": -1, "n_blocks": 1, "chunks": 0, "chunk_size": 0, "records": 0}
        found = [_norm_words(part, tables[part.table]) for part in on_device.parts]
        launches = [{**values, **own} for own in found or [nothing] * on_device.decides]
        if on_device.decides:
            launches[-1]["last"] = 1
        words = [_row(NORM_LAUNCH, NORM_LAUNCH_WIDTH, launch) for launch in launches]
        rows = torch.tensor(words, dtype=torch.int64, device="cpu").reshape(-1, NORM_LAUNCH_WIDTH)
        prepared = _Norms(rows, [p.table for p in on_device.parts])
        self._operators.prepare(prepared.rows, measurement.block.device.index)
        return prepared, []

    def _prepare_advance(self, schedule: Run) -> tuple[torch.Tensor, list[Any]]:
        device = schedule.block.device
        rows, made = self._schedule_table([schedule], device)
        self._operators.prepare(torch.empty(0, LAUNCH_WIDTH, dtype=torch.int64, device="cpu"), device.index)
        return rows, [rows, *made]

    def _schedule_table(
        self, schedules: Sequence[Run], device: torch.device
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Rows as csrc/cuda/step.h reads them, on the device, and the tensors they point to."""
        rows, kept = [], []
        for schedule in schedules:
            program, n_ops = schedule.program, len(schedule.code)
            code = self.platform.upload(schedule.code, device)
            workers = max(1, min(program.n_groups, BLOCK_THREADS))
            scratch = torch.empty(workers * (n_ops + 1), dtype=torch.float64, device=device)
            kept += [code, scratch, schedule.memory.tensor]
            values = {
                "code": code.data_ptr(),
                "memory": schedule.memory.tensor.data_ptr(),
                "scratch": scratch.data_ptr(),
                "n_ops": n_ops,
                "n_uniform": program.n_uniform,
                "n_lanes": program.n_groups,
                "guarded": int(schedule.guarded),
                "rows_offset": program.rows_offset,
                "exports": int(bool(program.fields_written & program.fields_bound)),
            }
            rows.append(_row(SCHEDULE, SCHEDULE_WIDTH, values))
        if not rows:
            return torch.empty(0, SCHEDULE_WIDTH, dtype=torch.int64, device=device), kept
        return self.platform.upload(torch.tensor(rows, dtype=torch.int64, device="cpu"), device), kept


def load_library(path: Path = _PACKAGE / "_cuda.so") -> None:
    """Load the operators.

    Raises:
        ImportError: the library was not built, or does not suit this torch.
    """
    if not path.exists():
        note = _PACKAGE / "_build_failure_cuda.txt"
        reason = note.read_text().strip() if note.exists() else f"{path.name} was not built"
        raise ImportError(f"the CUDA library is missing: {reason}")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(f"the CUDA library does not suit torch {torch.__version__}: {error}") from error
    # for tensors without memory there is nothing to do
    for name in ("update", "measure", "advance", "prepare", "check"):
        torch.library.register_fake(f"fused_sched::cuda_{name}", lambda *args: None)


def make(platform: Platform) -> Backend:
    load_library()
    if not torch.cuda.is_available():
        raise ImportError("no GPU was found")
    for index in range(torch.cuda.device_count()):
        try:
            torch.ops.fused_sched.cuda_check.default(index)
        except RuntimeError as error:
            raise ImportError(f"{torch.cuda.get_device_name(index)} cannot run it: {error}") from error
    return CudaBackend(Operators(), platform)
