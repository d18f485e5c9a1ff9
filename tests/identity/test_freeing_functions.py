"""What a user's function or class has is freed when torch frees it in the same program, and nothing is left behind."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import DEFAULTS, EVERY, HOMES, MEASURED, NAMES, OURS, TORCH, Decay, Parts, advance, build
from torch.nn import Parameter

import fused_sched
from fused_sched.lr_scheduler import on_device
from fused_sched.schedules import as_function, lr_curve

pytestmark = [
    pytest.mark.usefixtures("only_reference_counts"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def _optimizer(home: str) -> Any:
    return HOMES[home][0].SGD([Parameter(torch.ones(3))], lr=0.1, momentum=0.9)


def _run(optimizer: Any, scheduler: Any, steps: int) -> None:
    for _ in range(steps):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        optimizer.step()
        advance(scheduler)


# -- functions of many kinds -----------------------------------------------------------------------------------


class Trainer:
    """Has a function of the step, and is given the optimizer and the scheduler by its user."""

    def __init__(self) -> None:
        self.rate, self.table, self.calls = 0.9, [1.0, 0.5, 0.25], []

    def traced(self, step: float) -> float:
        return self.rate**step

    def tabulated(self, step: float) -> float:
        self.calls.append(step)
        return self.rate**step

    def reading(self, step: float) -> float:
        return self.table[min(2, int(step))] * self.rate

    def __call__(self, step: float) -> float:
        return self.rate**step


def _with_rate(step: float, trainer: Trainer) -> float:
    return trainer.rate**step


def _closure(trainer: Trainer) -> Callable[[float], float]:
    big = torch.ones(1000)
    trainer.big = weakref.ref(big)
    return lambda step: trainer.rate**step if big is not None else 1.0


def _recursive(trainer: Trainer) -> Callable[[float], float]:
    return functools.partial(_product, trainer, 3)


def _product(trainer: Trainer, depth: int, step: float) -> float:
    return _product(trainer, depth - 1, step) * trainer.rate if depth else 1.0 / (1 + step)


def _untraceable_with_context(trainer: Trainer) -> Callable[[float], float]:
    def function(step: float) -> float:
        try:
            return trainer.missing  # type: ignore[attr-defined,no-any-return]
        except AttributeError:
            trainer.calls.append(step)
            return trainer.rate**step

    return function


FUNCTIONS: dict[str, Callable[[Trainer], Any]] = {
    "a bound method": lambda trainer: trainer.traced,
    "a bound method that reads a list": lambda trainer: trainer.reading,
    "a bound method that cannot be traced": lambda trainer: trainer.tabulated,
    "a callable object": lambda trainer: trainer,
    "its __call__": lambda trainer: trainer.__call__,
    "a partial": lambda trainer: functools.partial(_with_rate, trainer=trainer),
    "a closure over a large tensor": _closure,
    "a function that calls itself": _recursive,
    "a function that handles an exception and cannot be traced": _untraceable_with_context,
}


def _lambda(home: Any, optimizer: Any, function: Any, **more: Any) -> Any:
    return home.LambdaLR(optimizer, function, **more)


def _multiplicative(home: Any, optimizer: Any, function: Any, **more: Any) -> Any:
    return home.MultiplicativeLR(optimizer, function, **more)


def _cyclic(home: Any, optimizer: Any, function: Any, **more: Any) -> Any:
    return home.CyclicLR(optimizer, 0.01, 0.1, 4, scale_fn=function, **more)


def _in_sequence(home: Any, optimizer: Any, function: Any, **more: Any) -> Any:
    parts = [home.LinearLR(optimizer, total_iters=2), home.LambdaLR(optimizer, function)]
    return home.SequentialLR(optimizer, parts, [2], **more)


def _in_chain(home: Any, optimizer: Any, function: Any, **more: Any) -> Any:
    return home.ChainedScheduler([home.ExponentialLR(optimizer, 0.9), home.LambdaLR(optimizer, function)], **more)


MAKERS = {"LambdaLR": _lambda, "MultiplicativeLR": _multiplicative, "CyclicLR": _cyclic, "sequence": _in_sequence,
          "chain": _in_chain}  # fmt: skip


def _left(home: str, maker: str, function: str, how: str) -> list[str]:
    """What is still there after everything was let go of."""
    optimizer, trainer = _optimizer(home), Trainer()
    fused = {"fused": True} if "fused" in how and home == "ours" else {}
    scheduler = MAKERS[maker](HOMES[home][1], optimizer, FUNCTIONS[function](trainer), **fused)
    watched = {
        "optimizer": weakref.ref(optimizer),
        "scheduler": weakref.ref(scheduler),
        "trainer": weakref.ref(trainer),
    }
    if hasattr(trainer, "big"):
        watched["tensor"] = trainer.big
    if "steps" in how:
        _run(optimizer, scheduler, 4)
    if "edit" in how:
        trainer.rate = 0.5
        _run(optimizer, scheduler, 2)
    if "holder" in how:
        trainer.optimizer = optimizer  # type: ignore[attr-defined]
    if "cycle" in how:
        trainer.scheduler = scheduler  # type: ignore[attr-defined]
    if "optimizer lives" in how:
        del watched["optimizer"]
        del trainer, scheduler
    else:
        del trainer, scheduler, optimizer
    return [name for name, reference in watched.items() if reference() is not None]


@pytest.mark.parametrize(
    "how",
    ["", "steps", "steps, edit", "fused", "fused, steps, edit", "steps, optimizer lives", "steps, holder", "cycle"],
)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_function_goes_when_torchs_does(maker: str, function: str, how: str) -> None:
    assert set(_left("ours", maker, function, how)) <= set(_left("torch", maker, function, how))


def _by_global_name(home: str) -> list[str]:
    """A function that finds the object that has the scheduler by a global name, which is then deleted."""
    space: dict[str, Any] = {"trainer": Trainer()}
    function = types.FunctionType((lambda step: trainer.rate**step).__code__, space)  # type: ignore[name-defined]  # noqa: F821
    optimizer = _optimizer(home)
    scheduler = HOMES[home][1].LambdaLR(optimizer, function)
    space["trainer"].scheduler = scheduler
    watched = {"scheduler": weakref.ref(scheduler), "trainer": weakref.ref(space["trainer"])}
    _run(optimizer, scheduler, 3)
    del space["trainer"], scheduler, optimizer, function
    return [name for name, reference in watched.items() if reference() is not None]


def test_what_a_function_found_by_a_global_name_is_not_held() -> None:
    assert _by_global_name("torch") == []
    assert _by_global_name("ours") == []


def test_a_value_that_a_function_read_is_let_go_of_when_it_is_replaced() -> None:
    trainer, optimizer = Trainer(), _optimizer("ours")
    trainer.helper = Decay(0.5)  # type: ignore[attr-defined]
    scheduler = OURS.LambdaLR(optimizer, lambda step: trainer.helper.rate**step)  # type: ignore[attr-defined]
    helper = weakref.ref(trainer.helper)  # type: ignore[attr-defined]
    trainer.helper = Decay(0.25)  # type: ignore[attr-defined]
    assert helper() is None
    _run(optimizer, scheduler, 1)
    assert scheduler.get_last_lr() == pytest.approx([0.1 * 0.25])


# -- every class, in what may happen to it ---------------------------------------------------------------------


def _edit(optimizer: Any, scheduler: Any) -> None:
    scheduler.base_lrs = [0.3]
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "initial_lr": 0.1})
    optimizer.param_groups.pop()


def _state(optimizer: Any, scheduler: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler.load_state_dict(scheduler.state_dict())


def _failing_step(optimizer: Any, scheduler: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    with contextlib.suppress(Exception):
        scheduler.step(None, None, None)


def _pickled(optimizer: Any, scheduler: Any) -> None:
    with contextlib.suppress(AttributeError):  # torch's OneCycleLR, and functions that are local
        _run(*pickle.loads(pickle.dumps((optimizer, scheduler))), 2)


def _copied(optimizer: Any, scheduler: Any) -> None:
    _run(*copy.deepcopy((optimizer, scheduler)), 2)


def _as_function(optimizer: Any, scheduler: Any) -> None:
    if type(scheduler).__name__ not in ("ReduceLROnPlateau", *MEASURED):
        as_function(scheduler)(5)


EVENTS: dict[str, Callable[[Any, Any], Any]] = {
    "edit": _edit,
    "state dict": _state,
    "a step that fails": _failing_step,
    "deepcopy": _copied,
    "pickle": _pickled,
    "as_function": _as_function,
    "explain": lambda optimizer, scheduler: (repr(optimizer), getattr(scheduler, "explain", str)()),
}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", [*EVERY, *MEASURED])
def test_every_class_goes_after(name: str, event: str, fused: bool) -> None:
    if fused and name == "ReduceLROnPlateau":
        pytest.skip("it cannot be fused")
    optimizer, arguments = _optimizer("ours"), {**DEFAULTS, **MEASURED}[name]
    scheduler = build(OURS, name, optimizer, **arguments, **({"fused": True} if fused else {}))
    _run(optimizer, scheduler, 2)
    EVENTS[event](optimizer, scheduler)
    _run(optimizer, scheduler, 2)
    watched = [weakref.ref(optimizer), weakref.ref(scheduler), weakref.ref(optimizer.param_groups[0])]
    watched += [weakref.ref(part) for part in getattr(scheduler, "_schedulers", [])]
    del optimizer, scheduler
    assert [reference() for reference in watched] == [None] * len(watched)


@pytest.mark.parametrize("captured", ["plain", "fused", "torch"])
def test_after_the_end_of_a_schedule(captured: str) -> None:
    """OneCycleLR raises past its end, out of the middle of a step; who caught it has nothing of it left."""
    optimizer = _optimizer("torch" if captured == "torch" else "ours")
    home = TORCH if captured == "torch" else OURS
    scheduler = home.OneCycleLR(optimizer, 0.1, total_steps=3, **({"fused": True} if captured == "fused" else {}))
    with pytest.raises(ValueError, match="Tried to step 4 times") as caught:
        _run(optimizer, scheduler, 9)
    del caught
    watched = [weakref.ref(optimizer), weakref.ref(scheduler)]
    del optimizer, scheduler
    assert [reference() for reference in watched] == [None, None]


class _Own(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self) -> list[float]:
        return [group["lr"] * 0.9 if self.last_epoch else group["lr"] for group in self.optimizer.param_groups]


def _local_class() -> Any:
    class Local(_Own):
        rate = 0.5

        def get_lr(self) -> list[float]:
            return [base * self.rate**self.last_epoch for base in self.base_lrs]

    return Local


TAKEN: dict[str, Callable[[Any], Any]] = {
    **{n: lambda optimizer, n=n: build(TORCH, n, optimizer, **DEFAULTS[n]) for n in EVERY},  # type: ignore[misc]
    "a user's class": _Own,
    "a class made in a function": lambda optimizer: _local_class()(optimizer),
    "a sequence with a user's class": lambda optimizer: TORCH.SequentialLR(
        optimizer, [TORCH.LinearLR(optimizer), _Own(optimizer)], [2]
    ),
}


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("case", TAKEN)
def test_what_on_device_made_is_gone(case: str, steps: int) -> None:
    optimizer = _optimizer("ours")
    scheduler = on_device(TAKEN[case](optimizer))
    _run(optimizer, scheduler, steps)
    watched = [weakref.ref(scheduler)]
    del scheduler
    assert watched[0]() is None
    watched = [weakref.ref(optimizer)]
    del optimizer
    assert watched[0]() is None


def test_a_class_that_on_device_was_given_is_not_kept() -> None:
    """Classes are in cycles, so this one needs the collector."""
    optimizer = _optimizer("ours")
    kind = _local_class()
    made = on_device(kind(optimizer))
    assert type(on_device(kind(optimizer))) is type(made)
    watched = weakref.ref(kind)
    del kind, made
    gc.collect()
    assert watched() is None


# -- nothing grows ---------------------------------------------------------------------------------------------


def _made(home: str, name: str, **more: Any) -> Callable[[], None]:
    def act() -> None:
        optimizer = _optimizer(home)
        _run(optimizer, build(HOMES[home][1], name, optimizer, **DEFAULTS[name], **more), 1)

    return act


def _function_that_ends() -> None:
    schedule = as_function(lambda optimizer: OURS.OneCycleLR(optimizer, 0.1, total_steps=4))
    for _ in range(2):
        with pytest.raises(ValueError, match="Tried to step"):
            schedule(9)


def _of(make: Callable[[Any], Any]) -> Callable[[], None]:
    def act() -> None:
        optimizer = _optimizer("ours")
        _run(optimizer, make(optimizer), 1)

    return act


ACTS: dict[str, Callable[[], Any]] = {
    **{name: _made("ours", name) for name in EVERY},
    **{f"{name}, fused": _made("ours", name, fused=True) for name in NAMES},
    **{f"a function: {name}": _of(lambda o, f=f: OURS.LambdaLR(o, f(Trainer()))) for name, f in FUNCTIONS.items()},
    "on_device": _of(lambda optimizer: on_device(_Own(optimizer))),
    "nested": _of(lambda optimizer: build(OURS, "ChainedScheduler", optimizer, schedulers=Parts(
        ("SequentialLR", DEFAULTS["SequentialLR"]), ("LambdaLR", {"lr_lambda": Decay(0.9)})))),
    "lr_curve": lambda: lr_curve(lambda optimizer: OURS.StepLR(optimizer, 2), 5),
    "lr_curve of torch's": lambda: lr_curve(lambda optimizer: TORCH.StepLR(optimizer, 2), 5),
    "as_function": _of(lambda o: types.SimpleNamespace(step=as_function(OURS.LambdaLR(o, Decay(0.9))).__repr__)),
    "as_function of torch's": lambda: as_function(TORCH.StepLR(_optimizer("torch"), 2))(5),
    "as_function that ends": _function_that_ends,
}  # fmt: skip


def _growth(act: Callable[[], Any], times: int) -> int:
    for _ in range(3):
        act()
    before = len(gc.get_objects())
    for _ in range(times):
        act()
    return len(gc.get_objects()) - before


@pytest.mark.parametrize("case", ACTS)
def test_nothing_is_left_behind(case: str) -> None:
    assert _growth(ACTS[case], 12) <= 6  # an object for each time, or more, is a leak; some caches of torch's fill


@pytest.mark.slow
@pytest.mark.parametrize("case", ["LambdaLR", "LambdaLR, fused", "CyclicLR", "on_device", "lr_curve"])
def test_nothing_grows_in_a_thousand(case: str) -> None:
    assert _growth(ACTS[case], 1000) <= 20


def test_the_module_keeps_no_optimizer_alive() -> None:
    before = sum(type(x) is fused_sched.optim.SGD for x in gc.get_objects())
    for act in ACTS.values():
        act()
    assert sum(type(x) is fused_sched.optim.SGD for x in gc.get_objects()) == before
