"""The lr that users see, step by step, against torch's own schedulers with a float lr."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import (
    CASES,
    DEFAULTS,
    EVERY,
    MEASURED,
    OURS,
    TORCH,
    Case,
    Parts,
    Twins,
    assert_alike,
    compare_steps,
    optimizer,
    patience,
    position,
    random_lrs,
    seen,
    twins,
)
from tolerances import SCHEDULE_RELATIVE

import fused_sched
from fused_sched import backends
from fused_sched.lr_scheduler import CyclicLR, LambdaLR, StepLR

Edit = Callable[[list[dict[str, Any]]], None]


def _halve(groups: list[dict[str, Any]]) -> None:
    groups[0]["lr"] /= 2


def _set_last(groups: list[dict[str, Any]]) -> None:
    groups[-1]["lr"] = 0.01


def _update_many(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        group.update(lr=group["lr"] * 1.5, weight_decay=0.25)
        if "momentum" in group:
            group.update({"momentum": 0.25})
        if "betas" in group:
            group["betas"] = (0.25, 0.5)


def _zero(groups: list[dict[str, Any]]) -> None:
    groups[0]["lr"] = 0.0


def _negative(groups: list[dict[str, Any]]) -> None:
    groups[-1] |= {"lr": -0.3}


EDITS: dict[int, Edit] = {
    3: _halve,
    11: _set_last,
    30: _update_many,
    64: _zero,
    65: _set_last,
    97: _negative,
    98: _halve,
    2500: _update_many,
    7000: _halve,
}


def _compare(pair: Twins, steps: int, relative: float, edits: dict[int, Edit]) -> None:
    assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), relative, "after construction")
    for step in range(1, steps + 1):
        if step in edits:
            pair.edit(edits[step])
        pair.step()
        ours, theirs = pair.our_optimizer, pair.torch_optimizer
        if step < 200 or step % 37 == 0 or step in edits or step > steps - 3:
            assert_alike(seen(ours), seen(theirs), relative, f"step {step}")
            last = [{"lr": float(x)} for x in pair.torchs.get_last_lr()]
            assert_alike([{"lr": x} for x in pair.ours.get_last_lr()], last, relative, f"get_last_lr() at step {step}")
            assert position(pair.ours) == position(pair.torchs)


def _assert_device_agrees(made: Any, relative: float) -> None:
    block = made._block
    for group in made.param_groups:
        for name in ("lr", "momentum", "beta1"):
            slot = block.slot(group.row, name)
            device, host = block.tensor[slot].item(), block.host[slot]
            assert (
                device == host
                or (math.isnan(device) and math.isnan(host))
                or (relative and math.isclose(device, host, rel_tol=relative))
            ), f"{name} of row {group.row} is {device!r} on the device, {host!r} on the host"


@pytest.mark.parametrize("edited", [False, True], ids=["untouched", "edited by hand"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_host_mirror_has_torchs_bits(
    case: Case, edited: bool, rng: random.Random, remote: None, host_backend: str
) -> None:
    pair = twins(case.name, case.arguments(n := rng.randint(1, 4)), lrs=random_lrs(rng, n), backend=host_backend)
    _compare(pair, patience(host_backend, case.steps), 0.0, EDITS if edited else {})
    _assert_device_agrees(pair.our_optimizer, case.relative)


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("edited", [False, True], ids=["untouched", "edited by hand"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_backend_agrees_with_torch(case: Case, edited: bool, rng: random.Random, backend: str) -> None:
    pair = twins(case.name, case.arguments(n := rng.randint(1, 4)), lrs=random_lrs(rng, n), backend=backend)
    _compare(pair, patience(backend, case.steps), case.relative, EDITS if edited else {})


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("n_groups", [1, 4])
def test_every_optimizer_and_number_of_groups(
    name: str, kind: str, n_groups: int, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    pair = twins(name, lrs=random_lrs(rng, n_groups), kind=kind, backend=host_backend)
    for _ in range(25):
        pair.optimizer_step()
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"epoch {position(pair.torchs)}")


def test_random_edits_between_steps(rng: random.Random, host_backend: str, mirrored: bool) -> None:
    for name in EVERY:
        n = rng.randint(1, 4)
        pair = twins(name, lrs=random_lrs(rng, n), kind=rng.choice(["SGD", "Adam"]), backend=host_backend)
        edits = {s: rng.choice([_halve, _set_last, _update_many, _zero]) for s in rng.sample(range(1, 120), 40)}
        _compare(pair, 120, 0.0, edits)


def test_subclass_of_lambda_lr_stays_on_the_device(host_backend: str, mirrored: bool) -> None:
    def build(base: type) -> type:
        class WarmupConstantSchedule(base):  # type: ignore[misc]
            def __init__(self, optimizer: Any, warmup_steps: int, last_epoch: int = -1) -> None:
                def lr_lambda(step: int) -> float:
                    return step / max(1.0, warmup_steps) if step < warmup_steps else 1.0

                super().__init__(optimizer, lr_lambda, last_epoch=last_epoch)

        return WarmupConstantSchedule

    lrs = [0.3, 0.4]
    mine = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend)
    theirs = optimizer(torch.optim, "SGD", lrs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = build(LambdaLR)(mine, 10)
    assert ours.program is not None
    _compare(Twins(ours, build(torch.optim.lr_scheduler.LambdaLR)(theirs, 10), mine, theirs), 30, 0.0, {})


def _custom(base: type, override: str) -> type:
    log = []

    def get_lr(self: Any) -> list[float]:
        log.append(self.last_epoch)  # a side effect: only Python can run it
        return [g["lr"] * 0.5 if self.last_epoch % 2 else g["lr"] for g in self.optimizer.param_groups]

    def _get_closed_form_lr(self: Any) -> list[float]:
        return [x / (1 + self.last_epoch) for x in self.base_lrs]

    def _update_lr(self: Any, epoch: int | None = None) -> None:
        base._update_lr(self, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] += 0.125
        self._last_lr = [g["lr"] for g in self.optimizer.param_groups]

    return type("Custom", (base,), {override: locals()[override]})


@pytest.mark.parametrize("override", ["get_lr", "_update_lr"])
def test_subclass_with_python_of_its_own_runs_on_the_host_and_says_so(
    override: str, host_backend: str, mirrored: bool
) -> None:
    lrs = [0.3, 0.4]
    mine = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend)
    theirs = optimizer(torch.optim, "SGD", lrs)
    with pytest.warns(UserWarning, match=rf"^Custom overrides {override}, .* computed on the host") as caught:
        ours = _custom(StepLR, override)(mine, 3)
    assert caught[0].filename == __file__
    assert ours.program is None
    assert ours.explain().startswith(f"Custom runs on the host: Custom overrides {override}, ")
    pair = Twins(ours, _custom(torch.optim.lr_scheduler.StepLR, override)(theirs, 3), mine, theirs)
    _compare(pair, 30, 0.0, EDITS)
    with pytest.warns(UserWarning, match="epoch parameter"):
        pair.both(lambda s, _: s.step(7))
    compare_steps(pair, 5)
    for keyword in ("fused", "skip_with_optimizer"):
        fresh = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend)
        with pytest.raises(ValueError, match=f"^Custom overrides {override}, .*: leave out fused"):
            _custom(StepLR, override)(fresh, 3, **{keyword: True})


def test_subclass_with_a_closed_form_of_its_own_stays_on_the_device(host_backend: str, mirrored: bool) -> None:
    """step() never asks for the closed form; step(epoch) and a restart in a sequence do."""
    lrs = [0.3, 0.4]
    mine, theirs = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend), optimizer(torch.optim, "SGD", lrs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = _custom(StepLR, "_get_closed_form_lr")(mine, 3)
    assert ours.program is not None
    pair = Twins(ours, _custom(torch.optim.lr_scheduler.StepLR, "_get_closed_form_lr")(theirs, 3), mine, theirs)
    _compare(pair, 30, 0.0, EDITS)
    with pytest.warns(UserWarning, match="epoch parameter"):
        pair.both(lambda s, _: s.step(7))
    assert mine.param_groups[0]["lr"] == 0.3 / 8
    compare_steps(pair, 5)

    mine, theirs = optimizer(fused_sched.optim, "SGD", lrs, backend=host_backend), optimizer(torch.optim, "SGD", lrs)
    sequences = []
    for made, home in ((mine, OURS), (theirs, TORCH)):
        parts = [home.ConstantLR(made), _custom(home.StepLR, "_get_closed_form_lr")(made, 3)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sequences.append(home.SequentialLR(made, parts, [4]))
        if home is OURS:
            assert any("_get_closed_form_lr" in str(w.message) for w in caught)
    assert sequences[0].program is None  # torch asks for it at the milestone
    compare_steps(Twins(*sequences, mine, theirs), 20)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclic_momentum_follows_torch(kind: str, mode: str, host_backend: str, mirrored: bool) -> None:
    arguments = {"base_lr": 0.1, "max_lr": 0.3, "step_size_up": 3, "step_size_down": 5, "mode": mode, "gamma": 0.9,
                 "base_momentum": [0.7, 0.5], "max_momentum": [0.95, 0.8]}  # fmt: skip
    pair = twins("CyclicLR", arguments, lrs=[0.1, 0.2], kind=kind, backend=host_backend)
    key = "momentum" if kind == "SGD" else "beta1"
    assert [row[key] for row in seen(pair.our_optimizer)] == [0.95, 0.8]
    _compare(pair, 40, 0.0, {})
    for ours, theirs in zip(pair.our_optimizer.param_groups, pair.torch_optimizer.param_groups, strict=True):
        for name in ("max_momentum", "base_momentum", "initial_lr"):
            assert ours[name] == theirs[name]


def test_cyclic_triangular2_past_torchs_overflow(host_backend: str, mirrored: bool) -> None:
    arguments = {"base_lr": 0.125, "max_lr": 0.5, "step_size_up": 1, "mode": "triangular2", "cycle_momentum": False}
    pair = twins("CyclicLR", arguments, lrs=[0.1], backend=host_backend)
    _compare(pair, 2047, 0.0, {})
    with pytest.raises(OverflowError):
        pair.torchs.step()
    pair.ours.step()
    for _ in range(10):
        pair.ours.step()
        assert pair.our_optimizer.param_groups[0]["lr"] == 0.125


def test_cyclic_with_an_initial_lr_already_there(host_backend: str, mirrored: bool) -> None:
    mine = optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend)
    mine.param_groups[0]["initial_lr"] = 0.7
    scheduler = CyclicLR(mine, 0.1, 0.2, step_size_up=2)
    found = [mine.param_groups[0]["lr"]]
    for _ in range(3):
        scheduler.step()
        found.append(mine.param_groups[0]["lr"])
    theirs = optimizer(torch.optim, "SGD", [0.1])
    theirs.param_groups[0]["initial_lr"] = 0.7
    oracle = torch.optim.lr_scheduler.CyclicLR(theirs, 0.1, 0.2, step_size_up=2)
    expected = [theirs.param_groups[0]["lr"]]
    for _ in range(3):
        oracle.step()
        expected.append(theirs.param_groups[0]["lr"])
    assert found == expected
    assert found[1] == pytest.approx(0.15)


def test_known_numbers(backend: str) -> None:
    """Written out, so that they do not depend on the torch that is installed."""

    def sequence(name: str, steps: int, **arguments: Any) -> list[float]:
        made = optimizer(fused_sched.optim, "SGD", [0.1], backend=backend)
        scheduler = getattr(fused_sched.lr_scheduler, name)(made, **arguments)
        found = [made.param_groups[0]["lr"]]
        for _ in range(steps):
            scheduler.step()
            found.append(made.param_groups[0]["lr"])
        return found

    assert sequence("StepLR", 5, step_size=-2, gamma=0.5) == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    assert sequence("MultiStepLR", 3, milestones=[2, 2, 3], gamma=0.5) == [0.1, 0.1, 0.025, 0.0125]
    assert sequence("MultiStepLR", 1, milestones=[0], gamma=0.5) == [0.05, 0.05]
    assert sequence("CosineAnnealingLR", 3, T_max=1) == [0.1, 0.0, 0.1, 0.0]
    expected = [0.1, 0.0655, 0.0095, 0.0095, 0.0655, 0.1]
    assert sequence("CosineAnnealingLR", 5, T_max=2.5) == pytest.approx(expected, abs=5e-5)
    assert sequence("ExponentialLR", 3, gamma=0.5) == [0.1, 0.05, 0.025, 0.0125]
    assert sequence("CyclicLR", 4, base_lr=0.5, max_lr=1.0, step_size_up=2) == [0.5, 0.75, 1.0, 0.75, 0.5]
    assert sequence("LambdaLR", 3, lr_lambda=lambda e: e) == [0.0, 0.1, 0.2, 0.1 * 3]


def test_cosine_forgets_an_edit_at_the_trough(backend: str, mirrored: bool) -> None:
    made = optimizer(fused_sched.optim, "SGD", [0.1], backend=backend)
    scheduler = fused_sched.lr_scheduler.CosineAnnealingLR(made, T_max=10, eta_min=0.01)
    for _ in range(5):
        scheduler.step()
    made.param_groups[0]["lr"] = 0.0
    scheduler.step()
    assert made.param_groups[0]["lr"] == pytest.approx(0.00309, abs=1e-5)  # below eta_min
    for _ in range(4):
        scheduler.step()
    assert made.param_groups[0]["lr"] == 0.01
    for _ in range(10):
        scheduler.step()
    assert made.param_groups[0]["lr"] == pytest.approx(0.1)


def test_mirror_never_waits_for_the_device(remote: None, host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a loop that the host drives, reads and edits are answered by the host's own run of the program."""
    pairs = [twins(name, lrs=[0.1, 0.2], backend=host_backend) for name in EVERY]

    def forbidden(self: Any) -> None:
        raise AssertionError("the host read the device")

    monkeypatch.setattr("fused_sched.memory.control_block.HostedArray.refresh", forbidden)
    for pair in pairs:
        for _ in range(5):
            pair.optimizer_step()
            pair.step()
            pair.edit(_halve)
            assert pair.ours.get_last_lr() == pytest.approx(pair.torchs.get_last_lr())
            assert position(pair.ours) == position(pair.torchs)
    with pytest.raises(AssertionError, match="the host read the device"):
        pairs[0].ours.state_dict()  # what is saved has the device's bits


