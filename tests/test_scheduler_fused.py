"""Schedules that advance inside optimizer.step(), or beside others."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    EVERY,
    HOMES,
    NAMES,
    OURS,
    TORCH,
    Recorder,
    Twins,
    assert_alike,
    assert_close,
    build,
    optimizer,
    patience,
    position,
    random_lrs,
    seen,
    twins,
)
from tolerances import SCHEDULE_RELATIVE
from torch.optim import lr_scheduler as torch_lr_scheduler

import fused_sched
from fused_sched.lr_scheduler import ExponentialLR, StepLR, on_device

# -- fused=True --------------------------------------------------------------------------------------------


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("name", NAMES)
def test_fused_schedule_gives_the_same_sequence(name: str, backend: str, mirrored: bool, rng: random.Random) -> None:
    kinds = ["SGD", "Adam", "AdamW"]
    for kind in kinds if patience(backend, 20) == 20 else [rng.choice(kinds)]:
        pair = twins(name, lrs=random_lrs(rng, 3), kind=kind, backend=backend, ours={"fused": True})
        assert pair.our_optimizer.fused_schedules == (pair.ours._schedule,)
        for step in range(patience(backend, 20)):
            if step == 3:
                pair.edit(lambda groups: groups[1].update(lr=groups[1]["lr"] / 2))
            pair.optimizer_step()
            pair.torchs.step()
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, f"step {step}")
            before = pair.ours.state_dict()
            pair.ours.step()  # bookkeeping only
            assert pair.ours.state_dict() == before
            assert position(pair.ours) == position(pair.torchs)


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("name", NAMES)
def test_further_steps_are_steps_of_their_own(name: str, host_backend: str, mirrored: bool, rng: random.Random) -> None:
    """As where Accelerate steps a scheduler once a process."""
    pair = twins(name, lrs=[0.1], backend=host_backend, ours={"fused": True})
    for calls in (1, 2, 3, 1, 1, rng.randrange(1, 4), 2):
        for _ in range(calls - 1):  # before the first update, too
            pair.step()
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, f"{calls} calls")
        assert position(pair.ours) == position(pair.torchs)


def test_fused_needs_no_scheduler_step(host_backend: str, mirrored: bool) -> None:
    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend, ours={"fused": True})
    for _ in range(5):
        pair.optimizer_step()
        pair.torchs.step()
    assert seen(pair.our_optimizer) == seen(pair.torch_optimizer)
    assert pair.ours.last_epoch == 5
    pair.ours.step()
    assert seen(pair.our_optimizer) == seen(pair.torch_optimizer)
    pair.step()
    assert seen(pair.our_optimizer) == seen(pair.torch_optimizer)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", ["CosineAnnealingLR", "StepLR", "LambdaLR", "OneCycleLR", "SWALR"])
def test_steps_that_another_makes_by_get_lr(name: str, host_backend: str, mirrored: bool) -> None:
    """As Ignite's LRScheduler makes them, with any of torch's; a fused one would advance twice."""
    pair = twins(name, lrs=[0.1, 0.2], backend=host_backend)
    for _ in range(6):
        for scheduler in (pair.ours, pair.torchs):
            scheduler._get_lr_called_within_step = True
            lrs = scheduler.get_lr()
            scheduler._get_lr_called_within_step = False
            for group, lr in zip(scheduler.optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr
            scheduler.last_epoch += 1
        pair.optimizer_step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, name)
        assert position(pair.ours) == position(pair.torchs)
    fused = twins(name, lrs=[0.1, 0.2], backend=host_backend, ours={"fused": True})
    with pytest.raises(RuntimeError, match=rf"steps of {name} by get_lr\(\).*would be made twice: leave out fused"):
        fused.ours._get_lr_called_within_step = True
    fused.optimizer_step()
    fused.step()
    fused.both(lambda scheduler, _: scheduler.step(3))  # torch's own code says so too
    assert_alike(seen(fused.our_optimizer), seen(fused.torch_optimizer), SCHEDULE_RELATIVE, name)
    fused.ours.detach()
    fused.ours._get_lr_called_within_step = True  # it is the optimizer's no more


@pytest.mark.parametrize("interval", [0, 1, 99, 150])
def test_a_step_once_an_epoch_warns_once(interval: int, host_backend: str, mirrored: bool) -> None:
    """Lightning's ``interval: epoch``."""
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    scheduler = StepLR(made, 10_000, fused=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in range(1, 401):
            made.step()
            if interval and update % interval == 0:
                scheduler.step()
    told = [str(w.message) for w in caught]
    assert len(told) == (interval in (0, 150)), told
    for message in told:
        assert message.startswith("StepLR is fused=True and has advanced at each of 100 optimizer.step() calls without")
        assert message.endswith("Leave out fused there, or call scheduler.step() after every optimizer.step()")


def test_a_scheduler_that_was_let_go_of_does_not_warn(host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    ExponentialLR(made, 0.5, fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for update in range(250):
            made.step()
            if update == 50:
                made.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert made.param_groups[0]["lr"] == 0.1 * 0.5**250


def test_fused_schedule_advances_without_gradients(backend: str, mirrored: bool) -> None:
    pair = twins("ExponentialLR", lrs=[0.1, 0.2], backend=backend, ours={"fused": True})
    for _ in range(3):
        pair.our_optimizer.step()
        pair.step()
        assert seen(pair.our_optimizer) == seen(pair.torch_optimizer)


def test_fused_update_uses_the_lr_of_before_the_advance(backend: str, mirrored: bool) -> None:
    pair = twins("ExponentialLR", {"gamma": 0.5}, lrs=[0.5], backend=backend, ours={"fused": True}, momentum=0.0)
    p = pair.our_optimizer.param_groups[0]["params"][0]
    pair.optimizer_step()
    assert p.tolist() == [0.5] * 3
    pair.optimizer_step()
    assert p.tolist() == [0.25] * 3


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("skip", [False, True], ids=["as torch", "skip_with_optimizer"])
def test_overflow_holds_the_schedule_only_if_asked(fused: bool, skip: bool, backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.5], backend=backend)
    scheduler = ExponentialLR(made, 0.5, fused=fused, skip_with_optimizer=skip)
    p = made.param_groups[0]["params"][0]
    overflowed = [0.0, 1.0, 0.0, 2.0, 0.0]
    lrs, epochs = [], []
    for found_inf in overflowed:
        p.grad = torch.ones_like(p)
        before = p.detach().clone()
        made.found_inf = torch.tensor([found_inf], device=p.device)
        made.step()
        del made.found_inf
        scheduler.step()
        assert torch.equal(p, before) is (found_inf != 0)
        lrs.append(made.param_groups[0]["lr"])
        epochs.append(scheduler.last_epoch)
        assert scheduler.get_last_lr() == [lrs[-1]]
    assert lrs == ([0.25, 0.25, 0.125, 0.125, 0.0625] if skip else [0.25, 0.125, 0.0625, 0.03125, 0.015625])
    assert epochs == ([1, 1, 2, 2, 3] if skip else [1, 2, 3, 4, 5])


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR", "CyclicLR"])
@pytest.mark.parametrize("horizon", [1, 4])
def test_overflow_with_a_host_table_reads_the_right_row(
    name: str, horizon: int, host_backend: str, mirrored: bool
) -> None:
    arguments: dict[str, Any] = {"lr_lambda": Recorder()}
    if name == "CyclicLR":
        arguments = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "scale_fn": Recorder()}
    ours = {"horizon": horizon, "skip_with_optimizer": True}
    pair = twins(name, arguments, lrs=[0.1], backend=host_backend, ours=ours)
    for step in range(15):
        skipped = step % 4 == 2
        pair.our_optimizer.found_inf = torch.tensor([float(skipped)])
        pair.our_optimizer.step()
        pair.ours.step()
        if not skipped:
            pair.torchs.step()
        assert seen(pair.our_optimizer) == seen(pair.torch_optimizer)
        assert pair.ours.last_epoch == pair.torchs.last_epoch


# -- company -----------------------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@pytest.mark.filterwarnings("ignore:StepLR is one more fused scheduler")
@pytest.mark.parametrize("fused", [(False, False), (True, False), (True, True)], ids=str)
def test_two_schedulers_on_one_optimizer(fused: tuple[bool, bool], backend: str, mirrored: bool) -> None:
    """Each goes on from the lr that the other left, as in torch."""
    mine = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=backend)
    theirs = optimizer(torch.optim, "SGD", [0.1, 0.3])
    ours = ExponentialLR(mine, 0.9, fused=fused[0]), StepLR(mine, 3, 0.5, fused=fused[1])
    oracles = TORCH.ExponentialLR(theirs, 0.9), TORCH.StepLR(theirs, 3, 0.5)
    for step in range(patience(backend, 12)):
        for made in (mine, theirs):
            for group in made.param_groups:
                group["params"][0].grad = torch.ones_like(group["params"][0])
            made.step()
        for scheduler in (*ours, *oracles):
            scheduler.step()
        assert_alike(seen(mine), seen(theirs), 0.0, f"step {step}")
        assert [s.get_last_lr() for s in ours][1] == oracles[1].get_last_lr()


