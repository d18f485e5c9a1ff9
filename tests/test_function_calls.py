"""How often a user's function is called, with what, and what it sees: as in torch, until the comparison has ended."""

from __future__ import annotations

import copy
import ctypes
import decimal
import fractions
import gc
import sys
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from schedule_twins import OURS, TORCH, optimizer

import fused_sched
from fused_sched.lr_scheduler import param_scheduler
from fused_sched.lr_scheduler.audit import CALLS

GROUPS = 2
LOG: list[Any] = []  # of functions that write to it
STEPS = CALLS + 20


def decay(step: float) -> float:
    return 1.0 / (1.0 + 0.125 * step)


@contextmanager
def counted(function: Any = decay) -> Iterator[list[Any]]:
    """The first arguments of all calls of a function's own code. No trace can see who counts."""
    calls: list[Any] = []
    code = function.__code__
    name = code.co_varnames[0]

    def profile(frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is code:
            calls.append(frame.f_locals[name])

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)


class HostParamScheduler(param_scheduler._HostParamScheduler):
    """ParamScheduler by torch's means."""


THEIRS = types.SimpleNamespace(**{**vars(TORCH), "ParamScheduler": HostParamScheduler})
MODULES = {"ours": (fused_sched.optim, OURS), "torch": (torch.optim, THEIRS)}


def _cyclic(momentum: bool) -> Callable[[Any, Any, Any], Any]:
    return lambda home, made, f: home.CyclicLR(
        made, 0.1, 0.5, step_size_up=3, scale_fn=f, scale_mode="iterations", cycle_momentum=momentum
    )


def _sequential(home: Any, made: Any, f: Any) -> Any:
    parts = [home.LambdaLR(made, f), home.ExponentialLR(made, 0.9), home.LambdaLR(made, f)]
    return home.SequentialLR(made, parts, [5, 20])


def _chained(home: Any, made: Any, f: Any) -> Any:
    return home.ChainedScheduler([home.LambdaLR(made, f), home.MultiplicativeLR(made, f)], made)


def _sequence_of_own_kinds(home: Any, made: Any, f: Any) -> Any:
    return home.SequentialLR(made, [home.LambdaLR(made, f), _cyclic(True)(home, made, f)], [7])


KINDS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "LambdaLR": lambda home, made, f: home.LambdaLR(made, f),
    "LambdaLR of a list": lambda home, made, f: home.LambdaLR(made, [f] * GROUPS),
    "MultiplicativeLR": lambda home, made, f: home.MultiplicativeLR(made, f),
    "CyclicLR": _cyclic(False),
    "CyclicLR with momentum": _cyclic(True),
    "CyclicLR of cycles": lambda home, made, f: home.CyclicLR(made, 0.1, 0.5, step_size_up=2, scale_fn=f),
    "ParamScheduler": lambda home, made, f: home.ParamScheduler(made, "weight_decay", f),
    "ParamScheduler of some": lambda home, made, f: home.ParamScheduler(made, "weight_decay", [None, f]),
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
    "SequentialLR of kinds": _sequence_of_own_kinds,
}


def make(home: str, kind: str, function: Any = decay, **options: Any) -> tuple[Any, Any]:
    """An optimizer and a scheduler of ``home``."""
    module, schedulers = MODULES[home]
    made = optimizer(module, "SGD", [0.1 * (i + 1) for i in range(GROUPS)])
    if options:
        outer = _Outermost(schedulers, kind, options)
        return made, KINDS[kind](outer, made, function)
    return made, KINDS[kind](schedulers, made, function)


class _Outermost:
    """Schedulers of which the outermost one has more keywords."""

    def __init__(self, home: Any, kind: str, options: dict[str, Any]) -> None:
        self._home, self._name, self._options = home, kind.partition(" ")[0], options

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._home, name)
        if name != self._name:
            return made
        return lambda *arguments, **named: made(*arguments, **named, **self._options)


