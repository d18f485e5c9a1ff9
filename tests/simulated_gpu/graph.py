"""What a stream of the simulated GPU does: at once, or into a graph that does it again at every replay."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from . import hooks, memory
from .memory import Memory


class SimulationError(RuntimeError):
    """What a GPU refuses, or computes garbage for."""


@dataclass
class _Work:
    """One operation or launch; ``uses`` is the ordinary memory that has to live still when it is done again."""

    name: str
    run: Callable[[], None]
    uses: list[Memory]


@dataclass(eq=False)
class Graph:
    """What was recorded by a capture. It keeps the memory that was made meanwhile, as a graph's pool does."""

    work: list[_Work] = field(default_factory=list)
    pool: list[Memory] = field(default_factory=list)
    # by torch's names, as its own functions use them
    _capture_end_hooks: OrderedDict[int, hooks.Hook] = field(default_factory=OrderedDict)
    _replay_end_hooks: OrderedDict[int, hooks.Hook] = field(default_factory=OrderedDict)

    register_capture_end_hook = hooks.register("capture_end")
    register_replay_end_hook = hooks.register("replay_end")

    def capture_ended(self) -> None:
        """Tell those who want to know."""
        for hook in [*self._capture_end_hooks.values()]:
            hook(self)

    def reset(self) -> None:
        """Forget what was recorded; another capture may follow."""
        self.work, self.pool = [], []

    def replay(self) -> None:
        """Do it all again, on the same memory."""
        if STREAM.graph is not None:
            raise SimulationError("a graph was replayed inside a capture")
        memory.sweep()
        for work in self.work:
            if any(m.freed for m in work.uses):
                raise SimulationError(f"{work.name} uses memory that was freed between its capture and a replay")
            work.run()
        for hook in [*self._replay_end_hooks.values()]:
            hook(self)


class Stream:
    """The one stream.

    Attributes:
        graph: the one that is being captured.
        waits: whether the host may wait for the device.
    """

    def __init__(self) -> None:
        self.graph: Graph | None = None
        self.waits = True
        self._watched: list[list[str]] = []

    def submit(self, name: str, run: Callable[[], None], uses: Iterable[Memory | None]) -> None:
        """Do something, or record it."""
        for names in self._watched:
            names.append(name)
        if self.graph is None:
            run()
        else:
            ordinary = [m for m in uses if m is not None and m.pool is not self.graph]
            self.graph.work.append(_Work(name, run, ordinary))

    def launch(self, name: str, run: Callable[[], None], addresses: Iterable[int]) -> None:
        """As :meth:`submit`, for what follows addresses."""
        self.submit(name, run, [] if self.graph is None else memory.Map().reachable([*addresses]))

    def allocate(self, size: Iterable[int], stride: Iterable[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory with nothing in it, of the graph if one is being captured."""
        made = memory.allocate([*size], [*stride], dtype, self.graph)
        found = memory.memory_of(made)
        if self.graph is not None and found is not None:
            self.graph.pool.append(found)
        return made

    def host_waits(self, what: str) -> None:
        """Take note that the host waits for the device here."""
        if self.graph is not None:
            raise SimulationError(f"{what} inside a capture: the host waits for what was only recorded")
        if not self.waits:
            raise SimulationError(f"{what}: the host waits for the device")

    @contextmanager
    def capture(self, graph: Graph | None = None) -> Iterator[Graph]:
        """Record what is done inside, in a new graph or in one that was reset."""
        if self.graph is not None:
            raise SimulationError("a capture inside a capture")
        graph = self.graph = Graph() if graph is None else graph
        hooks.HOOKS.begin(graph)
        try:
            yield graph
        finally:
            self.graph = None
        graph.capture_ended()

    @contextmanager
    def outside_of_capture(self) -> Iterator[None]:
        """What is done inside is done at once, on ordinary memory."""
        graph, self.graph = self.graph, None
        try:
            yield
        finally:
            self.graph = graph

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """What is submitted inside, by name."""
        names: list[str] = []
        self._watched.append(names)
        try:
            yield names
        finally:
            self._watched.remove(names)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """The host must not wait for the device inside."""
        waits, self.waits = self.waits, False
        try:
            yield
        finally:
            self.waits = waits


STREAM = Stream()
