"""An optimizer of ours that measures, clips and averages, and torch's with what users write around its step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tolerances import CLIPPED_RELATIVE, UPDATE_RELATIVE
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fused_sched
from fused_sched import backends

SIZES = ((3,), (70, 3), (), (0,), (1031,), (35,))
LARGE = ((16385,), (5, 7000))  # several chunks on every backend
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "Adam": ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {"lr": 0.01}),
}


class AroundTwins:
    """Both sides with equal parameters, in groups; gradients are the same.

    Args:
        name: in :data:`RULES`.
        backend: of ours.
        shapes: of the parameters of each group.
        dtype: of the parameters.
        device: of ours; torch's are on the CPU.
        offset: elements between an aligned address and each of our tensors.
        options: of ours, beside those of the rule.
    """

    def __init__(
        self,
        name: str,
        backend: str | backends.Backend,
        shapes: Sequence[Sequence[tuple[int, ...]]] = (SIZES[:3], SIZES[3:]),
        dtype: torch.dtype = torch.float64,
        *,
        device: str = "cpu",
        offset: int = 0,
        **options: Any,
    ) -> None:
        cls, arguments = RULES[name]
        self.dtype, self.options, self._device, self._offset = dtype, options, device, offset
        values = [[self._random(shape) for shape in group] for group in shapes]
        self.groups = [[torch.nn.Parameter(self._moved(v)) for v in group] for group in values]
        self.torch_groups = [[torch.nn.Parameter(v.clone()) for v in group] for group in values]
        groups = [{"params": group} for group in self.groups]
        self.ours: Any = getattr(fused_sched.optim, cls)(groups, backend=backend, **arguments, **options)
        torchs = [{"params": group} for group in self.torch_groups]
        self.torchs: Any = getattr(torch.optim, cls)(torchs, foreach=False, **arguments)
        self.model = torch.nn.ParameterList(self.torch_params)
        self.averaged = AveragedModel(self.model) if "ema_decay" in options else None
        self.norms = [0.0] * len(shapes)  # of the gradients of the last step, by group

    def _random(self, shape: Sequence[int], size: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, dtype=torch.float64) * size).to(self.dtype)

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        """A copy on our device, beginning where the offset says."""
        flat = torch.nn.functional.pad(values.reshape(-1), (self._offset, 0)).to(self._device)
        return flat[self._offset :].view(values.shape)

    @property
    def params(self) -> list[torch.nn.Parameter]:
        return [p for group in self.groups for p in group]

    @property
    def torch_params(self) -> list[torch.nn.Parameter]:
        return [p for group in self.torch_groups for p in group]

    def set_grads(self, size: float = 1.0, without: Sequence[int] = (), spoilt: Sequence[int] = ()) -> None:
        """Random gradients of about this size; some parameters have none, and in those of some is a NaN."""
        for i, (p, q) in enumerate(zip(self.params, self.torch_params, strict=True)):
            g = self._random(q.shape, size)
            if i in spoilt:
                g.view(-1)[0] = math.nan
            p.grad, q.grad = (None, None) if i in without else (self._moved(g), g)

    def copy_grads(self, size: float) -> None:
        """As :meth:`set_grads`, into the gradients that are there."""
        for p, q in zip(self.params, self.torch_params, strict=True):
            assert p.grad is not None
            q.grad = self._random(q.shape, size)
            p.grad.copy_(q.grad.to(self._device))

    def norm(self, group: int | None = None) -> float:
        """Of torch's gradients, in float64."""
        params = self.torch_params if group is None else self.torch_groups[group]
        squares = [p.grad.double().square().sum().item() for p in params if p.grad is not None]
        return math.sqrt(math.fsum(squares))

    def torch_step(self) -> None:
        """Clip, step, average, as users of torch write it."""
        self.norms = [self.norm(i) for i in range(len(self.torch_groups))]
        settings = self.ours.param_groups
        if self.options.get("norm_scope") == "group":
            for group, setting in zip(self.torch_groups, settings, strict=True):
                torch.nn.utils.clip_grad_norm_(group, setting["max_grad_norm"], foreach=False)
        elif "max_grad_norm" in settings[0]:
            torch.nn.utils.clip_grad_norm_(self.torch_params, settings[0]["max_grad_norm"], foreach=False)
        self.torchs.step()
        if self.averaged is not None:
            self.averaged.multi_avg_fn = get_ema_multi_avg_fn(settings[0]["ema_decay"])
            self.averaged.update_parameters(self.model)

    def step(self) -> None:
        self.ours.step()
        self.torch_step()

    def assert_same(self, relative: float | None = None) -> None:
        """Parameters, and averages where there are some, within the update's tolerance."""
        usual = UPDATE_RELATIVE if self.options.get("max_grad_norm") is None else CLIPPED_RELATIVE
        tolerance = usual[self.dtype] if relative is None else relative
        size = math.sqrt(torch.cat([q.detach().double().reshape(-1) for q in self.torch_params]).square().mean())
        for p, q in zip(self.params, self.torch_params, strict=True):
            close(p, q, tolerance, size)
        if self.averaged is None:
            return
        for p, a in zip(self.params, self.averaged.module, strict=True):
            state = self.ours.state.get(p, {})
            if "ema" in state and p.numel() > 0:
                close(state["ema"], a, tolerance, size)

    def assert_norms(self, relative: float) -> None:
        """What ours has measured is what torch's gradients were before they were clipped."""
        whole = math.hypot(*self.norms)
        each = self.norms if self.options.get("norm_scope") == "group" else [whole] * len(self.norms)
        assert self.ours.grad_norm.item() == pytest.approx(whole, rel=relative)
        assert [n.item() for n in self.ours.group_grad_norms] == pytest.approx(each, rel=relative)

    def snapshot(self) -> list[torch.Tensor]:
        """Parameters, states and counts of ours."""
        states = self.ours.state_dict()["state"].values()
        return [p.detach().clone() for p in self.params] + [t.clone() for s in states for t in s.values()]


def close(ours: torch.Tensor, torchs: torch.Tensor, relative: float, size: float | None = None) -> None:
    """Within ``relative`` of an element plus the usual ``size`` (default: of these), as one near 0 was larger."""
    a, b = ours.detach().cpu().double(), torchs.detach().double()
    if b.numel() == 0:
        return
    scale = b.abs() + (b.square().mean().sqrt() if size is None else size)
    assert not bool((a - b).isnan().any())
    worst = float(((a - b).abs() / scale).max())
    assert worst <= relative, f"off by {worst:.3g}, {relative:.3g} is allowed"


def same_bits(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> bool:
    """Whether all elements are equal; a NaN equals a NaN."""
    return len(before) == len(after) and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(before, after, strict=True)
    )
