"""Groups and states as torch has them: plain dicts, which everybody who has them shares and may rebuild."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import fused_sched
from fused_sched import backends
from fused_sched.lr_scheduler import ExponentialLR
from fused_sched.optim import SGD, Adam, AdamW
from fused_sched.optim.live_dict import LiveDict
from fused_sched.optim.param_state import OptimizerState

Backend = str | backends.Backend
MUTATING = {"__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"}
COPYING = {"__or__", "__ror__", "copy", "__copy__"}


def one(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((2,), value, dtype=torch.float64))


def step(optimizer: Any, *params: torch.nn.Parameter) -> None:
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()


class Around(torch.optim.Optimizer):
    """As SAM is often written: the dicts are this one's, and the optimizer inside is made of them."""

    def __init__(self, params: Any, inside: Any, lr: float, **options: Any) -> None:
        super().__init__(params, {"lr": lr})
        self.inside = inside(self.param_groups, lr=lr, **options)

    def step(self, closure: Any = None) -> Any:
        return self.inside.step(closure)


def around(made: Callable[..., Any]) -> Any:
    p = one()
    optimizer = Around([p], made, 1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
    for _ in range(4):
        step(optimizer, p)
        scheduler.step()
    return p


def copied_and_edited(made: Callable[..., Any]) -> Any:
    groups: Any = [{"params": [one()], "lr": 1.0}]
    optimizer, groups = copy.deepcopy((made(groups), groups))
    p = optimizer.param_groups[0]["params"][0]
    step(optimizer, p)
    groups[0]["lr"] = 0.25
    step(optimizer, p)
    return p


def groups_edited(made: Callable[..., Any]) -> Any:
    p, q = one(), one()
    groups: list[dict[str, Any]] = [{"params": [p], "lr": 1.0}, {"params": [q], "lr": 1.0, "mine": torch.ones(3)}]
    optimizer = made(groups, lr=0.1)
    for group in groups:
        group["lr"] = 0.1
    groups[1]["mine"] = torch.zeros(3)
    step(optimizer, p, q)
    groups[0]["lr"] = 0.5
    groups[1]["weight_decay"] = 0.1
    groups[1]["mine"] = np.zeros(3)
    step(optimizer, p, q)
    groups[0]["params"] = [q]
    groups[1]["params"] = []
    step(optimizer, p, q)
    return p, q, [*map(len, optimizer.param_groups)]


def added_and_edited(made: Callable[..., Any]) -> Any:
    p, q = one(), one()
    optimizer = made([p], lr=1.0)
    head: dict[str, Any] = {"params": [q], "lr": 1.0, "spare": 1}
    optimizer.add_param_group(head)
    head["lr"] = 0.1
    del head["spare"]
    step(optimizer, q)
    return q, "spare" in optimizer.param_groups[1]


def put_in_and_edited(made: Callable[..., Any]) -> Any:
    p, q = one(), one()
    optimizer = made([p], lr=1.0)
    head = {**optimizer.param_groups[0], "params": [q]}
    optimizer.param_groups.append(head)
    step(optimizer, p, q)
    head["lr"] = 0.25
    step(optimizer, p, q)
    return p, q


def of_anothers_groups(made: Callable[..., Any]) -> Any:
    p = one()
    first = made([p], lr=1.0)
    second = made(first.param_groups, lr=1.0)
    first.param_groups[0]["lr"] = 0.1
    step(second, p)
    return p


def put_back(made: Callable[..., Any]) -> Any:
    p, q = one(), one()
    groups: Any = [{"params": [p], "lr": 1.0}, {"params": [q], "lr": 1.0}]
    optimizer = made(groups)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.param_groups = [groups[1], groups[0]]  # the dicts themselves
    step(optimizer, p, q)
    lrs = [group["lr"] for group in optimizer.param_groups]
    groups[0]["lr"] = 0.25
    step(optimizer, p, q)
    return p, q, lrs


def loaded(made: Callable[..., Any]) -> Any:
    """After a load there are other groups."""
    p = one()
    groups: Any = [{"params": [p], "lr": 1.0}]
    optimizer = made(groups)
    optimizer.load_state_dict(optimizer.state_dict())
    groups[0]["lr"] = 0.25
    step(optimizer, p)
    return p


PROGRAMS = [
    around,
    copied_and_edited,
    groups_edited,
    added_and_edited,
    put_in_and_edited,
    of_anothers_groups,
    put_back,
    loaded,
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_dict_that_was_given_is_followed(name: str, program: Callable[..., Any], host_backend: Backend) -> None:
    if program is copied_and_edited and not isinstance(host_backend, str):
        pytest.skip("is copied by name")
    ours = program(lambda *args, **kwargs: getattr(fused_sched.optim, name)(*args, backend=host_backend, **kwargs))
    theirs = program(lambda *args, **kwargs: getattr(torch.optim, name)(*args, foreach=False, **kwargs))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_dict_that_nobody_has_any_more_is_forgotten(host_backend: Backend) -> None:
    params = [one() for _ in range(4)]
    groups = [{"params": [p]} for p in params[:2]]
    optimizer = SGD([*groups, {"params": [params[2]]}], lr=0.1, backend=host_backend)
    optimizer.add_param_group({"params": [params[3]]})
    step(optimizer, *params)
    assert [group.given is not None for group in optimizer.param_groups] == [True, True, False, False]
    del groups
    step(optimizer, *params)
    assert not any(group.given for group in optimizer.param_groups)
    plain = SGD(params, lr=0.1, backend=host_backend)
    step(plain, *params)
    assert plain.param_groups[0].given is None


def test_what_was_assigned_to_a_dict_is_read_from_its_group_at_once(host_backend: Backend) -> None:
    group: dict[str, Any] = {"params": [p := one()], "lr": 1.0}
    optimizer = SGD([group], backend=host_backend)
    group["lr"] = 0.5
    assert optimizer.param_groups[0]["lr"] == 0.5
    group["lr"] = 0.25
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.25
    group["lr"] = 0.125
    scheduler = ExponentialLR(optimizer, 0.5)
    assert scheduler.base_lrs == [0.125]
    group["lr"] = 2.0
    optimizer.param_groups[0]["lr"] = 3.0  # the last one counts
    step(optimizer, p)
    assert p.tolist() == [-2.0, -2.0]
    assert optimizer.param_groups[0]["lr"] == group["lr"] == 3.0
    group["mine"] = 1
    assert "mine" in optimizer.param_groups[0]
    assert list(optimizer.param_groups[0]) == list(group)
    optimizer.param_groups[0]["mine"] += 1
    assert group["mine"] == 2
    del optimizer.param_groups[0]["mine"]
    assert "mine" not in group
    group["momentum"] = 0.5
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {}})
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_an_edit_of_a_dict_that_is_behind_its_group_warns(host_backend: Backend) -> None:
    group: dict[str, Any] = {"params": [p := one()], "lr": 1.0}
    optimizer = SGD([group], backend=host_backend)
    scheduler = ExponentialLR(optimizer, 0.5)
    step(optimizer, p)
    scheduler.step()
    group["lr"] /= 4  # of 1.0
    with pytest.warns(UserWarning, match=r"lr=0.25 was assigned .* does not show what became of lr since, 0.5"):
        step(optimizer, p)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_wrong_value_in_a_dict_that_was_given_is_refused_at_every_step(host_backend: Backend) -> None:
    group: dict[str, Any] = {"params": [p := one()], "lr": 1.0}
    optimizer = SGD([group], backend=host_backend)
    group["lr"] = "high"
    for _ in range(2):
        with pytest.raises(TypeError, match="lr='high' must be a number"):
            step(optimizer, p)
    assert p.tolist() == [1.0, 1.0]
    group["lr"] = 0.5
    step(optimizer, p)
    assert p.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("cls", [LiveDict, OptimizerState])
