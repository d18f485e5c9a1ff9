"""PPO on a cart-pole written in torch: the lr follows the KL divergence, and the host waits for nothing in an update.

    python examples/ppo_kl.py
    python examples/ppo_kl.py --iterations 30 --environments 256 --seed 1

An iteration lets the policy act, and then trains on what was seen: epochs times minibatches updates, each with its own
KL divergence from the policy that acted. As in rsl_rl, the divergence adapts the lr of the same update; and from the
update on that goes too far, the rest of the iteration changes nothing. Usually the host reads the divergence of every
update for both, and so waits for the device. Here

- ``KLAdaptiveLR`` is the rule, on the device: ``scheduler.observe(kl)`` and ``scheduler.step()``;
- ``optimizer.stop_when(flag)`` is the early stop: the update sets the flag where the divergence exceeds the limit, and
  the next iteration resets it;
- ``max_grad_norm`` clips in the optimizer's launch;
- ``graphed(update, optimizer)`` makes the whole update one CUDA graph. The indices of a minibatch are its input; what
  was seen lies in buffers that are written in place.

It trains three times from the same seed, with torch's Adam and the rule on the host, with ours, and with ours graphed
where there is a GPU. After 15 iterations at the defaults the pole should stay up for more than 100 of at most 200
steps, whatever the seed; at first it is some 20. Prints that, updates a second, and the lr of all updates, which a
``Monitor`` has brought to the host. After an early stop torch makes no more updates; ours run on and change nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fused_sched import Monitor, graphed
from fused_sched.lr_scheduler import KLAdaptiveLR
from fused_sched.optim import Adam
from fused_sched.rows import Row

LEARNED = 100.0  # mean return after ITERATIONS at the defaults
ITERATIONS = 15
LR, MIN_LR, MAX_LR = 1e-3, 1e-5, 3e-3
TARGET_KL, KL_FACTOR, LR_FACTOR = 0.01, 2.0, 1.5
KL_LIMIT = 0.05  # of an update that ends the iteration's
MAX_GRAD_NORM, CLIP, GAMMA, LAMBDA = 1.0, 0.2, 0.98, 0.95


@dataclass(frozen=True)
class Size:
    """Of an iteration and of the networks."""

    environments: int = 64
    steps: int = 32  # of each environment in an iteration
    epochs: int = 10
    minibatches: int = 32
    hidden: int = 32


class CartPoles:
    """Carts that balance a pole, pushed by a force between -10 and 10 N; all tensors are on ``device``.

    A step is 0.02 s and gives a reward of 1. An episode fails at 12 degrees or 2.4 m, and ends after 200 steps.

    Attributes:
        state: ``(count, 4)``: position, speed, angle, angular speed.
    """

    LENGTH = 200

    def __init__(self, count: int, device: str) -> None:
        self.state = torch.zeros(count, 4, device=device)
        self.age = torch.zeros(count, dtype=torch.int64, device=device)
        self._reset(torch.ones(count, dtype=torch.bool, device=device))

    def _reset(self, which: Tensor) -> None:
        fresh = torch.rand_like(self.state) * 0.1 - 0.05
        self.state = torch.where(which[:, None], fresh, self.state)
        self.age = self.age.masked_fill(which, 0)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Push with 10 N times ``action``, ``(count,)``; returns what failed, what is over, and the last states."""
        x, v, angle, spin = self.state.unbind(1)
        sin, cos = angle.sin(), angle.cos()
        force = (10 * action.clamp(-1, 1) + 0.05 * spin.square() * sin) / 1.1
        turn = (9.8 * sin - cos * force) / (0.5 * (4 / 3 - 0.1 * cos.square() / 1.1))
        push = force - 0.05 * turn * cos / 1.1
        last = torch.stack([x + 0.02 * v, v + 0.02 * push, angle + 0.02 * spin, spin + 0.02 * turn], 1)
        self.state, self.age = last, self.age + 1
        failed = (last[:, 2].abs() > math.radians(12)) | (last[:, 0].abs() > 2.4)
        over = failed | (self.age >= self.LENGTH)
        self._reset(over)
        return failed, over, last


