"""torch's hooks of captured graphs (2.14 on), for graphs of the simulated GPU; older torch gets the same from here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

Hook = Callable[[Any], None]


class Registry:
    """As ``torch.cuda.graphs`` of 2.14, with the part of it that begins a capture.

    Attributes:
        on: whether graphs tell; off, they are as before 2.14.
    """

    def __init__(self) -> None:
        self.on = False
        torchs: Any = torch.cuda.graphs
        self._real = torchs if hasattr(torchs, "register_graph_replay_end_hook") else None
        self._start: OrderedDict[int, Hook] = OrderedDict()

    def register_graph_capture_start_hook(self, hook: Hook) -> Any:
        if self._real is not None:
            return self._real.register_graph_capture_start_hook(hook)
        return _added(self._start, hook)

    def register_graph_replay_end_hook(self, hook: Hook) -> Any:
        raise NotImplementedError("every graph that captured a launch tells by itself")

    def begin(self, graph: Any) -> None:
        """A capture begins."""
        if self.on:
            for hook in [*(self._start if self._real is None else self._real._global_capture_start_hooks).values()]:
                hook(graph)


def _added(hooks: OrderedDict[int, Hook], hook: Hook) -> Any:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def register(event: str) -> Callable[[Any, Hook], Any]:
    """The method that registers a hook of one graph: torch's own, or one like it."""
    name = f"register_{event}_hook"
    torchs = getattr(torch.cuda.CUDAGraph, name, None)
    return torchs or (lambda graph, hook: _added(getattr(graph, f"_{event}_hooks"), hook))


HOOKS = Registry()
