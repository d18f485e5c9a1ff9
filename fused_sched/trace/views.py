"""Stand-ins for what a traced function meets outside: their attributes are read as Python reads them, and watched."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .paths import Guarded, current
from .watch import is_a, name_of

if TYPE_CHECKING:
    from .sandbox import Sandbox


def shown(real: Any) -> str:
    """How a thing is called in messages."""
    if is_a(real, type, types.ModuleType):
        return str(real.__name__)
    return name_of(real) if type(real).__module__ in ("builtins", "functools", "numpy") else f"a {name_of(type(real))}"


class StandIn(Guarded):
    """Base of those that stand for an object."""

    __slots__ = ("_real",)

    def _what(self) -> str:
        return shown(real_of(self))


class View(StandIn):
    """A module, a class or an object; for what is neither plain nor known, naming it is all that can be done."""

    __slots__ = ("_box",)

    def __init__(self, box: Sandbox, real: Any) -> None:
        object.__setattr__(self, "_box", box)
        object.__setattr__(self, "_real", real)

    def __getattribute__(self, name: str) -> Any:
        return box_of(self).read(self, name)

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        return box_of(self).call(self, real_of(self))(*arguments, **named)


box_of: Callable[[View], Sandbox] = View._box.__get__  # type: ignore[attr-defined]


def _refusing(name: str) -> Any:
    def refuse(self: StandIn, *arguments: Any, **named: Any) -> Any:
        raise current().stop(f"it uses {name} of {shown(real_of(self))}")

    return refuse


_SPECIAL = {name for kind in (complex, float, int, list, dict) for name in vars(kind)} | {
    f"__{name}__" for name in (
        "next", "matmul", "rmatmul", "enter", "exit", "str", "format", "complex", "instancecheck", "subclasscheck",
    )
}  # fmt: skip
for _name in sorted(_SPECIAL - {"__new__", "__init__", "__getattribute__", "__doc__"}):
    if _name.startswith("__"):
        setattr(View, _name, _refusing(_name))
for _name in ("__eq__", "__ne__", "__hash__"):
    setattr(StandIn, _name, _refusing(_name))


class Super(Guarded):
    """What ``super()`` is inside a traced method."""

    __slots__ = ("_start", "_view")

    def __init__(self, start: type, view: View) -> None:
        object.__setattr__(self, "_start", start)
        object.__setattr__(self, "_view", view)

    def __getattribute__(self, name: str) -> Any:
        start, view = (object.__getattribute__(self, slot) for slot in ("_start", "_view"))
        return box_of(view).read(view, name, start)


class Call(StandIn):
    """A function, method or partial: calling it is all that can be done."""

    __slots__ = ("_made",)

    def __init__(self, real: Any, made: Callable[..., Any]) -> None:
        object.__setattr__(self, "_made", made)
        object.__setattr__(self, "_real", real)

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        return _MADE(self)(*arguments, **named)


_MADE: Callable[[Call], Any] = Call._made.__get__  # type: ignore[attr-defined]
_REAL: Callable[[StandIn], Any] = StandIn._real.__get__  # type: ignore[attr-defined]


def real_of(value: Any) -> Any:
    """What a stand-in stands for; other values are themselves."""
    return _REAL(value) if issubclass(type(value), StandIn) else value
