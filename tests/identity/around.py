"""torch's optimizers with what users write around their steps: clipping, and averages that lie in the state."""

from __future__ import annotations

import math
from typing import Any

import torch


class Around(torch.optim.Optimizer):
    """Clips every group by the norm of all gradients, which stay as they are, and averages after the update.

    The averages of a group begin together; one that comes later begins as what its parameter has been so far. A
    parameter that is listed several times has one average, which follows once, by the last group's decay.
    """

    def step(self, closure: Any = None) -> None:
        groups = self.param_groups
        listed = [p for group in groups for p in group["params"]]
        given = {id(p): p.grad for p in listed if p.grad is not None}
        squares = [given[id(p)].square().sum().item() for p in listed if id(p) in given]
        norm = math.sqrt(math.fsum(squares))
        before = {id(p): p.detach().clone() for p in listed}
        begun = [any("ema" in self.state.get(p, {}) for p in group["params"]) for group in groups]
        for group in groups:
            factor = 1.0 if math.isinf(group["max_grad_norm"]) else min(1.0, group["max_grad_norm"] / (norm + 1e-6))
            for p in group["params"]:
                p.grad = given[id(p)] * factor if id(p) in given else None
            self.param_groups = [group]
            try:
                super().step()
            finally:
                self.param_groups = groups
        for p in listed:
            p.grad = given.get(id(p))
        with torch.no_grad():
            last = {id(p): (p, group, late) for group, late in zip(groups, begun, strict=True) for p in group["params"]}
            for p, group, late in last.values():
                if p.grad is not None or self.state.get(p):
                    follow(p, self.state[p], group["ema_decay"], before[id(p)] if late else None)


def follow(p: torch.Tensor, state: dict[str, Any], decay: float, begins: torch.Tensor | None) -> None:
    """Let the average in a state follow; one that is not there begins as ``begins``, or as a copy."""
    if state.get("ema") is None:
        state["ema"] = p.detach().clone() if begins is None else begins
        if begins is None:
            return
    state["ema"].copy_(torch.lerp(state["ema"], p, 1 - decay))


class SGD(Around, torch.optim.SGD):
    pass


class Adam(Around, torch.optim.Adam):
    pass


class AdamW(Around, torch.optim.AdamW):
    pass
