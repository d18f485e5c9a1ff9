"""A param group whose hyperparameters live in the control block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..memory.bindings import is_bindable
from ..memory.control_block import FIELDS, FLAGS, PAIRS, ControlBlock
from ..memory.values import has_values
from ..notice import warn
from ..step_options import OF_ALL_GROUPS, OPTION_FIELDS, check_field
from .given import Given
from .home import Home
from .live_dict import Changes, LiveDict, rebuilt_as

Number = float | torch.Tensor


class ParamGroup(LiveDict):
    """One element of ``optimizer.param_groups``.

    A read of a hyperparameter gives a Python float (``betas`` a tuple of two); an assignment reaches
    the device at once, in stream order. One that was assigned as a tensor of one float32 or float64 on the
    parameters' device is that very tensor: what is written to it, be it inside a CUDA graph, is an edit, and schedules
    write to it. Other tensors are copied there, with a warning.

    Args:
        values: the group as torch built it.
        keys: names of the optimizer's hyperparameters (its ``defaults``), in their order.
        block: the optimizer's control block; the group owns a row of it, wherever in the list it is.
        changes: where the optimizer looks for structural changes.

    Raises:
        KeyError, TypeError, ValueError: see :func:`check_group`; the row is free again.
    """

    needs = 4
    given: Given | None = None  # that somebody else has

    def __init__(self, values: Mapping[str, Any], keys: Sequence[str], block: ControlBlock, changes: Changes) -> None:
        super().__init__()
        self.live = frozenset(k for k in keys if k in FIELDS or k in PAIRS).union(OPTION_FIELDS)
        self.flags = frozenset(k for k in keys if k in FLAGS)
        self._needed = _needed(keys)
        _check_keys(values, self._needed)  # values are checked as they are assigned
        self._slot = block.claim_row()
        self._block = block
        self._changes = changes
        self.update(values)

    @property
    def row(self) -> int:
        """Of the control block."""
        return self._slot.index

    def lives_in(self, block: ControlBlock) -> bool:
        """Whether the group's row is one of ``block``."""
        return self._block is block

    def check(self) -> None:
        """Raise KeyError if a hyperparameter was deleted."""
        _check_keys(self, self._needed)

    def replace(self, values: Mapping[str, Any]) -> None:
        """Become ``values`` in place, so that references to the group and its row stay good."""
        for key in [k for k in self if k not in values]:
            del self[key]
        moved = {key: self._moved(value) if key in self.live else value for key, value in values.items()}
        self.update(moved)

    def _moved(self, value: Any) -> Any:
        """Tensors as ones that a field can follow."""
        if isinstance(value, (tuple, list)):
            return tuple(map(self._moved, value))
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or is_bindable(value, self._block.device):
            return value
        return value.detach().reshape(()).to(device=self._block.device, dtype=torch.float64)

    def _read(self, key: str) -> Any:
        if key in PAIRS:
            return tuple(map(self._read_field, PAIRS[key]))
        return self._read_field(key)

    def _read_field(self, field: str) -> Any:
        block, row = self._block, self.row
        tensor = block.bindings.get(row, field) if block.bindings.fields else None
        return block.read(block.slot(row, field)) if tensor is None else tensor

    def _write(self, key: str, value: Any) -> Any:
        if key in OF_ALL_GROUPS:
            raise TypeError(
                f"{key}={value!r} in a param group, but it is the same for all groups of an optimizer: give it to the "
                "optimizer's constructor; what makes the optimizer itself, as ZeroRedundancyOptimizer does, takes "
                f"functools.partial(AdamW, {key}=...) as its class"
            )
        self._look_at_given()
        if key in self.live and Home.rehearsal is not None and Home.rehearsal.watches:
            raise RuntimeError(
                f"{key}={value!r} was assigned inside a function that becomes a CUDA graph, which would not do it "
                "again: do it between calls, let a schedule of fused_sched.lr_scheduler do it (torch's own work in "
                "Python), or write to a tensor that the group has"
            )
        if key in self.live:
            numbers = check_value(key, value)  # all of it, before any of it is written
            if key in OPTION_FIELDS and key not in self:
                self._note_switch(key, "switched on")
            self._write_numbers(PAIRS.get(key, (key,)), numbers)
            if key == "lr":
                self._changes.lr_by_hand = True
            if key == "momentum":
                self._changes.structure = True  # a momentum buffer may be needed from now on
            return None  # the numbers are in the block only
        if key in self.flags:
            value = bool(value)
            bits = int(self._block.read(self._block.slot(self.row, "flags")))
            bits = bits | FLAGS[key] if value else bits & ~FLAGS[key]
            self._block.write(self._block.slot(self.row, "flags"), float(bits))
            self._changes.structure = True
        elif key == "params":
            self._changes.structure = True
        else:
            self._changes.values += 1
        return value

    def _look_at_given(self) -> None:
        """Take in what was assigned to the dict that the group was made of, before anything is read here."""
        if self.given is not None:
            self.given.follow(self)

    def __getitem__(self, key: str) -> Any:
        if self.given is not None:  # as _look_at_given() and super() do, in one call
            self.given.follow(self)
        stored = dict.__getitem__(self, key)
        return self._read(key) if key in self.live else stored

    def __iter__(self) -> Iterator[str]:
        self._look_at_given()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._look_at_given()
        return super().__reversed__()

    def __contains__(self, key: object) -> bool:
        if self.given is not None:
            self.given.follow(self)
        return dict.__contains__(self, key)

    def __len__(self) -> int:
        self._look_at_given()
        return super().__len__()

    def keys(self) -> Any:
        self._look_at_given()
        return super().keys()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if self.given is not None:
            self.given.assign(key, value)

    def __delitem__(self, key: str) -> None:
        if key in OPTION_FIELDS and key in self:
            self._note_switch(key, "switched off")
        super().__delitem__(key)

    def _removed(self, key: str) -> None:
        self._changes.structure = True
        if self.given is not None:
            self.given.assign(key)

    def _note_switch(self, key: str, what: str) -> None:
        """The group has, or has no more, a field that only some groups have."""
        if self._block.captured:
            raise RuntimeError(
                f"{key} was {what} after a CUDA graph was captured, whose replays would not see it: have {key} in the "
                "param group before the capture; what it is may change later"
            )
        self._changes.structure = True

    def _followable(self, field: str, number: Number) -> Number:
        """A number, or a tensor that the field can follow: else a copy, with a warning."""
        block = self._block
        if isinstance(number, torch.Tensor) and not is_bindable(number, block.device):
            warn(
                f"{field} is a {number.dtype} tensor on {number.device}, but can follow only one of float32 or float64 "
                f"on {block.device}: it was copied, and what is written to yours will not be seen. Write to the one in "
                "the group, or give such a tensor"
            )
            number = self._moved(number)
        return number

    def _write_numbers(self, fields: Sequence[str], numbers: Sequence[Number]) -> None:
        block, row = self._block, self.row
        numbers = [self._followable(field, number) for field, number in zip(fields, numbers, strict=True)]
        tensors = [number if isinstance(number, torch.Tensor) else None for number in numbers]
        before = [block.bindings.get(row, field) for field in fields]
        for field, tensor in zip(fields, tensors, strict=True):
            block.bind(row, field, tensor)
        for field, number, tensor, known in zip(fields, numbers, tensors, before, strict=True):
            if tensor is None:
                block.write(block.slot(row, field), float(number))
            elif tensor is not known:  # else the field is more exact than the tensor
                block.take_value(row, field, tensor)
            self._changes.rebound |= tensor is not known


