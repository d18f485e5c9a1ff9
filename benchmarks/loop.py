"""Wall time of a whole training step of a small model: ours captured as in examples/captured_loop.py, torch's eager."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from device import Host
from harness import Call, Row, interleave, reason, time_text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from captured_loop import WARM_UP, TrainingLoop

STEPS = 10_000  # of the schedule
GATE_STEPS = 10
TOLERANCE = 1e-3  # of the loss after the steps of the gate: the same numbers, summed in another order
SIZES = ((64, 32), (256, 64), (1024, 256))  # features, batch


class TorchLoop(TrainingLoop):
    """The same with torch's classes; ``captured``: a tensor lr, filled by the scheduler outside of the graph."""

    def __init__(self, device: str, features: int, batch: int, captured: bool) -> None:
        super().__init__(device, features, batch, STEPS, backend="reference")
        lr: Any = torch.tensor(3e-3, device=device) if captured else 3e-3
        capturable = {"capturable": True} if captured and device == "cuda" else {}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, fused=True, **capturable)  # type: ignore
        stock = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=STEPS)
        self.outside = stock.step if captured else None
        self.scheduler = NoSchedule() if captured else stock  # type: ignore[assignment]

    def warm_up(self) -> None:
        super().warm_up()
        for _ in range(WARM_UP if self.outside else 0):
            self.outside()  # type: ignore[misc]


class NoSchedule:
    """In the place of a scheduler that stays outside."""

    def step(self) -> None:
        """Nothing."""


def _eager(loop: TrainingLoop) -> Call:
    loop.warm_up()
    return loop.step


def _captured(loop: TrainingLoop) -> Call:
    replay, outside = loop.capture(), getattr(loop, "outside", None)
    if outside is None:
        return replay

    def step() -> None:
        replay()
        outside()

    return step


def rows(device: Host, seconds: float, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[Row]:
    """One row for each size of the perceptron; the batch stays the same, its making is not timed."""
    result = []
    where = device.name
    backend = {"backend": "triton"} if device.dry else {}
    for features, batch in sizes:
        makers: dict[str, Callable[[], tuple[Callable[[Any], Call], TrainingLoop]]] = {
            "torch fused, eager": lambda f=features, b=batch: (_eager, TorchLoop(where, f, b, False)),
            "fused_sched, eager": lambda f=features, b=batch: (_eager, TrainingLoop(where, f, b, STEPS, **backend)),
        }
        if device.gpu:
            makers["fused_sched, captured"] = lambda f=features, b=batch: (
                _captured,
                TrainingLoop(where, f, b, STEPS, **backend),
            )
            makers["torch fused, captured, scheduler outside"] = lambda f=features, b=batch: (
                _captured,
                TorchLoop(where, f, b, True),
            )
        calls: dict[str, Call] = {}
        kept = []  # a graph does not keep the inputs and the model that it reads
        absent: dict[str, str] = {}
        losses: dict[str, float] = {}
        for name, make in makers.items():
            try:
                run, loop = make()
                kept.append(loop)
                step = run(loop)
                for _ in range(GATE_STEPS - WARM_UP):
                    loop.load_batch()
                    step()
                losses[name] = loop.loss.item()
            except Exception as error:
                absent[name] = f"failed: {reason(error)}"
                continue
            if abs(losses[name] - losses.get("torch fused, eager", losses[name])) <= TOLERANCE:
                calls[name] = step
            else:
                absent[name] = f"wrong result: the loss is {losses[name]}, torch's {losses['torch fused, eager']}"
            if name in absent:
                print(f"  no row for {name}: {absent[name]}", flush=True)
        times = interleave(calls, seconds, 3 if device.dry else 9, sample=device.wall, most_calls=200)
        result.append({"features": features, "batch": batch, "times": times, "absent": absent})
        shown = ", ".join(f"{name} {time_text(t['median_us'])}" for name, t in times.items())
        print(f"perceptron of {features}, batch {batch}: {shown}", flush=True)
    return result
