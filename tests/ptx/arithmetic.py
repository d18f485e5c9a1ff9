"""Sums, products, quotients, roots, comparisons."""

from __future__ import annotations

from .opcodes import translates
from .syntax import SIZES, Instruction
from .writer import FLOATS, Writer, bits_of, integer, only, refuse, unsigned

_SIGNS = {"add": "+", "addc": "+", "sub": "-", "subc": "-", "mul": "*", "div": "/", "rem": "%"}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED_COMPARISONS = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_WIDE_FLOATS = ("f32", "f64")


def _floats(w: Writer, i: Instruction, *allowed: str) -> tuple[str, bool, list[str]]:
    """Type, whether subnormals are flushed, and the operands as numbers; rounding is to nearest."""
    *flags, kind = i.qualifiers
    if kind not in _WIDE_FLOATS:
        refuse(i)
    flush = "ftz" in only(i, tuple(flags), "rn", "ftz", *allowed)
    return kind, flush, [_flushed(w.number(v, kind), flush) for v in i.operands[1:]]


def _flushed(value: str, flush: bool) -> str:
    return f"ftz({value})" if flush else value


def _must_round(i: Instruction) -> None:
    if "rn" not in i.qualifiers:
        refuse(i)  # an approximation, or another rounding


@translates("add", "sub", "addc", "subc")
def _sum(w: Writer, i: Instruction) -> None:
    kind, sign = i.qualifiers[-1], _SIGNS[i.opcode]
    if kind in FLOATS:
        kind, flush, (x, y) = _floats(w, i)
        w.assign(i.operands[0], kind, _flushed(f"{x} {sign} {y}", flush))
        return
    flags = only(i, i.qualifiers[:-1], "cc")
    x, y = (w.raw(v, SIZES[kind]) for v in i.operands[1:])
    _with_carry(w, i, f"{x} {sign} {y}", x, sign, y, bool(flags))


def _with_carry(w: Writer, i: Instruction, plain: str, x: str, sign: str, y: str, keeps: bool) -> None:
    """Assign ``x sign y``, with the carry (of a subtraction: the borrow) of the instruction before and to the next."""
    size = SIZES[i.qualifiers[-1]]
    takes = i.opcode.endswith("c")
    if not takes and not keeps:
        w.assign(i.operands[0], bits_of(size), plain)
        return
    w.line(f"{{ const unsigned __int128 x = {x}, sum = x {sign} {y} {sign} {'carry' if takes else '0u'};")
    if keeps:
        w.line(f"carry = (uint32_t)(sum >> {8 * size}) & 1;")
    w.assign(i.operands[0], bits_of(size), f"({unsigned(size)})sum")
    w.line("}")


def _product(w: Writer, i: Instruction) -> tuple[str, str]:
    """Type of the result and the product of an integer multiplication."""
    kind = i.qualifiers[-1]
    size, signed = SIZES[kind], kind[0] == "s"
    parts = only(i, i.qualifiers[:-1], "wide", "lo", "hi", "cc") - {"cc"}
    x, y = (w.number(v, kind) for v in i.operands[1:3])
    # in 128 bits nothing overflows
    exact = f"({'' if signed else 'unsigned '}__int128)({x}) * ({y})"
    if parts == {"wide"}:
        return f"{kind[0]}{16 * size}", exact
    if parts == {"lo"}:
        return kind, exact
    if parts == {"hi"}:
        return kind, f"({exact}) >> {8 * size}"
    refuse(i)


@translates("mul")
def _multiply(w: Writer, i: Instruction) -> None:
    if i.qualifiers[-1] in FLOATS:
        kind, flush, (x, y) = _floats(w, i)
        w.assign(i.operands[0], kind, _flushed(f"{x} * {y}", flush))
        return
    only(i, i.qualifiers[:-1], "wide", "lo", "hi")
    kind, product = _product(w, i)
    w.assign(i.operands[0], kind, product)


@translates("mad", "madc")
def _multiply_add(w: Writer, i: Instruction) -> None:
    kind, product = _product(w, i)
    size = SIZES[kind]
    x, y = f"({unsigned(size)})({product})", w.raw(i.operands[3], size)
    if "wide" not in i.qualifiers:
        _with_carry(w, i, f"{x} + {y}", x, "+", y, "cc" in i.qualifiers)
    elif i.opcode == "mad" and "cc" not in i.qualifiers:
        w.assign(i.operands[0], bits_of(size), f"{x} + {y}")
    else:
        refuse(i)


@translates("fma")
def _fused(w: Writer, i: Instruction) -> None:
    _must_round(i)
    kind, flush, (x, y, z) = _floats(w, i)
    w.assign(i.operands[0], kind, _flushed(f"__builtin_fma{'f' if kind == 'f32' else ''}({x}, {y}, {z})", flush))


@translates("div", "rem")
def _divide(w: Writer, i: Instruction) -> None:
    kind = i.qualifiers[-1]
    if kind in FLOATS:
        _must_round(i)
        kind, flush, (x, y) = _floats(w, i)
        w.assign(i.operands[0], kind, _flushed(f"{x} / {y}", flush))
        return
    only(i, i.qualifiers[:-1])
    x, y = (w.number(v, kind) for v in i.operands[1:])
    # what a GPU gives for a divisor of 0 is not specified; here it must not end the process
    w.assign(i.operands[0], kind, f"({y}) == 0 ? ({integer(kind)})-1 : {x} {_SIGNS[i.opcode]} {y}")


@translates("sqrt")
def _square_root(w: Writer, i: Instruction) -> None:
    _must_round(i)
    kind, flush, (x,) = _floats(w, i)
    w.assign(i.operands[0], kind, _flushed(f"__builtin_sqrt{'f' if kind == 'f32' else ''}({x})", flush))


