"""Memory of the simulated GPU: tensors of a device of their own, on memory of the host that is known by its address."""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}
DLPACK_DEVICE = 12, 0  # kDLExtDev, which is torch's PrivateUse1

_libc = ctypes.CDLL(None)
_libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    """DLManagedTensor; lies in memory of C's own, because torch looks at it even when Python is gone."""

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


@dataclass(eq=False)
class Memory:
    """One allocation; its bytes last until :func:`sweep`, so that no other has the same address before.

    Attributes:
        host: its bytes.
        storage: whose memory it is.
        holds_addresses: it was made for int64, as tables of addresses are.
        pool: the graph in whose capture it was made; None for ordinary memory.
        managed: the address of what torch was given.
    """

    host: torch.Tensor
    storage: StorageWeakRef
    holds_addresses: bool
    pool: object | None
    managed: int

    @property
    def freed(self) -> bool:
        """Whether no tensor has it any more."""
        return bool(self.storage.expired())

    @property
    def begin(self) -> int:
        return self.host.data_ptr()

    @property
    def end(self) -> int:
        return self.begin + self.host.numel()

    def words(self) -> list[int]:
        """What may be addresses in it."""
        return self.host.view(torch.int64).tolist() if self.holds_addresses else []


_live: dict[int, Memory] = {}  # by the first address
_SWEEP_EVERY = 500  # allocations
_since_sweep = 0


def sweep() -> None:
    """Give back what no tensor has any more: a kernel that still uses it is found by the check of its bounds."""
    global _since_sweep
    _since_sweep = 0
    for memory in [m for m in _live.values() if m.freed]:
        del _live[memory.begin]
        _libc.free(memory.managed)


def _dlpack_type(dtype: torch.dtype) -> tuple[int, int]:
    name = str(dtype).removeprefix("torch.")
    return _CODES[name.rstrip("0123456789")], 8 * dtype.itemsize


def allocate(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, pool: object | None) -> torch.Tensor:
    """A tensor of the simulated GPU, filled with NaN, and with numbers that are no address."""
    global _since_sweep
    _since_sweep += 1
    if _since_sweep > _SWEEP_EVERY:
        sweep()
    elements = 0 if 0 in size else 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    host = torch.full((elements * dtype.itemsize,), 0xFF, dtype=torch.uint8)
    n = len(size)
    shape, strides = (ctypes.c_int64 * max(n, 1))(*size), (ctypes.c_int64 * max(n, 1))(*stride)
    address = _libc.malloc(ctypes.sizeof(_Managed))
    managed = _Managed.from_address(address)
    managed.tensor = _Tensor(host.data_ptr(), *DLPACK_DEVICE, n, *_dlpack_type(dtype), 1, shape, strides, 0)
    managed.context = managed.deleter = None  # Python must not be called from where torch frees memory
    made = torch._C._from_dlpack(_new_capsule(address, b"dltensor", None))
    if elements:
        storage = StorageWeakRef(made.untyped_storage())
        _live[host.data_ptr()] = Memory(host, storage, dtype == torch.int64, pool, address)
    return made


def memory_of(tensor: torch.Tensor) -> Memory | None:
    """The memory of a tensor of the simulated GPU; None if it has no elements."""
    return _live.get(tensor.untyped_storage().data_ptr())


def on_the_host(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements as a tensor of the CPU, in the same memory."""
    memory = memory_of(tensor)
    alias = torch.empty(0, dtype=tensor.dtype)
    storage = alias.untyped_storage() if memory is None else memory.host.untyped_storage()
    return alias.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())


class Map:
    """The memory that is live now, by address."""

    def __init__(self) -> None:
        sweep()
        self._begins = sorted(_live)
        self._all = [_live[begin] for begin in self._begins]

    def at(self, address: int) -> Memory | None:
        """The memory that an address lies in."""
        i = bisect.bisect_right(self._begins, address) - 1
        return self._all[i] if i >= 0 and address < self._all[i].end else None

    def reachable(self, addresses: Sequence[int]) -> set[Memory]:
        """The memory that addresses lie in, and that of the addresses found there, and so on.

        Whatever looks like an address counts as one. Numbers that are none do not: they are much smaller.
        """
        found: set[Memory] = set()
        waiting = list(addresses)
        while waiting:
            memory = self.at(waiting.pop())
            if memory is not None and memory not in found:
                found.add(memory)
                waiting += memory.words()
        return found
