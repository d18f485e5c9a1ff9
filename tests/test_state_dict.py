"""state_dict: ours to torch and back in the middle of a run, aliasing, and distributed checkpoint's ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from optimizer_twins import EVERY_VARIANT, OPTIONS, Twins, assert_close, assert_equal, assert_same, generator, normal
from torch import Tensor, nn

import fused_sched

pytestmark = pytest.mark.thin("triton")

SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {},
}
every_optimizer = pytest.mark.parametrize("name", SMALL_OPTIONS)


def ours_for(name: str, params: Any, backend: str, **options: Any) -> Any:
    return getattr(fused_sched.optim, name)(params, lr=0.01, backend=backend, **{**SMALL_OPTIONS[name], **options})


def torchs_for(name: str, params: Any, **options: Any) -> Any:
    options = {"foreach": False, "fused": False, **SMALL_OPTIONS[name], **options}
    return getattr(torch.optim, name)(params, lr=0.01, **options)


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (t for key, t in state.items() if key != "step")


def train(params: list[Tensor], optimizer: torch.optim.Optimizer, g: torch.Generator, steps: int = 1) -> None:
    for _ in range(steps):
        for p in params:
            p.grad = normal(g, p.shape, p.dtype)
        optimizer.step()


def leaves(g: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [normal(g, (4, 3), dtype).requires_grad_(), normal(g, 5, dtype).requires_grad_()]


# -- to torch and back -------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@pytest.mark.parametrize(("name", "case"), EVERY_VARIANT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_run_that_changes_sides_twice(dtype: torch.dtype, name: str, case: str, backend: str, seed: int) -> None:
    """ours, torch, ours again over the same parameters; another run stays with torch."""
    g = generator(seed)
    options = OPTIONS[name][case]
    twins = Twins(name, [[normal(g, (4, 3), dtype)], [normal(g, 5, dtype)]], backend, **options)
    twins.run(g, 3)
    params = [{"params": group} for group in twins.our_groups]
    ours, torchs = twins.ours, getattr(torch.optim, name)(params, foreach=False, **options)
    torchs.load_state_dict(ours.state_dict())
    twins.ours = torchs
    twins.run(g, 3)
    assert_same(twins)
    again = getattr(fused_sched.optim, name)(params, backend=backend)  # hyperparameters come with the state
    again.load_state_dict(torchs.state_dict())
    twins.ours = again
    twins.run(g, 3)
    assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("flags", [{"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}], ids=str)
def test_flags_of_torchs_implementations_travel_and_do_no_harm(
    flags: dict[str, bool], name: str, backend: str, seed: int
) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, 5)]], backend, **SMALL_OPTIONS[name])
    twins.run(g, 2)
    theirs = torchs_for(name, twins.our_params, **{"foreach": None, "fused": None, **flags})
    theirs.load_state_dict(twins.torchs.state_dict())
    for group in theirs.param_groups:
        group.update(flags)
    twins.ours.load_state_dict(theirs.state_dict())
    for key, value in flags.items():
        assert twins.ours.param_groups[0][key] == value
    twins.run(g, 2)
    assert_same(twins)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_capturable_state_of_torch(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, 5)]], backend)
    twins.run(g, 2)
    packed = twins.torchs.state_dict()
    packed["param_groups"][0]["capturable"] = True
    twins.ours.load_state_dict(packed)
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_keys_dtypes_and_shapes_are_torchs(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        twins = Twins(name, [[normal(g, (4, 3), dtype)], [normal(g, 5, dtype)]], backend, **SMALL_OPTIONS[name])
        assert twins.ours.state_dict()["state"] == {}
        twins.run(g, 2)
        ours, torchs = twins.ours.state_dict(), twins.torchs.state_dict()
        assert list(ours) == list(torchs)
        assert list(ours["state"]) == list(torchs["state"])
        for index, theirs in torchs["state"].items():
            mine = ours["state"][index]
            assert list(mine) == list(theirs)
            assert type(mine) is dict
            for key, tensor in theirs.items():
                assert (mine[key].dtype, mine[key].shape) == (tensor.dtype, tensor.shape), key
                assert mine[key].stride() == tensor.stride(), key
        for mine, theirs in zip(ours["param_groups"], torchs["param_groups"], strict=True):
            same = {k: v for k, v in theirs.items() if k not in ("foreach", "fused")}
            assert {k: v for k, v in mine.items() if k not in ("foreach", "fused")} == same
            assert type(mine) is dict


def test_sgd_without_momentum_has_no_state(backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = fused_sched.optim.SGD(params, backend=backend)
    train(params, optimizer, g, 2)
    assert optimizer.state_dict()["state"] == {}
    assert not optimizer.state


def test_momentum_buffer_is_absent_until_a_step_was_applied(backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = fused_sched.optim.SGD(params, momentum=0.9, backend=backend)
    for p in params:
        p.grad = normal(g, p.shape)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}
    optimizer.found_inf = torch.tensor(0.0)
    params[1].grad = None
    optimizer.step()
    assert list(optimizer.state_dict()["state"]) == [0]
    assert_equal(optimizer.state_dict()["state"][0]["momentum_buffer"], params[0].grad)


def test_momentum_buffer_of_none(backend: str, seed: int) -> None:
    """torch's SGD saved None for parameters without a gradient."""
    g = generator(seed)
    twins = Twins("SGD", [[normal(g, 5), normal(g, 2)]], backend, momentum=0.9, dampening=0.3)
    twins.run(g, 1)
    packed = copy.deepcopy(twins.torchs.state_dict())
    packed["state"][0]["momentum_buffer"] = None
    twins.ours.load_state_dict(copy.deepcopy(packed))
    twins.torchs.load_state_dict(packed)
    twins.run(g, 2)
    assert_same(twins)


