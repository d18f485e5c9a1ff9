"""A whole optimizer step with its schedule, problem by problem, all contenders in turn in one process."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

from captured import FOREACH_OUTSIDE, FUSED_INSIDE, FUSED_OUTSIDE, scheduler_outside
from contenders import (
    FOR_LOOP,
    FOREACH,
    FUSED,
    OURS,
    Contender,
    Entered,
    enter_all,
    ours,
    torch_compiled,
    torch_eager,
)
from device import Host
from floors import FLOORS, STREAM, cpu_streams, gpu_floors
from harness import Call, interleave, time_text
from other_libraries import apex_like, bitsandbytes, optimi
from problems import ALONE, Problem, Tensors
from shapes import SETS

REFERENCE = {"cpu": "torch fused", "cuda": FUSED_OUTSIDE.name}
COLD_BYTES = 100_000_000  # below this, a working set stays in the L2 cache from step to step
Enter = Callable[[Sequence[Contender], Tensors, Host], tuple[dict[str, Entered], dict[str, str]]]
OURS_CUDA, OURS_EAGER = "fused_sched, backend cuda", "fused_sched, eager"

CPU_CONTENDERS = [
    ours(),
    torch_eager("torch fused", **FUSED),
    torch_eager("torch foreach", **FOREACH),
    torch_eager("torch for-loop", **FOR_LOOP),
    optimi("torch-optimi"),
]
CPU_COMPILED = [*CPU_CONTENDERS[:2], torch_compiled("torch.compile")]

GPU_CORE = [ours(captured=True), ours(OURS_CUDA, "cuda", captured=True), FUSED_OUTSIDE, FUSED_INSIDE]
GPU_CONTENDERS = [
    *GPU_CORE,
    FOREACH_OUTSIDE,
    apex_like(),
    ours(OURS_EAGER),
    torch_eager("torch fused, eager", **FUSED),
    torch_eager("torch foreach, eager", **FOREACH),
    torch_eager("torch for-loop, eager", **FOR_LOOP),
    optimi("torch-optimi, eager"),
    bitsandbytes("bitsandbytes, eager"),
]
GPU_CAPTURED = [*GPU_CORE, FOREACH_OUTSIDE, apex_like()]
GPU_LARGE = [*GPU_CORE, apex_like()]  # states of more would not fit beside each other
GPU_SGD = [GPU_CORE[0], GPU_CORE[1], scheduler_outside(FUSED_OUTSIDE.name, **FUSED), FUSED_INSIDE]
GPU_COMPILED = [GPU_CORE[0], FUSED_OUTSIDE, torch_compiled("torch.compile, graph", captured=True)]


def measure(problem: Problem, contenders: Sequence[Contender], device: Host, seconds: float) -> list[dict[str, Any]]:
    """One row; no row at all where ours is wrong or fails. What ours does not support is a row too."""
    print(f"{problem}", flush=True)
    tensors = Tensors(problem, device.name)
    entered, absent = enter_all(contenders, tensors, device)
    if OURS not in entered and not absent[OURS].startswith("not supported"):
        raise RuntimeError(f"no row: {absent[OURS]}")
    row: dict[str, Any] = {
        **question_of(problem),
        "tensors": len(SETS[problem.set]),
        "parameters": problem.elements,
        "bytes": problem.bytes,
        "absent": absent,
        "difference": {name: e.error for name, e in entered.items()},
        "first_us": {name: e.first_us for name, e in entered.items()},
        "more": {name: e.built.more for name, e in entered.items() if e.built.more},
    }
    tensors.reset()
    steps = {name: e.step for name, e in entered.items()}
    if device.gpu:
        row |= _on_gpu(problem, tensors, entered, device, seconds)
    else:
        row["times"] = interleave(steps | cpu_streams(problem, {STREAM: ALONE}), seconds)
    reference = REFERENCE["cuda" if device.gpu else "cpu"]
    times = row["times"]
    both = reference in times and OURS in times
    row["ratio"] = times[reference]["median_us"] / times[OURS]["median_us"] if both else None
    show_times(row)
    entered.clear()
    del tensors, steps
    collect(device)
    return [row]


def question_of(problem: Problem) -> dict[str, Any]:
    """What a row says of its problem."""
    return {
        "set": problem.set,
        "dtype": problem.recipe,
        "rule": problem.rule,
        "groups": problem.groups,
        "offset": problem.offset,
    }


def collect(device: Host) -> None:
    """Give memory back."""
    gc.collect()
    device.release()


def launches(
    problem: Problem, contenders: Sequence[Contender], device: Host, enter: Enter = enter_all
) -> list[dict[str, Any]]:
    """One row: how many kernels, copies and fills a step of each puts on the device; the profiler counts."""
    tensors = Tensors(problem, device.name)
    entered, absent = enter(contenders, tensors, device)
    found = {name: device.launches(e.step) for name, e in entered.items()}
    entered.clear()
    del tensors
    collect(device)
    print(f"launches of {problem}: " + ", ".join(f"{name} {n}" for name, n in found.items()), flush=True)
    return [{**question_of(problem), "launches": found, "absent": absent}]


COUNTS = {"launches": "step", "around launches": "around"}  # kinds of counts, and of the rows that they belong to


def with_launches(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the counts of ``launches`` rows in those rows of the same problem that have times."""

    def question(kind: str, row: dict[str, Any]) -> tuple[Any, ...]:
        return (kind, *(row.get(key) for key in ("set", "dtype", "rule", "groups", "offset")))

    counted = {question(COUNTS[row["kind"]], row): row["launches"] for row in rows if row["kind"] in COUNTS}
    found = [(row, counted.get(question(row["kind"], row))) for row in rows]
    return [row if launches is None else {**row, "launches": launches} for row, launches in found]


