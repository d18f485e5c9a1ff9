"""Tables and the chart, from the saved rows and from nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness import load
from matplotlib.figure import Figure

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
CHART = HERE / "results" / "cpu.png"
DETAILS = HERE / "README.md"


def _time(us: float) -> str:
    return f"{us:.1f} µs" if us < 100 else f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.2f} ms"


def _with_spread(times: dict[str, float]) -> str:
    return f"{_time(times['median_us'])} ({_time(times['low_us'])} to {_time(times['high_us'])})"


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in body])


def _of_kind(data: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in data["rows"] if row["kind"] == kind]


def _measured_on(data: dict[str, Any]) -> str:
    e = data["environment"]
    return f"{e['device']}; torch {e['torch']}, Python {e['python']}; commit {e['commit']}, {e['date']}."


def _step_table(data: dict[str, Any], spread: bool) -> str:
    show = _with_spread if spread else lambda times: _time(times["median_us"])
    body = [
        [
            row["set"], row["dtype"], f"{row['tensors']:,}", f"{row['parameters'] / 1e6:.2f} M",
            show(row["times"]["torch fused"]), show(row["times"]["fused_sched"]), f"{row['ratio']:.2f}x",
        ]
        for row in _of_kind(data, "step")
    ]  # fmt: skip
    return _table(["parameters of", "dtype", "tensors", "elements", "torch fused AdamW", "fused_sched", "ratio"], body)


def _host_table(data: dict[str, Any]) -> str:
    names = ["torch foreach", "torch fused", "fused_sched"]
    body = [
        [str(row["tensors"]), *(_with_spread(row["times"][n]) for n in names), f"{row['ratio']:.1f}x"]
        for row in _of_kind(data, "host")
    ]
    return _table(["tensors of 4", *names, "torch fused / ours"], body)


def _scheduler_table(data: dict[str, Any]) -> str:
    names = ["torch, tensor lr", "torch", "fused_sched"]
    body = [
        [
            row["scheduler"],
            str(row["groups"]),
            *(_time(row["times"][n]["median_us"]) for n in names),
            f"{row['ratio']:.2f}x",
        ]
        for row in _of_kind(data, "scheduler")
    ]
    return _table(["scheduler.step()", "groups", *names, "torch / ours"], body)


def _chart(data: dict[str, Any]) -> None:
    rows = _of_kind(data, "step")[::-1]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colours = ["#2a6f97" if row["ratio"] >= 1 else "#bc4749" for row in rows]
    bars = axes.barh([f"{row['set']} ({row['dtype']})" for row in rows], [row["ratio"] for row in rows], color=colours)
    axes.bar_label(bars, [f"{row['ratio']:.2f}x" for row in rows], padding=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1x", "2x", "5x", "10x", "20x"])
    axes.minorticks_off()
    axes.set_xlim(right=axes.get_xlim()[1] * 2)
    axes.set_xlabel("times as fast as torch.optim.AdamW(fused=True), one optimizer step on the CPU")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(CHART, dpi=120)


def _insert(path: Path, sections: dict[str, str]) -> None:
    text = path.read_text()
    for name, content in sections.items():
        pattern = re.compile(f"(<!-- {name}: generated -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{path.name} has no section {name!r} between its generated/end markers")
        text = pattern.sub(lambda match, content=content: match[1] + content + "\n" + match[2], text)
    path.write_text(text)


def render() -> None:
    """Rewrite the generated sections of both READMEs and the chart."""
    data = load("cpu")
    _chart(data)
    measured = f"\n\nMeasured on {_measured_on(data)}"
    _insert(README, {"cpu step": _step_table(data, spread=False) + measured})
    _insert(
        DETAILS,
        {
            "cpu step": _step_table(data, spread=True) + measured,
            "host": _host_table(data) + measured,
            "scheduler": _scheduler_table(data) + measured,
        },
    )