rebuilt_as(ParamGroup, dict)


def check_value(key: str, value: Any) -> list[Number]:
    """The numbers that a hyperparameter stands for.

    Raises:
        TypeError: it is not a number or a one-element tensor, or, for ``betas``, a pair of those.
        ValueError: it is a tensor with more elements, or none; or out of the range that the key has.
    """
    if key not in PAIRS:
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError(f"{key} is a tensor with {value.numel()} elements: give a one-element tensor")
        if key in OPTION_FIELDS:
            check_field(key, value)
        number = _number(value)
        if number is None:
            raise TypeError(f"{key}={value!r} must be a number or a one-element tensor: assign a float")
        return [number]
    try:
        numbers = [_number(x) for x in value]
    except TypeError:
        numbers = []
    if len(numbers) != len(PAIRS[key]) or any(x is None for x in numbers):
        raise TypeError(f"{key}={value!r} must be a pair of numbers, such as (0.9, 0.999)")
    return numbers  # type: ignore[return-value]


def check_group(values: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Make sure that ``values`` can become a group of an optimizer with the hyperparameters ``keys``.

    Raises:
        KeyError: a hyperparameter is missing.
        TypeError, ValueError: see :func:`check_value`.
    """
    needed = _needed(keys)
    _check_keys(values, needed)
    for key in {*needed, *(k for k in OPTION_FIELDS if k in values)}:
        if key not in FLAGS:
            check_value(key, values[key])


def _needed(keys: Sequence[str]) -> list[str]:
    """Of an optimizer's hyperparameters those that it has to find in a group, in their order."""
    return [k for k in keys if (k in FIELDS or k in PAIRS or k in FLAGS) and k not in OPTION_FIELDS]


def _check_keys(values: Any, keys: Any) -> None:
    for key in keys:
        if key not in values:
            raise KeyError(f"a param group has no {key!r}, which this optimizer reads: assign it")


def _number(value: Any) -> Number | None:
    if isinstance(value, torch.Tensor):
        return value if value.numel() == 1 and has_values(value) else None
    if isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
