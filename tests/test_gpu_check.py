"""gpu_check.sh: what it packs is whole, its parts run from there alone, end in time and hand on what failed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import packed  # noqa: E402

SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
# All that a part needs beside bash and python: no compiler, no git.
TOOLS = ("cat", "chmod", "cp", "cut", "dirname", "env", "head", "mkdir", "mktemp", "nproc", "rm", "sleep", "stat")
TOOLS += ("tail", "timeout")
PYTHON = """#!/bin/bash
# stands for the interpreter of another machine
exec {real} "$@"
"""
# Notes what it was asked to do; packing up is left to the real interpreter.
RECORDER = """#!/bin/bash
case "$*" in *tarfile*) exec {real} "$@" ;; esac
echo "${{FUSED_SCHED_BACKEND:-}} $*" >> {calls}
{then}
"""


def run(script: Path, *arguments: str | Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with nothing but ``path`` and ``environment`` around it."""
    command = [str(shutil.which("bash")), str(script), *map(str, arguments)]
    return subprocess.run(
        command, env={"PATH": path, **environment}, cwd="/", capture_output=True, text=True, timeout=400, check=False
    )


def make_tools(folder: Path, python: str) -> str:
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    (folder / "python3").write_text(python)
    (folder / "python3").chmod(0o755)
    return str(folder)


