"""Averaged copies of the parameters, on every backend, beside torch's AveragedModel."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from around_twins import RULES, AroundTwins, close, same_bits
from optimizer_twins import continued, step_with_equal_gradients
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fused_sched import backends
from fused_sched.lr_scheduler import ParamScheduler
from fused_sched.optim import SGD, AdamW

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend
every_rule = pytest.mark.parametrize("name", RULES)


@pytest.mark.thin("triton")
@every_rule
@pytest.mark.parametrize("decay", [0.999, 0.3, 1.0, 0.0])
def test_averages_are_those_of_torchs_averaged_model(name: str, decay: float, backend: Backend, seed: int) -> None:
    """The first update copies; one whose parameter has no gradient goes on all the same."""
    twins = AroundTwins(name, backend, ema_decay=decay)
    for step in range(6):
        twins.set_grads(without=[1, 4] if step in (2, 3) else [])
        twins.step()
        twins.assert_same(1e-13)


@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", ["float32", "parameter"])
@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_dtypes_of_averages(dtype: torch.dtype, kept: str, name: str, backend: Backend, seed: int) -> None:
    """An average in float32 is that of the parameter as it is stored, in float32 arithmetic."""
    twins = AroundTwins(name, backend, dtype=dtype, ema_decay=0.75, ema_dtype=kept)
    expected: list[torch.Tensor] = []
    for step in range(6):
        twins.set_grads()
        twins.ours.step()
        now = [p.detach().float() for p in twins.params]
        if step == 0:
            expected = now
        expected = [torch.lerp(a, p, 0.25) for a, p in zip(expected, now, strict=True)]
        if kept == "parameter":
            expected = [a.to(dtype).float() for a in expected]
    for p, a in zip(twins.params, expected, strict=True):
        average = twins.ours.state[p]["ema"]
        assert average.dtype == (torch.float32 if kept == "float32" else dtype)
        close(average, a, 1e-6 if kept == "float32" or dtype == torch.float32 else 8e-3)


def test_complex_parameters_and_gaps(backend: Backend, seed: int) -> None:
    storage = torch.randn(6, 8)
    params = [torch.nn.Parameter(torch.randn(5, dtype=torch.complex64)), torch.nn.Parameter(storage[:, ::2])]
    copies = torch.nn.ParameterList([torch.nn.Parameter(p.detach().clone()) for p in params])
    averaged = AveragedModel(copies, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    ours = SGD(params, lr=0.1, ema_decay=0.5, backend=backend)
    torchs = torch.optim.SGD(copies, lr=0.1, foreach=False)
    for step in range(4):
        for p, q in zip(params, copies, strict=True):
            p.grad, q.grad = (None, None) if step == 2 else (torch.ones_like(p), torch.ones_like(q))
        ours.step()
        torchs.step()
        averaged.update_parameters(copies)
    before = [p.detach().clone() for p in params]
    with ours.ema_weights():
        for p, a in zip(params, averaged.module, strict=True):
            torch.testing.assert_close(p.detach(), a.detach(), rtol=1e-6, atol=1e-7)
    assert same_bits(before, [p.detach() for p in params])


def test_edits_and_schedules_of_the_decay(backend: Backend, seed: int) -> None:
    p = torch.nn.Parameter(torch.randn(40, dtype=torch.float64))
    optimizer = SGD([p], lr=0.1, ema_decay=0.5, backend=backend)
    scheduler = ParamScheduler(optimizer, "ema_decay", lambda step: min(0.999, (1 + step) / (10 + step)))
    expected = None
    for step in range(8):
        p.grad = torch.randn_like(p)
        if step == 5:
            optimizer.param_groups[0]["ema_decay"] = 0.25
        decay = 0.25 if step == 5 else min(0.999, (1 + step) / (10 + step))
        assert optimizer.param_groups[0]["ema_decay"] == decay
        optimizer.step()
        scheduler.step()
        now = p.detach().clone()
        expected = now if expected is None else decay * expected + (1 - decay) * now
    torch.testing.assert_close(optimizer.state[p]["ema"], expected, rtol=1e-13, atol=1e-14)


# -- ema_weights -----------------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_weights_change_places_and_come_back(name: str, dtype: torch.dtype, backend: Backend, seed: int) -> None:
    twins = AroundTwins(name, backend, dtype=dtype, ema_decay=0.9)
    for _ in range(3):
        twins.set_grads()
        twins.ours.step()
    before = twins.snapshot()
    memory = [p.data_ptr() for p in twins.params]
    averages = [twins.ours.state[p]["ema"].to(dtype, copy=True) for p in twins.params]
    with contextlib.suppress(KeyError), twins.ours.ema_weights():
        assert same_bits(averages, [p.detach() for p in twins.params])
        assert memory == [p.data_ptr() for p in twins.params]
        raise KeyError("evaluation")
    assert same_bits(before, twins.snapshot())


def test_nothing_is_done_among_averages(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([p], ema_decay=0.9, backend=backend)
    p.grad = torch.ones(3)
    optimizer.step()
    saved = optimizer.state_dict()
    for name, call in (
        ("step()", optimizer.step),
        ("state_dict()", optimizer.state_dict),
        ("load_state_dict()", lambda: optimizer.load_state_dict(saved)),
        ("a copy or a pickle", lambda: copy.deepcopy((p, optimizer))),
        ("a copy or a pickle", lambda: pickle.dumps(optimizer)),
    ):
        message = rf"{re.escape(name)}.*leave that block first"
        with optimizer.ema_weights(), pytest.raises(RuntimeError, match=message):
            call()
    with optimizer.ema_weights(), pytest.raises(RuntimeError, match="leave that block"), optimizer.ema_weights():
        pass
    optimizer.step()


def test_without_averages_there_are_none() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(RuntimeError, match="there are no averages: .* ema_decay"), optimizer.ema_weights():
        pass


def test_parameters_that_were_never_averaged_stay(backend: Backend) -> None:
    """Those without a gradient so far, and those of a group without ema_decay."""
    p, q, r = (torch.nn.Parameter(torch.full((3,), float(i))) for i in range(3))
    groups = [{"params": [p, q], "ema_decay": 0.5}, {"params": [r]}]
    optimizer = SGD(groups, lr=1.0, backend=backend)
    for _ in range(2):
        p.grad, r.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
    assert "ema" not in optimizer.state[r]
    with optimizer.ema_weights():
        assert [x.tolist() for x in (p, q, r)] == [[-1.5] * 3, [1.0] * 3, [0.0] * 3]
    assert [x.tolist() for x in (p, q, r)] == [[-2.0] * 3, [1.0] * 3, [0.0] * 3]


def test_a_large_parameter_changes_places_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from fused_sched.optim import averaging

    monkeypatch.setattr(averaging, "PIECE", 7)
    p = torch.nn.Parameter(torch.arange(40.0).view(5, 8).t())
    optimizer = SGD([p], lr=1.0, ema_decay=0.5)
    for _ in range(2):
        p.grad = torch.ones_like(p)
        optimizer.step()
    before, average = p.detach().clone(), optimizer.state[p]["ema"].clone()
    with optimizer.ema_weights():
        assert torch.equal(p, average)
        assert torch.equal(optimizer.state[p]["ema"], before)
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["ema"], average)


# -- saving, loading, copying ------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["state dict", "deepcopy", "pickle"])
def test_averages_go_on_from_a_checkpoint(name: str, dtype: torch.dtype, way: str, backend: Backend, seed: int) -> None:
    """Bit for bit: float32 averages of 16-bit parameters stay float32 through torch's load_state_dict."""
    if way != "state dict" and not isinstance(backend, str):
        pytest.skip("a backend is copied by its name")
    twins = AroundTwins(name, backend, dtype=dtype, ema_decay=0.9, max_grad_norm=1.0)
    for _ in range(3):
        twins.set_grads()
        twins.ours.step()
    optimizer = continued(
        way, twins.ours, lambda: AroundTwins(name, backend, dtype=dtype, ema_decay=0.1, max_grad_norm=9.0).ours
    )
    for _ in range(3):
        twins.set_grads()
        pairs = step_with_equal_gradients(twins.ours, optimizer)
    assert same_bits([q.detach() for q, _ in pairs], [p.detach() for _, p in pairs])
    for q, p in pairs:
        mine, theirs = optimizer.state[p]["ema"], twins.ours.state[q]["ema"]
        assert mine.dtype == theirs.dtype == torch.float32
        assert same_bits([mine], [theirs])


