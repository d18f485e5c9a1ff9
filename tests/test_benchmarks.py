"""The benchmarks: the gate refuses what is wrong, the harness is fair, every entry point runs, tables are the rows'."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
sys.path.append(str(Path(__file__).parent.parent / "examples"))

import around
import captured_loop
import contenders
import floors
import harness
import parts
import problems
import render
import schedules
import step
import summary
import tables
import targets
from device import Dry, Host
from peers import apex_like
from problems import Around, Problem, Tensors
from processes import run_python

import fused_sched.lr_scheduler
import fused_sched.optim
from fused_sched.backends.reference import ReferenceBackend

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
DRY = [problem for problem in step.DRY_PROBLEMS if problem.recipe == "float32"]


def run(command: list[str], timeout: int = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# -- the harness -------------------------------------------------------------------------------------


def test_candidates_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = harness.interleave(calls, seconds=0.0, rounds=4, calls=dict.fromkeys(calls, 2))
    assert order[3:] == list("aabbcc") * 4
    assert all(t["samples"] == 4 and t["calls"] == 2 for t in times.values())
    assert all(t["low_us"] <= t["median_us"] <= t["high_us"] for t in times.values())


def test_a_plan_saves_what_fits_and_names_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> list[dict[str, Any]]:
        raise ValueError("no such thing")

    path = tmp_path / "rows.json"
    plan = harness.Plan(100.0, path)
    plan.add("a", "first", 1, lambda: [{"x": 1}])
    plan.add("b", "broken", 1, fails)
    plan.add("c", "too long", 1000, lambda: [{"x": 2}])
    plan.add("d", "last", 1, lambda: [{"x": 3}])
    plan.run()
    saved = json.loads(path.read_text())
    assert saved["rows"] == [{"kind": "a", "x": 1}, {"kind": "d", "x": 3}]
    assert saved["cut"] == ["c: too long"]
    assert saved["failed"] == ["b: broken: ValueError: no such thing"]
    assert {"device", "torch", "triton", "python", "commit", "date"} <= saved["environment"].keys()
    printed = capsys.readouterr().out
    assert "cut, for want of time: c: too long" in printed
    assert "FAILED b: broken" in printed


def _saved(folder: Path, name: str, **content: Any) -> None:
    empty = {"environment": {"device": "a"}, "measured": [], "cut": [], "failed": [], "rows": []}
    (folder / f"{name}.json").write_text(json.dumps({**empty, **content}))


def test_parts_are_put_together(tmp_path: Path) -> None:
    assert harness.load("gpu", tmp_path) is None
    left_out = {"cut": ["step: x", "step: y"], "failed": ["step: z: ValueError: no", "step: z, more: ValueError: no"]}
    _saved(tmp_path, "gpu-full", measured=["loop: "], rows=[{"kind": "loop"}], **left_out)
    _saved(tmp_path, "gpu-rest", measured=["step: x", "step: z"], rows=[{"kind": "step"}])
    _saved(tmp_path, "cpu", environment={"device": "b"})
    data = harness.load("gpu", tmp_path)
    assert data is not None
    assert data["environments"] == [{"device": "a"}]
    assert data["rows"] == [{"kind": "loop"}, {"kind": "step"}]
    assert data["left_out"] == ["step: y", "step: z, more: ValueError: no"]
    is_unfinished = parts.unfinished(tmp_path / "gpu-full.json")
    assert [n for n in ("step: x", "step: z", "step: z, more", "step: w", "loop: ") if is_unfinished(n)] == [
        "step: x", "step: z", "step: z, more",
    ]  # fmt: skip
    _saved(tmp_path, "gpu")
    with pytest.raises(SystemExit, match=r"has gpu\.json and gpu-full\.json: remove one"):
        harness.load("gpu", tmp_path)


def test_rows_of_one_kind_are_put_beside_the_others(tmp_path: Path) -> None:
    rows = [{"kind": "step", "x": 1}, {"kind": "around", "x": 1}]
    said = {"measured": ["step: x", "around: x"], "cut": ["around: z", "step: y"], "failed": ["around: y: no"]}
    _saved(tmp_path, "cpu", rows=rows, **said)
    for x in (2, 3):
        plan = harness.Plan(100.0, tmp_path / "cpu.json", "around")
        plan.add("step", "x", 0, lambda: pytest.fail("this kind was not asked for"))
        plan.add("around", "x", 0, lambda x=x: [{"x": x}])
        plan.run()
        data = harness.load("cpu", tmp_path)
        assert data is not None
        assert data["rows"] == [{"kind": "step", "x": 1}, {"kind": "around", "x": x}]
        assert data["left_out"] == ["step: y"]
        assert data["kinds"] == [{"step"}, {"around"}]
        assert data["environments"] == [{"device": "a"}, harness.environment()]
    unknown = harness.Plan(100.0, tmp_path / "cpu.json", "arond")
    unknown.add("around", "x", 0, list)
    assert unknown.empty


# -- the gate ----------------------------------------------------------------------------------------


def _spoiled(what: str) -> contenders.Contender:
    """torch's for-loop with one thing wrong."""

    def build(tensors: problems.Tensors, device: Host) -> contenders.Built:
        built = contenders.torch_eager("", **contenders.FOR_LOOP).build(tensors, device)
        right, count = built.step, iter(range(1000))
        largest = max(tensors.params, key=torch.Tensor.numel)

        def broken() -> None:
            before = largest.detach().clone()
            i = next(count)
            if what == "raises":
                raise ValueError("cannot do this")
            if what == "one step less" and i == 4:
                return
            right()
            if what == "one element less":
                largest.detach().view(-1)[100] = before.view(-1)[100]
            if what == "not a number":
                largest.detach().view(-1)[3] = float("nan")

        built.step = built.optimizer.step if what == "no schedule" else broken
        return built

    return contenders.Contender(what, build)


