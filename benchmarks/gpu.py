"""The benchmarks on a GPU: the most important rows first, and what the time does not suffice for is named.

    python benchmarks/gpu.py --seconds 500            everything, saved as results/gpu.json
    python benchmarks/gpu.py --part full              the rows that decide, saved as results/gpu-full.json
    python benchmarks/gpu.py --variants               versions of the update kernel, saved as results/variants.json
    python benchmarks/gpu.py --only 'GPT-2|host'      measurements whose kind or name matches
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

import parts
import summary
import torch
from device import Cuda, Dry
from harness import RESULTS, Plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=500, help="budget (default %(default)s)")
    parser.add_argument("--part", choices=parts.FILL, help="default: one after the other")
    parser.add_argument("--after", type=Path, metavar="JSON", help="first, what the part full did not get done there")
    parser.add_argument("--variants", action="store_true", help="only versions of the update kernel, side by side")
    parser.add_argument("--only", default="", metavar="REGEX", help="only measurements whose 'kind: name' matches")
    parser.add_argument("--json", type=Path, help="default: results/gpu.json or gpu-PART.json; with --only, nothing")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, in Triton's interpreter; saves nothing")
    arguments = parser.parse_args()
    if arguments.dry_run:
        if os.environ.get("TRITON_INTERPRET") != "1":
            parser.error("--dry-run needs TRITON_INTERPRET=1 in the environment")
        print("DRY RUN on the CPU, in Triton's interpreter: these numbers mean nothing")
        plan, device, fill, versions = Plan(arguments.seconds, None), Dry(), parts.DRY_FILL, parts.dry_versions
    elif not torch.cuda.is_available():
        print("error: no CUDA device was found: run this on a machine with a GPU, or try --dry-run", file=sys.stderr)
        return 2
    else:
        name = "variants" if arguments.variants else f"gpu-{arguments.part}" if arguments.part else "gpu"
        plan = Plan(arguments.seconds, arguments.json or (None if arguments.only else RESULTS / f"{name}.json"))
        device, fill, versions = Cuda(), parts.FILL, parts.versions
    if arguments.after is not None:
        fill["full"](plan, device)
        plan.keep(parts.unfinished(arguments.after))
    if arguments.variants:
        versions(plan, device)
    else:
        for part in [arguments.part] if arguments.part else fill:
            fill[part](plan, device)
    plan.keep(lambda name: re.search(arguments.only, name) is not None)
    plan.run()
    summary.show(plan.rows)
    if arguments.dry_run:
        print("DRY RUN: none of these numbers means anything, and none was saved")
    return 1 if plan.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
