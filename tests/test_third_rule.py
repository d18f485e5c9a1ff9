"""A rule that no kernel knows runs as torch operations on every backend, with its counts and schedules."""

from __future__ import annotations

from typing import Any

import lane
import pytest
import torch
from platforms import Platform
from torch.optim import Optimizer

from fused_sched import backends
from fused_sched.lr_scheduler import StepLR
from fused_sched.optim.fused_optimizer import FusedOptimizer
from fused_sched.rules import ADAM, Rule, StateSlot


def _descend(p: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor], row: Any, count: Any) -> list[torch.Tensor]:
    """By the sign of an average, half as far in every later update."""
    average = torch.lerp(state[0], g, torch.as_tensor(1 - row.momentum, dtype=g.dtype))
    return [p - row.lr * 0.5**count * average.sign(), average]


SIGN = Rule(
    name="sign",
    code=99,
    states=(StateSlot("average"),),
    step_key="step",
    fields=("lr", "weight_decay", "momentum", "flags"),
    compute=_descend,
    decay_is_coupled=lambda row: True,
)


class Sign(FusedOptimizer):
    _rule = SIGN

    def __init__(self, params: Any, lr: float, momentum: float, backend: str | backends.Backend) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.1, "maximize": False}
        Optimizer.__init__(self, params, defaults)
        self._start(backend)


def expected_after(params: list[torch.Tensor], grads: list[list[torch.Tensor | None]], momentum: float) -> None:
    """What five steps make of parameters; one without a gradient is left alone, and so is its count."""
    averages = [torch.zeros_like(p) for p in params]
    counts = [0] * len(params)
    lr = 0.5
    for step, row in enumerate(grads):
        for i, g in enumerate(row):
            if g is None:
                continue
            g = torch.add(g, params[i], alpha=0.1)
            averages[i] = torch.lerp(averages[i], g, torch.tensor(1 - momentum))
            params[i] -= lr * 0.5 ** counts[i] * averages[i].sign()
            counts[i] += 1
        lr *= 0.1 if step % 2 else 1.0


@pytest.mark.parametrize("fused", [True, False])
def test_a_rule_without_kernels(backend: str | backends.Backend, fused: bool, seed: int) -> None:
    sizes = [1, 7, 130]
    params = [torch.nn.Parameter(torch.randn(n)) for n in sizes]
    grads = [[None if (i, step) == (1, 2) else torch.randn(n) for i, n in enumerate(sizes)] for step in range(5)]
    expected = [p.detach().clone() for p in params]
    optimizer = Sign([{"params": params[:2]}, {"params": params[2:]}], 0.5, 0.75, backend)
    scheduler = StepLR(optimizer, 2, fused=fused)
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()
        scheduler.step()
    expected_after(expected, grads, 0.75)
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=1e-6, atol=1e-7)
    assert [int(optimizer.state[p]["step"]) for p in params] == [5, 4, 5]
    assert [g["lr"] for g in optimizer.param_groups] == [pytest.approx(0.5 * 0.1**2)] * 2


def test_a_skipped_step_of_it(backend: str | backends.Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = Sign([p], 0.5, 0.75, backend)
    fused = StepLR(optimizer, 1, fused=True, skip_with_optimizer=True)
    for found in (1.0, 0.0):
        p.grad = torch.full((3,), 4.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor([4.0]), torch.tensor([found])
        optimizer.step()
        fused.step()
        if found:
            assert p.tolist() == [1.0] * 3
            assert p.grad.tolist() == [4.0] * 3
            assert int(optimizer.state[p]["step"]) == 0
            assert fused.get_last_lr() == [0.5]
    assert p.grad.tolist() == [1.0] * 3
    assert p.tolist() == [0.5] * 3
    assert int(optimizer.state[p]["step"]) == 1
    assert fused.get_last_lr() == [pytest.approx(0.05)]


class Capturing(Platform):
    """Says that a graph is captured, when told to."""

    capturing = False

    def is_capturing(self, device: torch.device) -> bool:
        return self.capturing


@pytest.mark.parametrize("name", [name for name in lane.NAMES if name != "reference"])
def test_it_is_refused_in_a_capture(name: str) -> None:
    if lane.reason_unavailable(name) is not None:
        pytest.skip("the backend cannot run here")
    p = torch.nn.Parameter(torch.ones(3))
    platform = Capturing()
    optimizer = Sign([p], 0.5, 0.75, lane.backend(name, platform))
    p.grad = torch.ones(3)
    optimizer.step()
    platform.capturing = True
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=r"has no kernels for the rule 'sign', .* step outside of captures"):
        optimizer.step()
    assert torch.equal(p, before)


def test_a_rule_of_the_same_name_is_not_taken_for_one_with_kernels() -> None:
    """Kernels are found by what the rule is, not by how it is called."""

    class Other(Sign):
        _rule = Rule("adam", ADAM.code, SIGN.states, "step", SIGN.fields, _descend, SIGN.decay_is_coupled)

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    Other([p], 0.5, 0.75, "reference" if backends.reason_unavailable("cpu") else "cpu").step()
    assert p.tolist() == [0.5] * 3
