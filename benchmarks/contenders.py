"""Who takes part, how each is built, and the gate it has to pass before it is timed.

A contender builds an optimizer and a cosine schedule over given tensors. One that is captured says what goes into
the graph and what the host does after each replay. Its step is right, or it gets no time: :func:`enter`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from device import Captured, Host
from harness import Call, reason
from problems import (
    AVERAGE_TOLERANCE,
    EPS,
    ETA_MIN,
    GATE_STEPS,
    MOMENTUM,
    PERIOD,
    SCALES,
    TOLERANCE,
    WEIGHT_DECAY,
    Oracle,
    Tensors,
)

import fused_sched

WARM_UP = 3
OURS = "fused_sched"


class Absent(Exception):
    """A contender that cannot take part; says why."""


@dataclass
class Built:
    """What a contender made of the tensors.

    Attributes:
        step: one step, with its schedule.
        inside: what a graph holds; None: nothing is captured.
        outside: what the host does after each replay.
        more: figures for the row, such as seconds of compilation.
        optimizer: for whoever needs to look inside.
        scales: of the gradients in the steps of the gate.
        averages: gives those that the step keeps, in the order of the parameters; None: it keeps none.
        writes: it writes to the gradients.
        zeroes: it leaves zeros in them.
    """

    step: Call
    inside: Call | None = None
    outside: Call | None = None
    more: dict[str, Any] = field(default_factory=dict)
    optimizer: Any = None
    scales: Sequence[float] = SCALES
    averages: Callable[[], list[torch.Tensor]] | None = None
    writes: bool = False
    zeroes: bool = False


@dataclass(frozen=True)
class Contender:
    """A name and how to build it; ``build`` raises :class:`Absent` where it cannot take part."""

    name: str
    build: Callable[[Tensors, Host], Built]


@dataclass
class Entered:
    """A contender that passed the gate."""

    step: Call
    built: Built
    graph: Captured | None
    first_us: float  # its first step, with everything that is compiled and prepared
    error: float  # as :meth:`Oracle.error`
    peak_bytes: int | None  # most memory beside parameters and gradients
    average_error: float | None = None  # as :meth:`Oracle.average_error`


def enter(contender: Contender, tensors: Tensors, oracle: Oracle, device: Host) -> Entered:
    """Build a contender, let it take the steps of the gate, and compare.

    Raises:
        Absent: it cannot take part, it failed, or its result is wrong.
    """
    tensors.reset()
    device.release()
    device.forget_peak()
    before = device.allocated()
    try:
        with device.side_stream():
            start = time.perf_counter()
            built = contender.build(tensors, device)
            scales = iter(built.scales)
            for i in range(WARM_UP):
                _with_gradients(tensors, next(scales), built, built.step)
                if i == 0:
                    device.synchronize()
                    first_us = (time.perf_counter() - start) * 1e6
        graph, step = None, built.step
        if built.inside is not None:
            graph = device.captured(built.inside)  # type: ignore[attr-defined]
            step = graph.replay if built.outside is None else _both(graph.replay, built.outside)
        for _ in range(GATE_STEPS - WARM_UP):
            _with_gradients(tensors, next(scales), built, step)
        device.synchronize()
        peak = device.peak()
        error = oracle.error()
        average_error = None if built.averages is None else oracle.average_error(built.averages())
    except Absent:
        raise
    except Exception as failure:  # another library's failure is a result, not the end of the benchmark
        raise Absent(f"failed: {reason(failure)}") from failure
    recipe = tensors.problem.recipe
    _check(error, TOLERANCE[recipe], "an element")
    if average_error is not None:
        _check(average_error, AVERAGE_TOLERANCE[recipe], "an average")
    used = None if peak is None or before is None else peak - before
    return Entered(step, built, graph, first_us, error, used, average_error)


def _check(error: float, tolerance: float, what: str) -> None:
    if not error <= tolerance:
        raise Absent(f"wrong result: off by {error:.2g} of the way {what} goes, {tolerance:g} allowed")


def _with_gradients(tensors: Tensors, scale: float, built: Built, step: Call) -> None:
    tensors.scale_gradients(scale)
    step()
    if built.zeroes and not tensors.gradients_are_zeros():
        raise Absent("wrong result: it leaves other gradients than zeros")
    tensors.unscale_gradients(scale)


def _both(first: Call, second: Call) -> Call:
    def step() -> None:
        first()
        second()

    return step


def enter_all(
    contenders: Iterable[Contender], tensors: Tensors, device: Host, oracle: Oracle | None = None
) -> tuple[dict[str, Entered], dict[str, str]]:
    """Those that passed, and why the others did not, which is printed too; ``oracle``: of other steps than usual."""
    oracle, entered, absent = oracle or Oracle(tensors), {}, {}
    for contender in contenders:
        try:
            entered[contender.name] = enter(contender, tensors, oracle, device)
        except Absent as why:
            absent[contender.name] = str(why)
            print(f"  no row for {contender.name}: {why}", flush=True)
    return entered, absent


# -- what contenders share ---------------------------------------------------------------------------


def prefill(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give the optimizer states of the recipe's dtype, where that is not the parameters' own."""
    problem = tensors.problem
    param, state = problem.dtypes
    if state == param:
        return
    if problem.rule == "SGD momentum":
        raise Absent("not supported: SGD with states of another dtype")
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if problem.rule == "AdamW amsgrad" else [])]
    steps_with_states = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for p in tensors.params:
        step = torch.zeros((), device=p.device if steps_with_states else "cpu")
        optimizer.state[p] = {"step": step} | {name: torch.zeros_like(p, dtype=state) for name in names}


