"""Train a small network on handwritten digits with every scheduler, twice: with fused_sched and with torch.

Both runs start from the same weights and see the same batches in the same order, step by step side by
side. Prints how far they agree and what a step costs, writes two charts to demo_output/, and exits with
status 1 if they do not agree. Where there is a GPU it runs there, and a third run of each takes its steps
from a CUDA graph; else on the CPU, in under a minute. Needs no network.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from tqdm import tqdm

import fused_sched.lr_scheduler
import fused_sched.optim
from fused_sched import graphed, plotting

SEED = 20
BATCH = 64
EPOCHS = 12
OUTPUT = Path("demo_output")

# The schedule is the same float64 arithmetic in the same order on both sides.
LR_TOLERANCE = 1e-12
# float32 updates may round differently in the last bit (6e-8), and training amplifies what differs:
# parameters are compared with the largest one of their tensor, after the whole run.
PARAMETER_TOLERANCE = 1e-4
ACCURACY_TOLERANCE = 0.01

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
ADAMW = {"lr": 2e-3, "weight_decay": 1e-2}
CYCLE = {"base_lr": 0.005, "max_lr": 0.1, "step_size_up": 30, "step_size_down": 40}


def warm_up_then_cosine(schedulers: Any, optimizer: Any) -> Any:
    """30 steps of linear warm-up, then half a cosine."""
    parts = [
        schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=30),
        schedulers.CosineAnnealingLR(optimizer, T_max=246, eta_min=1e-5),
    ]
    return schedulers.SequentialLR(optimizer, parts, milestones=[30])


@dataclass
class Case:
    """One training run: the names of the classes, the same in both libraries, and their arguments."""

    title: str
    scheduler: str | Callable[..., Any]  # a class's name, or what makes one of a module's classes and an optimizer
    arguments: dict[str, Any]
    optimizer: str = "SGD"
    hyperparameters: dict[str, Any] = field(default_factory=lambda: SGD)
    halve_at: int | None = None  # step after which the user halves the rate by hand


CASES = [
    Case("LambdaLR, 1/(1 + 0.02 t)", "LambdaLR", {"lr_lambda": lambda step: 1.0 / (1.0 + 0.02 * step)}),
    Case("StepLR", "StepLR", {"step_size": 60, "gamma": 0.3}),
    Case("StepLR, halved by hand", "StepLR", {"step_size": 60, "gamma": 0.3}, "AdamW", ADAMW, halve_at=130),
    Case("MultiStepLR", "MultiStepLR", {"milestones": [80, 160, 220], "gamma": 0.2}, "AdamW", ADAMW),
    Case("ExponentialLR", "ExponentialLR", {"gamma": 0.985}),
    Case("CosineAnnealingLR", "CosineAnnealingLR", {"T_max": 276, "eta_min": 1e-5}, "AdamW", ADAMW),
    Case("CyclicLR, triangular", "CyclicLR", CYCLE),
    Case("CyclicLR, triangular2", "CyclicLR", {**CYCLE, "mode": "triangular2"}),
    Case("CyclicLR, exp_range", "CyclicLR", {**CYCLE, "mode": "exp_range", "gamma": 0.99}),
    Case("OneCycleLR", "OneCycleLR", {"max_lr": 0.1, "total_steps": 280}),
    Case("SequentialLR, warm-up", warm_up_then_cosine, {}, "AdamW", ADAMW),
    Case("CyclicLR, own scale_fn", "CyclicLR", {**CYCLE, "scale_fn": lambda cycle: 1.0 / cycle, "scale_mode": "cycle"}),
]


@dataclass
class Data:
    """Standardised digits: float32 inputs of 64 pixels, int64 labels from 0 to 9, on one device."""

    train_inputs: torch.Tensor
    train_labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.train_inputs.device


class Side:
    """One of the runs of a case: network, optimizer, scheduler, and what is recorded of them."""

    def __init__(
        self,
        case: Case,
        network: torch.nn.Module,
        optimizers: Any,
        schedulers: Any,
        as_graph: bool = False,
        **options: Any,
    ) -> None:
        self.network = copy.deepcopy(network)
        hyperparameters = {**case.hyperparameters, **options}
        self.optimizer = getattr(optimizers, case.optimizer)(self.network.parameters(), **hyperparameters)
        if isinstance(case.scheduler, str):
            self.scheduler = getattr(schedulers, case.scheduler)(self.optimizer, **case.arguments)
        else:
            self.scheduler = case.scheduler(schedulers, self.optimizer)
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.seconds: list[float] = []

        self.train = graphed(self._train, self.optimizer) if as_graph else self._train
        self._update_began = 0.0

    def _train(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.network(inputs), labels)
        loss.backward()
        self._update_began = time.perf_counter()
        self.optimizer.step()
        self.scheduler.step()
        return loss

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """One training step. On the CPU only the optimizer and the scheduler are timed; on a GPU, all of it."""
        self.rates.append(float(self.optimizer.param_groups[0]["lr"]))
        began = time_on(inputs.device)
        loss = self.train(inputs, labels)
        if inputs.device.type == "cpu":
            began = self._update_began
        self.seconds.append(time_on(inputs.device) - began)
        self.losses.append(loss.item())

    def accuracy(self, data: Data) -> float:
        """The share of the test digits that the network names rightly."""
        with torch.no_grad():
            guesses = self.network(data.test_inputs).argmax(dim=1)
        return (guesses == data.test_labels).double().mean().item()


def time_on(device: torch.device) -> float:
    """In seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Result:
    """How the sides of a case compare."""

    case: Case
    ours: Side
    theirs: Side
    replayed: Side | None  # ours as a graph, on a GPU
    accuracies: list[float]  # of ours, of theirs, and of the graph
    lr_error: float  # relative, the largest of all steps, and of ours and the graph
    parameter_error: float  # absolute, the largest of all parameters at the end
    scaled_error: float  # the same, relative to the largest parameter of the tensor

    @property
    def agrees(self) -> bool:
        return (
            self.lr_error <= LR_TOLERANCE
            and self.scaled_error <= PARAMETER_TOLERANCE
            and max(self.accuracies) - min(self.accuracies) <= ACCURACY_TOLERANCE
        )


