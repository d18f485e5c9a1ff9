"""Accelerate, with two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distributed.ranks import Ranks

from frameworks import accelerated
from frameworks import trainings as t
from frameworks.trainings import Kit, Schedule, Train

every_option = pytest.mark.parametrize("options", accelerated.OPTIONS)


def training(ranks: Ranks, options: str) -> Train:
    def train(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> list[Any]:
        return ranks.run(2, accelerated.train, kit, schedule.__name__, options, folder, begin, end)

    return train


@every_option
@t.two_schedules
@t.plain_and_fused
def test_from_the_start(kit: Kit, schedule: Schedule, options: str, ranks: Ranks, tmp_path: Path) -> None:
    train = training(ranks, options)
    t.check_same(train(kit, schedule, tmp_path, 0, t.EPOCHS), t.by_torch(train, schedule, options))


@every_option
@t.two_schedules
@t.both_ways
def test_resumed(first: Kit, then: Kit, schedule: Schedule, options: str, ranks: Ranks, tmp_path: Path) -> None:
    train = training(ranks, options)
    t.check_same(t.in_halves(train, first, then, schedule, tmp_path), t.by_torch(train, schedule, options), t.HALF)
