"""From groups, parameters and state as the user has them now to the entries of a table; nothing is changed here."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..memory.control_block import NO_COUNT, ControlBlock
from ..memory.masters import value_of
from ..memory.parameter_table import (
    DTYPES,
    KINDS,
    Entry,
    ParameterTable,
    Staging,
    dtype_beside,
    layers,
    real_dtype,
    real_view,
    same_layout,
    state_dtype_fits,
    state_format,
)
from ..memory.shards import has_partial, how_spread, is_shard, local, number_of_part, spread_alike
from ..memory.stochastic import STREAMS
from ..memory.values import USE_TORCHS, check_values
from ..rules import Rule
from ..step_options import AVERAGE, REMAINDER, STREAM, StepOptions
from .param_group import ParamGroup
from .param_state import OptimizerState, ParamState, start_anew, stored_average
from .rounding import check_stream, first_free_stream
from .sparse import reserve_buffer

_PARTS_APART = 0x9E3779B1  # between the streams of two parts of a parameter: an odd number of 32 bits
WARM_UP = "run one optimizer.step() with all gradients before the capture"


def why_not_trainable(p: Any, device: torch.device | None, options: StepOptions) -> Exception | None:
    """What keeps a parameter from being updated; None if nothing does.

    Args:
        p: the parameter.
        device: of the optimizer; None if it is not known yet.
        options: of the optimizer.

    Returns:
        TypeError for its kind, layout or dtype, ValueError for its device.
    """
    if has_partial(p):
        return TypeError(
            f"a parameter is {how_spread(p)}, whose parts have still to be added up: redistribute() it to Shard or "
            "Replicate before the optimizer is made"
        )
    p = local(p)
    if isinstance(p, FakeTensor) or torch._is_functional_tensor(p):
        return TypeError(
            f"a parameter is a {type(p).__name__} without values: make the optimizer of parameters made outside of "
            f"FakeTensorMode and functionalization, or {USE_TORCHS}"
        )
    if is_traceable_wrapper_subclass(p):
        return TypeError(
            f"a parameter, or the part of a DTensor that is here, is a {type(p).__name__}, a tensor subclass without "
            "memory of its own: use torch.optim's class of the same name for it"
        )
    if p.layout != torch.strided:
        return TypeError(
            f"a parameter has layout {p.layout}; only dense parameters are supported: "
            "use torch.optim.SparseAdam or torch.optim.SGD for it"
        )
    if real_dtype(p.dtype) not in DTYPES:
        return TypeError(
            f"a parameter has dtype {p.dtype}; supported are float32, float64, bfloat16, float16, "
            "complex64 and complex128: convert it or leave it out"
        )
    if p.device.type == "meta":
        return TypeError("a parameter is on the meta device: materialise the model before the optimizer")
    if device is not None and p.device != device:
        return ValueError(
            f"a parameter is on {p.device}, the optimizer on {device}; one optimizer drives one device: make one "
            "optimizer for each device, and move a model before its optimizer is made"
        )
    return _why_not_so_precise(p.dtype, options)


def _why_not_so_precise(param: torch.dtype, options: StepOptions) -> TypeError | None:
    """What keeps a parameter from having the states that are asked for."""
    if options.master_weights == "remainder" and param == torch.float16:
        return TypeError(
            "master_weights='remainder' keeps what a bfloat16 lacks of a float32, but a parameter is of torch.float16: "
            "use master_weights='float32', or make an optimizer of its own for it"
        )
    states = options.state_dtype
    if states is not None and (param, param, states) not in KINDS:
        fitting = [str(p) for p in DTYPES if (p, p, states) in KINDS]
        return TypeError(
            f"state_dtype={states} goes with parameters of {', '.join(fitting)}, but one is of {param}: make an "
            "optimizer of its own for it"
        )
    return None


def check_trainable(p: torch.Tensor, device: torch.device | None, options: StepOptions) -> None:
    """Raise what :func:`why_not_trainable` says."""
    reason = why_not_trainable(p, device, options)
    if reason is not None:
        raise reason


def check_params(
    groups: Iterable[Mapping[str, Any]], options: StepOptions, device: torch.device | None = None
) -> torch.device | None:
    """Make sure that all parameters that want a gradient can be updated, and are on one device.

    Returns:
        The device: that given, else that of the first parameter that wants a gradient, else of the first one.

    Raises:
        TypeError, ValueError: see :func:`why_not_trainable`.
    """
    params = [p for group in groups for p in group["params"]]
    for p in params:
        if p.requires_grad:
            check_trainable(p, device, options)
            device = device or p.device
    return device or next((p.device for p in params if p.device.type != "meta"), None)


def check_gradients(groups: Iterable[Mapping[str, Any]], kind: str, takes_sparse: bool) -> None:
    """Raise RuntimeError if a gradient is sparse and may not be, TypeError if it has no values, or not its parameter's.

    ValueError, if it is a DTensor that is not spread as its parameter is.
    """
    for group in groups:
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            _check_spread(p, g)
            g = local(g)
            if g.layout == torch.sparse_coo and takes_sparse:
                continue
            if g.layout != torch.strided:
                raise RuntimeError(
                    f"{kind} got a gradient with layout {g.layout}; only dense gradients are supported: "
                    "use sparse=False in the embedding, torch.optim.SparseAdam or SGD"
                )
            check_values("a gradient", g)


def _check_spread(p: torch.Tensor, g: torch.Tensor) -> None:
    """Raise TypeError or ValueError unless each process has the same part of a gradient as of its parameter."""
    if is_shard(p) != is_shard(g):
        raise TypeError(
            f"a parameter is {how_spread(p)}, but its gradient is {how_spread(g)}: assign a gradient of its "
            "parameter's kind, as distribute_tensor() or full_tensor() makes it"
        )
    if not spread_alike(p, g):
        raise ValueError(
            f"a parameter is {how_spread(p)}, but its gradient is {how_spread(g)}: assign "
            "p.grad = p.grad.redistribute(p.device_mesh, p.placements) before step()"
        )


@dataclass
class Sync:
    """What becomes of groups, parameters and state once :meth:`FusedOptimizer.sync` takes it over.

    Attributes:
        tables: the first has every parameter. Where the memory of parameters overlaps, the later ones are updated by
            further tables, in their order.
        states: new ones, by parameter.
        tensors: by identity of a state and key, the state and what to put there without saying that it holds something.
        streams: by identity of a state, the state and the number that is to choose its parameter's random bits.
        begun: by identity of a group, what :meth:`_begun_average` gives.
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
            _refuse_sparse(p, averaged, self.options)
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
            _refuse_shared_elements(mine)
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
                self.begun[id(group)] = self._begun_average(group)
            first = self.begun[id(group)]
            if first is not None:
                stored = local(self.tensors[id(state), AVERAGE][1])
                value = mine.detach() if entry.master is None else value_of(mine, entry.master)
                stored.copy_(torch.where(first.isnan(), stored, value.to(stored.dtype)))
        return average

    def _begun_average(self, group: ParamGroup) -> torch.Tensor | None:
        """An element of an average that some parameter of a group has had already; None if none has."""
        for p in group["params"]:
            average = stored_average(self.state.get(p))
            if average is not None and average.numel() > 0:
                return first_number(average)
        return None


