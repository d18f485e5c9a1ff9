"""Versions of the Triton update kernel beside each other: the same optimizer and memory, one graph for each.

A version changes the time and no bit of a result; where parameters differ, it gets no time. An earlier version of
the whole package takes part where ``FUSED_SCHED_BEFORE`` names a folder that holds it as ``fused_sched_before``.
"""

from __future__ import annotations

import copy
import gc
import importlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from contenders import WARM_UP, Built, Entered, make_optimizer
from device import Captured, Host
from floors import gpu_floors
from harness import Call, Row, interleave, reason, time_text
from problems import ETA_MIN, PERIOD, Problem, Tensors

from fused_sched import backends
from fused_sched.backends.triton import TritonBackend
from fused_sched.kernels import launcher, variants
from fused_sched.kernels.variants import Tuning
from fused_sched.lr_scheduler import CosineAnnealingLR
from fused_sched.memory.parameter_table import ParameterTable

NOW, BEFORE, CUDA = "now", "before", "backend cuda"
FREE = 255  # registers: as many as the compiler likes
SMALL_VERSIONS: dict[str, tuple[Tuning, int | None]] = {
    NOW: (Tuning(), None),
    "1 warp": (Tuning(warps=1), None),
    "2 warps": (Tuning(warps=2), None),
    "registers free": (Tuning(registers=FREE), None),
}
LARGE_VERSIONS: dict[str, tuple[Tuning, int | None]] = {
    NOW: (Tuning(), None),
    **{f"chunks of {n}": (Tuning(), n) for n in (1024, 2048, 4096, 8192, 16384)},
    **{f"64 registers, chunks of {n}": (Tuning(registers=64), n) for n in (2048, 4096)},
    **{f"80 registers, chunks of {n}": (Tuning(registers=80), n) for n in (2048, 4096)},
    **{f"8 warps, chunks of {n}": (Tuning(warps=8), n) for n in (2048, 4096, 8192)},
}
# problem -> least samples, replays in a sample
PROBLEMS: list[tuple[Problem, int, int]] = [
    (Problem("tiny 1000x64"), 15, 20),
    (Problem("tiny 1000x64", "bfloat16"), 15, 20),
    (Problem("LoRA r1"), 15, 20),
    (Problem("odd sizes"), 15, 20),
    (Problem("ResNet-50"), 10, 10),
    (Problem("LoRA-7B r8"), 10, 10),
    (Problem("LoRA-7B r8", "bfloat16"), 10, 10),
    (Problem("GPT-2 124M"), 8, 5),
    (Problem("GPT-2 124M", "bfloat16"), 8, 5),
    (Problem("Llama-like 1.1B"), 5, 1),
]
DRY_PROBLEMS = [(Problem("dry"), 2, 1), (Problem("dry", "bfloat16"), 2, 1)]
CHECKED = 2e8  # elements; of more there is no room for copies
SMALL = 2_000_000  # elements; below, the time of twenty steps in one graph is taken too


class Exchanged(backends.Backend):
    """Lets another backend do the updates; which one, may change between steps.

    Attributes:
        now: that backend.
    """

    name = "exchanged"
    walks_memory = True

    def __init__(self, now: backends.Backend) -> None:
        super().__init__()
        self.now = self._prepared_by = now

    def prepare(self, table: ParameterTable) -> None:
        self._prepared_by = self.now
        self.now.prepare(table)

    def discard(self, table: ParameterTable) -> None:
        self._prepared_by.discard(table)

    def scan(self, table: ParameterTable) -> bool:
        return self._prepared_by is self.now and self.now.scan(table)

    def update(self, update: backends.Update) -> None:
        self.now.update(update)


class Versions:
    """One optimizer with a fused cosine."""

    def __init__(self, optim: Any, schedulers: Any, tensors: Tensors, backend: str | backends.Backend) -> None:
        self.tensors = tensors
        self.optimizer = make_optimizer(optim, tensors, backend=backend)
        self.scheduler = schedulers.CosineAnnealingLR(self.optimizer, T_max=PERIOD, eta_min=ETA_MIN, fused=True)
        self.start: tuple[Any, ...] | None = None
        self.first: list[torch.Tensor] | None = None

    def step(self) -> None:
        self.optimizer.step()
        self.scheduler.step()

    def warm_up(self, device: Host) -> None:
        with device.side_stream():
            for _ in range(WARM_UP):
                self.step()

    def check(self, device: Host) -> None:
        """Steps from the same start end at the same bits as those of the first version."""
        optimizer, params = self.optimizer, self.tensors.params
        if self.start is None:
            self.step()  # makes the state
            start = optimizer.state_dict(), self.scheduler.state_dict(), [p.detach() for p in params]
            self.start = copy.deepcopy(start)
        at_start, schedule, values = self.start
        optimizer.load_state_dict(at_start)  # into the same memory
        self.scheduler.load_state_dict(schedule)
        for p, value in zip(params, values, strict=True):
            p.detach().copy_(value)
        self.warm_up(device)
        device.synchronize()
        found = [t.detach().reshape(-1).clone() for p in params for t in (p, *optimizer.state[p].values())]
        found.append(torch.tensor([group["lr"] for group in optimizer.param_groups], dtype=torch.float64))
        if self.first is None:
            self.first = found
        for a, b in zip(self.first, found, strict=True):
            if not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
                raise RuntimeError("other bits than the first version's")


