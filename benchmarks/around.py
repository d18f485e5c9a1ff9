"""A step with what stands around it: clipping, an average, zeros. Ours has it inside, torch's are calls in a row.

Each of our ways is beside the calls of torch's that do the same. All get the same gradients; where a step writes to
them, they are put back before the next sample, which is not timed. Without that all would soon be zeros, and the
moments denormal numbers, which a CPU may be slow with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import contenders
import step
import torch
from captured import tensor_lr_optimizer
from contenders import FUSED, OURS, Built, Contender, Entered, enter_all, in_graph, make_optimizer, stock_cosine
from device import Host
from floors import STREAM, cpu_streams, gpu_streams
from harness import Call, Row, paired_ratio, samples_in_turn, summary
from problems import ALONE, SCALES, Around, Oracle, Problem, Tensors
from shapes import SETS
from step import OURS_CUDA, OURS_EAGER, collect, question_of, show_times
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Sample = Callable[[Call, int], float]  # microseconds of a call, from the call and how often to repeat it
DECAY = 0.999  # of the averages
CLIP = 0.5  # the largest norm, as a part of the gradients' own
# The gate gives a step that clips the usual gradients, and any other what clipping makes of them: all end alike.
CLIPPED = tuple(math.copysign(min(abs(scale), CLIP), scale) for scale in SCALES)
MOST_CALLS = 100  # in a sample: so few steps with zeros that moments stay ordinary numbers

NORM, AVERAGE, NARROW, ALL = "norm", "average", "average in 16 bits", "norm + skip + average + zeros"
WAYS = {
    "": ALONE,
    NORM: Around(norm=True),
    AVERAGE: Around(average="float32"),
    NARROW: Around(average="parameter"),
    ALL: Around(norm=True, average="float32", zeros=True),
}


def ways(problem: Problem) -> dict[str, Around]:
    """What is measured beside the update alone, which has no name; averages are float32 where they can be chosen."""
    narrow = problem.dtypes[0].itemsize == 2
    return {name: around for name, around in WAYS.items() if narrow or name != NARROW}


def _named(name: str, way: str) -> str:
    return f"{name} + {way}" if way else name


# -- contenders --------------------------------------------------------------------------------------


def ours(name: str, around: Around, backend: str | None = None, captured: bool = False) -> Contender:
    """One of our optimizers with what is asked for. ``zeros`` come with ``skip_nonfinite``."""

    def build(tensors: Tensors, device: Host) -> Built:
        options: dict[str, Any] = {"max_grad_norm": CLIP * tensors.norm} if around.norm else {}
        options |= {"ema_decay": DECAY, "ema_dtype": around.average} if around.average else {}
        options |= {"zero_grad_in_step": True, "skip_nonfinite": True} if around.zeros else {}
        built = contenders.ours(name, backend, captured, **options).build(tensors, device)
        state = built.optimizer.state
        return _expected(built, around, around.zeros, lambda: [state[p]["ema"] for p in tensors.params])

    return Contender(name, build)


def _expected(built: Built, around: Around, writes: bool, averages: Callable[[], list[torch.Tensor]]) -> Built:
    """What the gate has to know, and whether a step writes to gradients."""
    built.writes = writes
    built.scales = SCALES if around.norm else CLIPPED
    built.averages = averages if around.average else None
    built.zeroes = around.zeros
    return built


def _torch_name(around: Around, how: str) -> str:
    said = [*(["clip"] if around.norm else []), "fused", *(["EMA"] if around.average else [])]
    return f"torch {' + '.join([*said, *(['zeros'] if around.zeros else [])])}{how}"


def torchs(around: Around, how: str = "", captured: bool = False) -> Contender:
    """torch's calls, one after another. ``captured``: all in one graph but for the scheduler, which fills the lr."""

    def build(tensors: Tensors, device: Host) -> Built:
        optimizer = tensor_lr_optimizer(tensors, device, FUSED) if captured else make_optimizer(
            torch.optim, tensors, **FUSED
        )  # fmt: skip
        scheduler = stock_cosine(optimizer)
        average = _Average(tensors.params)
        before: list[Call] = []
        if around.norm:
            most = CLIP * tensors.norm
            before.append(lambda: clip_grad_norm_(tensors.params, most, foreach=True))
        after: list[Call] = [lambda: optimizer.zero_grad(set_to_none=False)] if around.zeros else []

        def calls(averages: Sequence[Call]) -> Call:
            return _one_after_another([*before, optimizer.step, *averages, *after])

        eager = calls([average.update] if around.average else [])
        built = Built(_one_after_another([eager, scheduler.step]), optimizer=optimizer)
        if captured:
            built = in_graph(built, calls([average.follow] if around.average else []), scheduler.step)
        return _expected(built, around, around.norm or around.zeros, average.tensors)

    return Contender(_torch_name(around, how), build)


