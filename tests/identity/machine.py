"""A machine that does to an optimizer whatever Python allows, ours and torch's in lockstep.

What it leaves out, because ours differs from torch there, and says so (README, "Differences from PyTorch"; the design):

- ``amsgrad`` switched on for a parameter with a state: torch raises KeyError, ours starts from zeros.
- Every lr 0 by hand beside a fused schedule: that is taken for the trial step of distributed checkpoints.
- A tensor from ``state["step"]`` that is kept across steps: it is a snapshot. Each edit reads it anew.
- A state that does not have its parameter's shape, in a load: torch fails in the next step.
- A group object that is listed twice, across a load: torch makes two of it.
- A fused schedule whose scheduler nobody has any more, in an update that was skipped: nobody steps torch's.
- Copies of an optimizer while a fused schedule has no scheduler any more: torch has nothing to compare with.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as start_from
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from schedule_twins import MEASURED, Decay, Parts, advance, build, divergence, inverse_square_root

from identity.lockstep import EVERY, MOMENTS, OPTIONS, REFUSALS, Lockstep, Side, copied
from identity.transaction import attempt

OPERATIONS = 25  # in a sequence
N = st.integers(0, 255)
FACTOR = st.sampled_from([0.5, 0.25, 1.5, 0.75])
AT_MOST = 6  # groups
SHAPES = [(3,), (2, 2), (5,), (), (4,), (1, 3)]
_STEPS = ("StepLR", {"step_size": 2, "gamma": 0.5})
_DECAY = ("ExponentialLR", {"gamma": 0.9})
SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    _STEPS,
    _DECAY,
    ("MultiStepLR", {"milestones": [2, 5], "gamma": 0.5}),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}),
    ("LinearLR", {"start_factor": 0.25, "total_iters": 7}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 4}),
    ("PolynomialLR", {"total_iters": 30, "power": 2.0}),
    ("LambdaLR", {"lr_lambda": Decay(0.9)}),
    ("LambdaLR", {"lr_lambda": inverse_square_root}),
    ("CyclicLR", {"base_lr": 0.02, "max_lr": 0.4, "step_size_up": 3}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "eta_min": 0.01}),
    ("ChainedScheduler", {"schedulers": Parts(_STEPS, _DECAY)}),
    ("SequentialLR", {"schedulers": Parts(("LinearLR", {"total_iters": 3}), _STEPS), "milestones": [3]}),
    ("ReduceLROnPlateau", {"factor": 0.5, "patience": 1}),
    *MEASURED.items(),
]
# They refuse a step when groups came or went; those that nobody holds then raise in the optimizer's next step.
VALUES_A_GROUP = {"CosineAnnealingLR", "LambdaLR", "CyclicLR", "CosineAnnealingWarmRestarts", "SequentialLR"}
HYPERPARAMETERS: dict[str, dict[str, list[Any]]] = {
    "SGD": {
        "momentum": [0.0, 0.5, 0.9], "dampening": [0.0, 0.25], "nesterov": [False, True],
        "weight_decay": [0.0, 0.1], "maximize": [False, True], "my own": [1, "abc"],
    },
    "Adam": {
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)], "eps": [1e-8, 0.1], "weight_decay": [0.0, 0.1],
        "maximize": [False, True], "my own": [1, "abc"],
    },
}  # fmt: skip
HYPERPARAMETERS["AdamW"] = HYPERPARAMETERS["Adam"]
AROUND: dict[str, list[Any]] = {"max_grad_norm": [0.1, 2.0, math.inf], "ema_decay": [0.5, 0.9]}


class Machine(RuleBasedStateMachine):
    """Subclasses say where: see :func:`machine_on`."""

    backend: Any = None
    where: dict[str, Any] = {}
    around = False  # the optimizers clip and average

    @initialize(which=st.sampled_from(EVERY), sizes=st.lists(st.integers(1, 2), min_size=1, max_size=3))
    def start(self, which: tuple[str, str], sizes: list[int]) -> None:
        self.begin(which, sizes)

    def begin(self, which: tuple[str, str], sizes: list[int]) -> None:
        """A new optimizer with groups of so many parameters."""
        self.kind, case = which
        self.around = case == "around"
        names = iter(range(6))
        groups = [{"params": [next(names) for _ in range(n)], "lr": 0.1 / (1 + i)} for i, n in enumerate(sizes)]
        self.pair = Lockstep(self.kind, groups, self.backend, shapes=SHAPES, **self.where, **OPTIONS[self.kind][case])
        self.kept: dict[bool, list[Any]] = {True: [], False: []}  # groups that were taken out
        self.saved: list[Any] = []  # state dicts of both
        self.states: dict[bool, list[Any]] = {True: [], False: []}
        self.fused: list[bool] = []  # for each scheduler
        self.edits = 0  # of dicts that were given
        self.age: dict[int, int] = {}  # of torch's schedulers

    # -- what is drawn ---------------------------------------------------------------------------------------

    @property
    def groups(self) -> list[Any]:
        return self.pair.torchs.groups

    def place(self, n: int) -> int:
        return n % len(self.groups)

    def listed(self) -> list[int]:
        return [self.pair.torchs.name(p) for p in self.pair.torchs.listed()]

    def unlisted(self) -> list[int]:
        return sorted({*range(len(self.pair.torchs.params))} - {*self.listed()})

    def spot(self, n: int) -> tuple[int, int] | None:
        """A group and a place in its list of parameters."""
        spots = [(g, i) for g, group in enumerate(self.groups) for i in range(len(group["params"]))]
        return spots[n % len(spots)] if spots else None

    def do(self, act: Callable[[Side], Any], ours: Callable[[Side], Any] | None = None) -> bool:
        """An act on both sides, or refused by both. Whether it was done."""
        return attempt(self.pair, act, ours)

    def stateful(self, n: int) -> int | None:
        """A parameter with a state."""
        names = [self.pair.torchs.name(p) for p, s in self.pair.torchs.state.items() if s]
        return names[n % len(names)] if names else None

    # -- steps -------------------------------------------------------------------------------------------------

    def gradients(self, n: int) -> None:
        """New ones, None for some, zero for one."""
        every = range(len(self.pair.torchs.params))
        self.pair.gradients(only=[name for name in every if (n >> (name % 8)) & 1 or n < 128])
        if n % 5 == 0:
            self.pair.both(lambda side: [p.grad.zero_() for p in list(side.listed())[:1] if p.grad is not None])

    def update(self) -> bool:
        """An optimizer's step, in which the fused schedules advance."""
        if not self.do(lambda side: side.optimizer.step()):
            return False
        self.step_fused()
        return True

    def step_fused(self, *, let_go: bool = True) -> None:
        """A step of every fused scheduler: bookkeeping, if an update has made it. ``let_go``: of those too."""
        ours, torchs = self.pair.ours.schedulers, self.pair.torchs.schedulers
        twins = {id(theirs): mine for mine, theirs in zip(ours, torchs, strict=True)}
        for scheduler in self.in_order:
            mine = twins.get(id(scheduler))
            if mine is not None or let_go:
                self.do(lambda _, s=scheduler: s.step(), lambda _, s=mine: s and s.step())

    @property
    def in_order(self) -> list[Any]:
        """torch's schedulers whose twins are fused, as they were made."""
        fused = [s for i, s in enumerate(self.pair.torchs.schedulers) if self.fused[i : i + 1] == [True] and s]
        return sorted([*fused, *self.pair.torchs.kept], key=lambda s: self.age[id(s)])

    @rule(n=N, times=st.integers(1, 3))
    def train(self, n: int, times: int) -> None:
        for _ in range(times):
            self.gradients(n)
            if self.update():
                for i in range(len(self.fused)):
                    self.step_scheduler(i)
            self.check()

    @rule(n=N)
    def step_alone(self, n: int) -> None:
        self.gradients(n)
        self.update()

    @rule(n=N, skipped=st.booleans(), steps=st.integers(0, 3))
    def train_with_a_scaler(self, n: int, skipped: bool, steps: int) -> None:
        """GradScaler does not call torch's optimizer where a gradient is infinite; ours sees it on the device."""
        self.gradients(n)
        skipped = skipped and not self.around  # averages of parameters without a gradient would begin in ours alone
        optimizer = self.pair.ours.optimizer
        optimizer.found_inf = torch.full((), float(skipped), device=self.pair.ours.device)
        try:
            if not skipped:
                done = self.update()
            else:
                optimizer.step()
                self.pair.states_in_reserve = done = True
        except REFUSALS:
            done = False  # where torch's would not even have been called
        del optimizer.found_inf
        if done:
            for i in range(len(self.fused)):
                self.step_scheduler(i)
            for _ in range(steps if skipped else steps - 1):
                self.step_fused(let_go=False)

    @rule(n=N)
    def the_same_gradients_again(self, n: int) -> None:
        self.pair.both(lambda side: [p.grad.mul_(0.5) for p in side.params if p.grad is not None and n % 2])
        self.update()

    @rule(n=N)
    def step_scheduler(self, n: int) -> None:
        if self.fused:
            i = n % len(self.fused)
            if not self.fused[i] and self.pair.torchs.schedulers[i] is not None:
                self.do(lambda side: advance(side.schedulers[i]))

    @rule(n=N)
    def observe(self, n: int) -> None:
        """For the next step, or update, whenever that is."""
        for i, scheduler in enumerate(self.pair.torchs.schedulers):
            if type(scheduler).__name__ in MEASURED:
                self.do(lambda side, i=i: side.schedulers[i].observe(divergence(n)))

    @rule(n=N)
    def another_step_of_a_fused_scheduler(self, n: int) -> None:
        """Without an update, as where Accelerate steps a scheduler once a process."""
        if self.fused and self.fused[n % len(self.fused)] and self.pair.torchs.schedulers[n % len(self.fused)]:
            self.do(lambda side: side.schedulers[n % len(self.fused)].step())

    # -- groups ------------------------------------------------------------------------------------------------

    @rule(n=N, lr=FACTOR)
    def add_group(self, n: int, lr: float) -> None:
        if len(self.groups) < AT_MOST:
            unlisted = self.unlisted()
            name = unlisted[n % len(unlisted)] if unlisted else self.pair.parameter(SHAPES[n % len(SHAPES)])

            def act(side: Side) -> None:
                given = {"params": [side.params[name]], "lr": lr}
                side.optimizer.add_param_group(given)
                side.given.append(given)

            self.do(act)

    @rule(n=N, key=st.sampled_from(["lr", "weight_decay", "own"]))
    def edit_a_dict_that_was_given(self, n: int, key: str) -> None:
        """Which torch has as a group, if it was not loaded or copied since. A value that it has already is not seen."""
        given = [len(side.given) for side in (self.pair.torchs, self.pair.ours)]
        if given[0] and given[0] == given[1]:
            self.edits += 1
            self.pair.both(lambda side: side.given[n % given[0]].update({key: 0.01 + self.edits / 1024}))

    @rule(n=N)
    def add_a_listed_parameter(self, n: int) -> None:
        """Which is refused."""
        spot = self.spot(n)
        if spot is not None:
            g, i = spot
            self.do(lambda side: side.optimizer.add_param_group({"params": [side.groups[g]["params"][i]]}))

    @rule(n=N, how=st.sampled_from(["del", "pop", "slice", "remove", "new list"]))
    def take_group_out(self, n: int, how: str) -> None:
        if not self.groups:
            return
        i = self.place(n)

        def act(side: Side) -> None:
            groups, group = side.groups, side.groups[i]
            if how == "del":
                del groups[i]
            elif how == "pop":
                groups.pop(i)
            elif how == "slice":
                groups[i : i + 1] = []
            elif how == "remove":
                side.optimizer.param_groups[:] = [g for g in groups if g is not group]
            else:
                side.optimizer.param_groups = [g for g in groups if g is not group]
            self.kept[side.is_ours].append(group)

        self.pair.both(act)

    @rule(n=N, m=N, how=st.sampled_from(["append", "insert", "add_param_group", "plain", "+="]))
    def put_group_back(self, n: int, m: int, how: str) -> None:
        if not self.kept[True] or len(self.groups) >= AT_MOST:
            return
        k, i = n % len(self.kept[True]), m % (len(self.groups) + 1)

        def act(side: Side) -> None:
            group = self.kept[side.is_ours][k]
            if how == "append":
                side.groups.append(group)
            elif how == "insert":
                side.groups.insert(i, group)
            elif how == "plain":
                side.groups.insert(i, {**group, "params": list(group["params"])})
            elif how == "+=":
                side.optimizer.param_groups += [group]
            else:
                side.optimizer.add_param_group(group)

        if self.do(act):
            for ours in (True, False):
                del self.kept[ours][k]

    @rule(n=N, how=st.sampled_from(["reverse", "rotate", "sort", "swap", "new list", "copies", "refill", "twice"]))
    def rearrange(self, n: int, how: str) -> None:
        if not self.groups:
            return
        i = self.place(n)

        def act(side: Side) -> None:
            groups = side.groups
            if how == "reverse":
                groups.reverse()
            elif how == "rotate":
                groups.append(groups.pop(i))
            elif how == "sort":
                groups.sort(key=lambda g: g["lr"])
            elif how == "swap":
                groups[0], groups[i] = groups[i], groups[0]
            elif how == "new list":
                side.optimizer.param_groups = groups[i:] + groups[:i]
            elif how == "copies":
                groups[i:] = [dict(g) for g in groups[i:]]
            elif how == "refill":
                kept = list(groups)
                groups.clear()
                groups.extend(kept[::-1])
            else:
                for _ in range(2):
                    groups.insert(0, groups.pop(i))

        self.pair.both(act)

    @rule(n=N)
    def clear_and_add_again(self, n: int) -> None:
        kept = {s.is_ours: [dict(g) if n % 2 else g for g in s.groups] for s in (self.pair.ours, self.pair.torchs)}
        self.pair.both(lambda side: side.groups.clear())
        pair = self.pair
        for i in range(len(kept[True])):
            if self.pair is not pair:
                return  # ours could not go on, and another optimizer is in its place
            self.do(lambda side, i=i: side.optimizer.add_param_group(kept[side.is_ours][i]))

    # -- parameters --------------------------------------------------------------------------------------------

    @rule(n=N)
    def take_parameter_out(self, n: int) -> None:
        spot = self.spot(n)
        if spot is not None:
            g, i = spot
            if n % 2:
                self.pair.both(lambda side: side.groups[g]["params"].pop(i))
            else:
                self.pair.both(
                    lambda side: side.groups[g].update(
                        params=[p for j, p in enumerate(side.groups[g]["params"]) if j != i]
                    )
                )

    @rule(n=N, m=N)
    def put_parameter_back(self, n: int, m: int) -> None:
        unlisted = self.unlisted()
        if unlisted and self.groups:
            name, g = unlisted[n % len(unlisted)], self.place(m)
            at = 0 if n % 2 else len(self.groups[g]["params"])
            self.pair.both(lambda side: side.groups[g]["params"].insert(at, side.params[name]))

    @rule(n=N, m=N)
    def move_parameter(self, n: int, m: int) -> None:
        spot = self.spot(n)
        if spot is not None:
            (g, i), to = spot, self.place(m)
            self.pair.both(lambda side: side.groups[to]["params"].append(side.groups[g]["params"].pop(i)))

    @rule(n=N, m=N)
    def list_twice(self, n: int, m: int) -> None:
        spot = self.spot(n)
        if spot is not None and n % 4 == 0 and not self.around:  # torch's side would average after the second update
            (g, i), to = spot, self.place(m)
            self.pair.both(lambda side: side.groups[to]["params"].append(side.groups[g]["params"][i]))

    @rule(n=N, shape=st.sampled_from(SHAPES), how=st.sampled_from(["state moves", "densify", "without state"]))
    def replace_parameter(self, n: int, shape: tuple[int, ...], how: str) -> None:
        spot = self.spot(n)
        if spot is None:
            return
        g, i = spot
        old = self.groups[g]["params"][i]
        same = how == "state moves"
        new = self.pair.parameter(tuple(old.shape) if same else shape)
        held = bool(self.pair.torchs.state.get(old))  # ours may have a buffer in reserve
        keys = (*MOMENTS[self.kind], "max_exp_avg_sq", *(["ema"] if self.around else []))
        fresh = {key: self.pair.draw(tuple(shape)).square() for key in keys}

        def act(side: Side) -> None:
            params, q = side.groups[g]["params"], side.params[new]
            p = params[i]
            if how == "without state" or not held:
                params[i] = q
                return
            stored = side.state[p]
            if not same:
                for key in [k for k, v in dict(stored).items() if k != "step" and v is not None]:
                    stored[key] = side.on_device(fresh[key])
            del side.state[p]
            params[i] = q
            side.state[q] = stored

        self.pair.both(act)

    @rule(n=N)
    def data_of_a_parameter(self, n: int) -> None:
        name = n % len(self.pair.torchs.params)
        values = self.pair.draw(tuple(self.pair.torchs.params[name].shape))
        if n % 2:
            self.pair.both(lambda side: setattr(side.params[name], "data", side.on_device(values)))
        else:
            self.pair.both(lambda side: side.params[name].data.copy_(values))

    # -- state -------------------------------------------------------------------------------------------------

    @rule(n=N, how=st.sampled_from(["del", "pop", "clear", "clear all", "new", "new with the entries"]))
    def drop_state(self, n: int, how: str) -> None:
        name = self.stateful(n)
        if name is None:
            return

        def act(side: Side) -> None:
            state, p = side.state, side.params[name]
            if how == "del":
                del state[p]
            elif how == "pop":
                self.states[side.is_ours].append(state.pop(p))
            elif how == "clear":
                state[p].clear()
            elif how == "clear all":
                state.clear()
            else:
                side.optimizer.state = defaultdict(dict, state if how == "new with the entries" else {})

        self.pair.both(act)

    @rule(n=N, m=N)
    def put_state_back(self, n: int, m: int) -> None:
        """Under any parameter of its shape."""
        if not self.states[True]:
            return
        k = n % len(self.states[True])
        state = self.states[False][k]
        shape = next((tuple(v.shape) for key, v in state.items() if key != "step" and v is not None), None)
        fits = [i for i, p in enumerate(self.pair.torchs.params) if tuple(p.shape) == shape]
        if fits:
            name = fits[m % len(fits)]
            self.pair.both(lambda s: s.state.__setitem__(s.params[name], self.states[s.is_ours].pop(k)))

    @rule(n=N, m=N, how=st.sampled_from(["assign", ".data", "set_", "in place", "view", "update"]))
    def replace_state_tensor(self, n: int, m: int, how: str) -> None:
        name = self.stateful(n)
        simulated = self.where.get("device") == "simulated"  # which has no set_
        if name is None or (how == "set_" and simulated):
            return
        keys = [k for k, v in dict(self.pair.torchs.state[self.pair.torchs.params[name]]).items() if k != "step"]
        keys = [k for k in keys if self.pair.torchs.state[self.pair.torchs.params[name]][k] is not None]
        if not keys:
            return
        key = keys[m % len(keys)]
        values = self.pair.draw(tuple(self.pair.torchs.state[self.pair.torchs.params[name]][key].shape)).square()

        def act(side: Side) -> None:
            state, mine = side.state[side.params[name]], side.on_device(values)
            if how == "assign":
                state[key] = mine
            elif how == ".data":
                state[key].data = mine
            elif how == "set_":
                state[key].set_(mine)
            elif how == "in place":
                state[key].copy_(mine)
            elif how == "view":
                state[key] = torch.stack((mine, mine), dim=-1)[..., 0]
            else:
                state.update({key: mine})

        self.pair.both(act)

    @rule(n=N, value=st.integers(0, 40), how=st.sampled_from(["fill_", "assign", "add_"]))
    def edit_step(self, n: int, value: int, how: str) -> None:
        name = self.stateful(n)
        if name is None or self.kind == "SGD":
            return

        def act(side: Side) -> None:
            state = side.state[side.params[name]]
            if how == "fill_":
                state["step"].fill_(float(value))
            elif how == "add_":
                state["step"].add_(value)
            else:
                state["step"] = torch.tensor(float(value))

        self.pair.both(act)

    # -- hyperparameters ---------------------------------------------------------------------------------------

    @rule(n=N, factor=FACTOR)
    def edit_lr(self, n: int, factor: float) -> None:
        if self.groups:
            i = self.place(n)
            self.pair.both(lambda side: side.groups[i].update(lr=side.groups[i]["lr"] * factor if n % 2 else factor))

    @rule(n=N, factor=FACTOR, how=st.sampled_from(["own", "shared", "decay", "decay of one", "in place", "number"]))
    def lr_as_a_tensor(self, n: int, factor: float, how: str) -> None:
        """Of float64, so that torch's schedulers compute what they do with numbers."""
        if not self.groups:
            return
        i = self.place(n)
        sides = self.pair.ours, self.pair.torchs
        both = all(isinstance(side.groups[i]["lr"], torch.Tensor) for side in sides)

        def act(side: Side) -> None:
            group = side.groups[i]
            if how == "own":
                group["lr"] = side.on_device(torch.tensor(factor, dtype=torch.float64))
            elif how == "number":
                group["lr"] = float(group["lr"])
            elif how == "in place" and both:
                group["lr"].mul_(factor)
            elif how == "shared":
                shared = side.on_device(torch.tensor(factor, dtype=torch.float64))
                for each in side.groups:
                    each["lr"] = shared
            elif how.startswith("decay"):
                shared = side.on_device(torch.tensor(factor, dtype=torch.float64))
                keys = ("lr", "weight_decay") if n % 2 else ("weight_decay", "lr")
                for key in keys:
                    group[key] = shared
                for each in side.groups if how == "decay" else side.groups[-1:]:
                    each["weight_decay"] = shared

        self.do(act)

    @rule(n=N, m=N, v=N)
    def edit(self, n: int, m: int, v: int) -> None:
        if self.groups:
            choices = HYPERPARAMETERS[self.kind] | (AROUND if self.around else {})
            i, key = self.place(n), [*choices][m % len(choices)]
            self.pair.both(lambda side: side.groups[i].__setitem__(key, choices[key][v % len(choices[key])]))

    # -- loads and copies --------------------------------------------------------------------------------------

    @rule()
    def save(self) -> None:
        """torch refuses it while a parameter has a state, but is in no group."""
        found: dict[bool, Any] = {}
        if self.do(lambda side: found.update({side.is_ours: copied(side.optimizer.state_dict())})):
            self.saved = [*self.saved[-2:], (found[True], found[False])]

    def fits(self, saved: dict[str, Any]) -> bool:
        """Whether states would come to parameters of their shapes."""
        numbers = [i for group in saved["param_groups"] for i in group["params"]]
        pairs = [(saved["state"].get(i, {}), p) for i, p in zip(numbers, self.pair.torchs.listed(), strict=False)]
        return all(v.shape == p.shape for s, p in pairs for k, v in s.items() if k != "step" and v is not None)

    @rule(n=N, which=st.sampled_from(["own", "ours", "torch's", "each other's"]))
    def load(self, n: int, which: str) -> None:
        if self.saved:
            ours, torchs = self.saved[n % len(self.saved)]
            if not self.fits(torchs):
                return
            given = {"own": (ours, torchs), "ours": (ours, ours), "torch's": (torchs, torchs)}.get(
                which, (torchs, ours)
            )
            self.do(lambda side: side.optimizer.load_state_dict(copied(given[not side.is_ours])))

    @rule(n=N, which=st.sampled_from(["own", "ours", "torch's"]))
    def load_scheduler(self, n: int, which: str) -> None:
        if not self.fused or self.pair.torchs.schedulers[n % len(self.fused)] is None:
            return
        i = n % len(self.fused)
        states = {True: self.pair.ours.schedulers[i].state_dict(), False: self.pair.torchs.schedulers[i].state_dict()}
        states = {"own": states, "ours": dict.fromkeys(states, states[True])}.get(
            which, dict.fromkeys(states, states[False])
        )
        self.do(lambda side: side.schedulers[i].load_state_dict(copied(states[side.is_ours])))

    @rule(how=st.sampled_from(["deepcopy", "pickle"]))
    def copy_all(self, how: str) -> None:
        if self.pair.torchs.kept or self.where.get("device", "cpu") != "cpu":
            return
        for side in (self.pair.ours, self.pair.torchs):
            mine = side.is_ours
            age = [self.age.get(id(s)) for s in side.schedulers]
            everything = side.optimizer, side.params, side.schedulers, self.kept[mine], self.states[mine]
            copied = copy.deepcopy(everything) if how == "deepcopy" else pickle.loads(pickle.dumps(everything))
            side.optimizer, side.params, side.schedulers, self.kept[mine], self.states[mine] = copied
            if not mine:
                self.age.update({id(s): a for s, a in zip(side.schedulers, age, strict=True) if a is not None})

    # -- schedulers --------------------------------------------------------------------------------------------

    @rule(which=st.sampled_from(SCHEDULERS), fused=st.booleans())
    def add_scheduler(self, which: tuple[str, dict[str, Any]], fused: bool) -> None:
        name, arguments = which
        fused = fused and name != "ReduceLROnPlateau"
        if not self.groups or sum(s is not None for s in self.pair.torchs.schedulers) + len(self.pair.torchs.kept) >= 3:
            return
        self._lrs_of_one_kind()

        def act(side: Side) -> None:
            more = {"fused": True} if fused and side.is_ours else {}
            side.schedulers.append(build(side.home, name, side.optimizer, **arguments, **more))

        if self.do(act):
            self.fused.append(fused)
            self.age[id(self.pair.torchs.schedulers[-1])] = len(self.fused)

    def _lrs_of_one_kind(self) -> None:
        """Torch's schedulers turn a number into a tensor where an initial lr is one: what a constructor puts in its
        place is then a copy, and the initial lr itself where the lr is a number, as in ours."""
        for ours, torchs in zip(self.pair.ours.groups, self.groups, strict=True):
            if isinstance(torchs["lr"], torch.Tensor) and not isinstance(ours["lr"], torch.Tensor):
                torchs["lr"] = float(torchs["lr"])

    @rule(n=N)
    def let_go(self, n: int) -> None:
        """The user keeps a scheduler no longer; a fused schedule goes on."""
        if self.fused and self.pair.torchs.schedulers[n % len(self.fused)] is not None:
            i = n % len(self.fused)
            if self.fused[i] and type(self.pair.torchs.schedulers[i]).__name__ in VALUES_A_GROUP:
                return
            if self.fused[i]:
                self.pair.torchs.kept.append(self.pair.torchs.schedulers[i])
            self.pair.both(lambda side: side.schedulers.__setitem__(i, None))

    @rule(n=N)
    def detach(self, n: int) -> None:
        """A fused schedule ends."""
        if (
            self.fused
            and self.fused[n % len(self.fused)]
            and self.pair.ours.schedulers[n % len(self.fused)] is not None
        ):
            i = n % len(self.fused)
            self.pair.ours.schedulers[i].detach()
            self.pair.both(lambda side: side.schedulers.__setitem__(i, None))

    @invariant()
    def check(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check()


def run(machine: type[Machine], seed: int, sequences: int, **where: Any) -> None:
    """Sequences of operations; what fails is made small and shown."""
    chosen = start_from(seed)(type("Machine", (machine,), where))
    chosen_settings = settings(
        max_examples=sequences,
        stateful_step_count=OPERATIONS,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(chosen, settings=chosen_settings)
