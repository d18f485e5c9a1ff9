"""One of our optimizers beside torch's own for-loop: whatever is done to one is done to the other, then compared.

Only what users have is asked: ``param_groups``, ``state``, ``state_dict()``, the parameters and the schedulers.
"""

from __future__ import annotations

import copy
import gc
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from schedule_twins import OURS, TORCH, same_bits
from torch import Tensor
from torch.nn import Parameter

import fused_sched
from fused_sched.backends import Backend
from identity import around

REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, IndexError, ArithmeticError)
RELATIVE = 1e-12  # float64, after some tens of updates
# Which of torch's implementations runs: not what it computes.
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
AROUND = {"max_grad_norm": 0.5, "ema_decay": 0.75}  # fields of groups, which torch's side has from identity.around
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "plain": {},
        "momentum": {"momentum": 0.9},
        "dampening": {"momentum": 0.8, "dampening": 0.25, "weight_decay": 0.01},
        "nesterov": {"momentum": 0.7, "nesterov": True},
        "around": {"momentum": 0.8, "dampening": 0.25, **AROUND},
    },
    "Adam": {"plain": {}, "amsgrad": {"amsgrad": True, "weight_decay": 0.1}, "around": AROUND},
    "AdamW": {"plain": {}, "amsgrad": {"amsgrad": True}, "around": AROUND},
}
EVERY = [(kind, case) for kind, cases in OPTIONS.items() for case in cases]
STATEFUL = [("SGD", "momentum"), ("Adam", "plain"), ("AdamW", "amsgrad")]
MOMENTS = {"SGD": ("momentum_buffer",), "Adam": ("exp_avg", "exp_avg_sq"), "AdamW": ("exp_avg", "exp_avg_sq")}


class Side:
    """An optimizer and what its user holds.

    Attributes:
        home: the module of its schedulers.
        optimizer: ours or torch's.
        params: every parameter ever made; its place in this list is its name.
        schedulers: those that the user holds; ``None`` where one was let go.
        kept: torch's schedulers that stand beside fused ones of ours that were let go.
        device: of the parameters.
        given: dicts that groups were made of.
    """

    def __init__(self, home: Any, device: str) -> None:
        self.home, self.device = home, device
        self.optimizer: Any = None
        self.params: list[Tensor] = []
        self.schedulers: list[Any] = []
        self.kept: list[Any] = []
        self.given: list[dict[str, Any]] = []

    @property
    def is_ours(self) -> bool:
        return self.home is OURS

    @property
    def groups(self) -> list[Any]:
        return self.optimizer.param_groups  # type: ignore[no-any-return]

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def on_device(self, values: Tensor) -> Tensor:
        """A copy of its own."""
        return values.to(self.device) if self.device != "cpu" else values.clone()

    def listed(self) -> Iterator[Tensor]:
        """The parameters of all groups."""
        for group in self.groups:
            yield from group["params"]

    def name(self, param: Tensor) -> int:
        return next(i for i, p in enumerate(self.params) if p is param)

    def build(self, scheduler: str, **arguments: Any) -> Any:
        """A scheduler on this optimizer; ``ours`` are arguments that torch does not know."""
        ours = arguments.pop("ours", {})
        return getattr(self.home, scheduler)(self.optimizer, **arguments, **(ours if self.is_ours else {}))


Act = Callable[[Side], Any]


