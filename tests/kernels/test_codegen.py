"""What the compiler makes of the kernels for sm_90: widths of accesses, registers, no contraction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "codegen.py"
ONLY = "^(Adam|SGD momentum|Adam amsgrad), (float32|bfloat16|float16)$|fused|products|GradScaler"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Kernel -> its figures; from a process of its own, because kernels are interpreted in this one."""
    if not SCRIPT.exists():
        pytest.skip("benchmarks/ is not there")
    path = tmp_path_factory.mktemp("codegen") / "rows.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), "--arch", "sm_90", "--only", ONLY, "--json", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return {row["kernel"]: row for row in json.loads(path.read_text())["rows"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rule", "arrays", "states"), [("SGD momentum", 3, 1), ("Adam", 4, 2), ("Adam amsgrad", 5, 3)])
def test_aligned_path_accesses_16_bytes_at_a_time(
    rows: dict[str, dict[str, Any]], rule: str, arrays: int, states: int, dtype: str
) -> None:
    row = rows[f"{rule}, {dtype}"]
    assert row["loads"]["16"] >= arrays
    assert row["stores"]["16"] >= 1 + states


@pytest.mark.parametrize(
    "kernel", ["Adam, float32", "Adam, bfloat16", "Adam amsgrad, float32", "Adam amsgrad, bfloat16"]
)
def test_unaligned_path_has_no_wide_access(rows: dict[str, dict[str, Any]], kernel: str) -> None:
    width = "2" if "bfloat16" in kernel else "4"
    ends = 4  # the end of a step reads gradient and count of so many records at a time, by 16 bytes
    assert rows[kernel]["wide_outside_loop"] == ends
    assert rows[kernel]["loads"][width] >= 4


def test_nothing_is_spilled(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: row["spilled_bytes"] for name, row in rows.items() if row["spilled_bytes"]} == {}
    assert {name: row["local_in_loop"] for name, row in rows.items() if row["local_in_loop"]} == {}


# A processor gives them out by eight: with one more than these, fewer programs run at a time.
MOST_REGISTERS = {
    "SGD momentum, float32": 40,
    "SGD momentum, bfloat16": 40,
    "Adam, float32": 64,
    "Adam, float32, fused cosine": 64,
    "Adam, float32, GradScaler": 64,
    "Adam, bfloat16": 64,
    "Adam, float16": 64,
    "Adam amsgrad, float32": 72,
    "Adam amsgrad, bfloat16": 80,
    "Adam amsgrad, float16": 80,
}


@pytest.mark.parametrize(("kernel", "most"), MOST_REGISTERS.items())
def test_registers(rows: dict[str, dict[str, Any]], kernel: str, most: int) -> None:
    assert rows[kernel]["registers"] <= most


def test_three_loads_in_turn_come_before_the_data(rows: dict[str, dict[str, Any]]) -> None:
    """Chunk, then gradient and record, then count and fields."""
    updates = {name: row["dependent_loads"] for name, row in rows.items() if not name.startswith("program")}
    assert updates
    assert set(updates.values()) == {3}


def test_products_and_sums_stay_separate(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["program products and sums"]["fma64"] == 0
    assert all(row["formed_fma64"] == 0 for row in rows.values())


def test_threads_meet_before_the_ticket_is_taken(rows: dict[str, dict[str, Any]]) -> None:
    assert all(row["barrier_before_ticket"] for name, row in rows.items() if not name.startswith("program"))
