"""What SGD, Adam and AdamW share: one launch over all param groups, hyperparameters on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .. import backends
from ..control_block import GROUP_STRIDE, ControlBlock
from ..live_dict import Changes
from ..param_group import ParamGroup
from ..param_state import OptimizerState, ParamState
from ..parameter_table import (
    DTYPES,
    Entry,
    ParameterTable,
    Staging,
    real_dtype,
    same_layout,
    state_dtype_fits,
    state_format,
)
from ..schedule import Schedule

WARM_UP = "run one optimizer.step() with all gradients before the capture"


class FusedOptimizer(Optimizer):
    """Base of the optimizers; a subclass also inherits torch's class of the same name.

    ``step`` reads hyperparameters from the control block, updates every tensor that has a gradient,
    and advances the schedules made with ``fused=True``. GradScaler's ``grad_scale`` and ``found_inf``
    are read by the update itself: a skipped step changes no parameter, state or count.
    """

    _rule: str
    _state_keys: tuple[str, ...]
    _step_supports_amp_scaling = True

    _block: ControlBlock
    _table: ParameterTable

    def _states_needed(self, group: dict[str, Any]) -> int:
        """How many of ``_state_keys`` the parameters of a group have."""
        raise NotImplementedError

    @staticmethod
    def _refuse_differentiable(differentiable: Any) -> None:
        if differentiable:
            raise ValueError(
                f"{differentiable=} is not supported: the fused update is invisible to autograd. "
                "Use torch.optim's class of the same name where gradients must flow through the step"
            )

    def _start(self, backend: str | backends.Backend | None) -> None:
        """Move hyperparameters and state into the control block and the table; ends every constructor."""
        device = self._check_params(self.param_groups)
        self._backend_given = backend
        self._backend = backends.choose(device, backend)
        self._schedules: list[Schedule] = []
        self._scheduled_fields: set[str] = set()  # what programs may write, unseen by the host
        self._changes = Changes()
        n_tensors = sum(len(g["params"]) for g in self.param_groups)
        self._block = ControlBlock(device, 2 * n_tensors + 16, self._backend.platform)
        keys = frozenset(self.defaults)
        self.param_groups = [ParamGroup(g, keys, self._block, self._changes) for g in self.param_groups]
        self._list_params()
        state, self.state = self.state, OptimizerState(self._changes)
        self._adopt_state(state)
        self._changes.lr_by_hand = False

    def _check_params(self, groups: Iterable[dict[str, Any]]) -> torch.device:
        device: torch.device | None = None
        for group in groups:
            self._refuse_differentiable(group.get("differentiable"))
            for p in group["params"]:
                if is_traceable_wrapper_subclass(p):
                    raise TypeError(
                        f"a parameter is a {type(p).__name__}, a tensor subclass without memory of its own "
                        "(FSDP2 makes such parameters): use torch.optim's class of the same name for it"
                    )
                if p.layout != torch.strided:
                    raise TypeError(
                        f"a parameter has layout {p.layout}; only dense parameters are supported: "
                        "use torch.optim.SparseAdam or torch.optim.SGD for it"
                    )
                if real_dtype(p.dtype) not in DTYPES:
                    raise TypeError(
                        f"a parameter has dtype {p.dtype}; supported are float32, float64, bfloat16, float16, "
                        "complex64 and complex128: convert it or leave it out"
                    )
                if p.device.type == "meta":
                    raise TypeError("a parameter is on the meta device: materialise the model before the optimizer")
                device = device or p.device
                if p.device != device:
                    raise ValueError(
                        f"parameters are on {device} and on {p.device}; one optimizer drives one device: "
                        "make one optimizer for each device"
                    )
        return device or torch.device("cpu")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step, and one step of every schedule made with ``fused=True``.

        Args:
            closure: reevaluates the model and returns the loss; optional.

        Returns:
            What ``closure`` returned, else None.

        Raises:
            RuntimeError: a gradient is sparse; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._changes.lent:
            self._take_back_steps()
        schedules = self._schedules
        if self._changes.lr_by_hand and not self._block.capturing():  # there is nothing to be read there
            schedules = self._without_trial_step(schedules)
        if self._structure_changed():
            self._rebuild()
        elif not self._backend.scan(self._table, self._needed):
            self._rebuild()
        for schedule in schedules:
            if schedule.before_advance is not None:
                schedule.before_advance()
        self._backend.update(
            backends.Update(
                self._rule,
                self._table,
                self._block,
                getattr(self, "grad_scale", None),
                getattr(self, "found_inf", None),
                schedules,
            )
        )
        for schedule in schedules:
            schedule.follow()
            schedule.pending = True
        return loss

    def _structure_changed(self) -> bool:
        return self._changes.structure or self.state is not self._known_state or self._groups_changed()

    def _groups_changed(self) -> bool:
        groups, known = self.param_groups, self._group_snapshot
        return not (groups is self._known_groups and len(groups) == len(known) and all(map(is_, groups, known)))

    def _take_back_steps(self) -> None:
        for state in self._changes.lent:
            state.take_back()
        self._changes.lent.clear()

    def _without_trial_step(self, schedules: list[Schedule]) -> list[Schedule]:
        """No schedule advances on the step by which torch's distributed checkpoint creates the state.

        It sets every lr to 0 by hand, makes zero gradients and calls step() on an empty state; SGD without
        momentum has an empty state at any time.
        """
        self._changes.lr_by_hand = False
        trial = schedules and not self.state and all(g["lr"] == 0 for g in self.param_groups)
        return [] if trial else schedules

    def _rebuild(self) -> None:
        """Bring groups, states and table in line with what the user has now."""
        self._check_gradients()
        if self._groups_changed():
            self._adopt_groups()
        if self.state is not self._known_state:
            state, self.state = self.state, OptimizerState(self._changes)
            self._adopt_state(state)
        if not self._table.same_params([g["params"] for g in self.param_groups]):
            self._list_params()
        self._needed = [self._states_needed(g) for g in self.param_groups]
        with torch.no_grad():
            for index, entry in enumerate(self._table.entries):
                self._collect_state(index, entry)
        self._table.lists = [g["params"] for g in self.param_groups]
        self._table.fill(self._needed)
        self._backend.prepare(self._table)
        self._changes.structure = False
        if not self._backend.scan(self._table, self._needed):
            raise RuntimeError("the parameters changed while the table was built: do not step from several threads")

    def _check_gradients(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.layout != torch.strided:
                    raise RuntimeError(
                        f"{type(self).__name__} got a gradient with layout {p.grad.layout}; only dense gradients are "
                        "supported: use sparse=False in the embedding, or torch.optim.SparseAdam"
                    )

    def _adopt_groups(self) -> None:
        """Take in groups that were put into ``param_groups`` as plain dicts."""
        for i, group in enumerate(self.param_groups):
            if not isinstance(group, ParamGroup):
                self._check_params([group])
                self.param_groups[i] = ParamGroup(group, frozenset(self.defaults), self._block, self._changes)
        ordered = [g.index for g in self.param_groups]  # type: ignore[attr-defined]
        if ordered != list(range(self._block.n_groups)):
            self._move_block(self._block.count_capacity)

    def _list_params(self) -> None:
        """Make a table for the present parameters, taking their counts along."""
        old = getattr(self, "_table", None)
        self._known_groups = self.param_groups
        self._group_snapshot = list(self.param_groups)
        self._table = ParameterTable([g["params"] for g in self.param_groups])
        n = len(self._table.entries)
        self._needed = [self._states_needed(g) for g in self.param_groups]
        if n > self._block.count_capacity:
            self._move_block(2 * n)
        if old is not None:
            known = {id(e.param): i for i, e in enumerate(old.entries)}
            counts = self._block.counts.clone()
            self._block.counts.zero_()
            for i, entry in enumerate(self._table.entries):
                if id(entry.param) in known:
                    self._block.counts[i] = counts[known[id(entry.param)]]
            self._backend.discard(old)
        for i, entry in enumerate(self._table.entries):
            state = self.state.get(entry.param)
            if isinstance(state, ParamState):
                state.index = i
        self._changes.structure = True

    def _move_block(self, count_capacity: int) -> None:
        """Continue in a larger or renumbered control block.

        Raises:
            RuntimeError: a captured CUDA graph points to the present one.
        """
        old = self._block
        if old.captured:
            raise RuntimeError(
                "the control block has to grow or to be renumbered, but a captured CUDA graph points to it: "
                "add and remove param groups before the capture, or make a new optimizer"
            )
        block = ControlBlock(old.device, count_capacity, old.platform, old.mirrors)
        for group in self.param_groups:
            index = block.add_group()
            # on the device: what the host has of it may be another number in the last place
            source = old.slot(group.index, "lr")  # type: ignore[attr-defined]
            block.copy_range(block.slot(index, "lr"), old, source, GROUP_STRIDE)
            group.move_to(block, index)  # type: ignore[attr-defined]
        block.counts[: min(old.count_capacity, block.count_capacity)] = old.counts[: block.count_capacity]
        for state in self.state.values():
            if isinstance(state, ParamState):
                state.block = block
        for schedule in self._schedules:
            schedule.block = block
        self._backend.platform.record_stream(old.tensor)
        self._block = block

    def _adopt_state(self, state: dict[Any, Any]) -> None:
        """Fill ``self.state`` from torch's plain form, reusing the tensors that are already in the table."""
        self._take_back_steps()
        self._known_state = self.state
        known = {id(e.param): (i, e) for i, e in enumerate(self._table.entries)}
        seen = set()
        for param, values in state.items():
            if id(param) not in known or not isinstance(values, dict):
                self.state[param] = values
                continue
            index, entry = known[id(param)]
            seen.add(index)
            self._block.counts[index] = 0
            mine = ParamState(self._rule == "adam", self._block, index, self._changes)
            for key, value in values.items():
                mine[key] = self._kept(entry, key, value)
            self.state[param] = mine
        for index, entry in enumerate(self._table.entries):
            if index not in seen:
                entry.state = ()
                self._block.counts[index] = 0

    def _kept(self, entry: Entry, key: str, value: Any) -> Any:
        """``value``, in the tensor that launches already point to if there is one of its kind."""
        if not isinstance(value, torch.Tensor) or key not in self._state_keys:
            return value
        position = self._state_keys.index(key)
        if position < len(entry.state):
            mine = entry.state[position]
            if mine.shape == value.shape and mine.dtype == value.dtype and mine.device == value.device:
                return mine.copy_(value) if mine is not value else mine
        return value.detach().clone()

    def _collect_state(self, index: int, entry: Entry) -> None:
        """Point an entry to its state tensors, making those that are missing."""
        p, needed = entry.param, self._needed[entry.group]
        state = self.state.get(p)
        entry.staging = None
        if p.grad is None and not state:
            entry.state = ()
            return
        if needed and not isinstance(state, ParamState):
            self._block.refuse_in_capture("the optimizer's state was made", WARM_UP)
            values = state or {}
            state = ParamState(self._rule == "adam", self._block, index, self._changes)
            self._block.counts[index] = 0  # there is no state yet, or the user dropped it
            state.update(values)
            self.state[p] = state
        entry.state = self._state_tensors(entry, state, needed) if isinstance(state, ParamState) else ()
        if self._backend.walks_memory and entry.needs_staging():
            entry.staging = Staging.like(p)

    def _state_tensors(self, entry: Entry, state: ParamState, needed: int) -> tuple[torch.Tensor, ...]:
        p = entry.param
        memory_format = state_format(p)
        walkable = memory_format == torch.preserve_format
        dtype = next((state[k].dtype for k in self._state_keys[:needed] if state.get(k) is not None), p.dtype)
        if not state_dtype_fits(p, dtype):
            dtype = p.dtype
        found = []
        for key in self._state_keys[:needed]:
            tensor = state.get(key)
            if tensor is None:
                self._block.refuse_in_capture(f"the optimizer's state {key!r} was made", WARM_UP)
                tensor = torch.zeros_like(p, dtype=dtype, memory_format=memory_format)
                state.store(key, tensor)
            elif tensor.shape != p.shape:
                raise ValueError(
                    f"state {key!r} has shape {tuple(tensor.shape)}, but its parameter has {tuple(p.shape)}: "
                    "assign a tensor of the parameter's shape, or delete the entry"
                )
            elif (
                tensor.dtype != dtype
                or tensor.device != p.device
                or not (same_layout(tensor, p) if walkable else tensor.is_contiguous())
            ):
                tensor = torch.empty_like(p, dtype=dtype, memory_format=memory_format).copy_(tensor)
                state.store(key, tensor)
            found.append(tensor.detach())
        return tuple(found)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group, as in torch.

        Raises:
            ValueError: its parameters are on another device.
            TypeError: a parameter's dtype or layout is not supported.
        """
        super().add_param_group(param_group)
        if "_block" not in self.__dict__:
            return  # torch's constructor is still collecting groups
        try:
            device = self._check_params([self.param_groups[-1]])
            if device != self._block.device and self.param_groups[-1]["params"]:
                raise ValueError(
                    f"the new group is on {device}, the optimizer on {self._block.device}; "
                    "one optimizer drives one device: make one optimizer for each device"
                )
            self.param_groups[-1] = ParamGroup(
                self.param_groups[-1], frozenset(self.defaults), self._block, self._changes
            )
        except Exception:
            del self.param_groups[-1]
            raise
        self._list_params()

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's format; it loads into torch's class of the same name, and back.

        Hyperparameters are those that the device has, to the last place, so that a run goes on from them as it would.
        """
        self._block.expire()
        packed = super().state_dict()
        packed["state"] = self._plain_state(packed["state"])
        for group in packed["param_groups"]:
            if isinstance(group.get("lr"), torch.Tensor):
                group["lr"] = group["lr"].clone()  # saving the view would save the whole control block
        return packed

    def _plain_state(self, state: dict[Any, Any]) -> dict[Any, Any]:
        plain: dict[Any, Any] = {}
        for key, values in state.items():
            if isinstance(values, ParamState):
                empty = self._rule == "sgd" and values.count == 0
                values = {k: v for k, v in values.items() if not (empty and k == "momentum_buffer")}
                if not values:
                    continue
            plain[key] = values
        return plain

    def __getstate__(self) -> dict[str, Any]:
        self._block.expire()
        return {
            "defaults": self.defaults,
            "state": defaultdict(dict, self._plain_state(self.state)),
            "param_groups": self.param_groups,
            "_backend_given": self._backend_given,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = self.__dict__.get("param_groups")
        super().__setstate__(state)
        if "_block" not in self.__dict__:
            self._start(self.__dict__.get("_backend_given"))
            return
        by_hand = self._changes.lr_by_hand
        for group, loaded in zip(groups, self.param_groups, strict=True):  # type: ignore[arg-type]
            if group is not loaded:
                group.replace(loaded)
        self._changes.lr_by_hand = by_hand
        self.param_groups = groups  # type: ignore[assignment]
        loaded_state, self.state = self.state, OptimizerState(self._changes)
        self._adopt_state(loaded_state)
        self._changes.structure = True