def _on_gpu(
    problem: Problem, tensors: Tensors, entered: dict[str, Entered], device: Any, seconds: float
) -> dict[str, Any]:
    """Times in replay: hot; cold too where the L2 cache would hold everything; and many steps in one graph."""
    floors = gpu_floors(problem, tensors, entered.get(OURS), device)
    graphs = {name: device.captured(call) for name, call in floors.items()}
    steps: dict[str, Call] = {name: e.step for name, e in entered.items()}
    steps |= {name: graph.replay for name, graph in graphs.items()}
    replayed = {name: device.copies for name, e in entered.items() if e.graph is not None}
    replayed |= dict.fromkeys(graphs, device.copies)
    rounds = 2 if device.dry else math.ceil(200 / device.copies)
    small = problem.footprint < COLD_BYTES
    part = seconds / (3 if small else 1)
    found: dict[str, Any] = {
        "times": interleave(steps, part, rounds, sample=device.timed, calls=replayed, most_calls=device.copies)
    }
    if small:
        captured = {name: step for name, step in steps.items() if name in replayed}
        found["cold"] = interleave(captured, part, rounds, sample=device.timed_cold, calls=replayed)
        # only what needs no host between two steps can have many of them in one graph
        alone = {n: e.built.inside for n, e in entered.items() if e.built.inside and e.built.outside is None}
        unrolled = {name: device.captured(body, device.copies) for name, body in {**alone, **floors}.items()}
        found["unrolled"] = {
            name: {key: value if key in ("samples", "calls") else value / device.copies for key, value in t.items()}
            for name, t in interleave(
                {name: graph.replay for name, graph in unrolled.items()},
                part,
                rounds,
                sample=device.timed,
                calls=dict.fromkeys(unrolled, 1),
            ).items()
        }
    found["nodes"] = {name: e.graph.nodes for name, e in entered.items() if e.graph is not None}
    found["peak_bytes"] = {name: e.peak_bytes for name, e in entered.items()}
    return found


def show_times(row: dict[str, Any]) -> None:
    """Print a row, the fastest first."""
    for name, t in sorted(row["times"].items(), key=lambda item: item[1]["median_us"]):
        note = " (floor)" if name.startswith(FLOORS) else ""
        spread = f"({time_text(t['low_us'])} to {time_text(t['high_us'])})"
        print(f"  {time_text(t['median_us']):>10} {spread} {name}{note}", flush=True)


# -- which problems ----------------------------------------------------------------------------------

PLAIN = [
    "tiny 1000x64",
    "LoRA r1",
    "LoRA-7B r8",
    "ResNet-50",
    "embeddings",
    "ViT-B/16",
    "GPT-2 124M",
]
CPU_PROBLEMS = [
    *(Problem(name) for name in PLAIN),
    Problem("LoRA-7B r8", "bfloat16"),
    Problem("ViT-B/16", "bfloat16"),
    Problem("ViT-B/16", "float16"),
    Problem("odd sizes"),
    Problem("one huge, 1000 tiny"),
    Problem("LoRA-7B r8", "bfloat16, states float32"),
    Problem("LoRA-7B r8", "float16"),
    Problem("ResNet-50", rule="SGD momentum"),
    Problem("LoRA-7B r8", "bfloat16", rule="SGD momentum"),
    Problem("ResNet-50", rule="AdamW amsgrad"),
    Problem("LoRA-7B r8", offset=1),
    Problem("LoRA-7B r8", groups=8),
    Problem("465 tensors", groups=465),
]
GPU_MAIN = [  # by what they decide
    Problem("Llama-like 1.1B"),
    Problem("GPT-2 124M"),
    Problem("ViT-B/16"),
    Problem("ResNet-50"),
    Problem("LoRA-7B r8"),
    Problem("LoRA r1"),
    Problem("tiny 1000x64"),
    Problem("Llama-like 1.1B", "bfloat16"),
    Problem("GPT-2 124M", "bfloat16"),
    Problem("tiny 1000x64", "bfloat16"),
]
GPU_FURTHER = [
    Problem("embeddings"),
    Problem("LoRA-7B r8", "bfloat16"),
    Problem("465 tensors", groups=465),
    Problem("odd sizes"),
    Problem("one huge, 1000 tiny"),
    Problem("LoRA-7B r8", offset=1),
    Problem("GPT-2 124M", rule="SGD momentum"),
    Problem("GPT-2 124M", rule="AdamW amsgrad"),
    Problem("GPT-2 124M", "bfloat16, states float32"),
    Problem("GPT-2 124M", "float32, states bfloat16"),
    Problem("LoRA-7B r8", groups=8),
    Problem("ViT-B/16", "bfloat16"),
    Problem("ResNet-50", "bfloat16"),
    Problem("LoRA r1", "bfloat16"),
]
# Small sets first: other dtypes launch as often, and who launches once for many tensors does so for a few.
GPU_COUNTED = [Problem(name) for name in ("tiny 1000x64", "LoRA r1", "LoRA-7B r8", "ResNet-50", "GPT-2 124M")]
DRY_PROBLEMS = [
    Problem("dry"),
    Problem("dry", "bfloat16"),
    Problem("dry", "bfloat16, states float32"),
    Problem("dry", "float32, states bfloat16"),
    Problem("dry", rule="AdamW amsgrad", groups=3),
    Problem("dry", rule="SGD momentum", offset=1),
]


def gpu_contenders(problem: Problem) -> list[Contender]:
    """Who takes part on a GPU."""
    if problem.elements > 5e8:
        return GPU_LARGE
    return GPU_SGD if problem.rule == "SGD momentum" else GPU_CONTENDERS
