"""The example of a GPT in sixteen bits: all its ways run to the end, learn, and lose what they may lose."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "examples"))

import train_gpt
from train_gpt import WAYS, YARDSTICK, Data, Size, Training, Way

from fused_sched.step_options import MasterWeights

ROOT = Path(__file__).parent.parent
STEPS = 40


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.load(Size(32, 1, 2, 32, 8), "cpu", 32)


@pytest.fixture(scope="module")
def runs(data: Data) -> dict[Way, Training]:
    return dict(zip(WAYS, train_gpt.train(WAYS, data, STEPS, 0), strict=True))


def test_quick_run_prints_a_row_of_each_way(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "train_gpt.py"), "--quick", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for way in WAYS:
        (row,) = re.findall(rf"^{re.escape(way.title)} {{2,}}(.*)$", done.stdout, re.MULTILINE)
        assert len([float(number) for number in row.split()]) == 7
    assert "no chart" in done.stdout or (tmp_path / "gpt_output" / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_losses_fall(way: Way, runs: dict[Way, Training]) -> None:
    run = runs[way]
    assert len(run.losses) == STEPS
    assert sum(run.losses[-5:]) < sum(run.losses[:5]) - 2.5
    assert run.final < run.losses[0] - 0.5
    assert run.final < run.averaged < run.losses[0]  # averages come after


@pytest.mark.parametrize("way", [way for way in WAYS if way.keywords], ids=lambda way: way.title)
def test_nothing_is_lost_but_by_plain_bfloat16(way: Way, runs: dict[Way, Training]) -> None:
    (plain,) = [run for other, run in runs.items() if other.dtype == torch.bfloat16 and not other.keywords]
    lost = plain.final - runs[YARDSTICK].final
    assert lost > 0.005
    assert abs(runs[way].final - runs[YARDSTICK].final) < lost / 2


def test_ours_in_float32_is_torchs(runs: dict[Way, Training]) -> None:
    (ours,) = [run for way, run in runs.items() if way.dtype == torch.float32 and not way.by_torch]
    assert ours.losses == pytest.approx(runs[YARDSTICK].losses, abs=1e-4)
    assert ours.averaged == pytest.approx(runs[YARDSTICK].averaged, abs=1e-4)


def test_every_way_to_keep_precision_is_among_them() -> None:
    keywords = [way.keywords for way in WAYS]
    assert {"stochastic_rounding": True} in keywords
    assert all({"master_weights": kind} in keywords for kind in get_args(MasterWeights))


def test_the_same_seed_gives_the_same_run(data: Data, runs: dict[Way, Training]) -> None:
    (way,) = [way for way in WAYS if "stochastic_rounding" in way.keywords]
    torch.rand(7)
    (again,) = train_gpt.train([way], data, STEPS, 0)
    assert again.losses == runs[way].losses
    assert (again.final, again.averaged) == (runs[way].final, runs[way].averaged)


def test_bytes_are_those_of_parameters_and_states(runs: dict[Way, Training]) -> None:
    assert [runs[way].bytes_per_parameter() for way in WAYS] == [12, 12, 6, 6, 12, 14]


def test_files_that_are_missing_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(SystemExit, match="no text to learn"):
        train_gpt.load_text()
    (tmp_path / "ast.py").write_text("é = 1", encoding="utf-8")
    assert bytes(train_gpt.load_text().tolist()) == b"? = 1"
