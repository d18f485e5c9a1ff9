"""What a step does beside the update, chosen when an optimizer is made: measure, clip, skip, average, zero.

``max_grad_norm`` and ``ema_decay`` are fields of param groups: numbers that may be edited and scheduled. The rest is
the same for all groups and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import torch

NormScope = Literal["all", "group"]
EmaDtype = Literal["float32", "parameter"]
MasterWeights = Literal["float32", "remainder"]
STABILIZER = 1e-6  # added to a norm that a threshold is divided by, as in torch.nn.utils.clip_grad_norm_
AVERAGE = "ema"  # key of the averaged copy in a parameter's state
MASTER = "master"  # and of the float32 whose rounding the parameter is
REMAINDER = "remainder"  # and of the bits that a bfloat16 lacks of it
_MASTERS: Mapping[str | None, tuple[str, torch.dtype] | None] = {
    None: None,
    "float32": (MASTER, torch.float32),
    "remainder": (REMAINDER, torch.int16),
}
STREAM = "rounding_stream"  # and of the number that chooses the random bits it is rounded by
OF_NO_RULE = frozenset({AVERAGE, MASTER, REMAINDER, STREAM})  # keys of a state that are beside those of its rule
NARROW = (torch.bfloat16, torch.float16)  # dtypes of parameters that may have a master
STATE_DTYPES = (torch.bfloat16, torch.float32)
LONGEST_WINDOW = 4096  # norms, all of which one block of a GPU looks through in each step


@dataclass(frozen=True)
class SpikeRule:
    """Skip a step whose gradient is far larger than those before it, after OLMo's ``SkipStepOptimizer``.

    The norm is compared with the mean of the last ``window`` norms, and skipped if it is larger by more than
    ``deviations`` standard deviations (the unbiased estimate). Until half a window, and at least three norms, the
    present one among them, have been seen, no step is. Norms of skipped steps are remembered, but not those that are
    not finite, whose steps are skipped, nor those of steps that GradScaler or a flag keeps from updating.

    Args:
        window: number of steps, from 2 to 4096.
        deviations: how many, at least 0.

    Raises:
        TypeError, ValueError: they are not.
    """

    window: int = 128
    deviations: float = 6.0

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int):
            raise TypeError(f"window={self.window!r} must be a number of steps: give a whole number, such as 128")
        if not 2 <= self.window <= LONGEST_WINDOW:
            raise ValueError(f"window={self.window} must be from 2 to {LONGEST_WINDOW} steps")
        if not isinstance(self.deviations, (int, float)):
            raise TypeError(f"deviations={self.deviations!r} must be a number, such as 6.0")
        if not self.deviations >= 0:
            raise ValueError(f"deviations={self.deviations} must be at least 0")

    @property
    def least(self) -> int:
        """Norms, the present one among them, from which on a step may be skipped."""
        return max(3, self.window // 2)


class StepKeywords(TypedDict, total=False):
    """Keywords that every optimizer takes; see :class:`FusedOptimizer`."""

    max_grad_norm: float | torch.Tensor | None
    norm_scope: NormScope
    skip_nonfinite: bool
    skip_spikes: SpikeRule | None
    ema_decay: float | torch.Tensor | None
    ema_dtype: EmaDtype
    zero_grad_in_step: bool
    master_weights: MasterWeights | None
    state_dtype: torch.dtype | None
    stochastic_rounding: bool
    rounding_seed: int | None


@dataclass(frozen=True)
class StepOptions:
    """Those of the keywords that are no fields of param groups.

    Raises:
        TypeError, ValueError: a value is none of those that there are.
    """

    norm_scope: NormScope = "all"
    skip_nonfinite: bool = False
    skip_spikes: SpikeRule | None = None
    ema_dtype: EmaDtype = "float32"
    zero_grad_in_step: bool = False
    master_weights: MasterWeights | None = None
    state_dtype: torch.dtype | None = None
    stochastic_rounding: bool = False
    rounding_seed: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("norm_scope", get_args(NormScope)), ("ema_dtype", get_args(EmaDtype))):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
        masters = get_args(MasterWeights)
        if self.master_weights is not None and self.master_weights not in masters:
            raise ValueError(
                f"master_weights={self.master_weights!r} must be one of {', '.join(map(repr, masters))}, or None"
            )
        for name in ("skip_nonfinite", "zero_grad_in_step", "stochastic_rounding"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r} must be True or False")
        if not isinstance(self.skip_spikes, SpikeRule | None):
            raise TypeError(
                f"skip_spikes={self.skip_spikes!r} must be a SpikeRule, such as SpikeRule(128, 6.0), or None"
            )

        self._check_state_dtype()
        self._check_rounding()

    def _check_state_dtype(self) -> None:
        if not isinstance(self.state_dtype, torch.dtype | None):
            raise TypeError(f"state_dtype={self.state_dtype!r} must be a dtype, such as torch.bfloat16, or None")
        if self.state_dtype not in (None, *STATE_DTYPES):
            raise ValueError(
                f"state_dtype={self.state_dtype} must be {' or '.join(map(str, STATE_DTYPES))}, or None for states as "
                "wide as the parameters or their masters"
            )

    def _check_rounding(self) -> None:
        seed = self.rounding_seed
        if self.stochastic_rounding and self.master_weights is not None:
            raise ValueError(
                f"stochastic_rounding=True and master_weights={self.master_weights!r} are two ways not to lose what 16 "
                "bits have no room for: choose one of them"
            )
        if seed is None:
            return
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"rounding_seed={seed!r} must be a whole number, such as 0, or None for torch's seed")
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"rounding_seed={seed} must be a whole number of 64 bits: from -2**63 to 2**63 - 1")
        if not self.stochastic_rounding:
            raise ValueError(f"rounding_seed={seed} is of no use without stochastic_rounding=True: give both or none")

    def rounds_by_chance(self, param: torch.dtype) -> bool:
        """Whether a parameter's new values are rounded up or down by chance."""
        return self.stochastic_rounding and param in NARROW

    @property
    def may_skip(self) -> bool:
        """Whether the gradients decide if a step is skipped."""
        return self.skip_nonfinite or self.skip_spikes is not None

    def average_dtype(self, param: torch.dtype) -> torch.dtype:
        """Of the averaged copy of a parameter."""
        return torch.float32 if param in NARROW and self.ema_dtype == "float32" else param

    def master(self, param: torch.dtype) -> tuple[str, torch.dtype] | None:
        """Under which key, and of which dtype, a parameter has a master; None if it has none."""
        if param not in NARROW:
            return None
        return _MASTERS[self.master_weights]

    def state_dtype_of(self, param: torch.dtype) -> torch.dtype | None:
        """Of the states of a parameter; None: that of the parameter, or another that its states have already."""
        if self.state_dtype is not None:
            return self.state_dtype
        return torch.float32 if self.master(param) is not None else None


