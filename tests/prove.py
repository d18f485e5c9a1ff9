"""Proofs: tests at sizes for which a run of the tests has no time.

``python tests/prove.py [NAME ...] [--size N] [--seed S]`` runs them, all by default, and appends a row for each to
``proofs/results.jsonl``. With ``--part`` they are small, have a fresh seed, and nothing is kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "proofs" / "results.jsonl"
SANITIZERS = ROOT / "build" / "sanitizers"


def sanitized() -> dict[str, str]:
    """Builds a copy of the package whose C++ checks each access and each undefined operation; the way to run it."""
    checks = "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all -fno-omit-frame-pointer"
    flags = {"CFLAGS": checks, "CXXFLAGS": checks, "LDFLAGS": checks}
    build = {**os.environ, **flags, "FUSED_SCHED_BUILD_CPU": "1", "FUSED_SCHED_BUILD_CUDA": "0"}
    shutil.rmtree(SANITIZERS, ignore_errors=True)
    site = str(SANITIZERS / "site")
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(SANITIZERS), "--build-lib", site]
    subprocess.run(command, cwd=ROOT, env=build, check=True, stdout=subprocess.DEVNULL)
    (library,) = Path(site, "fused_sched").glob("_C*.so")
    if b"__asan_report_load" not in library.read_bytes():
        raise RuntimeError(f"{library} was built without the sanitizers: does setuptools still read CXXFLAGS?")
    return {
        "FUSED_SCHED_TEST_PACKAGE": site,
        "PYTHONPATH": site,
        # Python itself has no checks: their libraries have to be there before it
        "LD_PRELOAD": " ".join(map(_library, ("libasan.so", "libubsan.so", "libstdc++.so.6"))),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _library(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Proof:
    """Tests, repeated in rounds that differ in their seeds.

    Attributes:
        tests: what pytest is given.
        unit: what the size counts.
        each: so many are in one round.
        size: how many make the proof.
        part: how many make a part of it.
        environment: for the tests.
        prepare: makes what the tests need, and returns more of the environment.
        whole: a round is a run of its own. Otherwise one run has all of them, each for tests with a seed.
    """

    tests: Sequence[str]
    unit: str
    each: int
    size: int
    part: int
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], dict[str, str]] = dict
    whole: bool = False


_NESTED, _PROGRAMS, _TRACE = "tests/parity/test_nested.py", "tests/test_program.py", "tests/test_trace.py"
_MACHINE = "tests/identity/test_machine.py"
_AROUND = ("tests/test_measuring.py", "tests/test_averaging.py", "tests/test_zeroing.py")
_RACES, _FIBERS = {"FUSED_SCHED_TEST_PTX": "races"}, {"FUSED_SCHED_TEST_PTX": "fibers"}
PROOFS = {
    "nestings": Proof([_NESTED, "-k", "have_torchs_bits"], "nestings", 200, size=4000, part=200),
    "histories": Proof(
        [_NESTED, "-k", "by_hand or back_and_forth or random_nestings_go_on"], "histories", 68, size=1360, part=136
    ),
    "configurations": Proof(["tests/parity/test_configurations.py"], "configurations", 40, size=4000, part=200),
    "identity": Proof([_MACHINE, "-k", "cpu or reference"], "sequences", 50, size=5000, part=200),
    "identity-sanitized": Proof([_MACHINE, "-k", "cpu"], "sequences", 40, size=520, part=40, prepare=sanitized),
    "captures": Proof(["tests/gpu/test_identity.py"], "sequences", 40, size=2000, part=40, environment=_FIBERS),
    "graphed": Proof(
        ["tests/gpu/test_graphed_sequences.py", "-k", "random"], "sequences", 8, size=1000, part=8, environment=_FIBERS
    ),
    "programs": Proof([_PROGRAMS, "-k", "random_programs and not triton"], "programs", 1000, size=20_000, part=2000),
    "functions": Proof(
        [_TRACE, "-k", "transformers or stable_decay or any_order"], "steps", 400_000, size=8_000_000, part=400_000
    ),
    "grammar": Proof(["tests/test_grammar.py", "-rP"], "functions", 200, size=5000, part=200),
    "hostile": Proof(
        ["tests/test_hostile_functions.py"],
        *("steps", 3000, 3000, 3000, {"FUSED_SCHED_TEST_HOSTILE_STEPS": "3000"}),
        whole=True,
    ),
    "interrupts": Proof(
        ["tests/test_interrupts.py", "tests/test_interrupted_steps.py"],
        *("moments", 500, 500, 500, {"FUSED_SCHED_TEST_MOMENTS": "500"}),
        whole=True,
    ),
    "sanitizers": Proof(
        [
            "tests/parity",
            *_AROUND,
            _PROGRAMS,
            "tests/test_program_check.py",
            "tests/test_lanes.py",
            "-k",
            "cpu and not triton",
        ],
        *("runs", 1, 2, 1, {"FUSED_SCHED_TEST_PROGRAMS": "100000"}),
        prepare=sanitized,
        whole=True,
    ),
    "races": Proof(["tests/kernels", "tests/parity", *_AROUND], "runs", 1, 3, 1, environment=_RACES, whole=True),
    "libraries": Proof(
        ["tests/test_cuda_build.py"],
        *("architectures", 5, 5, 5, {"FUSED_SCHED_TEST_CUDA_ARCHITECTURES": "default"}),
        whole=True,
    ),
    "replays": Proof(
        ["tests/gpu/test_long_replays.py", "tests/gpu/test_long_replays_around.py", "-k", "thousand"],
        *("replays", 48_000, 48_000, 48_000, _FIBERS),
        whole=True,
    ),
}


def run(proof: Proof, rounds: int, seed: int) -> dict[str, Any]:
    """What came of a proof, and how long it took."""
    start = time.monotonic()
    environment = {**os.environ, **proof.environment, **proof.prepare()}
    environment.pop("FUSED_SCHED_TEST_SEED", None)  # every test would have it
    counts = {"tests": 0, "skipped": 0, "failures": 0, "errors": 0}
    passed = True
    for first in range(seed, seed + rounds if proof.whole else seed + 1):
        environment["FUSED_SCHED_TEST_RUN_SEED"] = str(first)
        environment["FUSED_SCHED_TEST_ROUNDS"] = "1" if proof.whole else str(rounds)
        status, found, _ = run_pytest(sys.executable, ["-n", "auto", *proof.tests], environment)
        passed = passed and status == 0 and found["tests"] > found["skipped"]
        counts = {name: counts[name] + found[name] for name in counts}
    return {"result": "passed" if passed else "FAILED", "seconds": round(time.monotonic() - start), **counts}


def run_pytest(
    python: Path | str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[int, dict[str, int], list[str]]:
    """The exit status, how many tests there were, were skipped, failed and had errors, and the names of these two."""
    pytest = str(Path(python).with_name("pytest"))  # python -m pytest would import from the checkout
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [pytest, "-q", "--tb=short", f"--junitxml={report}", *arguments]
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        suite = ElementTree.parse(report).getroot()[0] if report.exists() else ElementTree.Element("testsuite")
    counts = {name: int(suite.attrib.get(name, 0)) for name in ("tests", "skipped", "failures", "errors")}
    cases = [case for case in suite if case.find("failure") is not None or case.find("error") is not None]
    return status, counts, [f"{case.attrib['classname']}::{case.attrib['name']}" for case in cases]


def commit() -> dict[str, Any]:
    """Which code is in the checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    dirty = bool(git("status", "--porcelain", "--", ".", ":!proofs", ":!README.md"))
    return {"commit": git("rev-parse", "--short=12", "HEAD"), "dirty": dirty}


