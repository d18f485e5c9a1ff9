"""The Trainer of Hugging Face transformers: given an optimizer and a scheduler, and making them by itself."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from frameworks import trainings as t
from frameworks.trainings import Kit, Outcome, Schedule
from fused_sched.lr_scheduler import get_scheduler

gc.freeze()  # Trainer collects garbage, and would go through all of torch and transformers each time
RECIPE = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": t.LR / 10}, "warmup_steps": 3}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = t.model()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.net(x)
        return {"loss": t.loss_of(found, labels), "logits": found}


class Watch(TrainerCallback):
    """Notes the lrs, and breaks off after some epochs."""

    def __init__(self, end: int) -> None:
        self.end, self.found = end, list[float]()

    def on_epoch_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        control.should_training_stop = round(state.epoch) >= self.end

    def on_step_begin(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.found.append(t.lr_of(optimizer))


class WithRecipe(Trainer):
    """The scheduler that the arguments name, of ours."""

    def __init__(self, kit: Kit, *args: Any, **kwargs: Any) -> None:
        self.kit = kit
        super().__init__(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            made = optimizer or self.optimizer
            arguments = self.args.get_warmup_steps(num_training_steps), num_training_steps
            kwargs = self.args.lr_scheduler_kwargs
            self.lr_scheduler = get_scheduler(
                self.args.lr_scheduler_type, made, *arguments, scheduler_specific_kwargs=kwargs, **self.kit.fused
            )
        return self.lr_scheduler


def run(
    kit: Kit, trainer_class: Any, folder: Path, begin: int, end: int, more: dict[str, Any], **kwargs: Any
) -> Outcome:
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=t.EPOCHS,
        per_device_train_batch_size=t.BATCH,
        use_cpu=True,
        report_to=[],
        save_strategy="epoch",
        logging_steps=1,
        disable_tqdm=True,
        seed=5,
        **more,
    )
    watch, net = Watch(end), kwargs.pop("net", None) or Model()
    data = [{"x": x, "labels": y} for x, y in zip(*t.samples(), strict=True)]
    trainer = trainer_class(model=net, args=arguments, train_dataset=data, callbacks=[watch], **kwargs)
    saved = folder / f"checkpoint-{begin * t.BATCHES}"
    trainer.train(resume_from_checkpoint=str(saved) if begin else None)
    outcome = Outcome.of(watch.found, trainer.optimizer, net)
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    # it reads the lr between the update and scheduler.step(): of a fused schedule, that is the next one
    assert logged[-len(watch.found) :] == (outcome.lrs[1:] if kit == t.FUSED else outcome.lrs[:-1])
    return outcome


def train(kit: Kit, schedule: Schedule, folder: Path, begin: int, end: int) -> Outcome:
    net = Model()
    optimizer = kit.optimizer(net.parameters())
    return run(kit, Trainer, folder, begin, end, {}, net=net, optimizers=(optimizer, schedule(kit, optimizer)))


def train_by_arguments(kit: Kit, schedule: str, folder: Path, begin: int, end: int) -> Outcome:
    """All by the arguments with torch; with ours, the optimizer's class, and a method of the trainer."""
    arguments = {**RECIPE, "learning_rate": t.LR, "weight_decay": t.WEIGHT_DECAY, "optim": "adamw_torch"}
    if kit == t.TORCH:
        return run(kit, Trainer, folder, begin, end, arguments)
    classes = {"optimizer_cls_and_kwargs": (kit.optimizers.AdamW, {"lr": t.LR, "weight_decay": t.WEIGHT_DECAY})}

    def of_kit(**kwargs: Any) -> Any:
        return WithRecipe(kit, **kwargs)

    return run(kit, of_kit, folder, begin, end, arguments, **classes)


test_from_the_start = t.from_the_start(train)
test_resumed = t.resumed(train)


@t.plain_and_fused
def test_made_by_the_trainer(kit: Kit, tmp_path: Path) -> None:
    expected = t.by_torch(train_by_arguments, "recipe")
    t.check_same(train_by_arguments(kit, "recipe", tmp_path, 0, t.EPOCHS), expected)


@t.both_ways
def test_made_by_the_trainer_and_resumed(first: Kit, then: Kit, tmp_path: Path) -> None:
    found = t.in_halves(train_by_arguments, first, then, "recipe", tmp_path)
    t.check_same(found, t.by_torch(train_by_arguments, "recipe"), t.HALF)
