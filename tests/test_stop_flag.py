"""A flag on the device that stops updates, on every backend."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from around_twins import RULES, AroundTwins
from platforms import Mirrored

from fused_sched import backends
from fused_sched.backends.reference import ReferenceBackend
from fused_sched.lr_scheduler import ExponentialLR, StepLR
from fused_sched.optim import SGD, AdamW, SpikeRule

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend
STOPS = (1.0, -1.0, 0.25, 1e-45, math.inf, -math.inf, math.nan)
CONVERTED = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def contents(optimizer: Any) -> list[Any]:
    """Bits of all that a step may change, but gradients."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    saved = optimizer.state_dict()
    states = [v for s in saved["state"].values() for v in s.values() if isinstance(v, torch.Tensor)]
    tensors = [t.detach().clone().view(-1).view(torch.uint8) for t in (*params, *states)]
    return [*(t.tolist() for t in tensors), optimizer._block.counts.tolist(), [g["lr"] for g in optimizer.param_groups]]


def one_weight(backend: Backend, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, Any]:
    """A parameter with a gradient of ones, and an SGD that subtracts it."""
    p = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    p.grad = torch.ones_like(p)
    return p, SGD([p], lr=1.0, backend=backend, **options)


@pytest.mark.thin("triton")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("around", [{}, {"ema_decay": 0.9}, {"max_grad_norm": 1.0, "skip_nonfinite": True}], ids=str)
def test_a_stopped_step_changes_nothing(name: str, around: dict[str, Any], backend: Backend, seed: int) -> None:
    """From the first step on, and the others are as if it had not been."""
    twins = AroundTwins(name, backend, **around)
    flag = torch.zeros(())
    twins.ours.stop_when(flag)
    for step in range(8):
        twins.set_grads(without=[1] if step == 3 else [])
        stopped = step in (0, 3, 4, 6)
        flag.fill_(float(stopped))
        before = contents(twins.ours)
        grads = [None if p.grad is None else p.grad.clone() for p in twins.params]
        twins.ours.step()
        if stopped:
            after = contents(twins.ours)
            assert after[-2:] == before[-2:]
            assert step == 0 or after == before  # in the first step states are made
        else:
            twins.torch_step()
        assert all(g is None or torch.equal(g, p.grad) for g, p in zip(grads, twins.params, strict=True))
    twins.assert_same(1e-13)
    if "skip_nonfinite" in around:
        assert twins.ours.skipped_steps.item() == 4


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_whatever_is_not_zero_stops(shape: tuple[int, ...], measured: bool, backend: Backend) -> None:
    p, optimizer = one_weight(backend, **({"max_grad_norm": math.inf} if measured else {}))
    flag = torch.zeros(shape)
    optimizer.stop_when(flag)
    for value in STOPS:
        flag.fill_(value)
        optimizer.step()
        assert p.tolist() == [0.0] * 3, value
    for i, value in enumerate((0.0, -0.0)):
        flag.fill_(value)
        optimizer.step()
        assert p.tolist() == [-1.0 - i] * 3


