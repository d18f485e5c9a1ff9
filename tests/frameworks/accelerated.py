"""A training by Accelerate, as one of several processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome

# A scheduler is stepped as often as there are processes, once where batches are split, and not where no update is.
OPTIONS = ("batches of each", "split batches", "accumulated")


def train(kit: Kit, schedule: str, options: str, folder: Path, begin: int, end: int) -> Outcome:
    rank, world = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {"MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    try:
        return _train(kit, schedule, options, folder, begin, end)
    finally:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()


def _train(kit: Kit, schedule: str, options: str, folder: Path, begin: int, end: int) -> Outcome:
    accelerator = Accelerator(
        cpu=True,
        dataloader_config=DataLoaderConfiguration(split_batches=options == "split batches"),
        gradient_accumulation_steps=2 if options == "accumulated" else 1,
    )
    assert accelerator.num_processes == dist.get_world_size() == 2
    bare: Any = t.model()
    made = kit.optimizer(bare.parameters())
    net, optimizer, loader, scheduler = accelerator.prepare(bare, made, t.loader(), getattr(t, schedule)(kit, made))
    if begin:
        accelerator.load_state(str(folder))
    lrs: list[float] = []
    for _ in range(begin, end):
        for x, y in loader:
            with accelerator.accumulate(net):
                accelerator.backward(t.loss_of(net(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), 1.0)
                    lrs.append(t.lr_of(optimizer))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    accelerator.save_state(str(folder))
    return Outcome.of(lrs, optimizer, net)
