"""One captured graph: the inputs it reads, the outputs it writes, and what has to be as it was at the capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from ..memory.mirrors import told_of_replays
from ..memory.parameter_table import RECORD
from ..memory.platforms import Platform
from ..optim.fused_optimizer import FusedOptimizer
from .rehearsal import Rehearsal

_OF_GRADIENTS = RECORD["grad"]
_MORE = 3  # runs, while the last one has left something that the next step would take in


class Recording:
    """A function captured for inputs of one kind.

    Args:
        function: of the user.
        optimizers: whose steps it takes.
        leaves, spec: the arguments of the call, flat, and how they are nested.
        steps: calls of the function in one replay.
        device, platform: where.
        pool: of memory, for the capture.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        optimizers: Sequence[FusedOptimizer],
        leaves: Sequence[Any],
        spec: TreeSpec,
        steps: int,
        device: torch.device,
        platform: Platform,
        pool: Any,
    ) -> None:
        self._function, self._optimizers, self._steps = function, optimizers, steps
        self._device, self._platform, self._pool = device, platform, pool
        static = [torch.empty_like(x) if isinstance(x, Tensor) else x for x in leaves]
        self._args, self._kwargs = tree_unflatten(static, spec)
        self._inputs = {i: x for i, x in enumerate(static) if isinstance(x, Tensor)}  # by place among the leaves
        self._load(leaves)

    def capture(self, warmup: int) -> None:
        """Warm up, put everything back, and capture."""
        rehearsal = Rehearsal(self._optimizers, self._inputs, self._device, self._platform)
        with rehearsal.going_on(), self._platform.aside(self._device):
            for k in range(warmup + _MORE):
                if k >= warmup and not any(o.has_changes for o in self._optimizers):
                    break
                # the last is as it is: torch.compile compiles nothing while operations are watched
                with rehearsal.watched() if k < max(1, warmup - 1) else nullcontext():
                    self._run()
            left = [p for o in self._optimizers for g in o.param_groups for p in g["params"] if p.grad is not None]
        originals = [(p, p.grad) for p in left]
        for p in left:  # else the first replay would make what the others add to
            if p.grad is None and p.layout == torch.strided:
                p.grad = torch.zeros_like(p)
        before = [(p, p.grad) for p in left]
        try:
            with told_of_replays() as self._replays, self._platform.capture(self._device, self._pool) as self.graph:
                self._outputs, self._out_spec = tree_flatten(self._run())
        except BaseException as error:
            for p, grad in originals:
                p.grad = grad
            if isinstance(error, RuntimeError):
                raise explained(error) from error
            raise
        self._kept_grads = [(p, g) for p, g in before if g is not None and p.grad is g]
        self._made_grads = [(p, p.grad) for p, g in before if p.grad is not g]
        self._seen = [self._seen_of(o) for o in self._optimizers]

    def _run(self) -> Any:
        return called(self._function, self._args, self._kwargs, self._steps)

    @torch.no_grad()
    def _load(self, leaves: Sequence[Any]) -> None:
        for i, static in self._inputs.items():
            if leaves[i] is not static:
                static.copy_(leaves[i], non_blocking=True)

    def fits(self) -> bool:
        """Whether the optimizers are those that were captured: the same parameters, states and schedules."""
        for i, optimizer in enumerate(self._optimizers):
            tables, records, captured, fused = self._seen[i]
            if not optimizer.before_replay(captured) or optimizer.fused_schedules != fused:
                return False
            if optimizer.tables is not tables:
                if _records(optimizer) != records:
                    return False
                self._seen[i] = optimizer.tables, records, captured, fused
        return True

    @staticmethod
    def _seen_of(optimizer: FusedOptimizer) -> tuple[Any, ...]:
        return optimizer.tables, _records(optimizer), optimizer.captured_schedules(), optimizer.fused_schedules

    def replay(self, leaves: Sequence[Any]) -> Any:
        """The function on new values of its inputs; returns its outputs, which the next replay overwrites."""
        self._load(leaves)
        self._bring_gradients()
        self.graph.replay()
        for mirrors, replay in self._replays:
            mirrors.note_replay(replay)
        return tree_unflatten(self._outputs, self._out_spec)

    @torch.no_grad()
    def _bring_gradients(self) -> None:
        """Let gradients be where the graph has them: it adds to some, and makes the others."""
        for p, grad in self._kept_grads:
            if p.grad is not grad:
                if p.grad is None:
                    grad.zero_()
                else:
                    grad.copy_(p.grad)
                p.grad = grad
        for p, grad in self._made_grads:
            if p.grad is not grad:
                p.grad = grad

    def release(self) -> None:
        """Give the memory back."""
        if hasattr(self.graph, "reset"):
            self.graph.reset()
        self._outputs, self._kept_grads, self._made_grads = [], [], []


def _records(optimizer: FusedOptimizer) -> list[Any]:
    """The tables without the addresses of gradients, of which a graph has its own."""
    found = []
    for table in optimizer.tables:
        records = table.records.clone()
        records[:, _OF_GRADIENTS] = 0
        found.append(records.tolist())
    return found


def called(function: Callable[..., Any], args: Any, kwargs: Any, steps: int) -> Any:
    """What ``function`` returns, detached; of several calls, each with its slice of every tensor, as one."""
    if steps == 1:
        return tree_map(_detached, function(*args, **kwargs))
    leaves, spec = tree_flatten((args, kwargs))
    results = []
    for k in range(steps):
        own, named = tree_unflatten([x[k] if isinstance(x, Tensor) else x for x in leaves], spec)
        results.append(tree_map(_detached, function(*own, **named)))
    return _stacked(results)


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def _stacked(results: Sequence[Any]) -> Any:
    """The results of several calls as one: tensors with one more dimension in front.

    Raises:
        TypeError: they are not alike, or differ in what is no tensor.
    """
    flat = [tree_flatten(result) for result in results]
    leaves = [leaves for leaves, _ in flat]
    if any(spec != flat[0][1] for _, spec in flat):
        raise TypeError("with steps_per_replay, the function has to return the same structure at every call")
    joined = []
    for values in zip(*leaves, strict=True):
        if isinstance(values[0], Tensor):
            joined.append(torch.stack(values))
        elif all(type(v) is type(values[0]) and v == values[0] for v in values):
            joined.append(values[0])
        else:
            raise TypeError(
                f"with steps_per_replay, the function returned {values[0]!r} and then {values[-1]!r}: return tensors"
            )
    return tree_unflatten(joined, flat[0][1])


def explained(error: RuntimeError) -> RuntimeError:
    """What to do about an error of CUDA's in a capture; one that says so itself is left as it is."""
    if "CUDA graph capture" in str(error):
        return error
    return RuntimeError(
        f"the function cannot be captured: {error}. Inside, the host must not read what the device computes (.item(), "
        ".cpu(), print, `if tensor:`), copy from memory of the host, or wait for the device: return tensors and read "
        "them after the call, or use graphed(..., enabled=False)"
    )
