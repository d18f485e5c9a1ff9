"""PolynomialLR."""

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .base import OnDevice


class PolynomialLR(OnDevice, lr_scheduler.PolynomialLR):
    """Lets the lr fall to 0 like a power, after :class:`torch.optim.lr_scheduler.PolynomialLR`."""

    _constants = ("total_iters", "power")

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr, total = b.field("lr"), b.const("total_iters", self.total_iters)
        ratio = (1.0 - epoch / total) / (1.0 - (epoch - 1) / total)
        if self.power < 0:
            b.trap((epoch <= total) & (ratio == 0))  # Python raises
        factor = ratio ** b.const("power", self.power)
        return b.where(epoch > total, lr, lr * factor)
