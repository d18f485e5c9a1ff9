"""Schedules whose next lr follows from the present one and the epoch, without a state of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch.optim import Optimizer, lr_scheduler

from ..program.builder import Builder, Value
from ..program.program import STEP_COUNT
from .attributes import kept
from .base import OnDevice


class StepLR(OnDevice, lr_scheduler.StepLR):
    """Multiplies the lr by ``gamma`` every ``step_size`` steps, after :class:`torch.optim.lr_scheduler.StepLR`.

    Raises:
        ValueError: ``step_size`` is 0 (torch fails at the first step).
    """

    _constants = ("step_size", "gamma")

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int,
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(optimizer, step_size, gamma, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)

    def _check(self) -> None:
        if self.step_size == 0:
            raise ValueError("step_size=0 must not be 0: give the number of steps between two decays")

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        unchanged = (epoch == 0) | (epoch % b.const("step_size", self.step_size) != 0)
        return b.where(unchanged, lr, lr * b.const("gamma", self.gamma))


class MultiStepLR(OnDevice, lr_scheduler.MultiStepLR):
    """Multiplies the lr by ``gamma`` at each milestone, after :class:`torch.optim.lr_scheduler.MultiStepLR`."""

    _constants = ("milestones", "gamma")

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(optimizer, milestones, gamma, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)

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


class ExponentialLR(OnDevice, lr_scheduler.ExponentialLR):
    """Multiplies the lr by ``gamma`` at every step, after :class:`torch.optim.lr_scheduler.ExponentialLR`."""

    _constants = ("gamma",)

    def __init__(
        self,
        optimizer: Optimizer,
        gamma: float,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(optimizer, gamma, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        return b.field("lr") * b.const("gamma", self.gamma)


class ConstantLR(OnDevice, lr_scheduler.ConstantLR):
    """Multiplies the lr by ``factor`` for ``total_iters`` steps, after :class:`torch.optim.lr_scheduler.ConstantLR`.

    Raises:
        ValueError: ``factor`` is 0 with ``total_iters`` above 0 (torch fails where the factor is undone).
    """

    _constants = ("factor", "total_iters")

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer, factor, total_iters, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
        )

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


class LinearLR(OnDevice, lr_scheduler.LinearLR):
    """Moves a factor of the lr linearly in ``total_iters`` steps, after :class:`torch.optim.lr_scheduler.LinearLR`."""

    _constants = ("start_factor", "end_factor", "total_iters")

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer,
            start_factor,
            end_factor,
            total_iters,
            last_epoch,
            fused=fused,
            skip_with_optimizer=skip_with_optimizer,
        )

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        start, end = b.const("start_factor", self.start_factor), b.const("end_factor", self.end_factor)
        total = b.const("total_iters", self.total_iters)
        along = lr * (1.0 + (end - start) / (total * start + (epoch - 1) * (end - start)))
        return b.where(epoch == 0, lr * start, b.where(epoch > total, lr, along))


class PolynomialLR(OnDevice, lr_scheduler.PolynomialLR):
    """Lets the lr fall to 0 like a power, after :class:`torch.optim.lr_scheduler.PolynomialLR`."""

    _constants = ("total_iters", "power")

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer, total_iters, power, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
        )

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr, total = b.field("lr"), b.const("total_iters", self.total_iters)
        ratio = (1.0 - epoch / total) / (1.0 - (epoch - 1) / total)
        if self.power < 0:
            b.trap((epoch <= total) & (ratio == 0))  # Python raises
        factor = ratio ** b.const("power", self.power)
        return b.where(epoch > total, lr, lr * factor)


class CosineAnnealingLR(OnDevice, lr_scheduler.CosineAnnealingLR):
    """Half a cosine down to ``eta_min`` and up again (Loshchilov and Hutter, 2017, without restarts).

    After :class:`torch.optim.lr_scheduler.CosineAnnealingLR`, in its recursive form, which goes on from
    an lr edited by hand.

    Raises:
        ValueError: ``T_max`` is 0 (torch fails at the first step).
    """

    _constants = ("T_max", "eta_min", "base_lrs")

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(optimizer, T_max, eta_min, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)

    def _check(self) -> None:
        if self.T_max == 0:
            raise ValueError("T_max=0 must not be 0: give the number of steps from the first lr down to eta_min")

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        pi, t_max = b.const("pi", math.pi), b.const("T_max", self.T_max)
        eta_min = b.const("eta_min", self.eta_min)
        resumed = (b.register(STEP_COUNT, kept(self, STEP_COUNT)) == 1) & (epoch > 0)
        at_trough = (epoch - 1 - t_max) % (2 * t_max) == 0
        height = self._per_group(b, "base_lrs", self.base_lrs, used=resumed | at_trough) - eta_min
        closed = eta_min + height * (1 + b.op("cos", epoch * pi / t_max)) / 2
        leaving_trough = lr + height * (1 - b.op("cos", pi / t_max)) / 2
        ratio = (1 + b.op("cos", pi * epoch / t_max)) / (1 + b.op("cos", pi * (epoch - 1) / t_max))
        along = ratio * (lr - eta_min) + eta_min
        return b.where(resumed, closed, b.where(at_trough, leaving_trough, along))
