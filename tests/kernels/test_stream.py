"""The floor that the benchmarks measure a step against touches the memory of a step, all of it once."""

from __future__ import annotations

from pathlib import Path

import lane
import pytest
import torch

from fused_sched.optim import AdamW

if lane.reason_unavailable("triton") is not None:
    pytest.skip("the triton backend cannot run here", allow_module_level=True)

from fused_sched.kernels.numerics import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="set TRITON_INTERPRET=1")


def test_the_stream_reads_every_gradient_and_writes_all_else_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from floors import stream_over
    from problems import Problem

    params = [torch.nn.Parameter(torch.randn(n)) for n in (8, 1000, 5000, 24)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = AdamW([{"params": params[:2]}, {"params": params[2:]}], backend="triton")
    optimizer.step()
    touched = [
        (t, p.grad) for p in params for t in (p, optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"])
    ]
    expected = [t.detach() + g for t, g in touched]

    stream_over(optimizer, Problem("dry"), factor=1.0)()

    for (t, _), values in zip(touched, expected, strict=True):
        torch.testing.assert_close(t.detach(), values, rtol=0, atol=0)
