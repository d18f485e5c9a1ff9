"""A param group whose hyperparameters live in the control block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..memory.control_block import FIELDS, FLAGS, ControlBlock
from ..memory.values import has_values
from .live_dict import Changes, LiveDict

_BETAS = {"betas": ("beta1", "beta2")}
Number = float | torch.Tensor  # a tensor stays on its device


class ParamGroup(LiveDict):
    """One element of ``optimizer.param_groups``.

    A read of a hyperparameter gives a Python float (``betas`` a tuple of two); an assignment reaches
    the device at once, in stream order. An ``lr`` assigned as a tensor reads as a live 0-d float64 view
    of the control block until a number is assigned.

    Args:
        values: the group as torch built it.
        keys: names of the optimizer's hyperparameters (its ``defaults``).
        block: the optimizer's control block; the group owns a row of it, wherever in the list it is.
        changes: where the optimizer looks for structural changes.

    Raises:
        KeyError, TypeError, ValueError: see :func:`check_group`; the row is free again.
    """

    def __init__(self, values: Mapping[str, Any], keys: frozenset[str], block: ControlBlock, changes: Changes) -> None:
        super().__init__()
        self.live = frozenset(k for k in keys if k in FIELDS or k in _BETAS)
        self.flags = frozenset(k for k in keys if k in FLAGS)
        _check_keys(values, self.live | self.flags)  # values are checked as they are assigned
        self._slot = block.claim_row()
        self._block = block
        self._changes = changes
        self._lr_is_tensor = False
        self._lr_view: torch.Tensor | None = None  # the view that reads of lr hand out, always the same
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
        _check_keys(self, self.live | self.flags)

    def replace(self, values: Mapping[str, Any]) -> None:
        """Become ``values`` in place, so that references to the group and its row stay good."""
        for key in [k for k in self if k not in values]:
            del self[key]
        self.update(values)

    def _read(self, key: str) -> Any:
        if key in _BETAS:
            return tuple(self._block.read(self._block.slot(self.row, f)) for f in _BETAS[key])
        if key == "lr" and self._lr_is_tensor:
            if self._lr_view is None:
                self._lr_view = self._block.view(self.row, "lr")
            return self._lr_view
        return self._block.read(self._block.slot(self.row, key))

    def _write(self, key: str, value: Any) -> Any:
        if key in self.live:
            numbers = check_value(key, value)  # all of it, before any of it is written
            if key == "lr":
                self._leave_view(value)
            for field, number in zip(_BETAS.get(key, (key,)), numbers, strict=True):
                self._write_number(field, number)
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

    def _removed(self, key: str) -> None:
        self._changes.structure = True

    def _leave_view(self, value: Any) -> None:
        """As in torch, a tensor read earlier keeps its value when another lr is assigned."""
        if self._lr_view is not None and self._lr_view is not value:
            self._block.cut_off(self._lr_view)
            self._lr_view = None
        self._lr_is_tensor = isinstance(value, torch.Tensor)
        self._changes.lr_by_hand = True

    def _write_number(self, field: str, number: Number) -> None:
        slot = self._block.slot(self.row, field)
        if isinstance(number, torch.Tensor) and self._block.platform.is_remote(number.device):
            self._block.copy_from_device(slot, number)
        else:
            self._block.write(slot, float(number))


def check_value(key: str, value: Any) -> list[Number]:
    """The numbers that a hyperparameter stands for.

    Raises:
        TypeError: it is not a number or a one-element tensor, or, for ``betas``, a pair of those.
        ValueError: it is a tensor with more elements, or none.
    """
    if key not in _BETAS:
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError(f"{key} is a tensor with {value.numel()} elements: give a one-element tensor")
        number = _number(value)
        if number is None:
            raise TypeError(f"{key}={value!r} must be a number or a one-element tensor: assign a float")
        return [number]
    try:
        numbers = [_number(x) for x in value]
    except TypeError:
        numbers = []
    if len(numbers) != len(_BETAS[key]) or any(x is None for x in numbers):
        raise TypeError(f"{key}={value!r} must be a pair of numbers, such as (0.9, 0.999)")
    return numbers  # type: ignore[return-value]


def check_group(values: Mapping[str, Any], keys: frozenset[str]) -> None:
    """Make sure that ``values`` can become a group of an optimizer with the hyperparameters ``keys``.

    Raises:
        KeyError: a hyperparameter is missing.
        TypeError, ValueError: see :func:`check_value`.
    """
    needed = [k for k in keys if k in FIELDS or k in _BETAS]
    _check_keys(values, [*needed, *(k for k in keys if k in FLAGS)])
    for key in needed:
        check_value(key, values[key])


def _check_keys(values: Any, keys: Any) -> None:
    for key in keys:
        if key not in values:
            raise KeyError(f"a param group has no {key!r}, which this optimizer reads: assign it")


def _number(value: Any) -> Number | None:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or not has_values(value):
            return None
        return value if value.device.type != "cpu" else _number(value.item())
    if isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
