"""Updates of DTensors of many placements, beside torch's for-loop on the same whole tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from fused_sched import optim

SHAPES: tuple[tuple[int, ...], ...] = ((7, 5), (1, 3), (4,), (6, 9), (2, 3, 5), (1,), (8, 8))
CLASSES = {"SGD": (optim.SGD, torch.optim.SGD), "AdamW": (optim.AdamW, torch.optim.AdamW)}


def mesh_of(*shape: int) -> DeviceMesh:
    """A mesh of all ranks."""
    names = ("data", "tensor")[: len(shape)]
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def placements_for(mesh: DeviceMesh, shape: tuple[int, ...]) -> list[list[Placement]]:
    """All of a tensor: those of a mesh dimension, in every combination."""
    each: list[Placement] = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
    found: list[list[Placement]] = [[]]
    for _ in range(mesh.ndim):
        found = [[*chosen, placement] for chosen in found for placement in each]
    return found


class Twins:
    """An optimizer of DTensors, and torch's of whole tensors with the same numbers."""

    def __init__(self, name: str, meshes: list[DeviceMesh], options: dict[str, Any], dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        make_ours, make_torchs = CLASSES[name]
        self.spread: list[tuple[DeviceMesh, list[Placement]]] = []
        self.whole: list[torch.nn.Parameter] = []
        self.ours: list[torch.nn.Parameter] = []
        for mesh in meshes:
            for shape in SHAPES:
                for placements in placements_for(mesh, shape):
                    value = torch.randn(shape, dtype=dtype)
                    self.spread.append((mesh, placements))
                    self.whole.append(torch.nn.Parameter(value.clone()))
                    self.ours.append(torch.nn.Parameter(distribute_tensor(value, mesh, placements)))
        plain = torch.randn(3, dtype=dtype)  # a parameter that is none of these, beside them
        self.whole.append(torch.nn.Parameter(plain.clone()))
        self.ours.append(torch.nn.Parameter(plain.clone()))
        self.optimizer = make_ours(self.ours, **options)
        foreign = {k: v for k, v in options.items() if k != "backend"}
        self.torchs = make_torchs(self.whole, foreach=False, **foreign)

    def set_gradients(self, step: int) -> None:
        """The same in both; some are missing."""
        spread = [*self.spread, None]
        for i, (p, q, how) in enumerate(zip(self.ours, self.whole, spread, strict=True)):
            g = torch.randn_like(q)
            p.grad = q.grad = None
            if (i + step) % 5:
                q.grad = g
                p.grad = g.clone() if how is None else distribute_tensor(g, *how)

    def step(self) -> None:
        self.optimizer.step()
        self.torchs.step()

    def difference(self) -> float:
        """The largest, of parameters and states, relative to the size of a number plus 1."""
        worst = 0.0
        for p, q in zip(self.ours, self.whole, strict=True):
            pairs: list[tuple[Any, Any]] = [(p.detach(), q.detach())]
            for key, value in self.torchs.state[q].items():
                pairs.append((self.optimizer.state[p][key], value))
            for mine, expected in pairs:
                if isinstance(mine, DTensor):
                    assert (mine.device_mesh, mine.placements) == (p.device_mesh, p.placements)
                    mine = mine.full_tensor()
                worst = max(worst, float(((mine - expected).abs() / (expected.abs() + 1)).max()))
        return worst


def follow(name: str, shapes: list[tuple[int, ...]], options: dict[str, Any], dtype: torch.dtype) -> float:
    """How far steps are from torch's."""
    twins = Twins(name, [mesh_of(*shape) for shape in shapes], options, dtype)
    for step in range(4):
        twins.set_gradients(step)
        twins.step()
    for p in twins.ours:
        if isinstance(p, DTensor):
            kept = {k: v for k, v in twins.optimizer.state[p].items() if k != "step"}
            assert all(isinstance(value, DTensor) for value in kept.values())
    return twins.difference()
