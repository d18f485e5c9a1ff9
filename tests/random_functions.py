"""Random functions of the step, as source: what the proof ``grammar`` compares programs with."""

from __future__ import annotations

from collections.abc import Callable

from random_expressions import EXACT, ROUNDED, SMALL, WIDE, Expressions, Name

IMPORTS = "import bisect, functools, itertools, math, operator\nimport numpy as np\n"


class Writer(Expressions):
    """Writes one module with a function called ``schedule``."""

    # -- statements --------------------------------------------------------------------------------------------

    def statements(self, depth: int, count: int) -> None:
        for _ in range(count):
            self.rng.choice(self._kinds(depth))(depth)

    def _kinds(self, depth: int) -> list[Callable[[int], None]]:
        simple = [self._assign, self._assign, self._assign, self._change, self._change]
        if depth <= 0:
            return simple
        return [
            *simple, self._if, self._if, self._if, self._for, self._for, self._while, self._try, self._raise,
            self._function, self._function, self._return, self._match, self._unpack, self._own_containers,
        ]  # fmt: skip

    def _value(self, name: Name, depth: int = 3) -> str:
        if name.kind == "int":
            return self.whole(depth, name.most)
        return self.truth(depth) if name.kind == "bool" else self.real(depth, name.kind)

    def _assign(self, depth: int) -> None:
        kind = self.rng.choice(("int", "int", EXACT, EXACT, ROUNDED, "bool"))
        name = Name(self.fresh(kind[0]), kind, self.rng.choice((SMALL, 10**6, WIDE)))
        self.line(f"{name.text} = {self._value(name)}")
        self._names.append(name)

    def _change(self, depth: int) -> None:
        kinds = ("int", "bool", EXACT, ROUNDED)
        names = [n for n in self._names if n.parameters is None and n.kind in kinds and n.text[1:].isdigit()]
        if not names:
            return
        name = self.rng.choice(names)
        if name.kind in (EXACT, ROUNDED) and self.chance(0.6):
            self.line(f"{name.text} {self.rng.choice(('+=', '-=', '*='))} {self._value(name, 2)}")
        else:
            self.line(f"{name.text} = {self._value(name, 2)}")

    def _if(self, depth: int) -> None:
        with self.block(f"if {self.truth(2)}:"):
            self.statements(depth - 1, self.rng.randint(1, 2))
        if self.chance(0.4):
            with self.block(f"elif {self.truth(2)}:"):
                self.statements(depth - 1, 1)
        if self.chance(0.5):
            with self.block("else:"):
                self.statements(depth - 1, self.rng.randint(1, 2))

    def _for(self, depth: int) -> None:
        r, name = self.rng, self.fresh("i")
        many = r.choice((
            f"range({r.randint(1, 4)})", f"range({r.randint(3, 9)}, 0, -2)", "MILESTONES[:3]",
            f"range(min({self.whole(1, WIDE)} // {r.choice((10, 100, 999))}, {r.randint(1, 3)}))",
            f"range(step % {r.randint(1, 4)})", "sorted(CHOSEN)[:2]",
        ))  # fmt: skip
        with self.block(f"for {name} in {many}:"):
            self._names.append(Name(name, "loop int", 10**6))
            self._names.append(Name(f"({name} % 7)", "int", 7.0))
            self._change(depth)
            if self.chance(0.4) and self.fork():
                with self.block(f"if step {r.choice(('<', '>='))} {name} * {r.randint(1, 200)}:"):
                    self.line(r.choice(("break", "continue")))
            self.statements(min(depth - 1, 1) if self.chance(0.3) else 0, 1)
        if self.chance(0.2):
            with self.block("else:"):
                self._change(depth)

    def _while(self, depth: int) -> None:
        n, edge, r = self.fresh("n"), self.fresh("g"), self.rng
        self._forks -= 2
        self.line(f"{n}, {edge} = 0, {r.randint(1, 300)}")
        with self.block(f"while {n} < {r.randint(1, 6)} and {edge} <= {self.rng.choice(('step', 'step % 5000'))}:"):
            self.line(f"{n} += 1")
            self.line(f"{edge} = {edge} * {r.randint(1, 3)} + {r.randint(1, 30)}")
            self._change(depth)
            if self.chance(0.3):
                self.line(f"if {n} == {r.randint(1, 4)} and {self.truth(1)}: break")
        self._names += [Name(n, "int", 8.0), Name(edge, "int", 10**6)]

    def _try(self, depth: int) -> None:
        r, name = self.rng, Name(self.fresh("e"), EXACT)
        self.line(f"{name.text} = {self._literal()}")
        risk, error = r.choice((
            (f"{self.real(2, EXACT)} / ({self.whole(2)})", "ZeroDivisionError"),
            (f"{self.whole(2, WIDE)} // ({self.whole(1)}) + 0.5", "ZeroDivisionError"),
            (f"{self.whole(2, WIDE)} % (step - {r.randint(0, 500)})", "(ZeroDivisionError, TypeError)"),
            (f"RATES[{self.whole(2)}]", "IndexError"), (f"TABLE[{self.whole(2, WIDE)}]", "KeyError"),
            (f"math.sqrt({self.real(2, EXACT)})", "ValueError"), (f"PAIR[{self.whole(1)}] * 2", "LookupError"),
        ))  # fmt: skip
        with self.block("try:"):
            self.line(f"{name.text} = {risk}")
        with self.block(f"except {error}:"):
            self.line(f"{name.text} = {self.real(1, EXACT)}")
        if self.chance(0.3):
            with self.block(r.choice(("else:", "finally:"))):
                self._change(depth)
        self._names.append(name)

    def _raise(self, depth: int) -> None:
        if self.chance(0.5):
            self.line(f"assert {self.truth(1)} or step < {self.rng.randint(100, 10**6)}")
        else:
            with self.block(f"if step == {self.rng.randint(0, 3000)} or {self.truth(1)} and step > 10**6:"):
                self.line(f"raise {self.rng.choice(('ValueError(step)', 'RuntimeError', 'KeyError(1)'))}")

    def _return(self, depth: int) -> None:
        if self._indent < 4:
            with self.block(f"if {self.truth(2)}:"):
                self.line(f"return {self.result()}")

    def result(self) -> str:
        kind = self.rng.choice((EXACT, EXACT, *[ROUNDED] * 6, "int", "int", "bool"))
        value = self._value(Name("", kind, WIDE / 4))
        known = self.known("int", "bool", EXACT, *[ROUNDED] * (kind == ROUNDED), most=WIDE / 4)
        more = self.rng.sample(known, min(len(known), self.rng.randint(0, 2))) if kind != "bool" else []
        return " + ".join([value, *(name.text for name in more)])

    def _function(self, depth: int) -> None:
        r, text = self.rng, self.fresh("f")
        parameters = [(self.fresh("p"), r.choice(("int", EXACT, ROUNDED))) for _ in range(r.randint(0, 2))]
        kind = r.choice(("int", EXACT, ROUNDED))
        given = [n for n, _ in parameters] + [f"k{text}={r.choice((2, 0.25, 'len(RATES)'))}"] * self.chance(0.4)
        local = [Name(n, k, SMALL) for n, k in parameters]
        if self.chance(0.2):
            with self.block(f"def {text}(n, scale=0.5):"):  # calls itself
                self.line("return scale if n <= 0 else n * scale + " + text + "(n - 1, scale)")
            self._names.append(Name(text, EXACT, 0.0, ("small",)))
            return
        if self.chance(0.3):
            self._names += local
            body = self.whole(2, SMALL) if kind == "int" else self.real(2, kind)
            del self._names[len(self._names) - len(local) :]
            self.line(f"{text} = lambda {', '.join(given)}: {body}")
        else:
            with self.block(f"def {text}({', '.join(given)}):"):
                self._names += local
                self.statements(depth - 1, r.randint(0, 1))
                self.line(f"return {self._value(Name('', kind, SMALL), 2)}")
        self._names.append(Name(text, kind, SMALL, tuple(k for _, k in parameters)))

    def _match(self, depth: int) -> None:
        n = self.rng.randint(2, 5)
        self._forks -= 2
        with self.block(f"match step {self.rng.choice(('%', '//'))} {n}:"):
            with self.block("case 0 | 2:"):
                self._change(depth)
            with self.block(f"case {self.rng.choice(('1', 'v if v > 5'))}:"):
                self._change(depth)

    def _unpack(self, depth: int) -> None:
        a, b, c = Name(self.fresh("u"), "int", WIDE), Name(self.fresh("x"), EXACT), Name(self.fresh("y"), ROUNDED)
        self.line(f"{a.text}, ({b.text}, *{c.text}) = {self._value(a, 2)}, [{self._value(b, 2)}, {self._value(c, 2)}]")
        self.line(f"{c.text} = sum({c.text})")
        self._names += [a, b, c]

    def _own_containers(self, depth: int) -> None:
        """A list or dict of the function's own that it changes."""
        own, name = self.fresh("l"), Name(self.fresh("z"), EXACT)
        if self.chance(0.5):
            self.line(f"{own} = [{self.real(1, EXACT)} for _ in range(3)]")
            self.line(f"{own}.append({self.real(1, EXACT)})")
            self.line(
                f"{own}[{self.rng.choice(('0', '-1', f'step % {self.rng.randint(1, 4)}'))}] += {self.real(1, EXACT)}"
            )
            self.line(
                f"{name.text} = {self.rng.choice(('max', 'min', 'sum'))}({own}) + {own}[{self.whole(2, WIDE)} % 4]"
            )
        else:
            keys = self.rng.sample(range(6), 3)
            self.line(
                f"{own} = {{{', '.join(f'{k}: {self.real(1, EXACT)}' for k in keys)}, 'a': {self.real(1, EXACT)}}}"
            )
            self.line(f"{own}[{keys[0]}] = {self.real(1, EXACT)}")
            self.line(f"{name.text} = {own}['a'] + sum({own}.values()) * ({own}.get(step % 6, 0.25))")
        self._names.append(name)

    # -- the module --------------------------------------------------------------------------------------------

    def module(self) -> str:
        """The source: ``schedule`` is the function."""
        self._outside()
        r, shape = self.rng, self.rng.choice(("plain", "closure", "default", "partial", "method", "object", "varied"))
        head = {
            "closure": "def make(warm, rate):", "method": "class Schedule:", "object": "class Schedule:",
        }.get(shape, "if True:")  # fmt: skip
        warm, rate = r.randint(1, 3000), r.choice((0.1, 3e-4, -2.0, 5))
        with self.block(head):
            if shape in ("method", "object"):
                self.line(f"warm, rate = {warm}, {rate}")
            with self.block(self._signature(shape, warm, rate)):
                if shape in ("method", "object"):
                    self.line("warm, rate = self.warm, self.rate")
                elif shape == "varied":
                    self.line("(step, warm), rate = given, named['rate']")
                elif shape == "plain":
                    self.line(f"warm, rate = {warm}, {rate}")
                self._names += [Name("warm", "int", 10**4), Name("rate", EXACT), Name("step", "int", WIDE)]
                self.statements(3, r.randint(1, 6))
                self.line(f"return {self.result()}")
            if shape == "closure":
                self.line("return inner")
        made = {
            "closure": f"make({warm}, {rate})", "partial": f"functools.partial(inner, rate={rate}, warm={warm})",
            "method": "Schedule().inner", "object": "Schedule()",
            "varied": f"functools.partial(lambda warm, step, **named: inner(step, warm, **named), {warm}, rate={rate})",
        }  # fmt: skip
        self.line(f"schedule = {made.get(shape, 'inner')}")
        return IMPORTS + "\n".join(self._lines) + "\n"

    @staticmethod
    def _signature(shape: str, warm: int, rate: float) -> str:
        return {
            "default": f"def inner(step, warm={warm}, *, rate={rate}):", "partial": "def inner(step, warm, *, rate):",
            "method": "def inner(self, step):", "object": "def __call__(self, step):",
            "varied": "def inner(*given, **named):",
        }.get(shape, "def inner(step):")  # fmt: skip

    def _outside(self) -> None:
        r = self.rng
        milestones = sorted(r.sample(range(1, r.choice((60, 3000, 10**6))), r.randint(3, 6)))
        keys = r.sample(range(r.choice((9, 2000))), r.randint(2, 8))
        self.line(f"MILESTONES = {milestones}")
        self.line(f"RATES = {[round(r.uniform(-1, 2), 3) for _ in range(5)]}")
        self.line(f"WHOLES = {[r.randint(-9, 9) for _ in range(9)]}")
        self.line(f"TABLE = {{{', '.join(f'{k}: {r.choice((0.5, -1.25, 2, True, 1e-3))}' for k in keys)}}}")
        self.line(f"COUNTS = {{{', '.join(f'{k}: {r.randint(-20, 20)}' for k in keys)}}}")
        self.line(f"CHOSEN = {{{', '.join(map(str, r.sample(milestones, 3) + keys))}}}")
        self.line(f"PAIR = ({r.randint(-3, 9)}, {r.uniform(0, 1)}, {r.choice((True, 3, -0.0))})")
        self.line("NESTED = [[0.5, 1], (2.0, -1)]")
        self.line(f"NAMES = {{'up': {r.uniform(0, 2)}, 'down': -1}}")
        with self.block("class Config:"):
            self.line(f"period, rate, flag = {r.randint(1, 500)}, {r.uniform(-1, 1)}, {r.choice((True, False))}")
        self.line("CONFIG = Config()")
