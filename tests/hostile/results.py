# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions by what they give."""

from __future__ import annotations

import decimal
import enum
import fractions
import itertools
import json
import math
import operator
import re
import statistics
import string
from typing import Any

import numpy as np
import torch

from hostile.registry import EITHER, TABLE, Subject, hostile, module


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
