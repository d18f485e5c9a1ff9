"""Which variants of a test belong to the ordinary lane, and which to the slow one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

MANY = 8  # variants of a test, which may all be in the ordinary lane

Values = set[tuple[tuple[str, ...], str]]  # names of parameters that vary together, and their values


def values_of(item: Any) -> Values:
    """With which values a variant runs."""
    given = dict(item.callspec.params)
    found: Values = set()
    for marker in item.iter_markers("parametrize"):
        names = marker.args[0]
        names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        found.add((names, repr([given.pop(name) for name in names])))
    return found | {((name,), repr(value)) for name, value in given.items()}  # of fixtures


def covering(variants: Sequence[Values]) -> set[int]:
    """A few of the variants in which every value occurs."""
    missing: Values = set().union(*variants)
    chosen = set()
    while missing:
        best = max(range(len(variants)), key=lambda i: len(variants[i] & missing))
        chosen.add(best)
        missing -= variants[best]
    return chosen


def mark_spare_variants(items: Sequence[Any]) -> None:
    """Mark as slow, of each test with many variants or with ``thin``, what :func:`covering` leaves out.

    ``thin("triton", "reference")`` is about the variants on these backends, each on its own.
    """
    tests: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        if not hasattr(item, "callspec"):
            continue
        marker = item.get_closest_marker("thin")
        backend = item.callspec.params.get("backend", "") if marker and marker.args else None
        named = marker is not None and (backend is None or backend in marker.args)
        tests[item.path, item.originalname, named, backend if named else None].append(item)
    for (_, _, named, _), variants in tests.items():
        if not named and len(variants) <= MANY:
            continue
        chosen = covering([values_of(item) for item in variants])
        for place, item in enumerate(variants):
            if place not in chosen:
                item.add_marker(pytest.mark.slow)
