"""Stochastic rounding: what its random bits depend on, from construction over checkpoints to copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..memory.control_block import HEADER
from ..memory.stochastic import STREAMS
from ..step_options import STREAM, StepOptions
from .home import Home

_SEED, _UPDATES = "rounding_seed", "rounding_updates"  # in what a state dict has beside torch's


class Rounding(Home):
    """The part of an optimizer that rounds by chance; see :class:`FusedOptimizer` for the keywords."""

    _options: StepOptions

    def _start_rounding(self) -> None:
        if self._options.stochastic_rounding:
            seed = self._options.rounding_seed
            self._block.integers[HEADER["seed"]] = _signed(torch.initial_seed()) if seed is None else seed

    def _rounded_so_far(self) -> dict[str, int]:
        """What a state dict has to have of it (waits for the device)."""
        if not self._options.stochastic_rounding:
            return {}
        header = self._block.integers
        return {_SEED: int(header[HEADER["seed"]]), _UPDATES: int(header[HEADER["updates"]])}

    @staticmethod
    def _check_rounded(saved: Mapping[str, Any]) -> None:
        """Make sure that :meth:`_go_on_rounding` cannot fail.

        Raises:
            ValueError: ``saved`` is not what :meth:`_rounded_so_far` gives.
        """
        for name, least in ((_SEED, -(2**63)), (_UPDATES, 0)):
            number = saved.get(name, 0)
            if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 2**63:
                raise ValueError(
                    f"the state dict has {name!r}: {number!r}, but it must be a whole number of 64 bits, at least "
                    f"{least}: correct it, or leave it out"
                )
        if (_SEED in saved) != (_UPDATES in saved):
            there, missing = (_SEED, _UPDATES) if _SEED in saved else (_UPDATES, _SEED)
            raise ValueError(
                f"the state dict has {there!r} without {missing!r}, and random bits depend on both: give both, or "
                "leave out both"
            )

    def _go_on_rounding(self, saved: Mapping[str, Any]) -> None:
        """Draw on as the optimizer would that a state dict is of; nothing if it did not."""
        if not self._options.stochastic_rounding or _SEED not in saved:
            return
        header = self._block.integers
        header[HEADER["seed"]], header[HEADER["updates"]] = saved[_SEED], saved[_UPDATES]


def _signed(seed: int) -> int:
    """A number of 64 bits as int64 has it."""
    return (seed + 2**63) % 2**64 - 2**63


def check_stream(value: Any) -> int:
    """The stream that a state has.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"state {STREAM!r} is {value!r}, but must be a whole number: assign one, or delete it")
    if not 0 <= value < STREAMS:
        raise ValueError(f"state {STREAM!r} is {value}, but must be from 0 to {STREAMS - 1}: assign that, or delete it")
    return value


def first_free_stream(states: Iterable[Any]) -> int:
    """One that none of the states has, nor a higher one."""
    taken = [dict.get(state, STREAM) for state in states if isinstance(state, dict)]
    return max((1 + stream for stream in taken if isinstance(stream, int)), default=0) % STREAMS
