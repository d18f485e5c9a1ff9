"""Ignite: a scheduler in an event handler; and Ignite's own wrapper of schedulers, which makes steps by get_lr()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, LRScheduler, create_lr_scheduler_with_warmup

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome, Schedule


def run(kit: Kit, make: Schedule, folder: Path, begin: int, end: int, wrapped: bool) -> Outcome:
    model = t.model()
    optimizer = kit.optimizer(model.parameters())
    scheduler = make(kit, optimizer)
    trainer = create_supervised_trainer(model, optimizer, torch.nn.MSELoss())
    if wrapped:
        scheduler = LRScheduler(scheduler)
        trainer.add_event_handler(Events.ITERATION_STARTED, scheduler)
    else:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    lrs: list[float] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: lrs.append(t.lr_of(optimizer)))
    everything = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "trainer": trainer}
    saver = Checkpoint(everything, DiskSaver(str(folder), require_empty=False), filename_pattern="all.pt")
    trainer.add_event_handler(Events.COMPLETED, saver)
    if begin:
        Checkpoint.load_objects(everything, torch.load(folder / "all.pt"))
    trainer.run(t.loader(), max_epochs=end)
    return Outcome.of(lrs, optimizer, model)


def train(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(kit, schedule, folder, begin, end, wrapped=False)


test_from_the_start = t.from_the_start(train)
test_resumed = t.resumed(train)


# -- its own wrapper ---------------------------------------------------------------------------------------


def cosine(kit: Kit, optimizer: Any) -> Any:
    return kit.schedulers.CosineAnnealingLR(optimizer, t.STEPS, **kit.fused)


def exponential(kit: Kit, optimizer: Any) -> Any:
    return kit.schedulers.ExponentialLR(optimizer, 0.9, **kit.fused)


def restarts(kit: Kit, optimizer: Any) -> Any:
    return kit.schedulers.CosineAnnealingWarmRestarts(optimizer, 5, 2, **kit.fused)


SAVED_BY_IGNITE = [cosine, t.one_cycle, t.of_a_function, exponential]  # it cannot load the state of restarts
every_wrapped = pytest.mark.parametrize("schedule", [*SAVED_BY_IGNITE, restarts])


def train_wrapped(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(kit, schedule, folder, begin, end, wrapped=True)


@every_wrapped
def test_wrapped(schedule: Schedule, tmp_path: Path) -> None:
    t.check_same(train_wrapped(t.OURS, schedule, tmp_path, 0, t.EPOCHS), t.by_torch(train_wrapped, schedule))


@pytest.mark.parametrize("schedule", SAVED_BY_IGNITE)
@t.both_ways_plain
def test_wrapped_and_resumed(first: Kit, then: Kit, schedule: Schedule, tmp_path: Path) -> None:
    found = t.in_halves(train_wrapped, first, then, schedule, tmp_path)
    t.check_same(found, t.by_torch(train_wrapped, schedule), t.HALF)


@pytest.mark.parametrize("schedule", [cosine, t.one_cycle, t.of_a_function, exponential])
def test_wrapped_and_fused_is_refused(schedule: Schedule, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="as Ignite's LRScheduler does.*leave out fused"):
        train_wrapped(t.FUSED, schedule, tmp_path, 0, t.EPOCHS)


@every_wrapped
def test_simulated(schedule: Schedule) -> None:
    rows = []
    for kit in (t.TORCH, t.OURS):
        optimizer = kit.optimizer(t.model().parameters())
        made = schedule(kit, optimizer)
        rows.append([*LRScheduler.simulate_values(t.STEPS, made), t.lr_of(optimizer), made.last_epoch])
    assert rows[0] == rows[1]


@every_wrapped
def test_after_ignites_warm_up(schedule: Schedule) -> None:
    rows: list[list[float]] = []
    for kit in (t.TORCH, t.OURS):
        optimizer = kit.optimizer(t.model().parameters())
        warmed = create_lr_scheduler_with_warmup(schedule(kit, optimizer), 0.001, 4)
        rows.append([])
        for _ in range(t.STEPS):
            warmed(None)
            rows[-1].append(t.lr_of(optimizer))
    assert len(set(rows[0])) > t.STEPS // 2
    assert rows[0] == rows[1]