def circumstances() -> dict[str, Any]:
    """Which code is proven, and with what."""
    return {
        **commit(),
        **{name: importlib.metadata.version(name) for name in ("torch", "triton")},
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }


def prove(name: str, size: int, seed: int) -> dict[str, Any]:
    """The row of one proof."""
    proof = PROOFS[name]
    rounds = -(-size // proof.each)
    row = {"proof": name, "size": rounds * proof.each, "unit": proof.unit, "seed": seed, **circumstances()}
    print(f"== {name}: {row['size']} {row['unit']}, seed {seed}", flush=True)
    row |= run(proof, rounds, seed)
    print(json.dumps(row), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PROOFS)}; all by default")
    parser.add_argument("--size", type=int, help="how many nestings, programs, ...; rounded up to whole rounds")
    parser.add_argument("--seed", type=int, help="from which all others come; a fresh one by default")
    parser.add_argument("--part", action="store_true", help="small, and nothing is kept")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in PROOFS]:
        parser.error(f"there is no proof {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    if chosen.size is not None and chosen.size < 1:
        parser.error(f"--size {chosen.size} must be at least 1")
    failed = []
    for name in chosen.names or PROOFS:
        size = chosen.size or (PROOFS[name].part if chosen.part else PROOFS[name].size)
        row = prove(name, size, random.SystemRandom().randrange(2**31) if chosen.seed is None else chosen.seed)
        if not chosen.part:
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if row["result"] != "passed":
            failed.append(name)
    print(f"FAILED: {' '.join(failed)}" if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
