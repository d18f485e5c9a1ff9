"""Lightning: its trainer, and optimizers and schedulers stepped by hand, by step and by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome, Schedule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.isinstance.treespec, LeafSpec.", "ignore:The .*dataloader.* does not have many workers"
)
STEP, EPOCH, MEASURED = {"interval": "step"}, {"interval": "epoch"}, {"interval": "epoch", "monitor": "loss"}


class Module(lightning.LightningModule):
    def __init__(self, kit: Kit, schedule: Schedule, every: dict[str, str], **options: Any) -> None:
        super().__init__()
        self.kit, self.schedule, self.every, self.options = kit, schedule, every, options
        self.model = t.model()
        self.lrs: list[float] = []

    def configure_optimizers(self) -> Any:
        optimizer = self.kit.optimizer(self.parameters(), **self.options)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(self.kit, optimizer), **self.every},
        }

    def training_step(self, batch: Any) -> torch.Tensor:
        loss = t.loss_of(self.model(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.lrs.append(t.lr_of(optimizer))


class ByHand(Module):
    """What Lightning calls manual optimization; it hands out its own wrapper of the optimizer."""

    automatic_optimization = False

    def training_step(self, batch: Any) -> None:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(t.loss_of(self.model(batch[0]), batch[1]))
        optimizer.step()
        scheduler.step()


def run(module: Module, folder: Path, begin: int, end: int, **options: Any) -> Outcome:
    saved = folder / "last.ckpt"
    trainer = lightning.Trainer(
        max_epochs=end,
        accelerator="cpu",
        precision="64-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **options},
    )
    trainer.fit(module, t.loader(), ckpt_path=saved if begin else None)
    trainer.save_checkpoint(saved)
    return Outcome.of(module.lrs, trainer.optimizers[0], module)


def train(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(Module(kit, schedule, STEP), folder, begin, end, gradient_clip_val=1.0)


def train_by_hand(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(ByHand(kit, schedule, STEP), folder, begin, end)


test_from_the_start = t.from_the_start(train)
test_resumed = t.resumed(train)


@t.plain_and_fused
def test_stepped_by_hand(kit: Kit, tmp_path: Path) -> None:
    expected = t.by_torch(train_by_hand, t.one_cycle)
    t.check_same(train_by_hand(kit, t.one_cycle, tmp_path, 0, t.EPOCHS), expected)


@t.both_ways
def test_stepped_by_hand_and_resumed(first: Kit, then: Kit, tmp_path: Path) -> None:
    found = t.in_halves(train_by_hand, first, then, t.one_cycle, tmp_path)
    t.check_same(found, t.by_torch(train_by_hand, t.one_cycle), t.HALF)


@t.plain_and_fused
def test_clipped_in_the_step(kit: Kit, tmp_path: Path) -> None:
    found = run(Module(kit, t.one_cycle, STEP, max_grad_norm=1.0), tmp_path, 0, t.EPOCHS)
    t.check_same(found, t.by_torch(train, t.one_cycle))


def train_accumulated(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(Module(kit, schedule, STEP), folder, begin, end, accumulate_grad_batches=2)


@t.plain_and_fused
def test_accumulated(kit: Kit, tmp_path: Path) -> None:
    expected = t.by_torch(train_accumulated, t.one_cycle)
    assert len(expected.lrs) == t.STEPS // 2 + 1
    t.check_same(train_accumulated(kit, t.one_cycle, tmp_path, 0, t.EPOCHS), expected)


@pytest.mark.parametrize("kit", [t.TORCH, t.OURS, t.FUSED], ids=str)
def test_lrs_that_are_logged(kit: Kit, tmp_path: Path) -> None:
    monitor = LearningRateMonitor("step")
    module = Module(kit, t.one_cycle, STEP)
    options = {"logger": CSVLogger(tmp_path), "callbacks": [monitor], "log_every_n_steps": 1}
    run(module, tmp_path, 0, t.EPOCHS, **options)
    assert monitor.lrs["lr-AdamW"] == module.lrs


def every_epoch(kit: Kit, optimizer: Any) -> Any:
    return kit.schedulers.ExponentialLR(optimizer, 0.7)


def plateau(kit: Kit, optimizer: Any) -> Any:
    return kit.schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=2.0, threshold_mode="abs")


@pytest.mark.parametrize(("schedule", "every"), [(every_epoch, EPOCH), (plateau, MEASURED)])
@t.both_ways_plain
def test_once_an_epoch(first: Kit, then: Kit, schedule: Schedule, every: dict[str, str], tmp_path: Path) -> None:
    whole = run(Module(t.TORCH, schedule, every), tmp_path, 0, t.EPOCHS)
    run(Module(first, schedule, every), tmp_path, 0, t.SAVED)
    found = run(Module(then, schedule, every), tmp_path, t.SAVED, t.EPOCHS)
    assert len(set(whole.lrs)) >= t.EPOCHS - 1
    assert found.lrs == whole.lrs[-len(found.lrs) :]
    for ours, right in zip(found.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(ours, right, rtol=t.SPREAD[right.dtype], atol=t.SPREAD[right.dtype])
