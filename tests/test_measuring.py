"""Norm, clipping and skipped steps, on every backend, beside what users of torch write around a step."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from around_twins import LARGE, RULES, SIZES, AroundTwins, same_bits

import fused_sched
from fused_sched import backends
from fused_sched.lr_scheduler import LambdaLR, ParamScheduler
from fused_sched.optim import SGD, AdamW
from fused_sched.step_options import SpikeRule

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend
every_rule = pytest.mark.parametrize("name", RULES)
SPOILED = (math.inf, -math.inf, math.nan)


# -- norm and clipping -----------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@every_rule
@pytest.mark.parametrize("scope", ["all", "group"])
def test_clipping_is_clip_grad_norm_and_torchs_step(name: str, scope: str, backend: Backend, seed: int) -> None:
    twins = AroundTwins(name, backend, max_grad_norm=0.5, norm_scope=scope)
    twins.ours.param_groups[1]["max_grad_norm"] = 2.0 if scope == "group" else 0.5
    for step in range(8):
        twins.set_grads(10.0 ** (step % 3 - 3), without=[1] if step % 4 == 2 else [])
        norm = twins.norm()
        norms = [twins.norm(0), twins.norm(1)] if scope == "group" else [norm, norm]
        before = [None if p.grad is None else p.grad.clone() for p in twins.params]
        twins.step()
        assert twins.ours.grad_norm.item() == pytest.approx(norm, rel=1e-14)
        assert [n.item() for n in twins.ours.group_grad_norms] == pytest.approx(norms, rel=1e-14)
        for p, g in zip(twins.params, before, strict=True):  # clipping does not rewrite gradients
            assert (p.grad is None and g is None) or torch.equal(p.grad, g)  # type: ignore[arg-type]
    twins.assert_same(1e-13)
    assert twins.ours.skipped_steps.item() == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_a_thousand_clipped_steps_in_float64(name: str, seed: int) -> None:
    backend = "reference" if backends.reason_unavailable("cpu") else "cpu"
    twins = AroundTwins(name, backend, [SIZES, LARGE], max_grad_norm=1.0, ema_decay=0.99)
    for step in range(1000):
        twins.set_grads(1.0 if step % 3 else 1e-3)
        twins.step()
    twins.assert_same(1e-12)


@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_shorter_types(dtype: torch.dtype, name: str, backend: Backend, seed: int) -> None:
    twins = AroundTwins(name, backend, dtype=dtype, max_grad_norm=40.0)
    if name == "AdamW":
        for group in (*twins.ours.param_groups, *twins.torchs.param_groups):
            group["eps"] = 1e-3  # torch rounds the usual one to 0 in float16, and then divides by 0
    for _ in range(6):
        twins.set_grads(4.0)  # about 1 when clipped, where torch's roundings of 16 bits are smallest
        norm = twins.norm()
        twins.step()
        assert twins.ours.grad_norm.item() == pytest.approx(norm, rel=1e-6)
    if (name, dtype) != ("AdamW", torch.float16):  # of whose squares torch's 16 bits lose too much to compare
        twins.assert_same()


def test_mixed_dtypes_have_one_norm(backend: Backend, seed: int) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
    params = [torch.nn.Parameter(torch.randn(n, dtype=d)) for n, d in zip((5, 9, 130, 33, 12), dtypes, strict=True)]
    optimizer = SGD(params, lr=0.0, max_grad_norm=1.0, backend=backend)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    squares = [torch.view_as_real(p.grad) if p.is_complex() else p.grad for p in params]  # type: ignore[arg-type]
    expected = math.sqrt(math.fsum(g.double().square().sum().item() for g in squares))  # type: ignore[union-attr]
    assert optimizer.grad_norm.item() == pytest.approx(expected, rel=1e-6)


def test_tensors_that_kernels_cannot_walk(backend: Backend, seed: int) -> None:
    """With gaps, with strides other than the gradient's, and without alignment."""
    storage = torch.randn(64, 8)
    params = [torch.nn.Parameter(storage[:, ::2]), torch.nn.Parameter(torch.randn(7, 5)), torch.randn(301)[1:]]
    params[2].requires_grad_()
    copies = [p.detach().clone().requires_grad_() for p in params]
    ours, torchs = AdamW(params, max_grad_norm=0.1, backend=backend), torch.optim.AdamW(copies, foreach=False)
    for _ in range(3):
        for i, (p, q) in enumerate(zip(params, copies, strict=True)):
            g = torch.randn(p.shape)
            p.grad, q.grad = (g.t().contiguous().t() if i == 1 else g), g.clone()
        norm = torch.nn.utils.clip_grad_norm_(copies, 0.1, foreach=False)
        ours.step()
        torchs.step()
        assert ours.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
    for p, q in zip(params, copies, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-7)


