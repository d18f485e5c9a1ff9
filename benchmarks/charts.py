"""Charts, from rows and from nothing else."""

from __future__ import annotations

from pathlib import Path

from contenders import OURS
from harness import Row
from matplotlib.figure import Figure
from tables import of_kind, shown_first
from targets import problem_text

BLUE, RED, GREY = "#2a6f97", "#bc4749", "#8d99ae"


def ratios(rows: list[Row], path: Path, where: str) -> None:
    """How many times as fast as torch fused, a bar for each set; slower ones are red."""
    chosen = [row for row in shown_first(rows) if row["ratio"] is not None][::-1]
    figure = Figure(figsize=(8, 0.6 + 0.33 * len(chosen)), layout="constrained")
    axes = figure.add_subplot()
    values = [row["ratio"] for row in chosen]
    bars = axes.barh(
        [f"{row['set']}{problem_text(row).removeprefix(row['set'] + ', ' + row['dtype'])} ({row['dtype']})"
         for row in chosen],
        values, color=[BLUE if value >= 1 else RED for value in values],
    )  # fmt: skip
    axes.bar_label(bars, [f"{value:.2f}x" for value in values], padding=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1x", "2x", "5x", "10x", "20x"])
    axes.minorticks_off()
    axes.set_xlim(right=axes.get_xlim()[1] * 2)
    axes.set_xlabel(f"times as fast as torch's fused class, one optimizer step {where}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def lr_errors(rows: list[Row], path: Path) -> None:
    """Largest relative error of the lr, ours and torch's with a tensor lr; 0 stands at the left edge."""
    chosen = of_kind(rows, "lr error")[::-1]
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(chosen)), layout="constrained")
    axes = figure.add_subplot()
    for name, colour, marker in (("torch, tensor lr", RED, "s"), (OURS, BLUE, "o")):
        points = [(max(row["largest"][name], 1e-18), i) for i, row in enumerate(chosen) if name in row["largest"]]
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=name) if points else None
    axes.set_yticks(range(len(chosen)), [row["scheduler"] for row in chosen])
    axes.set_xscale("log")
    axes.set_xlim(5e-19, 3)
    axes.set_xticks([1e-18, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1], ["0", "1e-15", "1e-12", "1e-9", "1e-6", "1e-3", "1"])
    axes.minorticks_off()
    axes.grid(axis="x", color=GREY, alpha=0.3)
    steps = chosen[0]["steps"] if chosen else 0
    axes.set_xlabel(f"largest relative error of the lr in {steps:,} steps,\nagainst a float lr in eager torch")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
