"""Schedulers that drive optimizers of others, whose groups hold the lr in tensors, or in numbers."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from schedule_twins import DEFAULTS, OURS, TORCH, optimizer
from torch.nn import Parameter

import fused_sched
from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, ExponentialLR, LambdaLR, ReduceLROnPlateau, StepLR
from fused_sched.optim.foreign import home_of

OPTIMIZERS = ["AdamW", "NAdam", "RAdam", "Adagrad", "RMSprop"]
# Rounded once by torch's constructor, which takes the first step, and once more in the tensor.
NEAR = {torch.float64: 1e-15, torch.float32: 2**-23}
SHORT = [
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
    "CosineAnnealingLR",
    "LinearLR",
    "LambdaLR",
    "OneCycleLR",
    "CyclicLR",
]


def without_cycling(name: str) -> dict[str, Any]:
    more: dict[str, Any] = {"total_steps": 20_000} if name == "OneCycleLR" else {}
    return {**DEFAULTS[name], **({"cycle_momentum": False} if name in ("CyclicLR", "OneCycleLR") else {}), **more}


class Pair:
    """The same class twice: with the lr of each group in a tensor, driven by ours, and in numbers, by torch's."""

    def __init__(self, kind: str, dtype: torch.dtype, name: str) -> None:
        self.lrs = [torch.tensor(0.1, dtype=dtype), torch.tensor(0.03, dtype=dtype)]
        self.made: list[Any] = []
        for numbers in (False, True):
            params = [Parameter(torch.full((3,), 0.5, dtype=torch.float64)) for _ in self.lrs]
            groups = [
                {"params": [p], "lr": float(lr) if numbers else lr} for p, lr in zip(params, self.lrs, strict=True)
            ]
            self.made.append(getattr(torch.optim, kind)(groups, lr=0.1, foreach=False))
        self.mine, self.theirs = self.made
        self.ours = getattr(OURS, name)(self.mine, **without_cycling(name))
        self.torchs = getattr(TORCH, name)(self.theirs, **without_cycling(name))

    def fill(self, group: int, value: float) -> None:
        self.lrs[group].fill_(value)
        self.theirs.param_groups[group]["lr"] = float(self.lrs[group])

    def check(self, what: str) -> None:
        near = NEAR[self.lrs[0].dtype]
        for mine, theirs, lr in zip(self.mine.param_groups, self.theirs.param_groups, self.lrs, strict=True):
            assert mine["lr"] is lr, what
            assert abs(float(lr) - theirs["lr"]) <= near * abs(theirs["lr"]) + 1e-40, f"{what}: {lr} {theirs['lr']}"


@pytest.mark.thin
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_tensors_have_the_numbers_that_torch_would_have(kind: str, name: str, dtype: torch.dtype) -> None:
    pair = Pair(kind, dtype, name)
    assert pair.ours.program is not None
    for step in range(300):
        for made in pair.made:
            made.step()
        pair.ours.step()
        pair.torchs.step()
        if step in (100, 101, 200):
            pair.fill(step % 2, 0.25 / (step - 99))
        pair.check(f"step {step}")
    assert pair.ours.last_epoch == pair.torchs.last_epoch
    assert [x.dtype for x in pair.ours.get_last_lr()] == [dtype, dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("name", SHORT)
def test_ten_thousand_steps(name: str, dtype: torch.dtype) -> None:
    pair = Pair("AdamW", dtype, name)
    for made in pair.made:
        made._opt_called = True
    for step in range(10_000):
        pair.ours.step()
        pair.torchs.step()
        if step % 997 == 0:
            pair.fill(step % 2, 0.1 + step / 1e5)
        pair.check(f"step {step}")


def test_numbers_are_set_as_by_torch_and_explain_says_so() -> None:
    calls: list[list[int]] = [[], []]
    made = [torch.optim.Adagrad([Parameter(torch.ones(1))], lr=0.1) for _ in range(2)]
    pair = [
        home(one, lambda epoch, i=i: calls[i].append(epoch) or 0.5**epoch)
        for i, (home, one) in enumerate(zip((LambdaLR, torch.optim.lr_scheduler.LambdaLR), made, strict=True))
    ]
    for _ in range(4):
        for one, scheduler in zip(made, pair, strict=True):
            one.step()
            scheduler.step()
        assert made[0].param_groups[0]["lr"] == made[1].param_groups[0]["lr"]
    assert calls[0] == calls[1]
    assert pair[0].explain() == (
        "LambdaLR runs on the host: Adagrad has no tensor for lr in param group 0, so only Python can set it"
    )
    assert pair[0].state_dict() == pair[1].state_dict()


def test_fused_needs_an_optimizer_whose_step_advances() -> None:
    made = torch.optim.SGD([Parameter(torch.ones(1))], lr=torch.tensor(0.1))
    before = dict(made.param_groups[0])
    for keyword in ("fused", "skip_with_optimizer"):
        with pytest.raises(ValueError, match=r"^fused and skip_with_optimizer need .* but got SGD: leave them out"):
            StepLR(made, 3, **{keyword: True})
    assert made.param_groups[0] == before


def test_momentum_cycles_in_its_tensor() -> None:
    lr, momentum = torch.tensor(0.1), torch.tensor(0.5)
    mine = torch.optim.RMSprop([Parameter(torch.ones(1))], lr=lr, momentum=momentum)
    theirs = torch.optim.RMSprop([Parameter(torch.ones(1))], lr=0.1, momentum=0.5)
    ours, torchs = CyclicLR(mine, 0.01, 0.1, 4), torch.optim.lr_scheduler.CyclicLR(theirs, 0.01, 0.1, 4)
    assert ours.program is not None
    for _ in range(12):
        mine.step()
        theirs.step()
        ours.step()
        torchs.step()
        assert mine.param_groups[0]["momentum"] is momentum
        assert float(momentum) == pytest.approx(theirs.param_groups[0]["momentum"], rel=1e-7)
        assert float(lr) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-6)


