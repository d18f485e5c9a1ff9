"""Fixtures for tests that run kernels in Triton's interpreter."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
import pytest


def _exact_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    from triton.runtime.interpreter import TensorHandle

    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    double = z.data.dtype == np.float64
    function, number = (libm.fma, ctypes.c_double) if double else (libm.fmaf, ctypes.c_float)
    function.restype, function.argtypes = number, [number] * 3
    result = np.frompyfunc(function, 3, 1)(x.data, y.data, z.data)
    return TensorHandle(np.asarray(result).astype(z.data.dtype), z.dtype.scalar)


@pytest.fixture(autouse=True)
def _multiply_add_rounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter rounds tl.fma twice; hardware and later interpreters do not."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    if not hasattr(interpreter._interpreter, "fma_fp32"):
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", _exact_fma)
