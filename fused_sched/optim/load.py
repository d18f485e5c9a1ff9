"""Loading groups and state: all is checked before any of it is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..rules import Rule
from ..step_options import AVERAGE
from .param_group import check_group
from .param_state import OptimizerState, ParamState, whole_step
from .sync import check_complete, check_shape


class Load:
    """A state dict on its way into an optimizer.

    Args:
        rule: of the optimizer.
        present: its state now. What a captured CUDA graph may point to is kept, and takes the new values.
        keys: names of its hyperparameters.
        captured: a graph does point to it.
    """

    def __init__(self, rule: Rule, present: OptimizerState, keys: Sequence[str], captured: bool) -> None:
        self._rule, self._present, self._keys, self._captured = rule, present, keys, captured
        self._loaded: Mapping[Any, Any] = {}

    def check(self, groups: Iterable[Mapping[str, Any]], state: Mapping[Any, Any]) -> None:
        """Make sure that :meth:`take` cannot fail.

        Args:
            groups: as torch made them of the state dict.
            state: by parameter.

        Raises:
            KeyError: a hyperparameter, or a part of a state, is missing.
            TypeError, ValueError: a value is not what it has to be.
        """
        for group in groups:
            check_group(group, self._keys)
            needed = self._rule.state_keys[: self._rule.states_needed(group)]
            for p in group["params"]:
                self._check_state(p, state.get(p), needed, "ema_decay" in group)
        self._loaded = state

    def _check_state(self, p: torch.Tensor, values: Any, needed: Iterable[str], averaged: bool) -> None:
        if not isinstance(values, dict):
            return
        check_complete(self._rule, values, needed)
        if self._rule.step_key in values:
            whole_step(values[self._rule.step_key])
        for key in (*needed, *([AVERAGE] if averaged else [])):
            if values.get(key) is not None:
                check_shape(p, key, values[key])

    def take(self) -> OptimizerState:
        """The optimizer's new state."""
        taken: dict[Any, Any] = {}
        for p, values in self._loaded.items():
            mine = self._present.get(p)
            if not isinstance(mine, ParamState) or not isinstance(values, dict):
                mine = self._present.make() if isinstance(values, dict) else values
            if isinstance(mine, ParamState):
                mine.replace(values)
            taken[p] = mine
        if self._captured:
            for p, mine in self._present.items():
                if p not in taken and isinstance(mine, ParamState):
                    mine.reset()
                    taken[p] = mine
        return self._present.with_values(taken)
