# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions of the step that a program must not get wrong: each is a factory, which gives a copy with a state of its own.

``MAKERS`` has them by name. A function whose trace shows nothing in its first steps is dangerous for longer, so each is
tried as it is and behind :func:`later`.
"""

from __future__ import annotations

import abc
import array
import builtins
import collections
import contextlib
import contextvars
import ctypes
import dataclasses
import decimal
import enum
import fractions
import functools
import io
import itertools
import json
import logging
import math
import operator
import random
import re
import statistics
import string
import sys
import tempfile
import textwrap
import threading
import time
import types
import typing
import unittest.mock
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

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


_modules = itertools.count()


def module(source: str, **variables: Any) -> types.ModuleType:
    """A module of its own, so that its globals are, too."""
    made = types.ModuleType(f"hostile_module_{next(_modules)}")
    vars(made).update(variables)
    exec(compile(textwrap.dedent(source), made.__name__, "exec"), vars(made))  # noqa: S102
    return made


def setting(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """An edit: an attribute is assigned."""
    return lambda: setattr(owner, name, value)


# -- side effects ------------------------------------------------------------------------------------------


def _effect(name: str, source: str, where: str = TABLE, **variables: Any) -> None:
    """One that changes LOG or COUNT of its module, or what is given."""

    def make() -> Subject:
        made = module(source, LOG=[], SEEN={}, SET=set(), COUNT=0, **{k: v() for k, v in variables.items()})
        return Subject(made.f, state=lambda: (list(made.LOG), dict(made.SEEN), sorted(made.SET), made.COUNT))

    make.__name__ = name
    hostile(where)(make)


_effect("append", "def f(step): LOG.append(step); return 0.5")
_effect("append_every_tenth", "def f(step):\n if step % 10 == 0: LOG.append(step)\n return 0.5")
_effect("append_late", "def f(step):\n if step > 500: LOG.append(step)\n return 0.5")
_effect("extend", "def f(step): LOG.extend((step, 1)); return 0.5")
_effect("insert", "def f(step): LOG.insert(0, step % 7); del LOG[5:]; return 0.5")
_effect("slice_assignment", "def f(step): LOG[:] = [step]; return 0.5")
_effect("list_iadd", "def f(step):\n mine = LOG\n mine += [step]\n return 0.5")
_effect("list_of_length", "def f(step): LOG.append(0); return 1 / len(LOG)")
_effect("dict_write", "def f(step): SEEN[step % 5] = step; return 0.5")
_effect("dict_setdefault", "def f(step): return SEEN.setdefault(step // 10, step)")
_effect("dict_update", "def f(step): SEEN.update(last=step); return 0.5")
_effect("dict_ior", "def f(step):\n mine = SEEN\n mine |= {1: step}\n return 0.5")
_effect("dict_pop", "def f(step): SEEN[1] = step; return SEEN.pop(1) / 7")
_effect("set_add", "def f(step): SET.add(step % 11); return 0.5")
_effect("set_ior", "def f(step):\n mine = SET\n mine |= {step % 3}\n return 0.5")
_effect("set_discard", "def f(step): SET.discard(3); SET.add(step % 4); return len(SET) / 4")
_effect("global_count", "def f(step):\n global COUNT\n COUNT += 1\n return 1 / COUNT")
_effect("global_delete", "def f(step):\n global COUNT, X\n X = step\n del X\n COUNT += 1\n return 0.5")
_effect("global_in_inner", "def f(step):\n def g():\n  global COUNT\n  COUNT = step\n g()\n return 0.5")
_effect("through_a_helper", "def note(x): LOG.append(x)\ndef f(step): note(step); return 0.5")
_effect("through_a_lambda", "note = lambda x: LOG.append(x)\ndef f(step): note(step); return 0.5")
_effect("in_a_comprehension", "def f(step): [LOG.append(x) for x in (step,)]; return 0.5")
_effect("in_a_generator", "def f(step): sum(LOG.append(x) or x for x in (step,)); return 0.5")
_effect("by_map", "def f(step): list(map(LOG.append, [step])); return 0.5")
_effect("by_reduce", "import functools\ndef f(step): functools.reduce(lambda a, b: LOG.append(b), [0, step]); return 0.5")
_effect("by_operator", "import operator\ndef f(step): operator.setitem(SEEN, step % 3, step); return 0.5")
_effect("by_operator_iadd", "import operator\ndef f(step): operator.iadd(LOG, [step]); return 0.5")
_effect("by_methodcaller", "import operator\nput = operator.methodcaller('append', 1)\ndef f(step): put(LOG); return 0.5")
_effect("by_the_class_of_a_list", "def f(step): list.append(LOG, step); return 0.5")
_effect("by_the_class_of_a_literal", "def f(step): [].__class__.append(LOG, step); return 0.5")
_effect("by_the_class_of_a_dict_literal", "def f(step): {}.__class__.update(SEEN, last=step); return 0.5")
_effect("by_the_class_of_a_set_literal", "def f(step): {1}.__class__.add(SET, step % 9); return 0.5")
_effect("by_getattr", "def f(step): getattr(LOG, 'append')(step); return 0.5")
_effect("by_a_bound_method", "def f(step): put(step); return 0.5\nput = LOG.append")
_effect("by_sort", "def f(step): LOG.sort(); return 0.5")
_effect("by_a_default", "def f(step, log=LOG): log.append(step); return 0.5")
_effect("by_a_keyword_default", "def f(step, *, log=LOG): log.append(step); return 0.5")
_effect("by_a_key_function", "def f(step): sorted([2, 1], key=lambda x: LOG.append(x) or x); return 0.5")
_effect("by_any", "def f(step): any(LOG.append(x) for x in (1, 2)); return 0.5")
_effect("by_walrus", "def f(step): return (mine := LOG).append(step) or 0.5")
_effect("by_unpacking", "def f(step): SEEN[0], SEEN[1] = step, step; return 0.5")
_effect("by_for_target", "def f(step):\n for SEEN['x'] in (step,): pass\n return 0.5")
_effect("by_with_target", "import contextlib\ndef f(step):\n with contextlib.nullcontext(step) as SEEN['x']: pass\n return 0.5")
_effect("swallowed", "def f(step):\n try: LOG.append(step)\n except Exception: pass\n return 0.5")
_effect("swallowed_by_bare_except", "def f(step):\n try: LOG.append(step)\n except: pass\n return 0.5")
_effect("swallowed_by_finally", "def f(step):\n try: LOG.append(step)\n finally: return 0.5")
_effect("swallowed_by_finally_in_a_loop", "def f(step):\n for _ in range(3):\n  try: LOG.append(step)\n  finally: continue\n return 0.5")
_effect("swallowed_by_base_exception", "def f(step):\n try: LOG.append(step)\n except BaseException: pass\n return 0.5")
_effect(
    "swallowed_by_builtins_base_exception",
    "import builtins\ndef f(step):\n try: LOG.append(step)\n except builtins.BaseException: pass\n return 0.5",
)
_effect(
    "swallowed_by_contextlib", "import contextlib\ndef f(step):\n with contextlib.suppress(BaseException): LOG.append(step)\n return 0.5"
)
_effect("after_an_exception", "def f(step):\n try: 1 / 0\n except ZeroDivisionError: LOG.append(step)\n return 0.5")
_effect("in_finally", "def f(step):\n try: return 0.5\n finally: LOG.append(step)")
_effect("in_else", "def f(step):\n try: x = step\n except ValueError: pass\n else: LOG.append(x)\n return 0.5")
_effect("by_exec", "def f(step): exec('LOG.append(1)'); return 0.5")
_effect("by_eval", "def f(step): eval('LOG.append')(step); return 0.5")
_effect("by_globals", "def f(step): globals()['COUNT'] = step; return 0.5")
_effect("by_vars", "import types\nbox = types.SimpleNamespace()\ndef f(step): vars(box)['x'] = step; LOG[:] = [box.x]; return 0.5")
_effect("in_a_generator_s_finally", """
    def walk(step):
        try: yield step
        finally: LOG.append(step)
    def f(step):
        walker = walk(step)
        next(walker)
        return 0.5
""")
_effect("in_a_generator_that_ends", """
    def walk(step):
        yield step
        LOG.append(step)
    def f(step): return sum(walk(step)) / 7
""")
_effect("in_a_match", """
    def f(step):
        match step % 3:
            case 0: LOG.append(step)
            case 1 | 2 as x: SEEN[x] = step
        return 0.5
""")
_effect("by_recursion", "def f(step, depth=3):\n if depth: return f(step, depth - 1)\n LOG.append(step)\n return 0.5")
_effect("after_a_loop_that_looks_endless", """
    def f(step):
        left = step
        while left >= 7: left -= 7
        LOG.append(step)
        return left / 7
