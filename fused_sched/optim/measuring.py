"""What steps measure of the gradients before they apply them: norms, and how many steps were skipped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from .. import backends
from ..memory.control_block import HEADER
from ..memory.parameter_table import RECORD, ParameterTable, span_of
from ..memory.reduction import Reduction
from ..memory.shards import is_shard, within_zero
from ..rules import Rule
from ..step_options import StepOptions
from .home import Home
from .shown import shown

GRAD = RECORD["grad"]
SAVED = "fused_sched"  # in a state dict, beside torch's "state" and "param_groups"


class Measuring(Home):
    """The part of an optimizer that measures; see :class:`FusedOptimizer` for the keywords."""

    _rule: Rule
    tables: tuple[ParameterTable, ...]
    _options = StepOptions()
    _measurement: backends.Measurement | None = None  # None: steps measure nothing
    _norms: torch.Tensor | None = None  # what a SpikeRule remembers
    _apart: Sequence[torch.Tensor] = ()  # addresses of gradients that share no memory, by table
    _may_skip = _zeroes = False  # of the options: attributes, as every step asks

    @shown
    def grad_norm(self) -> torch.Tensor:
        """The norm of all gradients of the last step, before clipping: 0-d, float64, on the device.

        It is live: every step, and every replay of a captured one, writes it. Ask for it anew after groups were added.

        Raises:
            RuntimeError: steps measure nothing.
        """
        self._refuse_unmeasured("grad_norm")
        return self._block.tensor[HEADER["grad_norm"]]

    @shown
    def group_grad_norms(self) -> list[torch.Tensor]:
        """As :attr:`grad_norm`, for each group what it was clipped by; all the same with ``norm_scope="all"``."""
        self._refuse_unmeasured("group_grad_norms")
        return [self._block.measured(row, "group_norm") for row in self.rows]

    @shown
    def skipped_steps(self) -> torch.Tensor:
        """How many steps were skipped so far, whoever did it: 0-d, int64, on the device; live as :attr:`grad_norm`.

        Raises:
            RuntimeError: steps measure nothing.
        """
        self._refuse_unmeasured("skipped_steps")
        return self._block.integers[HEADER["skipped_steps"]]

    def _refuse_unmeasured(self, what: str) -> None:
        if not self._measures():
            raise RuntimeError(
                f"{what} is not known, as steps do not measure the gradients: assign max_grad_norm to a param group "
                "(math.inf clips nothing), or make the optimizer with it, skip_nonfinite=True or skip_spikes="
            )

    def _measures(self) -> bool:
        return self._options.may_skip or any("max_grad_norm" in group for group in self.groups_seen)

    def _start_measuring(self) -> None:
        self._may_skip, self._zeroes = self._options.may_skip, self._options.zero_grad_in_step
        rule = self._options.skip_spikes
        if rule is not None:
            self._norms = torch.zeros(rule.window, dtype=torch.float64, device=self._block.device)
        if self._measures():
            self._reduction()  # raises what a step would raise

    def _reduction(self) -> Reduction | None:
        """What adds up over processes where parameters are DTensors; None where none is.

        Raises:
            RuntimeError: no norm can be found of them.
        """
        params = [p for group in self.groups_seen for p in group["params"]]
        if any(getattr(p, "_fsdp_flattened", False) for p in params) and torch.distributed.get_world_size() > 1:
            raise RuntimeError(
                "max_grad_norm, skip_nonfinite and skip_spikes do not go with FullyShardedDataParallel, whose plain "
                "tensors do not say which part of a gradient each process has: use fully_shard, or call the model's "
                "clip_grad_norm_() before step()"
            )
        if within_zero() and torch.distributed.get_world_size() > 1:
            raise RuntimeError(
                "max_grad_norm, skip_nonfinite and skip_spikes do not go with ZeroRedundancyOptimizer, which has other "
                "parameters on each process: use fully_shard, or clip_grad_norm_() of all parameters before step()"
            )
        return Reduction(params) if any(map(is_shard, params)) else None

    def _prepare_measurement(self) -> None:
        """What a step gives the backend, for as long as tables and groups stay the same."""
        self._measurement, self._apart = None, ()
        if not self._measures():
            return
        if any(table.sparse for table in self.tables):
            raise RuntimeError(
                "a sparse gradient cannot be measured for max_grad_norm, skip_nonfinite or skip_spikes, nor can torch "
                "clip it: use dense gradients, or an optimizer of its own for the embedding"
            )
        groups = [(group.row, "max_grad_norm" in group) for group in self.groups_seen]
        self._measurement = backends.Measurement(
            self._rule, self.tables, self._block, groups, self._options, self._norms, self._reduction()
        )

    def _check_gradients_apart(self) -> None:
        """Raise RuntimeError if gradients share memory: zeros in one would be what the other's parameter gets."""
        follows = self._backend.walks_memory and not any(table.staged for table in self.tables)
        if follows and len(self._apart) == len(self.tables):  # else records do not have all their addresses
            seen = zip(self._apart, self.tables, strict=True)
            if all(torch.equal(grads, table.records[:, GRAD]) for grads, table in seen):
                return
        spans = []
        for table in self.tables:
            for entry in table.entries:
                g = entry.grad
                if g is not None and not entry.inert and g.numel() > 0:
                    spans.append(span_of(g))
        spans.sort()
        if any(end > first for (_, end), (first, _) in pairwise(spans)):
            raise RuntimeError(
                "the gradients of two parameters share memory, and zero_grad_in_step would zero one before the other "
                "was used: clone() one of them, or call zero_grad()"
            )
        self._apart = [table.records[:, GRAD].clone() for table in self.tables]

    def _measured_so_far(self) -> dict[str, Any]:
        """What a state dict has to have of it (waits for the device)."""
        if not self._measures():
            return {}
        header = self._block.integers
        saved: dict[str, Any] = {name: int(header[HEADER[name]]) for name in ("skipped_steps", "norms_seen")}
        if self._norms is not None:
            saved["norms"] = self._norms.clone()
        return saved

    def _check_measured(self, saved: dict[str, Any]) -> None:
        """Make sure that :meth:`_go_on_measuring` cannot fail.

        Raises:
            ValueError: ``saved`` is not what :meth:`_measured_so_far` gives.
        """
        if not {"skipped_steps", "norms_seen", "norms"} & saved.keys():
            return
        for name in ("skipped_steps", "norms_seen"):
            number = saved.get(name)
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**53:
                raise ValueError(
                    f"the state dict has {name!r}: {number!r} under {SAVED!r}, but it must be a whole number of at "
                    f"least 0: correct it, or leave {SAVED!r} out"
                )
        norms = saved.get("norms")
        if norms is not None and (not isinstance(norms, torch.Tensor) or norms.dim() != 1 or not norms.numel()):
            raise ValueError(
                f"the state dict has 'norms': {_kind(norms)} under {SAVED!r}, but they must be a tensor of numbers: "
                f"correct them, or leave {SAVED!r} out"
            )

    def _go_on_measuring(self, saved: dict[str, Any]) -> None:
        """Take over what another optimizer has measured; nothing if it has not."""
        if "skipped_steps" not in saved or not self._measures():
            return
        header, norms, seen = self._block.integers, saved.get("norms"), saved.get("norms_seen", 0)
        header[HEADER["skipped_steps"]] = saved["skipped_steps"]
        if self._norms is None or norms is None:
            return
        # the norms in the order in which they were seen; as many of the last as there is room for
        window, place = norms.numel(), seen % norms.numel()
        ordered = norms[:seen] if seen < window else torch.cat([norms[place:], norms[:place]])
        ordered = ordered[-self._norms.numel() :]
        self._norms[: ordered.numel()].copy_(ordered)
        header[HEADER["norms_seen"]] = ordered.numel()


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
