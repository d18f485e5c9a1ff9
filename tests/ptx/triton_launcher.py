"""The Triton backend's launcher, with the kernels' PTX run on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from triton.backends.compiler import GPUTarget

from fused_sched.kernels.launcher import Argument, Launcher, compile_kernel
from fused_sched.kernels.variants import Kernel as TritonKernel

from .kernel import Kernel

_kernels: dict[tuple[TritonKernel, str], Kernel] = {}  # of all launchers, as far as nothing was edited
TARGET = GPUTarget("cuda", 90, 32)


class PtxLauncher(Launcher):
    """Compiles for sm_90 and launches on CPU tensors; needs a process in which Triton does not interpret.

    Args:
        mode: of :class:`Kernel`.
        edit: changes the PTX before it is translated.
        seed: draws, with the number of the launch, the order in which threads run.
    """

    def __init__(self, mode: str = "fibers", edit: Callable[[str], str] | None = None, seed: int = 0) -> None:
        super().__init__()
        self._mode, self._edit, self._seed = mode, edit, seed

    def launch(self, compiled: Any, programs: int, arguments: Sequence[Argument]) -> None:
        self.launches += 1
        values = [a if isinstance(a, int) else a.data_ptr() for a in arguments]
        # Triton adds places for scratch memory, which these kernels do not use
        values += [0] * (len(compiled.translation.parameters) - len(values))
        compiled(programs, values, seed=self._seed + self.launches)

    def _compile(self, kernel: TritonKernel) -> Kernel:
        key = kernel, self._mode
        if self._edit is None and key in _kernels:
            return _kernels[key]
        compiled = compile_kernel(kernel, TARGET)
        ptx = compiled.asm["ptx"]
        if self._edit is not None:
            return Kernel(self._edit(ptx), dynamic_shared=compiled.metadata.shared, mode=self._mode)
        made = _kernels[key] = Kernel(ptx, dynamic_shared=compiled.metadata.shared, mode=self._mode)
        return made