@pytest.mark.parametrize("dtype", CONVERTED, ids=str)
def test_flags_of_other_dtypes(dtype: torch.dtype, backend: Backend) -> None:
    p, optimizer = one_weight(backend)
    flag = torch.zeros((), dtype=dtype)
    optimizer.stop_when(flag)
    least = True if dtype == torch.bool else torch.iinfo(dtype).min
    for value in (1, least, True if dtype == torch.bool else torch.iinfo(dtype).max):
        flag.fill_(value)
        optimizer.step()
        assert bool(p.any()) == (value == 0)
        p.data.zero_()
    flag.zero_()
    optimizer.step()
    assert p.tolist() == [-1.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_with_found_inf(shape: tuple[int, ...], measured: bool, dtype: torch.dtype, backend: Backend) -> None:
    """Each of the two stops, whatever the other is: their sum may be 0."""
    p, optimizer = one_weight(backend, **({"skip_nonfinite": True} if measured else {}))
    flag = torch.zeros((), dtype=dtype)
    optimizer.stop_when(flag)
    for found, stop in ((1.0, 0), (0.0, 1), (1.0, 1), (1.0, -1), (math.nan, 0), (0.0, 0)):
        p.data.zero_()
        flag.fill_(stop)
        optimizer.found_inf = torch.full(shape, found)
        optimizer.step()
        assert optimizer.found_inf.equal(torch.full(shape, found)) or math.isnan(found)
        del optimizer.found_inf
        assert p.tolist() == [0.0 if found != 0 or stop else -1.0] * 3
    assert flag.item() == 0


def test_with_skip_nonfinite(backend: Backend) -> None:
    p, optimizer = one_weight(backend, skip_nonfinite=True)
    flag = torch.zeros(())
    optimizer.stop_when(flag)
    for value, stop in ((math.nan, 0), (math.nan, 1), (1.0, 1)):
        p.grad.fill_(value)
        flag.fill_(stop)
        optimizer.step()
        assert p.tolist() == [0.0] * 3
    assert optimizer.skipped_steps.item() == 3
    assert optimizer.grad_norm.item() == pytest.approx(math.sqrt(3))
    flag.zero_()
    optimizer.step()
    assert p.tolist() == [-1.0] * 3


def test_a_spike_rule_remembers_nothing_of_stopped_steps(backend: Backend) -> None:
    sides = [one_weight(backend, skip_spikes=SpikeRule(4, 1.0)) for _ in range(2)]
    flag = torch.zeros(())
    sides[0][1].stop_when(flag)
    for step in range(14):
        stopped = step % 3 == 1
        flag.fill_(stopped)
        for i, (p, optimizer) in enumerate(sides):
            p.grad.fill_(50.0 if stopped or step == 9 else 1.0 + 0.01 * (step % 4))
            if i == 0 or not stopped:
                optimizer.step()
    (p, ours), (q, other) = sides
    assert p.tolist() == q.tolist()
    saved, expected = (o.state_dict()["fused_sched"] for o in (ours, other))
    assert saved["norms_seen"] == expected["norms_seen"]
    assert saved["norms"].equal(expected["norms"])
    assert saved["skipped_steps"] - expected["skipped_steps"] == 5
    assert expected["skipped_steps"] > 0


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("skip", [False, True], ids=["as torch", "skip_with_optimizer"])
def test_schedulers_do_what_they_do_after_a_skipped_step(
    fused: bool, skip: bool, backend: Backend, mirrored: bool
) -> None:
    runs = []
    for by_flag in (True, False):
        p, optimizer = one_weight(backend)
        scheduler = ExponentialLR(optimizer, 0.5, fused=fused, skip_with_optimizer=skip)
        flag = torch.zeros(())
        if by_flag:
            optimizer.stop_when(flag)
        else:
            optimizer.found_inf = flag
        seen: list[Any] = []
        for step in range(9):
            flag.fill_(step in (1, 2, 5))
            optimizer.step()
            for _ in range((1, 1, 0, 2, 1, 0, 1, 1, 1)[step]):
                scheduler.step()
            seen.append((p.tolist(), optimizer.param_groups[0]["lr"], scheduler.last_epoch, scheduler.get_last_lr()))
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len({lr for _, lr, *_ in runs[0]}) > 4


def test_without_a_step_of_the_scheduler_nothing_advances(backend: Backend, mirrored: bool) -> None:
    _, optimizer = one_weight(backend)
    scheduler = StepLR(optimizer, 1, 0.5, fused=True)
    flag = torch.ones(())
    optimizer.stop_when(flag)
    for _ in range(3):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert scheduler.last_epoch == 0
    flag.zero_()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_stochastic_rounding_draws_nothing(backend: Backend) -> None:
    sides = []
    for stops in (True, False):
        p, optimizer = one_weight(backend, torch.bfloat16, stochastic_rounding=True, rounding_seed=3)
        p.data.fill_(1.0)
        flag = torch.zeros(())
        if stops:
            optimizer.stop_when(flag)
        optimizer.param_groups[0]["lr"] = 1e-3
        for step in range(12):
            flag.fill_(step % 3 == 1)
            if stops or step % 3 != 1:
                optimizer.step()
        sides.append((p.tolist(), optimizer.state_dict()["fused_sched"]))
    assert sides[0] == sides[1]
    assert sides[0][1]["rounding_updates"] == 8


@pytest.mark.parametrize("options", [{}, {"skip_nonfinite": True}], ids=str)
def test_a_stopped_step_zeroes_too(options: dict[str, Any], backend: Backend) -> None:
    p, optimizer = one_weight(backend, zero_grad_in_step=True, **options)
    optimizer.stop_when(torch.ones(()))
    optimizer.step()
    assert p.tolist() == p.grad.tolist() == [0.0] * 3


def test_tensors_that_kernels_cannot_walk(backend: Backend) -> None:
    p, q = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = AdamW([p, q], lr=1.0, backend=backend)
    scheduler = ExponentialLR(optimizer, 0.5, fused=True, skip_with_optimizer=True)
    flag = torch.ones(1, dtype=torch.bool)
    optimizer.stop_when(flag)
    p.grad, q.grad = torch.ones(3, 2).t(), torch.ones(2, dtype=torch.complex64)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert not p.any()
    assert not q.any()
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert [int(optimizer.state[x]["step"]) for x in (p, q)] == [0, 0]
    flag.zero_()
    optimizer.step()
    scheduler.step()
    assert bool(p.all())
    assert bool(q.all())
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_sparse_gradients(backend: Backend, mirrored: bool) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), lr=1.0, momentum=0.5, backend=backend)
    flag = torch.ones((), dtype=torch.int64)
    optimizer.stop_when(flag)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    optimizer.step()
    assert torch.equal(embedding.weight, before)
    flag.zero_()
    optimizer.step()
    assert torch.equal(embedding.weight[1], before[1] - 1)


