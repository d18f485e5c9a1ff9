"""Parameters that are spread over processes: torch's DTensor, and the part of one that this process has.

Updates work on those parts alone. What is kept beside a parameter is spread as the parameter is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_SAME = ("placements", "shard_order", "mesh")  # of two specs whose parts have the same elements


def is_shard(tensor: Any) -> bool:
    """Whether it is a DTensor, of which this process has a part."""
    if type(tensor) in _PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")  # nobody has one before it was imported
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a DTensor that this process has, once it has arrived; any other tensor itself."""
    if not is_shard(tensor):
        return tensor
    part: Any = tensor._local_tensor  # type: ignore[attr-defined]  # to_local() may make another object of it
    return part.wait() if type(part).__name__ == "AsyncCollectiveTensor" else part  # type: ignore[no-any-return]


def spec_of(tensor: torch.Tensor) -> Any:
    """How a DTensor is spread; None for any other tensor."""
    return tensor._spec if is_shard(tensor) else None  # type: ignore[attr-defined]


def spread_alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether this process, and so every one, has the same part of both."""
    one, other = spec_of(a), spec_of(b)
    if one is other:
        return True
    if one is None or other is None:
        return False
    return all(getattr(one, name, None) == getattr(other, name, None) for name in _SAME)


def how_spread(tensor: torch.Tensor) -> str:
    """For messages."""
    if not is_shard(tensor):
        return "no DTensor"
    spec = spec_of(tensor)
    return f"a DTensor with placements {spec.placements} on {spec.mesh}"


def has_partial(tensor: torch.Tensor) -> bool:
    """Whether the parts of a DTensor have still to be added up."""
    spec = spec_of(tensor)
    return spec is not None and any(placement.is_partial() for placement in spec.placements)


def any_anywhere(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether an element of some tensor is not 0, be it in a part that another process has (waits for the device)."""
    found = False
    groups: dict[Any, torch.device] = {}
    for tensor in tensors:
        mine = local(tensor)
        found = found or bool(mine.any())
        if is_shard(tensor):
            groups |= dict.fromkeys(tensor.device_mesh.get_all_groups(), mine.device)  # type: ignore[attr-defined]
    for group, device in groups.items():
        flag = torch.tensor([found], dtype=torch.int32, device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group)
        found = bool(flag)
    return found


def number_of_part(tensor: torch.Tensor) -> int:
    """Which part of a DTensor this process has: equal where processes have the same one, else not."""
    spec = spec_of(tensor)
    if spec is None:
        return 0
    number, coordinate = 0, spec.mesh.get_coordinate()
    for size, place, placement in zip(spec.mesh.shape, coordinate or (), spec.placements, strict=False):
        if not placement.is_replicate():
            number = number * size + place
    return number


def within_zero() -> bool:
    """Whether it is ZeroRedundancyOptimizer that calls: the optimizer then has the parameters of this process alone.

    Nothing on the parameters tells of it.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = None if module is None else sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != module.__file__:  # type: ignore[union-attr]
        frame = frame.f_back
    return frame is not None