def test_a_fused_scheduler_is_replaced_by_detaching_it(backend: str) -> None:
    mine = optimizer(fused_sched.optim, "SGD", [0.1], backend=backend)
    first = ExponentialLR(mine, 0.5, fused=True)
    with pytest.warns(UserWarning, match=r"^StepLR is one more fused scheduler .* that advances ExponentialLR already"):
        second = StepLR(mine, 2, 0.1, fused=True)
    first.detach()
    for lr in (0.1, 0.1 * 0.1, 0.1 * 0.1):
        mine.step()
        second.step()
        assert second.get_last_lr() == [lr]
    first.step()  # on its own again
    assert first.get_last_lr() == [0.1 * 0.1 * 0.5]
    first.detach()


def test_a_pending_step_of_a_fused_scheduler_survives_pickling(host_backend: str) -> None:
    mine = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    scheduler = ExponentialLR(mine, 0.5, fused=True)
    mine.step()
    copied = pickle.loads(pickle.dumps(scheduler))
    for lr in (0.05, 0.025):
        copied.step()
        assert copied.get_last_lr() == [lr]


@pytest.mark.parametrize("overflow", [None, 0.0, 1.0])
def test_a_load_replaces_what_an_update_had_made(overflow: float | None, backend: str, mirrored: bool) -> None:
    pair = twins("StepLR", {"step_size": 2, "gamma": 0.5}, lrs=[0.1, 0.2], backend=backend, ours={"fused": True})
    pair.optimizer_step()
    pair.step()
    saved = [
        [x.state_dict() for x in side]
        for side in ((pair.our_optimizer, pair.ours), (pair.torch_optimizer, pair.torchs))
    ]
    saved = copy.deepcopy(saved)
    if overflow is not None:
        pair.our_optimizer.found_inf = torch.tensor(overflow, device=pair.our_optimizer._block.device)
    pair.optimizer_step()
    pair.our_optimizer.found_inf = None
    for side, states in zip(((pair.our_optimizer, pair.ours), (pair.torch_optimizer, pair.torchs)), saved, strict=True):
        for one, state in zip(side, states, strict=True):
            one.load_state_dict(state)
    for step in range(5):
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
        assert pair.ours.last_epoch == pair.torchs.last_epoch
        pair.optimizer_step()


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", EVERY)
def test_torchs_own_schedulers_drive_our_optimizer(name: str, kind: str, host_backend: str, mirrored: bool) -> None:
    mine, theirs = optimizer(fused_sched.optim, kind, [0.1, 0.3]), optimizer(torch.optim, kind, [0.1, 0.3])
    arguments = DEFAULTS[name]
    pair = Twins(build(TORCH, name, mine, **arguments), build(TORCH, name, theirs, **arguments), mine, theirs)
    for step in range(25):
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(mine), seen(theirs), 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    for ours, oracle in zip(mine.param_groups, theirs.param_groups, strict=True):
        assert_close(ours["params"][0], oracle["params"][0])


