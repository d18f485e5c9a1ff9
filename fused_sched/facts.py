"""Facts that a program was built on, which are looked at before every step: in C++ where possible, else here.

A fact is ``(how, owner, key, value)``: ``owner``, asked for ``key``, gave ``value``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import MethodType
from typing import Any

_C: Any = None
with suppress(ImportError):
    from . import _C

Fact = tuple[int, Any, Any, Any]

# How it was asked, as csrc/facts.cpp has it. ANSWER: key(owner) gave the value. EQUAL: the owner was equal to it.
ATTRIBUTE, ENTRY, NO_ENTRY, ANSWER, EQUAL = range(5)
OWNER_WEAKLY = 8  # added to it: the fact has a weak reference. Of what is gone, nobody can ask anything
VALUE_WEAKLY = 16  # the same. What is gone is another now

PLAIN = (bool, int, float, str, bytes, type(None))
_COMPARED = (*PLAIN, MethodType)  # a bound method is made when it is asked for


def alike(now: Any, then: Any) -> bool:
    """Whether two values are one, or equal in type and bits."""
    if now is then:
        return True
    kind = type(then)
    if type(now) is not kind or not issubclass(kind, _COMPARED):
        return False
    return bool(now == then) and (not issubclass(kind, float) or math.copysign(1.0, now) == math.copysign(1.0, then))


def _holds(how: int, owner: Any, key: Any, value: Any) -> bool:
    if how & OWNER_WEAKLY and (owner := owner()) is None:
        return True
    if how & VALUE_WEAKLY and (value := value()) is None:
        return False
    way = how & ~(OWNER_WEAKLY | VALUE_WEAKLY)
    if way == EQUAL:
        return bool(owner == value)
    if way == NO_ENTRY:
        return key not in owner
    now = getattr(owner, key) if way == ATTRIBUTE else owner[key] if way == ENTRY else key(owner)
    return now is value or alike(now, value)


def _outdated(alike: Callable[[Any, Any], bool], *facts: Any) -> bool:
    """As the C++ extension's."""
    try:
        return not all(_holds(*facts[i : i + 4]) for i in range(0, len(facts), 4))
    except Exception:  # what cannot be asked any more has changed
        return True


def look_at(facts: Iterable[Fact]) -> Callable[[], bool]:
    """A function that says whether one of them does not hold any more."""
    flat = (x for fact in facts for x in fact)  # so that a call hands over an array, and not tuples to be read
    return partial(_outdated if _C is None else _C.outdated, alike, *flat)
