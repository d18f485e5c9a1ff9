"""make bench: measures on the CPU, writes results/cpu.json, and redraws tables and charts from the saved rows.

python benchmarks/run.py                  measure everything (under 11 minutes on 2 cores, 12 GB), then render
python benchmarks/run.py --seconds 1      quicker, noisier
python benchmarks/run.py --only around    only rows of that kind; other rows that were saved stay as they are
python benchmarks/run.py --render         only redraw from the saved rows
python benchmarks/run.py --dry-run        every function once on tiny shapes; nothing is saved
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

# torch.compile is measured as it is for someone who has not compiled this before
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="inductor"))

import accuracy
import around
import first_step
import host
import loop
import render
import schedules
import step
import torch
import tracing
from device import Host
from harness import RESULTS, Plan
from problems import Problem

LR_STEPS = 100_000
COMPILED = [(Problem("embeddings"), 20), (Problem("ResNet-50"), 50)]  # seconds that compiling takes


def fill(plan: Plan, seconds: float) -> None:
    """Everything that ``make bench`` measures, the most important first."""
    cpu = Host()
    for problem in step.CPU_PROBLEMS:
        plan.add("step", str(problem), 0, lambda p=problem: step.measure(p, step.CPU_CONTENDERS, cpu, seconds))
    for problem in around.PROBLEMS:
        plan.add("around", str(problem), 0, lambda p=problem: around.measure(p, cpu, seconds / 4))
    plan.add("host", "optimizer and scheduler on tiny tensors", 0, lambda: host.step_rows(cpu, seconds / 2))
    plan.add(
        "scheduler",
        "scheduler.step()",
        0,
        lambda: host.scheduler_rows(cpu, seconds / 12, schedules.one_each()),
    )
    plan.add("lr error", "", 0, lambda: accuracy.lr_error_rows(LR_STEPS, schedules.present()))
    plan.add("tracing", "", 0, lambda: tracing.rows(seconds / 12))
    plan.add("loop", "a whole training step", 0, lambda: loop.rows(cpu, seconds / 3))
    plan.add("scaling", "", 0, lambda: host.scaling_rows(cpu, seconds / 6))
    plan.add("first step", "", 0, lambda: first_step.rows(cpu, "LoRA r1"))
    for problem, expected in COMPILED:
        plan.add(
            "compiled",
            str(problem),
            expected,
            lambda p=problem: step.measure(p, step.CPU_COMPILED, cpu, seconds / 2),
        )


def fill_dry(plan: Plan) -> None:
    """The same functions on tiny shapes."""
    cpu = Host()
    for problem in step.DRY_PROBLEMS:
        plan.add("step", str(problem), 0, lambda p=problem: step.measure(p, step.CPU_CONTENDERS, cpu, 0.0))
    for problem in around.DRY_PROBLEMS:
        plan.add("around", str(problem), 0, lambda p=problem: around.measure(p, cpu, 0.0))
    plan.add("host", "", 0, lambda: host.step_rows(cpu, 0.0, (1, 3)))
    plan.add("scheduler", "", 0, lambda: host.scheduler_rows(cpu, 0.0, schedules.one_each(), (1, 2)))
    plan.add("lr error", "", 0, lambda: accuracy.lr_error_rows(200, schedules.present()))
    plan.add("tracing", "", 0, lambda: tracing.rows(0.0))
    plan.add("loop", "", 0, lambda: loop.rows(cpu, 0.0, ((8, 4),)))
    plan.add("scaling", "", 0, lambda: host.scaling_rows(cpu, 0.0, 10))
    plan.add("first step", "", 0, lambda: first_step.rows(cpu, "dry"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=7.0, help="time for each comparison (default %(default)s)")
    parser.add_argument("--budget", type=float, default=610.0, help="start nothing after this (default %(default)s)")
    parser.add_argument(
        "--only", metavar="KIND", help="measure rows of this kind alone, and put them beside the others"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default %(default)s)")
    parser.add_argument("--json", type=Path, help="save the rows there, and redraw nothing")
    parser.add_argument("--render", action="store_true", help="measure nothing, redraw from the saved rows")
    parser.add_argument("--dry-run", action="store_true", help="try everything on tiny shapes, save nothing")
    arguments = parser.parse_args()
    if not arguments.render:
        torch.set_num_threads(arguments.threads)
        path = None if arguments.dry_run else arguments.json or RESULTS / "cpu.json"
        plan = Plan(arguments.budget, path, arguments.only)
        if arguments.dry_run:
            print("DRY RUN: these numbers mean nothing")
            fill_dry(plan)
        else:
            fill(plan, arguments.seconds)
        if plan.empty:
            parser.error(f"--only: there are no rows of the kind {arguments.only!r}")
        plan.run()
        if plan.failed:
            return 1
    if not arguments.dry_run and arguments.json is None:
        render.render()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
