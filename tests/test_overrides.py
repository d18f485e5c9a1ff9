"""Wild subclasses and assignments: whatever a user puts in the place of torch's methods is what runs."""

from __future__ import annotations

import copy
import math
import pickle
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods import methods, replaced
from schedule_twins import DEFAULTS, HOMES, LEAVES, TORCH, advance, metric, optimizer
from torch.optim import lr_scheduler as torchs
from torch.optim.swa_utils import SWALR

import fused_sched
from fused_sched.lr_scheduler import on_device

STEPS = 60
Build = Callable[[Any], Any]
Event = Callable[[Any], Any]


class Counted:
    """Counts calls of what users wrote, by name."""

    calls: dict[str, int]

    def count(self, name: str) -> None:
        self.__dict__.setdefault("calls", {})
        self.calls[name] = self.calls.get(name, 0) + 1


# -- on the class ------------------------------------------------------------------------------------------


class SlowReduce(Counted, torchs.ReduceLROnPlateau):
    def _reduce_lr(self, epoch: int) -> None:
        self.count("reduce")
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * 0.9 - 1e-4 * (epoch % 2)


class EvenBetter(Counted, torchs.ReduceLROnPlateau):
    def _is_better(self, a: float, best: float) -> bool:
        self.count("better")
        return a < best or self.last_epoch % 4 == 0


class NeverCooling(torchs.ReduceLROnPlateau):
    @property
    def in_cooldown(self) -> bool:
        return self.last_epoch % 5 == 0


class TalkativePlateau(Counted, torchs.ReduceLROnPlateau):
    def step(self, metrics: Any, epoch: Any = None) -> None:
        self.count("step")
        super().step(metrics if self.last_epoch % 3 else math.nan)


class OwnScale(Counted, torchs.CyclicLR):
    def scale_fn(self, x: float) -> float:
        self.count("scale")
        return 1 / (1 + x) + len(self.calls) / 8


class OwnTriangle(torchs.CyclicLR):
    @staticmethod
    def _triangular_scale_fn(x: float) -> float:
        return 0.5 / x


class OwnRange(torchs.CyclicLR):
    @staticmethod
    def _exp_range_scale_fn(gamma: float, x: float) -> float:
        return gamma ** (x / 2)


class SquareAnneal(torchs.OneCycleLR):
    def _anneal_func(self, start: float, end: float, pct: float) -> float:
        return start + (end - start) * pct * pct


class OwnCosine(Counted, torchs.OneCycleLR):
    @staticmethod
    def _annealing_cos(start: float, end: float, pct: float) -> float:
        return end + (start - end) * (1 - pct) ** 3


class HalfUpdate(Counted, torchs.StepLR):
    def _update_lr(self, epoch: Any = None) -> None:
        self.count("update")
        super()._update_lr(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.999


class EveryOther(Counted, torchs.ExponentialLR):
    def step(self, *a: Any) -> None:
        self.count("step")
        if self.calls["step"] % 2:
            super().step(*a)


class TwiceAStep(torchs.CosineAnnealingLR):
    def step(self, *a: Any) -> None:
        super().step(*a)
        if not self._is_initial:
            super().step(*a)


class Counting(Counted, torchs.LambdaLR):
    def step(self, epoch: Any = None) -> None:
        self.count("step")
        super().step()


class Alone(torchs.LRScheduler):
    """A step that never calls torch's."""

    def step(self, epoch: Any = None) -> None:
        self.last_epoch += 1
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] / (1 + self.last_epoch)


class Orphan(torchs.LRScheduler):
    """Not even the constructor."""

    def __init__(self, made: Any) -> None:
        self.optimizer, self.n = made, 0

    def step(self, epoch: Any = None) -> None:
        self.n += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9 if self.n % 3 else 1.1


