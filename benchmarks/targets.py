"""What was aimed at, and whether the newest rows show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from around import AVERAGE, NORM
from contenders import OURS
from floors import FLOORS, STREAM
from harness import Row, time_text
from step import REFERENCE

SLOWER = 0.97  # at most 3 % slower


@dataclass
class Finding:
    """One figure: what it is of, what it is, whether it is good enough."""

    label: str
    shown: str
    met: bool


@dataclass(frozen=True)
class Target:
    """``judge`` finds the figures in rows of ``where`` (``cpu`` or ``gpu``); none means not measured."""

    where: str
    text: str
    judge: Callable[[list[Row]], list[Finding]]


def plain(row: Row) -> bool:
    """A row of AdamW with one param group and aligned tensors."""
    ordinary = row.get("rule", "AdamW") == "AdamW" and row.get("groups", 1) == 1 and not row.get("offset", 0)
    return row["kind"] == "step" and ordinary


def _median(row: Row, name: str) -> float | None:
    times = row["times"].get(name)
    return None if times is None else times["median_us"]


def _of(rows: list[Row], sets: tuple[str, ...], dtype: str) -> list[Row]:
    return [row for row in rows if plain(row) and row["set"] in sets and row["dtype"] == dtype]


def part_of_stream(sets: tuple[str, ...], least: float) -> Callable[[list[Row]], list[Finding]]:
    """The stream's time as a part of ours."""

    def judge(rows: list[Row]) -> list[Finding]:
        found = []
        for row in _of(rows, sets, "float32"):
            ours, floor = _median(row, OURS), _median(row, STREAM)
            if ours and floor:
                found.append(Finding(row["set"], f"{floor / ours:.3f}", floor / ours >= least))
        return found

    return judge


def near_stream(sets: tuple[str, ...], part: float, more_us: float, one_launch: bool = False):  # type: ignore[no-untyped-def]
    """Ours within the stream's time / ``part`` + ``more_us``."""

    def judge(rows: list[Row]) -> list[Finding]:
        found = []
        for row in _of(rows, sets, "float32"):
            ours, floor = _median(row, OURS), _median(row, STREAM)
            if ours is None or floor is None:
                continue
            shown, met = f"{time_text(ours)} over {time_text(floor)}", ours <= floor / part + more_us
            if one_launch:
                launches = row.get("launches", {}).get(OURS)
                shown, met = f"{shown}, launches: {launches}", met and launches == 1
            found.append(Finding(row["set"], shown, met))
        return found

    return judge


def times_as_fast(where: str, sets: tuple[str, ...], least: float, dtype: str = "float32"):  # type: ignore[no-untyped-def]
    """torch fused's time over ours."""

    def judge(rows: list[Row]) -> list[Finding]:
        found = []
        for row in _of(rows, sets, dtype):
            ours, theirs = _median(row, OURS), _median(row, REFERENCE[where])
            if ours and theirs:
                found.append(Finding(row["set"], f"{theirs / ours:.2f}x", theirs / ours >= least))
        return found

    return judge


def never_slower(rows: list[Row]) -> list[Finding]:
    """The fastest peer's time over ours, where that is least."""
    worst = []
    for row in rows:
        if row["kind"] not in ("step", "compiled"):
            continue
        ours = _median(row, OURS)
        peers = {n: t["median_us"] for n, t in row["times"].items() if n not in FLOORS and not n.startswith(OURS)}
        if ours and peers:
            fastest = min(peers, key=lambda name: peers[name])
            worst.append((peers[fastest] / ours, fastest, row))
    worst.sort(key=lambda item: item[0])
    slower = [item for item in worst if item[0] < SLOWER]
    return [
        Finding(f"{problem_text(row)}, {name}", f"{ratio:.2f}x", ratio >= SLOWER)
        for ratio, name, row in (slower or worst[:1])
    ]


def host_ratio(least: dict[int, float]) -> Callable[[list[Row]], list[Finding]]:
    """torch fused's host time over ours, by number of tensors."""

    def judge(rows: list[Row]) -> list[Finding]:
        found = []
        for row in rows:
            if row["kind"] == "host" and row["tensors"] in least:
                good = row["ratio"] >= least[row["tensors"]]
                found.append(Finding(f"{row['tensors']} tensors", f"{row['ratio']:.1f}x", good))
        return found

    return judge


