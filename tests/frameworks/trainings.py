"""What every framework trains here, and how a training with our classes is compared with the one with torch's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tolerances import SPREAD
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fused_sched import lr_scheduler, optim

BATCHES, BATCH = 4, 8  # batches of an epoch, and samples of a batch
EPOCHS, SAVED = 4, 2  # of a whole training, and of its first half
STEPS = EPOCHS * BATCHES
LR, WEIGHT_DECAY = 0.05, 0.1


@dataclass(frozen=True)
class Kit:
    """Whose optimizer and scheduler a training has.

    Attributes:
        by: torch's classes, ours, or ours with the schedule inside of the optimizer's step.
    """

    by: Literal["torch", "ours", "fused"]

    def __str__(self) -> str:
        return self.by

    @property
    def fused(self) -> dict[str, bool]:
        """A keyword of schedulers."""
        return {"fused": True} if self.by == "fused" else {}

    @property
    def optimizers(self) -> Any:
        return torch.optim if self.by == "torch" else optim

    @property
    def schedulers(self) -> Any:
        return torch.optim.lr_scheduler if self.by == "torch" else lr_scheduler

    def optimizer(self, parameters: Iterable[Any], **options: Any) -> Any:
        return self.optimizers.AdamW(parameters, **{"lr": LR, "weight_decay": WEIGHT_DECAY, **options})


TORCH, OURS, FUSED = Kit("torch"), Kit("ours"), Kit("fused")

# -- schedules ---------------------------------------------------------------------------------------------

Schedule = Callable[[Kit, Any], Any]  # of a kit and an optimizer


def warm_up_and_cosine(kit: Kit, optimizer: Any) -> Any:
    rise = kit.schedulers.LinearLR(optimizer, 0.25, total_iters=3)
    fall = kit.schedulers.CosineAnnealingLR(optimizer, STEPS - 3)
    return kit.schedulers.SequentialLR(optimizer, [rise, fall], [3], **kit.fused)


def one_cycle(kit: Kit, optimizer: Any) -> Any:
    """Sets the betas too."""
    return kit.schedulers.OneCycleLR(optimizer, 2 * lr_of(optimizer), total_steps=STEPS + 1, **kit.fused)


def rise_and_decay(step: int) -> float:
    return min((step + 1) / 4, 1.0) * 0.9**step


def of_a_function(kit: Kit, optimizer: Any) -> Any:
    return kit.schedulers.LambdaLR(optimizer, rise_and_decay, **kit.fused)


SCHEDULES: list[Schedule] = [warm_up_and_cosine, one_cycle, of_a_function]

# -- model and data ----------------------------------------------------------------------------------------


def model() -> nn.Module:
    """In float64, so that all but roundings shows."""
    torch.manual_seed(1)
    made: nn.Module = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.LayerNorm(10), nn.Linear(10, 1))
    return made.double()


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Of an epoch."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCHES * BATCH, 6, dtype=torch.float64, generator=generator)
    return x, x.sum(1, keepdim=True)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*samples()), batch_size=BATCH)


def loss_of(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (found - wanted).square().mean()


def lr_of(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


# -- comparing ---------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a training came to.

    Attributes:
        lrs: with which each update was made, and at the end the one for the next.
        parameters: at the end.
    """

    lrs: list[float]
    parameters: list[torch.Tensor]

    @classmethod
    def of(cls, lrs: list[float], optimizer: Any, trained: nn.Module) -> Outcome:
        return cls([*lrs, lr_of(optimizer)], [p.detach().clone() for p in trained.parameters()])


# train(kit, schedule, folder, begin, end) trains the epochs from BEGIN to END. Unless BEGIN is 0, it starts with what
# is saved in the folder; it saves there what it ends with. It returns an outcome, or a list with that of each process.
Train = Callable[[Kit, Any, Path, int, int], Any]

_by_torch: dict[Any, Any] = {}


def by_torch(train: Train, schedule: Any, *key: Any, halves: bool = False) -> Any:
    """The training with torch's classes.

    Args:
        train: trains.
        schedule: for it.
        key: what else tells this training from others.
        halves: save it, and go on in a second training.
    """
    names = (getattr(train, "__qualname__", ""), getattr(train, "__module__", ""), schedule, *key, halves)
    if names not in _by_torch:
        with tempfile.TemporaryDirectory() as folder:
            if halves:
                train(TORCH, schedule, Path(folder), 0, SAVED)
            _by_torch[names] = train(TORCH, schedule, Path(folder), SAVED if halves else 0, EPOCHS)
    return _by_torch[names]


def in_halves(train: Train, first: Kit, then: Kit, schedule: Any, folder: Path) -> Any:
    """The second half of a training, after a first half with another kit."""
    train(first, schedule, folder, 0, SAVED)
    return train(then, schedule, folder, SAVED, EPOCHS)


def check_same(found: Any, expected: Any, part: float = 1.0) -> None:
    """The lrs are equal, to the bit, and parameters within roundings.

    Args:
        found: an outcome, or those of all processes.
        expected: likewise.
        part: of the expected updates, which FOUND has made; the last ones.
    """
    if isinstance(expected, list):
        for one, right in zip(found, expected, strict=True):
            check_same(one, right, part)
        return
    assert len(set(expected.lrs)) > len(expected.lrs) // 2  # a schedule, and not a constant
    assert len(found.lrs) == round(part * (len(expected.lrs) - 1)) + 1
    assert found.lrs == expected.lrs[-len(found.lrs) :]
    for ours, right in zip(found.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(ours, right, rtol=SPREAD[right.dtype], atol=SPREAD[right.dtype])


HALF = 1 - SAVED / EPOCHS

two_schedules = pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=lambda schedule: schedule.__name__)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
plain_and_fused = pytest.mark.parametrize("kit", [OURS, FUSED], ids=str)
BOTH_WAYS = [(TORCH, OURS), (OURS, TORCH), (TORCH, FUSED), (FUSED, TORCH)]
both_ways = pytest.mark.parametrize(("first", "then"), BOTH_WAYS, ids=str)
both_ways_plain = pytest.mark.parametrize(("first", "then"), BOTH_WAYS[:2], ids=str)


# -- the tests of most frameworks --------------------------------------------------------------------------


def from_the_start(train: Train) -> Callable[..., None]:
    """The test that a whole training with ours is the one with torch's."""

    @every_schedule
    @plain_and_fused
    def test(kit: Kit, schedule: Schedule, tmp_path: Path) -> None:
        check_same(train(kit, schedule, tmp_path, 0, EPOCHS), by_torch(train, schedule))

    return test


def resumed(train: Train) -> Callable[..., None]:
    """The test that what one kit has saved another goes on from."""

    @every_schedule
    @both_ways
    def test(first: Kit, then: Kit, schedule: Schedule, tmp_path: Path) -> None:
        check_same(in_halves(train, first, then, schedule, tmp_path), by_torch(train, schedule), HALF)

    return test