def test_the_gate_refuses_what_is_wrong_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = problems.Tensors(problems.Problem("dry"), "cpu")
    wrong = ["one step less", "one element less", "not a number", "no schedule", "raises"]
    chosen = [contenders.torch_eager("right", **contenders.FOR_LOOP), *map(_spoiled, wrong)]
    entered, absent = contenders.enter_all(chosen, tensors, Host())
    assert [*entered] == ["right"]
    assert [*absent] == wrong
    assert absent.pop("raises") == "failed: ValueError: cannot do this"
    assert all(why.startswith("wrong result") for why in absent.values()), absent
    assert "no row for one element less: wrong result" in capsys.readouterr().out


@pytest.mark.parametrize("problem", step.DRY_PROBLEMS, ids=str)
def test_a_sound_contender_passes_and_a_missing_one_is_named(problem: problems.Problem) -> None:
    tensors = problems.Tensors(problem, "cpu")
    before = [p.detach().clone() for p in tensors.params]
    entered, absent = contenders.enter_all(step.CPU_CONTENDERS, tensors, Host())
    assert contenders.OURS in entered or absent[contenders.OURS].startswith("not supported"), absent
    wrong = {name: why for name, why in absent.items() if why.startswith("wrong")}
    if (problem.recipe, problem.rule) == ("float32", "AdamW"):
        assert not wrong
        assert {"torch fused", "torch foreach", "torch for-loop"} <= entered.keys()
    tensors.reset()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors.params, strict=True))


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("optimi", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, name, None)
    tensors = problems.Tensors(problems.Problem("dry"), "cpu")
    others = [step.optimi("a"), step.bitsandbytes("b")]
    _, absent = contenders.enter_all(others, tensors, Host())
    assert {why.partition(":")[0] for why in absent.values()} <= {"not installed"}
    assert absent.keys() == {"a", "b"}


# -- what stands around a step -----------------------------------------------------------------------

AROUND = around.DRY_PROBLEMS