def _raises_alike(pair: Twins) -> None:
    """The next step raises what torch raises and leaves everything as it was."""
    before = seen(pair.our_optimizer), pair.ours.state_dict()
    caught = []
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(Exception) as info:  # the oracle says which
            scheduler.step()
        caught.append((info.type, str(info.value)))
    assert caught[0] == caught[1]
    assert (seen(pair.our_optimizer), pair.ours.state_dict()) == before


@pytest.mark.thin("triton")
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle_allows_one_step_past_its_end(
    strategy: str, fused: bool, kind: str, backend: str, mirrored: bool
) -> None:
    arguments = {"max_lr": [0.5, 0.25], "total_steps": 6, "anneal_strategy": strategy, "pct_start": 0.5}
    pair = twins("OneCycleLR", arguments, lrs=[0.1, 0.2], kind=kind, backend=backend, ours={"fused": fused})

    def both() -> None:
        pair.optimizer_step() if fused else None
        pair.step()

    for step in range(6):
        both()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, f"step {step}")
    if strategy == "linear":
        assert seen(pair.our_optimizer)[0]["lr"] < 0
    before = seen(pair.our_optimizer)
    message = r"^Tried to step 7 times\. The specified number of total steps is 6$"
    for _ in range(3):
        if fused:
            pair.our_optimizer.step()
        with pytest.raises(ValueError, match=message):
            pair.ours.step()
        assert seen(pair.our_optimizer) == before
        assert pair.ours.last_epoch == 6
    with pytest.raises(ValueError, match=message):
        pair.torchs.step()
    pair.torchs.last_epoch = 6  # torch's has counted the step that failed
    for scheduler in (pair.ours, pair.torchs):
        scheduler.last_epoch = 1
    for step in range(5):
        both()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), SCHEDULE_RELATIVE, f"step {step} again")