def load_data(device: str = "cpu") -> Data:
    """scikit-learn's bundled digits, shuffled, 80 % for training, scaled by the training part's statistics."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(SEED))
    inputs = torch.from_numpy(digits.data).float()[order]
    labels = torch.from_numpy(digits.target).long()[order]
    split = len(order) * 4 // 5
    mean, deviation = inputs[:split].mean(0), inputs[:split].std(0)
    inputs = (inputs - mean) / deviation.clamp(min=1e-3)  # some pixels are never inked
    inputs, labels = inputs.to(device), labels.to(device)
    return Data(inputs[:split], labels[:split], inputs[split:], labels[split:])


def batches(data: Data) -> list[torch.Tensor]:
    """The indices of every minibatch of the whole run, in order."""
    generator = torch.Generator().manual_seed(SEED)
    count = len(data.train_labels)
    return [
        part for _ in range(EPOCHS) for part in torch.randperm(count, generator=generator).to(data.device).split(BATCH)
    ]


def make_network() -> torch.nn.Module:
    torch.manual_seed(SEED)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def compare(case: Case, data: Data, order: list[torch.Tensor], advance: Callable[[], object], **options: Any) -> Result:
    """Train all sides of ``case`` in lockstep; ``advance`` is called after every step, ``options`` are of ours."""
    network = make_network().to(data.device)
    ours = Side(case, network, fused_sched.optim, fused_sched.lr_scheduler, **options)
    theirs = Side(case, network, torch.optim, torch.optim.lr_scheduler, foreach=False, fused=False)
    sides = [ours, theirs]
    if data.device.type != "cpu":
        sides.append(Side(case, network, fused_sched.optim, fused_sched.lr_scheduler, as_graph=True, **options))
    for step, indices in enumerate(order):
        # taking turns at going first, no side always finds the caches as the others left them
        for side in sides if step % 2 else reversed(sides):
            side.step(data.train_inputs[indices], data.train_labels[indices])
            if step == case.halve_at:
                side.optimizer.param_groups[0]["lr"] /= 2
        advance()

    errors, scaled, lr_errors = [], [], []
    for side in [ours, *sides[2:]]:
        for a, b in zip(side.network.parameters(), theirs.network.parameters(), strict=True):
            errors.append(nan_to_inf((a - b).abs().max().item()))
            scaled.append(errors[-1] / b.abs().max().item())
        lr_errors += [relative_error(a, b) for a, b in zip(side.rates, theirs.rates, strict=True)]
    return Result(
        case=case,
        ours=ours,
        theirs=theirs,
        replayed=sides[2] if len(sides) > 2 else None,
        accuracies=[side.accuracy(data) for side in sides],
        lr_error=max(lr_errors),
        parameter_error=max(errors),
        scaled_error=max(scaled),
    )


def relative_error(value: float, expected: float) -> float:
    """``|value - expected| / |expected|``; 0 for equal numbers, infinite where one is NaN or only one is 0."""
    if value == expected:
        return 0.0
    return nan_to_inf(abs(value - expected) / abs(expected)) if expected else math.inf


def nan_to_inf(value: float) -> float:
    return math.inf if math.isnan(value) else value


def print_table(results: list[Result]) -> None:
    graphs = results[0].replayed is not None
    timed = "time per training step, us" if graphs else "time per step, us"
    print(f"{'':<27}{'':<7}{'test accuracy':>17}{'largest difference from torch':>34}{timed:>{30 if graphs else 20}}")
    print(
        f"{'scheduler':<27}{'with':<7}{'ours':>8}{'torch':>9}"
        f"{'lr (rel.)':>12}{'parameter':>11}{'scaled':>11}{'ours':>10}{'graphed' if graphs else '':>{10 * graphs}}"
        f"{'torch':>10}"
    )
    for result in results:
        sides = [side for side in (result.ours, result.replayed, result.theirs) if side is not None]
        times = "".join(f"{statistics.median(side.seconds) * 1e6:>10.1f}" for side in sides)
        print(
            f"{result.case.title:<27}{result.case.optimizer:<7}"
            f"{result.accuracies[0]:>8.2%}{result.accuracies[1]:>9.2%}"
            f"{result.lr_error:>12.1e}{result.parameter_error:>11.1e}{result.scaled_error:>11.1e}"
            f"{times}{'' if result.agrees else '   DIFFERS'}"
        )


def print_verdict(results: list[Result]) -> None:
    timed = "optimizer.step() + scheduler.step() with one thread"
    if results[0].replayed is not None:
        timed = "zero_grad, forward, backward, optimizer.step() and scheduler.step(), one by one or as a CUDA graph"
    print(f"""
