"""What a backend does for an optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..memory.control_block import ControlBlock
from ..memory.parameter_table import ParameterTable
from ..memory.platforms import TORCH, Platform
from ..memory.reduction import Reduction
from ..rules import Rule
from ..step_options import StepOptions

if TYPE_CHECKING:
    from ..program.schedule import Run, Schedule


@dataclass(eq=False)
class Measurement:
    """What is to be known of the gradients before an update; what comes of it stands in the control block.

    Attributes:
        rule: of the update.
        tables: all of a step.
        block: whose header gets the norm of all gradients and whether the step is skipped, and whose rows get their
            clip factors and norms; see :data:`MEASURED`.
        groups: row of each group, and whether it has a ``max_grad_norm``.
        options: what the norm is for.
        norms: float64, one for each step of a SpikeRule's window: what it remembers; else None.
        reduction: adds up what processes measure of their parts of DTensors; None without those.
        grad_scale, found_inf: as in :class:`Update`.
    """

    rule: Rule
    tables: Sequence[ParameterTable]
    block: ControlBlock
    groups: Sequence[tuple[int, bool]]
    options: StepOptions
    norms: torch.Tensor | None
    reduction: Reduction | None = None
    grad_scale: torch.Tensor | None = None
    found_inf: torch.Tensor | None = None
    groups_table: torch.Tensor = field(init=False)  # int64 CPU tensor of the groups
    counted: Sequence[torch.Tensor] = field(init=False)  # bool CPU tensors: which entries of each table count here

    def __post_init__(self) -> None:
        reduction = self.reduction
        counted = [[reduction is None or reduction.counts(e.owner) for e in table.entries] for table in self.tables]
        self.counted = [torch.tensor(counts, dtype=torch.bool, device="cpu") for counts in counted]
        self.groups_table = torch.tensor(self.groups, dtype=torch.int64, device="cpu").reshape(-1, 2)


@dataclass(slots=True)
class Update:
    """One optimizer step, as a backend gets it.

    Attributes:
        rule: by which the parameters are updated.
        table: the tensors; refreshed by :meth:`Backend.scan`.
        block: hyperparameters and counts.
        grad_scale: one-element float32 tensor to divide the gradients by, or None.
        found_inf: one-element tensor; not 0 skips the update; or None.
        schedules: run afterwards, in this order.
        measured: a :class:`Measurement` has said whether the update is skipped.
        clipped: and by what the gradients of each group are multiplied.
        zeroes: leave zeros in the gradients, also where the update is skipped.
        draws: parameters may be rounded by chance, for which the header counts the update.
        launch_arguments: those of the schedules.
    """

    rule: Rule
    table: ParameterTable
    block: ControlBlock
    grad_scale: torch.Tensor | None
    found_inf: torch.Tensor | None
    schedules: Sequence[Run]
    measured: bool = False
    clipped: bool = False
    zeroes: bool = False
    draws: bool = False
    launch_arguments: tuple[tuple[Any, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.launch_arguments = tuple(s.launch_arguments for s in self.schedules)

    @property
    def ways(self) -> int:
        """``measured``, ``clipped``, ``zeroes`` and ``draws`` as csrc/ways.h has them."""
        return self.measured + 2 * self.clipped + 4 * self.zeroes + 8 * self.draws


class Backend:
    """Runs updates and programs on one kind of device.

    ``walks_memory``: the kernels follow addresses, so tensors with gaps are staged for them. ``rules``: those with
    kernels, by name.

    Optimizers share a backend: a copy of it is the same one, and it is pickled as its name.

    Attributes:
        captured: what CUDA graphs point to, as long as an object lives: a parameter, or a schedule.

    Args:
        platform: what the backend, and all that works with it, asks about devices.
    """

    name: str
    walks_memory = False
    rules: ClassVar[Mapping[str, Rule]] = {}

    def __init__(self, platform: Platform = TORCH) -> None:
        self.platform = platform
        self.captured: Any = WeakIdKeyDictionary()

    def __deepcopy__(self, memo: object) -> Backend:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self.name,)

    def scan(self, table: ParameterTable) -> bool:
        """Bring gradients of ``table`` up to date; False if it has to be made anew."""
        return table.has_these_params() and all(e.is_current() for e in table.entries)

    def prepare(self, table: ParameterTable) -> None:
        """Take note of a table that was just filled."""

    def discard(self, table: ParameterTable) -> None:
        """Take note that another table takes the place of this one."""

    def measure(self, measurement: Measurement) -> None:
        """Measure the gradients that an update will apply; nothing but the control block and ``norms`` changes."""
        for table in measurement.tables:
            if table.staged:
                table.stage_in()
        self._measure(measurement)

    def _measure(self, measurement: Measurement) -> None:
        """:meth:`measure`; what kernels cannot walk is staged."""
        raise NotImplementedError

    def update(self, update: Update) -> None:
        """Apply one update to every tensor that has a gradient, then advance the fused schedules.

        A rule without kernels runs as torch operations.

        Raises:
            RuntimeError: such a rule inside a CUDA graph capture.
        """
        table = update.table
        if self.rules.get(update.rule.name) is update.rule:
            if table.staged:
                table.stage_in()
            self._update(update)
            if table.staged:
                table.stage_out(update.grad_scale is not None, update.zeroes)
        else:
            self._update_by_reference(update)
        if table.held:
            table.held.clear()

    def _update(self, update: Update) -> None:
        """:meth:`update`, by a rule that there are kernels for; what they cannot walk is staged."""
        raise NotImplementedError

    def _update_by_reference(self, update: Update) -> None:
        from .reference import ReferenceBackend  # which is a backend itself

        if self.platform.is_capturing(update.block.device):
            raise RuntimeError(
                f"backend {self.name!r} has no kernels for the rule {update.rule.name!r}, and what torch operations "
                "point to cannot be kept for a CUDA graph: step outside of captures, or add the kernels"
            )
        ReferenceBackend(self.platform).update(replace(update, schedules=()))
        for schedule in update.schedules:
            self.advance(schedule)

    def advance(self, schedule: Run) -> None:
        """Run a schedule's program once."""
        raise NotImplementedError

    def keep(self, owner: Any, tensors: Sequence[Any]) -> None:
        """Have tensors that a CUDA graph points to for as long as ``owner`` lives."""
        self.captured.setdefault(owner, []).extend(tensors)

    def retire(self, schedule: Schedule) -> None:
        """Take note that a schedule is not run any more."""
        self.platform.record_stream(schedule.memory.tensor)

    def note_write(self, schedule: Run) -> None:
        """Take note that something else than a launch, perhaps a CUDA graph, writes the memory of a schedule."""

    def check_program(self, schedule: Run) -> None:
        """Refuse a program this backend cannot run."""
