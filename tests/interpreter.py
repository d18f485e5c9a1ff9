"""What Triton's interpreter lacks to compute as a GPU does."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
import pytest

_fma64 = ctypes.CDLL(ctypes.util.find_library("m")).fma
_fma64.restype, _fma64.argtypes = ctypes.c_double, [ctypes.c_double] * 3


def _fma32(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """In float64 the product is exact; the sum is rounded to odd, so that rounding it again is right."""
    product, addend = x.astype(np.float64) * y, z.astype(np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    bits = np.ascontiguousarray(total).view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)
    odd = bits + np.where((error != 0) & np.isfinite(error) & (bits & 1 == 0), away, 0)
    return odd.view(np.float64).astype(np.float32)


def _exact_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    from triton.runtime.interpreter import TensorHandle

    if z.data.dtype == np.float64:
        result = np.asarray(np.frompyfunc(_fma64, 3, 1)(x.data, y.data, z.data)).astype(np.float64)
    else:
        result = _fma32(x.data, y.data, z.data)
    return TensorHandle(result, z.dtype.scalar)


def _patch_lang_tensor(original: Any) -> Any:
    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    return patch


def imitate_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter rounds tl.fma twice, and numpy 2.4 refuses how it reads the ends of a range."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not hasattr(interpreter, "_interpreter") or not hasattr(interpreter._interpreter, "fma_fp32"):
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", _exact_fma)
        monkeypatch.setattr(interpreter, "_patch_lang_tensor", _patch_lang_tensor(interpreter._patch_lang_tensor))
