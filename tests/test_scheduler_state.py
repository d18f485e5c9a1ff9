"""Resuming, state dicts, copies and the lifetime of schedulers."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    EVERY,
    LEAVES,
    MEASURED,
    NESTED,
    OURS,
    TORCH,
    Decay,
    Parts,
    Twins,
    advance,
    assert_alike,
    assert_close,
    build,
    compare_steps,
    inverse_square_root,
    optimizer,
    position,
    seen,
    single,
    train,
    twins,
)

import fused_sched
from fused_sched.lr_scheduler import LambdaLR, MultiStepLR, StepLR

# -- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LEAVES, "SequentialLR"])
@pytest.mark.parametrize("last_epoch", [0, 1, 2, 3, 4, 7, 8, 13, 100])
def test_resume_at_last_epoch(name: str, last_epoch: int, host_backend: str, mirrored: bool) -> None:
    lrs = [0.1, 0.3]
    mine, theirs = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend), optimizer(torch.optim, "SGD", lrs)
    for made in (mine, theirs):
        for group, initial in zip(made.param_groups, [0.2, 0.5], strict=True):
            group["initial_lr"] = initial
            if name == "OneCycleLR":
                group.update(max_lr=0.7, min_lr=0.01, max_momentum=0.9, base_momentum=0.8)
    arguments = {**DEFAULTS[name], "last_epoch": last_epoch}
    ours, oracle = (
        build(OURS, name, mine, **arguments),
        build(TORCH, name, theirs, **arguments),
    )
    pair = Twins(ours, oracle, mine, theirs)
    assert pair.ours.last_epoch == last_epoch + 1
    assert_alike(seen(mine), seen(theirs), 0.0, "construction")
    assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    compare_steps(pair, 20)


def test_resume_known_numbers(backend: str) -> None:
    """Step and MultiStep apply a decay that is due; Exponential and Cosine leave the lr alone, as torch."""

    def resumed(name: str, **arguments: Any) -> float:
        made = single(backend)
        made.param_groups[0]["initial_lr"] = 0.1
        getattr(OURS, name)(made, last_epoch=3, **arguments)
        return float(made.param_groups[0]["lr"])

    assert resumed("StepLR", step_size=2, gamma=0.5) == 0.05
    assert resumed("MultiStepLR", milestones=[4], gamma=0.5) == 0.05
    assert resumed("LambdaLR", lr_lambda=lambda e: 0.5**e) == 0.00625
    assert resumed("ExponentialLR", gamma=0.5) == 0.1
    assert resumed("CosineAnnealingLR", T_max=10) == 0.1
    assert resumed("ConstantLR", factor=0.5, total_iters=4) == 0.2
    assert resumed("LinearLR", total_iters=4) == 0.1
    assert resumed("PolynomialLR", total_iters=9) == 0.1
    assert resumed("MultiplicativeLR", lr_lambda=lambda e: 0.5) == 0.1
    assert resumed("CosineAnnealingWarmRestarts", T_0=10) == pytest.approx(0.0655, abs=5e-5)
    assert resumed("CyclicLR", base_lr=0.1, max_lr=0.2, step_size_up=10) == pytest.approx(0.14)


# -- state dicts -------------------------------------------------------------------------------------------


def _roundtrip(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.thin
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", [*EVERY, *MEASURED])
@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "through a file"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_run_passes_between_ours_and_torchs_every_ten_steps(
    name: str, kind: str, saved: bool, fused: bool, host_backend: str, mirrored: bool
) -> None:
    """ours -> torch -> ours -> ...: the lr goes on with the bits of an uninterrupted run of torch."""
    if fused and name == "ReduceLROnPlateau":
        pytest.skip("a step needs the metric")
    lrs, arguments = [0.1, 0.03], {**DEFAULTS, **MEASURED}[name]
    oracle = optimizer(torch.optim, kind, lrs)
    expected = train(oracle, build(TORCH, name, oracle, **arguments), 60)

    made: Any = None
    scheduler: Any = None
    found = []
    for leg in range(6):
        previous = made, scheduler
        module, home = ((fused_sched.optim, OURS), (torch.optim, TORCH))[leg % 2]
        made = optimizer(module, kind, [0.9, 0.8] if leg else lrs)
        own = {"fused": True} if fused and home is OURS else {}
        scheduler = build(home, name, made, **arguments, **own)
        if leg:
            states = [x.state_dict() for x in previous]
            if saved:
                states = _roundtrip(states)
            with torch.no_grad():
                for mine, theirs in zip(made.param_groups, previous[0].param_groups, strict=True):
                    mine["params"][0].copy_(theirs["params"][0])
            made.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
            assert seen(made) == seen(previous[0])
            assert scheduler.get_last_lr() == previous[1].get_last_lr()
            assert position(scheduler) == position(previous[1])
            if name in LEAVES:
                assert scheduler.last_epoch == 10 * leg
        found += train(made, scheduler, 10)
    assert found == expected
    for mine, theirs in zip(made.param_groups, oracle.param_groups, strict=True):
        assert_close(mine["params"][0], theirs["params"][0])


def _types(state: Any) -> Any:
    """The types of everything in a state dict."""
    if isinstance(state, dict):
        return {key: _types(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state), [_types(value) for value in state]
    return type(state)


@pytest.mark.parametrize("name", [*EVERY, *MEASURED])
def test_state_dict_has_torchs_keys_and_values(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    for _ in range(12):
        assert pair.ours.state_dict() == pair.torchs.state_dict()
        assert _types(pair.ours.state_dict()) == _types(pair.torchs.state_dict())
        pair.step()
    assert list(pair.ours.state_dict()) == list(pair.torchs.state_dict())
    loaded = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    given = pair.torchs.state_dict()
    loaded.ours.load_state_dict(given)
    if name in NESTED:
        assert given == pair.torchs.state_dict()  # not taken apart
    assert loaded.ours.state_dict() == pair.torchs.state_dict()


@pytest.mark.parametrize("name", [*EVERY, *MEASURED])
def test_load_state_dict_leaves_the_optimizers_lr(name: str, host_backend: str, mirrored: bool) -> None:
    source = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(source, 6)
    target = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    before = seen(target.our_optimizer)
    target.ours.load_state_dict(source.ours.state_dict())
    target.torchs.load_state_dict(source.torchs.state_dict())
    assert seen(target.our_optimizer) == before
    compare_steps(target, 8)


def test_load_state_dict_brings_other_arguments(host_backend: str, mirrored: bool) -> None:
    """The saved constants win over those of the constructor, also where the program's structure changes."""
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "StepLR": ({"step_size": 5, "gamma": 0.25}, {"step_size": 2, "gamma": 0.5}),
        "MultiStepLR": ({"milestones": [3]}, {"milestones": [2, 4, 5, 6, 9], "gamma": 0.5}),
        "ExponentialLR": ({"gamma": 0.5}, {"gamma": 0.75}),
        "CosineAnnealingLR": ({"T_max": 3}, {"T_max": 8, "eta_min": 0.05}),
        "CyclicLR": (
            {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 3},
            {"base_lr": 0.2, "max_lr": 0.9, "step_size_up": 2, "mode": "exp_range", "gamma": 0.9},
        ),
        "LambdaLR": ({"lr_lambda": Decay(0.5)}, {"lr_lambda": Decay(0.8)}),
        "MultiplicativeLR": ({"lr_lambda": Decay(0.5)}, {"lr_lambda": Decay(0.9)}),
        "ConstantLR": ({"factor": 0.25, "total_iters": 7}, {"factor": 0.5, "total_iters": 5}),
        "LinearLR": ({"total_iters": 3}, {"start_factor": 0.5, "end_factor": 0.25, "total_iters": 9}),
        "PolynomialLR": ({"total_iters": 4}, {"total_iters": 12, "power": 2.0}),
        "CosineAnnealingWarmRestarts": ({"T_0": 2}, {"T_0": 3, "T_mult": 2, "eta_min": 0.01}),
        "OneCycleLR": (
            {"max_lr": 0.5, "total_steps": 40},
            {"max_lr": 0.9, "total_steps": 16, "three_phase": True, "anneal_strategy": "linear"},
        ),
        "SWALR": ({"swa_lr": 0.1}, {"swa_lr": 0.2, "anneal_epochs": 5, "anneal_strategy": "linear"}),
        "SequentialLR": (
            {"schedulers": Parts(("StepLR", {"step_size": 2}), ("ExponentialLR", {"gamma": 0.5})), "milestones": [2]},
            {"schedulers": Parts(("StepLR", {"step_size": 3}), ("ExponentialLR", {"gamma": 0.9})), "milestones": [6]},
        ),
        "ChainedScheduler": (
            {"schedulers": Parts(("MultiStepLR", {"milestones": [2]}), ("ExponentialLR", {"gamma": 0.5}))},
            {"schedulers": Parts(("MultiStepLR", {"milestones": [3, 4, 7]}), ("ExponentialLR", {"gamma": 0.9}))},
        ),
        "ReduceLROnPlateau": ({"patience": 0}, {"mode": "max", "factor": 0.5, "patience": 1, "cooldown": 2}),
    }
    assert set(changes) == set(EVERY)
    for name, (made_with, saved_with) in changes.items():
        source = twins(name, saved_with, lrs=[0.1, 0.3], backend=host_backend)
        compare_steps(source, 3)
        target = twins(name, made_with, lrs=[0.1, 0.3], backend=host_backend)
        compare_steps(target, 1)
        target.our_optimizer.load_state_dict(source.our_optimizer.state_dict())
        target.torch_optimizer.load_state_dict(source.torch_optimizer.state_dict())
        target.ours.load_state_dict(source.torchs.state_dict())
        target.torchs.load_state_dict(source.torchs.state_dict())
        compare_steps(target, 10)


