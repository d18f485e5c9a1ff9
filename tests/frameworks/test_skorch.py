"""skorch: the optimizer's class and the schedule's policy are arguments; the net is fitted, saved, loaded, pickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, LRScheduler

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine": ("CosineAnnealingLR", {"T_max": t.STEPS}),
    "one cycle": ("OneCycleLR", {"max_lr": 2 * t.LR, "total_steps": t.STEPS + 1}),
    "function": ("LambdaLR", {"lr_lambda": t.rise_and_decay}),
}
every_policy = pytest.mark.parametrize("schedule", POLICIES)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = t.model()

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


class Lrs(Callback):
    def on_train_begin(self, net: Any, **_: Any) -> None:
        self.found_: list[float] = []

    def on_batch_begin(self, net: Any, training: bool = False, **_: Any) -> None:
        if training:
            self.found_.append(t.lr_of(net.optimizer_))


def net_of(kit: Kit, policy: Any, every: str, **arguments: Any) -> Any:
    return NeuralNetRegressor(
        Model,
        optimizer=kit.optimizers.AdamW,
        lr=t.LR,
        optimizer__weight_decay=t.WEIGHT_DECAY,
        batch_size=t.BATCH,
        train_split=None,
        verbose=0,
        callbacks=[("lrs", Lrs()), ("schedule", LRScheduler(policy, step_every=every, **arguments, **kit.fused))],
    ).initialize()


def run(net: Any, folder: Path, begin: int, end: int) -> Outcome:
    folder.mkdir(exist_ok=True)
    files = {"f_params": folder / "params.pt", "f_optimizer": folder / "optimizer.pt", "f_history": folder / "h.json"}
    if begin:
        net.load_params(**files)
    net.partial_fit(*(x.numpy() for x in t.samples()), epochs=end - begin)
    net.save_params(**files)
    return Outcome.of(dict(net.callbacks_)["lrs"].found_, net.optimizer_, net.module_)


def train(kit: Kit, schedule: str, folder: Path, begin: int, end: int) -> Outcome:
    name, arguments = POLICIES[schedule]
    return run(net_of(kit, getattr(kit.schedulers, name), "batch", **arguments), folder, begin, end)


@every_policy
@t.plain_and_fused
def test_from_the_start(kit: Kit, schedule: str, tmp_path: Path) -> None:
    t.check_same(train(kit, schedule, tmp_path, 0, t.EPOCHS), t.by_torch(train, schedule))


@every_policy
@t.both_ways
def test_resumed(first: Kit, then: Kit, schedule: str, tmp_path: Path) -> None:
    """skorch saves no scheduler: a new one begins at the number of epochs. It does so with ours as with torch's."""
    found = t.in_halves(train, first, then, schedule, tmp_path)
    t.check_same(found, t.by_torch(train, schedule, halves=True))


@t.both_ways_plain
def test_once_an_epoch(first: Kit, then: Kit, tmp_path: Path) -> None:
    """There, the number of epochs is where the schedule was."""

    def train_by_epochs(kit: Kit, folder: Path, begin: int, end: int) -> Outcome:
        return run(net_of(kit, kit.schedulers.CosineAnnealingLR, "epoch", T_max=t.EPOCHS), folder, begin, end)

    whole = train_by_epochs(t.TORCH, tmp_path, 0, t.EPOCHS)
    train_by_epochs(first, tmp_path, 0, t.SAVED)
    found = train_by_epochs(then, tmp_path, t.SAVED, t.EPOCHS)
    assert len(set(whole.lrs)) == t.EPOCHS + 1
    assert found.lrs == pytest.approx(whole.lrs[-len(found.lrs) :], rel=1e-12, abs=1e-18)
    for ours, right in zip(found.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


def plateau_of(kit: Kit) -> Any:
    """A function, as skorch gives ``last_epoch`` to every class but torch's own."""

    def policy(optimizer: Any, last_epoch: int = -1) -> Any:
        plateau = kit.schedulers.ReduceLROnPlateau
        return plateau(optimizer, factor=0.5, patience=0, threshold=2.0, threshold_mode="abs")

    return policy


def test_plateau(tmp_path: Path) -> None:
    found = [run(net_of(kit, plateau_of(kit), "epoch"), tmp_path / str(kit), 0, t.EPOCHS) for kit in (t.TORCH, t.OURS)]
    assert len(set(found[0].lrs)) >= 3
    assert found[0].lrs == found[1].lrs
    for ours, right in zip(found[1].parameters, found[0].parameters, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("detached", [True, False])
def test_a_second_schedule_beside_a_fused_one(detached: bool) -> None:
    """Each partial_fit makes one; the first goes on with the optimizer, as is said, unless it is detached."""
    data, ends = [x.numpy() for x in t.samples()], []
    for kit in (t.TORCH, t.FUSED):
        net = net_of(kit, kit.schedulers.LambdaLR, "batch", lr_lambda=t.rise_and_decay)
        net.partial_fit(*data, epochs=t.SAVED)
        schedule = dict(net.callbacks_)["schedule"].lr_scheduler_
        if kit == t.FUSED and detached:
            schedule.detach()
        if kit == t.FUSED and not detached:
            with pytest.warns(UserWarning, match=r"one more fused scheduler.*Call detach\(\)"):
                net.partial_fit(*data, epochs=t.EPOCHS - t.SAVED)
            return
        net.partial_fit(*data, epochs=t.EPOCHS - t.SAVED)
        ends.append((t.lr_of(net.optimizer_), net.predict(data[0])))
    assert ends[0][0] == ends[1][0]
    torch.testing.assert_close(*(torch.from_numpy(found) for _, found in ends), rtol=1e-12, atol=1e-12)


@t.plain_and_fused
def test_pickled(kit: Kit) -> None:
    name, arguments = POLICIES["cosine"]
    outcomes = []
    for by in (t.TORCH, kit):
        net = net_of(by, getattr(by.schedulers, name), "batch", **arguments)
        data = [x.numpy() for x in t.samples()]
        net.partial_fit(*data, epochs=t.SAVED)
        copied = pickle.loads(pickle.dumps(net))
        assert type(copied.optimizer_) is by.optimizers.AdamW
        assert t.lr_of(copied.optimizer_) == t.lr_of(net.optimizer_)
        outcomes.append(copied.predict(data[0]))
    torch.testing.assert_close(*map(torch.from_numpy, outcomes), rtol=1e-12, atol=1e-12)