def test_switched_on_in_mid_run_it_begins_with_the_next_update(backend: Backend, seed: int) -> None:
    twins = AroundTwins("AdamW", backend)
    for step in range(6):
        twins.set_grads()
        if step == 2:
            for group in twins.ours.param_groups:
                group["ema_decay"] = 0.5
            twins.averaged = AveragedModel(twins.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        twins.step()
    twins.assert_same(1e-13)


def test_torchs_class_takes_a_checkpoint_with_averages(backend: Backend, seed: int) -> None:
    twins = AroundTwins("SGD", backend, ema_decay=0.5)  # whose state has nothing but averages
    twins.set_grads()
    twins.step()
    twins.torchs.load_state_dict(copy.deepcopy(twins.ours.state_dict()))
    theirs = copy.deepcopy(twins.torchs.state_dict())
    twins.ours.load_state_dict(theirs)
    for _ in range(3):
        twins.set_grads()
        twins.step()
    twins.assert_same(1e-13)


def test_a_dampened_buffer_begins_anew_beside_a_loaded_average(backend: Backend, seed: int) -> None:
    """An average says nothing of whether a momentum buffer holds anything."""
    twins = AroundTwins("SGD", backend, ema_decay=0.5)
    twins.set_grads()
    twins.step()
    state = {i: {"ema": s["ema"]} for i, s in copy.deepcopy(twins.ours.state_dict())["state"].items()}
    other = AroundTwins("SGD momentum", backend, ema_decay=0.5)
    other.ours.load_state_dict({**other.ours.state_dict(), "state": state})
    other.averaged = None
    for _ in range(3):
        other.set_grads()
        other.step()
    other.assert_same(1e-13)


@pytest.mark.parametrize(
    ("average", "error"), [(torch.ones(4), ValueError), (3.0, TypeError), (torch.ones(3, dtype=torch.float64), None)]
)
def test_averages_assigned_by_hand(average: Any, error: type[Exception] | None, backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = SGD([p], lr=1.0, ema_decay=0.5, backend=backend)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[p]["ema"] = average
    if error is not None:
        with pytest.raises(error, match="state 'ema'"):
            optimizer.step()
        assert p.tolist() == [0.0] * 3
        return
    optimizer.step()
    assert p.tolist() == [-1.0] * 3
    assert optimizer.state[p]["ema"].tolist() == [0.0] * 3
    assert optimizer.state[p]["ema"].dtype == torch.float32


def test_a_nan_in_an_average_begins_anew(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = SGD([p], lr=1.0, ema_decay=0.5, backend=backend)
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    optimizer.state[p]["ema"][1] = math.nan
    optimizer.step()
    assert optimizer.state[p]["ema"].tolist() == [-2.25, -3.0, -2.25]


def test_sparse_gradients_are_refused(backend: Backend) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), lr=1.0, ema_decay=0.5, backend=backend)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="ema_decay with a sparse gradient"):
        optimizer.step()


