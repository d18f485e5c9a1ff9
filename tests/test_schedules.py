"""Schedulers as functions of the step: what they predict is what the scheduler then does, to the bit."""

from __future__ import annotations

import copy
import functools
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from schedule_twins import Decay, inverse_square_root, random_lrs, same_bits
from tolerances import COSINE_PAST_TROUGH_RELATIVE
from torch.optim import lr_scheduler as torch_lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.optim.swa_utils import SWALR

import fused_sched
from fused_sched import lr_scheduler, schedules
from fused_sched.lr_scheduler import recipes
from fused_sched.schedules import as_function, curves, lr_curve

MODULES = {"ours": fused_sched.optim, "torch": torch.optim}
OPTIMIZERS = ("SGD", "Adam", "AdamW")
BASIC = (
    "LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR",
    "CosineAnnealingLR", "PolynomialLR", "CyclicLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "SWALR",
)  # fmt: skip
# Those that may stand in a nest; the others keep values in the param groups that a second one would overwrite.
NESTABLE = BASIC[:9]
COVERED = {*BASIC, "SequentialLR", "ChainedScheduler"}
ELSEWHERE = {"ReduceLROnPlateau", "KLAdaptiveLR", "FeedbackLR", "ParamScheduler", "LRScheduler"}


def _class(side: str, name: str) -> Any:
    if side == "ours":
        return getattr(lr_scheduler, name)
    return SWALR if name == "SWALR" else getattr(torch_lr_scheduler, name)


