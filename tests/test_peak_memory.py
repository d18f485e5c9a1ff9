"""A step takes no memory of the size of a parameter, whatever it does beside the update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fused_sched import backends
from fused_sched.optim import SGD, AdamW

SIZE = 1_000_000
AROUND: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"max_grad_norm": 1.0},
    "skipping": {"skip_nonfinite": True},
    "averaged": {"ema_decay": 0.9},
    "zeroing": {"zero_grad_in_step": True},
    "all": {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.9, "zero_grad_in_step": True},
}


def peak_bytes(call: Any) -> int:
    """The most memory that torch handed out at a time during a call, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    changes, queue = [], list(events)
    while queue:
        event = queue.pop()
        queue += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    now = peak = 0
    for _, size in sorted(changes):
        now += size
        peak = max(peak, now)
    return peak


def test_the_measurement_sees_temporaries() -> None:
    x = torch.ones(SIZE)
    assert peak_bytes(lambda: (x * 2).add_(1)) >= 4 * SIZE
    assert peak_bytes(lambda: x.mul_(2)) < 10_000


@pytest.mark.skipif(backends.reason_unavailable("cpu") is not None, reason="the extension was not built")
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_a_step_takes_next_to_no_memory(make: Any, around: str) -> None:
    params = [torch.nn.Parameter(torch.ones(SIZE)), torch.nn.Parameter(torch.ones(SIZE, dtype=torch.bfloat16))]
    optimizer = make(params, lr=0.1, backend="cpu", **AROUND[around])
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()  # makes the state
    assert peak_bytes(optimizer.step) < 10_000


@pytest.mark.skipif(backends.reason_unavailable("cpu") is not None, reason="the extension was not built")
def test_averages_of_a_parameters_dtype_change_places_in_pieces() -> None:
    p = torch.nn.Parameter(torch.ones(5 * SIZE))
    optimizer = SGD([p], lr=0.1, backend="cpu", ema_decay=0.5)
    p.grad = torch.ones_like(p)
    optimizer.step()

    def evaluate() -> None:
        with optimizer.ema_weights():
            pass

    assert peak_bytes(evaluate) < 4 * SIZE * 2
