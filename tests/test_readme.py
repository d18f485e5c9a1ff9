"""The README's code runs, its commands exist, and its generated tables agree with the saved rows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("code", blocks("python"), ids=["first", "fused", "functions"])
def test_python_block_runs_and_prints_what_it_says(code, tmp_path):
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)\s+# (.*)$", code, re.MULTILINE)
    assert done.stdout.split("\n")[:-1] == promised


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def test_there_are_the_commands_a_newcomer_needs():
    assert commands()[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", commands())
def test_command(command, tmp_path):
    words = shlex.split(command)
    if words[0] == "make":
        done = run(["make", "--dry-run", *words[1:]], ROOT)  # make test is what runs this test
        assert done.returncode == 0, done.stderr
    elif words[:2] == ["pip", "install"]:
        # Without the extension: building it takes a minute, and CI builds and installs the whole wheel.
        target = ["--no-deps", "--quiet", "--target", str(tmp_path / "site")]
        environment = {**os.environ, "FUSED_SCHED_BUILD_CPU": "0"}
        pip = [sys.executable, "-m", *words[:-1], *target, str(ROOT)]
        done = subprocess.run(pip, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "site" / "fused_sched" / "kernels" / "__init__.py").exists()
        assert not (tmp_path / "site" / "kernels").exists()
    else:
        assert words[:3] == ["python", "-m", "fused_sched"]
        done = run([sys.executable, *words[1:]], tmp_path)
        assert done.returncode == 0, done.stderr
        if "-o" in words:
            assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 1000


def test_links_point_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_speed_table_agrees_with_the_saved_rows():
    """Rows of plain AdamW are all shown, and of the others those that are slower than torch."""
    data = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    expected = []
    for row in data["rows"]:
        if row["kind"] != "step":
            continue
        plain = (row.get("rule", "AdamW"), row.get("groups", 1), row.get("offset", 0)) == ("AdamW", 1, 0)
        if (plain and "states" not in row["dtype"]) or (row["ratio"] is not None and row["ratio"] < 1):
            expected.append((row["set"], row["dtype"], f"{row['ratio']:.2f}"))
    generated = TEXT[TEXT.index("<!-- cpu step: generated -->") : TEXT.index("<!-- cpu step: end -->")]
    shown = re.findall(r"^\| ([^|]+) \| (\w[^|]*) \|.*\| ([\d.]+)x \|$", generated, re.MULTILINE)
    assert len(shown) == len(expected)
    for (name, *more), (expected_name, *expected_more) in zip(shown, expected, strict=True):
        assert name.startswith(expected_name)
        assert more == expected_more
    assert data["environment"]["commit"] in TEXT
