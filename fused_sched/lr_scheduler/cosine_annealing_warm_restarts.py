"""CosineAnnealingWarmRestarts."""

from __future__ import annotations

import math

from torch.optim import Optimizer, lr_scheduler

from ..compiled import not_compiled
from ..program.builder import Builder, Value
from ..program.program import LAST_EPOCH, STEP_COUNT
from .attributes import kept
from .base import OnDevice
from .registers import Register


class CosineAnnealingWarmRestarts(OnDevice, lr_scheduler.CosineAnnealingWarmRestarts):
    """Cosines down to ``eta_min``, each ``T_mult`` times as long as the last (Loshchilov and Hutter, 2017: SGDR).

    After :class:`torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`. ``step(epoch)``, with fractions
    too, is computed on the host.
    """

    _constants = ("T_0", "T_mult", "eta_min", "base_lrs")
    _registers = (LAST_EPOCH, STEP_COUNT, "T_cur", "T_i")
    _order_matters = False
    _overwrites = True

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer, T_0, T_mult, eta_min, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
        )

    T_cur = Register()
    T_i = Register()

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        cur, length = b.register("T_cur", kept(self, "T_cur")), b.register("T_i", kept(self, "T_i"))
        eta_min = b.const("eta_min", self.eta_min)
        height = self._per_group(b, "base_lrs", self.base_lrs) - eta_min
        return eta_min + height * (1 + b.op("cos", b.const("pi", math.pi) * cur / length)) / 2

    def _emit_step(self, b: Builder) -> None:
        # torch: a negative last_epoch means a first step, to epoch 0
        before = b.register(LAST_EPOCH, kept(self, LAST_EPOCH))
        b.register(STEP_COUNT, kept(self, STEP_COUNT))
        first = before < 0
        cur = b.register("T_cur", kept(self, "T_cur")) + 1
        length = b.register("T_i", kept(self, "T_i"))
        over = cur >= length
        b.set_register(LAST_EPOCH, b.where(first, 0.0, before + 1))
        b.set_register("T_cur", b.where(first, 0.0, b.where(over, cur % length, cur)))
        longer = b.where(over, length * b.const("T_mult", self.T_mult), length)
        b.set_register("T_i", b.where(first, b.const("T_0", self.T_0), longer))
        self._emit_lr(b, self._next_lr(b, before))

    @not_compiled
    def step(self, epoch: float | None = None) -> None:
        """One step of the schedule, or with ``epoch`` a jump there.

        Args:
            epoch: not negative; may have a fraction, such as ``epoch + batch / batches``.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch is not None or not OnDevice._advance(self):
            self._step_to(epoch)

    def _torchs_step(self, epoch: float | None) -> None:
        lr_scheduler.CosineAnnealingWarmRestarts.step(self, epoch)
