"""Who drops an optimizer or a scheduler has its memory back at once, by reference count; a fused schedule goes on."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import DEFAULTS, EVERY, NAMES, OURS, Decay, Parts, advance, build
from torch.nn import Parameter

import fused_sched
from fused_sched.lr_scheduler import LambdaLR, ParamScheduler, get_scheduler, on_device
from identity.lockstep import Lockstep, let_go

pytestmark = pytest.mark.usefixtures("only_reference_counts")


def _make(kind: str, backend: Any) -> Any:
    params = [Parameter(torch.ones(3, 4)), Parameter(torch.ones(2)), Parameter(torch.ones(4, 6)[:, ::2])]
    groups = [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": torch.tensor(0.2)}]
    return getattr(fused_sched.optim, kind)(
        groups, lr=0.1, backend=backend, **({"momentum": 0.9} if kind == "SGD" else {})
    )


def _run(optimizer: Any, schedulers: list[Any], steps: int) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        for scheduler in schedulers:
            advance(scheduler)


def _tensors_of(optimizer: Any) -> list[Any]:
    """What an optimizer holds that a user can get hold of: parameters, gradients, state, tensors of the block."""
    found: list[Any] = []
    for group in optimizer.param_groups:
        found += [group["params"], *group["params"], *(p.grad for p in group["params"])]
        found += [x for x in group.values() if isinstance(x, torch.Tensor)]
    for state in optimizer.state.values():
        found += [x for x in dict(state).values() if isinstance(x, torch.Tensor)]
    return [x for x in found if not isinstance(x, list)]


def _watched(optimizer: Any, schedulers: list[Any]) -> dict[str, Any]:
    watched = {"optimizer": weakref.ref(optimizer)}
    watched |= {f"scheduler {i}": weakref.ref(s) for i, s in enumerate(schedulers)}
    for i, group in enumerate(optimizer.param_groups):
        watched |= _reference(f"group {i}", group)
    for i, state in enumerate(optimizer.state.values()):
        watched |= _reference(f"state {i}", state)
    watched |= _reference("all state", optimizer.state)
    watched |= {f"tensor {i}": weakref.ref(x) for i, x in enumerate(_tensors_of(optimizer)) if x is not None}
    return watched


def _reference(what: str, x: Any) -> dict[str, Any]:
    try:
        return {what: weakref.ref(x)}
    except TypeError:  # a plain dict
        return {}


def _alive(watched: dict[str, Any]) -> list[str]:
    return [what for what, reference in watched.items() if reference() is not None]


Scheduled = Callable[[Any], list[Any]]


def _one(name: str, **more: Any) -> Scheduled:
    return lambda optimizer: [build(OURS, name, optimizer, **DEFAULTS[name], **more)]


def _closures(optimizer: Any) -> list[Any]:
    table = {"factor": 0.5}
    return [LambdaLR(optimizer, lambda step: table["factor"] ** step)]


def _closure_over_the_optimizer(optimizer: Any) -> list[Any]:
    """Not over the optimizer itself, which would be the user's own cycle."""
    weakly = weakref.proxy(optimizer)
    return [LambdaLR(optimizer, lambda step: 1.0 / len(weakly.param_groups))]


def _tabulated(optimizer: Any) -> list[Any]:
    calls: list[int] = []
    return [LambdaLR(optimizer, lambda step: calls.append(step) or 0.9**step, fused=True)]


def _nested(optimizer: Any) -> list[Any]:
    inner = Parts(("StepLR", {"step_size": 2}), ("LambdaLR", {"lr_lambda": Decay(0.9)}))
    parts = Parts(("ChainedScheduler", {"schedulers": inner}), ("ExponentialLR", {"gamma": 0.9}))
    return [build(OURS, "SequentialLR", optimizer, schedulers=parts, milestones=[3], fused=True)]


class _Own(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self) -> list[float]:
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class _OwnDecay(torch.optim.lr_scheduler.LRScheduler):
    """Traced also where an lr is a tensor: it reads the groups, not ``base_lrs``."""

    def get_lr(self) -> list[float]:
        return [group["lr"] * 0.9 if self.last_epoch else group["lr"] for group in self.optimizer.param_groups]


