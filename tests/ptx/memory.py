"""Loads, stores, atomic operations, addresses, moves between registers."""

from __future__ import annotations

import re

from .opcodes import translates
from .syntax import SIZES, Instruction, split_list
from .writer import Writer, bits_of, integer, literal, only, refuse, unsigned

_SPACES = {"global": "kGlobal", "const": "kConst", "shared": "kShared", "local": "kLocal", "param": "param"}
# They change how fast an access is, or what is promised beyond a plain one.
_NEUTRAL = re.compile(r"nc|ca|cg|cs|lu|cv|wb|wt|weak|L1::\w+|L2::\w+|volatile")
_ATOMICS = {"add": "add", "and": "and", "or": "or", "xor": "xor"}


def _access(i: Instruction, qualifiers: tuple[str, ...]) -> tuple[str, int, str]:
    """State space, number of words, type of a word."""
    space, count, kind = "kGeneric", 1, ""
    for q in qualifiers:
        base = q.split("::")[0]
        if base in _SPACES:
            space = _SPACES[base]
        elif re.fullmatch(r"v[248]", q):
            count = int(q[1:])
        elif q in SIZES and not kind:
            kind = q
        elif not _NEUTRAL.fullmatch(q):
            refuse(i)
    if not kind:
        refuse(i)
    return space, count, kind


def _words(i: Instruction, operand: str, count: int) -> list[str]:
    words = split_list(operand[1:-1]) if operand.startswith("{") else [operand]
    if len(words) != count:
        refuse(i)
    return words


def _plain(kind: str) -> str:
    """Bits; but signed types keep their sign when a register is wider."""
    return kind if kind[0] == "s" else bits_of(SIZES[kind])


@translates("ld")
def _load(w: Writer, i: Instruction) -> None:
    space, count, kind = _access(i, i.qualifiers)
    cpp, address = unsigned(SIZES[kind]), w.address(i.operands[1])
    targets = _words(i, i.operands[0], count)
    w.line(f"{{ Words<{cpp}, {count}> w;")
    if space == "param":
        w.line(f"memcpy(&w, (const void*){address}, sizeof w);")
    else:
        w.line(f"w = load<{space}, {cpp}, {count}>(t, {address}, {literal(i.place)});")
    for k, register in enumerate(targets):
        w.assign(register, _plain(kind), f"w.x[{k}]")
    w.line("}")


@translates("st")
def _store(w: Writer, i: Instruction) -> None:
    space, count, kind = _access(i, i.qualifiers)
    size, address = SIZES[kind], w.address(i.operands[0])
    values = ", ".join(w.raw(v, size) for v in _words(i, i.operands[1], count))
    words = f"Words<{unsigned(size)}, {count}>"
    if space == "param":
        w.line(f"{{ const {words} w = {{{{{values}}}}}; memcpy((void*){address}, &w, sizeof w); }}")
    else:
        call = f"store<{space}, {unsigned(size)}, {count}>"
        w.line(f"{call}(t, {address}, {words}{{{{{values}}}}}, {literal(i.place)});")


@translates("atom")
def _atomic(w: Writer, i: Instruction) -> None:
    orders = {"relaxed", "acquire", "release", "acq_rel"} & set(i.qualifiers)
    actions = {"add", "and", "or", "xor", "exch", "cas"} & set(i.qualifiers)
    # "gpu" and "sys" reach every thread that there is; "cta" would not
    rest = tuple(q for q in i.qualifiers if q not in orders | actions | {"gpu", "sys"})
    space, count, kind = _access(i, rest)
    if len(orders) > 1 or len(actions) != 1 or count != 1 or space == "param":
        refuse(i)
    (order,), (action,) = orders or {"relaxed"}, actions
    size = SIZES[kind]
    cpp, cpp_order, value = unsigned(size), f"__ATOMIC_{order.upper()}", w.raw(i.operands[2], size)
    acquire, release = int(order in ("acquire", "acq_rel")), int(order in ("release", "acq_rel"))
    reached = f"atomic<{space}, {cpp}>(t, {w.address(i.operands[1])}, {acquire}, {release}, {literal(i.place)})"
    w.line(f"{{ {cpp}* const at = {reached};")
    w.line(f"{cpp} old = 0;")
    if action == "exch":
        w.line(f"if (at) old = __atomic_exchange_n(at, {value}, {cpp_order});")
    elif action == "cas":
        swap = f"__atomic_compare_exchange_n(at, &old, {w.raw(i.operands[3], size)}, false, {cpp_order}"
        w.line(f"old = {value};")
        w.line(f"if (at) {swap}, __ATOMIC_RELAXED);")
    elif kind[0] in "usb" and kind != "bf16":
        w.line(f"if (at) old = __atomic_fetch_{_ATOMICS[action]}(at, {value}, {cpp_order});")
    else:
        refuse(i)
    w.assign(i.operands[0], bits_of(size), "old")
    w.line("}")


