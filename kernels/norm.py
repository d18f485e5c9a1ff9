"""The norm of the gradients: one program a chunk, and the program that takes the last ticket sees what comes of it.

A program adds up the squares of its elements in the type computed in, one sum a lane, and these in float64. It writes
its sum to a place of its own, then takes its ticket. Whoever takes the last one reads all the sums in one order, so
that the same gradients always have the same norm.
"""

import triton
import triton.language as tl

from .arrays import at
from .fields import load_fields
from .layout import (
    CHUNK_UNIT,
    CLIP_FACTOR,
    GRAD_NORM,
    GROUP_NORM,
    GROUPS,
    MAX_GRAD_NORM,
    NORMS_SEEN,
    NUMEL,
    SKIPPED,
    SKIPPED_STEPS,
    STABILIZER,
    STRIDE,
    TICKET,
    WIDTH,
)
from .update import is_skipped, take_ticket

SUM_LANES = tl.constexpr(1024)  # sums that the last program adds side by side
GROUPS_AT_ONCE = tl.constexpr(128)
GROUP_LANES = tl.constexpr(16)  # groups, and sums of each, where every group has a norm of its own
GROUP_SUMS = tl.constexpr(64)


@triton.jit
def is_finite(x):
    """Neither an infinity nor NaN."""
    return x - x == 0.0


