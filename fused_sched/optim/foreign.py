"""Optimizers that are not of this package, as schedulers see them: their groups hold the lr in tensors."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from operator import is_
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from .. import backends
from ..memory.bindings import is_bindable
from ..memory.control_block import PARTS, Slot
from .fused_optimizer import FusedOptimizer
from .home import Home

_INNER = ("optimizer", "optim", "_optimizer", "_base_optimizer")  # under which wrappers have it
_known: Any = WeakIdKeyDictionary()


def home_of(optimizer: Any, backend: str | backends.Backend | None = None) -> Home | None:
    """What a scheduler of ``optimizer`` drives: an optimizer of this package, or a :class:`ForeignOptimizer`.

    A wrapper that shows the groups of an optimizer of this package is driven through.

    Args:
        optimizer: any one; of what is none, the answer is None.
        backend: of a foreign one that no scheduler has driven yet; default: what suits the device.
    """
    found = fused_inside(optimizer)
    return _foreign(optimizer, backend) if found is None else found


def fused_inside(optimizer: Any) -> FusedOptimizer | None:
    """The optimizer of this package that ``optimizer`` is, or wraps and shows the groups of; None if there is none."""
    found, inner = None, optimizer
    while isinstance(inner, Optimizer):
        if isinstance(inner, FusedOptimizer) and _shows_groups_of(optimizer, inner):
            found = inner  # the innermost: a wrapper may be of its class too, as Lightning's
        inner = next((vars(inner)[name] for name in _INNER if name in vars(inner)), None)
    return found


def _shows_groups_of(wrapper: Any, inner: FusedOptimizer) -> bool:
    shown = wrapper.param_groups
    return len(shown) == len(inner.param_groups) and all(map(is_, shown, inner.param_groups))


def _foreign(optimizer: Any, backend: str | backends.Backend | None) -> ForeignOptimizer | None:
    if not isinstance(optimizer, Optimizer):
        return None  # torch's constructor says so
    if optimizer not in _known:
        _known[optimizer] = ForeignOptimizer(optimizer, backend)
    return _known[optimizer]  # type: ignore[no-any-return]


class ForeignOptimizer(Home):
    """The groups of an optimizer as rows of a control block, whose fields follow the tensors in the groups.

    The rows are shared by all schedulers of the optimizer.

    Args:
        optimizer: of any class.
        backend: runs the programs; default: what suits the device.
    """

    advances_schedules = False

    def __init__(self, optimizer: Optimizer, backend: str | backends.Backend | None = None) -> None:
        self._backend_given = backend
        self._optimizer = weakref.ref(optimizer)
        self._watched = {"lr"}  # fields that programs use
        self._asked = 0
        self.groups_seen = []
        self._slots: dict[int, Slot] = {}  # by identity of the groups seen
        self._found: list[tuple[dict[str, Any], str, Any]] = []  # group, field, its tensor or None
        self._take(optimizer.param_groups)

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(self._slots[id(group)].index for group in self.groups_seen)

    def groups_changed(self) -> bool:
        groups, known = self._groups(), self.groups_seen
        if len(groups) != len(known) or not all(map(is_, groups, known)):
            return True
        if any(_tensor(group, field) is not tensor for group, field, tensor in self._found):
            return True
        return bool(self._block.bindings.moved())

    def sync_groups(self) -> None:
        self._take(self._groups())

    def values_assigned(self) -> int:
        self._asked += 1  # nothing tells of assignments: whoever asks has to look
        return self._asked

    def watch_fields(self, fields: Collection[str]) -> str | None:
        if not self._watched >= set(fields):
            self._watched |= set(fields)
            self._take(self.groups_seen)
        for place, group in enumerate(self.groups_seen):
            for field in sorted(fields):
                if self._block.bindings.get(self._slots[id(group)].index, field) is None:
                    return self._why_unbound(place, group, field)
        return None

    def _why_unbound(self, place: int, group: dict[str, Any], field: str) -> str:
        tensor, (key, *_) = _tensor(group, field), PARTS.get(field, (field,))
        name = type(self._optimizer()).__name__
        if tensor is None:
            return f"{name} has no tensor for {key} in param group {place}, so only Python can set it"
        return (
            f"{key} in param group {place} of {name} is a {tensor.dtype} tensor of {tensor.numel()} element(s) on "
            f"{tensor.device}, where a schedule on {self._block.device} can follow one of float32 or float64 there"
        )

    def _groups(self) -> list[dict[str, Any]]:
        optimizer = self._optimizer()
        if optimizer is None:
            raise ReferenceError("the optimizer of a scheduler is gone: keep it as long as its schedulers")
        return optimizer.param_groups

    def _take(self, groups: Iterable[dict[str, Any]]) -> None:
        groups = list(groups)
        device = next((t.device for g in groups if (t := _tensor(g, "lr")) is not None), torch.device("cpu"))
        if "_block" not in self.__dict__ or self._block.device != device:
            self._move_to(device, len(groups), 0)
            self._slots = {}
        before = self._slots
        self._slots = {id(g): before.get(id(g)) or self._block.claim_row() for g in groups}
        for gone in before.keys() - self._slots.keys():
            self._block.forget(before[gone].index)
        self.groups_seen = groups
        self._found = [(g, field, _tensor(g, field)) for g in groups for field in sorted(self._watched)]
        self._let_go_of_moved()
        for group, field, tensor in self._found:
            self._follow(self._slots[id(group)].index, field, tensor)
        self._block.note_order(self.rows)

    def _let_go_of_moved(self) -> None:
        """Tensors with other memory are followed anew, if they still can be."""
        for row, field in self._block.bindings.moved():
            self._block.bind(row, field, None)

    def _follow(self, row: int, field: str, tensor: torch.Tensor | None) -> None:
        block = self._block
        if not is_bindable(tensor, block.device):
            tensor = None
        if tensor is block.bindings.get(row, field):
            return
        block.bind(row, field, tensor)
        if tensor is not None:
            block.take_value(row, field, tensor)


def _tensor(group: dict[str, Any], field: str) -> torch.Tensor | None:
    """What a group has for a field, if it is a tensor."""
    key, *place = PARTS.get(field, (field,))
    value = group.get(key)
    if place:
        value = value[place[0]] if isinstance(value, (tuple, list)) and len(value) > place[0] else None
    return value if isinstance(value, torch.Tensor) else None
