"""Gradients of another dtype than their 16-bit parameter: no digit of theirs is lost before the update, or in a norm.

Torch's for-loop in float32 is the oracle, from the values that ours has.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizer_twins import LR, OPTIONS, PARAM_LAYOUTS
from precision_twins import PrecisionTwins, same_bits
from tolerances import CLIPPED_RELATIVE, UPDATE_RELATIVE

import fused_sched
from fused_sched import backends
from fused_sched.optim import SGD, AdamW

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend
SINGLE = torch.float32
KEPT = [("float32", torch.bfloat16), ("float32", torch.float16), ("remainder", torch.bfloat16)]
every_kept = pytest.mark.parametrize(("kept", "dtype"), KEPT, ids=str)
every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
every_rule = pytest.mark.parametrize(
    ("name", "case"), [("SGD", "plain"), ("SGD", "nesterov, weight_decay, maximize"), ("AdamW", "amsgrad")]
)


@pytest.fixture(autouse=True)
def _drawn_from_the_seed(seed: int) -> None:
    """Values and gradients."""


def has_torchs_bits(name: str, backend: Backend) -> bool:
    return name == "SGD" and backend != "reference"


# -- with a master ---------------------------------------------------------------------------------------


@pytest.mark.thin
@every_kept
@every_rule
def test_masters_have_the_bits_of_a_float32_run(
    name: str, case: str, kept: str, dtype: torch.dtype, backend: Backend
) -> None:
    twins = PrecisionTwins(name, backend, dtype, OPTIONS[name][case], kept=kept, grad_dtype=SINGLE)
    for step in range(4):
        twins.set_grads(without=[1, 4] if step == 2 else [])
        twins.step()
        twins.assert_same(0.0 if has_torchs_bits(name, backend) else UPDATE_RELATIVE[SINGLE])


@pytest.mark.thin
@every_kept
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_masters_of_clipped_gradients_with_averages(name: str, kept: str, dtype: torch.dtype, backend: Backend) -> None:
    around = {"max_grad_norm": 2.0, "ema_decay": 0.7, "zero_grad_in_step": True}
    twins = PrecisionTwins(name, backend, dtype, kept=kept, grad_dtype=SINGLE, **around)
    for _ in range(3):
        twins.set_grads()
        twins.step()
        twins.assert_same(CLIPPED_RELATIVE[SINGLE])
    assert not any(p.grad.any() for p in twins.params)


@pytest.mark.thin
@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [(torch.bfloat16, SINGLE), (torch.float16, SINGLE), (torch.bfloat16, torch.float16)],
    ids=str,
)
@pytest.mark.parametrize("layout", PARAM_LAYOUTS)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_parameters_that_lie_anyhow(
    name: str, layout: str, dtype: torch.dtype, grad_dtype: torch.dtype, backend: Backend
) -> None:
    """What kernels cannot walk has its gradients copied to float32."""
    shapes = [(2, 3, 5, 7)] if layout == "channels_last" else [(17, 6), (5, 40)]
    twins = PrecisionTwins(
        name, backend, dtype, shapes=shapes, layout=PARAM_LAYOUTS[layout], grad_dtype=grad_dtype, max_grad_norm=1e9
    )
    for step in range(3):
        twins.set_grads(without=[0] if step == 1 else [])
        twins.step()
        twins.assert_same(CLIPPED_RELATIVE[SINGLE])


# -- without one: computed in float32, and rounded once ----------------------------------------------------


def float32_step(name: str, optimizer: Any, p: torch.Tensor, options: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """What torch makes of a parameter, its gradient and its state in float32."""
    q = torch.nn.Parameter(p.detach().float())
    q.grad = p.grad.float()
    torchs = getattr(torch.optim, name)([q], foreach=False, **options)
    state = {k: v.detach().clone() for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
    torchs.state[q] = {k: v if k == "step" else v.float() for k, v in state.items()}
    torchs.step()
    return q.detach(), torchs.state[q]


def assert_rounded(found: torch.Tensor, expected: torch.Tensor, exactly: bool) -> None:
    """``found`` is the rounding of ``expected``; of one that is off in its last place, a few are the next number."""
    differ = found != expected.to(found.dtype)
    assert int(differ.sum()) <= (0 if exactly else 0.005 * found.numel())
    assert torch.allclose(found.float(), expected, rtol=1.01 * torch.finfo(found.dtype).eps, atol=1e-6)


@pytest.mark.thin
@pytest.mark.parametrize("states", ["made", "narrow"])
@every_dtype
@every_rule
def test_computed_in_float32_and_rounded_once(
    name: str, case: str, dtype: torch.dtype, states: str, backend: Backend
) -> None:
    """States that are made beside such gradients are float32; those that are there already keep their dtype."""
    p = torch.nn.Parameter(torch.randn(4099).to(dtype))
    options = {"lr": LR[name], **OPTIONS[name][case]}
    optimizer: Any = getattr(fused_sched.optim, name)([p], backend=backend, **options)
    if states == "narrow":
        p.grad = torch.randn(4099).to(dtype)
        optimizer.step()
        p.grad = None
    p.grad_dtype = SINGLE
    exactly = has_torchs_bits(name, backend)
    for step in range(3):
        p.grad = torch.randn(4099)
        if step == 0 and states == "made":
            p.grad.mul_(0.0)  # the first step only makes states
            optimizer.step()
            continue
        expected, expected_state = float32_step(name, optimizer, p, options)
        optimizer.step()
        assert_rounded(p.detach(), expected, exactly)
        for key, t in optimizer.state[p].items():
            if key == "step" or not isinstance(t, torch.Tensor):
                continue
            assert t.dtype == (SINGLE if states == "made" else dtype)
            if t.dtype == SINGLE:
                torch.testing.assert_close(t, expected_state[key], rtol=1e-6, atol=1e-7)
            else:
                assert_rounded(t, expected_state[key], exactly)


@pytest.mark.thin
@every_dtype
@pytest.mark.parametrize("case", ["plain", "nesterov, weight_decay, maximize", "dampening and weight_decay"])
def test_sgd_has_the_bits_of_torchs_for_loop(case: str, dtype: torch.dtype, backend: Backend) -> None:
    """Its momentum buffer too, which has the gradient's dtype."""
    if backend == "reference":
        pytest.skip("it has no fused multiply-add")
    p = torch.nn.Parameter(torch.randn(1031).to(dtype))
    q = torch.nn.Parameter(p.detach().clone())
    p.grad_dtype = q.grad_dtype = SINGLE
    options = {"lr": 0.1, **OPTIONS["SGD"][case]}
    ours: Any = SGD([p], backend=backend, **options)
    torchs = torch.optim.SGD([q], foreach=False, fused=False, **options)
    for _ in range(4):
        p.grad = torch.randn(1031)
        q.grad = p.grad.clone()
        ours.step()
        torchs.step()
        assert same_bits(p, q)
        buffer = torchs.state[q].get("momentum_buffer")
        if buffer is not None:
            assert same_bits(ours.state[p]["momentum_buffer"], buffer)