class _Average:
    """torch's average of parameters, made at its first update."""

    def __init__(self, params: Sequence[torch.nn.Parameter]) -> None:
        self._params = torch.nn.ParameterList(params)
        self._averaged: AveragedModel | None = None
        self._follow = get_ema_multi_avg_fn(DECAY)

    def update(self) -> None:
        """As one would."""
        if self._averaged is None:
            self._averaged = AveragedModel(self._params, multi_avg_fn=self._follow)
        self._averaged.update_parameters(self._params)

    def follow(self) -> None:
        """What of it can be captured: update_parameters() copies its count to the device, and waits for it."""
        self._follow(self.tensors(), list(self._params), 0)

    def tensors(self) -> list[torch.Tensor]:
        return [] if self._averaged is None else [p.detach() for p in self._averaged.parameters()]


def _one_after_another(calls: Iterable[Call]) -> Call:
    once = tuple(calls)

    def run() -> None:
        for call in once:
            call()

    return run


# -- who is beside whom ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One way to run all of it: how ours and torch's are called there, and how they are made."""

    name: str
    backend: str | None
    captured: bool
    torchs: str

    def pair(self, way: str, around: Around) -> tuple[str, str]:
        """Names of ours and of torch's."""
        return _named(self.name, way), _torch_name(around, self.torchs)

    def of(self, chosen: dict[str, Around]) -> list[Contender]:
        made = [ours(_named(self.name, way), around, self.backend, self.captured) for way, around in chosen.items()]
        return [*made, *(torchs(around, self.torchs, self.captured) for around in chosen.values())]


CPU_SIDES = (Side(OURS, None, False, ""),)
GPU_SIDES = (
    Side(OURS, None, True, ", graph"),
    Side(OURS_CUDA, "cuda", True, ", graph"),
    Side(OURS_EAGER, None, False, ", eager"),
    Side(f"{OURS_CUDA}, eager", "cuda", False, ", eager"),
)


def sides(device: Host) -> tuple[Side, ...]:
    return GPU_SIDES if device.gpu else CPU_SIDES


def takes_part(problem: Problem, device: Host) -> list[Contender]:
    """All contenders, each once."""
    made = [contender for side in sides(device) for contender in side.of(ways(problem))]
    return list({contender.name: contender for contender in made}.values())


def enter(chosen: Sequence[Contender], tensors: Tensors, device: Host) -> tuple[dict[str, Entered], dict[str, str]]:
    """Those that passed the gate, in which averages and zeros are looked at too, and why the others did not."""
    tensors.keep_gradients()
    oracle = Oracle(tensors, CLIPPED, DECAY)
    entered: dict[str, Entered] = {}
    absent: dict[str, str] = {}
    common: dict[tuple[Any, ...], torch.Tensor] = {}
    for contender in chosen:
        passed, missing = enter_all([contender], tensors, device, oracle)
        entered |= passed
        absent |= missing
        if not device.gpu:  # there graphs point to them, and is more room
            for name, e in passed.items():
                if not name.startswith(OURS):  # which would look at the tensors of others before each step
                    _share_states(e.built.optimizer, common)
    return entered, absent


def _share_states(optimizer: torch.optim.Optimizer, common: dict[tuple[Any, ...], torch.Tensor]) -> None:
    """From here on torch's contenders update the same states, as all do the same parameters: it saves 3 GB."""
    for p, state in optimizer.state.items():
        for key, tensor in state.items():
            if tensor.shape == p.shape:
                state[key] = common.setdefault((p, key), tensor)


# -- a row -------------------------------------------------------------------------------------------


def measure(problem: Problem, device: Host, seconds: float) -> list[Row]:
    """One row; none where one of ours is wrong or fails."""
    print(f"{problem}, with what stands around a step", flush=True)
    row = _row(problem, device, seconds)
    collect(device)  # the states of all contenders, before the next problem's
    show_times(row)
    return [row]


