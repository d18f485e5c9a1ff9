"""Long runs with a schedule: against torch's for-loop, and how far from the truth compared with torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tolerances
import torch
from optimizer_twins import EVERY_VARIANT, LR, OPTIONS, Twins, assert_equal, assert_same, generator, normal
from torch import Tensor

import fused_sched
from fused_sched import backends

A_FEW_VARIANTS = [
    ("SGD", "nesterov, weight_decay, maximize"),
    ("Adam", "betas below a half"),
    ("Adam", "amsgrad, weight_decay, maximize"),
    ("AdamW", "plain"),
]
SCHEDULE: dict[str, Any] = {"T_max": 400, "eta_min": 1e-4}  # down, up, and half-way down again


def _step_both(twins: Twins, g: torch.Generator, steps: int, fused: bool) -> None:
    ours = fused_sched.lr_scheduler.CosineAnnealingLR(twins.ours, **SCHEDULE, fused=fused)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(twins.torchs, **SCHEDULE)
    for _ in range(steps):
        twins.run(g, 1)
        ours.step()
        torchs.step()
    assert ours.get_last_lr() == pytest.approx(torchs.get_last_lr(), rel=tolerances.SCHEDULE_RELATIVE)


@pytest.mark.parametrize(("name", "case"), EVERY_VARIANT)
def test_thousand_scheduled_steps_in_float64(name: str, case: str, host_backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, n, torch.float64) for n in (1, 17, 40)]], host_backend, **OPTIONS[name][case])
    _step_both(twins, g, 1000, fused=True)
    assert_same(twins, tolerances.LONG_RUN_RELATIVE)


@pytest.mark.parametrize(("name", "case"), A_FEW_VARIANTS)
def test_thousand_scheduled_steps_of_the_reference_backend(name: str, case: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, 40, torch.float64)]], "reference", **OPTIONS[name][case])
    _step_both(twins, g, 1000, fused=False)
    assert_same(twins, tolerances.LONG_RUN_RELATIVE)


@pytest.mark.parametrize("case", OPTIONS["SGD"])
def test_thousand_scheduled_steps_of_sgd_in_float32_are_bit_equal(case: str, cpu_with_fma: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins("SGD", [[normal(g, n) for n in (3, 200)]], cpu_with_fma, **OPTIONS["SGD"][case])
    _step_both(twins, g, 1000, fused=True)
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        assert_equal(p, q)
    for key, mine, torchs in twins.states():
        assert_equal(mine, torchs, key)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Errors:
    """Errors of our run, of torch's for-loop and of torch's fused kernel, against a float64 run."""

    def __init__(self, name: str, case: str, dtype: torch.dtype, steps: int, n: int, backend: str, seed: int) -> None:
        g = generator(seed)
        options = {"lr": LR[name], **OPTIONS[name][case]}
        start = normal(g, n, dtype)
        theirs = getattr(torch.optim, name)
        makers: dict[str, Any] = {
            "ours": lambda p: getattr(fused_sched.optim, name)(p, backend=backend, **options),
            "loop": lambda p: theirs(p, foreach=False, fused=False, **options),
            "truth": lambda p: theirs(p, foreach=False, fused=False, **options),
        }
        if dtype == torch.float32:
            makers["fused"] = lambda p: theirs(p, fused=True, **options)
        params = {k: (start.double() if k == "truth" else start.clone()).requires_grad_() for k in makers}
        optimizers = {k: make([params[k]]) for k, make in makers.items()}
        schedules = {
            k: (fused_sched.lr_scheduler if k == "ours" else torch.optim.lr_scheduler).CosineAnnealingLR(o, **SCHEDULE)
            for k, o in optimizers.items()
        }
        for _ in range(steps):
            gradient = normal(g, n, dtype)
            for k, p in params.items():
                p.grad = gradient.to(p.dtype, copy=True)
                optimizers[k].step()
                schedules[k].step()
        truth = self._tensors(params["truth"], optimizers["truth"])
        self._errors: dict[str, dict[str, Tensor]] = {
            k: {key: t.double() - truth[key] for key, t in self._tensors(params[k], optimizers[k]).items()}
            for k in makers
            if k != "truth"
        }
        self.keys = list(truth)

    @staticmethod
    def _tensors(p: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        state = optimizer.state_dict()["state"].get(0, {})
        return {"param": p.detach(), **{k: v for k, v in state.items() if k != "step"}}

    def rms(self, who: str, key: str) -> float:
        """Over the elements for which torch's for-loop has a number: in float16 it divides 0 by 0 here and there."""
        error = self._errors[who][key]
        assert who != "ours" or error.isfinite().all()
        return float(error[self._errors["loop"][key].isfinite()].square().mean().sqrt())

    def largest(self, who: str, key: str) -> float:
        return float(self._errors[who][key].abs().max())


