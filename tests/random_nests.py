"""Random schedulers, nested in any way."""

from __future__ import annotations

import random
from typing import Any

from measured import by_kl, halve
from schedule_twins import Decay, Parts, Recorder, inverse_square_root

Spec = tuple[str, dict[str, Any]]  # a scheduler's name and arguments


def random_leaf(rng: random.Random, n_groups: int, *, first: bool) -> Spec:
    """Any scheduler that is not made of others. OneCycleLR and SWALR only where the sequence starts with it:
    in the middle, the one fails and the other has used up its steps."""
    r = rng
    leaves: list[Spec] = [
        ("ConstantLR", {"factor": r.choice([0.3, 0.5]), "total_iters": r.choice([0, 3, 7])}),
        ("LinearLR", {"start_factor": 0.1, "end_factor": r.choice([0.5, 1.0]), "total_iters": r.choice([1, 3, 9])}),
        ("PolynomialLR", {"total_iters": r.choice([3, 30]), "power": r.choice([0, 1.0, 2.3])}),
        ("MultiplicativeLR", {"lr_lambda": r.choice([Decay(0.99), inverse_square_root, Recorder()])}),
        ("CosineAnnealingWarmRestarts", {"T_0": r.choice([1, 2, 4]), "T_mult": r.choice([1, 2]), "eta_min": 0.01}),
        ("StepLR", {"step_size": r.choice([1, 3]), "gamma": r.choice([0.5, 0.9])}),
        ("MultiStepLR", {"milestones": r.choice([[2, 5], [3, 3, 1], [0, 4]]), "gamma": 0.5}),
        ("ExponentialLR", {"gamma": r.choice([0.9, 1.01])}),
        ("CosineAnnealingLR", {"T_max": r.choice([5, 9, 50]), "eta_min": r.choice([0.0, 0.01])}),
        ("LambdaLR", {"lr_lambda": r.choice([Decay(0.95), inverse_square_root, Recorder(), [Decay(0.9)] * n_groups])}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": r.choice([1.0, [0.5] * n_groups]), "step_size_up": r.choice([2, 5]),
                      "mode": r.choice(["triangular", "exp_range"]), "gamma": 0.99}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.4, "step_size_up": 3, "scale_fn": r.choice([Decay(0.9), Recorder()]),
                      "cycle_momentum": False}),
        ("KLAdaptiveLR", {"target_kl": 0.01, "min_lr": 1e-5, "max_lr": r.choice([0.5, 1.0])}),
        ("FeedbackLR", {"function": r.choice([by_kl, halve])}),
        ("SWALR", {"swa_lr": 0.05, "anneal_epochs": r.choice([0, 5]), "anneal_strategy": r.choice(["cos", "linear"])}),
    ]  # fmt: skip
    if first:
        leaves.append(("OneCycleLR", {"max_lr": 1.0, "total_steps": 500, "three_phase": r.random() < 0.5}))
    return r.choice(leaves)


def random_nest(rng: random.Random, n_groups: int, depth: int) -> Spec:
    """A SequentialLR or ChainedScheduler up to ``depth`` deep.

    Only the first part of a sequence may be nested. Milestones are sorted or not, may repeat and may be 0.
    """

    def part(*, nested: bool) -> Spec:
        if nested and depth > 1 and rng.random() < 0.7:
            return random_nest(rng, n_groups, depth - 1)
        return random_leaf(rng, n_groups, first=nested)

    n = rng.randint(1, 4)
    if rng.random() < 0.5:
        return "ChainedScheduler", {"schedulers": Parts(*(part(nested=True) for _ in range(n)))}
    milestones = [rng.randint(1, 40) for _ in range(n - 1)]
    milestones = rng.choice([milestones, sorted(milestones), sorted(milestones)])
    if n > 1 and rng.random() < 0.15:
        milestones[1:] = milestones[:1] * (n - 2)
    parts = [part(nested=True), *(part(nested=False) for _ in range(n - 1))]
    return "SequentialLR", {"schedulers": Parts(*parts), "milestones": milestones}
