"""A thousand replays that measure, clip, skip, average and zero, against as many steps: every bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Graph

from fused_sched.lr_scheduler import CosineAnnealingLR, ParamScheduler
from fused_sched.optim import SGD, AdamW
from fused_sched.step_options import SpikeRule

MAKERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (SGD, {"momentum": 0.7, "dampening": 0.2}),
    "AdamW": (AdamW, {}),
}
SIZES = (5, 1031)


class Loop:
    """Gradients that depend on parameters, times a number on the device, which makes some of them NaN."""

    def __init__(self, name: str, scope: str, backend: Any) -> None:
        make, arguments = MAKERS[name]
        self.params = [torch.nn.Parameter(torch.linspace(-1, 1, n).to(DEVICE)) for n in SIZES]
        self.optimizer = make(
            [{"params": [p]} for p in self.params],
            lr=0.05,
            backend=backend,
            max_grad_norm=1.0,
            norm_scope=scope,
            skip_nonfinite=True,
            skip_spikes=SpikeRule(8, 3.0),
            ema_decay=0.9,
            zero_grad_in_step=True,
            **arguments,
        )
        self.schedulers = [
            CosineAnnealingLR(self.optimizer, T_max=300, fused=True),
            ParamScheduler(self.optimizer, "max_grad_norm", lambda e: 1 + 0.5 * math.cos(e), horizon=1100, fused=True),
        ]
        self.size = torch.ones((), device=DEVICE)
        for p in self.params:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self.params:
            p.grad.add_((p.detach() * 0.25 + 0.125) * self.size)
        self.optimizer.step()
        for scheduler in self.schedulers:
            scheduler.step()

    def edit(self, i: int) -> None:
        """Between replays: a NaN, a spike, other thresholds and decays."""
        self.size.fill_(math.nan if i % 37 == 5 else 50.0 if i % 53 == 20 else 1.0 + i % 3)
        if i % 71 == 30:
            self.optimizer.param_groups[i % 2]["ema_decay"] = 0.5 + (i % 5) / 10
        if i % 97 == 40:
            self.optimizer.param_groups[1 - i % 2]["max_grad_norm"] = 0.25 * (1 + i % 4)

    def bits(self) -> list[list[int]]:
        hosted = [self.optimizer._block.tensor, self.optimizer._norms]
        state = [v for p in self.params for v in self.optimizer.state[p].values() if v is not None]
        grads = [p.grad for p in self.params]
        return [t.detach().reshape(-1).view(torch.uint8).tolist() for t in (*self.params, *grads, *state, *hosted)]


TIMES = [pytest.param(60, id="sixty"), pytest.param(1000, marks=pytest.mark.slow, id="thousand")]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("name", MAKERS)
def test_replays_have_the_bits_of_as_many_steps(
    name: str,
    scope: str,
    times: int,
    gpu_backend: Any,
    capture: Callable[[Body], Graph],
    warm_up: Callable[[Body, int], None],
    no_sync: Callable[[], Any],
) -> None:
    eager, captured = Loop(name, scope, gpu_backend), Loop(name, scope, gpu_backend)
    for loop in (eager, captured):
        warm_up(loop.step, 3)
    graph = capture(captured.step)
    with no_sync():
        for i in range(times):
            eager.edit(i)
            eager.step()
        for i in range(times):
            captured.edit(i)
            graph.replay()
    assert captured.bits() == eager.bits()
    assert captured.optimizer.skipped_steps.item() == eager.optimizer.skipped_steps.item() >= times // 37
    assert captured.optimizer.grad_norm.item() == eager.optimizer.grad_norm.item()
    assert all(torch.isfinite(p).all() for p in captured.params)
