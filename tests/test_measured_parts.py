"""ReduceLROnPlateau by what is observed, and parts of sequences and chains that follow a measurement."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from measured import lrs_of, observe_and_step
from schedule_twins import TORCH, made_with, optimizer, patience

from fused_sched.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    FeedbackLR,
    KLAdaptiveLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)


def test_a_plateau_decides_by_what_was_observed_as_by_what_it_is_given(
    rng: random.Random, host_backend: Any, mirrored: bool
) -> None:
    for _ in range(5):
        arguments = {"factor": 0.5, "patience": rng.choice([0, 1]), "cooldown": rng.choice([0, 1, 2]), "min_lr": 1e-4}
        arguments |= {"mode": rng.choice(["min", "max"]), "threshold_mode": rng.choice(["rel", "abs"])}
        mine, theirs = made_with([0.4, 0.1], host_backend), optimizer(torch.optim, "SGD", [0.4, 0.1])
        ours, oracle = ReduceLROnPlateau(mine, **arguments), TORCH.ReduceLROnPlateau(theirs, **arguments)
        for _ in range(40):
            metric = rng.choice([rng.random(), math.nan, 0.5, math.inf, -math.inf])
            given = torch.tensor(metric, dtype=torch.float64) if rng.random() < 0.5 else metric
            if rng.random() < 0.3:
                ours.step(given)
            else:
                observe_and_step(ours, given)
            oracle.step(metric)
            assert lrs_of(mine) == lrs_of(theirs)
            assert ours.state_dict() == oracle.state_dict()


def test_a_plateau_that_observes_nothing_is_told(host_backend: Any) -> None:
    scheduler = ReduceLROnPlateau(made_with([0.4], host_backend))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'metrics': give it, or hand it over"):
        scheduler.step()
    assert scheduler.last_epoch == 0


def _both(host_backend: Any, lrs: list[float], make: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    made = made_with(lrs, host_backend)
    return made, *make(made)


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_parts_of_a_sequence(tensor: bool, backend: Any, mirrored: bool) -> None:
    """Up in a line, then by the divergence, then by a plateau: each part has what is observed while it is there."""
    made = made_with([1e-3, 2e-3], backend)
    kl, plateau = KLAdaptiveLR(made), ReduceLROnPlateau(made, factor=0.5, patience=0)
    scheduler = SequentialLR(made, [LinearLR(made, 0.25, total_iters=2), kl, plateau], [3, 7])
    assert scheduler.program is not None
    expected = [0.625, 1, 1, 1.5, 1.5**2, 1.5**3, 1.5**3, 1.5**3, 1.5**3 / 2, 1.5**3 / 4]
    for step, factor in enumerate(expected[: max(5, patience(backend, 10))]):
        kl.observe(torch.tensor(0.001) if tensor else 0.001)
        plateau.observe(torch.tensor(1.0) if tensor else 1.0)
        scheduler.step()
        assert lrs_of(made) == pytest.approx([1e-3 * factor, 2e-3 * factor], rel=1e-12), step
        assert kl.observed is plateau.observed is None
    if patience(backend, 10) == 10:
        assert (kl.last_epoch, plateau.last_epoch, plateau.best) == (3, 3, 1.0)
        before = lrs_of(made)
        kl.observe(0.001)
        scheduler.step()
        assert lrs_of(made) == before


def test_parts_of_a_chain_and_deeper(host_backend: Any, mirrored: bool) -> None:
    made = made_with([0.1, 0.2], host_backend)
    plateau = ReduceLROnPlateau(made, factor=0.5, patience=0)
    feedback = FeedbackLR(made, lambda lr, x: lr * x)
    inner = ChainedScheduler([plateau, ExponentialLR(made, 0.5), feedback])
    scheduler = SequentialLR(made, [inner, StepLR(made, 100)], [4], fused=True)
    factor = 0.5  # torch's constructor of a sequence has made a step of the chain
    for step in range(4):
        for group in made.param_groups:
            group["params"][0].grad = torch.ones_like(group["params"][0])
        if step:
            plateau.observe(1.0)
            feedback.observe(torch.tensor(4.0))
        made.step()
        if step < 3:
            factor *= 0.5 * (4.0 if step else 1.0) * (0.5 if step == 2 else 1.0)
            assert lrs_of(made) == pytest.approx([0.1 * factor, 0.2 * factor], rel=1e-12), step
            scheduler.step()
    assert lrs_of(made) == [0.1, 0.2]  # StepLR has begun
    assert scheduler.program is plateau.program is feedback.program


def test_a_state_of_parts_goes_on(host_backend: Any, mirrored: bool) -> None:
    def make(made: Any) -> Any:
        parts = [LinearLR(made, 0.5, total_iters=2), KLAdaptiveLR(made, max_lr=1.0)]
        return ChainedScheduler([SequentialLR(made, parts, [2]), ReduceLROnPlateau(made, patience=0, factor=0.5)])

    first, second = make(made_with([0.1, 0.2], host_backend)), make(made_with([0.1, 0.2], host_backend))
    copied = None
    for step in range(8):
        runs = [first, second] if copied is None else [first, second, copied]
        for one in runs:
            one._schedulers[0]._schedulers[1].observe(5.0)
            one._schedulers[1].observe(float(step % 3))
        if step == 4:
            second = make(made_with([0.9, 0.9], host_backend))
            second.optimizer.load_state_dict(first.optimizer.state_dict())
            second.load_state_dict(first.state_dict())
            copied = copy.deepcopy(first)
            runs = [first, second, copied]
        for one in runs:
            one.step()
        assert all(lrs_of(one.optimizer) == lrs_of(first.optimizer) for one in runs)
        assert all(one.state_dict() == first.state_dict() for one in runs)
    assert lrs_of(first.optimizer)[0] < 0.01


def test_parts_where_python_makes_the_steps(host_backend: Any, mirrored: bool) -> None:
    """Beside a scheduler of torch's own, and beside a function that cannot be traced."""
    results = []
    for other in (lambda o: ExponentialLR(o, 0.5), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)):
        made = made_with([0.1], host_backend)
        kl, plateau = KLAdaptiveLR(made, max_lr=1.0), ReduceLROnPlateau(made, patience=0, factor=0.5)
        ours = other(made).__class__ is ExponentialLR
        found = []
        with nullcontext() if ours else pytest.warns(UserWarning, match="ExponentialLR, which is not of fused_sched"):
            chain = ChainedScheduler([other(made), plateau])
            scheduler = SequentialLR(made, [chain, kl], [4])
        for step in range(9):
            kl.observe(5.0)
            if step % 2:
                plateau.observe(1.0)
            scheduler.step()
            found.append((lrs_of(made), kl.observed, plateau.observed, kl.last_epoch, plateau.state_dict()))
        results.append(found)
        assert (scheduler.program is None) is not ours
    assert results[0] == results[1]


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_a_part_that_raises_leaves_the_others_their_observation(
    tensor: bool, host_backend: Any, mirrored: bool
) -> None:
    made = made_with([0.1], host_backend)
    kl, feedback = KLAdaptiveLR(made, max_lr=1.0), FeedbackLR(made, lambda lr, x: lr / x)
    feedback._audit.done = True  # it is not called before the step, as is so after 64 of them
    scheduler = ChainedScheduler([kl, feedback])
    for signal in (0.0, 2.0):
        if signal == 0.0:
            kl.observe(torch.tensor(5.0) if tensor else 5.0)
        feedback.observe(torch.tensor(signal) if tensor else signal)
        if signal == 0.0:
            with pytest.raises(ZeroDivisionError):
                scheduler.step()
            assert (kl.observed, kl.last_epoch, feedback.last_epoch, lrs_of(made)) == (5.0, 0, 0, [0.1])
    scheduler.step()
    assert lrs_of(made) == [0.1 / 1.5 / 2.0]
    assert kl.observed is feedback.observed is None