@pytest.mark.filterwarnings("ignore:Please also save or load the state of the optimizer")
def test_ours_inside_torchs_sequential_and_chained(host_backend: str, mirrored: bool) -> None:
    def sequential(made: Any, home: Any) -> Any:
        parts = [home.LambdaLR(made, lambda e: (e + 1) / 4), home.CosineAnnealingLR(made, 8)]
        return torch_lr_scheduler.SequentialLR(made, parts, milestones=[4])

    def chained(made: Any, home: Any) -> Any:
        return TORCH.ChainedScheduler([home.StepLR(made, 3, 0.5), home.ExponentialLR(made, 0.9)], made)

    for make in (sequential, chained):
        mine, theirs = optimizer(fused_sched.optim, "SGD", [0.1, 0.3]), optimizer(torch.optim, "SGD", [0.1, 0.3])
        pair = Twins(make(mine, OURS), make(theirs, TORCH), mine, theirs)
        assert_alike(seen(mine), seen(theirs), 0.0, "construction")
        for step in range(16):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # SequentialLR calls step(0) at its milestone
                pair.step()
            assert_alike(seen(mine), seen(theirs), 0.0, f"step {step}")


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("name", EVERY)
def test_momentum_reaches_the_update(name: str, backend: str, mirrored: bool, rng: random.Random) -> None:
    """Parameters, not only the lr, follow torch; CyclicLR and OneCycleLR cycle momentum or beta1 all the while."""
    for kind in ["SGD", "Adam"] if patience(backend, 12) == 12 else [rng.choice(["SGD", "Adam"])]:
        pair = twins(name, lrs=[0.1, 0.03], kind=kind, backend=backend)
        for step in range(patience(backend, 12)):
            for made in (pair.our_optimizer, pair.torch_optimizer):
                for group in made.param_groups:
                    group["params"][0].grad = torch.full_like(group["params"][0], 0.5 + step % 3)
                made.step()
            pair.step()
        for ours, theirs in zip(pair.our_optimizer.param_groups, pair.torch_optimizer.param_groups, strict=True):
            assert_close(ours["params"][0], theirs["params"][0])


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_momentum_that_the_schedule_raises_from_zero(fused: bool, backend: str, mirrored: bool) -> None:
    arguments = {"base_lr": 0.1, "max_lr": 0.4, "step_size_up": 2, "base_momentum": 0.9, "max_momentum": 0.0}
    pair = twins("CyclicLR", arguments, lrs=[0.1], backend=backend, ours={"fused": fused}, momentum=0.0)
    for _ in range(9):
        pair.optimizer_step()
        pair.step()
        ours, theirs = (o.param_groups[0]["params"][0] for o in (pair.our_optimizer, pair.torch_optimizer))
        assert_close(ours, theirs)


