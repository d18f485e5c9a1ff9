# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions with side effects."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import ctypes
import dataclasses
import functools
import io
import itertools
import logging
import random
import tempfile
import threading
import time
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hostile.registry import TABLE, Subject, hostile, module, setting


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
