"""The one place that knows how Triton compiles and launches; its interfaces change between releases.

A kernel is compiled once for each device and each :class:`Kernel`. A launch then takes plain addresses and
integers: no tensor is inspected, nothing is specialised on values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from triton.compiler import ASTSource

from .numerics import INTERPRETED, quiet
from .variants import Kernel

Argument = torch.Tensor | int


def compile_kernel(kernel: Kernel, target: Any = None) -> Any:
    """Triton's compiled kernel; ``target``: a ``GPUTarget``, default the current device's."""
    constants = dict(kernel.constants)
    given = dict(kernel.signature) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel.function,
        signature={name: given[name] for name in kernel.function.arg_names},
        constexprs=constants,
    )
    # fusion is off because the rules say where a multiply-add is one operation
    options: dict[str, Any] = {"num_warps": kernel.warps, "enable_fp_fusion": False}
    if kernel.registers is not None:
        options["maxnreg"] = kernel.registers
    return triton.compile(source, target=target or triton.runtime.driver.active.get_current_target(), options=options)


class _Loaded:
    """A compiled kernel on the current device: loaded now, because a graph capture may not do it later."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.run = compiled.run  # reading it loads the code
        self.function, self.packed = compiled.function, compiled.packed_metadata
        # constants stand in the signature after the arguments, but their values are not looked at
        names = compiled.src.fn.arg_names
        self.constants = (None,) * sum(compiled.src.signature[name] == "constexpr" for name in names)


_NO_HOOKS = (None, None)


def _hooks() -> tuple[Any, Any]:
    """What a profiler asked Triton to call before and after a launch; None for an empty chain, which costs nothing."""
    runtime = triton.knobs.runtime
    before, after = runtime.launch_enter_hook, runtime.launch_exit_hook
    return (before if getattr(before, "calls", before) else None), (after if getattr(after, "calls", after) else None)


class Launcher:
    """Compiles, launches, and counts both: ``launches`` and ``compilations``.

    A subclass may compile for, and launch on, something else, and take tensors in another form.
    """

    def __init__(self) -> None:
        self.launches = 0
        self.compilations = 0
        self._compiled: dict[tuple[Kernel, int | None], Any] = {}

    def get(self, kernel: Kernel, device: torch.device) -> Any:
        """What :meth:`launch` needs to run ``kernel`` on ``device``; compiled at the first call."""
        key = kernel, device.index
        if key not in self._compiled:
            self.compilations += 1
            self._compiled[key] = self._compile(kernel)
        return self._compiled[key]

    def launch(self, compiled: Any, programs: int, arguments: Sequence[Argument]) -> None:
        """Run ``programs`` programs on the current device and stream, which must be the arguments' device.

        Args:
            compiled: from :meth:`get`.
            programs: at least 1.
            arguments: in the order of the kernel's signature; tensors in the form of :meth:`argument`.
        """
        self.launches += 1
        driver = triton.runtime.driver.active
        stream = driver.get_current_stream(driver.get_current_device())
        values = (*arguments, *compiled.constants)
        hooks, metadata = _hooks(), None
        if hooks != _NO_HOOKS:
            metadata = compiled.compiled.launch_metadata((programs, 1, 1), stream, *values)
        compiled.run(programs, 1, 1, stream, compiled.function, compiled.packed, metadata, *hooks, *values)

    def argument(self, tensor: torch.Tensor) -> Argument:
        """A tensor in the form that :meth:`launch` takes; the caller keeps it alive."""
        return tensor.data_ptr()

    def _compile(self, kernel: Kernel) -> Any:
        return _Loaded(compile_kernel(kernel))


class InterpretingLauncher(Launcher):
    """Runs kernels in Triton's interpreter, which takes tensors."""

    def launch(self, compiled: Any, programs: int, arguments: Sequence[Argument]) -> None:
        self.launches += 1
        with quiet():
            compiled.function[(programs,)](*arguments, **dict(compiled.constants))

    def argument(self, tensor: torch.Tensor) -> Argument:
        return tensor

    def _compile(self, kernel: Kernel) -> Any:
        return kernel


def make_launcher() -> Launcher:
    """The launcher that suits this process."""
    return InterpretingLauncher() if INTERPRETED else Launcher()
