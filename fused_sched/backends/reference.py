"""The reference backend: the same update and program as plain torch operations, on any device.

It is the oracle for the other backends and what runs where no compiler was found. Hyperparameters on
the CPU are read as Python floats; elsewhere they stay 0-d float64 tensors, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..memory.bindings import imported
from ..memory.control_block import FIELDS, FLAGS, GROUP_STRIDE, GROUPS_OFFSET, HEADER, NO_COUNT, ControlBlock
from ..memory.masters import store_value, value_of
from ..memory.parameter_table import real_view
from ..memory.platforms import TORCH, Platform
from ..memory.stochastic import draw_bits, rounded_by_chance
from ..program.operations import FIELD_OPERATIONS, host_function
from ..program.program import Operation
from ..rules import Scalar, is_zero
from .base import Backend, Measurement, Update
from .reference_measure import measure

if TYPE_CHECKING:
    from ..memory.parameter_table import Entry
    from ..program.schedule import Run

Function = Callable[..., torch.Tensor]


class Row:
    """Hyperparameters of one group as scalars."""

    def __init__(self, block: ControlBlock, row: int) -> None:
        self._block, self._row = block, row
        flags = int(block.host[block.slot(row, "flags")])  # only the host writes flags
        self.flags = {name: bool(flags & bit) for name, bit in FLAGS.items()}

    def __getattr__(self, field: str) -> Scalar:
        block = self._block
        slot = block.slot(self._row, field)
        tensor = block.bindings.get(self._row, field)
        if block.remote:
            return block.tensor[slot] if tensor is None else _imported(block.tensor[slot], tensor)
        return block.host[slot] if tensor is None else imported(block.host[slot], tensor)


def _imported(kept: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """What a field that follows a tensor is read as."""
    given = tensor.detach().reshape(())
    return torch.where(given == kept.to(given.dtype), kept, given.to(kept.dtype))


def _wide(x: torch.Tensor) -> torch.Tensor:
    """16-bit types are computed in float32."""
    x = real_view(x)
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class ReferenceBackend(Backend):
    """See the module.

    Args:
        platform: see :class:`Backend`.
        functions: the arithmetic operations of programs; default :data:`TORCH_FUNCTIONS`.
    """

    name = "reference"

    def __init__(self, platform: Platform = TORCH, functions: Mapping[str, Function] | None = None) -> None:
        super().__init__(platform)
        self._functions = TORCH_FUNCTIONS if functions is None else functions

    def measure(self, measurement: Measurement) -> None:
        measure(measurement)

    @torch.no_grad()
    def update(self, update: Update) -> None:
        block = update.block
        skip = self._skip(update)
        entries = [e for e in update.table.entries if not e.inert]
        rows = {index: Row(block, index) for index in {entry.row for entry in entries}}
        for entry in entries:
            row = rows[entry.row]
            if entry.grad is not None:
                self._update_one(update, entry, row, block.counts[entry.count], skip)
            if entry.average is not None:
                _average(_value(entry), entry.average, row.ema_decay, skip)
        if update.zeroes:
            for entry in entries:
                if entry.grad is not None:
                    entry.grad.detach().zero_()
        if update.draws:
            updates = block.integers[HEADER["updates"]]
            updates += 1 if skip is None else (~skip).to(updates.dtype)
        for schedule in update.schedules:
            self.advance(schedule)

    @staticmethod
    def _skip(update: Update) -> torch.Tensor | None:
        """Whether the update changes nothing, None if it cannot be; the header says so too."""
        header = update.block.integers
        if update.measured:
            return header[HEADER["skipped"]] != 0
        skip = None if update.found_inf is None else update.found_inf.reshape(()) != 0
        header[HEADER["skipped"]] = 0 if skip is None else skip
        return skip

    @staticmethod
    def _update_one(update: Update, entry: Entry, row: Row, count: torch.Tensor, skip: torch.Tensor | None) -> None:
        grad = entry.grad
        assert grad is not None
        p = _value(entry)
        g = _wide(grad).to(p.dtype)
        unscaled = None
        if update.grad_scale is not None:
            g = unscaled = g / update.grad_scale.to(g.device).reshape(())
        if update.clipped:
            g = g * update.block.measured(entry.row, "clip_factor").to(g.dtype)
        if row.flags["maximize"]:
            g = -g
        if update.rule.decay_is_coupled(row) and not is_zero(row.weight_decay):
            if update.block.remote:
                g = torch.where(row.weight_decay != 0, g + row.weight_decay * p, g)
            else:  # the very operation of torch's for-loop: what decay leaves of a gradient may be rounding
                g = torch.add(g, p, alpha=row.weight_decay)
        number: Scalar = count.double() if update.block.remote else int(count)
        new = update.rule.compute(p, g, [_wide(s) for s in entry.state], row, number)
        _store_param(new.pop(0), p, entry, update.block, skip)
        for target, value in zip(entry.state, new, strict=True):
            _store(value, target, skip)
        if unscaled is not None:
            _store(unscaled, grad, skip)
        if entry.count == NO_COUNT:
            return
        counted = torch.ones((), dtype=torch.int64, device=count.device)
        if update.rule.counts is not None:
            counted = counted * update.rule.counts(row)
        count += counted if skip is None else counted * ~skip

    def advance(self, schedule: Run) -> None:
        block, skipped = schedule.block, None
        writes = _evaluate(schedule, self._functions)
        if schedule.guarded:
            skipped = block.integers[HEADER["skipped"]] != 0
            writes = [(tensor, at, torch.where(skipped, tensor[at], value)) for tensor, at, value in writes]
        for tensor, at, value in writes:
            tensor[at] = value
        for field in schedule.program.fields_written & block.bindings.fields:
            _export(block, schedule.rows, field, skipped)


def _value(entry: Entry) -> torch.Tensor:
    """A parameter in the type computed in, with the digits of its master where it has one."""
    return _wide(entry.param) if entry.master is None else value_of(entry.param, entry.master)


def _store_param(
    value: torch.Tensor, before: torch.Tensor, entry: Entry, block: ControlBlock, skip: torch.Tensor | None
) -> None:
    """Where a new value becomes what the parameter stores; ``before``: the value that it comes from."""
    if entry.stream is not None:
        header = block.integers
        drawn = draw_bits(header[HEADER["seed"]], header[HEADER["updates"]], entry.stream, entry.param)
        _store(rounded_by_chance(value, drawn, entry.param.dtype), entry.param, skip)
    elif entry.master is None:
        _store(value, entry.param, skip)
    else:
        store_value(value if skip is None else torch.where(skip, before, value), entry.param, entry.master)


def _store(value: torch.Tensor, target: torch.Tensor, skip: torch.Tensor | None) -> None:
    place = target.detach()
    if place.is_complex():
        value = torch.view_as_complex(value.contiguous())
    place.copy_(value if skip is None else torch.where(skip, place, value))


def _average(p: torch.Tensor, average: torch.Tensor, decay: Scalar, skip: torch.Tensor | None) -> None:
    """Let an average follow a parameter, as torch's ``get_ema_multi_avg_fn``; NaN begins with the parameter."""
    a = _wide(average)
    new = torch.lerp(a, p.to(a.dtype), torch.as_tensor(1 - decay, dtype=a.dtype, device=a.device))
    _store(torch.where(a.isnan(), p.to(a.dtype), new), average, skip)