def split(keywords: StepKeywords) -> tuple[StepOptions, dict[str, Any]]:
    """The options, and what becomes of the others in param groups.

    Raises:
        TypeError, ValueError: see :class:`StepOptions`, and :func:`check_field`.
    """
    unknown = [name for name in keywords if name not in StepKeywords.__annotations__]
    if unknown:
        known = ", ".join(["backend", *StepKeywords.__annotations__])
        raise TypeError(f"unknown keyword {unknown[0]!r}: beside those of torch's class there are {known}")
    values: dict[str, Any] = dict(keywords)
    fields = {name: values.pop(name) for name in OPTION_FIELDS if name in values}
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, value in fields.items():
        check_field(name, value)
    return StepOptions(**values), fields


def _is_norm(x: float) -> bool:
    return x >= 0


def _is_share(x: float) -> bool:
    return 0 <= x <= 1


# Fields that a group has only where they are in use: what they must be, and how that is said.
OPTION_FIELDS: Mapping[str, tuple[Any, str]] = {
    "max_grad_norm": (_is_norm, "at least 0; math.inf clips nothing"),
    "ema_decay": (_is_share, "from 0 to 1, such as 0.999"),
}
# Those that stay as they are, and cannot differ between groups.
OF_ALL_GROUPS = frozenset(StepKeywords.__annotations__).difference(OPTION_FIELDS)


def check_field(name: str, value: Any) -> None:
    """Raise ValueError if a number is not what one of :data:`OPTION_FIELDS` must be; tensors are not looked into."""
    is_valid, rule = OPTION_FIELDS[name]
    if isinstance(value, torch.Tensor):
        return
    try:
        number = None if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name}={value!r} must be a number or a one-element tensor, {rule}")
    if math.isnan(number) or not is_valid(number):
        raise ValueError(f"{name}={number} must be {rule}")
