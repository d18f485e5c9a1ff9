"""OneCycleLR."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch.optim import Optimizer, lr_scheduler

from ..program.builder import Builder, Value
from .base import OnDevice


class OneCycleLR(OnDevice, lr_scheduler.OneCycleLR):
    """One cycle up to ``max_lr`` and down, in two or three phases (Smith and Topin, 2018).

    After :class:`torch.optim.lr_scheduler.OneCycleLR`, with momentum or beta1 against it. As there, one
    step past the end is allowed and the next raises ValueError; in a replayed CUDA graph the lr stays as
    it is from there on, and the scheduler's next read on the host raises RuntimeError.
    """

    _overwrites = True
    _constants = ("total_steps", "_schedule_phases", "cycle_momentum", "_anneal_func_type", "use_beta1")
    _group_constants = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum")

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(
            optimizer, max_lr, total_steps, epochs, steps_per_epoch, pct_start, anneal_strategy, cycle_momentum,
            base_momentum, max_momentum, div_factor, final_div_factor, three_phase, last_epoch,
            fused=fused, skip_with_optimizer=skip_with_optimizer,
        )  # fmt: skip

    def _look(self) -> dict[str, Any]:
        phases = [{**phase} for phase in self._schedule_phases]
        return super()._look() | {"_schedule_phases": phases}

    def _anneal(self, b: Builder, start: Value, end: Value, part: Value) -> Value:
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2.0 * (b.op("cos", b.const("pi", math.pi) * part) + 1)
        return (end - start) * part + start

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        groups = self.optimizer.param_groups
        b.trap(epoch > b.const("total_steps", self.total_steps))
        begin = b.number(0.0)
        lr = momentum = b.number(0.0)
        later = b.number(1.0)  # the phases so far are over
        for i, phase in enumerate(self._schedule_phases):
            end = b.const(f"end of phase {i}", phase["end_step"])
            last = i == len(self._schedule_phases) - 1
            here = later if last else later & (epoch <= end)
            b.trap(here & (end - begin == 0))  # Python divides by it
            part = (epoch - begin) / (end - begin)
            values = {k: self._per_group(b, k, [g.get(k) for g in groups], used=here) for k in self._keys_of(phase)}
            lr = b.where(here, self._anneal(b, values[phase["start_lr"]], values[phase["end_lr"]], part), lr)
            if self.cycle_momentum:
                start, stop = values[phase["start_momentum"]], values[phase["end_momentum"]]
                momentum = b.where(here, self._anneal(b, start, stop, part), momentum)
            later, begin = later & ~here, end
        if self.cycle_momentum:
            b.set_field("beta1" if self.use_beta1 else "momentum", momentum)
        return lr

    def _keys_of(self, phase: Any) -> list[str]:
        names = ("start_lr", "end_lr", *(("start_momentum", "end_momentum") if self.cycle_momentum else ()))
        return [str(phase[name]) for name in names]
