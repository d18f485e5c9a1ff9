"""Which methods of torch's classes a program stands in for, and whether a user has put something in their place.

The methods are found in torch's code: what ``step`` asks of ``self``, and so on from there. So they are those of the
torch that is installed.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from ..facts import ATTRIBUTE, Fact

CLOSED_FORM = "_get_closed_form_lr"  # of a step to an epoch, which torch's code makes, and of a start at a milestone
OF_ITSELF = frozenset({"step"})  # what is asked of a scheduler that is no part of another
_HOOKS = ("__getattribute__", "__getattr__", "__setattr__", "__delattr__")  # by which all attributes go
_MISSING: Any = object()


def _functions(owner: type, name: str) -> Iterator[FunctionType]:
    """What ``owner().name`` runs: the first one found, and others where that one calls ``super()``."""
    for base in owner.__mro__:
        found = base.__dict__.get(name)
        found = getattr(found, "fget", getattr(found, "__func__", found))
        found = inspect.unwrap(found) if callable(found) else None
        if isinstance(found, FunctionType):
            yield found
            if "super" not in found.__code__.co_names:
                return


def _attributes(code: CodeType) -> Iterator[tuple[str, bool]]:
    """Names of attributes, and whether they are asked of ``self``."""
    before: Any = None
    for line in dis.get_instructions(code):
        if line.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "LOAD_SUPER_ATTR"):
            loaded = before.argval if before is not None and before.opname.startswith("LOAD") else None
            yield line.argval, (loaded[-1] if isinstance(loaded, tuple) else loaded) == "self"
        if line.opname not in ("COPY", "DUP_TOP"):  # of self.count += 1
            before = line
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _attributes(constant)


@functools.cache
def _asked(owner: type, first: frozenset[str], known: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What methods of ``owner`` ask of ``self``, from ``first`` on and not behind ``known``; and of other objects."""
    asked, of_others, todo = set(known), set(), [*first]
    while todo:
        name = todo.pop()
        if name in asked:
            continue
        asked.add(name)
        for function in _functions(owner, name):
            for attribute, of_self in _attributes(function.__code__):
                if of_self:
                    todo.append(attribute)
                else:
                    of_others.add(attribute)
    return frozenset(asked), frozenset(of_others)


def _is_code(attribute: Any) -> bool:
    """Whether it runs when an instance is asked for it, or called."""
    return attribute is not _MISSING and (callable(attribute) or hasattr(type(attribute), "__get__"))


class StandIn:
    """The methods that the program of one of our classes stands in for.

    Attributes:
        methods: names by which an attribute of an instance takes the place of a method.
        names: all of them, and the attributes that they use.
        calls_get_lr: whether a step does.
        asked_of_parts: what a step asks of other objects, among them the parts of a sequence or a chain.

    Args:
        cls: ours.
        torchs: torch's of the same name.
    """

    def __init__(self, cls: type, torchs: type) -> None:
        self._cls, self._torchs = cls, torchs
        every, self.asked_of_parts = _asked(torchs, frozenset({"step"}), frozenset())
        self.calls_get_lr = "get_lr" in every
        names = every | {n for base in torchs.__mro__[:-1] for n in base.__dict__ if not n.startswith("__")}
        self.names = frozenset(names)
        self._originals = {name: getattr(cls, name, _MISSING) for name in names}
        methods = {n for n, x in self._originals.items() if isinstance(x, (FunctionType, property))}
        self.methods = frozenset(methods | {CLOSED_FORM})
        self._hooks = {name: getattr(cls, name, None) for name in _HOOKS}
        self._step_behind = torchs.step  # type: ignore[attr-defined]  # ours goes before it
        self._names_for: dict[tuple[frozenset[str], bool], list[str]] = {}

    def facts(self, cls: type, asked: frozenset[str], *, calls_step: bool) -> list[Fact]:
        """The methods that a class of the user's or ours, and torch's behind it, have for a step.

        Args:
            cls: the class.
            asked: what is asked of a scheduler for a step.
            calls_step: it is not the user who calls ``step``.
        """
        key = asked, calls_step
        if key not in self._names_for:
            names = _asked(self._torchs, asked & self.methods, frozenset())[0] & self.methods
            if "_update_lr" not in asked:  # a step to an epoch is torch's code's
                names -= {CLOSED_FORM}
            if not calls_step:
                names -= {"step"}
            there = sorted(name for name in names if self._originals.get(name, _MISSING) is not _MISSING)
            self._names_for[key] = there
        methods = [*((cls, name) for name in self._names_for[key]), (self._torchs, "step")]
        return [(ATTRIBUTE, owner, name, getattr(owner, name)) for owner, name in methods]

    @property
    def is_step_replaced(self) -> bool:
        """Whether torch's class has another ``step`` than it had, which ours has to call then."""
        return self._torchs.step is not self._step_behind  # type: ignore[attr-defined]

    def overridden(self, scheduler: Any, asked: frozenset[str] | None = None) -> str | None:
        """What a step comes to that is not torch's, in words; None where all of it is.

        A ``get_lr`` of the user's class is left out, and what it calls: it is traced.

        Args:
            asked: what the scheduler around this one asks of it; default, there is none. Then an own ``step`` calls
                ours, or does not, and a closed form is for steps that torch's code makes.
        """
        cls, own = type(scheduler), scheduler.__dict__
        first = OF_ITSELF if asked is None else asked & self.methods
        traced = self.is_overridden(scheduler, "get_lr") and "get_lr" not in own
        names = _asked(self._torchs, first, frozenset({"get_lr"} if traced else ()))[0]
        for name, ours in self._hooks.items():
            if getattr(cls, name, None) is not ours:
                return f"{cls.__name__} overrides {name}"
        if "step" in names and self.is_step_replaced:
            return f"step of torch's {self._torchs.__name__} was replaced"
        left_out = {"get_lr"} if traced else set()
        if asked is None:
            left_out.add("step")
        if "_update_lr" not in first:
            left_out.add(CLOSED_FORM)
        for name in sorted(names - left_out):
            if name in own:
                if name in self.methods:
                    return f"{name} was assigned to this {cls.__name__}"
            elif self.is_overridden(scheduler, name) and _is_code(getattr(cls, name, _MISSING)):
                return f"{cls.__name__} overrides {name}"
        return None

    def is_overridden(self, scheduler: Any, name: str) -> bool:
        """Whether a method of torch's is not what this class of ours has."""
        now = getattr(type(scheduler), name, _MISSING)
        original = self._originals[name] if name in self._originals else getattr(self._cls, name, _MISSING)
        return now is not original or (name in self.methods and name in scheduler.__dict__)


def plain_function(bound: Any) -> Callable[..., Any]:
    """What a partial or a bound method calls."""
    while hasattr(bound, "func") or hasattr(bound, "__func__"):
        bound = getattr(bound, "func", None) or bound.__func__
    return bound  # type: ignore[no-any-return]