def values(made: Any) -> list[tuple[float, ...]]:
    names = ("lr", "weight_decay", "momentum")
    return [tuple(float(group[name]) for name in names) for group in made.param_groups]


def _drive(home: str, kind: str, steps: int, act: Callable[[Any, Any, int], Any], **options: Any) -> Any:
    """The calls at construction and in each step, and what was there afterwards."""
    with counted() as calls:
        made, scheduler = make(home, kind, **options)
        history = [(list(calls), values(made))]
        for step in range(1, steps + 1):
            calls.clear()
            replaced = act(scheduler, made, step)
            if replaced is not None:
                scheduler, made = replaced
            history.append((list(calls), values(made)))
    return history, scheduler


def _step(scheduler: Any, made: Any, step: int) -> None:
    scheduler.step()


def _assert_calls(ours: Any, torchs: Any, traced_after: int = CALLS, relative: float = 1e-15) -> None:
    for step, ((mine, my_values), (theirs, their_values)) in enumerate(zip(ours, torchs, strict=True)):
        if step <= traced_after:
            assert mine == theirs, f"calls in step {step}"
        else:
            assert mine == [], f"calls in step {step}"
        for a, b in zip(my_values, their_values, strict=True):
            assert a == pytest.approx(b, rel=relative, abs=0.0), f"step {step}"


# torch's own sequences call only the part that is active: its first 64 steps may come late
NESTED = ("SequentialLR", "SequentialLR of kinds")


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_torchs(kind: str) -> None:
    ours, scheduler = _drive("ours", kind, STEPS, _step)
    torchs, _ = _drive("torch", kind, STEPS, _step)
    assert "its function is part of the program" in scheduler.explain()
    _assert_calls(ours[: CALLS + 1], torchs[: CALLS + 1])
    if kind not in NESTED:
        _assert_calls(ours, torchs)


@pytest.mark.parametrize("kind", NESTED)
def test_each_part_of_a_sequence_is_compared_in_its_own_steps(kind: str) -> None:
    ours, _ = _drive("ours", kind, 3 * CALLS, _step)
    assert [calls for calls, _ in ours[2 * CALLS :]] == [[]] * (CALLS + 1)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "ParamScheduler of some"])
def test_calls_of_a_fused_scheduler(kind: str) -> None:
    def act(scheduler: Any, made: Any, step: int) -> None:
        made.step()
        scheduler.step()

    ours, _ = _drive("ours", kind, 40, act, fused=True)
    torchs, _ = _drive("torch", kind, 40, act)
    _assert_calls(ours, torchs)


def _overflows(step: int) -> bool:
    return step % 5 == 3 or 10 <= step <= 12


def _amp_step(scheduler: Any, made: Any, step: int, scaler: Any, skips: bool) -> None:
    """One update by a GradScaler, which is skipped where a gradient is infinite."""
    for group in made.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, float("inf") if _overflows(step) else 1.0)
    scaler.unscale_(made)
    scaler.step(made)
    scaler.update()
    if skips or not _overflows(step):
        scheduler.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "ParamScheduler of some"])
def test_calls_where_updates_are_skipped(kind: str, fused: bool) -> None:
    histories = []
    for home in ("ours", "torch"):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.ones(()))
        options = {"fused": fused, "skip_with_optimizer": True} if home == "ours" else {}
        act = lambda s, o, step, scaler=scaler, mine=home == "ours": _amp_step(s, o, step, scaler, mine)  # noqa: E731
        histories.append(_drive(home, kind, 40, act, **options)[0])
    ours, torchs = histories
    mine = [call for calls, _ in ours for call in calls]
    theirs = [call for calls, _ in torchs for call in calls]
    assert [v for _, v in ours] == [v for _, v in torchs]
    # a step that is coming is asked for before it is known whether it is skipped, and then not again
    assert mine[: len(theirs)] == theirs
    assert len(mine) - len(theirs) in (0, len([c for c in torchs if c[0]][-1][0]))


