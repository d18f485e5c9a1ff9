"""Learning-rate schedules that live on the device, inside one fused multi-tensor optimizer launch.

from fused_sched.optim import AdamW
from fused_sched.lr_scheduler import CosineAnnealingLR
"""

from . import lr_scheduler, optim, schedules
from .graphs import Graphed, graphed
from .monitor import Monitor
from .rows import Row

__version__ = "0.1.0"
__all__ = ["Graphed", "Monitor", "Row", "graphed", "lr_scheduler", "optim", "schedules"]
