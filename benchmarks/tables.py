"""Markdown tables, from rows and from nothing else. Each takes the rows of one file and may return an empty text."""

from __future__ import annotations

from around import NARROW, WAYS
from contenders import OURS
from floors import FLOORS, STREAM
from harness import Row, time_text
from host import EMPTY as EMPTY_CALL
from step import REFERENCE
from targets import TARGETS, plain, problem_text, verdict

COUNTED = ("launches", "nodes")  # of a step on a GPU
NOT_MEASURED = "Not measured yet."
NOT_RUN = "Not run yet."


def table(head: list[str], body: list[list[str]]) -> str:
    """A markdown table; an empty text if it has no rows."""
    if not body:
        return ""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in body])


def of_kind(rows: list[Row], *kinds: str) -> list[Row]:
    return [row for row in rows if row["kind"] in kinds]


def _spread(t: Row) -> str:
    return f"{time_text(t['median_us'])} ({time_text(t['low_us'])} to {time_text(t['high_us'])})"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _loses(row: Row) -> bool:
    return row.get("ratio") is not None and row["ratio"] < 1


def shown_first(rows: list[Row]) -> list[Row]:
    """Rows of the table in the README: AdamW as it is commonly used, and whatever else is slower than torch fused."""
    return [row for row in of_kind(rows, "step") if (plain(row) and "states" not in row["dtype"]) or _loses(row)]


def readme_step(rows: list[Row], device: str = "cpu") -> str:
    """Set, dtype, torch fused, ours, ratio; on a GPU, in graph replay, and the stream of the same bytes too."""
    head, reference = "torch fused AdamW", REFERENCE[device]
    heads = ["parameters of", "dtype", "tensors", "elements", head, "fused_sched", "ratio"]
    if device == "cuda":
        heads.append("stream of the same bytes")
    body = []
    for row in shown_first(rows):
        times = row["times"]
        shown = {name: time_text(t["median_us"]) for name, t in times.items()}
        unusual = problem_text(row).removeprefix(f"{row['set']}, {row['dtype']}")
        line = [
            row["set"] + unusual, row["dtype"], f"{row['tensors']:,}", f"{row['parameters'] / 1e6:.2f} M",
            shown.get(reference, "-"), shown[OURS], _ratio(row["ratio"]),
        ]  # fmt: skip
        body.append([*line, shown.get(STREAM, "-")][: len(heads)])
    return table(heads, body)


def versions(rows: list[Row], figure: str = "times") -> str:
    """A line for each version of the update kernel, a column for each problem; microseconds."""
    chosen = [row for row in rows if figure in row]
    names = dict.fromkeys(name for row in chosen for name in row[figure])
    heads = ["µs", *(f"{row['set']}, {row['dtype']}" for row in chosen)]
    shown = [{name: f"{t['median_us']:,.1f}" for name, t in row[figure].items()} for row in chosen]
    return table(heads, [[name, *(times.get(name, "") for times in shown)] for name in names])


def _absent(why: str | None) -> str:
    """A cell in the place of a time."""
    if why is None:
        return ""
    for start in ("not installed", "not supported", "not available", "not tried", "not built", "wrong result"):
        if why.startswith(start):
            return f"**{start}**" if start == "wrong result" else start
    return "failed"


def steps(rows: list[Row], kinds: tuple[str, ...] = ("step",), figure: str = "times") -> str:
    """Every contender that any row knows of; below the table, why some are missing."""
    chosen = [row for row in of_kind(rows, *kinds) if figure in row]
    names: dict[str, None] = {}
    for row in chosen:
        names |= dict.fromkeys(n for n in row[figure] if n not in FLOORS)
        if figure == "times":
            names |= dict.fromkeys(row.get("absent", {}))
    present_floors = [n for n in FLOORS if any(n in row[figure] for row in chosen)]
    head = ["parameters of", "tensors", "elements", *names, *(f"floor: {n}" for n in present_floors)]
    body: list[list[str]] = []
    for row in chosen:
        cells = [problem_text(row), f"{row['tensors']:,}", f"{row['parameters'] / 1e6:.2f} M"]
        body.append([*cells, *(_time(row, name, figure) for name in [*names, *present_floors])])
    return "\n".join([table(head, body), *(_why_absent(chosen) if figure == "times" else [])]).strip()


