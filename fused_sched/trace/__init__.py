"""A Python function of the step becomes a program, by running its code on a symbolic step; see docs/tracing.md."""

from .function import Given, Traced, emit_per_group, trace, trace_all
from .paths import Untraceable

__all__ = ["Given", "Traced", "Untraceable", "emit_per_group", "trace", "trace_all"]
