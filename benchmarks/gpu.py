"""AdamW on a GPU: GPU time of a step in graph replay, and host time of an eager step.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --sets "GPT-2 124M" "tiny 1000x64"

Contenders, in turn (A B A B ...) in one process, on equal tensors:

- *ours*: ``AdamW`` and a fused ``CosineAnnealingLR``, one launch a step.
- *torch*: ``AdamW(fused=True, capturable=True)`` with a tensor lr and no schedule at all.
- *stream*: reads four arrays and writes three over the same table of tensors, with trivial arithmetic:
  what the memory allows.

Before a set is timed, ours must agree with torch after three steps; a row says how well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from harness import environment
from shapes import SETS, numel

from fused_sched.lr_scheduler import CosineAnnealingLR
from fused_sched.optim import AdamW

BYTES = {torch.float32: 28, torch.bfloat16: 14}  # that Adam reads and writes for each parameter
# Relative to 1 + size, after three steps: torch's CUDA kernel rounds its scalars to float32 first.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SMALL_FIRST = sorted(SETS, key=lambda name: numel(SETS[name]))


@triton.jit
def stream_kernel(records, grads, chunks, chunk_size, T: tl.constexpr, HINT: tl.constexpr, BLOCK: tl.constexpr):
    """The accesses of Adam without its arithmetic; arguments as in fused_sched.kernels.update."""
    pid = tl.program_id(0)
    record = tl.load(chunks + 2 * pid)
    start = tl.load(chunks + 2 * pid + 1).to(tl.int64) * 1024
    row = records + record * 8
    n = tl.minimum(tl.load(row + 5) - start, chunk_size.to(tl.int64)).to(tl.int32)
    n = tl.multiple_of((n // 8) * 8, 8)  # the few elements of a tail do not matter here
    offset = start * (T.primitive_bitwidth // 8)
    p = tl.multiple_of((tl.load(row) + offset).to(tl.pointer_type(T)), HINT)
    g = tl.multiple_of((tl.load(grads + record) + offset).to(tl.pointer_type(T)), HINT)
    m = tl.multiple_of((tl.load(row + 2) + offset).to(tl.pointer_type(T)), HINT)
    v = tl.multiple_of((tl.load(row + 3) + offset).to(tl.pointer_type(T)), HINT)
    for first in range(0, n, BLOCK):
        i = first + tl.arange(0, BLOCK)
        k = i < n
        x = tl.load(g + i, mask=k)
        tl.store(p + i, tl.load(p + i, mask=k) + x, mask=k)
        tl.store(m + i, tl.load(m + i, mask=k) + x, mask=k)
        tl.store(v + i, tl.load(v + i, mask=k) + x, mask=k)


def make_params(name: str, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator(device="cuda").manual_seed(0)
    params = []
    for shape in SETS[name]:
        p = torch.nn.Parameter(torch.randn(shape, generator=generator, device="cuda", dtype=dtype))
        p.grad = torch.randn(shape, generator=generator, device="cuda", dtype=dtype)
        params.append(p)
    return params


class Ours:
    def __init__(self, name: str, dtype: torch.dtype, backend: str) -> None:
        self.params = make_params(name, dtype)
        self.optimizer = AdamW(self.params, lr=1e-3, backend=backend)
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=10**6, fused=True)

    def step(self) -> None:
        self.optimizer.step()
        self.scheduler.step()


class Torch:
    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.params = make_params(name, dtype)
        lr = torch.tensor(1e-3, device="cuda")
        self.optimizer = torch.optim.AdamW(self.params, lr=lr, fused=True, capturable=True)

    def step(self) -> None:
        self.optimizer.step()


def stream_over(ours: Ours) -> Callable[[], None]:
    """The stream over the tables of ``ours``, whose tensors it spoils."""
    table = ours.optimizer._backend._tracked[ours.optimizer._table].device
    dtype = ours.params[0].dtype
    kind = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}[dtype]
    chunks = table.parts[0].chunks
    constants = {"T": kind, "HINT": 16, "BLOCK": 2048 // dtype.itemsize, "num_warps": 4}

    def run() -> None:
        stream_kernel[(len(chunks),)](table.records, table.grads, chunks, table.size, **constants)

    return run


def captured(body: Callable[[], None], copies: int) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            body()
    return graph


def replay_times(graphs: dict[str, torch.cuda.CUDAGraph], copies: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one copy: median and quartiles over interleaved replays."""
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for graph in graphs.values():
        graph.replay()
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end) * 1e3 / copies)
    return {name: _summary(values) for name, values in samples.items()}


