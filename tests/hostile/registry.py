"""What a hostile function is, and where all are noted."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
import types
from collections.abc import Callable, Sequence
from typing import Any

TABLE, PROGRAM, EITHER = "table", "program", "either"
LATER = 100  # the first step that a function behind later() is asked for


@dataclasses.dataclass
class Subject:
    """A function and what it depends on.

    Attributes:
        function: of the step.
        edits: what the user does to its state, one after the other, at steps that the test chooses.
        state: side effects, to be compared.
        attach: takes the scheduler, for functions that know theirs.
        clean: puts back what an edit did to what all share.
        shared: the state is one for all, so that values and effects cannot be compared.
    """

    function: Any
    edits: Sequence[Callable[[], Any]] = ()
    state: Callable[[], Any] = lambda: None
    attach: Callable[[Any], Any] = lambda scheduler: None
    clean: Callable[[], Any] = lambda: None
    shared: bool = False


Maker = Callable[[], Subject]
MAKERS: dict[str, tuple[Maker, str]] = {}


def hostile(where: str = EITHER) -> Callable[[Maker], Maker]:
    """Note a maker, and where its schedule has to be at the end."""

    def note(make: Maker) -> Maker:
        assert make.__name__ not in MAKERS, make.__name__
        MAKERS[make.__name__] = make, where
        return make

    return note


def later(function: Any) -> Callable[[int], Any]:
    """``function``, for which the first steps have no call."""
    return lambda step: 0.5 if step < LATER else function(step)


serial = itertools.count()  # for names that only one may have


def module(source: str, **variables: Any) -> types.ModuleType:
    """A module of its own, so that its globals are, too."""
    made = types.ModuleType(f"hostile_module_{next(serial)}")
    vars(made).update(variables)
    exec(compile(textwrap.dedent(source), made.__name__, "exec"), vars(made))  # noqa: S102
    return made


def setting(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """An edit: an attribute is assigned."""
    return lambda: setattr(owner, name, value)
