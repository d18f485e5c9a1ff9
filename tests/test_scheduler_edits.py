"""What users change by hand while a schedule runs: attributes, groups, the lr's type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    NAMES,
    OURS,
    TORCH,
    Decay,
    Parts,
    Recorder,
    Twins,
    assert_alike,
    build,
    compare_steps,
    optimizer,
    parameters,
    position,
    seen,
    single,
    twins,
)

import fused_sched
from fused_sched.lr_scheduler import StepLR

# -- edits by hand -----------------------------------------------------------------------------------------


def _assign(name: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda scheduler, _: setattr(scheduler, name, value)


def _item(name: str, index: int, value: Any) -> Callable[[Any, Any], None]:
    def act(scheduler: Any, _: Any) -> None:
        getattr(scheduler, name)[index] = value

    return act


ATTRIBUTE_EDITS: dict[str, tuple[str, Callable[[Any, Any], None]]] = {
    "StepLR gamma": ("StepLR", _assign("gamma", 0.25)),
    "StepLR step_size": ("StepLR", _assign("step_size", 2)),
    "StepLR last_epoch": ("StepLR", _assign("last_epoch", 1)),
    "StepLR last_epoch -1": ("StepLR", _assign("last_epoch", -1)),
    "MultiStepLR last_epoch -1": ("MultiStepLR", _assign("last_epoch", -1)),
    "ExponentialLR last_epoch -1": ("ExponentialLR", _assign("last_epoch", -1)),
    "CosineAnnealingLR last_epoch -1": ("CosineAnnealingLR", _assign("last_epoch", -1)),
    "CosineAnnealingLR _step_count 0": ("CosineAnnealingLR", _assign("_step_count", 0)),
    "CyclicLR last_epoch": ("CyclicLR", _assign("last_epoch", 100)),
    "MultiStepLR gamma": ("MultiStepLR", _assign("gamma", 0.25)),
    "MultiStepLR milestones, as many": ("MultiStepLR", _assign("milestones", Counter([6, 7, 8]))),
    "MultiStepLR milestones, more": ("MultiStepLR", _assign("milestones", Counter([6, 7, 8, 8, 11, 12]))),
    "MultiStepLR milestones, none": ("MultiStepLR", _assign("milestones", Counter())),
    "MultiStepLR milestone added": ("MultiStepLR", lambda s, _: s.milestones.update([6, 6])),
    "ExponentialLR gamma": ("ExponentialLR", _assign("gamma", 1.5)),
    "CosineAnnealingLR T_max": ("CosineAnnealingLR", _assign("T_max", 12)),
    "CosineAnnealingLR eta_min": ("CosineAnnealingLR", _assign("eta_min", 0.05)),
    "CosineAnnealingLR base_lrs": ("CosineAnnealingLR", _item("base_lrs", 0, 0.9)),
    "CosineAnnealingLR last_epoch": ("CosineAnnealingLR", _assign("last_epoch", 9)),
    "CyclicLR base_lrs": ("CyclicLR", _item("base_lrs", 1, 0.3)),
    "CyclicLR max_lrs": ("CyclicLR", _item("max_lrs", 0, 0.9)),
    "CyclicLR total_size": ("CyclicLR", _assign("total_size", 10.0)),
    "CyclicLR base_momentums": ("CyclicLR", _item("base_momentums", 0, 0.1)),
    "CyclicLR max_momentums": ("CyclicLR", _assign("max_momentums", [0.5, 0.6])),
    "CyclicLR cycle_momentum": ("CyclicLR", _assign("cycle_momentum", False)),
    "CyclicLR last_epoch -1": ("CyclicLR", _assign("last_epoch", -1)),
    "ConstantLR factor": ("ConstantLR", _assign("factor", 0.75)),
    "ConstantLR total_iters": ("ConstantLR", _assign("total_iters", 9)),
    "ConstantLR last_epoch": ("ConstantLR", _assign("last_epoch", -1)),
    "LinearLR start_factor": ("LinearLR", _assign("start_factor", 0.5)),
    "LinearLR end_factor": ("LinearLR", _assign("end_factor", 0.125)),
    "LinearLR total_iters": ("LinearLR", _assign("total_iters", 12)),
    "LinearLR last_epoch": ("LinearLR", _assign("last_epoch", -1)),
    "PolynomialLR power": ("PolynomialLR", _assign("power", 0.5)),
    "PolynomialLR total_iters": ("PolynomialLR", _assign("total_iters", 11)),
    "PolynomialLR last_epoch": ("PolynomialLR", _assign("last_epoch", -1)),
    "WarmRestarts T_0": ("CosineAnnealingWarmRestarts", _assign("T_0", 7)),
    "WarmRestarts T_mult": ("CosineAnnealingWarmRestarts", _assign("T_mult", 3)),
    "WarmRestarts eta_min": ("CosineAnnealingWarmRestarts", _assign("eta_min", 0.05)),
    "WarmRestarts T_cur": ("CosineAnnealingWarmRestarts", _assign("T_cur", 0)),
    "WarmRestarts T_cur with a fraction": ("CosineAnnealingWarmRestarts", _assign("T_cur", 1.5)),
    "WarmRestarts T_i": ("CosineAnnealingWarmRestarts", _assign("T_i", 5)),
    "WarmRestarts base_lrs": ("CosineAnnealingWarmRestarts", _item("base_lrs", 1, 0.9)),
    "WarmRestarts last_epoch": ("CosineAnnealingWarmRestarts", _assign("last_epoch", -1)),
    "OneCycleLR total_steps": ("OneCycleLR", _assign("total_steps", 300)),
    "OneCycleLR last_epoch": ("OneCycleLR", _assign("last_epoch", 200)),
    "OneCycleLR cycle_momentum": ("OneCycleLR", _assign("cycle_momentum", False)),
    "OneCycleLR strategy": ("OneCycleLR", _assign("_anneal_func_type", "linear")),
    "OneCycleLR end of a phase": ("OneCycleLR", lambda s, _: s._schedule_phases[0].update(end_step=9.5)),
    "SWALR anneal_epochs": ("SWALR", _assign("anneal_epochs", 12)),
    "SWALR strategy": ("SWALR", lambda s, _: s._set_anneal_func("linear")),
    "SWALR _step_count": ("SWALR", _assign("_step_count", 2)),
    "MultiplicativeLR lr_lambdas": ("MultiplicativeLR", _item("lr_lambdas", 1, Decay(0.9))),
    "MultiplicativeLR last_epoch": ("MultiplicativeLR", _assign("last_epoch", 40)),
    "SequentialLR milestone": ("SequentialLR", _item("_milestones", 1, 12)),
    "SequentialLR last_epoch": ("SequentialLR", _assign("last_epoch", 6)),
    "SequentialLR part's gamma": ("SequentialLR", lambda s, _: setattr(s._schedulers[2], "gamma", 0.25)),
    "SequentialLR part's last_epoch": ("SequentialLR", lambda s, _: setattr(s._schedulers[1], "last_epoch", 5)),
    "ChainedScheduler part's gamma": ("ChainedScheduler", lambda s, _: setattr(s._schedulers[1], "gamma", 0.25)),
    "ChainedScheduler part's epoch": ("ChainedScheduler", lambda s, _: setattr(s._schedulers[0], "last_epoch", -1)),
    "LambdaLR base_lrs": ("LambdaLR", _item("base_lrs", 0, 5.0)),
    "LambdaLR lr_lambdas": ("LambdaLR", _item("lr_lambdas", 1, Decay(0.5))),
    "LambdaLR last_epoch": ("LambdaLR", _assign("last_epoch", 40)),
    "LambdaLR _step_count": ("LambdaLR", _assign("_step_count", 77)),
}


@pytest.mark.parametrize("what", ATTRIBUTE_EDITS)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_attributes_changed_by_hand_are_honoured(what: str, fused: bool, host_backend: str, mirrored: bool) -> None:
    name, edit = ATTRIBUTE_EDITS[what]
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": fused})
    for step in range(16):
        if step == 4:
            pair.both(edit)
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        assert pair.ours.state_dict() == pair.torchs.state_dict()


def test_attributes_changed_in_a_way_torch_fails_on_later_are_refused(host_backend: str, mirrored: bool) -> None:
    scheduler = StepLR(single(host_backend), 3)
    scheduler.step()
    scheduler.step_size = 0
    with pytest.raises(ValueError, match=r"^step_size=0 must not be 0"):
        scheduler.step()
    scheduler.step_size = 2
    scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


# -- more groups -------------------------------------------------------------------------------------------


GROW = ("StepLR", "MultiStepLR", "ExponentialLR", "ConstantLR", "LinearLR", "PolynomialLR", "ChainedScheduler")
FIXED = ("LambdaLR", "CyclicLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "SWALR", "MultiplicativeLR")


@pytest.mark.parametrize("name", GROW)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_group_added_later_is_scheduled_too(name: str, fused: bool, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend, ours={"fused": fused})
    for step in range(20):
        if step in (3, 7):
            for made in (pair.our_optimizer, pair.torch_optimizer):
                made.add_param_group({"params": parameters(2), "lr": 0.25 + step})
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        assert pair.ours.state_dict() == pair.torchs.state_dict()


def _add_a_group(pair: Twins) -> None:
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})


def _assert_same_exception(pair: Twins) -> None:
    """From the coming step; ours has it again at the next, and nothing changed."""
    pair.optimizer_step()
    before = seen(pair.our_optimizer), position(pair.ours)
    raised = []
    for scheduler in (pair.torchs, pair.ours, pair.ours):
        with pytest.raises(Exception) as caught:  # the oracle says which
            scheduler.step()
        if raised:
            pair.our_optimizer.step()
        raised.append((caught.type, str(caught.value)))
    assert raised[1:] == raised[:1] * 2
    assert (seen(pair.our_optimizer), position(pair.ours)) == before


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", FIXED)
def test_group_added_later_is_an_error_where_it_is_one_in_torch(
    name: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend, ours={"fused": fused})
    for _ in range(2):
        pair.optimizer_step()
        compare_steps(pair, 1)
    _add_a_group(pair)
    _assert_same_exception(pair)


_ONE_CYCLE = ("OneCycleLR", {"max_lr": 0.5, "total_steps": 90})
_STEP, _SWA = ("StepLR", {"step_size": 2}), ("SWALR", {"swa_lr": 0.1})
_LAMBDA, _RECORDER = ("LambdaLR", {"lr_lambda": Decay(0.9)}), ("LambdaLR", {"lr_lambda": Recorder()})
# Schedules that go on with another group until something is read that has one number for each of the first groups.
UNTIL_6: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine": ("CosineAnnealingLR", {"T_max": 5}),
    "key of a group": ("SequentialLR", {"schedulers": Parts(_STEP, _SWA), "milestones": [6]}),
    "closed form": ("SequentialLR", {"schedulers": Parts(_STEP, _STEP), "milestones": [6]}),
    "functions": ("SequentialLR", {"schedulers": Parts(_STEP, _LAMBDA), "milestones": [6]}),
    "table": ("SequentialLR", {"schedulers": Parts(_STEP, _RECORDER), "milestones": [6]}),
    "chain": ("ChainedScheduler", {"schedulers": Parts(_STEP, ("CosineAnnealingLR", {"T_max": 5}))}),
}


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("case", UNTIL_6)
def test_group_added_later_is_scheduled_until_torch_fails(
    case: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    name, arguments = UNTIL_6[case]
    pair = twins(name, arguments, lrs=[0.1], backend=host_backend, ours={"fused": fused})
    for step in range(5):
        if step == 2:
            _add_a_group(pair)
        pair.optimizer_step()
        compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        if name != "SequentialLR" or case == "closed form":  # functions are not the same objects
            assert pair.ours.state_dict() == pair.torchs.state_dict()
    _assert_same_exception(pair)


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_state_of_fewer_groups_goes_on_where_torchs_does(fused: bool, host_backend: str, mirrored: bool) -> None:
    """The parts that would fail have been left."""
    restarts, cyclic = ("CosineAnnealingWarmRestarts", {"T_0": 3}), ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5})
    arguments = {"schedulers": Parts(_ONE_CYCLE, restarts, cyclic, _STEP), "milestones": [2, 4, 6]}
    kwargs: dict[str, Any] = {"backend": host_backend, "ours": {"fused": fused}}
    old = twins("SequentialLR", arguments, lrs=[0.1], **kwargs)
    for _ in range(7):
        old.optimizer_step()
        compare_steps(old, 1)
    _add_a_group(old)
    new = twins("SequentialLR", arguments, lrs=[0.1, 0.2], **kwargs)
    new.our_optimizer.load_state_dict(old.our_optimizer.state_dict())
    new.torch_optimizer.load_state_dict(old.torch_optimizer.state_dict())
    new.ours.load_state_dict(old.ours.state_dict())
    new.torchs.load_state_dict(old.torchs.state_dict())
    assert new.ours.get_last_lr() == new.torchs.get_last_lr()
    for _ in range(7):
        new.optimizer_step()
        compare_steps(new, 1)
        assert new.ours.get_last_lr() == new.torchs.get_last_lr()


def test_group_taken_away(host_backend: str, mirrored: bool) -> None:
    for fused in (False, True):
        pair = twins("ExponentialLR", lrs=[0.1, 0.2, 0.3], backend=host_backend, ours={"fused": fused})
        for step in range(9):
            if step == 4:
                pair.edit(lambda groups: groups.pop(1))
            if step == 7:
                pair.edit(lambda groups: groups.pop())
            pair.optimizer_step()
            pair.step()
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
            assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()


@pytest.mark.parametrize("first", ["optimizer", "scheduler"])
def test_groups_reordered_and_put_in_by_hand(first: str, host_backend: str, mirrored: bool) -> None:
    arguments = {"lr_lambda": [Decay(0.5), Decay(0.25), Decay(0.125)]}
    pair = twins("LambdaLR", arguments, lrs=[0.1, 0.2, 0.3], backend=host_backend)
    pair.optimizer_step()
    pair.step()
    pair.edit(lambda groups: groups.reverse())
    if first == "optimizer":
        pair.optimizer_step()
    for _ in range(3):
        compare_steps(pair, 1)
        pair.optimizer_step()

    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend)
    pair.edit(lambda groups: groups.append({**groups[0], "params": parameters(1), "lr": 0.8}))
    if first == "optimizer":
        pair.optimizer_step()
    for _ in range(3):
        compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        pair.optimizer_step()


def test_schedule_follows_a_control_block_that_had_to_grow(host_backend: str, mirrored: bool) -> None:
    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend)
    memory = pair.our_optimizer._block.tensor
    for made in (pair.our_optimizer, pair.torch_optimizer):
        for _ in range(80):
            made.add_param_group({"params": parameters(1), "initial_lr": 0.5})
    for _ in range(3):
        pair.optimizer_step()
        compare_steps(pair, 1)
    assert pair.our_optimizer._block.tensor is not memory


# -- tensor lr ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tensor_lr_follows_the_float_path_in_float64(name: str, host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [torch.tensor(0.1, dtype=torch.float64)], backend=host_backend)
    scheduler = build(OURS, name, made, **DEFAULTS[name])
    theirs = optimizer(torch.optim, "SGD", [0.1])
    oracle = build(TORCH, name, theirs, **DEFAULTS[name])
    lr = made.param_groups[0]["lr"]
    assert isinstance(lr, torch.Tensor)
    kept = scheduler.get_last_lr()
    kept_values = [float(x) for x in kept]
    for _ in range(12):
        scheduler.step()
        oracle.step()
        assert lr.item() == theirs.param_groups[0]["lr"]  # the same tensor all along
        last = scheduler.get_last_lr()
        assert [(type(x), x.dtype, x.item()) for x in last] == [(torch.Tensor, torch.float64, lr.item())]
        last[0].zero_()
        assert lr.item() == theirs.param_groups[0]["lr"]
    assert [float(x) for x in kept] == kept_values


@pytest.mark.parametrize("mode", ["triangular2", "exp_range"])
def test_cyclic_scale_is_what_was_bound_at_construction(mode: str, host_backend: str, mirrored: bool) -> None:
    """Edits of gamma and mode do nothing until a state is loaded, as in torch."""
    pair = twins(
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "mode": mode, "gamma": 0.9},
        lrs=[0.1],
        backend=host_backend,
    )
    for step in range(12):
        if step == 4:
            for scheduler in (pair.ours, pair.torchs):
                scheduler.gamma, scheduler.mode = 0.5, "exp_range"
        if step == 8:
            for scheduler in (pair.ours, pair.torchs):
                scheduler.load_state_dict(scheduler.state_dict())
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
