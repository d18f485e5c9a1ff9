"""A short table of GPU rows for the terminal."""

from __future__ import annotations

from around import ALL
from contenders import OURS
from floors import FLOORS, STREAM
from harness import Row
from step import COUNTS, REFERENCE, with_launches
from targets import TARGETS, problem_text, verdict

HEADER = (
    f"{'problem':44} {'ours us':>9} {'torch us':>9} {'stream us':>9} {'torch/ours':>10} {'stream/ours':>11} "
    f"{'nodes':>8} fastest peer"
)


def line(row: Row) -> str:
    """One row: times in replay, ratios, nodes of our graph and of torch's, and who is fastest beside us."""
    medians = {name: t["median_us"] for name, t in row["times"].items()}
    ours, theirs, floor = medians[OURS], medians.get(REFERENCE["cuda"]), medians.get(STREAM)
    nodes = "/".join(str(row.get("nodes", {}).get(name, "?")) for name in (OURS, REFERENCE["cuda"]))
    peers = {name: us for name, us in medians.items() if not name.startswith(OURS) and name not in FLOORS}
    fastest = min(peers, key=lambda name: peers[name]) if peers else None

    def number(value: float | None, width: int, digits: int = 2) -> str:
        return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"

    return (
        f"{problem_text(row):44} {number(ours, 9)} {number(theirs, 9)} {number(floor, 9)} "
        f"{number(theirs / ours if theirs else None, 10)} {number(floor / ours if floor else None, 11)} {nodes:>8} "
        + (f"{fastest} {peers[fastest] / ours:.2f}x" if fastest else "none")
    )


def show(rows: list[Row]) -> None:
    """Print the table, host times, and what became of the targets that they speak of."""
    show_variants([row for row in rows if row["kind"] == "variants"])
    rows = with_launches(rows)
    steps = [row for row in rows if row["kind"] in ("step", "compiled") and OURS in row["times"]]
    if steps:
        print(HEADER)
    for row in steps:
        print(line(row))
    for row in rows:
        if row["kind"] == "host":
            print(f"host time of a step, {row['tensors']:5} tensors: {row['ratio']:.1f}x less than torch fused")
        if row["kind"] == "loop":
            medians = ", ".join(f"{name} {t['median_us']:.0f} us" for name, t in row["times"].items())
            print(f"training step of a perceptron of {row['features']}: {medians}")
        if row["kind"] == "around":
            show_around(row)
        if row["kind"] in COUNTS:
            print(f"launches, {problem_text(row)}: " + ", ".join(f"{name} {n}" for name, n in row["launches"].items()))
    for target in TARGETS:
        findings = target.judge(rows) if target.where == "gpu" else []
        if findings:
            print(f"{verdict(findings):13} {target.text}: " + "; ".join(f"{f.label} {f.shown}" for f in findings))


def show_around(row: Row) -> None:
    """A line for each backend, captured: microseconds, nodes, ours over ours with nothing, torch's calls over ours."""
    captured = [pair for pair in row["ratios"] if pair["ours"] in row["nodes"]]
    for side in dict.fromkeys(pair["side"] for pair in captured):
        shown = []
        for pair in captured:
            if pair["side"] == side:
                us, nodes = row["times"][pair["ours"]]["median_us"], row["nodes"][pair["ours"]]
                ratios = "/".join("-" if x is None else f"{x:.2f}" for x in (pair["to_plain"], pair["torch_to_ours"]))
                shown.append(f"{'all' if pair['way'] == ALL else pair['way']} {us:.1f} us ({nodes}) {ratios}".lstrip())
        print(f"around {problem_text(row)}, {side.removeprefix(OURS).lstrip(', ') or 'triton'}: {'; '.join(shown)}")


def show_variants(rows: list[Row]) -> None:
    """A line for each version of the kernel, a column for each problem; of small sets, twenty steps in a graph too."""
    heads = [f"{row['set'][:7].strip()} {'f32' if row['dtype'] == 'float32' else 'b16'}" for row in rows]
    columns = [(head, row["times"]) for head, row in zip(heads, rows, strict=True)]
    columns += [(f"{head} x20", row["unrolled"]) for head, row in zip(heads, rows, strict=True) if "unrolled" in row]
    names = dict.fromkeys(name for _, times in columns for name in times)
    if names:
        print(f"{'variant, us':32}" + "".join(f"{head:>16}" for head, _ in columns))
    for name in names:
        cells = [f"{times[name]['median_us']:.2f}" if name in times else "-" for _, times in columns]
        print(f"{name:32}" + "".join(f"{cell:>16}" for cell in cells))
