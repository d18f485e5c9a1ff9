"""The norm of the gradients, what they are clipped by and whether the step is skipped, as torch operations."""

from __future__ import annotations

import torch

from ..memory.control_block import HEADER, ControlBlock
from ..memory.parameter_table import real_view
from ..step_options import STABILIZER, SpikeRule
from .base import Measurement


@torch.no_grad()
def measure(m: Measurement) -> None:
    """See :meth:`Backend.measure`; nothing waits for the device."""
    block = m.block
    sums = _sums_of_squares(m)
    found = None if m.found_inf is None else m.found_inf.to(block.device).reshape(()) != 0
    if m.reduction is not None:
        sums, found = _added_up(sums, found, m)
    total = torch.stack([*sums.values(), block.tensor.new_zeros(())]).sum().sqrt()
    scale = 1.0 if m.grad_scale is None else m.grad_scale.to(block.device, torch.float64).reshape(())
    norm = total / scale
    for row, clips in m.groups:
        own = norm if m.options.norm_scope == "all" else sums[row].sqrt() / scale
        block.measured(row, "group_norm").copy_(own)
        block.measured(row, "clip_factor").copy_(_clip_factor(block, row, own) if clips else own.new_ones(()))
    stopped = torch.zeros((), dtype=torch.bool, device=block.device) if found is None else found
    skipped = stopped
    if m.options.may_skip:
        skipped = skipped | ~torch.isfinite(norm)
    if m.options.skip_spikes is not None and m.norms is not None:
        skipped = skipped | _is_spike(norm, m.norms, block, m.options.skip_spikes, stopped)
    block.tensor[HEADER["grad_norm"]] = norm
    block.integers[HEADER["skipped"]] = skipped
    block.integers[HEADER["skipped_steps"]] += skipped


def _sums_of_squares(m: Measurement) -> dict[int, torch.Tensor]:
    """Of each row's gradients, as they are."""
    sums = {row: m.block.tensor.new_zeros(()) for row, _ in m.groups}
    for table, counted in zip(m.tables, m.counted, strict=True):
        for entry, counts in zip(table.entries, counted.tolist(), strict=True):
            g = entry.grad
            if g is not None and counts and not entry.inert:
                sums[entry.row] = sums[entry.row] + real_view(g).double().square().sum()
    return sums


def _added_up(
    sums: dict[int, torch.Tensor], found: torch.Tensor | None, m: Measurement
) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
    """Those of all processes."""
    assert m.reduction is not None
    none = m.block.tensor.new_zeros(())
    together = torch.stack([*sums.values(), none if found is None else found.to(none.dtype)])
    m.reduction.add_up(together)
    return dict(zip(sums, together, strict=False)), None if found is None else together[-1] != 0


def _clip_factor(block: ControlBlock, row: int, norm: torch.Tensor) -> torch.Tensor:
    from .reference import Row

    most = torch.as_tensor(Row(block, row).max_grad_norm, dtype=torch.float64, device=block.device)
    factor = (most / (norm + STABILIZER)).clamp(max=1.0)
    return torch.where(most == torch.inf, 1.0, factor)


def _is_spike(
    norm: torch.Tensor, norms: torch.Tensor, block: ControlBlock, rule: SpikeRule, stopped: torch.Tensor
) -> torch.Tensor:
    """Whether ``norm`` is larger than those before it let expect.

    It is remembered where it is finite, and the step not ``stopped`` by somebody else.
    """
    seen = block.integers[HEADER["norms_seen"]]
    known = seen.clamp(max=rule.window)
    there = torch.arange(rule.window, dtype=torch.int64, device=norms.device) < known
    mean = torch.where(there, norms, 0.0).sum() / known
    variance = torch.where(there, (norms - mean).square(), 0.0).sum() / (known - 1)
    spike = (known + 1 >= rule.least) & ~(norm - mean <= rule.deviations * variance.sqrt())
    finite = torch.isfinite(norm) & ~stopped
    place = (seen % rule.window).reshape(1)
    norms.index_copy_(0, place, torch.where(finite, norm, norms[place].reshape(())).reshape(1))
    seen += finite
    return spike
