"""Gradients that a step leaves as zeros, on every backend."""

from __future__ import annotations

import math

import pytest
import torch
from around_twins import RULES, AroundTwins

from fused_sched import backends
from fused_sched.optim import SGD, AdamW

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend


@pytest.mark.thin("triton")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("around", [{}, {"max_grad_norm": 1.0, "ema_decay": 0.9}])
def test_a_step_leaves_zeros(
    name: str, dtype: torch.dtype, around: dict[str, float], backend: Backend, seed: int
) -> None:
    twins = AroundTwins(name, backend, dtype=dtype, zero_grad_in_step=True, **around)
    for step in range(4):
        twins.set_grads(without=[1] if step == 2 else [])
        grads = [p.grad for p in twins.params]
        twins.step()
        assert all(a is p.grad for a, p in zip(grads, twins.params, strict=True))
        assert all(g is None or not g.any() for g in grads)
    twins.assert_same()


@pytest.mark.parametrize("spoiled", [math.inf, math.nan])
def test_a_skipped_step_leaves_zeros_too(spoiled: float, backend: Backend, seed: int) -> None:
    """Else what accumulates in them would stay what it is, and every later step would be skipped."""
    options = {"zero_grad_in_step": True, "skip_nonfinite": True, "ema_decay": 0.9}
    twins = AroundTwins("AdamW", backend, **options)
    for step in range(5):
        for p, q in zip(twins.params, twins.torch_params, strict=True):
            g = torch.randn_like(p)
            q.grad = g.clone()
            if p.grad is None:
                p.grad = g
            else:
                p.grad += g  # as autograd accumulates
        if step == 2:
            twins.params[4].grad[1_030] = spoiled
            twins.ours.step()
        else:
            twins.step()
        assert not any(bool(p.grad.any()) for p in twins.params)
    assert twins.ours.skipped_steps.item() == 1
    twins.assert_same(1e-13)


def test_with_grad_scaler(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = SGD([p], lr=1.0, zero_grad_in_step=True, backend=backend)
    for found in (0.0, 1.0):
        p.grad = torch.full((3,), 8.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor([4.0]), torch.tensor([found])
        optimizer.step()
        assert p.tolist() == [-2.0] * 3
        assert p.grad.tolist() == [0.0] * 3


def test_staged_gradients(backend: Backend) -> None:
    """Those that kernels cannot walk in place: other strides, complex numbers."""
    p, q = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = SGD([p, q], lr=1.0, zero_grad_in_step=True, skip_nonfinite=True, backend=backend)
    for spoiled in (False, True):
        p.grad, q.grad = torch.ones(3, 2).t(), torch.ones(2, dtype=torch.complex64)
        if spoiled:
            p.grad[0, 0] = math.nan
        optimizer.step()
        assert not p.grad.any()
        assert not q.grad.any()
        assert p.tolist() == [[-1.0] * 3] * 2


def test_a_gradient_whose_elements_share_memory(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(5, 4))
    optimizer = SGD([p], lr=0.5, zero_grad_in_step=True, backend=backend)
    p.grad = torch.tensor(2.0).expand(5, 4)
    optimizer.step()
    assert p.tolist() == [[0.0] * 4] * 5
    assert not p.grad.any()


def test_gradients_that_share_memory_are_refused(backend: Backend) -> None:
    p, q = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer = AdamW([p, q], zero_grad_in_step=True, backend=backend)
    storage = torch.ones(6)
    p.grad, q.grad = storage[:4], storage[2:]
    with pytest.raises(RuntimeError, match=r"share memory, and zero_grad_in_step .* clone\(\)"):
        optimizer.step()
    assert p.tolist() == q.tolist() == [0.0] * 4
    assert storage.tolist() == [1.0] * 6
    p.grad, q.grad = storage[:2].repeat(2), storage[2:]
    optimizer.step()
    assert storage.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_sparse_gradients(backend: Backend) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), lr=1.0, zero_grad_in_step=True, backend=backend)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    optimizer.step()
    assert torch.equal(embedding.weight[1], before[1] - 1)
    assert not embedding.weight.grad.to_dense().any()
    optimizer.step()
    assert torch.equal(embedding.weight[1], before[1] - 1)