def test_no_way_to_change_or_copy_a_dict_is_left_out(cls: type) -> None:
    """Python's own would work on what the dict itself stores, and tell nobody."""
    assert {name for kind in cls.__mro__[:-2] if kind is not defaultdict for name in vars(kind)} >= MUTATING | COPYING
    new = {name for name in vars(dict) if callable(getattr(dict, name))} - set(dir(object)) - MUTATING - COPYING
    assert new <= {
        *("__contains__", "__getitem__", "__iter__", "__len__", "__reversed__", "__class_getitem__"),
        *("fromkeys", "get", "items", "keys", "values"),
    }


def of_states(optimizer: Any, p: torch.nn.Parameter) -> dict[str, Callable[[], Any]]:
    """Ways to change ``optimizer.state``, by what they do."""
    fresh = {"step": torch.tensor(7.0), "exp_avg": torch.full_like(p.detach(), 5.0), "exp_avg_sq": p.detach().abs() + 1}

    def in_place_or(values: dict[Any, Any]) -> None:
        optimizer.state |= values

    def state_or(values: dict[str, Any]) -> None:
        optimizer.state[p] |= values

    return {
        "|= of all": lambda: in_place_or({p: fresh}),
        "|= of all, empty": lambda: in_place_or({p: {}}),
        "|= of one": lambda: state_or(fresh),
        "update": lambda: optimizer.state.update({p: fresh}),
        "new of |": lambda: setattr(optimizer, "state", optimizer.state | {p: fresh}),
        "new of | the other way": lambda: setattr(optimizer, "state", {p: fresh} | optimizer.state),
        "copy()": lambda: setattr(optimizer, "state", optimizer.state.copy()),
        "copy.copy": lambda: setattr(optimizer, "state", copy.copy(optimizer.state)),
        "pop": lambda: optimizer.state.pop(p),
        "clear": lambda: optimizer.state.clear(),
        "by a tree": lambda: optimizer.state.__setitem__(
            p, pytree.tree_map_only(torch.Tensor, torch.zeros_like, optimizer.state[p])
        ),
        "all by a tree": lambda: setattr(
            optimizer, "state", pytree.tree_map_only(torch.Tensor, lambda t: t * 2, optimizer.state)
        ),
        "by its own class": lambda: optimizer.state.__setitem__(
            p, type(optimizer.state[p])((k, v * 2) for k, v in optimizer.state[p].items())
        ),
    }


