"""Faults that were put into the compiled kernels of both backends are found; without them nothing is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("fused_sched._C", reason="the C++ extension is the oracle")

from update_case import ROWS, Case, check_equal

from fused_sched.backends.cuda import CudaBackend
from fused_sched.lr_scheduler import CyclicLR
from fused_sched.memory.control_block import GROUP_STRIDE, GROUPS_OFFSET, ControlBlock
from fused_sched.memory.parameter_table import RECORD
from fused_sched.optim import SGD
from ptx import Fault, Kernel
from ptx.compile_triton import LANES, momentum, operation
from ptx.compiled import entries, triton_ptx
from ptx.cuda_operators import PtxOperators

pytestmark = pytest.mark.slow

FLOAT32 = (torch.float32,) * 3
Edit = Callable[[str], str]


def unchanged(ptx: str) -> str:
    return ptx


def replaced(pattern: str, text: str) -> Edit:
    """Every occurrence."""

    def edit(ptx: str) -> str:
        edited, count = re.subn(pattern, text, ptx)
        assert count, f"{pattern} does not occur"
        return edited

    return edit


def without_barriers(*, before: str = r"\Z", after: str = r"\A") -> Edit:
    """No barrier is left between the first occurrence of ``after`` and the next of ``before``."""

    def edit(ptx: str) -> str:
        start = re.search(after, ptx)
        assert start is not None
        end = re.compile(before).search(ptx, start.end())
        assert end is not None
        head, middle, tail = ptx[: start.end()], ptx[start.end() : end.start()], ptx[end.start() :]
        return head + replaced(r"bar\.sync\s+0;", "")(middle) + tail

    return edit


# name: edit, elements that tensors begin after an aligned address, what is said
TRITON: dict[str, tuple[Edit, int, str]] = {
    "no barrier before the ticket": (without_barriers(before=r"atom\."), 0, "race: write after read"),
    "no barrier after the ticket": (without_barriers(after=r"atom\."), 0, "race: "),
    "a relaxed ticket": (replaced("acq_rel", "relaxed"), 0, "race: write after read"),
    "a ticket that only releases": (replaced("acq_rel", "release"), 0, "race: write after read"),
    "a ticket that only acquires": (replaced("acq_rel", "acquire"), 0, "race: write after read"),
    "no test of alignment": (replaced(r"(and\.b64\s+%rd\d+, %rd\d+), 15;", r"\1, 0;"), 1, "misaligned: 16 bytes"),
    "one element too many": (replaced(r"setp\.lt\.s32", "setp.le.s32"), 0, "out of bounds: 4 bytes"),
}
CUDA: dict[str, tuple[Edit, int, str]] = {
    "no barrier before the ticket": (without_barriers(before=r"atom\."), 0, "race: write after read"),
    "no barrier after the ticket": (without_barriers(after=r"atom\."), 0, "race: write after read"),
    "a ticket that does not release": (
        replaced(r"atom\.add\.release", "atom.add.relaxed"),
        0,
        "race: write after read",
    ),
    "an end that does not acquire": (replaced(r"atom\.add\.acquire", "atom.add.relaxed"), 0, "race: write after read"),
    "no test of alignment": (replaced(r"(and\.b64\s+%rd\d+, %rd\d+), 15;", r"\1, 0;"), 1, "misaligned: 16 bytes"),
    "one element too many": (replaced(r"setp\.ge\.s32", "setp.gt.s32"), 0, "out of bounds: 4 bytes"),
}


# of the norm's kernel: edit, what is said
CUDA_NORM: dict[str, tuple[Edit, str]] = {
    "a ticket that does not release": (replaced(r"atom\.add\.release", "atom.add.relaxed"), "race: read after write"),
    "an end that does not acquire": (replaced(r"atom\.add\.acquire", "atom.add.relaxed"), "race: read after write"),
    "no barrier before the ticket": (without_barriers(before=r"atom\."), "race: "),
    "no barrier after the ticket": (without_barriers(after=r"atom\."), "race: "),
    "one element too many": (replaced(r"setp\.ge\.s32", "setp.gt.s32"), "out of bounds: 4 bytes"),
}


def triton_update(rule: str, edit: Edit, offset: int, mode: str = "races", seed: int = 1) -> Case:
    case = Case(rule, FLOAT32, offset)
    device = case.device_table()
    ptx, shared = triton_ptx("update", rule, "1", str(len(ROWS)), *["float32"] * 3)["update"]
    kernel = Kernel(edit(ptx), dynamic_shared=shared, mode=mode)
    memory, found = momentum(len(ROWS)).initial_memory(ROWS), torch.zeros(1)
    schedules = torch.tensor([memory.data_ptr()])
    arguments = case.triton_arguments(device, None, found, schedules)
    values = [a if isinstance(a, int) else a.data_ptr() for a in arguments]
    scratch = len(kernel.translation.parameters) - len(values)
    kernel(len(device.signatures[0].chunks), [*values, *[0] * scratch], seed=seed)
    return case


def _alone(ptx: str, name: str) -> str:
    """The module without its other entries."""
    others = r"(?:\.visible )?\.entry (?!" + re.escape(entries(ptx)[name]) + r"\()[^{]*\{.*?\n\}\n"
    return re.sub(others, "", ptx, flags=re.DOTALL)


def _within(function: str, edit: Edit) -> Edit:
    """Changes one function that entries call, and no entry."""
    body = r"\.func \w*" + function + r"\w*\([^;{]*\{.*?\n\}\n"
    return lambda ptx: re.sub(body, lambda found: edit(found[0]), ptx, flags=re.DOTALL)


def cuda_update(edit: Edit, offset: int, mode: str = "races") -> Case:
    case = Case("adam", FLOAT32, offset)
    name = "update_kernel<common::Adam, true, false, float, float, float>"
    operators = PtxOperators(mode, lambda ptx: edit(_alone(ptx, name)))
    device = case.device_table()
    operators.update(case.cuda_row(device), case.control, None, torch.zeros(1))
    return case


def in_c(rule: str, offset: int) -> Case:
    case = Case(rule, FLOAT32, offset)
    case.update_in_c(None, None)
    return case


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_triton_has_no_fault(rule: str, offset: int) -> None:
    for seed in range(3):
        expected = in_c(rule, offset)
        for row in ROWS:
            expected.control[ControlBlock.slot(row, "momentum")] *= 0.5  # by the fused schedule
        check_equal(triton_update(rule, unchanged, offset, seed=seed), expected)


@pytest.mark.parametrize("name", TRITON)
def test_faults_in_triton(name: str) -> None:
    edit, offset, said = TRITON[name]
    with pytest.raises(Fault, match=said):
        triton_update("adam", edit, offset)


def test_a_schedule_that_writes_what_is_still_read() -> None:
    """SGD's count reads the momentum, which a fused schedule then writes."""
    with pytest.raises(Fault, match="race: write after read"):
        triton_update("sgd", without_barriers(after=r"atom\.[^\0]*?ld\.shared"), 0)


