"""The control block: one small float64 device tensor per optimizer that every launch reads.

Layout, in 8-byte slots (csrc/control_block.h has the same numbers; a test compares them)::

    header | group 0 | group 1 | ... | counts
    8        16        16              one int64 for each parameter

The header's integers and the counts are int64, seen through ``tensor.view(torch.int64)``. A count is
the number of updates applied to that parameter; it is per parameter because a parameter may miss
gradients on some steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableSequence, Sequence
from weakref import WeakSet

import torch

from .platforms import TORCH, Platform

HEADER: dict[str, int] = {
    "skipped": 0,  # int64: 1 when the last update was skipped because found_inf was not 0
    "ticket": 1,  # int64: programs of the running GPU update that are done; 0 between updates
}
GROUPS_OFFSET = 8
GROUP_STRIDE = 16
FIELDS: dict[str, int] = {
    "lr": 0,
    "weight_decay": 1,
    "momentum": 2,
    "dampening": 3,
    "beta1": 4,
    "beta2": 5,
    "eps": 6,
    "flags": 7,  # a sum of FLAGS
}
FLAGS: dict[str, int] = {
    "maximize": 1,
    "nesterov": 2,
    "amsgrad": 4,
    "decoupled_weight_decay": 8,
}
GROUP_CAPACITY = 1024  # rows reserved, so that add_param_group does not move the block


class Mirrors:
    """All the mirrors that the host keeps of one optimizer's memory: they go out of date, and are read anew, together.

    The device's pow and cos are not the host's in the last place, so a mirror that followed by itself moves a
    little when it is read anew. Numbers that are the same on the device, such as the lr in the control block
    and in the schedule that set it, have to move at the same time.
    """

    def __init__(self) -> None:
        self.age = 0  # grows when all of them go out of date
        self._arrays: WeakSet[HostedArray] = WeakSet()

    def add(self, array: HostedArray) -> None:
        """Read ``array`` anew with the others from now on."""
        self._arrays.add(array)

    def refresh(self) -> None:
        """Read all of them from the device."""
        for array in self._arrays:
            array.refresh()


class HostedArray:
    """A float64 device tensor that the host can read and write as numbers.

    On the CPU, ``host`` is the tensor's own memory. Elsewhere (``remote``) it is a mirror: writes go
    to both, in stream order and without a sync; a read waits for the device only while the mirror is
    ``stale``, that is after the device alone decided something (a skipped step, a graph replay), or
    ``volatile``: what a graph or a live view changes is not seen here.

    Args:
        values: float64 CPU tensor, one-dimensional: the first contents.
        device: where the tensor lives.
        hosted: how many leading elements the host may touch; default all.
        platform: says whether ``device`` is remote, and whether it is being captured.
        mirrors: those of the same optimizer.
    """

    def __init__(
        self,
        values: torch.Tensor,
        device: torch.device,
        hosted: int | None = None,
        platform: Platform = TORCH,
        mirrors: Mirrors | None = None,
    ) -> None:
        self.tensor = values.to(device, copy=True)
        self.device = self.tensor.device
        self.platform = platform
        self.remote = platform.is_remote(self.device)
        self.mirrors = mirrors or Mirrors()
        self.mirrors.add(self)
        self.volatile = False
        self.captured = False
        self._age = self.mirrors.age
        hosted = values.numel() if hosted is None else hosted
        self.in_use = hosted  # leading elements that can be other than they were at first
        self.host: MutableSequence[float]
        if self.remote:
            self.host = values[:hosted].tolist()
        else:
            self.host = (ctypes.c_double * hosted).from_address(self.tensor.data_ptr())  # type: ignore[assignment]

    @property
    def stale(self) -> bool:
        """Whether the mirror is out of date until the next read."""
        return self._age != self.mirrors.age

    def expire(self) -> None:
        """Only the device knows what it has now: let the next read of this mirror or of another wait for it."""
        if self.remote:
            self.mirrors.age += 1

    def read(self, index: int) -> float:
        """The number at ``index``."""
        self._bring_up_to_date()
        return self.host[index]

    def read_range(self, start: int, stop: int) -> list[float]:
        """The numbers from ``start`` up to ``stop``."""
        self._bring_up_to_date()
        return list(self.host[start:stop])

    def _bring_up_to_date(self) -> None:
        if self._age != self.mirrors.age:
            self.mirrors.refresh()
        elif self.volatile:
            self.refresh()

    def refresh(self) -> None:
        """Read this mirror from the device.

        Raises:
            RuntimeError: inside a CUDA graph capture, where the host cannot wait.
        """
        if self.capturing():
            raise RuntimeError(
                "a hyperparameter, or an attribute of a scheduler, that only the device knows was read inside a CUDA "
                "graph capture, where the host cannot wait for the device: read it before the capture or after a replay"
            )
        self.host[: self.in_use] = self.tensor[: self.in_use].tolist()
        self._age = self.mirrors.age

    def write(self, index: int, value: float) -> None:
        """Set one number, on the device in stream order.

        Raises:
            RuntimeError: inside a CUDA graph capture, as every replay would set it again.
        """
        if self.remote:
            self.refuse_in_capture("a hyperparameter was set by hand")
        self.host[index] = value
        if self.remote:
            self.tensor[index].fill_(value)

    def write_range(self, start: int, values: Sequence[float]) -> None:
        """Set consecutive numbers; see :meth:`write`."""
        if self.remote:
            self.refuse_in_capture("a schedule was changed by hand")
        self.host[start : start + len(values)] = values
        if self.remote:
            self.tensor[start : start + len(values)].copy_(torch.tensor(values, dtype=torch.float64), non_blocking=True)

    def capturing(self) -> bool:
        """Whether what is launched now on the array's device is recorded into a CUDA graph."""
        return self.platform.is_capturing(self.device)

    def refuse_in_capture(self, what: str, fix: str = "do it before the capture or between replays") -> None:
        """Raise RuntimeError if what the host does now to the array's device would end up in a CUDA graph."""
        if self.capturing():
            raise RuntimeError(
                f"{what} inside a CUDA graph capture, where it would be recorded once and repeated by every replay: "
                f"{fix}"
            )

    def note_capture(self) -> None:
        """A CUDA graph points to the tensor from now on; replays change it unseen."""
        self.captured = True
        self.note_changes_unseen()

    def note_changes_unseen(self) -> None:
        """From now on every read has to wait for the device."""
        if self.remote and not self.volatile:
            self.volatile = True
            self.expire()

    def copy_from_device(self, index: int, value: torch.Tensor) -> None:
        """Set one number from a one-element tensor without reading it on the host."""
        self.tensor[index].copy_(value.detach().reshape(()), non_blocking=True)
        self.expire()

    def copy_range(self, start: int, source: HostedArray, first: int, length: int) -> None:
        """Set consecutive numbers to those of another array of the same optimizer, without reading them.

        Raises:
            RuntimeError: see :meth:`write`.
        """
        if self.remote:
            self.refuse_in_capture("the control block was replaced")
            self.host[start : start + length] = source.host[first : first + length]
            if source.stale or source.volatile:
                self.expire()
        self.tensor[start : start + length].copy_(source.tensor[first : first + length])


