"""LambdaLR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from ..memory.values import as_float
from ..program.builder import Builder, Value
from .base import OnDevice


class LambdaLR(OnDevice, lr_scheduler.LambdaLR):
    """The base lr times any Python function of the step, after :class:`torch.optim.lr_scheduler.LambdaLR`.

    A function that depends on the step alone becomes part of the program (see :mod:`fused_sched.trace`)
    and is not called again. Any other is called on the host, and its exact values reach the device as
    rows of a table, written ahead of the step that uses them; :meth:`explain` says which way was taken.

    Args:
        horizon: for functions that are not traced, how many steps are computed at a time. 1 calls the
            function exactly when torch does. A CUDA graph needs as many as it will be replayed: past
            them the lr stays, and the scheduler's next read on the host raises.

    Raises:
        ValueError: ``horizon`` is less than 1.
    """

    _overwrites = True
    _constants = ("base_lrs", "lr_lambdas")

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

    def _tabulated(self, epoch: int) -> list[list[float]]:
        return [[as_float(base * f(epoch)) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]]

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        assert self._source is not None
        (value,) = self._source.emit(b, epoch)
        # a table holds the product, as Python computed it
        return self._per_group(b, "base_lrs", self.base_lrs) * value if self._source.traced else value
