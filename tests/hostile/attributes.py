# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions that read a state behind attributes, items and calls of objects."""

from __future__ import annotations

import abc
import types
import unittest.mock
from typing import Any

from hostile.registry import TABLE, Subject, hostile, setting


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
