"""The schedulers' constructors, arguments and warnings: torch's."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    EVERY,
    LEAVES,
    NESTED,
    OURS,
    TORCH,
    Parts,
    advance,
    assert_alike,
    build,
    compare_steps,
    inverse_square_root,
    optimizer,
    seen,
    single,
    twins,
)
from torch.optim import lr_scheduler as torch_lr_scheduler

import fused_sched
from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, LambdaLR, StepLR

OURS_ONLY = {"fused", "skip_with_optimizer", "horizon"}


# -- constructors ----------------------------------------------------------------------------------------


ABSTRACT = "LRScheduler"  # torch's own: on_device() takes subclasses of it


def test_every_name_of_torch_is_there() -> None:
    theirs = {*torch_lr_scheduler.__all__, "SWALR"}
    assert theirs - {ABSTRACT} == set(EVERY)
    assert {*EVERY, "ParamScheduler", "on_device"} <= set(OURS.__all__)
    for name in EVERY:
        ours = getattr(OURS, name)
        assert issubclass(ours, getattr(TORCH, name))
        assert ours is not getattr(TORCH, name)
        assert (ours.__name__, ours.__module__.partition(".")[0]) == (name, "fused_sched")
        assert ours.__doc__ != getattr(TORCH, name).__doc__
    assert getattr(OURS, ABSTRACT) is getattr(TORCH, ABSTRACT)


@pytest.mark.parametrize("name", EVERY)
def test_signature_is_torchs_and_new_keywords(name: str) -> None:
    ours = inspect.signature(getattr(OURS, name)).parameters
    theirs = inspect.signature(getattr(TORCH, name)).parameters
    shared = [(p.name, p.kind, p.default) for p in ours.values() if p.name not in OURS_ONLY]
    assert shared == [(p.name, p.kind, p.default) for p in theirs.values()]
    extra = set(ours) - set(theirs)
    if name == "ReduceLROnPlateau":
        assert not extra  # a step needs the metric
        return
    with_horizon = name in ("LambdaLR", "MultiplicativeLR", "CyclicLR")
    assert extra == (OURS_ONLY if with_horizon else OURS_ONLY - {"horizon"})
    assert all(ours[key].kind is inspect.Parameter.KEYWORD_ONLY for key in extra)
    assert (ours["fused"].default, ours["skip_with_optimizer"].default) == (False, False)
    if with_horizon:
        assert ours["horizon"].default == 1


@pytest.mark.parametrize("name", [*LEAVES, "ReduceLROnPlateau"])
def test_positional_arguments_and_attributes_as_in_torch(name: str, host_backend: str) -> None:
    signature = list(inspect.signature(getattr(TORCH, name)).parameters.values())[1:]
    values = {p.name: p.default for p in signature} | DEFAULTS[name]
    made = single(host_backend)
    ours = getattr(OURS, name)(made, *values.values())
    theirs = getattr(TORCH, name)(optimizer(torch.optim, "SGD", [0.1]), *values.values())
    assert isinstance(ours, getattr(TORCH, name))
    assert ours.optimizer is made
    hidden = {"optimizer", "_scale_fn_ref"}
    assert {k: v for k, v in vars(ours).items() if k not in hidden} == {
        k: v for k, v in vars(theirs).items() if k not in hidden
    }
    assert list(vars(ours)) == list(vars(theirs))
    for key in ("last_epoch", "_step_count", "_last_lr", "best", "T_cur"):
        assert getattr(ours, key, None) == getattr(theirs, key, None), key


@pytest.mark.parametrize("name", NESTED)
def test_nested_positional_arguments_and_attributes_as_in_torch(name: str, host_backend: str) -> None:
    made = []
    for module, home in ((fused_sched.optim, OURS), (torch.optim, TORCH)):
        o = optimizer(module, "SGD", [0.1, 0.2])
        parts = [home.ConstantLR(o), home.StepLR(o, 2)]
        scheduler = home.SequentialLR(o, parts, [3]) if name == "SequentialLR" else home.ChainedScheduler(parts)
        assert scheduler.optimizer is o
        assert scheduler._schedulers is parts
        made.append(scheduler)
    hidden = {"optimizer", "_schedulers"}
    ours, theirs = ({k: v for k, v in vars(s).items() if k not in hidden} for s in made)
    assert ours == theirs
    assert list(vars(made[0])) == list(vars(made[1]))
    assert hasattr(made[0], "last_epoch") is hasattr(made[1], "last_epoch")


def test_verbose_is_refused_as_in_torch(host_backend: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'verbose'"):
        StepLR(single(host_backend), 3, verbose=True)


STEP = ("StepLR", {"step_size": 3})
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "lambdas too few": ("LambdaLR", {"lr_lambda": [inverse_square_root]}),
    "lambdas too many": ("LambdaLR", {"lr_lambda": [inverse_square_root] * 3}),
    "no lambdas": ("LambdaLR", {"lr_lambda": []}),
    "base_lr list": ("CyclicLR", {"base_lr": [0.1], "max_lr": 0.2}),
    "max_lr list": ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.2] * 3}),
    "base_momentum list": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "base_momentum": [0.5]}),
    "max_momentum list": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "max_momentum": [0.5]}),
    "mode": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "mode": "square"}),
    "missing argument": ("StepLR", {}),
    "multiplicative too few": ("MultiplicativeLR", {"lr_lambda": [inverse_square_root]}),
    "factor above 1": ("ConstantLR", {"factor": 1.5}),
    "negative factor": ("ConstantLR", {"factor": -0.5}),
    "start_factor 0": ("LinearLR", {"start_factor": 0}),
    "start_factor above 1": ("LinearLR", {"start_factor": 1.5}),
    "end_factor above 1": ("LinearLR", {"end_factor": 1.5}),
    "negative end_factor": ("LinearLR", {"end_factor": -0.5}),
    "T_0 0": ("CosineAnnealingWarmRestarts", {"T_0": 0}),
    "T_0 with a fraction": ("CosineAnnealingWarmRestarts", {"T_0": 2.5}),
    "T_mult 0": ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 0}),
    "T_mult with a fraction": ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 1.5}),
    "one cycle without a length": ("OneCycleLR", {"max_lr": 0.1}),
    "one cycle epochs alone": ("OneCycleLR", {"max_lr": 0.1, "epochs": 3}),
    "one cycle total_steps 0": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 0}),
    "one cycle pct_start": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "pct_start": 1}),
    "one cycle first phase of no length": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10, "pct_start": 0.1}),
    "one cycle strategy": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "anneal_strategy": "square"}),
    "one cycle max_lr list": ("OneCycleLR", {"max_lr": [0.1], "total_steps": 9}),
    "one cycle momentum list": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "max_momentum": [0.1] * 3}),
    "swa_lr list": ("SWALR", {"swa_lr": [0.1]}),
    "swa strategy": ("SWALR", {"swa_lr": 0.1, "anneal_strategy": "square"}),
    "swa negative": ("SWALR", {"swa_lr": 0.1, "anneal_epochs": -1}),
    "plateau factor": ("ReduceLROnPlateau", {"factor": 1.0}),
    "plateau mode": ("ReduceLROnPlateau", {"mode": "least"}),
    "plateau threshold_mode": ("ReduceLROnPlateau", {"threshold_mode": "both"}),
    "plateau min_lr list": ("ReduceLROnPlateau", {"min_lr": [0.1]}),
    "no parts of a sequence": ("SequentialLR", {"schedulers": [], "milestones": []}),
    "no parts of a chain": ("ChainedScheduler", {"schedulers": []}),
    "too many milestones": ("SequentialLR", {"schedulers": Parts(STEP, STEP), "milestones": [2, 3]}),
    "no scheduler in a sequence": ("SequentialLR", {"schedulers": [3], "milestones": []}),
    "one cycle resume without initial_lr": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "last_epoch": 3}),
    "resume without initial_lr": ("StepLR", {"step_size": 3, "last_epoch": 3}),
    "cyclic resume without initial_lr": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "last_epoch": 3}),
    "lambda resume without initial_lr": ("LambdaLR", {"lr_lambda": inverse_square_root, "last_epoch": 0}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_raise_what_torch_raises(what: str, host_backend: str) -> None:
    name, arguments = BAD[what]
    raised = []
    for module, home in ((fused_sched.optim, OURS), (torch.optim, TORCH)):
        made = optimizer(module, "SGD", [0.1, 0.2])
        with pytest.raises(Exception) as caught:  # the oracle says which
            build(home, name, made, **arguments)
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


def test_cyclic_needs_a_momentum_to_cycle(host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = single(host_backend)
    del made.defaults["momentum"]
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
        CyclicLR(made, 0.1, 0.2)
    CyclicLR(made, 0.1, 0.2, cycle_momentum=False)


HORIZON = r"^horizon={} must be an int of at least 1: the number of steps computed ahead"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepLR(o, 0), r"^step_size=0 must not be 0: give the number of steps"),
        (lambda o: CosineAnnealingLR(o, 0), r"^T_max=0 must not be 0: give the number of steps"),
        (lambda o: CyclicLR(o, 0.1, 0.2, step_size_up=0), r"^step_size_up=0 must not be 0: give the number of steps"),
        (lambda o: OURS.ConstantLR(o, 0), r"^factor=0 must not be 0: it is undone by a division after total_iters=5"),
        (lambda o: LambdaLR(o, inverse_square_root, horizon=0), HORIZON.format(0)),
        (lambda o: OURS.MultiplicativeLR(o, inverse_square_root, horizon=2.0), HORIZON.format("2.0")),
        (lambda o: CyclicLR(o, 0.1, 0.2, horizon=-1), HORIZON.format(-1)),
        (lambda o: OURS.ParamScheduler(o, "eps", inverse_square_root, horizon=None), HORIZON.format(None)),
    ],
    ids=["step_size", "T_max", "step_size_up", "factor", "lambda", "multiplicative", "cyclic", "param"],
)
def test_what_would_fail_on_the_device_is_refused_at_construction(
    make: Callable[[Any], Any], message: str, host_backend: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(single(host_backend))


@pytest.mark.parametrize("keyword", ["fused", "skip_with_optimizer"])
@pytest.mark.parametrize("name", [name for name in EVERY if name != "ReduceLROnPlateau"])
def test_what_is_neither_true_nor_false_is_refused(name: str, keyword: str, host_backend: str) -> None:
    made = single(host_backend)
    arguments = {**DEFAULTS[name]}
    if name in NESTED:
        arguments["schedulers"] = [StepLR(made, 3) for _ in range(2)]
    before = dict(made.param_groups[0])
    for value in ("no", 1, None):
        with pytest.raises(TypeError, match=f"^{keyword}={value!r} must be True or False$"):
            getattr(OURS, name)(optimizer=made, **arguments, **{keyword: value})
        assert dict(made.param_groups[0]) == before


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_optimizer_is_refused_as_by_torch(name: str) -> None:
    arguments = {**DEFAULTS[name], **({"schedulers": []} if name in NESTED else {})}
    messages = []
    for home in (TORCH, OURS):
        with pytest.raises(Exception) as error:  # whatever torch raises
            getattr(home, name)(optimizer=torch.nn.Linear(1, 1), **arguments)
        messages.append((type(error.value), str(error.value)))
    assert messages[0] == messages[1]


# -- warnings ----------------------------------------------------------------------------------------------


def _warned(act: Callable[[], Any]) -> list[tuple[type, str, str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [(w.category, str(w.message), w.filename) for w in caught]


@pytest.mark.parametrize("name", [n for n in LEAVES if n != "CosineAnnealingWarmRestarts"])
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


@pytest.mark.parametrize("name", ["CosineAnnealingWarmRestarts", "ReduceLROnPlateau"])
def test_order_of_steps_is_not_checked_where_torch_does_not(name: str, host_backend: str) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made._opt_called = False
    assert _warned(lambda: advance(pair.ours)) == _warned(lambda: advance(pair.torchs)) == []


@pytest.mark.parametrize("name", NESTED)
def test_order_of_steps_is_checked_once_for_all_parts(name: str, host_backend: str) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made._opt_called = False
    ours, theirs = _warned(pair.ours.step), _warned(pair.torchs.step)
    for found in (ours, theirs):
        assert found[0][1].startswith("Detected call of `lr_scheduler.step()` before `optimizer.step()`")
    assert len(ours) == 1
    assert ours[0][2] == __file__
    for _ in range(12):
        assert _warned(pair.ours.step) == []


def _step_to(scheduler: Any, epoch: int) -> None:
    scheduler.step(epoch)


@pytest.mark.parametrize("name", LEAVES)
def test_step_with_an_epoch_warns_jumps_and_goes_on(name: str, host_backend: str, mirrored: bool) -> None:
    for before in (0, 3):
        pair = twins(name, lrs=[0.1, 0.3], backend=host_backend)
        compare_steps(pair, before)
        for epoch in (5, 0, 1, 12):
            ours, theirs = (_warned(functools.partial(_step_to, s, epoch)) for s in (pair.ours, pair.torchs))
            assert ours == theirs
            assert len(ours) == (name != "CosineAnnealingWarmRestarts")
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step({epoch})")
            assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
            compare_steps(pair, 4)


def test_cosine_after_step_5_known_numbers(backend: str) -> None:
    made = single(backend)
    scheduler = CosineAnnealingLR(made, T_max=10)
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(5)
    assert made.param_groups[0]["lr"] == pytest.approx(0.05)
    scheduler.step()
    assert made.param_groups[0]["lr"] == pytest.approx(0.03454915)


@pytest.mark.parametrize("name", NESTED)
def test_nested_schedulers_take_no_epoch(name: str, host_backend: str) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(TypeError, match=r"step\(\) takes 1 positional argument but 2 were given"):
            scheduler.step(5)
    compare_steps(pair, 12)


@pytest.mark.parametrize("name", LEAVES)
def test_get_lr_by_hand_warns_and_gives_what_torch_gives(name: str, host_backend: str, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(pair, 4)
    found = []
    for scheduler in (pair.ours, pair.torchs):
        with pytest.warns(UserWarning, match="please use `get_last_lr"):
            found.append(scheduler.get_lr())
    assert found[0] == found[1]
    compare_steps(pair, 4)
