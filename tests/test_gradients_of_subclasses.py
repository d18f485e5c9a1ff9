"""A class of parameters may make its gradient when asked for it: nobody else keeps that tensor."""

from __future__ import annotations

import weakref

import pytest
import torch

from fused_sched import backends
from fused_sched.memory import pointers
from fused_sched.optim import SGD, AdamW

_memory: list[torch.Tensor] = []  # never freed, so that what reads freed gradients reads NaN


class Derived(torch.nn.Parameter):
    """Its gradient is made of a plain tensor each time it is asked for, and spoilt when nobody has it any more."""

    made = 0

    @property
    def grad(self) -> torch.Tensor | None:  # type: ignore[override]
        backing = torch.full_like(self.detach().as_subclass(torch.Tensor), 0.25)
        _memory.append(backing)
        fresh = backing.view_as(backing)
        weakref.finalize(fresh, backing.fill_, float("nan"))
        Derived.made += 1
        return fresh


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_a_gradient_that_nobody_else_has(make: type, scaled: bool, backend: str | backends.Backend) -> None:
    check_steps(make, scaled, backend)


def test_the_scan_in_python_keeps_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointers, "_C", None)
    if backends.reason_unavailable("triton") is not None:
        pytest.skip("the triton backend cannot run here")
    check_steps(AdamW, False, "triton")


def check_steps(make: type, scaled: bool, backend: str | backends.Backend) -> None:
    sizes = [3, 1000, 1030]
    params, plain = ([cls(torch.ones(n)) for n in sizes] for cls in (Derived, torch.nn.Parameter))
    ours, expected = make(params, lr=0.5, backend=backend), make(plain, lr=0.5, backend=backend)
    for _ in range(3):
        for p in plain:
            p.grad = torch.full_like(p, 0.25)
        for optimizer in (ours, expected):
            if scaled:
                optimizer.grad_scale, optimizer.found_inf = torch.tensor([2.0]), torch.tensor([0.0])
            optimizer.step()
    for p, q in zip(params, plain, strict=True):
        assert torch.equal(p.detach().as_subclass(torch.Tensor), q.detach())
    assert Derived.made
    assert not any(table.held for table in ours.tables)  # a step later, nothing keeps them
