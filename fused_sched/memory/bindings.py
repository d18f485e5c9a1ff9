"""Fields of the control block that follow a tensor of the user's.

Beside the fields of a row stand as many words, each the address of a tensor or 0, with :data:`SINGLE` and
:data:`SILENT` in its lowest bits. A field that is bound is read as ``tensor == T(field) ? field : double(tensor)``, T
being the tensor's dtype: so it keeps its float64 value unless somebody wrote to the tensor. A program that writes the
field writes the tensor too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch

from .values import as_float, has_values

SINGLE = 1  # the tensor is float32, else float64
SILENT = 2  # the same field of a later row of the optimizer writes the same tensor: this one does not
DTYPES = (torch.float32, torch.float64)


def is_bindable(value: Any, device: torch.device) -> bool:
    """Whether a field can follow ``value``: a tensor of one float32 or float64 on ``device``."""
    return (
        isinstance(value, torch.Tensor)
        and value.numel() == 1
        and value.dtype in DTYPES
        and value.device == device
        and value.layout == torch.strided
        and has_values(value)
    )


Key = tuple[int, str]  # row and field


class Followed:
    """A tensor that a field follows, and the memory that its word points to, which is kept."""

    __slots__ = ("_memory", "address", "dtype", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self._memory = tensor, tensor.detach()
        self.address, self.dtype = tensor.data_ptr(), tensor.dtype

    @property
    def has_moved(self) -> bool:
        """Whether the tensor has other memory now: ``.data =``, ``set_``, ``share_memory_``, ``module.double()``."""
        return self.tensor.data_ptr() != self.address or self.tensor.dtype != self.dtype

    @property
    def word(self) -> int:
        """Address and dtype."""
        return self.address | (SINGLE if self.dtype == torch.float32 else 0)


class Bindings:
    """The tensors that fields follow.

    Where a field follows one tensor in several rows, the value that stays in it after an advance is that of the group
    which comes last, as torch would write them. Other fields may follow that tensor too: they read it, and schedules of
    theirs write it in their turn. For a program that has to do with several of those, see :meth:`shared_fields`.

    Attributes:
        fields: those that ever followed one: programs and kernels look at the tensors of these.
    """

    def __init__(self) -> None:
        self.fields: frozenset[str] = frozenset()
        self._followed: dict[Key, Followed] = {}
        self._last: dict[tuple[int, str], Key] = {}  # by address and field, who writes
        self._place: dict[int, int] = {}  # of each row
        self._placed = True  # all rows that follow a tensor came before the last reorder()

    def get(self, row: int, field: str) -> torch.Tensor | None:
        """What a field follows."""
        followed = self._followed.get((row, field))
        return None if followed is None else followed.tensor

    def tensors(self, rows: Iterable[int]) -> list[torch.Tensor]:
        """What the fields of some rows follow."""
        chosen = {*rows}
        return [followed.tensor for (row, _), followed in self._followed.items() if row in chosen]

    def moved(self) -> list[Key]:
        """Fields whose tensors have other memory now."""
        return [key for key, followed in self._followed.items() if followed.has_moved]

    def writer(self, row: int, field: str) -> Key:
        """Whose value stays in the tensor that this one follows, once the field is written; itself if in none."""
        followed = self._followed.get((row, field))
        return (row, field) if followed is None else self._last[followed.address, field]

    def writes(self, row: int, field: str) -> bool:
        """Whether this field follows a tensor, and its value is the one that stays there."""
        return (row, field) in self._followed and self.writer(row, field) == (row, field)

    def shared_fields(self, rows: Iterable[int], written: Collection[str], used: Collection[str]) -> list[str]:
        """A field that is written, and another one that is used, where they follow one tensor; else none.

        torch reads one after the other is written. A program reads all of them first.
        """
        if len(used) < 2 or not self.fields & set(written):
            return []
        chosen = {*rows}
        writers: dict[int, str] = {}
        followed = [(x.address, field) for (row, field), x in self._followed.items() if row in chosen and field in used]
        for address, field in followed:
            if field in written:
                writers.setdefault(address, field)
        for address, field in followed:
            if writers.get(address, field) != field:
                return sorted((writers[address], field))
        return []

    def follow(self, row: int, field: str, tensor: torch.Tensor | None) -> dict[Key, int]:
        """Let a field follow a tensor, or none.

        Returns:
            The words that changed.
        """
        key, old = (row, field), self._followed.pop((row, field), None)
        changed = {key: 0}
        if old is not None and self._last.get((old.address, field)) == key:
            del self._last[old.address, field]
            others = self._followed.items()
            changed |= self._written_by_last([k for k, x in others if k[1] == field and x.address == old.address])
        if tensor is None:
            return changed
        self._followed[key] = followed = Followed(tensor)
        self._placed = self._placed and row in self._place
        self.fields |= {field}
        before = self._last.get((followed.address, field))
        keys = [key] if before is None else [before, key]
        return changed | self._written_by_last(keys, unlisted=-1 if row in self._place else None)

    def forget(self, row: int) -> dict[Key, int]:
        """The row is nobody's, or another group's; returns the words that changed."""
        changed: dict[Key, int] = {}
        for key in [key for key in self._followed if key[0] == row]:
            changed |= self.follow(*key, None)
        return changed

    def reorder(self, rows: Sequence[int]) -> dict[Key, int]:
        """The rows are in this order now; returns the words that may have changed."""
        if self._placed and list(rows) == list(self._place):
            return {}
        self._place = {row: i for i, row in enumerate(rows)}
        self._placed = True
        sharers: dict[tuple[int, str], list[Key]] = {}
        for key, followed in self._followed.items():
            sharers.setdefault((followed.address, key[1]), []).append(key)
        changed: dict[Key, int] = {}
        for keys in sharers.values():
            changed |= self._written_by_last(keys, unlisted=-1)
        return changed

    def _written_by_last(self, keys: list[Key], unlisted: int | None = None) -> dict[Key, int]:
        """Let the last of ``keys``, one field with one tensor, write it, and none of the others.

        Args:
            unlisted: place of rows that are in no place; default: after all, since they are new.
        """
        if not keys:
            return {}
        elsewhere = len(self._place) if unlisted is None else unlisted
        last = max(keys, key=lambda key: (self._place.get(key[0], elsewhere), key[0]))
        self._last[self._followed[last].address, last[1]] = last
        return {key: self._followed[key].word | (0 if key == last else SILENT) for key in keys}


def imported(kept: float, tensor: torch.Tensor) -> float:
    """What a field that is bound is read as (waits for the device)."""
    given = as_float(tensor)
    return kept if given == float(torch.tensor(kept, dtype=tensor.dtype, device="cpu")) else given
