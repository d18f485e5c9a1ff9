"""The rows of the control block that a program drives: few or many, in any order, and no others."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lane
import pytest
import torch
from platforms import MIRRORED, Mirrored
from schedule_twins import device_of

from fused_sched import backends
from fused_sched.backends.cuda import CudaBackend
from fused_sched.lr_scheduler import StepLR
from fused_sched.memory.bindings import Bindings
from fused_sched.memory.control_block import BOUND, GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.memory.hosted_array import HostedArray
from fused_sched.memory.platforms import TORCH, Platform
from fused_sched.optim import SGD
from fused_sched.program.builder import Builder
from fused_sched.program.operations import OP_CODES
from fused_sched.program.program import Program
from fused_sched.program.schedule import Schedule

MANY = 5000
SIZES = [1, 2, 127, 128, 129, 300, MANY]
ADVANCES = 3


class Rows(HostedArray):
    """A control block of nothing but rows, each of its numbers another one."""

    def __init__(self, n_rows: int, device: str = "cpu", platform: Platform = TORCH) -> None:
        numbers = -0.5 - torch.arange(GROUPS_OFFSET + n_rows * GROUP_STRIDE, dtype=torch.float64)
        numbers[:GROUPS_OFFSET] = 0.0
        numbers[GROUPS_OFFSET:].view(-1, GROUP_STRIDE)[:, BOUND:] = 0.0  # no field follows a tensor
        super().__init__(numbers, torch.device(device), platform=platform)
        self.integers = self.tensor.view(torch.int64)
        self.row_capacity = n_rows
        self.bindings = Bindings()

    def row(self, index: int) -> torch.Tensor:
        start = GROUPS_OFFSET + index * GROUP_STRIDE
        return self.tensor[start : start + GROUP_STRIDE]


def everything(n: int) -> Program:
    """Reads and writes whatever a program can, for each group other numbers."""
    b = Builder(n)
    epoch = b.register("epoch", 3.0) + 1
    b.table("narrow", [5.0, 0.25, -3.0, 7.0])
    b.table("wide", [(k % 11) / 4 for k in range(3 * n)], width=n)
    total = b.group_register("total", [k % 5 for k in range(n)])
    lr, momentum = b.field("lr"), b.field("momentum")
    x = lr * b.const("scale", [1 + k / 8 for k in range(n)]) + b.lookup("wide", epoch % 3) + b.lookup("narrow", total)
    b.set_register("epoch", epoch)
    b.set_register("total", total + b.where(x > 0, 1.0, b.number(0.5) * epoch))
    b.set_field("lr", x - momentum)
    b.set_field("momentum", lr)
    b.set_field("eps", epoch)
    return b.finish("everything")


def scattered(n: int, rng: random.Random) -> tuple[int, list[int]]:
    """More rows than lanes, and which of them are driven: in no order, and with holes."""
    n_rows = 2 * n + 7
    return n_rows, rng.sample(range(n_rows), n)


def new_schedule(program: Program, rows: list[int], block: Any, backend: Any, guarded: bool = False) -> Schedule:
    chosen = backends.choose(torch.device(device_of(backend)), backend)
    return Schedule(program, rows, block, chosen, guarded)


def compact(program: Program, block: Rows, rows: list[int], advances: int) -> tuple[list[float], torch.Tensor]:
    """Memory and rows after some advances by the host, on a copy in which the rows stand in the lanes' order."""
    memory = program.initial_memory(range(len(rows))).tolist()
    control = [0.0] * GROUPS_OFFSET + torch.cat([block.row(row) for row in rows]).tolist()
    advance = program.compile_host()
    for _ in range(advances):
        advance(memory, control)
    return memory, torch.tensor(control[GROUPS_OFFSET:], dtype=torch.float64).view(-1, GROUP_STRIDE)


def check(schedule: Schedule, memory: list[float], driven: torch.Tensor, before: torch.Tensor) -> None:
    """The driven rows and the memory are as expected, and all else is as it was."""
    expected = before.clone()
    slots = GROUPS_OFFSET + torch.tensor(schedule.rows)[:, None] * GROUP_STRIDE + torch.arange(GROUP_STRIDE)
    expected[slots] = driven
    found = schedule.block.tensor.cpu()
    wrong = (found.view(torch.int64) != expected.view(torch.int64)).nonzero().flatten().tolist()
    assert not wrong, f"{len(wrong)} numbers differ, the first at slot {wrong[0]}"
    end = schedule.program.rows_offset
    assert schedule.memory.tensor.tolist() == [*memory[:end], *map(float, schedule.rows)]


