"""make bench: measures on the CPU, writes results/cpu.json, and redraws tables and chart from it.

python benchmarks/run.py                  measure everything (about 4 minutes on 2 cores), then render
python benchmarks/run.py --seconds 0.3    quicker, noisier
python benchmarks/run.py --render         only redraw from the saved rows
"""

from __future__ import annotations

import argparse

import cpu_step
import host_step
import render
import torch
from harness import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each comparison (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default %(default)s)")
    parser.add_argument("--render", action="store_true", help="measure nothing, redraw from the saved rows")
    arguments = parser.parse_args()
    if not arguments.render:
        torch.set_num_threads(arguments.threads)
        rows = [{"kind": "step", **row} for row in cpu_step.rows(arguments.seconds)]
        rows += [{"kind": "host", **row} for row in host_step.step_rows(arguments.seconds / 2)]
        rows += [{"kind": "scheduler", **row} for row in host_step.scheduler_rows(arguments.seconds / 6)]
        save("cpu", rows)
    render.render()


if __name__ == "__main__":
    main()
