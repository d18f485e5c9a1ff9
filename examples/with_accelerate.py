"""Training on several processes by Accelerate, with clipping and schedule inside of the step, and its checkpoints.

    accelerate launch --cpu --num_processes 2 examples/with_accelerate.py
    accelerate launch --cpu --num_processes 2 examples/with_accelerate.py --epochs 20 --resume

Without ``--cpu`` it uses the GPUs. It needs accelerate and scikit-learn. What there is to know:

- **Prepare all four:** model, optimizer, loader and scheduler. Accelerate's wrappers are driven through, with
  ``fused=True`` too.
- **A scheduler is stepped once for each process,** as the batch of all of them is larger: with two, a schedule of N
  steps is over after N / 2 updates. Of the steps after an update, the update makes the first.
- **The norm is clipped in the step:** ``max_grad_norm`` instead of ``accelerator.clip_grad_norm_``.
- **Checkpoints** are those of ``save_state`` and ``load_state``. They go to torch's optimizer and scheduler and back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fused_sched.lr_scheduler import get_scheduler
from fused_sched.optim import AdamW

BATCH = 32  # of each process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("accelerate_checkpoint"), help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    arguments = parser.parse_args()

    accelerator = Accelerator()
    set_seed(0)
    images, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
    data = TensorDataset(images.float() / 16, labels)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))
    optimizer = AdamW(model.parameters(), lr=3e-3, max_grad_norm=1.0, skip_nonfinite=True)
    steps = 20 * len(loader)  # of the scheduler, on all processes together
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=50, num_training_steps=steps, fused=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    begun = 0
    if arguments.resume:
        accelerator.load_state(str(arguments.folder))
        begun = scheduler.scheduler.last_epoch // (len(loader) * accelerator.num_processes)
    for epoch in range(begun, arguments.epochs):
        right = torch.zeros((), device=accelerator.device)
        for x, y in loader:
            found = model(x)
            accelerator.backward(nn.functional.cross_entropy(found, y))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            right += (found.argmax(1) == y).float().mean()
        share = accelerator.reduce(right / len(loader), "mean").item()
        norm, lr = optimizer.optimizer.grad_norm.item(), scheduler.get_last_lr()[0]
        accelerator.print(f"epoch {epoch + 1:3}: {share:.1%} right, norm {norm:.3f}, lr {lr:.2e}")
    accelerator.save_state(str(arguments.folder))
    accelerator.end_training()


if __name__ == "__main__":
    main()
