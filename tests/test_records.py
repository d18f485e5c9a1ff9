"""Records that point beside the control block or the counts are refused before anything is written."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fused_sched._C", reason="the C++ extension checks them")

from update_case import Case, check_equal

from fused_sched.memory.parameter_table import RECORD

FLOAT32 = (torch.float32,) * 3
LAST = 14  # of the records with a gradient: all others come before it


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("row", -1, r"records\[14\] \(row=-1, .* has a row outside of the control block: rebuild the records"),
        ("row", 8, r"records\[14\] \(row=8, .* has a row outside of the control block: rebuild the records"),
        ("count", -1, r"records\[14\] .* count=-1, .* has a count outside of the counts: rebuild the records"),
        ("count", 19, r"records\[14\] .* count=19, .* has a count outside of the counts: rebuild the records"),
        ("kind", 5, r"records\[14\] .* kind=5, .* has an unknown kind: use a supported combination of dtypes"),
        ("param", 0, r"records\[14\] .* lacks the parameter's or a state's address: create the state first"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changed(rule: str, word: str, value: int, said: str) -> None:
    case, untouched = Case(rule, FLOAT32, 0), Case(rule, FLOAT32, 0)
    assert case.records[LAST, RECORD["grad"]] != 0
    case.records[LAST, RECORD[word]] = value
    with pytest.raises(ValueError, match=said):
        case.update_in_c(None, None)
    check_equal(case, untouched)


def test_records_without_a_gradient_need_no_place() -> None:
    case, expected = Case("adam", FLOAT32, 0), Case("adam", FLOAT32, 0)
    without = case.records[:, RECORD["grad"]] == 0
    assert without.any()
    case.records[without, RECORD["count"]] = 1000
    case.update_in_c(None, None)
    expected.update_in_c(None, None)
    check_equal(case, expected)
