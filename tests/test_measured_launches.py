"""A step that measures its gradients is two launches of the Triton backend, whatever tensors and groups there are."""

from __future__ import annotations

from typing import Any

import lane
import pytest
import torch

from fused_sched.lr_scheduler import CosineAnnealingLR
from fused_sched.optim import SGD, AdamW

if lane.reason_unavailable("triton") is not None:
    pytest.skip("the triton backend cannot run here", allow_module_level=True)

from fused_sched.backends.triton import TritonBackend
from fused_sched.kernels.numerics import INTERPRETED

pytestmark = pytest.mark.skipif(
    not INTERPRETED and not lane.PTX, reason="runs on CPU tensors: set TRITON_INTERPRET=1 or FUSED_SCHED_TEST_PTX"
)


@pytest.fixture
def triton() -> TritonBackend:
    """A backend of its own, with fresh counters."""
    return TritonBackend(launcher=lane.launcher())


def parameters(n: int, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for _ in range(n)]
    for p in params:
        p.grad = torch.ones_like(p)
    return params


AROUND = {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.9, "zero_grad_in_step": True}


def groups_of(params: list[torch.nn.Parameter], n: int) -> list[dict[str, Any]]:
    return [{"params": params[i::n], "max_grad_norm": 1.0 + i} for i in range(n)]


@pytest.mark.parametrize("tensors", [6, pytest.param(148, marks=pytest.mark.slow)])
def test_a_measured_step_is_two_launches(triton: TritonBackend, tensors: int) -> None:
    """And one without the norm; edits compile nothing."""
    plain = {k: v for k, v in AROUND.items() if k in ("ema_decay", "zero_grad_in_step")}
    for options, launches in ((AROUND, 2), (plain, 1), ({}, 1)):
        params = parameters(tensors)
        listed = (
            groups_of(params, 2) if "max_grad_norm" in options else [{"params": params[:2]}, {"params": params[2:]}]
        )
        optimizer = AdamW(listed, backend=triton, **options)
        CosineAnnealingLR(optimizer, T_max=10, fused=True)
        optimizer.step()
        before, compiled = triton.launcher.launches, triton.launcher.compilations
        optimizer.param_groups[0].update(lr=0.5, **({"max_grad_norm": 0.25} if launches == 2 else {}))
        optimizer.step()
        assert triton.launcher.launches - before == launches
        assert triton.launcher.compilations == compiled


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "group"])
def test_a_measured_step_of_465_groups_is_two_launches(triton: TritonBackend, scope: str) -> None:
    optimizer = SGD(groups_of(parameters(465), 465), lr=0.1, backend=triton, norm_scope=scope)
    optimizer.step()
    before = triton.launcher.launches
    optimizer.step()
    assert triton.launcher.launches - before == 2


def test_each_dtype_signature_has_its_launches(triton: TritonBackend) -> None:
    params = [*parameters(3), *parameters(3, dtype=torch.bfloat16), *parameters(2, dtype=torch.float64)]
    optimizer = SGD(params, lr=0.1, backend=triton, **AROUND)
    optimizer.step()
    before = triton.launcher.launches
    optimizer.step()
    assert triton.launcher.launches - before == 2 * 3
