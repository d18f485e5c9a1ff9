"""``scheduler.optimizer = another``: all of it happens, or nothing does."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import NAMES, Twins, assert_alike, optimizer, position, seen, single, twins
from tolerances import SCHEDULE_RELATIVE

import fused_sched
from fused_sched.lr_scheduler import ExponentialLR, LambdaLR

LRS = [0.1, 0.3]


def _foreign(backend: Any) -> Any:
    return optimizer(torch.optim, "SGD", LRS)


def _ours(backend: Any) -> Any:
    return optimizer(fused_sched.optim, "SGD", LRS, backend=backend)


def _kept(scheduler: Any, *optimizers: Any) -> list[Any]:
    """What a scheduler and optimizers have, and which schedules updates advance."""
    return [[seen(made), dict(made.state), getattr(made, "fused_schedules", ())] for made in optimizers] + [
        [scheduler.optimizer, scheduler._schedule, scheduler.program, scheduler.explain(), scheduler.state_dict()]
    ]


def _strictly(act: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        act()


def _refuse(pair: Twins, other: Any, error: type[Exception], message: str) -> None:
    """In the middle of a run, after the update, which has made the step of a fused schedule already."""
    pair.optimizer_step()
    before = _kept(pair.ours, pair.our_optimizer, other)
    with pytest.raises(error, match=message):
        _strictly(lambda: setattr(pair.ours, "optimizer", other))
    assert _kept(pair.ours, pair.our_optimizer, other) == before
    pair.step()


def _go_on(pair: Twins, steps: int = 8) -> None:
    for step in range(steps):
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, f"step {step}")
        assert position(pair.ours) == position(pair.torchs)


@pytest.mark.parametrize("keyword", ["fused", "skip_with_optimizer"])
@pytest.mark.parametrize("name", NAMES)
def test_one_of_others_where_the_step_is_ours_to_make(
    name: str, keyword: str, host_backend: str, mirrored: bool
) -> None:
    pair = twins(name, lrs=LRS, backend=host_backend, ours={keyword: True})
    _go_on(pair, 3)
    _refuse(pair, _foreign(host_backend), ValueError, "need an optimizer of fused_sched.optim")
    _go_on(pair)


def test_one_that_the_parts_do_not_drive(host_backend: str, mirrored: bool) -> None:
    pair = twins("SequentialLR", lrs=LRS, backend=host_backend, ours={"fused": True})
    _go_on(pair, 3)
    _refuse(pair, _ours(host_backend), ValueError, "has another optimizer: leave out fused")
    _go_on(pair)


def test_one_that_others_advance_where_warnings_are_errors(host_backend: str, mirrored: bool) -> None:
    pair = twins("StepLR", lrs=LRS, backend=host_backend, ours={"fused": True})
    other = _ours(host_backend)
    beside = ExponentialLR(other, 0.5, fused=True)
    _go_on(pair, 3)
    _refuse(pair, other, UserWarning, "advances ExponentialLR already")
    _go_on(pair)
    assert other.fused_schedules == (beside._schedule,)


class Picky:
    """A function whose values Python computes, as str() is not traced."""

    def __init__(self, fails: bool = False, first: int = 0) -> None:
        self.fails, self.first = fails, first

    def __call__(self, step: int) -> float:
        if self.fails and step >= self.first:
            raise RuntimeError("not now")
        return 0.5 ** int(str(step))


def test_one_before_which_the_users_function_raises(host_backend: str, mirrored: bool) -> None:
    function = Picky()
    arguments = {"lr_lambda": [function, Picky()]}
    pair = twins("LambdaLR", arguments, lrs=LRS, backend=host_backend, ours={"fused": True, "horizon": 2})
    _go_on(pair, 3)
    pair.optimizer_step()
    other = _ours(host_backend)
    before = _kept(pair.ours, pair.our_optimizer, other)
    function.fails = True
    with pytest.raises(RuntimeError, match="not now"):
        pair.ours.optimizer = other
    function.fails = False
    assert _kept(pair.ours, pair.our_optimizer, other) == before
    pair.step()
    _go_on(pair)


def test_a_function_that_fails_while_a_program_is_exchanged(host_backend: str, mirrored: bool) -> None:
    pair = twins("LambdaLR", lrs=LRS, backend=host_backend, ours={"fused": True, "horizon": 2})
    _go_on(pair, 3)
    function = Picky()
    for scheduler in (pair.ours, pair.torchs):
        scheduler.lr_lambdas = [function, function]
    function.fails = True
    with pytest.raises(RuntimeError, match="not now"):
        pair.our_optimizer.step()
    function.fails = False
    assert pair.our_optimizer.fused_schedules == (pair.ours._schedule,)
    _go_on(pair)


def test_a_constructor_whose_function_fails_leaves_no_schedule_behind(host_backend: str, mirrored: bool) -> None:
    made = single(host_backend)
    with pytest.raises(RuntimeError, match="not now"):
        LambdaLR(made, Picky(fails=True, first=1), fused=True, horizon=2)
    assert made.fused_schedules == ()


def test_a_constructor_that_fails_leaves_no_schedule_behind(host_backend: str, mirrored: bool) -> None:
    made = single(host_backend)
    ExponentialLR(made, 0.5, fused=True)
    (kept,) = made.fused_schedules
    with pytest.raises(UserWarning, match="advances ExponentialLR already"):
        _strictly(lambda: ExponentialLR(made, 0.9, fused=True))
    assert made.fused_schedules == (kept,)


def test_a_fused_scheduler_leaves_the_old_one_for_the_new(host_backend: str, mirrored: bool) -> None:
    old, new = single(host_backend, lr=0.1), single(host_backend, lr=0.4)
    scheduler = ExponentialLR(old, 0.5, fused=True)
    scheduler.optimizer = new
    assert (old.fused_schedules, new.fused_schedules) == ((), (scheduler._schedule,))
    for made in (old, new):
        made.step()
    assert (old.param_groups[0]["lr"], new.param_groups[0]["lr"], scheduler.last_epoch) == (0.1, 0.2, 1)


class Wrapper(torch.optim.Optimizer):
    """Shows the groups of another."""

    def __init__(self, inner: Any) -> None:
        self.optimizer = inner

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


@pytest.mark.parametrize("outwards", [True, False])
def test_a_wrapper_of_the_same_one(outwards: bool, host_backend: str, mirrored: bool) -> None:
    """Which schedule advances, what an update has made of the coming step, and that nothing is warned of."""
    made = single(host_backend, lr=0.1)
    wrapper = Wrapper(made)
    scheduler = LambdaLR(made if outwards else wrapper, lambda step: 0.5**step, fused=True)
    kept = scheduler._schedule
    made.step()
    _strictly(lambda: setattr(scheduler, "optimizer", wrapper if outwards else made))
    assert made.fused_schedules == (kept,)
    scheduler.step()  # bookkeeping
    assert (made.param_groups[0]["lr"], scheduler.last_epoch) == (0.05, 1)
    assert scheduler.optimizer is (wrapper if outwards else made)


COPIES: dict[str, Callable[[Any], Any]] = {"state_dict": lambda s: s.state_dict(), "pickle": pickle.dumps}


@pytest.mark.parametrize("how", COPIES)
def test_a_refusal_adds_nothing_to_what_is_saved(how: str, host_backend: str) -> None:
    pair = twins("StepLR", lrs=LRS, backend=host_backend, ours={"fused": True})
    before = COPIES[how](pair.ours)
    with pytest.raises(ValueError, match="leave them out"):
        pair.ours.optimizer = _foreign(host_backend)
    assert COPIES[how](pair.ours) == before
    assert pair.ours.state_dict().keys() == pair.torchs.state_dict().keys()
