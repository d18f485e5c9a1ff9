"""Loads: where torch's go on, after groups came and went too; and all or nothing where they are refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import DEFAULTS, EVERY, Parts, advance, build

from identity.lockstep import OPTIONS, REFUSALS, STATEFUL, Lockstep, Side, snapshot

TWO = [{"params": [0, 1], "lr": 0.1}, {"params": [2], "lr": 0.05}]
FRESH = 4

State = dict[str, Any]

# -- a group added in mid-run, then a state loaded ----------------------------------------------------------


def _own(pair: Lockstep) -> None:
    pair.both(lambda side: side.schedulers[0].load_state_dict(side.schedulers[0].state_dict()))


def _torchs(pair: Lockstep) -> None:
    state = pair.torchs.schedulers[0].state_dict()
    pair.both(lambda side: side.schedulers[0].load_state_dict(copy.deepcopy(state)))


def _ours(pair: Lockstep) -> None:
    state = pair.ours.schedulers[0].state_dict()
    pair.both(lambda side: side.schedulers[0].load_state_dict(copy.deepcopy(state)))


def _both_of_them(pair: Lockstep) -> None:
    # torch refuses where a parameter that is in no group any more has a state
    pair.alike(lambda side: side.optimizer.load_state_dict(side.optimizer.state_dict()))
    _own(pair)


LOADS = {"own": _own, "torch's": _torchs, "ours": _ours, "the optimizer's too": _both_of_them}


def _drive(pair: Lockstep) -> bool:
    """A step of optimizer and scheduler; False where torch's scheduler cannot go on, and ours cannot either."""
    pair.gradients()
    pair.both(lambda side: side.optimizer.step())
    trial = copy.deepcopy(pair.torchs.schedulers[0])
    try:
        advance(trial)
    except REFUSALS as reason:
        with pytest.raises(type(reason)):
            advance(pair.ours.schedulers[0])
        pair.check("refused")  # torch's has not tried
        return False
    pair.both(lambda side: advance(side.schedulers[0]))
    pair.check()
    return True


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("change", ["add", "add two", "delete", "delete and add"])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", EVERY)
def test_a_state_is_loaded_after_groups_came_and_went(
    name: str, load: str, change: str, fused: bool, host_backend: str
) -> None:
    if fused and name == "ReduceLROnPlateau":
        pytest.skip("its step needs a metric")
    pair = Lockstep("SGD", TWO, host_backend, momentum=0.5)
    ours = {"fused": True} if fused else {}
    pair.both(
        lambda side: side.schedulers.append(
            build(side.home, name, side.optimizer, **DEFAULTS[name], **(ours if side.is_ours else {}))
        )
    )
    for _ in range(3):
        assert _drive(pair)
    if change.startswith("delete"):
        pair.both(lambda side: side.groups.pop(0))
    for new in {"add": [3], "add two": [3, 4], "delete and add": [3]}.get(change, []):
        pair.both(lambda side, new=new: side.optimizer.add_param_group({"params": [side.params[new]], "lr": 0.2}))
    LOADS[load](pair)
    pair.check("loaded")
    for _ in range(9):
        if not _drive(pair):
            break


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_a_sequence_with_groups_added_is_loaded(fused: bool, host_backend: str, mirrored: bool) -> None:
    parts = Parts(("StepLR", {"step_size": 2, "gamma": 0.5}), ("StepLR", {"step_size": 3, "gamma": 0.9}))
    pair = Lockstep("AdamW", TWO[:1], host_backend)
    ours = {"fused": True} if fused else {}
    arguments = {"schedulers": parts, "milestones": [20]}
    pair.both(
        lambda side: side.schedulers.append(
            build(side.home, "SequentialLR", side.optimizer, **arguments, **(ours if side.is_ours else {}))
        )
    )
    pair.step(3)
    pair.both(lambda side: side.optimizer.add_param_group({"params": [side.params[2]], "lr": 0.2}))
    for load in LOADS.values():
        load(pair)
        pair.check("loaded")
        pair.step(2)


# -- loads of an optimizer that are refused ------------------------------------------------------------------


def _group(**values: Any) -> Callable[[State], None]:
    return lambda state: state["param_groups"][1].update(values)


def _without(key: str) -> Callable[[State], None]:
    return lambda state: state["param_groups"][1].pop(key)


def _step(value: Any) -> Callable[[State], None]:
    return lambda state: state["state"][1].update(step=value)


def _state_without(key: str) -> Callable[[State], None]:
    return lambda state: state["state"][1].pop(key)


