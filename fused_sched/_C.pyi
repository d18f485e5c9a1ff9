"""The C++ extension (csrc/). Every tensor is contiguous and on the CPU unless a line says otherwise."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Schedule = tuple[Tensor, int, Tensor, int, int, int]  # code, n_uniform, memory, n_lanes, rows_offset, guarded

def scan(
    groups: Sequence[Sequence[Tensor]],
    ids: Tensor,
    layouts: Tensor,
    records: Tensor,
    needed: Tensor,
    held: list[Tensor | None],
    specs: list[Any] | None,
    device_type: int = 1,
    device_id: int = 0,
    /,
) -> int:
    """Compare the table with the parameters, which are on a device by DLPack's numbers (default: the CPU).

    0: nothing moved; 1: gradient addresses were updated; 2: the table has to be rebuilt.
    """

def layout(tensor: Tensor) -> int:
    """A non-zero hash of dtype, shape and strides."""

def reads_directly() -> bool:
    """Whether :func:`scan` would ask a plain tensor's ``grad`` of C++ alone, as things are now."""

def update(
    rule: int,
    control: Tensor,
    counts: Tensor,
    records: Tensor,
    chunks: Tensor,
    chunk: int,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    schedules: tuple[Schedule, ...],
    ways: int,
) -> None:
    """One optimizer step by the rule at that position of :func:`rules`, then the fused schedules.

    ways: a sum; 1: :func:`measure` has said whether the step is skipped;
    2: and what gradients are multiplied by; 4: leave zeros in them.
    """

def measure(
    control: Tensor,
    tables: tuple[tuple[Tensor, Tensor], ...],
    chunk: int,
    groups: Tensor,
    each: int,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    only_finite: int,
    norms: Tensor | None,
    least: int,
    deviations: float,
    sums: Tensor | None,
) -> None:
    """Write norm, clip factors and whether the step is skipped to the control block.

    tables: records and chunks. groups: int64 (n, 2), row and whether it has a clip factor. each: that of the group's
    own norm. norms: what a SpikeRule remembers. sums: float64, more squares of each group.
    """

def sum_squares(
    control: Tensor, tables: tuple[tuple[Tensor, Tensor], ...], chunk: int, groups: Tensor, sums: Tensor, /
) -> None:
    """Write the sum of the squares of each group's gradients to ``sums``, float64."""

def advance(control: Tensor, schedule: Schedule, /) -> None:
    """Run a program once. Its memory has, from ``rows_offset`` on, the row of the control block that each lane drives.

    Raises IndexError, with nothing changed, if the control block has no such row.
    """

def check_program(code: Tensor, n_uniform: int, memory_size: int, n_lanes: int, rows_offset: int) -> None:
    """Raise ValueError unless all that a program reads and writes is its own."""

def outdated(alike: Callable[[Any, Any], bool], /, *facts: Any) -> bool:
    """Whether one of the facts of :mod:`fused_sched.facts` does not hold any more, or asking raises an Exception.

    alike: called with what is there and what was, where these are two objects.
    facts: of each how, owner, key and value.
    """

def rules() -> tuple[str, ...]:
    """The update rules, in the order of their codes."""

def capability() -> str:
    """portable, avx2 or avx512."""
