"""LinearLR."""

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .base import OnDevice


class LinearLR(OnDevice, lr_scheduler.LinearLR):
    """Moves a factor of the lr linearly in ``total_iters`` steps, after :class:`torch.optim.lr_scheduler.LinearLR`."""

    _constants = ("start_factor", "end_factor", "total_iters")

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        start, end = b.const("start_factor", self.start_factor), b.const("end_factor", self.end_factor)
        total = b.const("total_iters", self.total_iters)
        along = lr * (1.0 + (end - start) / (total * start + (epoch - 1) * (end - start)))
        return b.where(epoch == 0, lr * start, b.where(epoch > total, lr, along))
