"""What the tests of freeing share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch.nn import Parameter


@pytest.fixture
def only_reference_counts() -> Iterator[None]:
    """Nothing is collected during the test."""
    torch.optim.SGD([Parameter(torch.ones(1))], lr=0.1)  # torch's first import of its compiler keeps frames
    gc.disable()
    yield
    gc.enable()
