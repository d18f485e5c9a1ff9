"""The sandbox: a function rebuilt so that everything it reads from outside passes through :meth:`Sandbox.wrap`.

Numbers pass as they are, containers and objects become read-only stand-ins, Python functions are rebuilt
likewise, and of what is compiled only what is known to be pure can be called.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from .containers import Container, DictView, ListView, Numbers, RangeView, SetView
from .explore import Explorer, Untraceable, current
from .objects import (
    ClassView,
    Foreign,
    FunctionView,
    MethodView,
    ModuleView,
    ObjectView,
    PartialView,
    SuperView,
    real_of,
)
from .symbol import Sym
from .watch import MISSING, Watch

_PLAIN = frozenset((int, float, bool, str, bytes, type(None), type(...), type(NotImplemented), slice, complex))
_OURS = (Sym, Container, FunctionView, MethodView, ModuleView, ObjectView, PartialView, ClassView, Foreign, SuperView)
_C_CALLABLES = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_refused: WeakKeyDictionary[types.CodeType, str] = WeakKeyDictionary()


class Globals(dict[str, Any]):
    """The global variables of a rebuilt function: reads are watched and wrapped."""

    def __init__(self, box: Sandbox, real: dict[str, Any]) -> None:
        super().__init__(__builtins__=box.builtins, __name__=real.get("__name__"))
        self.box, self.real = box, real

    def __getitem__(self, name: str) -> Any:
        try:
            value = self.real[name]
        except KeyError:
            if not hasattr(builtins, name):
                self.box.watch.key(self.real, name, MISSING)
            raise
        return self.box.read_key(self.real, name, value)


class Sandbox:
    """One trace's stand-ins, one for each object, so that ``is`` keeps its meaning."""

    def __init__(self, explorer: Explorer) -> None:
        from .functions import KNOWN, builtins_of

        self.explorer, self.watch = explorer, Watch()
        self.known = KNOWN
        self._views: dict[int, tuple[Any, Any]] = {}
        self._globals: dict[int, Globals] = {}
        self.overrides: dict[tuple[int, str], Any] = {}  # (id of an object, attribute) -> what reading it gives
        self.builtins: dict[str, Any] = {}
        self.builtins.update(builtins_of(self))

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: Any) -> None:
        """Let go of all that was wrapped: the stand-ins have the sandbox."""
        for _, view in self._views.values():
            if type(view) is FunctionView:
                view.forget()  # a function that calls itself has itself
        for known in (self._views, self._globals, self.overrides, self.builtins):
            known.clear()

    def wrap(self, value: Any) -> Any:
        """What the traced function gets for a value from outside."""
        kind = type(value)
        if kind in _PLAIN:
            if kind is int or kind is float:
                self.note(value)
            return value
        if isinstance(value, _OURS) or kind in _OURS:
            return value
        found = self._views.get(id(value))
        if found is None:
            found = self._views[id(value)] = (value, self._view(value, kind))
        return found[1]

    def note(self, value: float) -> None:
        """A number worth checking around."""
        if value == value and abs(value) < 2.0**53:
            self.explorer.constants.add(float(value))

    def read_key(self, mapping: Mapping[str, Any], key: str, value: Any) -> Any:
        """A variable or attribute that may be assigned anew."""
        self.watch.key(mapping, key, value)
        return self.wrap(value)

    def _view(self, value: Any, kind: type) -> Any:
        if isinstance(value, types.FunctionType):
            return value if isinstance(value.__globals__, Globals) else FunctionView(self, value)
        if isinstance(value, types.ModuleType):
            return ModuleView(self, value)
        try:
            replacement = self.known.get(value)
        except TypeError:
            replacement = None
        if replacement is not None:
            return replacement
        if isinstance(value, type):
            return value if issubclass(value, BaseException) else ClassView(self, value)
        if isinstance(value, functools.partial):
            self.watch.attribute(value, "func", value.func)
            self.watch.copy(value.keywords, dict(value.keywords))
            return PartialView(self, value)
        if isinstance(value, types.MethodType):
            return MethodView(self, self.wrap(value.__func__), self.wrap(value.__self__))
        if isinstance(value, (staticmethod, classmethod)) or kind is functools._lru_cache_wrapper:
            return self.wrap(value.__wrapped__)
        if isinstance(value, _C_CALLABLES) or kind.__name__ in ("ufunc", "_ArrayFunctionDispatcher"):
            return Foreign(self, value)
        return self._view_of_data(value, kind)

    def _view_of_data(self, value: Any, kind: type) -> Any:
        if kind.__module__ == "numpy" and hasattr(value, "dtype"):
            if getattr(value, "shape", None) == ():
                return value
            if len(value.shape) == 1:
                self.watch.array(value)
                return ListView(self, value)
            raise current().stop("it reads an array of more than one dimension")
        if isinstance(value, enum.Enum) and isinstance(value, (str, int)):
            return value
        if kind is tuple or (isinstance(value, tuple) and kind.__mro__[1] is tuple and hasattr(kind, "_fields")):
            return tuple.__new__(Numbers if kind is tuple else kind, [self.wrap(x) for x in value])
        for base, view in ((list, ListView), (dict, DictView), (set, SetView), (frozenset, SetView)):
            if isinstance(value, base) and not _has_python_methods(kind, base):
                self.watch.copy(value, base(value) if kind is not frozenset else value)
                return view(self, value)
        if isinstance(value, range):
            return RangeView(self, value)
        if isinstance(value, types.MappingProxyType):
            return DictView(self, value)
        for number in (int, float, str):
            if isinstance(value, number) and not _has_python_methods(kind, number):
                return number(value)
        if callable(value) and not isinstance(kind.__call__, types.FunctionType):
            return Foreign(self, value)  # compiled by other means than CPython's own
        return ObjectView(self, value)

    # -- functions ---------------------------------------------------------------------------------------------

    def rebuild(self, function: types.FunctionType) -> types.FunctionType:
        """The same code over wrapped globals, closure and defaults.

        Raises:
            Stop: the function assigns to a variable that outlives the call.
        """
        code, numbers = _prepare(function.__code__, self)
        self.explorer.constants |= numbers
        problem = _side_effect(function.__code__)
        if problem:
            raise current().stop(f"{function.__qualname__} {problem}")
        variables = self._globals.get(id(function.__globals__))
        if variables is None:
            variables = self._globals[id(function.__globals__)] = Globals(self, function.__globals__)
        cells = []
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                cells.append(types.CellType())
            else:
                self.watch.cell(cell, value)
                cells.append(types.CellType(self.wrap(value)))
        defaults = None if function.__defaults__ is None else tuple(self.wrap(x) for x in function.__defaults__)
        made = types.FunctionType(code, variables, function.__name__, defaults, tuple(cells))
        if function.__kwdefaults__:
            self.watch.copy(function.__kwdefaults__, dict(function.__kwdefaults__))
            made.__kwdefaults__ = {k: self.wrap(v) for k, v in function.__kwdefaults__.items()}
        self.watch.attribute(function, "__code__", function.__code__)
        if defaults:
            self.watch.attribute(function, "__defaults__", function.__defaults__)
        return made

    def bind(self, value: Any, name: str, instance: Any, owner: Any) -> Any:
        """What attribute lookup makes of a value found in a class."""
        if isinstance(value, types.FunctionType):
            return MethodView(self, self.wrap(value), instance)
        if type(value) is functools._lru_cache_wrapper:
            return MethodView(self, self.wrap(value.__wrapped__), instance)
        if isinstance(value, staticmethod):
            return self.wrap(value.__func__)
        if isinstance(value, classmethod):
            return MethodView(self, self.wrap(value.__func__), owner)
        if isinstance(value, property):
            if value.fget is None:
                raise AttributeError(f"property {name!r} has no getter")
            return self.wrap(value.fget)(instance)
        if isinstance(value, types.MemberDescriptorType):
            real = real_of(instance)
            found = value.__get__(real)
            self.watch.slot(real, name, value.__get__, found)
            return self.wrap(found)
        if hasattr(type(value), "__get__") and not isinstance(value, type):
            raise current().stop(f"it reads {name!r}, a {type(value).__name__}, which computes in ways not known here")
        return self.wrap(value)


