"""What the first step costs in a fresh process: making the optimizer, compiling, preparing tables.

Run by itself, it measures one contender and prints a line of JSON; :func:`rows` starts a process for each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import host
import torch
from device import Cuda, Dry, Host
from harness import Row, reason, time_text
from shapes import SETS


def measure(name: str, shapes: list[tuple[int, ...]], device: Host) -> dict[str, float]:
    """Microseconds of the first step with the making of the optimizer, of the second, and of later ones."""
    unrelated = torch.nn.Parameter(torch.zeros(1))  # torch itself imports a second's worth with the first optimizer
    unrelated.grad = torch.zeros(1)
    torch.optim.SGD([unrelated]).step()
    params = [torch.nn.Parameter(torch.zeros(shape, device=device.name)) for shape in shapes]
    for p in params:
        p.grad = torch.ones_like(p)
    device.synchronize()
    times = []
    start = time.perf_counter()
    step = host.training_step(name, [params], device)
    for _ in range(12):
        step()
        device.synchronize()
        times.append((time.perf_counter() - start) * 1e6)
        start = time.perf_counter()
    return {"first_us": times[0], "second_us": times[1], "later_us": statistics.median(times[2:])}


def rows(device: Host, set_name: str) -> list[Row]:
    """One row; on a GPU, ours once with an empty cache of compiled kernels and once with a full one."""
    found: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as cache:
        names = [*host.NAMES] if not device.gpu else ["fused_sched, nothing compiled before", *host.NAMES]
        for name in names:
            command = [sys.executable, str(Path(__file__)), "--name", name, "--set", set_name]
            command += ["--device", "dry" if device.dry else device.name]
            environment = {**os.environ, "TRITON_CACHE_DIR": cache}
            try:
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
                found[name] = json.loads(done.stdout.splitlines()[-1])
            except (subprocess.SubprocessError, ValueError, IndexError) as error:
                absent[name] = f"failed: {reason(error)}"
    for name, times in found.items():
        print(f"first step on {set_name}, {name}: {time_text(times['first_us'])}", flush=True)
    return [{"set": set_name, "tensors": len(SETS[set_name]), "first": found, "absent": absent}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="which contender, as in host.NAMES")
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--device", choices=["cpu", "cuda", "dry"], default="cpu")
    arguments = parser.parse_args()
    device = {"cpu": Host, "cuda": Cuda, "dry": Dry}[arguments.device]()
    print(json.dumps(measure(arguments.name, SETS[arguments.set], device)))


if __name__ == "__main__":
    main()