def test_edits_and_schedules_of_the_threshold(backend: Backend, seed: int) -> None:
    twins = AroundTwins("SGD", backend, max_grad_norm=1.0)
    scheduler = ParamScheduler(twins.ours, "max_grad_norm", lambda step: 1.0 / (1 + step))
    for step in range(6):
        twins.set_grads()
        if step == 3:
            for group in twins.ours.param_groups:
                group["max_grad_norm"] *= 10
        twins.step()
        scheduler.step()
        assert twins.ours.param_groups[0]["max_grad_norm"] == 1.0 / (2 + step)
    twins.assert_same(1e-13)


def test_a_group_without_a_threshold_is_not_clipped(backend: Backend) -> None:
    p, q, r = (torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(3))
    groups = [{"params": [p], "max_grad_norm": 1.0}, {"params": [q]}, {"params": [r], "max_grad_norm": math.inf}]
    optimizer = SGD(groups, lr=1.0, backend=backend)
    for x in (p, q, r):
        x.grad = torch.full((4,), 3.0, dtype=torch.float64)
    optimizer.step()
    assert optimizer.grad_norm.item() == pytest.approx(math.sqrt(108), rel=1e-14)
    assert p[0].item() == pytest.approx(-3.0 / (math.sqrt(108) + 1e-6), rel=1e-14)
    assert q.tolist() == r.tolist() == [-3.0] * 4
    assert "max_grad_norm" not in optimizer.param_groups[1]


def test_an_infinite_norm_does_what_torch_does(backend: Backend) -> None:
    """Without skip_nonfinite: finite gradients become 0, the infinite one NaN."""
    twins = AroundTwins("SGD", backend, [[(3,)]], max_grad_norm=1.0)
    twins.set_grads()
    for p in (*twins.params, *twins.torch_params):
        p.grad[1] = math.inf
    twins.step()
    assert twins.params[0].isnan().tolist() == twins.torch_params[0].isnan().tolist() == [False, True, False]
    assert torch.equal(twins.params[0][::2], twins.torch_params[0][::2])


