"""Which kernels there are: dtypes and options of one launch, and what is compiled for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from ..memory.parameter_table import dtypes_of, widest_of
from .rules import RULES
from .update import advance_kernel, finish_kernel, update_kernel

WARPS = 4
WARP_SIZE = 32 if torch.version.hip is None else 64
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
    """

    rule: str
    optional_state: bool
    scaled: bool = False
    guarded: bool = False
    last: bool = True
    advance: Any = None
    at_once: bool = True
    bound: bool = False


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
    if most is None or torch.version.hip is not None:
        return None
    return most(widest_of(kind), options)


def update(kind: int, options: Options, warp_size: int = WARP_SIZE, tuning: Tuning = DEFAULT) -> Kernel:
    """The update kernel for one dtype signature."""
    param, grad, state = (_TYPES[dtype] for dtype in dtypes_of(kind))
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
            ("T", tl.float64 if param is tl.float64 else tl.float32),
            ("EXTRA", options.optional_state),
            ("SCALED", options.scaled),
            ("GUARDED", options.guarded),
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
            ("GUARDED", options.guarded),
            ("BOUND", options.bound),
            ("ADVANCE", options.advance),
        ),
    )


def advance(function: Any) -> Kernel:
    """The kernel of ``scheduler.step()``; ``function`` as :func:`advance_function` makes it."""
    return Kernel(advance_kernel, (("control", "*fp64"), ("schedules", "*i64")), (("ADVANCE", function),))
