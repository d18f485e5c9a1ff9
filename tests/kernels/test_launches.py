"""The Triton backend counts its launches and compilations: one launch a step, nothing compiled for a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from fused_sched import backends
from fused_sched.lr_scheduler import CosineAnnealingLR, ExponentialLR
from fused_sched.optim import SGD, AdamW

if backends.reason_unavailable("triton") is not None:
    pytest.skip("the triton backend cannot run here", allow_module_level=True)

from fused_sched import pointers
from fused_sched.backends import device_backend
from fused_sched.backends import triton as triton_backend
from fused_sched.kernels.launcher import Launcher
from fused_sched.kernels.numerics import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter: set TRITON_INTERPRET=1")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A fresh counter in the backend."""
    backend = backends.choose(torch.device("cpu"), "triton")
    fresh = Launcher()
    monkeypatch.setattr(backend, "launcher", fresh)
    return fresh


def parameters(n: int, size: int = 3, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for _ in range(n)]
    for p in params:
        p.grad = torch.randn(size, generator=generator).to(dtype)
    return params


def two_groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[: len(params) // 2], "weight_decay": 0.0}, {"params": params[len(params) // 2 :]}]


@pytest.mark.parametrize(("fused", "launches"), [(True, 1), (False, 2)])
def test_launches_of_a_step_of_148_tensors(launcher: Launcher, fused: bool, launches: int) -> None:
    optimizer = AdamW(two_groups(parameters(148)), backend="triton")
    scheduler = CosineAnnealingLR(optimizer, T_max=10, fused=fused)
    for _ in range(2):
        before = launcher.launches
        optimizer.step()
        scheduler.step()
        assert launcher.launches - before == launches


@pytest.mark.parametrize(("fused", "launches"), [(True, 1), (False, 2)])
def test_launches_of_a_step_of_465_groups(launcher: Launcher, fused: bool, launches: int) -> None:
    groups = [{"params": [p], "lr": 0.001 * (i + 1)} for i, p in enumerate(parameters(465, 1))]
    optimizer = SGD(groups, momentum=0.9, backend="triton")
    scheduler = ExponentialLR(optimizer, gamma=0.5, fused=fused)
    optimizer.step()
    scheduler.step()
    assert launcher.launches == launches
    assert [g["lr"] for g in optimizer.param_groups] == [0.001 * (i + 1) * 0.5 for i in range(465)]


def test_each_dtype_signature_has_a_launch_and_the_last_ends_the_step(launcher: Launcher) -> None:
    params = parameters(3) + parameters(2, dtype=torch.bfloat16)
    optimizer = AdamW(params, lr=1.0, backend="triton")
    ExponentialLR(optimizer, gamma=0.5, fused=True)
    optimizer.step()
    optimizer.step()
    assert launcher.launches == 4
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert [int(optimizer.state[p]["step"]) for p in params] == [2] * 5


def test_tensors_without_elements_are_counted(launcher: Launcher) -> None:
    p = torch.nn.Parameter(torch.empty(0))
    p.grad = torch.empty(0)
    optimizer = AdamW([p], lr=1.0, backend="triton")
    ExponentialLR(optimizer, gamma=0.5, fused=True)
    optimizer.step()
    assert launcher.launches == 1
    assert int(optimizer.state[p]["step"]) == 1
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_new_values_compile_nothing(launcher: Launcher) -> None:
    optimizer = AdamW(two_groups(parameters(4)), lr=0.1, weight_decay=0.1, backend="triton")
    fused = CosineAnnealingLR(optimizer, T_max=10, fused=True)
    own = ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    own.step()
    compiled = launcher.compilations
    assert compiled == 2
    group = optimizer.param_groups[0]
    group["lr"], group["betas"], group["eps"], group["weight_decay"] = 0.3, (0.5, 0.9), 1e-3, 0.0
    fused.T_max, fused.eta_min, own.gamma = 77, 0.01, 0.25
    group["maximize"] = True
    optimizer.step()
    own.step()
    assert launcher.compilations == compiled


@pytest.mark.parametrize("in_c", [True, False], ids=["scan in C++", "scan in Python"])
def test_gradients_that_move_are_followed(launcher: Launcher, monkeypatch: pytest.MonkeyPatch, in_c: bool) -> None:
    if not in_c:
        monkeypatch.setattr(pointers, "_C", None)
    params, expected = parameters(5), parameters(5)
    ours = SGD(params, lr=0.5, backend="triton")
    oracle = torch.optim.SGD(expected, lr=0.5)
    for step in range(6):
        for i, pair in enumerate(zip(params, expected, strict=True)):
            for p in pair:
                p.grad = None if (i + step) % 4 == 0 else torch.full((3,), float(i + step))
        ours.step()
        oracle.step()
        torch.testing.assert_close(params, expected, rtol=0, atol=0)


def test_a_step_with_unchanged_pointers_uploads_nothing(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = AdamW(parameters(4), backend="triton")
    CosineAnnealingLR(optimizer, T_max=10, fused=True)
    optimizer.step()

    def refuse(*_: object) -> None:
        raise AssertionError("something was uploaded")

    monkeypatch.setattr(triton_backend, "upload", refuse)
    monkeypatch.setattr("fused_sched.device_table.upload", refuse)
    optimizer.step()


@contextmanager
def capturing() -> Iterator[None]:
    """Pretend that the current stream is being captured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_backend, "is_capturing", lambda device: True)
        patch.setattr(triton_backend, "outside_of_capture", nullcontext)
        yield


def test_a_capture_that_finds_no_state_says_what_to_do(launcher: Launcher) -> None:
    optimizer = AdamW(parameters(2), backend="triton")
    with capturing(), pytest.raises(RuntimeError, match=r"run one optimizer\.step\(\) .* before the capture"):
        optimizer.step()


def test_host_mirrors_are_not_trusted_after_a_capture(launcher: Launcher, remote: None) -> None:
    optimizer = AdamW(parameters(2), lr=1.0, backend="triton")
    scheduler = ExponentialLR(optimizer, gamma=0.5, fused=True)
    own = ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    own.step()
    assert not optimizer._block.volatile
    with capturing():
        optimizer.step()
        own.step()
    assert optimizer._block.volatile
    assert scheduler._schedule.memory.volatile
    optimizer._block.tensor.mul_(2)  # stands for a replay, which the host does not see
    assert optimizer.param_groups[0]["lr"] == 2 * 0.5**4


def test_tables_of_a_capture_are_kept_and_not_rewritten(launcher: Launcher) -> None:
    params = parameters(2)
    optimizer = AdamW(params, backend="triton")
    optimizer.step()
    with capturing():
        optimizer.step()
    backend = optimizer._backend
    tracked = backend._tracked[optimizer._table]
    grads = tracked.device.grads
    before = grads.clone()
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(grads, before)
    assert tracked.device.grads is not grads
    kept = backend._captured[params[0]]
    assert any(any(x is grads for x in part) for part in kept if isinstance(part, list))