def _has_python_methods(kind: type, base: type) -> bool:
    mro = kind.__mro__[: kind.__mro__.index(base)]
    return any(
        isinstance(v, (types.FunctionType, property))
        for c in mro
        if c.__module__ not in ("collections", "enum", "typing")
        for v in vars(c).values()
    )


def _prepare(code: types.CodeType, box: Sandbox) -> tuple[types.CodeType, frozenset[float]]:
    """A copy of the code in which constant sets can be asked for symbolic numbers, and its numbers."""
    numbers: set[float] = set()
    constants: list[Any] = []
    for constant in code.co_consts:
        numbers.update(_numbers_in(constant))
        if isinstance(constant, types.CodeType):
            constant, inner = _prepare(constant, box)
            numbers |= inner
        elif isinstance(constant, frozenset):
            constant = SetView(box, constant)
        constants.append(constant)
    return code.replace(co_consts=tuple(constants)), frozenset(numbers)


def _numbers_in(constant: Any) -> Iterator[float]:
    if type(constant) in (int, float) and abs(constant) < 2.0**53:
        yield float(constant)
    elif isinstance(constant, (tuple, frozenset)):
        for part in constant:
            yield from _numbers_in(part)


def _side_effect(code: types.CodeType) -> str:
    found = _refused.get(code)
    if found is None:
        found = _refused[code] = _find_side_effect(code, frozenset(code.co_freevars))
    return found


def _find_side_effect(code: types.CodeType, outer: frozenset[str]) -> str:
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            return f"assigns to the global variable {instruction.argval!r} (line {_line(code, instruction)})"
        if name in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in outer:
            return f"assigns to {instruction.argval!r} of an enclosing function (line {_line(code, instruction)})"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _find_side_effect(constant, frozenset(constant.co_freevars) & outer)
            if inner:
                return inner
    return ""


def _line(code: types.CodeType, instruction: dis.Instruction) -> int:
    line = 0
    for start, end, number in code.co_lines():
        if start <= instruction.offset < end and number is not None:
            line = number
    return line or code.co_firstlineno


def refuse_unfit(function: Any) -> None:
    """Generators and coroutines return no number.

    Raises:
        Untraceable: it is one.
    """
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & 0x2A0:  # generator, coroutine, asynchronous generator
        raise Untraceable("it is a generator or coroutine, which returns no number")
