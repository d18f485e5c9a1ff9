"""LambdaLR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from ..memory.values import as_float
from ..program.builder import Builder, Value
from .attributes import kept
from .base import OnDevice
from .registers import LAST_LR


class LambdaLR(OnDevice, lr_scheduler.LambdaLR):
    """The base lr times any Python function of the step, after :class:`torch.optim.lr_scheduler.LambdaLR`.

    A function that depends on the step alone becomes part of the program (see :mod:`fused_sched.trace`): it is called
    as torch calls it in the first 64 steps that the host makes, to compare, and then no more. Any other is called on
    the host, and its exact values reach the device as rows of a table, written ahead of the step that uses them;
    :meth:`explain` says which way was taken, and how near the program is to the function.

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

    def _called(self, epoch: int) -> list[list[Any]]:
        called, self._bases = [], []
        for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True):
            self._bases.append(base)  # as it is before the function is called, which may change it
            called.append(f(epoch))
        return [called]

    def _rows(self, called: Sequence[Sequence[Any]]) -> list[list[float]]:
        bases, self._bases = self._bases or self.base_lrs, []
        return [[as_float(base * x) for base, x in zip(bases, called[0], strict=True)]]

    def _written(self) -> list[list[Any]] | None:
        lrs = kept(self, LAST_LR)
        return [lrs] if all(type(x) is float for x in lrs) else None

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        assert self._source is not None
        (value,) = self._source.emit(b, epoch)
        # a table holds the product, as Python computed it
        return self._per_group(b, "base_lrs", self.base_lrs) * value if self._source.traced else value
