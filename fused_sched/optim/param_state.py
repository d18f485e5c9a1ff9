"""Optimizer state: per-parameter dicts as torch has them, with the update count kept in the control block."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import _get_scalar_dtype

from ..memory.control_block import ControlBlock
from ..memory.parameter_table import flat_view, is_dense, real_view
from ..memory.shards import local, spread_alike
from ..rules import Rule
from ..step_options import AVERAGE, OF_NO_RULE
from .live_dict import Changes, LiveDict, rebuilt_as

PIECE = 2**20  # elements of averages that are looked at, or exchanged, at a time
_MOST_STEPS = 2**53  # float64, in which bias corrections are computed, has all whole numbers up to here


class ParamState(LiveDict):
    """``optimizer.state[param]``; it owns the count of its parameter's updates, whatever key it is put under.

    Where the rule shows the count, ``step`` reads as a 0-d tensor of the dtype that torch gives it, a new one after
    every optimizer step; assigning to it, or changing it in place before the next optimizer step, sets the count. SGD's
    count has no key: it says whether ``momentum_buffer`` holds anything yet.

    Args:
        rule: whose state it is.
        block: where the count is.
        changes: where the optimizer looks for structural changes.
        values: what torch has in its place; default: nothing.

    Raises:
        ValueError, TypeError: ``step`` is not a number of updates.
        RuntimeError: see :meth:`ControlBlock.claim_count`.
    """

    needs = 3

    def __init__(
        self, rule: Rule, block: ControlBlock, changes: Changes, values: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.live = frozenset() if rule.step_key is None else frozenset({rule.step_key})
        self._block = block
        self._slot = block.claim_count()
        self._changes = changes
        self._lent: tuple[torch.Tensor, torch.Tensor, int] | None = None  # and what it was, and its version
        self._given = False  # something was assigned
        self._step_dtype = _get_scalar_dtype()
        self.update(values or {})

    @property
    def index(self) -> int:
        """Of the count, in ``ControlBlock.counts``."""
        return self._slot.index

    def lives_in(self, block: ControlBlock) -> bool:
        """Whether the count is one of ``block``."""
        return self._block is block

    @property
    def holds_nothing(self) -> bool:
        """Whether what is there was put in reserve, for an update that has not come (reads the device).

        Torch has no such state; a state that was never touched is none of these.
        """
        return bool(self) and self.count == 0 and not (self.live and self._given)

    def store(self, key: str, value: torch.Tensor | int) -> None:
        """Put what means "nothing yet"; an assignment would say that the state holds something."""
        for live in self.live:
            dict.setdefault(self, live, None)
        dict.__setitem__(self, key, value)

    def stored(self, key: str) -> Any:
        """What is there, None if nothing is; nobody else is told of it."""
        return dict.get(self, key)

    def replace(self, values: Mapping[str, Any]) -> None:
        """Become ``values`` in place: what launches point to takes the new numbers, where it is of their kind."""
        for key in [k for k in self if k not in values]:
            del self[key]
        for key, value in values.items():
            present = self.stored(key)
            if isinstance(value, torch.Tensor) and key not in self.live:
                if isinstance(present, torch.Tensor) and _same_kind(present, value):
                    if present is not value:
                        local(present).copy_(local(value))
                    value = present
                else:
                    value = value.detach().clone()
            self[key] = value

    def reset(self) -> None:
        """Be as at the start, in the tensors that there are."""
        for key, tensor in self.items():
            if isinstance(tensor, torch.Tensor):
                start_anew(key, tensor)
        self._block.counts[self.index] = 0
        self._lent, self._given = None, False

    @property
    def count(self) -> int:
        """Updates applied (reads the device)."""
        return int(self._block.counts[self.index])

    def take_back(self) -> None:
        """Honour in-place changes of a ``step`` tensor that was handed out.

        Raises:
            ValueError: it is not a number of updates.
        """
        if self._lent is None:
            return
        tensor, before, version = self._lent
        self._given |= tensor._version != version
        if not self._block.remote:
            if float(tensor) != float(before):
                self._set_count(tensor)
        elif tensor._version != version or not self._block.capturing():  # a graph is to have no more than it must
            counts = self._block.counts
            here = counts[self.index]
            counts[self.index] = torch.where(tensor == before, here, tensor.to(torch.int64))
        self._lent = None

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if key not in self.live and isinstance(value, torch.Tensor):
            self._changes.hand_out(value)
        return value

    def _read(self, key: str) -> torch.Tensor:
        if self._lent is None:
            tensor = self._block.counts[self.index].to(self._step_dtype)
            self._changes.lent.append(weakref.ref(self))
        else:
            tensor = self._lent[0]
            self.take_back()
            with torch.no_grad():
                tensor.copy_(self._block.counts[self.index])
        self._lent = tensor, tensor.clone(), tensor._version
        return tensor

    def _write(self, key: str, value: Any) -> Any:
        self._given = True
        if key in self.live:
            self._set_count(value)
            if isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.float64):
                self._step_dtype = value.dtype
            self._lent = None
            self._changes.structure = True
            return None
        if isinstance(value, torch.Tensor):
            self._changes.hand_out(value)
        if not self.live and key not in OF_NO_RULE:
            self._block.counts[self.index] = 0 if value is None else 1
        self._changes.structure = True
        return value

    def _set_count(self, value: Any) -> None:
        self._block.counts[self.index] = whole_step(value)

    def _removed(self, key: str) -> None:
        if key in self.live or (not self.live and key not in OF_NO_RULE):
            self._block.counts[self.index] = 0
        self._changes.structure = True


def stored_average(state: Any) -> torch.Tensor | None:
    """The averaged copy in a state, also one that a copied optimizer has not taken in yet; None if there is none.

    Of a DTensor, the part that is here.
    """
    average = dict.get(state, AVERAGE) if isinstance(state, dict) else None
    return local(average) if isinstance(average, torch.Tensor) else None


def start_anew(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Let a state tensor mean "nothing yet": zeros, and NaN in an average, which then begins with the parameter."""
    mine = local(tensor)
    if key == AVERAGE:
        real_view(mine).fill_(math.nan)
    else:
        mine.zero_()
    return tensor