Fault = tuple[Callable[[State], Any], type[Exception] | tuple[type[Exception], ...]]
ANY = (ValueError, TypeError, KeyError)
FAULTS: dict[str, Fault] = {
    "lr of letters": (_group(lr="abc"), ANY),
    "lr of two elements": (_group(lr=torch.ones(2)), ANY),
    "lr of None": (_group(lr=None), ANY),
    "weight_decay of letters": (_group(weight_decay="abc"), ANY),
    "no lr": (_without("lr"), KeyError),
    "no weight_decay": (_without("weight_decay"), KeyError),
    "no params": (_without("params"), ANY),
    "a group too few": (lambda state: state["param_groups"].pop(), ValueError),
    "a parameter too few": (lambda state: state["param_groups"][0]["params"].pop(), ValueError),
    "no groups": (lambda state: state.pop("param_groups"), KeyError),
    "no state": (lambda state: state.pop("state"), KeyError),
}
ADAM_FAULTS: dict[str, Fault] = {
    "betas of one": (_group(betas=(0.9,)), ANY),
    "betas of three": (_group(betas=(0.9, 0.9, 0.9)), ANY),
    "betas of letters": (_group(betas=("a", 0.9)), ANY),
    "betas of None": (_group(betas=None), ANY),
    "eps of letters": (_group(eps="abc"), ANY),
    "no betas": (_without("betas"), KeyError),
    "no eps": (_without("eps"), KeyError),
    "no exp_avg": (_state_without("exp_avg"), KeyError),
    "no exp_avg_sq": (_state_without("exp_avg_sq"), KeyError),
    "no step": (_state_without("step"), KeyError),
    **{
        f"step of {kind.__name__} {value}": (_step(kind(value)), ValueError)
        for value in (math.nan, math.inf, -math.inf, 1e30, -1.0, 2.5)
        for kind in (torch.tensor, float)
    },
    "step of an int -1": (_step(-1), ValueError),
    "step of letters": (_step("abc"), TypeError),
    "step of None": (_step(None), TypeError),
    "step in a list": (_step([3.0]), TypeError),
    "step of two elements": (_step(torch.ones(2)), TypeError),
}
CASES = [
    *((kind, case, fault) for kind, case in STATEFUL for fault in FAULTS),
    *((kind, case, fault) for kind, case in STATEFUL if kind != "SGD" for fault in ADAM_FAULTS),
    *(("SGD", "momentum", fault) for fault in ("no momentum", "no dampening", "momentum of letters")),
    ("AdamW", "amsgrad", "no max_exp_avg_sq"),
]
ALL_FAULTS = {
    **FAULTS,
    **ADAM_FAULTS,
    "no momentum": (_without("momentum"), KeyError),
    "no dampening": (_without("dampening"), KeyError),
    "momentum of letters": (_group(momentum="abc"), ANY),
    "no max_exp_avg_sq": (_state_without("max_exp_avg_sq"), KeyError),
}


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(("kind", "case", "fault"), CASES)
def test_a_refused_load_changes_nothing(
    kind: str, case: str, fault: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    pair = Lockstep(kind, TWO, host_backend, **OPTIONS[kind][case])
    pair.both(lambda side: side.schedulers.append(side.build("CosineAnnealingLR", T_max=9, ours={"fused": fused})))
    pair.step()
    state = copy.deepcopy(pair.ours.optimizer.state_dict())
    pair.step(2)  # so that the state, too, is another one
    spoil, reason = ALL_FAULTS[fault]
    spoil(state)
    if "param_groups" in state:
        state["param_groups"][0]["lr"] = 0.77  # a group that would be good
    before, kept = snapshot(pair.ours), copy.deepcopy(state)
    for _ in range(2):
        with pytest.raises(reason):
            pair.ours.optimizer.load_state_dict(state)
        assert snapshot(pair.ours) == before
        pair.check(fault)
    assert repr(state) == repr(kept), "what was given was changed"
    pair.step(2)
    pair.both(lambda side: side.groups[1].update(lr=0.3))
    pair.step(2)


OLD_KEYS = {"SGD": ["maximize", "foreach", "differentiable", "fused", "nesterov"],
            "Adam": ["amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused",
                     "decoupled_weight_decay"]}  # fmt: skip


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in OLD_KEYS.items() for key in keys])
def test_what_torch_fills_in_is_filled_in(kind: str, key: str, host_backend: str) -> None:
    """Keys that older versions of torch did not write."""
    pair = Lockstep(kind, TWO, host_backend)
    pair.step(2)
    state = pair.torchs.optimizer.state_dict()
    for group in state["param_groups"]:
        del group[key]
    pair.both(lambda side: side.optimizer.load_state_dict(copy.deepcopy(state)))
    pair.step(2)