# -- GradScaler ------------------------------------------------------------------------------------------


def test_torchs_grad_scaler_sees_nothing_of_it(backend: Backend) -> None:
    """It sets and deletes attributes of its own, and a stop is no overflow: the scale grows on."""
    p, optimizer = one_weight(backend)
    flag = torch.zeros(())
    optimizer.stop_when(flag)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.zeros(()))
    expected, scale = 0.0, 8.0
    for step in range(8):
        p.grad = torch.full((3,), math.inf if step == 5 else scale)
        flag.fill_(step in (1, 2, 5))
        scaler.step(optimizer)
        assert not {"found_inf", "grad_scale"} & vars(optimizer).keys()
        scaler.update()
        if step not in (1, 2, 5):
            expected -= 1.0
        assert p.tolist() == [expected] * 3
        scale = scaler.get_scale()
    assert scale == 8.0 * 2 * 2 / 2 * 2  # two good steps each, an overflow at the sixth, two good ones
    assert optimizer._step_supports_amp_scaling


def test_a_step_that_grad_scaler_calls_by_itself(backend: Backend) -> None:
    """With a hook GradScaler unscales and decides on its own."""
    p, optimizer = one_weight(backend)
    optimizer.register_step_post_hook(lambda *_: None)
    flag = torch.ones(())
    optimizer.stop_when(flag)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for expected in (0.0, -1.0):
        scaler.scale(torch.zeros(()))
        p.grad = torch.full((3,), 8.0)
        scaler.step(optimizer)
        scaler.update()
        assert p.tolist() == [expected] * 3
        flag.zero_()


# -- the flag itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "error", "message"),
    [
        (True, TypeError, r"^stop_when\(True\): the flag must be a tensor of one element on cpu"),
        (
            torch.zeros(2),
            ValueError,
            r"has shape \(2,\), but must have one element: make it with torch\.zeros\(\(\), de",
        ),
        (torch.zeros(0), ValueError, r"has shape \(0,\)"),
        (torch.zeros((), dtype=torch.float64), TypeError, "is of torch.float64, but must be float32, bool, uint8"),
        (torch.zeros((), dtype=torch.float16), TypeError, "is of torch.float16"),
        (torch.zeros((), dtype=torch.complex64), TypeError, "is of torch.complex64"),
        (torch.zeros((), device="meta"), ValueError, "is on meta, but the optimizer on cpu"),
        (torch.zeros(1).to_sparse(), ValueError, "has layout torch.sparse_coo"),
    ],
    ids=str,
)
def test_bad_flags(flag: Any, error: type[Exception], message: str, host_backend: Backend) -> None:
    p, optimizer = one_weight(host_backend)
    kept = torch.ones(())
    optimizer.stop_when(kept)
    with pytest.raises(error, match=message):
        optimizer.stop_when(flag)
    optimizer.step()
    assert p.tolist() == [0.0] * 3  # the flag before is in use
    kept.zero_()
    optimizer.step()
    assert p.tolist() == [-1.0] * 3