def of_a_plain_step(sets: tuple[str, ...], way: str, most: dict[str, float]) -> Callable[[list[Row]], list[Finding]]:
    """Our step with something beside the update over ours without, in float32; ``most``, by rule."""

    def judge(rows: list[Row]) -> list[Finding]:
        found = []
        for row in rows:
            if row["kind"] != "around" or row["set"] not in sets or row["dtype"] != "float32":
                continue
            for pair in row["ratios"]:
                value = pair["to_plain"]
                if pair["side"] == OURS and pair["way"] == way and value is not None and row["rule"] in most:
                    label = f"{row['set']}, {row['rule']}"
                    found.append(Finding(label, f"{value:.2f}x", value <= most[row["rule"]]))
        return found

    return judge


def ahead_of_calls(rows: list[Row]) -> list[Finding]:
    """torch's calls over ours with the same beside the update, where it is 1 or less, or else the least."""
    pairs = [(pair, row) for row in rows if row["kind"] == "around" for pair in row["ratios"] if pair["way"]]
    worst = sorted(
        ((pair["torch_to_ours"], pair, row) for pair, row in pairs if pair["torch_to_ours"] is not None),
        key=lambda item: item[0],
    )
    slower = [item for item in worst if item[0] <= 1]
    return [
        Finding(f"{problem_text(row)}, {pair['ours']}", f"{ratio:.2f}x", ratio > 1)
        for ratio, pair, row in (slower or worst[:1])
    ]


def problem_text(row: Row) -> str:
    """A row's problem in words."""
    more = [row["rule"]] if row.get("rule", "AdamW") != "AdamW" else []
    more += [f"{row['groups']} groups"] if row.get("groups", 1) > 1 else []
    more += ["unaligned"] if row.get("offset") else []
    return ", ".join([row["set"], row["dtype"], *more])


HUGE, LARGE = ("Llama-like 1.1B",), ("ViT-B/16", "GPT-2 124M")
GPT = ("GPT-2 124M",)
MIDDLE, TINY = ("LoRA-7B r8", "ResNet-50"), ("tiny 1000x64", "LoRA r1")


def around_targets(where: str) -> list[Target]:
    """Of steps with something beside the update."""
    clipped = {"AdamW": 1.25, "SGD momentum": 1.35}
    averaged = {"AdamW": 1.35, "SGD momentum": 1.35}
    return [
        Target(
            where,
            "124M with the norm: at most 1.25 (AdamW), 1.35 (SGD) of a step without",
            of_a_plain_step(GPT, NORM, clipped),
        ),
        Target(where, "124M with the average: at most 1.35 of a step without", of_a_plain_step(GPT, AVERAGE, averaged)),
        Target(where, "with norm, average or all: faster than torch's calls, on every set", ahead_of_calls),
    ]


TARGETS = [
    Target("gpu", "1.1B parameters: 0.97 of the stream of the same bytes, or more", part_of_stream(HUGE, 0.97)),
    Target("gpu", "87 to 124M: 0.95 of the stream, or more", part_of_stream(LARGE, 0.95)),
    Target("gpu", "20 to 26M: within the stream's time / 0.93 + 3 µs", near_stream(MIDDLE, 0.93, 3.0)),
    Target("gpu", "tiny sets: within the stream's time + 5 µs, one launch", near_stream(TINY, 1.0, 5.0, True)),
    Target("gpu", "1.1B: 1.15 times as fast as torch fused in a graph", times_as_fast("cuda", HUGE, 1.15)),
    Target("gpu", "tiny sets: 10 times as fast as torch fused in a graph", times_as_fast("cuda", TINY, 10.0)),
    Target("gpu", "never more than 3 % slower than any peer", never_slower),
    Target(
        "gpu",
        "host time of an eager step: 10, 35, 90 times less than torch fused",
        host_ratio({148: 10, 448: 35, 1000: 90}),
    ),
    *around_targets("gpu"),
    Target("cpu", "tiny sets: 10 times as fast as torch fused", times_as_fast("cpu", TINY, 10.0)),
    Target("cpu", "20M in small tensors: 1.4 times as fast", times_as_fast("cpu", ("LoRA-7B r8",), 1.4)),
    Target(
        "cpu",
        "25M and more, float32: never more than 3 % slower",
        times_as_fast("cpu", ("ResNet-50", "embeddings", *LARGE), SLOWER),
    ),
    Target("cpu", "bfloat16: 1.35 times as fast", times_as_fast("cpu", ("LoRA-7B r8", *LARGE), 1.35, "bfloat16")),
    Target("cpu", "never more than 3 % slower than any peer", never_slower),
    Target("cpu", "host time of a step: 10 times less from 148 tensors on", host_ratio({148: 10, 448: 10, 1000: 10})),
    *around_targets("cpu"),
]


def verdict(findings: list[Finding]) -> str:
    """``met``, ``missed`` or ``not measured``."""
    if not findings:
        return "not measured"
    return "met" if all(f.met for f in findings) else "**missed**"
