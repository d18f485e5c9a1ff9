"""The methods of torch's scheduler classes, and others in their places."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

_KINDS = types.FunctionType, property, staticmethod


def methods(cls: type) -> list[str]:
    """Names of those that a user may replace: what a user calls alone is found by Python itself."""
    found = {n for c in cls.__mro__[:-1] for n, x in c.__dict__.items() if isinstance(x, _KINDS)}
    return sorted(n for n in found if not n.startswith("__") and n not in ("state_dict", "load_state_dict"))


def replaced(cls: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """What a class has under ``name`` once ``around`` made another function of its."""
    original = next(c.__dict__[name] for c in cls.__mro__ if name in c.__dict__)
    if isinstance(original, property):
        assert original.fget is not None
        return property(around(original.fget))
    made = around(getattr(original, "__func__", original))
    return staticmethod(made) if isinstance(original, staticmethod) else made
