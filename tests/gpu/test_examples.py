"""The examples: replays train as the same steps do one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, REAL, Body, Gpu
from tolerances import SCHEDULE_RELATIVE

sys.path.append(str(Path(__file__).parent.parent.parent / "examples"))

import captured_loop

pytestmark = pytest.mark.slow  # on the simulated GPU

Make = Callable[..., captured_loop.TrainingLoop]


@pytest.fixture(params=DEFAULTS)
def make(request: pytest.FixtureRequest, gpu: Gpu) -> Make:
    """Makes the example's loop; without a real GPU it is given the simulated one's streams and graphs."""

    class OnSimulatedGpu(captured_loop.TrainingLoop):
        def aside(self, body: Body) -> None:
            gpu.warm_up(body, 1)

        def record(self, body: Body) -> Body:
            return gpu.capture(body).replay

    loop = captured_loop.TrainingLoop if REAL else OnSimulatedGpu

    def made(**options: Any) -> captured_loop.TrainingLoop:
        return loop(DEVICE, backend=gpu.backend(request.param), **options)

    return made


@pytest.mark.parametrize("fused", [True, False])
def test_captured_steps_are_eager_steps(fused: bool, make: Make) -> None:
    loops = [make(features=64 if REAL else 16, batch=32 if REAL else 8, steps=200, fused=fused) for _ in range(2)]
    captured, eager = loops
    replay = captured.capture()
    eager.warm_up()
    for i in range(100):
        if i == 50:
            for loop in loops:
                loop.optimizer.param_groups[0]["lr"] /= 2
        captured.load_batch()
        replay()
        eager.load_batch()
        eager.step()
    lr = captured.optimizer.param_groups[0]["lr"]  # read from the device; the eager one's is the host's mirror
    assert lr == pytest.approx(eager.optimizer.param_groups[0]["lr"], rel=SCHEDULE_RELATIVE)
    assert captured.scheduler.last_epoch == eager.scheduler.last_epoch == 103
    # cuBLAS may choose another algorithm in a capture: rounding errors of gradients, which 100 steps pile up
    assert captured.loss.item() == pytest.approx(eager.loss.item(), rel=1e-3)
    for a, b in zip(captured.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_gradients_belong_to_the_graph(make: Make) -> None:
    loop = make(features=32, batch=8)
    replay = loop.capture()
    where = [p.grad.data_ptr() for p in loop.model.parameters()]
    for _ in range(3):
        loop.load_batch()
        replay()
    assert [p.grad.data_ptr() for p in loop.model.parameters()] == where


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", DEFAULTS)
def test_graphed_steps_are_eager_steps(name: str | None, fused: bool, gpu: Gpu) -> None:
    graph, eager = (
        captured_loop.Training(DEVICE, 16, 8, steps=40, fused=fused, backend=gpu.backend(name)) for _ in range(2)
    )
    step = graph.graphed_step()
    for i in range(20):
        if i == 10:
            for training in (graph, eager):
                training.optimizer.param_groups[0]["lr"] /= 2
        loss = step()
        assert loss.item() == pytest.approx(eager.update(*eager.next_batch()).item(), rel=1e-3 if REAL else 0)
    assert graph.scheduler.last_epoch == eager.scheduler.last_epoch == 20
    assert graph.optimizer.param_groups[0]["lr"] == pytest.approx(eager.optimizer.param_groups[0]["lr"], rel=1e-12)
    for a, b in zip(graph.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3 if REAL else 0, atol=1e-5 if REAL else 0)
