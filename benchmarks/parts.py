"""What is measured on a GPU, in parts; in each, what matters most comes first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import accuracy
import around
import first_step
import host
import loop
import schedules
import step
import variants
from device import Host
from harness import Plan, Row
from problems import Problem

COMPILED = [Problem("ResNet-50"), Problem("GPT-2 124M")]
HUGE = 5e8  # elements; takes longer
Fill = Callable[[Plan, Host], None]


def _add_steps(plan: Plan, device: Host, problems: Sequence[Problem]) -> None:
    """Expected seconds, here and below, are guesses on the large side."""
    for problem in problems:
        expected = 25 if problem.elements > HUGE else 12
        measure = lambda p=problem: step.measure(p, step.gpu_contenders(p), device, 2.0)  # noqa: E731
        plan.add("step", str(problem), expected, measure)


def full(plan: Plan, device: Host) -> None:
    """The rows that decide."""
    _add_steps(plan, device, step.GPU_MAIN)
    for problem in around.PROBLEMS:
        plan.add("around", str(problem), 15, lambda p=problem: around.measure(p, device, 2.0))
    plan.add("loop", "a whole training step", 10, lambda: loop.rows(device, 1.0))
    plan.add("host", "optimizer and scheduler on tiny tensors", 15, lambda: host.step_rows(device, 0.5))


def rest(plan: Plan, device: Host) -> None:
    """Further rows."""
    _add_steps(plan, device, step.GPU_FURTHER[:5])
    plan.add("scaling", "", 10, lambda: host.scaling_rows(device, 0.3))
    for case in schedules.one_each():
        plan.add("scheduler", case.name, 5, lambda c=case: host.scheduler_rows(device, 0.1, [c]))
    plan.add("first step", "", 40, lambda: first_step.rows(device, "LoRA r1"))
    _add_steps(plan, device, step.GPU_FURTHER[5:])
    for problem in COMPILED:
        plan.add("compiled", str(problem), 90, lambda p=problem: step.measure(p, step.GPU_COMPILED, device, 2.0))


def counts(plan: Plan, device: Host) -> None:
    """What is counted and not timed, so last: a profiler once attached slows what follows, and a capture that fails
    may leave the device in a state that others would suffer from."""
    for problem in step.GPU_COUNTED:
        plan.add("launches", str(problem), 8, lambda p=problem: step.launches(p, step.GPU_CAPTURED, device))
    for problem in around.COUNTED:
        plan.add("around launches", str(problem), 10, lambda p=problem: around.launches(p, device))
    plan.add("frozen", "", 20, lambda: accuracy.frozen_rows(device, schedules.present()))


FILL: dict[str, Fill] = {"full": full, "rest": rest, "counts": counts}


def versions(plan: Plan, device: Host) -> None:
    """Versions of the update kernel beside each other."""

    def compiled() -> list[Row]:
        variants.compile_all()
        return []

    plan.add("compiling", "all at once", 10, compiled)
    for problem, *how in variants.PROBLEMS:
        expected = 10 if problem.elements > HUGE else 6
        plan.add("variants", str(problem), expected, lambda p=problem, h=how: variants.measure(p, *h, device))


# -- the same functions on tiny shapes; Triton's interpreter takes 10 ms and more for a launch ---------


def _few_schedules() -> list[schedules.Case]:
    return [case for case in schedules.present() if case.name in ("StepLR", "CosineAnnealingLR")][:2]


def dry_full(plan: Plan, device: Host) -> None:
    for problem in step.DRY_PROBLEMS[:3]:
        plan.add("step", str(problem), 0, lambda p=problem: step.measure(p, step.gpu_contenders(p), device, 0.0))
    for problem in around.DRY_PROBLEMS:
        plan.add("around", str(problem), 0, lambda p=problem: around.measure(p, device, 0.0))
    plan.add("loop", "", 0, lambda: loop.rows(device, 0.0, ((8, 4),)))
    plan.add("host", "", 0, lambda: host.step_rows(device, 0.0, (3,)))


def dry_rest(plan: Plan, device: Host) -> None:
    for problem in step.DRY_PROBLEMS[3:]:
        plan.add("step", str(problem), 0, lambda p=problem: step.measure(p, step.gpu_contenders(p), device, 0.0))
    plan.add("scheduler", "", 0, lambda: host.scheduler_rows(device, 0.0, _few_schedules(), (1, 2)))
    plan.add("scaling", "", 0, lambda: host.scaling_rows(device, 0.0, 8))
    plan.add("first step", "", 0, lambda: first_step.rows(device, "dry"))


def dry_counts(plan: Plan, device: Host) -> None:
    problem = step.DRY_PROBLEMS[0]
    plan.add("launches", str(problem), 0, lambda: step.launches(problem, step.GPU_CAPTURED, device))
    plan.add("around launches", str(problem), 0, lambda: around.launches(around.DRY_PROBLEMS[0], device))
    plan.add("frozen", "", 0, lambda: accuracy.frozen_rows(device, _few_schedules(), 5))


def dry_versions(plan: Plan, device: Host) -> None:
    for problem, *how in variants.DRY_PROBLEMS:
        plan.add("variants", str(problem), 0, lambda p=problem, h=how: variants.measure(p, *h, device))


DRY_FILL: dict[str, Fill] = {"full": dry_full, "rest": dry_rest, "counts": dry_counts}

# -- what an earlier part did not get done -------------------------------------------------------------


def unfinished(path: Path) -> Callable[[str], bool]:
    """Whether a measurement, by its ``kind: name``, was cut or failed in the rows saved at ``path``."""
    saved = json.loads(path.read_text())

    def is_unfinished(name: str) -> bool:
        return name in saved["cut"] or any(failure.startswith(f"{name}: ") for failure in saved["failed"])

    return is_unfinished