@pytest.mark.parametrize("where", ["in one group", "in two groups"])
def test_a_parameter_that_is_there_twice(where: str, backend: Backend) -> None:
    """As torch allows after construction: updated twice, averaged once, by the last group's decay."""
    p, q = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    optimizer = SGD([{"params": [p]}, {"params": [q], "ema_decay": 0.25}], lr=1.0, ema_decay=0.5, backend=backend)
    optimizer.param_groups[0 if where == "in one group" else 1]["params"].append(p)
    decay = 0.5 if where == "in one group" else 0.25
    average: Any = torch.optim.swa_utils.AveragedModel(
        torch.nn.ParameterList([p]), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    )
    for i in range(3):
        p.grad = torch.full((3,), 1.0 + i)
        optimizer.step()
        average.update_parameters(torch.nn.ParameterList([p]))
    assert p.tolist() == [-12.0] * 3
    assert optimizer.state[p]["ema"].tolist() == average.module[0].tolist()


@every_rule
def test_a_first_gradient_that_comes_late(name: str, backend: Backend, seed: int) -> None:
    """The average of such a parameter begins with those of the others, as what the parameter is."""
    twins = AroundTwins(name, backend, ema_decay=0.75)
    for step in range(5):
        twins.set_grads(without=[0, 4] if step < 3 else [])
        twins.step()
    assert all("ema" in twins.ours.state[p] for p in twins.params)
    twins.assert_same(1e-13)


