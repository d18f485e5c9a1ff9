"""The whole AdamW step on the CPU: ours against torch's fused and foreach classes, set by set.

A set gets a row only if ours agrees with torch's fused class after three steps on fresh random data.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from harness import interleave
from shapes import SETS, numel

import fused_sched

CASES = [
    ("tiny 1000x64", torch.float32),
    ("LoRA r1", torch.float32),
    ("LoRA-7B r8", torch.float32),
    ("ResNet-50", torch.float32),
    ("embeddings", torch.float32),
    ("ViT-B/16", torch.float32),
    ("GPT-2 124M", torch.float32),
    ("LoRA-7B r8", torch.bfloat16),
    ("ViT-B/16", torch.bfloat16),
    ("odd sizes", torch.float32),
    ("one huge, 1000 tiny", torch.float32),
]
# Both round differently in places: a few ulp of a parameter near 1 after three steps of size 1e-4.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.6e-2}


def _parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.randn(s, generator=generator).mul_(0.02).to(dtype)) for s in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator).mul_(1e-3).to(dtype)
    return made


def _worst_difference(a: list[torch.nn.Parameter], b: list[torch.nn.Parameter]) -> float:
    return max((p.detach().float() - q.detach().float()).abs().max().item() for p, q in zip(a, b, strict=True))


def rows(seconds: float) -> list[dict[str, Any]]:
    """One row for each case; ``seconds`` is the time spent on each."""
    result = []
    for name, dtype in CASES:
        shapes = SETS[name]
        ours, fused = (_parameters(shapes, dtype, seed=0) for _ in range(2))
        contenders = {
            "fused_sched": fused_sched.optim.AdamW(ours, lr=1e-4),
            "torch fused": torch.optim.AdamW(fused, lr=1e-4, fused=True),
        }
        for _ in range(3):
            for optimizer in contenders.values():
                optimizer.step()
        difference = _worst_difference(ours, fused)
        row: dict[str, Any] = {
            "set": name, "dtype": str(dtype).removeprefix("torch."), "tensors": len(shapes),
            "parameters": numel(shapes), "difference": difference,
        }  # fmt: skip
        if not difference <= TOLERANCE[dtype]:
            raise SystemExit(
                f"{name} {dtype}: differs from torch by {difference}; no time is reported for a wrong update"
            )
        times = interleave({k: o.step for k, o in contenders.items()}, seconds)
        row["times"] = times
        row["ratio"] = times["torch fused"]["median_us"] / times["fused_sched"]["median_us"]
        print(
            f"{name:20} {row['dtype']:9} {row['ratio']:6.2f}x  ours {times['fused_sched']['median_us']:10.1f} us",
            flush=True,
        )
        result.append(row)
        del contenders, ours, fused, optimizer
        gc.collect()
    return result
