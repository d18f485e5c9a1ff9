"""Tensors without values, on their own and mixed with real ones: refused clearly, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from platforms import MIRRORED
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from fused_sched.backends.reference import ReferenceBackend
from fused_sched.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR
from fused_sched.optim import SGD, Adam, AdamW

CLASSES: dict[str, Callable[..., Any]] = {
    "SGD": lambda params, **new: SGD(params, lr=0.1, momentum=0.9, **new),
    "Adam": lambda params, **new: Adam(params, lr=0.1, amsgrad=True, **new),
    "AdamW": lambda params, **new: AdamW(params, lr=0.1, **new),
}
BACKENDS = ["cpu", "reference", "mirrored"]


def _backend(name: str) -> Any:
    return ReferenceBackend(MIRRORED) if name == "mirrored" else name


def _param(n: int = 3) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.ones(n))
    p.grad = torch.ones(n)
    return p


def _fake(n: int = 3) -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(n)


def _functional(n: int = 3) -> torch.Tensor:
    made: torch.Tensor = torch._to_functional_tensor(torch.ones(n))
    return made


WITHOUT_VALUES = {"fake": _fake, "functional": _functional}


@contextmanager
def unchanged(optimizer: Any) -> Iterator[None]:
    """What raises inside has changed no parameter, state, group or schedule, and the next step works."""

    def look() -> Any:
        params = [p for g in optimizer.param_groups for p in g["params"]]
        values = [p.detach().clone() for p in params]
        state = [{k: v.clone() for k, v in optimizer.state.get(p, {}).items()} for p in params]
        lrs = [g["lr"] for g in optimizer.param_groups]
        return values, state, lrs, [s.read("last_epoch") for s in optimizer.fused_schedules]

    before = look()
    yield
    after = look()
    assert str(after) == str(before)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    assert str(look()) != str(before)


@pytest.mark.parametrize("kind", WITHOUT_VALUES)
@pytest.mark.parametrize("name", CLASSES)
def test_a_parameter_without_values_is_refused_at_construction(name: str, kind: str) -> None:
    p = torch.nn.Parameter(WITHOUT_VALUES[kind]())
    with pytest.raises(TypeError, match="without values: make the optimizer of parameters made outside"):
        CLASSES[name]([p])
    with pytest.raises(TypeError, match="without values"):
        CLASSES[name]([_param(), p])


@pytest.mark.parametrize("name", CLASSES)
def test_all_of_it_inside_the_mode_is_refused(name: str) -> None:
    with FakeTensorMode(), pytest.raises(TypeError, match="without values"):
        CLASSES[name]([_param()])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CLASSES)
def test_real_parameters_inside_the_mode_are_refused(name: str, backend: str) -> None:
    p = _param()
    with FakeTensorMode(), pytest.raises(TypeError, match="make optimizers and schedulers outside"):
        CLASSES[name]([p], backend=_backend(backend))
    CLASSES[name]([p], backend=_backend(backend)).step()


@pytest.mark.parametrize("stepped", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_step_inside_the_mode_is_refused(name: str, backend: str, stepped: bool) -> None:
    optimizer = CLASSES[name]([_param()], backend=_backend(backend))
    StepLR(optimizer, 1, fused=True)
    if stepped:
        optimizer.step()
    with unchanged(optimizer), FakeTensorMode(), pytest.raises(TypeError, match="inside FakeTensorMode"):
        optimizer.step()


@pytest.mark.parametrize("stepped", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", WITHOUT_VALUES)
@pytest.mark.parametrize("name", CLASSES)
def test_a_gradient_without_values_is_refused(name: str, kind: str, backend: str, stepped: bool) -> None:
    first, second = _param(), _param()
    optimizer = CLASSES[name]([first, second], backend=_backend(backend))
    StepLR(optimizer, 1, fused=True)
    if stepped:
        optimizer.step()
    with unchanged(optimizer):
        second.grad = WITHOUT_VALUES[kind]()
        with pytest.raises(TypeError, match="a gradient is a .* without values in memory, but an update needs them"):
            optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_wraps_others_is_refused(backend: str) -> None:
    p = _param()
    optimizer = SGD([p], lr=0.1, backend=_backend(backend))
    with unchanged(optimizer):
        p.grad = TwoTensor(torch.ones(3), torch.ones(3))
        with pytest.raises(TypeError, match="a gradient is a TwoTensor on cpu without values in memory"):
            optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_without_values_of_a_parameter_that_is_staged(backend: str) -> None:
    p = torch.nn.Parameter(torch.ones(4, 4)[:, ::2])
    p.grad = torch.ones(4, 2)
    optimizer = SGD([p], lr=0.1, backend=_backend(backend))
    optimizer.step()
    with unchanged(optimizer):
        with FakeTensorMode():
            p.grad = torch.ones(4, 2)
        with pytest.raises(TypeError, match="a gradient is a FakeTensor"):
            optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ["grad_scale", "found_inf"])
def test_a_scalar_of_gradscaler_without_a_value_is_refused(key: str, backend: str) -> None:
    optimizer = SGD([_param()], lr=0.1, backend=_backend(backend))
    with unchanged(optimizer):
        setattr(optimizer, key, _fake(1))
        with pytest.raises(TypeError, match=f"{key} is a FakeTensor"):
            optimizer.step()
        delattr(optimizer, key)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_without_values_is_refused(backend: str) -> None:
    p = _param()
    optimizer = SGD([p], lr=0.1, momentum=0.9, backend=_backend(backend))
    optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"]
    optimizer.state[p]["momentum_buffer"] = _fake()
    before = p.detach().clone()
    with pytest.raises(TypeError, match="momentum_buffer.* is a FakeTensor"):
        optimizer.step()
    assert torch.equal(p, before)
    optimizer.state[p]["momentum_buffer"] = buffer
    optimizer.step()


def test_a_state_dict_without_values_is_refused_as_a_whole() -> None:
    p = _param()
    optimizer = AdamW([p], lr=0.1)
    optimizer.step()
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.7
    state["state"][0]["exp_avg_sq"] = _fake()
    with unchanged(optimizer), pytest.raises(TypeError, match="exp_avg_sq.* is a FakeTensor"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_lr_without_a_value_changes_nothing(backend: str) -> None:
    optimizer = SGD([_param()], lr=0.1, backend=_backend(backend))
    with unchanged(optimizer), pytest.raises(TypeError, match="lr=FakeTensor.* must be a number"):
        optimizer.param_groups[0]["lr"] = _fake(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scheduler_made_inside_the_mode_is_refused(backend: str) -> None:
    optimizer = SGD([_param()], lr=0.1, backend=_backend(backend))
    for kind, argument in ((CosineAnnealingLR, 10), (LambdaLR, lambda step: 0.5)):
        refused = pytest.raises(TypeError, match=f"{kind.__name__} was called inside FakeTensorMode")
        with unchanged(optimizer), FakeTensorMode(), refused:
            kind(optimizer, argument)


def test_a_scheduler_steps_inside_the_mode_as_torchs_does() -> None:
    optimizer = SGD([_param()], lr=0.1)
    scheduler = StepLR(optimizer, 1, 0.5)
    optimizer.step()
    with FakeTensorMode():
        scheduler.step()
    assert scheduler.get_last_lr() == [0.05]


def test_parameters_on_the_meta_device_are_refused_at_construction() -> None:
    p = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises(TypeError, match="on the meta device: materialise the model"):
        SGD([p], lr=0.1)


def test_empty_parameters_have_no_address_and_are_real() -> None:
    p = _param(0)
    optimizer = AdamW([p, _param()], lr=0.1)
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_memory_of_a_parameter_that_was_freed_is_not_written_to() -> None:
    p = _param()
    optimizer = SGD([p], lr=0.1)
    optimizer.step()
    p.untyped_storage().resize_(0)  # as FSDP does between uses
    with pytest.raises(TypeError, match="a parameter is a Parameter on cpu without values"):
        optimizer.step()
