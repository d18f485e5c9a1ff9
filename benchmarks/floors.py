"""What the machine allows: the same bytes with trivial arithmetic, a plain copy, an empty kernel, an empty call."""

from __future__ import annotations

from typing import Any

import torch
from contenders import Entered
from device import Host
from harness import Call
from problems import Problem, Tensors

from fused_sched.memory.device_table import DeviceTable
from fused_sched.memory.parameter_table import RECORD
from fused_sched.rules import ADAM

STREAM, COPY, EMPTY = "stream of the same bytes", "copy_ of as many bytes", "empty kernel"
_ADDRESSES = ("param", "grad", "state0", "state1", "state2")
FLOORS = (STREAM, COPY, EMPTY)
COPIED_AT_ONCE = 2**31  # bytes; the largest set would not fit a second time

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


if triton is not None:
    from fused_sched.kernels.layout import CHUNK_UNIT, NUMEL, PARAM, STATE0, STATE1, STATE2, WIDTH

    @triton.jit
    def _add_to(address, offset, x, i, k, T: tl.constexpr, HINT: tl.constexpr, FACTOR: tl.constexpr):
        """Read and write one array."""
        pointer = (address + offset * (T.primitive_bitwidth // 8)).to(tl.pointer_type(T))
        if HINT > 0:
            pointer = tl.multiple_of(pointer, HINT)
        tl.store(pointer + i, (tl.load(pointer + i, mask=k) + x * FACTOR).to(T), mask=k)

    @triton.jit
    def stream_kernel(
        records,
        grads,
        chunks,
        chunk_size,
        P: tl.constexpr,
        S: tl.constexpr,
        STATES: tl.constexpr,
        HINT: tl.constexpr,
        HINT16: tl.constexpr,
        BLOCK: tl.constexpr,
        FACTOR: tl.constexpr,
    ):
        """The accesses of an update without its arithmetic; arguments as of fused_sched.kernels.update.

        FACTOR times the gradient is added to all: 0.0 to measure, as what others do with NaN would take another time.
        """
        pid = tl.program_id(0)
        record = tl.load(chunks + 2 * pid)
        start = tl.load(chunks + 2 * pid + 1).to(tl.int64) * CHUNK_UNIT
        words = records + record.to(tl.int64) * WIDTH
        n = tl.minimum(tl.load(words + NUMEL) - start, chunk_size.to(tl.int64)).to(tl.int32)
        if HINT > 0:
            n = tl.multiple_of((n // 8) * 8, 8)  # the few elements of a tail do not matter here
        hint_p: tl.constexpr = HINT16 if P.primitive_bitwidth == 16 else HINT
        hint_s: tl.constexpr = HINT16 if S.primitive_bitwidth == 16 else HINT
        gradient = tl.load(grads + 2 * record) + start * (P.primitive_bitwidth // 8)
        param = tl.load(words + PARAM)
        state0, state1, state2 = tl.load(words + STATE0), tl.load(words + STATE1), tl.load(words + STATE2)
        for first in range(0, n, BLOCK):
            i = first + tl.arange(0, BLOCK)
            k = i < n
            g = gradient.to(tl.pointer_type(P))
            if HINT > 0:
                g = tl.multiple_of(g, hint_p)
            x = tl.load(g + i, mask=k)
            _add_to(param, start, x, i, k, P, hint_p, FACTOR)
            _add_to(state0, start, x, i, k, S, hint_s, FACTOR)
            if STATES > 1:
                _add_to(state1, start, x, i, k, S, hint_s, FACTOR)
            if STATES > 2:
                _add_to(state2, start, x, i, k, S, hint_s, FACTOR)

    @triton.jit
    def empty_kernel(a):
        """Does nothing."""


def stream_over(optimizer: Any, problem: Problem, factor: float = 0.0) -> Call:
    """The stream over the tables of one of our optimizers, which has made a step."""
    device = optimizer.param_groups[0]["params"][0].device
    table = DeviceTable(optimizer.tables[0], ADAM, device)  # as its backend's; of the rule nothing is read here
    types = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
    param, state = (types[dtype] for dtype in problem.dtypes)
    widest = max(dtype.itemsize for dtype in problem.dtypes)
    aligned = bool(((table.host[:, [RECORD[name] for name in _ADDRESSES]] & 15) == 0).all())
    hints = (16, 16 if widest == 2 else 8) if aligned else (0, 0)
    chunks, size = table.signatures[0].chunks, table.signatures[0].size
    constants: dict[str, Any] = {"P": param, "S": state, "STATES": problem.states, "BLOCK": 2048 // widest}
    constants |= {"HINT": hints[0], "HINT16": hints[1], "num_warps": 4, "FACTOR": factor}

    def run() -> None:
        stream_kernel[(len(chunks),)](table.records, table.grads, chunks, size, **constants)

    return run


def gpu_floors(problem: Problem, tensors: Tensors, ours: Entered | None, device: Host) -> dict[str, Call]:
    """Calls to capture, by name; without ``ours`` there is no table to stream over."""
    half = problem.bytes // 2
    pieces = [min(COPIED_AT_ONCE, half - first) for first in range(0, half, COPIED_AT_ONCE)]
    source, target = (torch.zeros(pieces[0], dtype=torch.uint8, device=tensors.device) for _ in range(2))

    def copy() -> None:
        for n in pieces:
            target[:n].copy_(source[:n])

    floors: dict[str, Call] = {}
    if triton is not None:
        if ours is not None:
            floors[STREAM] = stream_over(ours.built.optimizer, problem)
        floors[EMPTY] = lambda: empty_kernel[(1,)](source)
    floors[COPY] = copy
    with device.side_stream():
        for call in floors.values():
            call()
    return floors


def cpu_floor(problem: Problem) -> Call:
    """Four reads and three writes of as many elements, as torch operations over flat arrays.

    Parameter and states are multiplied in place, the gradient is summed: no torch operation does it in one pass.
    """
    param, state = problem.dtypes
    arrays = [torch.zeros(problem.elements, dtype=d) for d in (param, *([state] * problem.states))]
    gradient = torch.zeros(problem.elements, dtype=param)

    def run() -> None:
        for array in arrays:
            array.mul_(1.0)
        gradient.sum()

    return run


def empty_call() -> None:
    """What calling anything costs in Python."""