@pytest.mark.parametrize("way", of_states(Adam([one()]), one()))
def test_states_change_as_with_torch(way: str, host_backend: Backend) -> None:
    ends = []
    for make in (torch.optim.Adam, lambda *args, **kwargs: Adam(*args, backend=host_backend, **kwargs)):
        p = one()
        optimizer = make([p], lr=0.1)
        step(optimizer, p)
        of_states(optimizer, p)[way]()
        for _ in range(2):
            step(optimizer, p)
        state = optimizer.state_dict()["state"][0]
        ends.append((p, dict(state), {k: optimizer.state[p][k] for k in state}))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=0)


def test_trees_have_what_torchs_have(host_backend: Backend) -> None:
    p = one()
    optimizers = [Adam([p], lr=0.1, backend=host_backend), torch.optim.Adam([p], lr=0.1)]
    for optimizer in optimizers:
        step(optimizer, p)
    for what in ("state", "param_groups"):
        ours, theirs = (pytree.tree_leaves(getattr(optimizer, what)) for optimizer in optimizers)
        assert [*map(type, ours)][:3] == [*map(type, theirs)][:3]
        assert sum(isinstance(x, torch.Tensor) for x in ours) == sum(isinstance(x, torch.Tensor) for x in theirs)
    rebuilt = pytree.tree_map(lambda x: x, optimizers[0].state)
    assert type(rebuilt) is defaultdict
    assert rebuilt.default_factory is dict
    assert {*map(type, rebuilt.values())} == {dict}
    assert type(pytree.tree_map(lambda x: x, optimizers[0].param_groups)[0]) is dict


def test_classes_of_groups_and_states_make_plain_dicts_of_items(host_backend: Backend) -> None:
    optimizer = Adam([p := one()], backend=host_backend)
    step(optimizer, p)
    for live in (optimizer.state[p], optimizer.param_groups[0]):
        for made in (type(live)(OrderedDict(a=1)), type(live)([("a", 1)]), type(live)(a=1)):
            assert type(made) is dict
            assert made == {"a": 1}
        assert type(live)() == {}
    assert type(optimizer.state)(list, {p: {}}).default_factory is list
    assert optimizer.state.default_factory is dict


def test_what_is_pickled_of_them_loads_with_weights_only(host_backend: Backend) -> None:
    optimizer = Adam([p := one()], lr=0.1, backend=host_backend)
    step(optimizer, p)
    file = io.BytesIO()
    torch.save({"groups": optimizer.param_groups, "states": [optimizer.state[p]]}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["groups"][0]["lr"] == 0.1
    assert loaded["states"][0]["step"] == 1
    assert dict(pickle.loads(pickle.dumps(optimizer.param_groups[0])))["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("name", ["device", "backend", "grad_norm", "group_grad_norms", "skipped_steps"])
def test_a_subclass_may_have_attributes_of_names_that_are_ours(name: str, host_backend: Backend) -> None:
    class Mine(AdamW):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options)
            setattr(self, name, "mine")

    for optimizer in (Mine([one()], lr=0.1, max_grad_norm=1.0, backend=host_backend),):
        step(optimizer, *optimizer.param_groups[0]["params"])
        assert getattr(optimizer, name) == "mine"
        assert getattr(AdamW([one()], max_grad_norm=1.0, backend=host_backend), name) is not None
        fused_sched.graphed(lambda: None, optimizer, enabled=False)()


def test_torchs_other_names_are_there() -> None:
    assert fused_sched.optim.Optimizer is torch.optim.Optimizer
    assert fused_sched.optim.lr_scheduler is fused_sched.lr_scheduler
    assert issubclass(fused_sched.lr_scheduler._LRScheduler, torch.optim.lr_scheduler.LRScheduler)
    with pytest.raises(AttributeError, match="has no attribute 'Adagrad'"):
        _ = fused_sched.optim.Adagrad
    with pytest.raises(
        TypeError, match="unknown keyword 'momemtum': beside those of torch's class there are backend, "
    ):
        SGD([one()], momemtum=0.9)