@pytest.mark.parametrize("way", ["half and back", "double", "to another memory"])
def test_a_block_that_moves_the_parameters(way: str, backend: Backend) -> None:
    """As model.half() does: the parameter has what it had, in whatever memory and dtype it then is."""
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SGD([p], lr=0.5, momentum=0.5, ema_decay=0.5, backend=backend)
    for _ in range(3):
        p.grad = torch.ones(2)
        optimizer.step()
    before, average = p.tolist(), optimizer.state[p]["ema"].tolist()
    with optimizer.ema_weights():
        assert p.tolist() == average
        if way == "half and back":
            p.data = p.data.half()
            p.data = p.data.float()
        else:
            p.data = p.data.double() if way == "double" else p.data.clone()
    assert p.tolist() == before
    assert p.dtype == (torch.float64 if way == "double" else torch.float32)
    assert optimizer.state[p]["ema"].tolist() == average


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_a_checkpoint_after_a_skipped_first_step(name: str, backend: Backend, seed: int) -> None:
    """What means "nothing yet" is not in it."""
    twins = AroundTwins(name, backend, skip_nonfinite=True, ema_decay=0.5)
    twins.set_grads()
    twins.params[0].grad[0] = math.nan
    twins.ours.step()
    saved = copy.deepcopy(twins.ours.state_dict())
    assert saved["state"] == {}
    twins.torchs.load_state_dict(copy.deepcopy(saved))
    twins.ours.load_state_dict(saved)
    for _ in range(3):
        twins.set_grads()
        twins.step()
    twins.assert_same(1e-13)


def test_an_average_is_the_parameter_until_an_update_counts(backend: Backend) -> None:
    """NaN says so, as docs/reference.md has it; what uses averages takes it for the parameter."""
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SGD([p], lr=1.0, ema_decay=0.5, skip_nonfinite=True, backend=backend)
    p.grad = torch.tensor([math.nan, 1.0])
    optimizer.step()
    assert optimizer.state[p]["ema"].isnan().all()
    with optimizer.ema_weights():
        assert p.tolist() == [1.0, 2.0]
    assert optimizer.state_dict()["state"] == {}
    p.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[p]["ema"].tolist() == p.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rule", [SGD, AdamW])
def test_averages_without_elements_are_in_checkpoints(rule: Any, momentum: float, backend: Backend) -> None:
    """As those of the others of a group: none after a first step that was skipped, all after an update."""
    options = {"momentum": momentum} if rule is SGD else {"betas": (momentum, 0.9)}
    sizes, options = (0, 2, 0), {**options, "ema_decay": 0.5, "skip_nonfinite": True}
    weights = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    groups = [{"params": weights[:2]}, {"params": weights[2:]}]
    optimizer = rule(groups, lr=0.1, backend=backend, **options)
    for value, expected in ((math.nan, set()), (1.0, {0, 1, 2})):
        for p in weights:
            p.grad = torch.full_like(p, value)
        optimizer.step()
        saved = optimizer.state_dict()["state"]
        alone = {2} if rule is SGD else set()  # nothing says of it that it has not begun
        assert {n for n, state in saved.items() if "ema" in state} in (expected, expected | alone)
        assert all(state["ema"].shape == (sizes[n],) for n, state in saved.items())
    other = rule([torch.nn.Parameter(torch.ones(size)) for size in sizes], lr=0.1, backend=backend, **options)
    grouped = {**optimizer.state_dict(), "param_groups": other.state_dict()["param_groups"]}
    other.load_state_dict(grouped)
    assert other.state_dict()["state"].keys() == {0, 1, 2}
    assert all(state["ema"].shape == (sizes[n],) for n, state in other.state_dict()["state"].items())


