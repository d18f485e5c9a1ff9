"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings

_BETWEEN = ("fused_sched", "torch")  # whose frames are passed over: torch wraps every step of an optimizer


def warn(message: str) -> None:
    """Warn at the line of the nearest caller that is neither of this package nor of torch."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level + 1)
