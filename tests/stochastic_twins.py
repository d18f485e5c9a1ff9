"""Parameters that are rounded by chance, and the same by torch operations on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fused_sched

SEED = 0x0123456789ABCDEF
SIZES = (3, 0, 1031, 8, 16390, 7, 130)


class ChanceTwins:
    """SGD whose values before rounding are exact, on a backend and on the reference one, with equal gradients.

    Args:
        backend: of the one.
        dtype: of the parameters.
        sizes: numbers of elements.
        device: of the one.
        layout: how its parameters lie in memory.
        ours: for both.
    """

    def __init__(
        self,
        backend: Any,
        dtype: torch.dtype,
        sizes: Sequence[int] = SIZES,
        *,
        device: str = "cpu",
        layout: Callable[[Tensor], Tensor] = Tensor.clone,
        **ours: Any,
    ) -> None:
        values = [(torch.randn(n) * 2.0 ** torch.randint(-24, 12, (n,))).to(dtype) for n in sizes]
        self.dtype, self._device = dtype, device
        self.params = [torch.nn.Parameter(layout(v.to(device))) for v in values]
        self.plain = [torch.nn.Parameter(v.clone()) for v in values]
        self.ours, self.reference = (
            fused_sched.optim.SGD(params, lr=1.0, stochastic_rounding=True, rounding_seed=SEED, backend=where, **ours)
            for params, where in ((self.params, backend), (self.plain, "reference"))
        )

    def set_grads(self) -> None:
        for p, q in zip(self.params, self.plain, strict=True):
            g = (torch.randn(q.shape) * 2.0 ** torch.randint(-30, 2, q.shape)).to(self.dtype)
            if q.numel() > 2:
                g[:2] = torch.tensor([torch.inf, torch.nan])
            p.grad, q.grad = g.to(self._device), g.clone()

    def step(self) -> None:
        self.ours.step()
        self.reference.step()

    def assert_same(self) -> None:
        for p, q in zip(self.params, self.plain, strict=True):
            mine, theirs = p.detach().cpu().float(), q.detach().float()
            assert torch.equal(mine.nan_to_num(7.0), theirs.nan_to_num(7.0))
            assert torch.equal(mine.isnan(), theirs.isnan())
