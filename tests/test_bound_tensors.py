"""Hyperparameters that are tensors of the user's: what is written to them is an edit, and schedules write to them."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import pytest
import torch
from schedule_twins import DEFAULTS, OURS, TORCH, advance, build, device_of, patience
from torch.nn import Parameter

import fused_sched

pytestmark = pytest.mark.thin("triton")

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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("home", ["ours", "foreign"])
@pytest.mark.parametrize("name", [n for n in DEFAULTS if n != "SWALR"])
def test_an_lr_that_wants_a_gradient_is_no_cause_for_a_warning(name: str, home: str, host_backend: Any) -> None:
    """torch's schedulers take one that was computed; a leaf they refuse."""
    lr = torch.tensor(0.5, dtype=torch.float64, requires_grad=True) * 1.0
    p = Parameter(torch.ones(2))
    made: Any = torch.optim.RMSprop([p], lr=lr, foreach=False)
    if home == "ours":
        made = fused_sched.optim.SGD([p], lr=lr, momentum=0.9, backend=host_backend)
    arguments = {**DEFAULTS[name], **({"cycle_momentum": False} if name in ("CyclicLR", "OneCycleLR") else {})}
    scheduler = build(OURS, name, made, **arguments)
    for _ in range(3):
        p.grad = torch.ones(2)
        made.step()
        advance(scheduler)
    assert scheduler.program is not None
    assert made.param_groups[0]["lr"] is lr
    assert float(lr.detach()) == float(scheduler.get_last_lr()[0].detach())
    scheduler.load_state_dict(scheduler.state_dict())


# -- one tensor in several places ----------------------------------------------------------------------------

SHARED: dict[str, tuple[str, dict[str, str], list[dict[str, Any]]]] = {
    "lr, then momentum": ("SGD", {}, [{"lr": "x", "momentum": "x"}]),
    "momentum, then lr": ("SGD", {}, [{"momentum": "x", "lr": "x"}]),
    "a later group's momentum": ("SGD", {"lr": "x"}, [{}, {"momentum": "x"}]),
    "everything everywhere": ("SGD", {"lr": "x", "momentum": "x", "weight_decay": "x"}, [{}, {}]),
    "another lr, the first one's as a decay": ("SGD", {"lr": "y"}, [{"lr": "x"}, {"weight_decay": "x"}]),
    "crosswise": ("SGD", {}, [{"lr": "x", "weight_decay": "y"}, {"lr": "y", "weight_decay": "x"}]),
    "an earlier group's decay": ("AdamW", {"lr": "y"}, [{"weight_decay": "x"}, {"lr": "x"}]),
    "a later group's decay": ("AdamW", {"lr": "x"}, [{}, {"weight_decay": "x"}]),
    "eps": ("AdamW", {}, [{"lr": "x"}, {"eps": "x"}]),
    "both betas": ("Adam", {}, [{"lr": "x"}, {"betas": ("x", "y")}, {"betas": ("y", "x"), "lr": "y"}]),
}
DRIVEN: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 1, "gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 7, "eta_min": 0.001},
    "LambdaLR": {"lr_lambda": lambda epoch: 1 / (1 + epoch)},
}


KEYS = ("lr", "momentum", "dampening", "weight_decay", "eps", "betas")


def floats(value: Any) -> list[float]:
    return [float(x) for x in (value if isinstance(value, tuple) else (value,))]


