"""Stochastic rounding on a GPU, in captured graphs too: torch operations on the CPU draw and round alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Graph
from stochastic_twins import ChanceTwins

from fused_sched.optim import SGD, AdamW

Capture = Callable[[Body], Graph]
AROUND: list[dict[str, Any]] = [{}, {"max_grad_norm": 0.02, "skip_nonfinite": True, "ema_decay": 0.5}]
every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def _drawn_from_the_seed(seed: int) -> None:
    """Values and gradients."""


def one_element_off(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(values, (1, 0))[1:]


@pytest.mark.thin
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("averaged", [False, True], ids=["", "averaged"])
@every_dtype
def test_it_draws_and_rounds_as_the_reference(
    dtype: torch.dtype, averaged: bool, aligned: bool, gpu_backend: Any
) -> None:
    layout = torch.Tensor.clone if aligned else one_element_off
    options: dict[str, Any] = {"ema_decay": 0.5, "ema_dtype": "parameter"} if averaged else {}
    twins = ChanceTwins(gpu_backend, dtype, device=DEVICE, layout=layout, **options)
    for _ in range(2):
        twins.set_grads()
        twins.step()
        twins.assert_same()


@pytest.mark.thin
@every_dtype
def test_fewer_elements_a_thread_draw_the_same(dtype: torch.dtype, gpu_backend: Any) -> None:
    """As with states in float32, which a thread reads fewer of at a time."""
    ends = []
    for where, device in ((gpu_backend, DEVICE), ("reference", "cpu")):
        torch.manual_seed(4)
        p = torch.nn.Parameter(torch.ones(2051, dtype=dtype, device=device))
        optimizer = SGD([p], lr=1.0, momentum=0.5, stochastic_rounding=True, rounding_seed=8, backend=where)
        optimizer.state[p]["momentum_buffer"] = torch.zeros(2051, device=device)
        for _ in range(3):
            p.grad = (torch.randn(2051) * 2.0**-12).to(dtype).to(device)
            optimizer.step()
        ends.append(p.detach().cpu().float())
    # the reference multiplies and adds in two roundings: an element in thousands may fall to the other side
    assert int((ends[0] != ends[1]).sum()) <= 2


@pytest.mark.thin
@pytest.mark.parametrize("around", AROUND, ids=["alone", "with more around"])
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_replays_draw_on(
    make: Any, around: dict[str, Any], gpu_backend: Any, capture: Capture, no_sync: Callable[[], Any]
) -> None:
    """As eager steps would; a replay after a state dict was loaded draws what it says."""

    def begin() -> tuple[torch.nn.Parameter, Any]:
        p = torch.nn.Parameter(torch.ones(1031, dtype=torch.bfloat16, device=DEVICE))
        p.grad = torch.full_like(p, 2.0**-10)
        optimizer = make([p], lr=0.01, stochastic_rounding=True, rounding_seed=7, backend=gpu_backend, **around)
        optimizer.step()
        return p, optimizer

    eager, by_hand = begin()
    replayed, optimizer = begin()
    graph = capture(optimizer.step)
    saved = optimizer.state_dict()
    saved["state"] = {
        i: {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        for i, state in saved["state"].items()
    }
    start, seen = replayed.detach().clone(), []
    for _ in range(4):
        by_hand.step()
        with no_sync():
            graph.replay()
        assert torch.equal(eager.cpu(), replayed.cpu())
        seen.append(replayed.detach().cpu().clone())
    assert len({tuple((b.float() - a.float()).tolist()) for a, b in pairwise(seen)}) == 3
    replayed.data.copy_(start)
    optimizer.load_state_dict(saved)
    graph.replay()
    assert torch.equal(replayed.cpu(), seen[0])
