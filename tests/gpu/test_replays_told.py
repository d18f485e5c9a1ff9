"""Graphs of the user's own, where torch tells of their replays: the host's numbers are right, and nobody waits."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpus import DEVICE, Gpu
from tolerances import SCHEDULE_RELATIVE

from fused_sched import lr_scheduler
from fused_sched.optim import SGD, AdamW


@pytest.fixture(autouse=True)
def telling(gpu: Gpu) -> Iterator[None]:
    with gpu.telling_of_replays():
        yield


class Training:
    """A parameter, its optimizer and scheduler; and torch's on the CPU, in lockstep."""

    def __init__(self, backend: Any, fused: bool, skip_with_optimizer: bool = False) -> None:
        self.param = torch.nn.Parameter(torch.ones(3, device=DEVICE))
        self.param.grad = torch.ones(3, device=DEVICE)
        self.optimizer = SGD([self.param], lr=0.5, momentum=0.9, backend=backend)
        self.scheduler = lr_scheduler.ExponentialLR(
            self.optimizer, 0.9, fused=fused, skip_with_optimizer=skip_with_optimizer
        )
        self.torchs = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.5)
        self.torchs_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.torchs, 0.9)

    def step(self) -> None:
        self.optimizer.step()
        self.scheduler.step()

    def torchs_step(self, times: int = 1) -> None:
        for _ in range(times):
            self.torchs.step()
            self.torchs_scheduler.step()

    def check(self) -> None:
        assert self.scheduler.last_epoch == self.torchs_scheduler.last_epoch
        for ours, torchs in (
            (self.scheduler.get_last_lr(), self.torchs_scheduler.get_last_lr()),
            (self.optimizer.param_groups[0]["lr"], self.torchs.param_groups[0]["lr"]),
        ):
            assert ours == pytest.approx(torchs, rel=0, abs=0.5 * SCHEDULE_RELATIVE)


@pytest.fixture(params=[True, False], ids=["fused", "step by step"])
def training(request: pytest.FixtureRequest, gpu_backend: Any) -> Training:
    return Training(gpu_backend, request.param)


def test_nothing_waits(training: Training, gpu: Gpu) -> None:
    gpu.warm_up(training.step, 2)
    graph = gpu.capture(training.step)
    training.torchs_step(2)
    with gpu.no_sync():
        training.check()
        for i in range(4):
            graph.replay()
            training.torchs_step()
            if i != 1:
                training.check()
        training.step()
        training.torchs_step()
        training.check()
        training.optimizer.param_groups[0]["lr"] *= 0.5
        training.torchs.param_groups[0]["lr"] *= 0.5
        graph.replay()
        training.torchs_step()
        training.check()


def test_a_flag_leaves_it_to_the_step(training: Training, gpu: Gpu) -> None:
    """An update that was skipped, and the step that makes up for it, are one advance: no one has to ask."""
    flag = torch.zeros((), device=DEVICE)
    training.optimizer.stop_when(flag)
    gpu.warm_up(training.step, 1)
    graph = gpu.capture(training.step)
    training.torchs_step()
    for i in range(4):
        flag.fill_(i % 2)
        with gpu.no_sync():
            graph.replay()
            training.torchs_step()
            training.check()


def test_who_waits_for_the_optimizer_is_asked(gpu_backend: Any, gpu: Gpu) -> None:
    training, flag = Training(gpu_backend, fused=True, skip_with_optimizer=True), torch.zeros((), device=DEVICE)
    training.optimizer.stop_when(flag)
    gpu.warm_up(training.step, 1)
    graph = gpu.capture(training.step)
    training.torchs_step()
    for i in range(4):
        flag.fill_(i % 2)
        graph.replay()
        training.torchs_step(1 - i % 2)
        training.check()


