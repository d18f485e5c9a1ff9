"""The update kernel: one program a chunk, and the program that takes the last ticket ends the step.

A program takes its ticket when it has read all that it needs of the control block, before it touches the data. So
whoever takes the last one may write the block: no reader is left, though others may still be updating elements. That
program counts the update, notes whether it was skipped, and advances the fused schedules for the next step.
"""

import triton
import triton.language as tl

from .arrays import at
from .fields import load_field
from .layout import (
    AVERAGE,
    CHUNK_UNIT,
    CLIP_FACTOR,
    EMA_DECAY,
    GROUPS,
    MASTER,
    NUMEL,
    PARAM,
    ROW,
    SKIPPED,
    STATE0,
    STATE1,
    STATE2,
    STRIDE,
    TICKET,
    UPDATES,
    WIDTH,
)
from .master import load_master, store_parameter, value_of
from .numerics import divide, narrow
from .stochastic import draw_of

COUNT_LANES = tl.constexpr(128)  # records that the last program counts side by side


@triton.jit
def load_state(
    absent,
    K: tl.constexpr,  # which of the states
    address,  # int64: of it, at the chunk's first element
    first,  # and the following as in load_block
    end,
    extra_end,
    REQUIRED: tl.constexpr,
    S: tl.constexpr,
    EXTRA: tl.constexpr,
    BLOCK: tl.constexpr,
    HINT: tl.constexpr,
):
    """Elements of a state; ``absent`` for one that the rule does not have."""
    i = first + tl.arange(0, BLOCK)
    if K < REQUIRED:
        return tl.load(at(address, S, HINT) + i, mask=i < end)
    elif (K == REQUIRED) and EXTRA:
        return tl.load(at(address, S, HINT) + i, mask=i < extra_end, other=0.0)
    else:
        return absent


@triton.jit
def load_block(
    addresses,  # int64: parameter, gradient, three states, at the chunk's first element
    master,  # likewise
    first,
    end,  # elements [first, min(end, first + BLOCK)) of the chunk
    extra_end,  # end, or 0 where the rule's optional state is not in use
    REQUIRED: tl.constexpr,  # states that every parameter has
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,
    EXTRA: tl.constexpr,
    BLOCK: tl.constexpr,
    HINT: tl.constexpr,
    HINT16: tl.constexpr,
):
    """Elements of parameter, gradient, three states and master; a state that the rule does not have is the gradient."""
    i = first + tl.arange(0, BLOCK)
    mask = i < end
    p = tl.load(at(addresses[0], P, HINT16 if P.primitive_bitwidth == 16 else HINT) + i, mask=mask)
    g = tl.load(at(addresses[1], G, HINT16 if G.primitive_bitwidth == 16 else HINT) + i, mask=mask)
    hint: tl.constexpr = HINT16 if S.primitive_bitwidth == 16 else HINT
    state0 = load_state(g, 0, addresses[2], first, end, extra_end, REQUIRED, S, EXTRA, BLOCK, hint)
    state1 = load_state(g, 1, addresses[3], first, end, extra_end, REQUIRED, S, EXTRA, BLOCK, hint)
    state2 = load_state(g, 2, addresses[4], first, end, extra_end, REQUIRED, S, EXTRA, BLOCK, hint)
    return p, g, state0, state1, state2, load_master(p, master, first, end, M, BLOCK, HINT, HINT16)


@triton.jit
def store_state(
    values,
    K: tl.constexpr,  # and the following as in load_state
    address,
    first,
    end,
    extra_end,
    REQUIRED: tl.constexpr,
    S: tl.constexpr,
    EXTRA: tl.constexpr,
    BLOCK: tl.constexpr,
    HINT: tl.constexpr,
):
    """Store a state, if the rule has it."""
    i = first + tl.arange(0, BLOCK)
    if K < REQUIRED:
        tl.store(at(address, S, HINT) + i, narrow(values, S), mask=i < end)
    elif (K == REQUIRED) and EXTRA:
        tl.store(at(address, S, HINT) + i, narrow(values, S), mask=i < extra_end)


