"""SGD with sparse gradients, by torch's own operations and beside the kernels that update all other parameters.

Torch's for-loop adds a sparse gradient to a dense parameter, and keeps a sparse momentum buffer. On the CPU the same
operations run here. Elsewhere hyperparameters, the count and ``found_inf`` stay on the device, and what they decide is
computed there, so that nothing waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..backends import Update
from ..backends.reference import Row
from ..memory.control_block import NO_COUNT, ControlBlock
from ..memory.parameter_table import Entry, ParameterTable
from .param_state import ParamState

BUFFER = "momentum_buffer"


def reserve_buffer(
    g: torch.Tensor, state: ParamState, reserved: dict[tuple[int, str], tuple[ParamState, torch.Tensor]]
) -> None:
    """Have a momentum buffer for a sparse gradient that means "nothing yet", where there is none."""
    kept = state.stored(BUFFER)
    if kept is None or (kept.layout != torch.sparse_coo and state.holds_nothing):
        indices = torch.empty(g.sparse_dim(), 0, dtype=torch.int64, device=g.device)
        values = torch.empty(0, *g.shape[g.sparse_dim() :], dtype=g.dtype, device=g.device)
        empty = torch.sparse_coo_tensor(indices, values, g.shape, dtype=g.dtype, check_invariants=False)
        reserved[id(state), BUFFER] = state, empty


def check_sparse(table: ParameterTable, block: ControlBlock, state: Mapping[Any, Any]) -> None:
    """Raise RuntimeError where torch raises it in the middle of a step, and inside a CUDA graph capture."""
    for entry in table.sparse:
        if entry.grad is None:
            continue
        block.refuse_in_capture("a sparse gradient was applied", "step outside of captures, or use dense gradients")
        decay = block.read_field(entry.row, "weight_decay")
        if decay != 0:
            raise RuntimeError(
                f"weight_decay={decay} with a sparse gradient, to which torch cannot add the parameter: put the "
                "parameter into a group with weight_decay=0, or use dense gradients"
            )
        buffer = state[entry.owner].stored(BUFFER) if entry.count != NO_COUNT else None
        if buffer is None or buffer.layout != torch.strided or not Row(block, entry.row).flags["nesterov"]:
            continue
        if block.read_field(entry.row, "momentum") != 0:
            raise RuntimeError(
                "nesterov=True with a sparse gradient and a dense momentum buffer, which torch cannot add to it: "
                "delete the parameter's state, or use dense gradients"
            )


@torch.no_grad()
def zero_sparse(table: ParameterTable) -> None:
    """Leave zeros in the sparse gradients, as the kernels in the others."""
    for entry in table.sparse:
        if entry.grad is not None:
            entry.grad.zero_()  # the very tensor: a detached one would have zeros alone


@torch.no_grad()
def update_sparse(update: Update, state: Mapping[Any, Any]) -> None:
    """Update the parameters of ``update.table`` whose gradients are sparse; the rest of it is the backend's.

    Args:
        update: the optimizer step.
        state: of the optimizer, by parameter; has what :func:`reserve_buffer` put there.
    """
    block = update.block
    for entry in update.table.sparse:
        if entry.grad is not None:
            kept = state[entry.owner] if entry.count != NO_COUNT else None
            one = _update_on_device if block.remote else _update_on_host
            one(update, entry, Row(block, entry.row), kept)


def _update_on_host(update: Update, entry: Entry, row: Any, state: ParamState | None) -> None:
    p, g, counts = entry.param, entry.grad, update.block.counts
    assert g is not None
    if update.found_inf is not None and bool(update.found_inf != 0):
        return
    if update.grad_scale is not None:
        g._values().div_(update.grad_scale)
    step = -g if row.flags["maximize"] else g
    if state is not None and row.momentum != 0:
        buffer = state.stored(BUFFER)
        if counts[entry.count] == 0:
            buffer = step.detach().clone()
            state.store(BUFFER, buffer)
        else:
            buffer.mul_(row.momentum).add_(step, alpha=1 - row.dampening)
        step = step.add(buffer, alpha=row.momentum) if row.flags["nesterov"] else buffer
        counts[entry.count] += 1
    p.add_(step, alpha=-row.lr)


def _update_on_device(update: Update, entry: Entry, row: Any, state: ParamState | None) -> None:
    p, g, counts = entry.param, entry.grad, update.block.counts
    assert g is not None
    values, keep = g._values(), None
    if update.grad_scale is not None:
        values = values / update.grad_scale.to(values.device)
    lr = row.lr
    if update.found_inf is not None:
        keep = update.found_inf.to(values.device).reshape(()) == 0
        values, lr = torch.where(keep, values, 0), torch.where(keep, lr, 0.0)
    if update.grad_scale is not None:
        g._values().copy_(values if keep is None else torch.where(keep, values, g._values()))
    step = _with_values(g, -values if row.flags["maximize"] else values)
    if state is not None:
        count, moves = counts[entry.count], row.momentum != 0
        counted = moves if keep is None else moves & keep
        begins = count == 0
        old = torch.where(counted, torch.where(begins, 0.0, row.momentum), 1.0)
        new = torch.where(counted, torch.where(begins, 1.0, 1 - row.dampening), 0.0)
        buffer = state.stored(BUFFER)
        _scale(buffer, old)
        buffer.add_(_with_values(step, step._values() * new))
        if row.flags["nesterov"]:
            step = step + _scaled(buffer, row.momentum)
        else:
            p.add_(_scaled(buffer, torch.where(moves, -lr, 0.0)))
            step = _with_values(step, torch.where(moves, 0, step._values()))
        count += counted
    p.add_(_with_values(step, step._values() * -lr))


def _with_values(like: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        like._indices(), values.to(like.dtype), like.shape, is_coalesced=like.is_coalesced(), check_invariants=False
    )


def _scaled(tensor: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    if tensor.layout == torch.strided:
        return tensor * by
    return _with_values(tensor, tensor._values() * by)


def _scale(tensor: torch.Tensor, by: torch.Tensor) -> None:
    (tensor if tensor.layout == torch.strided else tensor._values()).mul_(by)