class ControlBlock(HostedArray):
    """The control block of one optimizer; see the module's docstring for the layout.

    Args:
        device: the device of the parameters.
        n_tensors: number of parameters there is room for.
        platform, mirrors: see :class:`HostedArray`.
    """

    def __init__(
        self, device: torch.device, n_tensors: int, platform: Platform = TORCH, mirrors: Mirrors | None = None
    ) -> None:
        self.n_groups = 0
        self.count_capacity = n_tensors
        self.counts_offset = GROUPS_OFFSET + GROUP_CAPACITY * GROUP_STRIDE
        values = torch.zeros(self.counts_offset + n_tensors, dtype=torch.float64)
        super().__init__(values, device, self.counts_offset, platform, mirrors)
        self.in_use = GROUPS_OFFSET
        self.integers = self.tensor.view(torch.int64)
        self.counts = self.integers[self.counts_offset :]

    @staticmethod
    def slot(group: int, field: str) -> int:
        """Index of a group's field in the block."""
        return GROUPS_OFFSET + group * GROUP_STRIDE + FIELDS[field]

    def view(self, group: int, field: str) -> torch.Tensor:
        """A 0-d float64 tensor that shares the field's memory: writing to it edits the field on the device."""
        self.note_changes_unseen()
        return self.tensor[self.slot(group, field)]

    def add_group(self) -> int:
        """Claim the next row; returns its index."""
        if self.n_groups == GROUP_CAPACITY:
            raise ValueError(
                f"an optimizer has at most {GROUP_CAPACITY} param groups: merge the groups that share their options"
            )
        self.n_groups += 1
        self.in_use += GROUP_STRIDE
        return self.n_groups - 1

    def skipped(self) -> bool:
        """Whether the last update was skipped (reads the device)."""
        return bool(self.integers[HEADER["skipped"]].item())
