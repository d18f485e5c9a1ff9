"""SWALR."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch.optim import Optimizer, swa_utils

from ..program.builder import Builder, Value
from ..program.program import STEP_COUNT
from .attributes import kept
from .base import OnDevice
from .overrides import plain_function


class SWALR(OnDevice, swa_utils.SWALR):
    """Anneals the lr to a fixed ``swa_lr`` (Izmailov et al., 2018), after :class:`torch.optim.swa_utils.SWALR`."""

    _constants = ("anneal_epochs", "anneal_func")
    _bound_functions: ClassVar = {"anneal_func": (swa_utils.SWALR._linear_anneal, swa_utils.SWALR._cosine_anneal)}
    _group_constants = ("swa_lr",)

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float,
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer,
            swa_lr,
            anneal_epochs,
            anneal_strategy,
            last_epoch,
            fused=fused,
            skip_with_optimizer=skip_with_optimizer,
        )

    def _anneal(self, b: Builder, t: Value) -> Value:
        if plain_function(self.anneal_func) is swa_utils.SWALR._cosine_anneal:
            return (1 - b.op("cos", b.const("pi", math.pi) * t)) / 2
        return t

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        lr = b.field("lr")
        swa_lr = self._per_group(b, "swa_lr", [g.get("swa_lr") for g in self.optimizer.param_groups])
        step = b.register(STEP_COUNT, kept(self, STEP_COUNT)) - 1
        if self.anneal_epochs == 0:
            step = b.op("max", b.number(1.0), step)
        span = b.const("anneal_epochs", max(1, self.anneal_epochs))

        def part(s: Value) -> Value:
            return self._anneal(b, b.op("max", b.number(0.0), b.op("min", b.number(1.0), s / span)))

        before, alpha = part(step - 1), part(step)
        initial = b.where(before == 1, swa_lr, (lr - before * swa_lr) / (1 - before))
        return swa_lr * alpha + initial * (1 - alpha)
