"""The examples: replays train as the same steps do one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, REAL, Body, Gpu
from tolerances import SCHEDULE_RELATIVE

from fused_sched import graphed

sys.path.append(str(Path(__file__).parent.parent.parent / "examples"))

import captured_loop
import demo
import ppo_kl
import two_optimizers

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


@pytest.mark.parametrize("name", DEFAULTS)
def test_graphed_updates_of_ppo_are_eager_updates(name: str | None, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are stopped too, and those after them."""
    monkeypatch.setattr(ppo_kl, "KL_LIMIT", 0.001)
    size = ppo_kl.Size(environments=4, steps=4, epochs=3, minibatches=2, hidden=4)
    played = ppo_kl.HostLearner(size, "cpu", 0)
    graph, eager = (ppo_kl.Learner(size, DEVICE, 0, enabled, backend=gpu.backend(name)) for enabled in (None, False))
    rows = [index.to(DEVICE) for index in played.minibatches()]
    for iteration in range(2):
        seen = played.act()
        for learner in (graph, eager):
            if iteration == 0:
                for p, q in zip(learner.policy.parameters(), played.policy.parameters(), strict=True):
                    p.data.copy_(q.detach())
            learner.seen.copy_(seen)
            learner.stopped.zero_()
        for index in rows:
            both = graph.train_on(index).item(), eager.train_on(index).item()
            assert both[0] == pytest.approx(both[1], rel=1e-3 if REAL else 0)
        assert graph.stopped.item() == eager.stopped.item() == 1
    for a, b in zip(graph.policy.parameters(), eager.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3 if REAL else 0, atol=1e-5 if REAL else 0)
    for learner in (graph, eager):
        assert learner.monitor is not None
        learner.monitor.close()
    assert graph.lrs == pytest.approx(eager.lrs, rel=1e-12)
    assert 2 <= len(graph.lrs) < len(rows) * 2
    assert len(set(graph.lrs)) > 1
    assert (graph.train_on.captures, graph.train_on.replays) == (1, 2 * len(rows))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", DEFAULTS)
def test_graphed_updates_of_two_optimizers_are_eager_updates(name: str | None, fused: bool, gpu: Gpu) -> None:
    """But for the last bits of matrix products, which depend on where in memory they are."""
    graph, eager = (two_optimizers.Pair(DEVICE, 8, fused=fused, hidden=4, backend=gpu.backend(name)) for _ in range(2))
    update = graphed(graph.update, graph.first, graph.second)
    for _ in range(6):
        losses, expected = update(*graph.next_batch(4)), eager.update(*eager.next_batch(4))
        for a, b in zip(losses, expected, strict=True):
            assert a.item() == pytest.approx(b.item(), rel=1e-3 if REAL else 1e-5)
    for one, other in ((graph.actor, eager.actor), (graph.critic, eager.critic)):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3 if REAL else 1e-5, atol=1e-5 if REAL else 1e-6)
    for a, b in zip(graph.schedules, eager.schedules, strict=True):
        assert a.last_epoch == b.last_epoch == 6
        assert a.get_last_lr() == pytest.approx(b.get_last_lr(), rel=1e-12)
    assert (update.captures, update.replays) == (1, 6)


@pytest.mark.parametrize("title", ["LambdaLR, 1/(1 + 0.02 t)", "StepLR, halved by hand", "SequentialLR, warm-up"])
def test_demo_agrees_with_torch_from_a_graph_too(title: str, gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    """Full batches and the smaller last one of an epoch, each a graph of its own."""
    (case,) = [case for case in demo.CASES if case.title == title]
    data = demo.load_data(DEVICE)
    order = demo.batches(data)[20:26]
    result = demo.compare(
        replace(case, halve_at=case.halve_at and 3), data, order, lambda: None, backend=gpu.backend(None)
    )
    assert result.agrees
    assert result.replayed is not None
    assert result.replayed.losses == pytest.approx(result.theirs.losses, rel=1e-4)
    assert result.replayed.train.captures == 2
    assert result.replayed.rates == pytest.approx(result.theirs.rates, rel=1e-12)
    assert len(result.accuracies) == 3
    demo.print_table([result])
    demo.print_verdict([result])
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split()[-3:] == ["ours", "graphed", "torch"]
    assert "one by one or as a CUDA graph" in shown
