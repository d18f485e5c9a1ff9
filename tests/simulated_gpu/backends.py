"""The GPU backends on the simulated GPU: its stream does their launches, or records them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from fused_sched.kernels.launcher import Argument, Launcher
from fused_sched.kernels.variants import Kernel
from fused_sched.memory.captures import Captures
from fused_sched.memory.platforms import Download, Platform

from .graph import STREAM, SimulationError
from .hooks import HOOKS
from .memory import DLPACK_DEVICE, on_the_host


class SimulatedPlatform(Platform):
    """What torch.cuda says of a GPU, said of the simulated one."""

    def __init__(self) -> None:
        self._captures = Captures(HOOKS)

    def watch_captures(self) -> None:
        self._captures.watch()

    def graph_being_captured(self) -> Any | None:
        return self._captures.current()

    def follow_graph(self, graph: Any, captured: Callable[[], None], replayed: Callable[[], None]) -> None:
        self._captures.follow(graph, captured, replayed)

    def is_capturing(self, device: torch.device) -> bool:
        return STREAM.graph is not None

    def outside_of_capture(self) -> AbstractContextManager[None]:
        return STREAM.outside_of_capture()

    @contextmanager
    def capture(self, device: torch.device, pool: Any = None) -> Iterator[Any]:
        with STREAM.capture() as graph:
            yield graph

    def upload(self, values: torch.Tensor, device: torch.device) -> torch.Tensor:
        with self.outside_of_capture():
            return values.to(device, non_blocking=True)

    def download(self, tensors: Sequence[torch.Tensor]) -> Download:
        if STREAM.graph is not None:
            raise SimulationError("a copy to the host inside a capture: every replay would write the host's memory")
        return Download([on_the_host(t).clone() for t in tensors], _Event())

    def dlpack_device(self, tensor: torch.Tensor) -> tuple[int, int]:
        return DLPACK_DEVICE  # torch itself cannot tell

    def current(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext()


class _Event:
    """Is there when it is asked for the second time, so that code which does not ask shows."""

    def __init__(self) -> None:
        self._asked = False

    def query(self) -> bool:
        asked, self._asked = self._asked, True
        return asked

    def synchronize(self) -> None:
        STREAM.host_waits("an event's synchronize()")


class StreamedLauncher(Launcher):
    """The Triton backend's launcher.

    Args:
        inner: compiles, and launches on memory of the host.
    """

    def __init__(self, inner: Launcher) -> None:
        super().__init__()
        self._inner = inner

    def launch(self, compiled: Any, programs: int, arguments: Sequence[Argument]) -> None:
        self.launches += 1
        now = [a if isinstance(a, int) else a.data_ptr() for a in arguments]
        name, inner = compiled
        STREAM.launch(name, partial(self._inner.launch, inner, programs, now), now)

    def _compile(self, kernel: Kernel) -> tuple[str, Any]:
        return kernel.function.__name__, self._inner._compile(kernel)


class StreamedOperators:
    """The CUDA backend's operators.

    Args:
        inner: the same on memory of the host.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def update(
        self, plan: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        _launch("update_kernel", self._inner.update, plan, control, scale, found)

    def measure(
        self, plan: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        _launch("norm_kernel", self._inner.measure, plan, control, scale, found)

    def advance(self, schedule: torch.Tensor, control: torch.Tensor) -> None:
        run = partial(self._inner.advance, *map(_weak, (schedule, control)))
        STREAM.launch("schedule_kernel", run, [schedule.data_ptr(), control.data_ptr()])

    def prepare(self, plan: torch.Tensor, device: int) -> None:
        pass


def _launch(
    name: str,
    run: Callable[..., None],
    plan: torch.Tensor,
    control: torch.Tensor,
    scale: torch.Tensor | None,
    found: torch.Tensor | None,
) -> None:
    now = plan.clone()  # a launch takes the values along
    pointers = [t.data_ptr() for t in (control, scale, found) if t is not None]
    again = partial(run, now, *map(_weak, (control, scale, found)))
    STREAM.launch(name, again, [*now.flatten().tolist(), *pointers])


class _Address:
    """Where a tensor is and how it looks; a graph does not keep the memory that it points to."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._address, self.shape = tensor.data_ptr(), tensor.shape

    def data_ptr(self) -> int:
        return self._address


def _weak(tensor: torch.Tensor | None) -> _Address | None:
    return None if tensor is None else _Address(tensor)