def test_a_flag_without_values(host_backend: Backend) -> None:
    _, optimizer = one_weight(host_backend)
    with torch._subclasses.FakeTensorMode():
        fake = torch.zeros(())
    with pytest.raises(TypeError, match=r"the flag of stop_when\(\) is a FakeTensor"):
        optimizer.stop_when(fake)


def test_other_flags_and_none(backend: Backend) -> None:
    p, optimizer = one_weight(backend)
    flags = torch.ones(()), torch.zeros((), dtype=torch.bool)
    for flag, expected in ((flags[0], 0.0), (flags[1], -1.0), (flags[0], -1.0), (None, -2.0), (None, -3.0)):
        optimizer.stop_when(flag)
        optimizer.step()
        assert p.tolist() == [expected] * 3


def test_a_flag_that_gets_other_memory(backend: Backend) -> None:
    p, optimizer = one_weight(backend)
    flag = torch.ones((), requires_grad=True)
    optimizer.stop_when(flag)
    optimizer.step()
    assert p.tolist() == [0.0] * 3
    flag.data = torch.zeros(())
    optimizer.step()
    assert p.tolist() == [-1.0] * 3
    flag.data = torch.ones(2)
    with pytest.raises(ValueError, match=r"has shape \(2,\)"):
        optimizer.step()
    assert p.tolist() == [-1.0] * 3


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_copies_and_state_dicts_are_without_the_flag(how: str, host_backend: Backend) -> None:
    _, optimizer = one_weight(host_backend, momentum=0.5)
    flag = torch.zeros(())
    optimizer.stop_when(flag)
    optimizer.step()
    flag.fill_(1.0)
    if how == "state_dict":
        p, other = one_weight(host_backend, momentum=0.5)
        saved = optimizer.state_dict()
        assert saved.keys() == {"state", "param_groups"}
        other.load_state_dict(saved)
    else:
        other = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        p = other.param_groups[0]["params"][0]
        p.grad = torch.ones(3)
    before = p.tolist()
    other.step()
    assert p.tolist() != before
    optimizer.load_state_dict(other.state_dict())
    mine = optimizer.param_groups[0]["params"][0]
    before = mine.tolist()
    optimizer.step()  # which has it still
    assert mine.tolist() == before


class Capturing(Mirrored):
    """Says of the CPU that it is being captured, where a test says so."""

    now = False

    def is_capturing(self, device: torch.device) -> bool:
        return self.now


def test_a_change_that_graphs_would_not_see_is_refused() -> None:
    platform = Capturing()
    p, optimizer = one_weight(ReferenceBackend(platform))
    flag = torch.zeros(())
    platform.now = True
    with pytest.raises(RuntimeError, match=r"stop_when\(\) was called inside a CUDA graph capture"):
        optimizer.stop_when(flag)
    platform.now = False
    optimizer.stop_when(flag)
    optimizer._block.note_capture()
    optimizer.stop_when(flag)  # no change
    for other, what in ((None, "taken off"), (torch.zeros(()), "exchanged")):
        with pytest.raises(RuntimeError, match=rf"was {what} after a CUDA graph was captured.*write 0 to it"):
            optimizer.stop_when(other)
    flag.data = torch.zeros(())
    with pytest.raises(RuntimeError, match=r"other memory than when a CUDA graph was captured"):
        optimizer.step()
    assert p.tolist() == [0.0] * 3
    late = one_weight(ReferenceBackend(platform))[1]
    late._block.note_capture()
    with pytest.raises(RuntimeError, match=r"was given after a CUDA graph was captured"):
        late.stop_when(flag)
