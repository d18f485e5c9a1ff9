"""Fields of the control block that follow a tensor of the user's.

Beside the fields of a row stand as many words, each the address of a tensor or 0, with :data:`SINGLE` and
:data:`SILENT` in its lowest bits. A field that is bound is read as ``tensor == T(field) ? field : double(tensor)``, T
being the tensor's dtype: so it keeps its float64 value unless somebody wrote to the tensor. A program that writes the
field writes the tensor too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

SINGLE = 1  # the tensor is float32, else float64
SILENT = 2  # a later row of the optimizer writes the same tensor: this one does not
DTYPES = (torch.float32, torch.float64)


def is_bindable(value: Any, device: torch.device) -> bool:
    """Whether a field can follow ``value``: a tensor of one float32 or float64 on ``device``."""
    return (
        isinstance(value, torch.Tensor)
        and value.numel() == 1
        and value.dtype in DTYPES
        and value.device == device
        and value.layout == torch.strided
    )


Key = tuple[int, str]  # row and field


class Bindings:
    """The tensors that fields follow.

    Where several fields follow one tensor, the value that stays in it after an advance is that of the group which
    comes last, as torch would write them.

    Attributes:
        fields: those that ever followed one: programs and kernels look at the tensors of these.
    """

    def __init__(self) -> None:
        self.fields: frozenset[str] = frozenset()
        self._tensors: dict[Key, torch.Tensor] = {}
        self._last: dict[int, Key] = {}  # by address, who writes
        self._place: dict[int, int] = {}  # of each row

    def get(self, row: int, field: str) -> torch.Tensor | None:
        """What a field follows."""
        return self._tensors.get((row, field))

    def tensors(self, rows: Iterable[int]) -> list[torch.Tensor]:
        """What the fields of some rows follow."""
        chosen = {*rows}
        return [tensor for (row, _), tensor in self._tensors.items() if row in chosen]

    def writes(self, row: int, field: str) -> bool:
        """Whether the value of this field is the one that stays in the tensor."""
        tensor = self._tensors.get((row, field))
        return tensor is not None and self._last.get(tensor.data_ptr()) == (row, field)

    def follow(self, row: int, field: str, tensor: torch.Tensor | None) -> dict[Key, int]:
        """Let a field follow a tensor, or none.

        Returns:
            The words that changed.
        """
        key, old = (row, field), self._tensors.pop((row, field), None)
        changed = {key: 0}
        if old is not None and self._last.get(old.data_ptr()) == key:
            del self._last[old.data_ptr()]
            changed |= self._written_by_last([k for k, t in self._tensors.items() if t.data_ptr() == old.data_ptr()])
        if tensor is None:
            return changed
        self._tensors[key] = tensor
        self.fields |= {field}
        before = self._last.get(tensor.data_ptr())
        return changed | self._written_by_last([key] if before is None else [before, key])

    def forget(self, row: int) -> None:
        """The row is another group's now."""
        for key in [key for key in self._tensors if key[0] == row]:
            self.follow(*key, None)

    def reorder(self, rows: Sequence[int]) -> dict[Key, int]:
        """The rows are in this order now; returns the words that may have changed."""
        known = len(self._place)
        added = rows[known:]
        same = list(rows[:known]) == list(self._place) and list(added) == sorted(added)  # as was assumed of new ones
        self._place = {row: i for i, row in enumerate(rows)}
        if same:
            return {}
        sharers: dict[int, list[Key]] = {}
        for key, tensor in self._tensors.items():
            sharers.setdefault(tensor.data_ptr(), []).append(key)
        changed: dict[Key, int] = {}
        for keys in sharers.values():
            changed |= self._written_by_last(keys)
        return changed

    def _written_by_last(self, keys: list[Key]) -> dict[Key, int]:
        """Let the last of ``keys``, which have one tensor, write it, and none of the others."""
        if not keys:
            return {}
        after_all = len(self._place)
        last = max(keys, key=lambda key: (self._place.get(key[0], after_all), key[0]))
        self._last[self._tensors[last].data_ptr()] = last
        return {key: self._word(key) | (0 if key == last else SILENT) for key in keys}

    def _word(self, key: Key) -> int:
        tensor = self._tensors[key]
        return tensor.data_ptr() | (SINGLE if tensor.dtype == torch.float32 else 0)


def imported(kept: float, tensor: torch.Tensor) -> float:
    """What a field that is bound is read as (waits for the device)."""
    given = float(tensor)
    return kept if given == float(torch.tensor(kept, dtype=tensor.dtype)) else given
