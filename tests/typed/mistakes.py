"""What a type checker has to find: each line that ends in ``# wrong`` has a mistake, and no other has one."""

from __future__ import annotations

import torch

from fused_sched import Monitor, graphed
from fused_sched.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CyclicLR,
    FeedbackLR,
    KLAdaptiveLR,
    LambdaLR,
    OneCycleLR,
    ParamScheduler,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    get_scheduler,
    on_device,
)
from fused_sched.optim import SGD, Adam, AdamW, SpikeRule

model = torch.nn.Linear(2, 2)
optimizer = SGD(model.parameters(), lr=0.1)
scheduler = StepLR(optimizer, 3)


def step_of(x: torch.Tensor) -> torch.Tensor:
    return x


def show_lrs(lrs: list[float]) -> None:
    pass


CosineAnnealingLR(optimizer, T_mux=10)  # wrong
CosineAnnealingLR(optimizer)  # wrong
CosineAnnealingLR(optimizer, 10, fuse=True)  # wrong
StepLR(model, 10)  # wrong
StepLR(optimizer, step_size="a")  # wrong
StepLR(optimizer, 10, fused="yes")  # wrong
LambdaLR(optimizer, lambda step: 1.0, horizon="x")  # wrong
LambdaLR(optimizer, 0.5)  # wrong
OneCycleLR(optimizer, max_lr=0.1, total_steps=10, anneal_strategy="cosine")  # wrong
CyclicLR(optimizer, 0.01, 0.1, mode="triangle")  # wrong
ReduceLROnPlateau(optimizer, fused=True)  # wrong
ReduceLROnPlateau(optimizer).observe("low")  # wrong
KLAdaptiveLR(optimizer, target="0.01")  # wrong
KLAdaptiveLR(optimizer, min_lr="small")  # wrong
FeedbackLR(optimizer, lambda lr: lr)  # wrong
KLAdaptiveLR(optimizer, max_lr={0: 1.0})  # wrong
KLAdaptiveLR(optimizer, ignore_zero="yes")  # wrong
KLAdaptiveLR(optimizer).observe("large")  # wrong
KLAdaptiveLR(optimizer).observe()  # wrong
KLAdaptiveLR(optimizer).step(torch.ones(1), 2)  # wrong
FeedbackLR(optimizer)  # wrong
FeedbackLR(optimizer, lambda lr, kl: "small")  # wrong
FeedbackLR(optimizer, lambda lr, kl: lr).observe(None)  # wrong
scheduler.observe(0.01)  # wrong
SequentialLR(optimizer, scheduler, [3])  # wrong
ChainedScheduler(scheduler)  # wrong
ParamScheduler(optimizer, "momentum", 0.9)  # wrong
get_scheduler("cosine", model, 1, 10)  # wrong
get_scheduler("cosine", optimizer, warmup=1)  # wrong
on_device(optimizer)  # wrong
on_device(scheduler, horizon="x")  # wrong
SGD(model, lr=0.1)  # wrong
SGD(model.parameters(), backend=3)  # wrong
Adam(model.parameters(), betas=0.9)  # wrong
AdamW(model.parameters(), decoupled_weight_decay=True)  # wrong
AdamW(model.parameters(), rl=0.1)  # wrong
AdamW(model.parameters(), max_grad_norm="1")  # wrong
SGD(model.parameters(), norm_scope="groups")  # wrong
Adam(model.parameters(), skip_spikes=6.0)  # wrong
SGD(model.parameters(), master_weights="float16")  # wrong
SGD(model.parameters(), master_weights=True)  # wrong
SGD(model.parameters(), state_dtype="bfloat16")  # wrong
SGD(model.parameters(), stochastic_rounding="yes")  # wrong
SGD(model.parameters(), rounding_seed=0.5)  # wrong
AdamW(model.parameters(), skip_nonfinite="yes")  # wrong
AdamW(model.parameters(), ema_decay="0.999")  # wrong
AdamW(model.parameters(), ema_dtype=torch.float32)  # wrong
AdamW(model.parameters(), zero_grad_in_step="yes")  # wrong
AdamW(model.parameters(), zero_grads_in_step=True)  # wrong
SpikeRule(window="128")  # wrong
SpikeRule(128, 6.0, 3)  # wrong
scheduler.explane()  # wrong
optimizer.stop_when(True)  # wrong
optimizer.stop_when()  # wrong
optimizer.grad_norm = torch.ones(())  # wrong
optimizer.skipped_steps.items()  # wrong
optimizer.group_grad_norms.item()  # wrong
optimizer.ema_weights(0.5)  # wrong
optimizer.averages()  # wrong
Monitor(optimizer, to=3)  # wrong
Monitor(optimizer, to=show_lrs)  # wrong
Monitor(optimizer, every="100")  # wrong
Monitor(optimizer, 100, None, 1024, 5)  # wrong
Monitor(model)  # wrong
Monitor(optimizer).rows[0].lrs  # wrong
graphed(step_of, optimizer, warmup="3")  # wrong
graphed(step_of, scheduler)  # wrong
graphed(step_of, optimizer, enabled="cuda")  # wrong
graphed(step_of, [optimizer])  # wrong
graphed(3, optimizer)  # wrong
graphed(step_of, optimizer)("x")  # wrong
graphed(step_of, optimizer)()  # wrong
graphed(step_of, optimizer)(torch.ones(1)).replays  # wrong
graphed(step_of, optimizer).release(True)  # wrong
