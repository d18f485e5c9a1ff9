"""``add_param_group``: torch's checks and errors, and no more work for the last group than for the first."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import single
from torch.nn import Parameter
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import required

import fused_sched
from fused_sched.lr_scheduler import LambdaLR
from fused_sched.optim.live_dict import LiveDict


def _new() -> Parameter:
    return Parameter(torch.ones(2))


class _ByValue(Parameter):
    """Equal to every other of its kind, and found so by a set."""

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> Any:
        return isinstance(other, _ByValue)


class _Wide:
    """What an optimizer has before a group is added: three groups, with or without names."""

    def __init__(self, home: Any, kind: str, named: bool = False) -> None:
        self.params = [_new() for _ in range(4)]
        groups: list[Any] = [[("a", self.params[0])], [("b", self.params[1]), ("c", self.params[2])]]
        if not named:
            groups = [[p for _, p in group] for group in groups]
        self.optimizer = getattr(home, kind)([{"params": g} for g in groups], lr=0.1)


def _interrupted(wide: _Wide) -> Any:
    yield _new()
    raise LookupError("the generator ended early")


def _by_hand(wide: _Wide, p: Parameter) -> dict[str, Any]:
    wide.optimizer.param_groups[0]["params"].append(p)
    return {"params": [p]}


def _inserted(wide: _Wide) -> dict[str, Any]:
    wide.optimizer.param_groups.insert(0, {**wide.optimizer.param_groups[0], "params": [wide.params[3]]})
    return {"params": [wide.params[3]]}


def _removed(wide: _Wide) -> dict[str, Any]:
    return {"params": wide.optimizer.param_groups.pop(0)["params"]}


def _named_by_hand(wide: _Wide, g: int) -> dict[str, Any]:
    wide.optimizer.param_groups[g]["param_names"] = ["by hand"]
    return {"params": [_new()]}


def _without_parameters(wide: _Wide) -> dict[str, Any]:
    del wide.optimizer.param_groups[1]["params"]
    return {"params": [_new()]}


def _equal(wide: _Wide) -> dict[str, Any]:
    wide.optimizer.param_groups[1]["params"].append(_ByValue(torch.ones(2)))
    return {"params": [_ByValue(torch.ones(2))]}


Make = Callable[[_Wide], Any]
GIVEN: dict[str, Make] = {
    "a list": lambda wide: {"params": [_new()]},
    "a tensor": lambda wide: {"params": _new()},
    "a tuple": lambda wide: {"params": (_new(), _new())},
    "a generator": lambda wide: {"params": (_new() for _ in range(3))},
    "nothing": lambda wide: {"params": []},
    "its own values": lambda wide: {"params": [_new()], "lr": 0.5, "weight_decay": 0.25, "label": "x"},
    "names": lambda wide: {"params": [("x", _new()), ("y", _new())]},
    "names of a dict": lambda wide: {"params": torch.nn.Linear(2, 2).named_parameters()},
    "names for some": lambda wide: {"params": [("x", _new()), _new()]},
    "names by key": lambda wide: {"params": [_new()], "param_names": ["x"]},
    "a pair without a tensor": lambda wide: {"params": [("x",)]},
    "an empty pair": lambda wide: {"params": [()]},
    "a triple": lambda wide: {"params": [("x", _new(), 3)]},
    "one twice": lambda wide: {"params": [p := _new(), p]},
    "one that is in a group": lambda wide: {"params": [_new(), wide.params[2]]},
    "a named one that is in a group": lambda wide: {"params": [("x", wide.params[2])]},
    "one that is in a group, as a tensor": lambda wide: {"params": wide.params[0]},
    "one that was put in a group by hand": lambda wide: _by_hand(wide, wide.params[3]),
    "one in a group that was put in by hand": _inserted,
    "one of a group that was taken out": _removed,
    "beside a first group that was named by hand": lambda wide: _named_by_hand(wide, 0),
    "beside a last group that was named by hand": lambda wide: _named_by_hand(wide, 1),
    "beside a group without parameters": _without_parameters,
    "one equal to one that is in a group": _equal,
    "the group of another": lambda wide: {"params": wide.optimizer.param_groups[0]["params"], "lr": 0.5},
    "a set": lambda wide: {"params": {_new()}},
    "no dict": lambda wide: [_new()],
    "no params": lambda wide: {"lr": 0.5},
    "a number": lambda wide: {"params": 3},
    "numbers": lambda wide: {"params": [3]},
    "None": lambda wide: {"params": None},
    "a string": lambda wide: {"params": "ab"},
    "no leaf": lambda wide: {"params": [_new() * 2]},
    "a number after one that is in a group": lambda wide: {"params": [wide.params[0], 3]},
    "a generator that fails": lambda wide: {"params": _interrupted(wide)},
}


def _outcome(home: Any, kind: str, named: bool, make: Make) -> Any:
    wide = _Wide(home, kind, named)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = make(wide)
        before = [dict(g) for g in wide.optimizer.param_groups]
        try:
            wide.optimizer.add_param_group(given)
            raised: Any = None
        except Exception as error:
            raised = type(error), str(error).replace("fused_sched.", "torch.")
    groups = wide.optimizer.param_groups
    if raised is not None:
        assert [dict(g) for g in groups] == before, "it raised, but a group has changed"
    shown = [{k: len(v) if k == "params" else v for k, v in g.items() if k not in ("foreach", "fused")} for g in groups]
    left = given if not isinstance(given, dict) else {k: type(v) for k, v in given.items() if k not in ("fused",)}
    return raised, [str(w.message) for w in said], shown, type(left), sorted(left) if isinstance(left, dict) else None


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize("case", GIVEN)
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_it_does_what_torchs_does(kind: str, case: str, named: bool) -> None:
    ours, torchs = (_outcome(home, kind, named, GIVEN[case]) for home in (fused_sched.optim, torch.optim))
    assert ours == torchs


def test_a_required_value_is_asked_for(host_backend: str) -> None:
    made = single(host_backend)
    made.defaults["lr"] = required
    with pytest.raises(ValueError, match="didn't specify a value of required optimization parameter lr"):
        made.add_param_group({"params": [_new()]})
    assert len(made.param_groups) == 1


class _Counting(fused_sched.optim.SGD):
    """A user's subclass, with more to do for a group."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("number", len(self.param_groups))


