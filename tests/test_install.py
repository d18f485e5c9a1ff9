"""Building and installing: with torch and without, and what an install without compiled code says."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fused_sched

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.py", "build_cuda.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "kernels", "fused_sched")

TRAIN = """
import os, sys, torch, warnings
from fused_sched.optim import SGD
p = torch.nn.Parameter(torch.ones(2))
p.grad = torch.ones(2)
for _ in range(2):
    optimizer = SGD([p], lr=0.1, backend=sys.argv[1] if len(sys.argv) > 1 else None)
    print("made", file=sys.stderr, flush=True)
    optimizer.step()
    optimizer.step()
"""
REASON = "CompileError: command 'g++' failed"


@pytest.fixture(scope="module")
def without_extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed where no compiler was found."""
    folder = tmp_path_factory.mktemp("site")
    package = Path(fused_sched.__file__).parent
    shutil.copytree(package, folder / "fused_sched", ignore=shutil.ignore_patterns("_C.*", "__pycache__"))
    (folder / "fused_sched" / "_build_failure.txt").write_text(REASON + "\n")
    (folder / "train.py").write_text(TRAIN)
    return folder


def _train(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """What it says, line by line; without the files in site-packages that point to the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "FUSED_SCHED_BACKEND"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), sysconfig.get_path("purelib")]), **variables}
    command = [sys.executable, "-S", str(folder / "train.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=folder)
    return run.stderr.splitlines()


@pytest.mark.slow
def test_the_first_step_without_compiled_code_says_why_once(without_extension: Path) -> None:
    lines = _train(without_extension)
    said = [i for i, line in enumerate(lines) if "UserWarning" in line]
    assert len(said) == 1
    assert lines.index("made") < said[0]
    text = lines[said[0]]
    assert "train.py:9:" in text
    assert f"slow backend 'reference', because cpu is unavailable (the C++ extension is missing: {REASON})" in text
    assert "Install what is missing" in text


@pytest.mark.slow
def test_who_asked_for_it_is_told_nothing(without_extension: Path) -> None:
    assert _train(without_extension, "reference") == ["made"] * 2
    assert _train(without_extension, FUSED_SCHED_BACKEND="reference") == ["made"] * 2


@pytest.mark.slow
def test_with_compiled_code_nothing_is_said(without_extension: Path, tmp_path: Path) -> None:
    compiled = pytest.importorskip("fused_sched._C").__file__
    folder = shutil.copytree(without_extension, tmp_path / "site")
    shutil.copy(compiled, folder / "fused_sched")
    assert _train(folder) == ["made"] * 2


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="only there csrc/old_libc.h says")
def test_compiled_code_asks_for_no_newer_system_than_torch_does() -> None:
    """Of functions that have several versions the library names the one that it takes, as text."""
    library = Path(pytest.importorskip("fused_sched._C").__file__).read_bytes()
    found = {
        name: {int(n) for n in re.findall(rb"\0%s(\d+)\b" % name, library)} for name in (b"GLIBC_2.", b"CXXABI_1.3.")
    }
    assert 2 in found[b"GLIBC_2."]
    assert max(found[b"GLIBC_2."]) <= 17
    assert max(found[b"CXXABI_1.3."], default=0) <= 7


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What a build needs, in a folder of its own."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("setup.py is not beside the tests")
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in SOURCES:
        source, ignored = ROOT / name, shutil.ignore_patterns("*.so", "__pycache__", "_build_failure*")
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def _pip(python: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FUSED_SCHED_BUILD_CUDA": "0"})
    if "No matching distribution found for setuptools" in run.stdout + run.stderr:
        pytest.skip("setuptools cannot be downloaded here")
    return run


@pytest.mark.slow
def test_an_isolated_build_finds_the_torch_that_is_installed(sources: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    run = _pip(sys.executable, "wheel", str(sources), "--no-deps", "-w", str(tmp_path / "dist"))
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = (tmp_path / "dist").glob("fused_sched-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"fused_sched/_C.abi3.so", "fused_sched/_C.pyi", "fused_sched/py.typed"} <= set(names)
    assert "fused_sched/_build_failure.txt" not in names


@pytest.mark.slow
def test_a_build_without_torch_says_what_to_do(sources: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    run = _pip(tmp_path / "venv/bin/python", "install", "--no-deps", str(sources))
    assert run.returncode != 0
    said = [line for line in (run.stdout + run.stderr).splitlines() if "install torch" in line]
    assert len(said) == 1
    assert "then run `pip install --no-build-isolation .`" in said[0]
    assert "Traceback" not in run.stdout + run.stderr
