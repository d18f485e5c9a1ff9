"""What fails leaves everything as it was: constructors of schedulers, steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from schedule_twins import Parts, build
from torch.overrides import TorchFunctionMode

from identity.lockstep import OPTIONS, REFUSALS, STATEFUL, Lockstep, Side, snapshot

TWO = [{"params": [0, 1], "lr": 0.1}, {"params": [2], "lr": 0.05}]


def _fails(step: float) -> float:
    raise ValueError("no value")


def _letters(step: float) -> str:
    return "abc"


_GOOD = ("StepLR", {"step_size": 2})
_CYCLE: dict[str, Any] = {"base_lr": 0.01, "max_lr": 0.4, "step_size_up": 3}
_ONE: dict[str, Any] = {"max_lr": 0.5, "total_steps": 20}
CONSTRUCTORS: list[tuple[str, dict[str, Any]]] = [
    ("ConstantLR", {"total_iters": None}),
    ("ConstantLR", {"total_iters": "abc"}),
    ("ConstantLR", {"factor": 2.0}),
    ("ConstantLR", {"factor": "abc"}),
    ("ConstantLR", {"factor": None}),
    ("LinearLR", {"start_factor": 0.0}),
    ("LinearLR", {"end_factor": 2.0}),
    ("LinearLR", {"end_factor": "abc"}),
    ("LinearLR", {"total_iters": None}),
    ("LinearLR", {"total_iters": "abc"}),
    ("StepLR", {"step_size": 0}),
    ("StepLR", {"step_size": None}),
    ("StepLR", {"step_size": "abc"}),
    ("StepLR", {"step_size": 2, "gamma": "abc"}),
    ("StepLR", {"step_size": 2, "gamma": None}),
    ("MultiStepLR", {"milestones": None}),
    ("MultiStepLR", {"milestones": [0, "abc"]}),
    ("MultiStepLR", {"milestones": [0, 2], "gamma": "abc"}),
    ("ExponentialLR", {"gamma": "abc"}),
    ("ExponentialLR", {"gamma": None}),
    ("CosineAnnealingLR", {"T_max": 0}),
    ("CosineAnnealingLR", {"T_max": None}),
    ("CosineAnnealingLR", {"T_max": "abc"}),
    ("CosineAnnealingLR", {"T_max": 9, "eta_min": "abc"}),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 0}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "eta_min": "abc"}),
    ("PolynomialLR", {"total_iters": None}),
    ("PolynomialLR", {"total_iters": 4, "power": "abc"}),
    ("CyclicLR", {**_CYCLE, "step_size_up": 0}),
    ("CyclicLR", {**_CYCLE, "mode": "abc"}),
    ("CyclicLR", {**_CYCLE, "base_lr": [0.1] * 3}),
    ("CyclicLR", {**_CYCLE, "max_lr": [0.1] * 3}),
    ("CyclicLR", {**_CYCLE, "base_momentum": [0.1] * 3}),
    ("CyclicLR", {**_CYCLE, "max_lr": "abc"}),
    ("CyclicLR", {**_CYCLE, "scale_fn": _fails}),
    ("OneCycleLR", {"max_lr": 0.5}),
    ("OneCycleLR", {**_ONE, "total_steps": -1}),
    ("OneCycleLR", {**_ONE, "pct_start": 2.0}),
    ("OneCycleLR", {**_ONE, "total_steps": 10, "pct_start": 0.1}),
    ("OneCycleLR", {**_ONE, "max_lr": [0.1] * 3}),
    ("OneCycleLR", {**_ONE, "anneal_strategy": "abc"}),
    ("OneCycleLR", {**_ONE, "max_momentum": [0.1] * 3}),
    ("OneCycleLR", {**_ONE, "div_factor": 0.0}),
    ("LambdaLR", {"lr_lambda": 7}),
    ("LambdaLR", {"lr_lambda": [abs] * 3}),
    ("LambdaLR", {"lr_lambda": []}),
    ("LambdaLR", {"lr_lambda": _fails}),
    ("LambdaLR", {"lr_lambda": [abs, _fails]}),
    ("LambdaLR", {"lr_lambda": _letters}),
    ("MultiplicativeLR", {"lr_lambda": 7}),
    ("MultiplicativeLR", {"lr_lambda": [abs]}),
    ("SWALR", {"swa_lr": [0.1] * 3}),
    ("SWALR", {"swa_lr": 0.1, "anneal_strategy": "abc"}),
    ("SWALR", {"swa_lr": 0.1, "anneal_epochs": -1}),
    ("ReduceLROnPlateau", {"factor": 1.5}),
    ("ReduceLROnPlateau", {"mode": "abc"}),
    ("ReduceLROnPlateau", {"min_lr": [0.1] * 3}),
    ("SequentialLR", {"schedulers": Parts(_GOOD, _GOOD), "milestones": [1, 2]}),
    ("SequentialLR", {"schedulers": Parts(_GOOD, _GOOD), "milestones": []}),
    ("SequentialLR", {"schedulers": Parts(), "milestones": []}),
    ("ChainedScheduler", {"schedulers": Parts()}),
]
SCHEDULERS = [
    "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "LambdaLR", "CyclicLR", "OneCycleLR", "LinearLR",
]  # fmt: skip
_USUAL: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2}, "MultiStepLR": {"milestones": [2]}, "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 9}, "LambdaLR": {"lr_lambda": lambda step: 0.9**step}, "CyclicLR": _CYCLE,
    "OneCycleLR": _ONE, "LinearLR": {},
}  # fmt: skip
CONSTRUCTORS += [(name, {**_USUAL[name], "last_epoch": 3}) for name in SCHEDULERS]  # there is no initial_lr


@pytest.mark.thin
@pytest.mark.filterwarnings("ignore:fused_sched")
@pytest.mark.parametrize("before", ["fresh", "scheduled", "initial_lr"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(("name", "arguments"), CONSTRUCTORS)
def test_a_failed_constructor_changes_nothing(
    name: str, arguments: dict[str, Any], fused: bool, before: str, host_backend: str
) -> None:
    if fused and name == "ReduceLROnPlateau":
        pytest.skip("its step needs a metric")
    pair = Lockstep("SGD", TWO, host_backend, momentum=0.5)
    if before == "scheduled":
        pair.both(lambda side: side.schedulers.append(side.build("ExponentialLR", gamma=0.9, ours={"fused": fused})))
    elif before == "initial_lr":
        pair.both(lambda side: side.groups[1].update(initial_lr=0.7))
    pair.step(2)
    trial = copy.deepcopy(pair.torchs.optimizer)
    try:
        build(pair.torchs.home, name, trial, **arguments)
        refused = False
    except REFUSALS:
        refused = True
    then = snapshot(pair.ours)
    ours = {"fused": True} if fused else {}
    if "schedulers" in arguments:  # its parts are good, and act at once
        build(pair.ours.home, *_GOOD[:1], pair.ours.optimizer, **_GOOD[1])
        then = snapshot(pair.ours)
    try:
        build(pair.ours.home, name, pair.ours.optimizer, **arguments, **ours)
    except REFUSALS:
        assert snapshot(pair.ours) == then
    else:
        assert not refused, "torch refuses it"
        return
    if "schedulers" in arguments:
        return
    pair.check("refused")
    pair.step(3)


# -- steps -----------------------------------------------------------------------------------------------------


class _Fails(TorchFunctionMode):
    """The n-th copy of torch's that a step makes fails."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.left = which

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("copy_", "_foreach_copy_"):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("no copy today")
        return func(*args, **(kwargs or {}))


