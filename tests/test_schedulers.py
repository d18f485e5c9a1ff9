"""The schedulers' interface: torch's constructors, errors, warnings and state, and what fused=True adds."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import io
import pickle
import random
import re
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    NAMES,
    Decay,
    Twins,
    assert_alike,
    inverse_square_root,
    optimizer,
    parameters,
    patience,
    random_lrs,
    seen,
    twins,
)
from tolerances import SCHEDULE_RELATIVE, UPDATE_RELATIVE
from torch.optim import lr_scheduler as torch_lr_scheduler

import fused_sched
from fused_sched import lr_scheduler
from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, ExponentialLR, LambdaLR, MultiStepLR, StepLR

OURS_ONLY = {"fused", "skip_with_optimizer", "lookahead"}


def _compare_steps(pair: Twins, steps: int, relative: float = 0.0) -> None:
    for step in range(1, steps + 1):
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), relative, f"{step} steps on")
        assert pair.ours.last_epoch == pair.torchs.last_epoch


def _single(backend: str | None = None, lr: float = 0.1, **options: Any) -> Any:
    return optimizer(fused_sched.optim, "SGD", [lr], backend=backend, **options)


# -- constructors ----------------------------------------------------------------------------------------


def test_all_six_are_exported_and_are_torchs() -> None:
    assert sorted(lr_scheduler.__all__) == sorted(NAMES)
    for name in NAMES:
        assert issubclass(getattr(lr_scheduler, name), getattr(torch_lr_scheduler, name))
        assert getattr(lr_scheduler, name).__name__ == name


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs_and_three_keywords(name: str) -> None:
    ours = inspect.signature(getattr(lr_scheduler, name)).parameters
    theirs = inspect.signature(getattr(torch_lr_scheduler, name)).parameters
    shared = [(p.name, p.kind, p.default) for p in ours.values() if p.name not in OURS_ONLY]
    assert shared == [(p.name, p.kind, p.default) for p in theirs.values()]
    extra = set(ours) - set(theirs)
    assert extra == (OURS_ONLY if name in ("LambdaLR", "CyclicLR") else OURS_ONLY - {"lookahead"})
    assert all(ours[key].kind is inspect.Parameter.KEYWORD_ONLY for key in extra)
    assert (ours["fused"].default, ours["skip_with_optimizer"].default) == (False, False)
    if "lookahead" in ours:
        assert ours["lookahead"].default == 1


@pytest.mark.parametrize("name", NAMES)
def test_positional_arguments_and_attributes_as_in_torch(name: str, host_backend: str) -> None:
    names = list(inspect.signature(getattr(torch_lr_scheduler, name)).parameters)[1:]
    values = {**dict.fromkeys(names), **DEFAULTS[name], "last_epoch": -1}
    for key, p in inspect.signature(getattr(torch_lr_scheduler, name)).parameters.items():
        if key != "optimizer" and key not in DEFAULTS[name] and key != "last_epoch":
            values[key] = p.default
    made = _single(host_backend)
    ours = getattr(lr_scheduler, name)(made, *(values[p] for p in names))
    theirs = getattr(torch_lr_scheduler, name)(optimizer(torch.optim, "SGD", [0.1]), *(values[p] for p in names))
    assert isinstance(ours, getattr(torch_lr_scheduler, name))
    assert ours.optimizer is made
    hidden = {"optimizer", "_scale_fn_ref"}
    assert {k: v for k, v in vars(ours).items() if k not in hidden} == {
        k: v for k, v in vars(theirs).items() if k not in hidden
    }
    assert (ours.last_epoch, ours._step_count, ours._last_lr) == (
        theirs.last_epoch,
        theirs._step_count,
        theirs._last_lr,
    )


def test_verbose_is_refused_as_in_torch(host_backend: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'verbose'"):
        StepLR(_single(host_backend), 3, verbose=True)


BAD = {
    "lambdas too few": ("LambdaLR", {"lr_lambda": [inverse_square_root]}),
    "lambdas too many": ("LambdaLR", {"lr_lambda": [inverse_square_root] * 3}),
    "no lambdas": ("LambdaLR", {"lr_lambda": []}),
    "lambda not callable": ("LambdaLR", {"lr_lambda": 3}),
    "base_lr list": ("CyclicLR", {"base_lr": [0.1], "max_lr": 0.2}),
    "max_lr list": ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.2] * 3}),
    "base_momentum list": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "base_momentum": [0.5]}),
    "max_momentum list": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "max_momentum": [0.5]}),
    "mode": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "mode": "square"}),
    "missing argument": ("StepLR", {}),
    "resume without initial_lr": ("StepLR", {"step_size": 3, "last_epoch": 3}),
    "cyclic resume without initial_lr": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "last_epoch": 3}),
    "lambda resume without initial_lr": ("LambdaLR", {"lr_lambda": inverse_square_root, "last_epoch": 0}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_raise_what_torch_raises(what: str, host_backend: str) -> None:
    name, arguments = BAD[what]
    raised = []
    for module, home in ((fused_sched.optim, lr_scheduler), (torch.optim, torch_lr_scheduler)):
        made = optimizer(module, "SGD", [0.1, 0.2])
        with pytest.raises(Exception) as caught:  # the oracle says which
            getattr(home, name)(made, **arguments)
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


def test_cyclic_needs_a_momentum_to_cycle(host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _single(host_backend)
    del made.defaults["momentum"]
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
        CyclicLR(made, 0.1, 0.2)
    CyclicLR(made, 0.1, 0.2, cycle_momentum=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepLR(o, 0), r"^step_size=0 must not be 0: give the number of steps"),
        (lambda o: CosineAnnealingLR(o, 0), r"^T_max=0 must not be 0: give the number of steps"),
        (lambda o: CyclicLR(o, 0.1, 0.2, step_size_up=0), r"^step_size_up=0 must not be 0: give the number of steps"),
        (lambda o: LambdaLR(o, inverse_square_root, lookahead=0), r"^lookahead=0 must be at least 1"),
        (lambda o: CyclicLR(o, 0.1, 0.2, lookahead=-1), r"^lookahead=-1 must be at least 1"),
    ],
    ids=["step_size", "T_max", "step_size_up", "lambda lookahead", "cyclic lookahead"],
)
def test_what_would_fail_on_the_device_is_refused_at_construction(
    make: Callable[[Any], Any], message: str, host_backend: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(_single(host_backend))


@pytest.mark.parametrize("name", NAMES)
def test_torchs_own_optimizer_is_refused_with_the_way_out(name: str) -> None:
    theirs = optimizer(torch.optim, "SGD", [0.1])
    message = (
        f"{name} drives the optimizers of fused_sched.optim, but got SGD: construct fused_sched.optim.SGD, "
        f"or use torch.optim.lr_scheduler.{name}"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        getattr(lr_scheduler, name)(theirs, **DEFAULTS[name])
    assert not hasattr(theirs.step, "_wrapped_by_lr_sched")
    assert "initial_lr" not in theirs.param_groups[0]
    with pytest.raises(TypeError, match=r"but got int: construct fused_sched\.optim\.AdamW, or use"):
        getattr(lr_scheduler, name)(3, **DEFAULTS[name])


# -- warnings ----------------------------------------------------------------------------------------------


def _warned(act: Callable[[], Any]) -> list[tuple[type, str, str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [(w.category, str(w.message), w.filename) for w in caught]


@pytest.mark.parametrize("name", NAMES)
def test_order_of_steps_is_checked_as_in_torch(name: str, host_backend: str) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made._opt_called = False
    ours, theirs = _warned(pair.ours.step), _warned(pair.torchs.step)
    assert [c for c, _, _ in ours] == [c for c, _, _ in theirs] == [UserWarning]
    assert ours[0][1].startswith("Detected call of `lr_scheduler.step()` before `optimizer.step()`")
    assert theirs[0][1].startswith("Detected call of `lr_scheduler.step()` before `optimizer.step()`")
    assert ours[0][2] == __file__
    assert _warned(pair.ours.step) == []

    pair = twins(name, lrs=[0.1], backend=host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.step = type(made).step.__get__(made)
    ours, theirs = _warned(pair.ours.step), _warned(pair.torchs.step)
    assert [c for c, _, _ in ours] == [c for c, _, _ in theirs] == [UserWarning]
    for found in (ours, theirs):
        assert found[0][1].startswith("Seems like `optimizer.step()` has been overridden after learning rate scheduler")
    assert ours[0][2] == __file__

    pair = twins(name, lrs=[0.1], backend=host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made._opt_called = False
    pair.optimizer_step()
    assert _warned(pair.ours.step) == _warned(pair.torchs.step) == []


def _step_to(scheduler: Any, epoch: int) -> None:
    scheduler.step(epoch)


@pytest.mark.parametrize("name", NAMES)
def test_step_with_an_epoch_warns_jumps_and_goes_on(name: str, host_backend: str, mirrored: bool) -> None:
    for before in (0, 3):
        pair = twins(name, lrs=[0.1, 0.3], backend=host_backend)
        _compare_steps(pair, before)
        for epoch in (5, 0, 1, 12):
            ours, theirs = (_warned(functools.partial(_step_to, s, epoch)) for s in (pair.ours, pair.torchs))
            assert ours == theirs
            assert len(ours) == 1
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step({epoch})")
            assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
            _compare_steps(pair, 4)


def test_cosine_after_step_5_known_numbers(backend: str) -> None:
    made = _single(backend)
    scheduler = CosineAnnealingLR(made, T_max=10)
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(5)
    assert made.param_groups[0]["lr"] == pytest.approx(0.05)
    scheduler.step()
    assert made.param_groups[0]["lr"] == pytest.approx(0.03454915)


@pytest.mark.parametrize("name", NAMES)
def test_get_lr_by_hand_warns_and_gives_what_torch_gives(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    _compare_steps(pair, 4)
    found = []
    for scheduler in (pair.ours, pair.torchs):
        with pytest.warns(UserWarning, match="please use `get_last_lr"):
            found.append(scheduler.get_lr())
    assert found[0] == found[1]
    _compare_steps(pair, 4)


# -- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last_epoch", [0, 1, 2, 3, 4, 7, 8, 13, 100])
def test_resume_at_last_epoch(name: str, last_epoch: int, host_backend: str, mirrored: bool) -> None:
    lrs = [0.1, 0.3]
    mine, theirs = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend), optimizer(torch.optim, "SGD", lrs)
    for made in (mine, theirs):
        for group, initial in zip(made.param_groups, [0.2, 0.5], strict=True):
            group["initial_lr"] = initial
    arguments = {**DEFAULTS[name], "last_epoch": last_epoch}
    ours, oracle = (
        getattr(lr_scheduler, name)(mine, **arguments),
        getattr(torch_lr_scheduler, name)(theirs, **arguments),
    )
    pair = Twins(ours, oracle, mine, theirs)
    assert pair.ours.last_epoch == last_epoch + 1
    assert_alike(seen(mine), seen(theirs), 0.0, "construction")
    assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    _compare_steps(pair, 20)


def test_resume_known_numbers(backend: str) -> None:
    """Step and MultiStep apply a decay that is due; Exponential and Cosine leave the lr alone, as torch."""

    def resumed(name: str, **arguments: Any) -> float:
        made = _single(backend)
        made.param_groups[0]["initial_lr"] = 0.1
        getattr(lr_scheduler, name)(made, last_epoch=3, **arguments)
        return float(made.param_groups[0]["lr"])

    assert resumed("StepLR", step_size=2, gamma=0.5) == 0.05
    assert resumed("MultiStepLR", milestones=[4], gamma=0.5) == 0.05
    assert resumed("LambdaLR", lr_lambda=lambda e: 0.5**e) == 0.00625
    assert resumed("ExponentialLR", gamma=0.5) == 0.1
    assert resumed("CosineAnnealingLR", T_max=10) == 0.1


# -- state dicts -------------------------------------------------------------------------------------------


def _train(made: Any, scheduler: Any, steps: int) -> list[list[dict[str, float]]]:
    history = []
    for _ in range(steps):
        for i, group in enumerate(made.param_groups):
            for p in group["params"]:
                p.grad = torch.full_like(p, 0.25 * (i + 1))
        made.step()
        scheduler.step()
        history.append(seen(made))
    return history


def _roundtrip(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "through a file"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_run_passes_between_ours_and_torchs_every_ten_steps(
    name: str, kind: str, saved: bool, fused: bool, host_backend: str, mirrored: bool
) -> None:
    """ours -> torch -> ours -> ...: the lr goes on with the bits of an uninterrupted run of torch."""
    lrs = [0.1, 0.03]
    oracle = optimizer(torch.optim, kind, lrs)
    expected = _train(oracle, getattr(torch_lr_scheduler, name)(oracle, **DEFAULTS[name]), 60)

    made: Any = None
    scheduler: Any = None
    found = []
    for leg in range(6):
        previous = made, scheduler
        module, home = ((fused_sched.optim, lr_scheduler), (torch.optim, torch_lr_scheduler))[leg % 2]
        made = optimizer(module, kind, [0.9, 0.8] if leg else lrs)
        own = {"fused": fused} if home is lr_scheduler else {}
        scheduler = getattr(home, name)(made, **DEFAULTS[name], **own)
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
            assert (scheduler.last_epoch, scheduler._step_count) == (10 * leg, 10 * leg + 1)
        found += _train(made, scheduler, 10)
    assert found == expected
    for mine, theirs in zip(made.param_groups, oracle.param_groups, strict=True):
        _assert_close(mine["params"][0], theirs["params"][0])


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_torchs_keys_and_values(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    for _ in range(12):
        assert pair.ours.state_dict() == pair.torchs.state_dict()
        for key, value in pair.ours.state_dict().items():
            assert type(value) is type(pair.torchs.state_dict()[key]), key
        pair.step()
    loaded = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    loaded.ours.load_state_dict(pair.torchs.state_dict())
    assert loaded.ours.state_dict() == pair.torchs.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_load_state_dict_leaves_the_optimizers_lr(name: str, host_backend: str, mirrored: bool) -> None:
    source = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    _compare_steps(source, 6)
    target = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    before = seen(target.our_optimizer)
    target.ours.load_state_dict(source.ours.state_dict())
    target.torchs.load_state_dict(source.torchs.state_dict())
    assert seen(target.our_optimizer) == before
    _compare_steps(target, 8)


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
    }
    for name, (made_with, saved_with) in changes.items():
        source = twins(name, saved_with, lrs=[0.1, 0.3], backend=host_backend)
        _compare_steps(source, 3)
        target = twins(name, made_with, lrs=[0.1, 0.3], backend=host_backend)
        _compare_steps(target, 1)
        target.our_optimizer.load_state_dict(source.our_optimizer.state_dict())
        target.torch_optimizer.load_state_dict(source.torch_optimizer.state_dict())
        target.ours.load_state_dict(source.torchs.state_dict())
        target.torchs.load_state_dict(source.torchs.state_dict())
        _compare_steps(target, 10)


def test_callable_objects_are_saved_as_their_attributes(host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.1], backend=host_backend)
    scheduler = LambdaLR(made, [Decay(0.5), inverse_square_root], lookahead=8)
    assert scheduler.state_dict()["lr_lambdas"] == [{"rate": 0.5}, None]
    other = Decay(0.9)
    fresh = optimizer(fused_sched.optim, "SGD", [0.1, 0.1], backend=host_backend)
    loaded = LambdaLR(fresh, [other, inverse_square_root], lookahead=8)
    loaded.load_state_dict(scheduler.state_dict())
    assert other.rate == 0.5
    loaded.step()
    assert fresh.param_groups[0]["lr"] == 0.05


def test_rows_computed_ahead_are_computed_anew_after_a_change(host_backend: str, mirrored: bool) -> None:
    pair = twins("LambdaLR", {"lr_lambda": Decay(0.5)}, lrs=[0.1], backend=host_backend, ours={"lookahead": 16})
    pair.torchs.lr_lambdas = [Decay(0.5)]  # each its own
    _compare_steps(pair, 2)  # rows 1 to 16 are there
    pair.both(lambda scheduler, _: scheduler.base_lrs.__setitem__(0, 0.9))
    _compare_steps(pair, 2)
    other = twins("LambdaLR", {"lr_lambda": Decay(0.75)}, lrs=[0.9], backend=host_backend)
    _compare_steps(other, 4)
    pair.both(lambda scheduler, _: scheduler.load_state_dict(other.torchs.state_dict()))
    assert pair.ours.lr_lambdas[0].rate == 0.75
    _compare_steps(pair, 4)


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
        assert (pair.ours.last_epoch, pair.ours._step_count) == (pair.torchs.last_epoch, pair.torchs._step_count)


def test_attributes_changed_in_a_way_torch_fails_on_later_are_refused(host_backend: str, mirrored: bool) -> None:
    scheduler = StepLR(_single(host_backend), 3)
    scheduler.step()
    scheduler.step_size = 0
    with pytest.raises(ValueError, match=r"^step_size=0 must not be 0"):
        scheduler.step()
    scheduler.step_size = 2
    scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


# -- more groups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["StepLR", "MultiStepLR", "ExponentialLR"])
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


@pytest.mark.parametrize("name", ["LambdaLR", "CyclicLR"])
def test_group_added_later_is_an_error_where_it_is_one_in_torch(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    _compare_steps(pair, 2)
    for made, scheduler in ((pair.our_optimizer, pair.ours), (pair.torch_optimizer, pair.torchs)):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
        with pytest.raises(ValueError, match="shorter than argument"):
            scheduler.step()


def test_group_added_to_cosine_works_until_the_trough_as_in_torch(host_backend: str, mirrored: bool) -> None:
    pair = twins("CosineAnnealingLR", {"T_max": 5}, lrs=[0.1], backend=host_backend)
    _compare_steps(pair, 2)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    for _ in range(3):
        _compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        assert pair.ours.state_dict() == pair.torchs.state_dict()
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(ValueError, match="longer than argument"):
            scheduler.step()


@pytest.mark.parametrize("name", ["LambdaLR", "CyclicLR", "CosineAnnealingLR"])
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
        _compare_steps(pair, 1)
        pair.optimizer_step()

    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend)
    pair.edit(lambda groups: groups.append({**groups[0], "params": parameters(1), "lr": 0.8}))
    if first == "optimizer":
        pair.optimizer_step()
    for _ in range(3):
        _compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        pair.optimizer_step()


def test_schedule_follows_a_control_block_that_had_to_grow(host_backend: str, mirrored: bool) -> None:
    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend)
    block = pair.our_optimizer._block
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.param_groups[0]["params"].extend(parameters(60))
    for _ in range(3):
        pair.optimizer_step()
        _compare_steps(pair, 1)
    assert pair.our_optimizer._block is not block


# -- copies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", NAMES)
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

    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": fused})
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
    found = _train(made, scheduler, 6)
    assert found[-1] == seen(pair.our_optimizer) == seen(pair.torch_optimizer)
    if how == "deepcopy":
        lone = copy.deepcopy(pair.ours)
        assert lone.optimizer is not pair.our_optimizer
        assert _train(lone.optimizer, lone, 1)[0] == _train(pair.our_optimizer, pair.ours, 1)[0]


# -- fused=True --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("name", NAMES)
def test_fused_schedule_gives_the_same_sequence(
    name: str, kind: str, backend: str, mirrored: bool, rng: random.Random
) -> None:
    pair = twins(name, lrs=random_lrs(rng, 3), kind=kind, backend=backend, ours={"fused": True})
    assert pair.our_optimizer._schedules == [pair.ours._schedule]
    for step in range(patience(backend, 20)):
        if step == 3:
            pair.edit(lambda groups: groups[1].update(lr=groups[1]["lr"] / 2))
        pair.optimizer_step()
        pair.torchs.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, f"step {step}")
        before = pair.ours.state_dict()
        pair.ours.step()  # bookkeeping only
        assert pair.ours.state_dict() == before
        assert pair.ours.last_epoch == step + 1


@pytest.mark.parametrize("name", NAMES)
def test_fused_step_without_an_optimizer_step_is_an_error(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend, ours={"fused": True})
    message = rf"^{name}\.step\(\) was called, but this scheduler is fused=True .* call optimizer\.step\(\) first"
    with pytest.raises(RuntimeError, match=message):
        pair.ours.step()
    pair.optimizer_step()
    pair.ours.step()
    state = pair.ours.state_dict()
    with pytest.raises(RuntimeError, match=message):
        pair.ours.step()
    assert pair.ours.state_dict() == state


def test_fused_needs_no_scheduler_step(host_backend: str, mirrored: bool) -> None:
    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend, ours={"fused": True})
    for _ in range(5):
        pair.optimizer_step()
        pair.torchs.step()
    assert seen(pair.our_optimizer) == seen(pair.torch_optimizer)
    assert pair.ours.last_epoch == 5
    pair.ours.step()
    with pytest.raises(RuntimeError, match="fused=True"):
        pair.ours.step()


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


@pytest.mark.parametrize("name", ["LambdaLR", "CyclicLR"])
@pytest.mark.parametrize("lookahead", [1, 4])
def test_overflow_with_a_host_table_reads_the_right_row(
    name: str, lookahead: int, host_backend: str, mirrored: bool
) -> None:
    arguments: dict[str, Any] = {"lr_lambda": inverse_square_root}
    if name == "CyclicLR":
        arguments = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "scale_fn": Decay(0.5)}
    ours = {"lookahead": lookahead, "skip_with_optimizer": True}
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


@pytest.mark.filterwarnings("ignore:StepLR is one more fused scheduler")
@pytest.mark.parametrize("fused", [(False, False), (True, False), (True, True)], ids=str)
def test_two_schedulers_on_one_optimizer(fused: tuple[bool, bool], backend: str, mirrored: bool) -> None:
    """Each goes on from the lr that the other left, as in torch."""
    mine = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=backend)
    theirs = optimizer(torch.optim, "SGD", [0.1, 0.3])
    ours = ExponentialLR(mine, 0.9, fused=fused[0]), StepLR(mine, 3, 0.5, fused=fused[1])
    oracles = torch_lr_scheduler.ExponentialLR(theirs, 0.9), torch_lr_scheduler.StepLR(theirs, 3, 0.5)
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
    copied.step()
    with pytest.raises(RuntimeError, match="call optimizer.step"):
        copied.step()


def _stock(made: Any, home: Any) -> Any:
    first = home.LinearLR(made, start_factor=0.25, total_iters=4)
    return home.SequentialLR(made, [first, home.CosineAnnealingWarmRestarts(made, 5)], milestones=[4])


STOCK: dict[str, Callable[[Any, Any], Any]] = {
    "OneCycleLR": lambda o, home: home.OneCycleLR(o, max_lr=0.5, total_steps=30),
    "SequentialLR": _stock,
    "PolynomialLR": lambda o, home: home.PolynomialLR(o, total_iters=20, power=2.0),
    "CyclicLR": lambda o, home: home.CyclicLR(o, 0.1, 0.4, step_size_up=3),
    "StepLR": lambda o, home: home.StepLR(o, 3),
}


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", STOCK)
def test_torchs_own_schedulers_drive_our_optimizer(name: str, kind: str, host_backend: str, mirrored: bool) -> None:
    mine, theirs = optimizer(fused_sched.optim, kind, [0.1, 0.3]), optimizer(torch.optim, kind, [0.1, 0.3])
    pair = Twins(STOCK[name](mine, torch_lr_scheduler), STOCK[name](theirs, torch_lr_scheduler), mine, theirs)
    for step in range(25):
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(mine), seen(theirs), 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    for ours, oracle in zip(mine.param_groups, theirs.param_groups, strict=True):
        _assert_close(ours["params"][0], oracle["params"][0])


def test_torchs_plateau_drives_our_optimizer(host_backend: str, mirrored: bool) -> None:
    mine, theirs = optimizer(fused_sched.optim, "SGD", [0.1, 0.3]), optimizer(torch.optim, "SGD", [0.1, 0.3])
    plateaus = [
        torch_lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, min_lr=[0.01, 0.02]) for o in (mine, theirs)
    ]
    for loss in [3, 2, 2, 2, 2, 2, float("nan"), 1, 1, 1, 1, 1, 1, 1, 1]:
        for plateau in plateaus:
            plateau.step(loss)
        assert seen(mine) == seen(theirs)
    assert seen(mine)[0]["lr"] < 0.03


@pytest.mark.filterwarnings("ignore:Please also save or load the state of the optimizer")
def test_ours_inside_torchs_sequential_and_chained(host_backend: str, mirrored: bool) -> None:
    def sequential(made: Any, home: Any) -> Any:
        parts = [home.LambdaLR(made, lambda e: (e + 1) / 4), home.CosineAnnealingLR(made, 8)]
        return torch_lr_scheduler.SequentialLR(made, parts, milestones=[4])

    def chained(made: Any, home: Any) -> Any:
        return torch_lr_scheduler.ChainedScheduler([home.StepLR(made, 3, 0.5), home.ExponentialLR(made, 0.9)], made)

    for build in (sequential, chained):
        mine, theirs = optimizer(fused_sched.optim, "SGD", [0.1, 0.3]), optimizer(torch.optim, "SGD", [0.1, 0.3])
        pair = Twins(build(mine, lr_scheduler), build(theirs, torch_lr_scheduler), mine, theirs)
        assert_alike(seen(mine), seen(theirs), 0.0, "construction")
        for step in range(16):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # SequentialLR calls step(0) at its milestone
                pair.step()
            assert_alike(seen(mine), seen(theirs), 0.0, f"step {step}")


def _assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    relative = 2 * UPDATE_RELATIVE[theirs.dtype]
    torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=relative, atol=relative)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", NAMES)
def test_momentum_reaches_the_update(name: str, kind: str, backend: str, mirrored: bool) -> None:
    """Parameters, not only the lr, follow torch; CyclicLR cycles momentum or beta1 all the while."""
    pair = twins(name, lrs=[0.1, 0.03], kind=kind, backend=backend)
    for step in range(patience(backend, 12)):
        for made in (pair.our_optimizer, pair.torch_optimizer):
            for group in made.param_groups:
                group["params"][0].grad = torch.full_like(group["params"][0], 0.5 + step % 3)
            made.step()
        pair.step()
    for ours, theirs in zip(pair.our_optimizer.param_groups, pair.torch_optimizer.param_groups, strict=True):
        _assert_close(ours["params"][0], theirs["params"][0])


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_momentum_that_the_schedule_raises_from_zero(fused: bool, backend: str, mirrored: bool) -> None:
    arguments = {"base_lr": 0.1, "max_lr": 0.4, "step_size_up": 2, "base_momentum": 0.9, "max_momentum": 0.0}
    pair = twins("CyclicLR", arguments, lrs=[0.1], backend=backend, ours={"fused": fused}, momentum=0.0)
    for _ in range(9):
        pair.optimizer_step()
        pair.step()
        ours, theirs = (o.param_groups[0]["params"][0] for o in (pair.our_optimizer, pair.torch_optimizer))
        _assert_close(ours, theirs)


# -- tensor lr ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tensor_lr_follows_the_float_path_in_float64(name: str, host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [torch.tensor(0.1, dtype=torch.float64)], backend=host_backend)
    scheduler = getattr(lr_scheduler, name)(made, **DEFAULTS[name])
    theirs = optimizer(torch.optim, "SGD", [0.1])
    oracle = getattr(torch_lr_scheduler, name)(theirs, **DEFAULTS[name])
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


# -- lifetime ----------------------------------------------------------------------------------------------


def test_optimizers_and_schedulers_are_collected(host_backend: str, mirrored: bool) -> None:
    def leave_behind(name: str, fused: bool) -> list[weakref.ref[Any]]:
        made = _single(host_backend)
        scheduler = getattr(lr_scheduler, name)(made, **DEFAULTS[name], fused=fused)
        made.param_groups[0]["params"][0].grad = torch.ones(3)
        made.step()
        scheduler.step()
        return [weakref.ref(x) for x in (made, scheduler, scheduler._schedule.memory.tensor, made._block.tensor)]

    alive = {(name, fused): leave_behind(name, fused) for name in NAMES for fused in (False, True)}
    gc.collect()
    assert {key: [ref() for ref in refs] for key, refs in alive.items()} == dict.fromkeys(alive, [None] * 4)


def test_program_can_be_printed(host_backend: str) -> None:
    scheduler = StepLR(_single(host_backend), 3)
    assert str(scheduler.program).startswith("program StepLR: ")
    assert MultiStepLR(_single(host_backend), [2]).program.fields_written == {"lr"}
