"""Every value of 16 bits that the CPU reads, and every way in which one is rounded, with each instruction set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fused_sched
from fused_sched import backends

# SGD with momentum 0 and a parameter of 0 stores the product of lr and each gradient. Instructions convert
# many elements at a time; 3 elements at the end are converted one by one.
_SCRIPT = """
import sys, torch
from fused_sched.optim import SGD, AdamW

dtype, flush = getattr(torch, sys.argv[1]), sys.argv[2] == "True"
torch.set_num_threads(1)  # it is a matter of the thread
torch.set_flush_denormal(flush)
every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
every = torch.cat([every, every[torch.randperm(2**16)], every[torch.randint(2**16, (3,))]]).view(dtype)

def same(found, expected):
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    assert torch.equal(found.view(torch.int16)[~nan], expected.view(torch.int16)[~nan]), (found, expected)

def products(factor):
    p = torch.nn.Parameter(torch.zeros_like(every))
    p.grad = every.clone()
    SGD([p], lr=float(factor), maximize=True, backend="cpu").step()
    return p.detach()

# as they are; 0 + -0.0 is 0.0
same(products(1.0), torch.where(every == 0, 0.0, every))
# rounded: torch rounds floats to the nearest even on its own, subnormal results of float16 too
for power in range(-26, 12):
    for digits in (1.0, 1.5, 1.0 + 2**-11, 1.0 + 2**-12, 1.0 - 2**-13, float(torch.rand(()) + 1)):
        factor = torch.tensor(digits * 2.0**power)
        exact = factor * every.float()
        nothing = every.float().abs() < (2.0**-126 if flush else 2.0**-149)  # a subnormal float32 is a 0 then
        same(products(factor), torch.where(nothing, 0.0, exact).to(dtype))
# a parameter, a state and an average that do not change keep their bits
p = torch.nn.Parameter(every[every.isfinite()].clone())
before = p.detach().clone()
p.grad = torch.zeros_like(p)
optimizer = SGD([p], lr=0.0, momentum=0.5, ema_decay=0.5, ema_dtype="parameter", backend="cpu")
optimizer.step()
keeps = not (flush and dtype == torch.bfloat16)  # whose subnormal numbers are those of float32
if keeps:
    same(optimizer.state[p]["ema"], before)
p.grad = before.clone()
optimizer.state[p]["momentum_buffer"].zero_()
optimizer.step()
if keeps:
    same(p.detach(), before)
    same(optimizer.state[p]["momentum_buffer"], torch.where(before == 0, 0.0, before))
# nor does one with a master, or with a remainder, which stands beside a bfloat16
for kept in ("float32", "remainder") if dtype == torch.bfloat16 else ("float32",):
    p = torch.nn.Parameter(every[every.isfinite()].clone())
    optimizer = SGD([p], lr=0.0, master_weights=kept, backend="cpu")
    p.grad = torch.zeros_like(p)
    for _ in range(2):
        optimizer.step()
        if keeps:
            same(p.detach(), before)
print("same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("flush", [False, True], ids=["", "flush denormal"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("capability", ["portable", "avx2", "avx512"])
def test_every_value_and_every_rounding(
    capability: str, dtype: str, flush: bool, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    reason = backends.reason_unavailable("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu cannot run here: {reason}")
    monkeypatch.setenv("PYTHONPATH", str(Path(fused_sched.__file__).parent.parent))
    monkeypatch.setenv("FUSED_SCHED_CPU_CAPABILITY", capability)
    script = _SCRIPT.replace("torch.set_flush", f"torch.manual_seed({seed}); torch.set_flush", 1)
    run = subprocess.run([sys.executable, "-c", script, dtype, str(flush)], capture_output=True, text=True)
    if "not supported by this processor" in run.stderr or "not known to this build" in run.stderr:
        pytest.skip(run.stderr.strip().rpartition("\n")[2])
    assert run.stdout == "same\n", run.stderr