@pytest.mark.parametrize("problem", AROUND, ids=str)
def test_ours_and_torchs_pass_with_what_stands_around_a_step(problem: Problem) -> None:
    tensors = Tensors(problem, "cpu")
    entered, absent = around.enter(around.takes_part(problem, Host()), tensors, Host())
    assert not absent
    (side,) = around.sides(Host())
    ways = around.ways(problem)
    pairs = {way: side.pair(way, each) for way, each in ways.items()}
    assert {name for pair in pairs.values() for name in pair} == entered.keys()
    assert (around.NARROW in ways) == (problem.recipe == "bfloat16")
    for way, names in pairs.items():
        for name in names:
            assert (entered[name].average_error is not None) == (ways[way].average is not None)
            assert entered[name].built.zeroes == ways[way].zeros


def _around_spoiled(what: str) -> contenders.Contender:
    """torch's calls with one of them wrong or missing."""

    def build(tensors: Tensors, device: Host) -> contenders.Built:
        with pytest.MonkeyPatch.context() as patch:
            if what == "another decay":
                patch.setattr(around, "DECAY", 0.99)
            ways = {
                "no clipping": Around(average="float32", zeros=True),
                "no zeros": Around(norm=True, average="float32"),
            }
            built = around.torchs(ways.get(what, around.WAYS[around.ALL])).build(tensors, device)
        built.scales, built.zeroes = problems.SCALES, True
        right, averages, count = built.step, built.averages, iter(range(1000))
        if what == "an average that stands still":
            first: list[torch.Tensor] = []
            built.averages = lambda: first

            def step() -> None:
                right()
                if next(count) == 0:
                    first.extend(a.clone() for a in averages())  # type: ignore[misc]

            built.step = step
        if what == "parameters for averages":
            built.averages = lambda: list(tensors.params)
        return built

    return contenders.Contender(what, build)


def test_the_gate_looks_at_what_stands_around_a_step() -> None:
    wrong = ["no clipping", "no zeros", "another decay", "an average that stands still", "parameters for averages"]
    tensors = Tensors(AROUND[0], "cpu")
    entered, absent = around.enter([_around_spoiled(what) for what in ["right", *wrong]], tensors, Host())
    assert [*entered] == ["right"]
    assert [*absent] == wrong
    assert "other gradients than zeros" in absent.pop("no zeros")
    assert "way an element goes" in absent.pop("no clipping")
    assert all("way an average goes" in why for why in absent.values()), absent


def test_gradients_are_put_back_before_a_sample() -> None:
    tensors = Tensors(AROUND[0], "cpu")
    tensors.keep_gradients()
    first = [p.grad.clone() for p in tensors.params]
    seen = []

    def look() -> None:
        seen.append(all(torch.equal(p.grad, g) for p, g in zip(tensors.params, first, strict=True)))

    def zero() -> None:
        look()
        for p in tensors.params:
            p.grad.zero_()

    steps = {"zeroes": contenders.Built(zero, writes=True), "looks": contenders.Built(look)}
    entered = {name: contenders.Entered(b.step, b, None, 0.0, 0.0, None) for name, b in steps.items()}
    sample = around._sampler(tensors, entered, Host())
    zero()
    seen.clear()
    for step_of in (zero, look, look, zero, zero):
        sample(step_of, 1)
    assert seen == [True] * 5
    sample(zero, 2)
    assert seen[5:] == [True, False]


