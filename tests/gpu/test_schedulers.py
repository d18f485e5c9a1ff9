"""Every scheduler on a GPU: the device computes what the host's mirror computes, alone, nested and replayed.

The same bits are asked for between two runs on the device; between the mirror and torch, both Python; and where
schedules have no more than + - * / and comparisons. Elsewhere the device's pow and cos are not Python's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Gpu, Graph
from schedule_twins import (
    DEFAULTS,
    EVERY,
    MEASURED,
    NAMES,
    OURS,
    TORCH,
    Parts,
    Recorder,
    advance,
    assert_alike,
    build,
    last_lr_on_the_device,
    on_the_device,
    position,
    seen,
)
from tolerances import COSINE_PAST_TROUGH_RELATIVE, SCHEDULE_RELATIVE

from fused_sched.lr_scheduler import ChainedScheduler, LambdaLR, ParamScheduler, ReduceLROnPlateau, on_device
from fused_sched.optim import SGD, AdamW

Capture = Callable[[Body], Graph]
WarmUp = Callable[[Body, int], None]
NoSync = Callable[[], Any]
LRS = (0.1, 0.3, 0.05)
ARGUMENTS = {**DEFAULTS, **MEASURED}


def _optimizer(make: Any = SGD, device: str = DEVICE, **options: Any) -> Any:
    groups = [{"params": [torch.nn.Parameter(torch.ones(5, device=device))], "lr": lr} for lr in LRS]
    if make in (SGD, torch.optim.SGD):
        options["momentum"] = 0.7
    made = make(groups, lr=0.1, **options)
    for group in made.param_groups:
        group["params"][0].grad = torch.zeros(5, device=device)
    return made


def _relative(name: str) -> float:
    return COSINE_PAST_TROUGH_RELATIVE if name in ("CosineAnnealingLR", "SequentialLR") else SCHEDULE_RELATIVE


@pytest.mark.parametrize("name", [*EVERY, *MEASURED])
def test_device_mirror_and_torch_agree(name: str, gpu_backend: Any) -> None:
    mine, theirs, arguments = _optimizer(backend=gpu_backend), _optimizer(torch.optim.SGD, "cpu"), ARGUMENTS[name]
    ours, oracle = build(OURS, name, mine, **arguments), build(TORCH, name, theirs, **arguments)
    for step in range(60):
        for scheduler in (ours, oracle):
            scheduler.optimizer.step()
            advance(scheduler)
        assert_alike(seen(mine), seen(theirs), 0.0, f"mirror, step {step}")
        assert_alike(on_the_device(mine), seen(theirs), _relative(name), f"device, step {step}")


@pytest.mark.parametrize("name", NAMES)
def test_fused_replays_equal_eager_steps(
    name: str, gpu_backend: Any, gpu: Gpu, capture: Capture, warm_up: WarmUp
) -> None:
    eager, captured = _optimizer(backend=gpu_backend), _optimizer(backend=gpu_backend)
    arguments = {**DEFAULTS[name], "fused": True}
    with_functions = name in ("LambdaLR", "MultiplicativeLR")
    if with_functions:
        arguments["horizon"] = 40  # where the function is not traced
    first, second = build(OURS, name, eager, **arguments), build(OURS, name, captured, **arguments)

    def body() -> None:
        captured.step()
        second.step()

    warm_up(body, 3)
    for _ in range(3):
        eager.step()
        first.step()
    graph = capture(body)
    for _ in range(20):
        graph.replay()
        eager.step()
        first.step()
    gpu.synchronize()
    assert_alike(on_the_device(captured), on_the_device(eager), 0.0, "after the replays")
    assert last_lr_on_the_device(second) == last_lr_on_the_device(first)
    assert_alike(seen(captured), seen(eager), _relative(name), "mirror")
    assert second.get_last_lr() == pytest.approx(first.get_last_lr(), rel=_relative(name))
    assert position(second) == position(first)


def test_nested_schedule_and_update_are_one_kernel(gpu_backend: Any, work: Callable[[Body], list[str]]) -> None:
    made = _optimizer(AdamW, backend=gpu_backend)
    parts = Parts(("LinearLR", {"total_iters": 5}), ("CosineAnnealingLR", {"T_max": 50}))
    inner = Parts(("SequentialLR", {"schedulers": parts, "milestones": [5]}), ("StepLR", {"step_size": 7}))
    scheduler = build(OURS, "ChainedScheduler", made, schedulers=inner, fused=True)

    def step() -> None:
        made.step()
        scheduler.step()

    for _ in range(8):
        step()
    kernels = work(step)
    assert len(kernels) == 1, kernels


def test_plateau_with_a_metric_on_the_device_does_not_wait(gpu_backend: Any, no_sync: NoSync) -> None:
    mine, theirs = _optimizer(backend=gpu_backend), _optimizer(torch.optim.SGD, "cpu")
    ours = ReduceLROnPlateau(mine, factor=0.5, patience=1, cooldown=1)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=1, cooldown=1)
    losses = torch.tensor([3.0, 2.0, 2.0, 2.0, 2.0, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], device=DEVICE)
    ours.step(losses[0])
    with no_sync():
        for loss in losses[1:]:
            ours.step(loss)
    for value in losses.tolist():
        oracle.step(value)
    assert seen(mine) == seen(theirs)  # a product of the lr and comparisons of the metric: the same bits
    assert ours.state_dict() == oracle.state_dict()


def test_plateau_is_captured_with_its_metric(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    mine, theirs = _optimizer(backend=gpu_backend), _optimizer(torch.optim.SGD, "cpu")
    ours = ReduceLROnPlateau(mine, factor=0.5, patience=1)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=1)
    loss = torch.full((), 5.0, device=DEVICE)
    warm_up(lambda: ours.step(loss), 2)
    for _ in range(2):
        oracle.step(5.0)
    graph = capture(lambda: ours.step(loss))
    for value in (4.0, 4.0, 4.0, 4.0, 1.0, 2.0, 2.0, 2.0):
        loss.fill_(value)
        graph.replay()
        oracle.step(value)
        assert seen(mine) == seen(theirs)
    assert (ours.best, ours.num_bad_epochs, ours.last_epoch) == (1.0, oracle.num_bad_epochs, 10)
    with pytest.raises(RuntimeError, match="a metric was read by the host inside a CUDA graph capture"):
        capture(lambda: ours.step(1.0))


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_replays_past_the_rows_computed_ahead_hold_the_lr_and_are_reported(
    fused: bool, gpu_backend: Any, capture: Capture, warm_up: WarmUp
) -> None:
    made = _optimizer(backend=gpu_backend)
    scheduler = LambdaLR(made, Recorder(), horizon=10, fused=fused)

    def body() -> None:
        made.step()
        scheduler.step()

    warm_up(body, 2)
    graph = capture(body)
    for _ in range(8):  # rows 3 to 10
        graph.replay()
    assert [g["lr"] for g in made.param_groups] == [lr * (1.0 / 11) for lr in LRS]
    scheduler.get_last_lr()
    for _ in range(3):
        graph.replay()
        assert [g["lr"] for g in made.param_groups] == [lr * (1.0 / 11) for lr in LRS]
    with pytest.raises(RuntimeError, match="^LambdaLR stopped before epoch 11, and what it sets has stayed as it was"):
        scheduler.get_last_lr()
    body()  # the host computes more rows
    assert [g["lr"] for g in made.param_groups] == [lr * (1.0 / 12) for lr in LRS]
    graph.replay()
    assert [g["lr"] for g in made.param_groups] == [lr * (1.0 / 13) for lr in LRS]
    scheduler.state_dict()


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_replays_never_have_a_value_that_a_group_refuses(
    fused: bool, gpu_backend: Any, capture: Capture, warm_up: WarmUp
) -> None:
    made = _optimizer(backend=gpu_backend, max_grad_norm=9.0)
    scheduler = ParamScheduler(made, "max_grad_norm", lambda step: 5.0 - step, fused=fused)

    def body() -> None:
        made.step()
        scheduler.step()

    warm_up(body, 2)
    graph = capture(body)
    for _ in range(6):
        graph.replay()
    assert [g["max_grad_norm"] for g in made.param_groups] == [0.0] * len(made.param_groups)
    stopped = "^ParamScheduler stopped before epoch 6, .*: ValueError: max_grad_norm=-1.0 must be"
    with pytest.raises(RuntimeError, match=stopped):
        scheduler.get_last_value()


@pytest.mark.parametrize("value", [-10, 2.5, 7.0])
def test_an_epoch_that_no_counting_leads_to_is_refused_after_the_capture(
    value: float, gpu_backend: Any, capture: Capture, warm_up: WarmUp
) -> None:
    """A traced function is for steps from 0 on, and replays ask nobody."""
    made = _optimizer(backend=gpu_backend)
    scheduler = LambdaLR(made, lambda step: 0.5 if step < 0 else 1.0 + step % 4)
    warm_up(scheduler.step, 2)
    graph = capture(scheduler.step)
    graph.replay()
    for edit in (lambda: setattr(scheduler, "last_epoch", value), lambda: scheduler.__dict__.update(last_epoch=value)):
        with pytest.raises(ValueError, match=rf"last_epoch={value!r} was assigned after a CUDA graph was captured"):
            edit()
        assert scheduler.last_epoch == 3
    scheduler.last_epoch = 9
    graph.replay()
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (10, [lr * 3.0 for lr in LRS])


def test_function_called_by_python_cannot_be_captured_without_a_horizon(
    gpu_backend: Any, capture: Capture, warm_up: WarmUp
) -> None:
    made = _optimizer(backend=gpu_backend)
    scheduler = LambdaLR(made, Recorder())
    warm_up(scheduler.step, 2)
    with pytest.raises(RuntimeError, match=r"a value of the schedule was computed by Python .*: give horizon=N"):
        capture(scheduler.step)


def test_param_scheduler_is_replayed(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    made = _optimizer(AdamW, backend=gpu_backend)
    scheduler = ParamScheduler(made, "weight_decay", lambda step: 0.5 / (1 + step), horizon=40, fused=True)
    warm_up(made.step, 2)
    graph = capture(made.step)
    for _ in range(10):
        graph.replay()
    assert scheduler.get_last_value() == [0.5 / 13] * len(LRS)
    assert scheduler.last_epoch == 12


def test_converted_schedulers_of_torch_are_replayed(gpu_backend: Any, capture: Capture, warm_up: WarmUp) -> None:
    made, theirs = _optimizer(backend=gpu_backend), _optimizer(torch.optim.SGD, "cpu")

    def parts(o: Any) -> Any:
        home = torch.optim.lr_scheduler
        return home.ChainedScheduler([home.ConstantLR(o, 0.5, 4), home.ExponentialLR(o, 0.9)], o)

    oracle = parts(theirs)
    scheduler = on_device(parts(made), fused=True)
    assert type(scheduler) is ChainedScheduler
    warm_up(made.step, 2)
    graph = capture(made.step)
    for _ in range(10):
        graph.replay()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(12):
            oracle.step()
    assert_alike(seen(made), seen(theirs), SCHEDULE_RELATIVE, "after the replays")
