"""These tests are collected by `make test-frameworks`, which has all of the frameworks in an environment of its own."""

from __future__ import annotations

import os

import pytest
import torch
from distributed.conftest import ranks

__all__ = ["ranks"]

collect_ignore_glob = [] if "FUSED_SCHED_TEST_FRAMEWORKS" in os.environ else ["test_*.py"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """More cost more than they bring with models as small as these."""
    torch.set_num_threads(1)