@triton.jit
def update_block(
    data,  # from load_block
    addresses,  # and the following as there
    master,
    first,
    end,
    extra_end,
    scalars,
    draw,  # None, or what parameters are rounded by
    scale,
    factor,  # by which gradients are clipped
    COMPUTE: tl.constexpr,  # KernelRule.block
    REQUIRED: tl.constexpr,
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,
    T: tl.constexpr,
    EXTRA: tl.constexpr,
    SCALED: tl.constexpr,
    CLIPPED: tl.constexpr,
    ZEROED: tl.constexpr,
    BLOCK: tl.constexpr,
    HINT: tl.constexpr,
    HINT16: tl.constexpr,
):
    """Compute and store; returns what averages follow."""
    i = first + tl.arange(0, BLOCK)
    mask = i < end
    hint: tl.constexpr = HINT16 if S.primitive_bitwidth == 16 else HINT
    p, g = value_of(data[0], data[5], P, M, T), data[1].to(T)
    if SCALED:
        g = divide(g, scale)
    if SCALED or ZEROED:
        grads = at(addresses[1], G, HINT16 if G.primitive_bitwidth == 16 else HINT) + i
        tl.store(grads, tl.zeros([BLOCK], G) if ZEROED else narrow(g, G), mask=mask)
    if CLIPPED:
        g = g * factor
    p, state0, state1, state2 = COMPUTE(
        scalars, p, g, data[2].to(T), data[3].to(T), data[4].to(T), extra_end > 0, EXTRA
    )
    store_state(state0, 0, addresses[2], first, end, extra_end, REQUIRED, S, EXTRA, BLOCK, hint)
    store_state(state1, 1, addresses[3], first, end, extra_end, REQUIRED, S, EXTRA, BLOCK, hint)
    store_state(state2, 2, addresses[4], first, end, extra_end, REQUIRED, S, EXTRA, BLOCK, hint)
    return store_parameter(p, addresses[0], master, draw, first, end, BLOCK, P, M, HINT, HINT16)


@triton.jit
def average_scalars(row, T: tl.constexpr, BOUND: tl.constexpr):
    """Of an average, as type T: whether it moves by less than a half, and its weight as torch.lerp has it then."""
    share = (1.0 - load_field(row + EMA_DECAY, BOUND)).to(T)
    near = share < 0.5
    return near, tl.where(near, share, share - 1.0)


@triton.jit
def average_block(
    p,  # the parameter's elements
    address,  # int64: of the average, at the chunk's first element
    first,
    end,
    scalars,  # of average_scalars
    A: tl.constexpr,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
    HINT: tl.constexpr,
):
    """Let an average follow; NaN holds nothing yet, and begins with the parameter."""
    near, weight = scalars
    i = first + tl.arange(0, BLOCK)
    pointers = at(address, A, HINT) + i
    a = tl.load(pointers, mask=i < end).to(T)
    p = p.to(T)
    a = tl.where(a != a, p, tl.fma(weight, p - a, tl.where(near, a, p)))
    tl.store(pointers, narrow(a, A), mask=i < end)