class Policy(torch.nn.Module):
    """A normal distribution of the action for each state, and the return that is expected."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.actor, self.critic = (
            torch.nn.Sequential(
                torch.nn.Linear(4, hidden),
                torch.nn.Tanh(),
                torch.nn.Linear(hidden, hidden),
                torch.nn.Tanh(),
                torch.nn.Linear(hidden, 1),
            )
            for _ in range(2)
        )
        self.log_std = torch.nn.Parameter(torch.full((), -0.5))

    def mean(self, state: Tensor) -> Tensor:
        mean: Tensor = self.actor(state).squeeze(-1)
        return mean

    def value(self, state: Tensor) -> Tensor:
        value: Tensor = self.critic(state).squeeze(-1) * 10
        return value

    def log_probability(self, action: Tensor, mean: Tensor) -> Tensor:
        """But for a constant."""
        return -0.5 * ((action - mean) / self.log_std.exp()).square() - self.log_std


@dataclass
class Seen:
    """What an iteration trains on, each float32 of ``(steps * environments, ...)``, but for ``log_std``, a scalar."""

    states: Tensor
    actions: Tensor
    log_probabilities: Tensor
    means: Tensor
    advantages: Tensor
    returns: Tensor
    log_std: Tensor

    @classmethod
    def empty(cls, count: int, device: str) -> Seen:
        flat = [torch.zeros(count, device=device) for _ in range(5)]
        return cls(torch.zeros(count, 4, device=device), *flat, torch.zeros((), device=device))

    def copy_(self, other: Seen) -> None:
        """In place, where a graph reads it."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name))