def host_times(bodies: dict[str, Callable[[], None]], rounds: int, calls: int = 20) -> dict[str, dict[str, float]]:
    """Microseconds of enqueueing one eager step; the device is idle when a sample starts."""
    samples: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(rounds):
        for name, body in bodies.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(calls):
                body()
            samples[name].append((time.perf_counter() - begin) / calls * 1e6)
    torch.cuda.synchronize()
    return {name: _summary(values) for name, values in samples.items()}


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median_us": median, "low_us": low, "high_us": high, "samples": len(values)}


def kernels_of(body: Callable[[], None]) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        body()
        torch.cuda.synchronize()
    return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in recorded.events())


def disagreement(name: str, dtype: torch.dtype, backend: str) -> float:
    """Largest difference from torch's parameters after three steps with the same lr, relative to 1 + size."""
    ours, oracle = make_params(name, dtype), make_params(name, dtype)
    pair = AdamW(ours, lr=1e-3, backend=backend), torch.optim.AdamW(oracle, lr=1e-3, fused=True)
    for optimizer in pair:
        for _ in range(3):
            optimizer.step()
    worst = [((a - b).abs() / (1 + b.abs())).max().double() for a, b in zip(ours, oracle, strict=True) if a.numel()]
    return float(torch.stack(worst).max())


def row(name: str, dtype: torch.dtype, rounds: int, backend: str) -> dict[str, Any]:
    """Everything about one set; a wrong update gets no row."""
    n = numel(SETS[name])
    wrong = disagreement(name, dtype, backend)
    if not wrong <= TOLERANCE[dtype]:
        raise SystemExit(f"{name} {dtype}: {backend} differs from torch by {wrong}, more than {TOLERANCE[dtype]}")
    ours, theirs, stream = Ours(name, dtype, backend), Torch(name, dtype), Ours(name, dtype, backend)
    stream.step()
    bodies = {"ours": ours.step, "torch": theirs.step, "stream": stream_over(stream)}
    copies = 20 if n < 50_000_000 else 5
    graphs = {key: captured(body, copies) for key, body in bodies.items()}
    times = replay_times(graphs, copies, rounds)
    del graphs
    host = host_times({"ours": ours.step, "torch": theirs.step}, rounds)
    result: dict[str, Any] = {
        "backend": backend,
        "set": name,
        "dtype": str(dtype),
        "tensors": len(SETS[name]),
        "parameters": n,
    }
    result |= {"gpu": times, "host": host, "disagreement": wrong}
    result["kernels"] = {key: kernels_of(bodies[key]) for key in ("ours", "torch")}
    result["gb_per_s"] = {key: BYTES[dtype] * n / value["median_us"] / 1e3 for key, value in times.items()}
    return result


HEADER = (
    f"{'set':22} {'dtype':9} {'Mparam':>7} {'ours us':>9} {'torch us':>9} {'4R3W us':>9} {'torch/ours':>10} "
    f"{'of 4R3W':>8} {'kernels':>8} {'host us':>8} {'torch':>8}"
)


def line(r: dict[str, Any]) -> str:
    """One row of the table: GPU times, ratios, kernels (ours/torch), host times."""
    ours, theirs, floor = (r["gpu"][key]["median_us"] for key in ("ours", "torch", "stream"))
    kernels = f"{r['kernels']['ours']}/{r['kernels']['torch']}"
    return (
        f"{r['set']:22} {r['dtype'].removeprefix('torch.'):9} {r['parameters'] / 1e6:7.2f} {ours:9.2f} {theirs:9.2f} "
        f"{floor:9.2f} {theirs / ours:10.2f} {floor / ours:8.2f} {kernels:>8} {r['host']['ours']['median_us']:8.1f} "
        f"{r['host']['torch']['median_us']:8.1f}"
    )


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SMALL_FIRST, metavar="SET", help="default: all, small ones first")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--backend", choices=["triton", "cuda"], default="triton", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each contender (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=240, help="start no new row after this long")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sets if name not in SETS]
    if unknown:
        parser.error(f"no such set: {', '.join(unknown)}; there are {', '.join(SETS)}")
    if not torch.cuda.is_available():
        print("error: no CUDA device was found: run this on a machine with a GPU", file=sys.stderr)
        return 2
    where = {**environment(), "triton": triton.__version__, "driver": _driver()}
    where["commit"] = os.environ.get("FUSED_SCHED_COMMIT", where["commit"])  # of the checkout that this is a copy of
    print(" | ".join(f"{key} {value}" for key, value in where.items()), "| backend", arguments.backend)
    print(HEADER)
    deadline, found = time.monotonic() + arguments.seconds, []
    for name in arguments.sets:
        for dtype in arguments.dtypes:
            if time.monotonic() > deadline:
                print(f"out of time: left out {name}, {dtype}")
                continue
            found.append(row(name, getattr(torch, dtype), arguments.rounds, arguments.backend))
            print(line(found[-1]), flush=True)
            torch.cuda.empty_cache()
            if arguments.json:
                arguments.json.write_text(json.dumps({"environment": where, "rows": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
