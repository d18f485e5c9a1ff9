"""MultiStepLR."""

from torch.optim import lr_scheduler

from ..builder import Builder, Value
from .base import OnDevice


class MultiStepLR(OnDevice, lr_scheduler.MultiStepLR):
    """Multiplies the lr by ``gamma`` at each milestone, after :class:`torch.optim.lr_scheduler.MultiStepLR`."""

    _constants = ("milestones", "gamma")

    def _constants_changed(self) -> bool:
        # a Counter compares in Python, entry by entry
        return not dict.__eq__(self.milestones, self._seen["milestones"])

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        epochs = sorted(self.milestones)
        if not epochs:
            return lr
        b.table("milestones", epochs)
        b.table("times", [self.milestones[e] for e in epochs])
        row = b.count_below("milestones", len(epochs), epoch)
        reached = b.lookup("milestones", row) == epoch
        return b.where(reached, lr * b.const("gamma", self.gamma) ** b.lookup("times", row), lr)
