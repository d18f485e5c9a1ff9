"""What a PTX text consists of, before any meaning is given to instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SIZES = {
    "pred": 0, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4,
    "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8,
}  # fmt: skip


class Unknown(Exception):
    """PTX that is not covered: nothing of it may be guessed."""


@dataclass(frozen=True)
class Variable:
    """An array of a state space; ``count`` is None where the launch decides the size (dynamic shared memory)."""

    space: str
    align: int
    kind: str
    name: str
    count: int | None
    values: str

    @property
    def size(self) -> int:
        return SIZES[self.kind] * (self.count or 0)


@dataclass(frozen=True)
class Parameter:
    name: str
    size: int
    align: int


@dataclass(frozen=True)
class Registers:
    kind: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Scope:
    """A brace."""

    opens: bool


@dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
        guard: predicate with an optional ``!``; empty where it always runs.
        opcode: the part before the first dot.
        qualifiers: the parts after it.
        operands: as written.
        place: line of the PTX and of the source, for messages.
        text: as written.
    """

    guard: str
    opcode: str
    qualifiers: tuple[str, ...]
    operands: tuple[str, ...]
    place: str
    text: str


Statement = Variable | Parameter | Registers | Label | Scope | Instruction


@dataclass
class Function:
    """``body`` is None for a declaration without one; ``threads`` is 0 where the launch decides."""

    name: str
    entry: bool
    results: list[Parameter]
    parameters: list[Parameter]
    threads: int = 0
    body: list[Statement] | None = None


@dataclass
class Module:
    variables: list[Variable] = field(default_factory=list)
    functions: dict[str, Function] = field(default_factory=dict)


def split_list(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth, now = [], 0, ""
    for c in text:
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            parts.append(now.strip())
            now = ""
        else:
            now += c
    if now.strip():
        parts.append(now.strip())
    return parts


def identifier(symbol: str) -> str:
    """A name of PTX as one of C++."""
    return re.sub(r"\W", lambda m: f"_{ord(m[0]):x}_", symbol)
