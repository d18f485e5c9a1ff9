"""Hyperparameters that are tensors of the user's: what is written to them is an edit, and schedules write to them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from schedule_twins import OURS, TORCH, device_of, patience
from torch.nn import Parameter

import fused_sched

FIELDS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "dampening": 0.25},
    "Adam": {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.01},
    "AdamW": {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.01},
}
CASES = [(kind, key) for kind, fields in FIELDS.items() for key in fields]
NEAR = {torch.float64: 1e-12, torch.float32: 2e-6}


def tensors(value: Any, dtype: torch.dtype, device: str) -> Any:
    if isinstance(value, tuple):
        return tuple(tensors(x, dtype, device) for x in value)
    return torch.tensor(value, dtype=torch.float64).to(dtype).to(device)


def numbers(value: Any) -> Any:
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)


def each(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, tuple) else [value]


class Pair:
    """Ours with tensors, and torch's for-loop with the numbers in them."""

    def __init__(self, kind: str, keys: list[str], dtype: torch.dtype, backend: Any, groups: int = 2) -> None:
        device = device_of(backend)
        generator = torch.Generator().manual_seed(3)
        start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in [(5,), (3, 7), ()][:groups]]
        self.values = {key: tensors(FIELDS[kind][key], dtype, device) for key in keys}
        options = FIELDS[kind] | self.values
        self.ours = [Parameter(x.clone().to(device)) for x in start]
        self.torchs = [Parameter(x.clone()) for x in start]
        self.mine: Any = getattr(fused_sched.optim, kind)(
            [{"params": [p]} for p in self.ours], backend=backend, **options
        )
        plain = {key: numbers(value) for key, value in options.items()}
        self.theirs: Any = getattr(torch.optim, kind)(
            [{"params": [p]} for p in self.torchs], foreach=False, fused=False, **plain
        )
        self._generator = generator

    def follow(self) -> None:
        """What torch's groups have is what is in the tensors."""
        for group in self.theirs.param_groups:
            group.update({key: numbers(value) for key, value in self.values.items()})

    def step(self) -> None:
        for p, q in zip(self.ours, self.torchs, strict=True):
            q.grad = torch.randn(q.shape, generator=self._generator, dtype=q.dtype)
            p.grad = q.grad.to(p.device)
        self.mine.step()
        self.theirs.step()

    def check(self, relative: float = 1e-12) -> None:
        for p, q in zip(self.ours, self.torchs, strict=True):
            torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=relative, atol=relative)


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize(("kind", "key"), CASES)
def test_what_is_written_to_the_tensor_is_an_edit(kind: str, key: str, dtype: torch.dtype, backend: Any) -> None:
    pair = Pair(kind, [key], dtype, backend)
    given = pair.values[key]
    assert all(a is b for g in pair.mine.param_groups for a, b in zip(each(g[key]), each(given), strict=True))
    for step in range(6):
        if step == 2:
            for tensor in each(given):
                tensor.mul_(0.75)
        if step == 4:
            for tensor in each(pair.mine.param_groups[1][key]):
                tensor.fill_(0.5)
        pair.follow()
        pair.step()
        pair.check()


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.5}),
        ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.001}),
        ("LambdaLR", {"lr_lambda": lambda epoch: 1 / (1 + epoch)}),
        ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3}),
        ("OneCycleLR", {"max_lr": 0.2, "total_steps": 30}),
    ],
)
def test_schedules_write_to_the_tensors(
    name: str, arguments: Any, dtype: torch.dtype, fused: bool, backend: Any
) -> None:
    """float64 underneath: a tensor has torch's number, rounded; where somebody wrote to it, that one goes on."""
    for kind, keys in (("SGD", ["lr", "momentum"]), ("AdamW", ["lr", "betas"])):
        pair = Pair(kind, keys, dtype, backend)
        pair.follow()
        mine = getattr(OURS, name)(pair.mine, fused=fused, **arguments)
        theirs = getattr(TORCH, name)(pair.theirs, **arguments)
        for step in range(14):
            if step == 6:
                pair.values["lr"].fill_(0.5)
                for group in pair.theirs.param_groups:
                    group["lr"] = 0.5
            pair.step()
            mine.step()
            theirs.step()
            for mine_group, group in zip(pair.mine.param_groups, pair.theirs.param_groups, strict=True):
                for key, given in pair.values.items():
                    found = mine_group[key]
                    assert all(a is b for a, b in zip(each(found), each(given), strict=True))
                    assert numbers(found) == pytest.approx(numbers(group[key]), rel=2 * torch.finfo(dtype).eps)
            assert [float(x) for x in mine.get_last_lr()] == pytest.approx(
                theirs.get_last_lr(), rel=2 * torch.finfo(dtype).eps
            )
        pair.check(NEAR[dtype])


