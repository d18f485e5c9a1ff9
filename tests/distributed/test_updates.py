"""DTensor parameters of every placement are updated as torch's for-loop updates the whole tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerances import UPDATE_RELATIVE
from torch.distributed.tensor import Replicate, Shard

from distributed.ranks import Ranks
from distributed.updates import (
    copied,
    follow,
    follow_other_memory,
    kept_beside,
    refusals,
    rounded_by_chance,
    seconds_of_steps,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "AdamW": {"lr": 0.1, "amsgrad": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_placement(name: str, backend: str, dtype: torch.dtype, ranks: Ranks) -> None:
    options = {**OPTIONS[name], "backend": backend}
    worst = ranks.run(2, follow, name, [(2,)], options, dtype)
    assert max(worst) <= UPDATE_RELATIVE[dtype]


@pytest.mark.parametrize("name", OPTIONS)
def test_meshes_of_two_dimensions_beside_those_of_one(name: str, ranks: Ranks) -> None:
    worst = ranks.run(4, follow, name, [(2, 2), (4,)], OPTIONS[name], torch.float64)
    assert max(worst) <= UPDATE_RELATIVE[torch.float64]


def test_what_is_refused_says_why_and_what_to_do(ranks: Ranks) -> None:
    for said in ranks.run(2, refusals):
        assert "redistribute() it" in said["partial parameter"]
        for warm in ("", " after a step"):
            for name in ("partial gradient", "other placements"):
                assert "p.grad.redistribute(p.device_mesh, p.placements)" in said[name + warm]
        assert "no DTensor, but its parameter is a DTensor" in said["plain state"]
        assert "Replicate" in said["state elsewhere"]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_another_memory_is_followed(backend: str, ranks: Ranks) -> None:
    assert ranks.run(2, follow_other_memory, backend) == [True, True]


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"ema_decay": 0.9, "zero_grad_in_step": True}, torch.float32),
        ({"ema_decay": 0.9, "master_weights": "float32"}, torch.bfloat16),
        ({"master_weights": "remainder", "state_dtype": torch.bfloat16}, torch.bfloat16),
        ({"backend": "reference", "ema_decay": 0.9, "master_weights": "float32"}, torch.bfloat16),
    ],
    ids=["averages", "masters", "remainders", "reference"],
)
def test_what_is_kept_beside_parameters(options: dict[str, Any], dtype: torch.dtype, ranks: Ranks) -> None:
    for differences in ranks.run(2, kept_beside, options, dtype):
        assert len(differences) >= 4
        # vector lanes and the rest of a part, and of the whole tensor, are other elements
        assert max(differences.values()) <= UPDATE_RELATIVE[torch.float32]


def test_random_bits_are_those_of_a_part(ranks: Ranks) -> None:
    """Replicas round alike; parts round apart."""
    (same, _), (first, second) = (ranks.run(2, rounded_by_chance, p)[0] for p in (Replicate(), Shard(0)))
    assert len(set(same)) == 2
    assert first != second
    assert len(set(first)) == len(set(second)) == 2


def test_a_copied_optimizer_goes_on(ranks: Ranks) -> None:
    assert ranks.run(2, copied) == [True, True]


def test_time_of_a_step(ranks: Ranks) -> None:
    """On a machine that is busy with other things, one of some tries has to be undisturbed."""
    for _ in range(5):
        (taken,) = ranks.run(1, seconds_of_steps, 1000)
        if taken["parts"] <= 3 * taken["plain"] and taken["parts"] <= taken["torch"] / 10:
            return
    raise AssertionError(taken)
