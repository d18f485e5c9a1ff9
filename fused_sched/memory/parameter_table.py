"""The parameter table: what a launch has to know about every tensor of every param group.

``records`` is an int64 tensor of shape ``(n, 16)``: the addresses of parameter, gradient and up to three state tensors,
the number of elements, the group's row of the control block, the place of the count, and the dtypes; the rest is 0.
``chunks`` cuts all tensors into pieces of at most :data:`CHUNK` elements, so that one launch covers them all. A table
is made anew when the set of tensors changes; a step with unchanged pointers touches neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .control_block import NO_COUNT, Slot
from .masters import MASTERS
from .shards import local, spec_of, spread_alike
from .values import has_values

CHUNK = 16384  # elements; 7 arrays of a chunk stay in a core's L2 cache
_WORDS = (
    "param", "grad", "state0", "state1", "state2", "numel", "row", "count", "kind",
    "master", "average", "unused0", "unused1", "unused2", "unused3", "unused4",
)  # fmt: skip
RECORD_WIDTH = len(_WORDS)
RECORD: dict[str, int] = {word: position for position, word in enumerate(_WORDS)}
DTYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_BY_CHANCE = 15  # in the place of a master's code
_BY_CODE = {code: dtype for dtype, code in DTYPES.items()}
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}

# What the update kernels compute with: (parameter, gradient, state).
KINDS = frozenset((d, d, d) for d in DTYPES) | {
    (torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.float16, torch.float16, torch.float32),
    (torch.float32, torch.bfloat16, torch.float32),
    (torch.float32, torch.float16, torch.float32),
    (torch.float32, torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32, torch.float32),
    (torch.float16, torch.float32, torch.float32),
    (torch.bfloat16, torch.float32, torch.bfloat16),
    (torch.float16, torch.float32, torch.float16),
}


def kind_code(
    param: torch.dtype,
    grad: torch.dtype,
    state: torch.dtype,
    average: torch.dtype | None = None,
    master: torch.dtype | None = None,
    *,
    by_chance: bool = False,
) -> int:
    """The dtype word of a record; ``by_chance``: how the parameter is rounded."""
    averaged = 0 if average is None else 1 + DTYPES[average]
    mastered = _BY_CHANCE if by_chance else 0 if master is None else MASTERS[master]
    return DTYPES[param] + 16 * DTYPES[grad] + 256 * DTYPES[state] + 4096 * averaged + 65536 * mastered


def dtypes_of(kind: int) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Parameter, gradient and state dtype of a record's kind."""
    return _BY_CODE[kind % 16], _BY_CODE[kind // 16 % 16], _BY_CODE[kind // 256 % 16]


def average_of(kind: int) -> torch.dtype | None:
    """Dtype of the averaged copy of a record's kind; None if there is none."""
    averaged = kind // 4096 % 16
    return _BY_CODE[averaged - 1] if averaged else None


def master_of(kind: int) -> torch.dtype | None:
    """Dtype of the master of a record's kind; None if there is none."""
    return next((dtype for dtype, code in MASTERS.items() if code == kind // 65536), None)


def is_rounded_by_chance(kind: int) -> bool:
    """Whether a record's parameter is."""
    return kind // 65536 == _BY_CHANCE


def widest_of(kind: int) -> int:
    """Bytes of the widest of a kind's types."""
    dtypes = (*dtypes_of(kind), average_of(kind), master_of(kind))
    return max(dtype.itemsize for dtype in dtypes if dtype is not None)


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the numbers a tensor holds: float32 for complex64."""
    return _REAL.get(dtype, dtype)


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers a tensor holds, without a gradient of their own; of complex ones, real and imaginary parts."""
    tensor = tensor.detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def flat_view(tensor: torch.Tensor) -> torch.Tensor:
    """All elements of a dense tensor in the order of memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one block of memory without gaps or overlap, in whatever order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether equal positions in memory mean equal indices (strides of size-1 dimensions do not count)."""
    if a.shape != b.shape:
        return False
    return all(size <= 1 or s == t for size, s, t in zip(a.shape, a.stride(), b.stride(), strict=True))


def state_format(param: torch.Tensor) -> torch.memory_format:
    """How the state of a parameter, and buffers that stand in for it, lie in memory: all alike."""
    walkable = is_dense(param) and not param.is_complex()
    return torch.preserve_format if walkable else torch.contiguous_format


def state_dtype_fits(param: torch.Tensor, dtype: torch.dtype, wanted: torch.dtype | None) -> bool:
    """Whether state tensors of ``dtype`` can go with a parameter; ``wanted``: no other can.

    Those that have fewer digits than the parameter go with it only where they are wanted.
    """
    if (param.dtype, param.dtype, dtype) not in KINDS:
        return dtype == param.dtype
    return dtype == wanted if wanted is not None else dtype.itemsize >= param.dtype.itemsize


def update_dtype(param: torch.dtype) -> torch.dtype:
    """What the update of a parameter is computed in: its own dtype, or float32 for 16 bits."""
    return torch.float32 if param.itemsize == 2 else param


def dtype_beside(param: torch.Tensor) -> torch.dtype:
    """The parameter's, or what its update is computed in where its gradient has another dtype."""
    g = param.grad
    return param.dtype if g is None or g.dtype == param.dtype else update_dtype(param.dtype)


@dataclass
class Staging:
    """Buffers that stand in for a tensor whose memory the kernels cannot walk: gaps, complex, odd gradients."""

    param: torch.Tensor
    grad: torch.Tensor

    @classmethod
    def like(cls, param: torch.Tensor) -> Staging:
        """For a parameter and its present gradient."""
        dtypes = param.dtype, dtype_beside(param)
        return cls(*(torch.empty_like(param, dtype=d, memory_format=state_format(param)).detach() for d in dtypes))

    def suits(self, param: torch.Tensor) -> bool:
        """Whether a parameter and its present gradient can be copied in, with all digits that an update computes in."""
        return self.param.shape == param.shape and self.grad.dtype == dtype_beside(param)


class Entry:
    """One parameter of the table.

    Attributes:
        owner: the parameter.
        param: what of it is updated here: itself, or the part of it that this process has.
        dtype: that it had when the entry was made.
        row: of its group, in the control block.
        count: index of its state's count.
        needed: how many state tensors the rule keeps for it.
        state: those tensors, in the rule's order; empty until its first gradient.
        state_dtype: of them, where no other would do; else None.
        average: its averaged copy, or None.
        master: what is kept beside its 16 bits, or None; see :mod:`fused_sched.memory.masters`.
        stream: what chooses the random bits that it is rounded by, or None; see :mod:`fused_sched.memory.stochastic`.
        staging: buffers the kernels use in its place, or None.
        sparse: its gradient is sparse, and torch's operations update it.
        asleep: it can have no update before the table is made anew: it has no gradient, and lacks what one would take.
        elsewhere: another table updates it.
        copied_count: owner of ``count``, where that is not the state's.
    """

    __slots__ = (
        *("asleep", "average", "copied_count", "count", "dtype", "elsewhere", "master", "needed", "owner", "param"),
        *("row", "sparse", "staging", "state", "state_dtype", "stream"),
    )

    def __init__(self, owner: torch.Tensor, row: int, needed: int) -> None:
        self.owner, self.param, self.row, self.needed = owner, local(owner), row, needed
        self.dtype = owner.dtype
        self.count = NO_COUNT
        self.state: tuple[torch.Tensor, ...] = ()
        self.state_dtype: torch.dtype | None = None
        self.average: torch.Tensor | None = None
        self.master: torch.Tensor | None = None
        self.stream: int | None = None
        self.staging: Staging | None = None
        self.asleep = self.elsewhere = self.sparse = False
        self.copied_count: Slot | None = None

    @property
    def grad(self) -> torch.Tensor | None:
        """Its gradient, of which a process has the same part."""
        g = self.owner.grad
        return None if g is None else local(g)

    @property
    def inert(self) -> bool:
        """Whether kernels are to leave it alone."""
        return self.asleep or self.elsewhere or self.sparse

    def is_current(self) -> bool:
        """Whether states and staging still suit the parameter and its gradient."""
        p, g = self.param, self.owner.grad
        if local(self.owner) is not p:
            return False
        if g is None or self.elsewhere:
            return True
        if not spread_alike(self.owner, g):
            return False
        g = local(g)
        if self.sparse:
            return g.layout == torch.sparse_coo and g.shape == p.shape
        if p.dtype != self.dtype:
            return False  # what is kept beside it depends on that
        if self.asleep or g.layout != torch.strided or len(self.state) < self.needed or not has_values(g):
            return False
        if self.master is not None and self.master.shape != p.shape:
            return False
        return all(t.shape == p.shape and state_dtype_fits(p, t.dtype, self.state_dtype) for t in self.state) and (
            self.staging is None or self.staging.suits(p)
        )

    def needs_staging(self) -> bool:
        """Whether the kernels cannot walk the parameter, or its present gradient, in place."""
        p, g = self.param, self.grad
        if p.is_complex() or p.is_neg() or not is_dense(p):
            return True
        if g is None:
            return False
        state = self.state[0].dtype if self.state else p.dtype
        return not same_layout(p, g) or g.is_neg() or (p.dtype, g.dtype, state) not in KINDS

    def memory(self) -> list[tuple[int, int]]:
        """First byte, and the one after the last, of all that an update writes to."""
        beside = [t for t in (self.average, self.master) if t is not None]
        return [span_of(t) for t in (self.param, *self.state, *beside) if t.numel() > 0]


def span_of(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte of a tensor's elements, and the one after the last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.data_ptr()
    return first, first + (last + 1) * tensor.itemsize


def layers(entries: Sequence[Entry]) -> list[int]:
    """In which round each entry is updated, so that those of one round share no memory and no count.

    Torch updates one parameter after the other; where the memory of two overlaps, the order is part of the result.
    """
    spans = sorted((*span, i) for i, e in enumerate(entries) if not e.asleep for span in e.memory())
    earlier: dict[int, set[int]] = {}
    active: list[tuple[int, int]] = []  # end, entry
    for first, end, i in spans:
        active = [(e, k) for e, k in active if e > first]
        for _, k in active:
            if k != i:
                earlier.setdefault(max(i, k), set()).add(min(i, k))
        active.append((end, i))
    counts: dict[int, int] = {}
    for i, entry in enumerate(entries):
        if entry.count != NO_COUNT:
            if entry.count in counts:
                earlier.setdefault(i, set()).add(counts[entry.count])
            counts[entry.count] = i
    found = [0] * len(entries)
    for i in sorted(earlier):
        found[i] = 1 + max(found[k] for k in earlier[i])
    return found


class ParameterTable:
    """Entries, and the tensors made of them.

    ``ids`` (addresses of the parameter objects, and which list has them), ``layouts`` (a hash of shape and strides, 0
    when kernels do not walk the parameter itself) and ``needed`` (state tensors) let a scan notice without Python work
    that a record is out of date. ``held`` has, from a scan to the end of the update, the gradients of parameters whose
    class is not torch's own: what such a class answers may be a tensor that nobody else has. ``specs``, None without
    DTensors, has for each entry how a DTensor is spread, and the same of the gradient that was seen last.

    The rest belongs to scans of a GPU's tensors (``pointers.py``). ``dlpack_device``: their device as DLPack writes it,
    or None if C++ cannot read them. ``seen``: what the scan in Python found in order, by position. ``moved``: whether
    gradients did since the last update.

    Args:
        lists: the params of every param group; those of the user, so that changes in them are seen.
        entries: one for each parameter in them.
    """

    def __init__(self, lists: Sequence[list[torch.Tensor]], entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        self.lists = list(lists)
        places = [place for place, params in enumerate(lists) for _ in params]
        self._places = [(id(e.owner), place) for e, place in zip(entries, places, strict=True)]
        self.ids = torch.tensor(self._places, dtype=torch.int64, device="cpu").reshape(-1, 2)
        self.layouts = torch.zeros(len(self.entries), dtype=torch.int64, device="cpu")
        self.needed = torch.tensor([e.needed for e in self.entries], dtype=torch.int64, device="cpu")
        self.staged = [(i, e) for i, e in enumerate(self.entries) if e.staging is not None and not e.inert]
        # what a scan cannot see in the record
        self.watched = [e for e in self.entries if e.asleep or e.sparse or (e.staging is not None and not e.inert)]
        self.sparse = [e for e in self.entries if e.sparse and not e.elsewhere]
        self.records = torch.zeros(len(self.entries), RECORD_WIDTH, dtype=torch.int64, device="cpu")
        self.chunks = torch.empty(0, 2, dtype=torch.int64, device="cpu")
        self.held: list[torch.Tensor | None] = []
        specs = [spec_of(e.owner) for e in self.entries]
        self.specs = [x for spec in specs for x in (spec, None)] if any(s is not None for s in specs) else None
        self.dlpack_device: tuple[int, int] | None = None
        self.seen: dict[int, tuple[Any, ...]] = {}
        self.moved = False
        self.fill()

    def has_these_params(self) -> bool:
        """Whether the lists have the very same parameter objects in the same places."""
        there = [(id(p), place) for place, params in enumerate(self.lists) for p in params]
        return there == self._places

    def fill(self) -> None:
        """Write records and chunks from the entries; call after states or memory changed."""
        rows = [self._row(entry) for entry in self.entries]
        self.records.copy_(torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, RECORD_WIDTH))
        numel = self.records[:, RECORD["numel"]]
        per_record = (numel + CHUNK - 1) // CHUNK
        record = torch.repeat_interleave(per_record)
        first = torch.cumsum(per_record, 0) - per_record
        start = (torch.arange(record.numel(), dtype=torch.int64, device="cpu") - first[record]) * CHUNK
        self.chunks = torch.stack([record, start], dim=1).contiguous()

    def _row(self, entry: Entry) -> list[int]:
        if entry.inert:
            return [0] * RECORD_WIDTH
        p = entry.param if entry.staging is None else entry.staging.param
        g = entry.grad if entry.staging is None else None  # a staged gradient is set step by step
        numel = p.numel() * (2 if p.is_complex() else 1)
        dtype = real_dtype(p.dtype)
        given = g if entry.staging is None else entry.staging.grad
        grad_dtype = dtype if given is None else real_dtype(given.dtype)
        state_dtype = real_dtype(entry.state[0].dtype) if entry.state else dtype
        pointers = [s.data_ptr() for s in entry.state] + [0, 0, 0]
        average, master = entry.average, entry.master
        averaged = None if average is None else real_dtype(average.dtype)
        mastered = None if master is None else master.dtype
        kind = kind_code(dtype, grad_dtype, state_dtype, averaged, mastered, by_chance=entry.stream is not None)
        grad = 0 if g is None else g.data_ptr() or 1  # an empty gradient is a gradient too
        used = [p.data_ptr(), grad, *pointers[:3], numel, entry.row, entry.count, kind]
        used.append(entry.stream or 0 if master is None else master.data_ptr())
        used.append(0 if average is None else average.data_ptr())
        return used + [0] * (RECORD_WIDTH - len(used))

    def stage_in(self) -> None:
        """Copy staged parameters and gradients into their buffers, and mark which have a gradient."""
        for i, entry in self.staged:
            assert entry.staging is not None
            g = entry.grad
            if g is not None or entry.average is not None:
                entry.staging.param.copy_(entry.param.detach())
            if g is None:
                self.records[i, RECORD["grad"]] = 0
                continue
            entry.staging.grad.copy_(g.detach())
            self.records[i, RECORD["grad"]] = entry.staging.grad.data_ptr() or 1

    def stage_out(self, unscaled: bool, zeroed: bool = False) -> None:
        """Copy the updated buffers back; ``unscaled``, ``zeroed``: the gradients were rewritten too."""
        for _, entry in self.staged:
            g = entry.grad
            if g is not None:
                assert entry.staging is not None
                entry.param.detach().copy_(entry.staging.param)
                if zeroed:
                    g.detach().zero_()  # also one whose elements share memory
                elif unscaled:
                    g.detach().copy_(entry.staging.grad)
