"""The example of FSDP2: it learns, is the same on any number of ranks, and goes on from its checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distributed.ranks import Ranks

sys.path.append(str(Path(__file__).parent.parent.parent / "examples"))

import fsdp2
from fsdp2 import Run

EXAMPLE = Path(fsdp2.__file__)
STEPS = 60


def begin(folder: Path) -> list[float]:
    run = Run("cpu", STEPS, 16)
    losses = [float(run.step()) for _ in range(STEPS // 2)]
    run.save(folder)
    return [*losses, *(float(run.step()) for _ in range(STEPS // 2))]


def resume(folder: Path) -> list[float]:
    run = Run("cpu", STEPS, 16)
    run.load(folder)
    return [float(run.step()) for _ in range(STEPS // 2)]


@pytest.mark.slow
def test_it_learns_and_goes_on(ranks: Ranks, tmp_path: Path) -> None:
    for whole, rest in zip(ranks.run(2, begin, tmp_path), ranks.run(2, resume, tmp_path), strict=True):
        assert sum(whole[-10:]) < 0.5 * sum(whole[:10])
        assert rest == pytest.approx(whole[STEPS // 2 :], rel=1e-5)


@pytest.mark.slow
def test_by_torchrun(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLE.parent.parent)}
    said = ""
    for options in (["--steps", "50"], ["--steps", "100", "--resume"]):
        program = [str(EXAMPLE), *options]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert [line.split(":")[0] for line in said.splitlines()] == ["step   50", "step  100"]
