"""The device ``simulated`` of torch: its operations are those of the CPU, on memory that the host must not touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from .graph import STREAM, SimulationError
from .memory import Memory, memory_of, on_the_host

NAME = "simulated"
_CPU = torch.device("cpu")
_MASKS = (torch.bool, torch.uint8)  # as indices


def _is_ours(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == NAME


class _Call:
    """An operation on tensors of the device, and the same on the CPU's view of their memory."""

    def __init__(self, op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.op, self.name = op, str(op)
        self.given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
        flat, self._spec = pytree.tree_flatten((args, kwargs))
        self.ours = {i: x for i, x in enumerate(flat) if _is_ours(x)}
        self.uses: list[Memory | None] = [memory_of(x) for x in self.ours.values()]
        self._flat = [self._on_the_host(x) for x in flat]

    def _on_the_host(self, x: Any) -> Any:
        if _is_ours(x):
            return on_the_host(x)
        if isinstance(x, torch.device):
            return _CPU
        if isinstance(x, torch.Tensor):
            if x.ndim:
                raise SimulationError(f"{self.name} on tensors of {NAME} and of {x.device}")
            return x.clone()  # its value now goes along, as that of a number
        return x

    def size_follows_values(self) -> bool:
        """Whether the host has to know values for the size of the result, or for how much is to be written."""
        if any(isinstance(x, torch.Tensor) and x.dtype in _MASKS for x in self.given.get("indices") or ()):
            return True
        return torch.Tag.dynamic_output_shape in self.op.tags and self.given.get("output_size") is None

    def again(self) -> Callable[[], Any]:
        """Does it on the same memory, without keeping that alive for the device."""
        op, (args, kwargs) = self.op, pytree.tree_unflatten(self._flat, self._spec)
        return lambda: op(*args, **kwargs)

    def base(self, result: torch.Tensor) -> torch.Tensor | None:
        """The tensor of the device that a result is a view of."""
        where = result.untyped_storage().data_ptr()
        return next((x for i, x in self.ours.items() if self._flat[i].untyped_storage().data_ptr() == where), None)

    def outs(self) -> list[Any]:
        """What is given as ``out``: a tensor, or a list of them, for each."""
        return [self.given[a.name] for a in _written(self.op) if a.kwarg_only]

    def resized(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Arguments that the operation made larger, with what became of them on the host."""
        pairs = [(x, self._flat[i]) for i, x in self.ours.items()]
        return [(x, on_host) for x, on_host in pairs if x.size() != on_host.size()]


def _written(op: Any) -> list[Any]:
    return [a for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def _any_operation(op: Any, *args: Any, **kwargs: Any) -> Any:
    call = _Call(op, args, kwargs)
    if call.size_follows_values():
        STREAM.host_waits(f"{call.name}, which does as much as the values say,")
    if _written(op):
        return _change(call, op, args, kwargs)
    result = call.again()()  # in a capture too, for the shapes
    flat, spec = pytree.tree_flatten(result)
    if not all(isinstance(x, torch.Tensor) for x in flat):
        STREAM.host_waits(f"{call.name} gives the host {result!r}")
        return result
    return pytree.tree_unflatten([_result(call, x, i) for i, x in enumerate(flat)], spec)


def _change(call: _Call, op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation in place, or with ``out``: returns what it wrote to."""
    if torch.Tag.inplace_view in op.tags:
        raise SimulationError(f"{call.name} is not simulated: it changes which memory a tensor has")
    returned = _returned(call)
    if any(not x.numel() for x in pytree.tree_leaves(call.outs())):
        call.again()()  # the operation may give an empty ``out`` its size
        for x, on_host in call.resized():
            x.data = STREAM.allocate(on_host.size(), on_host.stride(), x.dtype)
        call = _Call(op, args, kwargs)
    STREAM.submit(call.name, call.again(), call.uses)
    return returned if len(returned) > 1 else next(iter(returned), None)


def _returned(call: _Call) -> tuple[Any, ...]:
    """Those arguments that the operation returns, as its schema says."""
    schema = call.op._schema
    named = {name: call.given[a.name] for a in _written(call.op) for name in a.alias_info.before_set}
    of_returns = [r.alias_info.before_set if r.alias_info else set() for r in schema.returns]
    if not all(names & named.keys() for names in of_returns):
        raise SimulationError(f"{call.name} is not simulated: it changes a tensor and returns another")
    return tuple(named[min(names)] for names in of_returns)


def _result(call: _Call, result: torch.Tensor, position: int) -> torch.Tensor:
    base = call.base(result)
    if base is not None and result.numel():
        if base.dtype != result.dtype:
            raise SimulationError(f"{call.name} is not simulated: it views {base.dtype} as {result.dtype}")
        view = torch.ops.aten.alias.default(base)
        return view.as_strided_(result.size(), result.stride(), result.storage_offset())
    made = STREAM.allocate(result.size(), result.stride(), result.dtype)
    target = on_the_host(made)
    if STREAM.graph is None:
        target.copy_(result)
    else:
        again = call.again()
        repeat = lambda: target.copy_(pytree.tree_leaves(again())[position])  # noqa: E731
        STREAM.submit(call.name, repeat, [*call.uses, memory_of(made)])
    return made


def _strides(size: Sequence[int]) -> list[int]:
    strides, n = [], 1
    for length in reversed(size):
        strides.append(n)
        n *= max(length, 1)
    return strides[::-1]


def _empty(
    size: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    stride = _strides(size)
    if memory_format not in (None, torch.contiguous_format):
        stride = list(torch.empty(size, device="meta", memory_format=memory_format).stride())
    return STREAM.allocate(size, stride, dtype or torch.get_default_dtype())


def _empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> torch.Tensor:
    return STREAM.allocate(size, stride, dtype or torch.get_default_dtype())


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if not _is_ours(target):
        STREAM.host_waits("a copy to the host")
        return target.copy_(on_the_host(source))
    to = on_the_host(target)
    if _is_ours(source):
        given = on_the_host(source)
        STREAM.submit("a copy", lambda: to.copy_(given), [memory_of(source), memory_of(target)])
        return target
    if STREAM.graph is not None:
        raise SimulationError("a copy from the host inside a capture: every replay would read the host's memory again")
    if not non_blocking:
        STREAM.host_waits("a copy from the host that is not non_blocking")
    to.copy_(source)
    return target


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise SimulationError(f"{what} not simulated")

    return refuse


_clone_on_the_host = torch.UntypedStorage.clone


def _clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    if storage.device.type == NAME:  # torch would call an allocator that there is not
        raise SimulationError("copy.deepcopy of tensors of the device is not simulated: use clone()")
    return _clone_on_the_host(storage)


def _install() -> list[torch.library.Library]:
    _setup_privateuseone_for_python_backend(NAME)
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_any_operation, "PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    aten.impl("empty.memory_format", _empty, "PrivateUse1")
    aten.impl("empty_strided", _empty_strided, "PrivateUse1")
    aten.impl("_copy_from", _copy_from, "PrivateUse1")
    # torch resolves such a view by an operation on the view
    aten.impl("_conj", _refuse("views that conjugate are"), "PrivateUse1")
    aten.impl("_neg_view", _refuse("views that negate are"), "PrivateUse1")
    torch.UntypedStorage.clone = _clone  # type: ignore[method-assign]
    return [everything, aten]


_LIBRARIES = _install()  # torch forgets them with the object
DEVICE = torch.device(NAME, 0)