class Sharing:
    """Ours and torch's, whose groups have the same tensors in the same places, named by letters."""

    def __init__(self, kind: str, options: dict[str, Any], groups: list[dict[str, Any]], backend: Any) -> None:
        self.made, self.params, self.tensors = [], [], []
        for home, device, more in (
            (fused_sched.optim, device_of(backend), {"backend": backend}),
            (torch.optim, "cpu", {"foreach": False}),
        ):
            numbers = {"x": 0.1, "y": 0.2, "z": 0.05}
            tensors = {name: torch.tensor(x, dtype=torch.float64).to(device) for name, x in numbers.items()}
            params = [Parameter(torch.ones(3, dtype=torch.float64).to(device)) for _ in groups]
            given = [{"params": [p], **self._filled(group, tensors)} for p, group in zip(params, groups, strict=True)]
            self.made.append(getattr(home, kind)(given, **self._filled({"lr": 0.3, **options}, tensors), **more))
            self.params.append(params)
            self.tensors.append(tensors)

    def _filled(self, options: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        def of(value: Any) -> Any:
            return tuple(map(of, value)) if isinstance(value, tuple) else tensors.get(value, value)

        return {key: of(value) for key, value in options.items()}

    def step(self, schedulers: Any) -> None:
        for made, params in zip(self.made, self.params, strict=True):
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, 0.5 + i)
            made.step()
        for scheduler in schedulers:
            scheduler.step()

    def check(self) -> None:
        mine, theirs = (
            [
                [x for group in made.param_groups for key in KEYS if key in group for x in floats(group[key])],
                [x.item() for x in tensors.values()],
                [x for p in params for x in p.tolist()],
            ]
            for made, tensors, params in zip(self.made, self.tensors, self.params, strict=True)
        )
        for a, b in zip(mine, theirs, strict=True):
            assert a == pytest.approx(b, rel=1e-12)


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", DRIVEN)
@pytest.mark.parametrize("case", SHARED)
def test_a_tensor_in_several_fields_is_one_memory(case: str, name: str, fused: bool, backend: Any) -> None:
    kind, options, groups = SHARED[case]
    pair = Sharing(kind, options, groups, backend)
    schedulers = [
        getattr(OURS, name)(pair.made[0], fused=fused, **DRIVEN[name]),
        getattr(TORCH, name)(pair.made[1], **DRIVEN[name]),
    ]
    for step in range(4):
        if step == 2:
            for tensors in pair.tensors:
                tensors["x"].mul_(0.75)
        pair.step(schedulers)
        pair.check()


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_tensors_in_random_places(fused: bool, rng: random.Random, host_backend: Any, mirrored: bool) -> None:
    """Also where they move between the places later on."""
    for _ in range(5):
        kind = rng.choice(["SGD", "Adam", "AdamW"])
        keys = {"SGD": ["lr", "weight_decay", "momentum", "dampening"]}.get(kind, ["lr", "weight_decay", "eps"])

        def drawn(keys: list[str] = keys) -> dict[str, Any]:
            chosen = rng.sample(keys, rng.randint(0, len(keys)))
            return {key: rng.choice("xyz") for key in chosen if key != "dampening" or rng.random() < 0.5}

        pair = Sharing(kind, drawn(), [drawn() for _ in range(rng.randint(1, 3))], host_backend)
        name = rng.choice([*DRIVEN])
        schedulers = [
            getattr(OURS, name)(pair.made[0], fused=fused, **DRIVEN[name]),
            getattr(TORCH, name)(pair.made[1], **DRIVEN[name]),
        ]
        for _ in range(6):
            if rng.random() < 0.5:
                place, changes = rng.randrange(len(pair.params[0])), drawn()
                for made, tensors in zip(pair.made, pair.tensors, strict=True):
                    made.param_groups[place].update(pair._filled(changes, tensors))
            if rng.random() < 0.3:
                letter, factor = rng.choice("xyz"), rng.uniform(0.5, 1.0)
                for tensors in pair.tensors:
                    tensors[letter].mul_(factor)
            pair.step(schedulers)
            pair.check()


def test_two_schedules_of_two_fields_in_one_tensor(backend: Any) -> None:
    """Each writes in its turn, and reads what the other wrote."""
    device = device_of(backend)
    x, p = torch.tensor(0.5, dtype=torch.float64).to(device), Parameter(torch.ones(1, dtype=torch.float64).to(device))
    made = fused_sched.optim.SGD([{"params": [p], "weight_decay": x}], lr=x, backend=backend)
    lr = OURS.ExponentialLR(made, 0.5)
    with pytest.warns(UserWarning, match="lr and weight_decay are one tensor"):  # it tells the last lr, too
        decay = OURS.ParamScheduler(made, "weight_decay", lambda step: 0.125 * step)
    made._opt_called = True
    seen = [x.item()]
    for scheduler in (lr, decay, lr, lr, decay):
        scheduler.step()
        seen.append(x.item())
        assert made.param_groups[0]["lr"] is x
        assert made._block.read_field(made.rows[0], "lr") == made._block.read_field(made.rows[0], "weight_decay")
    assert seen == [0.0, 0.0, 0.125, 0.0625, 0.03125, 0.25]


