"""What a type checker has to accept: every scheduler with every keyword, and what people build on it. It also runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torchs
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import ParamsT

from fused_sched import Graphed, Monitor, Row, graphed, schedules
from fused_sched.lr_scheduler import (
    SWALR,
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    FeedbackLR,
    KLAdaptiveLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    ParamScheduler,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    get_scheduler,
    on_device,
)
from fused_sched.optim import SGD, Adam, AdamW, SpikeRule


def schedulers(o: Optimizer) -> list[LRScheduler]:
    """Every class, with every keyword."""
    keep, old = {"fused": False, "skip_with_optimizer": False}, -1
    return [
        StepLR(o, step_size=3, gamma=0.5, last_epoch=old, **keep),
        MultiStepLR(o, milestones=[3, 5], gamma=0.5, last_epoch=old, **keep),
        MultiStepLR(o, range(3, 9, 2)),
        ExponentialLR(o, gamma=0.9, last_epoch=old, **keep),
        ConstantLR(o, factor=0.5, total_iters=4, last_epoch=old, **keep),
        LinearLR(o, start_factor=0.1, end_factor=1.0, total_iters=4, last_epoch=old, **keep),
        PolynomialLR(o, total_iters=9, power=2.0, last_epoch=old, **keep),
        CosineAnnealingLR(o, T_max=10, eta_min=0.001, last_epoch=old, **keep),
        CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2, eta_min=0.001, last_epoch=old, **keep),
        LambdaLR(o, lr_lambda=lambda step: 0.9**step, last_epoch=old, horizon=2, **keep),
        LambdaLR(o, [lambda step: 1 / (1 + step)]),
        MultiplicativeLR(o, lr_lambda=lambda step: 0.9, last_epoch=old, horizon=2, **keep),
        CyclicLR(
            o, base_lr=0.01, max_lr=0.1, step_size_up=5, step_size_down=4, mode="triangular2", gamma=1.0,
            scale_fn=lambda x: 0.5, scale_mode="cycle", cycle_momentum=True, base_momentum=0.8, max_momentum=0.9,
            last_epoch=old, horizon=2, **keep,
        ),
        OneCycleLR(
            o, max_lr=0.1, total_steps=20, epochs=None, steps_per_epoch=None, pct_start=0.3, anneal_strategy="linear",
            cycle_momentum=True, base_momentum=0.85, max_momentum=0.95, div_factor=25.0, final_div_factor=1e4,
            three_phase=False, last_epoch=old, **keep,
        ),
        SWALR(o, swa_lr=0.05, anneal_epochs=5, anneal_strategy="cos", last_epoch=old, **keep),
        ReduceLROnPlateau(
            o, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="rel", cooldown=0, min_lr=0,
            eps=1e-8,
        ),
        KLAdaptiveLR(
            o, target_kl=0.01, kl_factor=2.0, lr_factor=1.5, min_lr=1e-6, max_lr=[1e-2], ignore_zero=False,
            last_epoch=old, **keep,
        ),
        FeedbackLR(o, function=lambda lr, kl: lr * 0.9 if kl > 0.02 else lr, last_epoch=old, **keep),
        FeedbackLR(o, [lambda lr, signal: lr + signal]),
        ParamScheduler(o, name="weight_decay", fn=lambda step: 0.1, last_epoch=old, horizon=2, **keep),
        ParamScheduler(o, "momentum", [lambda step: 0.9]),
        SequentialLR(o, [LinearLR(o), ExponentialLR(o, 0.9)], milestones=[4], last_epoch=old, **keep),
        ChainedScheduler([ConstantLR(o), ExponentialLR(o, 0.9)], optimizer=o, **keep),
    ]  # fmt: skip


class Noted(CosineAnnealingLR):
    """A subclass with an argument and an attribute of its own."""

    def __init__(self, optimizer: Optimizer, T_max: int, note: str = "", *, fused: bool = False) -> None:
        self.note = note
        super().__init__(optimizer, T_max, fused=fused)

    def step(self, epoch: float | None = None) -> None:
        super().step(epoch)
        self.note += "."


class Halving(LRScheduler):
    """A scheduler of the user's, for on_device."""

    def get_lr(self) -> list[float | torch.Tensor]:
        return [group["lr"] * 0.5 ** (self.last_epoch > 0) for group in self.optimizer.param_groups]


