"""What tests of schedules that follow a measurement share: drives of them, and the rules of other libraries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from schedule_twins import optimizer, same_bits

import fused_sched

EDGES = (math.nan, 0.0, -0.0, -1e-9, -1.0, 5e-324, 1e308, math.inf, -math.inf)


def made_with(lrs: list[float], backend: Any = None, kind: str = "SGD", **options: Any) -> Any:
    """Our optimizer with one param group for each lr."""
    return optimizer(fused_sched.optim, kind, lrs, backend=backend, **options)


def lrs_of(made: Any) -> list[float]:
    return [float(group["lr"]) for group in made.param_groups]


def same_lrs(found: list[float], expected: list[float]) -> bool:
    """The same bits."""
    return len(found) == len(expected) and all(map(same_bits, found, expected))


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
