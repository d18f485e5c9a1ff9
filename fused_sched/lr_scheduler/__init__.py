"""torch's learning-rate schedulers, computed on the device.

Each class inherits torch's class of the same name and adds its program; constructors, ``last_epoch``,
``step``, ``get_last_lr``, ``state_dict`` and errors are torch's. Keywords that are new:

``fused=True``
    the schedule advances inside ``optimizer.step()``, and the ``scheduler.step()`` that follows is bookkeeping: a loop
    means what it means with torch. After an update that was skipped because of an overflow, which does not advance it,
    ``scheduler.step()`` makes up for it, decided on the device; further calls are steps of their own.
``skip_with_optimizer=True``
    the schedule stays where it is when the optimizer's last update was skipped because of an overflow.
    The default is torch's: ``scheduler.step()`` advances it all the same.
``horizon=N``
    where a user's function cannot be traced into the program, N of its values are computed at a time.

Beside torch's names, ``LRScheduler`` for subclasses of your own included: :class:`ParamScheduler` for any
hyperparameter, :func:`on_device` for schedulers made elsewhere, and :func:`get_scheduler` with the recipes of large
models.
"""

from torch.optim.lr_scheduler import LRScheduler as LRScheduler
from torch.optim.lr_scheduler import _LRScheduler as _LRScheduler  # which older subclasses build on

from .convert import on_device
from .cosine_annealing_warm_restarts import CosineAnnealingWarmRestarts
from .cyclic_lr import CyclicLR
from .feedback_lr import FeedbackLR
from .kl_adaptive_lr import KLAdaptiveLR
from .lambda_lr import LambdaLR
from .multiplicative_lr import MultiplicativeLR
from .nested import ChainedScheduler, SequentialLR
from .one_cycle_lr import OneCycleLR
from .param_scheduler import ParamScheduler
from .recipes import get_scheduler
from .recurrences import ConstantLR, CosineAnnealingLR, ExponentialLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from .reduce_lr_on_plateau import ReduceLROnPlateau
from .swalr import SWALR

__all__ = [
    "SWALR",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "FeedbackLR",
    "KLAdaptiveLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "ParamScheduler",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "get_scheduler",
    "on_device",
]