@pytest.mark.parametrize(("name", "case"), [("SGD", "momentum"), *A_FEW_VARIANTS])
def test_float32_is_as_near_to_the_truth_as_torchs_fused_kernel(
    name: str, case: str, host_backend: str, seed: int
) -> None:
    with one_thread():  # torch's fused kernels wake all threads for any size
        errors = Errors(name, case, torch.float32, 300, 4000, host_backend, seed)
    for key in errors.keys:
        ours, fused = errors.rms("ours", key), errors.rms("fused", key)
        print(f"{key}: rms {ours:.4e}, torch fused {fused:.4e}, torch for-loop {errors.rms('loop', key):.4e}")
        print(f"{key}: largest {errors.largest('ours', key):.4e}, torch fused {errors.largest('fused', key):.4e}")
        assert 0 < ours <= tolerances.RMS_RATIO_FLOAT32 * fused, key
        assert errors.largest("ours", key) <= 1.2 * errors.largest("fused", key), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "case"), [("SGD", "momentum"), *A_FEW_VARIANTS])
def test_16_bit_is_as_near_to_the_truth_as_torchs_for_loop(
    name: str, case: str, dtype: torch.dtype, host_backend: str, seed: int
) -> None:
    with one_thread():
        errors = Errors(name, case, dtype, 60, 4000, host_backend, seed)
    for key in errors.keys:
        ours, loop = errors.rms("ours", key), errors.rms("loop", key)
        print(f"{key}: rms {ours:.4e}, torch for-loop {loop:.4e}")
        assert 0 < ours <= tolerances.RMS_RATIO_16_BIT * loop, key


@pytest.mark.parametrize(("name", "case"), EVERY_VARIANT)
def test_float32_parameters_are_bit_equal_to_torchs_fused_kernel(
    name: str, case: str, cpu_with_fma: str, seed: int
) -> None:
    """In whole vectors (of 16 elements); the elements that are left over torch rounds in another way."""
    g = generator(seed)
    options = {"lr": LR[name], **OPTIONS[name][case]}
    p = normal(g, 2000).requires_grad_()
    q = p.detach().clone().requires_grad_()
    ours = getattr(fused_sched.optim, name)([p], backend=cpu_with_fma, **options)
    torchs = getattr(torch.optim, name)([q], fused=True, **options)
    with one_thread():
        for _ in range(20):
            p.grad = normal(g, 2000)
            q.grad = p.grad.clone()
            ours.step()
            torchs.step()
    assert_equal(p.detach(), q.detach())


_DIGEST = """
import hashlib, sys
import torch
import fused_sched
from fused_sched import _C

assert _C.capability() == sys.argv[1], _C.capability()
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for name, options in (
        ("SGD", dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
        ("Adam", dict(amsgrad=True, weight_decay=0.1)),
        ("AdamW", dict(betas=(0.3, 0.9))),
    ):
        g = torch.Generator().manual_seed(int(sys.argv[2]))
        params = [
            # normal numbers, huge and tiny ones, and subnormal ones
            (torch.randn(n, generator=g) * scale).to(dtype).requires_grad_()
            for n, scale in ((1, 1.0), (17, 1.0), (1023, 1.0), (100, 1e4), (100, 1e-6), (100, 1e-39))
        ]
        optimizer = getattr(fused_sched.optim, name)(params, lr=0.01, backend="cpu", **options)
        for _ in range(5):
            for p in params:
                p.grad = (torch.randn(p.numel(), generator=g) * p.detach().float().abs().max()).to(dtype)
            optimizer.step()
        tensors = [p.detach() for p in params]
        for state in optimizer.state_dict()["state"].values():
            tensors += [t for k, t in state.items() if k != "step"]
        digest = hashlib.sha256()
        for t in tensors:
            digest.update(t.contiguous().view(torch.uint8).numpy().tobytes())
        print(dtype, name, digest.hexdigest())
"""


@pytest.mark.slow
def test_instruction_sets_give_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = backends.reason_unavailable("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu cannot run here: {reason}")
    monkeypatch.setenv("PYTHONPATH", str(Path(fused_sched.__file__).parent.parent))
    digests = {}
    for capability in ("portable", "avx2", "avx512"):
        monkeypatch.setenv("FUSED_SCHED_CPU_CAPABILITY", capability)
        run = subprocess.run([sys.executable, "-c", _DIGEST, capability, str(seed)], capture_output=True, text=True)
        if run.returncode == 0:
            digests[capability] = run.stdout
        else:
            assert "not supported by this processor" in run.stderr or "not known to this build" in run.stderr, (
                run.stderr
            )
    assert "portable" in digests
    if len(digests) == 1:
        pytest.skip("this processor has one instruction set only")
    assert len(set(digests.values())) == 1, digests