def _time(row: Row, name: str, figure: str = "times") -> str:
    return _spread(row[figure][name]) if name in row[figure] else _absent(row.get("absent", {}).get(name))


def _why_absent(rows: list[Row]) -> list[str]:
    """Lines on who is missing where, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.get("absent", {}).items():
            if not why.startswith(("not installed", "not supported")):
                reasons.setdefault((name, why), []).append(problem_text(row))
    notes = [f"- {name}: {why} ({'; '.join(where)})" for (name, why), where in reasons.items()]
    return ["", *notes] if notes else []


def around(rows: list[Row]) -> str:
    """A line for each way of a step, ours beside torch's calls; on a GPU, also for each backend, captured and eager."""
    chosen = of_kind(rows, "around")
    on_gpu = any("nodes" in row for row in chosen)
    body = []
    for row in chosen:
        for pair in row["ratios"]:
            ours, theirs = pair["ours"], pair["torch"]
            cells = [problem_text(row), pair["way"] or "nothing", str(row["bytes"][pair["way"]])]
            cells += [_time(row, ours), _time(row, theirs), _ratio(pair["torch_to_ours"]), _ratio(pair["to_plain"])]
            cells.append(_time(row, pair["stream"]))
            if on_gpu:
                cells.insert(1, pair["side"])
                cells += ["/".join(str(row.get(k, {}).get(n, "-")) for n in (ours, theirs)) for k in COUNTED]
            body.append(cells)
    head = [
        "parameters of", "beside the update", "bytes a parameter", "fused_sched", "torch", "torch / ours",
        "ours / ours with nothing", "floor: stream of the same bytes",
    ]  # fmt: skip
    if on_gpu:
        head.insert(1, "how")
        head += [f"{'graph ' if k == 'nodes' else ''}{k}, ours/torch" for k in COUNTED]
    return "\n".join([table(head, body), *_why_absent(chosen)]).strip()


def readme_around(rows: list[Row]) -> str:
    """A line for each problem: torch's time over ours, for each way of a step."""
    ways = [way for way in WAYS if way != NARROW]
    body = []
    for row in of_kind(rows, "around"):
        pairs = {pair["way"]: pair for pair in row["ratios"] if pair["side"] == OURS}
        cells = []
        for way in ways:
            ours, theirs = (row["times"].get(pairs[way][who]) for who in ("ours", "torch"))
            shown = [time_text(t["median_us"]) if t else "-" for t in (theirs, ours)]
            cells.append(f"{' / '.join(shown)} {_ratio(pairs[way]['torch_to_ours'])}".strip())
        body.append([problem_text(row), *cells])
    return table(["parameters of", *(way or "nothing" for way in ways)], body)


def step_ratios(rows: list[Row]) -> str:
    """On a GPU: ours against the floor and torch's, launches, nodes, memory."""
    body = []
    reference = REFERENCE["cuda"]
    for row in of_kind(rows, "step", "compiled"):
        if OURS not in row["times"]:
            continue
        t = {name: x["median_us"] for name, x in row["times"].items()}
        floor = t.get(STREAM)
        cells = [problem_text(row), _ratio(row["ratio"]), "" if floor is None else f"{floor / t[OURS]:.3f}"]
        cells.append(f"{row['bytes'] / t[OURS] / 1e3:,.0f}")
        cells += ["/".join(str(row.get(figure, {}).get(n, "-")) for n in (OURS, reference)) for figure in COUNTED]
        peaks = [row.get("peak_bytes", {}).get(n) for n in (OURS, reference)]
        cells.append(" / ".join("-" if x is None else f"{x / 2**20:,.0f} MiB" for x in peaks))
        body.append(cells)
    head = [
        "parameters of", "torch fused / ours", "stream / ours", "ours, GB/s", "launches, ours/torch",
        "graph nodes, ours/torch", "memory beside parameters and gradients, ours / torch",
    ]  # fmt: skip
    return table(head, body)


