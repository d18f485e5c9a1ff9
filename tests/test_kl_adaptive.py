"""KLAdaptiveLR: the rules of rsl_rl and skrl to the bit, and what may be changed."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from measured import EDGES, lrs_of, observe_and_step, rsl_rl, same_lrs, skrl, unread
from schedule_twins import made_with, patience, random_lrs

from fused_sched.lr_scheduler import KLAdaptiveLR

TRACES = 2_500  # of each rule and kind of signal


def _random_kl(rng: random.Random, target: float, factor: float) -> float:
    number = rng.choice([target * factor, target / factor, target, 10.0 ** rng.uniform(-9, 2)])
    near = rng.choice([number, math.nextafter(number, 0.0), math.nextafter(number, math.inf), number])
    return rng.choice([near, near, near, near * rng.uniform(0.5, 2.0), rng.choice(EDGES)])


@pytest.mark.parametrize("rule", ["rsl_rl", "skrl"])
def test_ten_thousand_random_traces_have_the_bits_of_other_libraries(
    rule: str, host_backend: Any, mirrored: bool, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numbers on the CPU, and as tensors where the host has a mirror, and reads nothing."""
    programs = 20
    for _ in range(programs):
        n = rng.randint(1, 4)
        target = rng.choice([0.01, 0.008, 10.0 ** rng.uniform(-4, 0)])
        arguments: dict[str, Any] = {"target_kl": target}
        if rule == "rsl_rl":
            arguments |= {"min_lr": 1e-5}
        else:
            low = [10.0 ** rng.uniform(-8, -5) for _ in range(n)]
            arguments |= {"kl_factor": rng.uniform(1.1, 4), "lr_factor": rng.uniform(1.01, 3), "min_lr": low}
            arguments |= {"max_lr": [x * 10 ** rng.uniform(0, 4) for x in low], "ignore_zero": False}
        made = made_with(random_lrs(rng, n), host_backend, rng.choice(["SGD", "Adam"]))
        scheduler = KLAdaptiveLR(made, **arguments)
        assert scheduler.program is not None
        for _ in range(TRACES // programs):
            lrs = [10.0 ** rng.uniform(-9, 0) for _ in range(n)]
            for group, lr in zip(made.param_groups, lrs, strict=True):
                group["lr"] = lr
            kls = [_random_kl(rng, target, arguments.get("kl_factor", 2.0)) for _ in range(rng.randint(1, 12))]
            given = [*torch.tensor(kls, dtype=torch.float64)] if mirrored else kls
            with unread(monkeypatch) if mirrored else nullcontext():
                for kl in given:
                    scheduler.observe(kl)
                    scheduler.step()
            for kl in kls:
                if rule == "rsl_rl":
                    lrs = [rsl_rl(lr, kl, target) for lr in lrs]
                else:
                    lrs = [skrl(lr, kl, arguments, g) for g, lr in enumerate(lrs)]
            assert same_lrs(lrs_of(made), lrs), (arguments, kls)
            assert same_lrs(scheduler.get_last_lr(), lrs)
        assert scheduler.explain().startswith("KLAdaptiveLR is a program on")


def test_every_backend_has_the_same_bits(rng: random.Random, backend: Any, mirrored: bool) -> None:
    for _ in range(2):
        made = made_with([0.001, 0.02, 1e-6], backend)
        scheduler, lrs = KLAdaptiveLR(made, min_lr=1e-5), [0.001, 0.02, 1e-6]
        for _ in range(patience(backend, 60)):
            kl = _random_kl(rng, 0.01, 2.0)
            observe_and_step(scheduler, torch.tensor(kl, dtype=torch.float64) if rng.random() < 0.5 else kl)
            lrs = [rsl_rl(lr, kl, 0.01) for lr in lrs]
            assert same_lrs(lrs_of(made), lrs)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"target_kl": 0.0}, ValueError, r"^target_kl=0.0 must be finite and above 0: "),
    ({"target_kl": -1}, ValueError, r"^target_kl=-1.0 must be finite and above 0: "),
    ({"target_kl": math.nan}, ValueError, "^target_kl=nan must be finite"),
    ({"kl_factor": 1}, ValueError, "^kl_factor=1.0 must be finite and above 1: "),
    ({"kl_factor": math.inf}, ValueError, "^kl_factor=inf must be finite"),
    ({"lr_factor": 0.5}, ValueError, "^lr_factor=0.5 must be finite and above 1: "),
    ({"min_lr": 0.1, "max_lr": 0.01}, ValueError, "^min_lr=0.1 and max_lr=0.01 must be finite, with 0 <= min_lr <="),
    ({"min_lr": -1e-6}, ValueError, "^min_lr=-1e-06 and max_lr=0.01 must be finite, with 0 <="),
    ({"max_lr": math.inf}, ValueError, "^min_lr=1e-06 and max_lr=inf must be finite"),
    ({"min_lr": [1e-6, 0.5]}, ValueError, "^min_lr=0.5 and max_lr=0.01 of group 1 must be finite"),
    ({"min_lr": [1e-6]}, ValueError, "^min_lr is a list of 1 for 2 param groups: give one a group$"),
    ({"max_lr": [0.1] * 3}, ValueError, "^max_lr is a list of 3 for 2 param groups: give one a group$"),
    ({"target_kl": "0.01"}, TypeError, "^target_kl='0.01' must be a number, but is a str$"),
    ({"min_lr": None}, TypeError, "^min_lr=None must be a number, but is a NoneType$"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str, host_backend: Any) -> None:
    made = made_with([0.1, 0.2], host_backend)
    before = made.state_dict()["param_groups"]
    with pytest.raises(error, match=message):
        KLAdaptiveLR(made, **arguments)
    assert made.state_dict()["param_groups"] == before


EDITS: dict[str, Any] = {
    "target_kl": 0.3, "kl_factor": 5.0, "lr_factor": 1.25, "min_lr": 0.25, "max_lr": [0.5, 0.6], "ignore_zero": False,
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edited_attributes_count_from_the_next_step_on(name: str, host_backend: Any, mirrored: bool) -> None:
    arguments: dict[str, Any] = {"target_kl": 0.01, "max_lr": 1.0, "min_lr": 1e-6}
    made, lrs = made_with([0.3, 0.4], host_backend), [0.3, 0.4]
    scheduler = KLAdaptiveLR(made, **arguments)
    arguments |= {"kl_factor": 2.0, "lr_factor": 1.5, "ignore_zero": True}
    for step in range(24):
        if step == 8:
            setattr(scheduler, name, EDITS[name])
            arguments[name] = EDITS[name]
        if step == 14:
            made.param_groups[1]["lr"] = lrs[1] = 0.123
        kl = [0.5, 0.07, 0.003, 0.0, 0.07, 0.5, 0.0, 0.03][step % 8]
        scheduler.observe(kl)
        scheduler.step()
        if kl or not arguments["ignore_zero"]:
            bounds = {
                k: arguments[k] if isinstance(arguments[k], list) else [arguments[k]] * 2 for k in ("min_lr", "max_lr")
            }
            lrs = [skrl(lr, kl, {**arguments, **bounds}, g) for g, lr in enumerate(lrs)]
        assert lrs_of(made) == lrs, step
    scheduler.target_kl = -1.0
    with pytest.raises(ValueError, match="^target_kl=-1.0 must be finite and above 0"):
        scheduler.step()
    assert lrs_of(made) == lrs
    scheduler.target_kl = arguments["target_kl"]
    observe_and_step(scheduler, 0.01)
