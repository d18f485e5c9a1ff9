"""A Python function of the step becomes a program: symbolic execution, checked against the function itself."""

from .explore import Untraceable
from .function import Traced, emit_per_group, trace, trace_all
from .scheduler import TracedScheduler, trace_get_lr
from .time_limit import call_within

__all__ = [
    "Traced",
    "TracedScheduler",
    "Untraceable",
    "call_within",
    "emit_per_group",
    "trace",
    "trace_all",
    "trace_get_lr",
]
