"""What steps of an optimizer write to, for a rehearsal that puts it all back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..memory.shards import local
from .home import Home


class Rehearsed(Home):
    """The part of an optimizer that takes part in a rehearsal; see :class:`Rehearsal`."""

    state: Any
    param_groups: list[dict[str, Any]]
    _norms: torch.Tensor | None

    def keep_for_rehearsal(self, keep: Callable[[torch.Tensor], None]) -> Callable[[], None]:
        """As :meth:`Home.keep_for_rehearsal`, and parameters and states."""
        own = [] if self._norms is None else [self._norms]
        params = [p for group in self.param_groups for p in group["params"]]
        states = [t for state in self.state.values() for t in dict.values(state)]  # nobody is given them
        for tensor in (*own, *params, *states):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                keep(local(tensor))
        return super().keep_for_rehearsal(keep)