def test_one_cycle_whose_last_phase_is_empty_divides_by_zero_as_in_torch(backend: str, mirrored: bool) -> None:
    pair = twins("OneCycleLR", {"max_lr": 0.5, "total_steps": 4, "pct_start": 1.0}, lrs=[0.1], backend=backend)
    compare_steps(pair, 3, SCHEDULE_RELATIVE)
    _raises_alike(pair)


GROUP_EDITS = {
    "max_lr": ("OneCycleLR", 0.75),
    "min_lr": ("OneCycleLR", 0.125),
    "initial_lr": ("OneCycleLR", 0.375),
    "base_momentum": ("OneCycleLR", 0.25),
    "max_momentum": ("OneCycleLR", 0.99),
    "swa_lr": ("SWALR", 0.25),
}


@pytest.mark.parametrize("key", GROUP_EDITS)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a chain"])
def test_what_torch_keeps_in_the_groups_is_read_anew(
    key: str, fused: bool, nested: bool, host_backend: str, mirrored: bool
) -> None:
    name, value = GROUP_EDITS[key]
    arguments = {"max_lr": 0.5, "total_steps": 24} if name == "OneCycleLR" else {"swa_lr": 0.05, "anneal_epochs": 24}
    if nested:
        name, arguments = "ChainedScheduler", {"schedulers": Parts((name, arguments), ("StepLR", {"step_size": 9}))}
    pair = twins(name, arguments, lrs=[0.1, 0.2, 0.3], backend=host_backend, ours={"fused": fused})
    untouched = twins(name, arguments, lrs=[0.1, 0.2, 0.3])
    differs = False
    for step in range(24):
        if step in (5, 17):
            pair.edit(lambda groups, share=step + 1: groups[1].update({key: value / share}))  # type: ignore[misc]
        pair.optimizer_step()
        pair.step()
        untouched.torchs.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"step {step}")
        assert pair.ours.get_last_lr() == pair.torchs.get_last_lr()
        differs |= seen(untouched.torch_optimizer) != seen(pair.our_optimizer)
    assert differs