def test_a_schedule_of_two_fields_in_one_tensor_is_pythons(host_backend: Any, mirrored: bool) -> None:
    """Which of them reads what the other one wrote is a matter of torch's order."""
    x = torch.tensor(0.5, dtype=torch.float64)
    y = x.clone()
    made = fused_sched.optim.AdamW([Parameter(torch.ones(1))], betas=(x, y), lr=0.1, backend=host_backend)
    scheduler = OURS.ParamScheduler(made, "betas", lambda step: (0.25 / (1 + step), 0.75 / (1 + step)))
    assert scheduler.program is not None
    made.param_groups[0]["betas"] = (x, x)
    made._opt_called = True
    with pytest.warns(UserWarning, match="beta1 and beta2 are one tensor in the param groups, and ParamScheduler has"):
        scheduler.step()
    assert (x.item(), scheduler.program) == (0.375, None)
    with pytest.raises(ValueError, match="one tensor in the param groups, .*: leave out fused"):
        OURS.ParamScheduler(made, "betas", lambda step: (0.5, 0.75), fused=True)
    assert x.item() == 0.375


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
@pytest.mark.parametrize("case", ["SGD", "AdamW"])
def test_a_momentum_that_is_the_lr_leaves_it(name: str, case: str, host_backend: Any, mirrored: bool) -> None:
    """Torch puts numbers in place of a momentum; ours write to its tensor, but for one that is the lr."""
    options = {"SGD": {"lr": "x", "momentum": "x"}, "AdamW": {"lr": "x", "betas": ("x", "y")}}[case]
    pair = Sharing(case, options, [{}, {}], host_backend)
    arguments = (
        {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3}
        if name == "CyclicLR"
        else {"max_lr": 0.2, "total_steps": 30}
    )
    schedulers = [getattr(home, name)(made, **arguments) for home, made in zip((OURS, TORCH), pair.made, strict=True)]
    for _ in range(5):
        pair.step(schedulers)
        pair.check()


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


def test_a_last_lr_has_the_shape_of_the_lr(host_backend: str) -> None:
    for shape in ((), (1,), (1, 1)):
        made = fused_sched.optim.SGD([Parameter(torch.ones(3))], lr=torch.full(shape, 0.1), backend=host_backend)
        assert OURS.StepLR(made, 1, 0.5).get_last_lr()[0].shape == shape


def _decides(home: Any) -> Any:
    class Decides(home.ConstantLR):  # type: ignore[misc,name-defined]
        def get_lr(self) -> list[Any]:
            return [0.5 if g["lr"] <= 0.1 else g["lr"] * 0.5 for g in self.optimizer.param_groups]

    return Decides


def _steps_by_tenths(home: Any) -> Any:
    class Tenths(home.ConstantLR):  # type: ignore[misc,name-defined]
        def get_lr(self) -> list[Any]:
            return [(g["lr"] // 0.01) / 30 + g["lr"] % 0.1 for g in self.optimizer.param_groups]

    return Tenths


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("make", [_decides, _steps_by_tenths])
def test_a_get_lr_that_decides_by_a_tensor(make: Any, dtype: torch.dtype, host_backend: str) -> None:
    """By one of float32 it decides as rounded in every step, as torch's does."""
    lrs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for home, optim, more in ((TORCH, torch.optim, {}), (OURS, fused_sched.optim, {"backend": host_backend})):
            made = optim.SGD([Parameter(torch.zeros(3))], lr=torch.tensor(0.8, dtype=dtype), **more)
            scheduler = make(home)(made)
            found = []
            for step in range(12):
                made.step()
                scheduler.step()
                found.append(made.param_groups[0]["lr"].item())
                if step == 6:
                    made.param_groups[0]["lr"].fill_(0.1)
            lrs.append(found)
    assert lrs[1] == pytest.approx(lrs[0], rel=NEAR[dtype])
