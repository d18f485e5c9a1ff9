"""ParamScheduler: any hyperparameter as a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..compiled import not_compiled
from ..memory.control_block import FIELDS, PAIRS, PARTS
from ..memory.values import as_float
from ..program.builder import Builder, Value
from ..step_options import OPTION_FIELDS, check_field
from .base import OnDevice
from .functions import UNUSED
from .host_steps import refilled

Function = Callable[[int], Any]
NAMES = (*(f for f in FIELDS if f not in ("flags", *PARTS)), *PAIRS, *PARTS)


class _HostParamScheduler(LRScheduler):
    """What ParamScheduler means, in torch's terms: sets the value by Python at every step."""

    def __init__(
        self, optimizer: Optimizer, name: str, fn: Function | Sequence[Function | None], last_epoch: int = -1
    ) -> None:
        groups = optimizer.param_groups
        if name not in NAMES:
            raise ValueError(f"{name=} is not a hyperparameter that can be scheduled; known are {', '.join(NAMES)}")
        missing = next((i for i, g in enumerate(groups) if PARTS.get(name, (name,))[0] not in g), None)
        if missing is not None:
            raise ValueError(f"{name=} is not in param group {missing}: {type(optimizer).__name__} does not have it")
        functions: list[Any] = list(fn) if isinstance(fn, (list, tuple)) else [fn] * len(groups)
        if len(functions) != len(groups):
            raise ValueError(f"Expected {len(groups)} functions, one a param group, but got {len(functions)}")
        for function in functions:
            if function is not None and not callable(function):
                raise TypeError(f"fn must be a function of the step, but got {type(function).__name__}")
        self.name = name
        self.fns: list[Any] = functions
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _update_lr(self, epoch: Any = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        values = [None if f is None else f(self.last_epoch) for f in self.fns]
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            if value is None:
                continue
            if self.name in PARTS:
                key, place = PARTS[self.name]
                pair = list(group[key])
                pair[place] = refilled(pair[place], value)
                group[key] = tuple(pair)
            else:
                group[self.name] = refilled(group[self.name], value)
        self._last_lr = [as_float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and the functions; of callable objects the attributes are kept."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "fns")}
        state["fns"] = [None if not hasattr(f, "__dict__") else dict(vars(f)) for f in self.fns]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from such a state."""
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "fns"})
        for function, attributes in zip(self.fns, state_dict["fns"], strict=True):
            if attributes:
                vars(function).update(attributes)


class ParamScheduler(OnDevice, _HostParamScheduler):
    """Sets a hyperparameter of every param group to a function of the step, beside a scheduler of the lr.

    ``fn(step)`` is the value itself, not a factor: ``group[name] = fn(last_epoch)``, at construction with
    step 0 and at every ``step()``.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        name: ``"weight_decay"``, ``"momentum"``, ``"dampening"``, ``"eps"``, ``"lr"``, ``"max_grad_norm"``,
            ``"ema_decay"``, ``"betas"`` (the function returns a pair), ``"beta1"`` or ``"beta2"``.
        fn: from an int to a float; or a list with one for each param group, None to leave a group alone.
            How it reaches the device: see :class:`LambdaLR`.
        last_epoch: as in torch.
        horizon: see :class:`LambdaLR`.

    Raises:
        ValueError: ``name`` is unknown or not in a group, or the list has another length.
        TypeError: ``fn`` is not callable.

    A value that the group would refuse when it is assigned, such as a negative ``max_grad_norm``, raises ValueError in
    the step that it is for; in replays of a CUDA graph the schedule stops before it, and the host raises when it looks.
    """

    _overwrites = True
    _constants = ("fns",)
    _enables_get_lr = False

    def __init__(
        self,
        optimizer: Optimizer,
        name: str,
        fn: Function | Sequence[Function | None],
        last_epoch: int = -1,
        *,
        horizon: int = 1,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        self._horizon = horizon
        super().__init__(
            optimizer, name, fn, last_epoch=last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer
        )

    @not_compiled
    def get_last_value(self) -> list[Any]:
        """The present value in each param group: floats, or pairs for ``"betas"``."""
        self._raise_if_trapped()
        key, *place = PARTS.get(self.name, (self.name,))
        values = [group[key] for group in self.optimizer.param_groups]
        return [value[place[0]] for value in values] if place else values

    def _fields(self) -> tuple[str, ...]:
        return PAIRS.get(self.name, (self.name,))

    def _outputs(self) -> int:
        return len(self._fields())

    def _functions(self) -> list[Any]:
        first = next((f for f in self.fns if f is not None), None)
        return [] if first is None else [first if f is None else f for f in self.fns]  # None: not used

    def _is_valid(self) -> Callable[[Any], Any] | None:
        return OPTION_FIELDS[self.name][0] if self.name in OPTION_FIELDS else None

    def _called(self, epoch: int) -> list[list[Any]]:
        rows = [(UNUSED,) * self._outputs() if f is None else self._numbers(f(epoch), epoch) for f in self.fns]
        return [list(column) for column in zip(*rows, strict=True)]

    def _rows(self, called: Sequence[Sequence[Any]]) -> list[list[float]]:
        return [[0.0 if x is UNUSED else float(x) for x in column] for column in called]

    def _numbers(self, value: Any, epoch: int) -> tuple[float, ...]:
        parts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        try:
            numbers = tuple(as_float(x) for x in parts)
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) == self._outputs():
            try:
                if self.name in OPTION_FIELDS:
                    check_field(self.name, *numbers)
            except ValueError as error:
                raise ValueError(f"what the function gave at step {epoch} is refused: {error}") from None
            return numbers
        what = "a pair of numbers" if self.name in PAIRS else "a number"
        raise TypeError(f"the function for {self.name!r} returned {value!r} at step {epoch}: it must return {what}")

    def _emit_at(self, b: Builder, epoch: Value) -> None:
        if self._source is not None:
            chosen = self._per_group(b, "chosen", [f is not None for f in self.fns])
            for field, value in zip(self._fields(), self._source.emit(b, epoch), strict=True):
                b.set_field(field, b.where(chosen, value, b.field(field)))
        self._emit_last_lr(b, b.field("lr"))

    @property
    def _sets(self) -> str:  # type: ignore[override]
        return self.name