@triton.jit
def without_update(
    average,  # int64: of it, of parameter, gradient and master, at the chunk's first element
    param,
    grad,
    master,
    has_grad,
    n,
    skipped,
    scalars,
    P: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    A: tl.constexpr,
    T: tl.constexpr,
    ZEROED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What is done to a chunk that gets no update: averages follow where there is no gradient, gradients are zeroed
    where the step is skipped."""
    if A is not None:
        averaged = tl.where(has_grad | (skipped != 0), 0, n)
        for first in range(0, averaged, BLOCK):
            i = first + tl.arange(0, BLOCK)
            p = tl.load(at(param, P, 0) + i, mask=i < averaged)
            p = value_of(p, load_master(p, master, first, averaged, M, BLOCK, 0, 0), P, M, T)
            average_block(p, average, first, averaged, scalars, A, T, BLOCK, 0)
    if ZEROED:
        zeroed = tl.where(has_grad & (skipped != 0), n, 0)
        for first in range(0, zeroed, BLOCK):
            i = first + tl.arange(0, BLOCK)
            tl.store(at(grad, G, 0) + i, tl.zeros([BLOCK], G), mask=i < zeroed)


@triton.jit
def locate_chunk(
    records,
    grad,  # int64: address of the tensor's gradient
    record,  # int32: position in the table
    unit,  # int32: the chunk's first element, in units of CHUNK_UNIT
    chunk_size,
    REQUIRED: tl.constexpr,
    P: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
):
    """Row of the control block, whether there is an optional state, addresses and number of the chunk's elements."""
    words = records + record.to(tl.int64) * WIDTH
    row, numel, param = tl.load(words + ROW), tl.load(words + NUMEL), tl.load(words + PARAM)
    state0, state1, state2 = tl.load(words + STATE0), tl.load(words + STATE1), tl.load(words + STATE2)
    optional = state0 if REQUIRED == 0 else (state1 if REQUIRED == 1 else state2)
    start = unit.to(tl.int64) * CHUNK_UNIT
    n = tl.minimum(numel - start, chunk_size.to(tl.int64)).to(tl.int32)
    offset = start * (S.primitive_bitwidth // 8)
    addresses = (
        param + start * (P.primitive_bitwidth // 8),
        grad + start * (G.primitive_bitwidth // 8),
        state0 + offset,
        state1 + offset,
        state2 + offset,
    )
    return row, optional != 0, addresses, n


@triton.jit
def take_ticket(control):
    """Whether all other programs have come here before.

    What they have read of the control block comes before what this one writes there, if it is the last.
    """
    tl.debug_barrier()  # the ticket is taken by one thread: all of the program's threads must have read by then
    before = tl.atomic_add(control.to(tl.pointer_type(tl.int64)) + TICKET, 1, sem="acq_rel")
    return before.to(tl.int32) == tl.num_programs(0) - 1  # which is compared after the loops: one register less


@triton.jit
def is_skipped(control, found_inf, GUARDED: tl.constexpr, MEASURED: tl.constexpr):
    """Whether the step changes nothing, int64; ``MEASURED``: the header says so."""
    if MEASURED:
        return tl.load(control.to(tl.pointer_type(tl.int64)) + SKIPPED)
    elif GUARDED:
        return (tl.load(found_inf) != 0.0).to(tl.int64)
    else:
        return tl.full((), 0, tl.int64)


@triton.jit
def finish_step(
    control,
    counts,
    records,
    grads,
    schedules,
    skipped,
    n_records,
    COUNTS: tl.constexpr,
    DRAWS: tl.constexpr,
    BOUND: tl.constexpr,
    ADVANCE: tl.constexpr,
):
    """Count the update, note whether it was ``skipped`` (int64), advance the fused schedules, reset the ticket."""
    # both in one store: the address of the ticket alone would be kept from where the ticket was taken
    word = tl.arange(0, 2)
    header = control.to(tl.pointer_type(tl.int64)) + SKIPPED + (TICKET - SKIPPED) * word
    tl.store(header, tl.where(word == 0, skipped, 0))
    if skipped == 0:
        if DRAWS:
            updates = control.to(tl.pointer_type(tl.int64)) + UPDATES
            tl.store(updates, tl.load(updates) + 1)
        # so many times as many before it waits for memory; more would cost the whole kernel registers
        depth: tl.constexpr = 4 if COUNTS is None else 2
        lanes = tl.arange(0, depth)[:, None] * COUNT_LANES + tl.arange(0, COUNT_LANES)[None, :]
        words = (2 * lanes)[:, :, None] + tl.arange(0, 2)[None, None, :]
        for first in range(0, n_records, depth * COUNT_LANES):
            i = first + lanes
            pairs = tl.multiple_of(grads + 2 * first, 16) + words  # one access for both
            grad, slot = tl.split(tl.load(pairs, mask=(i < n_records)[:, :, None], other=0))
            counted = grad != 0
            if COUNTS is not None:
                row = tl.load(records + i * WIDTH + ROW, mask=counted, other=0)
                counted = counted & COUNTS(control + GROUPS + row * STRIDE, counted, BOUND)
            tl.store(counts + slot, tl.load(counts + slot, mask=counted) + 1, mask=counted)
    if ADVANCE is not None:
        # another thread may still be reading a momentum that a schedule is about to write
        tl.debug_barrier()
        ADVANCE(control, schedules, skipped)


@triton.jit(do_not_specialize=["n_records", "chunk_size"])
def update_kernel(
    control,  # float64: the control block
    counts,  # int64: updates applied, a slot for each parameter
    records,  # int64 (n_records, 16)
    grads,  # int64 (n_records, 2): address of each gradient, 0 for none, and slot of the count
    chunks,  # int32 (programs, 2): record, first element in units of CHUNK_UNIT
    schedules,  # int64: address of each fused schedule's memory
    grad_scale,  # float32 (1), if SCALED
    found_inf,  # float32 (1), if GUARDED
    n_records,
    chunk_size,  # elements
    SCALARS: tl.constexpr,  # and the following as in KernelRule
    COMPUTE: tl.constexpr,
    COUNTS: tl.constexpr,
    REQUIRED: tl.constexpr,
    P: tl.constexpr,  # types of parameter, gradient, state, and the one computed in
    G: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,  # type of the masters; None without
    BY_CHANCE: tl.constexpr,  # parameters are rounded so
    T: tl.constexpr,
    EXTRA: tl.constexpr,  # some parameter has the rule's optional state
    SCALED: tl.constexpr,
    GUARDED: tl.constexpr,
    MEASURED: tl.constexpr,  # norm.py has said whether the step is skipped
    CLIPPED: tl.constexpr,  # and by what gradients are multiplied
    A: tl.constexpr,  # type of the averages; None without
    ZEROED: tl.constexpr,  # zeros are left in gradients
    DRAWS: tl.constexpr,  # the header counts the update
    BOUND: tl.constexpr,  # some field of the control block follows a tensor
    LAST: tl.constexpr,  # this launch ends the step
    ADVANCE: tl.constexpr,  # runs the fused schedules; None without
    BLOCK: tl.constexpr,
    SMALL_BLOCK: tl.constexpr,
    HINT16: tl.constexpr,  # bytes that addresses of 16-bit elements are a multiple of
):
    pid = tl.program_id(0)
    skipped = is_skipped(control, found_inf, GUARDED, MEASURED)
    record = tl.load(chunks + 2 * pid)
    unit = tl.load(chunks + 2 * pid + 1)
    grad = tl.load(grads + 2 * record)
    count = tl.load(counts + tl.load(grads + 2 * record + 1))
    row, has_optional, addresses, n = locate_chunk(records, grad, record, unit, chunk_size, REQUIRED, P, G, S)
    all_n = n
    n = tl.where((grad != 0) & (skipped == 0), n, 0)
    joined = addresses[0] | addresses[1] | addresses[2] | addresses[3] | addresses[4]
    master = tl.full((), 0, tl.int64)
    if M is not None:
        words = records + record.to(tl.int64) * WIDTH
        master = tl.load(words + MASTER) + unit.to(tl.int64) * (CHUNK_UNIT * (M.primitive_bitwidth // 8))
        joined = joined | master
    draw = None
    if BY_CHANCE:
        stream = tl.load(records + record.to(tl.int64) * WIDTH + MASTER)  # there is no master
        draw = draw_of(control, stream, unit.to(tl.int64) * CHUNK_UNIT)
    average = tl.full((), 0, tl.int64)
    if A is not None:
        words = records + record.to(tl.int64) * WIDTH
        average = tl.load(words + AVERAGE) + unit.to(tl.int64) * (CHUNK_UNIT * (A.primitive_bitwidth // 8))
        joined = joined | average
    aligned = (joined & 15) == 0
    wide = tl.multiple_of(tl.where(aligned, (n // 8) * 8, 0), 8)
    # all that is read of the block
    scalars, keeps = SCALARS(control + GROUPS + row * STRIDE, count, has_optional, T, BOUND)
    factor = 1.0
    if CLIPPED:
        factor = tl.load(control + GROUPS + row * STRIDE + CLIP_FACTOR).to(T)
    follow = None
    if A is not None:
        follow = average_scalars(control + GROUPS + row * STRIDE, T, BOUND)
    ends_step = False
    if LAST:
        ends_step = take_ticket(control)  # before the stores, so that it does not wait for them
    scale = 1.0
    if SCALED:
        scale = tl.load(grad_scale).to(T)
    extra_wide = tl.multiple_of(tl.where(keeps, wide, 0), 8)
    extra_n = tl.where(keeps, n, 0)
    for i in range(0, wide, BLOCK):
        data = load_block(addresses, master, i, wide, extra_wide, REQUIRED, P, G, S, M, EXTRA, BLOCK, 16, HINT16)
        p = update_block(
            data, addresses, master, i, wide, extra_wide, scalars, draw, scale, factor,
            COMPUTE, REQUIRED, P, G, S, M, T, EXTRA, SCALED, CLIPPED, ZEROED, BLOCK, 16, HINT16,
        )  # fmt: skip
        if A is not None:
            average_block(p, average, i, wide, follow, A, T, BLOCK, HINT16 if A.primitive_bitwidth == 16 else 16)
    for i in range(wide, n, SMALL_BLOCK):
        data = load_block(addresses, master, i, n, extra_n, REQUIRED, P, G, S, M, EXTRA, SMALL_BLOCK, 0, 0)
        p = update_block(
            data, addresses, master, i, n, extra_n, scalars, draw, scale, factor,
            COMPUTE, REQUIRED, P, G, S, M, T, EXTRA, SCALED, CLIPPED, ZEROED, SMALL_BLOCK, 0, 0,
        )  # fmt: skip
        if A is not None:
            average_block(p, average, i, n, follow, A, T, SMALL_BLOCK, 0)
    if (A is not None) or ZEROED:
        without_update(
            average, addresses[0], addresses[1], master, grad != 0, all_n, skipped, follow,
            P, G, M, A, T, ZEROED, SMALL_BLOCK,
        )  # fmt: skip
    if LAST:  # noqa: SIM102  # decided when the kernel is compiled, the other when it runs
        if ends_step:
            # again: kept, it would cost the loops registers
            skipped = is_skipped(control, found_inf, GUARDED, MEASURED)
            if MEASURED:
                tl.debug_barrier()  # all threads have read what is written next
            finish_step(control, counts, records, grads, schedules, skipped, n_records, COUNTS, DRAWS, BOUND, ADVANCE)


@triton.jit(do_not_specialize=["n_records"])
def finish_kernel(
    control,
    counts,
    records,
    grads,
    schedules,
    found_inf,
    n_records,
    COUNTS: tl.constexpr,
    GUARDED: tl.constexpr,
    MEASURED: tl.constexpr,
    DRAWS: tl.constexpr,
    BOUND: tl.constexpr,
    ADVANCE: tl.constexpr,
):
    """A step in which no tensor has elements; arguments as in :func:`update_kernel`."""
    skipped = is_skipped(control, found_inf, GUARDED, MEASURED)
    if MEASURED:
        tl.debug_barrier()
    finish_step(control, counts, records, grads, schedules, skipped, n_records, COUNTS, DRAWS, BOUND, ADVANCE)


@triton.jit
def advance_kernel(control, schedules, ADVANCE: tl.constexpr):
    """One step of one schedule."""
    skipped = tl.load(control.to(tl.pointer_type(tl.int64)) + SKIPPED)
    ADVANCE(control, schedules, skipped)
