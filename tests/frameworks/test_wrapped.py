"""DDP, FSDP1 and ZeroRedundancyOptimizer, with two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distributed.ranks import Ranks

from frameworks import trainings as t
from frameworks import wrapped
from frameworks.trainings import Kit, Schedule, Train


def training(ranks: Ranks, way: str) -> Train:
    def train(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> list[Any]:
        return ranks.run(2, wrapped.train, way, kit, schedule.__name__, folder, begin, end)

    return train


def is_possible(way: str, schedule: Schedule, *kits: Kit) -> bool:
    """torch refuses schedules of betas with ZeroRedundancyOptimizer, and ours fused ones: its groups are copies."""
    return not way.startswith("ZeRO") or (schedule is not t.one_cycle and t.FUSED not in kits)


def cases(*kits: tuple[Kit, ...]) -> list[Any]:
    chosen = ((way, schedule, these) for these in kits for schedule in t.SCHEDULES[:2] for way in wrapped.WAYS)
    return [
        pytest.param(way, schedule, these, id=f"{way} {schedule.__name__} {' '.join(map(str, these))}")
        for way, schedule, these in chosen
        if is_possible(way, schedule, *these)
    ]


@pytest.mark.parametrize(("way", "schedule", "kits"), cases((t.OURS,), (t.FUSED,)))
def test_from_the_start(way: str, schedule: Schedule, kits: tuple[Kit], ranks: Ranks, tmp_path: Path) -> None:
    train = training(ranks, way)
    t.check_same(train(*kits, schedule, tmp_path, 0, t.EPOCHS), t.by_torch(train, schedule, way))


@pytest.mark.parametrize(("way", "schedule", "kits"), cases(*t.BOTH_WAYS))
def test_resumed(way: str, schedule: Schedule, kits: tuple[Kit, Kit], ranks: Ranks, tmp_path: Path) -> None:
    train = training(ranks, way)
    t.check_same(t.in_halves(train, *kits, schedule, tmp_path), t.by_torch(train, schedule, way), t.HALF)


def test_fused_with_zero_is_refused(ranks: Ranks) -> None:
    for said in ranks.run(2, wrapped.fused_with_zero):
        assert "fused and skip_with_optimizer need an optimizer of fused_sched.optim" in said
        assert "ZeroRedundancyOptimizer" in said