def _optimizer(side: str, kind: str, lrs: list[float], **options: Any) -> Any:
    groups = [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": lr} for lr in lrs]
    if kind == "SGD":
        options = {"momentum": 0.9, **options}
    optimizer = getattr(MODULES[side], kind)(groups, **options)
    optimizer._opt_called = True  # most schedulers here are driven alone
    return optimizer


def _wobble(base: float, step: int) -> float:
    return base + 0.001 * (step % 3)


def _arguments(name: str, rng: random.Random) -> dict[str, Any]:
    make: dict[str, Callable[[], dict[str, Any]]] = {
        "LambdaLR": lambda: {"lr_lambda": rng.choice([inverse_square_root, Decay(rng.uniform(0.9, 1))])},
        "MultiplicativeLR": lambda: {"lr_lambda": functools.partial(_wobble, rng.uniform(0.9, 1))},
        "StepLR": lambda: {"step_size": rng.randint(1, 30), "gamma": rng.uniform(0.1, 1.1)},
        "MultiStepLR": lambda: {"milestones": [rng.randint(1, 90) for _ in range(5)], "gamma": rng.uniform(0.1, 1)},
        "ConstantLR": lambda: {"factor": rng.uniform(0.1, 1), "total_iters": rng.randint(0, 60)},
        "LinearLR": lambda: {"start_factor": rng.uniform(0.01, 1), "end_factor": rng.uniform(0, 1),
                             "total_iters": rng.randint(1, 60)},
        "ExponentialLR": lambda: {"gamma": rng.uniform(0.9, 1.01)},
        "CosineAnnealingLR": lambda: {"T_max": rng.randint(2, 70), "eta_min": rng.uniform(0, 1e-4)},
        "PolynomialLR": lambda: {"total_iters": rng.randint(1, 90), "power": rng.uniform(0.5, 3)},
        "CyclicLR": lambda: {"base_lr": 1e-4, "max_lr": rng.uniform(0.01, 1), "step_size_up": rng.randint(1, 20),
                             "mode": rng.choice(["triangular", "triangular2", "exp_range"]), "gamma": 0.99},
        "CosineAnnealingWarmRestarts": lambda: {"T_0": rng.randint(1, 20), "T_mult": rng.randint(1, 3)},
        "OneCycleLR": lambda: {"max_lr": rng.uniform(0.1, 2), "total_steps": rng.randint(150, 300),
                               "three_phase": rng.random() < 0.5, "anneal_strategy": rng.choice(["cos", "linear"])},
        "SWALR": lambda: {"swa_lr": rng.uniform(0.001, 0.1), "anneal_epochs": rng.randint(1, 40),
                          "anneal_strategy": rng.choice(["cos", "linear"])},
    }  # fmt: skip
    return make[name]()


def _plan(rng: random.Random, depth: int) -> tuple[str, Any]:
    """A random nest, as (name, arguments); parts are plans."""
    if depth == 0 or rng.random() < 0.3:
        name = rng.choice(NESTABLE)
        return name, _arguments(name, rng)
    # what is itself nested cannot be started at a milestone, in torch neither
    parts = [_plan(rng, depth - 1)] + [_plan(rng, 0) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.5:
        return "ChainedScheduler", parts
    return "SequentialLR", (parts, sorted(rng.sample(range(1, 60), len(parts) - 1)))


def _build(side: str, plan: tuple[str, Any], optimizer: Any, **keywords: Any) -> Any:
    name, given = plan
    if name == "ChainedScheduler":
        return _class(side, name)([_build(side, part, optimizer) for part in given], optimizer, **keywords)
    if name == "SequentialLR":
        parts, milestones = given
        return _class(side, name)(optimizer, [_build(side, p, optimizer) for p in parts], milestones, **keywords)
    return _class(side, name)(optimizer, **given, **keywords)


def _entry(optimizer: Any, group: int, key: str) -> float:
    values = optimizer.param_groups[group]
    return float(values["betas"][0] if key == "beta1" else values[key])


def _epoch(scheduler: Any) -> int:
    return int(_epoch(scheduler._schedulers[0]) if not hasattr(scheduler, "last_epoch") else scheduler.last_epoch)


def _momentum(kind: str) -> str:
    return "momentum" if kind == "SGD" else "beta1"


def _check_future(scheduler: Any, kind: str, steps: int, with_optimizer: bool = False) -> None:
    """Predict every group's lr and momentum, then step the scheduler itself and compare."""
    optimizer = scheduler.optimizer
    start = _epoch(scheduler)
    keys = ("lr", _momentum(kind))
    predicted = {
        (group, key): as_function(scheduler, group, key)(range(start, start + steps + 1))
        for group in range(len(optimizer.param_groups))
        for key in keys
    }
    for step in range(steps + 1):
        for (group, key), values in predicted.items():
            now = _entry(optimizer, group, key)
            assert same_bits(values[step], now), (
                f"{key} of group {group}, {step} steps on: {values[step]!r}, is {now!r}"
            )
        if with_optimizer:
            optimizer.step()
        scheduler.step()


def _run(scheduler: Any, steps: int) -> None:
    for _ in range(steps):
        scheduler.step()


# -- what is predicted is what happens --------------------------------------------------------------------------


def test_all_schedulers_are_covered() -> None:
    there = {n for n in lr_scheduler.__all__ if isinstance(getattr(lr_scheduler, n), type)}
    assert there <= COVERED | ELSEWHERE
    assert set(torch_lr_scheduler.__all__) <= COVERED | ELSEWHERE


@pytest.mark.parametrize("side", MODULES)
@pytest.mark.parametrize("name", BASIC)
def test_predicts_each_scheduler_from_the_start_and_amid_its_run(name: str, side: str, rng: random.Random) -> None:
    for ran in (0, 1, rng.randint(2, 40)):
        kind = rng.choice(OPTIMIZERS)
        optimizer = _optimizer(side, kind, random_lrs(rng, rng.randint(1, 3)))
        scheduler = _class(side, name)(optimizer, **_arguments(name, rng))
        _run(scheduler, ran)
        _check_future(scheduler, kind, 80)


@pytest.mark.parametrize("side", MODULES)
def test_predicts_random_nests(side: str, rng: random.Random) -> None:
    for _ in range(12):
        kind = rng.choice(OPTIMIZERS)
        plan = _plan(rng, 3)
        scheduler = _build(side, plan, _optimizer(side, kind, random_lrs(rng, rng.randint(1, 3))))
        _run(scheduler, rng.choice([0, 1, rng.randint(2, 50)]))
        _check_future(scheduler, kind, 60)


@pytest.mark.parametrize("name", [*BASIC, "nest"])
def test_values_of_ours_are_torchs(name: str, rng: random.Random) -> None:
    """Against torch's scheduler run eagerly; equal bits, but for the cosine that magnifies the last places."""
    lrs, kind = random_lrs(rng, 2), rng.choice(OPTIMIZERS)
    plan = _plan(rng, 2) if name == "nest" else (name, _arguments(name, rng))
    function = as_function(_build("ours", plan, _optimizer("ours", kind, lrs)), 1)
    optimizer = _optimizer("torch", kind, lrs)
    scheduler = _build("torch", plan, optimizer)
    for step in range(100):
        now = float(optimizer.param_groups[1]["lr"])
        near = COSINE_PAST_TROUGH_RELATIVE if "Cosine" in repr(plan) else 1e-15
        assert math.isclose(function(step), now, rel_tol=near), f"{plan}: step {step}"
        scheduler.step()


@pytest.mark.parametrize("side", MODULES)
@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "ExponentialLR", "LinearLR", "MultiplicativeLR"])
def test_goes_on_from_what_was_edited_by_hand(name: str, side: str, rng: random.Random) -> None:
    optimizer = _optimizer(side, "SGD", random_lrs(rng, 2))
    scheduler = _class(side, name)(optimizer, **_arguments(name, rng))
    _run(scheduler, rng.randint(1, 20))
    optimizer.param_groups[1]["lr"] *= rng.uniform(0.1, 3)
    if name == "ExponentialLR":
        scheduler.gamma = rng.uniform(0.5, 1)
    scheduler.base_lrs[0] = rng.uniform(0.1, 1)
    _check_future(scheduler, "SGD", 50)