@pytest.mark.parametrize("kind", KINDS)
def test_calls_after_load_state_dict(kind: str) -> None:
    histories = []
    for home in ("ours", "torch"):
        states: list[Any] = []

        def act(scheduler: Any, made: Any, step: int, states: Any = states) -> None:
            if step == 20:
                states.append((copy.deepcopy(scheduler.state_dict()), copy.deepcopy(made.state_dict())))
            if step == 30:
                made.load_state_dict(states[0][1])
                scheduler.load_state_dict(states[0][0])
                return
            scheduler.step()

        histories.append(_drive(home, kind, 50, act)[0])
    _assert_calls(*histories)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_a_deepcopy(kind: str) -> None:
    histories = []
    for home in ("ours", "torch"):

        def act(scheduler: Any, made: Any, step: int) -> Any:
            if step != 20:
                scheduler.step()
                return None
            both = copy.deepcopy([scheduler, made])
            assert both[0].optimizer is both[1]
            return both

        histories.append(_drive(home, kind, 50, act)[0])
    _assert_calls(*histories)


@pytest.mark.parametrize("kind", [k for k in KINDS if k[0] in "LMC" and k != "ChainedScheduler"])
def test_calls_of_a_step_to_an_epoch(kind: str) -> None:
    def act(scheduler: Any, made: Any, step: int) -> None:
        if step % 7 == 3:
            scheduler.step(step * 3 % 50)
        else:
            scheduler.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, _ = _drive("ours", kind, 50, act)
        torchs, _ = _drive("torch", kind, 50, act)
    _assert_calls(ours, torchs)


# -- get_lr of the user's ----------------------------------------------------------------------------------


class _Own:
    """Mixed into a scheduler of either side; the rate of get_lr is an object of its own."""

    rate: Any

    def get_lr(self) -> list[float]:
        return [base / (1.0 + self.rate * self.last_epoch) for base in self.base_lrs]  # type: ignore[attr-defined]


class OurOwn(_Own, OURS.StepLR):
    def __init__(self, made: Any, rate: float = 0.125, **options: Any) -> None:
        self.rate = rate
        super().__init__(made, 1000, **options)


class TorchOwn(_Own, TORCH.StepLR):
    def __init__(self, made: Any, rate: float = 0.125) -> None:
        self.rate = rate
        super().__init__(made, 1000)


def _pair_of_own(rates: tuple[Any, Any] = (0.125, 0.125), **options: Any) -> list[tuple[Any, Any]]:
    found = []
    for module, kind, rate in ((fused_sched.optim, OurOwn, rates[0]), (torch.optim, TorchOwn, rates[1])):
        made = optimizer(module, "SGD", [0.1, 0.2])
        found.append((made, kind(made, rate, **(options if kind is OurOwn else {}))))
    return found


def test_calls_of_get_lr() -> None:
    with counted(_Own.get_lr) as calls:
        (ours, mine), (torchs, theirs) = _pair_of_own()
        assert len(calls) == 2
        assert "its get_lr is part of the program" in mine.explain()
        for step in range(1, STEPS):
            calls.clear()
            mine.step()
            assert len(calls) == (step <= CALLS), step
            theirs.step()
            assert values(ours) == values(torchs)


@pytest.mark.parametrize("kind", ["LambdaLR", "MultiplicativeLR"])
def test_a_get_lr_of_ones_own_calls_the_functions(kind: str) -> None:
    """It is the one that calls them; nobody else does beside it."""
    counts, lrs = [], []
    for module, schedulers in MODULES.values():
        cls = getattr(schedulers, kind)

        class Halved(cls):  # type: ignore[misc,valid-type]
            def get_lr(self) -> list[float]:
                return [0.5 * lr for lr in super().get_lr()]

        made = optimizer(module, "SGD", [0.1, 0.2])
        with counted() as calls, warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler = Halved(made, decay)
            for _ in range(CALLS):
                scheduler.step()
        counts.append(list(calls))
        lrs.append(values(made))
    assert counts[0] == counts[1]
    assert lrs[0] == lrs[1]