def test_bytes_of_a_step_with_what_stands_around_it() -> None:
    """The gradient once more for the norm, and once for zeros; the average both ways."""
    expected = {"AdamW": [28, 32, 36, 36, 44], "SGD momentum": [20, 24, 28, 28, 36]}
    for rule, bytes_each in expected.items():
        problem = Problem("dry", rule=rule)
        assert [way.bytes(problem) / problem.elements for way in around.WAYS.values()] == bytes_each
    problem = Problem("dry", "bfloat16")
    assert [way.bytes(problem) / problem.elements for way in around.WAYS.values()] == [14, 16, 22, 18, 26]
    for recipe, bytes_each in {"bfloat16, states float32": [22, 30, 26], "bfloat16": [14, 22, 18]}.items():
        problem = Problem("dry", recipe)
        ways = [Around(master=kept) for kept in (None, "float32", "remainder")]
        assert [way.bytes(problem) / problem.elements for way in ways] == bytes_each
    assert Problem("dry", "float32, states bfloat16").bytes == 20 * problem.elements


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("master", ["float32", "remainder"])
def test_streams_over_masters(master: str) -> None:
    pytest.importorskip("triton")
    from fused_sched.kernels.numerics import INTERPRETED

    if not INTERPRETED:
        pytest.skip("set TRITON_INTERPRET=1")
    p = torch.nn.Parameter(torch.randn(4096).bfloat16())
    p.grad = torch.randint(1, 9, p.shape).bfloat16()
    optimizer = fused_sched.optim.AdamW([p], backend="triton", master_weights=master)
    optimizer.step()
    kept = optimizer.state[p]["master" if master == "float32" else "remainder"]
    kept.fill_(7)
    problem = Problem("dry", "bfloat16, states float32")
    floors.stream_over(optimizer, problem, 1.0, Around(master=master))()
    assert (kept != 7).any()  # by what, Triton's interpreter has other bfloat16 arithmetic
    floors.cpu_streams(problem, {"": Around(master=master)})[""]()


def test_streams_over_averages_gradients_and_zeros() -> None:
    pytest.importorskip("triton")
    from fused_sched.kernels.numerics import INTERPRETED

    if not INTERPRETED:
        pytest.skip("set TRITON_INTERPRET=1")
    params = [torch.nn.Parameter(torch.randn(n)) for n in (8, 1000, 5000)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = fused_sched.optim.AdamW(params, backend="triton", ema_decay=0.9)
    optimizer.step()
    touched = [(t, p.grad) for p in params for t in (p, *(optimizer.state[p][k] for k in ("exp_avg", "ema")))]
    expected = [t.detach() + g for t, g in touched]
    floors.stream_over(optimizer, Problem("dry"), 1.0, Around(True, "float32", True))()
    for (tensor, gradient), values in zip(touched, expected, strict=True):
        torch.testing.assert_close(tensor.detach(), values, rtol=0, atol=0)
        assert not gradient.any()


def test_tables_of_what_stands_around_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "MOST_CALLS", 1)
    problem = AROUND[2]
    row = {"kind": "around", **around.measure(problem, Host(), 0.0)[0]}
    json.dumps(row)
    assert row["bytes"] == {way: each.bytes(problem) // problem.elements for way, each in around.ways(problem).items()}
    names = {pair[key] for pair in row["ratios"] for key in ("ours", "torch", "stream")}
    assert names == row["times"].keys()
    text = tables.around([row])
    assert text.count("\n") == 1 + len(around.WAYS)
    assert "graph nodes" not in text
    assert "| average in 16 bits | 18 |" in text
    assert f"| nothing | norm | average | {around.ALL} |" in tables.readme_around([row])


@pytest.mark.slow
def test_what_stands_around_a_step_in_a_dry_run_of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"kind": "around", **around.measure(AROUND[1], Dry(), 0.0)[0]}
    counted = {"kind": "around launches", **around.launches(AROUND[1], Dry())[0]}
    captured = [pair for pair in row["ratios"] if pair["side"] == contenders.OURS]
    assert [pair["way"] for pair in captured] == [*around.ways(AROUND[1])]
    assert {name for pair in captured for name in (pair["ours"], pair["torch"])} <= row["nodes"].keys()
    assert {pair["stream"] for pair in captured} <= row["times"].keys()
    assert all(why.startswith("not available") and "backend cuda" in name for name, why in row["absent"].items())
    joined, _ = step.with_launches([row, counted])
    assert joined["launches"] == counted["launches"]
    text = tables.around([joined])
    assert "| fused_sched, eager | norm |" in text
    assert "| 1/1 | 1/1 |" in text
    summary.show([row, counted])
    assert "around dry, float32, SGD momentum, 3 groups, triton: " in capsys.readouterr().out


def _pair(side: str, way: str, to_plain: float | None, torch_to_ours: float | None) -> dict[str, Any]:
    return {"side": side, "way": way, "ours": way, "to_plain": to_plain, "torch_to_ours": torch_to_ours}