class Clipped(AdamW):
    """An optimizer with one argument more."""

    def __init__(self, params: ParamsT, lr: float = 1e-3, *, clip: float = 1.0) -> None:
        super().__init__(params, lr=lr, backend="reference")
        self.clip = clip


def make(kind: type[SGD] | type[AdamW], params: Iterable[torch.nn.Parameter], lr: float) -> Optimizer:
    """Any of the classes."""
    return kind(params, lr=lr)


def optimizers(weights: torch.nn.Parameter) -> list[Optimizer]:
    """Every class, with every keyword, and the forms that parameters have."""
    named: list[tuple[str, torch.nn.Parameter]] = [("weights", weights)]
    groups: list[dict[str, Any]] = [{"params": [weights], "lr": 0.1}]
    flags: dict[str, Any] = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
    return [
        SGD([weights], lr=0.1, momentum=0.9, dampening=0, weight_decay=0.1, nesterov=True, backend=None, **flags),
        Adam(groups, lr=torch.tensor(0.1), betas=(0.9, 0.99), eps=1e-8, weight_decay=0, amsgrad=True, **flags),
        AdamW(iter([weights]), capturable=False, backend="reference", **flags),
        AdamW(named, 1e-2),
        Adam(
            [weights],
            max_grad_norm=1.0,
            norm_scope="group",
            skip_nonfinite=True,
            skip_spikes=SpikeRule(64, 5.0),
            ema_decay=0.99,
            ema_dtype="parameter",
            zero_grad_in_step=True,
            master_weights="float32",
            state_dtype=torch.bfloat16,
        ),
        AdamW([weights], master_weights="remainder", norm_scope="all", ema_dtype="float32", skip_spikes=None),
        SGD([weights], stochastic_rounding=True, rounding_seed=3, max_grad_norm=torch.tensor(1.0), ema_decay=None),
        SGD([{"params": [weights], "max_grad_norm": 2.0, "ema_decay": 0.5}]),
        AdamW([weights], stochastic_rounding=False, rounding_seed=None, master_weights=None, state_dtype=None),
        AdamW([weights], skip_spikes=SpikeRule(window=16, deviations=5)),
        Clipped([weights], clip=0.5),
        make(SGD, [weights], 0.1),
    ]


class Writer:
    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        pass