@pytest.mark.parametrize("name", ["get_lr", "_update_lr", "get_last_lr"])
@pytest.mark.parametrize("function", [decay, lambda step: LOG.append(step) or 0.9**step], ids=["compared", "tabulated"])
def test_a_method_assigned_while_functions_are_called(name: str, function: Any) -> None:
    """The schedule goes to the host and back, or stays: the functions are called as torch calls them."""
    found = []
    for module, schedulers in MODULES.values():
        made = optimizer(module, "SGD", [0.1, 0.2])
        scheduler, lrs = schedulers.LambdaLR(made, function), []
        LOG.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(1, 13):
                if step == 4:
                    setattr(
                        scheduler, name, types.MethodType(getattr(torch.optim.lr_scheduler.LambdaLR, name), scheduler)
                    )
                if step == 9:
                    delattr(scheduler, name)
                scheduler.step()
                lrs.append(values(made))
        found.append((lrs, list(LOG)))
    assert found[0] == found[1]


def test_calls_of_get_lr_where_updates_are_skipped() -> None:
    (ours, mine), (torchs, theirs) = _pair_of_own(skip_with_optimizer=True)
    counts = []
    for made, scheduler, skips in ((ours, mine, True), (torchs, theirs, False)):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.ones(()))
        with counted(_Own.get_lr) as calls:
            for step in range(1, 30):
                _amp_step(scheduler, made, step, scaler, skips)
        counts.append(len(calls))
    assert values(ours) == values(torchs)
    assert counts[0] - counts[1] in (0, 1)


def test_a_get_lr_that_differs_goes_to_the_host() -> None:
    rates = float("0.125"), float("0.125")
    (ours, mine), (torchs, theirs) = _pair_of_own(rates)
    with counted(_Own.get_lr) as calls:
        for step in range(1, 31):
            if step == 10:
                for rate in rates:
                    _change_in_place(rate, 0.5)
                calls.clear()
                with pytest.warns(UserWarning, match=r"at epoch 10 .*0\.0166.*0\.0444"):
                    mine.step()
            else:
                calls.clear()
                mine.step()
            assert len(calls) == 1, step
            theirs.step()
            assert values(ours) == values(torchs), step
    assert "at epoch 10" in mine.explain()


def test_a_get_lr_that_differs_under_a_captured_graph_raises() -> None:
    rates = float("0.125"), float("0.125")
    (ours, mine), _ = _pair_of_own(rates)
    _captured_then_differs(ours, mine, lambda: _change_in_place(rates[0], 0.5))


# -- a function that is another one than was traced -----------------------------------------------------------


def _change_in_place(number: float, value: float) -> None:
    """Another value for the same float object, as nothing in Python can do: no watch sees it."""
    offset = sys.getsizeof(0.5) - ctypes.sizeof(ctypes.c_double)
    ctypes.c_double.from_address(id(number) + offset).value = value


def _with_a_rate() -> tuple[Callable[[float], float], Callable[[float], None]]:
    rate = float("0.125")

    def function(step: float) -> float:
        return 1.0 / (1.0 + rate * step)

    return function, lambda value: _change_in_place(rate, value)