def _row(problem: Problem, device: Host, seconds: float) -> Row:
    tensors = Tensors(problem, device.name)
    entered, absent = enter(takes_part(problem, device), tensors, device)
    failed = [why for name, why in absent.items() if name.startswith(OURS) and not why.startswith("not ")]
    if failed:
        raise RuntimeError(f"no row: {failed[0]}")
    tensors.reset()
    run = _on_gpu if device.gpu else _on_cpu
    measured = run(problem, entered, _sampler(tensors, entered, device), device, seconds)
    return {
        **question_of(problem),
        "tensors": len(SETS[problem.set]),
        "parameters": problem.elements,
        "bytes": {way: around.bytes(problem) // problem.elements for way, around in ways(problem).items()},
        "absent": absent,
        "difference": {name: e.error for name, e in entered.items()},
        "average_difference": {n: e.average_error for n, e in entered.items() if e.average_error is not None},
        "first_us": {name: e.first_us for name, e in entered.items()},
        **measured,
    }


def _streamed(problem: Problem) -> dict[str, Around]:
    return {_named(STREAM, way): around for way, around in ways(problem).items()}


def _on_cpu(problem: Problem, entered: dict[str, Entered], sample: Sample, device: Host, seconds: float) -> Row:
    # Ours one after another, and first what does not write to gradients: those that were put back are still on their
    # way to memory, for which the next one would wait.
    in_order = sorted(entered.items(), key=lambda item: (item[1].built.writes, not item[0].startswith(OURS)))
    steps = cpu_streams(problem, _streamed(problem)) | {name: e.step for name, e in in_order}
    return _compared(problem, device, *samples_in_turn(steps, seconds, sample=sample, most_calls=MOST_CALLS))


def _on_gpu(problem: Problem, entered: dict[str, Entered], sample: Sample, device: Any, seconds: float) -> Row:
    """Times in replay and of eager steps, and the nodes of graphs."""
    largest = entered.get(_named(OURS, ALL))
    streams = {} if largest is None else gpu_streams(largest.built.optimizer, problem, _streamed(problem), device)
    graphs = {name: device.captured(call) for name, call in streams.items()}
    steps: dict[str, Call] = {name: e.step for name, e in entered.items()}
    steps |= {name: graph.replay for name, graph in graphs.items()}
    replayed = {name: device.copies for name, e in entered.items() if e.graph is not None}
    replayed |= dict.fromkeys(graphs, device.copies)
    rounds = 2 if device.dry else math.ceil(200 / device.copies)
    taken = samples_in_turn(steps, seconds, rounds, sample=sample, calls=replayed, most_calls=device.copies)
    return {
        **_compared(problem, device, *taken),
        "nodes": {name: e.graph.nodes for name, e in entered.items() if e.graph is not None},
        "peak_bytes": {name: e.peak_bytes for name, e in entered.items()},
    }


def _sampler(tensors: Tensors, entered: dict[str, Entered], device: Host) -> Sample:
    """Times a call; before that it puts the gradients back, if the call before has written to them."""
    writing = [e.step for e in entered.values() if e.built.writes]
    written = True

    def sample(call: Call, calls: int) -> float:
        nonlocal written
        if written:
            tensors.restore_gradients()
        written = any(call is one for one in writing)
        return device.timed(call, calls)

    return sample


def _compared(problem: Problem, device: Host, samples: dict[str, list[float]], calls: dict[str, int]) -> Row:
    times = {name: summary(values) | {"calls": calls[name]} for name, values in samples.items()}
    return {"times": times, "ratios": ratios(samples, problem, device)}


def ratios(samples: dict[str, list[float]], problem: Problem, device: Host) -> list[Row]:
    """Each way against our step without it, and torch's calls against it; None where one of both is missing."""
    found = []
    for side in sides(device):
        for way in ways(problem):
            name, other = side.pair(way, ways(problem)[way])
            to_plain, to_ours = paired_ratio(samples, name, side.name), paired_ratio(samples, other, name)
            names = {"side": side.name, "way": way, "ours": name, "torch": other, "stream": _named(STREAM, way)}
            found.append({**names, "to_plain": to_plain, "torch_to_ours": to_ours})
    return found


def launches(problem: Problem, device: Host) -> list[Row]:
    """One row: how many kernels, copies and fills a step of each puts on the device, captured or not."""
    return step.launches(problem, takes_part(problem, device), device, enter)


# -- which problems ----------------------------------------------------------------------------------

PROBLEMS = [  # by what they decide
    Problem("GPT-2 124M"),
    Problem("GPT-2 124M", rule="SGD momentum"),
    Problem("tiny 1000x64"),
    Problem("LoRA r1"),
    Problem("ResNet-50"),
    Problem("ViT-B/16", "bfloat16"),
    Problem("ViT-B/16"),
    *(Problem(name, rule="SGD momentum") for name in ("tiny 1000x64", "LoRA r1", "ResNet-50", "ViT-B/16")),
]
COUNTED = [Problem("tiny 1000x64"), Problem("GPT-2 124M")]
DRY_PROBLEMS = [Problem("dry"), Problem("dry", rule="SGD momentum", groups=3), Problem("dry", "bfloat16")]
