"""The update kernel: one program a chunk, and the last program to finish ends the step.

A program reads the control block before it takes its ticket, so the last one may write it: no
reader is left. That program counts the update, notes whether it was skipped, and advances the fused
schedules for the next step.
"""

import triton
import triton.language as tl

from .layout import (
    CHUNK_UNIT,
    COUNTS,
    GROUP,
    GROUPS,
    MOMENTUM,
    NUMEL,
    PARAM,
    SKIPPED,
    STATE0,
    STATE1,
    STATE2,
    STRIDE,
    TICKET,
    WIDTH,
)
from .numerics import divide, narrow
from .rules import ADAM, SGD, adam_block, adam_scalars, sgd_block, sgd_scalars

COUNT_LANES = tl.constexpr(128)  # records that the last program counts at a time: one a thread


@triton.jit
def at(address, T: tl.constexpr, HINT: tl.constexpr):
    """Address as a pointer to T; HINT: bytes it is a multiple of, 0 if unknown.

    The cast is made here, freshly for each use: a hint marks the operation that made the pointer, so
    on a shared one it would reach code for unaligned tensors too.
    """
    pointer = address.to(tl.pointer_type(T))
    if HINT > 0:
        pointer = tl.multiple_of(pointer, HINT)
    return pointer


@triton.jit
def update_block(
    addresses,  # int64: parameter, gradient, three states, at the chunk's first element
    first,
    end,  # elements [first, min(end, first + BLOCK)) of the chunk
    extra_end,  # end, or 0 where the optional state (SGD's buffer, Adam's maximum) is not in use
    scalars,
    scale,
    RULE: tl.constexpr,
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    EXTRA: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
    HINT: tl.constexpr,
    HINT16: tl.constexpr,
):
    i = first + tl.arange(0, BLOCK)
    mask = i < end
    extra = i < extra_end
    params = at(addresses[0], P, HINT16 if P.primitive_bitwidth == 16 else HINT) + i
    grads = at(addresses[1], G, HINT16 if G.primitive_bitwidth == 16 else HINT) + i
    p = tl.load(params, mask=mask).to(T)
    g = tl.load(grads, mask=mask).to(T)
    if SCALED:
        g = divide(g, scale)
        tl.store(grads, narrow(g, G), mask=mask)
    if RULE == ADAM:
        firsts = at(addresses[2], S, HINT16 if S.primitive_bitwidth == 16 else HINT) + i
        seconds = at(addresses[3], S, HINT16 if S.primitive_bitwidth == 16 else HINT) + i
        m = tl.load(firsts, mask=mask).to(T)
        v = tl.load(seconds, mask=mask).to(T)
        largest = v
        if EXTRA:
            maxima = at(addresses[4], S, HINT16 if S.primitive_bitwidth == 16 else HINT) + i
            largest = tl.load(maxima, mask=extra, other=0.0).to(T)
        p, m, v, largest = adam_block(scalars, p, g, m, v, largest, extra_end > 0, EXTRA)
        tl.store(firsts, narrow(m, S), mask=mask)
        tl.store(seconds, narrow(v, S), mask=mask)
        if EXTRA:
            tl.store(maxima, narrow(largest, S), mask=extra)
    else:
        buffer = g
        if EXTRA:
            buffers = at(addresses[2], S, HINT16 if S.primitive_bitwidth == 16 else HINT) + i
            buffer = tl.load(buffers, mask=extra, other=0.0).to(T)
        p, buffer = sgd_block(scalars, p, g, buffer, EXTRA)
        if EXTRA:
            tl.store(buffers, narrow(buffer, S), mask=extra)
    tl.store(params, narrow(p, P), mask=mask)


