"""A flag of the user's on the device that lets steps change nothing."""

from __future__ import annotations

import torch

from ..compiled import not_compiled
from ..memory.control_block import ControlBlock
from ..memory.values import check_values
from .home import Home

_CONVERTED = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MAKE = "make it with torch.zeros((), device={device})"


class Stopping(Home):
    """The part of an optimizer that a flag, or GradScaler, keeps from updating."""

    _block: ControlBlock
    _stop_flag: torch.Tensor | None = None
    _stop_memory: torch.Tensor | None = None  # the flag's, as it was given

    @not_compiled
    def stop_when(self, flag: torch.Tensor | None) -> None:
        """From now on, a step that finds ``flag`` other than 0 changes nothing; the device decides, without a wait.

        Such a step is one that GradScaler would have skipped: parameters, states, counts and averages stay, what rounds
        by chance draws nothing, a :class:`SpikeRule` remembers nothing, schedules made with ``fused=True`` do not
        advance, and ``scheduler.step()`` does what it does after a skipped step. GradScaler's own flag and
        ``skip_nonfinite`` skip steps as before. A captured CUDA graph reads the flag at every replay.

        Args:
            flag: tensor of one element on the optimizer's device, to be written to at any time. float32; or bool,
                uint8, int8, int16, int32 or int64, which costs one launch a step more. NaN is other than 0. It is
                yours: state dicts, copies and pickles of the optimizer are without it. None: steps are made again.

        Raises:
            TypeError: it is no tensor, or of another dtype.
            ValueError: it has more elements or none, or is on another device.
            RuntimeError: inside the capture of a CUDA graph, or after one, whose replays would not see the change.
        """
        if flag is self._stop_flag:
            return
        block = self._block
        if flag is not None:
            _check_flag(flag, block.device)
        block.refuse_in_capture("stop_when() was called")
        if block.captured:
            what = "taken off" if flag is None else "exchanged" if self._stop_flag is not None else "given"
            raise RuntimeError(
                f"the flag of stop_when() was {what} after a CUDA graph was captured, whose replays would not see it: "
                "give it before the capture, and write 0 to it where steps are not to stop"
            )
        self._stop_flag = flag
        self._stop_memory = None if flag is None else flag.detach()

    def _found_to_stop(self) -> torch.Tensor | None:
        """One element that is not 0 where the coming step changes nothing; None if nothing decides on that."""
        found, flag = getattr(self, "found_inf", None), self._stop_flag
        if found is not None:
            check_values("found_inf", found)
        if flag is None:
            return found
        flag = self._present_flag(flag)
        if found is not None:
            # at once, since the sum of two that are not 0 may be 0
            either = flag.new_empty((), dtype=torch.float32)
            found = found.detach().to(flag.device, non_blocking=True).reshape(())
            return torch.logical_or(found, flag.reshape(()), out=either)
        return flag if flag.dtype == torch.float32 else flag.to(torch.float32)

    def _present_flag(self, flag: torch.Tensor) -> torch.Tensor:
        """The flag's memory, checked again: users can give it another one without telling."""
        block = self._block
        _check_flag(flag, block.device)
        assert self._stop_memory is not None
        if flag.data_ptr() != self._stop_memory.data_ptr() or flag.dtype != self._stop_memory.dtype:
            if block.captured:
                raise RuntimeError(
                    "the flag of stop_when() has other memory than when a CUDA graph was captured, whose replays do "
                    "not see what is written there: write to the flag in place"
                )
            self._stop_memory = flag.detach()
        if block.capturing():
            self._keep_for_graph([self._stop_memory])
        return self._stop_memory


def _check_flag(flag: torch.Tensor, device: torch.device) -> None:
    make = _MAKE.format(device=repr(str(device)))
    if not isinstance(flag, torch.Tensor):
        raise TypeError(
            f"stop_when({flag!r}): the flag must be a tensor of one element on {device}, which the device reads at "
            f"each step: {make}"
        )
    if flag.dtype != torch.float32 and flag.dtype not in _CONVERTED:
        kinds = ", ".join(str(d).removeprefix("torch.") for d in _CONVERTED)
        raise TypeError(f"the flag of stop_when() is of {flag.dtype}, but must be float32, {kinds}: {make}")
    if flag.numel() != 1 or flag.layout != torch.strided:
        kind = f"shape {tuple(flag.shape)}" if flag.layout == torch.strided else f"layout {flag.layout}"
        raise ValueError(f"the flag of stop_when() has {kind}, but must have one element: {make}")
    if flag.device != device:
        raise ValueError(
            f"the flag of stop_when() is on {flag.device}, but the optimizer on {device}, where it is read: {make}"
        )
    check_values("the flag of stop_when()", flag)
