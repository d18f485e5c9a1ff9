"""What optimizer steps did, told without a wait, also of those in replays of a captured CUDA graph."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NoReturn
from weakref import WeakSet

import torch

from . import optim
from .compiled import not_compiled
from .memory.step_ring import StepRing
from .notice import warn
from .optim.foreign import fused_inside
from .rows import Row, ScalarWriter, destination, row_of

_LEAST_CAPACITY = 1024
_MOST_ON_THE_WAY = 8  # copies that poll() lets wait for the device: it may be called at every replay
_open: WeakSet[Monitor] = WeakSet()


class Monitor:
    """Tells of every step of an optimizer: its number, lrs, gradient norm, whether it was skipped, GradScaler's scale.

    The device writes a row of a ring as a part of ``optimizer.step()``, and so does every replay of a CUDA graph in
    which a step was captured. The host reads the ring by copies that it does not wait for, and gives the rows to
    ``to``: some steps after every ``every`` steps that it makes itself, in :meth:`poll`, and in :meth:`flush`. Rows
    come in the order of the steps, each once. Steps, replays and these calls belong on one stream.

    Rows that were overwritten before they were read are counted in :attr:`overwritten`, with one warning; the numbers
    of the others stay right. Steps have the number after the one before, whatever happens to the optimizer in between.
    Groups that are added or removed make rows longer or shorter from the next step on.

    The optimizer does not keep a monitor alive. One that nobody has any more writes no rows (graphs go on writing to
    its ring, unread), and a warning says so where rows were still to come. An optimizer may have several. Copies and
    pickles of the optimizer have none; ``load_state_dict`` changes nothing.

    Args:
        optimizer: of this package, or what wraps one and shows its groups.
        every: steps of the host after which rows are read; at least 1.
        to: where rows go: a function of a list of :class:`Row`; an object with ``add_scalar(tag, value, step)``, such
            as a SummaryWriter, for the tags ``lr/0``, ``lr/1``, ..., ``grad_norm``, ``skipped``, ``scale``; or the path
            of a .csv file, to whose end rows are added. None: the list :attr:`rows`. What raises there is raised by the
            step or the call that delivered, and the next delivery begins with the same rows.
        capacity: rows on the device, at least ``every``; default: 1024, or four times ``every`` if that is more. A loop
            that only replays has to poll before so many steps are made.
        first_step: number of the coming step, for a run that goes on; at least 0.

    Attributes:
        rows: what came, where ``to`` is None; clear it at any time.

    Raises:
        TypeError: the optimizer is none of this package, or an argument is of another kind.
        ValueError: a number is out of range, or the file is none that rows can be added to.
        OSError: the file cannot be written.
        RuntimeError: inside the capture of a CUDA graph.
    """

    _closed = True  # until all is well

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 100,
        to: Callable[[list[Row]], Any] | ScalarWriter | str | os.PathLike[str] | None = None,
        capacity: int | None = None,
        *,
        first_step: int = 0,
    ) -> None:
        _check_number("every", every, 1)
        _check_number("first_step", first_step, 0)
        if capacity is None:
            capacity = max(_LEAST_CAPACITY, 4 * every)
        _check_number("capacity", capacity, 1)
        if capacity < every:
            raise ValueError(f"capacity={capacity} must be at least every={every}, lest rows are overwritten unread")
        inner = fused_inside(optimizer)
        if inner is None:
            ours = ", ".join(name for name in optim.__all__ if hasattr(torch.optim, name))
            raise TypeError(
                f"a Monitor is told by the steps of fused_sched.optim's {ours}, and not by those of "
                f"{type(optimizer).__module__}.{type(optimizer).__qualname__}: make one of these optimizers"
            )
        inner.refuse_in_capture("a Monitor was made")
        self.rows: list[Row] = []
        self._deliver_to = self.rows.extend if to is None else destination(to)
        self._kept = to is None
        self._optimizer, self._every = inner, every
        self._ring = StepRing(capacity, first_step, inner.backend.platform)
        self._steps = self._delivered = 0  # of the host, and all that were delivered
        self._replayed = False  # a graph may write rows
        self._waiting: list[Row] = []
        self._delivering = self._warned = False
        inner.add_observer(self)
        self._closed = False
        _open.add(self)

    @property
    def overwritten(self) -> int:
        """How many rows were, before they were read."""
        return self._ring.overwritten

    # -- called by the optimizer -----------------------------------------------------------------------------

    def record(self, words: Sequence[torch.Tensor], capturing: bool) -> Sequence[torch.Tensor]:
        """See :class:`Observer`."""
        self._replayed |= capturing
        return self._ring.write(words, capturing)

    def note_step(self) -> None:
        """See :class:`Observer`."""
        self._steps += 1
        if self._steps % self._every == 0:
            self._ring.start_reading()
        if self._ring.on_their_way or self._waiting:
            self._deliver()

    # -- called by the user ----------------------------------------------------------------------------------

    @not_compiled
    def poll(self) -> None:
        """Begin to read, and deliver what has arrived; never waits. For loops that only replay.

        Raises:
            RuntimeError: the monitor is closed, or inside the capture of a CUDA graph.
        """
        self._refuse_closed("poll()")
        self._deliver()
        if self._ring.on_their_way < _MOST_ON_THE_WAY:
            self._ring.start_reading()
            self._deliver()

    @not_compiled
    def flush(self) -> None:
        """Deliver the rows of all steps so far; waits for the device. Raises as :meth:`poll`."""
        self._refuse_closed("flush()")
        self._ring.start_reading()
        self._deliver(wait=True)

    @not_compiled
    def close(self) -> None:
        """:meth:`flush`, and be told no more. Leaving ``with Monitor(...) as monitor:`` does it, and so does the exit
        of the program. A second call does nothing."""
        if self._closed:
            return
        self._optimizer.refuse_in_capture("Monitor.close() was called")
        try:
            self.flush()
        finally:
            self._closed = True
            _open.discard(self)
            self._optimizer.remove_observer(self)
            self._ring.release()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_closed(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"Monitor.{what} was called after close(), since when there are no rows: make another")
        self._optimizer.refuse_in_capture(f"Monitor.{what} was called")

    def _deliver(self, wait: bool = False) -> None:
        """Deliver what has arrived, or all that was asked for."""
        self._waiting += map(row_of, self._ring.arrived(wait))
        if self._delivering:
            return  # by what is called here: the loop below goes on with them
        self._delivering = True
        try:
            while self._waiting:
                rows, self._waiting = self._waiting, []
                try:
                    self._deliver_to(list(rows))
                except BaseException:
                    self._waiting = rows + self._waiting
                    raise
                self._delivered += len(rows)
        finally:
            self._delivering = False
        if self.overwritten and not self._warned:
            self._warned = True
            warn(
                f"{self.overwritten} rows of a Monitor were overwritten before they were read, and are lost (further "
                "ones are counted in its overwritten): call poll() more often, or give it a larger capacity"
            )

    def __del__(self) -> None:
        if self._closed or sys.is_finalizing():
            return
        self._ring.release()
        if not self._kept and (self._replayed or self._delivered + self.overwritten < self._steps):
            warn(
                "a Monitor that nobody has any more was not closed: rows that it had not delivered yet are lost. Keep "
                "it in a variable, and call close() at the end, or write: with Monitor(...) as monitor"
            )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Monitor belongs to one optimizer and cannot be copied or pickled: make another one")


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} must be a whole number, such as 100")
    if not least <= value < 2**53:
        raise ValueError(f"{name}={value} must be at least {least}")


@atexit.register
def _close_all() -> None:
    """The last rows of a script that does not close its monitors."""
    with ExitStack() as stack:  # all of them, also where one raises
        for monitor in list(_open):
            stack.callback(monitor.close)