The time is the median of {timed}; torch runs with foreach=False.
'scaled' is the largest difference within a parameter tensor over the largest parameter of that tensor.

Allowed are:
  lr         {LR_TOLERANCE:g}, relative, at every step: both sides run the same float64 recurrence
  parameters {PARAMETER_TOLERANCE:g}, scaled, at the end: a float32 update may round its last bit (6e-8) differently,
             and {len(results[0].ours.rates)} steps of training amplify whatever differs
  accuracy   {ACCURACY_TOLERANCE:.0%} of the test digits""")
    failed = [result.case.title for result in results if not result.agrees]
    if failed:
        print(f"\nFAILED: outside the tolerance with {'; '.join(failed)}")
    else:
        print(f"\nAll {len(results)} runs agree with torch within these tolerances.")


def draw(results: list[Result], path: Path, what: str, pick: Callable[[Side], list[float]], log: bool) -> None:
    """One small chart for each case, torch's curve as a broad band below ours."""
    columns = 4
    rows = math.ceil(len(results) / columns)
    figure = plotting.new_figure(13, 0.7 + 2.7 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=log).flat)
    for spare in axes[len(results) :]:
        spare.remove()
    for axis, result in zip(axes, results, strict=False):
        axis.plot(pick(result.theirs), color="#f0b48f", linewidth=5, label="torch")
        axis.plot(pick(result.ours), color="#1f5fa8", linewidth=1.3, label="fused_sched")
        axis.set_title(f"{result.case.title} ({result.case.optimizer})", fontsize=9.5, loc="left")
        if log:
            axis.set_yscale("log")
        plotting.style(axis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    figure.suptitle(what, x=0.01, ha="left", fontsize=13)
    figure.supxlabel("step", fontsize=10)
    plotting.save(figure, path)


def smooth(values: list[float], width: int = 9) -> list[float]:
    """Means of the last ``width`` values: the loss of single minibatches is noisy."""
    return [statistics.fmean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def main() -> int:
    torch.set_num_threads(1)  # the network is small: more threads make the times noisy, not shorter
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same algorithms in a capture and outside
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_data(device)
    order = batches(data)
    print(
        f"fused_sched {fused_sched.__version__} and torch {torch.__version__} on digits, {device}: "
        f"{len(data.train_labels)} images to train, {len(data.test_labels)} to test, {len(order)} steps a run\n"
    )
    results = []
    with tqdm(total=len(CASES) * len(order), unit="step", leave=False) as progress:
        for case in CASES:
            progress.set_description(f"{case.title:<26}")
            results.append(compare(case, data, order, progress.update))
    print_table(results)
    print_verdict(results)
    OUTPUT.mkdir(exist_ok=True)
    draw(results, OUTPUT / "lr_curves.png", "Learning rate at every step", lambda side: side.rates, log=False)
    draw(results, OUTPUT / "loss.png", "Training loss, mean of 9 steps", lambda side: smooth(side.losses), log=True)
    print(f"Charts: {OUTPUT / 'lr_curves.png'}, {OUTPUT / 'loss.png'}")
    return 0 if all(result.agrees for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
