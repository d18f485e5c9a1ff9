"""MultiplicativeLR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from ..program.builder import Builder, Value
from ..program.single import to_single
from ..trace.symbol import is_numpy
from .base import OnDevice
from .functions import as_number


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

    def _columns(self) -> int:
        return 2  # the factor, and whether the product is a float32, as numpy makes it

    def _rows(self, called: Sequence[Sequence[Any]]) -> list[list[float]]:
        factors = [as_number(x) for x in called[0]]
        lrs: list[Any] = [1.0] * len(factors)
        if any(is_numpy(type(x), "float32") for x in called[0]) and "lr" in self._home.fields_bound:
            lrs = [group["lr"] for group in self.optimizer.param_groups]  # of tensors, products are tensors
        kinds = [type(lr * x) if is_numpy(type(x), "float32") else float for lr, x in zip(lrs, called[0], strict=False)]
        return [factors, [float(is_numpy(kind, "float32")) for kind in kinds]]

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        assert self._source is not None
        factor, single = self._source.emit(b, epoch)
        lr = b.field("lr")
        if self._source.traced:
            return lr * factor
        return b.where(single, to_single(b, to_single(b, lr) * factor), lr * factor)
