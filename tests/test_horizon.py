"""Functions that only Python can run: when they are called, and what happens past the rows computed ahead."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import pytest
import torch
from schedule_twins import (
    OURS,
    Decay,
    Parts,
    Recorder,
    assert_alike,
    build,
    compare_steps,
    optimizer,
    seen,
    single,
    twins,
)

import fused_sched
from fused_sched.lr_scheduler import LambdaLR, MultiplicativeLR, ParamScheduler

KINDS = ("LambdaLR", "MultiplicativeLR", "CyclicLR", "ParamScheduler")


def _arguments(name: str, function: Any) -> dict[str, Any]:
    if name == "CyclicLR":
        cyclic = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "cycle_momentum": False}
        return {**cyclic, "scale_fn": function, "scale_mode": "iterations"}
    if name == "ParamScheduler":
        return {"name": "weight_decay", "fn": function}
    return {"lr_lambda": function}


def _numbers(made: Any) -> list[tuple[float, float]]:
    return [(g["lr"], g["weight_decay"]) for g in made.param_groups]


@pytest.mark.parametrize("horizon", [2, 7, 64])
def test_horizon_gives_the_same_sequence(horizon: int, host_backend: str, mirrored: bool) -> None:
    arguments = {"lr_lambda": [Decay(0.99), Recorder()]}
    pair = twins("LambdaLR", arguments, lrs=[0.3, 0.7], backend=host_backend, ours={"horizon": horizon})
    compare_steps(pair, 40)
    pair.edit(lambda groups: groups[0].update(lr=0.0))
    compare_steps(pair, 160)
    pair.both(lambda s, _: setattr(s, "last_epoch", 20))  # back, into rows that were overwritten
    compare_steps(pair, 100)
    arguments = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "scale_fn": Recorder()}
    pair = twins("CyclicLR", arguments, lrs=[0.3], backend=host_backend, ours={"horizon": horizon})
    compare_steps(pair, 200)


def test_horizon_calls_the_function_once_a_step_ahead(host_backend: str) -> None:
    calls: list[int] = []

    def record(step: int) -> float:
        assert type(step) is int
        calls.append(step)
        return 1.0 / (step + 1)

    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    scheduler = LambdaLR(made, record)
    for _ in range(5):
        scheduler.step()
    assert calls == [0, 1, 2, 3, 4, 5]

    calls.clear()
    scheduler = LambdaLR(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend), record, horizon=4)
    for _ in range(6):
        scheduler.step()
    assert calls == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("horizon", [1, 5, 50])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_exception_at_step_37_leaves_everything_as_it_was(
    horizon: int, fused: bool, host_backend: str, mirrored: bool
) -> None:
    broken = True
    calls: list[int] = []

    def fails(step: int) -> float:
        calls.append(step)
        if step == 37 and broken:
            raise ArithmeticError("no value for 37")
        return 1.0 / (step + 1)

    made = optimizer(fused_sched.optim, "SGD", [0.1, 0.2], backend=host_backend)
    scheduler = LambdaLR(made, fails, horizon=horizon, fused=fused)

    def advance() -> None:
        if fused:
            made.step()
        scheduler.step()

    for group in made.param_groups:
        group["params"][0].grad = torch.ones(3)
    for _ in range(36):
        advance()
    before = seen(made), scheduler.get_last_lr(), scheduler.last_epoch, scheduler._step_count
    weights = [g["params"][0].detach().clone() for g in made.param_groups]
    assert scheduler.last_epoch == 36
    for _ in range(2):
        with pytest.raises(ArithmeticError, match=r"^no value for 37$"):
            advance()
        assert (seen(made), scheduler.get_last_lr(), scheduler.last_epoch, scheduler._step_count) == before
        assert all(torch.equal(g["params"][0], w) for g, w in zip(made.param_groups, weights, strict=True))
    broken = False
    advance()
    assert [g["lr"] for g in made.param_groups] == [0.1 * (1.0 / 38), 0.2 * (1.0 / 38)]


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR", "CyclicLR"])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_horizon_1_calls_the_function_exactly_as_torch(
    name: str, n_groups: int, host_backend: str, mirrored: bool
) -> None:
    mine, theirs = Recorder(), Recorder()
    pair = twins(name, _arguments(name, mine), lrs=[0.1] * n_groups, backend=host_backend)
    oracle = twins(name, _arguments(name, theirs), lrs=[0.1] * n_groups, backend=host_backend).torchs
    mine.calls.clear()
    theirs.calls.clear()
    for step in range(20):
        if step == 7:
            for scheduler in (pair.ours, oracle):
                scheduler.last_epoch = 3
        if step == 12:
            for scheduler in (pair.ours, oracle):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    scheduler.step(30)
        pair.ours.step()
        oracle.step()
        # torch's CyclicLR asks once a group, with equal arguments
        expected = sorted(set(theirs.calls)) if name == "CyclicLR" else theirs.calls
        found = sorted(set(mine.calls)) if name == "CyclicLR" else mine.calls
        assert found == expected, f"step {step}"
        assert [type(x) for x in mine.calls] == [type(theirs.calls[0])] * len(mine.calls)
        mine.calls.clear()
        theirs.calls.clear()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("horizon", [2, 5, 16])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_rows_are_computed_so_many_at_a_time(
    name: str, horizon: int, fused: bool, host_backend: str, mirrored: bool
) -> None:
    record, plain = Recorder(), Recorder()
    mine, other = (optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend) for _ in range(2))
    scheduler = build(OURS, name, mine, **_arguments(name, record), horizon=horizon, fused=fused)
    oracle = build(OURS, name, other, **_arguments(name, plain), fused=fused)
    for step in range(1, 35):
        for made, one in ((mine, scheduler), (other, oracle)):
            made.step()
            one.step()
        assert _numbers(mine) == _numbers(other), f"step {step}"
    if name != "MultiplicativeLR":  # whose first lr is the optimizer's
        assert record.calls[0] == 0
    blocks = math.ceil(34 / horizon) * horizon
    assert record.calls[-blocks:] == [*range(1, blocks + 1)]
    assert len(record.calls) <= blocks + 2


def test_epochs_moved_by_hand_find_their_rows(rng: random.Random, host_backend: str, mirrored: bool) -> None:
    for name in ("LambdaLR", "MultiplicativeLR", "CyclicLR"):
        for horizon in (1, 2, 7, 30):
            arguments = _arguments(name, Recorder())
            pair = twins(name, arguments, lrs=[0.1, 0.3], backend=host_backend, ours={"horizon": horizon})
            for _ in range(60):
                if rng.random() < 0.2:
                    epoch = rng.choice([0, -1, rng.randint(0, 50), pair.torchs.last_epoch + rng.choice([1, horizon])])
                    pair.both(lambda scheduler, _, epoch=epoch: setattr(scheduler, "last_epoch", epoch))  # type: ignore[misc]
                compare_steps(pair, 1)


# -- a captured loop: replays advance without the host -----------------------------------------------------


def _replay(scheduler: Any, times: int) -> None:
    """What replays of a CUDA graph do: the device advances, and the host does not know."""
    schedule = scheduler._schedule
    schedule.memory.captured = True
    if schedule.memory.remote:
        schedule.memory.volatile = schedule.block.volatile = True
    for _ in range(times):
        schedule.backend.advance(schedule)


@pytest.mark.thin("triton")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("groups", [1, 3])
def test_replays_past_the_rows_hold_the_last_value_and_the_next_read_raises(
    name: str, fused: bool, groups: int, backend: str, mirrored: bool
) -> None:
    record = Recorder()
    made = optimizer(fused_sched.optim, "SGD", [0.1 * (i + 1) for i in range(groups)], backend=backend)
    plain = optimizer(fused_sched.optim, "SGD", [0.1 * (i + 1) for i in range(groups)], backend=backend)
    scheduler = build(OURS, name, made, **_arguments(name, record), horizon=4, fused=fused)
    oracle = build(OURS, name, plain, **_arguments(name, Recorder()))
    for _ in range(4):
        oracle.step()
    called = len(record.calls)
    _replay(scheduler, 4)  # all the rows there are: epochs 1 to 4
    assert _numbers(made) == _numbers(plain)
    assert scheduler.last_epoch == 4
    scheduler.get_last_lr()
    for _ in range(3):
        _replay(scheduler, 1)
        assert _numbers(made) == _numbers(plain)
        assert scheduler._schedule.read("trap") == 1.0  # it stays set
    assert len(record.calls) == called
    message = rf"^{name} stopped before epoch 5, and what it sets has stayed as it was in all replays of the "
    message += r"CUDA graph since then: the values computed ahead by Python had been used up$"
    with pytest.raises(RuntimeError, match=message):
        scheduler.get_last_lr()
    assert scheduler._schedule.read("trap") == 0.0
    assert _numbers(made) == _numbers(plain)
    assert scheduler.last_epoch == 4
    assert scheduler.get_last_lr() == oracle.get_last_lr()  # told once
    for read in (scheduler.state_dict, scheduler.get_last_lr):
        _replay(scheduler, 2)
        with pytest.raises(RuntimeError, match=message):
            read()
    # and the host can go on from there
    for _ in range(3):
        oracle.step()
        if fused:
            made.step()
        scheduler.step()
        assert _numbers(made) == _numbers(plain)
    assert scheduler.last_epoch == 7


def test_a_tensor_lr_is_held_too(host_backend: str, mirrored: bool) -> None:
    view = torch.tensor(0.1, dtype=torch.float64)
    made = single(host_backend, lr=view)
    scheduler = LambdaLR(made, Recorder(), horizon=2)
    _replay(scheduler, 4)
    with pytest.raises(RuntimeError, match="^LambdaLR stopped before epoch 3"):
        scheduler.get_last_lr()
    assert made.param_groups[0]["lr"] is view
    assert view.item() == scheduler.get_last_lr()[0].item() == 0.1 * (1.0 / 3)


def test_values_refilled_between_replays_serve_the_next_ones(host_backend: str, mirrored: bool) -> None:
    """The host's own step computes rows from there on."""
    made = single(host_backend)
    scheduler = LambdaLR(made, Recorder(), horizon=4)
    _replay(scheduler, 4)
    scheduler.step()  # rows 5 to 8
    _replay(scheduler, 3)
    assert made.param_groups[0]["lr"] == 0.1 * (1.0 / 9)
    assert scheduler.get_last_lr() == [0.1 * (1.0 / 9)]
    _replay(scheduler, 1)
    with pytest.raises(RuntimeError, match="^LambdaLR stopped before epoch 9"):
        scheduler.state_dict()