def test_groups_and_tensors_that_change() -> None:
    """A number in a tensor's place, and a tensor again: as torch's class either way."""
    mine, theirs = (torch.optim.SGD([Parameter(torch.ones(1))], lr=0.1) for _ in range(2))
    mine.param_groups[0]["lr"] = torch.tensor(0.1, dtype=torch.float64)
    ours, torchs = ExponentialLR(mine, 0.5), torch.optim.lr_scheduler.ExponentialLR(theirs, 0.5)
    assigned = {2: torch.tensor(0.7, dtype=torch.float64), 4: 0.3, 7: torch.tensor(0.9, dtype=torch.float64)}
    for step in range(10):
        if step in assigned:
            mine.param_groups[0]["lr"] = assigned[step]
            theirs.param_groups[0]["lr"] = float(assigned[step])
        if step == 5:
            for made in (mine, theirs):
                made.add_param_group({"params": [Parameter(torch.ones(1))], "lr": 0.2})
        mine.step()
        theirs.step()
        ours.step()
        torchs.step()
        found = [float(g["lr"]) for g in mine.param_groups]
        assert found == [g["lr"] for g in theirs.param_groups], step
        assert [float(x) for x in ours.get_last_lr()] == torchs.get_last_lr()


def test_several_schedulers_share_what_they_drive() -> None:
    """Each reads what the other wrote, to its last place."""
    lr = torch.tensor(0.1)
    mine = torch.optim.SGD([Parameter(torch.ones(1))], lr=lr)
    theirs = torch.optim.SGD([Parameter(torch.ones(1))], lr=float(lr))
    pairs = [(home.ExponentialLR(made, 0.9), home.StepLR(made, 2)) for home, made in ((OURS, mine), (TORCH, theirs))]
    plateau = ReduceLROnPlateau(mine, patience=0), torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, patience=0)
    for made in (mine, theirs):
        made._opt_called = True
    for _ in range(8):
        for schedulers in pairs:
            for scheduler in schedulers:
                scheduler.step()
        for scheduler in plateau:
            scheduler.step(1.0)
        assert float(lr) == pytest.approx(theirs.param_groups[0]["lr"], rel=2**-22)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_drive_copies(how: str) -> None:
    lr = torch.tensor(0.5)
    made = torch.optim.SGD([Parameter(torch.ones(1))], lr=lr)
    scheduler = ExponentialLR(made, 0.5)
    made._opt_called = True
    scheduler.step()
    both = made, scheduler
    other, again = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    again.step()
    assert (float(lr), float(other.param_groups[0]["lr"])) == (0.25, 0.125)
    assert again.program is not None


def test_nobody_keeps_a_foreign_optimizer() -> None:
    made = torch.optim.SGD([Parameter(torch.ones(1))], lr=torch.tensor(0.5))
    scheduler = CosineAnnealingLR(made, 5)
    scheduler.step()
    gone = weakref.ref(made), weakref.ref(home_of(made))
    gc.disable()
    try:
        del made, scheduler
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


# -- wrappers ------------------------------------------------------------------------------------------------


class Accelerated(torch.optim.Optimizer):
    """As Accelerate wraps an optimizer: everything is that of the inner one."""

    def __init__(self, inner: Any) -> None:
        self.optimizer = inner

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step(closure)


class Sharded(torch.optim.Optimizer):
    """As ZeroRedundancyOptimizer has the optimizer of its own shard."""

    def __init__(self, params: Any, cls: Any, **options: Any) -> None:
        super().__init__(params, options)
        self.optim = cls(self.param_groups, **options)
        self.param_groups = self.optim.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optim.step(closure)