def test_targets_of_what_stands_around_a_step() -> None:
    def verdicts(rule: str, *pairs: dict[str, Any]) -> list[str]:
        row = {"kind": "around", "set": "GPT-2 124M", "dtype": "float32", "rule": rule, "ratios": [*pairs]}
        return [targets.verdict(t.judge([row])) for t in targets.around_targets("cpu")]

    ours = contenders.OURS
    good = [_pair(ours, "", 1.0, 0.9), _pair(ours, around.NORM, 1.25, 1.1), _pair(ours, around.AVERAGE, 1.3, 1.01)]
    assert verdicts("AdamW", *good) == ["met"] * 3
    bad = [_pair(ours, around.NORM, 1.3, 1.1), _pair(ours, around.AVERAGE, 1.4, 1.0)]
    assert verdicts("AdamW", *bad) == ["**missed**"] * 3
    assert verdicts("SGD momentum", *bad[:1]) == ["met", "not measured", "met"]
    assert verdicts("AdamW", _pair(ours, around.NORM, None, None)) == ["not measured"] * 3
    assert verdicts("AdamW", _pair("fused_sched, eager", around.ALL, 9.0, 0.5))[2] == "**missed**"


# -- versions of a kernel ----------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [problems.Problem("dry"), problems.Problem("dry", groups=3)], ids=str)
def test_versions_are_held_to_the_bits_of_the_first(problem: problems.Problem) -> None:
    pytest.importorskip("triton")
    import variants

    class Lazy(ReferenceBackend):
        """Leaves out the last step of the check."""

        steps = 0

        def update(self, update: fused_sched.backends.Update) -> None:
            self.steps += 1
            if self.steps < contenders.WARM_UP:
                super().update(update)

    exchanged = variants.Exchanged(ReferenceBackend())
    versions = variants.Versions(
        fused_sched.optim, fused_sched.lr_scheduler, problems.Tensors(problem, "cpu"), exchanged
    )
    versions.check(Host())
    exchanged.now = ReferenceBackend()
    versions.check(Host())
    exchanged.now = Lazy()
    with pytest.raises(RuntimeError, match="other bits than the first version's"):
        versions.check(Host())


# -- the replica of Apex's pattern -------------------------------------------------------------------

# Tensors at 36 a launch and 65,536-element chunks at 320 a launch, by hand.
LAUNCHES = [([64] * 1000, 28), ([64] * 36, 1), ([64] * 37, 2), ([65536 * 321], 2), ([0, 0], 0), ([65536 * 640, 1], 3)]


def _built(arch: str | None) -> None:
    try:
        apex_like.library(arch)
    except apex_like.Unavailable as why:
        pytest.skip(str(why))


@pytest.mark.parametrize(("sizes", "expected"), LAUNCHES)
def test_launches_of_apex_like(sizes: list[int], expected: int) -> None:
    _built(None)
    assert apex_like.launches(sizes) == expected


def test_apex_like_is_right_when_run_on_the_host() -> None:
    _built(None)
    for problem in (problems.Problem("dry", groups=3), problems.Problem("dry", "bfloat16, states float32")):
        tensors = problems.Tensors(problem, "cpu")
        entered, absent = contenders.enter_all([step.apex_like("Apex-like")], tensors, Dry())
        assert "Apex-like" in entered, absent


def test_apex_like_compiles_for_a_gpu() -> None:
    _built("sm_90")
    assert apex_like.launches([64] * 1000, "sm_90") == 28


# -- every entry point -------------------------------------------------------------------------------


def _results() -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in sorted((BENCHMARKS / "results").iterdir())}


