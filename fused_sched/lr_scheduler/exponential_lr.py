"""ExponentialLR."""

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .base import OnDevice


class ExponentialLR(OnDevice, lr_scheduler.ExponentialLR):
    """Multiplies the lr by ``gamma`` at every step, after :class:`torch.optim.lr_scheduler.ExponentialLR`."""

    _constants = ("gamma",)

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        return b.field("lr") * b.const("gamma", self.gamma)
