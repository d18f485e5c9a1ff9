"""torch.amp.GradScaler with our optimizers: unscaling and skipping inside the update."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from optimizer_twins import PARAM_LAYOUTS, Twins, assert_close, assert_equal, assert_same, generator, normal
from torch import Tensor

import fused_sched

pytestmark = pytest.mark.thin("triton")

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {},
}
SCALE = 1024.0
INFINITE = (float("inf"), float("-inf"), float("nan"))

every_optimizer = pytest.mark.parametrize("name", OPTIONS)


def make_scaler(scale: float = SCALE, **options: Any) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3, **options)
    scaler.scale(torch.zeros(()))  # creates the tensors
    return scaler


def make_twins(name: str, backend: str, g: torch.Generator, dtype: torch.dtype = torch.float32) -> Twins:
    return Twins(name, [[normal(g, (4, 3), dtype)], [normal(g, 5, dtype)]], backend, **OPTIONS[name])


def scaled_grads(twins: Twins, g: torch.Generator, scale: float, spoil: float | None = None) -> list[Tensor]:
    """Sets gradients times ``scale`` on both sides, one element of the last spoiled; returns what ours got."""
    grads = [x * scale for x in twins.random_grads(g)]
    if spoil is not None:
        grads[-1].view(-1)[-1] = spoil
    twins.set_grads(grads)
    return grads


def snapshot(twins: Twins) -> list[Tensor]:
    states = twins.ours.state_dict()["state"].values()
    return [p.detach().clone() for p in twins.our_params] + [t.clone() for s in states for t in s.values()]


@every_optimizer
@pytest.mark.parametrize("spoil", INFINITE)
def test_scaled_run_with_overflows_follows_torch(spoil: float, name: str, backend: str, seed: int) -> None:
    """Steps 0, 3 and 4 overflow; scales halve and grow again the same on both sides."""
    g = generator(seed)
    twins = make_twins(name, backend, g)
    ours, torchs = make_scaler(), make_scaler()
    for step in range(10):
        overflow = step in (0, 3, 4)
        assert ours.get_scale() == torchs.get_scale()
        scaled_grads(twins, g, ours.get_scale(), spoil if overflow else None)
        before = snapshot(twins)
        assert ours.step(twins.ours) is None
        torchs.step(twins.torchs)
        ours.update()
        torchs.update()
        if step > 0 or name == "SGD":
            assert_same(twins)
        else:  # as with torch's fused kernels, the state is there already
            states = twins.ours.state_dict()["state"].values()
            assert all(not t.any() for s in states for t in s.values())
        if overflow and step > 0:
            for a, b in zip(snapshot(twins), before, strict=True):
                assert_equal(a, b)
    if name != "SGD":
        assert {s["step"].item() for s in twins.ours.state_dict()["state"].values()} == {7.0}


@every_optimizer
@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "with gaps"])
def test_gradients_afterwards(layout: str, overflow: bool, name: str, backend: str, seed: int) -> None:
    """Unscaled in place, as torch's fused kernels leave them; after an overflow, as they were."""
    g = generator(seed)
    p = PARAM_LAYOUTS[layout](normal(g, (4, 6))).requires_grad_()
    optimizer = getattr(fused_sched.optim, name)([p], backend=backend, **OPTIONS[name], maximize=True)
    scaler = make_scaler()
    for _ in range(2):
        grad = normal(g, (4, 6)) * SCALE
        if overflow:
            grad[1, 2] = float("inf")
        p.grad = PARAM_LAYOUTS[layout](grad)
        here = p.grad
        scaler.step(optimizer)
        assert p.grad is here
        assert_equal(p.grad, grad if overflow else grad / SCALE)
        scaler.update(SCALE)


