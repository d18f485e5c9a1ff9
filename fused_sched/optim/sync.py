"""From groups, parameters and state as the user has them now to the entries of a table; nothing is changed here."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..memory.control_block import NO_COUNT, ControlBlock
from ..memory.masters import value_of
from ..memory.parameter_table import (
    Entry,
    ParameterTable,
    Staging,
    dtype_beside,
    layers,
    same_layout,
    state_dtype_fits,
    state_format,
)
from ..memory.shards import local, number_of_part
from ..memory.stochastic import STREAMS
from ..memory.values import check_values
from ..rules import Rule
from ..step_options import AVERAGE, STREAM, StepOptions
from .checks import (
    check_complete,
    check_dtype,
    check_shape,
    check_trainable,
    refuse_shared_elements,
    refuse_sparse,
    why_not_trainable,
)
from .param_group import ParamGroup
from .param_state import OptimizerState, ParamState, holds_numbers, start_anew, stored_average
from .rounding import check_stream, first_free_stream
from .sparse import reserve_buffer

_PARTS_APART = 0x9E3779B1  # between the streams of two parts of a parameter: an odd number of 32 bits
WARM_UP = "run one optimizer.step() with all gradients before the capture"


@dataclass
class Sync:
    """What becomes of groups, parameters and state once :meth:`FusedOptimizer.sync` takes it over.

    Attributes:
        tables: the first has every parameter. Where the memory of parameters overlaps, the later ones are updated by
            further tables, in their order.
        states: new ones, by parameter.
        tensors: by identity of a state and key, the state and what to put there without saying that it holds something.
        streams: by identity of a state, the state and the number that is to choose its parameter's random bits.
        begun: by identity of a group, what :meth:`_has_begun` gives.
        averages: by identity of a parameter, how often it is still to come in groups that have averages.
    """

    rule: Rule
    block: ControlBlock
    state: OptimizerState
    scheduled: Collection[str]
    walks_memory: bool
    options: StepOptions
    tables: list[ParameterTable] = field(default_factory=list)
    states: dict[torch.Tensor, ParamState] = field(default_factory=dict)
    tensors: dict[tuple[int, str], tuple[ParamState, torch.Tensor]] = field(default_factory=dict)
    streams: dict[int, tuple[ParamState, int]] = field(default_factory=dict)
    begun: dict[int, torch.Tensor | None] = field(default_factory=dict)
    averages: Counter[int] = field(default_factory=Counter)
    _next_stream: int | None = None

    def build(self, groups: Sequence[ParamGroup]) -> None:
        """Make the tables.

        Raises:
            TypeError, ValueError, KeyError, RuntimeError: something is there that an update cannot do with.
        """
        lists, entries = [], []
        self.averages = Counter(id(p) for group in groups if "ema_decay" in group for p in group["params"])
        for group in groups:
            group.check()
            params = group["params"]
            lists.append(params if isinstance(params, list) else list(params))
            needed = self.rule.states_needed(group, self.scheduled)
            entries += [self._entry(p, group, needed) for p in lists[-1]]
        self._make_tables(lists, entries)

    def _make_tables(self, lists: list[list[torch.Tensor]], entries: list[Entry]) -> None:
        rounds = layers(entries)
        if any(rounds):
            self._separate_counts(entries)
        for number in range(1, max(rounds, default=0) + 1):
            later = [e for e, r in zip(entries, rounds, strict=True) if r == number]
            self.tables.append(ParameterTable([[e.param for e in later]], later))
        first = []
        for entry, number in zip(entries, rounds, strict=True):
            if number > 0:
                entry = copy.copy(entry)
                entry.elsewhere = True
            first.append(entry)
        self.tables.insert(0, ParameterTable(lists, first))

    def _separate_counts(self, entries: list[Entry]) -> None:
        """Let an entry that occurs again in a group have its own answer to whether the buffer holds anything.

        Torch reads all buffers of a group before it updates its first parameter, so in a first step each of the group
        that comes first finds none.
        """
        if self.rule.step_key is not None:
            return
        first: dict[int, int] = {}  # by count, the row where it occurs first
        for entry in entries:
            if entry.count == NO_COUNT:
                continue
            if first.get(entry.count) == entry.row:
                entry.copied_count = self.block.claim_count()
                self.block.counts[entry.copied_count.index] = self.block.counts[entry.count]
                entry.count = entry.copied_count.index
            else:
                first.setdefault(entry.count, entry.row)

    def _entry(self, p: torch.Tensor, group: ParamGroup, needed: int) -> Entry:
        values = self.states[p] if p in self.states else self.state.get(p)
        entry = Entry(p, group.row, needed)
        averaged, mastered = "ema_decay" in group, self.options.master(p.dtype)
        by_chance = self.options.rounds_by_chance(p.dtype)
        beside = averaged or by_chance or mastered is not None
        self.averages[id(p)] -= averaged
        follows = averaged and self.averages[id(p)] == 0  # once, where it is listed several times
        mine, grad = entry.param, entry.grad
        if grad is None:
            unfit = why_not_trainable(p, self.block.device, self.options) is not None
            if unfit or not values:
                # without states that would be missed, a scan would not see that what is beside them has to be made
                entry.asleep = unfit or mine.numel() == 0 or (beside and needed == 0)
                return entry
        check_trainable(p, self.block.device, self.options)
        check_values("a parameter", mine)
        if self._is_sparse(grad, values):
            entry.sparse = True
            refuse_sparse(p, averaged, self.options)
            if needed:
                state = self._state_of(p, values)
                entry.count = state.index
                if grad is not None:
                    reserve_buffer(grad, state, self.tensors)
            return entry
        if needed or follows or by_chance or mastered is not None:
            state = self._state_of(p, values)
            entry.count, entry.state_dtype = state.index, self.options.state_dtype_of(p.dtype)
            entry.state = self._state_tensors(p, state, needed)
            if by_chance:
                entry.stream = (self._stream(state) + number_of_part(p) * _PARTS_APART) % STREAMS
            if mastered is not None:
                entry.master = self._master(p, state, *mastered)
            if follows:
                entry.average = self._average(entry, state, group)
        if self.walks_memory and entry.needs_staging():
            refuse_shared_elements(mine)
            entry.staging = Staging.like(mine)
        return entry

    def _is_sparse(self, grad: torch.Tensor | None, values: Any) -> bool:
        """Whether torch's operations update a parameter: its gradient is sparse, or was when its state was made."""
        if grad is not None:
            return grad.layout == torch.sparse_coo
        kept = [values.stored(key) for key in self.rule.state_keys] if isinstance(values, ParamState) else []
        return any(isinstance(t, torch.Tensor) and t.layout == torch.sparse_coo for t in kept)

    def _state_of(self, p: torch.Tensor, values: Any) -> ParamState:
        if isinstance(values, ParamState) and values.lives_in(self.block):
            return values
        self.block.refuse_in_capture("the optimizer's state was made", WARM_UP)
        self.states[p] = made = self.state.make(dict(values or {}))
        return made

    def _state_tensors(self, p: torch.Tensor, state: ParamState, needed: int) -> tuple[torch.Tensor, ...]:
        keys = self.rule.state_keys[:needed]
        check_complete(self.rule, state, keys[: self.rule.optional_state])  # amsgrad may be switched on in mid-run
        wanted = self.options.state_dtype_of(p.dtype)
        dtype = next((t.dtype for t in map(state.stored, keys) if isinstance(t, torch.Tensor)), None)
        dtype = dtype or wanted or dtype_beside(p)
        if not state_dtype_fits(p, dtype, wanted):
            dtype = wanted or p.dtype
        return tuple(self._state_tensor(p, state, key, dtype) for key in keys)

    def _state_tensor(self, p: torch.Tensor, state: ParamState, key: str, dtype: torch.dtype) -> torch.Tensor:
        """What launches point to of a state tensor: the part that is here, where the parameter is a DTensor."""
        mine = local(p)
        memory_format = state_format(mine)
        place = id(state), key
        tensor = self.tensors[place][1] if place in self.tensors else state.stored(key)
        if isinstance(tensor, torch.Tensor) and tensor.layout != torch.strided and state.holds_nothing:
            tensor = None
        if tensor is None:
            self.block.refuse_in_capture(f"the optimizer's state {key!r} was made", WARM_UP)
            tensor = start_anew(key, torch.empty_like(p, dtype=dtype, memory_format=memory_format, requires_grad=False))
            self.tensors[place] = state, tensor
            return local(tensor).detach()
        check_shape(p, key, tensor)
        check_dtype(key, tensor)
        if tensor.layout != torch.strided:
            raise RuntimeError(
                f"a gradient is dense, but its parameter's {key!r} is sparse, as its gradients were before, and torch "
                f"cannot add the one to the other: delete the state, or assign {key}.to_dense()"
            )
        walkable = memory_format == torch.preserve_format
        kept = local(tensor)
        fits = same_layout(kept, mine) and not kept.is_neg() if walkable else kept.is_contiguous()
        if kept.dtype != dtype or kept.device != mine.device or not fits or kept.is_conj():
            tensor = torch.empty_like(p, dtype=dtype, memory_format=memory_format)
            local(tensor).copy_(kept)
            self.tensors[place] = state, tensor
        return local(tensor).detach()

    def _stream(self, state: ParamState) -> int:
        """What chooses the random bits of a parameter: its state's own number."""
        stored = state.stored(STREAM)
        if stored is not None:
            return check_stream(stored)
        if id(state) not in self.streams:
            if self._next_stream is None:
                self._next_stream = first_free_stream([*self.state.values(), *self.states.values()])
            self.streams[id(state)] = state, self._next_stream
            self._next_stream = (self._next_stream + 1) % STREAMS
        return self.streams[id(state)][1]

    def _master(self, p: torch.Tensor, state: ParamState, key: str, dtype: torch.dtype) -> torch.Tensor:
        """The master of a parameter; it begins as that."""
        place = id(state), key
        is_new = state.stored(key) is None and place not in self.tensors
        master = self._state_tensor(p, state, key, dtype)
        if is_new and dtype.is_floating_point:
            local(self.tensors[place][1]).copy_(local(p).detach())
        return master  # a remainder of 0 is the parameter too

    def _average(self, entry: Entry, state: ParamState, group: ParamGroup) -> torch.Tensor:
        """The averaged copy of a parameter.

        Torch's AveragedModel begins with all parameters at once. So where the others of a group have begun, one whose
        first gradient comes later begins as what it has been so far. The device alone may know whether they have.
        """
        p, mine = entry.owner, entry.param
        is_new = state.stored(AVERAGE) is None and (id(state), AVERAGE) not in self.tensors
        average = self._state_tensor(p, state, AVERAGE, self.options.average_dtype(p.dtype))
        if is_new and mine.numel() > 0:
            if id(group) not in self.begun:
                self.begun[id(group)] = self._has_begun(group)
            others = self.begun[id(group)]
            if others is not None:
                stored = local(self.tensors[id(state), AVERAGE][1])
                value = mine.detach() if entry.master is None else value_of(mine, entry.master)
                stored.copy_(torch.where(others, value.to(stored.dtype), stored))
        return average

    def _has_begun(self, group: ParamGroup) -> torch.Tensor | None:
        """Whether an average that some parameter of a group has had already holds something, 0-d; None if none has."""
        averages = [stored_average(self.state.get(p)) for p in group["params"]]
        flags = [holds_numbers(a.detach()) for a in averages if a is not None and a.numel() > 0]
        return torch.stack(flags).any() if flags else None
