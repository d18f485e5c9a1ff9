"""Which kernels there are: dtypes and options of one launch, and what is compiled for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from ..memory.parameter_table import average_of, dtypes_of, is_rounded_by_chance, master_of, widest_of
from ..step_options import SpikeRule
from .norm import norm_kernel
from .rules import RULES
from .update import advance_kernel, finish_kernel, update_kernel

WARPS = 4
WARP_SIZE = 32 if torch.version.hip is None else 64
_MASTERS = {None: None, torch.float32: tl.float32, torch.int16: tl.int16}
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Kernel:
    """A kernel to compile: ``function`` with these types of arguments and these constants."""

    function: Any
    signature: tuple[tuple[str, str], ...]  # argument, type as Triton writes it
    constants: tuple[tuple[str, Any], ...]
    warps: int = WARPS
    registers: int | None = None  # at most so many a thread; None lets the compiler choose


@dataclass(frozen=True)
class Tuning:
    """Choices that change the speed of an update kernel and no result.

    Attributes:
        warps: of a program.
        registers: at most so many a thread; None: as :func:`most_registers` says.
    """

    warps: int = WARPS
    registers: int | None = None


DEFAULT = Tuning()
# Enough programs that the processor always has loads to wait for; what the last one does may be spilled.
NORM_REGISTERS = 48
FOR_AN_AVERAGE = 16  # registers, without which it would be spilled
FOR_A_MASTER = {2: 16, 4: 8}  # likewise, by bytes of the widest type


@dataclass(frozen=True)
class Options:
    """What an update kernel is specialised for, besides dtypes; hyperparameters are not among it.

    Attributes:
        rule: name of it, in :data:`RULES`.
        optional_state: some parameter has the rule's optional state.
        scaled, guarded: a ``grad_scale``, a ``found_inf`` is given.
        last: the launch ends the step.
        advance: jitted function that runs the fused schedules, or None.
        at_once: all programs of the launch can run at the same time.
        bound: some field of the control block follows a tensor.
        measured, clipped, zeroes, draws: as in :class:`Update`.
    """

    rule: str
    optional_state: bool
    scaled: bool = False
    guarded: bool = False
    last: bool = True
    advance: Any = None
    at_once: bool = True
    bound: bool = False
    measured: bool = False
    clipped: bool = False
    zeroes: bool = False
    draws: bool = False


def block_shape(kind: int, warps: int = WARPS, warp_size: int = WARP_SIZE) -> tuple[int, int, int]:
    """(block, small block, hint for 16-bit elements) of a kind.

    A thread of the aligned path handles 16 bytes of the widest type at a time. Beside wider types,
    16-bit arrays are accessed by 8 bytes, so that no layout has to be converted in shared memory.
    """
    widest = widest_of(kind)
    threads = warps * warp_size
    return threads * 16 // widest, threads, 16 if widest == 2 else 8


def most_registers(kind: int, options: Options) -> int | None:
    """The most registers a thread may have; None: what the compiler takes by itself is right."""
    most = RULES[options.rule].most_registers
    if most is None or torch.version.hip is not None or is_rounded_by_chance(kind):
        return None
    registers = most(widest_of(kind), options)
    if registers is None:
        return None
    averaged = FOR_AN_AVERAGE if average_of(kind) is not None else 0
    return registers + averaged + (FOR_A_MASTER[widest_of(kind)] if master_of(kind) is not None else 0)


def update(kind: int, options: Options, warp_size: int = WARP_SIZE, tuning: Tuning = DEFAULT) -> Kernel:
    """The update kernel for one dtype signature."""
    param, grad, state = (_TYPES[dtype] for dtype in dtypes_of(kind))
    average, master = average_of(kind), master_of(kind)
    block, small_block, hint16 = block_shape(kind, tuning.warps, warp_size)
    rule = RULES[options.rule]
    return Kernel(
        update_kernel,
        (
            ("control", "*fp64"),
            ("counts", "*i64"),
            ("records", "*i64"),
            ("grads", "*i64"),
            ("chunks", "*i32"),
            ("schedules", "*i64"),
            ("grad_scale", "*fp32"),
            ("found_inf", "*fp32"),
            ("n_records", "i32"),
            ("chunk_size", "i32"),
        ),
        (
            ("SCALARS", rule.scalars),
            ("COMPUTE", rule.block),
            ("COUNTS", rule.counts),
            ("REQUIRED", rule.required),
            ("P", param),
            ("G", grad),
            ("S", state),
            ("M", _MASTERS[master]),
            ("BY_CHANCE", is_rounded_by_chance(kind)),
            ("T", tl.float64 if param is tl.float64 else tl.float32),
            ("EXTRA", options.optional_state),
            ("SCALED", options.scaled),
            ("GUARDED", options.guarded and not options.measured),
            ("MEASURED", options.measured),
            ("CLIPPED", options.clipped),
            ("A", None if average is None else _TYPES[average]),
            ("ZEROED", options.zeroes),
            ("DRAWS", options.draws),
            ("BOUND", options.bound),
            ("LAST", options.last),
            ("ADVANCE", options.advance if options.last else None),
            ("BLOCK", block),
            ("SMALL_BLOCK", small_block),
            ("HINT16", hint16),
        ),
        tuning.warps,
        tuning.registers or (most_registers(kind, options) if tuning.warps == WARPS else None),
    )


def finish(options: Options) -> Kernel:
    """The kernel of a step in which no tensor has elements."""
    return Kernel(
        finish_kernel,
        (
            ("control", "*fp64"),
            ("counts", "*i64"),
            ("records", "*i64"),
            ("grads", "*i64"),
            ("schedules", "*i64"),
            ("found_inf", "*fp32"),
            ("n_records", "i32"),
        ),
        (
            ("COUNTS", RULES[options.rule].counts),
            ("GUARDED", options.guarded and not options.measured),
            ("MEASURED", options.measured),
            ("DRAWS", options.draws),
            ("BOUND", options.bound),
            ("ADVANCE", options.advance),
        ),
    )


@dataclass(frozen=True)
class NormOptions:
    """What a norm kernel is specialised for, besides the gradients' dtype.

    Attributes:
        each: a norm of each group's own gradients.
        scaled, guarded, bound: as in :class:`Options`.
        only_finite: a norm that is not finite skips the step.
        spikes: a larger one than the rule lets expect does, too.
        last: the launch sees what comes of it.
    """

    each: bool
    scaled: bool
    guarded: bool
    only_finite: bool
    spikes: SpikeRule | None
    bound: bool
    last: bool = True


def norm(grad: torch.dtype | None, options: NormOptions, warp_size: int = WARP_SIZE) -> Kernel:
    """The norm kernel for gradients of one dtype; None: for none that have elements."""
    dtype = torch.float32 if grad is None else grad
    rule = options.spikes
    return Kernel(
        norm_kernel,
        (
            ("control", "*fp64"),
            ("records", "*i64"),
            ("grads", "*i64"),
            ("chunks", "*i32"),
            ("sums", "*fp64"),
            ("groups", "*i32"),
            ("norms", "*fp64"),
            ("grad_scale", "*fp32"),
            ("found_inf", "*fp32"),
            ("n_sums", "i32"),
            ("n_groups", "i32"),
            ("chunk_size", "i32"),
        ),
        (
            ("G", _TYPES[dtype]),
            ("T", tl.float64 if dtype == torch.float64 else tl.float32),
            ("EACH", options.each),
            ("SCALED", options.scaled),
            ("GUARDED", options.guarded),
            ("ONLY_FINITE", options.only_finite),
            ("WINDOW", 0 if rule is None else rule.window),
            ("LEAST", 0 if rule is None else rule.least),
            ("DEVIATIONS", 0.0 if rule is None else float(rule.deviations)),
            ("BOUND", options.bound),
            ("LAST", options.last),
            ("EMPTY", grad is None),
            ("BLOCK", WARPS * warp_size * 16 // dtype.itemsize),
            ("SMALL_BLOCK", WARPS * warp_size),
        ),
        registers=None if torch.version.hip is not None else NORM_REGISTERS,
    )


def advance(function: Any) -> Kernel:
    """The kernel of ``scheduler.step()``; ``function`` as :func:`advance_function` makes it."""
    return Kernel(advance_kernel, (("control", "*fp64"), ("schedules", "*i64")), (("ADVANCE", function),))
