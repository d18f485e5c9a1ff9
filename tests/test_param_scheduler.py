"""ParamScheduler against a loop that assigns to the param groups of torch's optimizer."""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_twins import assert_close, assert_equal
from schedule_twins import (
    Decay,
    Recorder,
    optimizer,
    parameters,
    patience,
    seen,
    single,
)
from tolerances import SCHEDULE_RELATIVE

import fused_sched
from fused_sched.lr_scheduler import CosineAnnealingLR, ExponentialLR, ParamScheduler

Function = Callable[[int], Any]


def _polynomial(step: int) -> float:
    return 0.75 / (1 + step) + 0.125


def _momentum_from_0(step: int) -> float:
    return 0.0 if step < 3 else 0.9 - 0.5 / step


def _effect(function: Function) -> Function:
    """The same function, which nobody can trace."""
    calls: list[int] = []

    def counted(step: int) -> Any:
        assert type(step) is int
        calls.append(step)
        return function(step)

    return counted


def _pair(step: int) -> tuple[float, float]:
    return 0.9 - 0.01 * step, 0.999 if step % 4 else 0.95


FUNCTIONS: dict[str, Function] = {
    "lr": _polynomial,
    "weight_decay": _polynomial,
    "momentum": _momentum_from_0,
    "dampening": lambda step: 0.5 if step % 2 else 0.0,
    "eps": lambda step: 1e-8 * 2.0**step,
    "betas": _pair,
    "beta1": lambda step: 0.5 + 0.02 * step,
    "beta2": lambda step: 0.9 + 0.005 * step,
}
KINDS = {
    "SGD": ("lr", "weight_decay", "momentum", "dampening"),
    "Adam": ("lr", "weight_decay", "eps", "betas", "beta1", "beta2"),
    "AdamW": ("lr", "weight_decay", "eps", "betas", "beta1", "beta2"),
}
COMBINATIONS = [(kind, name) for kind, names in KINDS.items() for name in names]


def _assign(group: dict[str, Any], name: str, value: Any) -> None:
    if name in ("beta1", "beta2"):
        pair = list(group["betas"])
        pair[name == "beta2"] = value
        group["betas"] = tuple(pair)
    else:
        group[name] = value


def _value(group: dict[str, Any], name: str) -> Any:
    return group["betas"][name == "beta2"] if name in ("beta1", "beta2") else group[name]