@translates("rcp", "rsqrt")
def _reciprocal(w: Writer, i: Instruction) -> None:
    kind = i.qualifiers[-1]
    x = w.number(i.operands[1], kind)
    if i.qualifiers == ("approx", "ftz", "f64"):
        w.assign(i.operands[0], kind, f"{i.opcode}_approx({x})")
    elif i.opcode == "rcp" and i.qualifiers in (("rn", "f64"), ("rn", "f32")):
        w.assign(i.operands[0], kind, f"1 / {x}")
    else:
        refuse(i)


@translates("ex2", "lg2")
def _approximate(w: Writer, i: Instruction) -> None:
    if "approx" not in i.qualifiers or i.qualifiers[-1] != "f32":
        refuse(i)
    kind, flush, (x,) = _floats(w, i, "approx")
    function = "exp2f" if i.opcode == "ex2" else "log2f"
    w.assign(i.operands[0], kind, _flushed(f"perturbed(__builtin_{function}({x}))", flush))


@translates("neg", "abs")
def _sign(w: Writer, i: Instruction) -> None:
    kind = i.qualifiers[-1]
    size, raw = SIZES[kind], w.raw(i.operands[1], SIZES[kind])
    flags = only(i, i.qualifiers[:-1], *(("ftz",) if kind == "f32" else ()))
    if kind in _WIDE_FLOATS:
        top = 1 << (8 * size - 1)
        made = f"{raw} ^ {hex(top)}ull" if i.opcode == "neg" else f"{raw} & {hex(top - 1)}ull"
        w.assign(i.operands[0], bits_of(size), f"of(ftz(from_f32({made})))" if flags else made)
    elif kind[0] == "s":
        negated = f"0 - {raw}"
        positive = f"{w.number(i.operands[1], kind)} >= 0" if i.opcode == "abs" else "false"
        w.assign(i.operands[0], kind, f"{positive} ? {raw} : {negated}")
    else:
        refuse(i)


@translates("copysign")
def _copy_sign(w: Writer, i: Instruction) -> None:
    if i.qualifiers not in (("f32",), ("f64",)):
        refuse(i)
    (kind,) = i.qualifiers  # the sign of the first operand, the rest of the second
    sign, size = (w.number(v, kind) for v in i.operands[1:])
    w.assign(i.operands[0], kind, f"__builtin_copysign{'f' if kind == 'f32' else ''}({size}, {sign})")


@translates("min", "max")
def _extreme(w: Writer, i: Instruction) -> None:
    kind = i.qualifiers[-1]
    if kind not in FLOATS:
        only(i, i.qualifiers[:-1])
        x, y = (w.number(v, kind) for v in i.operands[1:])
        w.assign(i.operands[0], kind, f"{x} {'<' if i.opcode == 'min' else '>'} {y} ? {x} : {y}")
        return
    kind, flush, (x, y) = _floats(w, i, "NaN")
    made = f"{'least' if i.opcode == 'min' else 'largest'}({x}, {y})"
    if "NaN" in i.qualifiers:
        made = f"({x} != {x} || {y} != {y} ? {x} + {y} : {made})"
    w.assign(i.operands[0], kind, _flushed(made, flush))


def _comparison(i: Instruction, name: str, kind: str, x: str, y: str) -> str:
    if kind not in FLOATS:
        sign = {**_COMPARISONS, **(_UNSIGNED_COMPARISONS if kind[0] == "u" else {})}.get(name)
        return f"({x} {sign} {y})" if sign else refuse(i)
    ordered = f"({x} == {x} && {y} == {y})"
    if name == "num":
        return ordered
    if name == "nan":
        return f"(!{ordered})"
    if name in _COMPARISONS:
        return f"({x} {_COMPARISONS[name]} {y} && {ordered})"
    if name[:2] in _COMPARISONS and name[2:] == "u":
        return f"({x} {_COMPARISONS[name[:2]]} {y} || !{ordered})"
    refuse(i)


@translates("setp")
def _set_predicate(w: Writer, i: Instruction) -> None:
    name, *middle, kind = i.qualifiers
    flags = only(i, tuple(middle), "and", "or", "xor", "ftz")
    target, x, y, *more = i.operands
    if "|" in target:
        _set_two_predicates(w, i)
        return
    flush = "ftz" in flags
    made = _comparison(i, name, kind, _flushed(w.number(x, kind), flush), _flushed(w.number(y, kind), flush))
    joins = {"and": "&&", "or": "||", "xor": "!="}
    for join in flags & set(joins):
        made = f"{made} {joins[join]} {w.predicate(more.pop())}"
    if more:
        refuse(i)
    w.assign(target, "pred", made)


def _set_two_predicates(w: Writer, i: Instruction) -> None:
    """The halves of packed numbers."""
    if len(i.qualifiers) != 2 or i.qualifiers[1] not in ("f16x2", "bf16x2") or len(i.operands) != 3:
        refuse(i)
    name, kind = i.qualifiers[0], i.qualifiers[1].removesuffix("x2")
    for register, shift in zip((r.strip() for r in i.operands[0].split("|")), (0, 16), strict=True):
        x, y = (f"from_{kind}((uint16_t)(({w.raw(v, 4)}) >> {shift}))" for v in i.operands[1:])
        w.assign(register, "pred", _comparison(i, name, kind, x, y))


@translates("selp")
def _select(w: Writer, i: Instruction) -> None:
    if len(i.qualifiers) != 1:
        refuse(i)
    size = SIZES[i.qualifiers[0]]
    x, y = (w.raw(v, size) for v in i.operands[1:3])
    w.assign(i.operands[0], bits_of(size), f"{w.predicate(i.operands[3])} ? {x} : {y}")
