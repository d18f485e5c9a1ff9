"""The control block: one small float64 device tensor per optimizer that every launch reads.

Layout, in 8-byte words (csrc/control_block.h has the same numbers; a test compares them)::

    header | row 0 | row 1 | ...        counts: int64, a tensor of its own
    8        32      32

The header's integers are int64, seen through ``tensor.view(torch.int64)``. A **row** has the hyperparameters of a
param group and belongs to that group, wherever in ``param_groups`` it is. Its second half has, for each field of the
first, the tensor that the field follows (see :mod:`bindings`). A **count** is the number of updates applied
to a parameter and belongs to the parameter's state; it is per parameter because one may miss gradients on some steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .bindings import Bindings, imported, is_bindable
from .hosted_array import HostedArray
from .mirrors import Mirrors
from .platforms import TORCH, Platform
from .values import as_float

HEADER: dict[str, int] = {
    "skipped": 0,  # int64: 1 when the last update was skipped because found_inf was not 0
    "ticket": 1,  # int64: programs of the running GPU update that are done; 0 between updates
    "grad_norm": 2,  # the last norm of all gradients, where steps measure it
    "skipped_steps": 3,  # int64: steps that measured, and were skipped
    "norms_seen": 4,  # int64: norms that a SpikeRule has remembered so far
    "seed": 5,  # int64: of stochastic rounding
    "updates": 6,  # int64: updates that rounded by it so far
}
GROUPS_OFFSET = 8
GROUP_STRIDE = 32
BOUND = 16  # in a row: the words of the tensors that its fields follow
FIELDS: dict[str, int] = {
    "lr": 0,
    "weight_decay": 1,
    "momentum": 2,
    "dampening": 3,
    "beta1": 4,
    "beta2": 5,
    "eps": 6,
    "flags": 7,  # a sum of FLAGS
    "max_grad_norm": 8,
    "ema_decay": 9,
}
# In a row, after its fields: what a step measured of the group's gradients.
MEASURED: dict[str, int] = {
    "clip_factor": 10,  # by which the update multiplies them
    "group_norm": 11,  # the norm that the factor was made of
}
PAIRS: dict[str, tuple[str, ...]] = {"betas": ("beta1", "beta2")}  # keys of a param group that are several fields
PARTS: dict[str, tuple[str, int]] = {part: (key, i) for key, parts in PAIRS.items() for i, part in enumerate(parts)}
FLAGS: dict[str, int] = {
    "maximize": 1,
    "nesterov": 2,
    "amsgrad": 4,
    "decoupled_weight_decay": 8,
}
SPARE = 64  # rows, and counts, that there is room for beyond twice those of the start
NO_COUNT = 0  # the count of a record without a state: always 0


class Slot:
    """A place of its owner's own: free again when the owner is gone, unless a CUDA graph has seen it.

    Attributes:
        index: of the place.
    """

    __slots__ = ("__weakref__", "_slots", "index")

    def __init__(self, slots: Slots, index: int) -> None:
        self._slots, self.index = slots, index

    def __del__(self) -> None:
        self._slots.release(self.index)


class Slots:
    """Hands out the places of an array.

    Attributes:
        end: places from here on have never been handed out.
    """

    def __init__(self) -> None:
        self.end = 0
        self._free: list[int] = []
        self._owned: set[int] = set()
        self._seen: set[int] = set()

    def claim(self) -> Slot:
        """A place that is nobody else's; one at :attr:`end` is new."""
        index = self._free.pop() if self._free else self.end
        self.end = max(self.end, index + 1)
        self._owned.add(index)
        return Slot(self, index)

    def is_next_new(self) -> bool:
        """Whether :meth:`claim` would hand out a place for the first time."""
        return not self._free

    def release(self, index: int) -> None:
        """The owner is gone."""
        self._owned.discard(index)
        if index not in self._seen:
            self._free.append(index)

    def note_capture(self) -> None:
        """A graph writes to what is handed out now: no other owner may ever have it."""
        self._seen |= self._owned


