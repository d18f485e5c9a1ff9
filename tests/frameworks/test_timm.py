"""timm: a model with decayed lrs by layer, its scaler and clipping, checkpoints, Lookahead, and its own schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import resume_checkpoint
from timm.optim import Lookahead, create_optimizer_v2, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver, NativeScaler

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome, Schedule

LR = 1e-3


def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = torch.Generator().manual_seed(4)
    batches = [torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=made) for _ in range(t.BATCHES)]
    return [(batch, torch.tensor([0, 1])) for batch in batches]


def optimizer_of(kit: Kit, net: torch.nn.Module) -> Any:
    """By timm for torch, and as one writes it instead."""
    if kit == t.TORCH:
        made = create_optimizer_v2(net, "adamw", lr=LR, weight_decay=0.05, layer_decay=0.7)
        assert type(made) is torch.optim.AdamW
        return made
    undecayed: Any = net.no_weight_decay()
    groups = param_groups_layer_decay(net, weight_decay=0.05, no_weight_decay_list=undecayed, layer_decay=0.7)
    return kit.optimizer(groups, lr=LR, weight_decay=0.0)


def run(kit: Kit, make: Schedule, folder: Path, begin: int, end: int, lookahead: bool) -> Outcome:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    net = timm.create_model("test_vit", num_classes=2, img_size=32).double()
    optimizer: Any = optimizer_of(kit, net)
    if lookahead:
        optimizer = Lookahead(optimizer, k=3)
    scheduler, scaler = make(kit, optimizer), NativeScaler("cpu")
    if begin:
        assert resume_checkpoint(net, str(folder / "last.pth.tar"), optimizer, scaler, log_info=False) == begin
        scheduler.load_state_dict(torch.load(folder / "scheduler.pt"))
    lrs: list[float] = []
    for _ in range(begin, end):
        for x, y in images():
            lrs.append(t.lr_of(optimizer))
            loss = torch.nn.functional.cross_entropy(net(x), y)
            scaler(loss, optimizer, clip_grad=1.0, parameters=net.parameters())
            scheduler.step()
            optimizer.zero_grad()
    where = {"checkpoint_dir": str(folder), "recovery_dir": str(folder)}
    CheckpointSaver(net, optimizer, amp_scaler=scaler, **where).save_checkpoint(end - 1)
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    return Outcome.of(lrs, optimizer, net)


def train(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(kit, schedule, folder, begin, end, lookahead=False)


def train_with_lookahead(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    return run(kit, schedule, folder, begin, end, lookahead=True)


test_from_the_start = t.from_the_start(train)
test_resumed = t.resumed(train)


@t.plain_and_fused
def test_with_lookahead(kit: Kit, tmp_path: Path) -> None:
    expected = t.by_torch(train_with_lookahead, t.one_cycle)
    t.check_same(train_with_lookahead(kit, t.one_cycle, tmp_path, 0, t.EPOCHS), expected)


@t.both_ways
def test_with_lookahead_and_resumed(first: Kit, then: Kit, tmp_path: Path) -> None:
    found = t.in_halves(train_with_lookahead, first, then, t.one_cycle, tmp_path)
    t.check_same(found, t.by_torch(train_with_lookahead, t.one_cycle), t.HALF)


class Timms:
    """A schedule of timm's own, which sets the lr of each group by its ``lr_scale``; the caller counts."""

    def __init__(self, optimizer: Any) -> None:
        options = {"warmup_t": 3, "warmup_lr_init": LR / 10, "lr_min": LR / 100, "noise_range_t": (5, 9)}
        self.schedule = CosineLRScheduler(optimizer, t.STEPS, t_in_epochs=False, **options)
        self.updates = 0

    def step(self) -> None:
        self.updates += 1
        self.schedule.step_update(self.updates)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.schedule.load_state_dict(state["schedule"])


def timms_cosine(kit: Kit, optimizer: Any) -> Any:
    return Timms(optimizer)


def test_with_timms_schedule(tmp_path: Path) -> None:
    t.check_same(train(t.OURS, timms_cosine, tmp_path, 0, t.EPOCHS), t.by_torch(train, timms_cosine))


@t.both_ways_plain
def test_with_timms_schedule_and_resumed(first: Kit, then: Kit, tmp_path: Path) -> None:
    found = t.in_halves(train, first, then, timms_cosine, tmp_path)
    t.check_same(found, t.by_torch(train, timms_cosine), t.HALF)


@pytest.mark.parametrize("kit", [t.OURS, t.FUSED], ids=str)
def test_layers_have_lrs_of_their_own(kit: Kit) -> None:
    """timm applies ``lr_scale`` by its own schedules alone; ours begin with each group's lr, as torch's do."""
    net = timm.create_model("test_vit", num_classes=2, img_size=32)
    groups = param_groups_layer_decay(net, layer_decay=0.7)
    optimizer = kit.optimizer([{**group, "lr": LR * group["lr_scale"]} for group in groups])
    scheduler = t.of_a_function(kit, optimizer)
    for step in range(1, 6):
        optimizer.step()
        scheduler.step()
        wanted = [LR * group["lr_scale"] * t.rise_and_decay(step) for group in groups]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(wanted, rel=1e-14)
