"""Charts of schedules: which points are drawn, and what is refused."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "examples"))

from fused_sched import plotting, schedules
from fused_sched.lr_scheduler import StepLR
from fused_sched.plotting import check_suffix, decimate, draw, draw_panels

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Side:
    """Of a result of the demo, what is drawn."""

    values: list[float]


@dataclass
class Result:
    case: Any
    ours: Side
    theirs: Side


def _values(rng: random.Random, n: int) -> list[float]:
    return [rng.uniform(-1, 1) for _ in range(n)]


def test_values_come_from_schedules() -> None:
    assert plotting.curves is schedules.curves
    assert plotting.lr_curve is schedules.lr_curve
    assert plotting.lr_curve(lambda o: StepLR(o, 2, 0.5), 5, lr=1.0) == [1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(("suffix", "beginning"), [(".png", PNG), (".svg", b"<?xml"), (".PNG", PNG)])
def test_writes_the_format_of_the_suffix(suffix: str, beginning: bytes, tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / f"curve{suffix}"
    draw({"one": _values(rng, 50), "two": _values(rng, 50)}, path, title="$a_b$ is no formula")
    assert path.read_bytes().startswith(beginning)


def test_same_curves_make_the_same_svg(tmp_path: Path, rng: random.Random) -> None:
    values, paths = _values(rng, 30), [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        draw({"lr": values}, path, title="title")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    draw({"lr": values[1:]}, paths[1], title="title")
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_panels_name_their_axes_and_curves(tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: saved.append(figure))
    values = _values(rng, 20)
    draw_panels(
        {"learning rate": {"a": values, "b": values[:10]}, "momentum": {"m": values}}, tmp_path / "x.png", "top"
    )
    upper, lower = saved[0].axes
    assert [upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()] == ["learning rate", "momentum", "step"]
    assert [line.get_label() for line in upper.lines] == ["a", "b"]
    assert upper.lines[0].get_ydata().tolist() == values
    assert upper.lines[1].get_xdata().tolist() == list(range(10))
    assert upper.get_legend() is not None
    assert lower.get_legend() is None
    assert upper.get_title(loc="left") == "top"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e305])
def test_what_cannot_be_drawn_is_left_out(value: float, tmp_path: Path) -> None:
    steps, shown = decimate([1.0, value, 2.0])
    assert steps == [0, 1, 2]
    assert math.isnan(shown[1])
    assert (shown[0], shown[2]) == (1.0, 2.0)
    draw({"lr": [1.0, value, 2.0]}, tmp_path / "curve.png")
    draw({"lr": [value]}, tmp_path / "nothing.png")


def test_few_points_stay_as_they_are(rng: random.Random) -> None:
    values = _values(rng, rng.randint(1, 100))
    assert decimate(values, 100) == (list(range(len(values))), values)


def test_many_points_keep_the_extremes(rng: random.Random) -> None:
    for _ in range(20):
        values = [0.0] * rng.randint(200, 5000)
        peaks = dict(zip(rng.sample(range(len(values)), 2), (rng.uniform(1, 9), rng.uniform(-9, -1)), strict=True))
        for at, peak in peaks.items():
            values[at] = peak
        values[rng.choice([i for i in range(len(values)) if i not in peaks])] = math.nan
        most = rng.randint(4, 150)
        steps, shown = decimate(values, most)
        assert len(steps) <= most
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, len(values) - 1)
        kept = dict(zip(steps, shown, strict=True))
        assert max(peaks.values()) == max(v for v in kept.values() if v == v)
        assert (
            min(values) if math.isnan(min(values)) else min(v for v in kept.values() if v == v) <= min(peaks.values())
        )
        assert all(kept[i] == values[i] for i in steps if values[i] == values[i])


@pytest.mark.parametrize("curves", [{}, None])
def test_nothing_to_draw_is_refused(curves: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve to draw"):
        draw(curves or {}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no curve to draw"):
        draw_panels({}, tmp_path / "x.png")


@pytest.mark.parametrize("name", ["curve.jpg", "curve", "png", "curve.png.txt"])
def test_other_formats_are_refused_before_anything_is_drawn(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        check_suffix(tmp_path / name)
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        draw({"lr": [1.0]}, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        draw({"lr": [1.0]}, tmp_path / "missing" / "x.png")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'fused_sched\[plot\]'"):
        draw({"lr": [1.0]}, tmp_path / "x.png")


@pytest.mark.parametrize("cases", [1, 4, 7, 12])
@pytest.mark.parametrize("log", [False, True])
def test_the_demo_draws_a_curve_of_each_side_in_all_its_axes(
    cases: int, log: bool, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = pytest.importorskip("demo", reason="the demo needs scikit-learn and tqdm")
    saved: list[Any] = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: saved.append(figure))
    sides = [Side(_values(rng, 5)) for _ in range(2 * cases)]
    results = [Result(demo.CASES[i % 3], *sides[2 * i : 2 * i + 2]) for i in range(cases)]
    demo.draw(results, tmp_path / "x.png", "title", lambda side: side.values, log)
    axes = saved[0].axes
    assert [[line.get_ydata().tolist() for line in axis.lines] for axis in axes] == [
        [result.theirs.values, result.ours.values] for result in results
    ]
