"""An actor and a critic, each with its own optimizer and schedule, in one CUDA graph.

    python examples/two_optimizers.py
    python examples/two_optimizers.py --steps 5000 --batch 512

The critic learns what reward an action brings in a state, from actions with some noise; the actor learns the action
that the critic likes best. The reward is the negative squared distance from an action that only the environment knows.
An update trains both: ``graphed(update, first, second)`` is told of both optimizers, warms up without a trace, and
replays the whole as one graph. What a replay needs anew, states and noise, are its inputs.

It trains with torch's AdamW, with ours, and with ours graphed where there is a GPU, from the same weights and with the
same batches. Prints how far the actor is from the best actions, before and after, and updates a second.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

import fused_sched.lr_scheduler
import fused_sched.optim
from fused_sched import graphed

STATES, ACTIONS = 4, 2
NOISE = 0.5  # of the actions that are tried
BATCH, STEPS, HIDDEN = 64, 600, 32


def perceptron(inputs: int, outputs: int, hidden: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, outputs))


class Pair:
    """The two networks, and the update that trains both.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        steps: of the schedules.
        optimizers, schedulers: modules with torch's names, of torch or of ours.
        fused: whether schedules advance in the optimizers' launches; None where they are torch's.
        hidden: width of both networks.
        options: of both optimizers.
    """

    def __init__(
        self,
        device: str,
        steps: int,
        optimizers: Any = fused_sched.optim,
        schedulers: Any = fused_sched.lr_scheduler,
        fused: bool | None = True,
        hidden: int = HIDDEN,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        self.actor = torch.nn.Sequential(perceptron(STATES, ACTIONS, hidden), torch.nn.Tanh()).to(device)
        self.critic = perceptron(STATES + ACTIONS, 1, hidden).to(device)
        self._best = torch.randn(STATES, ACTIONS).div(2).to(device)
        self.first = optimizers.AdamW(self.critic.parameters(), lr=1e-2, **options)
        self.second = optimizers.AdamW(self.actor.parameters(), lr=2e-3, **options)
        keywords = {} if fused is None else {"fused": fused}
        self.schedules = [
            schedulers.CosineAnnealingLR(self.first, T_max=steps, eta_min=1e-4, **keywords),
            schedulers.LinearLR(self.second, start_factor=0.1, total_iters=max(1, steps // 4), **keywords),
        ]
        self._generator = torch.Generator().manual_seed(1)

    def next_batch(self, count: int) -> tuple[Tensor, Tensor]:
        """States, ``(count, 4)``, and noise of actions, ``(count, 2)``, both float32 on the device."""
        both = torch.randn(count, STATES + ACTIONS, generator=self._generator).to(self.device, non_blocking=True)
        return both[:, :STATES], both[:, STATES:]

    def best_actions(self, state: Tensor) -> Tensor:
        """What the environment alone knows."""
        return (state @ self._best).tanh()

    def likes(self, state: Tensor, action: Tensor) -> Tensor:
        """The reward that the critic expects."""
        reward: Tensor = self.critic(torch.cat([state, action], 1)).squeeze(1)
        return reward

    def update(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Both updates: the critic's, then the actor's with the new critic; returns both losses."""
        with torch.no_grad():
            action = self.actor(state) + NOISE * noise
            reward = -(action - self.best_actions(state)).square().sum(1)
        self.first.zero_grad()
        of_critic = (self.likes(state, action) - reward).square().mean()
        of_critic.backward()
        self.first.step()

        self.second.zero_grad()
        of_actor = -self.likes(state, self.actor(state)).mean()
        of_actor.backward(inputs=list(self.actor.parameters()))  # leave the critic's gradients alone
        self.second.step()
        for schedule in self.schedules:
            schedule.step()
        return of_critic, of_actor

    @torch.no_grad()
    def distance(self) -> float:
        """Root of the mean squared distance from the best actions, in 1000 states."""
        state = torch.randn(1000, STATES, generator=torch.Generator().manual_seed(2)).to(self.device)
        return (self.actor(state) - self.best_actions(state)).square().sum(1).mean().sqrt().item()


def torchs(device: str, steps: int, hidden: int = HIDDEN) -> Pair:
    """The same with torch's classes."""
    return Pair(device, steps, torch.optim, torch.optim.lr_scheduler, fused=None, hidden=hidden)


def time_on(device: str) -> float:
    """In seconds, when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train(pair: Pair, update: Any, steps: int, batch: int) -> float:
    """Take the steps; returns updates of both a second, without the first, which captures."""
    update(*pair.next_batch(batch))
    start = time_on(pair.device)
    for _ in range(steps - 1):
        update(*pair.next_batch(batch))
    return max(1, steps - 1) / (time_on(pair.device) - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=BATCH, help="default: %(default)s")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)  # the networks are small: more threads make the times noisy, not shorter
    pairs = {"torch, eager": torchs(device, arguments.steps)}
    pairs["fused_sched, eager"] = Pair(device, arguments.steps)
    updates = {name: pair.update for name, pair in pairs.items()}
    if device == "cuda":
        pair = pairs["fused_sched, graphed"] = Pair(device, arguments.steps)
        updates["fused_sched, graphed"] = graphed(pair.update, pair.first, pair.second)
    print(f"{'':<22}{'distance before':>16}{'and after':>11}{'updates a second':>18}")
    for name, pair in pairs.items():
        before = pair.distance()
        speed = train(pair, updates[name], arguments.steps, arguments.batch)
        print(f"{name:<22}{before:>16.3f}{pair.distance():>11.3f}{speed:>18.0f}", flush=True)
    if device == "cpu":
        print("fused_sched, graphed: not run, as no GPU was found")


if __name__ == "__main__":
    main()
