"""Proofs: what did not pass, or did not run, is no proof; what each shows is written down."""

from __future__ import annotations

import json
import re
from pathlib import Path

import prove
import pytest

PASSES = "def test_it(): pass\n"
FAILS = "def test_that(): assert False\n"
SKIPS = "import pytest\ndef test_other(): pytest.skip('not here')\n"
SEEDS = "import os\ndef test_seed(): assert os.environ['FUSED_SCHED_TEST_RUN_SEED'] == '8'\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "whole", "result", "tests"),
    [
        (PASSES + SKIPS, False, "passed", 2),
        (PASSES + FAILS, False, "FAILED", 2),
        (SKIPS, False, "FAILED", 1),
        ("", False, "FAILED", 0),
        (PASSES, True, "passed", 3),
        (SEEDS, True, "FAILED", 3),  # each round has a seed of its own
    ],
)
def test_result(text: str, whole: bool, result: str, tests: int, tmp_path: Path) -> None:
    (tmp_path / "test_file.py").write_text(text)
    row = prove.run(prove.Proof([str(tmp_path)], "runs", 1, 1, 1, whole=whole), 3, seed=8)
    assert (row["result"], row["tests"]) == (result, tests)


def test_every_proof_is_described() -> None:
    text = (prove.ROOT / "CONTRIBUTING.md").read_text()
    described = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert described == [*prove.PROOFS]


def test_a_part_is_a_part() -> None:
    for proof in prove.PROOFS.values():
        assert proof.each <= proof.part <= proof.size
        assert proof.size % proof.each == proof.part % proof.each == 0


def test_results_say_of_what_and_how_large() -> None:
    keys = {"proof", "size", "unit", "seed", "commit", "dirty", "result", "seconds", "tests", "torch", "triton", "date"}
    rows = [json.loads(line) for line in prove.RESULTS.read_text().splitlines()]
    assert rows
    for row in rows:
        assert keys <= row.keys()
        assert row["result"] in ("passed", "FAILED")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nesting"], "there is no proof nesting; there are nestings, "),
        (["nestings", "--size", "0"], "--size 0 must be"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prove.py", *arguments])
    with pytest.raises(SystemExit):
        prove.main()
    assert said in capsys.readouterr().err