def test_is_a_snapshot(rng: random.Random) -> None:
    optimizer = _optimizer("ours", "SGD", [0.1])
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    function = as_function(scheduler)
    _run(scheduler, 3)
    optimizer.param_groups[0]["lr"] = 7.0
    scheduler.gamma = 0.9
    assert function([0, 1, 2, 3, 4]) == [0.1 * 0.5**i for i in range(5)]


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "LambdaLR", "CyclicLR", "nest"])
@pytest.mark.parametrize("keyword", ["fused", "skip_with_optimizer"])
def test_predicts_schedules_inside_the_update(name: str, keyword: str, rng: random.Random) -> None:
    for ran in (0, 1, rng.randint(2, 20)):
        kind = rng.choice(OPTIMIZERS)
        optimizer = _optimizer("ours", kind, random_lrs(rng, 2))
        plan = _plan(rng, 2) if name == "nest" else (name, _arguments(name, rng))
        keywords: dict[str, Any] = {keyword: True}
        scheduler = _build("ours", plan, optimizer, **keywords)
        for _ in range(ran):
            optimizer.step()
            scheduler.step()
        _check_future(scheduler, kind, 40, with_optimizer=True)


def test_between_update_and_step_of_a_fused_schedule(rng: random.Random) -> None:
    optimizer = _optimizer("ours", "SGD", [0.1])
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5, fused=True)
    optimizer.step()
    function = as_function(scheduler)
    assert function([1, 2, 3]) == [0.05, 0.025, 0.0125]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    scheduler.step()  # the original still knows that it had its step: this one is another
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_lr_of_zero_is_a_start_and_not_a_trial_step() -> None:
    """A fused schedule whose warm-up begins at 0, as recipes do."""
    optimizer = _optimizer("ours", "SGD", [0.1])
    scheduler = recipes.get_linear_schedule_with_warmup(optimizer, 4, 20, fused=True)
    for ran in range(3):
        assert as_function(scheduler)([ran, 2, 3, 4]) == [0.1 * ran / 4, 0.05, 0.1 * 0.75, 0.1]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("side", MODULES)
