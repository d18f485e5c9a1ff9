"""The tests with other versions of Python, torch and Triton, and the README's table of what came of it.

``python tests/matrix.py [PYTHON:TORCH[:TRITON] ...]`` makes an environment for each, all of :data:`ENTRIES` by default,
installs the wheel from ``dist/`` into it and appends a row to ``proofs/matrix.jsonl``. ``--here`` tests the checkout in
the environment that it runs in; ``--render`` writes the README's table, which each run does too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from prove import ROOT, commit, run_pytest

RESULTS = ROOT / "proofs" / "matrix.jsonl"
README = ROOT / "README.md"
BEGIN, END = "<!-- matrix: generated -->\n", "<!-- matrix: end -->"

#: What ``make test`` runs: all of the ordinary tests, and those of a GPU again, on the simulated one.
RUNS: list[tuple[list[str], dict[str, str]]] = [(["tests"], {}), (["tests/gpu"], {"FUSED_SCHED_TEST_PTX": "fibers"})]

VERSIONS = """
import json, platform, torch, triton
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}))
"""


class Entry(NamedTuple):
    """One environment.

    Attributes:
        python: such as ``3.11``; uv finds it, or downloads it.
        torch: such as ``2.13.0``.
        triton: such as ``3.9.0``; by default the one that torch asks for, or the newest.
    """

    python: str
    torch: str
    triton: str | None = None


#: Every torch with one Python, and every Python with the newest torch that there is for it.
ENTRIES = [
    *(Entry("3.11", torch) for torch in ("2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0")),
    Entry("3.10", "2.14.1"),
    *(Entry(python, "2.15.0") for python in ("3.12", "3.13", "3.14")),
]


class NotHereError(Exception):
    """What an entry names cannot be had on this machine."""


def parse(text: str) -> Entry:
    """Read ``3.11:2.13.0`` or ``3.11:2.13.0:3.9.0``."""
    if not re.fullmatch(r"3\.\d+:\d+\.\d+\.\d+(:\d+\.\d+\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be PYTHON:TORCH or PYTHON:TORCH:TRITON, such as 3.11:2.13.0")
    return Entry(*text.split(":"))


def find_wheel(folder: Path = ROOT / "dist") -> Path:
    """The wheel without the CUDA library; a SystemExit where there is none, or one that is older than its sources."""
    wheels = [path for path in folder.glob("fused_sched-*.whl") if "+" not in path.name]
    if len(wheels) != 1:
        raise SystemExit(f"there must be one wheel in {folder}, and there are {len(wheels)}: run make wheels")
    inside = [path for name in ("fused_sched", "kernels", "csrc") for path in (ROOT / name).rglob("*.*")]
    sources = [path for path in (*inside, ROOT / "setup.py") if path.suffix in (".py", ".cpp", ".h")]
    newer = [path for path in sources if path.stat().st_mtime > wheels[0].stat().st_mtime]
    if newer:
        raise SystemExit(f"{wheels[0].name} is older than {newer[0].relative_to(ROOT)}: run make wheels")
    return wheels[0]


def _uv(*arguments: str) -> None:
    """uv unpacks each package once for all environments. What it cannot do is a NotHereError."""
    done = subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotHereError(" ".join(done.stderr.split()))


def _make_environment(entry: Entry, wheel: Path, folder: Path) -> Path:
    """Its Python."""
    _uv("venv", "--python", entry.python, str(folder))
    python = folder / "bin" / "python"
    wanted = [f"torch=={entry.torch}", *([f"triton=={entry.triton}"] if entry.triton else [])]
    _uv("pip", "install", "--python", str(python), *wanted, f"fused_sched[test] @ {wheel.as_uri()}")
    return python


def _row(
    python: Path, package: str, environment: dict[str, str], runs: Sequence[tuple[list[str], dict[str, str]]] = RUNS
) -> dict[str, Any]:
    """Runs tests of the wheel or the checkout with the versions that this Python has."""
    found = subprocess.run([str(python), "-c", VERSIONS], capture_output=True, text=True, check=True, cwd="/")
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
    row = {**json.loads(found.stdout), "package": package, **commit(), "date": date}
    start, total, failures, worst = time.monotonic(), Counter[str](), list[str](), 0
    for tests, more in runs:
        arguments = ["-n", "2", "-m", "not slow", "-p", "no:cacheprovider", *tests]
        status, counts, failed = run_pytest(python, arguments, {**os.environ, **environment, **more})
        total.update(counts)
        failures += failed
        worst = max(worst, status)
    bad = total["failures"] + total["errors"]
    row |= {"passed": total["tests"] - total["skipped"] - bad, "failed": bad, "skipped": total["skipped"]}
    return row | {"status": worst, "seconds": round(time.monotonic() - start), "failures": failures[:20]}


def run_entry(entry: Entry, wheel: Path) -> dict[str, Any]:
    """The row of one environment, which is removed again; a NotHereError where it cannot be made."""
    with tempfile.TemporaryDirectory(prefix="fused_sched_matrix_") as folder:
        python = _make_environment(entry, wheel, Path(folder, "venv"))
        return _row(python, "wheel", {"FUSED_SCHED_TEST_PACKAGE": folder})


def read_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def latest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each combination of versions the last row, ordered by torch, then Python."""
    last = {(row["python"], row["torch"], row["triton"], row["package"]): row for row in rows}
    number = {key: [[int(n) for n in re.findall(r"\d+", text)] for text in (key[1], key[0], key[2])] for key in last}
    return [last[key] for key in sorted(last, key=lambda key: (number[key], key))]


def render(rows: Iterable[dict[str, Any]]) -> str:
    """The README's table."""
    lines = ["| torch | Python | Triton | of the | passed | failed | commit |", "|---|---|---|---|---|---|---|"]
    for row in latest(rows):
        cells = [row["torch"], row["python"], row["triton"], row["package"], f"{row['passed']:,}", str(row["failed"])]
        lines.append(f"| {' | '.join(cells)} | {row['commit'][:7]}, {row['date'][:10]} |")
    return "\n".join(lines) + "\n"


def write_readme() -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(before + BEGIN + render(read_rows()) + END + rest.split(END, 1)[1])


def keep(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    write_readme()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("entries", nargs="*", type=parse, metavar="PYTHON:TORCH[:TRITON]", help="all by default")
    parser.add_argument("--here", action="store_true", help="the checkout, with the Python that runs this")
    parser.add_argument("--render", action="store_true", help="only write the README's table")
    chosen = parser.parse_args()
    if chosen.render:
        write_readme()
        return 0
    if chosen.here:
        row = _row(Path(sys.executable), "checkout", {})
        keep(row)
        return int(row["status"] != 0)
    wheel, worst = find_wheel(), 0
    for entry in chosen.entries or ENTRIES:
        name = ", ".join(filter(None, (f"Python {entry.python}", f"torch {entry.torch}", entry.triton)))
        print(f"== {name}", flush=True)
        try:
            row = run_entry(entry, wheel)
        except NotHereError as error:
            print(f"not here: {error}", flush=True)
            continue
        keep(row)
        worst = max(worst, row["status"])
    return int(worst != 0)


if __name__ == "__main__":
    raise SystemExit(main())
