"""A whole training step in one CUDA graph: forward, backward, update, schedule and all.

    python examples/captured_loop.py
    python examples/captured_loop.py --steps 2000 --scheduler separate
    python examples/captured_loop.py --by-hand

``fused_sched.graphed(update, optimizer)`` warms up, puts back what the warm-up has changed, captures, and replays.
Without a GPU it calls the function as it is, so that this program says so and takes the same steps one by one.

- **Inputs** may be other tensors at every call: graphed copies them to where the graph reads them. A batch of another
  shape is captured anew, once. Batches should be on the device before the call.
- **The loss** that is returned is the graph's own memory, which the next call overwrites; reading it waits.
- **Outside of the graph nothing has to be done.** Schedule and step count live on the device and go on with each
  replay. ``optimizer.param_groups[0]["lr"] /= 2`` between two calls is seen by the next one; reading an lr after
  replays waits for the device once.
- **Refused inside, with what to do instead:** changing hyperparameters by hand; schedules that only Python can compute;
  reading on the host what the device computes.

By hand, with ``torch.cuda.graph``, it is :class:`TrainingLoop` below, and there is more to know:

- **Warm up first, on a side stream.** A few ordinary steps make the optimizer's state, compile the kernels and let
  cuBLAS and autograd take their memory; inside the capture it is too late for that. They are training steps like any
  other: their data should be real.
- **Inputs are static.** The graph reads the memory it was captured with, so a new batch is copied into the same
  tensors with ``copy_`` before each replay; so is everything else that changes from step to step.
- **Gradients either stay or belong to the graph.** With ``zero_grad(set_to_none=False)`` they keep their memory and
  are zeroed inside of the graph. With ``set_to_none=True`` just before the capture, ``backward`` makes them in the
  graph's own memory pool, as here: one pass over memory less. The optimizer follows either.
- **Several steps in one graph** work: capture the body more than once; with graphed, ``steps_per_replay=``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from fused_sched import graphed
from fused_sched.backends import Backend
from fused_sched.lr_scheduler import CosineAnnealingLR
from fused_sched.optim import AdamW

WARM_UP = 3  # steps before a capture by hand


def perceptron(features: int) -> torch.nn.Module:
    """Two hidden layers and ten classes."""
    hidden = [layer for _ in range(2) for layer in (torch.nn.Linear(features, features), torch.nn.ReLU())]
    return torch.nn.Sequential(*hidden, torch.nn.Linear(features, 10))


class Training:
    """A model, its data, an optimizer with a cosine schedule, and the function that is a training step.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        features: of the input; hidden layers are as wide.
        batch: samples in a step.
        steps: after which the schedule ends.
        fused: the schedule advances in the optimizer's launch; else ``scheduler.step()`` is a launch of its own.
        backend: of the optimizer; default, the best one for the device.
    """

    def __init__(
        self,
        device: str,
        features: int = 256,
        batch: int = 64,
        steps: int = 1000,
        fused: bool = True,
        backend: str | Backend | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.shape = device, (batch, features)
        self.model = perceptron(features).to(device)
        self.optimizer = AdamW(self.model.parameters(), lr=3e-3, backend=backend)
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=steps, fused=fused)
        self._generator = torch.Generator().manual_seed(1)

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs, float32 of ``(batch, features)``, and their classes, int64 of ``(batch,)``, on the device."""
        x = torch.randn(self.shape, generator=self._generator).to(self.device, non_blocking=True)
        return x, torch.argmax(x[:, :10], dim=1)

    def update(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One training step; returns its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss

    def graphed_step(self) -> Callable[[], torch.Tensor]:
        """What takes one step with the next batch, from a graph where there is a GPU; returns its loss."""
        update = graphed(self.update, self.optimizer)
        return lambda: update(*self.next_batch())


class TrainingLoop(Training):
    """The same training, warmed up and captured by hand. Its arguments are those of :class:`Training`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # the static inputs: every batch is copied in here
        self.x = torch.zeros(self.shape, device=self.device)
        self.y = torch.zeros(self.shape[0], dtype=torch.int64, device=self.device)
        self.loss = torch.zeros((), device=self.device)

    def load_batch(self) -> None:
        """Put the next batch where the graph looks for it."""
        x, y = self.next_batch()
        self.x.copy_(x)
        self.y.copy_(y)

    def step(self) -> None:
        """One training step: what is captured. The gradients are new, or those of the graph."""
        self.loss.copy_(self.update(self.x, self.y).detach())

    def warm_up(self) -> None:
        """The first steps, as before every capture."""
        self.aside(self._first_steps)

    def _first_steps(self) -> None:
        for _ in range(WARM_UP):
            self.load_batch()
            self.step()

    def capture(self) -> Callable[[], None]:
        """Warm up and capture; returns what takes one step with the batch that is loaded."""
        self.warm_up()
        self.optimizer.zero_grad(set_to_none=True)  # so that the gradients are made in the graph's pool
        return self.record(self.step)

    def aside(self, body: Callable[[], None]) -> None:
        """Call ``body`` on a side stream."""
        if self.device == "cpu":
            body()
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            body()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Capture ``body``; returns what does it again. On the CPU that is ``body``."""
        if self.device == "cpu":
            return body
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        return graph.replay

    def captured_step(self) -> Callable[[], torch.Tensor]:
        """As :meth:`Training.graphed_step`, after :data:`WARM_UP` steps."""
        replay = self.capture()

        def step() -> torch.Tensor:
            self.load_batch()
            replay()
            return self.loss

        return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--scheduler", choices=["fused", "separate"], default="fused", help="default: %(default)s")
    parser.add_argument("--by-hand", action="store_true", help="with torch.cuda.graph instead of fused_sched.graphed")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print("no GPU was found: the same steps, one by one and not from a graph")
    made = (TrainingLoop if arguments.by_hand else Training)(
        device, steps=arguments.steps, fused=arguments.scheduler == "fused"
    )
    if isinstance(made, TrainingLoop):
        step, first = made.captured_step(), WARM_UP
    else:
        step, first = made.graphed_step(), 0
    start = time.perf_counter()
    for i in range(first, arguments.steps):
        loss = step()
        if (i + 1) % max(1, arguments.steps // 5) == 0:
            lr = made.optimizer.param_groups[0]["lr"]
            print(f"step {i + 1:5}: loss {loss.item():.4f}, lr {lr:.3e}")
    if device == "cuda":
        torch.cuda.synchronize()
    each = (time.perf_counter() - start) / max(1, arguments.steps - first)
    print(f"{each * 1e6:.0f} µs a step, {'replayed' if device == 'cuda' else 'eager'}")


if __name__ == "__main__":
    main()
