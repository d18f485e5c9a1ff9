"""CyclicLR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from torch.optim import Optimizer, lr_scheduler

from ..memory.values import as_float
from ..program.builder import Builder, Value
from .base import OnDevice
from .overrides import plain_function


class CyclicLR(OnDevice, lr_scheduler.CyclicLR):
    """Cycles the lr between two bounds, and momentum or beta1 against it (Smith, 2017).

    After :class:`torch.optim.lr_scheduler.CyclicLR`. A custom ``scale_fn`` becomes part of the program
    where it can be traced; otherwise it runs on the host and its exact values are tabulated, as in
    :class:`LambdaLR`. Where torch's ``triangular2`` overflows, at cycle 1025, the amplitude stays 0.

    Args:
        horizon: with a ``scale_fn`` that is not traced, how many steps are computed at a time; see
            :class:`LambdaLR`.

    Raises:
        ValueError: ``step_size_up`` is 0, ``horizon`` is less than 1, or torch's reasons.
    """

    _constants = (
        "base_lrs", "max_lrs", "total_size", "step_ratio", "scale_mode", "_scale_fn_custom",
        "cycle_momentum", "base_momentums", "max_momentums", "use_beta1", "_scale_fn_ref",
    )  # fmt: skip
    _overwrites = True
    _bound_functions: ClassVar = {
        "_scale_fn_ref": tuple(
            getattr(lr_scheduler.CyclicLR, f"_{name}_scale_fn") for name in ("triangular", "triangular2", "exp_range")
        )
    }

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
        *,
        horizon: int = 1,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        if step_size_up == 0:
            raise ValueError(f"{step_size_up=} must not be 0: give the number of steps from base_lr up to max_lr")
        self._horizon = horizon
        super().__init__(
            optimizer, base_lr, max_lr, step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode, cycle_momentum,
            base_momentum, max_momentum, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer,
        )  # fmt: skip

    def _functions(self) -> list[Any]:
        return [] if self._scale_fn_custom is None else [self._scale_fn_custom]

    def _columns(self) -> int:
        return 2 if self.cycle_momentum else 1

    def _argument(self, epoch: int) -> int:
        return math.floor(1 + epoch / self.total_size) if self.scale_mode == "cycle" else epoch

    def _called(self, epoch: int) -> list[list[Any]]:
        argument, position = self._argument(epoch), self._position_at(epoch)
        pairs = [(self.base_lrs, self.max_lrs)]
        if self.cycle_momentum:
            pairs.append((self.max_momentums, self.base_momentums))
        called: list[list[Any]] = []
        self._bases = []
        for starts, ends in pairs:
            self._bases.append([])
            called.append([])
            for start, end in zip(starts, ends, strict=False):
                self._bases[-1].append((start, (end - start) * position))
                called[-1].append(self.scale_fn(argument))
        return called

    def _position_at(self, epoch: int) -> float:
        """How far on its way from the base to the other end the cycle is."""
        x = 1.0 + epoch / self.total_size - math.floor(1 + epoch / self.total_size)
        return x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)

    def _rows(self, called: Sequence[Sequence[Any]]) -> list[list[float]]:
        """The lrs, and the momentums, as numpy or whatever gave the scales computes them."""
        return [
            [as_float(start + height * scale) for (start, height), scale in zip(ways, scales, strict=True)]
            for ways, scales in zip(self._bases, called, strict=True)
        ]

    def _scales(self, b: Builder, epoch: Value, cycle: Value) -> tuple[Value, ...]:
        """Of the lr, and of the momentum where it is cycled; or lr and momentum themselves, out of a table."""
        if self._scale_fn_custom is not None and self._source is not None:
            return self._source.emit(b, epoch, cycle if self.scale_mode == "cycle" else epoch, shared=True)
        return (self._torchs_scale(b, epoch, cycle),) * self._columns()

    def _torchs_scale(self, b: Builder, epoch: Value, cycle: Value) -> Value:
        # what torch bound at construction, or in a load: later edits of mode and gamma do nothing there either
        bound = self._scale_fn_ref
        kind = plain_function(bound).__name__
        if kind == "_triangular2_scale_fn":
            return 1 / (2.0 ** (cycle - 1))
        if kind == "_exp_range_scale_fn":
            return b.const("gamma", bound.args[0]) ** epoch  # type: ignore[attr-defined]
        return b.const("triangular", 1.0)

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        total, ratio = b.const("total_size", self.total_size), b.const("step_ratio", self.step_ratio)
        cycle = b.op("floor", 1 + epoch / total)
        x = 1.0 + epoch / total - cycle
        position = b.where(x <= ratio, x / ratio, (x - 1) / (ratio - 1))
        scales = self._scales(b, epoch, cycle)
        # a table holds what is written, as Python computed it
        tabulated = self._scale_fn_custom is not None and self._source is not None and not self._source.traced
        base = self._per_group(b, "base_lrs", self.base_lrs)
        height = (self._per_group(b, "max_lrs", self.max_lrs) - base) * position
        if self.cycle_momentum:
            low = self._per_group(b, "base_momentums", self.base_momentums)
            high = self._per_group(b, "max_momentums", self.max_momentums)
            momentum = scales[1] if tabulated else high - (high - low) * position * scales[1]
            b.set_field("beta1" if self.use_beta1 else "momentum", momentum)
        return scales[0] if tabulated else base + height * scales[0]
