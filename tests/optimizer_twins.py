"""The same parameters twice: one set driven by fused_sched, the other by torch's own for-loop.

Also the memory layouts and option sets that the optimizer tests run over.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import tolerances
import torch
from torch import Tensor

import fused_sched
from fused_sched.backends import Backend

SGD_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight_decay": {"weight_decay": 0.01},
    "maximize": {"maximize": True},
    "maximize with weight_decay": {"momentum": 0.5, "weight_decay": 0.02, "maximize": True},
    "nesterov, weight_decay, maximize": {"momentum": 0.95, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    "dampening and weight_decay": {"momentum": 0.8, "dampening": 1.0, "weight_decay": 0.3},
    "no learning rate": {"lr": 0.0, "momentum": 0.9},
}
ADAM_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "betas below a half": {"betas": (0.3, 0.4)},  # torch.lerp changes its formula at a weight of 0.5
    "beta1 of a half": {"betas": (0.5, 0.9)},
    "betas of 0": {"betas": (0.0, 0.0)},
    "amsgrad": {"amsgrad": True},
    "weight_decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "maximize": {"maximize": True},
    "large eps": {"eps": 0.1},
    "amsgrad, weight_decay, maximize": {"amsgrad": True, "weight_decay": 0.2, "maximize": True, "betas": (0.8, 0.95)},
    "decoupled, amsgrad, maximize": {
        "amsgrad": True,
        "weight_decay": 0.2,
        "maximize": True,
        "decoupled_weight_decay": True,
    },
}
ADAMW_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.3},
    "no weight_decay": {"weight_decay": 0.0, "maximize": True},
}
OPTIONS = {"SGD": SGD_OPTIONS, "Adam": ADAM_OPTIONS, "AdamW": ADAMW_OPTIONS}
EVERY_VARIANT = [(name, case) for name, cases in OPTIONS.items() for case in cases]
LR = {"SGD": 0.1, "Adam": 0.01, "AdamW": 0.01}


def _contiguous(values: Tensor) -> Tensor:
    return values.clone(memory_format=torch.contiguous_format)


def _one_element_off(values: Tensor) -> Tensor:
    return values.new_empty(values.numel() + 1)[1:].view(values.shape).copy_(values)


def _transposed(values: Tensor) -> Tensor:
    return values.mT.clone(memory_format=torch.contiguous_format).mT


def _channels_last(values: Tensor) -> Tensor:
    return values.clone(memory_format=torch.channels_last)


def _with_gaps(values: Tensor) -> Tensor:
    return values.new_zeros(*values.shape[:-1], 2 * values.shape[-1])[..., ::2].copy_(values)


def _rows_with_gaps(values: Tensor) -> Tensor:
    return values.new_zeros(*values.shape[:-1], values.shape[-1] + 3)[..., 1:-2].copy_(values)


def _expanded(values: Tensor) -> Tensor:
    return values.flatten()[:1].clone().expand(values.shape)


PARAM_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": _contiguous,
    "one element off": _one_element_off,
    "transposed": _transposed,
    "channels_last": _channels_last,
    "with gaps": _with_gaps,
    "rows with gaps": _rows_with_gaps,
}
GRAD_LAYOUTS = {**PARAM_LAYOUTS, "expanded": _expanded}  # torch refuses to update an expanded parameter


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(g: torch.Generator, shape: Sequence[int] | int, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=g, dtype=wide).to(dtype)


class Twins:
    """Ours and torch's optimizer over equal parameters.

    Args:
        name: ``"SGD"``, ``"Adam"`` or ``"AdamW"``.
        values: initial values, one list a param group.
        backend: of our optimizer.
        layout: how the parameters lie in memory.
        group_options: options of each group; default none.
        options: for both constructors.
    """

    def __init__(
        self,
        name: str,
        values: Sequence[Sequence[Tensor]],
        backend: str | Backend | None,
        layout: Callable[[Tensor], Tensor] = _contiguous,
        group_options: Sequence[dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        options = {"lr": LR[name], **options}
        extra = group_options or [{}] * len(values)
        self.our_groups, self.torch_groups = (
            [[layout(v).requires_grad_() for v in group] for group in values] for _ in range(2)
        )
        self.ours = getattr(fused_sched.optim, name)(
            [{"params": p, **e} for p, e in zip(self.our_groups, extra, strict=True)], backend=backend, **options
        )
        self.torchs = getattr(torch.optim, name)(
            [{"params": p, **e} for p, e in zip(self.torch_groups, extra, strict=True)],
            foreach=False,
            fused=False,
            **options,
        )

    @property
    def our_params(self) -> list[Tensor]:
        return [p for group in self.our_groups for p in group]

    @property
    def torch_params(self) -> list[Tensor]:
        return [p for group in self.torch_groups for p in group]

    def set_grads(self, grads: Sequence[Tensor | None], layout: Callable[[Tensor], Tensor] = _contiguous) -> None:
        for params in (self.our_params, self.torch_params):
            for p, g in zip(params, grads, strict=True):
                p.grad = None if g is None else layout(g)

    def random_grads(self, g: torch.Generator, scale: float = 1.0) -> list[Tensor]:
        """Normal; in float16 at least 0.5 in size, since the squares of small ones have no digits there."""
        grads = [normal(g, p.shape, p.dtype) * scale for p in self.our_params]
        return [x + torch.sign(x) * 0.5 if x.dtype == torch.float16 else x for x in grads]

    def step(self) -> None:
        self.ours.step()
        self.torchs.step()

    def run(self, g: torch.Generator, steps: int) -> None:
        for _ in range(steps):
            self.set_grads(self.random_grads(g))
            self.step()

    def states(self) -> list[tuple[str, Tensor, Tensor]]:
        """(key, ours, torch's) of every state tensor; asserts that both have the same ones."""
        ours, torchs = self.ours.state_dict()["state"], self.torchs.state_dict()["state"]
        assert ours.keys() == torchs.keys()
        found = []
        for index in torchs:
            assert ours[index].keys() == torchs[index].keys(), f"state of parameter {index}"
            found += [(key, ours[index][key], torchs[index][key]) for key in torchs[index]]
        return found


def continued(way: str, optimizer: Any, make: Callable[[], Any]) -> Any:
    """An optimizer that goes on where one is, with parameters of its own.

    Args:
        way: ``"deepcopy"``, ``"pickle"`` or ``"state dict"``.
        optimizer: the one.
        make: another optimizer, which takes what is in the state dict.
    """
    if way == "deepcopy":
        return copy.deepcopy(optimizer)
    if way == "pickle":
        return pickle.loads(pickle.dumps(optimizer))
    other = make()
    for p, q in zip(_params_of(other), _params_of(optimizer), strict=True):
        p.data.copy_(q.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other


def _params_of(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def step_with_equal_gradients(optimizer: Any, other: Any) -> list[tuple[Tensor, Tensor]]:
    """A step of both, with the gradients of the first one; pairs of the parameters."""
    pairs = list(zip(_params_of(optimizer), _params_of(other), strict=True))
    for p, q in pairs:
        q.grad = None if p.grad is None else p.grad.clone()
    optimizer.step()
    other.step()
    return pairs


def distance(actual: Tensor, expected: Tensor) -> float:
    """The largest error of an element, relative to its size plus the tensor's root mean square.

    In float16, elements that torch's for-loop turned into inf or NaN do not count: where a gradient is so
    small that its square vanishes, it divides by 0. They are few.
    """
    if expected.dtype == torch.float16:
        finite = expected.isfinite()
        assert (~finite).sum() <= 1 + finite.numel() // 500, "torch's result is inf or NaN in too many places"
        actual, expected = actual[finite], expected[finite]
    wide = torch.complex128 if expected.dtype.is_complex else torch.float64
    actual, expected = actual.detach().to(wide), expected.detach().to(wide)
    if expected.numel() == 0:
        return 0.0
    size = expected.abs() + expected.abs().square().mean().sqrt()
    error = (actual - expected).abs()
    return float(torch.where(error == 0, 0.0, error / size).max())


def assert_close(actual: Tensor, expected: Tensor, what: str = "", relative: float | None = None) -> None:
    """Same shape and dtype, and within the tolerance of the dtype."""
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    real = torch.empty((), dtype=actual.dtype).real.dtype
    usual = tolerances.UPDATE_RELATIVE
    tolerance = usual.get(actual.dtype, usual[real]) if relative is None else relative
    assert distance(actual, expected) <= tolerance, f"{what}: {actual} is not {expected}"


def assert_equal(actual: Tensor, expected: Tensor, what: str = "") -> None:
    """Bit for bit, but for the sign of zero."""
    assert actual.dtype == expected.dtype, what
    assert torch.equal(actual, expected), f"{what}: {actual} is not {expected}"


def assert_same(twins: Twins, relative: float | None = None) -> None:
    """Parameters and states are within tolerance of torch's, counts are equal.

    All parameters are compared as one vector, and so are all states of a key: the size that an error is
    measured by is then that of many elements, not of a single one that happens to be nearly 0.
    """
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {"param": []}
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        pairs["param"].append((p.detach(), q.detach()))
    for key, mine, torchs in twins.states():
        if key == "step":
            assert_equal(mine, torchs, key)
        else:
            pairs.setdefault(key, []).append((mine, torchs))
    for key, tensors in pairs.items():
        assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in tensors), key
        assert_close(
            torch.cat([a.flatten() for a, _ in tensors]), torch.cat([b.flatten() for _, b in tensors]), key, relative
        )
