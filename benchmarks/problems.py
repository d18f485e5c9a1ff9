"""What is measured: a set of shapes, dtypes, a rule, param groups; its tensors; and what a right step makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from shapes import SETS, numel

F32, B16, F16 = torch.float32, torch.bfloat16, torch.float16
# Recipe -> dtype of parameters and gradients, dtype of states.
RECIPES: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "float32": (F32, F32),
    "bfloat16": (B16, B16),
    "float16": (F16, F16),
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
TOLERANCE = {
    "float32": 1e-3,
    "bfloat16": 0.5,
    "float16": 0.1,
    "bfloat16, states float32": 0.5,
    "float32, states bfloat16": 0.1,
}
# Likewise of averages: a part of the way that the average went, which in float32 is a thousand roundings. bfloat16
# rounds a parameter by more than its average moves, so there it is a part of the parameter's way, and tells little.
AVERAGE_TOLERANCE = {"float32": 0.02, "bfloat16": 0.5}
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


@dataclass(frozen=True)
class Around:
    """What a step does beside the update. To skip steps that are not finite moves no bytes, and comes with ``zeros``.

    Attributes:
        norm: clip the gradients by their norm, for which they are read once more.
        average: keep an average of each parameter, of this dtype (as ``ema_dtype`` says it); None: keep none.
        zeros: leave zeros in the gradients.
        master: what is kept beside 16-bit parameters, as ``master_weights`` says it; None: nothing is.
    """

    norm: bool = False
    average: str | None = None
    zeros: bool = False
    master: str | None = None

    @property
    def master_dtype(self) -> torch.dtype | None:
        return None if self.master is None else {"float32": F32, "remainder": torch.int16}[self.master]

    def average_dtype(self, problem: Problem) -> torch.dtype:
        return F32 if self.average == "float32" else problem.dtypes[0]

    def bytes(self, problem: Problem) -> int:
        """What all of the step reads and writes."""
        param = problem.dtypes[0].itemsize
        average = self.average_dtype(problem).itemsize if self.average else 0
        master = 0 if self.master_dtype is None else self.master_dtype.itemsize
        return problem.bytes + problem.elements * (param * (self.norm + self.zeros) + 2 * (average + master))


ALONE = Around()  # the update alone


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
        self._gradients: list[torch.Tensor] | None = None
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
        if self._gradients is not None:
            self.restore_gradients()
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
        """Multiply the gradients; where they are kept, what they were at first."""
        if self._gradients is None:
            torch._foreach_mul_([p.grad for p in self.params], factor)
            return
        for p, gradient in zip(self.params, self._gradients, strict=True):
            torch.mul(gradient, factor, out=p.grad)

    def unscale_gradients(self, factor: float) -> None:
        """Undo :meth:`scale_gradients`, unless the next one begins with what is kept."""
        if self._gradients is None:
            self.scale_gradients(1 / factor)

    def keep_gradients(self) -> None:
        """Keep a copy of the gradients as they are now, and their norm: some steps write to them."""
        self._gradients = [p.grad.clone() for p in self.params]
        self.norm = math.hypot(*(float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in self._gradients))

    def restore_gradients(self) -> None:
        """Put the kept gradients back."""
        torch._foreach_copy_([p.grad for p in self.params], self._gradients)

    def gradients_are_zeros(self) -> bool:
        return not any(bool(p.grad.any()) for p in self.params)


@dataclass
class Bucket:
    """Some elements: where they and their averages should be, and how far from there they may be."""

    pieces: list[torch.Tensor]
    last: torch.Tensor
    way: torch.Tensor
    average: torch.Tensor | None = None
    average_way: torch.Tensor | None = None


class Oracle:
    """Where every element ends after the steps of the gate, computed in float64 from the formulas.

    Args:
        tensors: in their first state.
        scales: by what the gradients are multiplied, step by step.
        decay: of an average that starts as the parameter after the first step; None: there is none.
    """

    def __init__(self, tensors: Tensors, scales: Sequence[float] = SCALES, decay: float | None = None) -> None:
        self._most = BUCKET[tensors.device]
        self._scales, self._decay = scales, decay
        # in few large pieces, which are given back whole
        arrays = 2 if decay is None else 4 if tensors.problem.recipe == "float32" else 3
        elements = tensors.problem.elements
        self._free = [torch.empty(elements, device=tensors.device) for _ in range(arrays)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on a busy machine, sharing small work among threads waits for its turn each time
        self._buckets: list[Bucket] = []
        pieces: list[tuple[torch.Tensor, torch.Tensor]] = []
        size, factor = 0, 0
        for p, f in zip(tensors.params, tensors.factors, strict=True):
            for piece in zip(self._split(p), self._split(p.grad), strict=True):
                if pieces and (f != factor or size + piece[0].numel() > self._most):
                    self._add(pieces, tensors.problem, factor)
                    pieces, size = [], 0
                pieces.append(piece)
                size, factor = size + piece[0].numel(), f
        self._add(pieces, tensors.problem, factor)
        torch.set_num_threads(threads)

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        return tensor.detach().view(-1).split(self._most)

    def _add(self, pieces: list[tuple[torch.Tensor, torch.Tensor]], problem: Problem, factor: int) -> None:
        first, gradient = (torch.cat(parts).double() for parts in zip(*pieces, strict=True))
        start = average = None
        for last in _path(first, gradient, problem, factor, self._scales):
            if self._decay is not None and average is None:
                start, average = last.clone(), last.clone()
            elif average is not None:
                average.lerp_(last, 1 - self._decay)
        bucket = Bucket([p for p, _ in pieces], self._kept(0, last), self._kept(1, last - first))
        if average is not None:
            bucket.average = self._kept(2, average)
            bucket.average_way = self._kept(3, average - start) if len(self._free) == 4 else bucket.way
        self._buckets.append(bucket)

    def _kept(self, array: int, values: torch.Tensor) -> torch.Tensor:
        """A copy in one of the arrays."""
        place, self._free[array] = self._free[array].tensor_split([values.numel()])
        return place.copy_(values)

    def error(self) -> float:
        """Largest distance of an element from where it should be, as a part of the way it should have gone."""
        return float(torch.stack([_off(b.pieces, b.last, b.way) for b in self._buckets]).max())

    def average_error(self, averages: Sequence[torch.Tensor]) -> float:
        """Likewise of the averages, in the order of the parameters; see :data:`AVERAGE_TOLERANCE`."""
        pieces = iter([piece for average in averages for piece in self._split(average)])
        worst = [_off([next(pieces) for _ in b.pieces], b.average, b.average_way) for b in self._buckets]
        return float(torch.stack(worst).max())


def _off(pieces: list[torch.Tensor], last: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
    return torch.cat(pieces).to(torch.float32).sub_(last).div_(way).abs_().max()


def _path(
    p: torch.Tensor, gradient: torch.Tensor, problem: Problem, factor: int, scales: Sequence[float]
) -> Iterator[torch.Tensor]:
    """The parameter after each step, in the same memory."""
    p = p.clone()
    m, v, largest = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)
    beta1, beta2 = problem.betas
    for step, scale in enumerate(scales):
        g, lr = gradient * scale, lr_at(step, factor)
        if problem.rule == "SGD momentum":
            m = m * MOMENTUM + g
            yield p.sub_(m, alpha=lr)
            continue
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        torch.maximum(largest, v, out=largest)
        under_root = largest if problem.rule == "AdamW amsgrad" else v
        root = (under_root / (1 - beta2 ** (step + 1))).sqrt_().add_(EPS)
        yield p.mul_(1 - lr * WEIGHT_DECAY).addcdiv_(m, root, value=-lr / (1 - beta1 ** (step + 1)))