def test_a_program_that_writes_what_is_still_read() -> None:
    ptx, shared = triton_ptx("operation", "add")["add"]
    control = torch.zeros(GROUPS_OFFSET + GROUP_STRIDE * LANES, dtype=torch.float64)
    memory = operation("add").initial_memory(range(LANES))
    schedules = torch.tensor([memory.data_ptr()])
    arguments = [control.data_ptr(), schedules.data_ptr(), 0, 0]
    Kernel(ptx, dynamic_shared=shared, mode="races")(1, arguments)
    with pytest.raises(Fault, match="race: "):
        Kernel(without_barriers()(ptx), dynamic_shared=shared, mode="races")(1, arguments)


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
def test_cuda_has_no_fault(offset: int) -> None:
    check_equal(cuda_update(unchanged, offset), in_c("adam", offset))


@pytest.mark.parametrize("name", CUDA)
def test_faults_in_cuda(name: str) -> None:
    edit, offset, said = CUDA[name]
    with pytest.raises(Fault, match=said):
        cuda_update(edit, offset)


def cuda_measure(edit: Edit, scope: Any, seed: int = 1) -> float:
    params = [torch.nn.Parameter(torch.ones(n)) for n in (3, 2051, 1024, 9)]
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    operators = PtxOperators("races", lambda ptx: edit(ptx) if "norm_kernel" in ptx else ptx, seed)
    optimizer = SGD(groups, max_grad_norm=1.0, norm_scope=scope, backend=CudaBackend(operators))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    norm: float = optimizer.grad_norm.item()
    return norm


@pytest.mark.parametrize("scope", ["all", "group"])
def test_cuda_measures_without_a_fault(scope: str) -> None:
    for seed in range(3):
        assert cuda_measure(unchanged, scope, seed) == 3087**0.5


@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("name", CUDA_NORM)
def test_faults_in_cudas_norm(name: str, scope: str) -> None:
    edit, said = CUDA_NORM[name]
    with pytest.raises(Fault, match=said):
        cuda_measure(lambda ptx: edit(_alone(ptx, "norm_kernel<float>")), scope)


def test_cuda_schedules_that_overtake_one_another() -> None:
    """Two schedules of one optimizer, and a count that reads the momentum which one of them writes."""

    def train(edit: Edit) -> None:
        params = [torch.nn.Parameter(torch.ones(3)) for _ in range(40)]
        groups = [{"params": [p], "lr": 0.1} for p in params]
        optimizer = SGD(groups, momentum=0.9, backend=CudaBackend(PtxOperators("races", edit)))
        CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, fused=True)
        for p in params:
            p.grad = torch.ones(3)
        optimizer.step()

    name = "update_kernel<common::Sgd, true, false, float, float, float>"
    train(lambda ptx: _alone(ptx, name))
    edit = _within("advance_all", replaced(r"bar\.sync\s+0;", ""))
    with pytest.raises(Fault, match="race: "):
        train(lambda ptx: edit(_alone(ptx, name)))


def test_a_record_that_is_too_long() -> None:
    """The kernel is right, but its table is not."""
    case = Case("adam", FLOAT32, 0)
    device = case.device_table()
    device.records[4, RECORD["numel"]] += 1
    with pytest.raises(Fault, match="out of bounds: 4 bytes"):
        PtxOperators().update(case.cuda_row(device), case.control, None, torch.zeros(1))