def test_torchs_own_plateau_is_refused_as_torch_does(host_backend: Any) -> None:
    made = made_with([0.1], host_backend)
    parts = [ExponentialLR(made, 0.5), torch.optim.lr_scheduler.ReduceLROnPlateau(made)]
    for make in (lambda: ChainedScheduler(parts), lambda: SequentialLR(made, parts, [3])):
        with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau` scheduler as it requires"):
            make()
    for make in (lambda p: TORCH.ChainedScheduler(p), lambda p: TORCH.SequentialLR(made, p, [3])):
        with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau` scheduler as it requires"):
            make([ExponentialLR(made, 0.5), ReduceLROnPlateau(made)])
    theirs = ReduceLROnPlateau(made_with([0.1], host_backend))
    with pytest.raises(ValueError, match="expects all schedulers to belong to the same optimizer"):
        ChainedScheduler([parts[0], theirs])


def test_a_plateau_alone_in_a_sequence_needs_no_initial_lr(host_backend: Any) -> None:
    made = made_with([0.1], host_backend)
    first, second = (ReduceLROnPlateau(made, patience=0, factor=0.5) for _ in range(2))
    scheduler = SequentialLR(made, [first, second], [3])
    for _ in range(7):
        first.observe(1.0)
        second.observe(1.0)
        scheduler.step()
    assert lrs_of(made) == [0.1 * 0.5**4]
    assert (first.last_epoch, second.last_epoch) == (2, 4)


def test_a_part_that_is_stepped_by_itself(host_backend: Any, mirrored: bool) -> None:
    made = made_with([0.1], host_backend)
    plateau, kl = ReduceLROnPlateau(made, patience=0, factor=0.5), KLAdaptiveLR(made, max_lr=1.0)
    scheduler = ChainedScheduler([plateau, kl, CosineAnnealingLR(made, 10)])
    plateau.step(1.0)
    observe_and_step(plateau, 1.0)
    assert lrs_of(made) == [0.05]
    observe_and_step(kl, 1.0)
    assert lrs_of(made) == [0.05 / 1.5]
    assert scheduler._schedulers[2].last_epoch == 0
    assert (plateau.last_epoch, kl.last_epoch) == (2, 1)


def test_subclasses_that_override_a_method_run_on_the_host(host_backend: Any, mirrored: bool) -> None:
    class Halving(KLAdaptiveLR):
        def get_lr(self) -> list[Any]:
            return [lr * 0.5 for lr in super().get_lr()]

    made = made_with([0.9], host_backend)
    with pytest.warns(UserWarning, match="Halving overrides get_lr of .*, which has a state of its own"):
        scheduler = Halving(made, max_lr=1.0)
    assert lrs_of(made) == [0.45]
    observe_and_step(scheduler, torch.tensor(5.0))
    assert lrs_of(made) == [0.45 / 1.5 * 0.5]
    scheduler.step()
    assert lrs_of(made) == [0.45 / 1.5 * 0.5 * 0.5]
