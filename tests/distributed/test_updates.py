"""DTensor parameters of every placement are updated as torch's for-loop updates the whole tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tolerances import CLIPPED_RELATIVE, UPDATE_RELATIVE
from torch.distributed.tensor import Replicate, Shard

from distributed import updates as u
from distributed.ranks import Ranks
from fused_sched import backends

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "AdamW": {"lr": 0.1, "amsgrad": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_placement(name: str, kernels: str, dtype: torch.dtype, ranks: Ranks) -> None:
    options = {**OPTIONS[name], "backend": kernels}
    worst = ranks.run(2, u.follow, name, [(2,)], options, dtype)
    assert max(worst) <= UPDATE_RELATIVE[dtype]


@pytest.mark.parametrize("name", OPTIONS)
def test_meshes_of_two_dimensions_beside_those_of_one(name: str, ranks: Ranks) -> None:
    worst = ranks.run(4, u.follow, name, [(2, 2), (4,)], OPTIONS[name], torch.float64)
    assert max(worst) <= UPDATE_RELATIVE[torch.float64]


def test_what_is_refused_says_why_and_what_to_do(ranks: Ranks) -> None:
    for said in ranks.run(2, u.refusals):
        assert "redistribute() it" in said["partial parameter"]
        for warm in ("", " after a step"):
            for name in ("partial gradient", "other placements"):
                assert "p.grad.redistribute(p.device_mesh, p.placements)" in said[name + warm]
        assert "no DTensor, but its parameter is a DTensor" in said["plain state"]
        assert "Replicate" in said["state elsewhere"]


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_another_memory_is_followed(kernels: str, ranks: Ranks) -> None:
    assert ranks.run(2, u.follow_other_memory, kernels) == [True, True]


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_gradients_that_have_not_arrived(kernels: str, ranks: Ranks) -> None:
    for difference, kept in ranks.run(2, u.gradients_on_their_way, kernels):
        assert difference <= UPDATE_RELATIVE[torch.float64]
        assert kept  # the table was not made anew


def test_what_python_alone_sees(ranks: Ranks) -> None:
    if backends.reason_unavailable("triton") is not None:
        pytest.skip("triton cannot run here")
    assert max(ranks.run(2, u.follow_by_python)) <= UPDATE_RELATIVE[torch.float64]


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
    for differences in ranks.run(2, u.kept_beside, options, dtype):
        assert len(differences) >= 4
        # vector lanes and the rest of a part, and of the whole tensor, are other elements
        assert max(differences.values()) <= UPDATE_RELATIVE[torch.float32]


def test_random_bits_are_those_of_a_part(ranks: Ranks) -> None:
    """Replicas round alike; parts round apart."""
    (same, _), (first, second) = (ranks.run(2, u.rounded_by_chance, p)[0] for p in (Replicate(), Shard(0)))
    assert len(set(same)) == 2
    assert first != second
    assert len(set(first)) == len(set(second)) == 2


def test_a_copied_optimizer_goes_on(ranks: Ranks) -> None:
    assert ranks.run(2, u.copied) == [True, True]


def test_time_of_a_step(ranks: Ranks) -> None:
    """On a machine that is busy with other things, one of some tries has to be undisturbed."""
    for _ in range(5):
        (taken,) = ranks.run(1, u.seconds_of_steps, 1000)
        if taken["parts"] <= 3 * taken["plain"] and taken["parts"] <= taken["torch"] / 10:
            return
    raise AssertionError(taken)


CLIPS: dict[str, dict[str, Any]] = {
    "all": {"max_grad_norm": 3.0, "skip_nonfinite": True},
    "groups": {"max_grad_norm": 2.0, "norm_scope": "group", "skip_nonfinite": True},
}


@pytest.mark.parametrize("scope", CLIPS)
@pytest.mark.parametrize("kernels", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("world", "shapes"), [(2, [(2,)]), (4, [(2, 2)])], ids=["line", "plane"])
def test_clipping(scope: str, kernels: str, world: int, shapes: list[tuple[int, ...]], ranks: Ranks) -> None:
    check_clipping(world, shapes, {**CLIPS[scope], "backend": kernels}, ranks)


def test_clipping_by_launches_of_a_gpu(ranks: Ranks) -> None:
    check_clipping(2, [(2,)], {**CLIPS["groups"], "backend": "triton"}, ranks)


def check_clipping(world: int, shapes: list[tuple[int, ...]], options: dict[str, Any], ranks: Ranks) -> None:
    if backends.reason_unavailable(options["backend"]) is not None:
        pytest.skip(f"{options['backend']} cannot run here")
    n_shapes = 2 if options["backend"] == "triton" else 7
    results = ranks.run(world, u.clipped, "SGD", shapes, options, n_shapes, seconds=300)
    for found in results:
        assert str(found["norms"]) == str(results[0]["norms"])  # the same bits on all ranks, one of them NaN
        for norms, right in zip(found["norms"], found["right"], strict=True):
            assert norms == pytest.approx(right, rel=1e-12, nan_ok=True)
        assert found["skipped"] == [1, 1]
        assert found["worst"] <= CLIPPED_RELATIVE[torch.float64]


def test_clipping_is_one_collective(ranks: Ranks) -> None:
    for options in ({}, {"norm_scope": "group"}, {"skip_nonfinite": True, "backend": "reference"}):
        assert ranks.run(2, u.collectives_of_a_step, options) == [1, 1]


def test_the_norm_is_torchs(ranks: Ranks) -> None:
    for expected, found in ranks.run(2, u.torchs_norm):
        assert found == pytest.approx(expected, rel=1e-14)


def test_every_rank_skips_what_one_does(ranks: Ranks) -> None:
    assert ranks.run(2, u.spikes) == [[0] * 9 + [1] * 3] * 2
    for backend in ("cpu", "reference"):
        assert ranks.run(2, u.found_by_one, backend) == [(1, [0.75] * 6)] * 2


def test_meshes_whose_norm_no_collective_finds(ranks: Ranks) -> None:
    for said in ranks.run(4, u.meshes_apart):
        assert "of which neither is a slice of the other" in said
        assert "make an optimizer for each mesh" in said


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": math.inf}], ids=["alone", "measured"])
def test_an_infinity_that_one_process_finds(options: dict[str, Any], ranks: Ranks) -> None:
    results = ranks.run(2, u.scaled, options)
    assert results[0] == results[1]
    for (ours, scale), (right, expected) in results:
        assert ours == pytest.approx(right, rel=1e-14)
        assert scale == expected


def test_the_first_version_of_fsdp(ranks: Ranks) -> None:
    for difference, said in ranks.run(2, u.first_version):
        assert difference <= UPDATE_RELATIVE[torch.float32]
        assert "use fully_shard" in said


def test_each_process_with_parameters_of_its_own(ranks: Ranks) -> None:
    for said in ranks.run(2, u.redundancy):
        assert all("ZeroRedundancyOptimizer" in text and "clip_grad_norm_() of all parameters" in text for text in said)
