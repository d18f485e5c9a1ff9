"""Measuring side by side: interleaved runs in one process, medians and spread, a plan with a budget, JSON rows."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

warnings.filterwarnings("ignore", message="Detected call of")  # schedulers are stepped on their own here
RESULTS = Path(__file__).parent / "results"
SAID = ("measured", "cut", "failed")  # keys of a file: names of measurements
Call = Callable[[], object]
Row = dict[str, Any]


def on_the_clock(call: Call, calls: int) -> float:
    """Microseconds of one of ``calls`` calls, by the host's clock."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def interleave(
    candidates: Mapping[str, Call],
    seconds: float = 2.0,
    rounds: int = 9,
    batch_seconds: float = 1e-2,
    sample: Callable[[Call, int], float] = on_the_clock,
    calls: Mapping[str, int] | None = None,
    most_calls: int = 10**6,
) -> dict[str, dict[str, float]]:
    """Times every candidate in turn, A B A B ..., so that a slow minute of the machine hits all alike.

    Args:
        candidates: name -> the call to time.
        seconds: about how long the whole comparison may take.
        rounds: least number of samples of each.
        batch_seconds: a sample repeats the call until it lasts about this long.
        sample: microseconds of one call, from the call and how often to repeat it.
        calls: candidates whose repetitions are given instead.
        most_calls: the most repetitions in a sample.

    Returns:
        name -> median, low and high quartile, in microseconds a call, the number of samples, calls in each.
    """
    samples, repeats = samples_in_turn(candidates, seconds, rounds, batch_seconds, sample, calls, most_calls)
    return {name: summary(values) | {"calls": repeats[name]} for name, values in samples.items()}


