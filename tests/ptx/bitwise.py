"""Operations on bits."""

from __future__ import annotations

from .opcodes import translates
from .syntax import SIZES, Instruction
from .writer import Writer, bits_of, integer, refuse, unsigned


def _kind(i: Instruction) -> str:
    """The type, where nothing else may qualify the instruction."""
    if len(i.qualifiers) != 1:
        refuse(i)
    return i.qualifiers[0]


@translates("and", "or", "xor")
def _combine(w: Writer, i: Instruction) -> None:
    kind, sign = _kind(i), {"and": "&", "or": "|", "xor": "^"}[i.opcode]
    if kind == "pred":
        x, y = (w.predicate(v) for v in i.operands[1:])
    else:
        x, y = (w.raw(v, SIZES[kind]) for v in i.operands[1:])
    w.assign(i.operands[0], kind, f"{x} {sign} {y}")


@translates("not")
def _invert(w: Writer, i: Instruction) -> None:
    kind = _kind(i)
    operand = i.operands[1]
    w.assign(i.operands[0], kind, f"!{w.predicate(operand)}" if kind == "pred" else f"~({w.raw(operand, SIZES[kind])})")


@translates("shl", "shr")
def _shift(w: Writer, i: Instruction) -> None:
    kind = _kind(i)
    cpp = unsigned(SIZES[kind]) if i.opcode == "shl" else integer(kind)
    made = f"{i.opcode}<{cpp}>({w.raw(i.operands[1], SIZES[kind])}, {w.raw(i.operands[2], 4)})"
    w.assign(i.operands[0], bits_of(SIZES[kind]), made)


@translates("shf")
def _funnel_shift(w: Writer, i: Instruction) -> None:
    if i.qualifiers[0] not in ("l", "r") or i.qualifiers[1] not in ("wrap", "clamp") or i.qualifiers[2:] != ("b32",):
        refuse(i)
    x, y, n = (w.raw(v, 4) for v in i.operands[1:])
    n = f"(({n}) & 31u)" if i.qualifiers[1] == "wrap" else f"(({n}) < 32u ? ({n}) : 32u)"
    w.assign(i.operands[0], "b32", f"shf_{i.qualifiers[0]}({x}, {y}, {n})")


@translates("bfe")
def _extract(w: Writer, i: Instruction) -> None:
    kind = _kind(i)
    if kind not in ("u32", "s32"):
        refuse(i)
    first, *rest = i.operands[1:]
    w.assign(i.operands[0], kind, f"bfe({', '.join([w.number(first, kind), *(w.raw(v, 4) for v in rest)])})")


@translates("bfi", "prmt", "lop3")
def _of_words(w: Writer, i: Instruction) -> None:
    if i.qualifiers != ("b32",):
        refuse(i)
    w.assign(i.operands[0], "b32", f"{i.opcode}({', '.join(w.raw(v, 4) for v in i.operands[1:])})")


@translates("clz", "popc")
def _count(w: Writer, i: Instruction) -> None:
    kind = _kind(i)
    if kind not in ("b32", "b64"):
        refuse(i)
    function = "clz" if i.opcode == "clz" else "__builtin_popcountll"
    w.assign(i.operands[0], "b32", f"{function}({w.raw(i.operands[1], SIZES[kind])})")
