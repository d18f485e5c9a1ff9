"""The closed list of what a traced function may touch: :meth:`Sandbox.wrap`, and nothing else, lets a value in.

A function is rebuilt so that all that it reads from outside passes through ``wrap``:

- int, float, bool, str, bytes, None, and numpy's float64 pass as they are;
- lists, tuples, dicts, sets and frozensets are copied, and watched element by element;
- Python functions, methods and partials are rebuilt likewise; of what is compiled, ``CALLS`` names what has a rule;
- of modules, classes and objects, attributes are read as long as reading them runs no code, and watched.

Everything else may be named; using it ends the trace. So does every write to what outlives the call.
"""

from __future__ import annotations

import builtins
import dis
import functools
import itertools
import re
import sys
import types
from abc import ABCMeta
from collections.abc import Callable
from types import CodeType
from typing import Any

from .builtin import COPIES, copy_of
from .mathematics import CALLS
from .outside import HEAP_TYPE, MISSING, StandIn, Watch, is_a, real_of, shown
from .paths import Guarded, current, traced_frames
from .symbol import is_numpy

_SIMPLE = frozenset((int, float, bool, str, bytes, type(None), type(...), type(NotImplemented)))
_ERRORS = {id(x) for x in vars(builtins).values() if type(x) is type and issubclass(x, Exception)}
_BUILTINS = {
    name: x for name, x in vars(builtins).items()
    if (is_a(x, types.BuiltinFunctionType, type) and x in (*CALLS, object, type, super)) or id(x) in _ERRORS
}  # fmt: skip
_BY_IDENTITY: Any = object.__hash__
_PLAIN_LOOKUPS: tuple[Any, ...] = (object.__getattribute__, types.SimpleNamespace.__getattribute__)
_OTHERS_IN_A_STEP = ("_get_lr_called_within_step", "_is_initial")  # torch's scheduler has others while it steps


class Globals(dict[str, Any]):
    """The global variables of a rebuilt function: reads are watched and wrapped."""

    def __init__(self, box: Sandbox, real: dict[str, Any]) -> None:
        super().__init__(__builtins__=box.builtins, __name__=real.get("__name__"))
        self.box, self.real = box, real

    def __getitem__(self, name: str) -> Any:
        value = self.box.watch.variable(self.real, name)
        if value is MISSING:
            known = self.box.watch.variable(vars(builtins), name)
            if known is not MISSING and name not in self.box.builtins:
                raise current().stop(f"it uses {name}, which is compiled and may do anything")
            raise KeyError(name)
        return self.box.wrap(value)