@triton.jit
def sum_of_squares(address, n, G: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr, SMALL_BLOCK: tl.constexpr):
    """Of n elements of type G, float64."""
    wide = tl.multiple_of(tl.where((address & 15) == 0, (n // 8) * 8, 0), 8)
    sums = tl.zeros([BLOCK], T)
    for first in range(0, wide, BLOCK):
        i = first + tl.arange(0, BLOCK)
        g = tl.load(at(address, G, 16) + i, mask=i < wide, other=0.0).to(T)
        sums = tl.fma(g, g, sums)
    rest = tl.zeros([SMALL_BLOCK], T)
    for first in range(wide, n, SMALL_BLOCK):
        i = first + tl.arange(0, SMALL_BLOCK)
        g = tl.load(at(address, G, 0) + i, mask=i < n, other=0.0).to(T)
        rest = tl.fma(g, g, rest)
    return tl.sum(sums.to(tl.float64), 0) + tl.sum(rest.to(tl.float64), 0)


@triton.jit
def note_groups(control, groups, first, end, norms, LANES: tl.constexpr, BOUND: tl.constexpr):
    """Write norms, and the clip factors that they mean, to the rows of groups ``first`` up to ``end``."""
    i = first + tl.arange(0, LANES)
    inside = i < end
    row = tl.load(groups + 4 * i, mask=inside, other=0).to(tl.int64)
    clips = tl.load(groups + 4 * i + 3, mask=inside, other=0) != 0
    fields = control + GROUPS + row * STRIDE
    most = load_fields(fields + MAX_GRAD_NORM, inside, BOUND)
    factor = most / (norms + STABILIZER)
    factor = tl.where(factor > 1.0, 1.0, factor)  # NaN stays
    factor = tl.where(clips & (most != float("inf")), factor, 1.0)
    tl.store(fields + GROUP_NORM, norms + tl.zeros([LANES], tl.float64), mask=inside)
    tl.store(fields + CLIP_FACTOR, factor, mask=inside)


@triton.jit
def norm_of_all(control, sums, groups, n_sums, n_groups, scale, BOUND: tl.constexpr):
    """The norm of all gradients, by which every group is clipped."""
    lanes = tl.arange(0, SUM_LANES)
    squares = tl.zeros([SUM_LANES], tl.float64)
    for first in range(0, n_sums, SUM_LANES):
        i = first + lanes
        squares += tl.load(sums + i, mask=i < n_sums, other=0.0)
    norm = tl.sqrt(tl.sum(squares, 0)) / scale
    for first in range(0, n_groups, GROUPS_AT_ONCE):
        note_groups(control, groups, first, n_groups, norm, GROUPS_AT_ONCE, BOUND)
    return norm


@triton.jit
def norms_of_each(control, sums, groups, n_groups, scale, BOUND: tl.constexpr):
    """The norm of all gradients, where every group is clipped by a norm of its own."""
    lanes = tl.arange(0, GROUP_LANES)
    columns = tl.arange(0, GROUP_SUMS)
    total = tl.zeros([GROUP_LANES], tl.float64)
    for first in range(0, n_groups, GROUP_LANES):
        i = first + lanes
        begin = tl.load(groups + 4 * i + 1, mask=i < n_groups, other=0)
        end = tl.load(groups + 4 * i + 2, mask=i < n_groups, other=0)
        longest = tl.max(end - begin, 0)
        partial = tl.zeros([GROUP_LANES, GROUP_SUMS], tl.float64)
        for offset in range(0, longest, GROUP_SUMS):
            k = begin[:, None] + offset + columns[None, :]
            partial += tl.load(sums + k, mask=k < end[:, None], other=0.0)
        squares = tl.sum(partial, 1)
        note_groups(control, groups, first, n_groups, tl.sqrt(squares) / scale, GROUP_LANES, BOUND)
        total += squares
    return tl.sqrt(tl.sum(total, 0)) / scale


@triton.jit
def is_spike(control, norms, norm, stopped, WINDOW: tl.constexpr, LEAST: tl.constexpr, DEVIATIONS: tl.constexpr):
    """Whether a norm is larger than those before it let expect; it is remembered where it is finite, and the step not
    ``stopped`` by somebody else."""
    place = control.to(tl.pointer_type(tl.int64)) + NORMS_SEEN
    seen = tl.load(place)
    known = tl.minimum(seen, WINDOW)
    LANES: tl.constexpr = triton.next_power_of_2(WINDOW)
    lanes = tl.arange(0, LANES)
    there = lanes < known
    before = tl.load(norms + lanes, mask=there, other=0.0)
    count = known.to(tl.float64)
    mean = tl.sum(before, 0) / count
    away = tl.where(there, before - mean, 0.0)
    deviation = tl.sqrt(tl.sum(away * away, 0) / (count - 1.0))
    expected = norm - mean <= deviation * DEVIATIONS
    tl.debug_barrier()  # all threads have read what is written now
    finite = is_finite(norm) & (stopped == 0)
    tl.store(norms + seen % WINDOW, norm, mask=finite)
    tl.store(place, seen + 1, mask=finite)
    return (known + 1 >= LEAST) & (expected == 0)


@triton.jit(do_not_specialize=["n_sums", "n_groups", "chunk_size"])
def norm_kernel(
    control,  # float64: the control block
    records,  # int64 (n_records, 16)
    grads,  # int64 (n_records, 2): address of each gradient, 0 for none, and slot of the count
    chunks,  # int32 (programs, 3): record, first element in units of CHUNK_UNIT, place of the sum
    sums,  # float64 (n_sums): of the squares of each chunk of all launches
    groups,  # int32 (n_groups, 4): row, its part of sums (first, end), whether it has a max_grad_norm
    norms,  # float64 (WINDOW): what a SpikeRule remembers
    grad_scale,  # float32 (1), if SCALED
    found_inf,  # float32 (1), if GUARDED
    n_sums,
    n_groups,
    chunk_size,  # elements
    G: tl.constexpr,  # types of gradients, and the one computed in
    T: tl.constexpr,
    EACH: tl.constexpr,  # a norm of each group's own gradients
    SCALED: tl.constexpr,
    GUARDED: tl.constexpr,
    ONLY_FINITE: tl.constexpr,  # a norm that is not finite skips the step
    WINDOW: tl.constexpr,  # of a SpikeRule; 0 without
    LEAST: tl.constexpr,
    DEVIATIONS: tl.constexpr,
    BOUND: tl.constexpr,
    LAST: tl.constexpr,  # of the launches
    EMPTY: tl.constexpr,  # there are no chunks
    BLOCK: tl.constexpr,
    SMALL_BLOCK: tl.constexpr,
):
    pid = tl.program_id(0)
    if not EMPTY:
        record = tl.load(chunks + 3 * pid)
        start = tl.load(chunks + 3 * pid + 1).to(tl.int64) * CHUNK_UNIT
        grad = tl.load(grads + 2 * record)
        numel = tl.load(records + record.to(tl.int64) * WIDTH + NUMEL)
        n = tl.minimum(numel - start, chunk_size.to(tl.int64)).to(tl.int32)
        n = tl.where(grad != 0, n, 0)
        squares = sum_of_squares(grad + start * (G.primitive_bitwidth // 8), n, G, T, BLOCK, SMALL_BLOCK)
        tl.store(sums + tl.load(chunks + 3 * pid + 2), squares)
    if LAST:  # noqa: SIM102  # decided when the kernel is compiled, the other when it runs
        if take_ticket(control):
            scale = 1.0
            if SCALED:
                scale = tl.load(grad_scale).to(tl.float64)
            if EACH:
                norm = norms_of_each(control, sums, groups, n_groups, scale, BOUND)
            else:
                norm = norm_of_all(control, sums, groups, n_sums, n_groups, scale, BOUND)
            stopped = is_skipped(control, found_inf, GUARDED, False) != 0
            skipped = stopped
            if ONLY_FINITE:
                skipped = skipped | (is_finite(norm) == 0)
            if WINDOW > 0:
                skipped = skipped | is_spike(control, norms, norm, stopped, WINDOW, LEAST, DEVIATIONS)
            header = control.to(tl.pointer_type(tl.int64))
            count = skipped.to(tl.int64)
            steps = tl.load(header + SKIPPED_STEPS)
            tl.debug_barrier()
            tl.store(control + GRAD_NORM, norm)
            tl.store(header + SKIPPED, count)
            tl.store(header + SKIPPED_STEPS, steps + count)
            tl.store(header + TICKET, 0)
