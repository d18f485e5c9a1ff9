"""The CUDA backend's operators, with nvcc's PTX run on the CPU."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import torch

from fused_sched.backends.cuda import BLOCK_THREADS, LAUNCH, LAUNCH_WIDTH, SCHEDULE_WIDTH
from fused_sched.memory.parameter_table import DTYPES
from fused_sched.rules import RULES

from .compiled import entries, nvcc_ptx
from .kernel import Kernel

_BY_CODE = {code: dtype for dtype, code in DTYPES.items()}
_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
_NO_KIND = -1
# struct Step of csrc/cuda/step.h: what a launch has it from, the tensors' addresses given beside
_STEP = struct.Struct("<8q5i4x")


@cache
def _kernel(ptx: str, name: str, mode: str) -> Kernel:
    return Kernel(ptx, entries(ptx)[name], mode=mode)


class PtxOperators:
    """``update``, ``advance`` and ``prepare`` on CPU tensors; ``calls`` are the launches of each update so far.

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
    types = (_TYPES[_BY_CODE[code]] for code in (kind % 16, kind // 16 % 16, kind // 256))
    return f"update_kernel<{', '.join([rule, 'true' if row['extra'] else 'false', *types])}>"


def _step(row: dict[str, int], control: int, scale: int, found: int) -> bytes:
    return _STEP.pack(
        control, row["counts"], row["records"], row["grads"], row["chunks"], row["schedules"], scale, found,
        row["n_records"], row["n_schedules"], row["chunk_size"], row["unit"], int(row["last"] != 0),
    )  # fmt: skip
