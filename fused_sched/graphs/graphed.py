"""``graphed``: a training function that is captured when it is first called, and replayed from then on."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map

from ..memory.platforms import Platform
from ..notice import warn
from ..optim.fused_optimizer import FusedOptimizer
from .recording import Recording, called

_PLAIN = {int, bool, str, bytes, type(None), range, torch.dtype, torch.device, torch.layout, torch.Size}
_CONSTANT = (Enum, type, FunctionType, BuiltinFunctionType, MethodType, torch.nn.Module)  # by identity

P = ParamSpec("P")
Result = TypeVar("Result")


def graphed(
    function: Callable[P, Result],
    *optimizers: FusedOptimizer,
    warmup: int = 3,
    steps_per_replay: int = 1,
    pool: Any = None,
    enabled: bool | None = None,
    clone_outputs: bool = False,
    cache_size: int = 8,
) -> Graphed[P, Result]:
    """A function that trains, as one CUDA graph::

        step = graphed(update, optimizer)
        for x, y in batches:
            loss = step(x, y)

    ``function`` is all that a step is: ``zero_grad``, forward, backward, ``optimizer.step()``, ``scheduler.step()``.
    The first call with inputs of a kind warms up, puts back all that the warm-up changed, captures, and replays; later
    calls copy the inputs to where the graph reads them, and replay. On the CPU, and with ``enabled=False``, the
    function is called as it is, so one program serves both.

    * **Inputs** are tensors on the optimizers' device in any nesting, and constants, which belong to the kind: another
      shape, dtype or constant is captured anew, and so are another grad mode and another autocast. Numbers that change
      from call to call are given as tensors. The function sees copies, and must not write to them.
    * **Outputs** are detached. They are the graph's own, which the next call overwrites, or with ``clone_outputs``
      copies. What is no tensor is what it was at the capture.
    * **Put back** after the warm-up are: parameters, gradients, states, counts and schedules of ``optimizers``, tensors
      that torch's operations write to (buffers such as those of batch norm, GradScaler's scale), and torch's random
      numbers. Not what the function does to Python objects, or to tensors by ways that torch does not see: it is called
      ``warmup`` times, and once for the capture. Until it is put back, there is a copy of all that.
    * **Gradients** are after a call what they are after the function. Those that are set between calls are taken in.
    * **Changes between calls** are seen: hyperparameters, schedules, states that are loaded, groups that are added.
      The graph knows nothing of Python: ``model.eval()`` is, as a constant, given to the function.

    Args:
        function: is called with copies of the inputs; its Python code runs at captures only.
        optimizers: all whose ``step()`` it calls, of :mod:`fused_sched.optim` and on one device.
        warmup: calls before the capture, at least 1; at least 2 with ``torch.compile`` inside.
        steps_per_replay: calls of the function in one graph. Tensors that are given and returned then have one more
            dimension in front, of that length: call k has the k-th slice.
        pool: memory for the graphs, of ``torch.cuda.graph_pool_handle()`` or another graph; default, each its own.
        enabled: ``None``, capture on a GPU; ``False``, call the function as it is.
        clone_outputs: return copies.
        cache_size: graphs that are kept, of the kinds of inputs used last.

    Returns:
        What is called instead of ``function``.

    Raises:
        TypeError: one of ``optimizers`` is none of ours, or ``function`` cannot be called.
        ValueError: they are on several devices, or a number is too small.
    """
    return Graphed(function, optimizers, warmup, steps_per_replay, pool, enabled, clone_outputs, cache_size)


class Graphed(Generic[P, Result]):
    """See :func:`graphed`.

    Attributes:
        captures: how often it has captured.
        replays: how often a graph was replayed.
    """

    def __init__(
        self,
        function: Callable[P, Result],
        optimizers: Sequence[FusedOptimizer],
        warmup: int,
        steps_per_replay: int,
        pool: Any,
        enabled: bool | None,
        clone_outputs: bool,
        cache_size: int,
    ) -> None:
        if not callable(function):
            raise TypeError(
                f"function is a {type(function).__name__}, which cannot be called: give the function that takes a step"
            )
        for name, value in (("warmup", warmup), ("steps_per_replay", steps_per_replay), ("cache_size", cache_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        self._optimizers, self._device, self._platform = optimizers, *_place_of(optimizers)
        remote = self._platform.is_remote(self._device)
        if enabled and not remote:
            raise ValueError("enabled=True, but only a GPU has graphs: leave it out, to call the function as it is")
        functools.update_wrapper(self, function, updated=())
        self._function, self._warmup, self._steps, self._pool = function, warmup, steps_per_replay, pool
        self.enabled = remote if enabled is None else enabled
        self._clones, self._cache_size = clone_outputs, cache_size
        self._recordings: OrderedDict[Any, Recording] = OrderedDict()
        self.captures = self.replays = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """As the function; see :func:`graphed` for what inputs and outputs are.

        Raises:
            TypeError, ValueError: an input is none that a graph can read; nothing was changed.
            RuntimeError: the function does what cannot be captured.
        """
        if not self.enabled or self._platform.is_capturing(self._device):
            if self._steps > 1:
                self._check_lengths(tree_leaves((args, kwargs)))
            return called(self._function, args, kwargs, self._steps)  # type: ignore[no-any-return]
        leaves, spec = tree_flatten((args, kwargs))
        key = spec, tuple([_kind_of(i, x) for i, x in enumerate(leaves)]), _modes(self._device)
        recording = self._recording(key)
        if recording is None:
            recording = self._record(key, leaves, spec)
        result = recording.replay(leaves)
        self.replays += 1
        return tree_map(_cloned, result) if self._clones else result  # type: ignore[no-any-return]

    def _recording(self, key: Any) -> Recording | None:
        """The one for such inputs, if it is right still."""
        recording = self._recordings.get(key)
        if recording is None:
            return None
        if not recording.fits():
            self.release()  # made for other parameters, states or schedules
            return None
        self._recordings.move_to_end(key)
        return recording

    def _record(self, key: Any, leaves: Sequence[Any], spec: TreeSpec) -> Recording:
        self._check_inputs(leaves)
        recording = Recording(
            self._function, self._optimizers, leaves, spec, self._steps, self._device, self._platform, self._pool
        )
        recording.capture(self._warmup)
        while len(self._recordings) >= self._cache_size:
            self._recordings.popitem(last=False)[1].release()
        self._recordings[key] = recording
        self.captures += 1
        if self.captures == 4 * self._cache_size:
            warn(
                f"{getattr(self, '__name__', 'the function')} was captured {self.captures} times, and a capture takes "
                f"far longer than a replay: its inputs have more than cache_size={self._cache_size} shapes or "
                "constants. Pad them to a few shapes, give changing numbers as tensors, or raise cache_size"
            )
        return recording

    def _check_inputs(self, leaves: Sequence[Any]) -> None:
        for i, x in enumerate(leaves):
            if not isinstance(x, Tensor):
                continue
            if x.device != self._device:
                raise ValueError(
                    f"argument {i} is on {x.device}, the optimizers on {self._device}: move it there before the call, "
                    f"x.to({str(self._device)!r}, non_blocking=True), as a replay would read the host's memory too late"
                )
            if x.requires_grad:
                raise ValueError(
                    f"argument {i} requires a gradient, which would end at the copy that the graph reads: give "
                    "x.detach(), and let the function reach parameters by itself"
                )
            if x.layout != torch.strided:
                raise TypeError(f"argument {i} has the layout {x.layout}: a graph reads strided tensors only")
        self._check_lengths(leaves)

    def _check_lengths(self, leaves: Sequence[Any]) -> None:
        for i, x in enumerate(leaves):
            if self._steps > 1 and isinstance(x, Tensor) and (x.dim() == 0 or len(x) != self._steps):
                raise ValueError(
                    f"argument {i} has the shape {tuple(x.shape)}, but with steps_per_replay={self._steps} its first "
                    f"dimension has to be {self._steps}: stack what the calls are given, torch.stack"
                )

    def release(self) -> None:
        """Give back the memory of all graphs; the next call captures anew."""
        while self._recordings:
            self._recordings.popitem()[1].release()


def _place_of(optimizers: Sequence[Any]) -> tuple[torch.device, Platform]:
    for optimizer in optimizers:
        if not isinstance(optimizer, FusedOptimizer):
            raise TypeError(
                f"{type(optimizer).__name__} is no optimizer of fused_sched.optim: name those that are. torch's own "
                "may be used inside, with capturable=True"
            )
    if not optimizers:
        raise TypeError("no optimizer was named: graphed(function, optimizer), with all whose step() it calls")
    devices = {o._block.device for o in optimizers}
    if len(devices) > 1:
        raise ValueError(
            f"the optimizers are on {', '.join(sorted(map(str, devices)))}: one graph is of one device, so use a "
            "graphed function for each"
        )
    return devices.pop(), optimizers[0]._backend.platform


def _kind_of(i: int, x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.shape, x.dtype, x.device, x.requires_grad
    kind = type(x)
    if kind in (float, complex):
        return kind, repr(x)  # NaN is NaN here, and 0.0 is not -0.0
    if kind not in _PLAIN and not isinstance(x, _CONSTANT):
        raise TypeError(
            f"argument {i} is a {kind.__name__}, of which nobody can tell whether it is what it was at the capture: "
            "give tensors, and numbers, strings or None as constants, in tuples, lists and dicts; register other "
            "containers with torch.utils._pytree.register_pytree_node, or let the function reach the object by itself"
        )
    return kind, x


def _modes(device: torch.device) -> tuple[Any, ...]:
    """What torch is set to, and a capture keeps."""
    autocast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else None
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), dtype


def _cloned(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x
