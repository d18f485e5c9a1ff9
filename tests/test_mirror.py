"""A device whose pow, cos and exp are not the host's in the last place, and what its users see.

The mirror follows by itself as long as it can, and moves a little whenever it is read anew. That must not be taken
for an edit by hand, nor reach the device, nor tear apart what belongs together.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from platforms import Mirrored
from schedule_twins import (
    DEFAULTS,
    EVERY,
    OURS,
    Parts,
    advance,
    assert_alike,
    build,
    last_lr_on_the_device,
    on_the_device,
    seen,
)
from tolerances import COSINE_PAST_TROUGH_RELATIVE
from torch.optim.lr_scheduler import LRScheduler

from fused_sched.backends.reference import TORCH_FUNCTIONS, ReferenceBackend
from fused_sched.lr_scheduler import on_device
from fused_sched.optim import SGD
from fused_sched.schedules import as_function

LRS = (0.1, 0.3, 0.05)


class Device(Mirrored):
    """Remote memory on the CPU, in a capture or not as the test says."""

    capturing = False

    def is_capturing(self, device: torch.device) -> bool:
        return self.capturing


def _nudged(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The next number up, but where there is nothing to round: whole numbers are whole on every device."""

    def nudged(*operands: torch.Tensor) -> torch.Tensor:
        right = function(*operands)
        return torch.where(right == right.trunc(), right, right.nextafter(torch.full_like(right, math.inf)))

    return nudged


FUNCTIONS = {name: _nudged(TORCH_FUNCTIONS[name]) for name in ("pow", "cos", "exp")}


