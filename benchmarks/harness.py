"""Measuring side by side: interleaved runs in one process, medians and spread, JSON rows."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleave(
    candidates: Mapping[str, Callable[[], object]], seconds: float = 2.0, rounds: int = 15, batch_seconds: float = 1e-2
) -> dict[str, dict[str, float]]:
    """Times every candidate in turn, A B A B ..., so that a slow minute of the machine hits all alike.

    Args:
        candidates: name -> the call to time.
        seconds: about how long the whole comparison may take.
        rounds: least number of samples of each.
        batch_seconds: a sample repeats the call until it lasts about this long.

    Returns:
        name -> median, low and high quartile, in microseconds a call, and the number of samples.
    """
    repeats = {}
    for name, call in candidates.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(batch_seconds / max(time.perf_counter() - start, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds
    while len(next(iter(samples.values()))) < rounds or time.perf_counter() < deadline:
        for name, call in candidates.items():
            n = repeats[name]
            start = time.perf_counter()
            for _ in range(n):
                call()
            samples[name].append((time.perf_counter() - start) / n * 1e6)
    return {name: _summary(values) for name, values in samples.items()}


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median_us": median, "low_us": low, "high_us": high, "samples": len(values)}


def environment() -> dict[str, Any]:
    """What a reader needs to know about the machine and the code a row was measured on."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    row = {
        "device": f"{cpu}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
    }
    if torch.cuda.is_available():
        row["device"] = torch.cuda.get_device_name()
        row["cuda"] = torch.version.cuda
    return row


def save(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows to results/<name>.json, with the environment they were measured in."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    return path


def load(name: str) -> dict[str, Any]:
    """The saved rows and environment of ``name``."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data
