"""The CUDA backend's operators, with nvcc's PTX run on the CPU."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import torch

from fused_sched.backends.cuda import (
    BLOCK_THREADS,
    LAUNCH,
    LAUNCH_WIDTH,
    NORM_LAUNCH,
    NORM_LAUNCH_WIDTH,
    SCHEDULE_WIDTH,
)
from fused_sched.memory.masters import MASTERS
from fused_sched.memory.parameter_table import DTYPES, average_of, dtypes_of, is_rounded_by_chance, master_of
from fused_sched.rules import RULES

from .compiled import entries, nvcc_ptx
from .kernel import Kernel

_BY_CODE = {code: dtype for dtype, code in DTYPES.items()}
_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
_NO_KIND = _NO_DTYPE = -1
# structs Step and Measure of csrc/cuda: what a launch has them from, the tensors' addresses given beside
_STEP = struct.Struct("<8q11i4x")
_MEASURE = struct.Struct("<12q7i4x")


@cache
def _kernel(ptx: str, name: str, mode: str) -> Kernel:
    return Kernel(ptx, entries(ptx)[name], mode=mode)


class PtxOperators:
    """The operators on CPU tensors; ``calls`` are the launches of each update so far.

    Args:
        mode: of :class:`Kernel`.
        edit: changes the PTX before it is translated.
        seed: draws, with the number of the launch, the order in which threads run.
    """

    def __init__(self, mode: str = "fibers", edit: Callable[[str], str] = lambda ptx: ptx, seed: int = 0) -> None:
        self.calls: list[int] = []
        self._mode, self._edit = mode, edit
        self._seed, self._launches = seed, 0

    def update(
        self, plan: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        assert plan.shape[1] == LAUNCH_WIDTH
        self.calls.append(len(plan))
        tensors = [control.data_ptr(), *(0 if t is None else t.data_ptr() for t in (scale, found))]
        for values in plan.tolist():
            row = dict(zip(LAUNCH, values, strict=False))
            self._run(_update_rule(row), _update_name(row), row["n_blocks"], [_step(row, *tensors)])

    def measure(
        self, plan: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        assert plan.shape[1] == NORM_LAUNCH_WIDTH
        tensors = [control.data_ptr(), *(0 if t is None else t.data_ptr() for t in (scale, found))]
        for values in plan.tolist():
            row = dict(zip(NORM_LAUNCH, values, strict=True))
            self._run("norm", _norm_name(row), row["n_blocks"], [_measure(row, *tensors)])

    def advance(self, schedule: torch.Tensor, control: torch.Tensor) -> None:
        assert schedule.shape == (1, SCHEDULE_WIDTH)
        self._run("schedule", "schedule_kernel", 1, [schedule.data_ptr(), control.data_ptr()])

    def prepare(self, plan: torch.Tensor, device: int | None) -> None:
        pass

    def _run(self, source: str, name: str, blocks: int, arguments: list[int | bytes]) -> None:
        self._launches += 1
        kernel = _kernel(self._edit(nvcc_ptx(source)), name, self._mode)
        kernel(blocks, arguments, threads=BLOCK_THREADS, seed=self._seed + self._launches)


def _update_rule(row: dict[str, int]) -> str:
    return next(rule.name for rule in RULES.values() if rule.code == row["rule"])


def _update_name(row: dict[str, int]) -> str:
    rule, kind = f"common::{_update_rule(row).capitalize()}", row["kind"]
    if kind == _NO_KIND:
        return f"finish_kernel<{rule}>"
    around = row["ways"] or average_of(kind) is not None or _master(kind) != 0
    flags = ("true" if flag else "false" for flag in (row["extra"], around))
    return f"update_kernel<{', '.join([rule, *flags, *(_TYPES[dtype] for dtype in dtypes_of(kind))])}>"


def _norm_name(row: dict[str, int]) -> str:
    code = row["dtype"]
    return "decide_kernel" if code == _NO_DTYPE else f"norm_kernel<{_TYPES[_BY_CODE[code]]}>"


def _average(kind: int) -> int:
    """As AverageType of csrc/cuda/step.h."""
    average = None if kind == _NO_KIND else average_of(kind)
    return 0 if average is None else 1 if average == dtypes_of(kind)[0] else 2


def _master(kind: int) -> int:
    """As Master of csrc/master.h."""
    if kind == _NO_KIND:
        return 0
    if is_rounded_by_chance(kind):
        return 15
    master = master_of(kind)
    return 0 if master is None else MASTERS[master]


def _step(row: dict[str, int], control: int, scale: int, found: int) -> bytes:
    return _STEP.pack(
        control, row["counts"], row["records"], row["grads"], row["chunks"], row["schedules"], scale, found,
        row["n_records"], row["n_schedules"], row["chunk_size"], row["unit"], int(row["last"] != 0),
        row["ways"] & 1, row["ways"] >> 1 & 1, row["ways"] >> 2 & 1, _average(row["kind"]),
        _master(row["kind"]), row["ways"] >> 3 & 1,
    )  # fmt: skip


def _measure(row: dict[str, int], control: int, scale: int, found: int) -> bytes:
    return _MEASURE.pack(
        control, row["records"], row["grads"], row["chunks"], row["sums"], row["groups"], scale, found,
        row["norms"], row["window"], row["least"], row["deviations"],
        row["n_sums"], row["n_groups"], row["chunk_size"], row["unit"], row["each"], row["only_finite"], row["last"],
    )  # fmt: skip