# -- norms, and what is written back -----------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("layout", ["contiguous", "gaps"])
def test_norms_are_of_the_gradients_as_they_are(layout: str, dtype: torch.dtype, backend: Backend) -> None:
    values = torch.zeros(200, 2, dtype=dtype)
    p = torch.nn.Parameter(values[:, 0] if layout == "gaps" else values[:, 0].contiguous())
    p.grad_dtype = SINGLE
    p.grad = torch.full((200,), 1.00001)  # 1 in 16 bits
    optimizer = AdamW([p], lr=0.1, max_grad_norm=1.0, master_weights="float32", backend=backend)
    optimizer.step()
    exact = p.grad.double().norm()
    assert abs(float(optimizer.grad_norm) - float(exact)) < 1e-6 * float(exact)


@every_dtype
def test_a_scale_is_divided_out_of_the_gradients_as_they_are(dtype: torch.dtype, backend: Backend) -> None:
    p = torch.nn.Parameter(torch.zeros(35, dtype=dtype))
    p.grad_dtype = SINGLE
    p.grad = torch.randn(35)
    expected = p.grad / 3.0
    optimizer: Any = SGD([p], lr=1.0, master_weights="float32", backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(0.0)
    optimizer.step()
    torch.testing.assert_close(p.grad, expected, rtol=2e-7, atol=0.0)
    torch.testing.assert_close(optimizer.state[p]["master"], -p.grad, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("after", [torch.bfloat16, SINGLE, None], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "gaps"])
def test_gradients_change_their_dtype_in_mid_run(layout: str, after: torch.dtype | None, backend: Backend) -> None:
    values = torch.zeros(40, 2, dtype=torch.bfloat16)
    p = torch.nn.Parameter(values[:, 0] if layout == "gaps" else values[:, 0].contiguous())
    p.grad_dtype = None
    optimizer: Any = SGD([p], lr=1.0, master_weights="float32", backend=backend)
    expected = torch.zeros(40)
    for dtype in (SINGLE, torch.bfloat16, after, torch.float16, SINGLE):
        p.grad = None if dtype is None else torch.randn(40).to(dtype)
        optimizer.step()
        if p.grad is not None:
            expected -= p.grad.float()
        assert torch.equal(optimizer.state[p]["master"], expected)


@every_dtype
@pytest.mark.parametrize("first", [None, SINGLE], ids=["narrow states", "float32 states"])
def test_a_run_goes_on_from_its_state_dict(
    first: torch.dtype | None, dtype: torch.dtype, host_backend: Backend
) -> None:
    """With the bits of one that was never interrupted, where the parameter says what gradients it takes."""
    p = torch.nn.Parameter(torch.randn(35).to(dtype))
    p.grad_dtype = None
    optimizer = AdamW([p], lr=0.1, backend=host_backend)
    p.grad = torch.randn(35).to(first or dtype)
    optimizer.step()
    q = torch.nn.Parameter(p.detach().clone())
    q.grad_dtype = SINGLE
    other = AdamW([q], lr=0.1, backend=host_backend)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[q]["exp_avg"].dtype == (first or dtype)
    for _ in range(2):
        p.grad = torch.randn(35)
        q.grad = p.grad.clone()
        optimizer.step()
        other.step()
        assert same_bits(p, q)
        assert same_bits(optimizer.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.float64, SINGLE], ids=str)
def test_float32_gradients_of_wider_parameters_and_wider_gradients_of_float32(
    dtype: torch.dtype, backend: Backend
) -> None:
    """Those of float64 are rounded to float32 where the update is computed in it."""
    p = torch.nn.Parameter(torch.randn(35, dtype=dtype))
    p.grad_dtype = None
    p.grad = torch.randn(35, dtype=SINGLE if dtype == torch.float64 else torch.float64)
    q = torch.nn.Parameter(p.detach().clone())
    q.grad = p.grad.to(dtype)
    AdamW([p], lr=0.1, backend=backend).step()
    torch.optim.AdamW([q], lr=0.1, foreach=False).step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-7)  # one that crosses zero was larger