@pytest.mark.parametrize(("average", "error"), [(torch.ones(4), ValueError), (None, None)])
def test_a_load_looks_at_averages(average: Any, error: type[Exception] | None, backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = SGD([p], lr=1.0, ema_decay=0.5, backend=backend)
    p.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["ema"] = average
    if error is None:
        optimizer.load_state_dict(saved)
        return
    with pytest.raises(error, match="state 'ema' has shape"):
        optimizer.load_state_dict(saved)
    assert optimizer.state[p]["ema"].tolist() == [0.0] * 3


@pytest.mark.skipif(backends.reason_unavailable("cpu") is not None, reason="the extension was not built")
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_averages_of_a_copy_before_its_first_step(way: str) -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = SGD([p], lr=1.0, ema_decay=0.5, backend="cpu")
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    copied = copy.deepcopy(optimizer) if way == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    q = copied.param_groups[0]["params"][0]
    with copied.ema_weights():
        assert q.tolist() == [-1.5] * 3
    assert q.tolist() == [-2.0] * 3


NOT_FINITE = {"first": [0], "last": [4], "all but one": [0, 1, 3, 4], "first two": [0, 1]}


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
@pytest.mark.parametrize("where", NOT_FINITE)
@pytest.mark.parametrize("rule", [SGD, AdamW])
def test_an_average_with_elements_that_are_nan_holds_the_others(
    rule: Any, where: str, value: float, backend: Backend
) -> None:
    """As of an infinite parameter, in torch's lerp too; in the place of parameters, in checkpoints, for late ones."""
    others = [i for i in range(5) if i not in NOT_FINITE[where]]
    options = {"lr": 1.0, "ema_decay": 0.5, "backend": backend}

    def parameter() -> torch.nn.Parameter:
        p = torch.nn.Parameter(torch.zeros(5))
        p.data[NOT_FINITE[where]] = value
        return p

    def step(optimizer: Any, *params: torch.nn.Parameter) -> None:
        for p in params:
            p.grad = torch.ones(5)
            p.grad[NOT_FINITE[where]] = 0.0
        optimizer.step()

    p, late = parameter(), torch.nn.Parameter(torch.ones(5))
    optimizer = rule([p, late], **options)
    averaged = AveragedModel(torch.nn.ParameterList([p]), multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        step(optimizer, p)
        averaged.update_parameters(torch.nn.ParameterList([p]))
        (expected,) = averaged.module
        with optimizer.ema_weights():
            torch.testing.assert_close(p.detach()[others], expected.detach()[others])
        saved = copy.deepcopy(optimizer.state_dict())
        torch.testing.assert_close(saved["state"][0]["ema"][others], expected.detach()[others])
    q = torch.nn.Parameter(p.detach().clone())
    loaded = rule([q, torch.nn.Parameter(torch.ones(5))], **options)
    loaded.load_state_dict(saved)
    step(loaded, q)
    step(optimizer, p, late)
    average = optimizer.state[p]["ema"]
    torch.testing.assert_close(loaded.state[q]["ema"], average, rtol=0, atol=0, equal_nan=True)
    began = torch.lerp(torch.ones(5), late.detach(), 0.5)  # as what it was when the other began
    torch.testing.assert_close(optimizer.state[late]["ema"][others], began[others])
