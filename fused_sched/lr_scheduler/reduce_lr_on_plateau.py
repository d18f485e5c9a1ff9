"""ReduceLROnPlateau."""

from __future__ import annotations

import re
import warnings
from typing import Any, Literal, SupportsFloat

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING

from ..compiled import not_compiled
from ..memory.values import as_float
from ..notice import warn
from ..optim.home import Home
from ..program.builder import Builder, Value
from ..program.program import LAST_EPOCH
from .attributes import kept
from .measured import Measured
from .registers import Register


class ReduceLROnPlateau(Measured, lr_scheduler.ReduceLROnPlateau):
    """Multiplies the lr by ``factor`` when a metric stops improving, after
    :class:`torch.optim.lr_scheduler.ReduceLROnPlateau`.

    A metric given as a tensor on the optimizer's device never comes to the host: what is best so far, the
    bad steps and the cooldown are registers of the program. So :meth:`step` can be captured in a CUDA graph.

    :meth:`observe` hands a metric over for the next ``step()``, which then takes none. So it may be a part of a
    SequentialLR or ChainedScheduler, which torch's class is refused by: a step of theirs keeps its lr where no metric
    was observed since the last one. By itself it has no ``fused`` keyword, because a step needs the metric.

    Raises:
        TypeError, ValueError, RuntimeError: torch's reasons.
    """

    _constants = (
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps", "min_lrs", "default_min_lr",
    )  # fmt: skip
    _registers = (LAST_EPOCH, "best", "num_bad_epochs", "cooldown_counter")

    best = Register(whole=False)
    num_bad_epochs = Register()
    cooldown_counter = Register()

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)

    def _covers_groups(self) -> bool:
        return self.default_min_lr is not None or len(self.min_lrs) == len(self.optimizer.param_groups)

    def _better(self, b: Builder, metric: Value, best: Value) -> Value:
        threshold = b.const("threshold", self.threshold)
        if self.threshold_mode == "rel":
            bound = best * (1.0 - threshold if self.mode == "min" else threshold + 1.0)
        else:
            bound = best - threshold if self.mode == "min" else best + threshold
        return metric < bound if self.mode == "min" else metric > bound

    def _emit_step(self, b: Builder) -> None:
        b.set_register(LAST_EPOCH, b.register(LAST_EPOCH, kept(self, LAST_EPOCH)) + 1)
        metric, again = self._emit_observed(b)
        observed = (metric == metric) | (again != again)  # torch counts a NaN as bad
        best = b.register("best", kept(self, "best"))
        bad = b.register("num_bad_epochs", kept(self, "num_bad_epochs"))
        cooldown = b.register("cooldown_counter", kept(self, "cooldown_counter"))
        better = self._better(b, metric, best)
        cooling = cooldown > 0
        now_bad = b.where(better | cooling, 0.0, bad + 1)
        now_cooldown = b.where(cooling, cooldown - 1, cooldown)
        reduce = observed & (now_bad > b.const("patience", self.patience))
        now_cooldown = b.where(reduce, b.const("cooldown", self.cooldown), now_cooldown)
        b.set_register("best", b.where(better, metric, best))
        b.set_register("num_bad_epochs", b.where(observed, b.where(reduce, 0.0, now_bad), bad))
        b.set_register("cooldown_counter", b.where(observed, now_cooldown, cooldown))
        lr, n = b.field("lr"), b.n_groups
        least: list[Any] = self.min_lrs if len(self.min_lrs) == n else [self.default_min_lr] * n
        floor = self._per_group(b, "min_lrs", least, used=reduce)
        new = b.op("max", lr * b.const("factor", self.factor), floor)
        self._emit_lr(b, b.where(reduce & (lr - new > b.const("eps", self.eps)), new, lr))

    @not_compiled
    def step(self, metrics: SupportsFloat | None = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """One step of the schedule.

        Args:
            metrics: a number or a one-element tensor, on any device; default, what :meth:`observe` was given last.
                Where nothing was since the last step, the step keeps the lr and counts no bad epoch.
            epoch: deprecated, as in torch: what ``last_epoch`` becomes.

        Raises:
            TypeError: ``metrics`` is not given, and nothing was ever observed.
            ValueError: ``metrics`` is a tensor with several elements.
            RuntimeError: ``metrics`` is a Python number and a CUDA graph is being captured.
        """
        if isinstance(metrics, torch.Tensor) and metrics.numel() != 1:
            raise ValueError(f"metrics has shape {tuple(metrics.shape)}: give a number or a one-element tensor")
        if metrics is None and not self._observing:
            raise TypeError(
                "ReduceLROnPlateau.step() missing 1 required positional argument: 'metrics': give it, or hand it over "
                "with observe() before"
            )
        if epoch is not None:
            warn(EPOCH_DEPRECATION_WARNING)
        if Home.rehearsal is None:
            self._step_with(metrics, epoch)
        else:
            with Home.rehearsal.work_of(self._home):
                self._step_with(metrics, epoch)

    def _step_with(self, metrics: SupportsFloat | None, epoch: int | None) -> None:
        if self._methods_touched and self._schedule is None:
            self._look_again()
        if self._schedule is not None and self._outer_reference is None:
            self._take_in_changes()  # there are no values of a user's function
        schedule = None if epoch is not None or self._outer_reference is not None else self._schedule
        # torch reduces a tensor once for each group that shares it
        if schedule is None or schedule.shares_tensors or (self.default_min_lr is None and not self._covers_groups()):
            self._step_by_torch(metrics, epoch)
            return
        if metrics is None:
            schedule.advance()
        else:
            self._advance_with(schedule, metrics, "a metric")

    def _step_by_torch(self, metrics: Any, epoch: int | None) -> None:
        self._home.refuse_in_capture("the lr of ReduceLROnPlateau was computed by Python")
        metrics = self.observed if metrics is None else metrics
        if metrics is None:
            self._update_lr(epoch)
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", re.escape(EPOCH_DEPRECATION_WARNING))  # given by step()
            lr_scheduler.ReduceLROnPlateau.step(self, metrics, epoch)
        self.observed = None

    def _update_lr(self, epoch: int | None = None) -> None:
        """A step that keeps the lr, as at the milestone of a SequentialLR."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._last_lr = [as_float(group["lr"]) for group in self.optimizer.param_groups]
        self.observed = None
