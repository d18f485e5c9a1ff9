# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions that depend on other functions, modules and what is built in."""

from __future__ import annotations

import builtins
import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from hostile.registry import PROGRAM, TABLE, Subject, hostile, module, serial, setting


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
    name = f"hostile_builtin_{next(serial)}"
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
