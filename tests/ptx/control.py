"""Branches, calls, barriers."""

from __future__ import annotations

from .opcodes import translates
from .syntax import Instruction, Unknown, identifier, split_list
from .writer import Writer, integer, literal, only, refuse


@translates("bra")
def _branch(w: Writer, i: Instruction) -> None:
    only(i, i.qualifiers, "uni")
    w.line(f"goto L_{identifier(i.operands[0])};")


@translates("ret")
def _return(w: Writer, i: Instruction) -> None:
    only(i, i.qualifiers, "uni")
    w.line("return;")


@translates("trap")
def _trap(w: Writer, i: Instruction) -> None:
    w.line(f'ptx_fault(t, "trap", 0, 0, {literal(i.place)});')
    w.line("return;")


@translates("bar", "barrier")
def _barrier(w: Writer, i: Instruction) -> None:
    only(i, i.qualifiers, "sync", "cta", "aligned")
    if "sync" not in i.qualifiers or i.operands != ("0",):
        refuse(i)  # barriers of a part of the threads
    w.line(f"ptx_barrier(t, {literal(i.place)});")


_SHUFFLES = {"up": "kUp", "down": "kDown", "bfly": "kButterfly", "idx": "kIndex"}


@translates("shfl")
def _shuffle(w: Writer, i: Instruction) -> None:
    if i.qualifiers[0] != "sync" or i.qualifiers[2:] != ("b32",):
        refuse(i)
    mask = w.raw(i.operands[4], 4)
    w.line(f'if ({mask} != 0xffffffffu) ptx_fault(t, "a shuffle of a part of a warp", 0, 0, {literal(i.place)});')
    result, _, predicate = i.operands[0].partition("|")
    offered, b, c = (w.raw(v, 4) for v in i.operands[1:4])
    w.line("{ bool valid;")
    call = f"shuffle<{_SHUFFLES[i.qualifiers[1]]}>(t, {offered}, {b}, {c}, &valid, {literal(i.place)})"
    w.assign(result, "b32", call)
    if predicate:
        w.assign(predicate, "pred", "valid")
    w.line("}")


_REDUCTIONS = {"max": "a > b ? a : b", "min": "a < b ? a : b", "add": "a + b"}


@translates("redux")
def _reduce(w: Writer, i: Instruction) -> None:
    how, kind = i.qualifiers[1:]
    mask = i.operands[2]
    if i.qualifiers[0] != "sync" or kind not in ("s32", "u32"):
        refuse(i)
    w.line(f'if ({w.raw(mask, 4)} != 0xffffffffu) ptx_fault(t, "part of a warp", 0, 0, {literal(i.place)});')
    w.line(f"{{ {integer(kind)} reduced = {w.number(i.operands[1], kind)};")
    w.line("const uint32_t own = (uint32_t)reduced;")
    w.line(f"for (int lane = 0; lane < 32; ++lane) {{ const {integer(kind)} a = reduced;")
    w.line(f"const {integer(kind)} b = ptx_shuffle(t, own, lane, {literal(i.place)});")
    start = "lane == 0 ? b : " if how == "add" else ""
    w.line(f"reduced = {start}({_REDUCTIONS[how]}); }}")
    w.assign(i.operands[0], kind, "reduced")
    w.line("}")


@translates("call")
def _call(w: Writer, i: Instruction) -> None:
    only(i, i.qualifiers, "uni")
    operands = list(i.operands)
    results = operands.pop(0) if operands[0].startswith("(") else "()"
    name, given = operands[0], operands[1] if len(operands) > 1 else "()"
    if name not in w.symbols.functions or len(operands) > 2:
        raise Unknown(f"{i.text}: the function is not in the module")
    w.called.add(name)
    places = [f"P_{identifier(p)}" for p in (*split_list(results[1:-1]), *split_list(given[1:-1]))]
    w.line(f"F_{identifier(name)}({', '.join(['t', *places])});")