def started(kind: str, side: Side, groups: Sequence[dict[str, Any]], backend: Any, options: dict[str, Any]) -> Any:
    """An optimizer whose groups name their parameters by numbers."""
    given = [{**group, "params": [side.params[i] for i in group["params"]]} for group in groups]
    if side.is_ours:
        return getattr(fused_sched.optim, kind)(given, backend=backend, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*duplicate parameters")
        fields = {key: options[key] for key in AROUND if key in options}
        others = {key: value for key, value in options.items() if key not in fields}
        made = getattr(around if fields else torch.optim, kind)(given, foreach=False, fused=False, **others)
        made.defaults.update(fields)
        for group in made.param_groups:
            group.update(fields)
        return made


def both_or_neither(act: Act, torchs: Side, ours: Side, what: object = "") -> bool:
    """``act`` on both; where torch refuses it, so must ours. Whether it was done."""
    try:
        act(torchs)
    except REFUSALS as reason:
        try:
            act(ours)
        except REFUSALS:
            return False
        raise AssertionError(f"{what} torch refuses with {reason!r}, ours does not") from reason
    act(ours)
    return True


class Lockstep:
    """Ours and torch's.

    Args:
        kind: ``"SGD"``, ``"Adam"`` or ``"AdamW"``.
        groups: param groups, in which numbers stand for parameters.
        backend: of our optimizer.
        shapes: of the parameters, the first of which are those of the groups.
        device: of our parameters.
        lr_relative: how far a scheduled lr may be from torch's; 0 asks for the same bits.
        options: for both constructors.
    """

    def __init__(
        self,
        kind: str,
        groups: Sequence[dict[str, Any]],
        backend: str | Backend | None,
        *,
        shapes: Sequence[tuple[int, ...]] = ((3,), (2, 2), (5,), (), (4,), (1, 3)),
        device: str = "cpu",
        lr_relative: float = 0.0,
        **options: Any,
    ) -> None:
        self.kind, self.lr_relative = kind, lr_relative
        self.states_in_reserve = False  # in ours, as graphs point to them, or an update was skipped
        self.ours, self.torchs = Side(OURS, device), Side(TORCH, "cpu")
        self._drawn = torch.Generator().manual_seed(5)
        for shape in shapes:
            self.parameter(shape)
        for side in (self.torchs, self.ours):
            side.optimizer = started(kind, side, groups, backend, {"lr": 0.1, **options})

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers that both will have."""
        return torch.randn(shape, generator=self._drawn, dtype=torch.float64)

    def parameter(self, shape: tuple[int, ...]) -> int:
        """A new parameter on both sides; its name."""
        values = self.draw(shape)
        for side in (self.ours, self.torchs):
            side.params.append(Parameter(side.on_device(values)))
        return len(self.ours.params) - 1

    def both(self, act: Act) -> None:
        act(self.torchs)
        act(self.ours)

    def alike(self, act: Act) -> bool:
        """``act`` on both; where torch refuses it, so must ours. Whether it was done."""
        return both_or_neither(act, self.torchs, self.ours)

    def gradients(self, *, only: Sequence[int] | None = None) -> None:
        """New gradients for all listed parameters, or for some; None for the others."""
        for name, (mine, theirs) in enumerate(zip(self.ours.params, self.torchs.params, strict=True)):
            values = self.draw(tuple(theirs.shape))
            wanted = only is None or name in only
            mine.grad = self.ours.on_device(values).to(mine.dtype) if wanted else None
            theirs.grad = values.to(theirs.dtype) if wanted else None

    def step(self, times: int = 1, *, only: Sequence[int] | None = None) -> None:
        """Updates with new gradients, each followed by a step of every scheduler; compared after each."""
        for _ in range(times):
            self.gradients(only=only)
            self.both(lambda side: side.optimizer.step())
            self.both(lambda side: [s.step() for s in side.schedulers if s is not None])
            self.check()

    # -- comparison ----------------------------------------------------------------------------------------

    def check(self, what: str = "") -> None:
        """Everything that a user can see is torch's."""
        self._check_groups(what)
        for name, (mine, theirs) in enumerate(zip(self.ours.params, self.torchs.params, strict=True)):
            assert_close(mine, theirs, f"{what} parameter {name}")
        states = [states_of(side) for side in (self.ours, self.torchs)]
        if self.kind == "SGD" or self.states_in_reserve:
            _leave_out_reserved(*states)
        assert states[0].keys() == states[1].keys(), f"{what} which parameters have a state"
        for name, theirs in states[1].items():
            mine = states[0][name]
            assert mine.keys() == theirs.keys(), f"{what} state of parameter {name}"
            for key in theirs:
                assert_close(mine[key], theirs[key], f"{what} state {key!r} of parameter {name}")
        self._check_schedulers(what)

    def _check_groups(self, what: str) -> None:
        assert len(self.ours.groups) == len(self.torchs.groups), what
        for place, (mine, theirs) in enumerate(zip(self.ours.groups, self.torchs.groups, strict=True)):
            where = f"{what} group {place}"
            assert mine.keys() - IMPLEMENTATION == theirs.keys() - IMPLEMENTATION, where
            assert [*map(self.ours.name, mine["params"])] == [*map(self.torchs.name, theirs["params"])], where
            for key in theirs.keys() - IMPLEMENTATION - {"params"}:
                assert self._same(mine[key], theirs[key]), f"{where}: {key} is {mine[key]!r}, not {theirs[key]!r}"

    def _check_schedulers(self, what: str) -> None:
        for place, pair in enumerate(zip(self.ours.schedulers, self.torchs.schedulers, strict=True)):
            mine, theirs = pair
            if mine is None or theirs is None:
                continue
            where = f"{what} scheduler {place}, {type(theirs).__name__}"
            assert getattr(mine, "last_epoch", None) == getattr(theirs, "last_epoch", None), where
            last = theirs.get_last_lr()
            if len(last) == len(self.torchs.groups):  # else it is of groups that were there before
                found = mine.get_last_lr()  # tensors where the groups have some now
                assert self._same([*map(float, found)], [*map(float, last)]), f"{where}: get_last_lr()"

    def _same(self, mine: Any, theirs: Any) -> bool:
        if isinstance(theirs, (list, tuple)):
            return len(mine) == len(theirs) and all(map(self._same, mine, theirs))
        if isinstance(theirs, Tensor) and not isinstance(mine, Tensor):
            theirs = float(theirs)  # torch's schedulers put a tensor where the initial lr was one
        if isinstance(theirs, bool) or not isinstance(theirs, (int, float, Tensor)):
            return bool(mine == theirs)
        mine, theirs = float(mine), float(theirs)
        near = self.lr_relative and math.isclose(mine, theirs, rel_tol=self.lr_relative, abs_tol=self.lr_relative)
        return bool(near) or same_bits(mine, theirs)


def states_of(side: Side) -> dict[int, dict[str, Any]]:
    """The states by names of parameters; without what says "nothing yet"."""
    found = {}
    for param, state in side.state.items():
        values = {key: value for key, value in dict(state).items() if value is not None}
        if values:
            found[side.name(param)] = values
    return found


def _leave_out_reserved(mine: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> None:
    """Leave out states of zeros, which an update makes that then was skipped, or that a captured graph points to."""
    for name in mine.keys() - theirs.keys():
        if not any(isinstance(value, Tensor) and value.nan_to_num().any() for value in mine[name].values()):
            del mine[name]


def assert_close(mine: Any, theirs: Any, what: str) -> None:
    """Within :data:`RELATIVE`, of the same shape and dtype."""
    if not isinstance(theirs, Tensor):
        assert mine == theirs, what
        return
    a, b = mine.detach().cpu(), theirs.detach()
    assert (a.shape, a.dtype) == (b.shape, b.dtype), what
    near = torch.isclose(a, b, rtol=RELATIVE, atol=RELATIVE, equal_nan=True)
    assert near.all(), f"{what} is {a.tolist()}, torch has {b.tolist()}"


def snapshot(side: Side) -> Any:
    """Everything of a side that can be compared with ``==``, to see that a refusal changed nothing."""
    states = {name: {k: plain(v) for k, v in state.items()} for name, state in states_of(side).items()}
    groups = [{k: plain(v) for k, v in g.items() if k != "params"} for g in side.groups]
    names = [[side.name(p) for p in g["params"]] for g in side.groups]
    schedulers = [s and plain(s.state_dict()) for s in side.schedulers]
    return groups, names, states, [plain(p) for p in side.params], schedulers


def plain(value: Any) -> Any:
    """Tensors as lists, NaN as a word."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist()), str(value.dtype)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def copied(value: Any) -> Any:
    """A state dict of its own, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(v) for v in value)
    return copy.deepcopy(value)


def let_go(side: Side, place: int) -> None:
    """The user keeps a scheduler no longer."""
    side.schedulers[place] = None
    gc.collect()