def test_several_graphs_and_one_that_is_captured_again(training: Training, gpu: Gpu) -> None:
    gpu.warm_up(training.step, 1)
    one = gpu.capture(training.step)

    def twice() -> None:
        training.step()
        training.step()

    two = gpu.capture(twice)
    training.torchs_step()
    for graph, steps in ((one, 1), (two, 2), (two, 2), (one, 1)):
        graph.replay()
        training.torchs_step(steps)
        training.check()
    one.reset()
    one = gpu.capture(twice, one)
    for graph in (one, two, one):
        graph.replay()
        training.torchs_step(2)
        training.check()


def test_a_capture_that_fails_is_forgotten(training: Training, gpu: Gpu) -> None:
    gpu.warm_up(training.step, 1)
    training.torchs_step()

    def fails() -> None:
        training.optimizer.step()
        raise KeyError("a fault of the user's")

    with pytest.raises(KeyError):
        gpu.capture(fails)
    gc.collect()
    if training.scheduler._schedule.account is not None:  # the step that was captured was never made
        training.scheduler._schedule.forget_step()
    training.step()
    training.torchs_step()
    training.check()
    graph = gpu.capture(training.step)
    for _ in range(3):
        graph.replay()
        training.torchs_step()
        training.check()


def test_an_update_alone(training: Training, gpu: Gpu) -> None:
    """A graph of the update, and the host calls the scheduler."""
    gpu.warm_up(training.step, 1)
    training.torchs_step()
    graph = gpu.capture(training.optimizer.step)
    for _ in range(3):
        graph.replay()
        training.scheduler.step()
        training.torchs_step()
        training.check()


def test_a_graph_keeps_no_optimizer(gpu_backend: Any, gpu: Gpu) -> None:
    training = Training(gpu_backend, fused=True)
    gpu.warm_up(training.step, 1)
    graph = gpu.capture(training.step)
    graph.replay()
    kept = [weakref.ref(x) for x in (training.optimizer, training.scheduler)]
    gc.disable()
    try:
        del training
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()
    del graph


def test_random_sequences(rng: random.Random, training: Training, gpu: Gpu) -> None:
    gpu.warm_up(training.step, 1)
    training.torchs_step()
    graphs: list[tuple[Any, int]] = []
    for _ in range(60):
        what = rng.choice(["capture", "replay", "replay", "replay", "step", "edit", "load", "save", "read", "read"])
        if what == "capture" and len(graphs) < 3:
            n = rng.randint(1, 3)
            gpu.warm_up(training.step, 1)
            training.torchs_step()
            graphs.append((gpu.capture(lambda n=n: [training.step() for _ in range(n)]), n))  # type: ignore[misc]
        elif what == "replay" and graphs:
            graph, n = rng.choice(graphs)
            graph.replay()
            training.torchs_step(n)
        elif what == "step":
            training.step()
            training.torchs_step()
        elif what == "edit":
            for optimizer in (training.optimizer, training.torchs):
                optimizer.param_groups[0]["lr"] *= 0.9
        elif what == "load":
            training.scheduler.load_state_dict(training.scheduler.state_dict())
            training.torchs_scheduler.load_state_dict(training.torchs_scheduler.state_dict())
        elif what == "read":
            training.check()
        elif what == "save":  # asks the device
            assert training.scheduler.state_dict()["last_epoch"] == training.torchs_scheduler.last_epoch
    training.check()
    assert training.scheduler.state_dict()["last_epoch"] == training.torchs_scheduler.last_epoch


def test_a_field_that_follows_a_tensor_is_read(gpu_backend: Any, gpu: Gpu) -> None:
    param = torch.nn.Parameter(torch.ones(2, device=DEVICE))
    param.grad = torch.ones(2, device=DEVICE)
    lr = torch.tensor(0.5, device=DEVICE)
    optimizer = AdamW([param], lr=lr, backend=gpu_backend)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5, fused=True)

    def step() -> None:
        optimizer.step()
        scheduler.step()

    gpu.warm_up(step, 1)
    graph = gpu.capture(step)
    graph.replay()
    lr.fill_(0.8)
    graph.replay()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.4, rel=1e-6)
    assert scheduler.last_epoch == 3
