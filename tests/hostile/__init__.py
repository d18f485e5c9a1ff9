"""Functions of the step that a program must not get wrong: each is a factory, which gives one with a state of its own.

``MAKERS`` has them by name. A function whose trace shows nothing in its first steps is dangerous for longer, so each is
tried as it is and behind :func:`later`.
"""

from hostile import (  # noqa: F401  # each notes its functions
    attributes,
    containers,
    effects,
    outside,
    own_scheduler,
    results,
    special_methods,
)
from hostile.registry import LATER, MAKERS, PROGRAM, TABLE, Subject, later

__all__ = ["LATER", "MAKERS", "PROGRAM", "TABLE", "Subject", "later"]