class Sandbox:
    """One trace's stand-ins, one for each object, so that ``is`` keeps its meaning."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._made: dict[tuple[str, int], tuple[Any, Any]] = {}  # by the id of what is kept beside it
        self.overrides: dict[tuple[int, str], Any] = {}  # (id of an object, attribute) -> what reading it gives
        self.refused: dict[tuple[int, str], str] = {}  # likewise -> why it may not be read
        self.builtins: dict[str, Any] = {
            **{name: self.wrap(real) for name, real in _BUILTINS.items()}, "super": StandIn(super, self._super),
            "__import__": StandIn(__import__, self._import), "NotImplemented": NotImplemented, "Ellipsis": ...,
        }  # fmt: skip

    def close(self) -> None:
        """Let go of all that was wrapped: the stand-ins have the sandbox."""
        for known in (self._made, self.overrides, self.refused, self.builtins):
            known.clear()

    def wrap(self, value: Any) -> Any:
        """What the traced function gets for a value from outside."""
        kind = type(value)
        if kind in _SIMPLE or id(value) in _ERRORS or issubclass(kind, Guarded) or is_numpy(kind):
            return value
        return self._once("stand-in", value, self._stand_in)

    def _once(self, what: str, value: Any, make: Callable[[Any], Any]) -> Any:
        if (what, id(value)) not in self._made:
            self._made[what, id(value)] = value, make(value)
        return self._made[what, id(value)][1]

    def _stand_in(self, value: Any) -> Any:
        kind = type(value)
        if kind is types.FunctionType:
            run = lambda *arguments, **named: self._once("function", value, self._rebuilt)(*arguments, **named)  # noqa: E731
            return value if type(value.__globals__) is Globals else StandIn(value, run)
        if kind is types.MethodType:
            return StandIn(value, functools.partial(self.wrap(value.__func__), self.wrap(value.__self__)))
        if kind is functools.partial:
            function, given, keywords = (self.watch.part(value, part) for part in ("func", "args", "keywords"))
            self.watch.elements(keywords)
            named = {k: self.wrap(v) for k, v in keywords.items()}
            return StandIn(value, functools.partial(self.wrap(function), *map(self.wrap, given), **named))
        if kind in COPIES:
            self.watch.elements(value)
            return copy_of(value, self.wrap)
        # of what is compiled, or numpy's, which is hashed: no code of the user's runs
        known = kind.__module__ == "numpy" and kind.__hash__ is _BY_IDENTITY and not is_a(value, type)
        if (known or is_a(value, types.BuiltinFunctionType, types.MethodDescriptorType)) and value in CALLS:
            return StandIn(value, CALLS[value])
        return StandIn(value, functools.partial(self._call, value), functools.partial(self._read, value))

    def _call(self, real: Any, /, *arguments: Any, **named: Any) -> Any:
        """What calling an object or a class does."""
        if is_a(real, type):
            if type(real) is type and real in CALLS:
                return CALLS[real](*arguments, **named)
            raise current().stop(f"it makes an object of {shown(real)}")
        method = self.watch.of_class(real, "__call__")
        if type(type(real)) not in (type, ABCMeta) or type(method) is not types.FunctionType:
            raise current().stop(f"it calls {shown(real)}, which is compiled and may do anything")
        return self.wrap(method)(self.wrap(real), *arguments, **named)

    def _read(self, real: Any, name: str, after: type | None = None) -> Any:
        """``real.name``, where reading it runs no code; from the classes after ``after``, as super() does.

        Wherever Python finds it, nothing that goes before may appear.
        """
        if (id(real), name) in self.overrides:
            return self.overrides[id(real), name]
        if (id(real), name) in self.refused:
            raise current().stop(self.refused[id(real), name])
        watch, kind, is_class = self.watch, self.watch.kind(real), is_a(real, type)
        value = watch.variable(real.__dict__, name) if kind is types.ModuleType else MISSING
        if value is not MISSING and not name.startswith("__"):
            return self.wrap(value)
        lookup = watch.in_class(kind, "__getattribute__")
        plain = kind in (type, ABCMeta) if is_class else lookup in _PLAIN_LOOKUPS
        if not plain or name.startswith("__") or name in _OTHERS_IN_A_STEP:
            raise current().stop(f"it reads .{name} of {shown(real)}, which may be computed")
        owner = real if is_class else kind
        value = watch.in_class(owner, name, after)
        slot = value if type(value) is types.MemberDescriptorType else None
        data = slot is None and (hasattr(type(value), "__set__") or hasattr(type(value), "__delete__"))
        if not is_class and after is None and not data:
            own = watch.own(real, name, slot)
            if own is not MISSING:
                return self.wrap(own)
            value = MISSING if slot else value
        if value is not MISSING:
            return self._bind(value, name, real, owner)
        if is_class or watch.in_class(kind, "__getattr__") is not MISSING:
            raise current().stop(f"it reads .{name} of {shown(real)}, whose class has a say in it")
        raise AttributeError(f"{shown(real)} has no attribute {name!r}")

    def _bind(self, value: Any, name: str, real: Any, owner: type) -> Any:
        """What attribute lookup makes of a value found in a class."""
        if type(value) is types.FunctionType and real is not owner:
            return StandIn(value, functools.partial(self.wrap(value), self.wrap(real)))
        if type(value) is staticmethod:
            return self.wrap(value.__func__)
        if type(value) is classmethod:
            return StandIn(value, functools.partial(self.wrap(value.__func__), self.wrap(owner)))
        kind = self.watch.kind(value) if type(value).__flags__ & HEAP_TYPE else type(value)
        if self.watch.in_class(kind, "__get__") is not MISSING and not is_a(value, type, types.FunctionType):
            said = self.watch.in_class(kind, "_said")
            what = said if type(said) is str else f"a {kind.__name__}"
            advice = ": a method that does so can be traced" if kind is property else ""
            raise current().stop(f"it reads {name!r}, {what} of {shown(owner)}, which computes it{advice}")
        return self.wrap(value)

    def _super(self, *arguments: Any) -> Any:
        if not arguments:
            frame = traced_frames()[0]
            if "__class__" not in frame.f_locals:
                raise current().stop("super() outside of a method")
            arguments = frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]]
        start, real = map(real_of, arguments)
        if not is_a(arguments[1], StandIn) or not is_a(start, type) or not is_a(real, start):
            raise current().stop("super() of what is no object from outside")
        return StandIn(super(start, real), None, functools.partial(self._read, real, after=start))

    def _import(self, name: str, variables: Any = None, local: Any = None, names: Any = (), level: int = 0) -> Any:
        if level or name not in sys.modules or any(f"{name}.{part}" in sys.modules for part in names or ()):
            raise current().stop(f"it imports {name}, which is not imported yet, or relative, or has modules")
        return self.wrap(self.watch.variable(sys.modules, name if names else name.partition(".")[0]))

    def _rebuilt(self, function: types.FunctionType) -> types.FunctionType:
        """The same code over wrapped globals, closure and defaults, if it has nothing that it may not have."""
        code, problem = _prepared(function.__code__)
        known: Any = function
        if type(function.__globals__) is not dict or known.__builtins__ is not vars(builtins):
            problem = "has global variables or builtins of its own kind"
        if problem:
            raise current().stop(f"{function.__qualname__} {problem}")
        variables = self._once("globals", function.__globals__, functools.partial(Globals, self))
        self.watch.part(function, "__code__")
        cells = (types.CellType(self.wrap(self.watch.part(c, "cell_contents"))) for c in function.__closure__ or ())
        defaults = tuple(map(self.wrap, self.watch.part(function, "__defaults__") or ())) or None
        made = types.FunctionType(code, variables, function.__name__, defaults, tuple(cells))
        keywords = self.watch.part(function, "__kwdefaults__")
        if keywords:
            self.watch.elements(keywords)
            made.__kwdefaults__ = {k: self.wrap(v) for k, v in keywords.items()}
        return made


# -- code that a traced function may have ------------------------------------------------------------------

_REFUSED = {
    "STORE_GLOBAL": "assigns to the global variable", "DELETE_GLOBAL": "deletes the global variable",
    **dict.fromkeys(("DELETE_FAST", "DELETE_DEREF"), "has an except ... as, or deletes"),
    "LOAD_BUILD_CLASS": "defines a class",
    **dict.fromkeys(("MATCH_CLASS", "MATCH_KEYS", "MATCH_MAPPING", "MATCH_SEQUENCE"), "matches a pattern"),
}  # fmt: skip
_HANDLERS = ("PUSH_EXC_INFO", "SETUP_FINALLY", "SETUP_WITH")  # the first since Python 3.11
_GENERATORS = 0x2A0  # flags of generators, coroutines, asynchronous generators
# names by which a value leads to what it was made of, or to files; a format may have such names in it
_LEADS_AWAY = re.compile(r"__.*__|(gi|cr|ag|tb)_.*|tofile|dump|format|format_map")
# how a handler begins that an exception of no class of the function's passes: it is named, or raised again
_NAMES_IT = re.compile(r"((LOAD|STORE|DELETE)_(FAST|DEREF|GLOBAL|CONST)\w*|DUP_TOP|BUILD_TUPLE|NOP)")
_ASKS = ("CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH", "RERAISE")


@functools.lru_cache(256)
def _prepared(code: CodeType) -> tuple[CodeType, str]:
    """A copy in which constant sets can be asked for symbolic numbers, and what it does that it may not do."""
    return _with_copies(code), _problem(code, frozenset(code.co_freevars))


def _with_copies(code: CodeType) -> CodeType:
    copy = {CodeType: _with_copies, frozenset: COPIES[frozenset]}
    return code.replace(co_consts=tuple(copy.get(type(x), lambda same: same)(x) for x in code.co_consts))


def _is_harmless(before: dis.Instruction) -> bool:
    """Whether an `is` after this asks for None, or is Python's own: from 3.14 on, `any(... for ...)` asks for `any`."""
    return (before.opname == "LOAD_CONST" and before.argval is None) or before.opname == "LOAD_COMMON_CONSTANT"