def make_optimizer(library: Any, tensors: Tensors, tensor_lr: bool = False, **options: Any) -> Any:
    """AdamW or SGD of ``library`` (``torch.optim`` or ``fused_sched.optim``) for the tensors' problem."""
    problem = tensors.problem
    groups = tensors.groups(tensor_lr)
    if problem.rule == "SGD momentum":
        options.pop("capturable", None)
        made = library.SGD(groups, momentum=MOMENTUM, **options)
    else:
        amsgrad = problem.rule == "AdamW amsgrad"
        made = library.AdamW(
            groups, betas=problem.betas, eps=EPS, weight_decay=WEIGHT_DECAY, amsgrad=amsgrad, **options
        )
    prefill(made, tensors)
    return made


def stock_cosine(optimizer: torch.optim.Optimizer) -> Any:
    """torch's scheduler, on the host."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=PERIOD, eta_min=ETA_MIN)


def eager(optimizer: torch.optim.Optimizer, scheduler: Any, **more: Any) -> Built:
    """Steps of both, one after the other."""
    return Built(_both(optimizer.step, scheduler.step), more=more, optimizer=optimizer)


def in_graph(built: Built, inside: Call, outside: Call | None = None) -> Built:
    """``built``, captured: ``inside`` in the graph, ``outside`` after each replay."""
    built.inside, built.outside = inside, outside
    return built


# -- ours --------------------------------------------------------------------------------------------


def ours(name: str = OURS, backend: str | None = None, captured: bool = False, **options: Any) -> Contender:
    """``backend``: None for the one that is chosen without asking; ``options``: further keywords of the optimizer."""

    def build(tensors: Tensors, device: Host) -> Built:
        chosen = backend
        if device.dry and chosen is None:
            chosen = "triton"
        if chosen is not None and fused_sched.backends.reason_unavailable(chosen) is not None:
            raise Absent(f"not available: {fused_sched.backends.reason_unavailable(chosen)}".splitlines()[0][:160])
        if device.dry and chosen == "cuda":
            raise Absent("not available: a dry run has no GPU")
        optimizer = make_optimizer(fused_sched.optim, tensors, backend=chosen, **options)
        if tensors.problem.dtypes not in _kinds():
            raise Absent("not supported: states would not stay in this dtype")
        scheduler = fused_sched.lr_scheduler.CosineAnnealingLR(optimizer, T_max=PERIOD, eta_min=ETA_MIN, fused=True)
        built = eager(optimizer, scheduler)
        return in_graph(built, built.step) if captured else built

    return Contender(name, build)


def _kinds() -> set[tuple[torch.dtype, torch.dtype]]:
    return {(param, state) for param, grad, state in fused_sched.memory.parameter_table.KINDS if param == grad}


# -- torch, step by step -----------------------------------------------------------------------------


def torch_eager(name: str, **options: Any) -> Contender:
    """torch's class with a float lr and torch's scheduler: how nearly everyone trains."""

    def build(tensors: Tensors, device: Host) -> Built:
        optimizer = make_optimizer(torch.optim, tensors, **options)
        return eager(optimizer, stock_cosine(optimizer))

    return Contender(name, build)


FOR_LOOP = {"foreach": False, "fused": False}
FOREACH = {"foreach": True}
FUSED = {"fused": True}


def torch_compiled(name: str, captured: bool = False) -> Contender:
    """``torch.compile(optimizer.step)`` with a tensor lr, which torch's scheduler fills."""

    def build(tensors: Tensors, device: Host) -> Built:
        if tensors.problem.recipe not in ("float32", "bfloat16"):
            raise Absent("not tried: states of another dtype")
        torch._dynamo.reset()
        optimizer = make_optimizer(torch.optim, tensors, tensor_lr=True)
        scheduler = stock_cosine(optimizer)
        step = torch.compile(optimizer.step)
        built = Built(_both(step, scheduler.step), optimizer=optimizer)

        def first() -> None:  # the second step is compiled once more, now that there are states
            start = time.perf_counter()
            step()
            device.synchronize()
            built.more["compile_s"] = built.more.get("compile_s", 0.0) + time.perf_counter() - start
            scheduler.step()
            if built.more.setdefault("compiled_steps", 0) == 1:
                built.step = _both(step, scheduler.step)
            built.more["compiled_steps"] += 1

        built.step = first
        return in_graph(built, step, scheduler.step) if captured else built

    return Contender(name, build)
