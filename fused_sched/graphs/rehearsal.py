"""Runs that leave no trace: whatever a training function writes to is put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..memory.platforms import Platform
from ..memory.shards import local
from ..optim.fused_optimizer import FusedOptimizer
from ..optim.home import Home

# cuDNN's and torch's own batch norm write to these, and their schemas do not say so
_WRITTEN_ALL_THE_SAME = ("running_mean", "running_var")
_PRUNE_EVERY = 64  # copies of memory that a run made for itself


class Rehearsal:
    """Copies memory before it is written to for the first time, and puts it all back.

    torch's operations are seen by a dispatch mode. What the launches of an optimizer write to, the optimizer tells.
    Memory that a run makes and keeps (GradScaler's scale) goes back to what it was made with.

    Args:
        optimizers: whose steps may be rehearsed.
        inputs: tensors that must not be written to, by their place among the arguments.
        device, platform: where, and whose random numbers are put back.
    """

    def __init__(
        self,
        optimizers: Sequence[FusedOptimizer],
        inputs: Mapping[int, Tensor],
        device: torch.device,
        platform: Platform,
    ) -> None:
        self._optimizers = {id(o): o for o in optimizers}
        # memory by its key, which no other has for as long as it is known
        self._known: dict[int, StorageWeakRef] = {}
        self._kept: dict[int, tuple[Tensor | None, Tensor]] = {}  # whole, None where a run made it; and the copy
        self._made: set[int] = set()
        self._empty: set[int] = set()  # made without values, which the first write gives them
        self._finished: set[int] = set()
        self._inputs = {memory_of(tensor): place for place, tensor in inputs.items()}
        self._leaves: dict[int, tuple[Tensor, Tensor | None]] = {}  # and their gradients before
        self._generators: dict[torch.Generator, Tensor] = {}
        self._put_random_back = platform.random_state(device)
        self._thread = threading.get_ident()
        self.watches = True  # operations are those of the user's function
        self._after: dict[int, Callable[[], None]] = {}  # by home

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Inside, steps of the optimizers are rehearsed; those of others raise. At the end all is put back."""
        if Home.rehearsal is not None:
            raise RuntimeError("a graph is warmed up inside the warm-up of another: call the outer function only")
        for p in [p for o in self._optimizers.values() for g in o.param_groups for p in g["params"]]:
            self.note_leaf(p)
        self._after = {id(o): o.keep_for_rehearsal(self.keep) for o in self._optimizers.values()}
        Home.rehearsal = self
        try:
            with ExitStack() as stack:
                for optimizer in self._optimizers.values():
                    stack.enter_context(optimizer.unobserved())
                hook = register_optimizer_step_pre_hook(self._refuse_foreign)
                stack.callback(hook.remove)
                yield
        finally:
            Home.rehearsal = None
            for p, grad in self._leaves.values():
                p.grad = grad
            self._put_back()

    @property
    def leaves(self) -> list[Tensor]:
        """What has gradients, as far as it was seen: the optimizers' parameters, and what else operations used."""
        return [p for p, _ in self._leaves.values()]

    def begin_run(self) -> None:
        """Gradients that were there are there again, as at a call."""
        for p, grad in self._leaves.values():
            if p.grad is None:
                p.grad = grad

    def note_leaf(self, tensor: Tensor) -> None:
        """A tensor that a backward pass may give a gradient."""
        if id(tensor) in self._leaves:
            return
        grad = tensor.grad
        self._leaves[id(tensor)] = tensor, grad
        if grad is not None and grad.layout == torch.strided:
            self.keep(local(grad))

    @staticmethod
    def _refuse_foreign(optimizer: Any, args: Any, kwargs: Any) -> None:
        """Where a state of its begins with what is computed, that would be what the warm-up computed."""
        if isinstance(optimizer, FusedOptimizer) or not isinstance(optimizer, torch.optim.Optimizer):
            return
        begins = any(
            p.grad is not None and not optimizer.state.get(p) for g in optimizer.param_groups for p in g["params"]
        )
        groups = optimizer.param_groups
        if not begins or all(g.get("capturable") for g in groups):
            return
        if type(optimizer) is torch.optim.SGD and not any(g["momentum"] for g in groups):
            return
        raise RuntimeError(
            f"{type(optimizer).__module__}.{type(optimizer).__name__} takes its first step inside, which makes its "
            "state, and a graph would keep that of the warm-up: give it capturable=True where it has that, take a step "
            "before, or use an optimizer of fused_sched.optim, and name it"
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, memory is copied before torch's operations write to it."""
        # Dynamo would never again compile what it comes to under a dispatch mode
        with torch.compiler.set_stance("force_eager"), _Watch(self):
            yield

    def before_update(self, optimizer: FusedOptimizer) -> None:
        """An optimizer is about to launch; its states are there.

        Raises:
            ValueError: a parameter has no gradient.
        """
        if threading.get_ident() != self._thread:
            return
        self._refuse_missing_gradients(optimizer)
        optimizer.keep_for_rehearsal(self.keep_finished)

    @contextmanager
    def work_of(self, home: Home) -> Iterator[None]:
        """Inside, a step of an optimizer or of a schedule, perhaps one of a torch optimizer's, does its own work."""
        before, self.watches = self.watches, False
        try:
            if id(home) not in self._after and threading.get_ident() == self._thread:
                if isinstance(home, FusedOptimizer):
                    self._refuse_unnamed(home)
                self._after[id(home)] = home.keep_for_rehearsal(self.keep)
            yield
        finally:
            self.watches = before

    @staticmethod
    def _refuse_unnamed(optimizer: FusedOptimizer) -> None:
        raise RuntimeError(
            f"a step of {type(optimizer).__name__} is taken inside, which was not named: give all optimizers, "
            "graphed(function, first, second), as the warm-up would train the parameters of the others"
        )

    @staticmethod
    def _refuse_missing_gradients(optimizer: FusedOptimizer) -> None:
        for i, group in enumerate(optimizer.param_groups):
            for k, p in enumerate(group["params"]):
                if p.requires_grad and p.grad is None:
                    raise ValueError(
                        f"parameter {k} of group {i} of {type(optimizer).__name__}, of shape {tuple(p.shape)}, has no "
                        "gradient, and a captured graph would never update it: let the loss depend on it, set "
                        "requires_grad_(False), leave it out of the optimizer, or, where the gradient is one from "
                        "before the call, let it be there at the first call"
                    )

    @torch.no_grad()
    def keep(self, tensor: Tensor) -> None:
        """Copy all memory of a tensor, unless that was done before."""
        storage = tensor.untyped_storage()
        if not storage.nbytes():
            return
        key = memory_of(tensor)
        if key in self._inputs:
            raise RuntimeError(
                f"the function writes to its argument {self._inputs[key]}, which in a graph is a copy of what is "
                "given: return the result instead, or let the function reach the tensor by other means"
            )
        if key in self._kept:
            return
        if key in self._empty:
            self._empty.remove(key)
            return
        if len(self._kept) % _PRUNE_EVERY == 0:
            self._forget_what_is_gone()
        self._know(tensor)
        whole = tensor.detach().as_strided((storage.nbytes() // tensor.element_size(),), (1,), 0)
        # what a run made for itself is let go of when the run does
        self._kept[key] = None if key in self._made else whole, whole.clone()

    def keep_finished(self, tensor: Tensor) -> None:
        """As :meth:`keep`, of what may have been made in this rehearsal, and has by now what it begins with."""
        key = self._know(tensor)
        if key in self._finished:
            return
        self._finished.add(key)
        if key in self._made:
            self._kept.pop(key, None)
            self._made.remove(key)
            self._empty.discard(key)
        self.keep(tensor)

    def note_made(self, tensor: Tensor, without_values: bool) -> None:
        """Memory that a run made."""
        key = self._know(tensor)
        self._made.add(key)
        if without_values:
            self._empty.add(key)

    def _know(self, tensor: Tensor) -> int:
        key = memory_of(tensor)
        if key not in self._known:
            self._known[key] = StorageWeakRef(tensor.untyped_storage())
        return key

    def _forget_what_is_gone(self) -> None:
        for key in [key for key, reference in self._known.items() if reference.expired()]:
            del self._known[key]
            self._kept.pop(key, None)
            for keys in (self._made, self._empty, self._finished):
                keys.discard(key)

    def note_generator(self, generator: torch.Generator) -> None:
        """A generator of the user's is about to be drawn from."""
        if generator not in self._generators:
            self._generators[generator] = generator.get_state()

    @torch.no_grad()
    def _put_back(self) -> None:
        for key, (whole, copy) in self._kept.items():
            if whole is None:
                whole = _like(copy, self._known[key])
            if whole is not None:
                whole.copy_(copy)
        self._put_random_back()
        for generator, state in self._generators.items():
            generator.set_state(state)
        for after in self._after.values():
            after()


class _Watch(TorchDispatchMode):
    """Tells a rehearsal what operations write to and make."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        super().__init__()
        self._rehearsal = rehearsal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._rehearsal.watches:
            return func(*args, **kwargs)
        if any(t not in (Tensor, torch.nn.Parameter) for t in types):
            return NotImplemented  # a subclass: its operations on plain tensors come here
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes or argument.name in _WRITTEN_ALL_THE_SAME:
                for tensor in tree_leaves(given.get(argument.name)):
                    if isinstance(tensor, Tensor):
                        self._rehearsal.keep(tensor)
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.requires_grad and tensor.is_leaf:
                self._rehearsal.note_leaf(tensor)
        if isinstance(kwargs.get("generator"), torch.Generator):
            self._rehearsal.note_generator(kwargs["generator"])
        result = func(*args, **kwargs)
        self._note_made(func, given, result)
        return result

    def _note_made(self, func: Any, given: dict[str, Any], result: Any) -> None:
        of_arguments = {memory_of(t) for t in tree_leaves([*given.values()]) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and memory_of(tensor) not in of_arguments:
                self._rehearsal.note_made(tensor, "empty" in func._schema.name)


def memory_of(tensor: Tensor) -> int:
    """Of its memory, as StorageWeakRef has it too."""
    return int(tensor.untyped_storage()._cdata)


def _like(copy: Tensor, reference: StorageWeakRef) -> Tensor | None:
    """The memory that was copied, unless it is gone."""
    storage: Any = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    if storage is None:
        return None
    return torch.empty(0, dtype=copy.dtype, device=copy.device).set_(storage, 0, copy.shape, copy.stride())