def _problem(code: CodeType, outer: frozenset[str]) -> str:
    instructions, line = [x for x in dis.get_instructions(code) if x.opname != "EXTENDED_ARG"], code.co_firstlineno
    for before, x in itertools.pairwise((instructions[0], *instructions)):
        name, of, why = x.opname, x.argval, ""
        line = getattr(x, "line_number", x.starts_line) or line  # the latter before Python 3.13
        if name in _REFUSED:
            why = f"{_REFUSED[name]} {of!r}" if isinstance(of, str) else _REFUSED[name]
        elif name == "STORE_DEREF" and of in outer:
            why = f"assigns to {of!r} of an enclosing function"
        elif name in ("LOAD_ATTR", "LOAD_METHOD") and _LEADS_AWAY.fullmatch(of):
            why = f"reads .{of}"
        elif name == "IS_OP" and not _is_harmless(before):
            why = "asks by `is` for more than None, which cannot be seen of a number"
        elif code.co_flags & _GENERATORS and name in _HANDLERS:
            why = "has a generator with a try or with, which may end at any time"
        elif name in (*_HANDLERS, "JUMP_IF_NOT_EXC_MATCH") or before.opname == "CHECK_EXC_MATCH":
            start = x.offset + 1 if name == "PUSH_EXC_INFO" else of
            handler = (y.opname for y in instructions if y.offset >= start)
            if next(y for y in handler if not _NAMES_IT.fullmatch(y)) not in _ASKS:
                why = "has an except: for everything, a finally: or a with, where a trace may not end"
        if why:
            return f"{why} (line {line})"
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return next(filter(None, (_problem(c, frozenset(c.co_freevars) & outer) for c in inner)), "")