class ControlBlock(HostedArray):
    """The control block of one optimizer; see the module's docstring for the layout.

    Attributes:
        counts: int64 tensor, one for each slot.

    Args:
        device: the device of the parameters.
        n_groups, n_tensors: how many there are at first; there is room for more.
        platform, mirrors: see :class:`HostedArray`.
    """

    def __init__(
        self,
        device: torch.device,
        n_groups: int,
        n_tensors: int,
        platform: Platform = TORCH,
        mirrors: Mirrors | None = None,
    ) -> None:
        values = torch.zeros(GROUPS_OFFSET + (2 * n_groups + SPARE) * GROUP_STRIDE, dtype=torch.float64, device="cpu")
        super().__init__(values, device, None, platform, mirrors)
        self.in_use = GROUPS_OFFSET
        self.counts = torch.zeros(1 + 2 * n_tensors + SPARE, dtype=torch.int64, device=device)
        self._rows, self._counts = Slots(), Slots()
        self._nobodys = self._counts.claim()  # NO_COUNT
        self.bindings = Bindings()

    @property
    def integers(self) -> torch.Tensor:
        """The block as int64, for the header."""
        return self.tensor.view(torch.int64)

    @property
    def row_capacity(self) -> int:
        """Rows that :attr:`tensor` has."""
        return (self.tensor.numel() - GROUPS_OFFSET) // GROUP_STRIDE

    @staticmethod
    def slot(row: int, field: str) -> int:
        """Index of a row's field in the block."""
        return GROUPS_OFFSET + row * GROUP_STRIDE + FIELDS[field]

    def measured(self, row: int, name: str) -> torch.Tensor:
        """The place of what a step measured for a row; see :data:`MEASURED`."""
        return self.tensor[GROUPS_OFFSET + row * GROUP_STRIDE + MEASURED[name]]

    def read_field(self, row: int, field: str) -> float:
        """A field's value (looks at the tensor that it follows)."""
        kept = self.read(self.slot(row, field))
        tensor = self.bindings.get(row, field)
        return kept if tensor is None else imported(kept, tensor)

    def take_value(self, row: int, field: str, tensor: torch.Tensor) -> None:
        """Set a field to what a tensor of the block's device has, without waiting for it."""
        if self.remote:
            self.copy_from_device(self.slot(row, field), tensor)
        else:
            self.write(self.slot(row, field), as_float(tensor))

    def bind(self, row: int, field: str, tensor: torch.Tensor | None) -> None:
        """Let a field follow a tensor of the block's device, or none any more.

        Raises:
            RuntimeError: a captured CUDA graph would not see it.
        """
        if tensor is self.bindings.get(row, field):
            return
        self.refuse_in_capture(f"another tensor {field} was assigned")
        if tensor is not None and field not in self.bindings.fields:
            if self.captured:
                raise RuntimeError(
                    f"{field} was assigned as a tensor, but a captured CUDA graph has no {field} that is a tensor, and "
                    "would not see it: assign a number, or assign the tensor before the capture"
                )
            self.note_changes_unseen()  # whoever writes to a tensor does not tell
        self._write_words(self.bindings.follow(row, field, tensor))

    def forget(self, row: int) -> None:
        """The group of a row is gone: its fields follow nothing."""
        self._write_words(self.bindings.forget(row))

    def follow_moved(self) -> None:
        """Look for fields whose tensors have other memory now.

        Raises:
            RuntimeError: inside a CUDA graph capture.
            TypeError: a tensor is none that can be followed any more; nothing has changed.
        """
        moved = self.bindings.moved()
        if not moved:
            return
        self.refuse_in_capture("a hyperparameter's tensor got another memory")
        for row, field in moved:
            tensor = self.bindings.get(row, field)
            if tensor is not None and not is_bindable(tensor, self.device):
                raise TypeError(
                    f"{field} has become a {tensor.dtype} tensor on {tensor.device}, where it can be one of float32 or "
                    f"float64 on {self.device}: assign such a tensor, or a number, to the group"
                )
        for row, field in moved:
            self._write_words(self.bindings.follow(row, field, self.bindings.get(row, field)))

    def note_order(self, rows: Sequence[int]) -> None:
        """Take note of the order in which torch would go through the rows."""
        self._write_words(self.bindings.reorder(rows))

    def _write_words(self, words: Mapping[tuple[int, str], int]) -> None:
        for (row, field), word in words.items():
            self.integers[self.slot(row, field) + BOUND] = word

    def claim_row(self) -> Slot:
        """A row of zeros for a new group.

        Raises:
            RuntimeError: the block would have to grow, but a captured CUDA graph points to it.
        """
        if self._rows.is_next_new():
            if self._rows.end == self.row_capacity:
                self._refuse_to_grow("param groups")
                self.grow(GROUPS_OFFSET + 2 * self.row_capacity * GROUP_STRIDE)
            self.in_use += GROUP_STRIDE
            return self._rows.claim()
        row = self._rows.claim()
        self.forget(row.index)
        self.write_range(self.slot(row.index, "lr"), [0.0] * GROUP_STRIDE)
        return row

    def claim_count(self) -> Slot:
        """A count of 0 for a new state.

        Raises:
            RuntimeError: as :meth:`claim_row`.
        """
        if self._counts.is_next_new():
            if self._counts.end == self.counts.numel():
                self._refuse_to_grow("parameters with state")
                old, self.counts = self.counts, torch.zeros_like(self.counts).repeat(2)
                self.counts[: old.numel()].copy_(old)
                self.platform.record_stream(old)
            return self._counts.claim()
        count = self._counts.claim()
        self.counts[count.index] = 0
        return count

    def note_capture(self) -> None:
        super().note_capture()
        self._rows.note_capture()
        self._counts.note_capture()

    def _refuse_to_grow(self, what: str) -> None:
        if self.captured or self.capturing():
            raise RuntimeError(
                f"there is no room for more {what}, and the control block cannot move, as a captured CUDA graph points "
                "to it: add them before the capture, or make a new optimizer"
            )

    def skipped(self) -> bool:
        """Whether the last update was skipped (reads the device)."""
        return bool(self.integers[HEADER["skipped"]].item())
