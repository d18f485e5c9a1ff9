"""DTensor parameters of every placement are updated as torch's for-loop updates the whole tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerances import UPDATE_RELATIVE

from distributed.ranks import Ranks
from distributed.updates import follow

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "AdamW": {"lr": 0.1, "amsgrad": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_placement(name: str, backend: str, dtype: torch.dtype, ranks: Ranks) -> None:
    options = {**OPTIONS[name], "backend": backend}
    worst = ranks.run(2, follow, name, [(2,)], options, dtype)
    assert max(worst) <= UPDATE_RELATIVE[dtype]


@pytest.mark.parametrize("name", OPTIONS)
def test_meshes_of_two_dimensions_beside_those_of_one(name: str, ranks: Ranks) -> None:
    worst = ranks.run(4, follow, name, [(2, 2), (4,)], OPTIONS[name], torch.float64)
    assert max(worst) <= UPDATE_RELATIVE[torch.float64]
