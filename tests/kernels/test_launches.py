"""The Triton backend counts its launches and compilations: one launch a step, nothing compiled for a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lane
import pytest
import torch
from platforms import Mirrored

from fused_sched.lr_scheduler import CosineAnnealingLR, ExponentialLR
from fused_sched.optim import SGD, AdamW

if lane.reason_unavailable("triton") is not None:
    pytest.skip("the triton backend cannot run here", allow_module_level=True)

from fused_sched.backends.triton import TritonBackend
from fused_sched.kernels.numerics import INTERPRETED
from fused_sched.memory import pointers
from fused_sched.memory.platforms import Platform

pytestmark = pytest.mark.skipif(
    not INTERPRETED and not lane.PTX, reason="runs on CPU tensors: set TRITON_INTERPRET=1 or FUSED_SCHED_TEST_PTX"
)


class Pretending(Platform):
    """Counts uploads, notes whose memory is released, and says that a graph is captured when told to."""

    def __init__(self) -> None:
        self.capturing = False
        self.uploads = 0
        self.recorded: set[int] = set()

    def is_capturing(self, device: torch.device) -> bool:
        return self.capturing

    def outside_of_capture(self) -> AbstractContextManager[None]:
        return nullcontext()

    def upload(self, values: torch.Tensor, device: torch.device) -> torch.Tensor:
        self.uploads += 1
        return values.contiguous().clone()

    def record_stream(self, tensors: Any) -> None:
        if isinstance(tensors, torch.Tensor):
            self.recorded.add(id(tensors))
        super().record_stream(tensors)

    @contextmanager
    def captured(self) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False


class PretendingMirrored(Pretending, Mirrored):
    """And the control block has a host mirror."""


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Pretending:
    return PretendingMirrored() if "remote" in request.fixturenames else Pretending()


@pytest.fixture
def triton(platform: Pretending) -> TritonBackend:
    """A backend of its own, with fresh counters."""
    return TritonBackend(launcher=lane.launcher(), platform=platform)


def parameters(n: int, size: int = 3, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for _ in range(n)]
    for p in params:
        p.grad = torch.randn(size, generator=generator).to(dtype)
    return params


def two_groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[: len(params) // 2], "weight_decay": 0.0}, {"params": params[len(params) // 2 :]}]


@pytest.mark.parametrize(("fused", "launches"), [(True, 1), pytest.param(False, 2, marks=pytest.mark.slow)])
def test_launches_of_a_step_of_148_tensors(triton: TritonBackend, fused: bool, launches: int) -> None:
    optimizer = AdamW(two_groups(parameters(148)), backend=triton)
    scheduler = CosineAnnealingLR(optimizer, T_max=10, fused=fused)
    for _ in range(2):
        before = triton.launcher.launches
        optimizer.step()
        scheduler.step()
        assert triton.launcher.launches - before == launches


@pytest.mark.slow
@pytest.mark.parametrize(("fused", "launches"), [(True, 1), (False, 2)])
def test_launches_of_a_step_of_465_groups(triton: TritonBackend, fused: bool, launches: int) -> None:
    groups = [{"params": [p], "lr": 0.001 * (i + 1)} for i, p in enumerate(parameters(465, 1))]
    optimizer = SGD(groups, momentum=0.9, backend=triton)
    scheduler = ExponentialLR(optimizer, gamma=0.5, fused=fused)
    optimizer.step()
    scheduler.step()
    assert triton.launcher.launches == launches
    assert [g["lr"] for g in optimizer.param_groups] == [0.001 * (i + 1) * 0.5 for i in range(465)]


def test_each_dtype_signature_has_a_launch_and_the_last_ends_the_step(triton: TritonBackend) -> None:
    params = parameters(3) + parameters(2, dtype=torch.bfloat16)
    optimizer = AdamW(params, lr=1.0, backend=triton)
    ExponentialLR(optimizer, gamma=0.5, fused=True)
    optimizer.step()
    optimizer.step()
    assert triton.launcher.launches == 4
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert [int(optimizer.state[p]["step"]) for p in params] == [2] * 5


def test_tensors_without_elements_are_counted(triton: TritonBackend) -> None:
    p = torch.nn.Parameter(torch.empty(0))
    p.grad = torch.empty(0)
    optimizer = AdamW([p], lr=1.0, backend=triton)
    ExponentialLR(optimizer, gamma=0.5, fused=True)
    optimizer.step()
    assert triton.launcher.launches == 1
    assert int(optimizer.state[p]["step"]) == 1
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_new_values_compile_nothing(triton: TritonBackend) -> None:
    optimizer = AdamW(two_groups(parameters(4)), lr=0.1, weight_decay=0.1, backend=triton)
    fused = CosineAnnealingLR(optimizer, T_max=10, fused=True)
    own = ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    own.step()
    compiled = triton.launcher.compilations
    assert compiled == 2
    group = optimizer.param_groups[0]
    group["lr"], group["betas"], group["eps"], group["weight_decay"] = 0.3, (0.5, 0.9), 1e-3, 0.0
    fused.T_max, fused.eta_min, own.gamma = 77, 0.01, 0.25
    group["maximize"] = True
    optimizer.step()
    own.step()
    assert triton.launcher.compilations == compiled


@pytest.mark.parametrize("in_c", [True, False], ids=["scan in C++", "scan in Python"])
def test_gradients_that_move_are_followed(triton: TritonBackend, monkeypatch: pytest.MonkeyPatch, in_c: bool) -> None:
    if not in_c:
        monkeypatch.setattr(pointers, "_C", None)
    params, expected = parameters(5), parameters(5)
    ours = SGD(params, lr=0.5, backend=triton)
    oracle = torch.optim.SGD(expected, lr=0.5)
    for step in range(6):
        for i, pair in enumerate(zip(params, expected, strict=True)):
            for p in pair:
                p.grad = None if (i + step) % 4 == 0 else torch.full((3,), float(i + step))
        ours.step()
        oracle.step()
        torch.testing.assert_close(params, expected, rtol=0, atol=0)


def test_a_step_with_unchanged_pointers_uploads_nothing(triton: TritonBackend, platform: Pretending) -> None:
    optimizer = AdamW(parameters(4), backend=triton)
    CosineAnnealingLR(optimizer, T_max=10, fused=True)
    optimizer.step()
    before = platform.uploads
    assert before > 0
    optimizer.step()
    assert platform.uploads == before


def test_a_capture_that_finds_no_state_says_what_to_do(triton: TritonBackend, platform: Pretending) -> None:
    optimizer = AdamW(parameters(2), backend=triton)
    with platform.captured(), pytest.raises(RuntimeError, match=r"run one optimizer\.step\(\) .* before the capture"):
        optimizer.step()


def test_host_mirrors_are_not_trusted_after_a_capture(
    triton: TritonBackend, platform: Pretending, remote: None
) -> None:
    optimizer = AdamW(parameters(2), lr=1.0, backend=triton)
    scheduler = ExponentialLR(optimizer, gamma=0.5, fused=True)
    own = ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    own.step()
    assert not optimizer._block.volatile
    with platform.captured():
        optimizer.step()
        own.step()
    assert optimizer._block.volatile
    assert scheduler._schedule.memory.volatile
    optimizer._block.tensor.mul_(2)  # stands for a replay, which the host does not see
    assert optimizer.param_groups[0]["lr"] == 2 * 0.5**4


def test_tables_of_a_capture_are_kept_and_not_rewritten(triton: TritonBackend, platform: Pretending) -> None:
    params = parameters(2)
    optimizer = AdamW(params, backend=triton)
    optimizer.step()
    with platform.captured():
        optimizer.step()
    table = triton.device_tables[optimizer.tables[0]]
    grads = table.grads
    before = grads.clone()
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(grads, before)
    assert table.grads is not grads
    kept = triton.captured[params[0]]
    assert any(any(x is grads for x in part) for part in kept if isinstance(part, list))


def test_memory_of_every_table_that_is_replaced_waits_for_the_stream(
    triton: TritonBackend, platform: Pretending
) -> None:
    params = parameters(3)
    optimizer = AdamW(params[:2], lr=1.0, backend=triton)
    fused = ExponentialLR(optimizer, gamma=0.5, fused=True)
    own = ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    own.step()
    table, advance = triton.device_tables[optimizer.tables[0]], triton.advances[own._schedule]
    replaced = [*table.tensors, *(t for t in (*table.launches.kept, *advance.kept) if isinstance(t, torch.Tensor))]
    replaced += [fused._schedule.memory.tensor, own._schedule.memory.tensor, optimizer._block.tensor]
    optimizer.add_param_group({"params": parameters(100)})  # another table, programs, and a larger control block
    optimizer.step()
    own.step()
    assert [t.shape for t in replaced if id(t) not in platform.recorded] == []


def test_gradients_that_moved_leave_their_addresses_to_the_stream(triton: TritonBackend, platform: Pretending) -> None:
    params = parameters(2)
    optimizer = AdamW(params, backend=triton)
    optimizer.step()
    grads = triton.device_tables[optimizer.tables[0]].grads
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert platform.recorded == {id(grads)}
