"""Tensors of one kind in four groups, to be updated by the kernels of any backend without its Python side."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from fused_sched import _C
from fused_sched.backends.cuda import LAUNCH, LAUNCH_WIDTH
from fused_sched.memory.control_block import BOUND, FIELDS, FLAGS, GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.memory.device_table import UNIT, DeviceTable
from fused_sched.memory.parameter_table import CHUNK, RECORD, RECORD_WIDTH, kind_code
from fused_sched.rules import RULES

BASE = {"lr": 0.01, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum": 0.0, "dampening": 0.0}
GROUPS: dict[str, list[dict[str, float]]] = {
    "sgd": [
        {"weight_decay": 0.0},
        {"momentum": 0.9},
        {"momentum": 0.9, "flags": FLAGS["nesterov"]},
        {"momentum": 0.8, "dampening": 0.3, "flags": FLAGS["maximize"]},
    ],
    "adam": [
        {"weight_decay": 0.0},
        {"beta1": 0.3, "flags": FLAGS["maximize"]},  # beta1 < 0.5: the other end of the lerp
        {"flags": FLAGS["decoupled_weight_decay"]},
        {"flags": FLAGS["amsgrad"] | FLAGS["decoupled_weight_decay"]},
    ],
}
SIZES = [0, 1, 7, 8, 130, 1024, 1031, 2050]
ROWS = [5, 0, 6, 2]  # of the control block, one a group: in no order, with holes
UNUSED = -7.5  # what no launch may touch


def id_of(kind: tuple[torch.dtype, torch.dtype, torch.dtype]) -> str:
    return "-".join(str(d).removeprefix("torch.") for d in kind)


def _states(rule: str, fields: dict[str, float]) -> int:
    given = {**BASE, **fields, "amsgrad": int(fields.get("flags", 0)) & FLAGS["amsgrad"]}
    return RULES[rule].states_needed(given)


class Case:
    """Tensors of one kind in four groups, with their control block and records."""

    def __init__(self, rule: str, kind: tuple[torch.dtype, ...], offset: int) -> None:
        self.rule, self.kind, self.offset = rule, kind, offset
        groups = GROUPS[rule]
        self.control = torch.full((GROUPS_OFFSET + 8 * GROUP_STRIDE,), UNUSED, dtype=torch.float64)
        self.control[:GROUPS_OFFSET] = 0.0
        self.control[GROUPS_OFFSET:].view(-1, GROUP_STRIDE)[:, BOUND:] = 0.0  # no field follows a tensor
        self.integers = self.control.view(torch.int64)
        for place, fields in zip(ROWS, groups, strict=True):
            for name, value in {**BASE, "flags": 0.0, **fields}.items():
                self.control[GROUPS_OFFSET + place * GROUP_STRIDE + FIELDS[name]] = value
        generator = torch.Generator().manual_seed(7)
        slots = torch.randperm(len(SIZES) * 2 + 3, generator=generator).tolist()  # in no order, with holes
        self.counts = torch.full((len(slots),), -1)
        self.tensors: list[list[torch.Tensor]] = []
        rows = []
        for i, size in enumerate(SIZES * 2):
            group = i % len(groups)
            states = _states(rule, groups[group])
            dtypes = [kind[0], kind[1], *[kind[2]] * states]
            row = [torch.randn(size + offset, generator=generator).to(d)[offset:] for d in dtypes]
            for s in row[3:]:
                s.abs_()
            self.tensors.append(row)
            self.counts[slots[i]] = i % 3
            addresses = [t.data_ptr() for t in row]
            grad = 0 if i % 7 == 5 else addresses[1] or 1
            used = [addresses[0], grad, *[*addresses[2:], 0, 0, 0][:3], size, ROWS[group], slots[i], kind_code(*kind)]
            rows.append(used + [0] * (RECORD_WIDTH - len(used)))
        self.records = torch.tensor(rows, dtype=torch.int64).reshape(-1, RECORD_WIDTH)

    def update_in_c(self, scale: torch.Tensor | None, found: torch.Tensor | None) -> None:
        pieces = [(i, s) for i, r in enumerate(self.records.tolist()) for s in range(0, r[RECORD["numel"]], CHUNK)]
        chunks = torch.tensor(pieces, dtype=torch.int64)
        _C.update(RULES[self.rule].code, self.control, self.counts, self.records, chunks, CHUNK, scale, found, (), 0)

    def device_table(self) -> DeviceTable:
        """The records as a launch has them; they are all of one kind, so there is one launch."""
        table = SimpleNamespace(records=self.records)
        return DeviceTable(table, RULES[self.rule], torch.device("cpu"))  # type: ignore[arg-type]

    def triton_arguments(
        self,
        device: DeviceTable,
        scale: torch.Tensor | None,
        found: torch.Tensor | None,
        schedules: torch.Tensor | None = None,
    ) -> list[torch.Tensor | int]:
        """Arguments of the Triton backend's update kernel, in order; without fused schedules nothing is read of any."""
        (only,), none = device.signatures, self.control
        return [
            self.control, self.counts, device.records, device.grads, only.chunks,
            none if schedules is None else schedules,
            none if scale is None else scale, none if found is None else found, len(self.records), only.size,
        ]  # fmt: skip

    def cuda_row(self, device: DeviceTable) -> torch.Tensor:
        """The plan of the CUDA backend's update."""
        (only,) = device.signatures
        values = {
            "rule": RULES[self.rule].code, "kind": only.signature, "extra": int(only.optional_state), "last": 1,
            "n_blocks": len(only.chunks), "chunks": only.chunks.data_ptr(), "chunk_size": only.size, "unit": UNIT,
            "records": device.records.data_ptr(), "grads": device.grads.data_ptr(), "n_records": len(self.records),
            "counts": self.counts.data_ptr(), "schedules": 0, "n_schedules": 0, "ways": 0,
        }  # fmt: skip
        row = torch.zeros(1, LAUNCH_WIDTH, dtype=torch.int64)
        row[0, : len(LAUNCH)] = torch.tensor([values[name] for name in LAUNCH])
        return row


def check_equal(got: Case, expected: Case) -> None:
    """The same bits in all tensors, counts and words of the control block."""
    assert torch.equal(got.integers, expected.integers)
    assert torch.equal(got.counts, expected.counts)
    for i, (mine, theirs) in enumerate(zip(got.tensors, expected.tensors, strict=True)):
        for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=_labelled(f"record {i}, tensor {k}"))


def _labelled(label: str) -> Callable[[str], str]:
    return lambda message: f"{label}: {message}"