class Slow(torch.optim.Optimizer):
    """As timm's Lookahead wraps one: without torch's constructor, and the groups are those of the inner one."""

    def __init__(self, inner: Any) -> None:
        self._base_optimizer = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._base_optimizer.step(closure)


def wrapped(which: str, home: Any, **options: Any) -> Any:
    params = [Parameter(torch.ones(2, dtype=torch.float64))]
    if which == "slow":
        return Slow(home.AdamW(params, lr=0.1, **options))
    if which == "accelerated":
        return Accelerated(home.AdamW(params, lr=0.1, **options))
    return Sharded(params, home.AdamW, lr=0.1, **options)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("which", ["accelerated", "sharded", "slow"])
def test_wrapped_optimizers_are_driven_through(which: str, fused: bool) -> None:
    mine, theirs = wrapped(which, fused_sched.optim), wrapped(which, torch.optim, foreach=False)
    ours, torchs = CosineAnnealingLR(mine, 9, fused=fused), torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 9)
    assert ours.program is not None
    for _ in range(6):
        for made in (mine, theirs):
            for p in made.param_groups[0]["params"]:
                p.grad = torch.ones_like(p)
            made.step()
        ours.step()
        torchs.step()
        assert mine.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        for p, q in zip(mine.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


def test_a_wrapper_with_groups_of_its_own() -> None:
    """What it shows is what is driven."""

    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner: Any) -> None:
            super().__init__([{**group, "params": list(group["params"])} for group in inner.param_groups], {})
            self.optimizer = inner

    made = Lookahead(optimizer(fused_sched.optim, "SGD", [0.1]))
    scheduler = StepLR(made, 1, 0.5)
    made._opt_called = True
    scheduler.step()
    assert [float(g["lr"]) for g in made.param_groups] == [0.05]
    assert made.optimizer.param_groups[0]["lr"] == 0.1


def test_a_tensor_from_before_a_load() -> None:
    """Whose group is gone: the one that has it now writes it."""
    seen = []
    for home in (OURS, TORCH):
        lr = torch.tensor(0.08)
        made = torch.optim.SGD([Parameter(torch.ones(1))], lr=lr)
        scheduler = home.ExponentialLR(made, 0.5)
        made._opt_called = True
        made.load_state_dict(copy.deepcopy(made.state_dict()))
        scheduler.step()
        made.param_groups[0]["lr"] = lr
        found = []
        for _ in range(4):
            scheduler.step()
            found += [float(lr), *map(float, scheduler.get_last_lr())]
        seen.append(found)
    assert seen[0] == pytest.approx(seen[1], rel=1e-7)


@pytest.mark.parametrize("how", ["data", "share_memory_"])
def test_a_tensor_that_got_another_memory(how: str) -> None:
    seen = []
    for home in (OURS, TORCH):
        lr = torch.tensor(0.5)
        made = torch.optim.NAdam([Parameter(torch.ones(1))], lr=lr)
        scheduler = home.ExponentialLR(made, 0.5)
        made._opt_called = True
        scheduler.step()
        if how == "data":
            lr.data = torch.tensor(0.1)
        else:
            lr.share_memory_()
        scheduler.step()
        seen.append([float(lr), float(scheduler.get_last_lr()[0])])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ["ours", "ours fused", "tensor", "number"])
def test_another_optimizer_is_assigned_to_a_scheduler(kind: str) -> None:
    seen = []
    for home, optim in ((OURS, fused_sched.optim if kind.startswith("ours") else torch.optim), (TORCH, torch.optim)):
        made = []
        for lr in (0.1, 0.4):
            p = Parameter(torch.ones(1))
            p.grad = torch.ones(1)
            made.append(optim.SGD([p], lr=torch.tensor(lr) if kind == "tensor" else lr))
        more = {"fused": True} if kind == "ours fused" and home is OURS else {}
        scheduler = home.ExponentialLR(made[0], 0.5, **more)
        numbers = []
        for step in range(4):
            if step == 2:
                scheduler.optimizer = made[1]
                made[1]._opt_called = True
            for one in made:
                one.step()
            scheduler.step()
            numbers += [float(one.param_groups[0]["lr"]) for one in made]
        seen.append([*numbers, float(scheduler.get_last_lr()[0])])
    assert seen[0] == pytest.approx(seen[1], rel=1e-7)


def test_on_device_of_a_scheduler_of_an_optimizer_of_others() -> None:
    lr = torch.tensor(0.5)
    made = torch.optim.NAdam([Parameter(torch.ones(1))], lr=lr)
    scheduler = fused_sched.lr_scheduler.on_device(torch.optim.lr_scheduler.ExponentialLR(made, 0.5))
    made._opt_called = True
    scheduler.step()
    assert (lr.item(), scheduler.program is not None) == (0.25, True)
