"""Putting back what a block had changed before it raised."""

from __future__ import annotations

from collections.abc import Callable


class UndoneOnError:
    """A ``with`` block, for which functions are called where it raises.

    Things that must change together need one block: Ctrl-C may come between the ends of two.

    A class and not a generator: a generator that Ctrl-C leaves between its halves ends when it is collected, and would
    put back then what the user has changed since.
    """

    __slots__ = ("_undos",)

    def __init__(self, *undos: Callable[[], None]) -> None:
        self._undos = undos

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for undo in self._undos:
                undo()
