"""A training that is spread over processes is the one of a single process, and so it is after a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tolerances import SPREAD

from distributed.ranks import GONE, Ranks
from distributed.training import (
    Outcome,
    Training,
    Way,
    go_on,
    go_on_with_all,
    train,
    train_all,
    train_and_save,
    train_and_save_all,
    train_and_vanish,
)

STEPS, SAVED = 10, 5
ALONE = Training()


def check_same(found: Outcome, expected: Outcome, dtype: torch.dtype = torch.float64) -> None:
    assert found[1] == expected[1][-len(found[1]) :]  # to the bit
    for mine, right in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(mine, right, rtol=SPREAD[dtype], atol=SPREAD[dtype])


@pytest.mark.parametrize(("way", "world"), [("ddp", 2), ("fsdp", 2), ("fsdp", 4), ("hybrid", 4), ("two dimensions", 4)])
@pytest.mark.parametrize("dtype", SPREAD, ids=str)
def test_of_one_process(way: Way, world: int, dtype: torch.dtype, ranks: Ranks) -> None:
    expected = train(Training(dtype=dtype, ours=False), STEPS)
    for found in ranks.run(world, train, Training(way, dtype=dtype), STEPS):
        check_same(found, expected, dtype)


@pytest.mark.parametrize(("way", "world"), [("fsdp", 2), ("fsdp", 4), ("hybrid", 4), ("two dimensions", 4)])
def test_clipped_in_the_step(way: Way, world: int, ranks: Ranks) -> None:
    """As torch clips on one process; of the two dimensions, some parameters are on both and others on one."""
    expected = train(Training(ours=False, clip=0.5), STEPS)
    assert any(map(torch.ne, expected[0][0].flatten(), train(Training(ours=False), STEPS)[0][0].flatten()))
    options = {"max_grad_norm": 0.5, "skip_nonfinite": True}
    for found in ranks.run(world, train, Training(way, options=options), STEPS):
        check_same(found, expected)


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
def test_resumed_on_another_number_of_ranks(world: int, flatten: bool, ranks: Ranks, tmp_path: Path) -> None:
    training = Training("fsdp", flatten=flatten)
    ranks.run(2, train_and_save, training, SAVED, str(tmp_path))
    for found in ranks.run(world, go_on, training, SAVED, STEPS, str(tmp_path)):
        check_same(found, train(ALONE, STEPS))


@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False)], ids=["from torch", "to torch"])
def test_resumed_by_torchs_class_and_from_it(
    first: bool, then: bool, flatten: bool, ranks: Ranks, tmp_path: Path
) -> None:
    ranks.run(2, train_and_save, Training("fsdp", first, flatten=flatten), SAVED, str(tmp_path))
    for found in ranks.run(2, go_on, Training("fsdp", then, flatten=flatten), SAVED, STEPS, str(tmp_path)):
        check_same(found, train(ALONE, STEPS))


@pytest.mark.parametrize("master", ["float32", "remainder"])
def test_masters_are_resumed(master: str, ranks: Ranks, tmp_path: Path) -> None:
    """In parts, as neither gloo nor NCCL gathers the int16 of a remainder."""
    training = Training("fsdp", dtype=torch.bfloat16, options={"master_weights": master})
    expected = ranks.run(2, train, training, STEPS)
    ranks.run(2, train_and_save, training, SAVED, str(tmp_path))
    for found, right in zip(ranks.run(2, go_on, training, SAVED, STEPS, str(tmp_path)), expected, strict=True):
        assert all(map(torch.equal, found[0], right[0]))
        assert found[1] == right[1][SAVED:]


def test_a_rank_that_is_killed(ranks: Ranks, tmp_path: Path) -> None:
    training = Training("fsdp")
    (well, trace), gone = ranks.outcomes(2, train_and_vanish, training, SAVED, STEPS, str(tmp_path), seconds=50)
    assert gone == (False, GONE)
    assert not well
    assert "onnection" in trace or "imed out" in trace, trace  # what gloo says of the other, and no result
    for found in ranks.run(2, go_on, training, SAVED, STEPS, str(tmp_path)):
        check_same(found, train(ALONE, STEPS))


@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
def test_averages_and_skipped_steps_are_resumed(flatten: bool, ranks: Ranks, tmp_path: Path) -> None:
    options = {"max_grad_norm": 0.5, "skip_nonfinite": True, "ema_decay": 0.8}
    expected, averages, skipped = train_all(Training(options=options), SAVED - 1, STEPS)
    training = Training("fsdp", options=options, flatten=flatten)
    ranks.run(2, train_and_save_all, training, SAVED, str(tmp_path))
    for found, averaged, seen in ranks.run(4, go_on_with_all, training, SAVED, STEPS, str(tmp_path)):
        check_same(found, expected)
        check_same((averaged, found[1]), (averages, found[1]))
        assert seen == skipped == 1