@triton.jit
def update_chunk(
    control,
    records,
    grad,  # int64: address of the tensor's gradient
    record,  # int32: position in the table
    unit,  # int32: the chunk's first element, in units of CHUNK_UNIT
    grad_scale,
    chunk_size,
    RULE: tl.constexpr,
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    EXTRA: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
    SMALL_BLOCK: tl.constexpr,
    HINT16: tl.constexpr,
):
    row = records + record.to(tl.int64) * WIDTH
    fields = control + GROUPS + tl.load(row + GROUP) * STRIDE
    count = tl.load(control.to(tl.pointer_type(tl.int64)) + COUNTS + record)
    start = unit.to(tl.int64) * CHUNK_UNIT
    n = tl.minimum(tl.load(row + NUMEL) - start, chunk_size.to(tl.int64)).to(tl.int32)
    states = start * (S.primitive_bitwidth // 8)
    state0, state1, state2 = tl.load(row + STATE0), tl.load(row + STATE1), tl.load(row + STATE2)
    if RULE == ADAM:
        keeps = state2 != 0
        scalars = adam_scalars(fields, count, T)
    else:
        keeps = (tl.load(fields + MOMENTUM) != 0.0) & (state0 != 0)
        scalars = sgd_scalars(fields, count, keeps, T)
    scale = 1.0
    if SCALED:
        scale = tl.load(grad_scale).to(T)
    addresses = (
        tl.load(row + PARAM) + start * (P.primitive_bitwidth // 8),
        grad + start * (G.primitive_bitwidth // 8),
        state0 + states,
        state1 + states,
        state2 + states,
    )
    aligned = ((addresses[0] | addresses[1] | addresses[2] | addresses[3] | addresses[4]) & 15) == 0
    wide = tl.multiple_of(tl.where(aligned, (n // 8) * 8, 0), 8)
    extra_wide = tl.multiple_of(tl.where(keeps, wide, 0), 8)
    extra_n = tl.where(keeps, n, 0)
    for i in range(0, wide, BLOCK):
        update_block(
            addresses, i, wide, extra_wide, scalars, scale, RULE, P, G, S, T, EXTRA, SCALED, BLOCK, 16, HINT16
        )  # fmt: skip
    for i in range(wide, n, SMALL_BLOCK):
        update_block(
            addresses, i, n, extra_n, scalars, scale, RULE, P, G, S, T, EXTRA, SCALED, SMALL_BLOCK, 0, 0
        )  # fmt: skip


@triton.jit
def finish_step(control, records, grads, schedules, skipped, n_records, RULE: tl.constexpr, ADVANCE: tl.constexpr):
    """Count the update, note whether it was ``skipped`` (int64), advance the fused schedules."""
    integers = control.to(tl.pointer_type(tl.int64))
    tl.store(integers + SKIPPED, skipped)
    if skipped == 0:
        for first in range(0, n_records, COUNT_LANES):
            i = first + tl.arange(0, COUNT_LANES)
            counted = tl.load(grads + i, mask=i < n_records, other=0) != 0
            if RULE == SGD:
                group = tl.load(records + i * WIDTH + GROUP, mask=counted, other=0)
                momentum = tl.load(control + GROUPS + group * STRIDE + MOMENTUM, mask=counted, other=0.0)
                counted = counted & (momentum != 0.0)
            counts = integers + COUNTS + i
            tl.store(counts, tl.load(counts, mask=counted) + 1, mask=counted)
    if ADVANCE is not None:
        # another thread may still be reading a momentum that a schedule is about to write
        tl.debug_barrier()
        ADVANCE(control, schedules, skipped)


@triton.jit(do_not_specialize=["n_records", "chunk_size"])
def update_kernel(
    control,  # float64: the control block
    records,  # int64 (n_records, 8)
    grads,  # int64 (n_records): address of each gradient, 0 for none
    chunks,  # int32 (programs, 2): record, first element in units of CHUNK_UNIT
    schedules,  # int64: address of each fused schedule's memory
    grad_scale,  # float32 (1), if SCALED
    found_inf,  # float32 (1), if GUARDED
    n_records,
    chunk_size,  # elements
    RULE: tl.constexpr,
    P: tl.constexpr,  # types of parameter, gradient, state, and the one computed in
    G: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    EXTRA: tl.constexpr,  # some parameter has SGD's buffer or Adam's maximum
    SCALED: tl.constexpr,
    GUARDED: tl.constexpr,
    LAST: tl.constexpr,  # this launch ends the step
    ADVANCE: tl.constexpr,  # runs the fused schedules; None without
    BLOCK: tl.constexpr,
    SMALL_BLOCK: tl.constexpr,
    HINT16: tl.constexpr,  # bytes that addresses of 16-bit elements are a multiple of
):
    pid = tl.program_id(0)
    if GUARDED:
        skipped = (tl.load(found_inf) != 0.0).to(tl.int64)
    else:
        skipped = tl.full((), 0, tl.int64)
    record = tl.load(chunks + 2 * pid)
    unit = tl.load(chunks + 2 * pid + 1)
    grad = tl.load(grads + record)
    if (grad != 0) & (skipped == 0):
        update_chunk(
            control, records, grad, record, unit, grad_scale, chunk_size,
            RULE, P, G, S, T, EXTRA, SCALED, BLOCK, SMALL_BLOCK, HINT16,
        )  # fmt: skip
    if LAST:
        # the ticket is taken by one thread: all of the program's threads must have read by then
        tl.debug_barrier()
        ticket = control.to(tl.pointer_type(tl.int64)) + TICKET
        done = tl.atomic_add(ticket, 1, sem="acq_rel")
        if done == tl.num_programs(0) - 1:
            finish_step(control, records, grads, schedules, skipped, n_records, RULE, ADVANCE)
            tl.store(ticket, 0)


@triton.jit(do_not_specialize=["n_records"])
def finish_kernel(
    control,
    records,
    grads,
    schedules,
    found_inf,
    n_records,
    RULE: tl.constexpr,
    GUARDED: tl.constexpr,
    ADVANCE: tl.constexpr,
):
    """A step in which no tensor has elements; arguments as in :func:`update_kernel`."""
    if GUARDED:
        skipped = (tl.load(found_inf) != 0.0).to(tl.int64)
    else:
        skipped = tl.full((), 0, tl.int64)
    finish_step(control, records, grads, schedules, skipped, n_records, RULE, ADVANCE)


@triton.jit
def advance_kernel(control, schedules, ADVANCE: tl.constexpr):
    """One step of one schedule."""
    skipped = tl.load(control.to(tl.pointer_type(tl.int64)) + SKIPPED)
    ADVANCE(control, schedules, skipped)