def test_parts_of_a_nest_and_schedulers_taken_over(side: str, rng: random.Random) -> None:
    optimizer = _optimizer(side, "SGD", random_lrs(rng, 2))
    parts = [_class(side, n)(optimizer, **_arguments(n, rng)) for n in ("ExponentialLR", "LinearLR")]
    nest = _class(side, "ChainedScheduler")(parts, optimizer)
    _run(nest, rng.randint(0, 9))
    _check_future(parts[0], "SGD", 20)
    _check_future(nest, "SGD", 20)
    if side == "ours":
        optimizer = _optimizer(side, "SGD", random_lrs(rng, 2))
        theirs = torch_lr_scheduler.StepLR(optimizer, 3, 0.5)
        _run(theirs, rng.randint(0, 9))
        _check_future(theirs, "SGD", 20)
        _check_future(lr_scheduler.on_device(theirs), "SGD", 20)


# -- subclasses, other optimizers, lrs that are tensors ----------------------------------------------------------


class Staircase(torch_lr_scheduler.LRScheduler):
    """A scheduler of a user's: keeps the groups themselves, and state of its own."""

    def __init__(self, optimizer: Any, drop: float) -> None:
        self.groups = optimizer.param_groups
        self.first = optimizer.param_groups[0]
        self.drop = drop
        self.seen: list[float] = []
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        self.seen.append(float(self.first["lr"]))
        self.first.setdefault("history", []).append(self.last_epoch)
        drop = self.drop if len(self.first["history"]) % 3 == 0 else 1.0
        return [self.first["lr"] * drop * (i + 1) for i, g in enumerate(self.groups)]


class OddOptimizer(torch.optim.Optimizer):
    """An optimizer of a user's, with a constructor of its own and a step that must not run twice."""

    def __init__(self, params: Any, lr: float, *, needed: str) -> None:
        self.needed, self.steps = needed, 0
        super().__init__(params, {"lr": lr, "momentum": 0.9, "note": "text"})

    def step(self, closure: Any = None) -> None:
        self.steps += 1


@pytest.mark.parametrize("side", MODULES)
def test_predicts_a_users_scheduler_and_leaves_its_state_alone(side: str, rng: random.Random) -> None:
    optimizer = _optimizer(side, "SGD", random_lrs(rng, 2))
    scheduler = Staircase(optimizer, rng.uniform(0.1, 0.9))
    _run(scheduler, rng.randint(0, 5))
    seen, history = list(scheduler.seen), list(scheduler.first["history"])
    as_function(scheduler)(30)
    assert scheduler.seen == seen
    assert scheduler.first["history"] == history
    assert scheduler.groups is optimizer.param_groups
    _check_future(scheduler, "SGD", 30)


@pytest.mark.parametrize("name", ["StepLR", "OneCycleLR", "CyclicLR", "CosineAnnealingLR"])
def test_predicts_on_a_users_optimizer(name: str, rng: random.Random) -> None:
    optimizer = OddOptimizer([torch.nn.Parameter(torch.ones(2))], lr=rng.uniform(0.01, 1), needed="yes")
    optimizer._opt_called = True  # type: ignore[attr-defined]
    scheduler = _class("torch", name)(optimizer, **_arguments(name, rng))
    _check_future(scheduler, "SGD", 60)
    assert optimizer.steps == 0