STEP_FAULTS = {name: fault for name, fault in ADAM_FAULTS.items() if name.startswith("step of")}


@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_a_step_assigned_by_hand_is_checked_too(fault: str, host_backend: str, mirrored: bool) -> None:
    pair = Lockstep("Adam", TWO, host_backend)
    pair.step(2)
    wrong: State = {"state": {1: {}}}
    STEP_FAULTS[fault][0](wrong)
    with pytest.raises(STEP_FAULTS[fault][1]):
        pair.ours.state[pair.ours.params[1]]["step"] = wrong["state"][1]["step"]
    pair.check(fault)
    pair.step(2)


# -- loads of a scheduler ------------------------------------------------------------------------------------

SCHEDULER_FAULTS: dict[str, Callable[[State], Any]] = {
    "last_epoch of letters": lambda state: state.update(last_epoch="abc"),
    "last_epoch of None": lambda state: state.update(last_epoch=None),
    "last_epoch of NaN": lambda state: state.update(last_epoch=math.nan),
    "base_lrs of letters": lambda state: state.update(base_lrs=["abc", "abc"]),
    "base_lrs of None": lambda state: state.update(base_lrs=None),
    "base_lrs too long": lambda state: state.update(base_lrs=[0.1] * 5),
    "base_lrs too short": lambda state: state.update(base_lrs=[]),
    "_last_lr of letters": lambda state: state.update(_last_lr=["abc", "abc"]),
    "_last_lr too long": lambda state: state.update(_last_lr=[0.1] * 5),
    "T_max of letters": lambda state: state.update(T_max="abc"),
    "gamma of letters": lambda state: state.update(gamma="abc"),
    "milestones of letters": lambda state: state.update(milestones="abc", _milestones="abc"),
    "total_iters of None": lambda state: state.update(total_iters=None),
    "no parts": lambda state: state.pop("_schedulers", None),
    "a part too few": lambda state: state.get("_schedulers", []).pop(),
    "parts of letters": lambda state: state.update(_schedulers="abc") if "_schedulers" in state else None,
    "a part that is wrong": lambda state: state.get("_schedulers", [{}])[-1].update(last_epoch="abc"),
}


@pytest.mark.thin
@pytest.mark.parametrize("fault", SCHEDULER_FAULTS)
@pytest.mark.parametrize("name", EVERY)
def test_a_refused_load_of_a_scheduler_changes_nothing(
    name: str, fault: str, host_backend: str, mirrored: bool
) -> None:
    """What torch takes in, to fail later, may be refused at once; but then nothing may have changed."""
    pair = Lockstep("SGD", TWO, host_backend, momentum=0.5)
    pair.both(lambda side: side.schedulers.append(build(side.home, name, side.optimizer, **DEFAULTS[name])))
    for _ in range(3):
        assert _drive(pair)
    state = copy.deepcopy(pair.ours.schedulers[0].state_dict())
    for _ in range(2):
        assert _drive(pair)
    try:
        SCHEDULER_FAULTS[fault](state)
    except (IndexError, KeyError):
        return  # it has no such part
    before = snapshot(pair.ours)
    try:
        pair.ours.schedulers[0].load_state_dict(state)
    except REFUSALS:
        assert snapshot(pair.ours) == before
        assert _drive(pair)
        assert _drive(pair)


def _side_state(side: Side) -> State:
    return copy.deepcopy(side.optimizer.state_dict())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "case"), STATEFUL)
def test_loads_in_every_direction_after_groups_moved(kind: str, case: str, host_backend: str, mirrored: bool) -> None:
    pair = Lockstep(kind, [*TWO, {"params": [3], "lr": 0.3}], host_backend, **OPTIONS[kind][case])
    pair.step(2)
    pair.both(lambda side: side.groups.reverse())
    ours, torchs = _side_state(pair.ours), _side_state(pair.torchs)
    pair.step(2)
    pair.ours.optimizer.load_state_dict(torchs)
    pair.torchs.optimizer.load_state_dict(ours)
    pair.check("each other's")
    pair.step(2)
    pair.both(lambda side: side.optimizer.add_param_group({"params": [side.params[FRESH]], "lr": 0.2}))
    pair.step()
    state = _side_state(pair.ours)
    pair.both(lambda side: side.groups.insert(0, side.groups.pop()))
    # by position, as in torch, where the number of parameters in each group fits
    pair.alike(lambda side: side.optimizer.load_state_dict(copy.deepcopy(state)))
    pair.check("by position")
    pair.both(lambda side: side.groups.append(side.groups.pop(0)))
    pair.both(lambda side: side.optimizer.load_state_dict(copy.deepcopy(state)))
    pair.step(2)