def trained(x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    return x.sum() * factor


def lowered(lr: float, signal: float) -> float:
    return lr * 0.5 if signal > 1.0 else lr


def around_the_step(weights: torch.nn.Parameter) -> float:
    """What an optimizer tells of its steps."""
    optimizer = Adam([weights], max_grad_norm=1.0, norm_scope="group", skip_nonfinite=True, ema_decay=0.5)
    weights.grad = torch.ones(3)
    optimizer.step()
    norms: list[torch.Tensor] = optimizer.group_grad_norms
    norm: torch.Tensor = optimizer.grad_norm + norms[0]
    skipped: torch.Tensor = optimizer.skipped_steps
    with optimizer.ema_weights():
        total = weights.sum()
    name: str = optimizer.backend.name
    return norm.item() + float(skipped) + total.item() + len(name)


def following(weights: torch.nn.Parameter) -> list[float | torch.Tensor]:
    """Schedules that follow what is measured, alone and as parts."""
    optimizer = SGD([weights], lr=0.1)
    kl = KLAdaptiveLR(optimizer, target_kl=0.02, min_lr=(1e-5,), max_lr=[1e-2], fused=True, skip_with_optimizer=True)
    kl.observe(torch.tensor(0.001, dtype=torch.bfloat16))
    waiting: float | None = kl.observed
    optimizer.step()
    kl.step()
    kl.step(3)
    assert waiting is not None
    feedback = FeedbackLR(SGD([weights], lr=0.1), lowered)
    feedback.observe(True)
    feedback.step()
    plateau = ReduceLROnPlateau(optimizer := SGD([weights], lr=0.1), patience=0)
    both = SequentialLR(optimizer, [ConstantLR(optimizer), plateau], [2])
    plateau.observe(0.5)
    optimizer.step()
    both.step()
    chain: ChainedScheduler = ChainedScheduler([ReduceLROnPlateau(optimizer), KLAdaptiveLR(optimizer)])
    chain.step()
    return kl.get_last_lr() + feedback.get_last_lr() + both.get_last_lr()


def graphs(weights: torch.nn.Parameter) -> Graphed[[torch.Tensor], dict[str, torch.Tensor]]:
    """A function of two optimizers, with every keyword."""
    actor, critic = SGD([weights], lr=0.1), AdamW([torch.nn.Parameter(torch.ones(2))])

    def update(x: torch.Tensor) -> dict[str, torch.Tensor]:
        actor.step()
        critic.step()
        return {"sum": x.sum()}

    return graphed(
        update, actor, critic, warmup=3, steps_per_replay=1, pool=None, enabled=None, clone_outputs=False, cache_size=2
    )


def watched(optimizer: SGD, folder: Path) -> list[Row]:
    """Where rows go."""
    text = folder / "rows.csv"
    with Monitor(optimizer, to=text), Monitor(optimizer, to=str(text), first_step=3), Monitor(optimizer) as kept:
        optimizer.step()
    if kept.rows:
        step, lrs, norm, skipped, scale = kept.rows[0]
        assert (step, type(lrs), type(norm), skipped, type(scale)) == (0, tuple, float, False, float)
    kept.close()
    return kept.rows


def main() -> None:
    """Run all of it."""
    weights = torch.nn.Parameter(torch.ones(3))
    for made in optimizers(weights):
        weights.grad = torch.ones(3)
        made.step()
    count = len(schedulers(SGD([weights], lr=0.1, momentum=0.9)))
    for i in range(count):
        optimizer = SGD([weights], lr=0.1, momentum=0.9)
        one = schedulers(optimizer)[i]
        optimizer.step()
        if isinstance(one, ReduceLROnPlateau):
            one.step(torch.tensor(1.0))
            one.step(1.0)
            one.observe(1.0)
            one.step()
        elif isinstance(one, (KLAdaptiveLR, FeedbackLR)):
            one.observe(torch.tensor(0.001))
            one.step()
            one.observe(1)
            one.step()
        else:
            one.step()
        lrs: list[float | torch.Tensor] = one.get_last_lr()
        assert len(lrs) == 1

    optimizer = SGD([weights], lr=0.1)
    optimizer.stop_when(torch.zeros((), dtype=torch.bool))
    optimizer.stop_when(None)
    seen: list[Row] = []
    with (
        Monitor(optimizer, every=2, to=seen.extend, capacity=8, first_step=0) as monitor,
        Monitor(optimizer, to=Writer()),
    ):
        optimizer.step()
        with optimizer.unobserved():
            optimizer.step()
        monitor.poll()
        monitor.flush()
    lowest: float = min(lr for row in seen for lr in row.lr) + seen[0].grad_norm + seen[0].scale
    text = f"{lowest} {seen[0].step + 1} {seen[0].skipped is True} {monitor.overwritten + 1}"
    noted = Noted(optimizer, 10, "note")
    optimizer.step()
    noted.step()
    text += noted.note + noted.explain() + str(noted.program)
    recipe: LambdaLR = get_scheduler("cosine", SGD([weights]), num_warmup_steps=1, num_training_steps=9, fused=True)
    recipe.detach()
    plateau: ReduceLROnPlateau = get_scheduler("reduce_lr_on_plateau", SGD([weights]))
    plateau.step(0.5)
    name: str = "linear"
    get_scheduler(name, SGD([weights]), 1, 9, {}, skip_with_optimizer=True).get_last_lr()
    moved = on_device(Halving(SGD([weights])), fused=False, skip_with_optimizer=False, horizon=1)
    moved.optimizer.step()
    moved.step()
    text += moved.explain()
    text += on_device(torchs.StepLR(SGD([weights]), 3)).explain()
    loss: Any = optimizer.step(lambda: weights.sum())
    function = schedules.as_function(CosineAnnealingLR(AdamW([weights]), T_max=10))
    graph = graphed(trained, optimizer, warmup=2, clone_outputs=True)
    trained_once: torch.Tensor = graph(weights.detach(), factor=2.0)
    text += f"{graph.captures + graph.replays} {trained_once.item()}"
    graph.release()
    text += f"{around_the_step(weights)} {following(weights)} {graphs(weights)(torch.ones(2))['sum']}"
    with TemporaryDirectory() as folder:
        text += str(len(watched(optimizer, Path(folder))))
    assert text
    assert loss is not None
    assert function(0) > 0


if __name__ == "__main__":
    main()
