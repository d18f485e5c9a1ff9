"""The C++ backend: one parallel region over the chunks of all tensors, and the program in the same call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

import torch

from ..memory.parameter_table import CHUNK, ParameterTable
from ..memory.platforms import TORCH, Platform
from ..memory.reduction import Reduction
from ..rules import RULES
from .base import Backend, Measurement, Update

try:
    from .. import _C
except ImportError as error:
    _failure = Path(__file__).parent.parent / "_build_failure.txt"
    _reason = _failure.read_text().strip() if _failure.exists() else str(error)
    raise ImportError(f"the C++ extension is missing: {_reason}") from error

if TYPE_CHECKING:
    from ..program.schedule import Run

_REBUILD = 2


class CpuBackend(Backend):
    name = "cpu"
    walks_memory = True
    rules: ClassVar = {name: RULES[name] for name in _C.rules()}

    def __init__(self, platform: Platform = TORCH) -> None:
        super().__init__(platform)
        # of a measurement over several processes: the chunks that count on this one
        self._counted: WeakKeyDictionary[Measurement, tuple[tuple[torch.Tensor, torch.Tensor], ...]]
        self._counted = WeakKeyDictionary()

    def prepare(self, table: ParameterTable) -> None:
        """Remember the memory layout of every parameter; 0: kernels do not walk its own memory."""
        layouts = [0 if e.inert or e.staging is not None else _C.layout(e.param) for e in table.entries]
        table.layouts = torch.tensor(layouts, dtype=torch.int64, device="cpu")

    def scan(self, table: ParameterTable) -> bool:
        t = table
        if _C.scan(t.lists, t.ids, t.layouts, t.records, t.needed, t.held, t.specs) == _REBUILD:
            return False
        return not table.watched or all(e.is_current() for e in table.watched)

    def _update(self, update: Update) -> None:
        table, block = update.table, update.block
        _C.update(
            update.rule.code,
            block.tensor,
            block.counts,
            table.records,
            table.chunks,
            CHUNK,
            update.grad_scale,
            update.found_inf,
            update.launch_arguments,
            update.ways,
        )

    def _measure(self, measurement: Measurement) -> None:
        m, rule = measurement, measurement.options.skip_spikes
        tables = tuple((table.records, table.chunks) for table in m.tables)
        sums, found = None, m.found_inf
        if m.reduction is not None:
            sums, found = self._sums_of_all(m, m.reduction)
            tables = ()
        _C.measure(
            m.block.tensor,
            tables,
            CHUNK,
            m.groups_table,
            int(m.options.norm_scope == "group"),
            m.grad_scale,
            found,
            int(m.options.may_skip),
            m.norms,
            0 if rule is None else rule.least,
            0.0 if rule is None else float(rule.deviations),
            sums,
        )

    def _sums_of_all(self, m: Measurement, reduction: Reduction) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The squares of each group's gradients, and found_inf, added up over all processes."""
        together = torch.zeros(len(m.groups) + 1, dtype=torch.float64, device="cpu")
        tables = self._counted.get(m)
        if tables is None:
            pairs = zip(m.tables, m.counted, strict=True)
            tables = tuple((table.records, table.chunks[counts[table.chunks[:, 0]]]) for table, counts in pairs)
            self._counted[m] = tables
        _C.sum_squares(m.block.tensor, tables, CHUNK, m.groups_table, together[:-1])
        if m.found_inf is not None:
            together[-1:] = m.found_inf.reshape(1)
        reduction.add_up(together)
        return together[:-1], None if m.found_inf is None else together[-1:].float()

    def advance(self, schedule: Run) -> None:
        _C.advance(schedule.block.tensor, schedule.launch_arguments)

    def check_program(self, schedule: Run) -> None:
        program, size = schedule.program, schedule.memory.tensor.numel()
        _C.check_program(schedule.code, program.n_uniform, size, program.n_groups, program.rows_offset)


def make(platform: Platform) -> Backend:
    return CpuBackend(platform)