def _compare_run(
    kind: str,
    name: str,
    functions: list[Function | None],
    given: Any,
    backend: str,
    steps: int,
    rng: random.Random,
    **keywords: Any,
) -> None:
    lrs = [0.1, 0.03]
    mine, theirs = optimizer(fused_sched.optim, kind, lrs, backend=backend), optimizer(torch.optim, kind, lrs)
    if name == "momentum":
        for made in (mine, theirs):
            for group in made.param_groups:
                group["momentum"] = 0.0
    scheduler = ParamScheduler(mine, name, given, **keywords)
    cosines = [CosineAnnealingLR(mine, T_max=9), torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=9)]
    for step in range(steps):
        for group, function in zip(theirs.param_groups, functions, strict=True):
            if function is not None:
                _assign(group, name, function(step))
        for ours, expected in zip(mine.param_groups, theirs.param_groups, strict=True):
            assert _value(ours, name) == pytest.approx(_value(expected, name), rel=SCHEDULE_RELATIVE, abs=0)
        assert scheduler.get_last_value() == [_value(g, name) for g in mine.param_groups]
        assert scheduler.last_epoch == step
        for ours, expected in zip(mine.param_groups, theirs.param_groups, strict=True):
            gradient = torch.tensor([rng.gauss(0, 1) for _ in range(3)])
            ours["params"][0].grad = gradient.to(ours["params"][0].device)
            expected["params"][0].grad = gradient.clone()
        mine.step()
        theirs.step()
        if name != "lr":
            for cosine in cosines:
                cosine.step()
        scheduler.step()
        for ours, expected in zip(mine.param_groups, theirs.param_groups, strict=True):
            p, q = ours["params"][0].detach().cpu(), expected["params"][0].detach()
            if kind == "SGD" and backend == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX"):
                assert_equal(p, q, f"step {step}")
            else:
                assert_close(p, q, f"step {step}")
    scheduler.step()  # without an update: a step of its own, also of a fused one
    assert scheduler.last_epoch == steps + 1


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(("kind", "name"), COMBINATIONS)
def test_every_name_beside_a_schedule_of_the_lr(
    kind: str, name: str, fused: bool, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    function = FUNCTIONS[name]
    _compare_run(kind, name, [function] * 2, function, host_backend, 14, rng, fused=fused)


@pytest.mark.parametrize(("kind", "name"), COMBINATIONS)
def test_every_name_on_every_backend(kind: str, name: str, rng: random.Random, backend: str) -> None:
    function = FUNCTIONS[name]
    _compare_run(kind, name, [function] * 2, function, backend, patience(backend, 8), rng, fused=rng.random() < 0.5)


@pytest.mark.parametrize("horizon", [1, 3, 20])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(("kind", "name"), [("SGD", "momentum"), ("SGD", "weight_decay"), ("AdamW", "betas")])
def test_functions_with_a_side_effect(
    kind: str, name: str, fused: bool, horizon: int, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    function = _effect(FUNCTIONS[name])
    plain = FUNCTIONS[name]
    _compare_run(kind, name, [plain] * 2, function, host_backend, 14, rng, fused=fused, horizon=horizon)


@pytest.mark.parametrize("effect", [False, True], ids=["pure", "with a side effect"])
@pytest.mark.parametrize(("kind", "name"), [("SGD", "momentum"), ("Adam", "betas"), ("AdamW", "beta2")])
def test_list_with_none_leaves_a_group_alone(
    kind: str, name: str, effect: bool, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    function = _effect(FUNCTIONS[name]) if effect else FUNCTIONS[name]
    for functions in ([None, function], [function, None], [None, None]):
        _compare_run(kind, name, functions, list(functions), host_backend, 8, rng)


def test_a_group_left_alone_can_be_edited_by_hand(host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.2], backend=host_backend)
    scheduler = ParamScheduler(made, "weight_decay", [None, lambda step: 0.5 * step])
    made.param_groups[0]["weight_decay"] = 0.25
    made.param_groups[1]["weight_decay"] = 0.25
    scheduler.step()
    scheduler.step()
    assert scheduler.get_last_value() == [0.25, 1.0]


def test_call_pattern_of_a_function_with_a_side_effect(host_backend: str) -> None:
    for horizon, expected in ((1, [0, 1, 2, 3, 4]), (3, [0, 1, 2, 3, 4, 5, 6])):
        record = Recorder()
        scheduler = ParamScheduler(single(host_backend), "weight_decay", record, horizon=horizon)
        for _ in range(4):
            scheduler.step()
        assert record.calls == expected
        assert all(type(step) is int for step in record.calls)


def test_momentum_raised_from_0_makes_a_buffer(backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.5], backend=backend, momentum=0.0)
    scheduler = ParamScheduler(made, "momentum", _momentum_from_0, fused=True)
    theirs = optimizer(torch.optim, "SGD", [0.5], momentum=0.0)
    for step in range(6):
        theirs.param_groups[0]["momentum"] = _momentum_from_0(step)
        for o in (made, theirs):
            p = o.param_groups[0]["params"][0]
            p.grad = torch.full_like(p, 1.0 + step)
            o.step()
        scheduler.step()
        assert_close(made.param_groups[0]["params"][0].cpu(), theirs.param_groups[0]["params"][0], f"step {step}")


@pytest.mark.parametrize("effect", [False, True], ids=["pure", "with a side effect"])
@pytest.mark.parametrize("horizon", [1, 4])
def test_state_dict_round_trip(effect: bool, horizon: int, host_backend: str, mirrored: bool) -> None:
    def make() -> Any:
        made = optimizer(fused_sched.optim, "AdamW", [0.1, 0.2], backend=host_backend)
        return ParamScheduler(made, "betas", _effect(_pair) if effect else _pair, horizon=horizon)

    source = make()
    for _ in range(5):
        source.step()
    state = source.state_dict()
    assert {k: state[k] for k in ("name", "last_epoch", "_step_count")} == {
        "name": "betas", "last_epoch": 5, "_step_count": 6,
    }  # fmt: skip
    assert "optimizer" not in state
    target = make()
    target.optimizer.load_state_dict(source.optimizer.state_dict())
    target.load_state_dict(state)
    for _ in range(8):
        assert target.get_last_value() == source.get_last_value() == [_pair(source.last_epoch)] * 2
        source.step()
        target.step()
    assert target.last_epoch == 13


def test_callable_objects_are_saved_as_their_attributes(host_backend: str) -> None:
    saved = ParamScheduler(single(host_backend), "weight_decay", [Decay(0.5)]).state_dict()
    assert saved["fns"] == [{"rate": 0.5}]
    other = Decay(0.9)
    loaded = ParamScheduler(single(host_backend), "weight_decay", [other])
    loaded.load_state_dict(saved)
    assert other.rate == 0.5
    loaded.step()
    assert loaded.get_last_value() == [0.5]


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_copies_go_on_alike_and_apart(fused: bool, host_backend: str, mirrored: bool) -> None:
    made = single(host_backend)
    scheduler = ParamScheduler(made, "weight_decay", _polynomial, fused=fused, horizon=2)

    def go(o: Any, s: Any, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            o.step()
            s.step()
            found += s.get_last_value()
        return found

    go(made, scheduler, 3)
    for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        twin_optimizer, twin = copied((made, scheduler))
        assert twin.optimizer is twin_optimizer
        assert (twin.name, twin._horizon, twin._fused) == ("weight_decay", 2, fused)
        assert go(twin_optimizer, twin, 4) == [_polynomial(step) for step in (4, 5, 6, 7)]
    assert scheduler.get_last_value() == [_polynomial(3)]


def test_functions_and_epoch_changed_by_hand(host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.2], backend=host_backend)
    scheduler = ParamScheduler(made, "dampening", _polynomial)
    scheduler.last_epoch = 20
    scheduler.step()
    assert scheduler.get_last_value() == [_polynomial(21)] * 2
    scheduler.fns[1] = Decay(0.5)
    scheduler.step()
    assert scheduler.get_last_value() == [_polynomial(22), 0.5**22]
    scheduler.fns[0] = None
    scheduler.step()
    assert scheduler.get_last_value() == [_polynomial(22), 0.5**23]
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(4)
    assert scheduler.get_last_value() == [_polynomial(22), 0.5**4]
    assert scheduler.get_last_lr() == [0.1, 0.2]


def test_resume_at_last_epoch(host_backend: str, mirrored: bool) -> None:
    made = single(host_backend)
    with pytest.raises(KeyError, match="initial_lr"):
        ParamScheduler(made, "weight_decay", _polynomial, last_epoch=3)
    made.param_groups[0]["initial_lr"] = 0.1
    scheduler = ParamScheduler(made, "weight_decay", _polynomial, last_epoch=3)
    assert scheduler.get_last_value() == [_polynomial(4)]
    scheduler.step()
    assert scheduler.get_last_value() == [_polynomial(5)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("rate", _polynomial),
            ValueError,
            r"^name='rate' is not a hyperparameter that can be scheduled; known are lr, ",
        ),
        (("flags", _polynomial), ValueError, r"^name='flags' is not a hyperparameter"),
        (("eps", _polynomial), ValueError, r"^name='eps' is not in param group 0: SGD does not have it"),
        (("beta1", _polynomial), ValueError, r"^name='beta1' is not in param group 0: SGD does not have it"),
        (("betas", _pair), ValueError, r"^name='betas' is not in param group 0"),
        (("momentum", [_polynomial]), ValueError, r"^Expected 2 functions, one a param group, but got 1$"),
        (("momentum", []), ValueError, r"^Expected 2 functions, one a param group, but got 0$"),
        (("momentum", 0.9), TypeError, r"^fn must be a function of the step, but got float$"),
        (("momentum", [_polynomial, 3]), TypeError, r"^fn must be a function of the step, but got int$"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, error: type, message: str, host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.2], backend=host_backend)
    before = seen(made)
    with pytest.raises(error, match=message):
        ParamScheduler(made, *arguments)
    assert seen(made) == before
    assert "initial_lr" not in made.param_groups[0]