@pytest.mark.parametrize("loop", ["steps", "no steps"])
@pytest.mark.parametrize("start", ["warm-up", "on_device", "edit in mid-run", "edit with zero gradients"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_is_no_trial_step(start: str, momentum: float, loop: str, host_backend: str, mirrored: bool) -> None:
    """A warm-up from 0, and an lr that somebody sets to 0 for a while, also where SGD has no state."""
    epochs = {}
    for name, (optim, home) in HOMES.items():
        p = torch.nn.Parameter(torch.ones(3))
        options = {"backend": host_backend} if name == "ours" else {}
        made = optim.SGD([p], lr=0.1, momentum=momentum, **options)
        fused = {"fused": True} if name == "ours" else {}
        if start == "on_device" and name == "ours":
            scheduler = on_device(TORCH.LambdaLR(made, lambda step: step / 8), fused=True)
        else:
            scheduler = home.LambdaLR(made, lambda step: step / 8, **fused)
        for step in range(6):
            if start.startswith("edit") and step in (3, 4):
                made.param_groups[0]["lr"] = 0.0
            zeros = start == "on_device" or start == "warm-up" or (start == "edit with zero gradients" and momentum > 0)
            p.grad = torch.full_like(p, 0.0 if zeros else 1.0)
            made.step()
            if name == "torch" or loop == "steps":
                scheduler.step()
        epochs[name] = scheduler.last_epoch, made.param_groups[0]["lr"]
    assert epochs["ours"] == epochs["torch"]


@pytest.mark.parametrize("copied", [False, True])
def test_a_trial_step_advances_nothing(copied: bool, host_backend: str, mirrored: bool) -> None:
    """As torch.distributed.checkpoint makes the state of an optimizer."""
    p = torch.nn.Parameter(torch.ones(3))
    made = fused_sched.optim.AdamW([p], lr=0.1, backend=host_backend)
    scheduler = ExponentialLR(made, 0.5, fused=True)
    lr = made.param_groups[0]["lr"]
    p.grad = torch.zeros_like(p)
    made.param_groups[0]["lr"] = 0.0
    made.step()
    made.param_groups[0]["lr"] = lr
    assert scheduler.last_epoch == 0
    if copied:
        scheduler = pickle.loads(pickle.dumps(scheduler))
        made = scheduler.optimizer
    for epoch in range(1, 4):
        made.step()
        scheduler.step()
        assert (scheduler.last_epoch, made.param_groups[0]["lr"]) == (epoch, 0.1 * 0.5**epoch)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_lr_of_zero_by_hand_is_no_trial_step(name: str, host_backend: str, mirrored: bool) -> None:
    """A frozen start: torch's scheduler counts such steps too, whatever the gradients are."""
    for zeros in (False, True):
        found = {}
        for home, optim in ((torch.optim.lr_scheduler, torch.optim), (fused_sched.lr_scheduler, fused_sched.optim)):
            ours = optim is fused_sched.optim
            p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
            optimizer = getattr(optim, name)([p], lr=0.1, **({"backend": host_backend} if ours else {"foreach": False}))
            scheduler = home.StepLR(optimizer, 2, gamma=0.5, **({"fused": True} if ours else {}))
            epochs = []
            for step in range(4):
                if step < 2:
                    optimizer.param_groups[0]["lr"] = 0.0
                p.grad = torch.full_like(p, 0.0 if zeros else 1.0)
                optimizer.step()
                scheduler.step()
                epochs.append(scheduler.last_epoch)
                optimizer.param_groups[0]["lr"] = 0.1
            found[ours] = epochs, p.detach().clone()
        assert found[True][0] == found[False][0] == [1, 2, 3, 4]
        torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-12, atol=1e-12)
