"""A group keeps its hyperparameters wherever it goes in ``param_groups``, and whatever comes and goes beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import OURS, patience
from torch.nn import Parameter

from fused_sched.optim import SGD
from identity.lockstep import OPTIONS, STATEFUL, Lockstep, Side

THREE = [{"params": [0, 1], "lr": 1.0}, {"params": [2], "lr": 0.1}, {"params": [3], "lr": 0.01}]
FRESH = 4  # a parameter that is in no group at first


def _add(side: Side, lr: float = 0.003, name: int = FRESH, **more: Any) -> None:
    side.optimizer.add_param_group({"params": [side.params[name]], "lr": lr, **more})


def _delete_and_add(side: Side) -> None:
    del side.groups[0]
    _add(side)


def _delete_the_middle_and_add(side: Side) -> None:
    del side.groups[1]
    _add(side)


def _pop_and_add_it_again(side: Side) -> None:
    side.optimizer.add_param_group(side.groups.pop(0))


def _pop_and_append(side: Side) -> None:
    side.groups.append(side.groups.pop(0))


def _insert_a_plain_dict(side: Side) -> None:
    side.groups.insert(0, {**side.groups[0], "params": [side.params[FRESH]], "lr": 0.003})


def _add_and_delete(side: Side) -> None:
    _add(side)
    del side.groups[0]


def _swap(side: Side) -> None:
    side.groups[0], side.groups[2] = side.groups[2], side.groups[0]


def _clear_and_refill(side: Side) -> None:
    kept = list(side.groups)
    side.groups.clear()
    side.groups.extend(reversed(kept))


def _clear_and_refill_with_copies(side: Side) -> None:
    kept = [dict(g) for g in side.groups]
    del side.groups[:]
    side.groups.extend(kept[1:] + kept[:1])


def _clear_and_add(side: Side) -> None:
    kept = [dict(g) for g in side.groups]
    side.groups.clear()
    for group in reversed(kept):
        side.optimizer.add_param_group(group)


def _new_list(side: Side) -> None:
    side.optimizer.param_groups = side.groups[::-1]


def _new_list_of_copies(side: Side) -> None:
    side.optimizer.param_groups = [dict(g) for g in side.groups[1:]]
    _add(side)


def _slice_assigned(side: Side) -> None:
    side.groups[0:2] = [side.groups[1], {**side.groups[0], "lr": 0.5}, side.groups[0]]
    side.groups[2]["params"] = [side.params[FRESH]]


WAYS: dict[str, Callable[[Side], None]] = {
    "delete and add": _delete_and_add,
    "delete the middle and add": _delete_the_middle_and_add,
    "add and delete": _add_and_delete,
    "pop and add it again": _pop_and_add_it_again,
    "pop and append": _pop_and_append,
    "insert a plain dict": _insert_a_plain_dict,
    "swap": _swap,
    "reverse": lambda side: side.groups.reverse(),
    "sort": lambda side: side.groups.sort(key=lambda g: g["lr"]),
    "clear and refill": _clear_and_refill,
    "clear and refill with copies": _clear_and_refill_with_copies,
    "clear and add": _clear_and_add,
    "a new list": _new_list,
    "a new list of copies": _new_list_of_copies,
    "a slice assigned": _slice_assigned,
    "delete the last": lambda side: side.groups.pop(),
}


def _edit_all(side: Side, factor: float) -> None:
    for place, group in enumerate(side.groups):
        group["lr"] = factor / (1 + place)
        group["weight_decay"] = 0.01 * place


@pytest.mark.thin
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "case"), STATEFUL)
def test_each_group_is_updated_by_its_own_values(
    kind: str, case: str, way: str, host_backend: str, mirrored: bool
) -> None:
    pair = Lockstep(kind, THREE, host_backend, **OPTIONS[kind][case])
    pair.step(2)
    pair.both(WAYS[way])
    pair.check(way)
    pair.step()
    pair.both(lambda side: _edit_all(side, 0.3))
    pair.check(f"{way}, edited")
    pair.step(2)
    pair.both(WAYS["pop and append"])
    pair.step(2)


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("way", WAYS)
def test_each_group_is_updated_by_its_own_values_on_every_backend(way: str, backend: str) -> None:
    pair = Lockstep("SGD", THREE, backend, momentum=0.9)
    pair.step()
    pair.both(WAYS[way])
    pair.both(lambda side: _edit_all(side, 0.3))
    pair.step(2)


@pytest.mark.parametrize("way", WAYS)
def test_edits_between_two_rearrangements(way: str, host_backend: str, mirrored: bool) -> None:
    """No step in between: what the groups read is what counts."""
    pair = Lockstep("Adam", THREE, host_backend)
    for other in ("reverse", "pop and append", way, "swap" if way != "delete the last" else "reverse"):
        if other == "swap" and len(pair.torchs.groups) < 3:
            other = "reverse"
        pair.both(WAYS[other])
        pair.both(lambda side: side.groups[0].update(lr=side.groups[0]["lr"] * 0.5, betas=(0.5, 0.9)))
        pair.check(other)
    pair.step(3)


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["StepLR", "LinearLR"])  # these go on with any number of groups
def test_a_schedule_drives_the_groups_there_are(
    name: str, way: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    pair = Lockstep("SGD", THREE, host_backend, momentum=0.5)
    arguments = {"step_size": 2, "gamma": 0.5} if name == "StepLR" else {"start_factor": 0.25, "total_iters": 30}
    pair.both(lambda side: side.schedulers.append(side.build(name, **arguments, ours={"fused": fused})))
    pair.step(3)
    pair.both(WAYS[way])
    pair.check(way)
    pair.step(4)
    pair.both(lambda side: _edit_all(side, 0.25))
    pair.step(4)


SAME_NUMBER = ["pop and append", "swap", "reverse", "clear and refill", "clear and refill with copies", "a new list",
               "delete and add", "clear and add"]  # fmt: skip


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("way", SAME_NUMBER)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LambdaLR", {"lr_lambda": [lambda e: 0.9**e, lambda e: 0.8**e, lambda e: 0.5 + e]}),
        ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.001}),
        ("CyclicLR", {"base_lr": [0.1, 0.2, 0.3], "max_lr": [1.0, 2.0, 3.0], "step_size_up": 3}),
    ],
)
def test_base_values_stay_with_the_place_in_the_list_as_in_torch(
    name: str, arguments: dict[str, Any], way: str, fused: bool, host_backend: str, mirrored: bool
) -> None:
    pair = Lockstep("SGD", THREE, host_backend, momentum=0.5)
    pair.both(lambda side: side.schedulers.append(side.build(name, **arguments, ours={"fused": fused})))
    pair.step(2)
    pair.both(WAYS[way])
    # torch's CyclicLR looks for its momenta in the groups themselves
    if pair.alike(lambda side: [g["max_momentum"] for g in side.groups] if name == "CyclicLR" else None):
        pair.step(7)


def test_groups_that_come_and_go_for_ever(host_backend: str, mirrored: bool) -> None:
    """Three are alive at a time; the rows of those that went are used again."""
    pair = Lockstep("SGD", THREE, host_backend, momentum=0.9)

    def turn_over(side: Side) -> None:
        gone = side.groups.pop(0)["params"]
        side.optimizer.add_param_group({"params": gone, "lr": 1.0 / (1 + turn % 7)})

    for turn in range(1100):
        pair.both(turn_over)
        if turn % 50 == 0:
            pair.step()
    pair.step(2)


@pytest.mark.parametrize("fused", [None, False, True], ids=["no schedule", "separate", "fused"])
@pytest.mark.parametrize("n", [1100, pytest.param(5000, marks=pytest.mark.slow)])
def test_any_number_of_groups(n: int, fused: bool | None, backend: str) -> None:
    if patience(backend, 10) < 10:
        pytest.skip("Triton's interpreter takes minutes: the compiled kernels do it")
    params = [[Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(n)] for _ in range(2)]
    made = [
        module([{"params": [p], "lr": 1.0 / (1 + i)} for i, p in enumerate(given)], momentum=0.5, **more)
        for module, given, more in zip(
            (SGD, torch.optim.SGD), params, ({"backend": backend}, {"foreach": False}), strict=True
        )
    ]
    schedulers = []
    if fused is not None:
        schedulers = [OURS.StepLR(made[0], 2, fused=fused), torch.optim.lr_scheduler.StepLR(made[1], 2)]
    for _ in range(3):
        for i in range(n):
            for given in params:
                given[i].grad = torch.full_like(given[i], 1.0 + i)
        for one in (*made, *schedulers):
            one.step()
    assert [g["lr"] for g in made[0].param_groups] == [g["lr"] for g in made[1].param_groups]
    torch.testing.assert_close(torch.stack(params[0]), torch.stack(params[1]), rtol=1e-12, atol=1e-12)
    for one in made:
        one.param_groups[n - 2]["lr"] = 0.75
        one.step()
    torch.testing.assert_close(torch.stack(params[0]), torch.stack(params[1]), rtol=1e-12, atol=1e-12)


def test_a_failed_add_changes_nothing(host_backend: str, mirrored: bool) -> None:
    pair = Lockstep("SGD", THREE, host_backend, momentum=0.9)
    pair.step()
    bad: list[Callable[[Side], dict[str, Any]]] = [
        lambda side: {"params": [side.params[0]]},  # in two groups
        lambda side: {"params": [torch.ones(1, requires_grad=True) * 2]},
        lambda side: {"params": "abc"},
        lambda side: {"params": {side.params[4]}},
        lambda side: {"lr": 0.1},
    ]
    for make in bad:
        assert not pair.alike(lambda side, make=make: side.optimizer.add_param_group(make(side)))
        pair.check()
    for values in ({"lr": "abc"}, {"momentum": "abc"}, {"lr": torch.ones(2)}):
        with pytest.raises((TypeError, ValueError)):
            _add(pair.ours, **{"lr": 0.1, **values})
        pair.check(f"{values}")
    pair.both(lambda side: _add(side))
    pair.step(2)
