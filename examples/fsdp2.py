"""Training that is sharded over processes by FSDP2, with clipping and schedule inside of the step, and checkpoints.

    torchrun --nproc-per-node 2 examples/fsdp2.py
    torchrun --nproc-per-node 4 examples/fsdp2.py --steps 400 --resume

With a GPU for each process it uses nccl, else gloo on the CPU. What there is to know:

- **The optimizer is made after fully_shard**, of the parameters that are there then: DTensors. A step updates the part
  that each process has; states are DTensors as the parameters are.
- **The norm is that of the whole gradients.** One collective of a few numbers adds up what each process measured, and
  all decide alike what is clipped or skipped. ``clip_grad_norm_`` is not called.
- **The schedule is the same on every rank by construction:** each computes it for itself, from the same steps.
- **A checkpoint is torch's:** ``get_state_dict`` and ``torch.distributed.checkpoint`` write each part once, and another
  number of processes reads what it needs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fused_sched.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from fused_sched.optim import AdamW

WARM_UP = 20


class Block(nn.Module):
    """What is gathered at a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inside(x)


class Run:
    """A model, its optimizer and its schedule; needs a process group.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        steps: after which the schedule ends.
        width: of the model.
    """

    def __init__(self, device: str, steps: int, width: int = 64) -> None:
        torch.manual_seed(0)
        self.device, self.width = device, width
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        self.model = nn.Sequential(*(Block(width) for _ in range(3)), nn.Linear(width, 1)).to(device)
        for layer in self.model:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = AdamW(self.model.parameters(), lr=1e-2, max_grad_norm=1.0, skip_nonfinite=True)
        rise = LinearLR(self.optimizer, 0.05, total_iters=WARM_UP)
        fall = CosineAnnealingLR(self.optimizer, max(1, steps - WARM_UP))
        self.scheduler = SequentialLR(self.optimizer, [rise, fall], [WARM_UP], fused=True)
        self.done = 0

    def step(self) -> torch.Tensor:
        """One step with this rank's part of a batch; returns the loss."""
        generator = torch.Generator().manual_seed(self.done * dist.get_world_size() + dist.get_rank())
        x = torch.randn(32, self.width, generator=generator).to(self.device)
        loss = (self.model(x) - x[:, :8].sum(1, keepdim=True)).square().mean()
        loss.backward()
        self.optimizer.step()  # clips, updates and advances the schedule
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.done += 1
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """What a checkpoint has."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "scheduler": self.scheduler.state_dict(), "done": self.done}

    def save(self, folder: Path) -> None:
        dcp.save(self.state(), checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        state = self.state()
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.done = state["done"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("fsdp2_checkpoint"), help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    arguments = parser.parse_args()
    local_rank, processes = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    device = "cuda" if torch.cuda.device_count() >= processes else "cpu"
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    run = Run(device, arguments.steps)
    if arguments.resume:
        run.load(arguments.folder)
    while run.done < arguments.steps:
        loss = run.step()
        if run.done % 50 == 0:
            dist.all_reduce(loss)
            norm, lr = run.optimizer.grad_norm.item(), run.scheduler.get_last_lr()[0]
            if dist.get_rank() == 0:
                print(
                    f"step {run.done:4}: loss {loss.item() / dist.get_world_size():.4f}, norm {norm:.3f}, lr {lr:.2e}"
                )
    run.save(arguments.folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
