"""torch's learning-rate schedulers, computed on the device.

Each class inherits torch's class of the same name and adds its program; constructors, ``last_epoch``,
``step``, ``get_last_lr``, ``state_dict`` and errors are torch's. Two keywords are new, on every class:

``fused=True``
    the schedule advances inside ``optimizer.step()``; ``scheduler.step()`` is then bookkeeping, and
    calling it without an optimizer step since the last call raises RuntimeError.
``skip_with_optimizer=True``
    the schedule stays where it is when the optimizer's last update was skipped because of an overflow.
    The default is torch's: it advances all the same.
"""

from .cosine_annealing_lr import CosineAnnealingLR
from .cyclic_lr import CyclicLR
from .exponential_lr import ExponentialLR
from .lambda_lr import LambdaLR
from .multi_step_lr import MultiStepLR
from .step_lr import StepLR

__all__ = ["CosineAnnealingLR", "CyclicLR", "ExponentialLR", "LambdaLR", "MultiStepLR", "StepLR"]
