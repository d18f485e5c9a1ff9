"""docs/migrate.md: what is shown there as one graph trains on a GPU as it does without one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, REAL, Gpu

PAGE = Path(__file__).parent.parent.parent / "docs" / "migrate.md"
CHOICE = 'device = "cuda" if torch.cuda.is_available() else "cpu"'


def _graphed_blocks() -> list[Any]:
    if not PAGE.exists():
        return []
    sections = re.split(r"^## From (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = []
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        after = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0]
        if "graphed(" in after:
            found.append(pytest.param(after, id=title))
    return found


def _trained(code: str, device: str, backend: Any) -> dict[str, Any]:
    """The names that a block leaves."""
    for there, instead in (
        (CHOICE, f"device = {device!r}"),
        ("model.parameters(), ", "model.parameters(), backend=B, "),
    ):
        assert code.count(there) == 1
        code = code.replace(there, instead)
    names = {"B": backend}
    # the same weights and batches on both: drawn by torch's generator of the CPU
    torch.manual_seed(0)
    exec(code, names)  # noqa: S102
    return names


@pytest.mark.parametrize("backend", DEFAULTS)
@pytest.mark.parametrize("code", _graphed_blocks())
def test_it_trains_as_without_a_gpu(code: str, backend: str | None, gpu: Gpu) -> None:
    there, here = _trained(code, DEVICE, gpu.backend(backend)), _trained(code, "cpu", "reference")
    assert there["step"].captures == 1
    assert there["step"].replays >= 50
    assert there["lrs"] == pytest.approx(here["lrs"], rel=1e-12)
    near = 1e-3 if REAL else 1e-5
    for p, expected in zip(there["model"].parameters(), here["model"].parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), expected, rtol=near, atol=near)


def test_there_are_such_blocks() -> None:
    assert len(_graphed_blocks()) == 2 or not PAGE.exists()
