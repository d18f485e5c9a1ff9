"""The benchmarks on a GPU: the most important rows first, and what the time does not suffice for is named.

    python benchmarks/gpu.py --seconds 500            everything, saved as results/gpu.json
    python benchmarks/gpu.py --only 'GPT-2|host'      parts whose kind or name matches
    TRITON_INTERPRET=1 python benchmarks/gpu.py --dry-run

GPU time is that of one step in graph replay: one graph a step, CUDA events around batches of 20 replays, 200 or
more of them (``times``); the same with the L2 cache filled with something else before each (``cold``), for working
sets under 100 MB; and of one of 20 steps in one graph (``unrolled``), where the host has nothing to do between
steps. Contenders that cannot be captured run eagerly, by their name, so their time is often the host's.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import accuracy
import first_step
import host
import loop
import schedules
import step
import summary
import torch
from device import Cuda, Dry, Host
from harness import RESULTS, Plan
from problems import Problem

COMPILED = [Problem("ResNet-50"), Problem("GPT-2 124M")]


def fill(plan: Plan, device: Host) -> None:
    """Everything; expected seconds are guesses, on the large side."""
    steps = [
        (p, 25.0 if p.elements > 5e8 else 12.0, lambda p=p: step.measure(p, step.gpu_contenders(p), device, 2.0))
        for p in step.GPU_PROBLEMS
    ]

    def add_steps(part: list) -> None:
        for problem, expected, run in part:
            plan.add("step", str(problem), expected, run)

    add_steps(steps[:8])
    plan.add("host", "optimizer and scheduler on tiny tensors", 15, lambda: host.step_rows(device, 0.5))
    plan.add("loop", "a whole training step", 10, lambda: loop.rows(device, 1.0))
    add_steps(steps[8:14])
    plan.add("scaling", "", 10, lambda: host.scaling_rows(device, 0.3))
    plan.add("scheduler", "", 20, lambda: host.scheduler_rows(device, 0.1, schedules.one_each()))
    plan.add("first step", "", 40, lambda: first_step.rows(device, "LoRA r1"))
    add_steps(steps[14:])
    for problem in COMPILED:
        plan.add("compiled", str(problem), 90, lambda p=problem: step.measure(p, step.GPU_COMPILED, device, 2.0))
    # last, because a capture that fails may leave the device in a state that others would suffer from
    plan.add("frozen", "", 20, lambda: accuracy.frozen_rows(device, schedules.present()))


def fill_dry(plan: Plan, device: Host) -> None:
    """The same functions on tiny shapes; Triton's interpreter takes 10 ms and more for a launch."""
    for problem in step.DRY_PROBLEMS:
        plan.add("step", str(problem), 0, lambda p=problem: step.measure(p, step.gpu_contenders(p), device, 0.0))
    few = [case for case in schedules.present() if case.name in ("StepLR", "CosineAnnealingLR")][:2]
    plan.add("host", "", 0, lambda: host.step_rows(device, 0.0, (3,)))
    plan.add("loop", "", 0, lambda: loop.rows(device, 0.0, ((8, 4),)))
    plan.add("scaling", "", 0, lambda: host.scaling_rows(device, 0.0, 8))
    plan.add("scheduler", "", 0, lambda: host.scheduler_rows(device, 0.0, few, (1, 2)))
    plan.add("first step", "", 0, lambda: first_step.rows(device, "dry"))
    plan.add("frozen", "", 0, lambda: accuracy.frozen_rows(device, few, 5))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=500, help="budget (default %(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only parts whose 'kind: name' matches")
    parser.add_argument("--json", type=Path, help="default: results/gpu.json; with --only, nothing")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, in Triton's interpreter; saves nothing")
    arguments = parser.parse_args()
    if arguments.dry_run:
        if os.environ.get("TRITON_INTERPRET") != "1":
            parser.error("--dry-run needs TRITON_INTERPRET=1 in the environment")
        print("DRY RUN on the CPU, in Triton's interpreter: these numbers mean nothing")
        plan = Plan(arguments.seconds, None)
        fill_dry(plan, Dry())
    elif not torch.cuda.is_available():
        print("error: no CUDA device was found: run this on a machine with a GPU, or try --dry-run", file=sys.stderr)
        return 2
    else:
        plan = Plan(arguments.seconds, arguments.json or (None if arguments.only else RESULTS / "gpu.json"))
        fill(plan, Cuda())
    plan.keep(lambda name: re.search(arguments.only, name) is not None)
    plan.run()
    summary.show(plan.rows)
    if arguments.dry_run:
        print("DRY RUN: none of these numbers means anything, and none was saved")
    return 1 if plan.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
