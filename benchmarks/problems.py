"""What is measured: a set of shapes, dtypes, a rule, param groups; its tensors; and what a right step makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from shapes import SETS, numel

F32, B16 = torch.float32, torch.bfloat16
# Recipe -> dtype of parameters and gradients, dtype of states.
RECIPES: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "float32": (F32, F32),
    "bfloat16": (B16, B16),
    "bfloat16, states float32": (B16, F32),
    "float32, states bfloat16": (F32, B16),
}
RULES = ("AdamW", "AdamW amsgrad", "SGD momentum")

LR, ETA_MIN, PERIOD = 1e-3, 1e-4, 50  # of the cosine that every contender follows
WEIGHT_DECAY, EPS, MOMENTUM = 0.01, 1e-8, 0.9
SCALES = (1.0, 2.0, 0.25, -1.0, 0.5)  # of the gradients in the steps of the gate; exact in every dtype
GATE_STEPS = len(SCALES)
# How far an element may end from where it should, as a part of the way it went. A contender that misses an
# element, a step or a change of the lr is off by far more; bfloat16 states and parameters are rounded coarsely.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "bfloat16, states float32": 0.5, "float32, states bfloat16": 0.1}
# Elements that are checked at a time. On the CPU, as many as torch does not share among threads, and that fit a cache.
BUCKET = {"cpu": 2**15, "cuda": 2**25}
COPY_BYTES = 3 * 2**30  # parameters of up to this size are restored from a copy, larger ones are drawn again


@dataclass(frozen=True)
class Problem:
    """One row's question.

    Attributes:
        set: a key of ``SETS``.
        recipe: a key of ``RECIPES``.
        rule: one of ``RULES``.
        groups: param groups; every second one has twice the lr.
        offset: elements by which every parameter and gradient is away from an aligned address.
    """

    set: str
    recipe: str = "float32"
    rule: str = "AdamW"
    groups: int = 1
    offset: int = 0

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        return RECIPES[self.recipe]

    @property
    def elements(self) -> int:
        return numel(SETS[self.set])

    @property
    def betas(self) -> tuple[float, float]:
        return (0.9, 0.95) if self.rule == "AdamW amsgrad" else (0.9, 0.999)  # a maximum that shows after a few steps

    @property
    def states(self) -> int:
        return {"AdamW": 2, "AdamW amsgrad": 3, "SGD momentum": 1}[self.rule]

    @property
    def bytes(self) -> int:
        """What an update reads and writes: parameter and states both ways, the gradient once."""
        param, state = (dtype.itemsize for dtype in self.dtypes)
        return self.elements * (3 * param + 2 * self.states * state)

    @property
    def footprint(self) -> int:
        """What an update touches, each array once: this is what a cache has to hold."""
        param, state = (dtype.itemsize for dtype in self.dtypes)
        return self.elements * (2 * param + self.states * state)

    def __str__(self) -> str:
        more = [self.rule] if self.rule != "AdamW" else []
        more += [f"{self.groups} groups"] if self.groups > 1 else []
        more += ["unaligned"] if self.offset else []
        return f"{self.set}, {', '.join([self.recipe, *more])}"


def lr_at(step: int, factor: float) -> float:
    """The lr of step ``step`` (from 0) in closed form."""
    return ETA_MIN + (LR * factor - ETA_MIN) * (1 + math.cos(math.pi * step / PERIOD)) / 2


class Tensors:
    """Parameters and static gradients, shared by all contenders of a problem; states are each contender's own.

    Args:
        problem: what to make.
        device: where, as torch calls it.
    """

    def __init__(self, problem: Problem, device: str) -> None:
        self.problem, self.device = problem, device
        dtype = problem.dtypes[0]
        self.params: list[torch.nn.Parameter] = []
        for shape in SETS[problem.set]:
            p = torch.nn.Parameter(self._empty(shape, dtype))
            p.grad = self._empty(shape, dtype)
            self.params.append(p)
        self.factors = [1 + group % 2 for group in range(problem.groups) for _ in self._members(group)]
        self._initial: list[torch.Tensor] | None = None
        self.reset()
        if problem.elements * dtype.itemsize <= COPY_BYTES:
            self._initial = [p.detach().clone() for p in self.params]

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        flat = torch.empty(math.prod(shape) + self.problem.offset, dtype=dtype, device=self.device)
        return flat[self.problem.offset :].view(shape)

    def _members(self, group: int) -> list[torch.nn.Parameter]:
        n, groups = len(self.params), min(self.problem.groups, len(self.params))
        return self.params[n * group // groups : n * (group + 1) // groups]

    def groups(self, tensor_lr: bool = False) -> list[dict[str, Any]]:
        """The param groups, each with an lr of its own; ``tensor_lr``: as a tensor on the device."""
        made = []
        for group in range(self.problem.groups):
            lr: Any = LR * (1 + group % 2)
            lr = torch.tensor(lr, device=self.device) if tensor_lr else lr
            made.append({"params": self._members(group), "lr": lr})
        return made

    def reset(self) -> None:
        """Put parameters and gradients back to what they were at first."""
        with torch.no_grad():
            generator = torch.Generator(device=self.device).manual_seed(0)
            for i, p in enumerate(self.params):
                if self._initial is not None:
                    p.copy_(self._initial[i])
                else:
                    p.uniform_(-0.05, 0.05, generator=generator)
                    # away from 0, so that every element has a way to go
                    g = torch.empty(p.shape, device=self.device).uniform_(-1, 1, generator=generator)
                    p.grad.copy_(g + torch.where(g < 0, -0.5, 0.5))

    def scale_gradients(self, factor: float) -> None:
        torch._foreach_mul_([p.grad for p in self.params], factor)


class Oracle:
    """Where every element ends after the steps of the gate, computed in float64 from the formulas.

    Args:
        tensors: in their first state.
    """

    def __init__(self, tensors: Tensors) -> None:
        most = BUCKET[tensors.device]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on a busy machine, sharing small work among threads waits for its turn each time
        self._buckets: list[tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]] = []
        pieces: list[tuple[torch.Tensor, torch.Tensor]] = []
        size, factor = 0, 0
        for p, f in zip(tensors.params, tensors.factors, strict=True):
            flat, grad = p.detach().view(-1).split(most), p.grad.view(-1).split(most)
            for piece in zip(flat, grad, strict=True):
                if pieces and (f != factor or size + piece[0].numel() > most):
                    self._add(pieces, tensors.problem, factor)
                    pieces, size = [], 0
                pieces.append(piece)
                size, factor = size + piece[0].numel(), f
        self._add(pieces, tensors.problem, factor)
        torch.set_num_threads(threads)

    def _add(self, pieces: list[tuple[torch.Tensor, torch.Tensor]], problem: Problem, factor: int) -> None:
        first, gradient = (torch.cat(parts).double() for parts in zip(*pieces, strict=True))
        last = _steps(first, gradient, problem, factor)
        self._buckets.append(([p for p, _ in pieces], last.float(), (last - first).float()))

    def error(self) -> float:
        """Largest distance of an element from where it should be, as a part of the way it should have gone."""
        worst = [
            torch.cat(pieces).to(torch.float32).sub_(last).div_(way).abs_().max() for pieces, last, way in self._buckets
        ]
        return float(torch.stack(worst).max())


def _steps(p: torch.Tensor, gradient: torch.Tensor, problem: Problem, factor: int) -> torch.Tensor:
    p = p.clone()
    m, v, largest = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)
    beta1, beta2 = problem.betas
    for step, scale in enumerate(SCALES):
        g, lr = gradient * scale, lr_at(step, factor)
        if problem.rule == "SGD momentum":
            m = m * MOMENTUM + g
            p.sub_(m, alpha=lr)
            continue
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        torch.maximum(largest, v, out=largest)
        under_root = largest if problem.rule == "AdamW amsgrad" else v
        root = (under_root / (1 - beta2 ** (step + 1))).sqrt_().add_(EPS)
        p.mul_(1 - lr * WEIGHT_DECAY).addcdiv_(m, root, value=-lr / (1 - beta1 ** (step + 1)))
    return p