@every_optimizer
def test_unscaled_and_clipped_before_the_step(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    ours, torchs = make_scaler(), make_scaler()
    for step in range(6):
        scaled_grads(twins, g, ours.get_scale(), float("nan") if step == 3 else None)
        for scaler, optimizer, params in (
            (ours, twins.ours, twins.our_params),
            (torchs, twins.torchs, twins.torch_params),
        ):
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            kept = [p.grad.clone() for p in params if p.grad is not None]
            scaler.step(optimizer)
            for p, k in zip(params, kept, strict=True):
                assert torch.equal(p.grad, k) or step == 3
            scaler.update()
        assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_gradients(dtype: torch.dtype, name: str, backend: str, seed: int) -> None:
    """torch's for-loops get the gradients unscaled by hand: its scaler refuses float16."""
    g = generator(seed)
    twins = make_twins(name, backend, g, dtype)
    scaler = make_scaler(64.0)
    for step in range(5):
        grads = scaled_grads(twins, g, 64.0, float("inf") if step == 1 else None)
        scaler.step(twins.ours)
        scaler.update(64.0)
        if step != 1:
            for q, grad in zip(twins.torch_params, grads, strict=True):
                q.grad = grad / 64.0
            twins.torchs.step()
        assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_other_dtypes(dtype: torch.dtype, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g, dtype)
    for step in range(4):
        grads = scaled_grads(twins, g, 8.0)
        twins.ours.grad_scale = torch.tensor(8.0)
        twins.ours.found_inf = torch.tensor(1.0 if step == 2 else 0.0)
        twins.ours.step()
        if step != 2:
            for q, grad in zip(twins.torch_params, grads, strict=True):
                q.grad = grad / 8.0
            twins.torchs.step()
        assert_same(twins)


@every_optimizer
def test_scale_that_is_no_power_of_two(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    ours, torchs = make_scaler(3.7), make_scaler(3.7)
    for _ in range(4):
        scaled_grads(twins, g, 3.7)
        ours.step(twins.ours)
        torchs.step(twins.torchs)
        ours.update(3.7)
        torchs.update(3.7)
        assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("found", [2.0, 0.5, 1.0, float("nan")])
def test_any_found_inf_but_zero_skips(found: float, name: str, backend: str, seed: int) -> None:
    """GradScaler adds up found_inf over devices."""
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 1)
    before = snapshot(twins)
    grads = scaled_grads(twins, g, 1.0)
    twins.ours.found_inf = torch.tensor(found)
    twins.ours.step()
    for a, b in zip(snapshot(twins), before, strict=True):
        assert_equal(a, b)
    for p, grad in zip(twins.our_params, grads, strict=True):
        assert_equal(p.grad, grad)
    for shape in ((), (1,)):
        twins.ours.found_inf = torch.zeros(shape)
        twins.ours.step()
    assert not torch.equal(twins.our_params[0].detach(), before[0])


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.5}], ids=str)
def test_sgd_whose_first_steps_overflow(options: dict[str, Any], backend: str, seed: int) -> None:
    """The first step that is applied sets the buffer to the gradient, undampened, and nothing else does."""
    g = generator(seed)
    twins = Twins("SGD", [[normal(g, 5)], [normal(g, 3)]], backend, momentum=0.9, **options)
    ours, torchs = make_scaler(), make_scaler()
    for step in range(6):
        scaled_grads(twins, g, ours.get_scale(), float("inf") if step < 2 else None)
        if step == 3:
            twins.our_params[1].grad = twins.torch_params[1].grad = None
        ours.step(twins.ours)
        torchs.step(twins.torchs)
        ours.update()
        torchs.update()
        assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("skip_with_optimizer", [False, True])
def test_schedule_on_overflow(skip_with_optimizer: bool, fused: bool, name: str, backend: str, seed: int) -> None:
    """It advances as torch's does, or waits with the optimizer when asked to."""
    g = generator(seed)
    twins = make_twins(name, backend, g)
    scheduler = fused_sched.lr_scheduler.ExponentialLR(
        twins.ours, 0.5, fused=fused, skip_with_optimizer=skip_with_optimizer
    )
    start = scheduler.get_last_lr()
    scaler = make_scaler()
    expected = 0
    for step in range(6):
        overflow = step in (0, 2, 3)
        scaled_grads(twins, g, scaler.get_scale(), float("nan") if overflow else None)
        scaler.step(twins.ours)
        scaler.update()
        scheduler.step()
        expected += not (overflow and skip_with_optimizer)
        assert scheduler.last_epoch == expected
        assert scheduler.get_last_lr() == [x * 0.5**expected for x in start]
        assert [group["lr"] for group in twins.ours.param_groups] == scheduler.get_last_lr()


