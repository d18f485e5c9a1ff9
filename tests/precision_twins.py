"""An optimizer of ours with parameters of 16 bits that have masters, and torch's for-loop on float32 copies of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from around_twins import close
from optimizer_twins import LR
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fused_sched

SIZES = ((3,), (70, 3), (), (0,), (1031,), (35,))
KEYS = {"float32": "master", "remainder": "remainder"}  # of the state, by master_weights


def value_of(optimizer: Any, p: Tensor, kept: str = "float32") -> Tensor:
    """The float32 that a parameter stands for, from what the state has."""
    if p.dtype == torch.float32:
        return p.detach().clone()
    beside = optimizer.state[p][KEYS[kept]].detach().clone()
    if kept == "float32":
        return beside
    joined = (p.detach().cpu().float().view(torch.int32) + beside.cpu()).view(torch.float32)
    return joined.to(p.device)


def as_bits(t: Tensor) -> Tensor:
    return t.detach().cpu().contiguous().view(torch.int16 if t.itemsize == 2 else torch.int32)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(as_bits(a), as_bits(b))


class PrecisionTwins:
    """Both sides begin with equal values and get equal gradients.

    Args:
        name: ``"SGD"``, ``"Adam"`` or ``"AdamW"``.
        backend: of ours.
        dtype: of our parameters.
        grad_dtype: of their gradients, default: the same.
        options: for both constructors.
        ours: for ours alone.
        shapes: of the parameters.
        device: of ours; torch's are on the CPU.
        layout: how our parameters lie in memory.
    """

    def __init__(
        self,
        name: str,
        backend: Any,
        dtype: torch.dtype,
        options: dict[str, Any] | None = None,
        *,
        shapes: Sequence[tuple[int, ...]] = SIZES,
        device: str = "cpu",
        layout: Callable[[Tensor], Tensor] = Tensor.clone,
        kept: str = "float32",
        grad_dtype: torch.dtype | None = None,
        **ours: Any,
    ) -> None:
        options = {"lr": LR[name], **(options or {})}
        self.dtype, self.kept, self._device = dtype, kept, device
        self.grad_dtype = grad_dtype or dtype
        values = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]
        self.params = [torch.nn.Parameter(layout(v.to(device))) for v in values]
        self.torch_params = [torch.nn.Parameter(v.float()) for v in values]
        if self.grad_dtype != dtype:
            for p in self.params:
                p.grad_dtype = grad_dtype
        self.ours: Any = getattr(fused_sched.optim, name)(
            self.params, backend=backend, **{"master_weights": kept, **options, **ours}
        )
        self.torchs: Any = getattr(torch.optim, name)(self.torch_params, foreach=False, **options)
        self.clip: float | None = ours.get("max_grad_norm")
        self.model = torch.nn.ParameterList(self.torch_params)
        decay = ours.get("ema_decay")
        self.averaged = None if decay is None else AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def set_grads(self, size: float = 1.0, without: Sequence[int] = ()) -> None:
        for i, (p, q) in enumerate(zip(self.params, self.torch_params, strict=True)):
            g = (torch.randn(q.shape) * size).to(self.grad_dtype)
            p.grad, q.grad = (None, None) if i in without else (g.to(self._device), g.float().clone())

    @torch.no_grad()
    def write(self, value: float | None = None) -> None:
        """Give the first half of each parameter a value, default: random ones; what is that already keeps digits."""
        for p, q in zip(self.params, self.torch_params, strict=True):
            ours, torchs = (x.view(-1)[: (x.numel() + 1) // 2] for x in (p, q))
            new = (torch.randn(torchs.shape) if value is None else torch.full_like(torchs, value)).to(self.dtype)
            if self.kept == "remainder":  # which stays beside whatever is written
                rest = self.ours.state[p]["remainder"].cpu().view(-1)[: len(new)]
                torchs.copy_((new.float().view(torch.int32) + rest).view(torch.float32))
            else:
                torchs.copy_(torch.where(as_bits(ours) == as_bits(new), torchs, new.float()))
            ours.copy_(new)

    def step(self) -> None:
        self.ours.step()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.torch_params, self.clip, foreach=False)
        self.torchs.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def values(self) -> list[Tensor]:
        """Of our parameters that have a state, in float32."""
        return [value_of(self.ours, p, self.kept).cpu() for p in self.params if p in self.ours.state]

    def assert_same(self, relative: float = 0.0) -> None:
        """Masters are torch's float32 parameters, and parameters are their roundings, to the bit."""
        usual = math.sqrt(torch.cat([q.detach().double().reshape(-1) for q in self.torch_params]).square().mean())
        for p, q in zip(self.params, self.torch_params, strict=True):
            if p not in self.ours.state:
                continue
            value = value_of(self.ours, p, self.kept).cpu()
            assert value.dtype == torch.float32
            close(value, q.detach(), relative, usual)
            assert same_bits(p.cpu(), rounded(value, self.dtype, self.kept))
        if self.averaged is not None:
            for p, a in zip(self.params, self.averaged.module, strict=True):
                close(self.ours.state[p]["ema"].cpu(), a.detach(), max(relative, 1e-6), usual)


@torch.no_grad()
def round_states(optimizer: torch.optim.Optimizer) -> None:
    """What torch keeps in float32, with the digits of bfloat16: as an update leaves it."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if key != "step" and value is not None:
                value.copy_(value.bfloat16())


def rounded(value: Tensor, dtype: torch.dtype, kept: str) -> Tensor:
    """As an update stores it in the parameter."""
    if kept == "float32":
        return value.to(dtype)
    return away_from_zero(value)


def away_from_zero(value: Tensor) -> Tensor:
    """As bfloat16; the larger where both neighbours are as far, which float64 can tell."""
    bits = value.view(torch.int32) & -65536
    below, above = bits.view(torch.float32), (bits + 65536).view(torch.float32)
    beyond = torch.where(above.isinf(), above.sign().double() * 2.0**128, above.double())
    nearer_above = (value.double() - below.double()).abs() >= (beyond - value.double()).abs()
    rounded_value = torch.where(nearer_above, above, below)
    return torch.where(value.isfinite(), rounded_value, value).bfloat16()
