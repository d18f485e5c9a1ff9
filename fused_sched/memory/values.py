"""Values of tensors. Some have none, and stand for shapes alone: no address of theirs can be given to a kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._subclasses import FakeTensor

USE_TORCHS = "use torch.optim's class of the same name, which can work on shapes alone"
# How many modes of tensor operations are on: asks in half the time whether it is worth asking for one.
modes_on: Callable[[], int] = torch._C._len_torch_dispatch_stack
# The FakeTensorMode that is on, or None.
fake_mode: Callable[[], Any] = partial(torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey.FAKE)


def has_values(tensor: torch.Tensor) -> bool:
    """Whether there is memory behind a dense tensor: FakeTensors, functional, meta and wrapping tensors have none."""
    return not isinstance(tensor, FakeTensor) and (tensor.data_ptr() != 0 or tensor.numel() == 0)


def as_float(number: Any) -> float:
    """A number, or a one-element tensor, as a float; torch warns where the tensor requires a gradient."""
    return float(number.detach() if isinstance(number, torch.Tensor) else number)


def check_values(what: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless ``tensor`` has values; ``what`` says what it is, for the message."""
    if tensor.layout == torch.strided and not has_values(tensor):
        kind = type(tensor).__name__
        raise TypeError(
            f"{what} is a {kind} on {tensor.device} without values in memory, but an update needs them: give a plain "
            f"tensor made outside of FakeTensorMode and functionalization, or {USE_TORCHS}"
        )


def with_values(made: torch.Tensor) -> torch.Tensor:
    """``made``, which this package has just made for itself.

    Raises:
        TypeError: a mode that is on made something without values of it.
    """
    if has_values(made):
        return made
    raise TypeError(
        "inside FakeTensorMode or functionalization there is no memory for hyperparameters and schedules: make "
        f"optimizers and schedulers outside of it, or {USE_TORCHS}"
    )


def refuse_fake_mode(what: str) -> None:
    """Raise TypeError inside FakeTensorMode, where real tensors are refused; ``what`` was called there."""
    if fake_mode() is not None:
        raise TypeError(
            f"{what} was called inside FakeTensorMode, where real tensors cannot be changed: call it outside, or "
            f"{USE_TORCHS}"
        )
