"""Parameters, gradients and states in every kind of memory, against torch's for-loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizer_twins import GRAD_LAYOUTS, PARAM_LAYOUTS, Twins, assert_close, assert_same, generator, normal
from torch import Tensor

import fused_sched

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {},
}
SHAPE = (3, 5, 4, 2)  # four dimensions, for channels_last

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.mark.thin("triton", "reference")
@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("param_layout", PARAM_LAYOUTS)
def test_layouts(param_layout: str, dtype: torch.dtype, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    for grad_layout in GRAD_LAYOUTS.values():
        values = [normal(g, SHAPE, dtype), normal(g, SHAPE, dtype)]
        twins = Twins(name, [values], backend, PARAM_LAYOUTS[param_layout], **OPTIMIZERS[name])
        strides = [p.stride() for p in twins.our_params]
        for _ in range(2):
            twins.set_grads(twins.random_grads(g), grad_layout)
            twins.step()
        assert_same(twins)
        assert [p.stride() for p in twins.our_params] == strides


@every_optimizer
def test_elements_between_those_of_a_sliced_parameter_are_not_touched(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    whole = normal(g, (6, 8))
    before = whole.clone()
    part = whole[1:5, 2:6].detach().requires_grad_()
    part.grad = normal(g, (4, 4))
    getattr(fused_sched.optim, name)([part], backend=backend, **OPTIMIZERS[name]).step()
    changed = whole != before
    assert changed[1:5, 2:6].all()
    changed[1:5, 2:6] = False
    assert not changed.any()


@every_optimizer
def test_gradient_layout_changes_from_step_to_step(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    for param_layout in ("contiguous", "transposed", "with gaps"):
        twins = Twins(name, [[normal(g, SHAPE)]], backend, PARAM_LAYOUTS[param_layout], **OPTIMIZERS[name])
        for grad_layout in ["contiguous", "transposed", "contiguous", "with gaps", "expanded", "channels_last"]:
            twins.set_grads(twins.random_grads(g), GRAD_LAYOUTS[grad_layout])
            twins.step()
            assert_same(twins)


@every_optimizer
def test_parameter_data_moves_and_changes_layout(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, SHAPE), normal(g, 7)]], backend, **OPTIMIZERS[name])
    for layout in ["contiguous", "contiguous", "transposed", "with gaps", "channels_last", "one element off"]:
        for p in twins.our_params[:1] + twins.torch_params[:1]:
            p.data = PARAM_LAYOUTS[layout](p.detach())
        twins.set_grads(twins.random_grads(g))
        twins.step()
        assert_same(twins)
        twins.run(g, 1)
        assert_same(twins)


@every_optimizer
def test_staged_parameter_gets_other_memory(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    gaps = PARAM_LAYOUTS["with gaps"]
    twins = Twins(name, [[normal(g, SHAPE)]], backend, gaps, **OPTIMIZERS[name])
    twins.run(g, 1)
    for p in twins.our_params + twins.torch_params:
        p.data = gaps(p.detach() * 2)
    twins.run(g, 2)
    assert_same(twins)


def _negative_view(values: Tensor) -> Tensor:
    """A real tensor with the lazy negation bit."""
    view = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert view.is_neg()
    return view


def _conjugate_view(values: Tensor) -> Tensor:
    view = values.conj().resolve_conj().conj()
    assert view.is_conj()
    return view


@every_optimizer
@pytest.mark.parametrize("first", ["plain", "lazy"])
def test_lazily_negated_gradient(first: str, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    # stride 1, so that only the negation bit sets it apart from a plain gradient
    twins = Twins(name, [[normal(g, (4, 1)), normal(g, (4, 1))]], backend, **OPTIMIZERS[name])
    for lazy in [first == "lazy", True, False, True]:
        grads = twins.random_grads(g)
        twins.set_grads(grads, _negative_view if lazy else GRAD_LAYOUTS["contiguous"])
        twins.step()
        assert_same(twins)


@every_optimizer
def test_lazily_conjugated_gradient(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, 9, torch.complex64)]], backend, **OPTIMIZERS[name])
    for _ in range(3):
        grads = twins.random_grads(g)
        twins.set_grads(grads)  # torch's Adam raises on an unresolved conjugate
        twins.our_params[0].grad = _conjugate_view(grads[0])
        twins.step()
        assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("layout", PARAM_LAYOUTS)
def test_state_tensor_of_another_layout(layout: str, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, SHAPE)]], backend, **OPTIMIZERS[name])
    twins.run(g, 1)
    for p, optimizer in ((twins.our_params[0], twins.ours), (twins.torch_params[0], twins.torchs)):
        state = optimizer.state[p]
        for key in [k for k in state if k != "step"]:
            state[key] = PARAM_LAYOUTS[layout](state[key])
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_matrices_of_one_row_and_of_one_column(name: str, backend: str, seed: int) -> None:
    """Strides of dimensions of size 1 mean nothing, whatever they are."""
    g = generator(seed)
    twins = Twins(name, [[normal(g, (1, 6)), normal(g, (6, 1)), normal(g, (1, 1)), normal(g, ())]], backend)
    for _ in range(3):
        grads = twins.random_grads(g)
        for params in (twins.our_params, twins.torch_params):
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad.clone() if grad.dim() == 0 else grad.mT.clone().mT
        twins.step()
        assert_same(twins)


def test_distance_sees_one_wrong_element() -> None:
    expected = torch.ones(1000)
    actual = expected.clone()
    actual[999] += 1e-4
    with pytest.raises(AssertionError):
        assert_close(actual, expected)
