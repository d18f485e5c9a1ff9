"""Arrays on the device that the host reads and writes as numbers, without waiting where it can."""

from __future__ import annotations

import ctypes
from collections.abc import MutableSequence, Sequence

import torch

from .mirrors import Mirrors, recording_of
from .platforms import TORCH, Platform
from .values import with_values


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
        self.tensor = with_values(values.to(device, copy=True))
        self.device = self.tensor.device
        self.platform = platform
        self.remote = platform.is_remote(self.device)
        if self.remote:
            platform.watch_captures()
        self.mirrors = Mirrors() if mirrors is None else mirrors
        self.mirrors.add(self)
        self.volatile = False
        self.captured = False
        self._age = self.mirrors.age
        hosted = values.numel() if hosted is None else hosted
        self.in_use = hosted  # leading elements that can be other than they were at first
        self.host: MutableSequence[float] = values[:hosted].tolist() if self.remote else _numbers(self.tensor, hosted)

    @property
    def stale(self) -> bool:
        """Whether the mirror is out of date until the next read."""
        return self._age != self.mirrors.age

    def expire(self) -> None:
        """Only the device knows what it has now: let the next read of this mirror or of another wait for it."""
        if self.remote:
            self.mirrors.expire()

    def resume(self, age: int, *others: HostedArray) -> bool:
        """Take back the one :meth:`expire` since the mirrors had that age: what they had is known to be right again.

        Returns:
            False if there were others, or a mirror was read since.
        """
        if any(array._age != age or array.volatile for array in (self, *others)):
            return False
        return self.mirrors.take_back(age)

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
            for array in self.mirrors:
                array.refresh()
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

    def write(self, index: int, value: float, count: int = 1) -> None:
        """Set ``count`` numbers to one, on the device in stream order.

        Raises:
            RuntimeError: inside a CUDA graph capture, as every replay would set it again.
        """
        if self.remote:
            self.refuse_in_capture("a hyperparameter was set by hand")
            self._note_write()
        if count == 1:
            self.host[index] = value
        else:
            self.host[index : index + count] = [value] * count
        if self.remote:
            self.tensor[index : index + count].fill_(value)

    def _note_write(self) -> None:
        if self.stale:
            self.expire()  # once more, so that what came before cannot be taken back

    def write_range(self, start: int, values: Sequence[float]) -> None:
        """Set consecutive numbers; see :meth:`write`."""
        if self.remote:
            self.refuse_in_capture("a schedule was changed by hand")
            self._note_write()
        self.host[start : start + len(values)] = values
        if self.remote:
            new = torch.tensor(values, dtype=torch.float64, device="cpu")
            self.tensor[start : start + len(values)].copy_(new, non_blocking=True)

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
        """A CUDA graph points to the tensor from now on; replays change it, unseen where nobody tells of them."""
        self.captured = True
        if not recording_of(self.mirrors, self.platform):
            self.note_changes_unseen()

    def note_changes_unseen(self) -> None:
        """From now on every read has to wait for the device."""
        if self.remote and not self.volatile:
            self.volatile = True
            self.expire()

    def copy_from_device(self, index: int, value: torch.Tensor, count: int = 1) -> None:
        """Set ``count`` numbers to that of a one-element tensor, without reading it on the host."""
        if self.capturing():
            self.note_capture()
        self.tensor[index : index + count].copy_(value.detach().reshape(()), non_blocking=True)
        self.expire()

    def grow(self, length: int) -> None:
        """Go on in a larger tensor, whose new elements are 0; no graph may point to the present one."""
        old = self.tensor
        self.tensor = with_values(torch.zeros(length, dtype=torch.float64, device=self.device))
        self.tensor[: old.numel()].copy_(old)
        self.platform.record_stream(old)
        if self.remote:
            self.host.extend([0.0] * (length - len(self.host)))
        else:
            self.host = _numbers(self.tensor, length)


def _numbers(tensor: torch.Tensor, length: int) -> MutableSequence[float]:
    """The leading elements of a CPU tensor, which has to outlive them."""
    return (ctypes.c_double * length).from_address(tensor.data_ptr())  # type: ignore[return-value]
