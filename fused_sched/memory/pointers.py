"""Comparing the parameter table with the tensors as they are now: in C++ where possible, else here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from .parameter_table import DTYPES, RECORD, ParameterTable, real_dtype, same_layout
from .platforms import Platform
from .shards import local, spread_alike
from .values import has_values

_C: Any = None
with suppress(ImportError):
    from .. import _C

UNCHANGED, MOVED, REBUILD = 0, 1, 2  # as _C.scan


def _layout(tensor: torch.Tensor) -> int:
    if _C is not None:
        return int(_C.layout(tensor))
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return hash((tensor.dtype, tuple(tensor.shape), *strides)) or 1


def prepare(table: ParameterTable, platform: Platform) -> None:
    """Note in a table that was just filled what :func:`scan` compares with; a layout of 0: it is not walked itself."""
    layouts = [0 if e.inert or e.staging is not None else _layout(e.param) for e in table.entries]
    table.layouts = torch.tensor(layouts, dtype=torch.int64, device="cpu")
    param = next((e.param for e in table.entries if not e.inert), None)
    if _C is not None and param is not None:
        table.dlpack_device = platform.dlpack_device(param)
        if _scan_in_c(table) == REBUILD:  # the tensors are not what they seem, as fake ones
            table.dlpack_device = None


def scan(table: ParameterTable) -> bool:
    """Follow moved gradients in ``table.records``; False if the table has to be made anew.

    It runs in C++ where the tensors can be read there, else in Python.
    """
    result = _scan(table) if table.dlpack_device is None else _scan_in_c(table)
    table.moved |= result == MOVED
    return result != REBUILD and all(e.is_current() for e in table.watched)


def _scan_in_c(table: ParameterTable) -> int:
    assert table.dlpack_device is not None
    arguments = table.lists, table.ids, table.layouts, table.records, table.needed, table.held, table.specs
    return int(_C.scan(*arguments, *table.dlpack_device))


def _scan(table: ParameterTable) -> int:
    if not table.has_these_params():
        return REBUILD
    table.held.clear()
    moved = False
    for position, entry in enumerate(table.entries):
        if entry.inert or entry.staging is not None:
            continue
        p, g = local(entry.owner), entry.owner.grad
        if g is not None:
            if not spread_alike(entry.owner, g):
                return REBUILD
            g = local(g)
        if type(entry.owner) not in (torch.Tensor, torch.nn.Parameter):
            table.held.append(g)
        key = p.data_ptr(), p.shape, p.stride(), p.dtype, None if g is None else _key(g)
        if table.seen.get(position) != key:
            moved = True
            grad = _grad_address(p, g, table, position)
            if grad is None:
                return REBUILD
            table.records[position, RECORD["grad"]] = grad
            table.seen[position] = key
    return MOVED if moved else UNCHANGED


def _key(g: torch.Tensor) -> tuple[Any, ...]:
    if g.layout != torch.strided or not has_values(g):
        return g.layout, g.device
    return g.data_ptr(), g.stride(), g.dtype, g.is_neg()


def _grad_address(p: torch.Tensor, g: torch.Tensor | None, table: ParameterTable, position: int) -> int | None:
    """Address of the gradient, 0 for none, 1 if it is empty; None if the record does not suit it."""
    record = table.records[position].tolist()
    if p.data_ptr() != record[RECORD["param"]] or int(table.layouts[position]) != _layout(p):
        return None
    if g is None:
        return 0
    if g.layout != torch.strided or not has_values(g) or g.is_neg() or not same_layout(p, g) or g.device != p.device:
        return None
    if DTYPES.get(real_dtype(g.dtype)) != record[RECORD["kind"]] // 16 % 16:
        return None
    if p.numel() == 0:
        return 1
    states = record[RECORD["state0"] : RECORD["state0"] + int(table.needed[position])]
    return g.data_ptr() if all(states) else None
