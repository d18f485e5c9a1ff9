"""What torch refuses is undone on its side: its optimizers and schedulers are not all or nothing, ours are."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from identity.lockstep import REFUSALS, Act, Lockstep, Side


class Saved:
    """All of a side as it is now, to be put back."""

    def __init__(self, side: Side) -> None:
        self._side, optimizer = side, side.optimizer
        self._groups = optimizer.param_groups, [(g, dict(g), list(g["params"])) for g in optimizer.param_groups]
        self._state = optimizer.state, [(p, s, dict(s)) for p, s in optimizer.state.items()]
        numbers = [x for g in optimizer.param_groups for x in g.values() if isinstance(x, Tensor)]
        states = [x for _, _, s in self._state[1] for x in s.values() if isinstance(x, Tensor)]
        tensors = [*side.params, *numbers, *states]
        self._tensors = [(x, x.data, x.detach().clone()) for x in tensors]
        self._lists = [(name, list(getattr(side, name))) for name in ("schedulers", "params")]
        held = [s for s in (*side.schedulers, *side.kept) if s is not None]
        self._schedulers = [(s, _attributes(s)) for one in held for s in _family(one)]

    def put_back(self) -> None:
        optimizer = self._side.optimizer
        optimizer.param_groups, groups = self._groups
        optimizer.param_groups[:] = [g for g, _, _ in groups]
        for group, values, params in groups:
            group.clear()
            group.update(values)
            group["params"][:] = params
        optimizer.state, states = self._state
        optimizer.state.clear()
        for param, state, values in states:
            state.clear()
            state.update(values)
            optimizer.state[param] = state
        with torch.no_grad():
            for tensor, data, values in self._tensors:
                tensor.data = data
                tensor.copy_(values)
        for name, values in self._lists:
            setattr(self._side, name, values)
        for scheduler, attributes in self._schedulers:
            vars(scheduler).clear()
            vars(scheduler).update(attributes)


def _attributes(scheduler: Any) -> dict[str, Any]:
    return {k: copy.copy(v) if isinstance(v, (list, dict)) else v for k, v in vars(scheduler).items()}


def _family(scheduler: Any) -> list[Any]:
    parts = getattr(scheduler, "_schedulers", [])
    return [scheduler, *(member for part in parts for member in _family(part))]


def attempt(pair: Lockstep, act: Act, ours: Act | None = None) -> bool:
    """``act`` on torch's side, and on ours it or ``ours``; or refused by both. Whether it was done."""
    saved = Saved(pair.torchs)
    try:
        act(pair.torchs)
    except REFUSALS as reason:
        saved.put_back()
        try:
            (ours or act)(pair.ours)
        except REFUSALS:
            return False
        raise AssertionError(f"torch refuses with {reason!r}, ours does not") from reason
    (ours or act)(pair.ours)
    return True