@translates("cvta")
def _convert_address(w: Writer, i: Instruction) -> None:
    only(i, i.qualifiers, "to", "global", "const", "shared", "local", "param", "u64")
    raw = w.raw(i.operands[1], 8)
    for space in ("shared", "local"):
        if space in i.qualifiers:
            raw = f"{raw} {'-' if 'to' in i.qualifiers else '+'} (uint64_t)t.{space}"
    w.assign(i.operands[0], "b64", raw)


@translates("mov")
def _move(w: Writer, i: Instruction) -> None:
    if len(i.qualifiers) != 1:
        refuse(i)
    (kind,) = i.qualifiers
    target, source = i.operands
    size = SIZES[kind]
    if kind == "pred":
        w.assign(target, kind, w.predicate(source))
    elif target.startswith("{"):
        parts = split_list(target[1:-1])
        width = size // len(parts)
        w.line(f"{{ const {unsigned(size)} x = {w.raw(source, size)};")
        for k, register in enumerate(parts):
            w.assign(register, bits_of(width), f"x >> {8 * width * k}")
        w.line("}")
    elif source.startswith("{"):
        parts = split_list(source[1:-1])
        width = size // len(parts)
        pieces = [f"({unsigned(size)})({w.raw(v, width)}) << {8 * width * k}" for k, v in enumerate(parts)]
        w.assign(target, bits_of(size), " | ".join(f"({p})" for p in pieces))
    elif found := re.match(r"([\w$]+)\s*\+\s*(\d+)$", source):
        w.assign(target, bits_of(size), f"{w.raw(found[1], size)} + {found[2]}")
    else:
        w.assign(target, bits_of(size), w.raw(source, size))


@translates("cvt")
def _convert(w: Writer, i: Instruction) -> None:
    *flags, target, source = i.qualifiers
    if target in ("f16x2", "bf16x2"):
        if flags != ["rn"] or source != "f32" or len(i.operands) != 3:
            refuse(i)
        high, low = (f"to_{target[:-2]}({w.number(v, 'f32')})" for v in i.operands[1:])
        w.assign(i.operands[0], "b32", f"((uint32_t){high} << 16) | {low}")
        return
    given = only(i, tuple(flags), "rn", "rni", "rzi", "rmi", "rpi", "ftz")
    value = w.number(i.operands[1], source)
    made = (_from_float if source in ("f16", "bf16", "f32", "f64") else _from_integer)(i, given, target, source, value)
    w.assign(i.operands[0], target, made)


def _from_float(i: Instruction, flags: set[str], target: str, source: str, value: str) -> str:
    flush = "ftz" in flags
    if flush and source == "f32":
        value = f"ftz({value})"
    f = "" if source == "f64" else "f"
    rounding = {"rni": "nearbyint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
    chosen = [name for flag, name in rounding.items() if flag in flags]
    if chosen:
        value = f"__builtin_{chosen[0]}{f}({value})"
    if target not in ("f16", "bf16", "f32", "f64"):
        return f"to_int<{integer(target)}>({value})" if chosen else refuse(i)
    if source == "f64" and target in ("f16", "bf16"):
        refuse(i)  # the emulated one would round twice
    if SIZES[target] < SIZES[source] and "rn" not in flags:
        refuse(i)
    value = f"({'double' if target == 'f64' else 'float'})({value})"
    return f"ftz({value})" if flush and target == "f32" else value


def _from_integer(i: Instruction, flags: set[str], target: str, source: str, value: str) -> str:
    if target in ("f32", "f64"):
        return f"({'double' if target == 'f64' else 'float'})({value})" if flags == {"rn"} else refuse(i)
    if target in ("f16", "bf16") or flags:
        refuse(i)
    return value
