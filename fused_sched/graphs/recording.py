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
from .rehearsal import Rehearsal, memory_of

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
        self._written_by = {memory_of(x): i for i, x in self._inputs.items()}
        self._load(leaves)

    def capture(self, warmup: int) -> None:
        """Warm up, put everything back, and capture."""
        rehearsal = Rehearsal(self._optimizers, self._inputs, self._device, self._platform)
        with rehearsal.going_on(), self._platform.aside(self._device):
            for k in range(warmup + _MORE):
                if k >= warmup and not any(o.has_changes for o in self._optimizers):
                    break
                rehearsal.begin_run()
                # the last is as it is: torch.compile compiles nothing while operations are watched
                with rehearsal.watched() if k < max(1, warmup - 1) else nullcontext():
                    self._run()
            self._leaves = rehearsal.leaves
            left = {id(p) for p in self._leaves if p.grad is not None}
        originals = [(p, p.grad) for p in self._leaves]
        for p, grad in originals:
            if grad is not None and id(p) not in left:
                p.grad = grad.clone()  # the function takes it away, and what replays write to is nobody else's
            elif grad is None and id(p) in left and p.layout == torch.strided:
                p.grad = torch.zeros_like(p)  # else the first replay would make what the others add to
        try:
            self._capture()
        except RuntimeError as error:
            raise explained(error) from error
        finally:
            for p, grad in originals:
                p.grad = grad
        self._seen = [self._seen_of(o) for o in self._optimizers]
        self._requires_grad = [p.requires_grad for p in self._leaves]

    def _capture(self) -> None:
        before = [(p, p.grad, None if p.grad is None else p.grad._version) for p in self._leaves]
        used: set[int] = set()  # gradients from before that a step had

        def note_used(optimizer: Any, *_: Any) -> None:
            used.update(id(p.grad) for g in optimizer.param_groups for p in g["params"] if p.grad is not None)

        hooks = [optimizer.register_step_pre_hook(note_used) for optimizer in self._optimizers]
        try:
            with told_of_replays() as self._replays, self._platform.capture(self._device, self._pool) as self.graph:
                for optimizer in self._optimizers:
                    optimizer.expect_replays()
                self._outputs, self._out_spec = tree_flatten(self._run())
        finally:
            for hook in hooks:
                hook.remove()
        self._read_grads: list[tuple[Tensor, Tensor]] = []
        self._made_grads: list[tuple[Tensor, Tensor | None]] = []
        self._fresh: list[Tensor] = []
        for p, grad, version in before:
            if p.grad is not grad:
                self._made_grads.append((p, p.grad))  # or None
            if grad is None:
                if p.grad is None:
                    self._fresh.append(p)
            elif p.grad is grad or p.grad is None or grad._version != version or id(grad) in used:
                self._read_grads.append((p, grad))

    def _run(self) -> Any:
        return called(self._function, self._args, self._kwargs, self._steps)

    @torch.no_grad()
    def _load(self, leaves: Sequence[Any]) -> None:
        overlapping = {  # with what is about to be written: an argument that was returned, and is given back elsewhere
            i: leaves[i].clone() for i in self._inputs if self._written_by.get(memory_of(leaves[i]), i) != i
        }
        for i, static in self._inputs.items():
            given = overlapping.get(i, leaves[i])
            if given is not static:
                static.copy_(given, non_blocking=True)

    def fits(self) -> bool:
        """Whether all is as it was captured: parameters, states, schedules, observers, which gradients there are."""
        if any(p.grad is not None for p in self._fresh):
            return False
        if [p.requires_grad for p in self._leaves] != self._requires_grad:
            return False
        for i, optimizer in enumerate(self._optimizers):
            tables, records, captured, fused, told = self._seen[i]
            if not optimizer.before_replay(captured) or optimizer.fused_schedules != fused:
                return False
            if optimizer.observers is not told and not {*optimizer.observers} <= {*told}:
                return False
            if optimizer.tables is not tables:
                if _records(optimizer) != records:
                    return False
                self._seen[i] = optimizer.tables, records, captured, fused, told
        return True

    @staticmethod
    def _seen_of(optimizer: FusedOptimizer) -> tuple[Any, ...]:
        schedules = optimizer.captured_schedules(), optimizer.fused_schedules
        return optimizer.tables, _records(optimizer), *schedules, optimizer.observers

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
        """Let gradients be where the graph has them: it adds to some, and makes or takes away others."""
        for p, grad in self._read_grads:
            if p.grad is not grad:
                if p.grad is None:
                    grad.zero_()
                else:
                    grad.copy_(p.grad)
                p.grad = grad
        for p, made in self._made_grads:
            if p.grad is not made:
                p.grad = made

    def release(self) -> None:
        """Give the memory back."""
        if hasattr(self.graph, "reset"):
            self.graph.reset()
        self._outputs, self._read_grads, self._made_grads = [], [], []


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