def host(rows: list[Row]) -> str:
    names = ["torch foreach", "torch fused", OURS, EMPTY_CALL]
    body = [
        [str(row["tensors"]), *(_spread(row["times"][n]) if n in row["times"] else "" for n in names),
         f"{row['ratio']:.1f}x"]
        for row in of_kind(rows, "host")
    ]  # fmt: skip
    return table(["tensors of 4", *names, "torch fused / ours"], body)


def scheduler(rows: list[Row]) -> str:
    names = ["torch, tensor lr", "torch", OURS]
    body = [
        [
            row["scheduler"],
            str(row["groups"]),
            *(
                time_text(row["times"][n]["median_us"]) if n in row["times"] else _absent(row["absent"].get(n))
                for n in names
            ),
            _ratio(row["ratio"]),
        ]
        for row in of_kind(rows, "scheduler")
    ]
    return table(["scheduler.step()", "groups", *names, "torch / ours"], body)


def tracing(rows: list[Row]) -> str:
    body = [
        [
            f"`{row['function']}`" if "." in row["function"] else row["function"],
            str(row["paths"]), str(row["operations"]), f"{row['checked']:,}",
            *(_spread(row["times"][n]) for n in ("trace", "call")),
        ]
        for row in of_kind(rows, "tracing")
    ]  # fmt: skip
    return table(["function", "paths", "operations", "steps checked", "tracing it, once", "calling it"], body)


def loop(rows: list[Row]) -> str:
    chosen = of_kind(rows, "loop")
    names = list(dict.fromkeys(n for row in chosen for n in [*row["times"], *row["absent"]]))
    body = [
        [f"{row['features']} wide, batch {row['batch']}"]
        + [_spread(row["times"][n]) if n in row["times"] else _absent(row["absent"].get(n)) for n in names]
        for row in chosen
    ]
    return table(["perceptron", *names], body)


def scaling(rows: list[Row]) -> str:
    names = [OURS, "torch fused"]
    body = [
        [row["axis"], f"{row['n']:,}", *(_spread(row["times"][n]) for n in names),
         _ratio(row["times"][names[1]]["median_us"] / row["times"][OURS]["median_us"])]
        for row in of_kind(rows, "scaling")
    ]  # fmt: skip
    return table(["growing", "to", *names, "torch / ours"], body)


def first_step(rows: list[Row]) -> str:
    """A first step in a fresh process, and what torch.compile took."""
    body = []
    for row in of_kind(rows, "first step"):
        for name, t in row["first"].items():
            body.append([row["set"], name, *(time_text(t[k]) for k in ("first_us", "second_us", "later_us"))])
    for row in of_kind(rows, "compiled"):
        for name, more in row["more"].items():
            if "compile_s" in more:
                later = time_text(row["times"][name]["median_us"]) if name in row["times"] else "-"
                body.append([problem_text(row), f"{name}: both compilations", f"{more['compile_s']:.1f} s", "", later])
    return table(["parameters of", "", "first step, making included", "second", "later ones"], body)


def _error(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def lr_error(rows: list[Row], gpu_rows: list[Row] | None) -> str:
    """Errors of the lr: over a run, and frozen in a graph where a GPU has shown it."""
    frozen = {row["scheduler"]: row for row in of_kind(gpu_rows or [], "frozen")}
    names = ["torch, tensor lr", OURS]
    body = []
    for row in of_kind(rows, "lr error"):
        cells = [row["scheduler"]]
        cells += [
            _error(row["largest"].get(n)) if n in row["largest"] else _absent(row["absent"].get(n)) for n in names
        ]
        stuck = frozen.get(row["scheduler"])
        for name in names:
            if stuck is None:
                cells.append("not run yet")
            else:
                refused = "refused in a capture" if name in stuck["absent"] else ""
                cells.append(_error(stuck["last"].get(name)) or refused)
        body.append(cells)
    head = ["scheduler", *names, *(f"{n}: step() in a graph" for n in names)]
    return table(head, body)


def targets(rows: dict[str, list[Row]]) -> str:
    """What was aimed at; ``rows`` by ``cpu`` and ``gpu``."""
    body = []
    for target in TARGETS:
        findings = target.judge(rows[target.where])
        shown = "; ".join(f"{f.label} {f.shown}" for f in findings)
        body.append([target.where.upper(), target.text, shown, verdict(findings)])
    return table(["on", "target", "measured", ""], body)
