"""Adding a param group without asking every group for what the optimizer can see at once.

Torch's ``add_param_group`` makes a set of all parameters of all groups for each group that is added. Here compiled
iterators look at the groups as they are, and torch's own code, with all its checks, gets to see those that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import torch
from torch.optim import Optimizer

_TORCHS = Optimizer.add_param_group


def is_torchs(method: Any) -> bool:
    """Whether a bound ``add_param_group`` is torch's own, of which it is known what it looks at."""
    return getattr(method, "__func__", None) is _TORCHS


class Narrowed:
    """The optimizer as torch's ``add_param_group`` is to see it: with fewer groups.

    Attributes:
        param_groups: one that has names and one that has none, as far as there are; the new one comes last.
    """

    def __init__(self, optimizer: Optimizer, groups: list[Any]) -> None:
        self._optimizer, self.param_groups = optimizer, groups

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def add(self, param_group: dict[str, Any]) -> dict[str, Any]:
        """What becomes of ``param_group``; raises what torch raises."""
        _TORCHS(self, param_group)  # type: ignore[arg-type]
        return self.param_groups[-1]  # type: ignore[no-any-return]


def narrow(optimizer: Optimizer, param_group: Any, groups_changed: Callable[[], bool]) -> Narrowed | None:
    """The optimizer with those groups that can matter to ``param_group``; None if all of them may.

    Args:
        optimizer: the optimizer.
        param_group: its ``"params"`` become a list, as torch makes of them first.
        groups_changed: whether there are other groups than the optimizer knows; of those that it knows, the dict
            itself has the parameters.
    """
    if not isinstance(param_group, dict):
        return None
    params = param_group["params"]
    if isinstance(params, set):
        return None
    param_group["params"] = params = [params] if isinstance(params, torch.Tensor) else list(params)
    new = [x[1] if isinstance(x, tuple) and len(x) > 1 else x for x in params]
    if any(isinstance(p, torch.Tensor) and type(p).__hash__ is not torch.Tensor.__hash__ for p in new):
        return None  # torch's set would find others equal too
    if groups_changed():
        return None
    groups = optimizer.param_groups
    known = map(dict.__getitem__, groups, repeat("params"))
    try:
        if not {*map(id, new)}.isdisjoint(map(id, chain.from_iterable(known))):
            return None
    except (KeyError, TypeError):  # a group without parameters, or with what is no list
        return None
    named = list(map(dict.__contains__, groups, repeat("param_names")))
    return Narrowed(optimizer, [groups[named.index(kind)] for kind in {*named}])
