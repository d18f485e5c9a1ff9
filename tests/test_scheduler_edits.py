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
    assert_alike,
    build,
    compare_steps,
    optimizer,
    parameters,
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


@pytest.mark.parametrize("name", FIXED)
def test_group_added_later_is_an_error_where_it_is_one_in_torch(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    compare_steps(pair, 2)
    raised = []
    for made, scheduler in ((pair.our_optimizer, pair.ours), (pair.torch_optimizer, pair.torchs)):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
        with pytest.raises(Exception) as caught:  # the oracle says which
            scheduler.step()
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


def test_group_added_to_a_sequence_with_a_part_for_as_many_groups_as_before(host_backend: str, mirrored: bool) -> None:
    """The whole goes to the host, since its last part could not go on; it fails where torch fails."""
    arguments = {"schedulers": Parts(("StepLR", {"step_size": 2}), ("SWALR", {"swa_lr": 0.1})), "milestones": [6]}
    pair = twins("SequentialLR", arguments, lrs=[0.1], backend=host_backend)
    compare_steps(pair, 2)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    compare_steps(pair, 3)
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(KeyError, match="swa_lr"):
            scheduler.step()


def test_group_added_to_cosine_works_until_the_trough_as_in_torch(host_backend: str, mirrored: bool) -> None:
    pair = twins("CosineAnnealingLR", {"T_max": 5}, lrs=[0.1], backend=host_backend)
    compare_steps(pair, 2)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    for _ in range(3):
        compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        assert pair.ours.state_dict() == pair.torchs.state_dict()
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(ValueError, match="longer than argument"):
            scheduler.step()


@pytest.mark.parametrize("name", [*FIXED, "CosineAnnealingLR", "SequentialLR"])
def test_fused_schedule_of_fewer_groups_is_refused_before_anything_changes(
    name: str, host_backend: str, mirrored: bool
) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend, ours={"fused": True})
    made = pair.our_optimizer
    made.add_param_group({"params": parameters(1), "lr": 0.25})
    for group in made.param_groups:
        group["params"][0].grad = torch.ones(3)
    weights = [g["params"][0].detach().clone() for g in made.param_groups]
    before = seen(made)
    message = f"^{name} was made for 1 param groups, but the optimizer has 2: make a new scheduler"
    with pytest.raises(ValueError, match=message):
        made.step()
    assert seen(made) == before
    assert all(torch.equal(g["params"][0], w) for g, w in zip(made.param_groups, weights, strict=True))


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
        assert lr.item() == theirs.param_groups[0]["lr"]  # the same live view all along
        last = scheduler.get_last_lr()
        assert [(type(x), x.dtype, x.item()) for x in last] == [(torch.Tensor, torch.float64, lr.item())]
        last[0].zero_()
        assert lr.item() == theirs.param_groups[0]["lr"]
    assert [float(x) for x in kept] == kept_values
