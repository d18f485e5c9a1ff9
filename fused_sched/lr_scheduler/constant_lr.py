"""ConstantLR."""

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .base import OnDevice


class ConstantLR(OnDevice, lr_scheduler.ConstantLR):
    """Multiplies the lr by ``factor`` for ``total_iters`` steps, after :class:`torch.optim.lr_scheduler.ConstantLR`.

    Raises:
        ValueError: ``factor`` is 0 with ``total_iters`` above 0 (torch fails where the factor is undone).
    """

    _constants = ("factor", "total_iters")

    def _check(self) -> None:
        if self.factor == 0 and self.total_iters > 0 and self.total_iters == int(self.total_iters):
            raise ValueError(
                f"factor=0 must not be 0: it is undone by a division after total_iters={self.total_iters} steps. "
                "Give a small factor such as 1e-8"
            )

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr, factor = b.field("lr"), b.const("factor", self.factor)
        at_end = b.where(epoch == b.const("total_iters", self.total_iters), lr * (1.0 / factor), lr)
        return b.where(epoch == 0, lr * factor, at_end)
