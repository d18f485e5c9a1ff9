"""The ``__dict__`` of a scheduler, some of whose attributes are in its program."""

from __future__ import annotations

import weakref
from typing import Any

from ..optim.live_dict import LiveDict


class Attributes(LiveDict):
    """What ``vars(scheduler)`` and ``scheduler.__dict__`` give, and torch's code and users' read and write.

    Registers are read from the program, and whatever is assigned counts as if the attribute were. Attributes that are
    asked of the scheduler itself do not come by here: Python takes them from the dict as it is stored, which for a
    register is the value of the last pull (see :func:`kept`).

    A dict that the scheduler has, and not a property of its class: a base without ``__slots__``, in front of ours, has
    a ``__dict__`` of its own.
    """

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.live = type(scheduler)._live_attributes()
        self.follow(scheduler)

    def follow(self, scheduler: Any) -> None:
        """It is the dict of this scheduler, which it has weakly."""
        self._scheduler = weakref.ref(scheduler)

    def _read(self, key: str) -> Any:
        scheduler = self._scheduler()
        return dict.__getitem__(self, key) if scheduler is None else getattr(scheduler, key)

    def _write(self, key: str, value: Any) -> Any:
        scheduler = self._scheduler()
        if scheduler is not None:
            scheduler._take_assigned(key, value)
        return value

    def _removed(self, key: str) -> None:
        scheduler = self._scheduler()
        if scheduler is not None:
            scheduler._note_change(key)


def kept(scheduler: Any, name: str) -> Any:
    """An attribute as ``__dict__`` stores it: of a register, the value of the last pull."""
    return dict.__getitem__(scheduler.__dict__, name)


def keep(scheduler: Any, name: str, value: Any) -> None:
    """Store an attribute in ``__dict__``, of which nothing else takes note."""
    dict.__setitem__(scheduler.__dict__, name, value)


def all_kept(scheduler: Any) -> dict[str, Any]:
    """A copy of ``__dict__`` as it is stored."""
    return dict.copy(scheduler.__dict__)


def put_back(scheduler: Any, attributes: dict[str, Any]) -> None:
    """Let ``__dict__`` be what :func:`all_kept` gave."""
    dict.clear(scheduler.__dict__)
    dict.update(scheduler.__dict__, attributes)
