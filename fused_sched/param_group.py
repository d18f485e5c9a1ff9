"""A param group whose hyperparameters live in the control block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .control_block import FIELDS, FLAGS, ControlBlock
from .live_dict import Changes, LiveDict

_BETAS = {"betas": ("beta1", "beta2")}


class ParamGroup(LiveDict):
    """One element of ``optimizer.param_groups``.

    A read of a hyperparameter gives a Python float (``betas`` a tuple of two); an assignment reaches
    the device at once, in stream order. An ``lr`` assigned as a tensor reads as a live 0-d float64 view
    of the control block until a number is assigned.

    Args:
        values: the group as torch built it.
        keys: names of the optimizer's hyperparameters (its ``defaults``).
        block: the optimizer's control block; the group claims a row of it.
        changes: where the optimizer looks for structural changes.
    """

    def __init__(self, values: Mapping[str, Any], keys: frozenset[str], block: ControlBlock, changes: Changes) -> None:
        super().__init__()
        self.live = frozenset(k for k in keys if k in FIELDS or k in _BETAS)
        self.flags = frozenset(k for k in keys if k in FLAGS)
        self.index = block.add_group()
        self._block = block
        self._changes = changes
        self._lr_is_tensor = False
        self._lr_view: torch.Tensor | None = None  # the view that reads of lr hand out, always the same
        self.update(values)

    def replace(self, values: Mapping[str, Any]) -> None:
        """Become ``values`` in place, so that references to the group and its row stay good."""
        for key in [k for k in self if k not in values]:
            del self[key]
        self.update(values)

    def move_to(self, block: ControlBlock, index: int) -> None:
        """Live in another control block from now on; the caller has copied the row."""
        self._block, self.index = block, index
        if self._lr_view is not None:
            self._lr_view.data = block.view(index, "lr")

    def _read(self, key: str) -> Any:
        if key in _BETAS:
            return tuple(self._block.read(self._block.slot(self.index, f)) for f in _BETAS[key])
        if key == "lr" and self._lr_is_tensor:
            if self._lr_view is None:
                self._lr_view = self._block.view(self.index, "lr")
            return self._lr_view
        return self._block.read(self._block.slot(self.index, key))

    def _write(self, key: str, value: Any) -> Any:
        if key in _BETAS and key in self.live:
            return self._write_pair(key, value)
        if key in self.live:
            if key == "lr":
                self._write_lr(value)
                return None
            self._write_number(key, key, value)
            if key == "momentum":
                self._changes.structure = True  # a momentum buffer may be needed from now on
            return None  # the number is in the block only
        if key in self.flags:
            value = bool(value)
            bits = int(self._block.read(self._block.slot(self.index, "flags")))
            bits = bits | FLAGS[key] if value else bits & ~FLAGS[key]
            self._block.write(self._block.slot(self.index, "flags"), float(bits))
            self._changes.structure = True
        elif key == "params":
            self._changes.structure = True
        else:
            self._changes.values += 1
        return value

    def _write_lr(self, value: Any) -> None:
        view = self._lr_view
        before = None if view is None or view is value else view.detach().clone()
        self._write_number("lr", "lr", value)
        if view is not None and before is not None:
            view.data = before  # as in torch, a tensor read earlier keeps its value when another is assigned
            self._lr_view = None
        self._lr_is_tensor = isinstance(value, torch.Tensor)
        self._changes.lr_by_hand = True

    def _write_number(self, key: str, field: str, value: Any) -> None:
        slot = self._block.slot(self.index, field)
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise ValueError(f"{key} is a tensor with {value.numel()} elements: give a one-element tensor")
            if self._block.platform.is_remote(value.device):
                self._block.copy_from_device(slot, value)
                return
            value = value.item()
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{key}={value!r} must be a number or a one-element tensor: assign a float") from None
        self._block.write(slot, number)

    def _write_pair(self, key: str, value: Any) -> None:
        fields = _BETAS[key]
        try:
            pair = list(value)
        except TypeError:
            pair = []
        if len(pair) != len(fields):
            raise TypeError(f"{key}={value!r} must be a pair of numbers, such as (0.9, 0.999)")
        for x in pair:  # all of it, before any of it is written
            try:
                good = x.numel() == 1 if isinstance(x, torch.Tensor) else isinstance(float(x), float)
            except (TypeError, ValueError):
                good = False
            if not good:
                raise TypeError(f"{key}={value!r} must be a pair of numbers, such as (0.9, 0.999)")
        for field, x in zip(fields, pair, strict=True):
            self._write_number(key, field, x)
