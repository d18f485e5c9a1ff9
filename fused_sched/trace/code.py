"""Code that a traced function may have."""

from __future__ import annotations

import dis
import itertools
import re
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from .containers import COPIES

_known: WeakKeyDictionary[CodeType, tuple[CodeType, str]] = WeakKeyDictionary()
_STORES = {
    "STORE_GLOBAL": "assigns to the global variable", "DELETE_GLOBAL": "deletes the global variable",
    "STORE_DEREF": "assigns to", "DELETE_DEREF": "deletes",
}  # fmt: skip
_HANDLERS = ("PUSH_EXC_INFO", "SETUP_FINALLY", "SETUP_WITH")  # the first since Python 3.11
_GENERATORS = 0x2A0  # flags of generators, coroutines, asynchronous generators
# names by which a value leads to what it was made of, or to files; a format may have such names in it
_LEADS_AWAY = re.compile(r"__.*__|(gi|cr|ag|tb)_.*|tofile|dump|format|format_map")
# how a handler begins that an exception of no class of the function's passes: it is named, or raised again
_NAMES_IT = re.compile(r"((LOAD|STORE|DELETE)_(FAST|DEREF|GLOBAL|CONST)\w*|DUP_TOP|BUILD_TUPLE|NOP)")
_ASKS = ("CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH", "RERAISE")


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
    instructions, line = [x for x in dis.get_instructions(code) if x.opname != "EXTENDED_ARG"], code.co_firstlineno
    for before, x in itertools.pairwise((instructions[0], *instructions)):
        name, of = x.opname, x.argval
        line = getattr(x, "line_number", x.starts_line) or line  # the latter before Python 3.13
        of_outer = name.endswith("_DEREF") and of in outer
        why = ""
        if name in _STORES and (of_outer or not name.endswith("_DEREF")):
            why = f"{_STORES[name]} {of!r}{' of an enclosing function' if of_outer else ''} (line {line})"
        elif name == "LOAD_BUILD_CLASS":
            why = f"defines a class (line {line})"
        elif name in ("LOAD_ATTR", "LOAD_METHOD") and _LEADS_AWAY.fullmatch(of):
            why = f"reads .{of} (line {line})"
        elif name == "IS_OP" and not (before.opname == "LOAD_CONST" and before.argval is None):
            why = f"asks by `is` for more than None (line {line}), which cannot be seen of a number"
        elif name.startswith("MATCH_"):
            why = f"matches a pattern (line {line})"
        elif code.co_flags & _GENERATORS and name in _HANDLERS:
            why = f"has a generator with a try or with (line {line}), which may end at any time"
        elif name in (*_HANDLERS, "JUMP_IF_NOT_EXC_MATCH") or before.opname == "CHECK_EXC_MATCH":
            start = x.offset + 1 if name == "PUSH_EXC_INFO" else of
            handler = (y.opname for y in instructions if y.offset >= start)
            if next(y for y in handler if not _NAMES_IT.fullmatch(y)) not in _ASKS:
                why = f"has an except: for everything, a finally: or a with (line {line}), where a trace may not end"
        if why:
            return why
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return next(filter(None, (_problem(c, frozenset(c.co_freevars) & outer) for c in inner)), "")