def test_callable_objects_are_saved_as_their_attributes(host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.1], backend=host_backend)
    scheduler = LambdaLR(made, [Decay(0.5), inverse_square_root], horizon=8)
    assert scheduler.state_dict()["lr_lambdas"] == [{"rate": 0.5}, None]
    other = Decay(0.9)
    fresh = optimizer(fused_sched.optim, "SGD", [0.1, 0.1], backend=host_backend)
    loaded = LambdaLR(fresh, [other, inverse_square_root], horizon=8)
    loaded.load_state_dict(scheduler.state_dict())
    assert other.rate == 0.5
    loaded.step()
    assert fresh.param_groups[0]["lr"] == 0.05


def test_rows_computed_ahead_are_computed_anew_after_a_change(host_backend: str, mirrored: bool) -> None:
    pair = twins("LambdaLR", {"lr_lambda": Decay(0.5)}, lrs=[0.1], backend=host_backend, ours={"horizon": 16})
    pair.torchs.lr_lambdas = [Decay(0.5)]  # each its own
    compare_steps(pair, 2)  # rows 1 to 16 are there
    pair.both(lambda scheduler, _: scheduler.base_lrs.__setitem__(0, 0.9))
    compare_steps(pair, 2)
    other = twins("LambdaLR", {"lr_lambda": Decay(0.75)}, lrs=[0.9], backend=host_backend)
    compare_steps(other, 4)
    pair.both(lambda scheduler, _: scheduler.load_state_dict(other.torchs.state_dict()))
    assert pair.ours.lr_lambdas[0].rate == 0.75
    compare_steps(pair, 4)


