"""A dict some of whose values live elsewhere, and that tells the same truth however it is read."""

from __future__ import annotations

import copy
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch.utils._pytree import register_pytree_node

from ..memory.shards import local
from ..memory.values import has_values
from .given import GivenDicts


class Changes:
    """What users changed since the optimizer last looked; shared by an optimizer, its groups and its state.

    Attributes:
        structure: something the parameter table was built from (params, state tensors, flags).
        lr_by_hand: an lr was assigned by hand, not by a scheduler.
        lent: states whose ``step`` was handed out as a tensor since the last optimizer step.
        given: the dicts that groups were made of.
        values: how often a value of a param group was assigned that is not in the control block.
        rebound: a value of a param group became another tensor, or was one and is none.
        handed_out: state tensors that a user may have, by id, and the memory that they had.
    """

    __slots__ = ("given", "handed_out", "lent", "lr_by_hand", "rebound", "structure", "values")

    def __init__(self) -> None:
        self.given = GivenDicts()
        self.structure = True
        self.lr_by_hand = False
        self.lent: list[weakref.ref[Any]] = []
        self.values = 0
        self.rebound = False
        self.handed_out: dict[int, tuple[weakref.ref[torch.Tensor], Any]] = {}

    def hand_out(self, tensor: torch.Tensor) -> None:
        """The user has a state tensor now, and may give it another storage, which no assignment tells of."""
        if tensor.layout != torch.strided or not has_values(local(tensor)):
            return
        known = self.handed_out.get(id(tensor))
        if known is None or known[0]() is not tensor:
            self.handed_out[id(tensor)] = weakref.ref(tensor), _memory(tensor)

    def look_at_handed_out(self) -> None:
        """Notice state tensors in another memory; forget those that nobody else has any more."""
        for key, (reference, memory) in list(self.handed_out.items()):
            tensor = reference()
            if tensor is None:
                del self.handed_out[key]
                continue
            if _memory(tensor) != memory:
                self.structure = True
                self.handed_out[key] = reference, _memory(tensor)
            elif (
                sys.getrefcount(tensor) <= _REFERENCES
                and _users_of_storage(tensor) <= _USERS
                and (local(tensor) is tensor or _references_of_part(tensor) <= _REFERENCES_OF_PART)
            ):
                del self.handed_out[key]


def _memory(tensor: torch.Tensor) -> Any:
    tensor = local(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _users_of_storage(tensor: torch.Tensor) -> int:
    return int(torch._C._storage_Use_Count(local(tensor).untyped_storage()._cdata))


def _references_of_part(tensor: Any) -> int:
    """References to the part of a DTensor that is here."""
    return sys.getrefcount(tensor._local_tensor)


class _LikeDTensor:
    __slots__ = ("_local_tensor",)

    def __init__(self) -> None:
        self._local_tensor = torch.empty(1, dtype=torch.float32, device="cpu")


def _of_a_state() -> tuple[int, int]:
    """References to a state tensor, and users of its storage, where only a state and a table have it."""
    state = {"buffer": torch.empty(1, dtype=torch.float32, device="cpu")}
    table = state["buffer"].detach()
    for reference in [weakref.ref(state["buffer"])]:  # as in look_at_handed_out
        tensor = reference()
        if tensor is not None and table is not None:
            return sys.getrefcount(tensor), _users_of_storage(tensor)
    raise AssertionError


_REFERENCES, _USERS = _of_a_state()
_REFERENCES_OF_PART = _references_of_part(_LikeDTensor())


class LiveDict(dict[str, Any]):
    """A dict whose keys in :attr:`live` are read from, and written to, another place.

    ``d[k]``, ``get``, ``items``, ``values``, ``{**d}``, ``dict(d)``, ``|``, ``==``, ``repr``, ``json``,
    ``copy``, ``deepcopy`` and ``pickle`` all see the live value. Copies are plain dicts, what was pickled is an
    OrderedDict, and the class of a group or state makes plain dicts of items alone, as helpers that rebuild collections
    call it. Subclasses implement :meth:`_read` and :meth:`_write`.
    """

    live: frozenset[str] = frozenset()
    needs: ClassVar[int] = 0  # so many arguments; with fewer, a plain dict is made

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return dict(*args, **kwargs) if len(args) < cls.needs else super().__new__(cls)

    def _read(self, key: str) -> Any:
        """The present value of a live key."""
        raise NotImplementedError

    def _write(self, key: str, value: Any) -> Any:
        """Take note of an assignment to any key; returns what the dict itself stores."""
        raise NotImplementedError

    def _removed(self, key: str) -> None:
        """Take note of a deletion."""

    def __getitem__(self, key: str) -> Any:
        stored = dict.__getitem__(self, key)  # torch reads every group for each one that is added
        return self._read(key) if key in self.live else stored

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, self._write(key, value))

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._removed(key)

    # A dict subclass with the inherited __iter__ is read by {**d} and dict(d) behind __getitem__'s back.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def copy(self) -> dict[str, Any]:
        return {key: self[key] for key in self}

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return dict(other) | self.copy()

    def __ior__(self, other: Any) -> LiveDict:  # type: ignore[misc,override]
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or self.copy() == (other.copy() if isinstance(other, LiveDict) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __repr__(self) -> str:
        return repr(self.copy())

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.items())  # which torch.load takes with weights_only, too


def rebuilt_as(cls: type[dict[Any, Any]], plain: Callable[[], dict[Any, Any]]) -> None:
    """Let torch's functions for trees see into dicts of a class; the trees that they make have plain ones."""
    register_pytree_node(
        cls,
        lambda d: ([d[key] for key in d], [*d]),
        lambda values, keys: plain() | dict(zip(keys, values, strict=True)),
        serialized_type_name=f"{cls.__module__}.{cls.__name__}",
    )
