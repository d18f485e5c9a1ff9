"""The examples of frameworks run, learn, and go on from their checkpoints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def said_by(folder: Path, name: str, *options: str, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, str(EXAMPLES / name), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, said: str) -> list[float]:
    return [float(x) for x in re.findall(pattern, said, re.MULTILINE)]


def test_lightning(tmp_path: Path) -> None:
    for options, epochs in (["--epochs", "3"], [1, 2, 3]), (["--epochs", "4", "--resume"], [4]):
        said = said_by(tmp_path, "with_lightning.py", *options)
        assert numbers(r"^epoch +(\d+): norm [\d.]+, lr [\d.e-]+$", said) == epochs
        ((last, averaged),) = re.findall(r"^right: ([\d.]+)%, with averaged weights ([\d.]+)%$", said, re.MULTILINE)
        assert min(float(last), float(averaged)) > 85


def test_trainer(tmp_path: Path) -> None:
    pattern = r"^loss ([\d.]+), at the end ([\d.]+); last norm [\d.]+, steps skipped 0$"
    for options, least in (["--epochs", "2"], 0.5), (["--epochs", "3", "--resume"], 0.8):
        said = said_by(tmp_path, "with_hf_trainer.py", *options)
        ((first, last),) = re.findall(pattern, said, re.MULTILINE)
        assert float(last) < float(first) - least
    assert numbers(r"'epoch': '([\d.]+)'", said)[0] > 2  # it did not begin anew


def test_accelerate(tmp_path: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    for options, epochs in (["--epochs", "2"], [1, 2]), (["--epochs", "3", "--resume"], [3]):
        said = said_by(tmp_path, "with_accelerate.py", *options, launcher=launcher)
        assert numbers(r"^epoch +(\d+): [\d.]+% right", said) == epochs
        assert numbers(r"([\d.]+)% right, norm [\d.]+, lr [\d.e-]+$", said)[-1] > 80
