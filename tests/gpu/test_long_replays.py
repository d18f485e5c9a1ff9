"""A thousand replays against a thousand steps, one by one: every bit of parameters, state, control block, schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Graph
from schedule_twins import DEFAULTS, OURS, Parts, build, position

from fused_sched.optim import SGD, AdamW

TIMES = 1000
LRS = (0.1, 0.3)
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, DEFAULTS[name])
    for name in ("LambdaLR", "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CyclicLR")
}
WARM_UP_THEN_COSINE = ("LinearLR", {"total_iters": 50}), ("CosineAnnealingLR", {"T_max": 300})
STEP_AND_DECAY = ("StepLR", {"step_size": 70}), ("ExponentialLR", {"gamma": 0.999})
NESTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sequence": ("SequentialLR", {"schedulers": Parts(*WARM_UP_THEN_COSINE), "milestones": [50]}),
    "chain": ("ChainedScheduler", {"schedulers": Parts(*STEP_AND_DECAY)}),
    "chain of a sequence": (
        "ChainedScheduler",
        {
            "schedulers": Parts(
                ("SequentialLR", {"schedulers": Parts(*WARM_UP_THEN_COSINE), "milestones": [50]}),
                ("StepLR", {"step_size": 70}),
            )
        },
    ),
    "sequence of a chain": (
        "SequentialLR",
        {
            "schedulers": Parts(
                ("ChainedScheduler", {"schedulers": Parts(*STEP_AND_DECAY)}), ("CosineAnnealingLR", {"T_max": 300})
            ),
            "milestones": [600],
        },
    ),
}
CASES = SCHEDULERS | NESTINGS


class Loop:
    """One parameter a group, gradients that depend on it, and a scheduler."""

    def __init__(self, case: str, fused: bool, backend: Any) -> None:
        self.params = [torch.nn.Parameter(torch.linspace(-1, 1, 5 + i).to(DEVICE)) for i in range(len(LRS))]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(self.params, LRS, strict=True)]
        make: Any = AdamW if case in NESTINGS else SGD
        self.optimizer = make(groups, lr=0.1, backend=backend, **({} if make is AdamW else {"momentum": 0.7}))
        name, arguments = CASES[case]
        if name == "LambdaLR":  # rows computed ahead where the function is not traced
            arguments = {**arguments, "horizon": 2 * TIMES}
        self.scheduler = build(OURS, name, self.optimizer, fused=fused, **arguments)
        for p in self.params:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self.params:
            p.grad.copy_(p.detach() * 0.25).add_(0.125)
        self.optimizer.step()
        self.scheduler.step()

    def bits(self) -> list[list[int]]:
        hosted = [self.optimizer._block.tensor, self.scheduler._schedule.memory.tensor]
        state = [v for p in self.params for v in self.optimizer.state[p].values() if v is not None]
        return [t.detach().reshape(-1).view(torch.uint8).tolist() for t in (*self.params, *state, *hosted)]


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("case", CASES)
def test_a_thousand_replays_have_the_bits_of_a_thousand_steps(
    case: str,
    fused: bool,
    gpu_backend: Any,
    capture: Callable[[Body], Graph],
    warm_up: Callable[[Body, int], None],
    no_sync: Callable[[], Any],
) -> None:
    eager, captured = Loop(case, fused, gpu_backend), Loop(case, fused, gpu_backend)
    for loop in (eager, captured):
        warm_up(loop.step, 3)
    graph = capture(captured.step)
    with no_sync():
        for _ in range(TIMES):
            eager.step()
        for _ in range(TIMES):
            graph.replay()
    assert captured.bits() == eager.bits()
    assert position(captured.scheduler) == position(eager.scheduler)
    assert all(torch.isfinite(p).all() for p in captured.params)
