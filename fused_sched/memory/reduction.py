"""Adding up what processes know of their parts of DTensors, each element once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .shards import spec_of


class Reduction:
    """Which parts of tensors count on this process, so that all that count are each element once, and their sum.

    Of the processes that have the same part, the first one counts it. A tensor that is no DTensor is taken for one that
    every process has alike, as after DDP.

    Args:
        tensors: all of an optimizer; some are DTensors.

    Raises:
        RuntimeError: their meshes are not slices of one of them, or this process is in none.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        meshes: list[Any] = []
        for tensor in tensors:
            spec = spec_of(tensor)
            if spec is not None and spec.mesh not in meshes:
                meshes.append(spec.mesh)
        self._mesh = max(meshes, key=lambda mesh: (mesh.mesh.numel(), mesh.ndim))
        if self._mesh.get_coordinate() is None:
            raise RuntimeError(
                f"this process is not in the mesh {self._mesh} of DTensor parameters, and cannot know the norm of "
                "their gradients: make the optimizer on the processes of the mesh alone"
            )
        self._counted = [(mesh, self._is_first_beside(mesh)) for mesh in meshes]

    def _is_first_beside(self, mesh: Any) -> bool:
        """Of a mesh that is a slice of the largest: whether this one is the first of those side by side."""
        ranks = {int(rank) for rank in mesh.mesh.flatten()}
        whole = self._mesh.mesh
        inside = torch.isin(whole, torch.tensor(sorted(ranks), dtype=whole.dtype, device=whole.device))
        places = torch.nonzero(inside).tolist()
        axes = [{place[axis] for place in places} for axis in range(whole.dim())]
        sizes = [len(axis) for axis in axes]
        covered = len(places) == len(ranks) == torch.Size(sizes).numel()
        if not covered or any(size not in (1, whole.shape[axis]) for axis, size in enumerate(sizes)):
            raise RuntimeError(
                f"DTensor parameters are on the meshes {mesh} and {self._mesh}, of which neither is a slice of the "
                "other, and whose gradients have no norm that one collective finds: make an optimizer for each mesh, "
                "or leave max_grad_norm, skip_nonfinite and skip_spikes out"
            )
        return all(size == whole.shape[axis] or axes[axis] == {0} for axis, size in enumerate(sizes))

    def counts(self, tensor: torch.Tensor) -> bool:
        """Whether this process is the one that counts its part of a tensor."""
        spec = spec_of(tensor)
        if spec is None:
            return not any(self._mesh.get_coordinate())
        first = next(first for mesh, first in self._counted if mesh == spec.mesh)
        coordinate = spec.mesh.get_coordinate()
        pairs = zip(coordinate, spec.placements, strict=True)
        return first and not any(place for place, placement in pairs if placement.is_replicate())

    def groups(self) -> Sequence[Any]:
        """The process groups to add up over, one after the other: one, but for a mesh of some processes of many."""
        mesh = self._mesh
        if mesh.ndim == 1:
            return [mesh.get_group()]
        if sorted(mesh.mesh.flatten().tolist()) == list(range(torch.distributed.get_world_size())):
            return [torch.distributed.group.WORLD]
        return mesh.get_all_groups()  # type: ignore[no-any-return]

    def add_up(self, tensor: torch.Tensor) -> None:
        """Let a tensor have the sum of those of all processes; in stream order, the host does not wait on a GPU."""
        for group in self.groups():
            torch.distributed.all_reduce(tensor, group=group)
