"""The update rules: everything that distinguishes SGD from Adam outside of the kernels, in one place.

A :class:`Rule` says what it keeps for a parameter, which fields of the control block it reads, what its count means,
and how it is computed with torch operations. Optimizers, table and backends ask it; kernels know it by its code, with
the arithmetic in csrc/<name>.h and kernels/<name>.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Scalar = Any  # a Python float on the CPU, a 0-d float64 tensor elsewhere
Needed = Callable[[Mapping[str, Any], Collection[str]], bool]
# (parameter, gradient, states, fields of the group, updates applied so far) -> new (parameter, *states)
Compute = Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor], Any, Scalar], list[torch.Tensor]]


def always(group: Mapping[str, Any], scheduled: Collection[str]) -> bool:
    """Every parameter has this state."""
    return True


@dataclass(frozen=True)
class StateSlot:
    """A tensor that a rule keeps for a parameter, of its shape and dtype (or float32 beside a 16-bit one).

    Attributes:
        key: in ``optimizer.state[param]``, as in torch.
        needed: whether the parameters of a group have it; given the group and the fields that programs write.
    """

    key: str
    needed: Needed = always


@dataclass(frozen=True)
class Rule:
    """An update rule.

    Attributes:
        name: stem of its files in csrc and kernels.
        code: by which kernels know it.
        states: in the order of a record's state words. At most the last is optional: a kernel is made with it or
            without.
        step_key: under which key of the state the count shows; None if it does not.
        fields: of the control block, that it reads.
        counts: whether an update counts, given the group's fields; None: always.
        compute: the update with torch operations.
        decay_is_coupled: whether weight decay is added to the gradient, given the group's fields.
        takes_sparse: whether gradients may be sparse; see :mod:`fused_sched.optim.sparse`.
    """

    name: str
    code: int
    states: tuple[StateSlot, ...]
    step_key: str | None
    fields: tuple[str, ...]
    compute: Compute
    decay_is_coupled: Callable[[Any], bool]
    counts: Callable[[Any], Scalar] | None = None
    takes_sparse: bool = False

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Keys of all states."""
        return tuple(slot.key for slot in self.states)

    @property
    def optional_state(self) -> int:
        """Position of the state that not every parameter has; ``len(states)`` if there is none."""
        return next((i for i, slot in enumerate(self.states) if slot.needed is not always), len(self.states))

    def states_needed(self, group: Mapping[str, Any], scheduled: Collection[str] = ()) -> int:
        """How many of the states the parameters of a group have.

        Args:
            group: a param group.
            scheduled: fields that programs may write, unseen by the host.
        """
        return sum(slot.needed(group, scheduled) for slot in self.states)


def is_zero(x: Scalar) -> bool:
    """Whether the host knows that a hyperparameter is 0."""
    return not isinstance(x, torch.Tensor) and x == 0.0


def _sgd(p: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor], row: Any, count: Scalar) -> list[torch.Tensor]:
    if not state or is_zero(row.momentum):
        return [p - row.lr * g, *state]
    buf = row.momentum * state[0] + (1 - row.dampening) * g
    buf = torch.where(torch.as_tensor(count, device=p.device) == 0, g, buf)
    step = g + row.momentum * buf if row.flags["nesterov"] else buf
    if isinstance(row.momentum, torch.Tensor):  # it may be 0 without the host's knowing
        buf, step = torch.where(row.momentum != 0, buf, state[0]), torch.where(row.momentum != 0, step, g)
    return [p - row.lr * step, buf]


def _adam(p: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor], row: Any, count: Scalar) -> list[torch.Tensor]:
    t = count + 1
    bias1, bias2 = 1 - row.beta1**t, 1 - row.beta2**t
    if row.flags["decoupled_weight_decay"] and not is_zero(row.weight_decay):
        p = p * (1 - row.lr * row.weight_decay)
    m = torch.lerp(state[0], g, torch.as_tensor(1 - row.beta1, dtype=g.dtype, device=g.device))
    v = row.beta2 * state[1] + ((1 - row.beta2) * g) * g
    new = [m, v]
    if row.flags["amsgrad"]:
        new.append(torch.maximum(state[2], v))
    denominator = new[-1].sqrt() / bias2**0.5 + row.eps
    return [p + (-(row.lr / bias1) * m) / denominator, *new]


SGD = Rule(
    name="sgd",
    code=0,
    states=(StateSlot("momentum_buffer", lambda group, scheduled: "momentum" in scheduled or group["momentum"] != 0),),
    step_key=None,  # the count only says whether the buffer holds anything yet
    fields=("lr", "weight_decay", "momentum", "dampening", "flags"),
    compute=_sgd,
    decay_is_coupled=lambda row: True,
    counts=lambda row: row.momentum != 0,
    takes_sparse=True,
)
ADAM = Rule(
    name="adam",
    code=1,
    states=(
        StateSlot("exp_avg"),
        StateSlot("exp_avg_sq"),
        StateSlot("max_exp_avg_sq", lambda group, scheduled: bool(group["amsgrad"])),
    ),
    step_key="step",
    fields=("lr", "weight_decay", "beta1", "beta2", "eps", "flags"),
    compute=_adam,
    decay_is_coupled=lambda row: not row.flags["decoupled_weight_decay"],
)
RULES: dict[str, Rule] = {rule.name: rule for rule in (SGD, ADAM)}