@pytest.mark.slow
def test_dry_run_on_the_cpu() -> None:
    before = _results()
    done = run([sys.executable, str(BENCHMARKS / "run.py"), "--dry-run"], TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "FAILED" not in done.stdout
    assert _results() == before


def test_an_unknown_kind_of_rows_is_refused() -> None:
    before = _results()
    done = run([sys.executable, str(BENCHMARKS / "run.py"), "--only", "arond"], TRITON_INTERPRET="0")
    assert done.returncode == 2
    assert "there are no rows of the kind 'arond'" in done.stderr
    assert _results() == before


def test_gpu_benchmarks_need_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = run([sys.executable, str(BENCHMARKS / "gpu.py")], TRITON_INTERPRET="0")
    assert done.returncode == 2
    assert "no CUDA device was found" in done.stderr


@pytest.mark.slow
def test_micro_benchmarks_run() -> None:
    arguments = ["-q", "-p", "no:cacheprovider", "--benchmark-disable", "--import-mode=prepend"]
    done = run([sys.executable, "-m", "pytest", *arguments, str(BENCHMARKS / "bench_micro.py")])
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_scheduler_of_torchs_is_measured() -> None:
    names = {name for name in fused_sched.lr_scheduler.__all__ if hasattr(schedules.TORCH, name)}
    assert names <= {case.name for case in schedules.CASES}
    assert {case.name for case in schedules.present()} <= names


# -- tables ------------------------------------------------------------------------------------------


def test_generated_parts_are_made_from_the_saved_rows(tmp_path: Path) -> None:
    results, readme, details = _copies(tmp_path)
    render.render(results, readme, details)
    assert readme.read_text() == (ROOT / "README.md").read_text()
    assert details.read_text() == (BENCHMARKS / "README.md").read_text(), "run benchmarks/run.py --render"


def _copies(folder: Path) -> tuple[Path, Path, Path]:
    results = folder / "results"
    shutil.copytree(BENCHMARKS / "results", results)
    paths = results, folder / "README.md", folder / "DETAILS.md"
    shutil.copy(ROOT / "README.md", paths[1])
    shutil.copy(BENCHMARKS / "README.md", paths[2])
    return paths


@pytest.mark.slow
def test_tables_of_a_gpu(tmp_path: Path) -> None:
    """From rows of a dry run, that stand for a GPU's; without any, each part says that it was not run."""
    results, readme, details = _copies(tmp_path)
    for path in results.glob("gpu*.json"):
        path.unlink()
    render.render(results, readme, details)
    assert tables.NOT_RUN in readme.read_text()
    assert details.read_text().count(tables.NOT_RUN) == 10
    rows = [
        {"kind": "step", **row}
        for problem in DRY[:1]
        for row in step.measure(problem, step.gpu_contenders(problem), Dry(), 0.0)
    ]
    environment = {"device": "stand-in", "torch": "0", "triton": "0", "driver": "0", "python": "0", "commit": "0"}
    saved = {"environment": {**environment, "date": "0"}, "cut": ["step: other"], "failed": [], "rows": rows}
    (results / "gpu.json").write_text(json.dumps(saved))
    render.render(results, readme, details)
    text = details.read_text()
    assert tables.NOT_RUN not in text
    for name in (contenders.OURS, "torch fused, graph", "Apex-like (our replica), graph", floors.STREAM):
        assert name in text
    assert "Left out: step: other" in text
    assert "stand-in; torch 0, Triton 0, driver 0" in text


def _row(ours: float, theirs: float, stream: float, **more: Any) -> dict[str, Any]:
    times = {contenders.OURS: ours, step.REFERENCE["cuda"]: theirs, floors.STREAM: stream}
    row = {"kind": "step", "set": "Llama-like 1.1B", "dtype": "float32", "ratio": theirs / ours}
    return {**row, "times": {name: {"median_us": us} for name, us in times.items()}, **more}


def test_targets_are_met_missed_or_not_measured() -> None:
    def verdicts(rows: list[dict[str, Any]]) -> list[str]:
        return [targets.verdict(t.judge(rows)) for t in targets.TARGETS if t.where == "gpu"]

    assert set(verdicts([])) == {"not measured"}
    good, bad = _row(10.0, 12.0, 9.8), _row(10.0, 9.0, 9.0)
    assert verdicts([good]).count("met") == 3  # of the stream, of torch's time, of no peer
    assert verdicts([bad]).count("**missed**") == 3
    tiny = {"set": "LoRA r1", "launches": {contenders.OURS: 2}}
    assert "**missed**" in verdicts([_row(6.0, 100.0, 3.0, **tiny)])
    assert "**missed**" not in verdicts([_row(6.0, 100.0, 3.0, **{**tiny, "launches": {contenders.OURS: 1}})])


@pytest.mark.slow
def test_launches_are_counted_apart_and_shown_beside_the_times(capsys: pytest.CaptureFixture[str]) -> None:
    problem = step.DRY_PROBLEMS[0]
    timed = step.measure(problem, step.GPU_CAPTURED, Dry(), 0.0)
    assert "launches" not in timed[0]
    counted = step.launches(problem, step.GPU_CAPTURED, Dry())
    assert counted[0]["launches"][contenders.OURS] == 1
    assert counted[0]["launches"].keys() <= {c.name for c in step.GPU_CAPTURED}
    other = {"kind": "step", **timed[0], "dtype": "bfloat16"}
    rows = [{"kind": "step", **timed[0]}, other, {"kind": "launches", **counted[0]}]
    joined = step.with_launches(rows)
    assert [row.get("launches") for row in joined] == [counted[0]["launches"], None, counted[0]["launches"]]
    assert "| 1/1 | 1/1 |" in tables.step_ratios(joined)
    summary.show(rows)
    assert "launches, dry, float32: fused_sched 1" in capsys.readouterr().out


def test_what_fits_a_cache_is_counted_once() -> None:
    """Parameter, gradient and two states; read and written makes 28 bytes an element."""
    problem = problems.Problem("dry")
    assert problem.footprint == 16 * problem.elements
    assert problem.bytes == 28 * problem.elements
    assert problems.Problem("dry", "bfloat16, states float32").footprint == 12 * problem.elements
    of_resnet = problems.Problem("ResNet-50", "bfloat16", rule="SGD momentum")
    assert of_resnet.footprint == 6 * of_resnet.elements


@pytest.mark.slow
def test_a_working_set_that_fits_is_timed_cold_too(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = step.DRY_PROBLEMS[0]
    for limit, small in ((problem.footprint, False), (problem.footprint + 1, True)):
        monkeypatch.setattr(step, "COLD_BYTES", limit)
        row = step.measure(problem, step.GPU_CORE, Dry(), 0.0)[0]
        assert ("cold" in row) == ("unrolled" in row) == small


def test_every_problem_on_a_gpu_is_in_one_part() -> None:
    chosen = [*step.GPU_MAIN, *step.GPU_FURTHER]
    assert len(set(chosen)) == len(chosen)
    assert {problems.Problem(name) for name in step.PLAIN} <= set(chosen)
    assert set(step.GPU_COUNTED) <= set(step.GPU_MAIN)
    assert len(set(around.PROBLEMS)) == len(around.PROBLEMS)
    assert set(around.COUNTED) <= set(around.PROBLEMS)


def test_rows_that_lose_are_shown() -> None:
    times = {"torch fused": 1.0, contenders.OURS: 2.0}
    row = _row(2.0, 1.0, 1.0, tensors=1, parameters=1, rule="SGD momentum")
    row["times"] = {name: {"median_us": us} for name, us in times.items()}
    assert "0.50x" in tables.readme_step([row])


# -- the example -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("by_hand", [True, False])
def test_example_of_a_captured_loop_trains_without_a_gpu_too(by_hand: bool, fused: bool) -> None:
    kind = captured_loop.TrainingLoop if by_hand else captured_loop.Training
    loop = kind("cpu", features=32, batch=32, steps=60, fused=fused)
    step = loop.captured_step() if by_hand else loop.graphed_step()
    losses = [step().item() for _ in range(57 if by_hand else 60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert loop.scheduler.last_epoch == 60
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("options", [[], ["--by-hand", "--scheduler", "separate"]], ids=["graphed", "by hand"])
def test_example_says_that_there_is_no_gpu(options: list[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = run_python([ROOT / "examples" / "captured_loop.py", "--steps", "20", *options], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no GPU was found")
    assert "eager" in done.stdout
