"""Code that a traced function may have."""

from __future__ import annotations

import dis
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from .containers import COPIES

_known: WeakKeyDictionary[CodeType, tuple[CodeType, str]] = WeakKeyDictionary()
_STORES = {
    "STORE_GLOBAL": "assigns to the global variable", "DELETE_GLOBAL": "deletes the global variable",
    "STORE_DEREF": "assigns to", "DELETE_DEREF": "deletes", "LOAD_BUILD_CLASS": "defines a class",
}  # fmt: skip
_GENERATORS = 0x2A0  # flags of generators, coroutines, asynchronous generators


def prepared(code: CodeType) -> tuple[CodeType, str]:
    """A copy in which constant sets can be asked for symbolic numbers, and what it does that it may not do."""
    found = _known.get(code)
    if found is None:
        found = _known[code] = _with_copies(code), _problem(code, frozenset(code.co_freevars))
    return found


def is_generator(code: CodeType | None) -> bool:
    """Whether calling it runs nothing yet."""
    return code is not None and bool(code.co_flags & _GENERATORS)


def _with_copies(code: CodeType) -> CodeType:
    def copied(constant: Any) -> Any:
        if isinstance(constant, CodeType):
            return _with_copies(constant)
        return COPIES[frozenset](constant) if isinstance(constant, frozenset) else constant

    return code.replace(co_consts=tuple(map(copied, code.co_consts)))


def _problem(code: CodeType, outer: frozenset[str]) -> str:
    instructions = [*dis.get_instructions(code)]
    for i, instruction in enumerate(instructions):
        name, argument = instruction.opname, instruction.argval
        what = _STORES.get(name)
        if what is not None and (not name.endswith("_DEREF") or argument in outer):
            shown = "" if argument is None else f" {argument!r}"
            shown += " of an enclosing function" if name.endswith("_DEREF") else ""
            return f"{what}{shown} (line {_line(code, instruction)})"
        if name in ("LOAD_ATTR", "LOAD_METHOD") and _is_special(argument):
            return f"reads .{argument} (line {_line(code, instruction)})"
        if name == "IS_OP" and not _is_none(instructions[i - 1]):
            return (
                f"asks by `is` for more than None (line {_line(code, instruction)}), which cannot be seen of a number"
            )
        if name.startswith("MATCH_"):
            return f"matches a pattern (line {_line(code, instruction)})"
        if code.co_flags & _GENERATORS and name in ("PUSH_EXC_INFO", "SETUP_FINALLY", "SETUP_WITH"):
            return f"has a generator with a try or with (line {_line(code, instruction)}), which may end at any time"
        if _is_bare_except(instructions, i):
            return f"has an except: for everything (line {_line(code, instruction)}), which keeps a trace from ending"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _problem(constant, frozenset(constant.co_freevars) & outer)
            if inner:
                return inner
    return ""


def _is_none(instruction: dis.Instruction) -> bool:
    return instruction.opname == "LOAD_CONST" and instruction.argval is None


def _is_special(name: Any) -> bool:
    """Names by which a value leads to what it was made of."""
    return (name.startswith("__") and name.endswith("__")) or name in ("gi_frame", "gi_code")


def _is_bare_except(instructions: list[dis.Instruction], i: int) -> bool:
    following = instructions[i + 1].opname if i + 1 < len(instructions) else ""
    if instructions[i].opname == "PUSH_EXC_INFO":
        return following == "POP_TOP"
    if instructions[i].opname != "SETUP_FINALLY":  # of Python 3.10
        return False
    handler = next((x for x in instructions if x.offset == instructions[i].argval), None)
    return handler is not None and handler.opname == "POP_TOP"


def _line(code: CodeType, instruction: dis.Instruction) -> int:
    line = 0
    for start, end, number in code.co_lines():
        if start <= instruction.offset < end and number is not None:
            line = number
    return line or code.co_firstlineno
