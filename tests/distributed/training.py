"""One small training on one process, and the same one spread over several: whole parameters and lrs of each step."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from fused_sched import lr_scheduler, optim

Way = Literal["alone", "ddp", "fsdp", "hybrid", "two dimensions"]
BATCH = 8  # of all ranks


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

    Attributes:
        way: how it is spread over the ranks.
        ours: by this package, else by torch.
        options: of AdamW.
        clip: to which torch clips the norm of the gradients before a step.
    """

    way: Way = "alone"
    ours: bool = True
    dtype: torch.dtype = torch.float64
    options: dict[str, Any] = field(default_factory=dict)
    clip: float | None = None
    flatten: bool = False

    def model(self) -> nn.Module:
        torch.manual_seed(1)
        model: nn.Module = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3), nn.Tanh(), nn.Linear(3, 1))
        model = model.to(self.dtype)
        if self.way == "ddp":
            return DistributedDataParallel(model)
        if self.way == "fsdp":
            return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        if self.way == "hybrid":
            mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicas", "shards"))
            return fully_shard(model, mesh=mesh)
        if self.way == "two dimensions":
            mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
            parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
            return fully_shard(model, mesh=mesh["data"])
        return model

    def part_of_batch(self) -> tuple[int, int]:
        """Which part of a batch is this rank's, and of how many."""
        if self.way == "alone":
            return 0, 1
        if self.way == "two dimensions":
            return dist.get_rank() // (dist.get_world_size() // 2), 2
        return dist.get_rank(), dist.get_world_size()


class Trainer:
    """A training that can be saved."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.model = training.model()
        home, schedulers = (optim, lr_scheduler) if training.ours else (torch.optim, torch.optim.lr_scheduler)
        self.optimizer = home.AdamW(self.model.parameters(), lr=0.05, **training.options)
        fused = {"fused": True} if training.ours else {}
        rise = schedulers.LinearLR(self.optimizer, 0.25, total_iters=3)
        fall = schedulers.CosineAnnealingLR(self.optimizer, 9)
        self.scheduler = schedulers.SequentialLR(self.optimizer, [rise, fall], [3], **fused)
        self.lrs: list[float] = []

    def train(self, begin: int, end: int) -> None:
        """The steps from one to another; those of a batch depend on nothing but its number."""
        number, parts = self.training.part_of_batch()
        for step in range(begin, end):
            torch.manual_seed(1000 + step)
            x = torch.randn(BATCH, 6, dtype=self.training.dtype)
            y = x.sum(1, keepdim=True)
            mine = slice(number * BATCH // parts, (number + 1) * BATCH // parts)
            self.optimizer.zero_grad()
            (self.model(x[mine]) - y[mine]).square().mean().backward()
            if self.training.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
            self.optimizer.step()
            self.scheduler.step()
            self.lrs.append(float(self.optimizer.param_groups[0]["lr"]))

    def whole(self) -> Iterator[torch.Tensor]:
        for p in self.model.parameters():
            yield (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()

    # -- as torchtitan does it -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        options = StateDictOptions(flatten_optimizer_state_dict=self.training.flatten)
        return {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=options),
            "scheduler": self.scheduler.state_dict(),
        }

    def save(self, folder: str) -> None:
        dcp.save(self.state(), checkpoint_id=folder)

    def load(self, folder: str) -> None:
        state = self.state()
        dcp.load(state, checkpoint_id=folder)
        options = StateDictOptions(flatten_optimizer_state_dict=self.training.flatten)
        set_model_state_dict(self.model, state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"], options=options)
        self.scheduler.load_state_dict(state["scheduler"])


Outcome = tuple[list[torch.Tensor], list[float]]


def train(training: Training, end: int) -> Outcome:
    """A training from the start."""
    trainer = Trainer(training)
    trainer.train(0, end)
    return list(trainer.whole()), trainer.lrs


def train_and_save(training: Training, end: int, folder: str) -> None:
    """The first part of a training."""
    trainer = Trainer(training)
    trainer.train(0, end)
    trainer.save(folder)


def go_on(training: Training, begin: int, end: int, folder: str) -> Outcome:
    """The rest of one that was saved."""
    trainer = Trainer(training)
    trainer.load(folder)
    trainer.train(begin, end)
    return list(trainer.whole()), trainer.lrs


def train_and_vanish(training: Training, saved: int, end: int, folder: str) -> Outcome:
    """A training whose last rank is killed some steps after it was saved."""
    trainer = Trainer(training)
    trainer.train(0, saved)
    trainer.save(folder)
    trainer.train(saved, saved + 2)
    if dist.get_rank() == dist.get_world_size() - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    trainer.train(saved + 2, end)
    return list(trainer.whole()), trainer.lrs


def go_on_with_all(training: Training, begin: int, end: int, folder: str) -> tuple[Outcome, list[torch.Tensor], int]:
    """As :func:`go_on`, with what torch's checkpoints leave out; averages, and skipped steps, too."""
    trainer = Trainer(training)
    trainer.load(folder)
    beside: dict[str, Any] = torch.load(f"{folder}/beside.pt")
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "fused_sched": beside})
    trainer.train(begin, end)
    with trainer.optimizer.ema_weights():
        averages = list(trainer.whole())
    return (list(trainer.whole()), trainer.lrs), averages, int(trainer.optimizer.skipped_steps)


def train_and_save_all(training: Training, end: int, folder: str) -> None:
    """As :func:`train_and_save`; the step before the last is skipped."""
    trainer = Trainer(training)
    trainer.train(0, end - 1)
    for p in trainer.model.parameters():
        p.grad = torch.full_like(p, math.inf)
    trainer.optimizer.step()
    trainer.train(end - 1, end)
    trainer.save(folder)
    beside = trainer.optimizer.state_dict()["fused_sched"]
    if dist.get_rank() == 0:
        torch.save(beside, f"{folder}/beside.pt")
    dist.barrier()


def train_all(training: Training, skipped: int, end: int) -> tuple[Outcome, list[torch.Tensor], int]:
    """What the two come to, in one run."""
    trainer = Trainer(training)
    trainer.train(0, skipped)
    for p in trainer.model.parameters():
        p.grad = torch.full_like(p, math.inf)
    trainer.optimizer.step()
    trainer.train(skipped, end)
    with trainer.optimizer.ema_weights():
        averages = list(trainer.whole())
    return (list(trainer.whole()), trainer.lrs), averages, int(trainer.optimizer.skipped_steps)
