"""What a backend does for an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..control_block import ControlBlock
from ..parameter_table import ParameterTable
from ..platforms import TORCH, Platform

if TYPE_CHECKING:
    from ..schedule import Schedule


@dataclass
class Update:
    """One optimizer step, as a backend gets it.

    Attributes:
        rule: ``"sgd"`` or ``"adam"``.
        table: the tensors; refreshed by :meth:`Backend.scan`.
        block: hyperparameters and counts.
        grad_scale: one-element float32 tensor to divide the gradients by, or None.
        found_inf: one-element tensor; not 0 skips the update; or None.
        schedules: advanced afterwards, in this order.
    """

    rule: str
    table: ParameterTable
    block: ControlBlock
    grad_scale: torch.Tensor | None
    found_inf: torch.Tensor | None
    schedules: Sequence[Schedule]


class Backend:
    """Runs updates and programs on one kind of device.

    ``walks_memory``: the kernels follow addresses, so tensors with gaps are staged for them.

    Optimizers share a backend: a copy of it is the same one, and it is pickled as its name.

    Args:
        platform: what the backend, and all that works with it, asks about devices.
    """

    name: str
    walks_memory = False

    def __init__(self, platform: Platform = TORCH) -> None:
        self.platform = platform

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

    def update(self, update: Update) -> None:
        """Apply one update to every tensor that has a gradient, then advance the fused schedules."""
        raise NotImplementedError

    def advance(self, schedule: Schedule) -> None:
        """Run a schedule's program once."""
        raise NotImplementedError

    def retire(self, schedule: Schedule) -> None:
        """Take note that a schedule is not run any more."""
        self.platform.record_stream(schedule.memory.tensor)

    def check_program(self, schedule: Schedule) -> None:
        """Refuse a program this backend cannot run."""