# -- the folder --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a packed folder, the original of which is gone."""
    if shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin") is None:
        pytest.skip("nvcc was not found")
    made, copy = (tmp_path_factory.mktemp(name) / name for name in ("made", "copy"))
    done = run(SCRIPT, "pack", made, path=os.environ["PATH"], PYTHON=sys.executable, HOME=os.environ["HOME"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r": \d\.\d MiB, commit \S+$", done.stdout.strip()), done.stdout
    made.rename(copy)
    return copy


@pytest.mark.slow
def test_a_packed_folder_has_everything(folder: Path) -> None:
    check = [sys.executable, str(folder / "benchmarks" / "packed.py"), str(folder)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    for name in packed.NEEDED:
        (folder / name).rename(folder / "away")
        wrong = packed.check(folder)
        (folder / "away").rename(folder / name)
        assert wrong == [f"{name} is missing"]
    library = next((folder / "apex_like").iterdir())
    library.rename(folder / "away")
    assert packed.check(folder) == ["apex_like/ has 0 libraries, not 1"]
    (folder / "away").rename(library)


@pytest.mark.slow
def test_a_library_that_does_not_load_is_an_error(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "site" / "fused_sched" / "_cuda.so").write_bytes(b"no library")
    check = [sys.executable, str(broken / "benchmarks" / "packed.py"), str(broken)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: backend cuda: ")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.metadata.version("triton").startswith("3.6."), reason="its interpreter needs the help of interpreter.py"
)
def test_every_part_in_dry_run_from_the_folder_alone(folder: Path, tmp_path: Path) -> None:
    path = make_tools(tmp_path / "tools", PYTHON.format(real=sys.executable))
    logs: dict[str, str] = {}
    for part in ("first", "full", "rest"):
        output = tmp_path / part
        done = run(folder / "benchmarks" / "gpu_check.sh", part, "--dry-run", output, path=path)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert done.stdout.strip().endswith("all steps passed")
        assert len(done.stdout) < 12_000
        assert len([*output.iterdir()]) <= 8
        shutil.copytree(output, folder / "previous", dirs_exist_ok=True)
        with tarfile.open(output / f"{part}-logs.tar.gz") as logs_of_part:
            for member in logs_of_part.getmembers():
                if member.name.endswith(".log"):
                    logs[Path(member.name).stem] = logs_of_part.extractfile(member).read().decode()  # type: ignore
    assert "C compiler NONE" in logs["smoke"]
    assert f"package: {folder}/site/fused_sched/__init__.py" in logs["smoke"]
    kinds = {"full": ("step", "around", "loop", "host"), "rest": ("step", "scheduler", "scaling", "first step")}
    for part, expected in {**kinds, "counts": ("launches", "around launches", "frozen")}.items():
        assert "DRY RUN" in logs[part]
        assert "FAILED" not in logs[part]
        for kind in expected:
            assert f"-- {kind}: " in logs[part]


# -- the script alone --------------------------------------------------------------------------------


class Machine:
    """Another machine with a folder that only looks packed; its interpreter notes its calls, and does ``then``."""

    def __init__(self, where: Path, then: str = "") -> None:
        self.folder, self.calls = where / "packed", where / "calls"
        (self.folder / "benchmarks").mkdir(parents=True)
        (self.folder / "site").mkdir()
        (self.folder / "COMMIT").write_text("abc\n")
        self.script = self.folder / "benchmarks" / "gpu_check.sh"
        shutil.copy(SCRIPT, self.folder / "benchmarks")
        recorder = RECORDER.format(real=sys.executable, calls=self.calls, then=then)
        self.path = make_tools(where / "tools", recorder)

    def run(self, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """What came of a part, and which calls it made; OUTPUT is where the next part looks, if not given."""
        self.calls.write_text("")
        given = arguments if len(arguments) > 1 else (*arguments, str(self.folder / "previous"))
        done = run(self.script, *given, path=self.path, **environment)
        return done, self.calls.read_text().splitlines()


@pytest.mark.parametrize("arguments", [[], ["all"], ["pack"], ["pack", "a", "b"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    done = run(SCRIPT, *arguments, path=os.environ["PATH"])
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_a_part_needs_a_packed_folder(tmp_path: Path) -> None:
    done = run(SCRIPT, "first", tmp_path, path=os.environ["PATH"])
    assert done.returncode == 2
    assert "run this from a folder made by gpu_check.sh pack" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--dryrun", "OUT"], ["-n"], ["OUT", "more"], ["--dry-run", "OUT", "more"], ["OUT", "--dry-run"]]
)
def test_a_part_refuses_what_it_does_not_know(arguments: list[str], tmp_path: Path) -> None:
    done, calls = Machine(tmp_path).run("first", *(a.replace("OUT", str(tmp_path / "out")) for a in arguments))
    assert_refused(done, calls, "usage: ")


def test_a_part_needs_a_folder_for_its_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(*Machine(tmp_path).run("first", str(tmp_path / "file")), "mkdir: ")


def test_a_part_needs_the_name_of_a_commit_and_an_interpreter(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert_refused(*machine.run("first", PYTHON="no-python"), "no-python was not found")
    (machine.folder / "COMMIT").unlink()
    assert_refused(*machine.run("first"), "does not name a commit")


def assert_refused(done: subprocess.CompletedProcess[str], calls: list[str], why: str) -> None:
    assert done.returncode == 2
    assert why in done.stderr
    assert (done.stdout, calls) == ("", [])


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ("==== 3 skipped in 0.10s ====", "NOTHING RAN: 3 skipped in 0.10s"),
        ("==== 2 passed, 3 skipped in 0.10s ====", "passed: 2 passed, 3 skipped in 0.10s"),
        ("lr = 3, off by 0", "passed: lr = 3, off by 0"),
    ],
)
def test_a_step_says_what_ran(last: str, verdict: str, tmp_path: Path) -> None:
    done, _ = Machine(tmp_path, then=f'echo "{last}"').run("first")
    assert re.search(rf"^tests +\d+ s  {re.escape(verdict)}$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("part", ["first", "full", "rest"])
@pytest.mark.slow
def test_a_part_ends_in_time_and_names_what_was_cut(part: str, tmp_path: Path) -> None:
    done, _ = Machine(tmp_path, then="exec sleep 100").run(part, PART_SECONDS="3")
    seconds = int(re.search(rf"^== {part}: (\d+) s$", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
    assert seconds <= 8
    assert done.returncode == 1
    assert "NOT RUN: no time left" in done.stdout
    assert re.search("^FAILED: ", done.stdout, re.MULTILINE)


def test_a_part_has_a_limit() -> None:
    found = dict(re.findall(r"^  (\w+)\) PART_SECONDS=\$\{PART_SECONDS:-(\d+)\}", SCRIPT.read_text(), re.MULTILINE))
    assert found == {"first": "180", "full": "320", "rest": "240"}


def test_a_step_that_fails_shows_its_end_and_costs_nothing_else(tmp_path: Path) -> None:
    machine = Machine(tmp_path, then='echo "because of this"; case "$*" in *smoke*) exit 3 ;; esac')
    done, calls = machine.run("first")
    assert done.returncode == 1
    assert re.search(r"^smoke +\d+ s  FAILED \(exit 3\)\nbecause of this$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("FAILED: smoke\n")
    assert [re.search(r"smoke|tests/gpu\S*|--variants", call)[0] for call in calls] == [  # type: ignore[index]
        "smoke", "tests/gpu", "tests/gpu/test_capture.py", "--variants",
    ]  # fmt: skip
    assert [call.split()[0] == "cuda" for call in calls] == [False, False, True, False]


@pytest.mark.parametrize(
    ("status", "chosen"), [("0", None), ("1", "--last-failed"), ("130", "--failed-first"), ("", "--failed-first")]
)
def test_what_did_not_pass_before_runs_again(status: str, chosen: str | None, tmp_path: Path) -> None:
    machine = Machine(tmp_path, then=f'case "$*" in *"-n 8 "*tests/gpu*) exit {status or 0} ;; esac')
    if status:
        machine.run("first")
    _, calls = machine.run("full")
    long = [call for call in calls if "--ignore" not in call and "test_long_replays.py" in call]
    again = [call for call in calls if "-n 8" in call and call not in long]
    assert len(long) == 1
    assert len(again) == (0 if chosen is None else 2)
    assert all(str(chosen) in call for call in again)
    assert sum("test_update.py" in call or "test_cuda_update.py" in call for call in calls) == 0  # no compute-sanitizer


def test_a_missing_sanitizer_is_a_failure(tmp_path: Path) -> None:
    done, _ = Machine(tmp_path).run("full")
    assert done.stdout.endswith("FAILED: memcheck-triton memcheck-cuda\n")


def test_the_rest_begins_with_what_was_cut(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    _, without = machine.run("rest")
    assert not any("--after" in call for call in without)
    (machine.folder / "previous" / "gpu-full.json").write_text(json.dumps({"cut": [], "failed": []}))
    _, calls = machine.run("rest")
    assert [f"--after {machine.folder}/previous/gpu-full.json" in call for call in calls] == [True, False]
