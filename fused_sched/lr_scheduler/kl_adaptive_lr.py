"""KLAdaptiveLR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from ..program.builder import Builder, Value
from .measured import HostMeasured, Measured, one_a_group


class _HostKLAdaptiveLR(HostMeasured):
    """What KLAdaptiveLR means, in torch's terms."""

    def __init__(
        self,
        optimizer: Optimizer,
        target_kl: float = 0.01,
        kl_factor: float = 2.0,
        lr_factor: float = 1.5,
        min_lr: float | Sequence[float] = 1e-6,
        max_lr: float | Sequence[float] = 1e-2,
        ignore_zero: bool = True,
        last_epoch: int = -1,
    ) -> None:
        self.target_kl, self.kl_factor, self.lr_factor = target_kl, kl_factor, lr_factor
        self.min_lr: Any = [*min_lr] if isinstance(min_lr, Sequence) else min_lr
        self.max_lr: Any = [*max_lr] if isinstance(max_lr, Sequence) else max_lr
        self.ignore_zero = ignore_zero
        check(self)
        if isinstance(optimizer, Optimizer):  # else torch says so
            for name in ("min_lr", "max_lr"):
                one_a_group(name, getattr(self, name), len(optimizer.param_groups))
        super().__init__(optimizer, last_epoch)

    def _adapted(self, lrs: list[float], signal: float) -> list[float]:
        lows, highs = (one_a_group(n, getattr(self, n), len(lrs)) for n in ("min_lr", "max_lr"))
        if signal > self.target_kl * self.kl_factor:
            return [max(low, lr / self.lr_factor) for low, lr in zip(lows, lrs, strict=True)]
        if signal < self.target_kl / self.kl_factor and (signal > 0 or not self.ignore_zero):
            return [min(high, lr * self.lr_factor) for high, lr in zip(highs, lrs, strict=True)]
        return lrs


def check(scheduler: Any) -> None:
    """Refuse what KLAdaptiveLR cannot work with."""
    for name, above, why in (
        ("target_kl", 0, "it is the KL divergence that an update should have, such as 0.01"),
        ("kl_factor", 1, "the lr is kept from target_kl / kl_factor to target_kl * kl_factor"),
        ("lr_factor", 1, "the lr is divided by it where the KL divergence is too large: give 1.5, say"),
    ):
        value = _number(name, getattr(scheduler, name))
        if not (math.isfinite(value) and value > above):
            raise ValueError(f"{name}={value!r} must be finite and above {above}: {why}")
    pairs: list[Any] = [scheduler.min_lr, scheduler.max_lr]
    lists = [values for values in pairs if isinstance(values, (list, tuple))]
    length = len(lists[0]) if lists else 1
    lows, highs = (one_a_group(n, x, length) for n, x in zip(("min_lr", "max_lr"), pairs, strict=True))
    for g, (low, high) in enumerate(zip(lows, highs, strict=True)):
        where = f" of group {g}" if lists else ""
        if not 0 <= _number("min_lr", low) <= _number("max_lr", high) < math.inf:
            raise ValueError(
                f"min_lr={low!r} and max_lr={high!r}{where} must be finite, with 0 <= min_lr <= max_lr: they are the "
                "lowest and the highest lr that it sets"
            )


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name}={value!r} must be a number, but is a {type(value).__name__}")


class KLAdaptiveLR(Measured, _HostKLAdaptiveLR):
    """Follows the KL divergence between the policies before and after an update, as PPO is trained in robotics.

    :meth:`observe` hands the divergence over, and the next step adapts the lr of each param group:

    - above ``target_kl * kl_factor``: ``lr = max(min_lr, lr / lr_factor)``;
    - below ``target_kl / kl_factor``: ``lr = min(max_lr, lr * lr_factor)``;
    - else, and where it is NaN or nothing was observed since the last step, the lr is kept.

    It is the rule of rsl_rl, with ``min_lr=1e-5``, and with ``ignore_zero=False`` that of skrl.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        target_kl: the divergence to keep to, above 0.
        kl_factor: how far from it the lr is kept, above 1.
        lr_factor: of one change of the lr, above 1.
        min_lr, max_lr: bounds of what it sets; numbers, or lists with one for each param group. An lr that is beyond
            them stays there until it is changed.
        ignore_zero: keep the lr where the divergence is 0 or below, as in a first update.
        last_epoch: as in torch.

    Raises:
        ValueError: a number is out of range, or a list has another length than there are param groups.
        TypeError: an argument is not a number.
    """

    _constants = ("target_kl", "kl_factor", "lr_factor", "min_lr", "max_lr", "ignore_zero")

    def __init__(
        self,
        optimizer: Optimizer,
        target_kl: float = 0.01,
        kl_factor: float = 2.0,
        lr_factor: float = 1.5,
        min_lr: float | Sequence[float] = 1e-6,
        max_lr: float | Sequence[float] = 1e-2,
        ignore_zero: bool = True,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer,
            target_kl,
            kl_factor,
            lr_factor,
            min_lr,
            max_lr,
            ignore_zero,
            last_epoch,
            fused=fused,
            skip_with_optimizer=skip_with_optimizer,
        )

    def _check(self) -> None:
        check(self)

    def _limit(self, b: Builder, name: str, used: Value) -> Value:
        values = getattr(self, name)
        return self._per_group(b, name, values, used) if isinstance(values, (list, tuple)) else b.const(name, values)

    def _lr_after(self, b: Builder, signal: Value) -> Value:
        lr, target, width = b.field("lr"), b.const("target_kl", self.target_kl), b.const("kl_factor", self.kl_factor)
        factor = b.const("lr_factor", self.lr_factor)
        too_large, small = signal > target * width, signal < target / width
        if self.ignore_zero:
            small = small & (signal > 0)
        lowered = b.op("max", self._limit(b, "min_lr", too_large | small), lr / factor)
        raised = b.op("min", self._limit(b, "max_lr", too_large | small), lr * factor)
        return b.where(too_large, lowered, b.where(small, raised, lr))
