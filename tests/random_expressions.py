"""Random expressions of Python, as source.

Types are kept while writing, so that most of what comes out can be traced: each float is known to be exact or not
(cos, exp, pow, ... are not), and each int has a size that it does not pass for steps up to 2**48.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

SMALL, WIDE = 50.0, 2.0**51
EXACT, ROUNDED = "exact", "rounded"  # kinds of floats
INEXACT_CALLS = ("cos", "sin", "exp", "log", "log2", "log10", "log1p", "atan", "tanh", "expm1", "tan")


class Name(NamedTuple):
    """A variable or function that is in sight. ``kind``: int, bool, exact or rounded; ``most``: the size of an int."""

    text: str
    kind: str
    most: float = 0.0
    parameters: tuple[str, ...] | None = None
    whole: tuple[int, ...] = ()


class Expressions:
    """Writes expressions of what is in sight.

    Attributes:
        inexact: whether an operation whose last place is not the same everywhere was written.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.inexact = rng, False
        self._lines: list[str] = []
        self._indent, self._names, self._count = 0, list[Name](), 0
        self._forks = rng.choice((2, 3, 4, 5, 6))  # decisions, which double the paths

    # -- small things ------------------------------------------------------------------------------------------

    def pick(self, *choices: Callable[[], str]) -> str:
        return self.rng.choice(choices)()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def fresh(self, letter: str) -> str:
        self._count += 1
        return f"{letter}{self._count}"

    def line(self, text: str) -> None:
        self._lines.append("    " * self._indent + text)

    @contextmanager
    def block(self, head: str) -> Any:
        """Lines below ``head``; what they define is out of sight after them."""
        self.line(head)
        self._indent += 1
        known, length = len(self._names), len(self._lines)
        yield
        if len(self._lines) == length:
            self.line("pass")
        del self._names[known:]
        self._indent -= 1

    def known(self, *kinds: str, most: float = 0.0, functions: bool = False) -> list[Name]:
        found = [n for n in self._names if n.kind in kinds and (n.parameters is not None) is functions]
        return [n for n in found if n.kind != "int" or n.most <= most]

    def fork(self) -> bool:
        """Whether one more decision may be written."""
        self._forks -= 1
        return self._forks >= 0

    # -- ints --------------------------------------------------------------------------------------------------

    def whole(self, depth: int, most: float = SMALL) -> str:
        """An int of at most ``most`` in size."""
        names = self.known("int", "bool", most=most)
        if depth <= 0 or self.chance(0.15):
            leaves = [lambda: self._constant(most), *[lambda: f"step % {self._modulus(most)}"] * 3]
            leaves += [lambda: self.rng.choice(names).text] * (2 * bool(names)) + [lambda: "step"] * (
                3 * (most >= WIDE)
            )
            return "(" + self.pick(*leaves) + ")"
        return "(" + self.pick(*self._whole_forms(depth - 1, most)) + ")"

    def _constant(self, most: float) -> str:
        top = int(min(most, self.rng.choice((3, 10, 100, 10_000, 2**20))))
        return str(self.rng.randint(-top if self.chance(0.3) else 0, top))

    def _modulus(self, most: float) -> str:
        top = max(int(min(most, self.rng.choice((5, 13, 1000, 2**21)))), 1)
        return str(-self.rng.randint(1, top) if self.chance(0.12) else self.rng.randint(1, top))

    def _whole_forms(self, d: int, most: float) -> list[Callable[[], str]]:
        r, w, half = self.rng, self.whole, most / 2
        c = r.randint(2, 9)
        forms: list[Callable[[], str]] = [
            lambda: f"{w(d, half)} + {w(d, half)}", lambda: f"{w(d, half)} - {w(d, half)}",
            lambda: f"{w(d, most / c)} * {r.choice((c, -c))}", lambda: f"-{w(d, most)}", lambda: f"+{w(d, most)}",
            lambda: f"{w(d, most)} // {self._divisor(d)}", lambda: f"{w(d, WIDE)} % {self._modulus(most)}",
            lambda: f"abs({w(d, most)})", lambda: f"{r.choice(('min', 'max'))}({w(d, most)}, {w(d, most)})",
            lambda: f"min({w(d, most)}, {w(d, most)}, {w(d, most)})", lambda: f"{w(d, most)} >> {r.randint(0, 5)}",
            lambda: f"{w(d, most / 8)} << {r.randint(0, 3)}", lambda: f"{w(d, WIDE)} & {2 ** r.randint(0, 5) - 1}",
            lambda: f"{r.choice(('int', 'round', 'math.floor', 'math.ceil', 'math.trunc'))}({self._near(d, half)})",
            lambda: f"int({self.truth(d)})", lambda: f"{self.truth(d)} + {self.truth(d)}",
            lambda: f"bisect.bisect_{r.choice(('left', 'right'))}(MILESTONES, {self.number(d)})",
            lambda: f"len(RATES) + {w(d, half)}", lambda: f"divmod({w(d, most)}, {self._divisor(d)})[{r.choice('01')}]",
            lambda: f"WHOLES[{w(d, WIDE)} % {c}]", lambda: f"{w(d, most)} if {self.truth(d)} else {w(d, most)}",
            lambda: f"sum(int({w(d, WIDE)} > m) for m in MILESTONES)",
            lambda: f"operator.add({w(d, half)}, {w(d, half)})",
            lambda: f"{w(d, most)} or {w(d, most)}", lambda: f"{w(d, most)} and {w(d, most)}",
            lambda: f"CONFIG.period // {self._divisor(d)}", lambda: f"COUNTS.get({w(d, WIDE)}, {self._constant(most)})",
        ]  # fmt: skip
        if most >= WIDE:
            forms += [lambda: "step * step" if r.random() < 0.2 else "step"] * 3
            forms += [lambda: f"{w(d, 1000)} * {w(d, 10**6)}", lambda: f"{w(d, 10**4)} ** {r.choice((0, 1, 2, 3))}"]
            forms.append(lambda: f"{r.choice((2, 3, -2, 0, 1, -1, True))} ** ({w(d, WIDE)} % {r.randint(1, 30)})")
        calls = self.known("int", most=most, functions=True)
        return forms + [lambda: self._call(r.choice(calls), d)] * (4 * bool(calls))

    def _divisor(self, d: int) -> str:
        if self.chance(0.85):
            return str(self.rng.choice((-7, -3, -1, 1, 2, 3, 5, 10, 64, 1000)))
        return self.whole(d, SMALL)

    def _near(self, d: int, most: float) -> str:
        """An exact float of at most ``most`` in size."""
        if most >= WIDE / 8:
            return f"step / {self.rng.choice((2, 3, 7.5, 0.5, -4, 100))}"
        return f"({self.real(d, EXACT)}) % {max(int(min(most, 99)), 1)}"

    # -- floats ------------------------------------------------------------------------------------------------

    def number(self, depth: int) -> str:
        """An int or an exact float."""
        return self.whole(depth, WIDE) if self.chance(0.5) else self.real(depth, EXACT)

    def real(self, depth: int, kind: str) -> str:
        """A float, or what is used as one."""
        kind = kind if self.chance(0.8) else EXACT
        names = self.known(*(EXACT, ROUNDED)[: 1 + (kind == ROUNDED)])
        if depth <= 0 or self.chance(0.12):
            leaves = [self._literal, *[lambda: f"step / {self.rng.choice((7, 100, 3000, 1e5, -12.5))}"] * 3]
            leaves += [lambda: self.rng.choice(names).text] * (2 * bool(names))
            return "(" + self.pick(*leaves) + ")"
        forms = self._exact_forms(depth - 1, kind)
        if kind == ROUNDED:
            self.inexact = True
            forms = self._rounded_forms(depth - 1) if self.chance(0.4) else forms
        return "(" + self.pick(*forms) + ")"

    def _literal(self) -> str:
        r = self.rng
        plain = [r.uniform(-2, 2), round(r.uniform(0, 100), 1), 10 ** r.uniform(-6, 3), 0.0, -0.0, 0.1, 1.0, 0.5, -2.5]
        return repr(r.choice([*plain, *plain, 1e300, 1e-310, float(r.randint(1, 10**6))]))

    def _exact_forms(self, d: int, kind: str) -> list[Callable[[], str]]:
        r, w = self.rng, self.whole

        def f() -> str:
            return self.real(d, kind)

        def x() -> str:
            return self.real(d, EXACT)

        i, c = r.randint(1, 5), r.choice((0.5, 2.0, 3, -3, 7.25, -0.75, 100))
        np_two, np_one = (
            r.choice(("minimum", "maximum", "add", "multiply", "subtract")),
            r.choice(("absolute", "negative")),
        )
        forms: list[Callable[[], str]] = [
            lambda: f"{f()} + {f()}", lambda: f"{f()} - {f()}", lambda: f"{f()} * {f()}", lambda: f"{f()} / {c}",
            lambda: f"{f()} / {f()}", lambda: f"-{f()}", lambda: f"abs({f()})", lambda: f"{w(d, WIDE)} / {c}",
            lambda: f"{x()} % {c}", lambda: f"{x()} // {c}", lambda: f"{w(d, WIDE)} % {c}", lambda: f"{c} % {x()}",
            lambda: f"min({f()}, {f()})", lambda: f"max({f()}, {w(d)})", lambda: f"max({f()}, {f()}, {f()})",
            lambda: f"math.sqrt(abs({f()}))", lambda: f"{f()} if {self.truth(d)} else {f()}",
            lambda: f"float({w(d, WIDE)})", lambda: f"{w(d)} * {f()}", lambda: f"{f()} + {w(d)}",
            lambda: f"RATES[{w(d, WIDE)} % {i}]", lambda: f"PAIR[{w(d, 3)}]", lambda: f"TABLE.get({w(d, WIDE)}, {f()})",
            lambda: f"sum([{f()}, {f()}, {w(d)}])", lambda: f"sum({f()} * v for v in RATES)", lambda: "CONFIG.rate",
            lambda: f"math.copysign({f()}, {w(d)})", lambda: f"math.fmod({x()}, {c})", lambda: f"math.fabs({f()})",
            lambda: f"divmod({x()}, {c})[{r.choice('01')}]", lambda: f"NESTED[{w(d, WIDE)} % 2][{w(d, WIDE)} % 2]",
            lambda: f"[{f()}, {f()}, {w(d)}][{w(d, WIDE)} % 3]", lambda: f"float(np.{np_two}({f()}, {f()}))",
            lambda: f"np.{np_one}({f()})", lambda: f"np.clip({f()}, 0.0, {abs(c)})", lambda: f"np.float64({f()}) / {c}",
            lambda: f"float(np.where({self.truth(d)}, {f()}, {f()}))", lambda: f"np.sqrt(np.abs({f()}))",
            lambda: f"np.floor({x()})", lambda: f"np.rint({x()} % 50)",
            lambda: f"NAMES[{r.choice(('up', 'down'))!r}] * {f()}",
            lambda: f"functools.reduce(lambda p, q: p * 0.5 + q, [{f()}, {f()}, {f()}])",
            lambda: f"math.radians({f()})",
            lambda: f"max([{f()}, {f()}], key=lambda v: {c})", lambda: f"(lambda v, k={c}: v * k)({f()})",
            lambda: f"operator.truediv({f()}, {c})",
        ]  # fmt: skip
        calls = self.known(*(EXACT, ROUNDED)[: 1 + (kind == ROUNDED)], functions=True)
        return forms + [lambda: self._call(r.choice(calls), d)] * (6 * bool(calls))

    def _rounded_forms(self, d: int) -> list[Callable[[], str]]:
        r, name = self.rng, self.rng.choice(INEXACT_CALLS)

        def f() -> str:
            return self.real(d, ROUNDED)

        inner = {
            "exp": lambda: f"-abs({f()})", "expm1": lambda: f"min({f()}, 9)", "log1p": lambda: f"abs({f()})",
            "log": lambda: f"1.5 + abs({f()})", "log2": lambda: f"{self.whole(d, WIDE)}",
            "log10": lambda: f"abs({f()})", "cos": lambda: f"math.pi * {f()}",
        }.get(name, f)  # fmt: skip
        numpys = r.choice(("cos", "exp", "log1p", "tanh", "sin", "arctan", "log", "power"))
        second = f", {r.choice((2, 0.5, -1.5))}" if numpys == "power" else ""
        return [
            lambda: f"math.{name}({inner()})", lambda: f"math.{name}({inner()})", lambda: f"math.{name}({inner()})",
            lambda: f"np.{numpys}(abs({f()}){second})", lambda: f"abs({f()}) ** {r.choice((2, 0.5, 1.5, 3.0, 0.9))}",
            lambda: f"{r.choice((0.95, 0.5, 10, 0.999))} ** (step / {r.choice((10, 1000, 5e4))})",
            lambda: f"{r.choice((0.9, 0.99, 1.01, -0.5))} ** {self.whole(d, 300)}", lambda: "(step + 1) ** -0.5",
            lambda: f"math.pow(abs({f()}), {r.choice((2, 0.5))})", lambda: f"math.log(2 + abs({f()}), 3)",
            lambda: f"{f()} ** {r.choice((2, 3, -1, 0.5))}",
        ]  # fmt: skip

    # -- conditions --------------------------------------------------------------------------------------------

    def truth(self, depth: int) -> str:
        """A truth value."""
        if not self.fork():
            return self.rng.choice(("True", "CONFIG.flag", "(len(RATES) > 2)", "(1 < 0)"))
        r, d, names = self.rng, depth - 1, self.known("bool")
        sign = r.choice(("<", "<=", ">", ">=", "==", "!="))
        m = r.choice((1, 10, 100, 500, 1000, 12_000, 10**6))
        forms: list[Callable[[], str]] = [
            lambda: f"step {sign} {r.randint(0, m)}", lambda: f"{self.whole(d, WIDE)} {sign} {r.randint(-m, m)}",
            lambda: f"{self.real(d, EXACT)} {sign} {self.real(d, EXACT)}",
            lambda: f"{self.whole(d)} {sign} {self.whole(d)}",
            lambda: f"{self.real(d, ROUNDED)} {sign} {self._literal()}", lambda: f"{r.randint(0, m)} <= step < {m + m}",
            lambda: f"{self.real(d, EXACT)} < {self.whole(d, WIDE)} <= {self.real(d, EXACT)}", lambda: "CONFIG.flag",
            lambda: f"{self.whole(d, WIDE)} {r.choice(('in', 'not in'))} {r.choice(('CHOSEN', 'MILESTONES', 'TABLE'))}",
            lambda: f"step % {r.randint(2, 50)} in {{0, 3, {r.randint(4, 40)}}}", lambda: f"not {self.truth(d)}",
            lambda: f"{self.truth(d)} {r.choice(('and', 'or'))} {self.truth(d)}", lambda: f"bool({self.number(d)})",
            lambda: "any(step == m for m in MILESTONES[:3])", lambda: f"all(step > m for m in ({m}, {2 * m}))",
            lambda: f"float({self.number(d)}).is_integer()",
            lambda: f"isinstance({self.number(d)}, {r.choice(('int', 'float', '(int, float)', 'bool'))})",
            lambda: f"{self.truth(d)} {r.choice('&|^')} {self.truth(d)}",
            lambda: f"math.isfinite({self.real(d, EXACT)})",
            lambda: f"math.isclose({self.real(d, EXACT)}, {self._literal()}, rel_tol=1e-3)",
        ]  # fmt: skip
        forms += [lambda: r.choice(names).text] * (3 * bool(names))
        return "(" + (forms[0]() if depth <= 0 else self.pick(*forms)) + ")"

    def _call(self, name: Name, d: int) -> str:
        assert name.parameters is not None
        given = [self.whole(d) if p == "int" else self.real(d, p) for p in name.parameters]
        if given and self.chance(0.2):
            given[-1] = f"*({given[-1]},)"
        return f"{name.text}({', '.join(given)})"
