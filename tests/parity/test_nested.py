"""SequentialLR and ChainedScheduler, nested in any way, against torch's."""

from __future__ import annotations

import copy
import io
import pickle
import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_nests import random_nest
from schedule_twins import (
    HOMES,
    OURS,
    TORCH,
    Parts,
    Twins,
    assert_alike,
    build,
    compare_steps,
    inverse_square_root,
    optimizer,
    parameters,
    patience,
    position,
    random_lrs,
    seen,
    train,
    twins,
)
from tolerances import SCHEDULE_RELATIVE

import fused_sched
from fused_sched import backends


def random_twins(rng: random.Random, backend: str, *, kind: str = "SGD", **ours: Any) -> tuple[Twins, str]:
    """Twins of a random nesting with which torch makes 60 steps, and its description."""
    while True:
        n = rng.randint(1, 4)
        name, arguments = random_nest(rng, n, rng.randint(1, 4))
        lrs = random_lrs(rng, n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trial = optimizer(torch.optim, kind, lrs)
                train(trial, build(TORCH, name, trial, **arguments), 60)
                pair = twins(name, arguments, lrs=lrs, kind=kind, backend=backend, ours=ours)
            except ArithmeticError:
                continue
        return pair, f"{name} {arguments}"


def _alike(pair: Twins, act: Callable[[Any], Any]) -> bool:
    """``act`` on both schedulers; whether torch's could do it. Ours fails where torch's does."""
    try:
        act(pair.torchs)
    except ArithmeticError:
        with pytest.raises(ArithmeticError):
            act(pair.ours)
        return False
    act(pair.ours)
    return True


def _edit(rng: random.Random, pair: Twins) -> None:
    factor, group = rng.choice([0.5, 1.5]), rng.randrange(len(pair.our_optimizer.param_groups))
    pair.edit(lambda groups: groups[group].update(lr=groups[group]["lr"] * factor))


def _run(rng: random.Random, pair: Twins, steps: int, relative: float, what: str, edits: float = 0.1) -> None:
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), relative, f"{what}: construction")
    for step in range(1, steps + 1):
        if rng.random() < edits:
            _edit(rng, pair)
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), relative, f"{what}: step {step}")
        last = [{"lr": x} for x in pair.torchs.get_last_lr()]
        assert_alike([{"lr": x} for x in pair.ours.get_last_lr()], last, relative, f"{what}: get_last_lr() at {step}")
        assert position(pair.ours) == position(pair.torchs), f"{what}: step {step}"


@pytest.mark.parametrize("chunk", range(10))
def test_random_nestings_have_torchs_bits(chunk: int, rng: random.Random, host_backend: str, mirrored: bool) -> None:
    for _ in range(10):
        pair, what = random_twins(rng, host_backend, kind=rng.choice(["SGD", "Adam"]))
        assert pair.ours.program is not None, what
        _run(rng, pair, 50, 0.0, what)


def test_random_nestings_on_every_backend(rng: random.Random, backend: str, mirrored: bool) -> None:
    for _ in range({6: 3}.get(patience(backend, 1000), 8)):
        pair, what = random_twins(rng, backend)
        _run(rng, pair, min(patience(backend, 1000), 40), SCHEDULE_RELATIVE, what)


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_random_nestings_go_back_and_forth_between_ours_and_torchs(
    fused: bool, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    """Every ten steps, states of optimizer and scheduler are loaded into the other's classes."""
    for _ in range(6):
        n = rng.randint(1, 3)
        lrs = random_lrs(rng, n)
        name, arguments = random_nest(rng, n, 3)
        kind = rng.choice(["SGD", "AdamW"])
        try:
            oracle = optimizer(torch.optim, kind, lrs)
            expected = train(oracle, build(TORCH, name, oracle, **arguments), 60)
        except (ArithmeticError, ValueError):  # torch cannot run it
            continue
        try:
            ours = optimizer(fused_sched.optim, kind, lrs, backend=host_backend)
            build(OURS, name, ours, **arguments)
        except ArithmeticError:
            continue
        made = scheduler = None
        found: list[Any] = []
        for leg in range(6):
            before = made, scheduler
            module, home = HOMES["torch" if leg % 2 else "ours"]
            made = optimizer(module, kind, lrs)
            scheduler = build(home, name, made, **arguments, **({"fused": True} if fused and home is OURS else {}))
            if leg:
                made.load_state_dict(before[0].state_dict())
                scheduler.load_state_dict(before[1].state_dict())
                assert scheduler.get_last_lr() == before[1].get_last_lr()
                assert position(scheduler) == position(before[1])
            found += train(made, scheduler, 10)
        for step, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_alike(a, b, 0.0, f"{name} {arguments}: step {step}")


def test_random_nestings_advance_inside_the_optimizers_step(rng: random.Random, backend: str, mirrored: bool) -> None:
    for _ in range({6: 2}.get(patience(backend, 1000), 5)):
        pair, what = random_twins(rng, backend, kind=rng.choice(["SGD", "AdamW"]), fused=True)
        assert pair.our_optimizer.fused_schedules == (pair.ours._schedule,)
        for step in range(min(patience(backend, 1000), 25)):
            pair.optimizer_step()
            pair.torchs.step()
            when = f"{what}: step {step}"
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, when)
            before = pair.ours.state_dict()
            pair.ours.step()  # bookkeeping only
            assert pair.ours.state_dict() == before
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, "without an update")


