"""Micro benchmarks for pytest-benchmark: pytest benchmarks/bench_micro.py --benchmark-group-by=group."""

from __future__ import annotations

import importlib
from typing import Any

import host
import pytest
import schedules
import torch
from device import Host

import fused_sched

CPU = Host()
LIBRARIES = {"fused_sched": fused_sched.lr_scheduler, "torch": schedules.TORCH}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", schedules.present(), ids=str)
def test_scheduler_step(benchmark, case: schedules.Case, library: str) -> None:
    benchmark.group = f"{case}: step(), one group"
    optimizer = host.library_of(library)[0].AdamW(host.tiny(1, CPU), lr=1e-3)
    scheduler = case.make(LIBRARIES[library], optimizer, host.HORIZON)
    optimizer.step()
    benchmark(schedules.stepper(scheduler))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", schedules.one_each(), ids=str)
def test_making_a_scheduler(benchmark, case: schedules.Case, library: str) -> None:
    benchmark.group = f"{case}: constructor"
    optimizer = host.library_of(library)[0].AdamW(host.tiny(1, CPU), lr=1e-3)
    benchmark.pedantic(lambda: case.make(LIBRARIES[library], optimizer, 10**6), rounds=30, warmup_rounds=2)


@pytest.mark.parametrize("library", host.NAMES)
@pytest.mark.parametrize("tensors", [1, 148])
def test_optimizer_step(benchmark, tensors: int, library: str) -> None:
    benchmark.group = f"AdamW and cosine, {tensors} tensors of 4 elements"
    benchmark(host.training_step(library, [host.tiny(tensors, CPU)], CPU))


@pytest.mark.parametrize("library", host.NAMES)
def test_optimizer_step_with_new_gradients(benchmark, library: str) -> None:
    benchmark.group = "AdamW and cosine after zero_grad(set_to_none=True), 148 tensors of 4 elements"
    parameters = host.tiny(148, CPU)
    step = host.training_step(library, [parameters], CPU)

    def run() -> None:
        for p in parameters:
            p.grad = torch.ones(4)
        step()

    benchmark(run)


def _tracing() -> Any:
    try:
        return getattr(importlib.import_module("fused_sched.trace"), "trace", None)
    except ImportError:
        return None


@pytest.mark.skipif(_tracing() is None, reason="this version traces no functions")
def test_tracing_a_function(benchmark) -> None:
    benchmark.group = "tracing a function of the step"
    benchmark(_tracing(), schedules.inverse_square_root)
