"""Optimizers whose hyperparameters live on the device: torch's names, torch's arguments."""

from ..step_options import SpikeRule
from .adam import Adam
from .adamw import AdamW
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "SpikeRule"]