@pytest.mark.parametrize("value", [None, "much", (0.1, 0.2)], ids=str)
@pytest.mark.parametrize("horizon", [1, 4])
def test_bad_values_of_a_function_change_nothing(value: Any, horizon: int, host_backend: str, mirrored: bool) -> None:
    broken = True
    calls = []

    def function(step: int) -> Any:
        calls.append(step)
        return value if broken and step == 3 else 0.125 * step

    made = single(host_backend)
    scheduler = ParamScheduler(made, "weight_decay", function, horizon=horizon)
    scheduler.step()
    scheduler.step()
    for _ in range(2):
        message = r"^the function for 'weight_decay' returned .* at step 3: it must return a number$"
        with pytest.raises(TypeError, match=message):
            scheduler.step()
        assert scheduler.get_last_value() == [0.25]
        assert scheduler.last_epoch == 2
    broken = False
    scheduler.step()
    assert scheduler.get_last_value() == [0.375]


@pytest.mark.parametrize("value", [0.9, (0.9,), (0.9, 0.99, 0.999)], ids=str)
def test_betas_need_a_pair(value: Any, host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "Adam", [0.1], backend=host_backend)
    before = made.param_groups[0]["betas"]
    with pytest.raises((TypeError, ValueError)):
        ParamScheduler(made, "betas", lambda step: value)
    assert made.param_groups[0]["betas"] == before