def samples_in_turn(
    candidates: Mapping[str, Call],
    seconds: float,
    rounds: int = 9,
    batch_seconds: float = 1e-2,
    sample: Callable[[Call, int], float] = on_the_clock,
    calls: Mapping[str, int] | None = None,
    most_calls: int = 10**6,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """What :func:`interleave` sums up: name -> one number a round, and how many calls were in each."""
    repeats = dict(calls or {})
    for name, call in candidates.items():
        call()
        if name not in repeats:
            once = sample(call, 1) * 1e-6
            repeats[name] = min(most_calls, max(1, int(batch_seconds / max(once, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    deadline = time.perf_counter() + seconds
    taken = 0
    while candidates and (taken < rounds or time.perf_counter() < deadline):
        for name, call in candidates.items():
            samples[name].append(sample(call, repeats[name]))
        taken += 1
    return samples, repeats


def paired_ratio(samples: Mapping[str, list[float]], name: str, base: str) -> float | None:
    """Median over the rounds of ``name`` against ``base`` in the same round; None where one of both is missing.

    A machine whose memory is now fast and now slow moves both alike, but the two medians on their own.
    """
    if name not in samples or base not in samples:
        return None
    return statistics.median(a / b for a, b in zip(samples[name], samples[base], strict=True))


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles of microseconds."""
    if len(values) < 4:  # too few for quartiles
        low, median, high = min(values), statistics.median(values), max(values)
    else:
        low, median, high = statistics.quantiles(values, n=4)
    return {"median_us": median, "low_us": low, "high_us": high, "samples": len(values)}


def time_text(us: float) -> str:
    """``us`` microseconds with a unit and three digits or so."""
    return f"{us:.1f} µs" if us < 100 else f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.2f} ms"


def reason(error: BaseException) -> str:
    """One line of an exception."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]


# -- environment and rows ----------------------------------------------------------------------------


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def environment() -> Row:
    """What a reader needs to know about the machine and the code a row was measured on."""
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "not installed"
    # the variable is set where a copy without a repository is what runs
    commit = os.environ.get("FUSED_SCHED_COMMIT") or _said(["git", "describe", "--always", "--dirty"])
    row = {
        "device": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "triton": triton_version,
        "python": platform.python_version(),
        "commit": commit or "unknown",
        "date": datetime.date.today().isoformat(),
    }
    if torch.cuda.is_available():
        row["device"] = torch.cuda.get_device_name()
        row["cuda"] = torch.version.cuda
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        row["driver"] = _said(query).split("\n")[0] or "unknown"
    return row


def kind_of(name: str) -> str:
    """Of a measurement, or of what is said about it, both of which begin with ``kind: ``."""
    return name.partition(": ")[0]


def without(saved: Row, kinds: Collection[str]) -> Row:
    """Saved rows, and what is said of them, but for those of ``kinds``."""
    kept = {key: [name for name in saved.get(key, ()) if kind_of(name) not in kinds] for key in SAID}
    rows = [row for row in saved["rows"] if row["kind"] not in kinds]
    added = [without(run, kinds) for run in saved.get("added", ())]
    return {**saved, **kept, "rows": rows, "added": [run for run in added if run["rows"]]}


def load(name: str, folder: Path = RESULTS) -> Row | None:
    """The saved rows of ``name`` and where they were measured, from ``name.json`` or the files of its parts.

    ``environments`` has each machine and commit once; ``kinds``, beside it, what was measured there; ``left_out``, what
    no part measured. None if there is nothing.
    """
    whole, parts = folder / f"{name}.json", sorted(folder.glob(f"{name}-*.json"))
    if whole.exists() and parts:
        raise SystemExit(f"{folder} has {whole.name} and {parts[0].name}: remove one, so that no row is there twice")
    files = [json.loads(path.read_text()) for path in ([whole] if whole.exists() else parts)]
    if not files:
        return None
    saved = [run for data in files for run in (data, *data.get("added", ()))]
    environments: list[Row] = []
    kinds: list[set[str]] = []
    for data in saved:
        if data["environment"] not in environments:
            environments.append(data["environment"])
            kinds.append(set())
        kinds[environments.index(data["environment"])] |= {row["kind"] for row in data["rows"]}
    measured = {done for data in saved for done in data.get("measured", ())}
    return {
        "environments": environments,
        "kinds": kinds,
        "rows": [row for data in saved for row in data["rows"]],
        "left_out": [
            text
            for data in saved
            for text in data["cut"] + data["failed"]
            if not any(text == done or text.startswith(f"{done}: ") for done in measured)
        ],
    }


class Plan:
    """Measurements in order of importance, within a budget; rows are saved after each of them.

    Args:
        seconds: no measurement starts later than this, or when it is expected to end later.
        path: where rows go; None saves nothing.
        only: the one kind that is measured; other rows that were saved before stay there. None: all of them.
    """

    def __init__(self, seconds: float, path: Path | None, only: str | None = None) -> None:
        self.rows: list[Row] = []
        self.cut: list[str] = []
        self.failed: list[str] = []
        self.measured: list[str] = []
        self._parts: list[tuple[str, str, float, Callable[[], list[Row]]]] = []
        self._seconds, self._path, self._only = seconds, path, only
        self._beside: Row | None = None  # rows of an earlier run, in the same file
        if path is not None and only is not None and path.exists():
            self._beside = without(json.loads(path.read_text()), {only})

    def add(self, kind: str, name: str, expected: float, measure: Callable[[], list[Row]]) -> None:
        """``measure`` returns rows of ``kind``; ``expected``: about how many seconds it takes."""
        if self._only in (None, kind):
            self._parts.append((kind, name, expected, measure))

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Drop the measurements whose ``kind: name`` is not wanted."""
        self._parts = [part for part in self._parts if wanted(f"{part[0]}: {part[1]}")]

    @property
    def empty(self) -> bool:
        """Whether nothing was added that is to be measured."""
        return not self._parts

    def run(self) -> None:
        """Measure what fits, say what was left out; a failed measurement costs its own rows only."""
        start = time.monotonic()
        where = environment()
        print(" | ".join(f"{key} {value}" for key, value in where.items()), flush=True)
        for kind, name, expected, measure in self._parts:
            began = time.monotonic()
            if began - start + expected > self._seconds:
                self.cut.append(f"{kind}: {name}")
                continue
            try:
                self.rows += [{"kind": kind, **row} for row in measure()]
                self.measured.append(f"{kind}: {name}")
            except Exception as error:  # the rows of the others are worth having
                self.failed.append(f"{kind}: {name}: {reason(error)}")
                print(f"FAILED {self.failed[-1]}", flush=True)
            print(f"-- {kind}: {name}: {time.monotonic() - began:.1f} s", flush=True)
            self._save(where)
        self._save(where)
        for left_out in self.cut:
            print(f"cut, for want of time: {left_out}")
        for failure in self.failed:
            print(f"FAILED {failure}")
        print(f"measured for {time.monotonic() - start:.0f} s: {len(self.rows)} rows", flush=True)

    def _save(self, where: Row) -> None:
        if self._path is not None and self.rows:
            left_out = {"cut": self.cut, "failed": self.failed}
            content = {"environment": where, "measured": self.measured, **left_out, "rows": self.rows}
            if self._beside is not None:
                content = {**self._beside, "added": [*self._beside["added"], content]}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(content, indent=1) + "\n")