def test_a_moving_lr_keeps_its_float64_between_writes(backend: Any) -> None:
    """A thousand factors do not round a thousand times."""
    device = device_of(backend)
    lr = torch.tensor(1.0, device=device)
    p = Parameter(torch.zeros(1, device=device))
    made = fused_sched.optim.SGD([p], lr=lr, backend=backend)
    scheduler = fused_sched.lr_scheduler.ExponentialLR(made, 0.999)
    made._opt_called = True
    expected = 1.0
    for _ in range(patience(backend, 1000)):
        scheduler.step()
        expected *= 0.999
    assert lr.item() == torch.tensor(expected, dtype=torch.float64).float().item()


def test_a_momentum_that_is_switched_on_in_the_tensor(backend: Any) -> None:
    pair = Pair("SGD", ["momentum"], torch.float64, backend)
    pair.values["momentum"].zero_()
    for step in range(5):
        pair.values["momentum"].fill_(0.0 if step < 2 else 0.9)
        pair.follow()
        pair.step()
        pair.check()


def test_numbers_and_tensors_in_turn(host_backend: Any, mirrored: bool) -> None:
    pair = Pair("AdamW", ["lr", "betas"], torch.float32, host_backend)
    mine = fused_sched.lr_scheduler.ExponentialLR(pair.mine, 0.5)
    theirs = torch.optim.lr_scheduler.ExponentialLR(pair.theirs, 0.5)
    pair.follow()
    assigned: list[Any] = [0.25, torch.tensor(0.125), torch.tensor(0.5, dtype=torch.float64), 0.0625]
    for value in assigned:
        pair.mine.param_groups[0]["lr"] = value
        pair.theirs.param_groups[0]["lr"] = float(value)
        pair.mine.param_groups[1]["betas"] = (value.clone() if isinstance(value, torch.Tensor) else value, 0.9)
        pair.theirs.param_groups[1]["betas"] = (float(value), 0.9)
        for _ in range(2):
            pair.step()
            mine.step()
            theirs.step()
            pair.check(2e-6)
        found = pair.mine.param_groups[0]["lr"]
        assert isinstance(found, torch.Tensor) == isinstance(value, torch.Tensor)
        assert float(found) == pytest.approx(pair.theirs.param_groups[0]["lr"], rel=1e-6)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_copies_have_tensors_of_their_own(how: str, host_backend: Any, mirrored: bool) -> None:
    pair = Pair("AdamW", ["lr", "betas"], torch.float32, host_backend)
    pair.step()
    if how == "state_dict":
        other = Pair("AdamW", ["lr"], torch.float32, host_backend).mine
        other.load_state_dict(copy.deepcopy(pair.mine.state_dict()))
    else:
        other = copy.deepcopy(pair.mine) if how == "deepcopy" else pickle.loads(pickle.dumps(pair.mine))
    first, second = (group["lr"] for group in other.param_groups)
    assert first is second or how == "state_dict"  # as they were
    pair.values["lr"].fill_(9.0)
    assert (first.item(), other.param_groups[0]["betas"][0].item()) == pytest.approx((0.01, 0.9))
    first.fill_(0.5)
    assert other._block.read_field(other.rows[0], "lr") == 0.5


