"""Ends Python code that computes for too long."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any


class TimeLimit:
    """Context in which this thread may compute for ``seconds`` of processor time.

    After that ``expired`` is called and ``signal`` raised in the thread, again and again until the context
    is left: what runs there may swallow it. The caller deals with the signal. In Python 3.10 a loop that lies
    within a bare ``except:`` as a whole cannot be ended.

    Args:
        seconds: of processor time, or of any time where the system cannot tell.
        signal: not an Exception, so that handlers of the code inside do not take it for an error.
        expired: called from another thread.
    """

    def __init__(self, seconds: float, signal: type[BaseException], expired: Callable[[], None]) -> None:
        self._seconds, self._signal, self._expired = seconds, signal, expired
        self._done, self._thread = threading.Event(), threading.get_ident()
        self._guard = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._start = self._clock()
        self._guard.start()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Raise no more signals; for the caller's handler too, as one may come while the context is left."""
        while self._guard.is_alive():
            try:
                self._done.set()
                self._guard.join()
            except self._signal:  # the last one came late
                continue

    def _clock(self) -> float:
        if hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        return time.monotonic()

    def _watch(self) -> None:
        interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
        thread = ctypes.c_ulong(self._thread)
        while not self._done.wait(0.02):
            if self._clock() - self._start > self._seconds:
                self._expired()
                interrupt(thread, ctypes.py_object(self._signal))
        interrupt(thread, None)


class _TookTooLong(BaseException):
    pass


def call_within(seconds: float, function: Callable[[], Any]) -> Any:
    """``function()``.

    Raises:
        TimeoutError: it computed for more than ``seconds``.
    """
    late: list[bool] = []
    limit = TimeLimit(seconds, _TookTooLong, lambda: late.append(True))
    try:
        with limit:
            result = function()
    except _TookTooLong:
        limit.close()
    if late:
        raise TimeoutError(f"no result after {seconds:g} s of computing: is there a loop without an end?")
    return result