def test_no_gradients_at_all(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([p], max_grad_norm=1.0, skip_nonfinite=True, backend=backend)
    optimizer.step()
    assert optimizer.grad_norm.item() == 0.0
    assert p.tolist() == [1.0] * 3
    empty = AdamW([torch.nn.Parameter(torch.ones(0))], max_grad_norm=1.0, backend=backend)
    empty.param_groups[0]["params"][0].grad = torch.ones(0)
    empty.step()
    assert empty.grad_norm.item() == 0.0


def test_many_groups_of_their_own_norms(backend: Backend, seed: int) -> None:
    params = [torch.nn.Parameter(torch.zeros(1 + i % 3, dtype=torch.float64)) for i in range(150)]
    groups = [{"params": [p], "max_grad_norm": 0.1 + i % 5} for i, p in enumerate(params)]
    optimizer = SGD(groups, lr=1.0, norm_scope="group", backend=backend)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for group, norm in zip(optimizer.param_groups, optimizer.group_grad_norms, strict=True):
        g = group["params"][0].grad
        assert norm.item() == pytest.approx(g.norm().item(), rel=1e-14)
        factor = min(1.0, group["max_grad_norm"] / (g.norm().item() + 1e-6))
        torch.testing.assert_close(group["params"][0].detach(), -factor * g, rtol=1e-13, atol=0)


@pytest.mark.skipif(backends.reason_unavailable("cpu") is not None, reason="the extension was not built")
def test_the_same_bits_for_every_number_of_threads(seed: int) -> None:
    params = [torch.nn.Parameter(torch.randn(n)) for n in (200_000, 7, 90_001, 50_000)]
    grads = [torch.randn_like(p) for p in params]
    norms, results, before = set(), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(threads)
            copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
            optimizer = AdamW(copies, max_grad_norm=0.5, backend="cpu")
            for p, g in zip(copies, grads, strict=True):
                p.grad = g.clone()
            for _ in range(3):
                optimizer.step()
            norms.add(optimizer.grad_norm.item())
            results.append([p.detach() for p in copies])
    finally:
        torch.set_num_threads(before)
    assert len(norms) == 1
    assert all(same_bits(results[0], other) for other in results[1:])


# -- skipped steps ---------------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@every_rule
@pytest.mark.parametrize("spoiled", SPOILED)
def test_what_is_not_finite_leaves_everything_untouched(name: str, spoiled: float, backend: Backend, rng: Any) -> None:
    twins = AroundTwins(name, backend, skip_nonfinite=True, max_grad_norm=1.0, ema_decay=0.9)
    fused = LambdaLR(twins.ours, lambda e: 0.5**e, fused=True)
    waits = LambdaLR(twins.ours, lambda e: 0.5**e, fused=True, skip_with_optimizer=True)
    for step in range(6):
        twins.set_grads()
        if step not in (2, 4):
            twins.ours.step()
            fused.step()
            waits.step()
            continue
        p = rng.choice([p for p in twins.params if p.numel() > 0])
        p.grad.view(-1)[rng.randrange(p.numel())] = spoiled
        before, grads = twins.snapshot(), [p.grad.clone() for p in twins.params]
        twins.ours.step()
        fused.step()
        waits.step()
        assert same_bits(before, twins.snapshot())
        assert same_bits(grads, [p.grad for p in twins.params])
    assert twins.ours.skipped_steps.item() == 2
    assert (fused.last_epoch, waits.last_epoch) == (6, 4)


def test_a_skipped_first_step(backend: Backend, seed: int) -> None:
    """The first step that is not skipped is the first one, for the average too."""
    twins = AroundTwins("SGD momentum", backend, skip_nonfinite=True, ema_decay=0.9)
    twins.set_grads()
    twins.params[0].grad[0] = math.nan
    twins.ours.step()
    before = [p.detach().clone() for p in twins.params]
    with twins.ours.ema_weights():  # nothing was averaged yet
        assert same_bits(before, [p.detach() for p in twins.params])
    for _ in range(3):
        twins.set_grads()
        twins.step()
    twins.assert_same()


def test_grad_scaler_with_norm_and_skip(backend: Backend, seed: int) -> None:
    """Scaled gradients are clipped by what they are without the scale, and unscaled as torch leaves them."""
    twins = AroundTwins("AdamW", backend, dtype=torch.float32, max_grad_norm=0.5, skip_nonfinite=True)
    ours, torchs = (torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2) for _ in range(2))
    for scaler in (ours, torchs):
        scaler.scale(torch.zeros(()))
    for step in range(7):
        twins.set_grads()
        for p in (*twins.params, *twins.torch_params):
            p.grad *= ours.get_scale()
            if step in (1, 4) and p.numel() == 3:
                p.grad[0] = math.inf
        ours.step(twins.ours)
        torchs.unscale_(twins.torchs)
        norm = torch.nn.utils.clip_grad_norm_(twins.torch_params, 0.5, foreach=False)
        torchs.step(twins.torchs)
        ours.update()
        torchs.update()
        assert ours.get_scale() == torchs.get_scale()
        if step not in (1, 4):
            assert twins.ours.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
    assert twins.ours.skipped_steps.item() == 2
    twins.assert_same()


