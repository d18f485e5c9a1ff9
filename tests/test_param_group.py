"""A param group tells the same truth however it is read, and takes every way of writing."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import optimizer, parameters
from tolerances import UPDATE_RELATIVE

import fused_sched
from fused_sched import optim
from fused_sched.lr_scheduler import ExponentialLR
from fused_sched.optim.param_group import ParamGroup

pytestmark = pytest.mark.thin("triton")

Make = Callable[..., Any]

KINDS = ("SGD", "Adam", "AdamW")
NUMBERS = {
    "SGD": ("lr", "momentum", "dampening", "weight_decay"),
    "Adam": ("lr", "eps", "weight_decay"),
    "AdamW": ("lr", "eps", "weight_decay"),
}
FLAGS = {
    "SGD": ("nesterov", "maximize"),
    "Adam": ("amsgrad", "maximize", "decoupled_weight_decay"),
    "AdamW": ("amsgrad", "maximize"),
}
EVERY_NUMBER = [(kind, key) for kind in KINDS for key in NUMBERS[kind]]


@pytest.fixture
def make(host_backend: str, mirrored: bool) -> Make:
    """Makes one of our optimizers, in both homes of the control block."""

    def make(kind: str = "SGD", n: int = 2, **options: Any) -> Any:
        return optimizer(optim, kind, [0.1 * (i + 1) for i in range(n)], backend=host_backend, **options)

    return make


def _on_device(made: Any, group: int, field: str) -> float:
    return float(made._block.tensor[made._block.slot(group, field)].item())


def _saved(x: Any) -> Any:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


READS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "[]": lambda g: {k: g[k] for k in g},
    "get": lambda g: {k: g.get(k, "missing") for k in g},
    "items": lambda g: dict(list(g.items())),
    "values": lambda g: dict(zip(g.keys(), g.values(), strict=True)),
    "{**g}": lambda g: {**g},
    "dict(g)": lambda g: dict(g),
    "dict(g, k=v)": lambda g: {k: v for k, v in dict(g, extra=1).items() if k != "extra"},
    "g | {}": lambda g: g | {},
    "{} | g": lambda g: {} | g,
    "{}.update(g)": lambda g: [d := {}, d.update(g)][0],
    "|= into a dict": lambda g: [d := {}, d.__ior__(g)][0],
    "copy method": lambda g: g.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda g: pickle.loads(pickle.dumps(g)),
    "pickle 2": lambda g: pickle.loads(pickle.dumps(g, protocol=2)),
    "torch.save": _saved,
    "keyword arguments": lambda g: (lambda **kwargs: kwargs)(**g),
    "match": lambda g: {k: getattr(_match(g), k, g[k]) for k in g},
    "setdefault": lambda g: {k: g.setdefault(k, "missing") for k in g},
    "pop on a copy": lambda g: {k: g.copy().pop(k) for k in g},
}


def _match(group: Any) -> Any:
    match group:
        case {"lr": lr, "weight_decay": weight_decay}:
            return type("Found", (), {"lr": lr, "weight_decay": weight_decay})
    raise AssertionError("a param group is a mapping")


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_reading_sees_the_present_values(kind: str, how: str, make: Make) -> None:
    made, oracle = make(kind), optimizer(torch.optim, kind, [0.1, 0.2])
    scheduler = ExponentialLR(made, 0.5)
    for _ in range(2):
        scheduler.step()
    for group, theirs in zip(made.param_groups, oracle.param_groups, strict=True):
        theirs["initial_lr"] = theirs["lr"]
        theirs["lr"] = theirs["lr"] * 0.5 * 0.5
        group["weight_decay"] = theirs["weight_decay"] = 0.375
        found = READS[how](group)
        assert type(found) is (OrderedDict if how in ("pickle", "pickle 2", "torch.save") else dict)
        assert list(found) == list(group)
        hidden = {"params", "foreach"}
        assert {k: v for k, v in found.items() if k not in hidden} == {
            k: v for k, v in theirs.items() if k not in hidden
        }
        for key in NUMBERS[kind]:
            assert type(found[key]) is float
        if kind != "SGD":
            assert [type(x) for x in found["betas"]] == [float, float]
            assert type(found["betas"]) is tuple
        assert len(found["params"]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_group_reads_like_torchs(kind: str, make: Make) -> None:
    made, oracle = make(kind), optimizer(torch.optim, kind, [0.1, 0.2])
    for ours, theirs in zip(made.param_groups, oracle.param_groups, strict=True):
        assert isinstance(ours, dict)
        assert list(ours) == list(theirs)
        assert list(ours.keys()) == list(theirs.keys())
        assert list(reversed(ours)) == list(reversed(theirs))
        assert len(ours) == len(theirs)
        assert "lr" in ours
        assert "rate" not in ours
        assert ours.get("rate") is None
        assert ours.get("rate", 5) == 5
        with pytest.raises(KeyError, match="rate"):
            ours["rate"]


def test_text_and_json(make: Make) -> None:
    made = make()
    group = made.param_groups[1]
    group["lr"] /= 4
    plain = {k: v for k, v in group.items() if k != "params"}
    assert plain["lr"] == 0.05
    assert f"{group['lr']:.3f} {group['lr']}" == "0.050 0.05"
    assert repr(group) == str(group) == f"{group}" == repr(dict(group))
    assert "'lr': 0.05" in repr(group)
    assert "lr: 0.05\n" in repr(made)
    assert json.loads(json.dumps(plain))["lr"] == 0.05
    group["params"] = []
    assert json.loads(json.dumps(group))["lr"] == 0.05
    assert json.loads(json.dumps(group, indent=1, sort_keys=True))["lr"] == 0.05
    assert json.loads(json.dumps([group]))[0] == dict(group)


def test_equality(make: Make) -> None:
    made = make(n=3)
    a, b, c = made.param_groups
    for group in (a, b, c):
        group["params"] = []
    assert a == a
    assert a != b
    b["lr"] = a["lr"]
    assert a == b
    assert a == dict(a)
    assert dict(a) == a
    assert (a != dict(a), a == 3, a != 3, a == None) == (False, False, True, False)  # noqa: E711
    assert a != c
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


@pytest.mark.parametrize(("kind", "key"), EVERY_NUMBER)
@pytest.mark.parametrize(
    "write",
    {
        "=": lambda g, k, v: g.__setitem__(k, v),
        "update dict": lambda g, k, v: g.update({k: v}),
        "update pairs": lambda g, k, v: g.update([(k, v)]),
        "update keyword": lambda g, k, v: g.update(**{k: v}),
        "|=": lambda g, k, v: g.__ior__({k: v}),
        "|= pairs": lambda g, k, v: g.__ior__([(k, v)]),
        "pop and setdefault": lambda g, k, v: (g.pop(k), g.setdefault(k, v)),
        "del and =": lambda g, k, v: (g.__delitem__(k), g.__setitem__(k, v)),
        "numpy scalar": lambda g, k, v: g.__setitem__(k, __import__("numpy").float64(v)),
        "0-d array": lambda g, k, v: g.__setitem__(k, __import__("numpy").array(v)),
    }.items(),
    ids=lambda item: item[0],
)
def test_every_way_of_writing_reaches_the_device(
    kind: str, key: str, write: tuple[str, Callable[..., Any]], make: Make
) -> None:
    made = make(kind)
    before = dict(made.param_groups[0])
    write[1](made.param_groups[1], key, 0.625)
    assert _on_device(made, 1, key) == 0.625
    assert made.param_groups[1][key] == 0.625
    assert type(made.param_groups[1][key]) is float
    assert dict(made.param_groups[0]) == before
    made.param_groups[1][key] /= 2
    made.param_groups[1][key] *= 3
    made.param_groups[1][key] += 1
    assert made.param_groups[1][key] == _on_device(made, 1, key) == 0.625 / 2 * 3 + 1


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (True, 1.0), (-0.0, -0.0), (math.inf, math.inf)])
def test_numbers_of_every_kind(value: Any, expected: float, make: Make) -> None:
    made = make()
    made.param_groups[0]["lr"] = value
    found = made.param_groups[0]["lr"]
    assert type(found) is float
    assert found == expected
    assert math.copysign(1, found) == math.copysign(1, expected)
    assert _on_device(made, 0, "lr") == expected
    made.param_groups[0]["lr"] = math.nan
    assert math.isnan(made.param_groups[0]["lr"])


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize(
    "value", [(0.5, 0.75), [0.5, 0.75], (torch.tensor(0.5), 0.75), torch.tensor([0.5, 0.75]), (x for x in (0.5, 0.75))]
)
def test_betas(kind: str, value: Any, make: Make) -> None:
    if not isinstance(value, (tuple, list, torch.Tensor)):
        value = iter([0.5, 0.75])
    made = make(kind)
    made.param_groups[1]["betas"] = value
    assert made.param_groups[1]["betas"] == (0.5, 0.75)
    assert (_on_device(made, 1, "beta1"), _on_device(made, 1, "beta2")) == (0.5, 0.75)
    assert made.param_groups[0]["betas"] == (0.9, 0.999)
    assert "beta1" not in made.param_groups[0]


@pytest.mark.parametrize("value", [0.9, (0.9,), (0.1, 0.2, 0.3), "ab", None, ("a", 0.5), (0.5, None), (0.5, [1])])
def test_bad_betas_change_nothing(value: Any, make: Make) -> None:
    made = make("Adam")
    with pytest.raises(TypeError, match=r"^betas=.* must be a pair of numbers, such as \(0\.9, 0\.999\)$"):
        made.param_groups[0]["betas"] = value
    assert made.param_groups[0]["betas"] == (0.9, 0.999)
    assert (_on_device(made, 0, "beta1"), _on_device(made, 0, "beta2")) == (0.9, 0.999)


def test_betas_with_a_long_tensor_change_nothing(make: Make) -> None:
    made = make("Adam")
    with pytest.raises(TypeError, match=r"^betas=.* must be a pair of numbers"):
        made.param_groups[0]["betas"] = (0.5, torch.tensor([0.5, 0.6]))
    assert made.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(("kind", "key"), EVERY_NUMBER)
@pytest.mark.parametrize("value", ["fast", None, [0.1], {}, 1j, (0.1,)], ids=repr)
def test_bad_number_changes_nothing(kind: str, key: str, value: Any, make: Make) -> None:
    made = make(kind)
    before = dict(made.param_groups[0])
    with pytest.raises(TypeError, match=rf"^{key}=.* must be a number or a one-element tensor: assign a float$"):
        made.param_groups[0][key] = value
    assert dict(made.param_groups[0]) == before
    assert _on_device(made, 0, key) == before[key]


def test_tensor_of_several_elements_changes_nothing(make: Make) -> None:
    made = make()
    with pytest.raises(ValueError, match=r"^lr is a tensor with 2 elements: give a one-element tensor$"):
        made.param_groups[0]["lr"] = torch.tensor([0.1, 0.2])
    with pytest.raises(ValueError, match=r"^lr is a tensor with 0 elements"):
        made.param_groups[0]["lr"] = torch.tensor([])
    assert made.param_groups[0]["lr"] == 0.1
    assert type(made.param_groups[0]["lr"]) is float


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in KINDS for key in FLAGS[kind]])
def test_flags(kind: str, key: str, make: Make) -> None:
    made = make(kind)
    assert made.param_groups[0][key] is False
    for value, expected in ((True, True), (0, False), (1, True), (False, False)):
        made.param_groups[0][key] = value
        assert made.param_groups[0][key] is expected
        bits = int(_on_device(made, 0, "flags"))
        assert bool(bits & fused_sched.memory.control_block.FLAGS[key]) is expected
        assert not made.param_groups[1][key]
    for other in FLAGS[kind]:
        made.param_groups[0][other] = True
    made.param_groups[0][key] = False
    assert [made.param_groups[0][other] for other in FLAGS[kind]] == [other != key for other in FLAGS[kind]]


def test_keys_of_the_users_own(make: Make) -> None:
    made = make()
    group = made.param_groups[0]
    group["name"] = "head"
    group["scale"] = marker = [1, 2]
    assert group["scale"] is marker
    assert {**group}["name"] == "head"
    assert group.pop("name") == "head"
    assert "name" not in group
    assert group.pop("name", None) is None
    with pytest.raises(KeyError, match="name"):
        group.pop("name")
    assert group.setdefault("name") is None
    assert group.popitem() == ("name", None)
    assert made.state_dict()["param_groups"][0]["scale"] == [1, 2]


def test_deleting_a_hyperparameter(make: Make) -> None:
    group = make().param_groups[0]
    assert group.pop("lr") == 0.1
    assert "lr" not in group
    assert group.get("lr") is None
    assert "lr" not in {**group}
    with pytest.raises(KeyError, match="lr"):
        group["lr"]
    with pytest.raises(KeyError, match="lr"):
        del group["lr"]
    group["lr"] = 0.5
    assert group["lr"] == 0.5
    group.clear()
    assert dict(group) == {}
    assert len(group) == 0


def test_copies_are_apart_from_the_group(make: Make) -> None:
    made = make()
    group = made.param_groups[0]
    for copied in (copy.copy(group), copy.deepcopy(group), {**group}, group | {"lr": 0.1}, {"lr": 5} | group):
        assert not isinstance(copied, ParamGroup)
        assert copied["lr"] == 0.1
        copied["lr"] = 77.0
        assert group["lr"] == 0.1
    assert (group | {"lr": 3.0})["lr"] == 3.0
    assert ({"lr": 3.0} | group)["lr"] == 0.1
    kept = {**group}
    group["lr"] = 0.25
    assert kept["lr"] == 0.1


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("kind", KINDS)
def test_copied_optimizer_has_groups_of_its_own(kind: str, how: str, make: Make) -> None:
    made = make(kind)
    made.param_groups[0]["lr"] = 0.75
    make = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x)), "torch.save": _saved}[how]
    copied = make(made)
    assert [g["lr"] for g in copied.param_groups] == [0.75, 0.2]
    copied.param_groups[0]["lr"] = 0.5
    made.param_groups[1]["lr"] = 0.25
    assert [g["lr"] for g in copied.param_groups] == [0.5, 0.2]
    assert [g["lr"] for g in made.param_groups] == [0.75, 0.25]
    assert isinstance(copied.param_groups[0], ParamGroup)
    assert type(copied) is type(made)


# -- tensor lr ---------------------------------------------------------------------------------------------


def _weight(made: Any, group: int = 0) -> torch.Tensor:
    return made.param_groups[group]["params"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lr_given_as_a_tensor_is_that_tensor(dtype: torch.dtype, host_backend: str, mirrored: bool) -> None:
    lr = torch.tensor(0.5, dtype=dtype)
    made = optim.SGD(parameters(1), lr=lr, backend=host_backend)
    assert made.param_groups[0]["lr"] is lr
    lr.mul_(0.5)
    _weight(made).grad = torch.ones(3)
    made.step()
    assert _weight(made).tolist() == [0.75] * 3  # the update saw the edit
    lr.fill_(2.0)
    scheduler = ExponentialLR(made, 0.5)
    made._opt_called = True
    scheduler.step()
    assert lr.item() == 1.0  # and so did the schedule, which writes to it
    lr.fill_(8.0)
    scheduler.step()
    assert lr.item() == 4.0
    (last,) = scheduler.get_last_lr()
    assert (last.dtype, last.item()) == (dtype, 4.0)
    for how in ("get", "items", "values", "{**g}", "g | {}"):
        assert READS[how](made.param_groups[0])["lr"] is lr


def test_number_turns_a_tensor_lr_back_into_a_number(host_backend: str, mirrored: bool) -> None:
    lr = torch.tensor(0.5)
    made = optim.SGD(parameters(1), lr=lr, backend=host_backend)
    made.param_groups[0]["lr"] = 0.125
    assert type(made.param_groups[0]["lr"]) is float
    assert made.param_groups[0]["lr"] == 0.125
    assert lr.item() == 0.5
    lr.fill_(9.0)
    assert made.param_groups[0]["lr"] == 0.125
    made.param_groups[0]["lr"] = other = torch.tensor([[4.0]])
    assert made.param_groups[0]["lr"] is other


def test_groups_made_with_one_tensor_lr_share_it(host_backend: str, mirrored: bool) -> None:
    pair = []
    for home, schedulers, more in (
        (optim, fused_sched.lr_scheduler, {"backend": host_backend}),
        (torch.optim, torch.optim.lr_scheduler, {"foreach": False}),
    ):
        lr = torch.tensor(0.5, dtype=torch.float64)
        made = home.SGD([{"params": parameters(1)}, {"params": parameters(1)}], lr=lr, **more)
        assert [g["lr"] is lr for g in made.param_groups] == [True, True]
        scheduler = schedulers.LambdaLR(made, [lambda e: 0.5**e, lambda e: 0.25**e])
        made._opt_called = True
        seen = [lr.item()]
        for value in (None, 4.0, None):
            if value is not None:
                lr.fill_(value)
            scheduler.step()
            seen.append(lr.item())
        pair.append(seen)
    assert pair[0] == pair[1]  # the last group writes last


def test_edit_in_place_of_a_tensor_lr_survives_state_dict_and_copies(host_backend: str, mirrored: bool) -> None:
    made = optim.SGD(parameters(1), lr=torch.tensor(0.5), backend=host_backend)
    made.param_groups[0]["lr"].fill_(0.25)
    copied = copy.deepcopy(made)
    copied.param_groups[0]["lr"].fill_(0.125)
    assert (made.param_groups[0]["lr"].item(), copied.param_groups[0]["lr"].item()) == (0.25, 0.125)
    fresh = optim.SGD(parameters(1), lr=3.0, backend=host_backend)
    fresh.load_state_dict(copy.deepcopy(made.state_dict()))
    assert fresh.param_groups[0]["lr"].item() == 0.25
    made.param_groups[0]["lr"].fill_(0.0625)
    assert fresh.param_groups[0]["lr"].item() == 0.25


@pytest.mark.parametrize("key", ["momentum", "weight_decay", "dampening"])
def test_other_hyperparameters_may_be_tensors(key: str, make: Make) -> None:
    made = make()
    made.param_groups[0][key] = tensor = torch.tensor(0.25)
    assert made.param_groups[0][key] is tensor
    tensor.fill_(0.5)
    assert made._block.read_field(made.rows[0], key) == 0.5


@pytest.mark.parametrize("given", [torch.tensor(1), torch.tensor(0.5, dtype=torch.bfloat16)], ids=str)
def test_a_tensor_that_cannot_be_followed_is_copied_with_a_warning(given: torch.Tensor, make: Make) -> None:
    made = make()
    with pytest.warns(UserWarning, match=r"^lr is a torch\.\w+ tensor on cpu, but can follow only one of float32 or"):
        made.param_groups[0]["lr"] = given
    lr = made.param_groups[0]["lr"]
    assert (lr is given, lr.dtype, lr.item()) == (False, torch.float64, given.item())


# -- edits reach the update --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "key"), EVERY_NUMBER)
def test_edit_changes_the_next_update_as_in_torch(kind: str, key: str, backend: str) -> None:
    mine, theirs = optimizer(optim, kind, [0.1], backend=backend), optimizer(torch.optim, kind, [0.1])
    for step in range(4):
        for made in (mine, theirs):
            weight = _weight(made)
            weight.grad = torch.full_like(weight, 0.5 + step)
            if step == 2:
                made.param_groups[0][key] = 0.375
            made.step()
    relative = 4 * UPDATE_RELATIVE[torch.float32]
    torch.testing.assert_close(_weight(mine).cpu(), _weight(theirs), rtol=relative, atol=relative)
    unedited = optimizer(optim, kind, [0.1], backend=backend)
    for step in range(4):
        _weight(unedited).grad = torch.full_like(_weight(unedited), 0.5 + step)
        unedited.step()
    assert not torch.allclose(_weight(unedited), _weight(mine), rtol=1e-5, atol=0) or key == "eps"


@pytest.mark.parametrize("kind", KINDS)
def test_loading_a_state_keeps_references_to_groups(kind: str, make: Make) -> None:
    made, other = make(kind), make(kind)
    group = made.param_groups[0]
    other.param_groups[0].update(lr=0.75, weight_decay=0.5, note="x")
    made.param_groups[0]["mine"] = 1
    made.load_state_dict(other.state_dict())
    assert made.param_groups[0] is group
    assert (group["lr"], group["weight_decay"], group["note"]) == (0.75, 0.5, "x")
    assert "mine" not in group
    assert _on_device(made, 0, "lr") == 0.75


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_the_first_of_several_keys_that_are_missing_is_named(kind: str, host_backend: Any) -> None:
    made = getattr(fused_sched.optim, kind)([torch.nn.Parameter(torch.ones(1))], lr=0.1, backend=host_backend)
    keys = [k for k in made.defaults if k in made.param_groups[0].live | made.param_groups[0].flags]
    for first in range(len(keys) - 1):
        made.param_groups[0].clear()
        made.param_groups[0].update(params=[], **{k: made.defaults[k] for k in keys[:first]})
        with pytest.raises(KeyError, match=f"no '{keys[first]}'"):
            made.step()