@pytest.mark.parametrize("horizon", [1, 3])
def test_betas_that_are_no_pair_later_on_change_nothing(horizon: int, host_backend: str, mirrored: bool) -> None:
    function = _effect(lambda step: (0.5, 0.75) if step < 2 else (0.5, 0.75, 1.0))
    made = optimizer(fused_sched.optim, "Adam", [0.1], backend=host_backend)
    scheduler = ParamScheduler(made, "betas", function, horizon=horizon)
    scheduler.step()
    for _ in range(2):
        with pytest.raises(
            TypeError, match=r"^the function for 'betas' .* at step 2: it must return a pair of numbers$"
        ):
            scheduler.step()
        assert (scheduler.get_last_value(), scheduler.last_epoch) == ([(0.5, 0.75)], 1)


def test_nan_and_inf_are_values(host_backend: str, mirrored: bool) -> None:
    made = single(host_backend)
    scheduler = ParamScheduler(made, "weight_decay", lambda step: [0.0, math.inf, math.nan, -0.5][step])
    found = []
    for _ in range(3):
        scheduler.step()
        found += scheduler.get_last_value()
    assert [found[0], found[2]] == [math.inf, -0.5]
    assert math.isnan(found[1])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("horizon", [1, 9])
@pytest.mark.parametrize("last", [2, 90])  # while the function is called to compare, and after
@pytest.mark.parametrize(("name", "bad"), [("max_grad_norm", -1.0), ("max_grad_norm", math.nan), ("ema_decay", 1.5)])
@pytest.mark.parametrize("how", ["one", "of each", "of one group", "untraceable"])
def test_a_value_that_a_group_refuses_is_refused_at_every_step(
    how: str, name: str, bad: float, last: int, horizon: int, fused: bool, host_backend: str, mirrored: bool
) -> None:
    def function(step: int, low: float = 0.25) -> float:
        return bad if step > last else low

    functions: Any = function
    if how == "of each":
        functions = [function, lambda step: 0.5 if step < 1000 else 2.0]
    elif how == "of one group":
        functions = [None, function]
    elif how == "untraceable":
        functions = _effect(function)
    groups = [{"params": [p], name: 0.125} for p in parameters(2)]
    made = fused_sched.optim.SGD(groups, lr=0.1, backend=host_backend)
    scheduler = ParamScheduler(made, name, functions, horizon=horizon, fused=fused)

    def step() -> None:
        made.step()
        scheduler.step()

    for _ in range(last):
        step()
    before = scheduler.get_last_value()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name}.* must be (at least 0|from 0 to 1)"):
            step()
        assert (scheduler.get_last_value(), scheduler.last_epoch) == (before, last)


def test_group_added_later_is_an_error(host_backend: str, mirrored: bool) -> None:
    for fused in (False, True):
        made = single(host_backend)
        scheduler = ParamScheduler(made, "weight_decay", _polynomial, fused=fused)
        made.add_param_group({"params": parameters(1), "lr": 0.25})
        made.step()
        with pytest.raises(ValueError, match="argument 2 is shorter than argument 1"):
            scheduler.step()


def test_several_on_one_optimizer_each_write_their_own(host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "AdamW", [0.1], backend=host_backend)
    schedulers = [
        ParamScheduler(made, "beta1", lambda step: 0.5 + 0.01 * step),
        ParamScheduler(made, "beta2", lambda step: 0.75 + 0.01 * step),
        ParamScheduler(made, "eps", lambda step: 1e-3 * (step + 1)),
        ExponentialLR(made, 0.5),
    ]
    for step in range(1, 5):
        for scheduler in schedulers:
            scheduler.step()
        group = made.param_groups[0]
        assert group["betas"] == (0.5 + 0.01 * step, 0.75 + 0.01 * step)
        assert (group["eps"], group["lr"]) == (1e-3 * (step + 1), 0.1 * 0.5**step)
    assert schedulers[0].get_last_lr() == [0.1 * 0.5**3]  # as of its own last step


def test_explain_names_what_is_written_and_how(host_backend: str) -> None:
    scheduler = ParamScheduler(single(host_backend), "weight_decay", Recorder())
    text = scheduler.explain()
    assert text.startswith("ParamScheduler: its function is called by Python at every step and its values are read ")
    assert "field weight_decay <- " in text
    assert scheduler.program.fields_written == {"weight_decay"}
    made = optimizer(fused_sched.optim, "Adam", [0.1], backend=host_backend)
    assert ParamScheduler(made, "betas", _pair).program.fields_written == {"beta1", "beta2"}
    text = ParamScheduler(single(host_backend), "weight_decay", Recorder(), horizon=7).explain()
    assert "called by Python 7 steps at a time" in text