class _Halving(torch.optim.Optimizer):
    """A user's class that is asked between ours and torch's, and looks at all groups."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.param_groups[-1]["lr"] = 1.0 / len(self.param_groups)


class _Between(fused_sched.optim.SGD, _Halving):
    pass


def test_subclasses_that_do_more() -> None:
    for kind, key, expected in ((_Counting, "number", [1, 2, 3, 4]), (_Between, "lr", [1.0, 1 / 2, 1 / 3, 1 / 4])):
        made = kind([_new()], lr=0.1)
        for _ in range(3):
            made.add_param_group({"params": [_new()]})
        assert [g[key] for g in made.param_groups] == expected


def test_what_cannot_be_updated_changes_nothing(host_backend: str) -> None:
    made = single(host_backend)
    with pytest.raises(TypeError, match="dtype torch.float8_e5m2"):
        made.add_param_group({"params": [Parameter(torch.ones(2).to(torch.float8_e5m2))]})
    assert len(made.param_groups) == 1
    made.add_param_group({"params": [_new()]})
    assert len(made.param_groups) == 2


def test_a_schedule_and_a_step_see_groups_that_were_added(host_backend: str, mirrored: bool) -> None:
    made = fused_sched.optim.SGD([_new()], lr=0.1, backend=host_backend)
    old = LambdaLR(made, lambda step: 0.5**step)
    p, q = _new(), _new()
    made.add_param_group({"params": [p], "initial_lr": 1.0})
    made.add_param_group({"params": [q], "initial_lr": 2.0, "lr": 2.0})
    for new in (p, q):
        new.grad = torch.ones(2)
    made.step()
    assert p.tolist() == pytest.approx([0.9] * 2)
    assert q.tolist() == pytest.approx([-1.0] * 2)
    new = LambdaLR(made, lambda step: 0.5**step, last_epoch=old.last_epoch)
    made.step()
    new.step()
    assert [g["lr"] for g in made.param_groups] == pytest.approx([0.025, 0.25, 0.5])
    assert isinstance(new, LRScheduler)


def test_the_last_group_costs_as_much_as_the_first(host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what Python runs of ours and of torch's: reads of groups, and hashes of parameters."""
    made, count = single(host_backend), 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            return function(*arguments)

        return call

    for name in ("__getitem__", "__iter__", "get"):
        monkeypatch.setattr(LiveDict, name, counted(getattr(LiveDict, name)))
    monkeypatch.setattr(torch.Tensor, "__hash__", counted(torch.Tensor.__hash__))
    counts = []
    for _ in range(300):
        before = count
        made.add_param_group({"params": [_new()]})
        counts.append(count - before)
    assert max(counts) == min(counts) <= 40, f"from {counts[0]} to {counts[-1]} reads"
    assert len({id(g) for g in made.param_groups}) == 301