def _reload(x: Any) -> Any:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "torch.save": _reload,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_random_nestings_go_on_alike_and_apart(
    how: str, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    for fused in (False, True, False, True):
        pair, what = random_twins(rng, host_backend, **({"fused": True} if fused else {}))
        train(pair.our_optimizer, pair.ours, 7)
        made, scheduler = COPIES[how]((pair.our_optimizer, pair.ours))
        assert scheduler.optimizer is made
        assert scheduler.state_dict() == pair.ours.state_dict()
        assert {id(part._schedule) for part in scheduler._family()} == {id(scheduler._schedule)}
        assert scheduler._schedule is not pair.ours._schedule
        before = seen(made)
        expected = train(pair.our_optimizer, pair.ours, 20)
        assert seen(made) == before
        for step, (a, b) in enumerate(zip(train(made, scheduler, 20), expected, strict=True)):
            assert_alike(a, b, 0.0, f"{what}: step {step}")


def test_a_nesting_is_one_program_and_one_launch(
    rng: random.Random, host_backend: str, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[Any] = []
    kind = backends.choose(torch.device("cpu"), host_backend).__class__
    original = kind.advance
    monkeypatch.setattr(kind, "advance", lambda self, schedule: (launches.append(schedule), original(self, schedule)))
    for _ in range(10):
        pair, what = random_twins(rng, host_backend)
        family = list(pair.ours._family())
        assert all(part.program is pair.ours.program for part in family), what
        launches.clear()
        for _ in range(5):
            pair.step()
        assert launches == [pair.ours._schedule] * 5, what
        text = pair.ours.explain()
        assert text.count(f"program {type(pair.ours).__name__}: ") == 1
        inner = family[-1]
        if inner is not pair.ours:
            start = f"{type(inner).__name__} runs as part of the program of {type(pair.ours).__name__}"
            assert inner.explain().startswith(start)


def test_parts_act_as_in_torch_when_used_by_hand(rng: random.Random, host_backend: str, mirrored: bool) -> None:
    for _ in range(10):
        pair, what = random_twins(rng, host_backend)
        for step in range(40):
            if rng.random() < 0.2:
                _edit(rng, pair)
            whole = rng.random() < 0.6
            index = rng.randrange(len(pair.torchs._schedulers))
            if not _alike(pair, lambda x, whole=whole, i=index: (x if whole else x._schedulers[i]).step()):
                break
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"{what}: step {step}")
            for ours, theirs in zip(pair.ours._schedulers, pair.torchs._schedulers, strict=True):
                assert ours.get_last_lr() == theirs.get_last_lr(), what
            assert position(pair.ours) == position(pair.torchs), what
        else:
            assert pair.ours.state_dict() == pair.torchs.state_dict()


def _one_below_zero(step: int) -> float:
    return 0.75 if step < 0 else 0.5


@pytest.mark.parametrize("function", [_one_below_zero, inverse_square_root])
def test_part_of_a_part_that_is_not_entered_at_its_milestone(
    function: Callable[[int], float], host_backend: str, mirrored: bool
) -> None:
    """It goes on from epoch -2, and torch calls its function with -1."""
    steps = ("StepLR", {"step_size": 2, "gamma": 0.5})
    inner = Parts(steps, steps, steps, ("MultiplicativeLR", {"lr_lambda": function}))
    nested = Parts(("SequentialLR", {"schedulers": inner, "milestones": [4, 6, 2]}), steps)
    arguments = {"schedulers": nested, "milestones": [90]}
    pair = twins("SequentialLR", arguments, lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(pair, 4)
    assert position(pair.ours)[1][0][1][3] == (-2, [])
    if function is _one_below_zero:
        compare_steps(pair, 9)
    else:
        before = seen(pair.our_optimizer), position(pair.ours)
        assert not _alike(pair, lambda scheduler: scheduler.step())
        assert (seen(pair.our_optimizer), position(pair.ours)) == before


def test_state_loaded_into_one_part_is_taken_in(host_backend: str, mirrored: bool) -> None:
    arguments = {"schedulers": Parts(("StepLR", {"step_size": 2}), ("ExponentialLR", {"gamma": 0.9}))}
    pair = twins("ChainedScheduler", arguments, lrs=[0.1, 0.3], backend=host_backend)
    other = twins("StepLR", {"step_size": 3, "gamma": 0.75}, lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(other, 7)
    compare_steps(pair, 5)
    state = other.torchs.state_dict()
    pair.both(lambda scheduler, _: scheduler._schedulers[0].load_state_dict(state))
    assert position(pair.ours)[1] == [(7, []), (5, [])]
    compare_steps(pair, 9)


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", ["ChainedScheduler", "SequentialLR"])
def test_groups_added_and_removed_under_a_nesting(name: str, fused: bool, host_backend: str, mirrored: bool) -> None:
    inner = Parts(("StepLR", {"step_size": 2, "gamma": 0.5}), ("LinearLR", {"total_iters": 30}))
    parts = Parts(("ChainedScheduler", {"schedulers": inner}))
    arguments: dict[str, Any] = {"schedulers": parts}
    if name == "SequentialLR":
        arguments["milestones"] = []
    pair = twins(name, arguments, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": fused})
    for step in range(20):
        if step in (3, 7):
            for made in (pair.our_optimizer, pair.torch_optimizer):
                made.add_param_group({"params": parameters(2), "lr": 0.25 + step})
        if step == 12:
            pair.edit(lambda groups: groups.pop(1))
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        assert pair.ours.state_dict() == pair.torchs.state_dict()


def test_group_added_to_a_sequence_works_until_the_milestone_as_in_torch(host_backend: str, mirrored: bool) -> None:
    parts = Parts(("StepLR", {"step_size": 2, "gamma": 0.5}), ("ExponentialLR", {"gamma": 0.9}))
    arguments = {"schedulers": parts, "milestones": [6]}
    pair = twins("SequentialLR", arguments, lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(pair, 2)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    compare_steps(pair, 3)
    assert pair.ours.state_dict() == pair.torchs.state_dict()
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(ValueError, match="shorter than argument"):
            scheduler.step()


def test_exception_in_the_function_of_a_part_leaves_everything_as_it_was(host_backend: str, mirrored: bool) -> None:
    broken = True

    def fails(step: int) -> float:
        if broken and step == 5:
            raise ArithmeticError("no value for 5")
        return 0.5

    for horizon in (1, 3):
        broken = True
        made = optimizer(fused_sched.optim, "SGD", [0.1, 0.2], backend=host_backend)
        parts = [OURS.ExponentialLR(made, 0.9), OURS.MultiplicativeLR(made, fails, horizon=horizon)]
        scheduler = OURS.ChainedScheduler(parts)
        for _ in range(4):
            scheduler.step()
        before = seen(made), scheduler.state_dict()
        for _ in range(2):
            with pytest.raises(ArithmeticError, match="^no value for 5$"):
                scheduler.step()
            assert (seen(made), scheduler.state_dict()) == before
        broken = False
        scheduler.step()
        assert position(scheduler)[1] == [(5, []), (5, [])]


def test_one_cycle_in_a_chain_stops_where_torchs_does(backend: str, mirrored: bool) -> None:
    arguments = {"schedulers": Parts(("OneCycleLR", {"max_lr": 0.5, "total_steps": 4}), ("StepLR", {"step_size": 2}))}
    pair = twins("ChainedScheduler", arguments, lrs=[0.1], backend=backend)
    compare_steps(pair, 4, SCHEDULE_RELATIVE)
    before = seen(pair.our_optimizer), pair.ours.state_dict()
    for scheduler in (pair.ours, pair.ours, pair.torchs):
        with pytest.raises(ValueError, match=r"^Tried to step 5 times\. The specified number of total steps is 4$"):
            scheduler.step()
    assert (seen(pair.our_optimizer), pair.ours.state_dict()) == before


# -- what is refused, and what stays on the host -----------------------------------------------------------


@pytest.mark.parametrize("name", ["SequentialLR", "ChainedScheduler"])
def test_nested_scheduler_after_the_first_of_a_sequence_is_refused(name: str, host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    first, later = OURS.StepLR(made, 3), OURS.StepLR(made, 2)
    inner = OURS.ChainedScheduler([later]) if name == "ChainedScheduler" else OURS.SequentialLR(made, [later], [])
    message = f"{name} at index 1 cannot be started at a milestone (in torch, NotImplementedError there): make it the"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        OURS.SequentialLR(made, [first, inner], [3])
    theirs = optimizer(torch.optim, "SGD", [0.1])
    inner = TORCH.ChainedScheduler([TORCH.StepLR(theirs, 2)])
    oracle = TORCH.SequentialLR(theirs, [TORCH.StepLR(theirs, 3), inner], [1])
    with pytest.raises((NotImplementedError, AttributeError)):
        oracle.step()


@pytest.mark.parametrize("keyword", ["fused", "skip_with_optimizer"])
def test_parts_with_keywords_of_the_outermost_are_refused(keyword: str, host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    parts = [OURS.StepLR(made, 3), OURS.ExponentialLR(made, 0.5, **{keyword: True})]
    message = (
        r"^ExponentialLR at index 1 was made with fused or skip_with_optimizer, but it advances with the {} around"
    )
    with pytest.raises(ValueError, match=message.format("SequentialLR")):
        OURS.SequentialLR(made, parts, [3])
    with pytest.raises(ValueError, match=message.format("ChainedScheduler")):
        OURS.ChainedScheduler(parts)
    for part in parts:
        part.detach()
    assert made.fused_schedules == ()


@pytest.mark.parametrize("name", ["SequentialLR", "ChainedScheduler"])
def test_torchs_own_scheduler_as_a_part_runs_on_the_host_and_says_so(
    name: str, host_backend: str, mirrored: bool
) -> None:
    mine = optimizer(fused_sched.optim, "SGD", [0.1, 0.3], backend=host_backend)
    theirs = optimizer(torch.optim, "SGD", [0.1, 0.3])

    def make(made: Any, home: Any, **more: Any) -> Any:
        parts = [home.ConstantLR(made), TORCH.StepLR(made, 2), home.ExponentialLR(made, 0.9)]
        return (
            home.ChainedScheduler(parts, **more) if name[0] == "C" else home.SequentialLR(made, parts, [3, 6], **more)
        )

    with pytest.warns(
        UserWarning, match=rf"^{name} contains StepLR, which is not of fused_sched.lr_scheduler: .* host"
    ):
        ours = make(mine, OURS)
    assert ours.program is None
    pair = Twins(ours, make(theirs, TORCH), mine, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare_steps(pair, 15)
    with pytest.raises(ValueError, match=f"^{name} contains StepLR, .*: leave out fused"):
        make(mine, OURS, fused=True)


def test_a_part_whose_closed_form_fails_at_epoch_0_is_refused(host_backend: str) -> None:
    def make(made: Any, home: Any) -> Any:
        return home.SequentialLR(made, [home.StepLR(made, 3), home.PolynomialLR(made, total_iters=0)], [2])

    theirs = optimizer(torch.optim, "SGD", [0.1])
    oracle = make(theirs, TORCH)
    oracle.step()
    with pytest.raises(ZeroDivisionError):
        oracle.step()
    with pytest.raises(
        ValueError, match=r"^PolynomialLR cannot start at a milestone: its closed form fails at epoch 0"
    ):
        make(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend), OURS)


def test_known_numbers(backend: str) -> None:
    """The examples of torch's documentation."""
    made = optimizer(fused_sched.optim, "SGD", [0.05], backend=backend)
    parts = [OURS.ConstantLR(made, 0.1, 2), OURS.ExponentialLR(made, 0.9)]
    scheduler = OURS.SequentialLR(made, parts, [2])
    found = [made.param_groups[0]["lr"]]
    for _ in range(4):
        scheduler.step()
        found += scheduler.get_last_lr()
    assert found == pytest.approx([0.005, 0.005, 0.05, 0.045, 0.0405], rel=1e-15)

    made = optimizer(fused_sched.optim, "SGD", [0.05], backend=backend)
    scheduler = OURS.ChainedScheduler([OURS.ConstantLR(made, 0.1, 2), OURS.ExponentialLR(made, 0.9)], optimizer=made)
    found = [made.param_groups[0]["lr"]]
    for _ in range(3):
        scheduler.step()
        found += scheduler.get_last_lr()
    assert found == pytest.approx([0.005, 0.0045, 0.0405, 0.03645], rel=1e-15)