class _Noting(torch.optim.lr_scheduler.LRScheduler):
    """Not to be traced: it changes itself."""

    def get_lr(self) -> list[float]:
        self.asked = self.last_epoch
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class _OwnStep(OURS.StepLR):
    def get_lr(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


def _recursive() -> Callable[[int], float]:
    table = {"factor": 0.5}

    class Halving:
        def __call__(self, step: int, depth: int = 3) -> float:
            return self(step, depth - 1) * table["factor"] if depth else 1.0 / (1 + step)

    return Halving()


CASES: dict[str, Scheduled] = {
    "none": lambda optimizer: [],
    **{name: _one(name) for name in EVERY},
    **{f"{name}, fused": _one(name, fused=True) for name in NAMES},
    "closures": _closures,
    "closure over the optimizer": _closure_over_the_optimizer,
    "tabulated": _tabulated,
    "nested": _nested,
    "ParamScheduler": lambda optimizer: [ParamScheduler(optimizer, "weight_decay", lambda step: 0.01 * step)],
    "get_scheduler": lambda optimizer: [get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=9)],
    "on_device": lambda optimizer: [on_device(_OwnDecay(optimizer))],
    "on_device, with a tensor": lambda optimizer: [on_device(_Own(optimizer))],
    "on_device, fused": lambda optimizer: [on_device(_OwnDecay(optimizer), fused=True)],
    "on_device, by Python": lambda optimizer: [on_device(_Noting(optimizer))],
    "on_device of torch's": lambda optimizer: [on_device(torch.optim.lr_scheduler.StepLR(optimizer, 2))],
    "a subclass of ours": lambda optimizer: [_OwnStep(optimizer, 2)],
    "a function that calls itself": lambda optimizer: [LambdaLR(optimizer, _recursive())],
    "torch's own": lambda optimizer: [torch.optim.lr_scheduler.StepLR(optimizer, 2)],
    "two": lambda optimizer: _one("StepLR", fused=True)(optimizer) + _one("CyclicLR")(optimizer),
}
USES: dict[str, Callable[[Any, list[Any]], Any]] = {
    "not": lambda optimizer, schedulers: None,
    "steps": lambda optimizer, schedulers: _run(optimizer, schedulers, 4),
    "state dicts": lambda optimizer, schedulers: (
        _run(optimizer, schedulers, 2),
        optimizer.load_state_dict(optimizer.state_dict()),
        [s.load_state_dict(s.state_dict()) for s in schedulers],
        _run(optimizer, schedulers, 2),
    ),
    "reads": lambda optimizer, schedulers: (
        _run(optimizer, schedulers, 2),
        repr(optimizer),
        [float(s["step"]) for s in optimizer.state.values()],
        [s.get_last_lr() for s in schedulers],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("order", ["optimizer first", "schedulers first"])
@pytest.mark.parametrize("use", ["not", "steps", "state dicts"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.thin
def test_all_is_freed_by_reference_count(case: str, use: str, order: str, host_backend: str, mirrored: bool) -> None:
    optimizer = _make("SGD", host_backend)
    schedulers = CASES[case](optimizer)
    USES[use](optimizer, schedulers)
    watched = _watched(optimizer, schedulers)
    if order == "optimizer first":
        del optimizer
        schedulers.clear()
    else:
        schedulers.clear()
        del optimizer
    assert _alive(watched) == []


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_an_optimizer_alone_is_freed(kind: str, use: str, backend: str) -> None:
    if use == "reads" and kind == "SGD":
        pytest.skip("it has no step")
    optimizer = _make(kind, backend)
    USES[use](optimizer, [])
    watched = _watched(optimizer, [])
    del optimizer
    assert _alive(watched) == []


def test_what_the_user_keeps_keeps_nothing_else(host_backend: str, mirrored: bool) -> None:
    """A group, a state, or a tensor lr outlives its optimizer and still reads as it did."""
    optimizer = _make("Adam", host_backend)
    _run(optimizer, [], 3)
    kept, p = optimizer.param_groups[0], optimizer.param_groups[1]["params"][0]
    state, lr = optimizer.state[p], optimizer.param_groups[1]["lr"]
    watched = {"optimizer": weakref.ref(optimizer), "other": weakref.ref(optimizer.param_groups[0]["params"][0].grad)}
    kept["params"][0].grad = None
    del optimizer
    assert _alive(watched) == []
    assert (kept["lr"], float(state["step"]), float(lr)) == (0.1, 3.0, pytest.approx(0.2))
    kept["lr"] = 0.5
    assert kept["lr"] == 0.5


@pytest.mark.parametrize("name", EVERY)
def test_a_scheduler_that_is_out_of_scope_is_gone(name: str, host_backend: str, mirrored: bool) -> None:
    """As torch asks of CyclicLR; the optimizer lives."""
    optimizer = _make("SGD", host_backend)

    def inner() -> Any:
        scheduler = build(OURS, name, optimizer, **DEFAULTS[name])
        _run(optimizer, [scheduler], 3)
        return weakref.ref(scheduler)

    assert inner()() is None
    before = [float(g["lr"]) for g in optimizer.param_groups]
    _run(optimizer, [], 3)
    assert [float(g["lr"]) for g in optimizer.param_groups] == before


def test_a_cyclic_with_a_bound_method_as_scale_fn_is_gone(host_backend: str) -> None:
    optimizer = _make("SGD", host_backend)

    def inner() -> tuple[Any, Any]:
        shape = Decay(0.9)
        scheduler = OURS.CyclicLR(optimizer, 0.01, 0.1, 4, scale_fn=shape.__call__)
        _run(optimizer, [scheduler], 3)
        return weakref.ref(scheduler), weakref.ref(shape)

    assert [reference() for reference in inner()] == [None, None]


def test_parameters_and_groups_that_were_taken_out_are_gone(host_backend: str, mirrored: bool) -> None:
    """With their state: at the next step at the latest."""
    optimizer = _make("Adam", host_backend)
    _run(optimizer, [], 2)
    group = optimizer.param_groups.pop(0)
    watched = {f"parameter {i}": weakref.ref(p) for i, p in enumerate(group["params"])}
    watched |= _reference("group", group)
    for p in group["params"]:
        state = optimizer.state.pop(p)
        watched |= {f"{key}": weakref.ref(x) for key, x in dict(state).items() if key != "step"}
    del group, p, state
    _run(optimizer, [], 1)
    assert _alive(watched) == []


# -- a fused schedule whose scheduler is dropped goes on -------------------------------------------------------


def _mutated_table() -> Callable[[int], float]:
    table = {step: 0.9**step for step in range(5)}

    def function(step: int) -> float:
        table[step + 5] = 0.9 ** (step + 5) + 0.01 * len(table)
        return table[step]

    return function


DROPPED: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    **{name: (name, lambda name=name: DEFAULTS[name]) for name in NAMES},
    "a function with a table that it changes": ("LambdaLR", lambda: {"lr_lambda": _mutated_table()}),
    "a function that counts its calls": (
        "MultiplicativeLR",
        lambda: {"lr_lambda": lambda step, calls=[]: calls.append(step) or 1.0 / len(calls)},
    ),
    "a function that reads a variable": ("LambdaLR", lambda: {"lr_lambda": lambda step: _VARIABLE[0] ** step}),
    "a callable object": ("LambdaLR", lambda: {"lr_lambda": Decay(0.9)}),
}
_VARIABLE = [0.9]


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("case", DROPPED)
def test_a_dropped_fused_schedule_goes_on(case: str, after: int, host_backend: str, mirrored: bool) -> None:
    name, arguments = DROPPED[case]
    pair = Lockstep("SGD", [{"params": [0, 1], "lr": 0.1}, {"params": [2], "lr": 0.3}], host_backend, momentum=0.5)
    pair.both(
        lambda side: side.schedulers.append(
            build(side.home, name, side.optimizer, **arguments(), **({"fused": True} if side.is_ours else {}))
        )
    )
    pair.step(after)
    theirs = pair.torchs.schedulers[0]
    let_go(pair.ours, 0)
    for step in range(9):
        if step == 5 and case == "a function that reads a variable":
            _VARIABLE[0] = 0.5
        pair.gradients()
        pair.both(lambda side: side.optimizer.step())
        theirs.step()
        pair.check(f"step {step}")
        pair.both(lambda side: side.groups[0].update(lr=side.groups[0]["lr"] * 0.75))
    _VARIABLE[0] = 0.9


def test_a_dropped_fused_schedule_goes_with_its_optimizer(host_backend: str, mirrored: bool) -> None:
    function = _mutated_table()
    watched = {"function": weakref.ref(function)}
    optimizer = _make("SGD", host_backend)
    LambdaLR(optimizer, function, fused=True)
    del function
    _run(optimizer, [], 3)
    watched |= _watched(optimizer, [])
    del optimizer
    assert _alive(watched) == []


def test_a_detached_schedule_stops_and_is_gone(host_backend: str, mirrored: bool) -> None:
    optimizer = _make("SGD", host_backend)
    scheduler = LambdaLR(optimizer, Decay(0.5), fused=True)
    _run(optimizer, [scheduler], 2)
    scheduler.detach()
    reference = weakref.ref(scheduler)
    del scheduler
    assert reference() is None
    before = optimizer.param_groups[0]["lr"]
    _run(optimizer, [], 2)
    assert optimizer.param_groups[0]["lr"] == before
