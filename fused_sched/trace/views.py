"""Stand-ins for what a traced function meets outside: their attributes are read as Python reads them, and watched."""

from __future__ import annotations

import types
from abc import ABCMeta
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .paths import current
from .watch import MISSING, classes_of, dict_of, in_classes, is_a, slot_of

if TYPE_CHECKING:
    from .sandbox import Sandbox

PLAIN_LOOKUPS: tuple[Any, ...] = (object.__getattribute__, types.SimpleNamespace.__getattribute__)


def name_of(value: Any) -> str:
    """How a callable is called in messages."""
    module = getattr(value, "__module__", None) or ""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__name__
    return f"{module}.{name}" if module and module != "builtins" else str(name)


class Unplain(Exception):
    """Reading an attribute may run code; says why."""


def plain_attribute(owner: Any, name: str, after: type | None = None) -> tuple[Any, bool]:
    """``owner.name`` before it is bound, and whether a class had it; MISSING where there is none. No code runs.

    Args:
        after: look in the classes after this one only, as ``super()`` does.

    Raises:
        Unplain: see there.
    """
    kind = type(owner)
    if kind is types.ModuleType:
        value = owner.__dict__.get(name, MISSING)
        if value is MISSING and "__getattr__" in owner.__dict__:
            raise Unplain(f"it reads .{name} of the module {owner.__name__}, which has a __getattr__")
        return value, False
    if is_a(owner, type):
        value = in_classes(classes_of(owner), name)
        if kind not in (type, ABCMeta) or (value is MISSING and in_classes(kind.__mro__, name) is not MISSING):
            raise Unplain(f"it reads .{name} of {owner.__name__}, which its metaclass has a say in")
        return value, True
    if kind.__getattribute__ not in PLAIN_LOOKUPS:
        raise Unplain(f"it reads .{name} of a {name_of(kind)}, which defines __getattribute__")
    value = in_classes(classes_of(owner, after), name)
    descriptor = type(value)
    if hasattr(descriptor, "__set__") or hasattr(descriptor, "__delete__"):
        if descriptor is types.MemberDescriptorType:
            return slot_of(value, owner), False
        raise Unplain(f"it reads {name!r}, a {descriptor.__name__} of {name_of(kind)}, which computes it")
    if after is None:
        own = dict_of(kind)(owner).get(name, MISSING)
        if own is not MISSING:
            return own, False
    if value is MISSING and in_classes(kind.__mro__, "__getattr__") is not MISSING:
        raise Unplain(f"it reads .{name} of a {name_of(kind)}, which defines __getattr__")
    return value, True


def read_plain(owner: Any, name: str, after: type | None = None) -> tuple[Any, bool]:
    """As :func:`plain_attribute`, for a traced function: what is not plain ends the trace."""
    try:
        return plain_attribute(owner, name, after)
    except Unplain as error:
        raise current().stop(str(error)) from None


def _refuse(view: Any, name: str) -> Any:
    raise current().stop(f"it uses {name} of {shown(real_of(view))}")


def shown(real: Any) -> str:
    """How a thing is called in messages."""
    if is_a(real, type, types.ModuleType):
        return str(real.__name__)
    return name_of(real) if type(real).__module__ in ("builtins", "functools", "numpy") else f"a {name_of(type(real))}"


_OTHERS_IN_A_STEP = ("_get_lr_called_within_step", "_is_initial")  # torch's scheduler has others while it steps