def versions(problem: Problem) -> dict[str, tuple[Tuning, int | None]]:
    """Tunings and elements of a chunk."""
    return SMALL_VERSIONS if problem.elements < SMALL else LARGE_VERSIONS


def measure(problem: Problem, rounds: int, calls: int, device: Host) -> list[Row]:
    """One row with the times of all versions."""
    print(f"{problem}", flush=True)
    tensors = Tensors(problem, device.name)
    graphs: dict[str, Captured] = {}
    unrolled: dict[str, Captured] = {}
    absent: dict[str, str] = {}
    small = problem.elements < SMALL

    def capture(name: str, body: Call) -> None:
        graphs[name] = device.captured(body)  # type: ignore[attr-defined]
        if small:
            unrolled[name] = device.captured(body, device.copies)  # type: ignore[attr-defined]

    # a backend holds what its graphs point to
    kept: dict[str, Any] = {name: TritonBackend(*how) for name, how in versions(problem).items()}
    if backends.reason_unavailable("cuda") is None:
        kept[CUDA] = backends.choose(tensors.params[0].device, "cuda")
    exchanged = Exchanged(kept[NOW])
    ours = Versions(*_package("fused_sched"), tensors, backend=exchanged)
    for name, backend in kept.items():
        try:
            exchanged.now = backend
            if problem.elements < CHECKED and name != CUDA:
                ours.check(device)
            else:
                ours.warm_up(device)
            capture(name, ours.step)
        except Exception as error:
            absent[name] = reason(error)
            print(f"  no time for {name}: {absent[name]}", flush=True)
    ours.start = ours.first = None
    entered = Entered(ours.step, Built(ours.step, optimizer=ours.optimizer), None, 0.0, 0.0, None)
    floors = gpu_floors(problem, tensors, entered, device)
    for name, call in floors.items():
        capture(name, call)
    before = None
    if os.environ.get("FUSED_SCHED_BEFORE"):
        sys.path.append(os.environ["FUSED_SCHED_BEFORE"])
        before = Versions(*_package("fused_sched_before"), tensors, backend="triton")
        before.warm_up(device)
        capture(BEFORE, before.step)
    row: Row = {"set": problem.set, "dtype": problem.recipe, "elements": problem.elements, "absent": absent}
    row["times"] = _times({name: g.replay for name, g in graphs.items()}, rounds, calls, device)
    if small:
        times = _times({name: g.replay for name, g in unrolled.items()}, rounds, 1, device)
        row["unrolled"] = {name: _divided(t, device.copies) for name, t in times.items()}  # type: ignore[attr-defined]
    _print(row)
    graphs.clear()
    unrolled.clear()
    del ours, before, entered, exchanged, tensors, floors, kept
    gc.collect()
    device.release()
    return [row]


def _package(name: str) -> tuple[Any, Any]:
    return importlib.import_module(f"{name}.optim"), importlib.import_module(f"{name}.lr_scheduler")


def _times(calls: dict[str, Call], rounds: int, repeats: int, device: Host) -> dict[str, dict[str, float]]:
    return interleave(calls, 0.0, rounds, sample=device.timed, calls=dict.fromkeys(calls, repeats))


def _divided(times: dict[str, float], copies: int) -> dict[str, float]:
    return {key: value if key in ("samples", "calls") else value / copies for key, value in times.items()}


def _print(row: Row) -> None:
    for kind in ("times", "unrolled"):
        for name, t in sorted(row.get(kind, {}).items(), key=lambda item: item[1]["median_us"]):
            print(f"  {kind:8} {time_text(t['median_us']):>10} ({time_text(t['high_us'] - t['low_us'])}) {name}")


def kernels() -> list[variants.Kernel]:
    """All that will be compiled."""
    from fused_sched.kernels.program_source import advance_function
    from fused_sched.memory.parameter_table import kind_code
    from fused_sched.optim import AdamW

    scheduler = CosineAnnealingLR(AdamW([torch.nn.Parameter(torch.zeros(1))], backend="reference"), T_max=PERIOD)
    advance = advance_function([(scheduler.program, False)])
    options = variants.Options("adam", False, advance=advance)
    tunings = dict.fromkeys(tuning for tuning, _ in [*SMALL_VERSIONS.values(), *LARGE_VERSIONS.values()])
    kinds = [kind_code(*[dtype] * 3) for dtype in (torch.float32, torch.bfloat16)]
    return [variants.update(kind, options, tuning=tuning) for kind in kinds for tuning in tunings]


def _compile(arguments: tuple[int, int]) -> None:
    import triton

    index, capability = arguments
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    launcher.compile_kernel(kernels()[index], target)


def compile_all(processes: int = 8) -> None:
    """Fill Triton's cache, on several processors."""
    major, minor = torch.cuda.get_device_capability()
    jobs = [(i, 10 * major + minor) for i in range(len(kernels()))]
    import multiprocessing

    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, jobs))
