"""on_device: schedulers of torch's classes and of the user's own go on from where they are."""

from __future__ import annotations

import copy
import pickle
import random
import re
import warnings
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    EVERY,
    NAMES,
    OURS,
    TORCH,
    Parts,
    Recorder,
    Twins,
    advance,
    assert_alike,
    build,
    compare_steps,
    optimizer,
    parameters,
    position,
    seen,
    single,
)
from torch.optim import lr_scheduler as torch_lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

import fused_sched
from fused_sched.lr_scheduler import on_device

LRS = [0.1, 0.3]


def _pair(make: Any, before: int, backend: str, *, kind: str = "SGD", **keywords: Any) -> Twins:
    """``make(optimizer)`` on both, some steps of each, then ours is converted."""
    mine = optimizer(fused_sched.optim, kind, LRS, backend=backend)
    theirs = optimizer(torch.optim, kind, LRS)
    given, oracle = make(mine), make(theirs)
    for _ in range(before):
        advance(given)
        advance(oracle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it runs on the host, if it does
        made = on_device(given, **keywords)
    assert made.optimizer is mine
    assert_alike(seen(mine), seen(theirs), 0.0, "conversion changes nothing")
    return Twins(made, oracle, mine, theirs)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("before", [0, 1, 7])
@pytest.mark.parametrize("name", EVERY)
def test_torchs_classes_go_on_from_any_step(
    name: str, before: int, kind: str, host_backend: str, mirrored: bool
) -> None:
    pair = _pair(lambda o: build(TORCH, name, o, **DEFAULTS[name]), before, host_backend, kind=kind)
    assert type(pair.ours) is getattr(OURS, name)
    assert pair.ours.program is not None
    assert pair.ours.state_dict() == pair.torchs.state_dict()
    assert position(pair.ours) == position(pair.torchs)
    for step in range(15):
        if step == 4:
            pair.edit(lambda groups: groups[1].update(lr=groups[1]["lr"] / 2))
        compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    assert pair.ours.state_dict() == pair.torchs.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_fused_from_the_next_step_on(name: str, host_backend: str, mirrored: bool) -> None:
    pair = _pair(lambda o: build(TORCH, name, o, **DEFAULTS[name]), 3, host_backend, fused=True)
    assert pair.our_optimizer.fused_schedules == (pair.ours._schedule,)
    for step in range(12):
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
    pair.step()  # one more is an advance of its own
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, "without an update")


@pytest.mark.parametrize("horizon", [1, 5])
def test_horizon_reaches_the_parts(horizon: int, host_backend: str, mirrored: bool) -> None:
    parts = Parts(("LambdaLR", {"lr_lambda": Recorder()}), ("MultiplicativeLR", {"lr_lambda": Recorder()}))
    arguments = {"schedulers": parts, "milestones": [4]}
    pair = _pair(lambda o: build(TORCH, "SequentialLR", o, **arguments), 2, host_backend, horizon=horizon)
    assert [part._horizon for part in pair.ours._family()] == [horizon] * 3
    compare_steps(pair, 12)


@pytest.mark.parametrize("before", [0, 2, 6])
def test_nested_with_all_parts(before: int, host_backend: str, mirrored: bool) -> None:
    first = Parts(("LinearLR", {"total_iters": 4}), ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 5}))
    arguments = {
        "schedulers": Parts(
            ("SequentialLR", {"schedulers": first, "milestones": [3]}),
            ("MultiplicativeLR", {"lr_lambda": lambda step: 0.97}),
        )
    }
    pair = _pair(lambda o: build(TORCH, "ChainedScheduler", o, **arguments), before, host_backend)
    compare_steps(pair, 20)
    assert all(part._schedule is pair.ours._schedule for part in pair.ours._family())
    assert pair.ours.state_dict() == pair.torchs.state_dict()


