"""An update counts as a change in place, as with torch's for-loop: autograd sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fused_sched

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "with gaps": lambda x: torch.cat((x, x), dim=1)[:, ::2],
    "transposed": lambda x: x.t(),
}
KINDS = [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {"amsgrad": True})]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.thin("triton", "reference")
def test_versions_of_updated_parameters_rise(
    kind: str, options: dict[str, float], layout: str, dtype: torch.dtype, backend: str
) -> None:
    params = [LAYOUTS[layout](torch.ones(3, 4, dtype=dtype)).detach().requires_grad_() for _ in range(3)]
    made = getattr(fused_sched.optim, kind)([params[:2], params[2:]][0], lr=0.1, backend=backend, **options)
    made.add_param_group({"params": params[2:], "lr": 0.2})
    for step in range(3):
        for p in (params[0], params[2]):
            p.grad = torch.ones_like(p)
        before = [p._version for p in params]
        made.step()
        risen = [p._version - v for p, v in zip(params, before, strict=True)]
        assert risen[0] >= 1, f"step {step}"
        assert risen[2] >= 1, f"step {step}"
        assert risen[1] == 0, "it has no gradient"


@pytest.mark.parametrize("module", ["ours", "torch"])
def test_backward_after_a_step_refuses_what_it_had_saved(module: str, host_backend: str) -> None:
    p = Parameter(torch.ones(3))
    if module == "ours":
        made = fused_sched.optim.SGD([p], lr=0.1, backend=host_backend)
    else:
        made = torch.optim.SGD([p], lr=0.1, foreach=False, fused=False)
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    made.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_of_what_was_not_updated_goes_on(host_backend: str) -> None:
    p, q = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    made = fused_sched.optim.SGD([p, q], lr=0.1, backend=host_backend)
    loss = (q * q).sum()
    p.grad = torch.ones(3)
    made.step()
    loss.backward()
    assert torch.equal(q.grad, torch.full((3,), 2.0))


def test_inside_no_grad_and_with_a_view_of_the_parameter(host_backend: str) -> None:
    """A view and its base have one version."""
    base = torch.ones(6)
    p = base[:3].requires_grad_()
    made = fused_sched.optim.Adam([p], lr=0.1, backend=host_backend)
    p.grad = torch.ones(3)
    before = base._version
    with torch.no_grad():
        made.step()
    assert base._version > before
