"""MultiplicativeLR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from ..program.builder import Builder, Value
from .base import OnDevice


class MultiplicativeLR(OnDevice, lr_scheduler.MultiplicativeLR):
    """Multiplies the lr by any Python function of the step, after :class:`torch.optim.lr_scheduler.MultiplicativeLR`.

    How functions reach the device: see :class:`LambdaLR`, also for ``horizon`` and what is raised.
    """

    _constants = ("lr_lambdas",)

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
        *,
        horizon: int = 1,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        self._horizon = horizon
        super().__init__(
            optimizer, lr_lambda, last_epoch=last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
        )

    def _functions(self) -> list[Any]:
        return self.lr_lambdas

    def _called(self, epoch: int) -> list[list[Any]]:
        return [[f(epoch) for f in self.lr_lambdas]]

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        assert self._source is not None
        (factor,) = self._source.emit(b, epoch)
        return b.field("lr") * factor