DIFFERS = 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_differs_moves_to_the_table(kind: str) -> None:
    (mine, change_mine), (theirs, change_theirs) = _with_a_rate(), _with_a_rate()
    our_optimizer, ours = make("ours", kind, mine)
    torch_optimizer, torchs = make("torch", kind, theirs)
    kinds = {"SequentialLR": 25, "SequentialLR of kinds": 10}
    differs = kinds.get(kind, DIFFERS)
    for step in range(1, 80):
        if step == differs:
            change_mine(0.5)
            change_theirs(0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with counted(mine) as my_calls:
                ours.step()
            with counted(theirs) as their_calls:
                torchs.step()
        assert my_calls == their_calls, step
        assert values(our_optimizer) == values(torch_optimizer), step
        own = [str(w.message) for w in caught if "function" in str(w.message)]
        if step == differs:
            assert own, "no warning"
            assert all("the function gave" in text and "its program gives" in text for text in own)
            assert all(w.filename == __file__ for w in caught if "function" in str(w.message))
        else:
            assert own == [], step
    assert "called by Python at every step" in ours.explain()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_fused_function_that_differs(kind: str, fused: bool) -> None:
    if kind in NESTED or kind == "ParamScheduler of some":
        pytest.skip("as the others")
    (mine, change_mine), (theirs, change_theirs) = _with_a_rate(), _with_a_rate()
    our_optimizer, ours = make("ours", kind, mine, fused=fused)
    torch_optimizer, torchs = make("torch", kind, theirs)
    for step in range(1, 30):
        if step == DIFFERS:
            change_mine(0.5)
            change_theirs(0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with counted(mine) as my_calls:
                our_optimizer.step()
                ours.step()
            torch_optimizer.step()
            with counted(theirs) as their_calls:
                torchs.step()
        assert my_calls == their_calls, step
        assert values(our_optimizer) == values(torch_optimizer), step
        assert any("the function gave" in str(w.message) for w in caught) == (step == DIFFERS)


def _state(made: Any, scheduler: Any) -> Any:
    return values(made), {k: v for k, v in scheduler.state_dict().items() if type(v) in (int, float, list)}


def _captured_then_differs(made: Any, scheduler: Any, change: Callable[[], None]) -> None:
    for _ in range(5):
        scheduler.step()
    scheduler._schedule.memory.captured = True
    change()
    before = _state(made, scheduler)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="a CUDA graph that was captured has its program"):
            scheduler.step()
        assert _state(made, scheduler) == before


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in NESTED])
def test_a_difference_under_a_captured_graph_raises(kind: str) -> None:
    mine, change = _with_a_rate()
    made, scheduler = make("ours", kind, mine)
    _captured_then_differs(made, scheduler, lambda: change(0.5))


# -- exceptions of the user's ---------------------------------------------------------------------------------


def raises_at_10(step: float) -> float:
    if step == 10:
        raise LookupError("ten")
    return 1.0 / (1.0 + step)


class RaisesOnce:
    """On the table; at step 10 it raises the first time that it is asked."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.raised = False

    def __call__(self, step: float) -> float:
        self.calls.append(step)
        if step == 10 and not self.raised:
            self.raised = True
            raise LookupError("ten")
        return 1.0 / (1.0 + step)


SIMPLE = ("LambdaLR", "MultiplicativeLR", "CyclicLR", "CyclicLR with momentum", "ParamScheduler", "ChainedScheduler")


@pytest.mark.parametrize("kind", SIMPLE)
def test_an_exception_comes_out_once_and_changes_nothing(kind: str) -> None:
    made, scheduler = make("ours", kind, raises_at_10)
    for _ in range(9):
        scheduler.step()
    before = _state(made, scheduler)
    for _ in range(3):
        with counted(raises_at_10) as calls, pytest.raises(LookupError, match="ten") as caught:
            scheduler.step()
        assert caught.value.__context__ is None
        assert calls == [10]
        assert _state(made, scheduler) == before


@pytest.mark.parametrize(
    "options",
    [{}, {"skip_with_optimizer": True}, {"fused": True}, {"fused": True, "skip_with_optimizer": True}],
    ids=str,
)
@pytest.mark.parametrize("kind", SIMPLE)
def test_a_function_that_raised_once_is_asked_again(kind: str, options: dict[str, Any]) -> None:
    """A file that could not be read, and then could."""
    flaky, plain = RaisesOnce(), RaisesOnce()
    plain.raised = True
    made, scheduler = make("ours", kind, flaky, **options)
    other, torchs = make("torch", kind, plain)
    for step in range(1, 30):
        try:
            made.step()
            scheduler.step()
        except LookupError:
            assert step == 10
            assert values(made) == values(other)
            if options.get("fused"):
                made.step()
            scheduler.step()
        torchs.step()
        assert values(made) == values(other), step
    assert flaky.raised


def test_an_exception_of_get_lr() -> None:
    class Raises(OURS.StepLR):
        def get_lr(self) -> list[float]:
            if self.last_epoch == 10:
                raise LookupError("ten")
            return [base * 0.5 for base in self.base_lrs]

    made = optimizer(fused_sched.optim, "SGD", [0.1])
    scheduler = Raises(made, 3)
    for _ in range(9):
        scheduler.step()
    before = _state(made, scheduler)
    for _ in range(3):
        with counted(Raises.get_lr) as calls, pytest.raises(LookupError, match="ten"):
            scheduler.step()
        assert len(calls) == 1
        assert _state(made, scheduler) == before


# -- what a function sees of its scheduler ----------------------------------------------------------------------


class Looking:
    """Notes what its scheduler looks like from inside, by a function of it."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.scheduler: Any = None
        self.seen: list[Any] = []

    def __call__(self, step: float) -> float:
        one = None if self.scheduler is None else self.scheduler()
        if one is not None:
            self.seen.append((step, self.look(one)))
        return 1.0 / (1.0 + step)