def test_a_nesting_is_held_as_a_whole(backend: str, mirrored: bool) -> None:
    parts = Parts(("ExponentialLR", {"gamma": 0.9}), ("MultiplicativeLR", {"lr_lambda": Recorder(), "horizon": 3}))
    made, plain = (optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=backend) for _ in range(2))
    scheduler = build(OURS, "ChainedScheduler", made, schedulers=parts)
    parts = Parts(("ExponentialLR", {"gamma": 0.9}), ("MultiplicativeLR", {"lr_lambda": Recorder()}))
    oracle = build(OURS, "ChainedScheduler", plain, schedulers=parts)
    for _ in range(3):
        oracle.step()
    _replay(scheduler, 6)
    assert seen(made) == seen(plain)
    with pytest.raises(RuntimeError, match="^ChainedScheduler stopped before epoch 4, and what it sets has stayed"):
        scheduler.get_last_lr()
    assert [part.last_epoch for part in scheduler._schedulers] == [3, 3]
    oracle.step()
    scheduler.step()
    assert seen(made) == seen(plain)


def test_one_cycle_replayed_past_its_end_says_so(backend: str, mirrored: bool) -> None:
    pair = twins("OneCycleLR", {"max_lr": 0.5, "total_steps": 5}, lrs=[0.1, 0.3], backend=backend)
    for _ in range(5):
        pair.torchs.step()
    _replay(pair.ours, 9)
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 1e-12, "held")
    message = r"^OneCycleLR stopped before epoch 6, .*: ValueError: Tried to step 6 times\. The specified number"
    with pytest.raises(RuntimeError, match=message) as caught:
        pair.ours.state_dict()
    assert isinstance(caught.value.__cause__, ValueError)
    assert pair.ours.last_epoch == 5
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 1e-12, "after the report")


