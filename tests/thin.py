"""Which variants of a test belong to the ordinary lane, and which to the slow one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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


def covering(variants: Sequence[Values]) -> list[int]:
    """A few of the variants in which every value occurs, those with most values first."""
    missing: Values = set().union(*variants)
    chosen = []
    while missing:
        best = max(range(len(variants)), key=lambda i: len(variants[i] & missing))
        chosen.append(best)
        missing -= variants[best]
    return chosen


def mark_spare_variants(items: Sequence[Any], limits: Mapping[str, int]) -> None:
    """Mark as slow, of each test with many variants or with ``thin``, what :func:`covering` leaves out.

    ``thin("triton", "reference")`` is about the variants on these backends, each on its own. ``limits`` has backends of
    which a test keeps only so many variants.
    """
    tests: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        if not hasattr(item, "callspec"):
            continue
        marker, backend = item.get_closest_marker("thin"), item.callspec.params.get("backend", "")
        alone = backend in limits or (marker is not None and backend in marker.args)
        named = alone or (marker is not None and not marker.args)
        tests[item.path, item.originalname, named, backend if alone else None].append(item)
    for (_, _, named, backend), variants in tests.items():
        if not named and len(variants) <= MANY:
            continue
        chosen = covering([values_of(item) for item in variants])[: limits.get(backend)]
        for place, item in enumerate(variants):
            if place not in chosen:
                item.add_marker(pytest.mark.slow)