@pytest.mark.parametrize("T_mult", [1, 2, 3])
def test_warm_restarts_jump_to_epochs_with_fractions(
    T_mult: int, rng: random.Random, host_backend: str, mirrored: bool
) -> None:
    pair = twins("CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": T_mult}, lrs=[0.1, 0.3], backend=host_backend)
    for _ in range(40):
        if rng.random() < 0.5:
            epoch = rng.choice([rng.uniform(0, 60), float(rng.randint(0, 60)), rng.randint(0, 60)])
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an epoch is no deprecated argument here
                pair.both(lambda scheduler, _: scheduler.step(epoch))  # noqa: B023
        else:
            pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), 0.0, f"epoch {pair.torchs.last_epoch}")
        for name in ("last_epoch", "T_cur", "T_i"):
            assert getattr(pair.ours, name) == getattr(pair.torchs, name)
        assert pair.ours.state_dict() == pair.torchs.state_dict()
    for scheduler in (pair.ours, pair.torchs):
        with pytest.raises(ValueError, match="^Expected non-negative epoch, but got -1"):
            scheduler.step(-1)


def test_every_scheduler_has_cases() -> None:
    assert {case.name for case in CASES} == set(EVERY) == set(DEFAULTS)
    schedulers = {name for name in OURS.__all__ if isinstance(getattr(OURS, name), type)}
    assert schedulers == {*EVERY, *MEASURED, "ParamScheduler"}
    assert "reference" in backends.NAMES