def _import(block: ControlBlock, rows: Sequence[int], field: str) -> torch.Tensor:
    """A field of some rows, where it follows a tensor as that says."""
    values = []
    for row in rows:
        kept, tensor = block.tensor[block.slot(row, field)], block.bindings.get(row, field)
        values.append(kept if tensor is None else _imported(kept, tensor))
    return torch.stack(values) if values else block.tensor[:0].clone()


@torch.no_grad()
def _export(block: ControlBlock, rows: Sequence[int], field: str, skipped: torch.Tensor | None) -> None:
    """Write a field of some rows to the tensors that it follows, unless the advance was ``skipped``."""
    for row in rows:
        tensor = block.bindings.get(row, field)
        if tensor is not None and block.bindings.writes(row, field):
            place, value = tensor.detach(), block.tensor[block.slot(row, field)].reshape(tensor.shape)
            place.copy_(value if skipped is None else torch.where(skipped, place.to(value.dtype), value))


def _evaluate(schedule: Run, functions: Mapping[str, Function]) -> list[tuple[torch.Tensor, Any, torch.Tensor]]:
    """What one advance writes: (tensor, index, new values); values are 0-d when uniform, else one a group."""
    program, memory, control = schedule.program, schedule.memory.tensor, schedule.block.tensor
    n = program.n_groups
    rows = GROUPS_OFFSET + memory[program.rows_offset : program.rows_offset + n].long() * GROUP_STRIDE
    values: list[torch.Tensor] = []
    writes: list[tuple[torch.Tensor, Any, torch.Tensor]] = []

    def place(op: Operation) -> tuple[torch.Tensor, Any]:
        assert op.symbol is not None
        if op.name in FIELD_OPERATIONS:
            return control, rows + FIELDS[op.symbol]
        offset = program.offsets[op.symbol]
        return memory, slice(offset, offset + n) if op.name in ("load_group", "store_group") else offset

    for op in program.operations:
        operands = [values[i] for i in op.operands]
        if op.name.startswith("store"):
            values.append(operands[0])
            writes.append((*place(op), operands[0]))
        elif op.name == "bound_field":
            assert op.symbol is not None
            values.append(_import(schedule.block, schedule.rows, op.symbol))
        elif op.name in ("load", "load_group", "field"):
            tensor, at = place(op)
            values.append(tensor[at].clone())
        elif op.name == "lookup":
            assert op.symbol is not None
            slot, offset = program.memory[op.symbol], program.offsets[op.symbol]
            table = memory[offset : offset + len(slot.initial)].view(-1, slot.width)
            row = operands[0].nan_to_num(0.0).clamp(0, table.shape[0] - 1).long()
            column = torch.arange(slot.width, dtype=torch.int64, device=memory.device) if slot.width > 1 else 0
            values.append(table[row, column])
        else:
            values.append(functions[op.name](*operands))
    return writes