# -- copies ------------------------------------------------------------------------------------------------


@pytest.mark.thin
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", [*EVERY, *MEASURED])
def test_copies_go_on_alike_and_apart(name: str, fused: bool, how: str, host_backend: str, mirrored: bool) -> None:
    def copied(x: Any) -> Any:
        if how == "deepcopy":
            return copy.deepcopy(x)
        if how == "pickle":
            return pickle.loads(pickle.dumps(x))
        file = io.BytesIO()
        torch.save(x, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    if fused and name == "ReduceLROnPlateau":
        pytest.skip("a step needs the metric")
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": True} if fused else {})
    for _ in range(4):
        pair.optimizer_step()
        pair.step()
    made, scheduler = copied((pair.our_optimizer, pair.ours))
    assert scheduler.optimizer is made
    assert made is not pair.our_optimizer
    assert seen(made) == seen(pair.our_optimizer)
    assert scheduler.state_dict() == pair.ours.state_dict()
    assert scheduler._fused is fused
    before = seen(made)
    for _ in range(6):
        pair.optimizer_step()
        pair.step()
    assert seen(made) == before  # the copy did not move
    found = train(made, scheduler, 6)
    assert found[-1] == seen(pair.our_optimizer) == seen(pair.torch_optimizer)
    if how == "deepcopy":
        lone = copy.deepcopy(pair.ours)
        assert lone.optimizer is not pair.our_optimizer
        assert train(lone.optimizer, lone, 1)[0] == train(pair.our_optimizer, pair.ours, 1)[0]


# -- lifetime ----------------------------------------------------------------------------------------------


def test_optimizers_and_schedulers_are_collected(host_backend: str, mirrored: bool) -> None:
    def leave_behind(name: str, fused: bool) -> list[weakref.ref[Any]]:
        made = single(host_backend)
        arguments = {**DEFAULTS, **MEASURED}[name]
        scheduler = build(OURS, name, made, **arguments, **({"fused": True} if fused else {}))
        made.param_groups[0]["params"][0].grad = torch.ones(3)
        made.step()
        advance(scheduler)
        return [weakref.ref(x) for x in (made, scheduler, scheduler._schedule.memory.tensor, made._block.tensor)]

    kinds = [(name, fused) for name in (*EVERY, *MEASURED) for fused in (False, True)]
    kinds.remove(("ReduceLROnPlateau", True))
    alive = {kind: leave_behind(*kind) for kind in kinds}
    gc.collect()
    assert {key: [ref() for ref in refs] for key, refs in alive.items()} == dict.fromkeys(alive, [None] * 4)


def test_program_can_be_printed(host_backend: str) -> None:
    scheduler = StepLR(single(host_backend), 3)
    assert str(scheduler.program).startswith("program StepLR: ")
    assert MultiStepLR(single(host_backend), [2]).program.fields_written == {"lr"}
