"""``vars(scheduler)``: what users' own methods read there is true, and what they assign there counts."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    EVERY,
    HOMES,
    NAMES,
    NESTED,
    OURS,
    TORCH,
    Twins,
    advance,
    build,
    compare_steps,
    optimizer,
    position,
    train,
)

import fused_sched


def pair_of(name: str, make: Callable[[Any], Any], backend: Any, fused: bool = False) -> Twins:
    """Our scheduler and torch's, each of the class that ``make`` makes of the one with this name."""
    made, schedulers = {}, {}
    for home, (optimizers, there) in HOMES.items():
        more = {"backend": backend} if home == "ours" else {}
        made[home] = optimizer(optimizers, "SGD", [0.1, 0.3], **more)
        own = SimpleNamespace(**{**vars(there), name: make(getattr(there, name))})
        schedulers[home] = build(own, name, made[home], **DEFAULTS[name], **({"fused": True} if fused and more else {}))
    return Twins(schedulers["ours"], schedulers["torch"], made["ours"], made["torch"])


def plain(state: Any) -> Any:
    """A state without the objects in it, to be compared."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items() if key not in ("optimizer", "_schedulers")}
    return [plain(x) for x in state] if isinstance(state, (list, tuple)) else state if is_number(state) else None


def is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float, str))


READS: dict[str, Callable[[Any], Any]] = {
    "items": lambda s: {k: v for k, v in s.__dict__.items() if k != "optimizer"},
    "keys": lambda s: {k: vars(s)[k] for k in vars(s)},
    "copy": lambda s: s.__dict__.copy(),
    "dict": lambda s: dict(vars(s)),
    "stars": lambda s: {**vars(s)},
    "keywords": lambda s: (lambda **given: given)(**vars(s)),
    "or": lambda s: vars(s) | {},
    "get": lambda s: {k: vars(s).get(k) for k in vars(s)},
    "values": lambda s: dict(zip(vars(s), vars(s).values(), strict=True)),
    "copy.copy": lambda s: copy.copy(vars(s)),
    "dir": lambda s: {k: vars(s)[k] for k in dir(s) if k in vars(s)},
}


def reading(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def make(base: Any) -> Any:
        class Own(base):  # type: ignore[misc]
            def state_dict(self) -> Any:
                return read(self)

            def __repr__(self) -> str:
                return f"epoch {self.__dict__.get('last_epoch')}, {vars(self).get('_last_lr')}"

        return Own

    return make


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", EVERY)
def test_a_state_dict_of_the_users_has_what_torchs_has(
    name: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    if fused and name not in NAMES:
        pytest.skip("a step needs the metric")
    how = list(READS)[EVERY.index(name) % len(READS)]
    for read in (how, "items"):
        pair = pair_of(name, reading(READS[read]), host_backend, fused)
        for _ in range(4):
            pair.optimizer_step()
            pair.step()
            mine, theirs = pair.ours.state_dict(), pair.torchs.state_dict()
            assert plain(mine) == plain(theirs)
            assert list(mine) == list(theirs)
            assert repr(pair.ours) == repr(pair.torchs)


@pytest.mark.parametrize("how", READS)
def test_however_the_dict_is_read(how: str, host_backend: str, mirrored: bool) -> None:
    pair = pair_of("CosineAnnealingWarmRestarts", reading(READS[how]), host_backend)
    for _ in range(4):
        pair.optimizer_step()
        pair.step()
        assert plain(pair.ours.state_dict()) == plain(pair.torchs.state_dict())
    text = [json.dumps({k: v for k, v in vars(s).items() if is_number(v)}) for s in (pair.ours, pair.torchs)]
    assert text[0] == text[1]
    form = "%(last_epoch)s %(T_cur)s"
    assert [form % vars(s) for s in (pair.ours, pair.torchs)] == ["4 1"] * 2


def test_a_dict_that_is_kept_is_the_schedulers(host_backend: str, mirrored: bool) -> None:
    pair = pair_of("StepLR", lambda base: base, host_backend)
    mine, theirs = vars(pair.ours), vars(pair.torchs)
    for epoch in range(9):
        pair.optimizer_step()
        pair.step()
        assert plain(mine) == plain(theirs)
        assert vars(pair.ours) is mine
        if epoch == 4:
            mine["last_epoch"] = theirs["last_epoch"] = 8
            mine["gamma"] = theirs["gamma"] = 0.25
            assert pair.ours.last_epoch == 8
    compare_steps(pair, 5)


def test_a_base_with_a_dict_of_its_own_hides_nothing(host_backend: str, mirrored: bool) -> None:
    class Saving:
        def state_dict(self) -> Any:
            return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

        def load_state_dict(self, state: Any) -> None:
            self.__dict__.update(state)

    pair = pair_of("CosineAnnealingLR", lambda base: type("Mine", (Saving, base), {}), host_backend)
    compare_steps(pair, 3)
    assert pair.ours.state_dict() == pair.torchs.state_dict()
    pair.both(lambda s, _: s.load_state_dict({"last_epoch": 1, "eta_min": 0.01}))
    assert position(pair.ours) == position(pair.torchs)
    compare_steps(pair, 5)


# -- assignments -------------------------------------------------------------------------------------------


def _one_by_one(self: Any, state: Any) -> None:
    for key, value in state.items():
        self.__dict__[key] = value


def _by_setattr(self: Any, state: Any) -> None:
    for key, value in state.items():
        setattr(self, key, value)


def _another_dict(self: Any, state: Any) -> None:
    self.__dict__ = {**vars(self), **state}


def _cleared(self: Any, state: Any) -> None:
    before = {**vars(self)}
    vars(self).clear()
    vars(self).update(before, **state)


def _popped(self: Any, state: Any) -> None:
    for key, value in state.items():
        vars(self).pop(key)
        vars(self).setdefault(key, value)


def _or(self: Any, state: Any) -> None:
    attributes = vars(self)
    attributes |= state


WRITES: dict[str, Callable[[Any, Any], None]] = {
    "update": lambda self, state: self.__dict__.update(state),
    "one by one": _one_by_one,
    "setattr": _by_setattr,
    "another dict": _another_dict,
    "cleared": _cleared,
    "popped": _popped,
    "or": _or,
}


def loading(write: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    def make(base: Any) -> Any:
        class Own(base):  # type: ignore[misc]
            def load_state_dict(self, state: Any) -> None:
                write(self, state)

        return Own

    return make


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("name", [n for n in EVERY if n not in NESTED])
def test_a_load_state_dict_of_the_users_restores(name: str, how: str, host_backend: str) -> None:
    source = pair_of(name, loading(WRITES[how]), host_backend)
    compare_steps(source, 7)
    target = pair_of(name, loading(WRITES[how]), host_backend)
    compare_steps(target, 2)
    left = ("optimizer", "lr_lambdas", "_scale_fn_ref", "_scale_fn_custom", "anneal_func")  # what has no values
    for one in (target.ours, target.torchs):
        one.load_state_dict({k: v for k, v in vars(source.torchs).items() if k not in left})
    target.both(lambda _, made: [group.update(lr=0.2) for group in made.param_groups])
    assert plain(vars(target.ours)) == plain(vars(target.torchs))
    assert target.ours.get_last_lr() == target.torchs.get_last_lr()
    compare_steps(target, 8)


def test_a_constant_a_method_and_an_optimizer_in_the_dict(host_backend: str, mirrored: bool) -> None:
    pair = pair_of("ExponentialLR", lambda base: base, host_backend)
    compare_steps(pair, 2)
    pair.both(lambda s, _: vars(s).update(gamma=0.5))
    compare_steps(pair, 2)
    pair.both(lambda s, _: vars(s).update(get_lr=lambda: [0.25] * 2))
    with pytest.warns(UserWarning, match="get_lr was assigned"):
        compare_steps(pair, 1)
    assert pair.ours.program is None
    pair.both(lambda s, _: vars(s).pop("get_lr"))
    compare_steps(pair, 2)
    assert pair.ours.program is not None
    others = (
        optimizer(fused_sched.optim, "SGD", [0.5, 0.6], backend=host_backend),
        optimizer(torch.optim, "SGD", [0.5, 0.6]),
    )
    vars(pair.ours)["optimizer"], vars(pair.torchs)["optimizer"] = others
    moved = Twins(pair.ours, pair.torchs, *others)
    compare_steps(moved, 3)


@pytest.mark.filterwarnings("ignore:StepLR has no attribute")
def test_an_attribute_that_is_deleted_is_missed_as_in_torch(host_backend: str) -> None:
    for name in ("last_epoch", "_step_count", "gamma", "step_size"):
        pair = pair_of("StepLR", lambda base: base, host_backend)
        compare_steps(pair, 2)
        for one in (pair.ours, pair.torchs):
            del vars(one)[name]
            with pytest.raises(AttributeError, match=name):
                getattr(one, name)
            with pytest.raises(AttributeError, match=name):
                one.step()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_the_list_of_last_lrs_is_the_users_until_the_next_step(
    name: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    pair = pair_of(name, lambda base: base, host_backend, fused)
    for _ in range(3):
        pair.optimizer_step()
        pair.step()
        for one in (pair.ours, pair.torchs):
            one._last_lr[0] = 9.0
            one.get_last_lr()[1] = 8.0
            assert one.get_last_lr() == one._last_lr == vars(one)["_last_lr"] == [9.0, 8.0]
            assert one.state_dict()["_last_lr"] == [9.0, 8.0]
    compare_steps(pair, 2)
    assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()


def test_last_lrs_that_stay_the_same_are_those_of_the_step(host_backend: str) -> None:
    pair = pair_of("ConstantLR", lambda base: base, host_backend)
    compare_steps(pair, 30)
    pair.both(lambda s, _: s._last_lr.__setitem__(0, 9.0))
    compare_steps(pair, 1)
    assert pair.ours.get_last_lr() == pair.torchs.get_last_lr() == [0.1, 0.3]


# -- states with a few keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", EVERY)
def test_a_state_with_a_few_keys_leaves_the_others(name: str, fused: bool, host_backend: str, mirrored: bool) -> None:
    if fused and name not in NAMES:
        pytest.skip("a step needs the metric")
    whole = pair_of(name, lambda base: base, host_backend)
    compare_steps(whole, 9)
    state = whole.torchs.state_dict()
    must = {"_schedulers", "lr_lambdas", "_scale_fn_custom"} & set(state)  # torch's code asks for them
    for key in (None, *state):
        pair = pair_of(name, lambda base: base, host_backend, fused)
        for _ in range(4):
            pair.optimizer_step()
            pair.step()
        given = {k: copy.deepcopy(state[k]) for k in state if k in must or k == key}
        if "_schedulers" in given:
            given["_schedulers"] = [{k: v for k, v in part.items() if k == key} for part in given["_schedulers"]]
        pair.both(lambda s, _, given=given: s.load_state_dict(copy.deepcopy(given)))
        assert pair.ours.state_dict() == pair.torchs.state_dict(), key
        compare_steps(pair, 6)


# -- copies ------------------------------------------------------------------------------------------------


class OwnCopies:
    """What users write: the attributes, and nothing of its base's."""

    def __getstate__(self) -> Any:
        return self.__dict__.copy()

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)


