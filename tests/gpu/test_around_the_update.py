"""Steps that measure, clip, skip, average and zero, on a GPU: what users of torch write around a step on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from around_twins import RULES, AroundTwins, close
from gpus import DEVICE, Body, Graph
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fused_sched.optim import SGD, AdamW
from fused_sched.step_options import SpikeRule

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
NORM_RELATIVE = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 1e-6}  # of sums in the type computed in
# Around the widths of an access, a block's round and a chunk; one has no elements.
SIZES = ((3, 1031), (130, 0, 2051, 7))


@pytest.fixture(autouse=True)
def _drawn_from_the_seed(seed: int) -> None:
    """Values and gradients."""


def twins_of(
    rule: str,
    backend: Any,
    dtype: torch.dtype = torch.float64,
    sizes: Sequence[Sequence[int]] = SIZES,
    **options: Any,
) -> AroundTwins:
    """Ours on the GPU beside torch's on the CPU, with groups of vectors."""
    shapes = [[(n,) for n in group] for group in sizes]
    return AroundTwins(rule, backend, shapes, dtype, device=DEVICE, **options)


def assert_same(twins: AroundTwins) -> None:
    """Parameters, averages, of which none is missing, and norms."""
    twins.assert_same()
    assert twins.averaged is None or all("ema" in twins.ours.state[p] for p in twins.params)
    if "max_grad_norm" in twins.ours.param_groups[0]:
        twins.assert_norms(NORM_RELATIVE[twins.dtype])


def bits(twins: AroundTwins) -> list[list[int]]:
    """Parameters, states and counts of ours."""
    state = [v for p in twins.params for v in twins.ours.state[p].values() if isinstance(v, torch.Tensor)]
    everything = [*twins.params, *state, twins.ours._block.counts]
    return [t.detach().cpu().reshape(-1).view(torch.uint8).tolist() for t in everything]


def are_zeros(params: Sequence[torch.nn.Parameter]) -> bool:
    return all(not p.grad.cpu().any() for p in params if p.grad is not None)


@pytest.mark.thin
@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_does_what_users_write_around_it(rule: str, dtype: torch.dtype, scope: str, gpu_backend: Any) -> None:
    twins = twins_of(
        rule, gpu_backend, dtype, max_grad_norm=2.0, norm_scope=scope, ema_decay=0.7, zero_grad_in_step=True
    )
    twins.ours.param_groups[1]["max_grad_norm"] = 0.5 if scope == "group" else 2.0
    for step in range(5):
        twins.set_grads(10.0 ** -(step % 3), without=[1, 5] if step == 2 else [])
        twins.step()
        assert_same(twins)
        assert are_zeros(twins.params)
    assert twins.ours.skipped_steps.item() == 0


@pytest.mark.thin
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", ["SGD momentum", "AdamW"])
@pytest.mark.slow
def test_tensors_that_begin_anywhere(rule: str, dtype: torch.dtype, gpu_backend: Any) -> None:
    twins = twins_of(rule, gpu_backend, dtype, offset=1, max_grad_norm=1.0, ema_decay=0.7, zero_grad_in_step=True)
    for step in range(3):
        twins.set_grads(without=[2] if step == 1 else [])
        twins.step()
        assert_same(twins)
        assert are_zeros(twins.params)


@pytest.mark.parametrize("options", [{"max_grad_norm": 0.5}, {"ema_decay": 0.7}, {"zero_grad_in_step": True}], ids=str)
@pytest.mark.parametrize("rule", ["SGD momentum", "AdamW"])
def test_one_option_alone(rule: str, options: dict[str, Any], gpu_backend: Any) -> None:
    twins = twins_of(rule, gpu_backend, **options)
    for _ in range(3):
        twins.set_grads()
        twins.step()
        assert_same(twins)
        assert are_zeros(twins.params) == ("zero_grad_in_step" in options)


