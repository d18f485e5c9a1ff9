"""CosineAnnealingLR."""

import math

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from ..program import STEP_COUNT
from .base import OnDevice


class CosineAnnealingLR(OnDevice, lr_scheduler.CosineAnnealingLR):
    """Half a cosine down to ``eta_min`` and up again (Loshchilov and Hutter, 2017, without restarts).

    After :class:`torch.optim.lr_scheduler.CosineAnnealingLR`, in its recursive form, which goes on from
    an lr edited by hand.

    Raises:
        ValueError: ``T_max`` is 0 (torch fails at the first step).
    """

    _constants = ("T_max", "eta_min", "base_lrs")

    def _check(self) -> None:
        if self.T_max == 0:
            raise ValueError("T_max=0 must not be 0: give the number of steps from the first lr down to eta_min")

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        pi, t_max = b.const("pi", math.pi), b.const("T_max", self.T_max)
        eta_min = b.const("eta_min", self.eta_min)
        resumed = (b.register(STEP_COUNT, self.__dict__[STEP_COUNT]) == 1) & (epoch > 0)
        at_trough = (epoch - 1 - t_max) % (2 * t_max) == 0
        height = self._per_group(b, "base_lrs", self.base_lrs, used=resumed | at_trough) - eta_min
        closed = eta_min + height * (1 + b.op("cos", epoch * pi / t_max)) / 2
        leaving_trough = lr + height * (1 - b.op("cos", pi / t_max)) / 2
        ratio = (1 + b.op("cos", pi * epoch / t_max)) / (1 + b.op("cos", pi * (epoch - 1) / t_max))
        along = ratio * (lr - eta_min) + eta_min
        return b.where(resumed, closed, b.where(at_trough, leaving_trough, along))