@pytest.mark.parametrize("n", SIZES)
def test_the_driven_rows_change_and_no_others(n: int, backend: str, rng: random.Random) -> None:
    program, (n_rows, rows) = everything(n), scattered(n, rng)
    block = Rows(n_rows, device_of(backend))
    before = block.tensor.cpu().clone()
    schedule = new_schedule(program, rows, block, backend)
    expected = compact(program, block, rows, ADVANCES)
    for _ in range(ADVANCES):
        schedule.advance()
    check(schedule, *expected, before)


@pytest.mark.parametrize("n", [1, 2, 129, MANY])
def test_the_host_drives_the_same_rows(n: int, rng: random.Random) -> None:
    """Its evaluation alone, and as the mirror of a device's."""
    program, (n_rows, rows) = everything(n), scattered(n, rng)
    block = Rows(n_rows, platform=MIRRORED)
    before = block.tensor.clone()
    memory, driven = compact(program, block, rows, ADVANCES)
    schedule = new_schedule(program, rows, block, "reference")
    for _ in range(ADVANCES):
        schedule.advance()
    check(schedule, memory, driven, before)
    assert block.host == block.tensor.tolist()
    assert schedule.memory.host == schedule.memory.tensor.tolist()


@pytest.mark.parametrize("n", [3, 130])
def test_other_rows_are_driven_from_then_on(n: int, backend: str, mirrored: bool, rng: random.Random) -> None:
    program, (n_rows, rows) = everything(n), scattered(n, rng)
    block = Rows(n_rows, device_of(backend), MIRRORED if mirrored else TORCH)
    schedule = new_schedule(program, rows, block, backend)
    schedule.advance()
    others = rng.sample(range(n_rows), n)
    before = block.tensor.cpu().clone()
    memory = schedule.memory.tensor.tolist()
    control = before.tolist()
    schedule.drive(others)
    assert schedule.rows == tuple(others)
    schedule.advance()
    memory[program.rows_offset :] = map(float, others)
    program.compile_host()(memory, control)
    rows_now = torch.tensor(control, dtype=torch.float64)[GROUPS_OFFSET:].view(-1, GROUP_STRIDE)
    check(schedule, memory, rows_now[others], before)
    assert block.read(GROUPS_OFFSET + others[0] * GROUP_STRIDE) == control[GROUPS_OFFSET + others[0] * GROUP_STRIDE]


@pytest.mark.parametrize("guarded", [False, True])
def test_a_guarded_schedule_leaves_its_rows_alone(guarded: bool, backend: str) -> None:
    n, rows = 130, list(range(140, 10, -1))
    block = Rows(150, device_of(backend))
    schedule = new_schedule(everything(n), rows, block, backend, guarded)
    block.integers[0] = 1
    before = block.tensor.cpu().clone()
    schedule.advance()
    assert torch.equal(block.tensor.cpu(), before) is guarded
    assert schedule.read("epoch") == (3.0 if guarded else 4.0)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([0, 1], ValueError, r"^2 rows for a program of 3 param group\(s\): give one a group"),
        ([0, 1, 1], ValueError, r"^rows=\[0, 1, 1\] has a row twice"),
        ([0, -1, 1], ValueError, r"^rows=\[0, -1, 1\] must be whole numbers from 0 on"),
        ([0, 0.5, 1], ValueError, r"^rows=\[0, 0.5, 1\] must be whole numbers from 0 on"),
        ([0, 7, 8], IndexError, r"^rows \[7, 8\] are driven, but the control block has rows 0 to 6: add them first"),
    ],
)
def test_rows_that_cannot_be_driven_are_refused(rows: Any, error: type[Exception], message: str) -> None:
    block = Rows(7)
    with pytest.raises(error, match=message):
        new_schedule(everything(3), rows, block, "reference")
    schedule = new_schedule(everything(3), [4, 2, 0], block, "reference")
    memory = schedule.memory.tensor.clone()
    with pytest.raises(error, match=message):
        schedule.drive(rows)
    assert schedule.rows == (4, 2, 0)
    assert torch.equal(schedule.memory.tensor, memory)