def _looks(one: Any) -> Any:
    names = ("last_epoch", "_step_count", "_is_initial", "_get_lr_called_within_step", "_last_lr")
    found = {name: getattr(one, name, None) for name in names}
    found["inside"] = {k: v for k, v in vars(one).items() if k in names}
    found["get_last_lr"] = list(one.get_last_lr())
    found["state"] = {k: v for k, v in one.state_dict().items() if type(v) in (int, float, bool)}
    found["groups"] = [(g["lr"], g["weight_decay"], g["momentum"]) for g in one.optimizer.param_groups]
    return found


def _looks_with_parts(one: Any) -> Any:
    return [_looks(part) for part in (one, *getattr(one, "_schedulers", []))]


def _counts(one: Any) -> Any:
    return one.last_epoch, one._step_count, one._get_lr_called_within_step


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ChainedScheduler"])  # see README: Differences
@pytest.mark.parametrize("late", [False, True])
def test_a_function_sees_its_scheduler_as_in_torch(kind: str, late: bool) -> None:
    """``late``: from the third step on it has other numbers than at first."""
    seen = []
    for home in ("ours", "torch"):
        looking = Looking(_looks_with_parts)
        made, scheduler = make(home, kind, looking)
        looking.scheduler = weakref.ref(scheduler)
        for step in range(1, 31):
            if late and step == 3:
                made.param_groups[0]["lr"] = 0.5
            scheduler.step()
        seen.append(looking.seen)
    assert len(seen[0]) == len(seen[1])
    for mine, theirs in zip(*seen, strict=True):
        assert mine == theirs


