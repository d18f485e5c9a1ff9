"""The CUDA backend: kernels compiled ahead by nvcc, for where Triton is missing or unwanted.

One launch for each dtype signature updates all tensors; the last block of the last one counts the
update and advances the fused schedules. Tables are prepared once: a step with unchanged pointers is one
check of the pointers in C++ and one call of a torch operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..kernels import pointers
from ..kernels.device_table import UNIT, DeviceTable, is_capturing, outside_of_capture, upload
from ..parameter_table import ParameterTable
from .base import Backend, Update

try:
    from .. import _C as _extension
except ImportError:
    _extension = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from ..schedule import Schedule

_C: Any = _extension
_PACKAGE = Path(__file__).parent.parent
_RULES = {"sgd": 0, "adam": 1}
BLOCK_THREADS = 128  # as in csrc/cuda/launch.h

# Words of a launch, in the order of csrc/cuda/ops.cpp, and of a schedule, as in csrc/cuda/step.h.
LAUNCH = (
    "rule", "kind", "extra", "last", "n_blocks", "chunks", "chunk_size", "unit",
    "records", "grads", "n_records", "counts", "schedules", "n_schedules",
)  # fmt: skip
LAUNCH_WIDTH = 16
SCHEDULE = ("code", "memory", "scratch", "n_ops", "n_uniform", "n_groups", "guarded")
SCHEDULE_WIDTH = 8
_GRADS = LAUNCH.index("grads")


def _row(names: Sequence[str], width: int, values: dict[str, int]) -> list[int]:
    return [values[name] for name in names] + [0] * (width - len(names))


class Operators:
    """The operators of the library, bound once."""

    def __init__(self) -> None:
        self.update = torch.ops.fused_sched.cuda_update.default
        self.advance = torch.ops.fused_sched.cuda_advance.default
        self.prepare = torch.ops.fused_sched.cuda_prepare.default


@dataclass
class _Plan:
    """Launches, and all tensors they point to; ``key`` tells what it was made for."""

    key: tuple[Any, ...]
    rows: torch.Tensor
    grads: torch.Tensor | None
    kept: list[Any]


class _Tracked:
    """What the backend knows about a parameter table: its device copy, and whether that is out of date."""

    def __init__(self) -> None:
        self.device: DeviceTable | None = None
        self.moved = self.rebuilt = True
        self.plan: _Plan | None = None
        self.where: tuple[int, int] | None = None  # for the pointer scan


class CudaBackend(Backend):
    """See the module.

    Args:
        operators: with the methods ``update``, ``advance`` and ``prepare`` of :class:`Operators`.
    """

    name = "cuda"
    walks_memory = True

    def __init__(self, operators: Any) -> None:
        self._operators = operators
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
        with _current(device):
            capturing = is_capturing(device)
            plan = self._plan(update, capturing)
            scale, found = _one_float(update.grad_scale, device), _one_float(update.found_inf, device)
            self._operators.update(plan.rows, block.tensor, scale, found)
        if capturing:
            owner = table.entries[0].param if table.entries else block
            self._note_capture(
                owner, [plan.kept, plan.grads, scale, found], [block, *(s.memory for s in update.schedules)]
            )
        if table.staged:
            table.stage_out(update.grad_scale is not None)

    def advance(self, schedule: Schedule) -> None:
        control = schedule.block.tensor
        with _current(control.device):
            capturing = is_capturing(control.device)
            plan = self._advance_plan(schedule, capturing)
            self._operators.advance(plan.rows, control)
        if capturing:
            self._note_capture(schedule, [plan.kept], [schedule.block, schedule.memory])

    def check_program(self, schedule: Schedule) -> None:
        if _C is not None:
            program = schedule.program
            _C.check_program(schedule.code, program.n_uniform, schedule.memory.tensor.numel(), program.n_groups)

    def _note_capture(self, owner: Any, kept: list[Any], hosted: list[Any]) -> None:
        """Keep what the graph points to, and stop trusting host mirrors: replays are not seen here."""
        self._captured.setdefault(owner, []).extend([*kept, [h.tensor for h in hosted]])
        for array in hosted:
            array.volatile = array.stale = array.remote

    def _device_table(self, update: Update, capturing: bool) -> DeviceTable:
        tracked = self._tracked[update.table]
        if tracked.device is None or (tracked.rebuilt and not tracked.device.matches(update.table)):
            if capturing:
                raise RuntimeError(
                    "the optimizer's parameters, state or gradients changed in kind inside a CUDA graph capture: "
                    "run one optimizer.step() with all gradients before the capture, so that the graph finds its state"
                )
            _check_devices(update)
            tracked.device = DeviceTable(update.table, update.block.tensor.device)
        elif tracked.rebuilt or tracked.moved or update.table.staged:
            tracked.device.follow(update.table)
        tracked.rebuilt = tracked.moved = False
        return tracked.device

    def _plan(self, update: Update, capturing: bool) -> _Plan:
        tracked = self._tracked[update.table]
        table = self._device_table(update, capturing)
        key: tuple[Any, ...] = (table, update.block.tensor, update.rule)
        for schedule in update.schedules:
            key += (schedule.memory.tensor, schedule.program, schedule.guarded)
        plan = tracked.plan
        if plan is None or not _same(plan.key, key):
            with outside_of_capture() if capturing else nullcontext():
                plan = tracked.plan = self._make_plan(update, table, key)
        if plan.grads is not table.grads:
            plan.grads = table.grads
            plan.rows[:, _GRADS] = table.grads.data_ptr()
        return plan

    def _make_plan(self, update: Update, table: DeviceTable, key: tuple[Any, ...]) -> _Plan:
        schedules, kept = _schedule_table(update.schedules, table.device)
        values = {
            "rule": _RULES[update.rule],
            "chunk_size": table.size,
            "unit": UNIT,
            "records": table.records.data_ptr(),
            "grads": table.grads.data_ptr(),
            "n_records": len(table.host),
            "counts": update.block.counts.data_ptr(),
            "schedules": schedules.data_ptr(),
            "n_schedules": len(schedules),
        }
        # Without any elements there still is a step to end: one block does it.
        launches = [(p.kind, p.extra, len(p.chunks), p.chunks.data_ptr()) for p in table.parts] or [(-1, False, 1, 0)]
        rows = []
        for i, (kind, extra, n_blocks, chunks) in enumerate(launches):
            last = i == len(launches) - 1
            one = {"kind": kind, "extra": int(extra), "last": int(last), "n_blocks": n_blocks, "chunks": chunks}
            rows.append(_row(LAUNCH, LAUNCH_WIDTH, {**values, **one}))
        plan = torch.tensor(rows, dtype=torch.int64)
        self._operators.prepare(plan, table.device.index)  # inside a capture, the first launch is too late
        return _Plan(key, plan, table.grads, [key, table, table.records, table.parts, schedules, kept])

    def _advance_plan(self, schedule: Schedule, capturing: bool) -> _Plan:
        control = schedule.block.tensor
        key = schedule.memory.tensor, schedule.program, control, schedule.guarded
        plan = self._advances.get(schedule)
        if plan is None or not _same(plan.key, key):
            with outside_of_capture() if capturing else nullcontext():
                rows, kept = _schedule_table([schedule], control.device)
                self._operators.prepare(torch.empty(0, LAUNCH_WIDTH, dtype=torch.int64), control.device.index)
            plan = self._advances[schedule] = _Plan(key, rows, None, [*key, rows, kept])
        return plan


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes ``device`` the current one."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return nullcontext()
    return torch.cuda.device(device)


def _check_devices(update: Update) -> None:
    home = update.block.tensor.device
    for entry in update.table.entries:
        if entry.param.device != home:
            raise RuntimeError(
                f"a parameter is on {entry.param.device} now, but the optimizer was made for {home}: "
                "move the model before the optimizer is made"
            )


def _schedule_table(schedules: Sequence[Schedule], device: torch.device) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Rows as csrc/cuda/step.h reads them, on the device, and the tensors they point to."""
    rows, kept = [], []
    for schedule in schedules:
        n_ops, n_groups = len(schedule.code), schedule.program.n_groups
        code = upload(schedule.code, device)
        lanes = max(1, min(n_groups, BLOCK_THREADS))
        scratch = torch.empty(lanes * (n_ops + 1), dtype=torch.float64, device=device)
        kept += [code, scratch, schedule.memory.tensor]
        values = {
            "code": code.data_ptr(),
            "memory": schedule.memory.tensor.data_ptr(),
            "scratch": scratch.data_ptr(),
            "n_ops": n_ops,
            "n_uniform": schedule.program.n_uniform,
            "n_groups": n_groups,
            "guarded": int(schedule.guarded),
        }
        rows.append(_row(SCHEDULE, SCHEDULE_WIDTH, values))
    if not rows:
        return torch.empty(0, SCHEDULE_WIDTH, dtype=torch.int64, device=device), kept
    return upload(torch.tensor(rows, dtype=torch.int64), device), kept


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _one_float(value: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """A GradScaler's number as float32 on ``device``; the same tensor where it is that already."""
    return None if value is None else value.detach().to(device=device, dtype=torch.float32, non_blocking=True)


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
    for name in ("update", "advance", "prepare", "check"):  # for tensors without memory there is nothing to do
        torch.library.register_fake(f"fused_sched::cuda_{name}", lambda *args: None)


def make() -> Backend:
    load_library()
    if not torch.cuda.is_available():
        raise ImportError("no GPU was found")
    for index in range(torch.cuda.device_count()):
        try:
            torch.ops.fused_sched.cuda_check.default(index)
        except RuntimeError as error:
            raise ImportError(f"{torch.cuda.get_device_name(index)} cannot run it: {error}") from error
    return CudaBackend(Operators())
