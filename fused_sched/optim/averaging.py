"""Averaged copies of the parameters, which updates keep in the state, in the place of the parameters for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..memory.parameter_table import flat_view, is_dense, same_layout
from ..memory.shards import local
from .home import Home
from .param_state import PIECE, holds_numbers, stored_average


class Averaging(Home):
    """The part of an optimizer that has averages; see :class:`FusedOptimizer` for the keywords."""

    state: Any
    _averages_are_in: str | None = None  # what holds them there

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the block, parameters have the values of their averages, in place: ``with optimizer.ema_weights():``.

        A parameter that was never averaged stays as it is. Afterwards parameters and averages are what they were, also
        where the block raises, or gives a parameter other memory. A parameter and an average of its dtype change
        places: within the block the state has the parameter, and what the block writes to the parameter is in the
        average afterwards. An average of another dtype needs a copy of the parameter instead. It waits for the device
        once, and counts as changes in place for autograd.

        Raises:
            RuntimeError: no group has ``ema_decay``, a block is entered within another, or inside a CUDA graph capture.
                Within the block, so do ``step()``, ``state_dict()``, ``load_state_dict()``, copies and pickles of the
                optimizer.
        """
        if not any("ema_decay" in group for group in self.groups_seen):
            raise RuntimeError("there are no averages: make the optimizer with ema_decay=, such as 0.999")
        self._refuse_among_averages("ema_weights()")
        self.refuse_in_capture("ema_weights() was entered")
        exchanges = [Exchange(*pair) for pair in self._begun_averages()]
        self._averages_are_in = "ema_weights()"
        done: list[Exchange] = []
        try:
            for exchange in exchanges:
                done.append(exchange)
                exchange.enter()
            yield
        finally:
            for exchange in done:
                exchange.leave()
            self._averages_are_in = None

    @torch.no_grad()
    def _begun_averages(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Parameters and their averages, where those hold something."""
        pairs = {}
        for group in self.groups_seen:
            for p in group["params"]:
                average = stored_average(self.state.get(p))
                if average is not None and average.numel() > 0:
                    pairs[id(p)] = p, average.detach()
        if not pairs:
            return []
        begun = torch.stack([holds_numbers(average) for _, average in pairs.values()]).tolist()
        return [pair for pair, there in zip(pairs.values(), begun, strict=True) if there]

    @torch.no_grad()
    def _states_averaged(self) -> set[int]:
        """By identity, the states whose averages hold something (reads the device).

        Those of a group begin together. So an average without elements, which cannot say it itself, goes by the others,
        and no process has less than the others have, whatever is in its parts of them. Where there are no others, it
        goes by the count of its updates, and has all that it can where that is not kept.
        """
        averages = {id(s): a for s in self.state.values() if (a := stored_average(s)) is not None}
        if not averages:
            return set()
        full = {key: a for key, a in averages.items() if a.numel() > 0}
        flags = torch.stack([holds_numbers(a) for a in full.values()]).tolist() if full else []
        begun = {key for key, flag in zip(full, flags, strict=True) if flag}
        for group in self.groups_seen:
            states = [state for p in group["params"] if id(state := self.state.get(p)) in averages]
            mine = {id(state) for state in states}
            if mine & begun:
                begun |= mine
            elif not mine & full.keys():
                begun |= {id(state) for state in states if not (state.live and state.holds_nothing)}
        return begun

    def _refuse_among_averages(self, what: str) -> None:
        if self._averages_are_in is not None:
            raise RuntimeError(
                f"{what} was called inside of {self._averages_are_in}, where the parameters are averages: leave that "
                "block first"
            )


class Exchange:
    """One parameter and its average, which change places.

    Args:
        owner: the parameter.
        average: without gradient.
    """

    def __init__(self, owner: torch.Tensor, average: torch.Tensor) -> None:
        param = local(owner).detach()
        self.owner, self.param, self.average = owner, param, average
        alike = param.dtype == average.dtype and is_dense(param) and same_layout(param, average)
        self._pieces = (
            [] if not alike else list(zip(flat_view(param).split(PIECE), flat_view(average).split(PIECE), strict=True))
        )
        self._kept: torch.Tensor | None = None
        self._entered = 0

    @torch.no_grad()
    def enter(self) -> None:
        """Let the parameter have the average's values."""
        if not self._pieces:
            self._kept = self.param.clone()
            self.param.copy_(self.average)
        for p, average in self._pieces:
            _exchange(p, average)
            self._entered += 1

    @torch.no_grad()
    def leave(self) -> None:
        """Undo what of :meth:`enter` was done."""
        if self._kept is not None:
            self.param.copy_(self._kept)
            self._kept = None
        for p, average in self._pieces[: self._entered]:
            _exchange(p, average)
        self._entered = 0
        now = local(self.owner).detach()
        if now.data_ptr() != self.param.data_ptr() or now.dtype != self.param.dtype or now.device != self.param.device:
            now.copy_(self.param)  # the block has put it into other memory, as model.half() does


def _exchange(a: torch.Tensor, b: torch.Tensor) -> None:
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)