class View:
    """A module, a class or an object; for what is neither plain nor known, naming it is all that can be done."""

    __slots__ = ("_fused_box", "_fused_real")

    def __init__(self, box: Sandbox, real: Any) -> None:
        object.__setattr__(self, "_fused_box", box)
        object.__setattr__(self, "_fused_real", real)

    def __getattribute__(self, name: str) -> Any:
        return read(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise current().stop(f"it assigns to .{name} of {shown(real_of(self))}")

    def __delattr__(self, name: str) -> None:
        raise current().stop(f"it deletes .{name} of {shown(real_of(self))}")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _BOX(self).call(self, _REAL(self))(*arguments, **named)

    def __bool__(self) -> bool:
        return as_object(self, "__bool__", "__len__") is not None

    def __hash__(self) -> int:
        return id(as_object(self, "__hash__", "__eq__"))

    def __eq__(self, other: Any) -> Any:
        as_object(self, "__eq__")
        return self is other

    def __ne__(self, other: Any) -> Any:
        as_object(self, "__eq__", "__ne__")
        return self is not other


_BOX, _REAL = View._fused_box.__get__, View._fused_real.__get__  # type: ignore[attr-defined]


def as_object(view: View, *names: str) -> Any:
    """The real one, if its class leaves these to ``object``; watched to stay so."""
    box, real = _BOX(view), _REAL(view)
    kind = type(real)
    for name in names:
        if in_classes(kind.__mro__, name) is not object.__dict__.get(name, MISSING):
            _refuse(view, name)
        box.watch.of_class(real, name)
    return real


def _refusing(name: str) -> Callable[..., Any]:
    return lambda self, *arguments, **named: _refuse(self, name)


_TWO_SIDED = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "and", "or", "xor", "lshift",
    "rshift",
)  # fmt: skip
for _name in (
    "len", "iter", "next", "getitem", "contains", "reversed", "enter", "exit", "lt", "le", "gt", "ge", "neg", "pos",
    "abs", "invert", "index", "int", "float", "complex", "round", "trunc", "floor", "ceil", "str", "repr", "format",
    "setitem", "delitem", "instancecheck", "subclasscheck", *_TWO_SIDED, *(f"r{name}" for name in _TWO_SIDED),
):  # fmt: skip
    setattr(View, f"__{_name}__", _refusing(f"__{_name}__"))


def box_of(view: View) -> Sandbox:
    """Whose stand-in it is."""
    return _BOX(view)  # type: ignore[no-any-return]


def real_of(value: Any) -> Any:
    """What a stand-in stands for; other values are themselves."""
    if type(value) is View:
        return _REAL(value)
    return value.real if type(value) is Call else value


def read(view: Any, name: str, after: type | None = None) -> Any:
    """``view.name``; from the classes after ``after``, as super() does."""
    box, real = _BOX(view), _REAL(view)
    override = box.overrides.get((id(real), name), MISSING)
    if override is not MISSING:
        return override
    if name.startswith("__") or name in _OTHERS_IN_A_STEP:
        raise current().stop(f"it reads .{name} of {shown(real)}")
    value, of_class = read_plain(real, name, after)
    box.watch.attribute(real, name, after)
    if value is MISSING:
        noun = "module" if is_a(real, types.ModuleType) else type(real).__name__
        raise AttributeError(f"{noun!r} object has no attribute {name!r}")
    if not of_class:
        return box.wrap(value)
    return box.bind(value, name, view, real if is_a(real, type) else type(real))


class Call:
    """A function, method or partial: calling it is all that can be done."""

    __slots__ = ("bound", "made", "real")

    def __init__(self, real: Any, made: Callable[..., Any], *, bound: bool = False) -> None:
        for name, value in (("real", real), ("made", made), ("bound", bound)):
            object.__setattr__(self, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.made(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        raise current().stop(f"it reads .{name} of {name_of(self.real)}")

    def __setattr__(self, name: str, value: Any = None) -> None:
        raise current().stop(f"it assigns to {name_of(self.real)}.{name}")

    __delattr__ = __setattr__

    def __repr__(self) -> str:
        raise current().stop(f"it makes text of {name_of(self.real)}")

    def __hash__(self) -> int:
        if self.bound:  # each time another object, and equal where function and object are
            raise current().stop(f"it compares {name_of(self.real)}, a bound method")
        return id(self)

    def __eq__(self, other: Any) -> bool:
        return hash(self) is not None and (type(other) is not Call or hash(other) is not None) and self is other