class OwnReduce:
    def __reduce__(self) -> Any:
        return _remake, (type(self), {**self.__dict__})


def _remake(cls: Any, attributes: Any) -> Any:
    made = cls.__new__(cls)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


class Copied(OwnCopies, OURS.CosineAnnealingLR):
    pass


class Remade(OwnReduce, OURS.CosineAnnealingLR):
    pass


class CopiedChain(OwnCopies, OURS.ChainedScheduler):
    pass


class CopiedPlateau(OwnCopies, OURS.ReduceLROnPlateau):
    pass


@pytest.mark.parametrize("between", [False, True], ids=["after a step", "between update and step"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("cls", [Copied, Remade, CopiedChain, CopiedPlateau])
def test_a_setstate_of_the_users(
    cls: Any, fused: bool, how: str, between: bool, host_backend: str, mirrored: bool
) -> None:
    name = cls.__mro__[2].__name__
    if fused and (name not in NAMES or (between and cls is Remade)):
        pytest.skip("a step needs the metric; an own __reduce__ does not tell that an update has made the step")
    parts = DEFAULTS[name]
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=host_backend)
    theirs = optimizer(torch.optim, "SGD", [0.1, 0.3])
    own = SimpleNamespace(**{**vars(OURS), "CosineAnnealingLR": Copied, name: cls})
    mine = build(own, name, made, **parts, **({"fused": True} if fused else {}))
    oracle = build(TORCH, name, theirs, **parts)
    train(made, mine, 4)
    train(theirs, oracle, 4)
    if between:
        made.step()
        theirs.step()
    made, mine = copy.deepcopy((made, mine)) if how == "deepcopy" else pickle.loads(pickle.dumps((made, mine)))
    if between:
        advance(mine)
        advance(oracle)
    assert position(mine) == position(oracle)
    assert train(made, mine, 5) == train(theirs, oracle, 5)
    assert mine.state_dict() == oracle.state_dict()
    assert mine.program is not None
    assert mine._fused is (fused and cls is not Remade)


@pytest.mark.parametrize("ask", ["state_dict", "get_last_lr", "explain", "detach", "copy", "load"])
def test_a_copy_can_be_asked_before_its_first_step(ask: str, host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=host_backend)
    scheduler = Copied(made, 10)
    train(made, scheduler, 3)
    state, lrs = scheduler.state_dict(), scheduler.get_last_lr()
    copied = copy.deepcopy(scheduler)
    if ask == "state_dict":
        assert copied.state_dict() == state
    elif ask == "get_last_lr":
        assert copied.get_last_lr() == lrs
    elif ask == "copy":
        copied = copy.deepcopy(copied)
    elif ask == "load":
        copied.load_state_dict(state)
    else:
        getattr(copied, ask)()
    assert train(copied.optimizer, copied, 3) == train(made, scheduler, 3)


@pytest.mark.parametrize("fused", [False, True])
def test_zeros_of_a_last_lr_have_signs(fused: bool, host_backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [1.0], backend=host_backend)
    scheduler = OURS.LambdaLR(made, lambda step: -0.0 if step % 2 else 0.0, fused=fused)
    for step in range(1, 6):
        made.step()
        scheduler.step()
        sign = "-0.0" if step % 2 else "0.0"
        assert repr(scheduler.get_last_lr()) == repr(scheduler.state_dict()["_last_lr"]) == f"[{sign}]"