def holds_numbers(average: torch.Tensor) -> torch.Tensor:
    """Whether an average is more than "nothing yet": a bool, 0-d.

    One number would not tell: that of an infinite parameter is NaN too, as torch's lerp gives it.
    """
    mine = real_view(average)
    flat = flat_view(mine) if is_dense(mine) else mine.reshape(-1)
    return ~torch.stack([piece.isnan().all() for piece in flat.split(PIECE)]).all()


def whole_step(value: Any) -> int:
    """A number of updates.

    Raises:
        TypeError: it is no number.
        ValueError: it is not a whole number, or is negative.
    """
    number = value.detach().reshape(-1).tolist() if isinstance(value, torch.Tensor) else [value]
    if len(number) != 1 or not isinstance(number[0], (int, float)):
        raise TypeError(f"step={value!r} must be a number of updates: give a whole number, or a tensor with one")
    step = number[0]
    if not (math.isfinite(step) and 0 <= step < _MOST_STEPS and step == int(step)):
        raise ValueError(f"step={step!r} must be a number of updates: a whole number of at least 0")
    return int(step)


def _same_kind(a: torch.Tensor, b: torch.Tensor) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and a.layout == b.layout
    return alike and spread_alike(a, b)


class OptimizerState(defaultdict[torch.Tensor, Any]):
    """``optimizer.state``: torch's defaultdict, which also tells when it was changed.

    Args:
        rule, block, changes: of the states that reading a missing key makes.
        values: to begin with.
    """

    def __new__(cls, *args: Any) -> Any:
        """As :meth:`LiveDict.__new__`: one of ours is made of a rule."""
        return super().__new__(cls) if args and isinstance(args[0], Rule) else defaultdict(*args)

    def __init__(
        self, rule: Rule, block: ControlBlock, changes: Changes, values: Mapping[Any, Any] | None = None
    ) -> None:
        super().__init__(dict, values or {})  # the factory is shown only: see __missing__
        self._made_of = rule, block, changes
        self._changes = changes

    def belongs_to(self, block: ControlBlock) -> bool:
        """Whether it makes states whose counts are in ``block``."""
        return self._made_of[1] is block

    def make(self, values: Mapping[str, Any] | None = None) -> ParamState:
        """A state of ``values``, which is nobody's yet."""
        return ParamState(*self._made_of, values)

    def with_values(self, values: Mapping[Any, Any]) -> OptimizerState:
        """Another one for the same optimizer."""
        return OptimizerState(*self._made_of, values)

    def __missing__(self, key: Any) -> ParamState:
        self[key] = made = self.make()
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict,), None, None, iter(self.items())

    def copy(self) -> defaultdict[Any, Any]:  # type: ignore[override]
        return defaultdict(dict, self)

    def __copy__(self) -> defaultdict[Any, Any]:  # type: ignore[override]
        return self.copy()

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> OptimizerState:  # type: ignore[override]
        self.update(other)
        return self

    def _changed(self) -> None:
        self._changes.structure = True

    def __setitem__(self, key: Any, value: Any) -> None:
        self._changed()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._changed()
        super().__delitem__(key)

    def clear(self) -> None:
        self._changed()
        super().clear()

    def pop(self, *args: Any) -> Any:
        self._changed()
        return super().pop(*args)

    def popitem(self) -> tuple[Any, Any]:
        self._changed()
        return super().popitem()

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._changed()
        super().update(*args, **kwargs)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self._changed()
        return super().setdefault(key, default)


rebuilt_as(ParamState, dict)
rebuilt_as(OptimizerState, lambda: defaultdict(dict))


def take_back_steps(lent: Iterable[weakref.ref[ParamState]]) -> None:
    """:meth:`ParamState.take_back` of those that are still there."""
    for reference in lent:
        state = reference()
        if state is not None:
            state.take_back()
