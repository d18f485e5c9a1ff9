"""Captures of graphs that others make: which one goes on, and its replays, where torch tells of them (2.14 on)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch


class Captures:
    """Told by torch of every capture that begins.

    Args:
        graphs: where hooks are registered, as in ``torch.cuda.graphs``.
    """

    def __init__(self, graphs: Any = torch.cuda.graphs) -> None:
        self._graphs = graphs
        self._watches = False
        self._going_on: list[tuple[ReferenceType[Any], Callable[[], bool]]] = []
        self._hooks: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()  # of the last capture of each

    def watch(self) -> None:
        """Be told from now on, where torch tells."""
        if not self._watches and hasattr(self._graphs, "register_graph_replay_end_hook"):
            self._watches = True
            self._graphs.register_graph_capture_start_hook(self._begin)

    def _begin(self, graph: Any) -> None:
        for hook in self._hooks.pop(graph, ()):  # it was reset: they knew another capture
            hook.remove()
        self._going_on = [(one, goes_on) for one, goes_on in self._going_on if one() not in (None, graph) and goes_on()]
        self._going_on.append((ref(graph), self._still_captured()))
        self._hooks[graph] = [graph.register_capture_end_hook(self._end)]

    def _end(self, graph: Any) -> None:
        self._going_on = [(one, goes_on) for one, goes_on in self._going_on if one() not in (None, graph)]

    def _still_captured(self) -> Callable[[], bool]:
        """Whether the stream that is captured now still is."""
        if not torch.cuda.is_available():
            return lambda: True
        stream = torch.cuda.current_stream()

        def goes_on() -> bool:
            with torch.cuda.stream(stream):
                return torch.cuda.is_current_stream_capturing()

        return goes_on

    def current(self) -> Any | None:
        """The graph that is being captured; None if torch does not tell, or there are several."""
        graphs = [graph for one, _ in self._going_on if (graph := one()) is not None]
        return graphs[0] if len(graphs) == 1 else None

    def follow(self, graph: Any, captured: Callable[[], None], replayed: Callable[[], None]) -> None:
        """Call ``captured`` at the end of the capture that goes on, and ``replayed`` at each replay of it."""
        self._hooks[graph] += [
            graph.register_capture_end_hook(lambda _: captured()),
            graph.register_replay_end_hook(lambda _: replayed()),
        ]


CAPTURES = Captures()
