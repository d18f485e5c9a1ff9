"""Micro benchmarks for pytest-benchmark: pytest benchmarks/bench_micro.py --benchmark-group-by=group."""

from __future__ import annotations

import host_step
import pytest
import torch

import fused_sched

LIBRARIES = {"fused_sched": fused_sched.lr_scheduler, "torch": torch.optim.lr_scheduler}
OPTIMIZERS = {
    "fused_sched": lambda params: fused_sched.optim.AdamW(params, lr=1e-4),
    "torch fused": lambda params: torch.optim.AdamW(params, lr=1e-4, fused=True),
    "torch foreach": lambda params: torch.optim.AdamW(params, lr=1e-4, foreach=True),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", host_step.ARGUMENTS)
def test_scheduler_step(benchmark, name, library):
    benchmark.group = f"{name}.step(), one group"
    optim = fused_sched.optim if library == "fused_sched" else torch.optim
    optimizer = optim.AdamW(host_step._tiny(1), lr=1e-3)
    scheduler = getattr(LIBRARIES[library], name)(optimizer, *host_step.ARGUMENTS[name])
    optimizer.step()
    benchmark(scheduler.step)


@pytest.mark.parametrize("library", OPTIMIZERS)
@pytest.mark.parametrize("tensors", [1, 148])
def test_optimizer_step(benchmark, tensors, library):
    benchmark.group = f"AdamW.step(), {tensors} tensors of 4 elements"
    optimizer = OPTIMIZERS[library](host_step._tiny(tensors))
    benchmark(optimizer.step)


@pytest.mark.parametrize("library", OPTIMIZERS)
def test_optimizer_step_with_new_gradients(benchmark, library):
    benchmark.group = "AdamW.step() after zero_grad(set_to_none=True), 148 tensors of 4 elements"
    parameters = host_step._tiny(148)
    optimizer = OPTIMIZERS[library](parameters)

    def step():
        for p in parameters:
            p.grad = torch.ones(4)
        optimizer.step()
        optimizer.zero_grad()

    benchmark(step)