@contextmanager
def _expanded(pair: Lockstep) -> Iterator[None]:
    """torch cannot write to a parameter whose elements share memory."""
    pair.ours.params[1].data = torch.ones(1, dtype=torch.float64).expand(2, 2)
    yield


@contextmanager
def _no_copy(pair: Lockstep, which: int) -> Iterator[None]:
    pair.ours.params[1].data = torch.ones(2, 4, dtype=torch.float64)[:, ::2]
    pair.ours.params[1].grad = torch.ones(2, 4, dtype=torch.float64)[:, ::2]
    with _Fails(which):
        yield


FAILURES: dict[str, Callable[[Lockstep], Any]] = {
    "an expanded parameter": _expanded,
    **{f"copy {n}": lambda pair, n=n: _no_copy(pair, n) for n in range(4)},
}


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize(("kind", "case"), STATEFUL)
def test_a_step_that_fails_advances_nothing(kind: str, case: str, how: str, host_backend: str, mirrored: bool) -> None:
    pair = Lockstep(kind, TWO, host_backend, **OPTIONS[kind][case])
    ours = pair.ours
    schedulers = [ours.build("ExponentialLR", gamma=0.5, ours={"fused": True}),
                  ours.build("LambdaLR", lr_lambda=lambda step: 0.9**step, ours={"fused": True})]  # fmt: skip
    for _ in range(3):
        pair.gradients()
        ours.optimizer.step()
    before = _advanced(ours), [(s.last_epoch, s.get_last_lr()) for s in schedulers]
    with FAILURES[how](pair):
        try:
            ours.optimizer.step()
        except RuntimeError:
            assert (_advanced(ours), [(s.last_epoch, s.get_last_lr()) for s in schedulers]) == before
        else:  # it makes fewer copies than that
            assert how != "an expanded parameter"
            assert _advanced(ours) != before[0]
            return
    ours.params[1].data = torch.ones(2, 2, dtype=torch.float64)
    pair.gradients()
    ours.optimizer.step()
    assert [s.last_epoch for s in schedulers] == [4, 4]


