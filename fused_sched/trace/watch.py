"""What a trace has read from outside of the function, and whether it is still the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CellType
from typing import Any

MISSING: Any = object()


def _same(now: Any, then: Any) -> bool:
    if now is then:
        return True
    return type(now) is type(then) and isinstance(then, (int, float, str)) and now == then


class Watch:
    """Collects what was read; :meth:`changed` compares it with the present."""

    def __init__(self) -> None:
        self._keys: dict[tuple[int, Any], tuple[Any, Any, Any]] = {}
        self._cells: dict[int, tuple[CellType, Any]] = {}
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._calls: dict[tuple[Any, ...], tuple[Callable[[], Any], Any]] = {}
        self._reads: list[tuple[Callable[[], Any], Any]] | None = None

    def key(self, mapping: Any, key: Any, value: Any) -> None:
        """``mapping.get(key)`` was ``value``; MISSING where it had no such key."""
        self._keys.setdefault((id(mapping), key), (mapping, key, value))

    def cell(self, cell: CellType, value: Any) -> None:
        """A variable of an enclosing function was ``value``."""
        self._cells.setdefault(id(cell), (cell, value))

    def copy(self, container: Any, copy: Any) -> None:
        """A list, dict or set had these elements."""
        self._copies.setdefault(id(container), (container, copy))

    def call(self, name: tuple[Any, ...], read: Callable[[], Any], value: Any) -> None:
        """Anything else: ``read()`` gave ``value``."""
        self._calls.setdefault(name, (read, value))

    def changed(self) -> bool:
        """Whether something that was read is not what it was."""
        if self._reads is None:
            self._freeze()
        try:
            for read, value in self._reads:  # type: ignore[union-attr]
                now = read()
                if now is not value and not _same(now, value):
                    return True
            for container, copy in self._copies.values():
                if container != copy:
                    return True
        except Exception:  # what cannot be read any more has changed
            return True
        return False

    def _freeze(self) -> None:
        # compiled callables only: this is looked at before every step
        reads: list[tuple[Callable[[], Any], Any]] = []
        reads += [(partial(mapping.get, key, MISSING), value) for mapping, key, value in self._keys.values()]
        reads += [(partial(getattr, cell, "cell_contents"), value) for cell, value in self._cells.values()]
        self._reads = [*reads, *self._calls.values()]
