"""What optimizers show beside torch's attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    shown = property  # for checkers it cannot be assigned
else:

    class shown:  # as property
        """A property, but that a subclass of the user's may have an attribute of the same name."""

        def __init__(self, read: Callable[[Any], Any]) -> None:
            self._read, self.__doc__ = read, read.__doc__

        def __get__(self, owner: Any, kind: Any = None) -> Any:
            return self if owner is None else self._read(owner)
