"""The last elements of a tensor, fewer than a register has: the same bits with each instruction set, nothing beside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fused_sched
from fused_sched import backends

# Each array ends with a page, and the next page cannot be touched: who reads or writes behind the array is killed.
_SCRIPT = """
import ctypes, hashlib, mmap, sys
import torch
from fused_sched import _C
from fused_sched.optim import SGD, Adam, AdamW

capability, seed, flush = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
assert _C.capability() == capability, _C.capability()
torch.set_num_threads(1)  # flushing is a matter of the thread
torch.set_flush_denormal(flush)
PAGE, PAIRS, LENGTHS = mmap.PAGESIZE, 800, [*range(1, 20), 31, 32, 33, 47]
memory = mmap.mmap(-1, 2 * PAIRS * PAGE)
whole = torch.frombuffer(memory, dtype=torch.uint8)
libc = ctypes.CDLL(None, use_errno=True)
for pair in range(PAIRS):
    page = ctypes.c_void_p(whole.data_ptr() + (2 * pair + 1) * PAGE)
    assert libc.mprotect(page, ctypes.c_size_t(PAGE), 0) == 0, ctypes.get_errno()
generator = torch.Generator().manual_seed(seed)
placed = []


def at_the_end(values):
    page = whole[2 * len(placed) * PAGE :][:PAGE]
    page.fill_(77)
    size = values.numel() * values.element_size()
    placed.append((page, size))
    there = page[PAGE - size :].view(values.dtype)
    return there.copy_(values)


def numbers(n, dtype, finite):
    x = torch.randn(n, generator=generator) * 10.0 ** torch.randint(-3, 3, (n,), generator=generator)
    x[torch.rand(n, generator=generator) < 0.1] *= 1e-38  # subnormal ones
    if not finite:
        x[torch.rand(n, generator=generator) < 0.02] = float("nan")
        x[torch.rand(n, generator=generator) < 0.02] = float("inf")
    return x.to(dtype)


def same_nan(t):
    return torch.where(t.isnan(), torch.full_like(t, float("nan")), t) if t.is_floating_point() else t


def run(name, make, dtype, grad_dtype, options):
    placed.clear()
    finite = "max_grad_norm" in options  # else a norm that is NaN would make all the same
    params = [torch.nn.Parameter(at_the_end(numbers(n, dtype, finite))) for n in LENGTHS]
    optimizer = make(params, lr=0.01, backend="cpu", **options)
    scale = torch.tensor(4.0)
    digest = hashlib.sha256()
    for step in range(3):
        for p in params:
            if step == 0:
                if grad_dtype != dtype:
                    p.grad_dtype = grad_dtype
                p.grad = at_the_end(numbers(p.numel(), grad_dtype, finite))
            else:
                p.grad.copy_(numbers(p.numel(), grad_dtype, finite))
        if step == 2:
            optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(0.0)
        optimizer.step()
        if step == 0:
            for state in optimizer.state.values():
                for key, t in list(state.items()):
                    if isinstance(t, torch.Tensor) and t.dim() == 1:
                        state[key] = at_the_end(t)
        for p in params:
            for t in (p.detach(), p.grad, *(t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor))):
                digest.update(same_nan(t).reshape(-1).view(torch.uint8).numpy().tobytes())
    for page, size in placed:
        assert bool((page[: PAGE - size] == 77).all()), "a write before an array"
    print(name, dtype, grad_dtype, options, digest.hexdigest())


BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
for name, make, options in (
    ("SGD", SGD, dict(momentum=0.9, weight_decay=0.1, ema_decay=0.9)),
    ("Adam", Adam, dict(amsgrad=True, weight_decay=0.1, zero_grad_in_step=True)),
    ("AdamW", AdamW, dict(betas=(0.3, 0.9), max_grad_norm=3.0)),
):
    for dtype in (FLOAT32, FLOAT64, BFLOAT16, FLOAT16):
        run(name, make, dtype, dtype, options)
    run(name, make, FLOAT32, BFLOAT16, options)
    run(name, make, FLOAT32, FLOAT32, dict(options, state_dtype=BFLOAT16))
    for kept in ("float32", "remainder"):
        run(name, make, BFLOAT16, BFLOAT16, dict(options, master_weights=kept))
    run(name, make, FLOAT16, FLOAT16, dict(options, master_weights="float32"))
    run(name, make, BFLOAT16, FLOAT32, dict(options, master_weights="remainder"))
    run(name, make, BFLOAT16, FLOAT32, dict(options, state_dtype=BFLOAT16))
    for dtype in (BFLOAT16, FLOAT16):
        run(name, make, dtype, FLOAT32, options)
        run(name, make, dtype, dtype, dict(options, stochastic_rounding=True, rounding_seed=seed))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect of Linux")
@pytest.mark.slow
@pytest.mark.parametrize("flush", [False, True], ids=["", "flush denormal"])
def test_what_is_left_over_has_the_bits_of_single_elements(
    flush: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The portable code updates them one by one."""
    reason = backends.reason_unavailable("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu cannot run here: {reason}")
    monkeypatch.setenv("PYTHONPATH", str(Path(fused_sched.__file__).parent.parent))
    found = {}
    for capability in ("portable", "avx2", "avx512"):
        monkeypatch.setenv("FUSED_SCHED_CPU_CAPABILITY", capability)
        arguments = [sys.executable, "-c", _SCRIPT, capability, str(seed), str(flush)]
        run = subprocess.run(arguments, capture_output=True, text=True)
        if "not supported by this processor" in run.stderr or "not known to this build" in run.stderr:
            continue
        assert run.returncode == 0, (capability, run.stderr)
        found[capability] = run.stdout.splitlines()
    for capability, lines in found.items():
        for line, portable in zip(lines, found["portable"], strict=True):
            assert line == portable, capability
    if len(found) == 1:
        pytest.skip("this processor has one instruction set only")