def test_groups_that_come_and_go_take_their_tensors_along(host_backend: Any, mirrored: bool) -> None:
    lrs = [torch.tensor(0.5), torch.tensor(0.25), torch.tensor(0.125)]
    params = [Parameter(torch.zeros(1)) for _ in lrs]
    made = fused_sched.optim.SGD([{"params": [params[0]], "lr": lrs[0]}], lr=1.0, backend=host_backend)
    made.add_param_group({"params": [params[1]], "lr": lrs[1]})
    made.add_param_group({"params": [params[2]], "lr": lrs[2]})
    made.param_groups.reverse()
    scheduler = fused_sched.lr_scheduler.ExponentialLR(made, 0.5, fused=True)
    del made.param_groups[1]
    lrs[2].fill_(2.0)
    for p in params:
        p.grad = torch.ones(1)
    made.step()
    scheduler.step()
    assert [p.item() for p in params] == [-0.5, 0.0, -2.0]
    assert [lr.item() for lr in lrs] == [0.25, 0.25, 1.0]


# -- tensors whose memory changes ----------------------------------------------------------------------------

WAYS: dict[str, Any] = {
    ".data =": lambda lr: setattr(lr, "data", torch.tensor(0.25)),
    ".data = of another dtype": lambda lr: setattr(lr, "data", torch.tensor(0.25, dtype=torch.float64)),
    "set_": lambda lr: lr.set_(torch.tensor(0.25)),
    "share_memory_": lambda lr: lr.share_memory_().fill_(0.25),
    "resize_": lambda lr: lr.resize_(1000).resize_(1).fill_(0.25),
    "swap_tensors": lambda lr: torch.utils.swap_tensors(lr, torch.tensor(0.25)),
}


@pytest.mark.parametrize("scheduled", [False, True], ids=["alone", "with a schedule"])
@pytest.mark.parametrize("how", WAYS)
def test_a_tensor_that_got_another_memory_is_followed_there(how: str, scheduled: bool, host_backend: Any) -> None:
    seen = []
    for home, schedulers, more in ((fused_sched.optim, OURS, {"backend": host_backend}), (torch.optim, TORCH, {})):
        lr, p = torch.tensor(0.5), Parameter(torch.ones(2, dtype=torch.float64))
        made = home.SGD([p], lr=lr, **more)
        scheduler = schedulers.ExponentialLR(made, 0.5) if scheduled else None
        numbers = []
        for step in range(4):
            if step == 2:
                WAYS[how](lr)
                torch.ones(100_000)  # where memory was that nobody has
            p.grad = torch.ones(2, dtype=torch.float64)
            made.step()
            if scheduler is not None:
                scheduler.step()
            numbers += [float(made.param_groups[0]["lr"]), *p.tolist()]
        seen.append(numbers)
    assert seen[0] == seen[1]


def test_a_tensor_that_can_be_followed_no_more_is_refused(host_backend: Any) -> None:
    lr, p = torch.tensor(0.5), Parameter(torch.ones(2))
    made = fused_sched.optim.SGD([p], lr=lr, backend=host_backend)
    lr.data = lr.data.half()
    p.grad = torch.ones(2)
    with pytest.raises(
        TypeError, match=r"^lr has become a torch\.float16 tensor on cpu, where it can be one of float32"
    ):
        made.step()
    assert p.tolist() == [1.0, 1.0]
    made.param_groups[0]["lr"] = 0.25
    made.step()
    assert p.tolist() == [0.75, 0.75]


def test_a_tensor_of_a_group_that_is_gone_is_written_by_the_next_one(host_backend: Any) -> None:
    lr = torch.tensor(0.5)
    made = fused_sched.optim.SGD(
        [{"params": [Parameter(torch.ones(1))]} for _ in range(2)], lr=0.1, backend=host_backend
    )
    made.param_groups[1]["lr"] = lr
    scheduler = fused_sched.lr_scheduler.ExponentialLR(made, 0.5)
    made._opt_called = True
    scheduler.step()
    kept = made.param_groups.pop(1)
    scheduler.step()
    made.param_groups[0]["lr"] = lr
    for _ in range(2):
        scheduler.step()
    assert (lr.item(), kept["lr"] is lr) == (0.0625, True)