def first_number(tensor: torch.Tensor) -> torch.Tensor:
    """The first of a tensor's numbers, 0-d."""
    return real_view(tensor).as_strided((), ())


def check_complete(rule: Rule, state: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise KeyError if a state that has begun lacks something, where torch raises it too."""
    if rule.step_key is None or not state:
        return
    for key in (rule.step_key, *keys):
        if key not in state:
            raise KeyError(
                f"the state of a parameter has {', '.join(map(repr, state))}, but no {key!r}: assign it, or delete "
                "the whole entry, so that it begins anew"
            )


def check_shape(p: torch.Tensor, key: str, tensor: Any) -> None:
    """Raise TypeError or ValueError if a state is not a tensor of its parameter's shape."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"state {key!r} is {tensor!r}, but must be a tensor of its parameter's shape: assign one")
    check_values(f"state {key!r}", local(tensor))
    if tensor.shape != p.shape:
        raise ValueError(
            f"state {key!r} has shape {tuple(tensor.shape)}, but its parameter has {tuple(p.shape)}: "
            "assign a tensor of the parameter's shape, or delete the entry"
        )
    if not spread_alike(p, tensor):
        raise ValueError(
            f"state {key!r} is {how_spread(tensor)}, but its parameter is {how_spread(p)}: redistribute() it, or make "
            "it by distribute_tensor(), as torch.distributed.checkpoint does, or delete the entry"
        )


def check_dtype(key: str, tensor: torch.Tensor) -> None:
    """Raise TypeError if what are bits of numbers is given as numbers."""
    if key == REMAINDER and tensor.dtype != torch.int16:
        raise TypeError(
            f"state {key!r} has dtype {tensor.dtype}, but must have torch.int16, the bits that parameters lack: assign "
            "such a tensor, or delete it, and the parameter is all that counts"
        )


def _refuse_sparse(p: torch.Tensor, averaged: bool, options: StepOptions) -> None:
    """torch's operations, which apply a sparse gradient, know only what the parameter itself stores."""
    if averaged:
        raise RuntimeError(
            "ema_decay with a sparse gradient, whose parameter is not averaged: put the parameter into a group "
            "without ema_decay, or use dense gradients"
        )
    if options.state_dtype is not None:
        raise RuntimeError(
            f"state_dtype={options.state_dtype} with a sparse gradient, whose momentum buffer has its dtype: use dense "
            "gradients, or an optimizer of its own for the embedding"
        )
    if options.master(p.dtype) is not None:
        raise RuntimeError(
            f"master_weights={options.master_weights!r} with a sparse gradient, which is applied to the {p.dtype} "
            "parameter itself: use dense gradients, or an optimizer of its own for the embedding"
        )
    if options.rounds_by_chance(p.dtype):
        raise RuntimeError(
            f"stochastic_rounding=True with a sparse gradient, by which a {p.dtype} parameter would be rounded to the "
            "nearest: use dense gradients, or an optimizer of its own for the embedding"
        )


def _refuse_shared_elements(p: torch.Tensor) -> None:
    """An update of such a parameter could not be written back."""
    if any(stride == 0 and size > 1 for size, stride in zip(p.shape, p.stride(), strict=True)):
        raise RuntimeError(
            f"a parameter of shape {tuple(p.shape)} and strides {p.stride()} has elements that share memory, as after "
            "expand(): clone() it before the optimizer is made"
        )
    if p.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("a parameter was made in inference mode, where it cannot be updated outside: clone() it")
