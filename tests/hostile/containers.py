# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions that look up numbers in enumerations, tuples, mappings and sequences."""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import decimal
import enum
import fractions
import math
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hostile.registry import EITHER, TABLE, Subject, hostile, module, setting


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
