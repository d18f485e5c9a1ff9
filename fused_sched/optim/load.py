"""Loading groups and state: all is checked before any of it is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..rules import Rule
from ..step_options import AVERAGE, MASTER, NARROW, REMAINDER, STREAM, StepOptions
from .checks import check_complete, check_dtype, check_shape
from .param_group import check_group
from .param_state import OptimizerState, ParamState, whole_step
from .rounding import check_stream


class Load:
    """A state dict on its way into an optimizer.

    Args:
        rule: of the optimizer.
        options: of it.
        present: its state now. What a captured CUDA graph may point to is kept, and takes the new values.
        keys: names of its hyperparameters.
        captured: a graph does point to it.
    """

    def __init__(
        self, rule: Rule, options: StepOptions, present: OptimizerState, keys: Sequence[str], captured: bool
    ) -> None:
        self._rule, self._options, self._present = rule, options, present
        self._keys, self._captured = keys, captured
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
            averaged = [AVERAGE] if "ema_decay" in group else []
            for p in group["params"]:
                mastered = self._options.master(p.dtype)
                self._check_state(p, state.get(p), needed, averaged if mastered is None else [*averaged, mastered[0]])
        self._loaded = state

    def _check_state(self, p: torch.Tensor, values: Any, needed: Iterable[str], beside: Iterable[str]) -> None:
        if not isinstance(values, dict):
            return
        check_complete(self._rule, values, needed)
        if self._rule.step_key in values:
            whole_step(values[self._rule.step_key])
        if values.get(STREAM) is not None and self._options.rounds_by_chance(p.dtype):
            check_stream(values[STREAM])
        for key in (*needed, *beside):
            if values.get(key) is not None:
                check_shape(p, key, values[key])
                check_dtype(key, values[key])

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


def with_own_dtypes(
    rule: Rule, options: StepOptions, groups: Any, state: dict[Any, Any], given: Mapping[str, Any]
) -> None:
    """Undo that torch's load_state_dict gave parameters' dtype to all that is kept for them.

    Args:
        rule, options: of the optimizer.
        groups: param groups, as loaded.
        state: by parameter, as loaded; changed in place.
        given: the state dict itself.
    """
    for group, saved in zip(groups, given["param_groups"], strict=True):
        for p, number in zip(group["params"], saved["params"], strict=True):
            there, mine = given["state"].get(number), state.get(p)
            if not isinstance(there, Mapping) or not isinstance(mine, dict):
                continue
            own = _own_dtypes(rule, options, p.dtype)
            if _takes_wider_gradients(p):
                single = [k for k in rule.state_keys if getattr(there.get(k), "dtype", None) == torch.float32]
                own = [*((key, torch.float32) for key in single), *own]
            for key, dtype in own:
                if isinstance(there.get(key), torch.Tensor):
                    mine[key] = there[key].to(p.device, None if key == REMAINDER else dtype)
            _leave_out_unused(mine, there, options, p.dtype)


def _leave_out_unused(mine: dict[str, Any], there: Mapping[str, Any], options: StepOptions, param: torch.dtype) -> None:
    """Without what updates would not follow, and a remainder that was rounded, as torch's classes do when they load."""
    kept = options.master(param)
    for key in (MASTER, REMAINDER):
        value = there.get(key)
        rounded = key == REMAINDER and isinstance(value, torch.Tensor) and value.is_floating_point()
        if kept is None or key != kept[0] or rounded:
            mine.pop(key, None)
    if not options.rounds_by_chance(param):
        mine.pop(STREAM, None)


def _takes_wider_gradients(param: torch.Tensor) -> bool:
    """Whether states that were made beside gradients of a 16-bit parameter may be float32; see ``dtype_beside``."""
    return param.dtype in NARROW and getattr(param, "grad_dtype", param.dtype) != param.dtype


def _own_dtypes(rule: Rule, options: StepOptions, param: torch.dtype) -> list[tuple[str, torch.dtype]]:
    """Keys whose tensors need not have the parameter's dtype, and the dtype that they have."""
    found = [(AVERAGE, options.average_dtype(param))]
    if param in NARROW:
        found += [(MASTER, torch.float32), (REMAINDER, torch.int16)]
    states = options.state_dtype_of(param)
    return found if states is None else [*found, *((key, states) for key in rule.state_keys)]
