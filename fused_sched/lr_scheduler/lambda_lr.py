"""LambdaLR."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .host_table import HostTable
from .on_device import OnDevice

_TABLE = "base_lr * lr_lambda"


class LambdaLR(OnDevice, lr_scheduler.LambdaLR):
    """The base lr times any Python function of the step, after :class:`torch.optim.lr_scheduler.LambdaLR`.

    The functions run on the host; their exact values reach the device as rows of a table, written
    ahead of the step that uses them, without a sync and without a limit on the number of steps.

    Args:
        lookahead: how many steps are computed at a time. 1 calls the function exactly when torch does;
            more means fewer, larger uploads, for functions that depend on the step alone.

    Raises:
        ValueError: ``lookahead`` is less than 1.
    """

    _constants = ("base_lrs", "lr_lambdas")

    def __init__(
        self,
        optimizer: Any,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
        *,
        lookahead: int = 1,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        self._table = HostTable(lookahead, self._row)
        super().__init__(
            optimizer, lr_lambda, last_epoch=last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
        )

    def _row(self, epoch: int) -> list[float]:
        return [float(base * f(epoch)) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        rows = self._table_rows()
        b.table(_TABLE, [math.nan] * (rows * b.n_groups), width=b.n_groups)
        return b.lookup(_TABLE, epoch % b.const("rows", rows))

    def _before_advance(self) -> None:
        super()._before_advance()
        self._fill_table(_TABLE)
