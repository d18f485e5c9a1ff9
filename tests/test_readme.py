"""README and docs: code runs, commands exist, links lead somewhere, public names are there, tables are the rows'."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from processes import run_python

import fused_sched.lr_scheduler.recipes
from fused_sched import backends, lr_scheduler, optim, plotting, schedules
from fused_sched.__main__ import ENVIRONMENT
from fused_sched.lr_scheduler.registers import Register

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT): path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{path.stem} {i}")
        for path in PAGES
        for i, code in enumerate(blocks("python", PAGES[path]))
    ],
)
def test_python_block_runs_and_prints_what_it_says(code, tmp_path):
    done = run_python(["-c", code], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)\s+# (.*)$", code, re.MULTILINE)
    assert done.stdout.split("\n")[:-1] == promised


@pytest.mark.parametrize("page", [path for path, text in PAGES.items() if "```pycon" in text], ids=str)
def test_session_prints_what_it_shows(page):
    text = "\n\n".join(blocks("pycon", PAGES[page]))
    found = doctest.DocTestParser().get_doctest(text, {}, str(page), str(page), 0)
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(found, out=report.append)
    assert found.examples
    assert not report, "".join(report)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def test_there_are_the_commands_a_newcomer_needs():
    assert commands()[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", commands())
@pytest.mark.slow
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


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", PAGES[page]):
        path = (ROOT / page.parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in _anchors(path.read_text()), f"{target}#{anchor}"


# -- public names ------------------------------------------------------------------------------------


def _torchs(name: str) -> Any:
    homes = (torch.optim, torch.optim.lr_scheduler, torch.optim.swa_utils)
    return next((getattr(home, name) for home in homes if hasattr(home, name)), torch.optim.lr_scheduler.LRScheduler)


def _added(module: ModuleType) -> Iterator[str]:
    """Keywords, methods and properties that classes and functions have beside torch's."""
    for name in module.__all__:
        ours, torchs = getattr(module, name), _torchs(name)
        known = set(signature(torchs).parameters) if isinstance(ours, type) else {"scheduler", "name", "optimizer"}
        yield from set(signature(ours).parameters) - known
        if isinstance(ours, type):
            members = {n: getattr(ours, n) for n in set(dir(ours)) - set(dir(torchs)) if not n.startswith("_")}
            yield from (n for n, member in members.items() if not isinstance(member, Register))


def _public() -> set[str]:
    homes = (fused_sched, optim, lr_scheduler, fused_sched.lr_scheduler.recipes, schedules, plotting, backends)
    names = {name for home in homes for name in home.__all__} | {"LRScheduler"}
    return names | {*_added(optim), *_added(lr_scheduler)} | ENVIRONMENT.keys()


def _unexplained(names: set[str]) -> set[str]:
    """Those that stand in no page as code."""
    code = [span for text in PAGES.values() for span in (*re.findall(r"`([^`\n]+)`", text), *blocks("python", text))]
    return names - {word for span in code for word in re.findall(r"\w+", span)}


def test_every_public_name_is_explained():
    assert _public() > {"AdamW", "StepLR", "horizon", "backend", "explain", "get_last_value", "lr_curve", "draw_panels"}
    assert not _unexplained(_public())


def test_a_name_that_is_explained_nowhere_is_found():
    assert _unexplained({"lr_curve", "lr_cur", "newcomer"}) == {"lr_cur", "newcomer"}


def test_environment_variables_are_explained_with_the_words_of_the_command_line():
    rows = dict(re.findall(r"^\| `([A-Z]+_[A-Z_]+)` \| (.*) \|$", PAGES[Path("docs/reference.md")], re.MULTILINE))
    assert rows == ENVIRONMENT


# -- numbers -----------------------------------------------------------------------------------------


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


def test_table_of_frameworks_has_the_releases_that_are_tested():
    required = (ROOT / "tests" / "frameworks" / "requirements.txt").read_text()
    pinned = {
        re.sub(r"^pytorch-", "", name): to for name, to in re.findall(r"^([\w-]+)==([\d.]+)", required, re.MULTILINE)
    }
    table = TEXT[TEXT.index("<!-- frameworks -->") : TEXT.index("<!-- frameworks: end -->")]
    rows = re.findall(r"^\| `?(\w+)[^|]*\| ([\d.]+) \|", table, re.MULTILINE)
    assert {name.lower(): version for name, version in rows if name.lower() in pinned} == {
        name: version for name, version in pinned.items() if name not in ("torch", "torchvision", "scikit-learn")
    }
    wrappers = [version for name, version in rows if name.lower() not in pinned]
    assert wrappers == [pinned["torch"]] * 3
    assert f"torch {pinned['torch']} on the CPU" in TEXT