def _advanced(side: Side) -> Any:
    """What goes on with a step, but for parameters and moments."""
    steps = [float(state["step"]) for state in side.state.values() if "step" in state]
    return [dict(g, params=None) for g in side.groups], steps


def _sparse_with_decay(side: Side) -> None:
    for group in side.groups:
        group["weight_decay"] = 0.1
    side.params[1].grad = torch.ones(2, 2, dtype=torch.float64).to_sparse()


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(("kind", "case"), STATEFUL)
def test_a_step_that_torch_refuses_changes_nothing(
    kind: str, case: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    pair = Lockstep(kind, TWO, host_backend, **OPTIONS[kind][case])
    pair.both(lambda side: side.schedulers.append(side.build("StepLR", step_size=2, ours={"fused": fused})))
    pair.step(2)
    faults: list[Callable[[Side], Any]] = [
        _sparse_with_decay,
        lambda side: side.state[side.params[1]].update(
            {key: torch.ones(5, dtype=torch.float64) for key in side.state[side.params[1]] if key != "step"}
        ),
        lambda side: side.groups[1]["params"].append("abc"),
        lambda side: side.groups[1].pop("lr"),
    ]
    for number, fault in enumerate(faults):
        pair.gradients()
        kept = [dict(g, params=list(g["params"])) for g in pair.ours.groups]
        state = {p: dict(s) for p, s in pair.ours.state.items()}
        values = [p.detach().clone() for p in pair.ours.params]
        last = pair.ours.schedulers[0].get_last_lr()
        fault(pair.ours)
        try:
            pair.ours.optimizer.step()
        except (*REFUSALS, AttributeError):
            pass
        else:
            pytest.fail(f"fault {number} is not refused")
        assert all(map(torch.equal, pair.ours.params, values))
        assert pair.ours.schedulers[0].get_last_lr() == last
        for group, before in zip(pair.ours.groups, kept, strict=True):
            group.update(before)
        for p, before in state.items():
            pair.ours.state[p].update({k: v for k, v in before.items() if k != "step"})
        pair.check()
        pair.step()