def _mod(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # Python's %. On the CPU torch.remainder and fmod give NaN where the quotient overflows: reduce in three steps.
    far = b * 2.0**700
    rest = torch.fmod(torch.fmod(torch.fmod(a, far * 2.0**700), far), b)
    signed = torch.where((b < 0) != (rest < 0), rest + b, rest)
    return torch.where(rest == 0, torch.copysign(rest, b), signed)


def _floordiv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # torch's floor_divide follows Python, but gives NaN where a program gives IEEE division by zero
    return torch.where(b == 0, a / b, torch.floor_divide(a, b))


def _sqrt(a: torch.Tensor) -> torch.Tensor:
    # torch's on the CPU is a library's, whose last place is not always that of IEEE
    if a.device.type != "cpu":
        return torch.sqrt(a)
    root = host_function("sqrt")
    return torch.tensor([root(x) for x in a.reshape(-1).tolist()], dtype=a.dtype, device=a.device).reshape(a.shape)


def _truth(f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda a, b: f(a, b).double()


TORCH_FUNCTIONS: dict[str, Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "mod": _mod,
    "floordiv": _floordiv,
    "min": lambda a, b: torch.where(b < a, b, a),
    "max": lambda a, b: torch.where(b > a, b, a),
    "lt": _truth(torch.lt),
    "le": _truth(torch.le),
    "eq": _truth(torch.eq),
    "ne": _truth(torch.ne),
    "and": _truth(torch.logical_and),
    "or": _truth(torch.logical_or),
    "not": lambda a: (a == 0).double(),
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": _sqrt,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "cos": torch.cos,
    "sin": torch.sin,
    "tan": torch.tan,
    "atan": torch.atan,
    "tanh": torch.tanh,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "where": lambda c, a, b: torch.where(c != 0, a, b),
}


def make(platform: Platform) -> Backend:
    return ReferenceBackend(platform)
