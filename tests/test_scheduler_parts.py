"""Lists of parts that are edited while a sequence or a chain runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import (
    DEFAULTS,
    HOMES,
    OURS,
    TORCH,
    Parts,
    Twins,
    assert_alike,
    build,
    compare_steps,
    optimizer,
    position,
    seen,
    twins,
)

import fused_sched


def _on(made: Any, name: str, **arguments: Any) -> Any:
    """A further scheduler for one side; the lr stays."""
    lrs = [group["lr"] for group in made.param_groups]
    home = OURS if isinstance(made, fused_sched.optim.SGD) else TORCH
    further = build(home, name, made, **(arguments or DEFAULTS[name]))
    for group, lr in zip(made.param_groups, lrs, strict=True):
        group["lr"] = lr
    return further


def _assign(scheduler: Any, parts: Any) -> None:
    scheduler._schedulers = parts


EDITS: dict[str, Callable[[Any, Any], None]] = {
    "append": lambda s, made: s._schedulers.append(_on(made, "ExponentialLR", gamma=0.75)),
    "insert": lambda s, made: s._schedulers.insert(1, _on(made, "StepLR", step_size=2, gamma=0.5)),
    "pop": lambda s, _: s._schedulers.pop(),
    "pop the first": lambda s, _: s._schedulers.pop(0),
    "reverse": lambda s, _: s._schedulers.reverse(),
    "rotate": lambda s, _: s._schedulers.append(s._schedulers.pop(0)),
    "item": lambda s, made: s._schedulers.__setitem__(0, _on(made, "LinearLR")),
    "item of another kind": lambda s, made: s._schedulers.__setitem__(1, _on(made, "OneCycleLR")),
    "slice": lambda s, made: s._schedulers.__setitem__(slice(0, 2), [_on(made, "ConstantLR"), _on(made, "StepLR")]),
    "another list": lambda s, made: _assign(s, [_on(made, "LinearLR"), *s._schedulers[1:]]),
    "reversed list": lambda s, _: _assign(s, s._schedulers[::-1]),
    "in the dict": lambda s, _: vars(s).update(_schedulers=s._schedulers[::-1]),
}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ["ChainedScheduler", "SequentialLR"])
@pytest.mark.parametrize("how", EDITS)
def test_a_list_of_parts_that_is_edited(how: str, name: str, fused: bool, host_backend: Any, mirrored: bool) -> None:
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": fused})
    for _ in range(2):
        pair.optimizer_step()
        pair.step()
    gone = [list(s._schedulers) for s in (pair.ours, pair.torchs)]
    pair.both(EDITS[how])
    for _ in range(4 if how.startswith("pop") and name == "SequentialLR" else 10):
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, how)
        assert position(pair.ours) == position(pair.torchs)
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
    assert pair.ours.program is not None
    assert pair.ours.state_dict() == pair.torchs.state_dict()
    # a part that was taken out goes on by itself
    for mine, theirs in zip(*gone, strict=True):
        if all(theirs is not one for one in pair.torchs._schedulers):
            if fused:
                pair.ours.detach()
            compare_steps(Twins(mine, theirs, pair.our_optimizer, pair.torch_optimizer), 4)
            assert mine.program is not None


def test_lists_inside_of_a_nesting(host_backend: Any, mirrored: bool) -> None:
    inner = ("ChainedScheduler", {"schedulers": Parts(("ExponentialLR", {"gamma": 0.9}), ("StepLR", {"step_size": 2}))})
    arguments = {"schedulers": Parts(inner, ("LinearLR", {"total_iters": 5})), "milestones": [9]}
    pair = twins("SequentialLR", arguments, lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(pair, 2)
    pair.both(lambda s, _: s._schedulers[0]._schedulers.pop())
    compare_steps(pair, 2)
    pair.both(lambda s, made: s._schedulers[0]._schedulers.insert(0, _on(made, "MultiplicativeLR")))
    compare_steps(pair, 9)
    assert pair.ours.state_dict() == pair.torchs.state_dict()


def test_random_edits_of_lists(rng: random.Random, host_backend: Any, mirrored: bool) -> None:
    for _ in range(3):
        fused = rng.random() < 0.5
        pair = twins("ChainedScheduler", lrs=[0.1, 0.3], backend=host_backend, ours={"fused": fused})
        for _ in range(12):
            if rng.random() < 0.4:
                how = rng.choice([h for h in EDITS if len(pair.torchs._schedulers) > 2 or not h.startswith("pop")])
                pair.both(EDITS[how])
            pair.optimizer_step()
            pair.step()
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, "")
            assert position(pair.ours) == position(pair.torchs)


def test_a_sequence_with_too_few_parts_fails_where_torchs_does(host_backend: Any, mirrored: bool) -> None:
    pair = twins("SequentialLR", lrs=[0.1], backend=host_backend)
    pair.both(lambda s, _: s._schedulers.pop())
    compare_steps(pair, 7)
    for one in (pair.ours, pair.torchs):
        with pytest.raises(IndexError):
            one.step()
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, "")


def test_a_part_that_is_there_twice_is_stepped_twice(host_backend: Any, mirrored: bool) -> None:
    pair = twins("ChainedScheduler", lrs=[0.1, 0.3], backend=host_backend)
    compare_steps(pair, 2)
    pair.both(lambda s, _: s._schedulers.append(s._schedulers[0]))
    with pytest.warns(UserWarning, match="a scheduler is in this ChainedScheduler twice: its lr is computed on the"):
        compare_steps(pair, 1)
    compare_steps(pair, 5)

    made = {}
    for home, (optimizers, schedulers) in HOMES.items():
        one = optimizer(optimizers, "SGD", [0.1], **({"backend": host_backend} if home == "ours" else {}))
        part = schedulers.ExponentialLR(one, 0.5)
        if home == "ours":
            with pytest.warns(UserWarning, match="twice"):
                made[home] = schedulers.ChainedScheduler([part, part]), one
        else:
            made[home] = schedulers.ChainedScheduler([part, part]), one
    compare_steps(Twins(made["ours"][0], made["torch"][0], made["ours"][1], made["torch"][1]), 4)


def test_parts_that_are_refused(host_backend: Any) -> None:
    pair = twins("ChainedScheduler", lrs=[0.1], backend=host_backend)
    compare_steps(pair, 1)
    made = pair.our_optimizer
    pair.ours._schedulers.append(OURS.ExponentialLR(made, 0.5, fused=True))
    with pytest.raises(ValueError, match="ExponentialLR at index 3 was made with fused"):
        pair.ours.step()
    pair.ours._schedulers.pop().detach()
    compare_steps(pair, 2)
    torchs = TORCH.ReduceLROnPlateau(made)
    pair.both(lambda s, made: s._schedulers.append(torchs if s is pair.ours else _on(made, "ReduceLROnPlateau")))
    with pytest.warns(UserWarning, match="contains torch's ReduceLROnPlateau, whose step"), pytest.raises(TypeError):
        pair.ours.step()
    with pytest.raises(TypeError):
        pair.torchs.step()
    sequence = twins("SequentialLR", lrs=[0.1], backend=host_backend)
    sequence.ours._schedulers[1] = OURS.ChainedScheduler([_on(sequence.our_optimizer, "StepLR")])
    with pytest.raises(ValueError, match="ChainedScheduler at index 1 cannot be started at a milestone"):
        sequence.ours.step()


@pytest.mark.parametrize("name", ["ChainedScheduler", "SequentialLR"])
def test_a_wrong_call_names_the_class(name: str, host_backend: Any) -> None:
    pair = twins(name, lrs=[0.1], backend=host_backend)
    with pytest.raises(TypeError, match=rf"^{name}\.step\(\) takes 1 positional argument but 2 were given"):
        pair.ours.step(3)
    compare_steps(pair, 2)


# -- steps to an epoch of fused schedulers -----------------------------------------------------------------

TO_EPOCH = [n for n in DEFAULTS if n not in ("ChainedScheduler", "SequentialLR", "ReduceLROnPlateau")]
RECURSIVE = ("MultiplicativeLR", "SWALR")


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("updates", [True, False], ids=["after an update", "alone"])
@pytest.mark.parametrize("name", TO_EPOCH)
def test_a_fused_step_to_an_epoch(name: str, updates: bool, host_backend: Any, mirrored: bool) -> None:
    """It is instead of the step that the update has made; the step after it is one of its own."""
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": True})
    for epoch in (None, 2, 3, None, None, 5, None, 3, 3, 9, None):
        if name in RECURSIVE and updates and epoch is not None:
            epoch = pair.torchs.last_epoch + 1
        if updates:
            pair.optimizer_step()
        for one in (pair.ours, pair.torchs):
            one.step() if epoch is None else one.step(epoch)
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 1e-15, str(epoch))
        assert position(pair.ours) == position(pair.torchs)
        assert pair.ours._step_count == pair.torchs._step_count
        if epoch is not None and epoch % 3 == 0:  # a further step without an update
            pair.step()
            assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 1e-15, "alone")


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_epochs_with_fractions(host_backend: Any, mirrored: bool) -> None:
    pair = twins("CosineAnnealingWarmRestarts", lrs=[0.1, 0.3], backend=host_backend, ours={"fused": True})
    for i in range(12):
        pair.optimizer_step()
        pair.ours.step(i / 3)
        pair.torchs.step(i / 3)
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, str(i))
        assert position(pair.ours) == position(pair.torchs)
    compare_steps(pair, 3)


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("name", RECURSIVE)
def test_an_epoch_that_cannot_be_reached_any_more(name: str, host_backend: Any) -> None:
    pair = twins(name, lrs=[0.1, 0.3], backend=host_backend, ours={"fused": True})
    pair.optimizer_step()
    with pytest.raises(RuntimeError, match=rf"^step\(5\) of a fused {name} after an update that has advan"):
        pair.ours.step(5)
    pair.step()
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, "")


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_a_step_to_an_epoch_that_fails_leaves_the_account(host_backend: Any) -> None:
    pair = twins("CosineAnnealingWarmRestarts", lrs=[0.1], backend=host_backend, ours={"fused": True})
    for _ in range(2):
        pair.optimizer_step()
        for one in (pair.ours, pair.torchs):
            with pytest.raises(ValueError, match="non-negative epoch"):
                one.step(-1)
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, "")
        assert position(pair.ours) == position(pair.torchs)


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("instead", ["epoch", "load"])
@pytest.mark.parametrize("skipped", [False, True])
def test_a_skipped_update_after_a_step_to_an_epoch(
    instead: str, skipped: bool, host_backend: Any, mirrored: bool
) -> None:
    pair = twins("ExponentialLR", lrs=[0.1], backend=host_backend, ours={"fused": True})
    pair.optimizer_step()
    for one in (pair.ours, pair.torchs):
        if instead == "epoch":
            one.step(3)
        else:
            one.load_state_dict(pair.torchs.state_dict())
            for group in one.optimizer.param_groups:
                group["lr"] = 0.25
    pair.our_optimizer.found_inf = torch.full((), float(skipped))
    pair.our_optimizer.step()
    del pair.our_optimizer.found_inf
    if not skipped:
        pair.torch_optimizer.step()
    for _ in range(2):
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 1e-15, "")
        assert position(pair.ours) == position(pair.torchs)
