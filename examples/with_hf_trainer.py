"""The Trainer of Hugging Face transformers, with clipping and schedule inside of the optimizer's step.

    python examples/with_hf_trainer.py
    python examples/with_hf_trainer.py --epochs 12 --resume

A small Llama learns to count in steps. It needs transformers and accelerate, and downloads nothing. What there is to
know:

- **The optimizer** comes by ``optimizer_cls_and_kwargs``: Trainer then makes the groups with and without weight decay.
- **The schedule** comes from ``create_scheduler``: ``get_scheduler`` has the names and arguments of the one in
  transformers, so ``lr_scheduler_type`` and its relatives go on working.
- **``max_grad_norm=0``** in the arguments leaves the clipping to the optimizer's keyword of that name.
- **The lr in the logs is one step ahead** with ``fused=True``: Trainer reads it between the update and the schedule's
  step.
- **Checkpoints** are Trainer's. They go to torch's optimizer and scheduler and back.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from fused_sched.lr_scheduler import get_scheduler
from fused_sched.optim import AdamW

NUMBERS, LENGTH = 32, 16


class FusedTrainer(Trainer):
    """A Trainer whose schedule is computed where the optimizer runs."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                self.optimizer if optimizer is None else optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
                fused=True,
            )
        return self.lr_scheduler


def sequences() -> list[dict[str, torch.Tensor]]:
    """Numbers that go up by one step each, modulo a number."""
    made = []
    for start in range(NUMBERS):
        for step in range(1, NUMBERS):
            numbers = (start + step * torch.arange(LENGTH)) % NUMBERS
            made.append({"input_ids": numbers, "labels": numbers})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("trainer_checkpoint"), help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    arguments = parser.parse_args()

    set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=NUMBERS, num_key_value_heads=4, **sizes))
    trainer = FusedTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.folder),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=32,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            weight_decay=0.1,
            max_grad_norm=0.0,
            save_strategy="epoch",
            logging_steps=10,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=sequences(),
        optimizer_cls_and_kwargs=(AdamW, {"lr": 1e-2, "max_grad_norm": 1.0, "skip_nonfinite": True}),
    )
    trainer.train(resume_from_checkpoint=arguments.resume)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    norm, skipped = trainer.optimizer.optimizer.grad_norm.item(), trainer.optimizer.optimizer.skipped_steps.item()
    print(f"loss {losses[0]:.3f}, at the end {losses[-1]:.3f}; last norm {norm:.3f}, steps skipped {skipped}")


if __name__ == "__main__":
    main()
