"""Branches, calls, barriers."""

from __future__ import annotations

from .opcodes import translates
from .syntax import Instruction, Unknown, identifier, split_list
from .writer import Writer, literal, only, refuse


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
