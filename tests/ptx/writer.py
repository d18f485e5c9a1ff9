"""The body of one function as C++: operands, registers, addresses. Registers hold bits; numbers are made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from .syntax import SIZES, Instruction, Unknown, identifier

FLOATS = ("f16", "bf16", "f32", "f64")
_SPECIAL = {
    "%tid.x": "t.tid", "%ntid.x": "t.ntid", "%ctaid.x": "t.ctaid", "%nctaid.x": "t.nctaid", "%laneid": "(t.tid % 32u)",
    "WARP_SZ": "32u", **{f"%{name}.{axis}": value for axis in "yz"
                         for name, value in (("tid", "0u"), ("ctaid", "0u"), ("ntid", "1u"), ("nctaid", "1u"))},
}  # fmt: skip
_FROM_FLOAT = {"f32": "of", "f64": "of", "f16": "to_f16", "bf16": "to_bf16"}
_ADDRESS = re.compile(r"\[\s*([\w%$]+)\s*(?:\+\s*(-?\w+))?\s*\]$")


def unsigned(size: int) -> str:
    """C++'s unsigned type of so many bytes."""
    return f"uint{8 * size}_t"


def integer(kind: str) -> str:
    """C++'s integer type for ``kind``; bits are unsigned."""
    return f"int{8 * SIZES[kind]}_t" if kind[0] == "s" else unsigned(SIZES[kind])


def bits_of(size: int) -> str:
    """PTX's type for so many bytes without a meaning."""
    return f"b{8 * size}"


@dataclass
class Symbols:
    """Names of a module: offsets in shared memory, arrays of other spaces, functions with their bodies."""

    shared: dict[str, int] = field(default_factory=dict)
    arrays: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


class Writer:
    """Collects ``lines`` and what was used: ``opcodes``, ``called`` functions, ``arrays``."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.lines: list[str] = []
        self.opcodes: set[str] = set()
        self.called: set[str] = set()
        self.arrays: set[str] = set()
        self.scopes: list[dict[str, str]] = [{}]
        self.parameters: set[str] = set()
        self.locals: set[str] = set()

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def declare(self, kind: str, names: tuple[str, ...]) -> None:
        self.scopes[-1].update(dict.fromkeys(names, kind))
        cpp = "bool" if kind == "pred" else unsigned(SIZES[kind])
        self.line(f"{cpp} {', '.join(self._register(name) for name in names)};")

    def kind(self, register: str) -> str | None:
        """The type a register was declared with; None if it is no register."""
        return next((scope[register] for scope in reversed(self.scopes) if register in scope), None)

    @staticmethod
    def _register(name: str) -> str:
        return "R_" + identifier(name.removeprefix("%"))

    def predicate(self, text: str) -> str:
        """An operand as a truth value."""
        if text.startswith("!"):
            return f"(!{self.predicate(text[1:])})"
        if self.kind(text) == "pred":
            return self._register(text)
        if re.match(r"-?\d+$", text):
            return "true" if int(text) else "false"
        raise Unknown(f"{text!r} is no predicate")

    def raw(self, text: str, size: int) -> str:
        """An operand as bits of so many bytes."""
        kind = self.kind(text)
        if kind == "pred":
            raise Unknown(f"{text!r} is a predicate")
        if kind is not None:
            return f"({unsigned(size)}){self._register(text)}"
        value = self._constant(text, size) or self._symbol(text)
        return f"(({unsigned(size)}){value})"

    @staticmethod
    def _constant(text: str, size: int) -> str | None:
        if text in _SPECIAL:
            return _SPECIAL[text]
        for prefix, digits in (("0[fF]", 8), ("0[dD]", 16)):
            if found := re.match(rf"{prefix}([0-9a-fA-F]{{{digits}}})$", text):
                if size != digits // 2:
                    raise Unknown(f"{text} where {size} bytes are wanted")
                return f"0x{found[1]}ull"
        if re.match(r"-?\d", text):
            value = int(text.rstrip("U"), 0)
            if not -(256**size) // 2 <= value < 256**size:
                raise Unknown(f"{text} where {size} bytes are wanted")
            return f"0x{value & (256**size - 1):x}ull"
        return None

    def _symbol(self, text: str) -> str:
        if text in self.symbols.shared:
            return str(self.symbols.shared[text])
        if text in self.symbols.arrays:
            self.arrays.add(text)
            return f"(uint64_t)G_{identifier(text)}"
        if text in self.locals:
            return f"D_{identifier(text)}.at"
        if text in self.parameters:
            return f"(uint64_t)P_{identifier(text)}"
        raise Unknown(f"operand {text!r}")

    def number(self, text: str, kind: str) -> str:
        """An operand as a number of C++: float (for 16-bit types too), double or an integer."""
        raw = self.raw(text, SIZES[kind])
        return f"from_{kind}({raw})" if kind in FLOATS else f"({integer(kind)})({raw})"

    def assign(self, register: str, kind: str, value: str) -> None:
        """Give a register a number of C++ of type ``kind``."""
        if register == "_":
            return
        home = self.kind(register)
        if home is None:
            raise Unknown(f"{register!r} is no register")
        if (home == "pred") != (kind == "pred"):
            raise Unknown(f"{register!r} is of type {home}, not {kind}")
        if kind == "pred":
            self.line(f"{self._register(register)} = {value};")
            return
        made = f"{_FROM_FLOAT[kind]}({value})" if kind in FLOATS else f"({integer(kind)})({value})"
        self.line(f"{self._register(register)} = ({unsigned(SIZES[home])})({made});")

    def address(self, text: str) -> str:
        """``[register + offset]`` as 64 bits."""
        found = _ADDRESS.match(text)
        if found is None:
            raise Unknown(f"address {text!r}")
        offset = int(found[2], 0) if found[2] else 0
        base = self.raw(found[1], 8)
        return f"({base} + {offset}ll)" if offset else base


def literal(text: str) -> str:
    """A string of C++."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def refuse(i: Instruction) -> NoReturn:
    raise Unknown(i.text)


def only(i: Instruction, qualifiers: tuple[str, ...], *allowed: str) -> set[str]:
    """The qualifiers as a set.

    Raises:
        Unknown: another one than those allowed is there.
    """
    if not set(qualifiers) <= set(allowed):
        refuse(i)
    return set(qualifiers)
