"""Other versions: the README shows what ran, the classifiers say no more, and what cannot be run is said."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import matrix
import pytest
from matrix import Entry, NotHereError


def row(torch: str, python: str = "3.11.7", failed: int = 0, **more: Any) -> dict[str, Any]:
    versions = {"torch": torch, "python": python, "triton": "3.9.0", "package": "wheel"}
    counts = {"passed": 1234, "failed": failed, "skipped": 1, "status": int(failed > 0)}
    return {**versions, **counts, "commit": "0123456789ab", "date": "2026-11-28 17:00", **more}


def test_the_readme_has_the_rows() -> None:
    text = matrix.README.read_text()
    shown = text[text.index(matrix.BEGIN) + len(matrix.BEGIN) : text.index(matrix.END)]
    assert shown == matrix.render(matrix.read_rows())
    assert matrix.read_rows()


def test_classifiers_name_the_pythons_that_passed() -> None:
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (matrix.ROOT / "pyproject.toml").read_text())
    rows = [r for r in matrix.latest(matrix.read_rows()) if not r["failed"]]
    assert {".".join(r["python"].split(".")[:2]) for r in rows} <= set(named)
    text = matrix.README.read_text()
    tested = text[text.index("## Tested with") : text.index("## Differences")]
    assert set(named) <= set(re.findall(r"\b3\.\d+\b", tested))


def test_rows_are_of_code_that_is_committed_and_of_tests_that_ran() -> None:
    for r in matrix.read_rows():
        assert not r["dirty"]
        assert r["passed"] > 1000
        assert r["status"] == int(r["failed"] > 0)


def test_the_last_row_of_each_combination_is_shown_in_order() -> None:
    rows = [row("2.11.0", failed=3), row("2.9.0"), row("2.11.0", python="3.10.1"), row("2.11.0")]
    assert [(r["torch"], r["python"], r["failed"]) for r in matrix.latest(rows)] == [
        ("2.9.0", "3.11.7", 0),
        ("2.11.0", "3.10.1", 0),
        ("2.11.0", "3.11.7", 0),
    ]


def test_a_failure_is_shown() -> None:
    assert matrix.render([row("2.15.0", failed=2)]).splitlines()[-1] == (
        "| 2.15.0 | 3.11.7 | 3.9.0 | wheel | 1,234 | 2 | 0123456, 2026-11-28 |"
    )


@pytest.mark.parametrize("text", ["3.11", "3.11:2.13", "3.11:2.13.0:3", "2.7:2.13.0", "3.11:2.13.0 --pre"])
def test_an_entry_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="PYTHON:TORCH:TRITON"):
        matrix.parse(text)


def test_entries_are_read() -> None:
    assert matrix.parse("3.11:2.13.0") == Entry("3.11", "2.13.0")
    assert matrix.parse("3.14:2.15.0:3.9.0") == Entry("3.14", "2.15.0", "3.9.0")


def test_a_python_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uv")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    with pytest.raises(NotHereError, match=r"Python 3\.99"):
        matrix.run_entry(Entry("3.99", "2.13.0"), tmp_path / "wheel")


def test_a_wheel_has_to_be_there_and_new(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there are 0: run make wheels"):
        matrix.find_wheel(tmp_path)
    wheel = tmp_path / "fused_sched-0.1.0-cp310-abi3-linux_x86_64.whl"
    wheel.touch()
    (tmp_path / "fused_sched-0.1.0+cu130-cp310-abi3-linux_x86_64.whl").touch()
    assert matrix.find_wheel(tmp_path) == wheel
    os.utime(wheel, (0, 0))
    with pytest.raises(SystemExit, match="is older than .*: run make wheels"):
        matrix.find_wheel(tmp_path)


@pytest.mark.slow
def test_what_is_counted(tmp_path: Path) -> None:
    text = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip()\n"
    slow = "@pytest.mark.slow\ndef test_d(): assert 0\n"
    (tmp_path / "test_file.py").write_text(text + slow)
    found = matrix._row(Path(sys.executable), "checkout", {}, [([str(tmp_path)], {})] * 2)
    assert (found["passed"], found["failed"], found["skipped"], found["status"]) == (2, 2, 2, 1)
    assert found["failures"] == ["test_file::test_b"] * 2
