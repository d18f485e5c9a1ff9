"""A training function as one CUDA graph: warmed up without a trace, captured, and replayed."""

from .graphed import Graphed, graphed

__all__ = ["Graphed", "graphed"]