def test_the_copy_sees_the_same_class_of_optimizer() -> None:
    seen = []

    class Curious(torch_lr_scheduler.LRScheduler):
        def get_lr(self) -> list[Any]:
            seen.append((type(self.optimizer).__mro__, self.optimizer.defaults["lr"]))
            return [g["lr"] for g in self.optimizer.param_groups]

    class Mine(fused_sched.optim.AdamW):
        pass

    parameter = torch.nn.Parameter(torch.ones(1))
    for optimizer, expected in (
        (torch.optim.NAdam([parameter], lr=0.1), torch.optim.NAdam),
        (fused_sched.optim.Adam([parameter], lr=0.1), fused_sched.optim.Adam),
        (Mine([parameter], lr=0.1), fused_sched.optim.AdamW),
        (OddOptimizer([parameter], 0.1, needed=""), torch.optim.Optimizer),
    ):
        scheduler = Curious(optimizer)
        seen.clear()
        as_function(scheduler)(2)
        assert len(seen) == 2
        assert all(expected in mro and lr == 0.1 for mro, lr in seen)


@pytest.mark.parametrize("side", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lr_that_is_a_tensor(side: str, dtype: torch.dtype, rng: random.Random) -> None:
    """torch keeps such an lr in the tensor's dtype and rounds at every step."""
    lrs: list[Any] = [torch.tensor(lr, dtype=dtype) for lr in random_lrs(rng, 2)]
    optimizer = _optimizer(side, "AdamW", lrs, **({"capturable": True, "foreach": False} if side == "torch" else {}))
    scheduler = _class(side, "ExponentialLR")(optimizer, gamma=rng.uniform(0.9, 1))
    before = [x.clone() for x in lrs]
    as_function(scheduler)(9)
    assert lrs == before
    _check_future(scheduler, "AdamW", 30)


def test_an_lr_tensor_that_groups_share_stays_shared() -> None:
    shared: Any = torch.tensor(0.5, dtype=torch.float64)
    optimizer = _optimizer("torch", "SGD", [shared, shared], foreach=False)
    scheduler = torch_lr_scheduler.LambdaLR(optimizer, [lambda e: 1.0, lambda e: 0.5**e])
    _check_future(scheduler, "SGD", 4)
    assert optimizer.param_groups[0]["lr"] == 0.5**6


# -- nothing is touched ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", MODULES)
def test_scheduler_optimizer_and_parameters_stay_as_they_are(side: str, rng: random.Random) -> None:
    optimizer = _optimizer(side, "AdamW", random_lrs(rng, 2))
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    scheduler = _build(side, _plan(rng, 2), optimizer)
    optimizer.step()
    scheduler.step()

    def look() -> Any:
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        values = [(p.detach().clone(), p.grad.clone(), p._version) for p in parameters]
        return copy.deepcopy((scheduler.state_dict(), optimizer.state_dict(), values)), list(map(id, parameters))

    before = look()
    attributes = dict(optimizer.__dict__)
    as_function(scheduler, 1)(_epoch(scheduler) + 40)
    assert repr(look()) == repr(before)
    assert attributes.keys() == optimizer.__dict__.keys()
    assert all(attributes[name] is value for name, value in optimizer.__dict__.items())


class Model(torch.nn.Module):
    """Holds the parameters, and the schedule's function too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def factor(self, step: int) -> float:
        return 0.5**step * float(self.weight[0].detach())


@pytest.mark.parametrize("side", MODULES)
def test_parameters_are_not_copied(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    optimizer = getattr(MODULES[side], "SGD")(model.parameters(), lr=0.1)  # noqa: B009
    scheduler = _class(side, "LambdaLR")(optimizer, model.factor)

    def refuse(tensor: torch.Tensor, memo: Any) -> Any:
        raise AssertionError(f"a tensor of {tensor.numel()} elements was copied")

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
    assert as_function(scheduler)([0, 1, 2]) == [0.1, 0.05, 0.025]


def test_hooks_on_all_optimizers_do_not_see_the_copy_of_torchs() -> None:
    calls = []
    handle = register_optimizer_step_pre_hook(lambda *args: calls.append(args))
    try:
        optimizer = _optimizer("torch", "SGD", [0.1])
        as_function(torch_lr_scheduler.StepLR(optimizer, 2))(10)
    finally:
        handle.remove()
    assert calls == []


class OnHost(lr_scheduler.StepLR):
    """Warns when it is made, because only Python can run it."""

    def _update_lr(self, epoch: Any = None) -> None:
        super()._update_lr(epoch)


def test_nothing_warns() -> None:
    with pytest.warns(UserWarning, match="_update_lr"):
        on_host = OnHost(_optimizer("ours", "SGD", [0.1]), 3)
    ours = lr_scheduler.StepLR(_optimizer("ours", "SGD", [0.1]), 3)
    for scheduler in (ours, on_host, torch_lr_scheduler.StepLR(_optimizer("torch", "SGD", [0.1]), 3)):
        del scheduler.optimizer._opt_called
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            as_function(scheduler)(5)


def test_choice_of_a_backend_from_outside_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = _optimizer("ours", "SGD", [0.1])
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    monkeypatch.setenv("FUSED_SCHED_BACKEND", "cuda")
    assert as_function(scheduler)(1) == 0.05
    assert as_function(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.5))(1) == 0.05


# -- how it is called --------------------------------------------------------------------------------------------


class Counted(torch_lr_scheduler.StepLR):
    """Counts the steps of all copies."""

    steps: list[int] = []

    def step(self, epoch: Any = None) -> None:
        self.steps.append(1)
        super().step(epoch)


def test_each_step_is_taken_once() -> None:
    scheduler = Counted(_optimizer("torch", "SGD", [0.1]), 10)
    Counted.steps.clear()
    function = as_function(scheduler)
    assert not Counted.steps
    function(50)
    assert len(Counted.steps) == 50
    function([3, 50, 7, 0])
    function(range(51))
    assert len(Counted.steps) == 50
    function(torch.tensor([[51, 2]]))
    assert len(Counted.steps) == 51


def test_forms_of_steps(rng: random.Random) -> None:
    optimizer = _optimizer("ours", "SGD", [0.1])
    scheduler = lr_scheduler.StepLR(optimizer, 7, 0.7)
    _run(scheduler, 5)
    function = as_function(scheduler)
    expected = {step: function(step) for step in range(5, 60)}
    assert all(type(value) is float for value in expected.values())
    assert len(set(expected.values())) > 5
    asked = [rng.randint(5, 59) for _ in range(12)]
    values = [expected[step] for step in asked]
    for form in (asked, tuple(asked), [np.int32(x) for x in asked]):
        result = function(form)
        assert type(result) is list
        assert result == values
    assert function(range(5, 60)) == list(expected.values())
    assert function(np.int64(9)) == expected[9]
    for dtype in (torch.int64, torch.int32, torch.uint8):
        tensor = function(torch.tensor(asked, dtype=dtype).reshape(3, 4))
        assert tensor.dtype == torch.float64
        assert tensor.tolist() == torch.tensor(values, dtype=torch.float64).reshape(3, 4).tolist()
    single = function(torch.tensor(9))
    assert single.shape == ()
    assert single.item() == expected[9]
    for numpy_dtype in (np.int64, np.uint16):
        array = function(np.array(asked, dtype=numpy_dtype).reshape(2, 6))
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float64
        assert array.tolist() == np.array(values).reshape(2, 6).tolist()
    assert function([]) == []
    assert function(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)
    assert function(np.zeros((2, 0), dtype=np.int64)).shape == (2, 0)


@pytest.mark.parametrize(
    "step",
    [1.0, True, None, "3", b"3", [1, 2.0], [True], [[1]], {1}, 1 + 0j, torch.tensor(1.0), torch.tensor([True]),
     np.array([1.0]), np.array([True]), np.float64(3), np.bool_(True)],
    ids=repr,
)  # fmt: skip
def test_steps_of_another_kind_are_refused(step: Any) -> None:
    function = as_function(lambda o: lr_scheduler.StepLR(o, 3))
    with pytest.raises(TypeError, match=r"(int|whole numbers)"):
        function(step)


@pytest.mark.parametrize("make", [int, lambda s: [9, s], lambda s: torch.tensor([9, s]), lambda s: np.array([[s, 9]])])
def test_steps_before_the_present_are_refused(make: Callable[[int], Any]) -> None:
    scheduler = lr_scheduler.StepLR(_optimizer("ours", "SGD", [0.1]), 3)
    with pytest.raises(ValueError, match=r"step -1 is before step 0"):
        as_function(scheduler)(make(-1))
    _run(scheduler, 5)
    with pytest.raises(ValueError, match=r"step 4 is before step 5.*StepLR.*from 5 on"):
        as_function(scheduler)(make(4))


def test_its_text_names_it() -> None:
    assert repr(as_function(lambda o: lr_scheduler.StepLR(o, 3))) == "<lr of StepLR from step 0 on>"


@pytest.mark.parametrize("side", MODULES)
def test_the_end_of_one_cycle_is_raised_when_asked_about(side: str) -> None:
    optimizer = _optimizer(side, "SGD", [0.1])
    scheduler = _class(side, "OneCycleLR")(optimizer, max_lr=1.0, total_steps=20)
    function = as_function(scheduler)
    last = function(20)
    for step in (21, 400, [3, 21]):
        with pytest.raises(ValueError, match="Tried to step 21 times"):
            function(step)
    assert function(20) == last
    assert len(function(range(21))) == 21


def test_what_a_function_raises_is_raised_at_its_step() -> None:
    def factor(step: int) -> float:
        return 1 / (5 - step)

    for side in MODULES:
        function = as_function(_class(side, "LambdaLR")(_optimizer(side, "SGD", [0.1]), factor))
        assert function(4) == 0.1
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                function(6)
        assert function(3) == 0.05


# -- functions that make schedulers ------------------------------------------------------------------------------


def test_a_function_that_makes_a_scheduler(rng: random.Random) -> None:
    lr, momentum = rng.uniform(0.01, 1), rng.uniform(0.1, 0.9)
    for make in (
        lambda o: lr_scheduler.ExponentialLR(o, gamma=0.5, fused=True),
        functools.partial(lr_scheduler.ExponentialLR, gamma=0.5),
        lambda o: torch_lr_scheduler.ExponentialLR(o, gamma=0.5),
    ):
        assert as_function(make, lr=lr)(range(4)) == [lr, lr * 0.5, lr * 0.5 * 0.5, lr * 0.5 * 0.5 * 0.5]
        assert as_function(make)(0) == 0.1
        assert as_function(make, key="momentum", momentum=momentum)(3) == momentum
        assert as_function(make, key="momentum")(3) == 0.9


def test_curves_are_values_of_the_function(rng: random.Random) -> None:
    arguments = {"base_lr": 0.01, "max_lr": rng.uniform(0.1, 1), "step_size_up": rng.randint(4, 9)}

    def make(optimizer: Any) -> Any:
        return lr_scheduler.CyclicLR(optimizer, **arguments)

    lr = rng.uniform(0.1, 1)
    both = curves(make, 40, ("lr", "momentum"), lr=lr, momentum=0.5)
    for key in both:
        assert both[key] == as_function(make, key=key, lr=lr, momentum=0.5)(range(40))
        assert len(set(both[key])) > 3
    assert lr_curve(make, 40, lr=lr, momentum=0.5) == both["lr"]
    assert curves(make, 5, ()) == {}


@pytest.mark.parametrize("steps", [0, -3])
def test_curves_need_a_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps={steps} must be at least 1"):
        lr_curve(lambda o: lr_scheduler.StepLR(o, 3), steps)


# -- what is refused ---------------------------------------------------------------------------------------------


class NeedsArgument(torch_lr_scheduler.StepLR):
    def step(self, metric: float) -> None:  # type: ignore[override]
        super().step()


@pytest.mark.parametrize("side", MODULES)
def test_schedulers_by_a_metric_are_refused(side: str) -> None:
    plateau = _class(side, "ReduceLROnPlateau")
    with pytest.raises(TypeError, match="ReduceLROnPlateau follows a metric"):
        as_function(plateau(_optimizer(side, "SGD", [0.1])))
    with pytest.raises(TypeError, match="ReduceLROnPlateau follows a metric"):
        as_function(lambda o: (lr_scheduler if side == "ours" else torch_lr_scheduler).ReduceLROnPlateau(o))


@pytest.mark.parametrize("make", [lr_scheduler.KLAdaptiveLR, lambda o: lr_scheduler.FeedbackLR(o, lambda lr, x: lr)])
def test_schedulers_that_follow_a_measurement_are_refused(make: Callable[[Any], Any]) -> None:
    def nested(optimizer: Any) -> Any:
        parts = [lr_scheduler.LinearLR(optimizer), lr_scheduler.ChainedScheduler([make(optimizer)])]
        return lr_scheduler.ChainedScheduler(parts)

    for one in (make, nested):
        with pytest.raises(TypeError, match="^(KLAdaptive|Feedback)LR follows a metric that only training gives"):
            as_function(one(_optimizer("ours", "SGD", [0.1])))
        with pytest.raises(TypeError, match="^(KLAdaptive|Feedback)LR follows a metric that only training gives"):
            lr_curve(one, 3)


def test_schedulers_that_need_arguments_are_refused() -> None:
    scheduler = NeedsArgument.__new__(NeedsArgument)
    scheduler.optimizer = _optimizer("torch", "SGD", [0.1])
    with pytest.raises(TypeError, match=r"step\(\) of NeedsArgument needs arguments.*'metric'"):
        as_function(scheduler)


@pytest.mark.parametrize("value", [None, 3, "StepLR(3)", [1]])
def test_what_is_no_scheduler_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(value).__name__} is neither a scheduler"):
        as_function(value)
    with pytest.raises(TypeError, match=f"returned {type(value).__name__}"):
        as_function(lambda optimizer: value)


def test_arguments_of_functions_are_refused_with_a_scheduler() -> None:
    scheduler = lr_scheduler.StepLR(_optimizer("ours", "SGD", [0.1]), 3)
    for keywords in ({"lr": 0.1}, {"momentum": 0.9}):
        with pytest.raises(TypeError, match="lr and momentum are for a function"):
            as_function(scheduler, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("lr", [0.0, -1.0, math.inf, math.nan])
def test_lr_out_of_range_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr="):
        as_function(lambda o: lr_scheduler.StepLR(o, 3), lr=lr)


def test_a_function_has_to_use_the_optimizer_it_is_given() -> None:
    other = _optimizer("ours", "SGD", [0.1])
    with pytest.raises(ValueError, match="for the optimizer that it is given"):
        as_function(lambda o: lr_scheduler.StepLR(other, 3))


@pytest.mark.parametrize("group", [-1, 2, 99])
def test_groups_that_do_not_exist_are_refused(group: int) -> None:
    scheduler = lr_scheduler.StepLR(_optimizer("ours", "SGD", [0.1, 0.2]), 3)
    with pytest.raises(ValueError, match=f"group={group} must be from 0 to 1"):
        as_function(scheduler, group)


@pytest.mark.parametrize("key", ["nonsense", "params", "beta1", "foreach"])
def test_keys_without_a_number_are_refused(key: str) -> None:
    scheduler = lr_scheduler.StepLR(_optimizer("ours", "SGD", [0.1]), 3)
    with pytest.raises(ValueError, match=rf"key='{key}'.*choose one of .*lr, .*momentum"):
        as_function(scheduler, key=key)
    scheduler = lr_scheduler.StepLR(_optimizer("ours", "Adam", [0.1]), 3)
    with pytest.raises(ValueError, match=r"key='betas'.*beta1, beta2"):
        as_function(scheduler, key="betas")


def test_exports_exist() -> None:
    assert all(callable(getattr(schedules, name)) for name in schedules.__all__)