class Learner:
    """A policy and its updates, with ours.

    Args:
        size: of an iteration.
        device: of everything.
        seed: of the policy, and of what is drawn.
        enabled: of :func:`graphed`: None, a graph where there is a GPU; False, none.
        options: of the optimizer.

    Attributes:
        lrs: of all updates that were made.
        updates, seconds: those that ran, and how long they took.
        stopped: whether the rest of the iteration changes nothing, a float32 scalar.
    """

    def __init__(self, size: Size, device: str, seed: int, enabled: bool | None = None, **options: Any) -> None:
        torch.manual_seed(seed)
        self.size, self.device = size, device
        self.policy = Policy(size.hidden).to(device)
        self.carts = CartPoles(size.environments, device)
        self.seen = Seen.empty(size.environments * size.steps, device)
        self.stopped = torch.zeros((), device=device)
        self.lrs: list[float] = []
        self.updates, self.seconds = 0, 0.0
        self.make_optimizer(enabled, options)

    def make_optimizer(self, enabled: bool | None, options: dict[str, Any]) -> None:
        optimizer = Adam(self.policy.parameters(), lr=LR, max_grad_norm=MAX_GRAD_NORM, **options)
        optimizer.stop_when(self.stopped)
        updates = self.size.epochs * self.size.minibatches
        self.monitor: Monitor | None = Monitor(optimizer, every=updates, capacity=2 * updates, to=self.note_lrs)
        self.scheduler = KLAdaptiveLR(optimizer, TARGET_KL, KL_FACTOR, LR_FACTOR, MIN_LR, MAX_LR)
        self.optimizer: Any = optimizer
        self.train_on = graphed(self.update, optimizer, enabled=enabled)

    def note_lrs(self, rows: list[Row]) -> None:
        self.lrs.extend(row.lr[0] for row in rows if not row.skipped)

    def loss(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Of the minibatch of such rows of ``seen``, and its KL divergence."""
        seen, policy = self.seen, self.policy
        state, action, advantage = seen.states[index], seen.actions[index], seen.advantages[index]
        mean, old_mean = policy.mean(state), seen.means[index]
        ratio = (policy.log_probability(action, mean) - seen.log_probabilities[index]).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
        error = ((policy.value(state) - seen.returns[index]) / 10).square().mean()
        with torch.no_grad():
            apart = (2 * seen.log_std).exp() + (mean - old_mean).square()
            kl = (policy.log_std - seen.log_std + apart / (2 * (2 * policy.log_std).exp()) - 0.5).mean()
        return error - gain, kl

    def update(self, index: Tensor) -> Tensor:
        """One minibatch, int64 of its rows; returns the loss. This is what is graphed: it stays on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, kl = self.loss(index)
        # once stopped, the divergence stays too large: the lr must not follow it any further
        self.scheduler.observe(kl.masked_fill(self.stopped > 0, math.nan))
        self.scheduler.step()
        self.stopped.copy_(torch.maximum(self.stopped, (kl > KL_LIMIT).float()))
        loss.backward()
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def act(self) -> Seen:
        """Let the policy act for an iteration; returns what there was to see."""
        states, actions, rewards, ends, values = [], [], [], [], []
        policy, std = self.policy, self.policy.log_std.exp()
        for _ in range(self.size.steps):
            state = self.carts.state
            mean = policy.mean(state)
            action = mean + std * torch.randn_like(mean)
            failed, over, last = self.carts.step(action)
            states.append(state)
            actions.append(action)
            values.append(policy.value(state))
            # an episode that ends in time would have gone on
            rewards.append(1 + GAMMA * policy.value(last) * (over & ~failed))
            ends.append(over.float())
        advantages: list[Tensor] = []
        following, ahead = policy.value(self.carts.state), torch.zeros_like(values[0])
        for reward, end, value in zip(reversed(rewards), reversed(ends), reversed(values), strict=True):
            surprise = reward + GAMMA * following * (1 - end) - value
            ahead = surprise + GAMMA * LAMBDA * ahead * (1 - end)
            advantages.insert(0, ahead)
            following = value
        state, action, value, advantage = (torch.cat(x) for x in (states, actions, values, advantages))
        mean = policy.mean(state)
        probability = policy.log_probability(action, mean)
        return Seen(state, action, probability, mean, advantage, advantage + value, policy.log_std.detach())

    def minibatches(self) -> Iterator[Tensor]:
        """Rows of each update of an iteration."""
        for _ in range(self.size.epochs):
            order = torch.randperm(len(self.seen.states), device=self.device)
            yield from order.chunk(self.size.minibatches)

    def train(self) -> None:
        """All updates of an iteration."""
        self.stopped.zero_()
        for index in self.minibatches():
            self.train_on(index)
            self.updates += 1

    def iterate(self) -> None:
        """One iteration; its updates are timed."""
        self.seen.copy_(self.act())
        start = time_on(self.device)
        self.train()
        self.seconds += time_on(self.device) - start
        if self.monitor is not None:
            self.monitor.flush()

    @torch.no_grad()
    def mean_return(self, count: int = 128) -> float:
        """Steps before the pole falls, at most 200, of fresh carts that are pushed as the policy deems best."""
        carts = CartPoles(count, self.device)
        up, total = torch.ones(count, device=self.device), torch.zeros(count, device=self.device)
        for _ in range(carts.LENGTH):
            failed, _, _ = carts.step(self.policy.mean(carts.state))
            total += up
            up = up * ~failed
        return total.mean().item()


class HostLearner(Learner):
    """The same with torch's Adam, where the host reads the KL divergence of every update, as rsl_rl does."""

    def make_optimizer(self, enabled: bool | None, options: dict[str, Any]) -> None:
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=LR, **options)
        self.monitor = None

    def train(self) -> None:
        for index in self.minibatches():
            self.updates += 1
            if not self.update_or_stop(index):
                return

    def update_or_stop(self, index: Tensor) -> bool:
        """One minibatch; whether to go on."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, divergence = self.loss(index)
        kl, (group,) = divergence.item(), self.optimizer.param_groups
        if kl > TARGET_KL * KL_FACTOR:
            group["lr"] = max(MIN_LR, group["lr"] / LR_FACTOR)
        elif 0 < kl < TARGET_KL / KL_FACTOR:
            group["lr"] = min(MAX_LR, group["lr"] * LR_FACTOR)
        if kl > KL_LIMIT:
            return False
        self.lrs.append(group["lr"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        return True


def time_on(device: str) -> float:
    """In seconds, when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def chart(lrs: list[float], width: int = 48) -> str:
    """At most ``width`` characters for the lrs of all updates, on a logarithmic scale from MIN_LR to MAX_LR."""
    bars = "▁▂▃▄▅▆▇█"
    columns = min(width, len(lrs))
    parts = [lrs[len(lrs) * i // columns : len(lrs) * (i + 1) // columns] for i in range(columns)]
    shares = [statistics.fmean(math.log(lr / MIN_LR) / math.log(MAX_LR / MIN_LR) for lr in part) for part in parts]
    return "".join(bars[round(min(1.0, max(0.0, share)) * (len(bars) - 1))] for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="default: %(default)s")
    for field in fields(Size):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)  # the networks are small: more threads make the times noisy, not shorter
    size = Size(**{field.name: getattr(arguments, field.name) for field in fields(Size)})
    learners = {
        "torch, the host reads the KL": HostLearner(size, device, arguments.seed),
        "fused_sched, eager": Learner(size, device, arguments.seed, enabled=False),
    }
    if device == "cuda":
        learners["fused_sched, graphed"] = Learner(size, device, arguments.seed)
    print(f"{'':<30}{'mean return':>12}{'updates a second':>18}   lr of all updates, {MIN_LR:g} to {MAX_LR:g}")
    for name, learner in learners.items():
        torch.manual_seed(arguments.seed)
        for _ in range(arguments.iterations):
            learner.iterate()
        speed = learner.updates / learner.seconds
        print(f"{name:<30}{learner.mean_return():>12.1f}{speed:>18.0f}   {chart(learner.lrs)}", flush=True)
        if learner.monitor is not None:
            learner.monitor.close()
    if device == "cpu":
        print("fused_sched, graphed: not run, as no GPU was found")


if __name__ == "__main__":
    main()
