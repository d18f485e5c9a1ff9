"""A LightningModule with clipping, averaged weights and schedule inside of the optimizer's step.

    python examples/with_lightning.py
    python examples/with_lightning.py --epochs 20 --resume

It needs lightning and scikit-learn. What there is to know:

- **Two import lines** are all that changes in ``configure_optimizers``.
- **``interval: step``** goes with ``fused=True``: the update makes the step of the schedule, and Lightning's call after
  it is bookkeeping. For ``interval: epoch`` leave ``fused`` out.
- **Clip in the step,** by ``max_grad_norm``, and not by the Trainer's ``gradient_clip_val``.
- **Checkpoints** are Lightning's. They go to torch's optimizer and scheduler and back.
- **``self.optimizers()``** is Lightning's wrapper, which has ``grad_norm`` and ``ema_weights()`` too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from fused_sched.lr_scheduler import get_scheduler
from fused_sched.optim import AdamW

LONGEST = 20  # epochs of the schedule


class Digits(lightning.LightningModule):
    """Reads handwritten digits.

    Args:
        steps: of the schedule.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=3e-3, max_grad_norm=1.0, skip_nonfinite=True, ema_decay=0.98)
        scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=50, num_training_steps=self.steps, fused=True)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.log("right", (self.net(x).argmax(1) == y).float().mean(), on_epoch=True)

    def on_train_epoch_end(self) -> None:
        optimizer: Any = self.optimizers()
        norm, lr = optimizer.grad_norm.item(), optimizer.param_groups[0]["lr"]
        print(f"epoch {self.current_epoch + 1:3}: norm {norm:.3f}, lr {lr:.2e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="at most 20; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("lightning_checkpoint"), help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    arguments = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    images, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
    train, test = random_split(TensorDataset(images.float() / 16, labels), [0.8, 0.2])
    loader, tests = DataLoader(train, 32, shuffle=True), DataLoader(test, len(test))
    module = Digits(LONGEST * len(loader))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=arguments.epochs, devices=1, enable_checkpointing=False, **quiet)
    saved = arguments.folder / "last.ckpt"
    trainer.fit(module, loader, tests, ckpt_path=saved if arguments.resume else None)
    trainer.save_checkpoint(saved)

    (last,) = trainer.validate(module, tests, verbose=False)
    with trainer.optimizers[0].ema_weights():
        (averaged,) = trainer.validate(module, tests, verbose=False)
    print(f"right: {last['right']:.1%}, with averaged weights {averaged['right']:.1%}")


if __name__ == "__main__":
    main()
