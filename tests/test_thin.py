"""Marking variants as slow leaves every value of every parameter in the ordinary lane, but where there is a limit."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from thin import MANY, covering, mark_spare_variants, values_of


class Item:
    """As pytest's, of a test with these parameters."""

    path = originalname = ""

    def __init__(self, params: dict[str, Any], thin: pytest.Mark | None = None) -> None:
        self.callspec = type("CallSpec", (), {"params": params})
        self.thin = thin
        self.added: list[str] = []

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.thin

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return []

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.added.append(marker.name)


def _pairs(*lists: str) -> list[set[tuple[tuple[str, ...], str]]]:
    return [{((str(i),), x) for i, x in enumerate(row)} for row in product(*lists)]


@pytest.mark.parametrize("lists", [("a",), ("abc",), ("abcd", "xyz"), ("ab", "xy", "12345"), ("abc", "xyz", "123")])
def test_few_variants_have_every_value(lists: tuple[str, ...]) -> None:
    variants = _pairs(*lists)
    chosen = covering(variants)
    assert set().union(*(variants[i] for i in chosen)) == set().union(*variants)
    assert len(chosen) == max(map(len, lists))


@pytest.mark.parametrize(("name", "case"), [("a", 1), ("b", 1)])
@pytest.mark.parametrize("size", [1, 2])
def test_values_that_vary_together_stay_together(
    name: str, case: int, size: int, request: pytest.FixtureRequest
) -> None:
    expected = {(("name", "case"), repr([name, case])), (("size",), repr([size]))}
    assert values_of(request.node) == expected


def test_other_backends_are_left_alone() -> None:
    thin = pytest.mark.thin("triton", "cuda").mark
    items = [Item({"backend": name, "n": 1}, thin) for name in ("cpu", "triton", "cpu", "triton", "cuda")]
    mark_spare_variants(items, {})
    assert [item.added for item in items] == [[], [], [], ["slow"], []]


def test_a_limit_is_of_one_backend() -> None:
    items = [Item({"backend": name, "n": n}) for name, n in product(("cpu", "triton"), range(4))]
    mark_spare_variants(items, {"triton": 3})
    assert [item.added for item in items] == [[]] * 7 + [["slow"]]


def test_many_variants_are_thinned_without_a_mark() -> None:
    few = [Item({"a": a, "b": b}) for a, b in product(range(4), range(MANY // 4))]
    many = [Item({"a": a, "b": b}) for a, b in product(range(4), range(MANY // 2))]
    for items in (few, many):
        mark_spare_variants(items, {})
    assert not any(item.added for item in few)
    assert {item.callspec.params[name] for name in "ab" for item in many if not item.added} == {*range(4)}
    assert sum(not item.added for item in many) == 4
