"""What tests of schedules that follow a measurement share: drives of them, and the rules of other libraries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

EDGES = (math.nan, 0.0, -0.0, -1e-9, -1.0, 5e-324, 1e308, math.inf, -math.inf)


def lrs_of(made: Any) -> list[float]:
    return [float(group["lr"]) for group in made.param_groups]


def same_lrs(found: list[float], expected: list[float]) -> bool:
    """The same bits."""
    return [*map(float.hex, found)] == [*map(float.hex, expected)]


def observe_and_step(scheduler: Any, signal: Any) -> None:
    scheduler.observe(signal)
    scheduler.step()


@contextmanager
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host does not read what is on the device."""

    def forbidden(*_: Any) -> None:
        raise AssertionError("the host read the device")

    with monkeypatch.context() as patch:
        patch.setattr("fused_sched.memory.control_block.HostedArray.refresh", forbidden)
        for name in ("item", "tolist", "__float__", "numpy", "__bool__"):
            patch.setattr(torch.Tensor, name, forbidden)
        yield


def rsl_rl(lr: float, kl: float, desired: float) -> float:
    """Its ``schedule="adaptive"``, written anew."""
    if kl > desired * 2.0:
        lr = max(1e-5, lr / 1.5)
    elif kl < desired / 2.0 and kl > 0.0:
        lr = min(1e-2, lr * 1.5)
    return lr


def skrl(lr: float, kl: float, arguments: dict[str, Any], group: int) -> float:
    """Its KLAdaptiveLR, written anew, with bounds of each group."""
    low, high = arguments["min_lr"][group], arguments["max_lr"][group]
    if kl > arguments["target_kl"] * arguments["kl_factor"]:
        return max(lr / arguments["lr_factor"], low)
    if kl < arguments["target_kl"] / arguments["kl_factor"]:
        return min(lr * arguments["lr_factor"], high)
    return lr


def by_kl(lr: float, kl: float) -> float:
    return min(lr * 1.25, 1.0) if kl < 0.005 else lr / 1.25 if kl > 0.02 else lr


def halve(lr: float, signal: float) -> float:
    return lr * 0.5 if signal > 0 else lr


class _Measured(LRScheduler):
    """A scheduler of torch's kind whose get_lr uses what was observed."""

    def observe(self, signal: float) -> None:
        self.observed = float(signal)

    def get_lr(self) -> list[Any]:
        groups, signal = self.optimizer.param_groups, self.__dict__.get("observed", math.nan)
        if math.isnan(signal):
            return [group["lr"] for group in groups]
        return [self.rule(g, float(group["lr"]), signal) for g, group in enumerate(groups)]

    def rule(self, group: int, lr: float, signal: float) -> float:
        raise NotImplementedError

    def _update_lr(self, epoch: Any = None) -> None:
        if epoch is not None:
            self.__dict__.pop("observed", None)
        super()._update_lr(epoch)
        self.__dict__.pop("observed", None)


class KLAdaptiveLR(_Measured):
    """rsl_rl's rule with other numbers."""

    def __init__(self, optimizer: Any, target_kl: float, min_lr: float, max_lr: float) -> None:
        self.target_kl, self.kl_factor, self.lr_factor = target_kl, 2.0, 1.5
        self.min_lr, self.max_lr, self.ignore_zero = min_lr, max_lr, True
        super().__init__(optimizer)

    def rule(self, group: int, lr: float, signal: float) -> float:
        if self.ignore_zero and signal <= 0:
            return lr
        numbers = {"target_kl": self.target_kl, "kl_factor": self.kl_factor, "lr_factor": self.lr_factor}
        limits = {"min_lr": [self.min_lr] * (group + 1), "max_lr": [self.max_lr] * (group + 1)}
        return skrl(lr, signal, {**numbers, **limits}, group)


class FeedbackLR(_Measured):
    """A function for all groups."""

    def __init__(self, optimizer: Any, function: Any) -> None:
        self.function = function
        super().__init__(optimizer)

    def rule(self, group: int, lr: float, signal: float) -> float:
        return self.function(lr, signal)  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        of_ours = {"function": None, **{name: state.pop(name) for name in ("observed",) if name in state}}
        del state["function"]
        return {**state, **of_ours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "function": self.function})
