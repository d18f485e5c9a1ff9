"""A kernel of a PTX module, run on memory of the CPU."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache

from . import build
from .parse import parse
from .syntax import Module
from .translate import Translation, translate

_MESSAGE_BYTES = 16384
_AT_ONCE = 3  # blocks that have turns side by side


class Fault(AssertionError):
    """What a GPU would fault on or must not be given, or a race."""


class _Launch(ctypes.Structure):
    """As in report.h."""

    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("find", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("blocks", "threads", "shared", "at_once", "races", "message_size")),
        ("message", ctypes.c_char_p),
    ]


@cache
def _allocator() -> ctypes.CDLL:
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    extra = [f"-I{p}" for p in include_paths()]
    extra += [f"-L{p}" for p in library_paths()] + [f"-Wl,-rpath,{p}" for p in library_paths()] + ["-lc10"]
    extra.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    library = ctypes.CDLL(str(build.build("allocator", (build.SOURCES / "allocator.cpp").read_text(), "fibers", extra)))
    library.ptx_watch()
    return library


def watch_memory() -> None:
    """From now on, know every tensor's memory on the CPU, so that accesses beside it are found.

    A kernel may use no memory that was allocated before.
    """
    _allocator()


class _Runtime:
    def __init__(self, mode: str) -> None:
        name = "fibers" if mode in ("fibers", "races") else "threads"
        source = (build.SOURCES / f"{name}.cpp").read_text()
        path = build.build(name, source, "fibers" if name == "fibers" else mode)
        self.library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # kernels are linked to what it defines
        self.mode = mode
        # a sanitizer has its own way of watching memory
        self.find = None if name == "threads" else ctypes.cast(_allocator().ptx_find_region, ctypes.c_void_p)


_loaded: list[_Runtime] = []


def _runtime(mode: str) -> _Runtime:
    """A process has one way of running threads."""
    if mode not in ("fibers", "races", "tsan", "asan"):
        raise ValueError(f"{mode=} must be fibers, races, tsan or asan")
    if not _loaded:
        _loaded.append(_Runtime(mode))
    (runtime,) = _loaded
    if {runtime.mode, mode} - {"fibers", "races"} and runtime.mode != mode:
        raise RuntimeError(f"{mode=} in a process that has run mode={runtime.mode!r}: use another process")
    return runtime


def perturb(units: int) -> None:
    """Move what approximate instructions give by so many units in the last place, to see what depends on them."""
    ctypes.c_int.in_dll(_runtime("fibers").library, "ptx_perturbation").value = units


@cache
def _parsed(ptx: str) -> Module:
    return parse(ptx)


class Kernel:
    """An entry of a PTX module.

    Args:
        ptx: the text of the module.
        entry: name of the entry; not needed where there is only one.
        dynamic_shared: bytes of shared memory that the launch gives.
        mode: ``"fibers"``; ``"races"``, which finds every pair of accesses without an order between them; or
            ``"tsan"``, ``"asan"`` in a process with the environment of :func:`~.build.sanitizer`.

    Attributes:
        translation: with parameters and opcodes.

    Raises:
        Unknown: something in the kernel is not covered.
    """

    def __init__(self, ptx: str, entry: str | None = None, dynamic_shared: int = 0, mode: str = "fibers") -> None:
        self.translation: Translation = translate(_parsed(ptx), entry)
        self._runtime = _runtime(mode)
        self._races = int(mode == "races")
        self._shared = self.translation.shared + dynamic_shared
        path = build.build("kernel", self.translation.source, "fibers" if mode == "races" else mode)
        self._library = ctypes.CDLL(str(path))
        self._pointer = ctypes.cast(getattr(self._library, self.translation.name), ctypes.c_void_p)
        self._library.constants(ctypes.cast(self._runtime.library.ptx_add_constants, ctypes.c_void_p))

    def __call__(
        self, blocks: int, arguments: Sequence[int | bytes], threads: int | None = None, seed: int = 0
    ) -> None:
        """Run all blocks.

        Args:
            blocks: at least 1.
            arguments: addresses and integers, or bytes where a parameter is a struct.
            threads: of a block; default: what the kernel was compiled for, else 128.
            seed: draws the order in which blocks and threads run.

        Raises:
            Fault: something went wrong; the message has the first faults.
        """
        sizes = self.translation.parameters
        if len(arguments) != len(sizes):
            raise TypeError(f"{len(arguments)} arguments were given to a kernel of {len(sizes)}")
        buffers = [ctypes.create_string_buffer(_packed(a, n), n + 16) for a, n in zip(arguments, sizes, strict=True)]
        pointers = (ctypes.c_void_p * max(1, len(sizes)))(*map(ctypes.addressof, buffers))
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        launch = _Launch(
            self._pointer, ctypes.addressof(pointers), self._runtime.find, seed, blocks,
            threads or self.translation.threads or 128, self._shared, min(blocks, _AT_ONCE), self._races,
            _MESSAGE_BYTES, ctypes.cast(message, ctypes.c_char_p),
        )  # fmt: skip
        faults = self._runtime.library.ptx_run(ctypes.byref(launch))
        if faults:
            raise Fault(f"{faults} faults, the first of them:\n{message.value.decode()}")


def _packed(argument: int | bytes, size: int) -> bytes:
    data = argument if isinstance(argument, bytes) else struct.pack("<q", argument)[:size]
    if len(data) != size:
        raise TypeError(f"an argument has {len(data)} bytes, but the kernel's parameter {size}")
    return data