""")
_effect("del_item", "def f(step):\n LOG.append(step)\n if len(LOG) > 5: del LOG[0]\n return 0.5")
_effect("memory_by_hand", "def f(step):\n if step not in SEEN: SEEN[step] = 1 / (step + 1); LOG.append(step)\n return SEEN[step]")


@hostile(TABLE)
def nonlocal_count() -> Subject:
    count = 0

    def f(step: int) -> float:
        nonlocal count
        count += 1
        return 1.0 / count

    return Subject(f, state=lambda: count)


@hostile(TABLE)
def nonlocal_in_inner() -> Subject:
    count = 0

    def f(step: int) -> float:
        def bump() -> None:
            nonlocal count
            count += 2

        bump()
        return 0.5

    return Subject(f, state=lambda: count)


@hostile(TABLE)
def attribute_of_itself() -> Subject:
    def f(step: int) -> float:
        f.calls += 1  # type: ignore[attr-defined]
        return 0.5

    f.calls = 0  # type: ignore[attr-defined]
    return Subject(f, state=lambda: f.calls)  # type: ignore[attr-defined]


@hostile(TABLE)
def attribute_of_self() -> Subject:
    class F:
        calls = 0

        def __call__(self, step: int) -> float:
            self.calls += 1
            return 1.0 / self.calls

    f = F()
    return Subject(f, state=lambda: f.calls)


@hostile(TABLE)
def attribute_of_a_class() -> Subject:
    class F:
        calls = 0

        def __call__(self, step: int) -> float:
            type(self).calls += 1
            return 0.5

    return Subject(F(), state=lambda: F.calls)


@hostile(TABLE)
def slot() -> Subject:
    class F:
        __slots__ = ("calls",)

        def __call__(self, step: int) -> float:
            self.calls = step
            return 0.5

    f = F()
    return Subject(f, state=lambda: f.calls)


@hostile(TABLE)
def object_setattr() -> Subject:
    @dataclasses.dataclass(frozen=True)
    class F:
        calls: int = 0

        def __call__(self, step: int) -> float:
            object.__setattr__(self, "calls", self.calls + 1)
            return 0.5

    f = F()
    return Subject(f, state=lambda: f.calls)


@hostile(TABLE)
def builtin_setattr() -> Subject:
    box = types.SimpleNamespace(calls=0)

    def f(step: int) -> float:
        setattr(box, "calls", box.calls + 1)  # noqa: B010
        return 0.5

    return Subject(f, state=lambda: box.calls)


@hostile(TABLE)
def delete_attribute() -> Subject:
    """A trigger that is consumed; what is deleted is not there afterwards."""

    def trigger() -> None: ...

    def f(step: int) -> float:
        try:
            del trigger.flag  # type: ignore[attr-defined]
        except AttributeError:
            return 0.5
        return 0.1

    return Subject(f, [setting(trigger, "flag", True)] * 3, lambda: hasattr(trigger, "flag"))


@hostile(TABLE)
def delete_attribute_of_object() -> Subject:
    box = types.SimpleNamespace()

    def f(step: int) -> float:
        try:
            del box.flag
        except AttributeError:
            return 0.5
        return 0.1

    return Subject(f, [setting(box, "flag", True)] * 3, lambda: hasattr(box, "flag"))


@hostile(TABLE)
def printing() -> Subject:
    out = io.StringIO()

    def f(step: int) -> float:
        print(step, file=out)
        return 0.5

    return Subject(f, state=out.getvalue)


@hostile(TABLE)
def writing_a_file() -> Subject:
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open for as long as the function is

    def f(step: int) -> float:
        file.write(f"{step}\n")
        return 0.5

    return Subject(f, state=lambda: (file.seek(0), file.read())[1])


@hostile(TABLE)
def reading_a_file() -> Subject:
    file = io.StringIO("\n".join(f"0.{k}" for k in range(5000)))
    return Subject(lambda step: float(file.readline() or 1), state=file.tell)


@hostile(TABLE)
def logged() -> Subject:
    lines: list[str] = []
    logger = logging.Logger("hostile")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)

    def f(step: int) -> float:
        logger.warning("step %d", step)
        return 0.5

    return Subject(f, state=lambda: list(lines))


@hostile(TABLE)
def warned() -> Subject:
    count = collections.Counter[str]()
    show = lambda: count.update(["shown"])  # noqa: E731

    def f(step: int) -> float:
        warnings.warn("hostile", UserWarning, stacklevel=1)
        show()
        return 0.5

    return Subject(f, state=lambda: dict(count))


@hostile(TABLE)
def random_of_its_own() -> Subject:
    generator = random.Random(7)
    return Subject(lambda step: generator.random(), state=generator.getstate)


@hostile(TABLE)
def random_method() -> Subject:
    draw = random.Random(7).uniform
    return Subject(lambda step: draw(0, 1))


@hostile(TABLE)
def random_global() -> Subject:
    return Subject(lambda step: random.random(), shared=True)


@hostile(TABLE)
def random_of_numpy() -> Subject:
    generator = np.random.default_rng(7)
    return Subject(lambda step: float(generator.random()))


@hostile(TABLE)
def random_of_torch() -> Subject:
    generator = torch.Generator()
    return Subject(lambda step: float(torch.rand((), generator=generator, dtype=torch.float64)))


@hostile(TABLE)
def random_seeded_at_once() -> Subject:
    return Subject(lambda step: random.Random(step).random())


@hostile(TABLE)
def clock() -> Subject:
    return Subject(lambda step: time.monotonic() % 1, shared=True)


@hostile(TABLE)
def clock_from_import() -> Subject:
    made = module("from time import perf_counter\ndef f(step): return 0.5 if step < 5 else perf_counter() % 1")
    return Subject(made.f, shared=True)


@hostile(TABLE)
def cached() -> Subject:
    calls: list[int] = []

    @functools.cache
    def f(step: int) -> float:
        calls.append(step)
        return 1.0 / (step + 1)

    return Subject(f, [f.cache_clear], lambda: (f.cache_info(), list(calls)))


@hostile(TABLE)
def lru_cached_inside() -> Subject:
    @functools.lru_cache(maxsize=4)
    def decay(epoch: int) -> float:
        return 0.9**epoch

    return Subject(lambda step: decay(step // 10), [decay.cache_clear], lambda: decay.cache_info())


@hostile(TABLE)
def cached_property_filled() -> Subject:
    class F:
        computed = 0

        @functools.cached_property
        def slope(self) -> float:
            F.computed += 1
            return 0.25

        def __call__(self, step: int) -> float:
            return self.slope

    f = F()

    def forget() -> None:
        vars(f).pop("slope", None)

    return Subject(f, [forget, forget], lambda: (F.computed, sorted(vars(f))))


@hostile()
def cached_property_known() -> Subject:
    class F:
        computed = 0

        @functools.cached_property
        def slope(self) -> float:
            F.computed += 1
            return 0.25 * F.computed

        def __call__(self, step: int) -> float:
            return self.slope

    f = F()
    _ = f.slope
    return Subject(f, [lambda: vars(f).pop("slope"), setting(f, "slope", 0.75)], lambda: (F.computed, sorted(vars(f))))


@hostile(TABLE)
def thread_started() -> Subject:
    log: list[int] = []

    def f(step: int) -> float:
        thread = threading.Thread(target=log.append, args=(step,))
        thread.start()
        thread.join()
        return 0.5

    return Subject(f, state=lambda: list(log))


@hostile(TABLE)
def thread_local() -> Subject:
    local = threading.local()
    local.rate = 0.5
    return Subject(lambda step: local.rate, [setting(local, "rate", 0.25)])


@hostile(TABLE)
def locked() -> Subject:
    lock, log = threading.Lock(), list[int]()

    def f(step: int) -> float:
        with lock:
            log.append(step)
        return 0.5

    return Subject(f, state=lambda: (list(log), lock.locked()))


@hostile(TABLE)
def context_variable() -> Subject:
    rate = contextvars.ContextVar("rate", default=0.5)
    return Subject(lambda step: rate.get(), [lambda: rate.set(0.25), lambda: rate.set(0.125)])


@hostile(TABLE)
def context_variable_set() -> Subject:
    rate = contextvars.ContextVar("rate", default=0)

    def f(step: int) -> float:
        rate.set(rate.get() + 1)
        return 1.0 / rate.get()

    return Subject(f, state=rate.get)


@hostile(TABLE)
def generator_as_state() -> Subject:
    values = (0.99**k for k in itertools.count())
    return Subject(lambda step: next(values))


@hostile(TABLE)
def generator_send() -> Subject:
    def average() -> Iterator[float]:
        total, count = 0.0, 0
        while True:
            total += yield total / max(count, 1)
            count += 1

    averaging: Any = average()
    next(averaging)
    return Subject(lambda step: averaging.send(step) / 1e4)


@hostile(TABLE)
def itertools_count() -> Subject:
    counter = itertools.count(1)
    return Subject(lambda step: 1.0 / next(counter))


@hostile(TABLE)
def itertools_cycle() -> Subject:
    values = itertools.cycle((0.1, 0.2, 0.3))
    return Subject(lambda step: next(values))


@hostile(TABLE)
def iterator_of_a_list() -> Subject:
    values = iter([0.001 * k for k in range(10_000)])
    return Subject(lambda step: next(values, 0.0))


@hostile(TABLE)
def object_with_del() -> Subject:
    log: list[int] = []

    class Noted:
        def __del__(self) -> None:
            log.append(1)

    def f(step: int) -> float:
        Noted()
        return 0.5

    return Subject(f, state=lambda: len(log))


@hostile(TABLE)
def weak_reference() -> Subject:
    class Box:
        rate = 0.25

    box = [Box()]
    weak = weakref.ref(box[0])
    return Subject(lambda step: 0.5 if weak() is None else 0.25, [box.clear])


@hostile(TABLE)
def weak_proxy() -> Subject:
    class Box:
        rate = 0.25

    box = Box()
    proxy = weakref.proxy(box)
    return Subject(lambda step: proxy.rate, [setting(box, "rate", 0.125)], attach=lambda scheduler, box=box: None)


@hostile(TABLE)
def weak_dictionary() -> Subject:
    class Box: ...

    boxes = [Box(), Box()]
    known = weakref.WeakSet(boxes)
    return Subject(lambda step: 1.0 / (1 + len(known)), [boxes.pop, boxes.pop])


@hostile(TABLE)
def exception_of_its_own() -> Subject:
    log: list[int] = []

    class Noting(Exception):
        def __init__(self, step: int) -> None:
            log.append(step)

    def f(step: int) -> float:
        try:
            raise Noting(step)
        except Noting:
            return 0.5

    return Subject(f, state=lambda: list(log))


@hostile()
def exception_class_with_state() -> Subject:
    class Stop(Exception):
        rate = 0.5

    def f(step: int) -> float:
        try:
            raise Stop
        except Stop as error:
            return error.rate

    return Subject(f, [setting(Stop, "rate", 0.25)])


@hostile(TABLE)
def exception_that_claims_to_be_builtin() -> Subject:
    log: list[int] = []

    class Sneaky(Exception):
        __module__ = "builtins"

        def __init__(self, step: int) -> None:
            log.append(1)

    def f(step: int) -> float:
        try:
            raise Sneaky(step)
        except ValueError:
            return 0.1
        except Exception:
            return 0.5

    return Subject(f, state=lambda: list(log))


@hostile(TABLE)
def class_that_claims_to_be_numpys() -> Subject:
    class Value:
        calls = 0

        def __rmul__(self, other: Any) -> float:
            Value.calls += 1
            return other * 0.5  # type: ignore[no-any-return]

        def __float__(self) -> float:
            Value.calls += 1
            return 0.5

    Value.__module__, Value.__name__ = "numpy", "float64"
    value = Value()
    return Subject(lambda step: 1.0 * value, state=lambda: Value.calls)  # type: ignore[operator]


@hostile(TABLE)
def exception_of_the_wrong_kind_caught() -> Subject:
    class Own(Exception): ...

    def f(step: int) -> float:
        try:
            try:
                raise Own
            except TypeError:
                return 0.1
        except Exception:
            return 0.5

    return Subject(f)


@hostile(TABLE)
def object_made_and_counted() -> Subject:
    class Box:
        made = 0

        def __init__(self) -> None:
            Box.made += 1

    def f(step: int) -> float:
        Box()
        return 1.0 / Box.made

    return Subject(f, state=lambda: Box.made)


@hostile(TABLE)
def context_manager() -> Subject:
    log: list[str] = []

    class Noting:
        def __enter__(self) -> None:
            log.append("in")

        def __exit__(self, *error: Any) -> None:
            log.append("out")

    noting = Noting()

    def f(step: int) -> float:
        with noting:
            return 0.5

    return Subject(f, state=lambda: list(log))


@hostile(TABLE)
def context_manager_of_a_generator() -> Subject:
    log: list[int] = []

    @contextlib.contextmanager
    def noting() -> Iterator[None]:
        log.append(0)
        yield
        log.append(1)

    def f(step: int) -> float:
        with noting():
            return 0.5

    return Subject(f, state=lambda: list(log))


@hostile(TABLE)
def array_write() -> Subject:
    values = np.zeros(3)

    def f(step: int) -> float:
        values[step % 3] = step
        return float(values.sum()) / 1e4

    return Subject(f, state=values.tolist)


@hostile(TABLE)
def tensor_in_place() -> Subject:
    value = torch.ones(())

    def f(step: int) -> float:
        value.mul_(0.99)
        return float(value)

    return Subject(f, [lambda: value.fill_(0.5)], value.item)


@hostile(TABLE)
def ctypes_cell() -> Subject:
    cell = ctypes.c_double(0.5)

    def f(step: int) -> float:
        cell.value *= 0.999
        return cell.value

    return Subject(f, [setting(cell, "value", 1.0)], lambda: cell.value)


@hostile(TABLE)
def bytearray_cell() -> Subject:
    cell = bytearray(b"\x00")

    def f(step: int) -> float:
        cell[0] = (cell[0] + 1) % 256
        return cell[0] / 256

    return Subject(f, state=lambda: bytes(cell))


@hostile(TABLE)
def string_io() -> Subject:
    text = io.StringIO()

    def f(step: int) -> float:
        text.write("x")
        return 1.0 / text.tell()

    return Subject(f, state=text.tell)


@hostile(TABLE)
def sleeping() -> Subject:
    return Subject(lambda step: time.sleep(0) or 0.5)  # type: ignore[func-returns-value]


@hostile(TABLE)
def iadd_of_its_own() -> Subject:
    class Total:
        value = 0

        def __iadd__(self, other: int) -> Total:
            self.value += 1
            return self

    total = Total()

    def f(step: int) -> float:
        mine = total
        mine += 1  # type: ignore[assignment]
        return 0.5

    return Subject(f, state=lambda: total.value)


def _conversion(name: str, method: str, use: str, value: Any) -> None:
    """An object with one special method, which notes that it was called."""

    def make() -> Subject:
        box = types.SimpleNamespace(calls=0, value=value)

        def special(self: Any, *arguments: Any) -> Any:
            box.calls += 1
            return box.value

        kind = type("Special", (), {method: special})
        made = module(f"def f(step): return {use}", X=kind(), math=math, np=np, operator=operator)
        later_value = {bool: lambda: False, float: lambda: 0.125, int: lambda: 1, str: lambda: "abc"}[type(value)]()
        return Subject(made.f, [setting(box, "value", later_value)], lambda: box.calls)

    make.__name__ = f"special_{name}"
    hostile(TABLE)(make)


for _arguments in (
    ("float", "__float__", "float(X)", 0.25), ("math", "__float__", "math.sqrt(X)", 0.25),
    ("isclose", "__float__", "math.isclose(X, 0.25) + 0.5", 0.25), ("numpy", "__float__", "np.float64(X)", 0.25),
    ("index", "__index__", "[0.1, 0.2, 0.3][X]", 2), ("index_of_range", "__index__", "len(range(X)) / 7", 2),
    ("index_of_operator", "__index__", "operator.index(X) / 7", 2), ("gcd", "__index__", "math.gcd(X, 4) / 7", 2),
    ("int", "__int__", "int(X) / 7", 2), ("bool", "__bool__", "0.5 if X else 0.25", True),
    ("not", "__bool__", "0.5 if not X else 0.25", True), ("truth", "__bool__", "operator.truth(X) / 2", True),
    ("and", "__bool__", "(X and 0.5) or 0.25", True), ("len", "__len__", "len(X) / 7", 2),
    ("length_as_truth", "__len__", "0.5 if X else 0.25", 2), ("contains", "__contains__", "(step in X) / 2", True),
    ("mul", "__mul__", "X * step", 0.5), ("rmul", "__rmul__", "step * X", 0.5), ("add", "__add__", "X + 1", 0.5),
    ("radd", "__radd__", "1 + X", 0.5), ("rlshift", "__rlshift__", "(1 << X) / 7", 2),
    ("rrshift", "__rrshift__", "(1 >> X) / 7", 2), ("rpow", "__rpow__", "2.0 ** X", 0.5), ("neg", "__neg__", "-X", 0.5),
    ("abs", "__abs__", "abs(X)", 0.5), ("round", "__round__", "round(X) / 7", 2), ("floor", "__floor__", "math.floor(X) / 7", 2),
    ("eq", "__eq__", "(X == 3) / 2", True), ("ne", "__ne__", "(X != 3) / 2", True), ("lt", "__lt__", "(X < step) / 2", True),
    ("eq_in_a_list", "__eq__", "(3 in [X]) / 2", True), ("getitem", "__getitem__", "X[step]", 0.5),
    ("str", "__str__", "len(str(X)) / 7", "ab"), ("repr", "__repr__", "len(repr(X)) / 7", "ab"),
    ("format", "__format__", "len(f'{X}') / 7", "ab"), ("format_percent", "__str__", "len('%s' % X) / 7", "ab"),
    ("format_percent_d", "__int__", "len('%d' % X) / 7", 12), ("hash", "__hash__", "hash(X) / 7", 2),
    ("hash_in_a_dict", "__hash__", "len({X: 1}) / 2", 2), ("matmul", "__matmul__", "X @ 1", 0.5),
    ("divmod", "__rdivmod__", "divmod(1, X)", 0.5), ("missing", "__missing__", "X", 0.5),
):  # fmt: skip
    _conversion(*_arguments)  # type: ignore[arg-type]
MAKERS.pop("special_missing")


def _swallowed(name: str, use: str, method: str, value: Any) -> None:
    """As :func:`_conversion`, where a wrong TypeError would be swallowed."""

    def make() -> Subject:
        kind = type("Special", (), {method: lambda self, *arguments: value})
        source = f"def f(step):\n try: return {use}\n except (TypeError, AttributeError): return 0.375"
        return Subject(module(source, X=kind(), math=math, np=np).f)

    make.__name__ = f"swallowed_{name}"
    hostile()(make)


for _arguments in (
    ("rlshift", "5 << X", "__rlshift__", 0.5), ("rrshift", "5 >> X", "__rrshift__", 0.5),
    ("rmatmul", "5 @ X", "__rmatmul__", 0.5), ("rdivmod", "divmod(5, X)[0]", "__rdivmod__", (0.5, 1)),
    ("instancecheck", "isinstance(5, X) / 2", "__instancecheck__", True), ("length_hint", "len(list(X)) / 7", "__iter__", None),
    ("numpy_exp", "np.exp(X)", "exp", 0.5), ("keys", "len({**X}) + 0.5", "keys", ()), ("step_lshift", "step << X", "__rlshift__", 0.5),
    ("step_matmul", "step @ X", "__rmatmul__", 0.5),
):  # fmt: skip
    _swallowed(*_arguments)  # type: ignore[arg-type]


# -- state behind attributes --------------------------------------------------------------------------------


@hostile(TABLE)
def property_with_state() -> Subject:
    box = [0.5]

    class F:
        @property
        def rate(self) -> float:
            return box[0]

        def __call__(self, step: int) -> float:
            return self.rate

    return Subject(F(), [lambda: box.__setitem__(0, 0.25)])


@hostile(TABLE)
def getattr_of_its_own() -> Subject:
    log: list[str] = []

    class F:
        def __getattr__(self, name: str) -> float:
            if name.startswith("_"):
                raise AttributeError(name)
            log.append(name)
            return 1.0 / len(log)

    config = F()
    return Subject(lambda step: config.rate, state=lambda: list(log))


@hostile()
def callable_with_getattr() -> Subject:
    """Asking it for an attribute is noted, whatever asks; the names that torch itself asks for are left out."""
    log: list[str] = []

    class F:
        def __getattr__(self, name: str) -> Any:
            log.append(name)
            raise AttributeError(name)

        def __call__(self, step: int) -> float:
            return 0.5

    return Subject(F(), state=lambda: list(log))


@hostile()
def callable_with_getattribute() -> Subject:
    log: list[str] = []

    class F:
        def __getattribute__(self, name: str) -> Any:
            log.append(name)
            return object.__getattribute__(self, name)

        def __call__(self, step: int) -> float:
            return 0.5

    return Subject(F(), state=lambda: list(log))


@hostile(TABLE)
def config_with_getattribute() -> Subject:
    log: list[str] = []

    class Config:
        rate = 0.5

        def __getattribute__(self, name: str) -> Any:
            log.append(name)
            return object.__getattribute__(self, name)

    config = Config()
    return Subject(lambda step: config.rate / len(log), state=lambda: list(log))


@hostile(TABLE)
def config_with_class_property() -> Subject:
    log: list[int] = []

    class Config:
        rate = 0.5

        @property
        def __class__(self) -> Any:  # type: ignore[override]
            log.append(1)
            return int

    config = Config()
    return Subject(lambda step: 0.5 if isinstance(config, int) else 0.25, state=lambda: list(log))


@hostile(TABLE)
def mocked() -> Subject:
    mock = unittest.mock.MagicMock(return_value=0.5)
    return Subject(mock, [setting(mock, "return_value", 0.25)], lambda: mock.call_count)


@hostile()
def mocked_config() -> Subject:
    config = unittest.mock.MagicMock()
    config.rate = 0.5
    return Subject(lambda step: config.rate, [setting(config, "rate", 0.25)])


@hostile(TABLE)
def mocked_side_effect() -> Subject:
    mock = unittest.mock.Mock(side_effect=lambda step: 1 / (step + 1))
    return Subject(mock, state=lambda: mock.call_count)


@hostile(TABLE)
def descriptor_with_state() -> Subject:
    class Counting:
        reads = 0

        def __get__(self, instance: Any, owner: Any = None) -> float:
            Counting.reads += 1
            return 1.0 / Counting.reads

    class F:
        rate = Counting()

        def __call__(self, step: int) -> float:
            return self.rate

    return Subject(F(), state=lambda: Counting.reads)


@hostile(TABLE)
def descriptor_of_class() -> Subject:
    class Counting:
        reads = 0

        def __get__(self, instance: Any, owner: Any = None) -> float:
            Counting.reads += 1
            return 1.0 / Counting.reads

    class Config:
        rate = Counting()

    return Subject(lambda step: Config.rate, state=lambda: Counting.reads)


@hostile()
def descriptor_that_becomes_one() -> Subject:
    class Constant:
        value = 0.5

    class Config:
        rate = Constant()

    config = Config()

    def f(step: int) -> float:
        found: Any = config.rate
        return 0.5 if found is None else 0.25

    return Subject(f, [setting(Constant, "__get__", lambda self, instance, owner=None: None)])


@hostile()
def class_attribute_shadowed() -> Subject:
    class Config:
        rate = 0.5

    config = Config()
    return Subject(lambda step: config.rate, [setting(config, "rate", 0.25), lambda: delattr(config, "rate"), setting(Config, "rate", 0.75)])


@hostile()
def inherited_attribute_shadowed() -> Subject:
    class Base:
        rate = 0.5

    class Middle(Base): ...

    class Config(Middle): ...

    config = Config()
    return Subject(
        lambda step: config.rate,
        [setting(Middle, "rate", 0.25), setting(Config, "rate", 0.125), lambda: delattr(Middle, "rate"), setting(config, "rate", 1.5)],
    )


@hostile()
def class_is_assigned() -> Subject:
    class A:
        rate = 0.5

    class B:
        rate = 0.25

    config = A()
    return Subject(lambda step: config.rate, [setting(config, "__class__", B)])


@hostile()
def class_is_assigned_isinstance() -> Subject:
    class A: ...

    class B: ...

    config = A()
    return Subject(lambda step: 0.5 if isinstance(config, A) else 0.25, [setting(config, "__class__", B)])


@hostile()
def class_is_assigned_type() -> Subject:
    class A: ...

    class B: ...

    config = A()
    return Subject(lambda step: 0.5 if type(config) is A else 0.25, [setting(config, "__class__", B)])


@hostile()
def class_is_assigned_dunder() -> Subject:
    class A: ...

    class B: ...

    config = A()
    return Subject(lambda step: 0.5 if config.__class__ is A else 0.25, [setting(config, "__class__", B)])


@hostile()
def class_is_assigned_call() -> Subject:
    class A:
        def __call__(self, step: int) -> float:
            return 0.5

    class B:
        def __call__(self, step: int) -> float:
            return 0.25

    f = A()
    return Subject(f, [setting(f, "__class__", B), setting(f, "__class__", A)])


@hostile()
def class_is_assigned_truth() -> Subject:
    class A: ...

    class B:
        def __bool__(self) -> bool:
            return False

    config = A()
    return Subject(lambda step: 0.5 if config else 0.25, [setting(config, "__class__", B)])


@hostile()
def class_is_assigned_equality() -> Subject:
    class A: ...

    class B:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    config, other = A(), object()
    return Subject(lambda step: 0.5 if config == other else 0.25, [setting(config, "__class__", B)])


@hostile()
def truth_appears() -> Subject:
    class Config: ...

    config = Config()
    return Subject(lambda step: 0.5 if config else 0.25, [setting(Config, "__bool__", lambda self: False)])


@hostile()
def length_appears() -> Subject:
    class Config: ...

    config = Config()
    return Subject(lambda step: (config and 0.5) or 0.25, [setting(Config, "__len__", lambda self: 0)])


@hostile()
def equality_appears() -> Subject:
    class Config: ...

    config, other = Config(), Config()
    return Subject(lambda step: 0.5 if config == other else 0.25, [setting(Config, "__eq__", lambda self, other: True)])


@hostile()
def getattr_appears() -> Subject:
    class Config: ...

    config = Config()
    return Subject(lambda step: getattr(config, "rate", 0.5), [setting(Config, "__getattr__", lambda self, name: 0.25)])


@hostile()
def getattribute_appears() -> Subject:
    class Config:
        rate = 0.5

    config = Config()
    return Subject(lambda step: config.rate, [setting(Config, "__getattribute__", lambda self, name: 0.25)])


@hostile()
def property_appears() -> Subject:
    class Config:
        def __init__(self) -> None:
            self.rate = 0.5

    config = Config()
    return Subject(lambda step: config.rate, [setting(Config, "rate", property(lambda self: 0.25))])


@hostile()
def attribute_appears() -> Subject:
    config = types.SimpleNamespace()
    return Subject(
        lambda step: config.rate if hasattr(config, "rate") else 0.5,
        [setting(config, "rate", 0.25), lambda: delattr(config, "rate")],
    )


@hostile()
def attribute_appears_in_a_base() -> Subject:
    class Base: ...

    class Config(Base): ...

    config = Config()
    return Subject(lambda step: getattr(config, "rate", 0.5), [setting(Base, "rate", 0.25)])


@hostile()
def call_changes_in_a_class() -> Subject:
    class F:
        def __call__(self, step: int) -> float:
            return 0.5

    return Subject(F(), [setting(F, "__call__", lambda self, step: 0.25)])


@hostile()
def method_changes() -> Subject:
    class F:
        def rate(self) -> float:
            return 0.5

        def __call__(self, step: int) -> float:
            return self.rate()

    f = F()
    return Subject(f, [setting(F, "rate", lambda self: 0.25), setting(f, "rate", lambda: 0.125)])


@hostile()
def bases_change() -> Subject:
    class A:
        rate = 0.5

    class B:
        rate = 0.25

    class Config(A): ...

    config = Config()
    return Subject(lambda step: config.rate, [setting(Config, "__bases__", (B,))])


@hostile()
def bases_change_super() -> Subject:
    class A:
        def rate(self) -> float:
            return 0.5

    class B:
        def rate(self) -> float:
            return 0.25

    class Config(A):
        def rate(self) -> float:
            return super().rate()

    config = Config()
    return Subject(lambda step: config.rate(), [setting(Config, "__bases__", (B,))])


@hostile()
def bases_change_isinstance() -> Subject:
    class A: ...

    class B: ...

    class Config(A): ...

    config = Config()
    return Subject(lambda step: 0.5 if isinstance(config, A) else 0.25, [setting(Config, "__bases__", (B,))])


@hostile()
def bases_change_issubclass() -> Subject:
    class A: ...

    class B: ...

    class Config(A): ...

    return Subject(lambda step: 0.5 if issubclass(Config, A) else 0.25, [setting(Config, "__bases__", (B,))])


@hostile()
def class_registered() -> Subject:
    class Kind(abc.ABC): ...  # noqa: B024

    class Config: ...

    config = Config()
    return Subject(lambda step: 0.5 if isinstance(config, Kind) else 0.25, [lambda: Kind.register(Config)])


@hostile()
def dict_of_object_replaced() -> Subject:
    config = type("Config", (), {})()
    config.rate = 0.5
    return Subject(lambda step: config.rate, [setting(config, "__dict__", {"rate": 0.25}), lambda: vars(config).update(rate=0.125)])


@hostile()
def slots_read() -> Subject:
    class Config:
        __slots__ = ("rate",)

    config = Config()
    config.rate = 0.5
    return Subject(
        lambda step: getattr(config, "rate", 0.75), [setting(config, "rate", 0.25), lambda: delattr(config, "rate")]
    )


@hostile()
def class_name_changes() -> Subject:
    class Config: ...

    return Subject(lambda step: len(Config.__name__) / 20, [setting(Config, "__name__", "AnotherConfig")])


@hostile()
def function_name_changes() -> Subject:
    def helper() -> None: ...

    return Subject(lambda step: len(helper.__name__) / 20, [setting(helper, "__name__", "another_helper")])


@hostile()
def class_doc_changes() -> Subject:
    class Config:
        """abc"""

    return Subject(lambda step: len(Config.__doc__ or "") / 20, [setting(Config, "__doc__", "abcdef")])


@hostile(TABLE)
def doc_is_a_list() -> Subject:
    log: list[int] = []

    class Config: ...

    Config.__doc__ = log  # type: ignore[assignment]

    def f(step: int) -> float:
        Config.__doc__.append(step)  # type: ignore[union-attr]
        return 0.5

    return Subject(f, state=lambda: list(log))


@hostile(TABLE)
def doc_of_function_is_a_list() -> Subject:
    log: list[float] = [0.5]

    def helper() -> None: ...

    helper.__doc__ = log  # type: ignore[assignment]
    return Subject(lambda step: helper.__doc__[0], [lambda: log.__setitem__(0, 0.25)])  # type: ignore[index]


@hostile(TABLE)
def doc_is_computed() -> Subject:
    class Doc:
        reads = 0

        def __get__(self, instance: Any, owner: Any = None) -> str:
            Doc.reads += 1
            return "x" * (Doc.reads % 5 + 1)

    class Config:
        __doc__ = Doc()  # type: ignore[assignment]

    return Subject(lambda step: len(Config.__doc__ or "") / 5, state=lambda: Doc.reads)


@hostile(TABLE)
def metaclass_property() -> Subject:
    class Meta(type):
        reads = 0

        @property
        def rate(cls) -> float:
            Meta.reads += 1
            return 1.0 / Meta.reads

    class Config(metaclass=Meta): ...

    return Subject(lambda step: Config.rate, state=lambda: Meta.reads)


@hostile(TABLE)
def metaclass_name() -> Subject:
    reads = [0]

    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            reads[0] += 1
            return "x" * (reads[0] % 5 + 1)

    class Config(metaclass=Meta): ...

    return Subject(lambda step: len(Config.__name__) / 5, state=lambda: reads[0])


@hostile(TABLE)
def metaclass_hash() -> Subject:
    reads = [0]

    class Meta(type):
        def __hash__(cls) -> int:
            reads[0] += 1
            return 7

        def __call__(cls) -> float:  # type: ignore[override]
            return 0.5

    class Config(metaclass=Meta): ...

    return Subject(lambda step: Config(), state=lambda: reads[0])  # type: ignore[return-value]


@hostile(TABLE)
def metaclass_call() -> Subject:
    class Meta(type):
        calls = 0

        def __call__(cls) -> float:  # type: ignore[override]
            Meta.calls += 1
            return 1.0 / Meta.calls

    class Config(metaclass=Meta): ...

    return Subject(lambda step: Config(), state=lambda: Meta.calls)  # type: ignore[return-value]


@hostile(TABLE)
def metaclass_contains() -> Subject:
    class Meta(type):
        calls = 0

        def __contains__(cls, x: Any) -> bool:
            Meta.calls += 1
            return Meta.calls % 2 == 0

        def __bool__(cls) -> bool:
            return False

    class Config(metaclass=Meta): ...

    return Subject(lambda step: (0.5 if step in Config else 0.25) + (0.125 if Config else 0.0), state=lambda: Meta.calls)


@hostile()
def attribute_of_type() -> Subject:
    class Config: ...

    return Subject(lambda step: 0.5 if hasattr(Config, "mro") else 0.25)


@hostile()
def enumeration() -> Subject:
    class Phase(enum.Enum):
        WARM = 1
        COLD = 2

    phase = [Phase.WARM]
    return Subject(lambda step: 0.5 if phase[0] is Phase.WARM else 0.25, [lambda: phase.__setitem__(0, Phase.COLD)])


@hostile()
def enumeration_equal() -> Subject:
    class Phase(enum.Enum):
        WARM = 1
        COLD = 2

    phase = [Phase.WARM]
    return Subject(lambda step: phase[0].value / 4 if phase[0] == Phase.WARM else 0.125, [lambda: phase.__setitem__(0, Phase.COLD)])


@hostile(TABLE)
def int_enumeration() -> Subject:
    class Rate(enum.IntEnum):
        LOW = 1
        HIGH = 4

    rate = [Rate.LOW]
    return Subject(lambda step: rate[0] / 8, [lambda: rate.__setitem__(0, Rate.HIGH)])


@hostile(TABLE)
def int_enumeration_with_method() -> Subject:
    class Rate(enum.IntEnum):
        LOW = 1

        def factor(self) -> float:
            calls.append(1)
            return 1.0 / len(calls)

    calls: list[int] = []
    return Subject(lambda step: Rate.LOW.factor(), state=lambda: list(calls))


@hostile()
def int_enumeration_as_key() -> Subject:
    class Phase(enum.IntEnum):
        WARM = 0
        COLD = 1

    rates = {Phase.WARM: 0.5, Phase.COLD: 0.25}
    return Subject(lambda step: rates.get(step % 3, 0.125), [lambda: rates.__setitem__(Phase.COLD, 0.75)])


@hostile()
def int_enumeration_in_a_set() -> Subject:
    class Phase(enum.IntEnum):
        WARM = 0

    phases = {Phase.WARM}
    return Subject(lambda step: 0.5 if 0 in phases else 0.25)


@hostile(TABLE)
def string_enumeration() -> Subject:
    class Phase(str, enum.Enum):
        WARM = "warm"

    return Subject(lambda step: 0.5 if Phase.WARM == "warm" else 0.25)


@hostile()
def string_subclass_as_key() -> Subject:
    class Name(str): ...

    rates = {"warm": 0.5}
    key = Name("warm")
    return Subject(lambda step: rates.get(key, 0.25))


@hostile()
def flag_enumeration() -> Subject:
    class On(enum.Flag):
        A = 1
        B = 2

    state = [On.A]
    return Subject(lambda step: 0.5 if state[0] & On.A else 0.25, [lambda: state.__setitem__(0, On.B)])


@hostile()
def named_tuple() -> Subject:
    class Config(typing.NamedTuple):
        rate: float = 0.5

        def doubled(self) -> float:
            return self.rate * 2

    made = module("def f(step): return CONFIG.doubled() + CONFIG[0] + CONFIG.rate", CONFIG=Config())
    return Subject(made.f, [setting(made, "CONFIG", Config(0.25)), setting(Config, "doubled", lambda self: 0.5)])


@hostile()
def data_class() -> Subject:
    @dataclasses.dataclass
    class Config:
        rate: float = 0.5
        values: list[float] = dataclasses.field(default_factory=lambda: [0.1, 0.2])

    config = Config()
    return Subject(
        lambda step: config.rate + config.values[-1],
        [setting(config, "rate", 0.25), lambda: config.values.append(0.7), setting(config, "values", [0.3])],
    )


@hostile()
def data_class_equality() -> Subject:
    @dataclasses.dataclass
    class Config:
        rate: float = 0.5

    config, other = Config(), Config()
    return Subject(lambda step: 0.5 if config == other else 0.25, [setting(config, "rate", 0.25)])


@hostile()
def frozen_data_class_as_key() -> Subject:
    @dataclasses.dataclass(frozen=True)
    class Key:
        name: str

    rates, key = {Key("a"): 0.5}, Key("a")
    return Subject(lambda step: rates.get(key, 0.25), [lambda: rates.__setitem__(Key("a"), 0.75)])


@hostile()
def fraction_as_key() -> Subject:
    half = fractions.Fraction(1, 2)
    return Subject(lambda step: 0.5 if half in {0.5: 1} else 0.25)


@hostile()
def numpy_int_as_key() -> Subject:
    three, rates = np.int64(3), {3: 0.5}
    return Subject(lambda step: rates.get(three, 0.25))


@hostile()
def numpy_int_in_a_set() -> Subject:
    three, known = np.int64(3), {1, 3}
    return Subject(lambda step: 0.5 if three in known else 0.25)


@hostile()
def tuple_of_objects_as_key() -> Subject:
    class Key:
        def __hash__(self) -> int:
            return 3

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Key)

    rates = {(1, Key()): 0.5}
    key = (1, Key())
    return Subject(lambda step: rates.get(key, 0.25))


@hostile()
def hash_of_an_object() -> Subject:
    class Key:
        def __hash__(self) -> int:
            return 3

    key = Key()
    return Subject(lambda step: hash(key) % 7 / 7)


_KEYS = [object() for _ in range(7)]


@hostile()
def hash_of_a_plain_object() -> Subject:
    return Subject(lambda step: sum(hash(key) % 7 for key in _KEYS) / 49)


@hostile()
def hash_collisions() -> Subject:
    rates = {-1: 0.5, -2: 0.25, 2**61 - 1: 0.125, 0: 0.75}
    return Subject(lambda step: rates[step % 3 - 2] if step % 3 < 2 else rates[0], [lambda: rates.__setitem__(-1, 1.5)])


@hostile()
def namespace() -> Subject:
    config = types.SimpleNamespace(rate=0.5, inner=types.SimpleNamespace(x=1))
    return Subject(
        lambda step: config.rate * config.inner.x,
        [setting(config.inner, "x", 2), setting(config, "inner", types.SimpleNamespace(x=3)), setting(config, "rate", 1)],
    )


def _mapping(name: str, make_mapping: Callable[[dict[str, float]], Any], use: str, where: str = EITHER) -> None:
    def make() -> Subject:
        below = {"rate": 0.5, "other": 0.75}
        made = module(f"def f(step): {use}", D=make_mapping(below), defaultdict=collections.defaultdict)

        def edit() -> None:
            below["rate"] = 0.25
            with contextlib.suppress(TypeError):
                made.D["rate"] = 0.25

        return Subject(made.f, [edit], lambda: len(made.D))

    make.__name__ = name
    hostile(where)(make)


class OwnDict(dict[str, float]):
    """A dict whose missing keys have a value."""

    def __missing__(self, key: str) -> float:
        return 0.375


_KINDS: dict[str, Callable[[dict[str, float]], Any]] = {
    "proxy": types.MappingProxyType, "chain_map": collections.ChainMap, "ordered": collections.OrderedDict,
    "user_dict": collections.UserDict, "default": lambda d: collections.defaultdict(lambda: 0.125, d), "own": OwnDict,
    "counter": collections.Counter,
}  # fmt: skip
for _kind, _make in _KINDS.items():
    _mapping(f"{_kind}_item", _make, "return D['rate']")
    _mapping(f"{_kind}_get", _make, "return D.get('rate', 0.1) + D.get('none', 0.2)")
    _mapping(f"{_kind}_in", _make, "return 0.5 if 'none' in D else 0.25")
    _mapping(f"{_kind}_values", _make, "return sum(D.values())")
    _mapping(f"{_kind}_match", _make, """
        match D:
            case {"rate": rate}: return rate
            case _: return 0.375
    """.replace("\n        ", "\n "))
    _mapping(f"{_kind}_isinstance", _make, "return 0.5 if isinstance(D, defaultdict) else 0.25")
    _mapping(f"{_kind}_of_class", _make, "return len(D.__class__.__name__) / 20")
    _mapping(f"{_kind}_repr", _make, "return len(repr(D)) / 90")
    _mapping(f"{_kind}_unpacked", _make, "return len({**D}) / 7 + dict(**D)['rate']")
    _mapping(f"{_kind}_copied", _make, "return D.copy().get('none', 0.625)")
    _mapping(f"{_kind}_merged", _make, "return (D | {'rate': 0.0625})['rate']")
    _mapping(f"{_kind}_missing", _make, "\n try: return D['none']\n except KeyError: return 0.875")
    _mapping(f"{_kind}_equal", _make, "return 0.5 if D == {'rate': 0.5, 'other': 0.75, 'none': 0} else 0.25")


@hostile()
def counter_subclass_checks() -> Subject:
    made = module(
        "from collections import Counter\ndef f(step): return 0.5 if isinstance(C, Counter) else 0.25",
        C=collections.Counter("aab"),
    )
    return Subject(made.f)


@hostile()
def counter_union() -> Subject:
    a, b = collections.Counter(x=3), collections.Counter(x=1)
    return Subject(lambda step: (a | b)["x"] / 8, [lambda: a.update(x=1)])


@hostile()
def counter_equality() -> Subject:
    a, b = collections.Counter(x=3), collections.Counter(x=3, y=0)
    return Subject(lambda step: 0.5 if a == b else 0.25, [lambda: b.update(y=1)])


@hostile()
def counter_absent_key() -> Subject:
    counts = collections.Counter(a=1)
    return Subject(lambda step: counts["b"] / 4 + 0.25, [lambda: counts.update("b"), counts.clear])


@hostile()
def counter_most_common() -> Subject:
    counts = collections.Counter(a=1, b=3)

    def f(step: int) -> float:
        try:
            return counts.most_common(1)[0][1] / 4
        except AttributeError:
            return 0.125

    return Subject(f, [lambda: counts.update("a")])


@hostile(TABLE)
def default_dict_fills() -> Subject:
    values: Any = collections.defaultdict(lambda: 0.5)
    return Subject(lambda step: values[step], state=lambda: len(values))


def _sequence(name: str, value: Callable[[], Any], use: str, edit: str = "") -> None:
    def make() -> Subject:
        made = module(f"def f(step): {use}\ndef edit(): {edit or 'pass'}", S=value(), np=np)
        return Subject(made.f, [made.edit])

    make.__name__ = name
    hostile()(make)


_sequence("deque_item", lambda: collections.deque([0.5, 0.25]), "return S[step % 2]", "S.rotate(1)")
_sequence("deque_match", lambda: collections.deque([0.5, 0.25]), "\n match S:\n  case [a, b]: return a\n  case _: return 0.375")
_sequence("range_match", lambda: range(2), "\n match S:\n  case [a, b]: return b / 2\n  case _: return 0.375")
_sequence("range_item", lambda: range(10), "return S[step % 10] / 10")
_sequence("range_in", lambda: range(0, 1000, 7), "return 0.5 if step in S else 0.25")
_sequence("array_match", lambda: array.array("d", [0.5, 0.25]), "\n match S:\n  case [a, b]: return a\n  case _: return 0.375")
_sequence("array_item", lambda: array.array("d", [0.5, 0.25]), "return S[step % 2]", "S[0] = 0.75")
_sequence("list_match", lambda: [0.5, 0.25], "\n match S:\n  case [a, b]: return a\n  case _: return 0.375", "S.append(1.0)")
_sequence("tuple_match", lambda: (1, 2), "\n match S:\n  case (1, x): return x / 4\n  case _: return 0.375")
_sequence("class_match", lambda: 3, "\n match S:\n  case int(): return 0.5\n  case _: return 0.375")
_sequence("class_match_of_a_list", lambda: [1], "\n match S:\n  case list(): return 0.5\n  case _: return 0.375")
_sequence("named_tuple_match", lambda: collections.namedtuple("P", "a b")(1, 2),
          "\n match S:\n  case [a, b]: return b / 4\n  case _: return 0.375")
_sequence("memoryview_item", lambda: memoryview(bytearray(b"abc")), "return S[step % 3] / 256", "S[0] = 1")
_sequence("numpy_array_item", lambda: np.array([0.5, 0.25]), "return S[step % 2]", "S[0] = 0.75")
_sequence("numpy_array_sum", lambda: np.array([0.5, 0.25]), "return S.sum()", "S[0] = 0.75")
_sequence("numpy_array_interp", lambda: np.array([0.5, 0.25]), "return np.interp(step, [0, 100], S)", "S[0] = 0.75")
_sequence("numpy_array_of_nothing", lambda: np.array(0.5), "return float(S)", "S[...] = 0.75")
_sequence("tensor_float", lambda: torch.tensor(0.5), "return float(S)", "S.fill_(0.25)")
_sequence("tensor_item", lambda: torch.tensor(0.5), "return S.item()", "S.fill_(0.25)")
_sequence("tensor_max", lambda: torch.tensor(0.5), "return float(max(S, 0.1))", "S.fill_(0.25)")
_sequence("list_subclass", lambda: type("L", (list,), {})([0.5, 0.25]), "return S[step % 2]", "S[0] = 0.75")
_sequence("list_in_place", lambda: [0.5, 0.25], "return S[step % 2]", "S[0] = 0.75")
_sequence("list_same_but_float", lambda: [2], "return 0.5 if isinstance(S[0], int) else 0.25", "S[0] = 2.0")
_sequence("list_same_but_bool", lambda: [1], "return 0.5 if isinstance(S[0], bool) else 0.25", "S[0] = True")
_sequence("list_negative_zero", lambda: [0.0], "return 1.0 if str(S[0]) == '0.0' else 0.5", "S[0] = -0.0")
_sequence("list_nan", lambda: [0.5], "return S[0]", "S[0] = float('nan')")
_sequence("list_nested", lambda: [[0.5], [[0.25]]], "return S[1][0][0]", "S[1][0][0] = 0.75")
_sequence("list_replaced_inside", lambda: [[0.5]], "return S[0][0]", "S[0] = [0.25]")
_sequence("list_of_itself", lambda: (lambda x: (x.append(x), x)[1])([0.5]), "return S[1][1][0]", "S[0] = 0.25")
_sequence("list_order", lambda: [0.5, 0.25], "return S[0] - 0.75 * S[1]", "S.reverse()")
_sequence("list_length", lambda: [1, 2], "return 1 / len(S)", "S.append(3)")
_sequence("list_class", lambda: [1], "return len(S.__class__.__name__) / 20")
_sequence("list_class_is", lambda: [1], "return 0.5 if S.__class__ is list else 0.25")
_sequence("list_type_is", lambda: [1], "return 0.5 if type(S) is list else 0.25")
_sequence("list_attribute", lambda: [1], "\n try: S.x = 1\n except AttributeError: return 0.5\n return 0.25")
_sequence("list_repr", lambda: [1, 2.5, 'x'], "return len(str(S)) / 40")
_sequence("set_repr", lambda: {1, 2}, "return len(str(S)) / 40")
_sequence("frozenset_repr", lambda: frozenset({1}), "return len(repr(S)) / 40")
_sequence("frozenset_literal_repr", lambda: 0, "\n for x in {1, 2}: pass\n return len(repr(frozenset((1, 2)))) / 40")
_sequence("tuple_repr", lambda: (1, 2), "return len(f'{S}') / 40")
_sequence("set_class", lambda: {1}, "return len(type(S).__name__) / 20")
_sequence("dict_order", lambda: {"a": 0.5, "b": 0.25}, "return [*S.values()][0]", "S['a'] = S.pop('a')")
_sequence("dict_key_type", lambda: {1: 0.5}, "return 0.5 if isinstance([*S][0], bool) else 0.25",
          "S.clear(); S[True] = 0.5")
_sequence("dict_key_negative_zero", lambda: {0.0: 0.5}, "return len(str([*S][0])) / 8", "S.clear(); S[-0.0] = 0.5")
_sequence("dict_values_same_but_float", lambda: {"a": 1}, "return 0.5 if isinstance(S['a'], int) else 0.25",
          "S['a'] = 1.0")
_sequence("dict_view_length", lambda: {"a": 1}, "return 1 / len(S.keys())", "S['b'] = 1")
_sequence("set_membership", lambda: {3, 9}, "return 0.5 if step in S else 0.25", "S.add(500); S.add(2500)")
_sequence("set_order_after_removal", lambda: (lambda s: (s.difference_update(range(2, 64)), s.difference_update(range(65, 1000)), s)[2])(set(range(1000))),
          "return [*S][0] / 64 + 0.1 * [*S][-1]")
_sequence("set_of_strings_order", lambda: {"a", "b", "c", "d"} - {"b"}, "return {'a': 0.1, 'c': 0.2, 'd': 0.4}[[*S][0]]")
_sequence("set_of_functions_order", lambda: {math.sin, math.cos, math.tan, math.exp}, "return sum(k * f(0.5) for k, f in enumerate(S))")
_sequence("set_of_tuples_order", lambda: {(k, k * k) for k in range(40)} - {(k, k * k) for k in range(3, 37)},
          "return sum(k * x[0] for k, x in enumerate(S)) / 512")
_sequence("set_of_negatives_order", lambda: {-1, -2, 5, 13, 21}, "return sum(k * x for k, x in enumerate(S)) / 128")
_sequence("frozenset_order", lambda: frozenset({8, 16, 0, 24}), "return [*S][1] / 64")
_sequence("set_literal_order", lambda: 0, "return sum(k * x for k, x in enumerate({24, 8, 0, 16, 3})) / 512")
_sequence("slice_bounds", lambda: slice(0, 2), "return sum([0.1, 0.2, 0.4][S])")
_sequence("slice_of_a_list", lambda: slice([0.5]), "return S.stop[0]", "S.stop[0] = 0.25")
_sequence("numpy_float64", lambda: np.float64(0.5), "return S * step / 1000")
_sequence("numpy_float64_zero_sign", lambda: np.float64(0.0), "return np.float64(1.0) / S if False else (0.5 if str(S).startswith('-') else 0.25)")
_sequence("numpy_float32", lambda: np.float32(0.1), "return S * step")
_sequence("numpy_int", lambda: np.int64(7), "return S / (step + 1)")
_sequence("numpy_bool", lambda: np.bool_(True), "return 0.5 if S else 0.25")
_sequence("decimal_value", lambda: decimal.Decimal("0.5"), "return float(S)")
_sequence("fraction_value", lambda: fractions.Fraction(1, 3), "return float(S * step / 1000)")
_sequence("complex_value", lambda: 0.5 + 1j, "return S.real")
_sequence("bytes_value", lambda: b"abc", "return S[step % 3] / 256")
_sequence("string_value", lambda: "0.25", "return float(S)")
_sequence("ellipsis", lambda: ..., "return 0.5 if S is ... else 0.25")


@hostile(TABLE)
def slice_with_an_index_of_its_own() -> Subject:
    class Place:
        calls = 0

        def __index__(self) -> int:
            Place.calls += 1
            return 2

    window, values = slice(0, Place()), [0.1, 0.2, 0.4]
    return Subject(lambda step: sum(values[window]), state=lambda: Place.calls)


@hostile(TABLE)
def slice_as_a_bag() -> Subject:
    log: list[int] = []
    bag = slice(log)

    def f(step: int) -> float:
        bag.stop.append(step)
        return 0.5

    return Subject(f, state=lambda: list(log))


@hostile()
def numpy_global_zero_sign() -> Subject:
    made = module("def f(step): return math.copysign(0.5, BIAS)", math=math, BIAS=np.float64(0.0))
    return Subject(made.f, [setting(made, "BIAS", np.float64(-0.0))])


@hostile()
def global_zero_sign() -> Subject:
    made = module("def f(step): return math.copysign(0.5, BIAS)", math=math, BIAS=0.0)
    return Subject(made.f, [setting(made, "BIAS", -0.0), setting(made, "BIAS", 0), setting(made, "BIAS", False)])


@hostile()
def global_type() -> Subject:
    made = module("def f(step): return 7 // N / 4 if isinstance(N, int) else N / 8", N=2)
    return Subject(made.f, [setting(made, "N", 2.0), setting(made, "N", True), setting(made, "N", 1)])


# -- functions, modules, builtins ---------------------------------------------------------------------------


@hostile()
def partial_keywords() -> Subject:
    f = functools.partial(lambda step, rate: rate, rate=0.5)
    return Subject(f, [lambda: f.keywords.update(rate=0.25)])


@hostile()
def partial_setstate() -> Subject:
    f = functools.partial(lambda step, rate: rate, rate=0.5)
    return Subject(f, [lambda: f.__setstate__((f.func, f.args, {"rate": 0.25}, None))])  # type: ignore[attr-defined]


@hostile()
def partial_setstate_function() -> Subject:
    f = functools.partial(lambda step, rate: rate, rate=0.5)
    return Subject(f, [lambda: f.__setstate__((lambda step, rate: 0.25, f.args, f.keywords, None))])  # type: ignore[attr-defined]


@hostile()
def partial_mutable_argument() -> Subject:
    rates = [0.5]
    return Subject(functools.partial(lambda rates, step: rates[0], rates), [lambda: rates.__setitem__(0, 0.25)])


@hostile()
def partial_subclass() -> Subject:
    class P(functools.partial):  # type: ignore[type-arg]
        def __call__(self, step: int) -> float:
            return super().__call__(step) / 2  # type: ignore[no-any-return]

    return Subject(P(lambda step: 0.5))


@hostile()
def partial_attribute() -> Subject:
    f: Any = functools.partial(lambda step, f: f[0].rate, f=[])
    f.keywords["f"].append(f)
    f.rate = 0.5
    return Subject(f, [setting(f, "rate", 0.25)])


@hostile()
def partial_method() -> Subject:
    class F:
        rate = 0.5

        def value(self, rate: float, step: int) -> float:
            return rate * self.rate

        half = functools.partialmethod(value, 0.5)

    f = F()
    return Subject(f.half, [setting(f, "rate", 0.25)])


@hostile()
def defaults_change() -> Subject:
    def f(step: int, rate: float = 0.5) -> float:
        return rate

    return Subject(f, [setting(f, "__defaults__", (0.25,))])


@hostile()
def default_list_changes() -> Subject:
    rates = [0.5]

    def f(step: int, rates: list[float] = rates) -> float:
        return rates[0]

    return Subject(f, [lambda: rates.__setitem__(0, 0.25)])


@hostile()
def keyword_defaults_change() -> Subject:
    def f(step: int, *, rate: float = 0.5) -> float:
        return rate

    return Subject(f, [lambda: f.__kwdefaults__.update(rate=0.25), setting(f, "__kwdefaults__", {"rate": 0.125})])


@hostile()
def keyword_defaults_appear() -> Subject:
    def helper(*, rate: float) -> float:
        return rate

    def f(step: int) -> float:
        try:
            return helper()  # type: ignore[call-arg]
        except TypeError:
            return 0.5

    return Subject(f, [setting(helper, "__kwdefaults__", {"rate": 0.25})])


@hostile()
def code_changes() -> Subject:
    def f(step: int) -> float:
        return 0.5

    return Subject(f, [setting(f, "__code__", (lambda step: 0.25).__code__)])


@hostile()
def code_of_a_helper_changes() -> Subject:
    def helper() -> float:
        return 0.5

    return Subject(lambda step: helper(), [setting(helper, "__code__", (lambda: 0.25).__code__)])


@hostile()
def code_of_a_method_changes() -> Subject:
    class F:
        def rate(self) -> float:
            return 0.5

    f = F()
    bound = f.rate
    return Subject(lambda step: bound(), [setting(F.rate, "__code__", (lambda self: 0.25).__code__)])


@hostile()
def dict_of_a_function() -> Subject:
    def f(step: int) -> float:
        return f.rate  # type: ignore[attr-defined,no-any-return]

    f.rate = 0.5  # type: ignore[attr-defined]
    return Subject(f, [setting(f, "rate", 0.25), lambda: vars(f).update(rate=0.125)])


@hostile()
def closure_changes() -> Subject:
    rate = 0.5

    def f(step: int) -> float:
        return rate

    def edit(value: float) -> None:
        nonlocal rate
        rate = value

    return Subject(f, [lambda: edit(0.25), lambda: edit(-0.0), lambda: edit(0.0), lambda: edit(0)])


@hostile()
def closure_by_cell() -> Subject:
    rate = 0.5

    def f(step: int) -> float:
        return rate

    return Subject(f, [setting(f.__closure__[0], "cell_contents", 0.25)])  # type: ignore[index]


@hostile()
def closure_of_a_helper() -> Subject:
    def make(rate: float) -> tuple[Callable[[], float], Callable[[float], None]]:
        def get() -> float:
            return rate

        def put(value: float) -> None:
            nonlocal rate
            rate = value

        return get, put

    get, put = make(0.5)
    return Subject(lambda step: get() * 2, [lambda: put(0.25), lambda: put(1)])


@hostile()
def global_changes() -> Subject:
    made = module("RATE = 0.5\ndef f(step): return RATE")
    return Subject(made.f, [setting(made, "RATE", 0.25), setting(made, "RATE", 3)])


@hostile()
def global_appears() -> Subject:
    made = module("def f(step):\n try: return RATE\n except NameError: return 0.5")
    return Subject(made.f, [setting(made, "RATE", 0.25), lambda: delattr(made, "RATE")])


@hostile()
def global_function_changes() -> Subject:
    made = module("def rate(): return 0.5\ndef f(step): return rate()")
    return Subject(made.f, [setting(made, "rate", lambda: 0.25), setting(made, "rate", abs), setting(made, "rate", lambda: 0.75)][:1])


@hostile()
def module_attribute_changes() -> Subject:
    config = module("RATE = 0.5")
    return Subject(lambda step: config.RATE, [setting(config, "RATE", 0.25), lambda: delattr(config, "RATE") or setattr(config, "RATE", 1)])


@hostile()
def module_attribute_appears() -> Subject:
    config = module("")
    return Subject(lambda step: getattr(config, "RATE", 0.5), [setting(config, "RATE", 0.25)])


@hostile(TABLE)
def module_getattr() -> Subject:
    config = module("LOG = []\ndef __getattr__(name): LOG.append(name); return 1 / len(LOG)")
    return Subject(lambda step: config.RATE, state=lambda: list(config.LOG))


@hostile()
def module_getattr_appears() -> Subject:
    config = module("")
    return Subject(lambda step: getattr(config, "RATE", 0.5), [setting(config, "__getattr__", lambda name: 0.25)])


@hostile()
def module_subclass() -> Subject:
    class M(types.ModuleType):
        @property
        def RATE(self) -> float:
            return rate[0]

    rate, config = [0.5], M("config")
    return Subject(lambda step: config.RATE, [lambda: rate.__setitem__(0, 0.25)])


@hostile()
def module_becomes_another_class() -> Subject:
    class M(types.ModuleType):
        RATE = property(lambda self: 0.25)

    config = module("RATE = 0.5")
    return Subject(lambda step: config.RATE, [setting(config, "__class__", M)])


@hostile()
def module_imported_inside() -> Subject:
    config = module("RATE = 0.5")
    sys.modules[config.__name__] = config
    made = module(f"def f(step):\n import {config.__name__} as config\n return config.RATE")
    replace = lambda: sys.modules.__setitem__(config.__name__, module("RATE = 0.25"))  # noqa: E731
    return Subject(made.f, [replace], clean=lambda: sys.modules.pop(config.__name__))


@hostile()
def name_imported_inside() -> Subject:
    config = module("RATE = 0.5")
    sys.modules[config.__name__] = config
    made = module(f"def f(step):\n from {config.__name__} import RATE\n return RATE")
    replace = lambda: sys.modules.__setitem__(config.__name__, module("RATE = 0.25"))  # noqa: E731
    return Subject(made.f, [setting(config, "RATE", 0.75), replace], clean=lambda: sys.modules.pop(config.__name__))


@hostile()
def builtin_shadowed() -> Subject:
    made = module("def f(step): return max(0.25, 0.5)")
    return Subject(made.f, [setting(made, "max", min), lambda: delattr(made, "max"), setting(made, "max", lambda *x: 0.75)])


@hostile()
def builtin_replaced() -> Subject:
    made = module("def f(step): return max(0.25, 0.5)")
    real = max
    return Subject(
        made.f, [lambda: setattr(builtins, "max", lambda *x: real(*x) / 2 if x == (0.25, 0.5) else real(*x))],
        clean=lambda: setattr(builtins, "max", real),
    )


@hostile()
def builtin_appears() -> Subject:
    name = f"hostile_builtin_{next(_modules)}"
    made = module(f"def f(step):\n try: return {name}\n except NameError: return 0.5")
    return Subject(made.f, [setting(builtins, name, 0.25)], clean=lambda: vars(builtins).pop(name, None))


@hostile()
def builtins_of_its_own() -> Subject:
    space: dict[str, Any] = {"__builtins__": {**vars(builtins), "max": min}}
    exec("def f(step): return max(0.25, 0.5)", space)  # noqa: S102
    return Subject(space["f"], [lambda: space["__builtins__"].update(max=lambda *x: 0.75)])


@hostile()
def globals_of_its_own() -> Subject:
    class Space(dict[str, Any]):
        def __missing__(self, name: str) -> float:
            if name != "RATE":
                raise KeyError(name)
            return 0.25

    space = Space(__builtins__=builtins)
    exec("def f(step):\n try: return RATE\n except NameError: return 0.5", space)  # noqa: S102
    return Subject(space["f"], [lambda: space.update(RATE=0.75)])


@hostile()
def math_patched() -> Subject:
    made = types.ModuleType("math")
    vars(made).update(vars(math))
    return Subject(lambda step: made.sqrt(step), [setting(made, "sqrt", lambda x: 0.25), setting(made, "sqrt", math.cbrt if hasattr(math, "cbrt") else abs)])


@hostile()
def builtin_is() -> Subject:
    made = module("def f(step, reduce=max): return 0.5 if reduce is max else 0.25", )
    return Subject(made.f)


@hostile()
def builtin_equals() -> Subject:
    choice = [min]
    return Subject(lambda step: 0.5 if choice[0] == min else 0.25, [lambda: choice.__setitem__(0, max)])


@hostile()
def builtin_as_key() -> Subject:
    made = module("RATES = {abs: 0.5}\ndef f(step): return RATES.get(abs, 0.25)")
    return Subject(made.f)


@hostile()
def bound_method_equals() -> Subject:
    class F:
        def a(self) -> None: ...

    f = F()
    stored = f.a
    return Subject(lambda step: 0.5 if f.a == stored else 0.25)


@hostile()
def bound_method_as_key() -> Subject:
    class F:
        def a(self) -> None: ...

    f = F()
    rates = {f.a: 0.5}
    return Subject(lambda step: rates.get(f.a, 0.25))


@hostile()
def callable_object() -> Subject:
    class Config: ...

    config = Config()
    return Subject(lambda step: 0.5 if callable(config) else 0.25, [setting(Config, "__call__", lambda self: 1)])


@hostile()
def callable_module() -> Subject:
    return Subject(lambda step: 0.5 if callable(math) else 0.25)


@hostile()
def text_of_a_function() -> Subject:
    return Subject(lambda step: len(str(math.sin)) / 100)


@hostile()
def text_of_own_function() -> Subject:
    def helper() -> None: ...

    return Subject(lambda step: 0.5 if "helper" in repr(helper) else 0.25)


@hostile()
def class_of_the_step() -> Subject:
    return Subject(lambda step: 0.5 if step.__class__ is int else 0.25)


@hostile()
def class_of_a_float() -> Subject:
    return Subject(lambda step: 0.5 if (0.5).__class__ is float else 0.25)


@hostile()
def class_of_a_string() -> Subject:
    return Subject(lambda step: 0.5 if isinstance("x", "y".__class__) else 0.25)


@hostile()
def identity_of_true() -> Subject:
    return Subject(lambda step: 0.5 if (step > 1000) is True else 0.25)


@hostile()
def identity_of_the_step() -> Subject:
    return Subject(lambda step: 0.5 if step is step + 0 else 0.25, shared=True)


@hostile(TABLE)
def id_of_an_object() -> Subject:
    return Subject(lambda step: id(step) % 7 / 7, shared=True)


@hostile(TABLE)
def frames() -> Subject:
    return Subject(lambda step: sys._getframe().f_lineno % 7 / 7)


@hostile(TABLE)
def caller_s_name() -> Subject:
    return Subject(lambda step: len(sys._getframe(0).f_code.co_name) / 20)


@hostile()
def decorated() -> Subject:
    log: list[int] = []

    def noting(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            log.append(1)
            return function(*arguments, **named)

        return wrapper

    return Subject(noting(lambda step: 0.5), state=lambda: list(log))


@hostile(PROGRAM)
def decorated_purely() -> Subject:
    scale = [2.0]

    def scaled(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            return scale[0] * function(*arguments, **named)

        return wrapper

    return Subject(scaled(lambda step: 1 / (step + 1)), [lambda: scale.__setitem__(0, 3.0)])


@hostile(TABLE)
def single_dispatch() -> Subject:
    @functools.singledispatch
    def rate(step: Any) -> float:
        return 0.5

    return Subject(lambda step: rate(step), [lambda: rate.register(int, lambda step: 0.25)])


@hostile()
def stack_of_functions() -> Subject:
    functions: list[Any] = [lambda x: x * 0.5, lambda x: x + 1.0]

    def f(step: int) -> float:
        value = step / 1000
        for function in functions:
            value = function(value)
        return value

    return Subject(f, [lambda: functions.append(lambda x: x * 0.25), functions.pop, lambda: functions.reverse()])


@hostile()
def method_stored_elsewhere() -> Subject:
    class Box:
        rate = 0.5

        def get(self) -> float:
            return self.rate

    a, b = Box(), Box()
    b.rate = 0.25
    holder = types.SimpleNamespace(get=a.get)
    return Subject(lambda step: holder.get(), [setting(a, "rate", 0.75), setting(holder, "get", b.get), setting(b, "rate", 1.5)])


@hostile()
def static_and_class_methods() -> Subject:
    class Box:
        rate = 0.5

        @staticmethod
        def twice(x: float) -> float:
            return 2 * x

        @classmethod
        def get(cls) -> float:
            return cls.twice(cls.rate)

    class Sub(Box): ...

    box = Sub()
    return Subject(
        lambda step: box.get() + Box.get(),
        [setting(Sub, "rate", 0.25), setting(Sub, "twice", staticmethod(lambda x: 3 * x)), setting(Box, "get", classmethod(lambda cls: 0.5))],
    )


@hostile()
def super_in_a_class_method() -> Subject:
    class Base:
        rate = 0.5

        @classmethod
        def get(cls) -> float:
            return cls.rate

    class Sub(Base):
        @classmethod
        def get(cls) -> float:
            return super().get() / 2

    return Subject(lambda step: Sub.get(), [setting(Sub, "rate", 0.25)])


@hostile()
def diamond() -> Subject:
    class A:
        def get(self) -> float:
            return 0.5

    class B(A):
        def get(self) -> float:
            return super().get() / 2

    class C(A):
        def get(self) -> float:
            return super().get() + 0.25

    class D(B, C): ...

    d = D()
    return Subject(lambda step: d.get(), [setting(C, "get", lambda self: 0.125)])


@hostile()
def super_appears() -> Subject:
    class A:
        rate = 0.5

    class B(A): ...

    class C(B):
        def get(self) -> float:
            return super().rate

    c = C()
    return Subject(lambda step: c.get(), [setting(B, "rate", 0.25)])


@hostile()
def weakly_held_object_dies() -> Subject:
    made = module("def f(step): return CONFIG.rate", CONFIG=types.SimpleNamespace(rate=0.5))

    def replace(rate: float) -> None:
        del made.CONFIG
        made.CONFIG = types.SimpleNamespace(rate=rate)  # often at the address of the one before

    return Subject(made.f, [lambda: replace(0.25), lambda: replace(0.25), lambda: replace(0.75)])


@hostile()
def list_dies() -> Subject:
    made = module("def f(step): return CONFIG[0]", CONFIG=[0.5])

    def replace(rate: float) -> None:
        del made.CONFIG
        made.CONFIG = [rate]

    return Subject(made.f, [lambda: replace(0.25), lambda: replace(0.75)])


# -- its own scheduler and optimizer ------------------------------------------------------------------------


def _of_scheduler(name: str, use: str, where: str = TABLE) -> None:
    def make() -> Subject:
        made = module(f"SCHEDULER = None\ndef f(step):\n if SCHEDULER is None: return 0.5\n {use}", LOG=[])
        return Subject(made.f, attach=setting_scheduler(made), state=lambda: list(made.LOG))

    make.__name__ = f"scheduler_{name}"
    hostile(where)(make)


def setting_scheduler(made: types.ModuleType) -> Callable[[Any], None]:
    """Let the functions of a module know their scheduler, weakly."""
    return lambda scheduler: setattr(made, "SCHEDULER", weakref.proxy(scheduler))


_of_scheduler("last_epoch", "return 1 / (1 + SCHEDULER.last_epoch)")
_of_scheduler("step_count", "return 1 / (1 + SCHEDULER._step_count)")
_of_scheduler("last_lr", "return 0.5 + SCHEDULER._last_lr[0] / 4")
_of_scheduler("get_last_lr", "return 0.5 + SCHEDULER.get_last_lr()[0] / 4")
_of_scheduler("state_dict", "return SCHEDULER.state_dict()['last_epoch'] / 4096")
_of_scheduler("base_lrs", "return SCHEDULER.base_lrs[0]")
_of_scheduler("lr_of_group", "return 0.5 + SCHEDULER.optimizer.param_groups[0]['lr'] / 4")
_of_scheduler("all_of_it", "LOG[:] = [sorted((k, v) for k, v in vars(SCHEDULER).items() if type(v) in (int, float, bool))]; return 0.5")
_of_scheduler("within_step", "return 0.5 if SCHEDULER._get_lr_called_within_step else 0.25")
_of_scheduler("is_initial", "return 0.5 if SCHEDULER._is_initial else 0.25")
_of_scheduler("base_lrs_written", "SCHEDULER.base_lrs[0] *= 0.999; return 0.5")
_of_scheduler("base_lrs_replaced", "SCHEDULER.base_lrs = [SCHEDULER.base_lrs[0] * 0.999]; return 0.5")
_of_scheduler("group_written", "SCHEDULER.optimizer.param_groups[0]['weight_decay'] = step / 1000; LOG.append(step); return SCHEDULER.optimizer.param_groups[0]['weight_decay']")
_of_scheduler("last_epoch_written", "SCHEDULER.last_epoch += step % 3 == 0; return 1 / (1 + step)")
_of_scheduler("attribute_of_its_own", "SCHEDULER.mine = step; return SCHEDULER.mine / 4096")
_of_scheduler("learned_lr", "SCHEDULER.optimizer.param_groups[0]['lr'] = 0.25; return SCHEDULER.optimizer.param_groups[0]['lr']")


def _holding(name: str, use: str, *edits: str, where: str = EITHER) -> None:
    """As :func:`_of_scheduler`, where the function has the scheduler and the optimizer themselves."""

    def make() -> Subject:
        made = module(f"S = O = None\ndef f(step):\n if S is None: return 0.5\n {use}", LOG=[])
        changes = [functools.partial(exec, edit, vars(made)) for edit in edits]

        def attach(scheduler: Any) -> None:
            made.S, made.O = scheduler, scheduler.optimizer

        return Subject(made.f, changes, attach=attach, state=lambda: list(made.LOG))

    make.__name__ = f"held_{name}"
    hostile(where)(make)


_holding("last_epoch", "return 1 / (1 + S.last_epoch)", "S.last_epoch = 7")
_holding("within_step", "return 0.5 if S._get_lr_called_within_step else 0.25")
_holding("is_initial", "return 0.5 if S._is_initial else 0.25")
_holding("base_lrs", "return S.base_lrs[0]", "S.base_lrs[0] = 0.25", "S.base_lrs = [0.75]")
_holding("functions", "return 1 / len(S.lr_lambdas)")
_holding("attribute", "return getattr(S, 'mine', 0.5)", "S.mine = 0.25", "del S.mine")
_holding("class_attribute", "return getattr(S, 'mine', 0.5)", "type('X', (), {})", "S.__dict__['mine'] = 0.25")
_holding("name", "return len(type(S).__name__) / 10")
_holding("optimizer", "return 0.5 if S.optimizer is O else 0.25")
_holding("lr", "return 0.5 + O.param_groups[0]['lr'] / 4", "O.param_groups[0]['lr'] = 0.75")
_holding("weight_decay", "return 0.5 + O.param_groups[0]['weight_decay']", "O.param_groups[0]['weight_decay'] = 0.25")
_holding("own_key", "return O.param_groups[0].get('scale', 0.5)", "O.param_groups[0]['scale'] = 0.25", "del O.param_groups[0]['scale']")
_holding("groups", "return 1 / len(O.param_groups)")
_holding("defaults", "return O.defaults['lr']", "O.defaults['lr'] = 0.25")
_holding("state", "return 1 / (1 + len(O.state))", "O.state[0] = {}")
_holding("called", "return 0.5 if getattr(O, '_opt_called', False) else 0.25", "O._opt_called = False")
_holding("optimizer_attribute", "return getattr(O, 'scale', 0.5)", "O.scale = 0.25", "type(O).scale = 0.75", "del O.scale", "del type(O).scale")
_holding("truth", "return 0.5 if O and S else 0.25")
_holding("parameter", "return 0.5 + float(O.param_groups[0]['params'][0])")
_holding("hasattr", "return 0.5 if hasattr(S, 'get_lr') and not hasattr(S, 'nothing') else 0.25", "S.nothing = 1")
_holding("own_method", "return S.half(1.0)", where=EITHER)
MAKERS.pop("held_own_method")


# -- what comes back ---------------------------------------------------------------------------------------


def _value(name: str, use: str, where: str = EITHER, **variables: Any) -> None:
    def make() -> Subject:
        known = {"math": math, "np": np, "torch": torch, "operator": operator, "itertools": itertools, **variables}
        return Subject(module(use if "def f(" in use else f"def f(step): return {use}", **known).f)

    make.__name__ = name
    hostile(where)(make)


_value("returns_tensor", "torch.tensor(0.5)", TABLE)
_value("returns_tensor64", "torch.tensor(1.0, dtype=torch.float64) / (step + 1)", TABLE)
_value("returns_bool", "step % 3 == 0")
_value("returns_int", "step // 100")
_value("returns_float32", "np.float32(1.0) / np.float32(step + 1)")
_value("returns_int64", "np.int64(step)")
_value("returns_longdouble", "np.longdouble(1) / (step + 1)")
_value("returns_array", "np.array(0.5)")
_value("returns_fraction", "Fraction(1, step + 1)", TABLE, Fraction=fractions.Fraction)
_value("returns_huge_int", "10 ** (step % 300)")
_value("returns_nan", "float('nan') if step % 2 else 0.5")
_value("returns_infinity", "math.inf if step % 7 == 3 else -0.0")
_value("returns_negative_zero", "-0.0 * step")
_value("returns_int_enum", "R.A", TABLE, R=enum.IntEnum("R", "A B"))
_value("returns_subnormal", "5e-324 * (step % 5)")
_value("returns_string", "'0.5'", TABLE)
_value("returns_none_late", "0.5 if step < 200 else None", TABLE)
_value("returns_tuple_late", "0.5 if step < 200 else (0.5,)", TABLE)
_value("returns_decimal_late", "0.5 if step < 200 else D", TABLE, D=decimal.Decimal("0.5"))
_value("returns_list_times", "[0.5, 0.25][step % 2]")
_value("int_of_log2", "1.0 / (1 + int(math.log2(step + 1)))")
_value("floor_of_log10", "math.floor(math.log10(step + 1)) / 4")
_value("bit_length", "step.bit_length() / 12")
_value("int_power_of_int", "(step % 11) ** 3 / 1331")
_value("negative_power", "(step + 1) ** -2")
_value("power_of_negative", "(-3) ** (step % 5) / 81")
_value("power_modulo", "pow(3, step, 7) / 7")
_value("floor_of_negatives", "(-step // 7) / -500 + (-step % 7) / 7")
_value("modulo_of_a_negative", "step % -7 / -7 + step // -7 / -500")
_value("modulo_of_floats", "(step * 0.1) % 0.3 + (step * -0.1) % 0.3")
_value("floor_division_of_floats", "(step * 0.1) // 0.3 / 1000")
_value("divmod_of_negatives", "sum(divmod(-step, 12)) / 400")
_value("bits", "(step & 7) / 8 + (step >> 3) / 400 + (step << 2) / 12000")
_value("bits_any", "((step & 5) | (step ^ 3)) / 4096")
_value("bits_not", "(~step & 15) / 16")
_value("bool_arithmetic", "(step > 10) + (step > 20) * 0.5 - (step % 2 == 0)")
_value("round_half_even", "round(step / 2) / 1500")
_value("round_digits", "round(step / 7, 2) / 500")
_value("round_negative_digits", "round(step, -2) / 3000")
_value("chained_comparison", "0.5 if 10 < step <= 2000 < 10 * step else 0.25")
_value("f_string", "float(f'0.{step}')")
_value("percent_format", "len('%d' % step) / 4")
_value("format_method", "len('{:>{}}'.format(step, 3)) / 4")
_value("string_reversed", "int(str(step)[::-1]) / 1e4")
_value("string_table", "'0123456789'.index(str(step % 10)) / 10")
_value("star_arguments", "def g(*a, **k): return sum(a) + k.get('x', 0)\ndef f(step): return g(*[step, 1], **{'x': 2}) / 4096")
_value("default_of_lambda", "def f(step): return (lambda x=step: x / 4096)()")
_value("late_binding", "def f(step):\n fs = [lambda: i for i in range(3)]\n return sum(g() for g in fs) / (step + 9)")
_value("comprehension_scope", "def f(step):\n x = 3\n y = [x for x in range(step % 4)]\n return (x + len(y)) / 9")
_value("walrus", "def f(step):\n if (n := step % 7) > 3: return n / 7\n return 1 - n / 7")
_value("walrus_in_comprehension", "def f(step):\n [last := k for k in range(step % 5 + 1)]\n return last / 5")
_value("while_loop", "def f(step):\n x, n = 1.0, 0\n while x > 0.1 and n < step % 20: x *= 0.9; n += 1\n return x")
_value("while_else", "def f(step):\n n = step % 5\n while n:\n  n -= 1\n  if n == 3: break\n else: return 0.25\n return 0.5")
_value("collatz", "def f(step):\n n, k = step + 1, 0\n while n != 1 and k < 200: n = n // 2 if n % 2 == 0 else 3 * n + 1; k += 1\n return k / 200")
_value("digits_loop", "def f(step):\n total = 0\n while step: step, d = divmod(step, 10); total += d\n return total / 40")
_value("for_else", "def f(step):\n for p in (2, 3, 5, 7):\n  if step % p == 0: break\n else: return 0.75\n return p / 10")
_value("recursion", "def g(n): return 1 if n < 2 else g(n - 1) + g(n - 2)\ndef f(step): return g(step % 9) / 34")
_value("mutual_recursion", "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\ndef f(step): return 0.5 if even(step % 8) else 0.25")
_value("recursion_too_deep", "def g(n): return 0.5 if n == 0 else g(n - 1)\ndef f(step): return g(step % 50)")
_value("caught_zero_division", "def f(step):\n try: return 1 / (step % 5)\n except ZeroDivisionError: return 0.125")
_value("caught_message", "def f(step):\n try: return 1.0 / (step % 150)\n except ZeroDivisionError as e: return len(str(e)) / 50")
_value("caught_key", "def f(step):\n try: return {1: 0.5, 3: 0.25}[step % 5]\n except KeyError as e: return e.args[0] / 8")
_value("caught_index", "def f(step):\n try: return [0.5, 0.25][step % 4]\n except IndexError: return 0.125")
_value("caught_domain", "def f(step):\n try: return math.sqrt(500 - step) / 30\n except ValueError: return 0.125")
_value("caught_overflow", "def f(step):\n try: return math.exp(step) / 1e300 % 1\n except OverflowError: return 0.125")
_value("caught_and_raised", "def f(step):\n try:\n  try: return 1 / (step % 3)\n  except ZeroDivisionError: raise ValueError('x')\n except ValueError: return 0.3")
_value("finally_returns", "def f(step):\n try: return 1 / (step % 3)\n except ZeroDivisionError: return 0.5\n finally:\n  if step % 2: return 0.25")
_value("bare_except", "def f(step):\n try: return 1 / (step % 3)\n except: return 0.5")
_value("assertion", "def f(step):\n try: assert step % 3\n except AssertionError: return 0.5\n return 0.25")
_value("generator_inside", "sum(k * k for k in range(step % 6)) / 55")
_value("generator_delegates", "def g(n): yield from range(n)\ndef f(step): return sum(g(step % 6)) / 15")
_value("zip_and_enumerate", "sum(i * a for i, a in enumerate([0.1, 0.2])) + sum(a * b for a, b in zip((1, 2), (step, 1))) / 4096")
_value("sorted_by_key", "sorted([3, step % 7, 1], key=lambda x: -x)[1] / 7")
_value("minimum_of_many", "min(step / 100, 1.0, *[2 - step / 3000])")
_value("max_with_key", "max([0.1, 0.3, 0.2], key=lambda x: abs(x - step / 10000))")
_value("sum_of_floats", "sum([0.1] * 10 + [step / 7, -step / 7])")
_value("fsum", "math.fsum([0.1] * 10)")
_value("product", "math.prod([0.5, 1.5, step + 1]) / 4096")
_value("accumulate", "list(itertools.accumulate([1, 2, step % 5]))[-1] / 7")
_value("any_and_all", "any(step % p == 0 for p in (2, 3)) * 0.5 + all(step % p for p in (2, 3)) * 0.25")
_value("match_values", "def f(step):\n match step % 4:\n  case 0: return 0.5\n  case 1 | 2: return 0.25\n  case n if n > 2: return 0.125")
_value("match_mapping", "def f(step):\n match {'a': step % 3}:\n  case {'a': 0}: return 0.5\n  case {'a': n, **rest}: return n / 4")
_value("match_sequence", "def f(step):\n match [step % 3, 1]:\n  case [0, *_]: return 0.5\n  case [n, 1]: return n / 4")
_value("match_singleton", "def f(step):\n match None if step % 2 else True:\n  case None: return 0.5\n  case True: return 0.25")
_value("string_format_of_floats", "float('%.3f' % (step / 7)) / 500")
_value("cosine", "0.5 * (1 + math.cos(math.pi * step / 3000))")
_value("numpy_cosine", "0.5 * (1 + np.cos(np.pi * step / 3000))")
_value("numpy_where", "np.where(step < 100, 0.5, 0.25)")
_value("numpy_mean", "np.mean([0.5, step / 3000])")
_value("numpy_clip", "np.clip(step / 1000, 0.1, 0.9)")
_value("numpy_divides_by_zero", "float(np.float64(1.0) / (step % 5 + 1))")
_value("statistics_mean", "statistics.mean([0.5, step / 3000])", statistics=statistics)
_value("json_parsed", "json.loads('[0.5, 0.25]')[step % 2]", json=json)
_value("regular_expression", "len(re.findall('1', str(step))) / 4", re=re)
_value("string_template", "float(string.Template('0.$x').substitute(x=step))", string=string)
_value("big_integers", "(step * 900000001) % 1000 / 1000")
_value("factorial", "math.factorial(step % 12) / math.factorial(11)")
_value("combinations", "math.comb(10, step % 11) / 252")
_value("isqrt", "math.isqrt(step) / 55")
_value("gcd_of_the_step", "math.gcd(step, 12) / 12")
_value("float_hex", "float.fromhex('0x1p-1')")
_value("float_ratio", "(0.5).as_integer_ratio()[1] / 4")
_value("is_integer", "0.5 if (step / 7).is_integer() else 0.25")
_value("step_real", "step.real / 4096 + step.imag")
_value("step_conjugate", "step.conjugate() / 4096")
_value("int_of_string", "int('0x1f', 16) / 64")
_value("reversed_list", "[*reversed([0.1, 0.2, 0.3])][step % 3]")
_value("slices", "sum([0.1, 0.2, 0.3, 0.4][step % 3:])")
_value("dict_comprehension", "{k: k * step for k in range(3)}[2] / 8192")
_value("set_of_steps", "len({step % 3, step % 2}) / 2")
_value("dict_by_step", "{step: 0.5}[step]")
_value("ternary_chain", "0.1 if step < 10 else 0.2 if step < 100 else 0.3 if step < 1000 else 0.4")
_value("closure_factory", "def make(n):\n def g(x): return x / n\n return g\ndef f(step): return make(7)(step % 7)")
_value("local_import", "def f(step):\n import math as m\n return m.sqrt(step) / 60")
_value("local_class", "def f(step):\n class C:\n  x = step\n return C.x / 4096", TABLE)
_value("async_inside", "def f(step):\n async def g(): return 0.5\n try: g().send(None)\n except StopIteration as e: return e.value")
_value("iter_with_sentinel", "def f(step):\n it = iter([1, 2, 0, 3])\n return sum(iter(lambda: next(it), 0)) / 4")
_value("caught_iter_error", "def f(step):\n try: return sum(iter(lambda: 0, 0)) + 0.5\n except TypeError: return 0.25")
_value("list_keyword", "def f(step):\n try: return len(dict(a=1, b=2)) / 4\n except TypeError: return 0.25")
_value("round_keyword", "def f(step):\n try: return round(number=0.51, ndigits=1)\n except TypeError: return 0.25")
_value("min_default", "min([], default=0.5)")
_value("sum_start_keyword", "sum([step, 1], start=2) / 4096")
_value("int_keyword_base", "int('11', base=2) / 4")
_value("str_encoding", "len(str(b'abc', 'ascii')) / 4")
_value("tuple_keyword_error", "def f(step):\n try: tuple(1, 2)\n except TypeError: return 0.5\n return 0.25")
_value("abs_of_string_error", "def f(step):\n try: abs('x')\n except TypeError: return 0.5\n return 0.25")
_value("generator_left_open", """
def f(step):
    def walk():
        try: yield step
        finally: step * 2
    walker = walk()
    next(walker)
    box = [walker]
    box.append(box)
    return 0.5
""")
_value("raises_late", "1 / (step - 700)")
_value("raises_early", "1 / (step - 20)")
_value("raises_key_error_often", "{0: 0.5, 1: 0.25}[step % 3]")
_value("raises_in_a_table", "torch.tensor(1.0).item() / (step % 40)", TABLE)
_value("raises_its_own", "def f(step):\n if step % 50 == 49: raise E(step)\n return 0.5", TABLE, E=type("E", (Exception,), {}))
_value("raises_stop_iteration", "def f(step):\n if step % 50 == 49: raise StopIteration\n return 0.5")
_value("raises_recursion_error", "def f(step):\n if step % 50 == 49: return f(step)\n return 0.5")
