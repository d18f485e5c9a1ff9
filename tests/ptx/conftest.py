"""What the tests of this folder share."""

from __future__ import annotations

import os
import shutil

import pytest

from ptx import watch_memory


@pytest.fixture(autouse=True, scope="session")
def _memory_is_watched() -> None:
    if not (shutil.which("g++") or os.environ.get("CXX")):
        pytest.skip("no C++ compiler")
    watch_memory()