def test_nesting_that_has_one_of_ours_already(host_backend: str, mirrored: bool) -> None:
    def make(home: Any) -> Any:
        return lambda o: TORCH.ChainedScheduler([home.StepLR(o, 2), TORCH.ExponentialLR(o, 0.9)])

    mine, theirs = optimizer(fused_sched.optim, "SGD", LRS, backend=host_backend), optimizer(torch.optim, "SGD", LRS)
    given, oracle = make(OURS)(mine), make(TORCH)(theirs)
    part = given._schedulers[0]
    pair = Twins(on_device(given), oracle, mine, theirs)
    assert pair.ours._schedulers[0] is part
    compare_steps(pair, 12)


# -- the user's own classes --------------------------------------------------------------------------------


class FromBase(LRScheduler):
    """From base_lrs and the epoch."""

    def __init__(self, optimizer: Any, warmup: int, last_epoch: int = -1) -> None:
        self.warmup = warmup
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * min(1.0, (self.last_epoch + 1) / self.warmup) for base in self.base_lrs]


class Recursive(LRScheduler):
    """From the present lr."""

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [group["lr"] for group in self.optimizer.param_groups]
        return [group["lr"] * 0.9 + 0.001 for group in self.optimizer.param_groups]


class Counting(LRScheduler):
    """Only Python can run it."""

    def __init__(self, optimizer: Any) -> None:
        self.calls: list[int] = []
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self.calls.append(self.last_epoch)
        return [base / len(self.calls) for base in self.base_lrs]


class HalfStep(torch_lr_scheduler.StepLR):
    """Asks the class above."""

    def get_lr(self) -> list[float]:
        return [lr * 0.75 if self.last_epoch % 2 else lr for lr in super().get_lr()]


class Floor(torch_lr_scheduler.CosineAnnealingLR):
    """Adds an attribute and a method, and changes nothing."""

    note = "mine"

    def describe(self) -> str:
        return f"{self.note} {self.T_max}"


class Twice(torch_lr_scheduler.ExponentialLR):
    """Overrides step."""

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if not self._is_initial:
            super().step(epoch)


class Raised(torch_lr_scheduler.ExponentialLR):
    """Overrides _update_lr."""

    def _update_lr(self, epoch: int | None = None) -> None:
        super()._update_lr(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] += 0.125
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


USERS: dict[str, Any] = {
    "FromBase": lambda o: FromBase(o, 5),
    "Recursive": Recursive,
    "Counting": Counting,
    "HalfStep": lambda o: HalfStep(o, 3),
    "Floor": lambda o: Floor(o, 7),
    "Twice": lambda o: Twice(o, 0.9),
    "Raised": lambda o: Raised(o, 0.9),
}


@pytest.mark.parametrize("before", [0, 1, 6])
@pytest.mark.parametrize("name", USERS)
def test_users_classes_go_on_from_any_step(name: str, before: int, host_backend: str, mirrored: bool) -> None:
    pair = _pair(USERS[name], before, host_backend)
    cls = type(pair.torchs)
    assert isinstance(pair.ours, cls)
    assert (type(pair.ours).__name__, type(pair.ours).__module__) == (cls.__name__, cls.__module__)
    for step in range(20):
        if step == 5:
            pair.edit(lambda groups: groups[0].update(lr=0.5))
        if step == 9:
            pair.both(lambda scheduler, _: setattr(scheduler, "last_epoch", 2))
        compare_steps(pair, 1)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    assert pair.ours.state_dict() == pair.torchs.state_dict()
    assert type(pair.ours).__name__ in pair.ours.explain()


def test_what_needs_python_says_so_at_conversion(host_backend: str) -> None:
    for name, reason in (("Counting", "overrides get_lr, which cannot be traced"), ("Raised", "overrides _update_lr")):
        given = USERS[name](single(host_backend))
        with pytest.warns(UserWarning, match=rf"^{name} {reason}.*: its lr is computed on the host at every step\(\)$"):
            made = on_device(given)
        assert made.program is None
        assert made.explain().startswith(f"{name} runs on the host: {name} {reason}")
        for keyword in ("fused", "skip_with_optimizer"):
            with pytest.raises(ValueError, match=rf"^{name} {reason}.*: leave out fused and skip_with_optimizer$"):
                on_device(USERS[name](single(host_backend)), **{keyword: True})


