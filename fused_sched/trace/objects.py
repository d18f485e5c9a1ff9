"""Stand-ins for functions, classes, modules and objects from outside of a traced function."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .explore import current
from .symbol import Sym
from .watch import MISSING

if TYPE_CHECKING:
    from .sandbox import Sandbox


def name_of(value: Any) -> str:
    """How a callable is called in messages."""
    module = getattr(value, "__module__", None) or ""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__name__
    return f"{module}.{name}" if module and module != "builtins" else str(name)


class FunctionView:
    """A Python function: calling it runs the rebuilt one."""

    def __init__(self, box: Sandbox, real: types.FunctionType) -> None:
        self.__dict__.update(_box=box, _real=real, _made=None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._made is None:
            self.__dict__["_made"] = self._box.rebuild(self._real)
        return self._made(*arguments, **named)

    def forget(self) -> None:
        """Let go of the rebuilt function."""
        self.__dict__["_made"] = None

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodView(self._box, self, instance)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if name in self._real.__dict__:
            return self._box.read_key(self._real.__dict__, name, value)
        return self._box.wrap(value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise current().stop(f"it assigns to {name_of(self._real)}.{name}")


class MethodView:
    """A function bound to an object."""

    def __init__(self, box: Sandbox, function: Any, instance: Any) -> None:
        self.__func__, self.__self__ = function, instance

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.__func__(self.__self__, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)


class PartialView:
    """A functools.partial."""

    func: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def __init__(self, box: Sandbox, real: Any) -> None:
        self.__dict__["_real"] = real
        self.__dict__["func"] = box.wrap(real.func)
        self.__dict__["args"] = tuple(box.wrap(x) for x in real.args)
        self.__dict__["keywords"] = {k: box.wrap(v) for k, v in real.keywords.items()}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.func(*self.args, *arguments, **{**self.keywords, **named})

    def __setattr__(self, name: str, value: Any) -> None:
        raise current().stop(f"it assigns to .{name} of a functools.partial")


class Foreign:
    """Something compiled that is not known to be pure: naming it is harmless, calling it is not."""

    def __init__(self, box: Sandbox | None, real: Any) -> None:
        self._real = real

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise current().stop(f"it calls {name_of(self._real)}, which is compiled and may do anything")

    def __getattr__(self, name: str) -> Any:
        raise current().stop(f"it uses .{name} of {name_of(self._real)}")


class ModuleView:
    """A module; its variables wrap when they are read."""

    def __init__(self, box: Sandbox, real: types.ModuleType) -> None:
        self.__dict__.update(_box=box, _real=real)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if self._real.__name__.partition(".")[0] in ("math", "numpy", "operator", "functools", "bisect", "itertools"):
            return self._box.wrap(value)
        return self._box.read_key(self._real.__dict__, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise current().stop(f"it assigns to {self._real.__name__}.{name}")

    __delattr__ = __setattr__  # type: ignore[assignment]


class ClassView:
    """A class: for isinstance(), ``is`` and its attributes; ``call`` if making objects of it is known."""

    def __init__(self, box: Sandbox, real: type, call: Callable[..., Any] | None = None) -> None:
        self.__dict__.update(_box=box, _real=real, _call=call)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._call is None:
            raise current().stop(f"it makes an object of {name_of(self._real)}")
        return self._call(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__", "__doc__"):
            return getattr(self._real, name)
        found = _in_class(self._real.__mro__, name)
        if found is None:
            if issubclass(type(self._real), enum.EnumMeta) and name in self._real.__members__:
                return self._box.wrap(self._real.__members__[name])
            raise AttributeError(f"type object {self._real.__name__!r} has no attribute {name!r}")
        owner, value = found
        self._box.watch.key(owner.__dict__, name, value)
        if isinstance(value, (types.FunctionType, property)):
            return self._box.wrap(value)
        if isinstance(value, enum.Enum) or issubclass(type(self._real), enum.EnumMeta):
            return self._box.wrap(getattr(self._real, name))
        return self._box.bind(value, name, self, self)

    def __setattr__(self, name: str, value: Any) -> None:
        raise current().stop(f"it assigns to {name_of(self._real)}.{name}")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __getitem__(self, item: Any) -> Any:  # list[float] in an annotation
        if issubclass(type(self._real), enum.EnumMeta):
            return self._box.wrap(self._real[item])
        return self

    def __iter__(self) -> Iterator[Any]:
        if issubclass(type(self._real), enum.EnumMeta):
            return iter([self._box.wrap(x) for x in self._real])
        raise TypeError(f"{self._real.__name__!r} object is not iterable")

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__


def _in_class(mro: Any, name: str) -> tuple[type, Any] | None:
    for owner in mro:
        value = owner.__dict__.get(name, MISSING)
        if value is not MISSING:
            return owner, value
    return None


class ObjectView:
    """Any other object: attributes are looked up as Python does, with methods and properties traced."""

    __slots__ = ("_fused_box", "_fused_real")

    def __init__(self, box: Sandbox, real: Any) -> None:
        object.__setattr__(self, "_fused_box", box)
        object.__setattr__(self, "_fused_real", real)

    def __getattribute__(self, name: str) -> Any:
        return read(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise current().stop(f"it assigns to .{name} of a {name_of(type(real_of(self)))}")

    def __delattr__(self, name: str) -> None:
        raise current().stop(f"it deletes .{name} of a {name_of(type(real_of(self)))}")

    def __bool__(self) -> bool:
        for name in ("__bool__", "__len__"):
            if _in_class(type(real_of(self)).__mro__, name) is not None:
                return bool(_special(self, name))
        return True

    def __hash__(self) -> int:
        return id(real_of(self))

    def __eq__(self, other: Any) -> Any:
        default: Any = object.__eq__
        if type(real_of(self)).__eq__ is default or isinstance(real_of(self), enum.Enum):
            return self is other
        return _special(self, "__eq__", other)

    def __ne__(self, other: Any) -> Any:
        return not self == other


_BOX, _REAL = ObjectView._fused_box.__get__, ObjectView._fused_real.__get__  # type: ignore[attr-defined]


def real_of(view: Any) -> Any:
    """The object behind a stand-in; other values are themselves."""
    if type(view) is ObjectView:
        return _REAL(view)
    if type(view) in (FunctionView, ClassView, ModuleView, PartialView, Foreign):
        return view.__dict__["_real"]
    return object.__getattribute__(view, "_real") if hasattr(type(view), "_noun") else view


def read(view: Any, name: str, start: type | None = None) -> Any:
    """``view.name``; with ``start``, as super() does: from the classes after it."""
    box, real = _BOX(view), _REAL(view)
    override = box.overrides.get((id(real), name), MISSING)
    if override is not MISSING:
        return override
    kind = type(real)
    if name == "__class__":
        return box.wrap(kind)
    if isinstance(kind.__getattribute__, types.FunctionType):
        raise current().stop(f"it reads .{name} of a {name_of(kind)}, which defines __getattribute__")
    mro = kind.__mro__
    found = _in_class(mro if start is None else mro[mro.index(start) + 1 :], name)
    # as in Python, one that also sets or deletes goes before the object's own dict
    data = found is not None and (hasattr(type(found[1]), "__set__") or hasattr(type(found[1]), "__delete__"))
    if not data and start is None:
        try:
            own = object.__getattribute__(real, "__dict__")
        except AttributeError:
            own = {}
        if isinstance(real, enum.Enum) and name in ("value", "name"):
            name = f"_{name}_"
        if name in own:
            box.watch.attribute(real, name, own[name])  # it goes before what the class has
            return box.wrap(own[name])
        box.watch.has_none(real, name)
    if found is not None:
        owner, value = found
        box.watch.key(owner.__dict__, name, value)
        return box.bind(value, name, view, box.wrap(kind))
    fallback = _in_class(mro, "__getattr__")
    if fallback is not None and isinstance(fallback[1], types.FunctionType):
        return box.wrap(fallback[1])(view, name)
    raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")


def _special(view: Any, name: str, *arguments: Any, **named: Any) -> Any:
    real = _REAL(view)
    found = _in_class(type(real).__mro__, name)
    if found is None:
        raise TypeError(f"{type(real).__name__!r} object does not support {name}")
    box = _BOX(view)
    if isinstance(found[1], (types.FunctionType, staticmethod, classmethod)):
        return box.bind(found[1], name, view, box.wrap(type(real)))(*arguments, **named)
    raise current().stop(f"it uses {name} of a {name_of(type(real))}, which is compiled")


def _forward(name: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return _special(self, name, *arguments, **named)

    return call


for _name in (
    "call", "len", "iter", "next", "getitem", "setitem", "delitem", "contains", "reversed", "enter", "exit", "lt",
    "le", "gt", "ge", "neg", "pos", "abs", "index", "round", "str", "repr", "format",
):  # fmt: skip
    setattr(ObjectView, f"__{_name}__", _forward(f"__{_name}__"))


def _operator(name: str) -> Callable[..., Any]:
    def call(self: Any, other: Any) -> Any:
        if _in_class(type(_REAL(self)).__mro__, name) is None:
            return NotImplemented
        return _special(self, name, other)

    return call


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(ObjectView, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(ObjectView, f"__r{_name}__", _operator(f"__r{_name}__"))


class SuperView:
    """What ``super()`` is inside a traced method."""

    def __init__(self, start: type, view: Any) -> None:
        self._start, self._view = start, view

    def __getattr__(self, name: str) -> Any:
        return read(self._view, name, self._start)


__all__ = [
    "ClassView",
    "Foreign",
    "FunctionView",
    "MethodView",
    "ModuleView",
    "ObjectView",
    "PartialView",
    "SuperView",
    "Sym",
    "name_of",
    "read",
    "real_of",
]  # fmt: skip
