"""Pictures of schedules: the values that a scheduler really gives, and a chart of them.

The values come from :mod:`fused_sched.schedules`, whose :func:`curves` and :func:`lr_curve` are here too and
work without matplotlib (``pip install 'fused_sched[plot]'``), which is needed for drawing only.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .schedules import curves, lr_curve

__all__ = ["check_suffix", "curves", "decimate", "draw", "draw_panels", "lr_curve", "new_figure", "save", "style"]

FORMATS = (".png", ".svg")
COLOURS = ("#1f5fa8", "#d1622b", "#2f8f5b", "#8a4fa3", "#b08a1e", "#5b6770")
MAX_POINTS = 4000  # drawn for one curve: more is invisible, and makes large svg files
_LARGEST = 1e300  # matplotlib's axis limits overflow beyond


def draw(
    curves: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    title: str | None = None,
    ylabel: str = "learning rate",
) -> None:
    """Draw curves over the step into one chart.

    Args:
        curves: name in the legend -> one value a step, from step 0. What is not finite is left out.
        path: file to write; its suffix, ``.png`` or ``.svg``, chooses the format.
        title: text above the chart.
        ylabel: name of the vertical axis.

    Raises:
        ValueError: ``curves`` is empty, or the suffix is neither.
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    draw_panels({ylabel: curves}, path, title)


def draw_panels(
    panels: Mapping[str, Mapping[str, Sequence[float]]], path: str | os.PathLike[str], title: str | None = None
) -> None:
    """Draw several charts below one another over the same steps.

    Args:
        panels: name of the vertical axis -> curves as in :func:`draw`.
        path, title: see :func:`draw`.
    """
    if not panels or not all(panels.values()):
        raise ValueError("there is no curve to draw: give at least one as {name: values}")
    check_suffix(path)
    figure = new_figure(8.0, 1.2 + 3.0 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (ylabel, named) in zip(axes, panels.items(), strict=True):
        for colour, (name, values) in zip(_cycle(len(named)), named.items(), strict=True):
            xs, ys = decimate(values)
            axis.plot(xs, ys, label=name, color=colour, linewidth=1.8)
        style(axis)
        axis.set_ylabel(ylabel)
        if len(named) > 1:
            axis.legend(frameon=False)
    axes[-1].set_xlabel("step")
    if title:
        # no mathtext: a $ in a title is a $
        axes[0].set_title(title, loc="left", fontsize=11, parse_math=False, wrap=True)
    save(figure, path)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The lower-case suffix of ``path``; raises ValueError when no chart can be written to such a file."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"path={os.fspath(path)!r} must end in {' or '.join(FORMATS)}")
    return suffix


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of ``width`` by ``height`` inches, outside pyplot's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'fused_sched[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axis: Any) -> None:
    """The look that all charts share: a light grid, no box."""
    axis.grid(True, color="#d9dde1", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#8a939b")
    axis.tick_params(colors="#3c444b", labelsize=9)


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` to ``path`` as its suffix says; an svg is the same file for the same curves."""
    import matplotlib

    suffix = check_suffix(path)
    metadata = {"Date": None} if suffix == ".svg" else None
    # A font may lack a character of a title: a box in the picture says so well enough.
    with matplotlib.rc_context({"svg.hashsalt": "fused_sched"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=150, metadata=metadata)


def decimate(values: Sequence[float], max_points: int = MAX_POINTS) -> tuple[list[int], list[float]]:
    """At most ``max_points`` points that look like all of them: each stretch keeps its extremes.

    Args:
        values: one value a step.
        max_points: at least 4.

    Returns:
        The steps kept, ascending, and their values; NaN stands for what cannot be drawn.
    """
    shown = [value if abs(value) <= _LARGEST else math.nan for value in values]
    if len(shown) <= max_points:
        return list(range(len(shown))), shown
    stretch = math.ceil(len(shown) / (max_points // 2 - 1))
    kept = {0, len(shown) - 1}
    for start in range(0, len(shown), stretch):
        part = range(start, min(start + stretch, len(shown)))
        # a NaN compares as neither larger nor smaller, and would hide what comes after it
        numbers = [i for i in part if shown[i] == shown[i]] or [start]
        kept.add(min(numbers, key=shown.__getitem__))
        kept.add(max(numbers, key=shown.__getitem__))
    steps = sorted(kept)
    return steps, [shown[i] for i in steps]


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