class Capturing(Mirrored):
    """A GPU of which everything that is launched is captured, from a moment on."""

    now = False

    def is_capturing(self, device: torch.device) -> bool:
        return self.now


def test_other_rows_are_refused_inside_a_capture() -> None:
    platform = Capturing()
    schedule = new_schedule(everything(3), [4, 2, 0], Rows(7, platform=platform), "reference")
    platform.now = True
    schedule.drive([4, 2, 0])  # nothing to do
    with pytest.raises(RuntimeError, match="inside a CUDA graph capture"):
        schedule.drive([4, 2, 1])
    assert schedule.rows == (4, 2, 0)
    assert schedule.memory.tensor[schedule.program.rows_offset :].tolist() == [4.0, 2.0, 0.0]


BAD_ROWS = [-1.0, 0.5, math.nan, math.inf, -math.inf, 1e300, 7.0]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_cpp_changes_nothing_where_a_row_is_not_there(bad: float) -> None:
    _C = pytest.importorskip("fused_sched._C")
    program, block = everything(3), Rows(7)
    memory = program.initial_memory([0, 6, 3])
    memory[program.rows_offset + 1] = bad
    before = memory.clone(), block.tensor.clone()
    arguments = program.encode(), program.n_uniform, memory, 3, program.rows_offset, 0
    with pytest.raises(IndexError, match=r"^lane 1 .* drives row .*, but the control block has rows 0 to 6: name"):
        _C.advance(block.tensor, arguments)
    assert [t.view(torch.int64).tolist() for t in (memory, block.tensor)] == [
        t.view(torch.int64).tolist() for t in before
    ]
    for n_lanes, offset in ((4, program.rows_offset), (3, program.rows_offset + 1), (1, 2**62)):
        with pytest.raises(ValueError, match=r"^rows_offset=\d+ \+ n_lanes=\d is beyond the \d+ element"):
            _C.advance(block.tensor, (*arguments[:3], n_lanes, offset, 0))


@pytest.mark.parametrize("bad", [-1.0, 0.5, math.nan, 1e300])
def test_an_update_on_the_cpu_changes_nothing_where_a_row_is_not_there(bad: float) -> None:
    pytest.importorskip("fused_sched._C")
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = SGD([parameter], lr=0.1, momentum=0.9, backend="cpu")
    schedulers = [StepLR(optimizer, 1, fused=True), StepLR(optimizer, 1, fused=False)]
    parameter.grad = torch.ones(3)
    optimizer.step()
    schedule = schedulers[0]._schedule
    schedule.memory.tensor[schedule.program.rows_offset] = bad
    before = [parameter.detach().clone(), optimizer._block.tensor[:100].clone(), optimizer._block.counts.clone()]
    with pytest.raises(IndexError, match="but the control block has rows 0 to "):
        optimizer.step()
    after = [parameter.detach(), optimizer._block.tensor[:100], optimizer._block.counts]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_constants_of_a_program_for_more_groups_are_not_taken() -> None:
    def halving(n: int) -> Program:
        b = Builder(n)
        b.set_field("lr", b.field("lr") * b.const("gamma", 0.5))
        return b.finish("halving")

    schedule = new_schedule(halving(2), [1, 0], Rows(3), "reference")
    assert schedule.take_constants(halving(2))
    assert not schedule.take_constants(halving(3))


@pytest.mark.slow
@pytest.mark.skipif(bool(lane.PTX), reason="is a run of these tests with compiled kernels")
def test_compiled_kernels_drive_many_rows_without_races() -> None:
    pytest.importorskip("triton")
    command = [str(Path(sys.executable).with_name("pytest")), "-q", "-p", "no:cacheprovider", __file__]
    command += ["-k", f"no_others and ({MANY} or 300 or 129)"]
    environment = {**os.environ, "FUSED_SCHED_TEST_PTX": "races"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_backends_that_run_encoded_programs_check_them(name: str) -> None:
    pytest.importorskip("fused_sched._C")
    chosen = CudaBackend(operators=None) if name == "cuda" else backends.make(name, TORCH)
    schedule = new_schedule(everything(3), [4, 2, 0], Rows(7), chosen)
    (load,) = (schedule.code[:, 0] == OP_CODES["load"]).nonzero()[0].tolist()
    schedule.code[load, 1] = schedule.program.rows_offset
    with pytest.raises(ValueError, match="reads or writes the rows that the lanes drive"):
        chosen.check_program(schedule)
