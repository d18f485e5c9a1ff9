"""What is observed stays on the device, and in a captured loop every replay observes anew."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Gpu, Graph
from schedule_twins import last_lr_on_the_device, on_the_device, same_bits

from fused_sched.lr_scheduler import FeedbackLR, KLAdaptiveLR, LinearLR, ReduceLROnPlateau, SequentialLR
from fused_sched.optim import SGD, AdamW

Capture = Callable[[Body], Graph]
WarmUp = Callable[[Body, int], None]
NoSync = Callable[[], Any]
LRS = (1e-3, 4e-3, 1e-5)
EDGES = (math.nan, 0.0, -0.0, -1.0, 1e-30, math.inf, -math.inf)


def _optimizer(make: Any = SGD, **options: Any) -> Any:
    groups = [{"params": [torch.nn.Parameter(torch.ones(5, device=DEVICE))], "lr": lr} for lr in LRS]
    made = make(groups, lr=0.1, **options)
    for group in made.param_groups:
        group["params"][0].grad = torch.full((5,), 0.01, device=DEVICE)
    return made


def _signals(rng: random.Random, n: int) -> list[float]:
    """That float32 holds: what is observed is one."""
    found = [rng.choice([rng.choice(EDGES), 10.0 ** rng.uniform(-4, 0), rng.uniform(0, 0.03)]) for _ in range(n)]
    return torch.tensor(found, dtype=torch.float32).tolist()  # type: ignore[no-any-return]


def _by_kl(lr: float, kl: float) -> float:
    return min(lr * 1.25, 0.01) if kl < 0.005 else max(lr / 1.25, 1e-6) if kl > 0.02 else lr


def _rule(lr: float, kl: float) -> float:
    if kl > 0.01 * 2.0:
        return max(1e-6, lr / 1.5)
    if kl < 0.01 / 2.0 and kl > 0.0:
        return min(1e-2, lr * 1.5)
    return lr


KINDS: dict[str, tuple[Callable[..., Any], Callable[[float, float], float]]] = {
    "KLAdaptiveLR": (KLAdaptiveLR, _rule),
    "FeedbackLR": (lambda o, **keywords: FeedbackLR(o, _by_kl, **keywords), _by_kl),
}


def _next(rule: Callable[[float, float], float], lrs: list[float], signal: float) -> list[float]:
    return lrs if math.isnan(signal) else [rule(lr, signal) for lr in lrs]


def _assert_lrs(made: Any, scheduler: Any, lrs: list[float], when: str) -> None:
    for found in ([row["lr"] for row in on_the_device(made)], last_lr_on_the_device(scheduler)):
        assert all(map(same_bits, found, lrs)), f"{when}: {found}, not {lrs}"


@pytest.mark.parametrize("kind", KINDS)
def test_traces_of_tensors_have_the_bits_of_the_rule_and_nothing_waits(
    kind: str, gpu_backend: Any, no_sync: NoSync, rng: random.Random
) -> None:
    make, rule = KINDS[kind]
    made, lrs = _optimizer(backend=gpu_backend), [*LRS]
    scheduler = make(made)
    signals = _signals(rng, 60)
    given = torch.tensor(signals, device=DEVICE)
    scheduler.observe(given[0])
    scheduler.step()  # the kernel is made
    with no_sync():
        for signal in given[1:]:
            scheduler.observe(signal)
            scheduler.step()
    for signal in signals:
        lrs = _next(rule, lrs, signal)
    _assert_lrs(made, scheduler, lrs, "after all")
    assert scheduler.get_last_lr() == lrs
    assert scheduler.last_epoch == 60
    assert scheduler.observed is None


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thin
def test_each_replay_of_a_loop_observes_anew(
    kind: str, fused: bool, gpu_backend: Any, gpu: Gpu, capture: Capture, warm_up: WarmUp, no_sync: NoSync,
    rng: random.Random,
) -> None:  # fmt: skip
    """200 replays, with lrs and attributes that are edited in between, beside an eager loop on the device."""
    make, rule = KINDS[kind]
    eager, captured = (_optimizer(AdamW, backend=gpu_backend) for _ in range(2))
    first, second = make(eager, fused=fused), make(captured, fused=fused)
    kl, lrs = torch.zeros((), device=DEVICE), [*LRS]

    def body() -> None:
        second.observe(kl * 1.0)  # what was computed in the graph
        captured.step()
        second.step()

    def follow(signal: float) -> None:
        nonlocal lrs
        first.observe(torch.tensor(signal, device=DEVICE))
        eager.step()
        first.step()
        lrs = _next(rule, lrs, signal)

    warm_up(body, 3)
    for _ in range(3):
        follow(0.0)
    graph = capture(body)
    for replay, signal in enumerate(_signals(rng, 200)):
        if replay % 40 == 20:
            lrs[1] = 10.0 ** rng.uniform(-5, -3)
            for made in (eager, captured):
                made.param_groups[1]["lr"] = lrs[1]
        kl.fill_(signal)
        with no_sync():
            graph.replay()
        follow(signal)
        if replay % 25 == 0:
            _assert_lrs(captured, second, lrs, f"replay {replay}")
    gpu.synchronize()
    _assert_lrs(captured, second, lrs, "after the replays")
    _assert_lrs(eager, first, lrs, "eager")
    for a, b in zip(eager.param_groups, captured.param_groups, strict=True):
        assert torch.equal(a["params"][0], b["params"][0])
    assert second.get_last_lr() == first.get_last_lr() == lrs
    assert second.last_epoch == first.last_epoch == 203
    assert second.state_dict() == first.state_dict()


def test_attributes_that_are_edited_between_replays(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    """They count from the next step on that is not a replay, and then in replays too."""
    made, lrs = _optimizer(backend=gpu_backend), [*LRS]
    scheduler = KLAdaptiveLR(made, min_lr=1e-9)
    kl = torch.full((), 0.05, device=DEVICE)

    def body() -> None:
        scheduler.observe(kl)
        scheduler.step()

    warm_up(body, 2)
    graph = capture(body)
    lrs = [lr / 1.5 / 1.5 for lr in lrs]
    scheduler.lr_factor = 2.0
    graph.replay()
    lrs = [lr / 1.5 for lr in lrs]
    _assert_lrs(made, scheduler, lrs, "a replay")
    body()
    graph.replay()
    lrs = [lr / 4.0 for lr in lrs]
    _assert_lrs(made, scheduler, lrs, "after a step")
    scheduler.target_kl = 1.0
    scheduler.step()  # with nothing
    _assert_lrs(made, scheduler, lrs, "nothing observed")
    graph.replay()
    lrs = [min(lr * 2.0, 1e-2) for lr in lrs]
    _assert_lrs(made, scheduler, lrs, "another target")


def test_an_observation_in_a_graph_of_its_own(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    made, lrs = _optimizer(backend=gpu_backend), [*LRS]
    scheduler = KLAdaptiveLR(made)
    kl = torch.full((), 0.05, device=DEVICE)
    warm_up(lambda: (scheduler.observe(kl), scheduler.step()), 1)  # type: ignore[arg-type, return-value, func-returns-value]
    measure, step = capture(lambda: scheduler.observe(kl)), capture(scheduler.step)
    lrs = _next(_rule, lrs, 0.05)
    for signal in (0.001, None, 0.05, None, None, 0.05):
        if signal is not None:
            kl.fill_(signal)
            measure.replay()
            lrs = _next(_rule, lrs, signal)
        step.replay()
        _assert_lrs(made, scheduler, lrs, f"{signal}")
    measure.replay()
    assert scheduler.observed == pytest.approx(0.05)
    scheduler.step()
    assert scheduler.observed is None
    _assert_lrs(made, scheduler, _next(_rule, lrs, 0.05), "an eager step with what a replay observed")


def test_a_function_that_raises_in_a_replay(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    made, lrs = _optimizer(backend=gpu_backend), [*LRS]
    scheduler = FeedbackLR(made, lambda lr, x: lr * 0.5 / x)
    signal = torch.full((), 0.25, device=DEVICE)

    def body() -> None:
        scheduler.observe(signal)
        scheduler.step()

    warm_up(body, 1)
    graph = capture(body)
    for value in (0.5, 0.0, 0.25, 4.0):  # what comes after the one that raises changes nothing either
        signal.fill_(value)
        graph.replay()
        _assert_lrs(made, scheduler, [lr * 2.0 for lr in lrs], f"{value}")
    with pytest.raises(RuntimeError, match="FeedbackLR stopped before epoch 3, and what it sets has stayed as it was"):
        scheduler.get_last_lr()
    assert scheduler.get_last_lr() == [lr * 2.0 for lr in lrs]
    signal.fill_(2.0)
    graph.replay()
    assert scheduler.get_last_lr() == [lr * 0.5 for lr in lrs]
    signal.fill_(0.0)
    graph.replay()
    with pytest.raises(RuntimeError, match="FeedbackLR stopped before epoch 4"):
        scheduler.observe(signal)


def test_a_function_that_raises_in_a_loop_that_the_host_drives(gpu_backend: Any) -> None:
    made = _optimizer(backend=gpu_backend)
    scheduler = FeedbackLR(made, lambda lr, x: lr * 0.5 / x)
    for value in (0.25, 0.0, 2.0):
        scheduler.observe(torch.full((1,), value, device=DEVICE))
        if value:
            scheduler.step()
        else:
            with pytest.raises(ZeroDivisionError, match="division by zero"):
                scheduler.step()
    assert scheduler.get_last_lr() == [lr * 0.5 / 0.25 * 0.5 / 2.0 for lr in LRS]
    assert scheduler.last_epoch == 2


def test_what_a_capture_refuses(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    made = _optimizer(backend=gpu_backend)
    scheduler = KLAdaptiveLR(made)
    kl = torch.full((), 0.05, device=DEVICE)
    warm_up(lambda: (scheduler.observe(kl), scheduler.step()), 1)  # type: ignore[arg-type, return-value, func-returns-value]
    for signal in (0.05, torch.tensor(0.05)):
        with pytest.raises(RuntimeError, match="a signal was read by the host inside a CUDA graph capture.*: give a "):
            capture(lambda signal=signal: scheduler.observe(signal))  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"signal has shape \(2,\)"):
        capture(lambda: scheduler.observe(torch.zeros(2, device=DEVICE)))
    with pytest.warns(UserWarning, match="its lr is computed on the host at every step"):
        other = FeedbackLR(made, lambda lr, x: float(str(lr)))
    with pytest.raises(RuntimeError, match=r"where the lr of FeedbackLR is computed \(.*<lambda>.*\), inside a"):
        capture(lambda: other.observe(kl))
    with pytest.raises(RuntimeError, match="the lr of FeedbackLR was computed by Python inside a CUDA graph capture"):
        capture(other.step)
    other.observe(kl)
    other.step()
    assert [row["lr"] for row in on_the_device(made)] == [lr / 1.5 for lr in LRS]


def test_a_sequence_that_is_replayed_to_its_parts(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    """A line, then the divergence, then a plateau: fused, each with what is observed while the sequence is there."""

    def make(made: Any) -> Any:
        parts = [LinearLR(made, 0.25, total_iters=3), KLAdaptiveLR(made), ReduceLROnPlateau(made, patience=1)]
        return SequentialLR(made, parts, [4, 10], fused=True)

    eager, captured = (_optimizer(backend=gpu_backend) for _ in range(2))
    first, second = make(eager), make(captured)
    kl, loss = (torch.zeros((), device=DEVICE) for _ in range(2))

    def step(made: Any, scheduler: Any) -> None:
        scheduler._schedulers[1].observe(kl)
        scheduler._schedulers[2].observe(loss)
        made.step()
        scheduler.step()

    warm_up(lambda: step(captured, second), 2)
    for _ in range(2):
        step(eager, first)
    graph = capture(lambda: step(captured, second))
    for replay in range(20):
        kl.fill_([0.001, 0.5, 0.01][replay % 3])
        loss.fill_(1.0 if replay % 4 else math.nan)
        graph.replay()
        step(eager, first)
        assert on_the_device(captured) == on_the_device(eager), f"replay {replay}"
    assert second.state_dict() == first.state_dict()
    plateau = second._schedulers[2]
    assert (plateau.last_epoch, plateau.best) == (12, 1.0)
    assert captured.param_groups[0]["lr"] < 1e-4
