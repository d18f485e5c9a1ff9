"""Random configurations against torch's classes: nestings, groups added in mid-run, edits, states swapped both ways."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import pytest
import torch
from identity.lockstep import Side, both_or_neither
from random_nests import random_leaf, random_nest
from schedule_twins import OURS, TORCH, assert_alike, build, parameters, position, random_lrs, seen

import fused_sched

CONFIGURATIONS = 40  # of one test
STEPS = 40
CHANCES = {"group": 0.04, "own state": 0.06, "swap": 0.06, "edit": 0.1}


class Configuration:
    """An optimizer, a scheduler and what happens to them; torch's beside it, alternately with either class.

    Args:
        rng: all choices come from it.
        backend: of our optimizers.
    """

    def __init__(self, rng: random.Random, backend: Any) -> None:
        self.rng, self.backend = rng, backend
        n = rng.randint(1, 3)
        self.lrs = random_lrs(rng, n)
        self.name, self.arguments = (
            random_nest(rng, n, rng.randint(1, 3)) if rng.random() < 0.6 else random_leaf(rng, n, first=True)
        )
        self.kind, self.fused = rng.choice(["SGD", "Adam", "AdamW"]), rng.random() < 0.4
        self.log: list[str] = []
        self.mine, self.torchs = Side(OURS, "cpu"), Side(TORCH, "cpu")

    def __str__(self) -> str:
        what = "fused " if self.fused else ""
        return f"{self.kind} {self.lrs}, {what}{self.name} {self.arguments}; {', '.join(self.log)}"

    def make(self, side: Side) -> None:
        """An optimizer and a scheduler of the side's classes."""
        given = [{"params": parameters(1), "lr": lr} for lr in self.lrs]
        more = {"momentum": 0.7} if self.kind == "SGD" else {}
        if side.is_ours:
            side.optimizer = getattr(fused_sched.optim, self.kind)(given, lr=0.1, backend=self.backend, **more)
        else:
            side.optimizer = getattr(torch.optim, self.kind)(given, lr=0.1, foreach=False, **more)
        more = {"fused": True} if self.fused and side.is_ours else {}
        side.schedulers = [build(side.home, self.name, side.optimizer, **self.arguments, **more)]

    def both(self, act: Any) -> bool:
        """``act`` on both; False where torch refuses, and ours then has to."""
        return both_or_neither(act, self.torchs, self.mine, self)

    # -- what happens --------------------------------------------------------------------------------------

    def group(self) -> bool:
        lr = self.rng.choice([0.25, 0.5])
        self.lrs.append(lr)
        return self.both(lambda side: side.optimizer.add_param_group({"params": parameters(1), "lr": lr}))

    def own_state(self) -> bool:
        return self.both(lambda side: side.schedulers[0].load_state_dict(side.schedulers[0].state_dict()))

    def swap(self) -> bool:
        """The run goes on with fresh classes: ours with torch's, or back; torch's with torch's own."""
        home = TORCH if self.mine.is_ours else OURS
        sides = Side(home, "cpu"), Side(TORCH, "cpu")
        before = self.mine, self.torchs
        self.mine, self.torchs = sides
        if not self.both(self.make):
            return False
        for new, old in zip(sides, before, strict=True):
            new.optimizer.load_state_dict(copy.deepcopy(old.optimizer.state_dict()))
            new.schedulers[0].load_state_dict(copy.deepcopy(old.schedulers[0].state_dict()))
        return True

    def edit(self) -> bool:
        i, factor = self.rng.randrange(len(self.lrs)), self.rng.choice([0.5, 1.5])
        return self.both(lambda side: side.groups[i].update(lr=side.groups[i]["lr"] * factor))

    def step(self) -> bool:
        def act(side: Side) -> None:
            for group in side.groups:
                for p in group["params"]:
                    p.grad = torch.ones_like(p)
            side.optimizer.step()
            side.schedulers[0].step()

        return self.both(act)

    def check(self) -> None:
        assert_alike(seen(self.mine.optimizer), seen(self.torchs.optimizer), 0.0, str(self))
        last = [[{"lr": float(x)} for x in side.schedulers[0].get_last_lr()] for side in (self.mine, self.torchs)]
        assert_alike(*last, 0.0, f"{self}: get_last_lr()")
        assert position(self.mine.schedulers[0]) == position(self.torchs.schedulers[0]), str(self)

    def run(self) -> None:
        """All steps, or until torch raises, and ours with it."""
        if not self.both(self.make):
            return
        self.check()
        events = {"group": self.group, "own state": self.own_state, "swap": self.swap, "edit": self.edit}
        for step in range(STEPS):
            for name, event in events.items():
                if self.rng.random() < CHANCES[name]:
                    self.log.append(f"{name} at {step}")
                    if not event():
                        return
                    self.check()
            if not self.step():
                return
            self.check()


@pytest.mark.filterwarnings("ignore")
def test_random_configurations_have_torchs_bits(seed: int, host_backend: str, mirrored: bool) -> None:
    for number in range(CONFIGURATIONS // 2):  # each half with one home of the control block
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Configuration(random.Random(f"{seed} {number}"), host_backend).run()