@pytest.mark.parametrize("kept", ["float32", "parameter"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
def test_averages_of_16_bit_parameters(dtype: torch.dtype, kept: str, offset: int, gpu_backend: Any) -> None:
    """They follow the parameters as those are stored, in float32."""
    twins = twins_of("AdamW", gpu_backend, dtype, offset=offset, ema_decay=0.75, ema_dtype=kept)
    averages: list[torch.Tensor] = []
    for step in range(4):
        twins.set_grads(without=[3] if step == 2 else [])
        twins.ours.step()
        now = [p.detach().cpu().float() for p in twins.params]
        averages = averages or now
        averages = [torch.lerp(a, p, 0.25) for a, p in zip(averages, now, strict=True)]
        if kept == "parameter":
            averages = [a.to(dtype).float() for a in averages]
    for p, a in zip(twins.params, averages, strict=True):
        ours = twins.ours.state[p]["ema"]
        assert ours.dtype == (torch.float32 if kept == "float32" else dtype)
        # torch.lerp on this machine may round its product: a unit in the last place, which a 16-bit average magnifies
        close(ours, a, 1e-6 if kept == "float32" else 8e-3)


@pytest.mark.parametrize("zeroes", [False, True], ids=["", "zeroing"])
@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_with_a_nan_changes_nothing(dtype: torch.dtype, scope: str, zeroes: bool, gpu_backend: Any) -> None:
    options = {"max_grad_norm": 1.0, "norm_scope": scope, "ema_decay": 0.9, "zero_grad_in_step": zeroes}
    twins = twins_of("AdamW", gpu_backend, dtype, skip_nonfinite=True, **options)
    twins.set_grads()
    twins.step()
    before = bits(twins)
    for spoilt in ([0], [4], [1, 5]):
        twins.set_grads(spoilt=spoilt, without=[3])
        given = [None if p.grad is None else p.grad.clone() for p in twins.params]
        twins.ours.step()
        assert bits(twins) == before
        assert math.isnan(twins.ours.grad_norm.item())
        assert are_zeros(twins.params) == zeroes
        for p, g in zip(twins.params, given, strict=True):
            assert zeroes or g is None or torch.equal(p.grad.cpu().nan_to_num(), g.cpu().nan_to_num())
    assert twins.ours.skipped_steps.item() == 3
    twins.set_grads()
    twins.step()
    assert_same(twins)


@pytest.mark.slow
def test_a_nan_that_is_not_looked_for_goes_into_the_parameters(gpu_backend: Any) -> None:
    twins = twins_of("SGD", gpu_backend, sizes=[[5]], max_grad_norm=1.0)
    twins.set_grads(spoilt=[0])
    twins.step()
    assert twins.params[0].isnan().all()
    assert twins.torch_params[0].isnan().all()
    assert twins.ours.skipped_steps.item() == 0


@pytest.mark.slow
def test_mixed_dtypes_have_one_norm(gpu_backend: Any) -> None:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    generator = torch.Generator().manual_seed(2)
    params = [torch.nn.Parameter(torch.ones(1031, dtype=d).to(DEVICE)) for d in dtypes]
    optimizer = SGD(params, lr=1.0, max_grad_norm=1.0, ema_decay=0.5, zero_grad_in_step=True, backend=gpu_backend)
    gradients = [torch.randn(1031, generator=generator).to(d) for d in dtypes]
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.to(DEVICE)
    optimizer.step()
    norm = math.sqrt(math.fsum(g.double().square().sum().item() for g in gradients))
    assert optimizer.grad_norm.item() == pytest.approx(norm, rel=1e-6)
    for p, g in zip(params, gradients, strict=True):
        expected = 1.0 - g.double() / (norm + 1e-6)
        close(p, expected, 1e-6 if p.dtype in (torch.float32, torch.float64) else 8e-3)
        assert torch.equal(optimizer.state[p]["ema"].cpu(), p.detach().cpu().to(optimizer.state[p]["ema"].dtype))
    assert are_zeros(params)


@pytest.mark.thin
@pytest.mark.parametrize("n_groups", [200, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scope", ["all", "group"])
def test_many_groups_and_large_ones_among_them(scope: str, n_groups: int, gpu_backend: Any) -> None:
    """Of a large group there are more sums than one thread adds up."""
    sizes = [[3]] * n_groups
    sizes[n_groups // 3], sizes[2] = [140_000], [50_000, 90_001]
    twins = twins_of("SGD", gpu_backend, torch.float32, sizes, max_grad_norm=1.0, norm_scope=scope)
    for _ in range(2):
        twins.set_grads()
        twins.step()
        assert_same(twins)


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]], ids=str)
@pytest.mark.slow
def test_gradients_without_elements(sizes: list[int], gpu_backend: Any) -> None:
    params = [torch.nn.Parameter(torch.ones(n).to(DEVICE)) for n in sizes]
    kept = torch.nn.Parameter(torch.ones(3).to(DEVICE))
    groups = [{"params": params}, {"params": [] if sizes else [kept]}]
    optimizer = AdamW(groups, max_grad_norm=1.0, skip_nonfinite=True, ema_decay=0.5, backend=gpu_backend)
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(2):
        optimizer.step()
    assert optimizer.grad_norm.item() == 0.0
    assert optimizer.skipped_steps.item() == 0
    assert kept.tolist() == [1.0] * 3


@pytest.mark.parametrize("zeroes", [False, True], ids=["", "zeroing"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scaled_gradients(dtype: torch.dtype, zeroes: bool, gpu_backend: Any) -> None:
    """The norm is that of the gradients without GradScaler's scale; found_inf skips, whatever the norm is."""
    twins = twins_of("AdamW", gpu_backend, dtype, max_grad_norm=1.0, ema_decay=0.9, zero_grad_in_step=zeroes)
    for step in range(4):
        twins.set_grads()
        for p in twins.params:
            p.grad.mul_(8.0)
        twins.ours.grad_scale = torch.tensor([8.0]).to(DEVICE)
        twins.ours.found_inf = torch.tensor([float(step == 2)]).to(DEVICE)
        before = bits(twins)
        given = [q.grad.clone() for q in twins.torch_params]
        twins.ours.step()
        assert (bits(twins) == before) == (step == 2)
        assert are_zeros(twins.params) == zeroes
        if step == 2:
            continue
        twins.torch_step()
        assert_same(twins)
        for p, g in zip(twins.params, given, strict=True):
            assert zeroes or torch.equal(p.grad.cpu(), g)
    assert twins.ours.skipped_steps.item() == 1


def test_spikes_are_skipped_as_on_the_cpu(gpu_backend: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    sides = []
    for backend, device in ((gpu_backend, DEVICE), ("cpu", "cpu")):
        p = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64).to(device))
        sides.append((p, SGD([p], lr=0.1, skip_spikes=SpikeRule(8, 2.0), ema_decay=0.5, backend=backend)))
    for step in range(30):
        size = math.inf if step == 11 else 100.0 if step % 9 == 5 else 1.0
        g = (1.0 + 0.1 * torch.rand(5, generator=generator, dtype=torch.float64)) * size
        for p, optimizer in sides:
            p.grad = g.to(p.device)
            optimizer.step()
        assert sides[0][1].skipped_steps.item() == sides[1][1].skipped_steps.item()
    assert 3 <= sides[0][1].skipped_steps.item() < 10
    torch.testing.assert_close(sides[0][0].cpu(), sides[1][0], rtol=1e-14, atol=0)


@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("rule", ["SGD momentum", "AdamW"])
@pytest.mark.thin
def test_replays_see_edits(
    rule: str,
    scope: str,
    gpu_backend: Any,
    capture: Callable[[Body], Graph],
    no_sync: Callable[[], Any],
) -> None:
    options = {"max_grad_norm": 1.0, "norm_scope": scope, "ema_decay": 0.9, "skip_nonfinite": True}
    twins = twins_of(rule, gpu_backend, **options, zero_grad_in_step=True)
    twins.set_grads()
    twins.step()
    graph = capture(twins.ours.step)
    for step in range(8):
        twins.copy_grads(10.0 ** -(step % 3))
        for group in twins.ours.param_groups:
            group["max_grad_norm"] = 0.3 * (1 + step % 4)
            group["ema_decay"] = 0.5 + 0.05 * step
        with no_sync():
            graph.replay()
        twins.torch_step()
        assert_same(twins)
        assert are_zeros(twins.params)
    before = bits(twins)
    twins.copy_grads(math.nan)
    graph.replay()
    assert bits(twins) == before
    assert twins.ours.skipped_steps.item() == 1


def test_a_step_that_measures_is_two_launches(
    gpu_backend: Any, work: Callable[[Body], list[str]], no_sync: Callable[[], Any]
) -> None:
    options = {"max_grad_norm": 1.0, "ema_decay": 0.9, "skip_nonfinite": True, "zero_grad_in_step": True}
    twins = twins_of("AdamW", gpu_backend, torch.float32, **options)
    twins.set_grads()
    twins.ours.step()
    with no_sync():
        kernels = work(twins.ours.step)
    assert len(kernels) == 2, kernels
    assert "norm_kernel" in kernels[0]
    assert "update_kernel" in kernels[1]


def test_a_loop_as_users_write_it(gpu_backend: Any, no_sync: Callable[[], Any]) -> None:
    torch.manual_seed(3)
    model, copy = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    copy.load_state_dict(model.state_dict())
    model.to(DEVICE)
    optimizer = AdamW(
        model.parameters(),
        max_grad_norm=1.0,
        ema_decay=0.99,
        skip_nonfinite=True,
        zero_grad_in_step=True,
        backend=gpu_backend,
    )
    torchs = torch.optim.AdamW(copy.parameters(), foreach=False)
    averaged = AveragedModel(copy, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    batches = [torch.randn(16, 8) * 3 for _ in range(6)]
    for x in batches:
        model(x.to(DEVICE)).square().mean().backward()
        with no_sync():
            optimizer.step()
        copy(x).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(copy.parameters(), 1.0, foreach=False)
        torchs.step()
        torchs.zero_grad()
        averaged.update_parameters(copy)
        assert optimizer.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
    assert optimizer.skipped_steps.item() == 0
    for p, q, a in zip(model.parameters(), copy.parameters(), averaged.module.parameters(), strict=True):
        close(p, q, 1e-5)
        close(optimizer.state[p]["ema"], a, 1e-5)
        assert not p.grad.cpu().any()