def test_subclass_that_changes_no_step_is_a_program(host_backend: str, mirrored: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = on_device(USERS["Floor"](single(host_backend)))
    assert made.program is not None
    assert isinstance(made, OURS.CosineAnnealingLR)
    assert made.describe() == "mine 7"


class FromLast(LRScheduler):
    """Multiplies what it gave last, whatever the lr is now."""

    def get_lr(self) -> list[Any]:
        if self.last_epoch == 0:
            return [group["lr"] for group in self.optimizer.param_groups]
        return [0.9 * x for x in self.get_last_lr()]


def test_get_lr_from_the_last_lr(host_backend: str, mirrored: bool) -> None:
    pair = _pair(lambda o: FromLast(o), 2, host_backend)
    for step in range(12):
        if step == 5:
            pair.edit(lambda groups: groups[0].update(lr=0.5))
        compare_steps(pair, 1)


def test_function_of_another_schedule(host_backend: str, mirrored: bool) -> None:
    """What a schedule has in the program is not constant, though its dict has an old value of it."""
    mine = optimizer(fused_sched.optim, "SGD", LRS, backend=host_backend)
    leader = OURS.ExponentialLR(mine, 0.5)
    decay = OURS.ParamScheduler(mine, "weight_decay", lambda step: 0.1 * leader._last_lr[1])
    momentum = OURS.ParamScheduler(mine, "momentum", lambda step: leader.last_epoch / 16)
    for step in range(1, 12):
        for scheduler in (leader, decay, momentum):
            scheduler.step()
        if step == 4:
            leader.state_dict()
        group = mine.param_groups[0]
        assert (group["weight_decay"], group["momentum"]) == (0.1 * (LRS[1] * 0.5**step), step / 16)


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_attributes_of_the_users_changed_by_hand(fused: bool, host_backend: str, mirrored: bool) -> None:
    mine, theirs = optimizer(fused_sched.optim, "SGD", LRS, backend=host_backend), optimizer(torch.optim, "SGD", LRS)
    given = USERS["FromBase"](mine), USERS["FromBase"](theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = Twins(on_device(given[0], fused=fused), given[1], mine, theirs)
        for step in range(12):
            if step == 3:
                pair.both(lambda scheduler, _: setattr(scheduler, "warmup", 40))
            if step == 8:
                pair.both(lambda scheduler, _: scheduler.base_lrs.__setitem__(0, 0.9))
            pair.optimizer_step()
            pair.step()
            assert_alike(seen(mine), seen(theirs), 0.0, f"step {step}")
        assert mine.fused_schedules == (pair.ours._schedule,) * fused


def test_users_class_as_a_part(host_backend: str, mirrored: bool) -> None:
    def make(o: Any) -> Any:
        return TORCH.SequentialLR(o, [Recursive(o), FromBase(o, 4), HalfStep(o, 2)], [4, 9])

    pair = _pair(make, 2, host_backend)
    assert [type(part).__name__ for part in pair.ours._schedulers] == ["Recursive", "FromBase", "HalfStep"]
    compare_steps(pair, 16)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", [*USERS, "SequentialLR", "LambdaLR"])
def test_copies_of_the_converted_go_on(name: str, how: Any, host_backend: str, mirrored: bool) -> None:
    make = USERS.get(name, lambda o: build(TORCH, name, o, **DEFAULTS[name]))
    pair = _pair(make, 3, host_backend)
    compare_steps(pair, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made, copied = how((pair.our_optimizer, pair.ours))
    assert copied.optimizer is made
    assert type(copied) is type(pair.ours)
    before = seen(made)
    compare_steps(pair, 8)
    assert seen(made) == before
    for _ in range(8):
        copied.step()
    assert seen(made) == seen(pair.our_optimizer)
    assert copied.state_dict() == pair.ours.state_dict()


def test_state_goes_back_to_the_users_class(host_backend: str, mirrored: bool) -> None:
    pair = _pair(USERS["Recursive"], 3, host_backend)
    compare_steps(pair, 4)
    pair.torchs.load_state_dict(pair.ours.state_dict())
    pair.torch_optimizer.load_state_dict(pair.our_optimizer.state_dict())
    compare_steps(pair, 4)
    pair.ours.load_state_dict(pair.torchs.state_dict())
    compare_steps(pair, 4)


def test_group_added_after_the_conversion(host_backend: str, mirrored: bool) -> None:
    pair = _pair(USERS["Recursive"], 3, host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    compare_steps(pair, 5)
    assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()


def test_group_added_to_a_get_lr_that_has_no_lr_for_it(host_backend: str, mirrored: bool) -> None:
    pair = _pair(lambda made: FromBase(made, 9), 2, host_backend)
    assert pair.ours.program is not None
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    shorter = "argument 2 is shorter than argument 1"
    with pytest.raises(ValueError, match=shorter):
        pair.torchs.step()
    with pytest.warns(UserWarning, match="its lr is computed on the host"), pytest.raises(ValueError, match=shorter):
        pair.ours.step()
    fused = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    _ = on_device(FromBase(fused, 9), fused=True)
    fused.add_param_group({"params": parameters(1), "lr": 0.25})
    with pytest.raises(ValueError, match=r"it returns a list, not 2 numbers: leave out fused"):
        fused.step()


def test_random_moments_of_random_schedulers(rng: random.Random, host_backend: str, mirrored: bool) -> None:
    """Converted, copied into torch by its state, and converted again."""
    for _ in range(10):
        name = rng.choice(EVERY)
        pair = _pair(lambda o: build(TORCH, name, o, **DEFAULTS[name]), rng.randint(0, 12), host_backend)  # noqa: B023
        for _ in range(3):
            compare_steps(pair, rng.randint(1, 9))
            again = build(TORCH, name, pair.our_optimizer, **DEFAULTS[name])
            again.load_state_dict(pair.ours.state_dict())
            for group, theirs in zip(pair.our_optimizer.param_groups, pair.torch_optimizer.param_groups, strict=True):
                group.update({k: v for k, v in theirs.items() if k != "params"})
            pair = Twins(on_device(again), pair.torchs, pair.our_optimizer, pair.torch_optimizer)


# -- errors ------------------------------------------------------------------------------------------------


def test_errors(host_backend: str) -> None:
    mine = single(host_backend)
    with pytest.raises(TypeError, match="^this StepLR is on the device already: use it as it is$"):
        on_device(OURS.StepLR(mine, 3))
    for wrong in (mine, 3, torch_lr_scheduler.StepLR, lambda step: 1.0):
        message = rf"^{re.escape(type(wrong).__name__)} is not a torch\.optim\.lr_scheduler\.LRScheduler: give the"
        with pytest.raises(TypeError, match=message):
            on_device(wrong)
    theirs = torch_lr_scheduler.StepLR(optimizer(torch.optim, "AdamW", [0.1]), 3)
    with pytest.raises(ValueError, match="^fused and skip_with_optimizer need an optimizer of fused_sched.optim"):
        on_device(theirs, fused=True)
    theirs.step()  # it is as it was
    with pytest.raises(ValueError, match="^horizon=0 must be an int of at least 1"):
        on_device(torch_lr_scheduler.StepLR(mine, 3), horizon=0)


def test_what_our_class_refuses_is_refused_here_too(host_backend: str) -> None:
    with pytest.raises(ValueError, match="^step_size=0 must not be 0"):
        on_device(torch_lr_scheduler.StepLR(single(host_backend), 0))


class ByGetLastLr(LRScheduler):
    def get_lr(self) -> list[Any]:
        return [0.5 * x for x in self.get_last_lr()] if self.last_epoch else self.base_lrs


class ByLastLr(LRScheduler):
    def get_lr(self) -> list[Any]:
        return [0.5 * x for x in self._last_lr] if self.last_epoch else self.base_lrs


class OwnLastLr(ByGetLastLr):
    """Its own method may be traced."""

    def get_last_lr(self) -> list[Any]:
        return [group["lr"] for group in self.optimizer.param_groups]


class PastItsEnd(LRScheduler):
    def get_lr(self) -> list[Any]:
        return [base * (1 - self.last_epoch / 10) ** 0.9 for base in self.base_lrs]


class Sets(LRScheduler):
    def get_lr(self) -> list[Any]:
        self.optimizer.param_groups[0]["momentum"] = 0.5
        return self.base_lrs


class ByProperty(LRScheduler):
    @property
    def factor(self) -> float:
        return 0.5**self.last_epoch

    def get_lr(self) -> list[Any]:
        return [base * self.factor for base in self.base_lrs]


class OfATensor(LRScheduler):
    def __init__(self, optimizer: Any) -> None:
        self.factors = torch.tensor([1.0, 0.5])
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        return [base * float(self.factors[min(1, self.last_epoch)]) for base in self.base_lrs]


class Asks(LRScheduler):
    def get_lr(self) -> list[Any]:
        return [base / len(self.state_dict()) for base in self.base_lrs]


class Halved(torch_lr_scheduler.CyclicLR):
    def get_lr(self) -> list[Any]:
        return [0.5 * lr for lr in super().get_lr()]


INSTEAD = r"take group\['lr'\] of self.optimizer.param_groups"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (ByGetLastLr, rf"it calls self.get_last_lr\(\), .*: {INSTEAD}"),
        (ByLastLr, rf"it reads self._last_lr, .*: {INSTEAD}"),
        (PastItsEnd, r"a negative number to a fractional power is complex: .* max\(0.0, x\) \*\* y"),
        (Sets, r"it changes a param group, .*: return the lr, and let a ParamScheduler set others"),
        (ByProperty, r"it reads 'factor', a property of .*ByProperty, .*: a method that does so can be traced"),
        (OfATensor, r"it uses __getitem__ of a torch.Tensor: take its numbers out before, as by tolist\(\)"),
        (Asks, r"it calls self.state_dict\(\), which is for between steps"),
    ],
)
def test_why_get_lr_is_refused_names_line_and_way_out(make: Any, reason: str) -> None:
    given = make(optimizer(fused_sched.optim, "SGD", LRS, momentum=0.9))
    with pytest.raises(
        ValueError, match=rf"\.get_lr: line \d+ of get_lr: {reason}.*: leave out fused and skip"
    ) as raised:
        on_device(given, fused=True)
    assert "Register" not in str(raised.value)


def test_a_line_in_another_file_says_in_which() -> None:
    given = Halved(optimizer(fused_sched.optim, "SGD", LRS, momentum=0.9), 0.1, 0.2)
    with pytest.raises(ValueError, match=r"line \d+ of get_lr in lr_scheduler.py: it changes a param group"):
        on_device(given, fused=True)


def test_a_last_lr_of_the_users_own_is_traced() -> None:
    mine = optimizer(fused_sched.optim, "SGD", LRS)
    made = on_device(OwnLastLr(mine), fused=True)
    mine.step()
    assert made.get_last_lr() == [0.5 * lr for lr in LRS]


def test_the_way_out_of_the_last_lr_works() -> None:
    class Instead(LRScheduler):
        def get_lr(self) -> list[Any]:
            return [(0.5 if self.last_epoch else 1) * group["lr"] for group in self.optimizer.param_groups]

    mine = optimizer(fused_sched.optim, "SGD", LRS)
    made = on_device(Instead(mine), fused=True)
    assert "its get_lr is part of the program" in made.explain()
