"""Optimizer state: per-parameter dicts as torch has them, with the update count kept in the control block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from .control_block import ControlBlock
from .live_dict import Changes, LiveDict


class ParamState(LiveDict):
    """``optimizer.state[param]``.

    ``step`` (Adam) reads as a 0-d float32 tensor, a new one after every optimizer step; assigning to it,
    or changing it in place before the next optimizer step, sets the count. SGD's count has no key: it says whether
    ``momentum_buffer`` holds anything yet.

    Args:
        counted: the rule shows its count as ``step``.
        block: where the count is.
        index: position of the parameter in the table.
        changes: where the optimizer looks for structural changes.
    """

    def __init__(self, counted: bool, block: ControlBlock, index: int, changes: Changes) -> None:
        super().__init__()
        self.live = frozenset({"step"}) if counted else frozenset()
        self.block, self.index = block, index
        self._changes = changes
        self._lent: tuple[torch.Tensor, int] | None = None
        if counted:
            dict.__setitem__(self, "step", None)

    def store(self, key: str, tensor: torch.Tensor) -> None:
        """Put a state tensor that means "nothing yet"; an assignment would say that it holds something."""
        dict.__setitem__(self, key, tensor)

    @property
    def count(self) -> int:
        """Updates applied (reads the device)."""
        return int(self.block.counts[self.index])

    def take_back(self) -> None:
        """Honour in-place changes of a ``step`` tensor that was handed out."""
        if self._lent is not None:
            tensor, version = self._lent
            self._lent = None
            if tensor._version != version:
                self.block.counts[self.index] = tensor.to(torch.int64)

    def _read(self, key: str) -> torch.Tensor:
        if self._lent is None:
            tensor = self.block.counts[self.index].to(torch.float32)
            self._changes.lent.append(self)
        else:
            tensor = self._lent[0]
            self.take_back()
            with torch.no_grad():
                tensor.copy_(self.block.counts[self.index])
        self._lent = tensor, tensor._version
        return tensor

    def _write(self, key: str, value: Any) -> Any:
        if key in self.live:
            self._lent = None
            number = value.detach().reshape(()).to(torch.int64) if isinstance(value, torch.Tensor) else int(value)
            self.block.counts[self.index] = number
            return None
        if key == "momentum_buffer" and not self.live:
            self.block.counts[self.index] = 0 if value is None else 1
        self._changes.structure = True
        return value

    def _removed(self, key: str) -> None:
        if key == "momentum_buffer" or key in self.live:
            self.block.counts[self.index] = 0
        self._changes.structure = True


class OptimizerState(defaultdict[torch.Tensor, Any]):
    """``optimizer.state``: torch's defaultdict, which also tells when it was changed."""

    def __init__(self, changes: Changes, values: Mapping[Any, Any] | None = None) -> None:
        super().__init__(dict, values or {})
        self._changes = changes

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
