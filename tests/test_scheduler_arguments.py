"""Arguments of schedulers that are no numbers, no epochs or no functions, in every place where one is needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from schedule_twins import HOMES, LEAVES, OURS, TORCH, Parts, build, inverse_square_root

import fused_sched
from fused_sched.lr_scheduler import arguments as rules

NAMES = (*LEAVES, "SequentialLR", "ReduceLROnPlateau")
REQUIRED: dict[str, dict[str, Any]] = {
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 5},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.4},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": inverse_square_root},
    "MultiStepLR": {"milestones": [2, 3]},
    "MultiplicativeLR": {"lr_lambda": inverse_square_root},
    "OneCycleLR": {"max_lr": 0.4, "total_steps": 9},
    "SWALR": {"swa_lr": 0.1},
    "SequentialLR": {
        "schedulers": Parts(("StepLR", {"step_size": 3}), ("StepLR", {"step_size": 2})),
        "milestones": [4],
    },
    "StepLR": {"step_size": 3},
}
OTHERS = {  # what torch checks, or what is no number
    "anneal_epochs", "anneal_strategy", "cycle_momentum", "epochs", "mode", "optimizer", "pct_start", "scale_mode",
    "schedulers", "self", "steps_per_epoch", "three_phase", "threshold_mode", "total_steps",
}  # fmt: skip
WRONG: dict[frozenset[str], list[Any]] = {
    rules.ONE_NUMBER: ["1", b"1", None, [1], 1j, inverse_square_root],
    rules.ONE_A_GROUP: ["1", None, [0.1, "1"], (None, 0.1), inverse_square_root],
    rules.EPOCHS: ["34", None, 3, [1, "2"], {None}, inverse_square_root],
    rules.FUNCTION: ["1", None, 3, [inverse_square_root, 0.5], {}],
    rules.PLAIN_FUNCTION: ["1", 3, [inverse_square_root]],
}
UNUSUAL = [np.float32(0.5), np.int64(2), Fraction(1, 2), torch.tensor(2.0), True]


def made(home: str) -> Any:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in (0.1, 0.2)]
    return HOMES[home][0].SGD(groups, lr=0.1, momentum=0.9)


def wrong_arguments() -> Iterator[tuple[str, str, Any]]:
    for name in NAMES:
        for argument in inspect.signature(getattr(TORCH, name).__init__).parameters:
            kinds = [kind for kind in WRONG if argument in kind]
            assert len(kinds) == (argument not in OTHERS), f"{argument} of {name} is in no list, or in several"
            for value in WRONG[kinds[0]] if kinds else ():
                if value is not None or argument not in rules.OR_NONE:
                    yield name, argument, value


@pytest.mark.parametrize(("name", "argument", "value"), [*wrong_arguments()])
def test_what_is_of_another_kind_is_refused_by_its_name(name: str, argument: str, value: Any) -> None:
    optimizer = made("ours")
    before = [dict(group) for group in optimizer.param_groups]
    arguments = REQUIRED.get(name, {}) | {argument: value}
    with pytest.raises(TypeError) as caught:
        build(OURS, name, optimizer, **arguments)
    assert str(caught.value).startswith(f"{argument}={value!r} must be "), caught.value
    if name != "SequentialLR":  # its parts are there before it
        assert [dict(group) for group in optimizer.param_groups] == before


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_other_kinds_are_taken_where_torch_takes_them(name: str) -> None:
    for argument in inspect.signature(getattr(TORCH, name).__init__).parameters:
        if argument not in rules.ONE_NUMBER | rules.ONE_A_GROUP or argument == "last_epoch":
            continue
        for value in UNUSUAL:
            said = []
            for home in ("torch", "ours"):
                try:
                    build(HOMES[home][1], name, made(home), **REQUIRED.get(name, {}) | {argument: value})
                    said.append("")
                except Exception as error:  # the oracle says which
                    said.append(f"{type(error).__name__}: {error}")
            assert said[0] == said[1], (argument, value)


def test_epochs_may_come_from_anything_that_gives_them() -> None:
    for milestones in (range(2, 9, 3), (2, 5), {2, 5}, iter([2, 5]), (n for n in (2, 5)), np.array([2, 5])):
        OURS.MultiStepLR(made("ours"), milestones)


def test_a_class_of_the_users_may_call_its_arguments_as_it_likes() -> None:
    class Named(fused_sched.lr_scheduler.StepLR):
        def __init__(self, optimizer: Any, gamma: str) -> None:
            super().__init__(optimizer, 2, {"half": 0.5}[gamma])

    assert Named(made("ours"), "half").gamma == 0.5


def test_what_is_no_scheduler_is_no_part_of_a_chain() -> None:
    with pytest.raises(TypeError, match="^ChainedScheduler at index 1 has 3, which is no scheduler: give one"):
        OURS.ChainedScheduler([OURS.StepLR(made("ours"), 2), 3])
