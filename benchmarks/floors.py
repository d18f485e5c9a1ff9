"""What the machine allows: the same bytes with trivial arithmetic, a plain copy, an empty kernel, an empty call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from contenders import Entered
from device import Host
from harness import Call
from problems import ALONE, Around, Problem, Tensors

from fused_sched.memory.device_table import DeviceTable
from fused_sched.memory.parameter_table import RECORD
from fused_sched.rules import ADAM

STREAM, COPY, EMPTY = "stream of the same bytes", "copy_ of as many bytes", "empty kernel"
_ADDRESSES = ("param", "grad", "state0", "state1", "state2", "master", "average")
FLOORS = (STREAM, COPY, EMPTY)
COPIED_AT_ONCE = 2**31  # bytes; the largest set would not fit a second time

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


if triton is not None:
    from fused_sched.kernels.layout import AVERAGE, CHUNK_UNIT, MASTER, NUMEL, PARAM, STATE0, STATE1, STATE2, WIDTH

    @triton.jit
    def _add_to(address, offset, x, i, k, T: tl.constexpr, HINT: tl.constexpr, FACTOR: tl.constexpr):
        """Read and write one array."""
        pointer = (address + offset * (T.primitive_bitwidth // 8)).to(tl.pointer_type(T))
        if HINT > 0:
            pointer = tl.multiple_of(pointer, HINT)
        tl.store(pointer + i, (tl.load(pointer + i, mask=k) + x.to(tl.float32) * FACTOR).to(T), mask=k)

    @triton.jit
    def stream_kernel(
        records,
        grads,
        chunks,
        chunk_size,
        P: tl.constexpr,
        S: tl.constexpr,
        A: tl.constexpr,
        M: tl.constexpr,
        STATES: tl.constexpr,
        ZEROES: tl.constexpr,
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
        average, master = tl.load(words + AVERAGE), tl.load(words + MASTER)
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
            if A is not None:
                _add_to(average, start, x, i, k, A, HINT16 if A.primitive_bitwidth == 16 else HINT, FACTOR)
            if M is not None:
                _add_to(master, start, x, i, k, M, HINT16 if M.primitive_bitwidth == 16 else HINT, FACTOR)
            if ZEROES:
                tl.store(g + i, tl.zeros([BLOCK], P), mask=k)

    @triton.jit
    def read_kernel(
        records,
        grads,
        chunks,
        sums,
        chunk_size,
        P: tl.constexpr,
        HINT: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """The accesses of a norm: every gradient is read, and a sum of each chunk is written."""
        pid = tl.program_id(0)
        record = tl.load(chunks + 2 * pid)
        start = tl.load(chunks + 2 * pid + 1).to(tl.int64) * CHUNK_UNIT
        numel = tl.load(records + record.to(tl.int64) * WIDTH + NUMEL)
        n = tl.minimum(numel - start, chunk_size.to(tl.int64)).to(tl.int32)
        if HINT > 0:
            n = tl.multiple_of((n // 8) * 8, 8)
        gradient = tl.load(grads + 2 * record) + start * (P.primitive_bitwidth // 8)
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(0, n, BLOCK):
            i = first + tl.arange(0, BLOCK)
            g = gradient.to(tl.pointer_type(P))
            if HINT > 0:
                g = tl.multiple_of(g, HINT)
            total += tl.load(g + i, mask=i < n, other=0.0).to(tl.float32)
        tl.store(sums + pid, tl.sum(total, 0))

    @triton.jit
    def empty_kernel(a):
        """Does nothing."""


def stream_over(optimizer: Any, problem: Problem, factor: float = 0.0, around: Around = ALONE) -> Call:
    """The stream over the tables of one of our optimizers, which has made a step, and has averages and masters if any.

    Where there is a norm, another launch reads the gradients first.
    """
    device = optimizer.param_groups[0]["params"][0].device
    table = DeviceTable(optimizer.tables[0], ADAM, device)  # as its backend's; of the rule nothing is read here
    types = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.int16: tl.int16, None: None}
    dtypes = [*problem.dtypes, around.average_dtype(problem) if around.average else None, around.master_dtype]
    widest = max(dtype.itemsize for dtype in dtypes if dtype is not None)
    aligned = bool(((table.host[:, [RECORD[name] for name in _ADDRESSES]] & 15) == 0).all())
    hints = (16, 16 if widest == 2 else 8) if aligned else (0, 0)
    chunks, size = table.signatures[0].chunks, table.signatures[0].size
    param, state, average, master = (types[dtype] for dtype in dtypes)
    constants: dict[str, Any] = {"P": param, "BLOCK": 2048 // widest, "num_warps": 4}
    more = {"S": state, "A": average, "M": master, "STATES": problem.states, "ZEROES": around.zeros}
    more |= {"HINT": hints[0], "HINT16": hints[1], "FACTOR": factor}
    hint = hints[1] if param.primitive_bitwidth == 16 else hints[0]
    sums = torch.empty(len(chunks), device=device)

    def run() -> None:
        if around.norm:
            read_kernel[(len(chunks),)](table.records, table.grads, chunks, sums, size, HINT=hint, **constants)
        stream_kernel[(len(chunks),)](table.records, table.grads, chunks, size, **constants, **more)

    return run


def gpu_streams(optimizer: Any, problem: Problem, ways: Mapping[str, Around], device: Host) -> dict[str, Call]:
    """A stream to capture for each of ``ways``, by name; ``optimizer`` keeps averages wherever one of them does."""
    if triton is None:
        return {}
    streams = {name: stream_over(optimizer, problem, around=around) for name, around in ways.items()}
    with device.side_stream():
        for call in streams.values():
            call()
    return streams


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


def cpu_streams(problem: Problem, ways: Mapping[str, Around]) -> dict[str, Call]:
    """The reads and writes of each of ``ways``, by name, as torch operations over flat arrays that they share.

    Parameter, states, average and master are multiplied in place, the gradient is summed, once more for its norm, and
    zeroed: no torch operation does it in one pass.
    """
    param, state = problem.dtypes
    updated = [torch.zeros(problem.elements, dtype=d) for d in (param, *([state] * problem.states))]
    gradient = torch.zeros(problem.elements, dtype=param)
    kept = {around.average_dtype(problem) for around in ways.values() if around.average}
    averages = {dtype: torch.zeros(problem.elements, dtype=dtype) for dtype in kept}
    beside = {dtype for around in ways.values() if (dtype := around.master_dtype) is not None}
    masters = {dtype: torch.zeros(problem.elements, dtype=dtype) for dtype in beside}

    def stream(around: Around) -> Call:
        arrays = [*updated, *([averages[around.average_dtype(problem)]] if around.average else [])]
        arrays += [] if around.master_dtype is None else [masters[around.master_dtype]]

        def run() -> None:
            if around.norm:
                gradient.sum()
            for array in arrays:
                array.mul_(1.0 if array.is_floating_point() else 1)
            gradient.sum()
            if around.zeros:
                gradient.zero_()

        return run

    return {name: stream(around) for name, around in ways.items()}


def empty_call() -> None:
    """What calling anything costs in Python."""