@pytest.mark.parametrize("horizon", [1, 4])
def test_two_parts_with_functions_of_their_own(horizon: int, host_backend: str, mirrored: bool) -> None:
    first, second = Recorder(), Recorder()
    arguments: dict[str, Any] = {
        "schedulers": Parts(
            ("LambdaLR", {"lr_lambda": first}),
            ("MultiplicativeLR", {"lr_lambda": second}),
            ("StepLR", {"step_size": 2}),
        ),
        "milestones": [4, 9],
    }
    pair = twins("SequentialLR", arguments, lrs=[0.1], backend=host_backend)
    compare_steps(pair, 15)
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    parts = [LambdaLR(made, Recorder(), horizon=horizon), MultiplicativeLR(made, Recorder(), horizon=horizon)]
    scheduler = OURS.SequentialLR(made, parts, [4])
    for _ in range(8):
        scheduler.step()
    again = twins(
        "SequentialLR", {"schedulers": Parts(*arguments["schedulers"].parts[:2]), "milestones": [4]}, lrs=[0.1]
    )
    for _ in range(8):
        again.torchs.step()
    assert seen(made) == seen(again.torch_optimizer)


def test_a_param_scheduler_needs_no_function(host_backend: str) -> None:
    made = single(host_backend)
    scheduler = ParamScheduler(made, "weight_decay", [None], horizon=5)
    scheduler.step()
    assert (scheduler.get_last_value(), scheduler.last_epoch) == ([0], 1)