class Epochs(torchs.StepLR):
    """Jumps by the closed form."""

    def step(self, *a: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().step(self.last_epoch + 2 if self.last_epoch % 3 == 0 else None)

    def _get_closed_form_lr(self) -> list[float]:
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class ClosedForm(torchs.ExponentialLR):
    """Only a start at a milestone asks for it."""

    def _get_closed_form_lr(self) -> list[float]:
        return [base * 7 for base in self.base_lrs]


class FadingGamma(torchs.ExponentialLR):
    @property
    def gamma(self) -> float:
        return 0.9 if self.last_epoch < 20 else 1.01

    @gamma.setter
    def gamma(self, value: float) -> None:
        pass


class SlowEpochs(torchs.LinearLR):
    @property
    def last_epoch(self) -> int:
        return int(self.__dict__["ticks"]) // 2

    @last_epoch.setter
    def last_epoch(self, value: int) -> None:
        self.__dict__["ticks"] = self.__dict__.get("ticks", -2) + 1 if value >= 0 else -2


class OwnInitial(SWALR):
    @staticmethod
    def _get_initial_lr(lr: float, swa_lr: float, alpha: float) -> float:
        return lr * 0.95 + 0.001 * alpha


class OwnAnneal(SWALR):
    @staticmethod
    def _cosine_anneal(t: float) -> float:
        return t * t


class ShortLast(torchs.LinearLR):
    """What the sequence around it shows."""

    def get_last_lr(self) -> list[float]:
        return [lr / 2 for lr in super().get_last_lr()]


class Reluctant(Counted, torchs.SequentialLR):
    def step(self) -> None:
        self.count("step")
        if self.calls["step"] % 3:
            super().step()


class Noisy(torchs.ChainedScheduler):
    def step(self) -> None:
        super().step()
        for group in self.optimizer.param_groups:
            group["lr"] += 1e-5


class OwnRestarts(torchs.CosineAnnealingWarmRestarts):
    def get_lr(self) -> list[float]:
        return [lr / 2 for lr in super().get_lr()]


class Traced(torchs.StepLR):
    def get_lr(self) -> list[float]:
        return [base / (1 + self.last_epoch // 3) for base in self.base_lrs]


class Remembering(Counted, torchs.PolynomialLR):
    def get_lr(self) -> list[float]:
        self.count("get_lr")
        return [lr * (1 - 1 / (9 + self.calls["get_lr"])) for lr in super().get_lr()]


def _sequence(cls: Any, *kinds: Any) -> Build:
    def build(o: Any) -> Any:
        parts = [torchs.StepLR(o, 4, 0.5) if kind is None else kind(o, 0.8) for kind in kinds]
        return cls(o, parts, milestones=[5, 11][: len(parts) - 1])

    return build


CYCLE: dict[str, Any] = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 5}
ONE_CYCLE: dict[str, Any] = {"max_lr": 0.4, "total_steps": STEPS + 5}

CLASSES: dict[str, Build] = {
    "_reduce_lr": lambda o: SlowReduce(o, patience=1),
    "_is_better": lambda o: EvenBetter(o, patience=1),
    "in_cooldown": lambda o: NeverCooling(o, patience=1, cooldown=3),
    "step of a plateau": lambda o: TalkativePlateau(o, patience=2),
    "scale_fn": lambda o: OwnScale(o, **CYCLE),
    "_triangular_scale_fn": lambda o: OwnTriangle(o, **CYCLE),
    "_exp_range_scale_fn": lambda o: OwnRange(o, **CYCLE, mode="exp_range", gamma=0.97),
    "_anneal_func": lambda o: SquareAnneal(o, **ONE_CYCLE),
    "_annealing_cos": lambda o: OwnCosine(o, **ONE_CYCLE),
    "_update_lr": lambda o: HalfUpdate(o, 3),
    "step that skips": lambda o: EveryOther(o, 0.97),
    "step that calls twice": lambda o: TwiceAStep(o, 50),
    "step that counts": lambda o: Counting(o, lambda e: 1 / (1 + e)),
    "step alone": Alone,
    "step without a constructor": Orphan,
    "step to epochs": lambda o: Epochs(o, 7),
    "closed form": lambda o: ClosedForm(o, 0.9),
    "constant as a property": lambda o: FadingGamma(o, 0.5),
    "last_epoch as a property": lambda o: SlowEpochs(o, total_iters=20),
    "_get_initial_lr": lambda o: OwnInitial(o, 0.05, 8),
    "_cosine_anneal": lambda o: OwnAnneal(o, 0.05, 8),
    "get_last_lr": lambda o: ShortLast(o, total_iters=9),
    "step of a sequence": _sequence(Reluctant, None, torchs.ExponentialLR),
    "step of a chain": lambda o: Noisy([torchs.ExponentialLR(o, 0.9), torchs.StepLR(o, 3)], o),
    "part that skips": _sequence(torchs.SequentialLR, EveryOther, None),
    "part with a closed form": _sequence(torchs.SequentialLR, None, ClosedForm, FadingGamma),
    "part with a last lr": lambda o: torchs.SequentialLR(o, [ShortLast(o), torchs.ExponentialLR(o, 0.9)], [9]),
    "part of a chain": lambda o: torchs.ChainedScheduler([HalfUpdate(o, 3), torchs.ExponentialLR(o, 0.99)], o),
    "get_lr with registers": lambda o: OwnRestarts(o, 7, 2),
    "get_lr traced": lambda o: Traced(o, 3),
    "get_lr with a memory": lambda o: Remembering(o, 90, 2),
}
ON_A_DEVICE = {
    "closed form", "get_lr traced", "get_last_lr", "step that skips", "step that calls twice", "step that counts",
    "step to epochs", "step of a plateau", "step of a sequence", "step of a chain",
}  # fmt: skip
FUSED = {"closed form", "get_lr traced", "get_last_lr"}


def _run(scheduler: Any, events: dict[int, Event] | None = None) -> list[Any]:
    """Lrs, calls and position of each step."""
    made, found = scheduler.optimizer, []
    for step in range(STEPS):
        if events and step in events:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                events[step](scheduler)
        for group in made.param_groups:
            group["params"][0].grad = torch.ones_like(group["params"][0])
        made.step()
        if isinstance(scheduler, torchs.ReduceLROnPlateau):
            scheduler.step(metric(step))
        else:
            scheduler.step()
        last = scheduler.get_last_lr() if "_last_lr" in scheduler.__dict__ else None
        found.append(([g["lr"] for g in made.param_groups], last, dict(getattr(scheduler, "calls", {}))))
    return found


def _both(build: Build, backend: str, **keywords: Any) -> tuple[Any, Any]:
    theirs = build(optimizer(torch.optim, "SGD", [0.1, 0.3]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it runs on the host
        ours = on_device(build(optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=backend)), **keywords)
    return ours, theirs


def _compare(ours: Any, theirs: Any, events: dict[int, Event] | None = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found, expected = _run(ours, events), _run(theirs, events)
    for step, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a[2] == b[2], f"calls at step {step}"
        torch.testing.assert_close(a[0], b[0], rtol=1e-12, atol=0, msg=lambda m, s=step: f"lr at step {s}: {m}")
        if b[1] is not None:
            torch.testing.assert_close(a[1], b[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_users(name: str, host_backend: str, mirrored: bool) -> None:
    ours, theirs = _both(CLASSES[name], host_backend)
    assert (ours.program is not None) == (name in ON_A_DEVICE), ours.explain()
    _compare(ours, theirs)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_users_that_is_fused(name: str, host_backend: str) -> None:
    """Refused, with the name of what stands in the way, or equal."""
    if name in FUSED:
        _compare(*_both(CLASSES[name], host_backend, fused=True))
        return
    with pytest.raises(ValueError, match=r": leave out fused( and skip_with_optimizer)?$") as caught:
        _both(CLASSES[name], host_backend, fused=True)
    if name.startswith("_"):
        bound = {"_triangular_scale_fn": "_scale_fn_ref", "_exp_range_scale_fn": "_scale_fn_ref"}
        assert {**bound, "_cosine_anneal": "anneal_func"}.get(name, name) in str(caught.value)
    if name.startswith("step"):
        assert "step" in str(caught.value) or "constructor" in str(caught.value)


class Forgetful(torchs.StepLR):
    """Calls torch's constructor, and loses what that made."""

    def __init__(self, made: Any) -> None:
        super().__init__(made, 3)
        del self._last_lr


@pytest.mark.parametrize(("build", "missing"), [(Orphan, "last_epoch"), (Forgetful, "_last_lr")])
def test_why_a_scheduler_without_an_attribute_runs_on_the_host(build: Build, missing: str, host_backend: str) -> None:
    """In words that are true of whatever became of it."""
    message = f"^{build.__name__} has no attribute {missing}, which torch's constructor sets and a program needs: "
    with pytest.warns(UserWarning, match=message + "its lr is computed on the host"):
        on_device(build(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)))


# -- on the instance, at any time --------------------------------------------------------------------------


def _assign(name: str, function: Any, *path: int) -> Event:
    def event(scheduler: Any) -> None:
        for i in path:
            scheduler = scheduler._schedulers[i]
        setattr(scheduler, name, function(scheduler))

    return event


def _delete(name: str, *path: int) -> Event:
    def event(scheduler: Any) -> None:
        for i in path:
            scheduler = scheduler._schedulers[i]
        delattr(scheduler, name)

    return event


def _shrink(s: Any) -> Any:
    def reduce(epoch: int) -> None:
        for group in s.optimizer.param_groups:
            group["lr"] *= 0.7

    return reduce


def _skipping(s: Any) -> Any:
    real, calls = s.step, [0]

    def step(*a: Any) -> None:
        calls[0] += 1
        if calls[0] % 3:
            real(*a)

    return step


INSTANCES: dict[str, tuple[Build, str, Any, tuple[int, ...]]] = {
    "get_lr": (lambda o: torchs.StepLR(o, 5), "get_lr", lambda s: lambda: [0.123, 0.321], ()),
    "get_lr of a cosine": (
        lambda o: torchs.CosineAnnealingLR(o, 30),
        "get_lr",
        lambda s: types.MethodType(lambda self: [0.2 / (1 + self.last_epoch)] * 2, s),
        (),
    ),
    "_reduce_lr": (lambda o: torchs.ReduceLROnPlateau(o, patience=1), "_reduce_lr", _shrink, ()),
    "_is_better": (
        lambda o: torchs.ReduceLROnPlateau(o, patience=1), "_is_better", lambda s: lambda a, best: a > best, (),
    ),
    "scale_fn": (lambda o: torchs.CyclicLR(o, **CYCLE), "scale_fn", lambda s: lambda x: 1 / (1 + x), ()),
    "_annealing_cos": (
        lambda o: torchs.OneCycleLR(o, **ONE_CYCLE), "_annealing_cos", lambda s: lambda a, b, p: a + (b - a) * p, (),
    ),
    "_update_lr": (lambda o: torchs.StepLR(o, 5), "_update_lr", lambda s: lambda epoch=None: None, ()),
    "step": (lambda o: torchs.ExponentialLR(o, 0.9), "step", _skipping, ()),
    "step of a part": (_sequence(torchs.SequentialLR, None, torchs.ExponentialLR), "step", _skipping, (1,)),
    "get_lr of a part": (
        lambda o: torchs.ChainedScheduler([torchs.StepLR(o, 3), torchs.ExponentialLR(o, 0.99)], o),
        "get_lr", lambda s: lambda: [0.5 / (1 + s.last_epoch)] * 2, (1,),
    ),
    "_get_initial_lr": (
        lambda o: SWALR(o, 0.05, 30), "_get_initial_lr", lambda s: lambda lr, swa, alpha: lr * 0.99, (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTANCES)
def test_an_assignment_in_mid_run_and_its_end(name: str, host_backend: str, mirrored: bool) -> None:
    build, attribute, function, path = INSTANCES[name]
    ours, theirs = _both(build, host_backend)
    assert ours.program is not None
    events = {7: _assign(attribute, function, *path), 31: _delete(attribute, *path)}
    _compare(ours, theirs, events)
    if not path:
        assert ours.program is not None, "it is a program again"


@pytest.mark.parametrize("name", INSTANCES)
def test_an_assignment_to_a_fused_scheduler_is_refused(name: str, host_backend: str, mirrored: bool) -> None:
    """At the next update, which changes nothing; without it all goes on."""
    build, attribute, function, path = INSTANCES[name]
    if name in ("_reduce_lr", "_is_better"):
        return
    ours, theirs = _both(build, host_backend, fused=True)
    for _ in range(3):
        for one in (ours, theirs):
            one.optimizer.step()
            one.step()
    before = copy.deepcopy(ours.state_dict())
    _assign(attribute, function, *path)(ours)
    for _ in range(2):
        with pytest.raises(ValueError, match="leave out fused"):
            ours.optimizer.step()
    _delete(attribute, *path)(ours)
    assert ours.state_dict()["_last_lr"] == before["_last_lr"]
    _compare(ours, theirs)


@pytest.mark.parametrize("name", ["_scale_fn_ref", "anneal_func"])
def test_a_function_that_torch_had_bound(name: str, host_backend: str, mirrored: bool) -> None:
    """Another one of torch's own stays a program."""
    build: Build = (
        (lambda o: torchs.CyclicLR(o, **CYCLE)) if name == "_scale_fn_ref" else (lambda o: SWALR(o, 0.05, 30))
    )
    torchs_own = torchs.CyclicLR._triangular2_scale_fn if name == "_scale_fn_ref" else SWALR._linear_anneal
    for given in (lambda x: 0.3 * x, torchs_own):
        ours, theirs = _both(build, host_backend)
        _compare(ours, theirs, {9: lambda s, f=given: setattr(s, name, f)})
        assert (ours.program is None) == (given is not torchs_own)


def test_a_method_of_the_class_is_replaced_in_mid_run(host_backend: str, mirrored: bool) -> None:
    class Mine(torchs.StepLR):
        pass

    ours, theirs = _both(lambda o: Mine(o, 5), host_backend)
    assert ours.program is not None

    def update(self: Any, epoch: Any = None) -> None:
        self.last_epoch += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9
        self._last_lr = [g["lr"] for g in self.optimizer.param_groups]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for step in range(20):
            if step == 6:
                Mine._update_lr = update  # type: ignore[method-assign]
            for one in (ours, theirs):
                one.optimizer.step()
                one.step()
            assert ours.get_last_lr() == theirs.get_last_lr()
    assert ours.program is None


def test_what_stands_in_the_way_is_said(host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=host_backend)
    scheduler = fused_sched.lr_scheduler.StepLR(made, 5)
    scheduler.get_lr = lambda: [0.5, 0.5]
    made.step()
    with pytest.warns(UserWarning, match=r"^get_lr was assigned to this StepLR, which only Python can run: its lr is"):
        scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 0.5]
    assert scheduler.explain().startswith("StepLR runs on the host: get_lr was assigned to this StepLR")


def test_a_subclass_of_ours(host_backend: str, mirrored: bool) -> None:
    class Mine(fused_sched.lr_scheduler.ReduceLROnPlateau):
        def _reduce_lr(self, epoch: int) -> None:
            for group in self.optimizer.param_groups:
                group["lr"] /= 3

    class Theirs(torchs.ReduceLROnPlateau):
        _reduce_lr = Mine._reduce_lr

    with pytest.warns(UserWarning, match=r"^Mine overrides _reduce_lr, which only Python can run"):
        ours = Mine(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend), patience=1)
    _compare(ours, Theirs(optimizer(torch.optim, "SGD", [0.1]), patience=1))


def test_names_of_ours_are_refused(host_backend: str) -> None:
    class Mine(torchs.StepLR):
        def _scale(self) -> float:
            return 2.0

        def _bind(self) -> None:
            pass

    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    with pytest.raises(TypeError, match=r"^Mine has '_bind', a name that schedulers on the device use themselves"):
        on_device(Mine(made, 3))
    given = torchs.StepLR(made, 3)
    given._horizon = 100  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"^StepLR has '_horizon', a name .*: give it another$"):
        on_device(given)


# -- parts that are torch's own ----------------------------------------------------------------------------


def _foreign(home: Any, o: Any, kind: str) -> Any:
    """Some parts are torch's in both homes."""
    theirs, mine = torchs.LinearLR(o, 0.2, total_iters=6), home.ExponentialLR(o, 0.9)
    if kind == "sequence":
        return home.SequentialLR(o, [theirs, mine, torchs.StepLR(o, 4)], [7, 20])
    if kind == "own part first":
        return home.SequentialLR(o, [mine, theirs], [5])
    if kind == "chain":
        return home.ChainedScheduler([theirs, mine], o)
    inner = torchs.ChainedScheduler([torchs.StepLR(o, 3), mine], o)
    return home.SequentialLR(o, [home.SequentialLR(o, [inner, home.StepLR(o, 5)], [8]), theirs], [30])


@pytest.mark.parametrize("order", ["as it should be", "scheduler first"])
@pytest.mark.parametrize("kind", ["sequence", "own part first", "chain", "deep"])
def test_foreign_parts(kind: str, order: str, host_backend: str, mirrored: bool) -> None:
    found: dict[str, list[Any]] = {}
    told: dict[str, list[str]] = {}
    for name, (optim, home) in HOMES.items():
        options = {"backend": host_backend} if name == "ours" else {}
        made = optimizer(optim, "SGD", [0.1, 0.3], **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scheduler = _foreign(home, made, kind)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if order != "as it should be":
                scheduler.step()
            found[name] = _run(scheduler)
        told[name] = [str(w.message)[:40] for w in caught if "epoch parameter" not in str(w.message)]
        if name == "ours":
            assert scheduler.program is None
            assert "is not of fused_sched.lr_scheduler" in scheduler.explain()
    assert found["ours"] == found["torch"]
    assert told["ours"] == told["torch"]


@pytest.mark.parametrize("kind", ["sequence", "own part first", "chain", "deep"])
def test_foreign_parts_cannot_be_fused(kind: str, host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=host_backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scheduler = _foreign(fused_sched.lr_scheduler, made, kind)
    arguments = [scheduler._schedulers, made] if kind == "chain" else [made, scheduler._schedulers]
    if kind != "chain":
        arguments.append(scheduler._milestones)
    with pytest.raises(ValueError, match=r"is not of fused_sched.lr_scheduler: leave out fused"):
        type(scheduler)(*arguments, fused=True)


def test_an_assigned_method_travels_with_copies(host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=host_backend)
    scheduler = fused_sched.lr_scheduler.StepLR(made, 5)
    scheduler.get_lr = _constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for copied in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
            copied.optimizer.step()
            copied.step()
            assert copied.get_last_lr() == [0.25, 0.75]


def _constant() -> list[float]:
    return [0.25, 0.75]


# -- whatever torch calls ----------------------------------------------------------------------------------


def _counting(cls: Any, name: str, calls: list[int]) -> Any:
    """A subclass that counts what one of torch's methods is asked."""

    def around(real: Any) -> Any:
        def counted(*a: Any, **k: Any) -> Any:
            calls[0] += 1
            return real(*a, **k)

        return counted

    return type(cls.__name__, (cls,), {name: replaced(cls, name, around)})


EVERY_METHOD = [(n, m) for n in (*LEAVES, "ReduceLROnPlateau") for m in methods(getattr(TORCH, n)) if m != "step"]


@pytest.mark.parametrize(("kind", "method"), EVERY_METHOD)
def test_every_method_that_torch_calls_is_called(kind: str, method: str, host_backend: str) -> None:
    """And where torch calls none of the user's in a step, it is a program."""
    counts: dict[bool, list[int]] = {True: [0], False: [0]}
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for ours in (False, True):
            optim = fused_sched.optim if ours else torch.optim
            options = {"backend": host_backend} if ours else {}
            cls = _counting(getattr(TORCH, kind), method, counts[ours])
            made[ours] = cls(optimizer(optim, "SGD", [0.1, 0.3], **options), **DEFAULTS[kind])
        made[True] = on_device(made[True])
        before = counts[False][0]
        counts[True][0] = before
        for _ in range(20):
            for ours in (False, True):
                made[ours].optimizer.step()
                advance(made[ours])
            assert made[True].get_last_lr() == pytest.approx(made[False].get_last_lr(), rel=1e-12)
            if method != "get_last_lr":
                assert counts[True] == counts[False]
    called = counts[False][0] > before and method != "get_last_lr"
    if method != "_annealing_linear":  # which might be called after an edit of the scheduler
        assert (made[True].program is None) == called
