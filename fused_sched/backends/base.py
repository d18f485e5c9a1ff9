"""What a backend does for an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..control_block import ControlBlock
from ..parameter_table import ParameterTable

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
    """

    name: str
    walks_memory = False

    def scan(self, table: ParameterTable, states: Sequence[int]) -> bool:
        """Bring gradients of ``table`` up to date; False if it has to be rebuilt.

        ``states``: how many state tensors each group's parameters need.
        """
        expected = iter(table.entries)
        for params in table.lists:
            for p in params:
                entry = next(expected, None)
                if entry is None or entry.param is not p:
                    return False
                if not entry.is_current(states[entry.group]):
                    return False
        return next(expected, None) is None

    def prepare(self, table: ParameterTable) -> None:
        """Take note of a table that was just filled."""

    def update(self, update: Update) -> None:
        """Apply one update to every tensor that has a gradient, then advance the fused schedules."""
        raise NotImplementedError

    def advance(self, schedule: Schedule) -> None:
        """Run a schedule's program once."""
        raise NotImplementedError

    def check_program(self, schedule: Schedule) -> None:
        """Refuse a program this backend cannot run."""
