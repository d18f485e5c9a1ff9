"""Fixtures of the parity tests."""

from __future__ import annotations

import pytest
import torch

from fused_sched import backends


@pytest.fixture
def cpu_with_fma() -> str:
    """The C++ backend, where torch's own kernels use fused multiply-add, as ours always do."""
    reason = backends.reason_unavailable("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu cannot run here: {reason}")
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("torch's kernels round products here: equal bits are not to be expected")
    return "cpu"