def test_get_lr_on_the_host_sees_its_scheduler_as_in_torch() -> None:
    seen: dict[Any, list[Any]] = {}
    for module, kind in ((fused_sched.optim, OURS.StepLR), (torch.optim, TORCH.StepLR)):
        looks = seen.setdefault(kind, [])

        class Looks(kind):  # type: ignore[misc,valid-type]
            def get_lr(self, looks: Any = looks) -> list[float]:
                looks.append((self.last_epoch, self._step_count, self._is_initial, self._get_lr_called_within_step))
                return [base * 0.5 for base in self.base_lrs]

        made = optimizer(module, "SGD", [0.1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = Looks(made, 3)
            for _ in range(20):
                scheduler.step()
    first, second = seen.values()
    assert first == second


def test_a_function_sees_its_own_scheduler_where_a_sequence_starts_it() -> None:
    found = []
    for home in ("ours", "torch"):
        module, schedulers = MODULES[home]
        made = optimizer(module, "SGD", [0.1])
        looking = Looking(_counts)
        part = schedulers.LambdaLR(made, looking)
        sequence = schedulers.SequentialLR(made, [schedulers.ExponentialLR(made, 0.9), part], [4])
        looking.scheduler = weakref.ref(part)
        for _ in range(9):
            sequence.step()
        found.append(looking.seen)
    assert found[0] == found[1]


# -- what functions give ----------------------------------------------------------------------------------------

GIVEN: dict[str, Any] = {
    "numpy float32": np.float32(0.9), "numpy float16": np.float16(0.5), "numpy int": np.int64(2),
    "array": np.array(0.9),
    "fraction": fractions.Fraction(9, 10), "decimal": decimal.Decimal("0.9"), "string": "0.9", "bool": True, "int": 1,
    "tensor": torch.tensor(0.9), "tensor64": torch.tensor(0.9, dtype=torch.float64), "none": None, "huge": 10**400,
    "complex": 0.9 + 0j, "own": type("Own", (float,), {})(0.9),
}  # fmt: skip


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("kind", ["LambdaLR", "MultiplicativeLR", "CyclicLR", "CyclicLR with momentum"])
def test_what_a_function_gives_means_what_it_means_in_torch(kind: str, given: str) -> None:
    """The same numbers, or the same error."""
    found: list[Any] = []
    for home in ("ours", "torch"):
        history: list[Any] = []
        found.append(history)
        try:
            made, scheduler = make(home, kind, lambda step: 1.0 if step == 0 else GIVEN[given])
            for _ in range(5):
                scheduler.step()
                history.append(values(made))
        except Exception as error:
            history.append(type(error).__name__)
    assert found[0] == found[1]


def test_a_state_that_changes_at_every_step_costs_little() -> None:
    """What the user writes before every step, such as a loss, must not be traced anew for good."""
    state = {"loss": 0.0}
    made, scheduler = make("ours", "LambdaLR", lambda step: 1.0 / (1.0 + state["loss"]))
    start = time.process_time()
    for step in range(1, 1001):
        state["loss"] = step / 100
        scheduler.step()
        assert made.param_groups[0]["lr"] == 0.1 * (1.0 / (1.0 + step / 100))
    assert time.process_time() - start < 1.0


# -- who has the scheduler ----------------------------------------------------------------------------------------


def _unseen(step: int) -> float:
    return 1.0 / (1.0 + step)


def _with_a_log() -> Callable[[int], float]:
    log: list[int] = []
    return lambda step: log.append(step) or 1.0 / (1.0 + step)  # type: ignore[func-returns-value]


@pytest.mark.parametrize("in_a_cycle", [False, True])
@pytest.mark.parametrize("made_of", ["program", "table"])
@pytest.mark.parametrize("kind", ["LambdaLR", "MultiplicativeLR", "CyclicLR", "ParamScheduler", "ChainedScheduler"])
def test_a_fused_scheduler_that_nobody_has_goes_on(kind: str, made_of: str, in_a_cycle: bool) -> None:
    function = _unseen if made_of == "program" else _with_a_log()
    made, scheduler = make("ours", kind, function, fused=True)
    other, torchs = make("torch", kind, _unseen)
    if in_a_cycle:
        scheduler.mine = scheduler
    del scheduler
    gc.collect()
    for _ in range(5):
        made.step()
        torchs.step()
        assert values(made) == values(other)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thin
def test_an_optimizer_whose_functions_are_compared_is_freed_at_once(kind: str, fused: bool) -> None:
    if (fused and kind in NESTED) or kind == "ParamScheduler of some":
        pytest.skip("as the others")
    gc.collect()
    gc.disable()
    try:
        made, scheduler = make("ours", kind, _unseen, **({"fused": True} if fused else {}))
        made.step()
        scheduler.step()
        alive = weakref.ref(made)
        del made, scheduler
        assert alive() is None
    finally:
        gc.enable()


def test_a_scheduler_whose_get_lr_is_compared_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        made = optimizer(fused_sched.optim, "SGD", [0.1])
        scheduler = OurOwn(made)
        scheduler.step()
        alive = weakref.ref(made)
        del made, scheduler
        assert alive() is None
    finally:
        gc.enable()
