"""What is observed is used once, whatever it is, by any optimizer, and goes with states and copies."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from measured import by_kl, halve, lrs_of, observe_and_step, rsl_rl
from schedule_twins import made_with, parameters, patience

import fused_sched
from fused_sched.lr_scheduler import (
    FeedbackLR,
    KLAdaptiveLR,
    ReduceLROnPlateau,
)

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_any_real_dtype(shape: tuple[int, ...], host_backend: Any, mirrored: bool) -> None:
    made = made_with([0.5], host_backend)
    scheduler = FeedbackLR(made, lambda lr, signal: signal)
    for dtype in DTYPES:
        scheduler.observe(torch.full(shape, 1, dtype=dtype))
        assert scheduler.observed == 1.0
        scheduler.observe(torch.full(shape, 0.1).to(dtype).requires_grad_(dtype.is_floating_point))
        scheduler.step()
        assert lrs_of(made) == [float(torch.tensor(0.1).to(dtype))]
        assert scheduler.observed is None


def _kinds() -> dict[str, Callable[[Any], Any]]:
    return {
        "KLAdaptiveLR": lambda o: KLAdaptiveLR(o, max_lr=1.0),
        "FeedbackLR": lambda o: FeedbackLR(o, lambda lr, x: lr / 1.5 if x > 0.02 else lr),
        "on the host": _feedback_on_host,
        "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, factor=2.0 / 3.0, patience=0),
    }


def _feedback_on_host(o: Any) -> Any:
    calls: list[float] = []

    def function(lr: float, x: float) -> float:
        calls.append(x)
        return lr / 1.5 if x > 0.02 else lr

    with pytest.warns(UserWarning, match="its lr is computed on the host at every step"):
        return FeedbackLR(o, function)


@pytest.mark.parametrize("kind", _kinds())
def test_an_observation_is_used_once_and_the_last_one_counts(kind: str, host_backend: Any, mirrored: bool) -> None:
    made = made_with([0.3, 0.2], host_backend)
    scheduler = _kinds()[kind](made)
    if kind == "ReduceLROnPlateau":
        scheduler.step(0.0)  # from now on all is worse
    before, epoch = lrs_of(made), scheduler.last_epoch
    for tensor in (False, True):
        scheduler.observe(0.01)
        scheduler.observe(torch.tensor(5.0) if tensor else 5.0)
        assert scheduler.observed == 5.0
        assert lrs_of(made) == before
        scheduler.step()
        after = lrs_of(made)
        assert after == pytest.approx([lr / 1.5 for lr in before], rel=1e-15)
        for _ in range(3):
            assert scheduler.observed is None
            scheduler.step()
            assert lrs_of(made) == after == scheduler.get_last_lr()
        before = after
    assert scheduler.last_epoch == epoch + 8
    if kind == "ReduceLROnPlateau":
        assert (scheduler.best, scheduler.num_bad_epochs) == (0.0, 0)


@pytest.mark.parametrize("kind", _kinds())
def test_what_is_pending_goes_with_states_and_copies(kind: str, host_backend: Any, mirrored: bool) -> None:
    makes = [_deep, _through_a_file, _by_state]
    for make, signal in itertools.product(makes, (5.0, torch.tensor(5.0), None)):
        made = made_with([0.3, 0.2], host_backend)
        scheduler = _kinds()[kind](made)
        if kind == "on the host" and make is _through_a_file:
            continue  # its function is no global one
        if kind == "FeedbackLR" and make is _through_a_file:
            scheduler.function = halve
        if kind == "ReduceLROnPlateau":
            observe_and_step(scheduler, 0.0)
        if signal is not None:
            scheduler.observe(signal)
        state = scheduler.state_dict()
        assert state.get("observed") == (None if signal is None else 5.0)
        assert ("observed" in state) is (signal is not None)
        other = make(scheduler, kind)
        for _ in range(2):
            scheduler.step()
            other.step()
            assert lrs_of(other.optimizer) == lrs_of(made)
        assert (lrs_of(made) == [0.3, 0.2]) is (signal is None)
        assert other.state_dict() == scheduler.state_dict()


def _deep(scheduler: Any, kind: str) -> Any:
    return copy.deepcopy(scheduler)


def _through_a_file(scheduler: Any, kind: str) -> Any:
    file = io.BytesIO()
    pickle.dump(scheduler, file)
    file.seek(0)
    return pickle.load(file)


def _by_state(scheduler: Any, kind: str) -> Any:
    """Into a fresh one, which has something pending itself."""
    other = _kinds()[kind](made_with([0.7, 0.7]))
    other.observe(100.0)
    other.optimizer.load_state_dict(scheduler.optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    return other


def test_what_cannot_be_observed(host_backend: Any, mirrored: bool) -> None:
    for kind in _kinds():
        scheduler = _kinds()[kind](made_with([0.3], host_backend))
        state = scheduler.state_dict()
        for shape in ((2,), (0,), (1, 3)):
            with pytest.raises(ValueError, match=r"^signal has shape \(.*\): give a number or a one-element tensor$"):
                scheduler.observe(torch.zeros(shape))
        for bad in ("1.0", None, 1j, [1.0], b"1"):
            with pytest.raises(TypeError, match="give a number or a one-element tensor"):
                scheduler.observe(bad)
        with pytest.raises(TypeError, match="a schedule follows a real number: give its real part"):
            scheduler.observe(torch.ones(1, dtype=torch.complex64))
        assert scheduler.state_dict() == state
        assert scheduler.observed is None


@pytest.mark.parametrize("kind", ["KLAdaptiveLR", "FeedbackLR"])
def test_fused_advances_with_the_last_observation(kind: str, backend: Any, mirrored: bool) -> None:
    makes = {
        "KLAdaptiveLR": lambda o, **k: KLAdaptiveLR(o, max_lr=1.0, **k),
        "FeedbackLR": lambda o, **k: FeedbackLR(o, by_kl, **k),
    }
    fused, alone = made_with([0.3, 0.1], backend), made_with([0.3, 0.1])
    first, second = makes[kind](fused, fused=True), makes[kind](alone)
    for step in range(min(20, patience(backend, 20))):
        for made in (fused, alone):
            for group in made.param_groups:
                group["params"][0].grad = torch.ones_like(group["params"][0])
        signal = [0.001, 0.5, 0.01, math.nan, None, 0.2][step % 6]
        for scheduler in (first, second):
            if signal is not None:
                scheduler.observe(signal)
        fused.step()
        alone.step()
        assert first.observed is None
        second.step()
        assert lrs_of(fused) == lrs_of(alone)
        first.step()
        assert (first.last_epoch, lrs_of(fused)) == (second.last_epoch, lrs_of(alone))


def test_a_skipped_update_leaves_the_observation_to_the_step(host_backend: Any, mirrored: bool) -> None:
    for guarded in (False, True):
        made = made_with([0.3], host_backend)
        scheduler = KLAdaptiveLR(made, max_lr=1.0, fused=True, skip_with_optimizer=guarded)
        made.found_inf = torch.ones(())
        made.param_groups[0]["params"][0].grad = torch.ones(3)
        scheduler.observe(5.0)
        made.step()
        assert (scheduler.observed, lrs_of(made)) == (5.0, [0.3])
        scheduler.step()
        assert (scheduler.observed, lrs_of(made)) == ((5.0, [0.3]) if guarded else (None, [0.3 / 1.5]))


def test_groups_that_come_and_go(host_backend: Any, mirrored: bool) -> None:
    for make in (KLAdaptiveLR, lambda o: FeedbackLR(o, lambda lr, kl: min(0.01, lr * 1.5) if kl < 0.005 else lr / 1.5)):
        made = made_with([1e-3], host_backend)
        scheduler = make(made)
        scheduler.observe(0.001)
        made.add_param_group({"params": parameters(2)[1:], "lr": 2e-3})
        scheduler.step()  # with what was observed before
        assert lrs_of(made) == [1e-3 * 1.5, 2e-3 * 1.5]
        observe_and_step(scheduler, torch.tensor(0.5))
        assert lrs_of(made) == [1e-3 * 1.5 / 1.5, 2e-3 * 1.5 / 1.5]
        del made.param_groups[0]
        observe_and_step(scheduler, 0.5)
        assert lrs_of(made) == [2e-3 * 1.5 / 1.5 / 1.5]


def test_a_group_more_than_a_list_has(host_backend: Any, mirrored: bool) -> None:
    made = made_with([1e-3], host_backend)
    makes: list[Any] = [KLAdaptiveLR(made, min_lr=[1e-6]), FeedbackLR(made, [by_kl])]
    made.add_param_group({"params": parameters(2)[1:], "lr": 2e-3})
    for scheduler in makes:
        scheduler.step()  # keeps the lr, as nothing was observed
        for tensor in (False, True):
            scheduler.observe(torch.tensor(5.0) if tensor else 5.0)
            with pytest.raises(
                ValueError, match="(min_lr|function) is a list of 1 for 2 param groups: give one a group"
            ):
                scheduler.step()
            assert lrs_of(made) == [1e-3, 2e-3]
    makes[0].min_lr = [1e-6, 1e-5]
    makes[0].step()
    assert lrs_of(made) == [1e-3 / 1.5, 2e-3 / 1.5]


@pytest.mark.parametrize("kind", ["AdamW", "NAdam"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_foreign_optimizers_with_an_lr_in_a_tensor(kind: str, dtype: torch.dtype) -> None:
    for make, number in itertools.product((KLAdaptiveLR, lambda o: FeedbackLR(o, by_kl)), (False, True)):
        lr = 0.003 if number else torch.tensor(0.003, dtype=dtype)
        made = getattr(torch.optim, kind)([{"params": parameters(1)}], lr=lr)
        scheduler, expected = make(made), 0.003
        for kl in (0.5, 0.01, 0.001, 0.5, math.nan):
            scheduler.observe(torch.tensor(kl, dtype=torch.float64))
            scheduler.step()
            by = rsl_rl(expected, kl, 0.01) if make is KLAdaptiveLR else by_kl(expected, kl)
            expected = expected if math.isnan(kl) else by
            found = float(made.param_groups[0]["lr"])
            assert found == pytest.approx(expected, rel=1e-6 if dtype is torch.float32 else 1e-15)
        assert (scheduler.program is None) is number
        assert number or made.param_groups[0]["lr"] is lr


def test_groups_that_share_a_tensor(host_backend: Any, mirrored: bool) -> None:
    lr = torch.tensor(0.004, dtype=torch.float64)
    groups = [{"params": [p], "lr": lr} for p in parameters(2)]
    made = fused_sched.optim.SGD(groups, lr=lr, backend=host_backend)
    scheduler = KLAdaptiveLR(made)
    observe_and_step(scheduler, 1.0)
    assert lr.item() == 0.004 / 1.5  # once, and not once a group
