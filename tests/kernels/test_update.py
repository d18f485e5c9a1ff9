"""The update kernels in Triton's interpreter give the C++ kernels' bits, for every kind of tensor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fused_sched.control_block import FIELDS, FLAGS, GROUP_CAPACITY, GROUP_STRIDE, GROUPS_OFFSET, HEADER
from fused_sched.parameter_table import CHUNK, KINDS, RECORD, RECORD_WIDTH, kind_code

pytest.importorskip("triton")

from fused_sched.device_table import DeviceTable
from fused_sched.kernels import variants
from fused_sched.kernels.launcher import make_launcher
from fused_sched.kernels.numerics import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter: set TRITON_INTERPRET=1")
_C = pytest.importorskip("fused_sched._C", reason="the C++ extension is the oracle")

COUNTS = GROUPS_OFFSET + GROUP_CAPACITY * GROUP_STRIDE
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
STATES = {"sgd": [0, 1, 1, 1], "adam": [2, 2, 2, 3]}
SIZES = [0, 1, 7, 8, 130, 1024, 1031, 2050]


def id_of(kind: tuple[torch.dtype, torch.dtype, torch.dtype]) -> str:
    return "-".join(str(d).removeprefix("torch.") for d in kind)


class Case:
    """Tensors of one kind in four groups, with their control block and records; ``copy`` starts over."""

    def __init__(self, rule: str, kind: tuple[torch.dtype, ...], offset: int) -> None:
        self.rule, self.kind, self.offset = rule, kind, offset
        groups = GROUPS[rule]
        self.control = torch.zeros(COUNTS + 64, dtype=torch.float64)
        self.integers = self.control.view(torch.int64)
        for g, fields in enumerate(groups):
            for name, value in {**BASE, **fields}.items():
                self.control[GROUPS_OFFSET + g * GROUP_STRIDE + FIELDS[name]] = value
        generator = torch.Generator().manual_seed(7)
        self.tensors: list[list[torch.Tensor]] = []
        rows = []
        for i, size in enumerate(SIZES * 2):
            group = i % len(groups)
            states = STATES[rule][group]
            dtypes = [kind[0], kind[1], *[kind[2]] * states]
            row = [torch.randn(size + offset, generator=generator).to(d)[offset:] for d in dtypes]
            for s in row[3:]:
                s.abs_()
            self.tensors.append(row)
            self.integers[COUNTS + i] = i % 3
            addresses = [t.data_ptr() for t in row]
            grad = 0 if i % 7 == 5 else addresses[1] or 1
            rows.append([addresses[0], grad, *[*addresses[2:], 0, 0, 0][:3], size, group, kind_code(*kind)])
        self.records = torch.tensor(rows, dtype=torch.int64).reshape(-1, RECORD_WIDTH)

    def update_in_c(self, scale: torch.Tensor | None, found: torch.Tensor | None) -> None:
        pieces = [(i, s) for i, r in enumerate(self.records.tolist()) for s in range(0, r[RECORD["numel"]], CHUNK)]
        counts = self.integers[COUNTS:]
        rule = {"sgd": 0, "adam": 1}[self.rule]
        chunks = torch.tensor(pieces, dtype=torch.int64)
        n_groups = len(GROUPS[self.rule])
        _C.update(rule, self.control, counts, self.records, chunks, CHUNK, n_groups, scale, found, ())

    def update_in_triton(self, scale: torch.Tensor | None, found: torch.Tensor | None) -> None:
        table = SimpleNamespace(records=self.records, layouts=torch.zeros(len(self.records)))
        device = DeviceTable(table, torch.device("cpu"))  # type: ignore[arg-type]
        (part,) = device.parts
        options = variants.Options(self.rule, part.extra, scale is not None, found is not None)
        launcher = make_launcher()
        none = self.control
        arguments = [
            self.control, device.records, device.grads, part.chunks, none,
            none if scale is None else scale, none if found is None else found, len(self.records), device.size,
        ]  # fmt: skip
        compiled = launcher.get(variants.update(part.kind, options), torch.device("cpu"))
        launcher.launch(compiled, len(part.chunks), arguments)


def check_equal(got: Case, expected: Case) -> None:
    assert torch.equal(got.integers[:GROUPS_OFFSET], expected.integers[:GROUPS_OFFSET])
    assert torch.equal(got.integers[COUNTS:], expected.integers[COUNTS:])
    for i, (mine, theirs) in enumerate(zip(got.tensors, expected.tensors, strict=True)):
        for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, i=i, k=k: f"{i=} {k=}: {m}")


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", sorted(KINDS, key=str), ids=id_of)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_update_gives_the_bits_of_the_cpu_kernels(rule: str, kind: tuple[torch.dtype, ...], offset: int) -> None:
    got, expected = Case(rule, kind, offset), Case(rule, kind, offset)
    for _ in range(2):
        got.update_in_triton(None, None)
        expected.update_in_c(None, None)
    check_equal(got, expected)


@pytest.mark.parametrize("found", [None, 0.0, 1.0])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_scaled_gradients_and_skipped_updates(rule: str, found: float | None) -> None:
    kind = (torch.float16, torch.float16, torch.float32)
    got, expected = Case(rule, kind, 0), Case(rule, kind, 0)
    scale = torch.full((1,), 3.0)
    flag = None if found is None else torch.full((1,), found)
    got.update_in_triton(scale, flag)
    expected.update_in_c(scale, flag)
    check_equal(got, expected)
    assert got.integers[HEADER["skipped"]] == int(found == 1.0)


def test_the_ticket_is_returned() -> None:
    case = Case("adam", (torch.float32,) * 3, 0)
    case.update_in_triton(None, None)
    assert case.integers[HEADER["ticket"]] == 0
