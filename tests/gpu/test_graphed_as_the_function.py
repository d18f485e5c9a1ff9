"""``graphed`` is its function in what a capture easily gets wrong: gradients, memory, objects that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, Gpu
from torch import Tensor

from fused_sched import Monitor, graphed, lr_scheduler
from fused_sched.optim import SGD

Call = Callable[..., Any]


def t(*values: float) -> Tensor:
    return torch.tensor(values, device=DEVICE)


class Case:
    """Two parameters, and an optimizer of the first; a test's program goes on in it."""

    def __init__(self, backend: Any, enabled: bool) -> None:
        self.p, self.q = (torch.nn.Parameter(t(1.0, 2.0)) for _ in range(2))
        self.backend, self.enabled = backend, enabled
        self.optimizer = self.sgd([self.p])

    def sgd(self, params: list[Tensor], **options: Any) -> SGD:
        return SGD(params, lr=0.1, backend=self.backend, **options)

    def graphed(self, function: Call, *optimizers: Any, **options: Any) -> Any:
        return graphed(function, *(optimizers or [self.optimizer]), enabled=self.enabled, **options)

    def train(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        (self.p * x).sum().backward()
        self.optimizer.step()


def accumulated_with_a_flag(case: Case) -> Any:
    def update(x: Tensor, last: bool) -> None:
        (case.p * x).sum().backward()
        if last:
            case.optimizer.step()
            case.optimizer.zero_grad()

    step = case.graphed(update)
    for i in range(9):
        step(t(1.0, float(i)), i % 3 == 2)
    return case.p, case.p.grad


def gradients_from_before(case: Case) -> Any:
    def update(x: Tensor) -> None:
        (case.p * x).sum().backward()
        case.optimizer.step()
        case.optimizer.zero_grad()

    step = case.graphed(update)
    for i in range(4):
        if i % 2:
            (case.p * 5).sum().backward()
        step(t(1.0, 1.0))
        assert case.p.grad is None
    return case.p


def applied_only(case: Case) -> Any:
    def apply() -> None:
        case.optimizer.step()
        case.optimizer.zero_grad()

    step = case.graphed(apply)
    for i in range(3):
        (case.p * (i + 1)).sum().backward()
        step()
    return case.p, case.p.grad


def a_step_behind(case: Case) -> Any:
    def update(x: Tensor) -> None:
        case.optimizer.step()
        case.optimizer.zero_grad()
        (case.p * x).sum().backward()

    case.p.grad = t(1.0, 0.0)
    step = case.graphed(update)
    for i in range(4):
        step(t(1.0, float(i)))
    return case.p, case.p.grad


def stepped_outside(case: Case) -> Any:
    other = case.sgd([case.q])

    def update(x: Tensor) -> None:
        case.optimizer.zero_grad()
        (case.p * case.q * x).sum().backward()
        case.optimizer.step()

    step, found = case.graphed(update), []
    for i in range(5):
        step(t(1.0, 1.0 + i))
        assert case.q.grad is not None
        found.append(case.q.grad.clone())
        if i % 2:
            other.step()
            other.zero_grad(set_to_none=i == 1)
    return [case.p, case.q, *found]


def fed_back(case: Case) -> Any:
    def update(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        case.optimizer.zero_grad()
        (case.p * (new - old)).sum().backward()
        case.optimizer.step()
        return new + 1, new

    def swap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        case.train(a)
        return b, a

    step = case.graphed(update)
    new, old = t(1.0, 2.0), t(0.0, 0.0)
    for _ in range(4):
        new, old = step(new, old)
    step, a, b = case.graphed(swap), t(1.0, 2.0), t(3.0, 4.0)
    for _ in range(3):
        a, b = step(a, b)
    return case.p, a, b


def data_that_is_set(case: Case) -> Any:
    step = case.graphed(case.train)
    step(t(1.0, 1.0))
    case.p.data = t(10.0, 10.0)
    step(t(1.0, 1.0))
    torch.nn.utils.vector_to_parameters(t(5.0, 6.0), [case.p])
    step(t(1.0, 1.0))
    return case.p


def lists_that_change(case: Case) -> Any:
    optimizer = case.sgd([case.p, case.q])

    def update(x: Tensor) -> None:
        optimizer.zero_grad()
        case.p.grad = case.q.grad = None
        (case.p * x + case.q * x).sum().backward()
        optimizer.step()

    step = case.graphed(update, optimizer)
    step(t(1.0, 1.0))
    optimizer.param_groups[0]["params"].pop()
    step(t(1.0, 1.0))
    optimizer.param_groups[0]["params"].append(case.q)
    step(t(1.0, 1.0))
    return case.p, case.q


def requirements_that_change(case: Case) -> Any:
    optimizer = case.sgd([case.p, case.q])

    def update(x: Tensor) -> None:
        optimizer.zero_grad()
        (case.p * x + case.q * x).sum().backward()
        optimizer.step()

    case.q.requires_grad_(False)
    step = case.graphed(update, optimizer)
    for requires in (False, True, False, True):
        case.q.requires_grad_(requires)
        step(t(1.0, 1.0))
    return case.p, case.q


def another_scheduler(case: Case) -> Any:
    scheduler: Any = lr_scheduler.ExponentialLR(case.optimizer, 0.9)

    def update(x: Tensor) -> None:
        case.train(x)
        scheduler.step()

    step = case.graphed(update)
    step(t(1.0, 1.0))
    scheduler = lr_scheduler.StepLR(case.optimizer, 1, 0.5)
    step(t(1.0, 1.0))
    return case.p, t(scheduler.last_epoch, case.optimizer.param_groups[0]["lr"])


def a_monitor_that_comes_later(case: Case) -> Any:
    step = case.graphed(case.train)
    step(t(1.0, 1.0))
    rows: list[Any] = []
    monitor = Monitor(case.optimizer, 1, rows.extend)
    for _ in range(3):
        step(t(1.0, 1.0))
    monitor.close()
    step(t(1.0, 1.0))
    return case.p, t(len(rows))


def constants(case: Case) -> Any:
    def update(x: Tensor, number: float) -> Tensor:
        case.train(x)
        return torch.full((), number, device=DEVICE).reciprocal()

    step = case.graphed(update)
    found = [step(t(1.0, 1.0), x).clone() for x in (0.0, -0.0, 1, True, 1.0, 0.0)]
    return [case.p, *found]


PROGRAMS = [
    accumulated_with_a_flag,
    gradients_from_before,
    applied_only,
    a_step_behind,
    stepped_outside,
    fed_back,
    data_that_is_set,
    lists_that_change,
    requirements_that_change,
    another_scheduler,
    a_monitor_that_comes_later,
    constants,
]


def values(found: Any) -> list[Any]:
    found = found if isinstance(found, (tuple, list)) else [found]
    return [None if x is None else x.detach().cpu().tolist() for x in found]


@pytest.mark.parametrize("backend", DEFAULTS[:1])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.filterwarnings("ignore:.*was made after a CUDA graph was captured")
def test_it_is_the_function(program: Call, backend: Any, gpu: Gpu) -> None:
    found, expected = (values(program(Case(gpu.backend(backend), enabled))) for enabled in (True, False))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == (None if other is None else pytest.approx(other, rel=1e-6))


def test_not_a_number_is_one_constant(gpu: Gpu) -> None:
    case = Case(gpu.backend(None), enabled=True)
    step = case.graphed(lambda x, _: case.train(x))
    for _ in range(3):
        step(t(1.0, 1.0), float("nan"))
    assert step.captures == 1


class Holder:
    """As a batch of somebody's: an object with tensors in it."""

    x = torch.zeros(2)


def reads_the_lr(case: Case) -> Call:
    return lambda x: case.train(x * case.optimizer.param_groups[0]["lr"])


def reads_the_epoch(case: Case) -> Call:
    scheduler = lr_scheduler.ExponentialLR(case.optimizer, 0.9)

    def update(x: Tensor) -> None:
        if scheduler.last_epoch < 3:
            case.train(x)
        scheduler.step()

    return update


def loads(case: Case) -> Call:
    return lambda x: case.optimizer.load_state_dict(case.optimizer.state_dict()) or case.train(x)


def adds_a_group(case: Case) -> Call:
    return lambda x: case.optimizer.add_param_group({"params": [torch.nn.Parameter(t(1.0))]}) or case.train(x)


def steps_torchs_sgd(case: Case) -> Call:
    other = torch.optim.SGD([case.q], lr=0.1, momentum=0.9, foreach=False)

    def update(x: Tensor) -> None:
        other.zero_grad()
        (case.q * x).sum().backward()
        other.step()
        case.train(x)

    return update


REFUSED = {
    "lr": (reads_the_lr, "read inside a CUDA graph capture"),
    "epoch": (reads_the_epoch, "read inside a CUDA graph capture"),
    "load": (loads, r"load_state_dict\(\) inside a graphed function"),
    "group": (adds_a_group, r"add_param_group\(\) inside a graphed function"),
    "torch's": (steps_torchs_sgd, "torch.optim.sgd.SGD takes its first step inside"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_frozen_is_refused(what: str, gpu: Gpu) -> None:
    case = Case(gpu.backend(None), enabled=True)
    make, words = REFUSED[what]
    step, before = case.graphed(make(case)), case.p.detach().clone()
    with pytest.raises(RuntimeError, match=words):
        step(t(1.0, 1.0))
    assert case.p.tolist() == before.tolist()
    assert case.p.grad is None
    assert case.q.tolist() == [1.0, 2.0]


def test_inputs_that_become_others_are_refused(gpu: Gpu) -> None:
    case = Case(gpu.backend(None), enabled=True)
    step = case.graphed(lambda x, *_: case.train(x))
    x = t(1.0, 1.0)
    step(x)
    with pytest.raises(ValueError, match="argument 0 requires a gradient"):
        step(x.requires_grad_())
    with pytest.raises(TypeError, match="argument 1 is a Holder, of which nobody can tell"):
        step(t(1.0, 1.0), Holder())
