"""Trainings by torch's own wrappers, as one of several processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome


class Replicated:
    """DDP."""

    def __init__(self, kit: Kit) -> None:
        self.net: Any = self.model()
        self.optimizer: Any = self.optimizer_by(kit)

    def model(self) -> Any:
        return DistributedDataParallel(t.model())

    def optimizer_by(self, kit: Kit) -> Any:
        return kit.optimizer(self.net.parameters())

    def clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)

    def optimizer_state(self) -> Any:
        return self.optimizer.state_dict()

    def load_optimizer(self, state: Any) -> None:
        self.optimizer.load_state_dict(state)

    def whole(self) -> Iterator[torch.Tensor]:
        for p in self.net.parameters():
            yield p.detach().clone()


class Zero(Replicated):
    """ZeroRedundancyOptimizer."""

    as_views = False

    def optimizer_by(self, kit: Kit) -> Any:
        options = {"lr": t.LR, "weight_decay": t.WEIGHT_DECAY, "parameters_as_bucket_view": self.as_views}
        return ZeroRedundancyOptimizer(self.net.parameters(), kit.optimizers.AdamW, **options)

    def optimizer_state(self) -> Any:
        self.optimizer.consolidate_state_dict(to=0)
        states = [self.optimizer.state_dict() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(states)
        return states[0]


class ZeroInViews(Zero):
    as_views = True


class Flat(Replicated):
    """FSDP1, whose optimizer has one flat parameter; states are gathered."""

    original = False

    def model(self) -> Any:
        made = FullyShardedDataParallel(t.model(), device_id=torch.device("cpu"), use_orig_params=self.original)
        whole = FullStateDictConfig(rank0_only=False), FullOptimStateDictConfig(rank0_only=False)
        FullyShardedDataParallel.set_state_dict_type(made, StateDictType.FULL_STATE_DICT, *whole)
        return made

    def clip(self) -> None:
        """Its own clip_grad_norm_ does not take float64."""

    def optimizer_state(self) -> Any:
        return FullyShardedDataParallel.optim_state_dict(self.net, self.optimizer)

    def load_optimizer(self, state: Any) -> None:
        mine = FullyShardedDataParallel.optim_state_dict_to_load(self.net, self.optimizer, state)
        self.optimizer.load_state_dict(mine)

    def whole(self) -> Iterator[torch.Tensor]:
        with FullyShardedDataParallel.summon_full_params(self.net):
            yield from list(super().whole())


class FlatOriginal(Flat):
    """FSDP1, whose optimizer has parts of the original parameters, and saves its own: gathered, torch mixes them up."""

    original = True

    def optimizer_state(self) -> Any:
        return self.optimizer.state_dict()

    def load_optimizer(self, state: Any) -> None:
        self.optimizer.load_state_dict(state)


WAYS = {
    "DDP": Replicated,
    "ZeRO": Zero,
    "ZeRO in views": ZeroInViews,
    "FSDP1": Flat,
    "FSDP1 original": FlatOriginal,
}


def train(way: str, kit: Kit, schedule: str, folder: Path, begin: int, end: int) -> Outcome:
    wrapped = WAYS[way](kit)
    optimizer = wrapped.optimizer
    scheduler = getattr(t, schedule)(kit, optimizer)
    rank, world = dist.get_rank(), dist.get_world_size()
    saved = folder / f"{rank}.pt"
    if begin:
        state = torch.load(saved)
        wrapped.net.load_state_dict(state["model"])
        wrapped.load_optimizer(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    lrs: list[float] = []
    for _ in range(begin, end):
        for x, y in t.loader():
            t.loss_of(wrapped.net(x[rank::world]), y[rank::world]).backward()
            wrapped.clip()
            lrs.append(t.lr_of(optimizer))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    states = {"model": wrapped.net.state_dict(), "optimizer": wrapped.optimizer_state()}
    torch.save({**states, "scheduler": scheduler.state_dict()}, saved)
    return Outcome([*lrs, t.lr_of(optimizer)], list(wrapped.whole()))


def fused_with_zero() -> str:
    """What is said of it."""
    try:
        t.warm_up_and_cosine(t.FUSED, Zero(t.FUSED).optimizer)
    except ValueError as error:
        return str(error)
    return "nothing"