def test_found_inf_counts_as_a_skip_without_skip_nonfinite(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = SGD([p], lr=1.0, max_grad_norm=100.0, backend=backend)
    for found in (1.0, 0.0):
        p.grad = torch.ones(3)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor([1.0]), torch.tensor([found])
        optimizer.step()
    assert optimizer.skipped_steps.item() == 1
    assert p.tolist() == [0.0] * 3


# -- spikes ----------------------------------------------------------------------------------------------


class OlmosRule:
    """What OLMo's SkipStepOptimizer does with norms, in float64, and without those that are not finite."""

    def __init__(self, window: int, deviations: float) -> None:
        self.window, self.deviations = window, deviations
        self.norms: list[float] = []

    def skips(self, norm: float) -> bool:
        before = self.norms[-self.window :]
        skip = not math.isfinite(norm)
        if len(before) + 1 >= max(3, self.window // 2):
            deviation, mean = torch.std_mean(torch.tensor(before, dtype=torch.float64))
            skip |= not norm - mean.item() <= self.deviations * deviation.item()
        if math.isfinite(norm):
            self.norms.append(norm)
        return skip


@pytest.mark.thin("triton")
@pytest.mark.parametrize(("window", "deviations"), [(2, 1.0), (5, 2.0), (16, 1.5), (7, 0.0)])
def test_spikes_are_skipped_as_by_olmos_rule(window: int, deviations: float, backend: Backend, rng: Any) -> None:
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([p], lr=1.0, skip_spikes=SpikeRule(window, deviations), backend=backend)
    rule, skipped = OlmosRule(window, deviations), 0
    for _ in range(60):
        norm = rng.choice([rng.uniform(0.9, 1.1), rng.uniform(0, 5), math.nan, math.inf, 1.0])
        p.grad = torch.tensor([norm], dtype=torch.float64)
        before = p.item()
        optimizer.step()
        skips = rule.skips(norm)
        skipped += skips
        assert (p.item() == before) == (skips or norm == 0)
    assert optimizer.skipped_steps.item() == skipped > 0


def test_what_a_rule_remembers_is_saved(backend: Backend, rng: Any) -> None:
    def make() -> tuple[torch.nn.Parameter, SGD]:
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        return p, SGD([p], lr=1.0, skip_spikes=SpikeRule(6, 1.0), backend=backend)

    def step(p: torch.nn.Parameter, optimizer: Any, norm: float) -> None:
        p.grad = torch.tensor([norm], dtype=torch.float64)
        optimizer.step()

    p, optimizer = make()
    norms = [rng.uniform(0, 2) for _ in range(40)]
    for norm in norms[:20]:
        step(p, optimizer, norm)
    q, loaded = make()
    q.data.copy_(p.data)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    # a backend is copied by its name
    others = [loaded, *([pickle.loads(pickle.dumps(optimizer))] if isinstance(backend, str) else [])]
    for norm in norms[20:]:
        for other in (optimizer, *others):
            step(other.param_groups[0]["params"][0], other, norm)
    for other in others:
        assert other.param_groups[0]["params"][0].item() == p.item()
        assert other.skipped_steps.item() == optimizer.skipped_steps.item() > 0


@pytest.mark.parametrize(
    ("measured", "error"),
    [
        ({"skipped_steps": 0, "norms_seen": -1, "norms": torch.ones(6)}, ValueError),
        ({"skipped_steps": 0, "norms_seen": 2**63 - 1, "norms": torch.ones(6)}, ValueError),
        ({"skipped_steps": 0, "norms_seen": 2.5, "norms": torch.ones(6)}, ValueError),
        ({"skipped_steps": -1, "norms_seen": 0}, ValueError),
        ({"norms_seen": 0}, ValueError),
        ({"skipped_steps": 0, "norms_seen": 1, "norms": torch.ones(2, 3)}, ValueError),
        ("x", TypeError),
    ],
)
def test_a_load_looks_at_what_was_measured(measured: Any, error: type[Exception], backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = SGD([p], lr=1.0, skip_spikes=SpikeRule(6, 1.0), backend=backend)
    p.grad = torch.ones(4)
    optimizer.step()
    saved = {**copy.deepcopy(optimizer.state_dict()), "fused_sched": measured}
    with pytest.raises(error, match=r"state dict has .*'fused_sched'"):
        optimizer.load_state_dict(saved)
    for _ in range(8):
        optimizer.step()
    assert p.tolist() == [-8.0] * 4


def test_the_last_norms_go_on_in_another_window(backend: Backend, rng: Any) -> None:
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([p], lr=1.0, skip_spikes=SpikeRule(7, 1.0), backend=backend)
    norms = [rng.uniform(0, 2) for _ in range(11)]
    for norm in norms:
        p.grad = torch.tensor([norm], dtype=torch.float64)
        optimizer.step()
    other = SGD([p], lr=1.0, skip_spikes=SpikeRule(4, 1.0), backend=backend)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    rule = OlmosRule(4, 1.0)
    rule.norms = norms[-4:]
    for _ in range(20):
        norm, before = rng.uniform(0, 3), p.item()
        p.grad = torch.tensor([norm], dtype=torch.float64)
        other.step()
        assert (p.item() == before) == rule.skips(norm)


# -- bad input, and what is not known ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_grad_norm": -1.0}, ValueError, r"max_grad_norm=-1.0 must be at least 0"),
        ({"max_grad_norm": math.nan}, ValueError, r"max_grad_norm=nan must be at least 0"),
        ({"max_grad_norm": "1"}, TypeError, r"max_grad_norm='1' must be a number"),
        ({"max_grad_norm": True}, TypeError, r"max_grad_norm=True must be a number .* math.inf clips nothing"),
        ({"ema_decay": 1.5}, ValueError, r"ema_decay=1.5 must be from 0 to 1"),
        ({"norm_scope": "groups"}, ValueError, r"norm_scope='groups' must be one of 'all', 'group'"),
        ({"skip_nonfinite": 1}, TypeError, r"skip_nonfinite=1 must be True or False"),
        ({"skip_spikes": 128}, TypeError, r"skip_spikes=128 must be a SpikeRule"),
        ({"ema_dtype": torch.float32}, ValueError, r"ema_dtype=torch.float32 must be one of"),
        ({"max_norm": 1.0}, TypeError, r"unknown keyword 'max_norm': .* max_grad_norm"),
    ],
)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str, name: str) -> None:
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(error, match=message):
        getattr(fused_sched.optim, name)([p], lr=0.1, backend="reference", **options)


