"""Compiled kernels run on the CPU: PTX becomes C++, with checks that a GPU does not make.

Triton and nvcc make PTX on a machine without a GPU. :class:`Kernel` translates an entry of it, compiles that and runs
it on tensors of the CPU. Found are: accesses that are misaligned or beside every live tensor, races (of every pair of
accesses, whatever order they ran in), barriers that a part of the threads misses, instructions that are not known.

Not covered: what ptxas makes of PTX, shuffles and other exchanges within a warp, asynchronous copies, tensor cores,
fences, approximate division of float32.
"""

from .build import sanitizer
from .kernel import Fault, Kernel, perturb, watch_memory
from .syntax import Unknown

__all__ = ["Fault", "Kernel", "Unknown", "perturb", "sanitizer", "watch_memory"]