def test_old_checkpoint_without_the_newer_keys(backend: str, seed: int) -> None:
    g = generator(seed)
    for name in ("SGD", "Adam", "AdamW"):
        twins = Twins(name, [[normal(g, 5)]], backend)
        twins.run(g, 2)
        packed = twins.torchs.state_dict()
        for key in ("maximize", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"):
            packed["param_groups"][0].pop(key, None)
        twins.ours.load_state_dict(packed)
        twins.run(g, 2)
        assert_same(twins)


# -- what load_state_dict leaves alone ---------------------------------------------------------------


@every_optimizer
def test_loading_keeps_the_memory_of_existing_state(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = ours_for(name, params, backend)
    train(params, optimizer, g, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    pointers = [t.data_ptr() for t in state_tensors(optimizer)]
    block = optimizer._block.tensor.data_ptr()
    groups = list(optimizer.param_groups)
    train(params, optimizer, g, 2)
    optimizer.load_state_dict(saved)
    assert [t.data_ptr() for t in state_tensors(optimizer)] == pointers
    train(params, optimizer, g)
    assert [t.data_ptr() for t in state_tensors(optimizer)] == pointers
    assert optimizer._block.tensor.data_ptr() == block
    assert all(a is b for a, b in zip(optimizer.param_groups, groups, strict=True))


@every_optimizer
def test_loaded_state_is_not_an_alias_of_the_source(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    source = ours_for(name, params, backend)
    train(params, source, g, 2)
    packed = source.state_dict()
    before = copy.deepcopy(packed)
    others = leaves(g)
    for _ in range(2):  # into an optimizer without state, then into one with
        target = ours_for(name, others, backend)
        target.load_state_dict(packed)
        train(others, target, g, 2)
        for index, state in before["state"].items():
            for key, tensor in state.items():
                assert_equal(packed["state"][index][key], tensor, key)


@every_optimizer
def test_going_back_to_a_checkpoint_repeats_the_run(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = ours_for(name, params, backend)
    train(params, optimizer, g, 2)
    saved, start, random = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params], g.get_state()
    ends = []
    for _ in range(3):
        with torch.no_grad():
            for p, s in zip(params, start, strict=True):
                p.copy_(s)
        g.set_state(random)
        optimizer.load_state_dict(saved)
        optimizer.param_groups[0]["lr"] *= 2
        train(params, optimizer, g, 3)
        ends.append([p.detach().clone() for p in params] + [t.clone() for t in state_tensors(optimizer)])
    for end in ends[1:]:
        for a, b in zip(end, ends[0], strict=True):
            assert_equal(a, b)


@every_optimizer
def test_loading_an_earlier_state_without_entries(name: str, backend: str, seed: int) -> None:
    """A checkpoint from before the first step makes the optimizer as good as new."""
    g = generator(seed)
    twins = Twins(name, [[normal(g, 5)]], backend, **SMALL_OPTIONS[name])
    ours, torchs = copy.deepcopy(twins.ours.state_dict()), copy.deepcopy(twins.torchs.state_dict())
    twins.run(g, 3)
    twins.ours.load_state_dict(ours)
    twins.torchs.load_state_dict(torchs)
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_loading_before_the_first_step(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, (4, 3)), normal(g, 5)]], backend, **SMALL_OPTIONS[name])
    twins.run(g, 3)
    fresh = ours_for(name, twins.our_params, backend)
    fresh.load_state_dict(twins.torchs.state_dict())
    twins.ours = fresh
    for key, mine, torchs in twins.states():
        assert_equal(mine, torchs, key)
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("steps", [0, 2])
def test_loading_its_own_state_changes_nothing(steps: int, name: str, backend: str, seed: int) -> None:
    """As Accelerate does when it wraps an optimizer."""
    g = generator(seed)
    twins = Twins(name, [[normal(g, 5)], [normal(g, 2)]], backend, **SMALL_OPTIONS[name])
    twins.run(g, steps)
    twins.ours.load_state_dict(state_dict=twins.ours.state_dict())
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_param_groups_take_the_loaded_values(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = ours_for(name, [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.5}], backend)
    saved = copy.deepcopy(optimizer.state_dict())
    group = optimizer.param_groups[1]
    group.update({"lr": 0.125, "weight_decay": 0.75, "maximize": True, "note": "mine"})
    optimizer.load_state_dict(saved)
    assert group is optimizer.param_groups[1]
    assert (group["lr"], group["weight_decay"], group["maximize"]) == (
        0.5,
        saved["param_groups"][1]["weight_decay"],
        False,
    )
    assert "note" not in group
    assert group["params"][0] is params[1]


@every_optimizer
def test_a_state_that_does_not_fit_is_refused_as_in_torch(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    one = ours_for(name, params, backend)
    two = ours_for(name, [{"params": [p]} for p in leaves(g)], backend)
    fewer = ours_for(name, leaves(g)[:1], backend)
    train(params, one, g, 1)
    before = copy.deepcopy(one.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size"):
        one.load_state_dict(fewer.state_dict())
    torch.testing.assert_close(one.state_dict(), before, rtol=0, atol=0)


@every_optimizer
def test_loading_casts_the_state_to_the_parameters_dtype(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    wide = ours_for(name, params, backend)
    train(params, wide, g, 2)
    packed = wide.state_dict()
    narrow = [p.detach().bfloat16().requires_grad_() for p in params]
    others = [p.detach().clone().requires_grad_() for p in narrow]
    ours, torchs = ours_for(name, narrow, backend), torchs_for(name, others)
    ours.load_state_dict(packed)
    torchs.load_state_dict(packed)
    for index, state in torchs.state_dict()["state"].items():
        for key, tensor in state.items():
            assert_equal(ours.state_dict()["state"][index][key], tensor, key)


@every_optimizer
def test_state_dict_hooks(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = ours_for(name, params, backend)
    train(params, optimizer, g)
    calls: list[str] = []

    def add_note(o: Any, packed: dict[str, Any]) -> dict[str, Any]:
        calls.append("post save")
        return {**packed, "note": 1}

    def double_lr(o: Any, packed: dict[str, Any]) -> dict[str, Any]:
        calls.append("pre load")
        packed = copy.deepcopy(packed)
        packed["param_groups"][0]["lr"] *= 2
        return packed

    optimizer.register_state_dict_pre_hook(lambda o: calls.append("pre save"))
    optimizer.register_state_dict_post_hook(add_note)
    optimizer.register_load_state_dict_pre_hook(double_lr)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("post load"))
    packed = optimizer.state_dict()
    assert packed["note"] == 1
    optimizer.load_state_dict(packed)
    assert calls == ["pre save", "post save", "pre load", "post load"]
    assert optimizer.param_groups[0]["lr"] == 0.02


@every_optimizer
def test_state_dict_survives_torch_save_with_weights_only(name: str, backend: str, tmp_path: Any, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    optimizer = ours_for(name, params, backend)
    scheduler = fused_sched.lr_scheduler.ExponentialLR(optimizer, 0.5, fused=True)
    train(params, optimizer, g, 2)
    scheduler.step()
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]
    torch.testing.assert_close(loaded, optimizer.state_dict(), rtol=0, atol=0)


# -- distributed checkpoint --------------------------------------------------------------------------


def _init_state_as_distributed_checkpoint_does(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    lrs = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], Tensor) else 0.0
    optimizer.step(closure=None)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)


CASES = [
    ("SGD", {"momentum": 0.0, "dampening": 0.0}),
    ("SGD", {}),
    ("Adam", {}),
    ("AdamW", {}),
    ("AdamW", {"lr": "tensor"}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_trial_step_changes_no_parameter_and_no_schedule(name: str, options: Any, backend: str, seed: int) -> None:
    g = generator(seed)
    params = leaves(g)
    before = [p.detach().clone() for p in params]
    options = {"lr": 0.25, **SMALL_OPTIONS[name], **options}
    if options["lr"] == "tensor":
        options["lr"] = torch.tensor(0.25)
    optimizer = getattr(fused_sched.optim, name)(params, backend=backend, **options)
    scheduler = fused_sched.lr_scheduler.ExponentialLR(optimizer, 0.5, fused=True)
    _init_state_as_distributed_checkpoint_does(optimizer)
    for p, b in zip(params, before, strict=True):
        assert_equal(p.detach(), b)
    assert scheduler.last_epoch == 0
    assert [float(x["lr"]) for x in optimizer.param_groups] == [0.25]
    assert [float(x) for x in scheduler.get_last_lr()] == [0.25]
    train(params, optimizer, g)
    scheduler.step()
    assert scheduler.last_epoch == 1
    assert float(optimizer.param_groups[0]["lr"]) == 0.125


def test_trial_step_of_a_stateless_optimizer_in_the_middle_of_a_run(backend: str, seed: int) -> None:
    """SGD without momentum has no state at any time, so every checkpoint takes the trial step."""
    g = generator(seed)
    params = leaves(g)
    optimizer = fused_sched.optim.SGD(params, lr=0.25, backend=backend)
    scheduler = fused_sched.lr_scheduler.ExponentialLR(optimizer, 0.5, fused=True)
    for epoch in range(1, 5):
        train(params, optimizer, g)
        scheduler.step()
        before = [p.detach().clone() for p in params]
        _init_state_as_distributed_checkpoint_does(optimizer)
        assert scheduler.last_epoch == epoch
        assert optimizer.param_groups[0]["lr"] == 0.25 * 0.5**epoch
        for p, b in zip(params, before, strict=True):
            assert_equal(p.detach(), b)


def test_schedule_that_reaches_zero_goes_on(backend: str, seed: int) -> None:
    """An lr of 0 that the schedule itself wrote is not a trial step, even after an lr was set by hand."""
    g = generator(seed)
    params = leaves(g)
    optimizer = fused_sched.optim.SGD(params, lr=0.25, backend=backend)
    scheduler = fused_sched.lr_scheduler.MultiStepLR(optimizer, [2], gamma=0.0, fused=True)
    optimizer.param_groups[0]["lr"] = 0.5
    for epoch in range(1, 6):
        train(params, optimizer, g)
        scheduler.step()
        assert scheduler.last_epoch == epoch
        assert optimizer.param_groups[0]["lr"] == (0.5 if epoch < 2 else 0.0)


@pytest.mark.parametrize(("name", "options"), CASES[:4], ids=str)
def test_distributed_checkpoint_of_torch(name: str, options: Any, backend: str, seed: int) -> None:
    """torch's own get and set functions, in one process without a group."""
    dcp = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = ours_for(name, model.parameters(), backend, **options)
    scheduler = fused_sched.lr_scheduler.ExponentialLR(optimizer, 0.5, fused=True)
    params = list(model.parameters())
    start = [p.detach().clone() for p in params]
    dcp.get_optimizer_state_dict(model, optimizer)
    assert scheduler.last_epoch == 0
    for p, s in zip(params, start, strict=True):
        assert_equal(p.detach(), s)

    other = copy.deepcopy(model)
    twin = ours_for(name, other.parameters(), backend, **options)
    theirs = copy.deepcopy(model)
    torchs = torchs_for(name, theirs.parameters(), **options)
    g = generator(seed)
    random = g.get_state()
    train(params, optimizer, g, 3)
    packed = copy.deepcopy(dcp.get_optimizer_state_dict(model, optimizer))
    for m, o in ((other, twin), (theirs, torchs)):
        m.load_state_dict(model.state_dict())
        dcp.set_optimizer_state_dict(m, o, packed)
        assert float(o.param_groups[0]["lr"]) == optimizer.param_groups[0]["lr"]
    random = g.get_state()
    train(params, optimizer, g, 1)
    g.set_state(random)
    train(list(other.parameters()), twin, g, 1)
    g.set_state(random)
    train(list(theirs.parameters()), torchs, g, 1)
    for p, q, r in zip(params, other.parameters(), theirs.parameters(), strict=True):
        assert_equal(q, p)
        assert_close(p, r)