@pytest.mark.parametrize(("window", "deviations"), [(1, 6.0), (5000, 6.0), (8, -1.0), (8, math.nan)])
def test_bad_spike_rules(window: int, deviations: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        SpikeRule(window, deviations)


def test_bad_edits_change_nothing(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = SGD([p], lr=0.1, max_grad_norm=1.0, backend=backend)
    group = optimizer.param_groups[0]
    for value, error in ((-1.0, ValueError), (math.nan, ValueError), ("x", TypeError), (None, TypeError)):
        with pytest.raises(error, match="max_grad_norm"):
            group["max_grad_norm"] = value
        assert group["max_grad_norm"] == 1.0
    with pytest.raises(ValueError, match="max_grad_norm=-2"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "max_grad_norm": -2})
    assert len(optimizer.param_groups) == 1


def test_what_is_the_same_for_all_groups_is_refused_in_one(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match="skip_nonfinite=True in a param group.*constructor"):
        SGD([{"params": [p], "skip_nonfinite": True}], lr=0.1, backend=backend)


@pytest.mark.parametrize("given", ["constructor", "group"])
def test_a_threshold_is_taken_away(given: str, backend: Backend) -> None:
    p = torch.nn.Parameter(torch.zeros(4))
    options = {"max_grad_norm": 1.0} if given == "constructor" else {}
    optimizer = SGD([p], lr=1.0, backend=backend, **options)
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    del optimizer.param_groups[0]["max_grad_norm"]
    p.grad = torch.full((4,), 3.0)
    optimizer.step()
    assert p.tolist() == [-3.0] * 4
    with pytest.raises(RuntimeError, match="grad_norm is not known"):
        optimizer.grad_norm


def test_what_is_not_measured_is_not_known() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    for name in ("grad_norm", "skipped_steps", "group_grad_norms"):
        with pytest.raises(RuntimeError, match=f"{name} is not known.*max_grad_norm"):
            getattr(optimizer, name)


def test_switched_on_and_off_in_mid_run(backend: Backend, seed: int) -> None:
    twins = AroundTwins("AdamW", backend)
    for step in range(9):
        if step in (3, 7):
            for group in twins.ours.param_groups:
                group["max_grad_norm"] = 0.25
        elif step == 5:
            for group in twins.ours.param_groups:
                del group["max_grad_norm"]
        twins.set_grads()
        twins.step()
    twins.assert_same(1e-13)


def test_a_checkpoint_without_the_threshold_leaves_it(backend: Backend, seed: int) -> None:
    """That of torch's class; and torch's class takes ours."""
    twins = AroundTwins("AdamW", backend, max_grad_norm=0.5)
    twins.set_grads()
    twins.step()
    theirs = copy.deepcopy(twins.torchs.state_dict())
    twins.torchs.load_state_dict(copy.deepcopy(twins.ours.state_dict()))
    twins.ours.load_state_dict(theirs)
    assert [g["max_grad_norm"] for g in twins.ours.param_groups] == [0.5, 0.5]
    for _ in range(3):
        twins.set_grads()
        twins.step()
    twins.assert_same(1e-13)


def test_a_checkpoint_with_the_threshold_switches_it_on(backend: Backend) -> None:
    p, q = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    saved = SGD([p], lr=1.0, max_grad_norm=0.0, backend=backend).state_dict()
    optimizer = SGD([q], lr=1.0, backend=backend)
    optimizer.load_state_dict(saved)
    q.grad = torch.ones(4)
    optimizer.step()
    assert q.tolist() == [1.0] * 4
    assert optimizer.grad_norm.item() == 2.0


def test_sparse_gradients_are_refused(backend: Backend) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), lr=1.0, max_grad_norm=1.0, backend=backend)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse gradient cannot be measured"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


@pytest.mark.parametrize("scope", ["all", "group"])
def test_parameters_that_share_memory(scope: str, backend: Backend, seed: int) -> None:
    """They are updated by tables of their own, after one measurement of all of them."""
    storage = torch.randn(12, dtype=torch.float64)
    copied = storage.clone()
    sides = []
    for memory in (storage, copied):
        views = [memory[:8].view(8), memory[4:]]
        sides.append([torch.nn.Parameter(v) for v in views])
    ours = SGD([{"params": [p]} for p in sides[0]], lr=1.0, max_grad_norm=0.5, norm_scope=scope, backend=backend)
    torchs = torch.optim.SGD([{"params": [p]} for p in sides[1]], lr=1.0, foreach=False)
    for _ in range(3):
        for p, q in zip(*sides, strict=True):
            p.grad = torch.randn(8, dtype=torch.float64)
            q.grad = p.grad.clone()
        for group in [sides[1]] if scope == "all" else [[q] for q in sides[1]]:
            torch.nn.utils.clip_grad_norm_(group, 0.5, foreach=False)
        ours.step()
        torchs.step()
    torch.testing.assert_close(storage, copied, rtol=1e-13, atol=1e-14)
