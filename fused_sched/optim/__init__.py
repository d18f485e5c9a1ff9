"""Optimizers whose hyperparameters live on the device: torch's names, torch's arguments."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer as Optimizer

from ..step_options import SpikeRule
from .adam import Adam
from .adamw import AdamW
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "SpikeRule"]


if TYPE_CHECKING:
    from .. import lr_scheduler as lr_scheduler
else:

    def __getattr__(name: str) -> Any:
        if name == "lr_scheduler":  # as torch.optim has it; it builds on what is here
            return _import_module("fused_sched.lr_scheduler")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
