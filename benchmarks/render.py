"""Rewrites the generated parts of both READMEs and the charts from the saved rows."""

from __future__ import annotations

import re
from pathlib import Path

import charts
import tables
from harness import RESULTS, Row, kind_of, load
from step import with_launches

HERE = Path(__file__).parent


def _measured_on(data: Row, kinds: tuple[str, ...] = ()) -> str:
    """Machines and versions, and what was left out; of rows of ``kinds``, if any are named."""
    said = []
    for e, there in zip(data["environments"], data["kinds"], strict=True):
        if kinds and not there.intersection(kinds):
            continue
        versions = [f"torch {e['torch']}"]
        versions += [f"{name} {e[key]}" for name, key in (("Triton", "triton"), ("driver", "driver")) if key in e]
        where = f"{e['device']}; {', '.join(versions)}, Python {e['python']}; commit {e['commit']}, {e['date']}."
        said.append(f"{'And' if said else 'Measured'} on {where}")
    left_out = [name for name in data["left_out"] if not kinds or kind_of(name) in kinds]
    if left_out:
        said.append(f"Left out: {'; '.join(left_out)}.")
    return " ".join(said)


def insert(path: Path, sections: dict[str, str]) -> None:
    """Replace what stands between the markers of each section."""
    before = text = path.read_text()
    for name, content in sections.items():
        pattern = re.compile(f"(<!-- {name}: generated -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{path.name} has no section {name!r} between its generated/end markers")
        text = pattern.sub(lambda match, content=content: match[1] + content + "\n" + match[2], text)
    if text != before:
        path.write_text(text)


def _versions(results: Path) -> dict[str, str]:
    """Sections of the rounds in which versions of the update kernel were timed, the first being 1."""
    sections = {}
    for name in ("variants-1", "variants-2", "variants-3"):
        data = load(name, results)
        found = [tables.versions(data["rows"], figure) for figure in ("times", "unrolled")] if data else []
        content = "\n\nTwenty steps in one graph:\n\n".join(found)
        sections[f"gpu {name}"] = f"{content}\n\n{_measured_on(data)}" if data else tables.NOT_RUN
    return sections


def render(
    results: Path = RESULTS, readme: Path = HERE.parent / "README.md", details: Path = HERE / "README.md"
) -> None:
    """Redraw everything from the rows in ``results``."""
    cpu, gpu = load("cpu", results), load("gpu", results)
    if cpu is None:
        raise SystemExit(f"{results} has no cpu.json yet: run make bench")
    rows, on_gpu = cpu["rows"], with_launches(gpu["rows"]) if gpu else []

    def on_cpu(content: str, *kinds: str) -> str:
        return f"{content}\n\n{_measured_on(cpu, kinds)}" if content else tables.NOT_MEASURED

    def from_gpu(content: str) -> str:
        if gpu is None:
            return tables.NOT_RUN
        return f"{content}\n\n{_measured_on(gpu)}" if content else tables.NOT_MEASURED

    charts.ratios(rows, results / "cpu.png", "on the CPU")
    insert(
        readme,
        {
            "cpu step": on_cpu(tables.readme_step(rows), "step"),
            "cpu around": on_cpu(tables.readme_around(rows), "around"),
            "gpu step": from_gpu(tables.readme_step(on_gpu, "cuda")),
            "gpu around": from_gpu(tables.readme_around(on_gpu)),
        },
    )
    errors = tables.lr_error(rows, on_gpu)
    if errors:
        charts.lr_errors(rows, results / "lr_error.png")
        errors = f"![largest relative errors](results/lr_error.png)\n\n{errors}"
    gpu_ratios = tables.step_ratios(on_gpu)
    if gpu_ratios:
        charts.ratios(on_gpu, results / "gpu.png", "on a GPU")
        gpu_ratios = f"![step against torch fused](results/gpu.png)\n\n{gpu_ratios}"
    insert(
        details,
        {
            "targets": tables.targets({"cpu": rows, "gpu": on_gpu}),
            "cpu step": on_cpu(tables.steps(rows), "step"),
            "cpu around": on_cpu(tables.around(rows), "around"),
            "cpu compiled": on_cpu(tables.steps(rows, ("compiled",)), "compiled"),
            "host": on_cpu(tables.host(rows), "host"),
            "scheduler": on_cpu(tables.scheduler(rows), "scheduler"),
            "tracing": on_cpu(tables.tracing(rows), "tracing"),
            "loop": on_cpu(tables.loop(rows), "loop"),
            "scaling": on_cpu(tables.scaling(rows), "scaling"),
            "first step": on_cpu(tables.first_step(rows), "first step", "compiled"),
            "lr error": on_cpu(errors, "lr error"),
            **_versions(results),
            "gpu ratios": from_gpu(gpu_ratios),
            "gpu step": from_gpu(tables.steps(on_gpu, ("step", "compiled"))),
            "gpu around": from_gpu(tables.around(on_gpu)),
            "gpu cold": from_gpu(tables.steps(on_gpu, figure="cold")),
            "gpu unrolled": from_gpu(tables.steps(on_gpu, figure="unrolled")),
            "gpu host": from_gpu(tables.host(on_gpu)),
            "gpu loop": from_gpu(tables.loop(on_gpu)),
            "gpu scheduler": from_gpu(tables.scheduler(on_gpu)),
            "gpu scaling": from_gpu(tables.scaling(on_gpu)),
            "gpu first step": from_gpu(tables.first_step(on_gpu)),
        },
    )
