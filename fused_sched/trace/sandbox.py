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
import functools
import types
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

from . import builtin_functions
from .code import prepared
from .containers import COPIES, copy_of
from .mathematics import CALLS
from .paths import Guarded, current, error
from .symbol import is_numpy_float
from .views import Call, View, real_of, shown
from .watch import HEAP_TYPE, MISSING, PLAIN_LOOKUPS, Watch, in_classes, is_a, name_of

_SIMPLE = frozenset((int, float, bool, str, bytes, type(None), type(...), type(NotImplemented)))
_ERRORS = {id(x) for x in vars(builtins).values() if type(x) is type and issubclass(x, Exception)}
_BY_IDENTITY: Any = object.__hash__
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
        self._views: dict[int, tuple[Any, Any]] = {}
        self._globals: dict[int, Globals] = {}
        self._rebuilt: dict[int, types.FunctionType] = {}
        self.overrides: dict[tuple[int, str], Any] = {}  # (id of an object, attribute) -> what reading it gives
        self.builtins: dict[str, Any] = builtin_functions.table(self)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: Any) -> None:
        """Let go of all that was wrapped: the stand-ins have the sandbox."""
        for known in (self._views, self._globals, self._rebuilt, self.overrides, self.builtins):
            known.clear()

    def wrap(self, value: Any) -> Any:
        """What the traced function gets for a value from outside."""
        kind = type(value)
        if kind in _SIMPLE or id(value) in _ERRORS or issubclass(kind, Guarded) or is_numpy_float(kind):
            return value
        found = self._views.get(id(value))
        if found is None:
            found = self._views[id(value)] = (value, self._stand_in(value, kind))
        return found[1]

    def _stand_in(self, value: Any, kind: type) -> Any:
        if kind is types.FunctionType:
            return value if type(value.__globals__) is Globals else Call(value, functools.partial(self._run, value))
        if kind is types.MethodType:
            return Call(value, functools.partial(self.wrap(value.__func__), self.wrap(value.__self__)))
        if kind is functools.partial:
            function, given, keywords = (self.watch.part(value, part) for part in ("func", "args", "keywords"))
            self.watch.elements(keywords)
            named = {k: self.wrap(v) for k, v in keywords.items()}
            return Call(value, functools.partial(self.wrap(function), *map(self.wrap, given), **named))
        if kind in COPIES:
            self.watch.elements(value)
            return copy_of(value, self.wrap)
        # of what is compiled, or numpy's, which is hashed: no code of the user's runs
        known = kind.__module__ == "numpy" and kind.__hash__ is _BY_IDENTITY and not is_a(value, type)
        if known or is_a(value, types.BuiltinFunctionType, types.MethodDescriptorType):
            return Call(value, CALLS[value]) if value in CALLS else View(self, value)
        return View(self, value)

    def call(self, view: View, real: Any) -> Callable[..., Any]:
        """What calling an object or a class does."""
        if is_a(real, type):
            if type(real) is type and real in CALLS:
                return CALLS[real]
            raise current().stop(f"it makes an object of {name_of(real)}")
        method = self.watch.of_class(real, "__call__")
        if type(type(real)) not in (type, ABCMeta) or type(method) is not types.FunctionType:
            raise current().stop(f"it calls {shown(real)}, which is compiled and may do anything")
        if self.watch.of_class(real, "__getattribute__") not in PLAIN_LOOKUPS:
            raise current().stop(f"it calls {shown(real)}, which defines __getattribute__")
        return functools.partial(self.wrap(method), view)

    def read(self, view: View, name: str, after: type | None = None) -> Any:
        """``view.name``, where reading it runs no code; from the classes after ``after``, as super() does.

        Wherever Python finds it, nothing that goes before may appear.
        """
        real, watch = real_of(view), self.watch
        if (id(real), name) in self.overrides:
            return self.overrides[id(real), name]
        kind = watch.kind(real)
        if name.startswith("__") or name in _OTHERS_IN_A_STEP:
            why = ""
        elif kind is types.ModuleType:
            value = watch.variable(real.__dict__, name)
            if value is not MISSING:
                return self.wrap(value)
            why = ", which does not have it"
        elif is_a(real, type):
            value = watch.in_class(real, name)
            if kind in (type, ABCMeta) and value is not MISSING:
                return self._bind(value, name, view, real)
            why = ", which its metaclass has a say in"
        elif watch.in_class(kind, "__getattribute__") not in PLAIN_LOOKUPS:
            why = ", which defines __getattribute__"
        else:
            return self._of_object(view, real, name, after)
        raise current().stop(f"it reads .{name} of {shown(real)}{why}")

    def _of_object(self, view: View, real: Any, name: str, after: type | None) -> Any:
        kind, watch = type(real), self.watch
        value = watch.in_class(kind, name, after)
        if after is None:
            slot = value if type(value) is types.MemberDescriptorType else None
            if slot is None and (hasattr(type(value), "__set__") or hasattr(type(value), "__delete__")):
                return self._bind(value, name, view, kind)
            own = watch.own(real, name, slot)
            if own is not MISSING:
                return self.wrap(own)
            value = MISSING if slot else value
        if value is not MISSING:
            return self._bind(value, name, view, kind)
        if watch.in_class(kind, "__getattr__") is not MISSING:
            raise current().stop(f"it reads .{name} of {shown(real)}, which defines __getattr__")
        raise error(AttributeError, f"{shown(real)} has no attribute {name!r}")

    def _bind(self, value: Any, name: str, view: Any, owner: type) -> Any:
        """What attribute lookup makes of a value found in a class."""
        if type(value) is types.FunctionType:
            made = self.wrap(value)
            return made if real_of(view) is owner else Call(value, functools.partial(made, view))
        if type(value) is staticmethod:
            return self.wrap(value.__func__)
        if type(value) is classmethod:
            return Call(value, functools.partial(self.wrap(value.__func__), self.wrap(owner)))
        if type(value).__flags__ & HEAP_TYPE:
            self.watch.of_class(value, "__get__")
        if in_classes(type(value).__mro__, "__get__") is not MISSING and not is_a(value, type):
            raise current().stop(f"it reads {name!r}, a {type(value).__name__} of {name_of(owner)}, which computes it")
        return self.wrap(value)

    def _run(self, function: types.FunctionType, /, *arguments: Any, **named: Any) -> Any:
        if id(function) not in self._rebuilt:
            self._rebuilt[id(function)] = self._rebuild(function)
        return self._rebuilt[id(function)](*arguments, **named)

    def _rebuild(self, function: types.FunctionType) -> types.FunctionType:
        """The same code over wrapped globals, closure and defaults.

        Raises:
            Stop: the code has what a traced function may not have.
        """
        code, problem = prepared(function.__code__)
        known: Any = function
        if type(function.__globals__) is not dict or known.__builtins__ is not vars(builtins):
            problem = "has global variables or builtins of its own kind"
        if problem:
            raise current().stop(f"{function.__qualname__} {problem}")
        variables = self._globals.get(id(function.__globals__))
        if variables is None:
            variables = self._globals[id(function.__globals__)] = Globals(self, function.__globals__)
        self.watch.part(function, "__code__")
        cells = tuple(map(self._cell, function.__closure__ or ()))
        defaults = tuple(map(self.wrap, self.watch.part(function, "__defaults__") or ())) or None
        made = types.FunctionType(code, variables, function.__name__, defaults, cells)
        keywords = self.watch.part(function, "__kwdefaults__")
        if keywords:
            self.watch.elements(keywords)
            made.__kwdefaults__ = {k: self.wrap(v) for k, v in keywords.items()}
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            return types.CellType(self.wrap(self.watch.part(cell, "cell_contents")))
        except ValueError:
            raise current().stop("it reads a variable of an enclosing function that has no value yet") from None
