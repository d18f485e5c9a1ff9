"""Whatever is done to an optimizer, ours and torch's stay alike."""

from __future__ import annotations

import pytest
from schedule_twins import AnyBackend, name_of, patience
from tolerances import SCHEDULE_RELATIVE

from identity.machine import Machine, run

SEQUENCES = {"cpu": 20, "reference": 5}


def test_whatever_python_allows(backend: AnyBackend, mirrored: bool, seed: int) -> None:
    if patience(backend, 10) < 10:
        pytest.skip("Triton's interpreter takes minutes: the compiled kernels do it")
    name = name_of(backend)
    relative = 0.0 if name == "cpu" else SCHEDULE_RELATIVE
    run(Machine, seed, SEQUENCES.get(name, 5), backend=backend, where={"lr_relative": relative})
