"""ReduceLROnPlateau, whose steps take a metric: torch's decisions, made where the metric is."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from typing import Any

import pytest
import torch
from schedule_twins import TORCH, Twins, assert_alike, optimizer, parameters, patience, random_lrs, seen, twins
from tolerances import SCHEDULE_RELATIVE

import fused_sched
from fused_sched.lr_scheduler import ExponentialLR, ReduceLROnPlateau

NAME = "ReduceLROnPlateau"
COUNTERS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


def _random_metric(rng: random.Random) -> float:
    return rng.choice([rng.random(), rng.uniform(-1, 1), 1.0, -0.5, 0.0, math.nan, math.inf, -math.inf, 1e-320])


def _compare(pair: Twins, relative: float, when: str) -> None:
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), relative, when)
    for name in COUNTERS:
        ours, theirs = getattr(pair.ours, name), getattr(pair.torchs, name)
        assert (ours, type(ours)) == (theirs, type(theirs)), f"{when}: {name}"
    assert pair.ours.in_cooldown == pair.torchs.in_cooldown


def _arguments(rng: random.Random, n: int, mode: str, threshold_mode: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "threshold_mode": threshold_mode,
        "factor": rng.choice([0.1, 0.5, 0.99, 0.0]),
        "patience": rng.choice([0, 1, 3]),
        "cooldown": rng.choice([0, 2]),
        "threshold": rng.choice([1e-4, 0.0, 0.25]),
        "min_lr": rng.choice([0, 0.001, [0.001 * i for i in range(n)]]),
        "eps": rng.choice([1e-8, 0.0, 0.01]),
    }


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize(("mode", "threshold_mode"), [*itertools.product(["min", "max"], ["rel", "abs"])])
def test_every_mode_on_random_metrics(
    mode: str, threshold_mode: str, tensor: bool, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    for _ in range(10):
        n = rng.randint(1, 4)
        arguments = _arguments(rng, n, mode, threshold_mode)
        pair = twins(NAME, arguments, lrs=random_lrs(rng, n), backend=host_backend, kind=rng.choice(["SGD", "Adam"]))
        for step in range(50):
            value = _random_metric(rng)
            if tensor:
                shape, dtype = rng.choice([(), (1,), (1, 1)]), rng.choice([torch.float64, torch.float32, torch.float16])
                value = torch.full(shape, value, dtype=dtype)
            if rng.random() < 0.1:
                pair.edit(lambda groups: groups[-1].update(lr=groups[-1]["lr"] * 3))
            pair.both(lambda scheduler, _, value=value: scheduler.step(value))  # type: ignore[misc]
            _compare(pair, 0.0, f"{arguments}: step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        assert pair.ours.state_dict() == pair.torchs.state_dict()


def test_every_backend_decides_as_torch(rng: random.Random, backend: str, mirrored: bool) -> None:
    for mode, threshold_mode in itertools.product(["min", "max"], ["rel", "abs"]):
        arguments = {**_arguments(rng, 2, mode, threshold_mode), "patience": 1}
        pair = twins(NAME, arguments, lrs=[0.1, 0.3], backend=backend)
        for step in range(patience(backend, 40)):
            value = _random_metric(rng)
            pair.both(lambda scheduler, _, value=value: scheduler.step(value))  # type: ignore[misc]
            _compare(pair, SCHEDULE_RELATIVE, f"{arguments}: step {step}")


class _Private(torch.Tensor):
    """A tensor whose value the host must not see."""

    def _refuse(self, *args: object) -> Any:
        raise AssertionError("the host read the metric")

    item = tolist = numpy = __float__ = __int__ = __index__ = __bool__ = __array__ = _refuse


def test_a_metric_on_the_optimizers_device_is_not_read_by_the_host(
    remote: None, host_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = twins(NAME, {"patience": 0, "factor": 0.5}, lrs=[0.1, 0.3], backend=host_backend)
    values = [1.0, 2.0, 0.5, math.nan, 0.4, 0.9, 0.9]
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "numpy", "__bool__"):
            patch.setattr(torch.Tensor, name, _Private._refuse)
        for value in values:
            pair.ours.step(torch.tensor(value, dtype=torch.float64).as_subclass(_Private))
            assert pair.ours._schedule.memory.stale  # what the device decided is not known here
    for value in values:
        pair.torchs.step(value)
    _compare(pair, 0.0, "after all")
    with pytest.raises(AssertionError, match="^the host read the metric$"):
        pair.torchs.step(torch.tensor(1.0).as_subclass(_Private))  # torch's own does read it


def test_numbers_keep_the_mirror_fresh(remote: None, host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = twins(NAME, {"patience": 0}, lrs=[0.1], backend=host_backend)

    def forbidden(self: Any) -> None:
        raise AssertionError("the host read the device")

    monkeypatch.setattr("fused_sched.memory.control_block.HostedArray.refresh", forbidden)
    for value in (1.0, 2, 0.5, 3.0, 3.0):
        pair.both(lambda scheduler, _, value=value: scheduler.step(value))  # type: ignore[misc]
        _compare(pair, 0.0, f"metric {value}")


@pytest.mark.parametrize("shape", [(2,), (0,), (3, 1)])
def test_metric_of_several_elements_is_refused(shape: tuple[int, ...], host_backend: str, mirrored: bool) -> None:
    pair = twins(NAME, {"patience": 0}, lrs=[0.1], backend=host_backend)
    before = seen(pair.our_optimizer), pair.ours.state_dict()
    with pytest.raises(ValueError, match=r"^metrics has shape \(.*\): give a number or a one-element tensor$"):
        pair.ours.step(torch.zeros(shape))
    assert (seen(pair.our_optimizer), pair.ours.state_dict()) == before
    with pytest.raises((ValueError, RuntimeError)):
        pair.torchs.step(torch.zeros(shape))


@pytest.mark.parametrize("bad", ["high", None, 1j])
def test_metric_that_is_no_number_changes_nothing(bad: Any, host_backend: str, mirrored: bool) -> None:
    pair = twins(NAME, {"patience": 0}, lrs=[0.1], backend=host_backend)
    before = seen(pair.our_optimizer), pair.ours.state_dict()
    raised = []
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises((TypeError, ValueError)) as caught:
            scheduler.step(bad)
        raised.append(caught.type)
    assert raised[0] is raised[1]
    assert (seen(pair.our_optimizer), pair.ours.state_dict()) == before


def test_metric_on_a_device_without_values(host_backend: str, mirrored: bool) -> None:
    pair = twins(NAME, {"patience": 0}, lrs=[0.1], backend=host_backend)
    before = seen(pair.our_optimizer), pair.ours.state_dict()
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(RuntimeError, match="meta tensors"):
            scheduler.step(torch.zeros((), device="meta"))
    assert (seen(pair.our_optimizer), pair.ours.state_dict()) == before


def test_step_needs_a_metric(host_backend: str) -> None:
    pair = twins(NAME, {}, lrs=[0.1], backend=host_backend)
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'metrics'"):
            scheduler.step()


def test_epoch_is_set_with_a_warning(host_backend: str, mirrored: bool) -> None:
    pair = twins(NAME, {"patience": 0, "factor": 0.5}, lrs=[0.1, 0.3], backend=host_backend)
    for epoch in (7, None, 3, None, 100):
        found = []
        for scheduler in (pair.ours, pair.torchs):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scheduler.step(2.0, epoch)
            found.append([(w.category, str(w.message), w.filename) for w in caught])
        assert found[0] == found[1]
        assert len(found[0]) == (epoch is not None)
        _compare(pair, 0.0, f"epoch {epoch}")
    assert pair.ours.last_epoch == 100


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_run_passes_between_ours_and_torchs_with_random_metrics(
    tensor: bool, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    for _ in range(6):
        arguments = _arguments(rng, 2, rng.choice(["min", "max"]), rng.choice(["rel", "abs"]))
        lrs = random_lrs(rng, 2)
        oracle = twins(NAME, arguments, lrs=lrs)
        pair = twins(NAME, arguments, lrs=lrs, backend=host_backend)
        for step in range(60):
            ours = step // 10 % 2 == 0
            if step and step % 10 == 0:
                states = pair.our_optimizer.state_dict(), pair.ours.state_dict()
                if ours:
                    states = pair.torch_optimizer.state_dict(), pair.torchs.state_dict()
                pair = twins(NAME, {}, lrs=[0.7, 0.7], backend=host_backend)
                (pair.our_optimizer if ours else pair.torch_optimizer).load_state_dict(states[0])
                (pair.ours if ours else pair.torchs).load_state_dict(states[1])
            value = _random_metric(rng)
            oracle.torchs.step(value)
            (pair.ours if ours else pair.torchs).step(torch.tensor(value, dtype=torch.float64) if tensor else value)
            found = seen(pair.our_optimizer if ours else pair.torch_optimizer)
            assert_alike(found, seen(oracle.torch_optimizer), 0.0, f"{arguments}: step {step}")
        assert pair.torchs.state_dict() == oracle.torchs.state_dict()


EDITS = {
    "factor": 0.9, "patience": 3, "threshold": 0.3, "cooldown": 4, "eps": 0.05, "min_lrs": [0.05, 0.06],
    "best": 0.01, "num_bad_epochs": 1, "cooldown_counter": 3, "last_epoch": 50, "threshold_mode": "abs", "mode": "max",
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_attributes_changed_by_hand_are_honoured(
    name: str, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    pair = twins(NAME, {"patience": 1, "factor": 0.5}, lrs=[0.4, 0.8], backend=host_backend)
    for step in range(30):
        if step == 4:
            pair.both(lambda scheduler, _: setattr(scheduler, name, EDITS[name]))
        if step == 20:
            pair.both(lambda scheduler, _: scheduler._reset())
        value = rng.random()
        pair.both(lambda scheduler, _, value=value: scheduler.step(value))  # type: ignore[misc]
        _compare(pair, 0.0, f"step {step}")
    assert pair.ours.state_dict() == pair.torchs.state_dict()


def test_group_added_with_one_min_lr_for_all_is_scheduled_too(host_backend: str, mirrored: bool) -> None:
    pair = twins(NAME, {"patience": 0, "factor": 0.5, "min_lr": 0.01}, lrs=[0.1], backend=host_backend)
    for step in range(9):
        if step in (2, 5):
            for made in (pair.our_optimizer, pair.torch_optimizer):
                made.add_param_group({"params": parameters(2), "lr": 0.25 + step})
        pair.both(lambda scheduler, _: scheduler.step(1.0))
        _compare(pair, 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()


def test_group_added_to_a_list_of_min_lrs_fails_at_the_next_reduction_as_in_torch(
    host_backend: str, mirrored: bool
) -> None:
    pair = twins(NAME, {"patience": 1, "factor": 0.5, "min_lr": [0.01]}, lrs=[0.1], backend=host_backend)
    for made in (pair.our_optimizer, pair.torch_optimizer):
        made.add_param_group({"params": parameters(1), "lr": 0.25})
    for _ in range(2):
        pair.both(lambda scheduler, _: scheduler.step(1.0))
        _compare(pair, 0.0, "before the reduction")
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(RuntimeError, match=r"^The number of param groups in the `optimizer` \(2\) differs from"):
            scheduler.step(1.0)
    pair.both(lambda scheduler, _: setattr(scheduler, "min_lrs", [0.01, 0.02]))
    for step in range(4):
        pair.both(lambda scheduler, _: scheduler.step(1.0))
        _compare(pair, 0.0, f"step {step} after min_lrs was set")


def test_no_initial_lr_is_left_in_the_groups(host_backend: str) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    ReduceLROnPlateau(made).step(1.0)
    assert "initial_lr" not in made.param_groups[0]
    with pytest.raises(TypeError, match="unexpected keyword argument 'fused'"):
        ReduceLROnPlateau(made, fused=True)


def test_beside_another_scheduler(backend: str, mirrored: bool) -> None:
    mine, theirs = optimizer(fused_sched.optim, "SGD", [0.1], backend=backend), optimizer(torch.optim, "SGD", [0.1])
    ours = ExponentialLR(mine, 0.9), ReduceLROnPlateau(mine, factor=0.5, patience=0)
    oracles = TORCH.ExponentialLR(theirs, 0.9), TORCH.ReduceLROnPlateau(theirs, factor=0.5, patience=0)
    for step in range(patience(backend, 10)):
        for exponential, plateau in (ours, oracles):
            exponential.step()
            plateau.step(1.0 if step % 3 else 0.5 / (1 + step))
        assert_alike(seen(mine), seen(theirs), SCHEDULE_RELATIVE, f"step {step}")


def test_explain_says_where_it_runs(host_backend: str) -> None:
    scheduler = ReduceLROnPlateau(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend))
    assert scheduler.explain().startswith("ReduceLROnPlateau is a program on cpu\nprogram ReduceLROnPlateau: ")
    assert scheduler.program.fields_written == {"lr"}
