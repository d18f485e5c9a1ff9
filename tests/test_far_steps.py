"""Steps beyond those up to which the whole numbers of a traced function are exact: Python takes over."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import OURS, TORCH, optimizer

import fused_sched

pytestmark = pytest.mark.slow


def mixed(step: int) -> float:
    """An integer product that leaves float64's whole numbers at 10,007,999."""
    return ((step * 900000001) % 1000) / 1000


def squares(step: int) -> float:
    return (step * step * 7 + 3) % 97 / 97


def shifted(step: int) -> float:
    return ((step << 30) + 12345) % 1009 / 1009


def hashed(step: int) -> float:
    """As in a generator of pseudo-random numbers."""
    return ((step * 1103515245 + 12345) & 0xFFFF) / 65536


FUNCTIONS = (mixed, squares, shifted, hashed)


def _set(scheduler: Any, epoch: int) -> None:
    scheduler.last_epoch = epoch


def _load(scheduler: Any, epoch: int) -> None:
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": epoch})


def _step_to(scheduler: Any, epoch: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.step(epoch)


WAYS = {"set": _set, "loaded": _load, "step(epoch)": _step_to}
FAR = (9_999_900, 10_000_001, 10_012_344, 94_906_200, 2**31 - 40, 2**33, 2**45)


def _values(
    home: Any, module: Any, function: Any, far: int, way: Callable[[Any, int], None], first: int, **options: Any
) -> Any:
    made = optimizer(module, "SGD", [0.1, 0.2])
    scheduler = home.LambdaLR(made, function, **options)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(first + 130):
            if step == first:
                way(scheduler, far)
            made.step()
            scheduler.step()
            found.append((scheduler.last_epoch, [group["lr"] for group in made.param_groups]))
    return found


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_far_steps_are_torchs(function: Any, way: str, far: int, fused: bool) -> None:
    """Within the first 64 steps, in which the function is called, and after them."""
    if fused and way == "step(epoch)":
        pytest.skip("a fused schedule is stepped by its optimizer")
    for first in (3, 80):
        ours = _values(OURS, fused_sched.optim, function, far, WAYS[way], first, fused=fused)
        assert ours == _values(TORCH, torch.optim, function, far, WAYS[way], first)


def _agrees(make: Callable[[Any, Any], Any], steps: int, jump: Callable[[Any], None] = lambda scheduler: None) -> None:
    """What ``make`` makes of an optimizer gives torch's values; ``jump`` comes before step 100."""
    found = []
    for home, module in ((OURS, fused_sched.optim), (TORCH, torch.optim)):
        made = optimizer(module, "SGD", [0.1])
        scheduler = make(home, made)
        values = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(steps):
                if step == 100:
                    jump(scheduler)
                scheduler.step()
                values.append((made.param_groups[0]["lr"], made.param_groups[0]["momentum"]))
        found.append(values)
    assert found[0] == found[1]


@pytest.mark.parametrize("last_epoch", FAR)
def test_constructed_there(last_epoch: int) -> None:
    def make(home: Any, made: Any) -> Any:
        made.param_groups[0]["initial_lr"] = 0.1
        return home.LambdaLR(made, mixed, last_epoch=last_epoch)

    _agrees(make, 90)


def test_the_parts_of_a_sequence_go_beyond() -> None:
    def make(home: Any, made: Any) -> Any:
        return home.SequentialLR(made, [home.ExponentialLR(made, 0.5), home.LambdaLR(made, mixed)], [2])

    _agrees(make, 200, lambda sequence: setattr(sequence._schedulers[1], "last_epoch", 9_999_960))


def test_a_scale_fn_of_iterations_goes_beyond() -> None:
    def make(home: Any, made: Any) -> Any:
        return home.CyclicLR(made, 0.1, 0.5, 4, scale_fn=mixed, scale_mode="iterations")

    _agrees(make, 200, lambda scheduler: setattr(scheduler, "last_epoch", 9_999_960))


def test_replays_of_a_captured_graph_stop_there() -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1])
    scheduler = OURS.LambdaLR(made, mixed)
    for _ in range(70):
        scheduler.step()
    scheduler.last_epoch = 9_999_995
    scheduler.step()
    schedule = scheduler._schedule
    schedule.memory.captured = True
    for _ in range(10):
        schedule.backend.advance(schedule)
    assert schedule.read("trap") == 1.0
    stopped = made.param_groups[0]["lr"]
    with pytest.raises(RuntimeError, match="LambdaLR stopped before epoch"):
        scheduler.get_last_lr()
    assert made.param_groups[0]["lr"] == stopped == 0.1 * mixed(scheduler.last_epoch)
