"""StepLR."""

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .base import OnDevice


class StepLR(OnDevice, lr_scheduler.StepLR):
    """Multiplies the lr by ``gamma`` every ``step_size`` steps, after :class:`torch.optim.lr_scheduler.StepLR`.

    Raises:
        ValueError: ``step_size`` is 0 (torch fails at the first step).
    """

    _constants = ("step_size", "gamma")

    def _check(self) -> None:
        if self.step_size == 0:
            raise ValueError("step_size=0 must not be 0: give the number of steps between two decays")

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        unchanged = (epoch == 0) | (epoch % b.const("step_size", self.step_size) != 0)
        return b.where(unchanged, lr, lr * b.const("gamma", self.gamma))
