"""Parameters that are listed twice or share memory, and views that are not what their memory says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fused_sched
from identity.lockstep import OPTIONS, RELATIVE, STATEFUL, Lockstep

ONE = [{"params": [0, 1], "lr": 0.1}, {"params": [2], "lr": 0.05, "weight_decay": 0.1}]


@pytest.mark.parametrize("where", ["in one group", "three times", "at construction", "in two groups"])
@pytest.mark.parametrize(("kind", "case"), [*STATEFUL, ("SGD", "plain")])
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_listed_twice_is_updated_twice(kind: str, case: str, where: str, host_backend: str, mirrored: bool) -> None:
    given = [{"params": [0, 0, 1], "lr": 0.1}, *ONE[1:]] if where == "at construction" else ONE
    pair = Lockstep(kind, given, host_backend, **OPTIONS[kind][case])
    if where != "at construction":
        pair.step(2)
    if where == "in one group":
        pair.both(lambda side: side.groups[0]["params"].append(side.params[0]))
    elif where == "three times":
        pair.both(lambda side: side.groups[0]["params"].extend([side.params[0]] * 2))
    elif where == "in two groups":
        pair.both(lambda side: side.groups[1]["params"].insert(0, side.params[0]))
    pair.step(4)
    pair.both(lambda side: side.groups[0]["params"].reverse())
    pair.step(2)
    pair.both(lambda side: side.groups[0].update(params=[side.params[1], side.params[0]]))
    pair.step(2)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_listed_twice_on_every_backend(backend: str) -> None:
    pair = Lockstep("Adam", [{"params": [0, 1, 0]}], backend)
    pair.step(3)
    assert float(pair.ours.state[pair.ours.params[0]]["step"]) == 6


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_group_object_listed_twice(host_backend: str, mirrored: bool) -> None:
    pair = Lockstep("Adam", ONE, host_backend)
    pair.step()
    pair.both(lambda side: side.groups.append(side.groups[0]))
    pair.check()
    pair.both(lambda side: side.groups[2].update(lr=0.025))
    pair.step(3)
    pair.both(lambda side: side.groups.pop(0))
    pair.step(2)


Values = Callable[[], list[Tensor]]


def _overlapping() -> list[Tensor]:
    base = torch.linspace(-1, 1, 100, dtype=torch.float64)
    return [base[:60], base[40:]]


def _the_same_memory() -> list[Tensor]:
    base = torch.linspace(-1, 1, 100, dtype=torch.float64)
    return [base, base.view(10, 10)]


def _interleaved() -> list[Tensor]:
    """No element in two of them, though their ranges of addresses overlap."""
    base = torch.linspace(-1, 1, 100, dtype=torch.float64)
    return [base[::2], base[1::2]]


def _with_gaps_into_another() -> list[Tensor]:
    base = torch.linspace(-1, 1, 100, dtype=torch.float64)
    return [base[::2], base]


def _neighbours() -> list[Tensor]:
    """One flat buffer for all, as is usual."""
    return list(torch.linspace(-1, 1, 99, dtype=torch.float64).split(33))


SHARED: dict[str, Values] = {
    "overlapping": _overlapping,
    "the same memory": _the_same_memory,
    "with gaps into another": _with_gaps_into_another,
}
APART: dict[str, Values] = {"interleaved": _interleaved, "neighbours": _neighbours}


def _run(
    module: Any, kind: str, values: list[Tensor], wrap: Callable[[Tensor], Tensor], **options: Any
) -> list[Tensor]:
    params = [wrap(v) for v in values]
    made = getattr(module, kind)(params, lr=0.1, **options)
    for step in range(3):
        for i, p in enumerate(params):
            p.grad = torch.sin(torch.arange(p.numel(), dtype=torch.float64) + step + i).reshape(p.shape).to(p.dtype)
        made.step()
    return [p.detach().clone() for p in params]


def _torchs(kind: str, values: list[Tensor], wrap: Callable[[Tensor], Tensor], **options: Any) -> list[Tensor]:
    return _run(torch.optim, kind, values, wrap, foreach=False, fused=False, **options)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("how", SHARED)
def test_shared_memory_is_updated_as_in_torch_or_refused(how: str, kind: str, backend: str) -> None:
    try:
        found = _run(fused_sched.optim, kind, SHARED[how](), Parameter, backend=backend)
    except (ValueError, RuntimeError, TypeError) as reason:
        if "memory" not in str(reason) and "storage" not in str(reason):
            raise
        return
    for mine, theirs in zip(found, _torchs(kind, SHARED[how](), Parameter), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=RELATIVE, atol=RELATIVE)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("how", APART)
def test_memory_that_is_not_shared_is_not_refused(how: str, kind: str, backend: str) -> None:
    found = _run(fused_sched.optim, kind, APART[how](), Parameter, backend=backend)
    for mine, theirs in zip(found, _torchs(kind, APART[how](), Parameter), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=RELATIVE, atol=RELATIVE)


def _complex() -> Tensor:
    return torch.linspace(-1, 1, 8, dtype=torch.complex128) * (1 + 0.5j)


VIEWS: dict[str, Callable[[], Tensor]] = {
    "negated": lambda: torch._neg_view(torch.linspace(-1, 1, 8, dtype=torch.float64)),
    "negated in part": lambda: torch._neg_view(torch.linspace(-1, 1, 8, dtype=torch.float64))[::2],
    "conjugated": lambda: _complex().conj(),
    "imaginary part of a conjugated": lambda: _complex().conj().imag,
    "real part of a conjugated": lambda: _complex().conj().real,
    "real part": lambda: _complex().real,
    "imaginary part of a negated": lambda: torch._neg_view(_complex()).imag,
}


@pytest.mark.parametrize(("kind", "case"), [*STATEFUL, ("SGD", "plain")])
@pytest.mark.parametrize("view", VIEWS)
def test_views_move_the_right_way(view: str, kind: str, case: str, host_backend: str) -> None:
    options = OPTIONS[kind][case]

    def leaf(values: Tensor) -> Tensor:
        return values.detach().requires_grad_()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that discard an imaginary part
        try:
            theirs = _torchs(kind, [VIEWS[view]()], leaf, **options)[0]
        except RuntimeError:  # of torch's Adam on a conjugated view: what it does with a copy of the values
            theirs = _torchs(kind, [VIEWS[view]().resolve_conj().clone()], leaf, **options)[0]
        try:
            mine = _run(fused_sched.optim, kind, [VIEWS[view]()], leaf, backend=host_backend, **options)[0]
        except (ValueError, RuntimeError, TypeError) as reason:
            if "view" not in str(reason):
                raise
            return
    torch.testing.assert_close(mine.resolve_neg().resolve_conj(), theirs.resolve_neg().resolve_conj())


@pytest.mark.parametrize("which", ["param", "state", "both"])
def test_negated_state_and_parameters_that_become_views(which: str, host_backend: str, mirrored: bool) -> None:
    """The view comes in the middle of a run, by ``.data`` or as a state."""
    pair = Lockstep("SGD", ONE, host_backend, momentum=0.9)
    pair.step()
    values = pair.draw((3,))

    def act(side: Any) -> None:
        if which != "state":
            side.params[0].data = torch._neg_view(side.on_device(values))
        if which != "param":
            side.state[side.params[0]]["momentum_buffer"] = torch._neg_view(side.on_device(values * 2))

    pair.both(act)
    pair.step(3)