def _optimizer(momentum: float = 0.7) -> Any:
    backend = ReferenceBackend(Device(), {**TORCH_FUNCTIONS, **FUNCTIONS})
    groups = [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": lr} for lr in LRS]
    made = SGD(groups, lr=0.1, momentum=momentum, backend=backend)
    for group in made.param_groups:
        group["params"][0].grad = torch.zeros(3)
    return made


class Fading(LRScheduler):
    """Of a user, in the recursive form, and traced."""

    def get_lr(self) -> list[Any]:
        return [group["lr"] * math.exp(-self.last_epoch / 50) for group in self.optimizer.param_groups]


# those whose arguments elsewhere have powers that are exact
ARGUMENTS: dict[str, dict[str, Any]] = {
    **DEFAULTS,
    "MultiStepLR": {"milestones": [2, 5, 5, 9], "gamma": 0.3},
    "LambdaLR": {"lr_lambda": lambda step: math.exp(-step / 30)},
    "MultiplicativeLR": {"lr_lambda": lambda step: 0.98 ** (1 + step / 9)},
    "ChainedScheduler": {
        "schedulers": Parts(("PolynomialLR", {"total_iters": 50, "power": 0.7}), ("ExponentialLR", {"gamma": 0.9}))
    },
}
EXACT = ("StepLR", "ExponentialLR", "ConstantLR", "LinearLR", "ReduceLROnPlateau")
MOVING = [name for name in (*EVERY, "Fading") if name not in EXACT]


def _make(name: str, made: Any, **keywords: Any) -> Any:
    if name == "Fading":
        return on_device(Fading(made), **keywords)
    return build(OURS, name, made, **ARGUMENTS[name], **keywords)


def _step(made: Any, scheduler: Any) -> None:
    made.step()
    advance(scheduler)


def _bits(made: Any, scheduler: Any) -> list[torch.Tensor]:
    return [x.tensor.view(torch.int64).clone() for x in (made._block, scheduler._schedule.memory)]


def _lrs(made: Any) -> list[float]:
    return [group["lr"] for group in made.param_groups]


@pytest.fixture(autouse=True)
def _nothing_is_said() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", MOVING)
def test_the_mirror_is_near_and_seldom_equal(name: str) -> None:
    made = _optimizer()
    scheduler = _make(name, made)
    moved = False
    for step in range(20):
        _step(made, scheduler)
        assert_alike(seen(made), on_the_device(made), COSINE_PAST_TROUGH_RELATIVE, f"step {step}")
        moved |= seen(made) != on_the_device(made)
    assert moved


def _read(made: Any, scheduler: Any) -> None:
    """Whatever can be read."""
    for group in made.param_groups:
        dict(group), repr(group), group["betas" if "betas" in group else "momentum"]
    scheduler.get_last_lr(), scheduler.state_dict(), scheduler.explain(), made.state_dict()
    for x in (*scheduler._family(), scheduler):
        getattr(x, "last_epoch", None), getattr(x, "_step_count", None), x._last_lr
    copy.deepcopy((made, scheduler)), pickle.dumps(scheduler.state_dict()), repr(made)
    if not isinstance(scheduler, OURS.ReduceLROnPlateau):
        as_function(scheduler)


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", MOVING)
def test_reading_changes_nothing(name: str, fused: bool) -> None:
    """The device of a run that reads everything after each step has the bits of one that reads nothing."""
    results = []
    for reading in (False, True):
        made = _optimizer()
        scheduler = _make(name, made, fused=fused)
        _step(made, scheduler)
        schedule = scheduler._schedule
        program = schedule.program
        for step in range(25):
            if reading:
                _read(made, scheduler)
                if step % 3 == 0:
                    made._block.expire()
            _step(made, scheduler)
        assert scheduler._schedule is schedule
        assert schedule.program is program  # neither built nor traced again
        results.append(_bits(made, scheduler))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def _give_a_tensor(made: Any) -> None:
    slot = made._block.slot(1, "weight_decay")
    made._block.copy_from_device(slot, torch.zeros(()))  # what an assignment of a tensor of the device does


REFRESHED: dict[str, Callable[[Any, Any], Any]] = {
    "a field from the device": lambda made, _: _give_a_tensor(made),
    "a tensor that is followed": lambda made, _: made._block.bind(2, "weight_decay", torch.tensor(0.25)),
    "a captured update": lambda made, _: made._block.note_capture(),
    "a captured advance": lambda made, scheduler: scheduler._schedule.memory.note_capture(),
    "the scheduler's state": lambda _, scheduler: scheduler.state_dict(),
    "the optimizer's state": lambda made, _: made.state_dict(),
    "a copy": lambda made, scheduler: copy.deepcopy((made, scheduler)),
}


@pytest.mark.parametrize("how", REFRESHED)
@pytest.mark.parametrize("name", MOVING)
def test_what_belongs_together_moves_together(name: str, how: str) -> None:
    made = _optimizer()
    scheduler = _make(name, made)
    for _ in range(5):
        _step(made, scheduler)
        assert scheduler.get_last_lr() == _lrs(made)
    for _ in range(4):
        REFRESHED[how](made, scheduler)
        lrs = _lrs(made)
        assert lrs == [row["lr"] for row in on_the_device(made)]
        assert scheduler.get_last_lr() == lrs == last_lr_on_the_device(scheduler)
        assert scheduler.state_dict()["_last_lr"] == lrs
        assert [group["lr"] for group in made.state_dict()["param_groups"]] == lrs
        schedule = as_function(scheduler, group=1)
        assert schedule(schedule._run.first) == lrs[1]
        _step(made, scheduler)
        assert scheduler.get_last_lr() == _lrs(made)


def test_other_schedulers_of_the_optimizer_move_too() -> None:
    """One whose steps may be skipped leaves nothing known of what another set."""
    made = _optimizer()
    cosine = _make("CosineAnnealingLR", made)
    decay = OURS.ParamScheduler(made, "weight_decay", lambda step: 0.5 + 0.1 * step, skip_with_optimizer=True)
    for _ in range(6):
        _step(made, cosine)
        decay.step()
        assert _lrs(made) == cosine.get_last_lr() == last_lr_on_the_device(cosine)


@pytest.mark.parametrize("name", MOVING)
def test_a_run_goes_on_from_its_state_with_the_same_bits(name: str) -> None:
    made, again = _optimizer(), _optimizer()
    scheduler, other = _make(name, made), _make(name, again)
    for _ in range(6):
        _step(made, scheduler)
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    other.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    copied, third = copy.deepcopy((made, scheduler))
    for _ in range(12):
        for pair in ((made, scheduler), (again, other), (copied, third)):
            pair[0].param_groups[0]["params"][0].grad = torch.zeros(3)
            _step(*pair)
    assert on_the_device(again) == on_the_device(made) == on_the_device(copied)
    assert last_lr_on_the_device(other) == last_lr_on_the_device(scheduler) == last_lr_on_the_device(third)


@pytest.mark.parametrize("name", MOVING)
def test_copies_have_what_the_device_has(name: str) -> None:
    made = _optimizer()
    scheduler = _make(name, made)
    for _ in range(6):
        _step(made, scheduler)
    assert on_the_device(copy.deepcopy(made)) == on_the_device(made)
    _step(made, scheduler)
    copied = copy.deepcopy(scheduler)
    assert last_lr_on_the_device(copied) == last_lr_on_the_device(scheduler) == _lrs(copied.optimizer)
    _step(made, scheduler)
    schedule = as_function(scheduler, group=1)
    assert schedule(schedule._run.first) == on_the_device(made)[1]["lr"]


@pytest.mark.parametrize("how", ["OneCycleLR", "LambdaLR"])
def test_a_step_that_raises_leaves_the_device_as_it_was(how: str) -> None:
    def rate(step: int) -> float:
        if step > 5:
            raise KeyError(step)
        return math.exp(-step / 7)

    made = _optimizer()
    if how == "OneCycleLR":
        scheduler = OURS.OneCycleLR(made, max_lr=0.5, total_steps=6)
    else:
        scheduler = OURS.LambdaLR(made, rate)
    raised = KeyError if how == "LambdaLR" else ValueError
    for _ in range(5 + (how == "OneCycleLR")):
        _step(made, scheduler)
    before = _bits(made, scheduler)
    assert seen(made) != on_the_device(made)
    for _ in range(2):
        with pytest.raises(raised):
            scheduler.step()
        for a, b in zip(_bits(made, scheduler), before, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("known", [True, False])
def test_a_block_that_grows_takes_what_the_device_has(known: bool) -> None:
    made = _optimizer()
    scheduler = _make("CosineAnnealingLR", made, fused=True)
    for _ in range(5):
        _step(made, scheduler)
    memory, before = made._block.tensor, on_the_device(made)
    assert seen(made) != before
    if not known:
        made._block.expire()
    for _ in range(90):
        made.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.2})
    assert made._block.tensor is not memory
    assert on_the_device(made)[:3] == before
    assert (seen(made)[:3] != before) == known  # nobody has asked the device
    made._block.expire()
    assert seen(made)[:3] == before
    assert _lrs(made)[3] == 0.2


def test_nothing_is_read_in_a_capture() -> None:
    made = _optimizer(momentum=0.0)  # without state, so that an lr of 0 might be a checkpoint's
    scheduler = _make("CosineAnnealingLR", made, fused=True)
    late = OURS.ExponentialLR(made, 0.9)
    _step(made, scheduler)
    made._block.expire()
    made.param_groups[0]["lr"] = 0.0
    device = made.backend.platform
    device.capturing = True
    _step(made, scheduler)
    late.step()
    what = "only the device knows was read inside a CUDA graph capture, .* read it before the capture or after"
    for read in (lambda: made.param_groups[0]["lr"], scheduler.get_last_lr, lambda: late.last_epoch, late.state_dict):
        with pytest.raises(RuntimeError, match=what):
            read()
    device.capturing = False
    assert late.get_last_lr() == _lrs(made)
    assert late.last_epoch == 1
