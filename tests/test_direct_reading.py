"""The scan reads plain tensors without Python; whatever Python would have seen, it still sees."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import swap_tensors

from fused_sched.optim import SGD, AdamW

_C: Any = pytest.importorskip("fused_sched._C")

SIZE = 3  # of one element, the scan asks Python whether it is a negative view


def _params(n: int = 20) -> list[torch.nn.Parameter]:
    """More than the scan fetches ahead."""
    made = [torch.nn.Parameter(torch.zeros(SIZE)) for _ in range(n)]
    for p in made:
        p.grad = torch.ones(SIZE)
    return made


def _started(n: int = 20) -> tuple[list[torch.nn.Parameter], SGD]:
    """After a step in which every element lost 1."""
    params = _params(n)
    optimizer = SGD(params, lr=1.0, backend="cpu")
    optimizer.step()
    return params, optimizer


def _values(params: list[torch.nn.Parameter]) -> list[float]:
    assert all(bool((p == p.flatten()[0]).all()) for p in params)
    return [float(p.detach().flatten()[0]) for p in params]


def test_it_is_what_runs() -> None:
    assert _C.reads_directly()


class Asked(TorchFunctionMode):
    """Counts gradients that are asked for."""

    gradients = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.gradients += function == torch.Tensor.grad.__get__  # type: ignore[attr-defined]
        return function(*args, **(kwargs or {}))


def test_a_mode_is_asked() -> None:
    params, optimizer = _started()
    with Asked() as mode:
        assert not _C.reads_directly()
        optimizer.step()
    assert mode.gradients == 20
    assert _C.reads_directly()
    assert _values(params) == [-2.0] * 20


@pytest.mark.parametrize("owner", [torch.Tensor, torch.nn.Parameter])
def test_another_grad_in_a_class_is_asked(owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = _started()
    other = torch.full((SIZE,), 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "grad", property(lambda p: other), raising=False)
        assert not _C.reads_directly()
        optimizer.step()
    assert _C.reads_directly()
    assert _values(params) == [-6.0] * 20
    optimizer.step()
    assert _values(params) == [-7.0] * 20


def test_another_way_to_attributes_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = _started()
    other = torch.full((SIZE,), 5.0)

    def look_up(p: Any, name: str) -> Any:
        return other if name == "grad" else object.__getattribute__(p, name)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Parameter, "__getattribute__", look_up, raising=False)
        assert not _C.reads_directly()
        optimizer.step()
    assert _values(params) == [-6.0] * 20


@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_swapped_tensor(place: int) -> None:
    """The object stays, and what is in it is another's."""
    params, optimizer = _started()
    other = torch.nn.Parameter(torch.full((SIZE,), 100.0))
    other.grad = torch.full((SIZE,), 2.0)
    swap_tensors(params[place], other)
    optimizer.step()
    expected = [-2.0] * 20
    expected[place] = 98.0
    assert _values(params) == expected
    assert _values([other]) == [-1.0]


@pytest.mark.parametrize("place", [0, 7, 19])
@pytest.mark.parametrize("what", ["data", "set_", "grad.data", "grad.set_", "untyped_storage"])
def test_another_memory(what: str, place: int) -> None:
    params, optimizer = _started()
    p = params[place]
    assert p.grad is not None
    new = torch.full((SIZE,), 10.0)
    with torch.no_grad():
        if what == "data":
            p.data = new
        elif what == "set_":
            p.set_(new)  # type: ignore[call-overload]
        elif what == "grad.data":
            p.grad.data = new
        elif what == "grad.set_":
            p.grad.set_(new)  # type: ignore[call-overload]
        else:
            p.grad.untyped_storage().resize_(4096)
            p.grad.fill_(10.0)
    optimizer.step()
    expected = [-2.0] * 20
    expected[place] = 9.0 if what in ("data", "set_") else -11.0
    assert _values(params) == expected


@pytest.mark.parametrize("place", [0, 7, 19])
def test_gradients_come_and_go(place: int) -> None:
    params, optimizer = _started()
    params[place].grad = None
    optimizer.step()
    expected = [-2.0] * 20
    expected[place] = -1.0
    assert _values(params) == expected
    params[place].grad = torch.ones(SIZE)
    optimizer.step()
    assert _values(params) == [v - 1 for v in expected]


class Told(torch.Tensor):
    """A subclass of torch's own kind, whose operations are those of Tensor."""


def _odd(kind: str) -> torch.Tensor:
    if kind == "strided":
        return torch.ones(2 * SIZE)[::2]
    if kind == "double":
        return torch.ones(SIZE, dtype=torch.float64)
    if kind == "negative":
        return torch.full((SIZE,), 1j, dtype=torch.complex64).conj().imag
    if kind == "subclass":
        return torch.ones(SIZE).as_subclass(Told)
    if kind == "inference":
        with torch.inference_mode():
            return torch.ones(SIZE)
    return torch._lazy_clone(torch.ones(SIZE))


@pytest.mark.parametrize("kind", ["strided", "double", "negative", "subclass", "inference", "lazy"])
def test_gradients_of_other_kinds(kind: str) -> None:
    params, optimizer = _started()
    twin = torch.nn.Parameter(torch.full((SIZE,), -1.0))
    for p in (params[7], twin):
        p.grad = None
        if kind == "double":
            p.grad_dtype = torch.float64
        p.grad = _odd(kind)
    torch.optim.SGD([twin], lr=1.0).step()
    optimizer.step()
    assert _values([params[7]]) == _values([twin])
    assert _values(params[:7] + params[8:]) == [-2.0] * 19


def test_a_sparse_gradient_is_refused() -> None:
    params = _params()
    optimizer = AdamW(params, backend="cpu")
    optimizer.step()
    params[7].grad = None
    params[7].grad = torch.ones(SIZE).to_sparse()
    with pytest.raises(RuntimeError, match="dense"):
        optimizer.step()


def test_torch_warns_of_a_parameter_that_is_a_result() -> None:
    params, optimizer = _started(3)
    factor = torch.ones(SIZE, requires_grad=True)
    params[1].grad = None
    params[1].requires_grad_(False)
    params[1].mul_(factor)
    assert not params[1].is_leaf
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
    assert any("not a leaf" in str(w.message) for w in caught)


def test_counts_of_those_that_share_a_step() -> None:
    """A parameter without a gradient is not counted, one without elements is."""
    params = _params()
    empty = torch.nn.Parameter(torch.zeros(0))
    optimizer = AdamW([*params, empty], backend="cpu")
    empty.grad = torch.zeros(0)
    optimizer.step()
    params[3].grad = None
    optimizer.step()
    steps = [int(optimizer.state[p]["step"]) for p in (*params, empty)]
    assert steps == [2, 2, 2, 1] + [2] * 17
