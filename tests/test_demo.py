"""The demo, without a GPU: both sides agree, and the table says what was timed; tests/gpu has the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "examples"))

import demo

STEPS = 25


@pytest.fixture(scope="module")
def results() -> list[demo.Result]:
    data = demo.load_data()
    order = demo.batches(data)[:STEPS]
    return [demo.compare(case, data, order, lambda: None) for case in demo.CASES[:3]]


def test_sides_agree(results: list[demo.Result]) -> None:
    for result in results:
        assert result.agrees
        assert result.replayed is None
        assert len(result.accuracies) == 2
        for side in (result.ours, result.theirs):
            assert len(side.rates) == len(side.seconds) == len(side.losses) == STEPS
            assert min(side.seconds) > 0
            assert side.losses[-1] < side.losses[0]


def test_only_the_update_is_timed_on_the_cpu(results: list[demo.Result], capsys: pytest.CaptureFixture[str]) -> None:
    demo.print_table(results)
    demo.print_verdict(results)
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split()[-2:] == ["ours", "torch"]
    assert "median of optimizer.step() + scheduler.step() with one thread" in shown
    assert "All 3 runs agree" in shown


def test_what_differs_is_told(results: list[demo.Result], capsys: pytest.CaptureFixture[str]) -> None:
    result = results[0]
    result.scaled_error, before = 1.0, result.scaled_error
    demo.print_table(results)
    demo.print_verdict(results)
    result.scaled_error = before
    shown = capsys.readouterr().out
    assert shown.count("DIFFERS") == 1
    assert f"FAILED: outside the tolerance with {result.case.title}" in shown