@every_optimizer
def test_training_in_autocast_reaches_what_torch_reaches(name: str, backend: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    other = copy.deepcopy(model)
    runs = [
        (model, getattr(fused_sched.optim, name)(model.parameters(), lr=1e-3, backend=backend), make_scaler()),
        (other, getattr(torch.optim, name)(other.parameters(), lr=1e-3, foreach=False), make_scaler()),
    ]
    x = torch.randn(32, 4)
    for _ in range(5):
        for m, optimizer, scaler in runs:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = m(x).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p, q, relative=1e-3)  # a rounding more or less in bfloat16 activations


def test_disabled_scaler(backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins("Adam", backend, g)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(2):
        scaled_grads(twins, g, 1.0)
        scaler.step(twins.ours)
        scaler.step(twins.torchs)
        scaler.update()
    assert_same(twins)


@every_optimizer
def test_plain_steps_after_a_scaled_one(name: str, backend: str, seed: int) -> None:
    """GradScaler takes its tensors off the optimizer again."""
    g = generator(seed)
    twins = make_twins(name, backend, g)
    ours, torchs = make_scaler(), make_scaler()
    scaled_grads(twins, g, SCALE, float("inf"))
    ours.step(twins.ours)
    torchs.step(twins.torchs)
    assert not hasattr(twins.ours, "grad_scale")
    assert not hasattr(twins.ours, "found_inf")
    twins.run(g, 2)
    assert_same(twins)


def _always(scheduler: Any, skipped: bool) -> None:
    scheduler.step()


def _unless_skipped(scheduler: Any, skipped: bool) -> None:
    if not skipped:
        scheduler.step()


def _twice(scheduler: Any, skipped: bool) -> None:
    """As Accelerate on two processes."""
    if not skipped:
        scheduler.step()
        scheduler.step()


def _often_and_twice_after_a_skip(scheduler: Any, skipped: bool) -> None:
    for _ in range(2 if skipped else 1):
        scheduler.step()


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")  # torch does not see a skipped update
@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read in between"])
@pytest.mark.parametrize("unscale", [False, True], ids=["scaled", "unscaled first"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("loop", [_always, _unless_skipped, _twice, _often_and_twice_after_a_skip])
def test_a_loop_of_schedulers_and_overflows_is_torchs(
    loop: Any, fused: bool, unscale: bool, read: bool, backend: str, mirrored: bool, seed: int
) -> None:
    """With accumulated gradients, some updates without a scaler, and the lr logged, or not, between the two calls."""
    g = generator(seed)
    twins = make_twins("SGD", backend, g)
    ours = fused_sched.lr_scheduler.CosineAnnealingLR(twins.ours, 40, fused=fused)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(twins.torchs, 40)
    scalers = make_scaler(), make_scaler()
    for update in range(24):
        overflow = update in (0, 5, 6, 13, 14, 22)
        with_scaler = not 9 <= update < 12
        parts = [twins.random_grads(g) for _ in range(2)]
        grads = [(a + b) / 2 * (scalers[0].get_scale() if with_scaler else 1.0) for a, b in zip(*parts, strict=True)]
        if overflow:
            grads[-1].view(-1)[-1] = float("inf")
        twins.set_grads([x.clone() for x in grads])
        for made, scheduler, scaler in ((twins.ours, ours, scalers[0]), (twins.torchs, torchs, scalers[1])):
            if not with_scaler:
                made.step()
                loop(scheduler, False)
                continue
            before = scaler.get_scale()
            if unscale:
                scaler.unscale_(made)
            scaler.step(made)
            scaler.update()
            if read and scheduler is ours:
                assert ours.last_epoch - torchs.last_epoch in (0, 1)
            loop(scheduler, scaler.get_scale() < before)
        assert ours.last_epoch == torchs.last_epoch, update
        expected = torchs.get_last_lr()
        torch.testing.assert_close(ours.get_last_lr(), expected, rtol=1e-13, atol=0)
        torch.testing.assert_close([x["lr"] for x in twins.ours.param_groups], expected, rtol=1e-13, atol=0)
    assert_same(twins)


@pytest.mark.filterwarnings("ignore:Seems like .optimizer.step")
def test_a_missed_step_survives_copies_and_new_programs(backend: str, mirrored: bool) -> None:
    """Whether the coming step is made travels, also where only the device knows."""
    for skipped in (False, True):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = fused_sched.optim.SGD([p], lr=1.0, backend=backend)
        scheduler = fused_sched.lr_scheduler.StepLR(optimizer, 1, 0.5, fused=True)
        p.grad = torch.ones_like(p)
        optimizer.found_inf = torch.tensor([float(skipped)])
        optimizer.step()
        del optimizer.found_inf
        copied = copy.deepcopy(scheduler)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0})
        optimizer.step()  # with a program for two groups
        for one in (scheduler, copied):
            one.step()
        assert copied.get_last_lr() == [0.5]
        assert copied.last_epoch == 1
        copied.step()
        assert copied.get_last_lr() == [0.25]
        assert scheduler.get_last_lr() == ([0.5, 0.5] if skipped else [0.25, 0.5])


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("loop", [_always, _unless_skipped, _twice])
def test_a_function_that_is_not_traced_is_called_as_torch_calls_it(
    loop: Any, horizon: int, host_backend: str, mirrored: bool
) -> None:
    """One whose values are of its calls and not of the step."""
    lrs: dict[bool, list[float]] = {}
    calls: dict[bool, list[int]] = {}
    for fused in (False, True):
        seen: list[int] = []

        def factor(step: int, seen: list[int] = seen) -> float:
            seen.append(step)
            return 1 / (1 + (step if horizon > 1 else len(seen)))

        p = torch.nn.Parameter(torch.ones(3))
        if fused:
            optimizer: Any = fused_sched.optim.SGD([p], lr=1.0, backend=host_backend)
            scheduler: Any = fused_sched.lr_scheduler.LambdaLR(optimizer, factor, horizon=horizon, fused=True)
        else:
            optimizer = torch.optim.SGD([p], lr=1.0)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        lrs[fused], calls[fused] = [], seen
        for update in range(15):
            skipped = update % 4 in (0, 3)
            p.grad = torch.ones_like(p)
            if fused:
                optimizer.found_inf = torch.tensor([float(skipped)])
            if fused or not skipped:
                optimizer.step()
            loop(scheduler, skipped)
            lrs[fused].append(optimizer.param_groups[0]["lr"])
    assert lrs[True] == lrs[False]
    if horizon == 1:
        assert calls[True] == calls[False]


class _Clipping(fused_sched.optim.SGD):
    """Looks at the gradients before the step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            torch.nn.utils.clip_grad_value_(group["params"], 0.125)
        return super().step(closure)


@pytest.mark.parametrize("how", ["step", "pre-hook", "post-hook"])
def test_code_of_the_users_around_a_step_sees_unscaled_gradients_and_no_skipped_step(how: str) -> None:
    seen = []
    for home, clipping, more in ((fused_sched.optim, _Clipping, {}), (torch.optim, None, {"foreach": False})):
        p = torch.nn.Parameter(torch.ones(2))
        cls: Any = home.SGD
        if how == "step":
            cls = clipping or _torchs_clipping()
        made = cls([p], lr=0.5, **more)
        calls: list[float] = []
        if how == "pre-hook":
            made.register_step_pre_hook(lambda *_, p=p, calls=calls: calls.append(float(p.grad[0])))
        if how == "post-hook":
            made.register_step_post_hook(lambda *_, p=p, calls=calls: calls.append(float(p[0])))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(4):
            made.zero_grad()
            loss = (p * (float("inf") if step == 1 else 0.25)).sum()
            scaler.scale(loss).backward()
            scaler.step(made)
            scaler.update()
        seen.append((p.tolist(), calls))
    assert seen[0] == seen[1]


def _torchs_clipping() -> Any:
    class Clipping(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                torch.nn.utils.clip_grad_value_(group["params"], 0.125)
            return super().step(closure)

    return Clipping
