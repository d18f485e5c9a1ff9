"""Whether the package works at all on this machine: what is there, one step, one capture, five replays, against torch.

    python benchmarks/smoke.py
    TRITON_INTERPRET=1 python benchmarks/smoke.py --dry-run

Fails where a backend is missing that the machine should have, or where a parameter differs from torch's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time

import torch
from device import Cuda, Dry, Host

import fused_sched
from fused_sched import backends
from fused_sched.__main__ import describe

SIZES = [1, 7, 130, 1024, 70_001]
STEPS = {"step": 1, "warm-up": 2, "replays": 5}
TOLERANCE = 5e-6  # of elements of up to 5 after eight steps of 0.01: some roundings of float32


def c_compiler() -> str | None:
    """What Triton compiles its launchers with, as it looks for it itself."""
    return os.environ.get("CC") or next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None)


def make(library: object, device: Host, **options: object) -> tuple[list[torch.Tensor], object, object]:
    """Parameters with gradients, AdamW and a cosine of ``torch.optim`` or ``fused_sched``."""
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(n, generator=generator).to(device.name)) for n in SIZES]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(device.name)
    optimizer = library.optim.AdamW([{"params": params[:2], "lr": 0.02}, {"params": params[2:]}], lr=0.01, **options)
    fused = {"fused": True} if library is fused_sched else {}
    scheduler = library.optim.lr_scheduler if library is torch else library.lr_scheduler
    return params, optimizer, scheduler.CosineAnnealingLR(optimizer, T_max=20, **fused)


def largest_difference(backend: str, device: Host) -> float:
    """Of a parameter's element from torch's, after a step, a capture and replays."""
    params, optimizer, scheduler = make(fused_sched, device, backend=backend)

    def body() -> None:
        optimizer.step()
        scheduler.step()

    body()
    device.synchronize()
    print(f"  {backend}: one step", flush=True)
    with device.side_stream():
        for _ in range(STEPS["warm-up"]):
            body()
    graph = device.captured(body)
    print(f"  {backend}: captured in {graph.nodes} node(s)", flush=True)
    for _ in range(STEPS["replays"]):
        graph.replay()
    device.synchronize()
    theirs, optimizer, scheduler = make(torch, device)
    for _ in range(sum(STEPS.values())):
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return max(float((a - b).abs().max().nan_to_num(torch.inf)) for a, b in zip(params, theirs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, in Triton's interpreter")
    dry = parser.parse_args().dry_run
    device = Dry() if dry else Cuda()
    print(describe(), flush=True)
    print(f"package: {fused_sched.__file__}")
    failed, said = [], []
    compiler = c_compiler()
    if compiler is None and not dry:
        failed.append("no C compiler: Triton cannot build its launcher; put gcc on the PATH or set CC")
    # in a dry run the CPU's backend has no graph; that it loads is what there is to see
    for name in ("triton", "cuda", "cpu"):
        reason = backends.reason_unavailable(name)
        if reason is not None and not (dry and name == "cuda" and reason == "no GPU was found"):
            failed.append(f"backend {name} is not available: {reason}")
        if reason is not None or name == "cpu":
            continue
        start = time.perf_counter()
        try:
            difference = largest_difference(name, device)
        except Exception as error:  # the other backend is worth trying
            failed.append(f"backend {name}: {type(error).__name__}: {error}")
            continue
        said.append(f"{name} off from torch by {difference:.1e} ({time.perf_counter() - start:.1f} s)")
        if not difference <= TOLERANCE:
            failed.append(f"backend {name} is off from torch by {difference:.1e}, more than {TOLERANCE:g}")
    for failure in failed:
        print(f"FAILED {failure}")
    print(f"{', '.join(said) or 'nothing ran'}; C compiler {compiler or 'NONE'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
