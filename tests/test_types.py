"""What type checkers see: the signatures that run, which are torch's and the new keywords."""

from __future__ import annotations

import collections.abc
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fused_sched.lr_scheduler
import fused_sched.optim
from fused_sched.lr_scheduler.base import OF_TORCHS, OnDevice
from fused_sched.step_options import StepKeywords

ROOT = Path(__file__).parent.parent
TYPED = Path(__file__).parent / "typed"
CLASSES = [
    *(getattr(fused_sched.lr_scheduler, name) for name in fused_sched.lr_scheduler.__all__ if name[0].isupper()),
    *(getattr(fused_sched.optim, name) for name in fused_sched.optim.__all__ if hasattr(torch.optim, name)),
]
NEW = {"fused", "skip_with_optimizer", "horizon", "backend", "step"}


def _mypy(file: Path) -> set[int]:
    """Lines in which mypy finds something."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    run = subprocess.run([*command, str(file)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert all(line.startswith(f"{file.relative_to(ROOT)}:") for line in run.stdout.splitlines()), run.stdout
    return {int(line.split(":")[1]) for line in run.stdout.splitlines() if ": error: " in line}


def _pyright(file: Path) -> set[int]:
    """Lines in which pyright finds something."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert found["summary"]["filesAnalyzed"] == 1
    return {d["range"]["start"]["line"] + 1 for d in found["generalDiagnostics"] if d["severity"] == "error"}


CHECKERS = {"mypy": _mypy, "pyright": _pyright}


@pytest.fixture(params=CHECKERS)
def check(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param, reason="make lint installs it")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("pyproject.toml is not beside the tests")
    return CHECKERS[request.param]


@pytest.mark.slow
def test_right_uses_are_accepted(check: Any) -> None:
    assert check(TYPED / "right_uses.py") == set()


@pytest.mark.slow
def test_every_mistake_is_found(check: Any) -> None:
    file = TYPED / "mistakes.py"
    wrong = {n for n, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# wrong")}
    assert len(wrong) >= 12
    assert check(file) == wrong


@pytest.mark.parametrize("file", ["right_uses.py", "mistakes.py"])
def test_what_is_new_is_used_rightly_and_wrongly(file: str) -> None:
    new = {*StepKeywords.__annotations__, "Monitor", "graphed", "observe", "stop_when", "ema_weights"}
    new |= {"KLAdaptiveLR", "FeedbackLR", "grad_norm", "group_grad_norms", "skipped_steps"}
    assert not new - set(re.findall(r"\w+", (TYPED / file).read_text()))


def test_right_uses_run(recwarn: pytest.WarningsRecorder) -> None:
    spec = importlib.util.spec_from_file_location("right_uses", TYPED / "right_uses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()


def _torchs_class(cls: Any) -> Any:
    return cls._torch_class if issubclass(cls, OnDevice) else getattr(torch.optim, cls.__name__)


def _type(cls: Any, parameter: inspect.Parameter) -> Any:
    """The annotation; some of the names in torch's are imported for checkers alone."""
    names = {**vars(collections.abc), **vars(torch.optim.lr_scheduler), **vars(sys.modules[cls.__module__])}
    text = parameter.annotation
    return eval(text, names) if isinstance(text, str) else text  # noqa: S307


@pytest.mark.parametrize("cls", CLASSES)
def test_the_signature_is_written_in_the_class(cls: Any) -> None:
    """Nothing made at run time, which no checker would see; keywords of all optimizers stand in one class."""
    assert inspect.isfunction(cls.__dict__["__init__"])
    assert not hasattr(cls.__init__, "__signature__")
    several = [p for p in inspect.signature(cls).parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    written = ["Unpack[StepKeywords]"] if issubclass(cls, torch.optim.Optimizer) else []
    assert [p.annotation for p in several] == written


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_and_types_are_torchs(cls: Any) -> None:
    ours, theirs = inspect.signature(cls).parameters, inspect.signature(_torchs_class(cls)).parameters
    old = [p for p in ours.values() if p.name not in NEW or p.name in theirs]
    assert [(p.name, p.kind, p.default) for p in old] == [(p.name, p.kind, p.default) for p in theirs.values()]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in ours.values() if p.name not in theirs)
    differing = {p.name for p in old if _type(cls, theirs[p.name]) not in (_type(cls, p), inspect.Parameter.empty)}
    assert differing == WIDER.get(cls.__name__, set())


# What torch's annotations leave out, though its code takes it.
WIDER: dict[str, set[str]] = {
    "CyclicLR": {"base_momentum", "max_momentum"},  # one for each group
}


@pytest.mark.parametrize("torchs", OF_TORCHS)
def test_every_class_for_one_of_torchs_is_among_those_checked(torchs: Any) -> None:
    ours = OF_TORCHS[torchs]
    assert ours in CLASSES or ours.__name__ == "TracedLR"
