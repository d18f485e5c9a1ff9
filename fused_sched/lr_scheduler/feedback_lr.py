"""FeedbackLR."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from operator import is_
from types import FunctionType
from typing import Any

from torch.optim import Optimizer

from ..facts import Fact
from ..memory.values import as_float
from ..program.bounds import ANY, Interval
from ..program.builder import Builder, Value
from ..trace import Given, Traced, Untraceable, emit_per_group, trace_all
from ..trace.paths import Explorer
from .audit import Audit
from .measured import HostMeasured, Measured, one_a_group

Function = Callable[[float, float], float]

_EDGES = (0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-8, 0.01, 0.1, 1e8, 1.7e308, -1.7e308, math.inf, -math.inf)
MOST_AROUND = 40  # numbers of a function around which it is compared with its program
RANDOM = 300  # pairs


def _pairs(explorer: Explorer, sparse: bool) -> list[dict[str, float]]:
    """Each number that decides may be one of the function's, or an end of what float64 has, beside any of the other."""
    generator = random.Random(0)
    around = [*_EDGES]
    for number in sorted(explorer.graph.numbers(), key=abs)[:MOST_AROUND]:
        for x in (number, -number):
            around += [math.nextafter(x, -math.inf), x, math.nextafter(x, math.inf)]

    def drawn(low: float, high: float) -> float:
        return float(10 ** generator.uniform(low, high))

    pairs = [(drawn(-6, 0), signal) for signal in around]
    pairs += [(lr, drawn(-5, 1)) for lr in (*around, math.nan)]
    pairs += [(generator.choice(around), generator.choice(around)) for _ in range(RANDOM // 3)]
    signs = (1.0, 1.0, 1.0, -1.0)
    pairs += [(drawn(-8, 0), generator.choice(signs) * drawn(-8, 3)) for _ in range(RANDOM)]
    step = 1 + len(pairs) * explorer.lines_of_a_path // (50_000 if sparse else 500_000)
    return [{"lr": lr, "signal": signal} for lr, signal in pairs[::step]]


LR_AND_SIGNAL = Given({"lr": (ANY, False), "signal": (Interval(), False)}, _pairs, "pairs of lr and signal")


class _HostFeedbackLR(HostMeasured):
    """What FeedbackLR means, in torch's terms."""

    def __init__(self, optimizer: Optimizer, function: Function | Sequence[Function], last_epoch: int = -1) -> None:
        self.function: Any = [*function] if isinstance(function, Sequence) else function
        if isinstance(optimizer, Optimizer):  # else torch says so
            one_a_group("function", self.function, len(optimizer.param_groups))
        for one in self.function if isinstance(self.function, list) else [function]:
            if not callable(one):
                raise TypeError(f"function={one!r} must be a function of the lr and the signal")
            try:
                signature(one).bind(0.0, 0.0)
            except TypeError as error:
                raise TypeError(f"function={one!r} must take the lr and the signal, two floats: {error}") from None
            except ValueError:
                pass  # a built-in says nothing of its arguments
        super().__init__(optimizer, last_epoch)

    def _adapted(self, lrs: list[float], signal: float) -> list[float]:
        functions = one_a_group("function", self.function, len(lrs))
        return [_number(f(lr, signal), lr, signal) for f, lr in zip(functions, lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions; of callable objects the attributes are kept."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("optimizer", "function")}
        listed = isinstance(self.function, (list, tuple))
        kept = [_attributes(f) for f in (self.function if listed else [self.function])]
        return {**state, "function": kept if listed else kept[0]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from such a state."""
        self.__dict__.update({name: value for name, value in state_dict.items() if name != "function"})
        kept, listed = state_dict["function"], isinstance(self.function, (list, tuple))
        for f, attributes in zip(self.function if listed else [self.function], kept if listed else [kept], strict=True):
            if attributes:
                vars(f).update(attributes)


def _attributes(function: Any) -> dict[str, Any] | None:
    return None if isinstance(function, FunctionType) or not hasattr(function, "__dict__") else dict(vars(function))


def _number(value: Any, lr: float, signal: float) -> float:
    try:
        if not isinstance(value, (str, bytes)):
            return as_float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"function({lr!r}, {signal!r}) returned {value!r}, but must return a number: the next lr")


class FeedbackLR(Measured, _HostFeedbackLR):
    """Sets the lr to any Python function of the present lr and of what was measured.

    :meth:`observe` hands the measurement over, and the next step sets each param group to ``function(lr, signal)``.
    Where it is NaN or nothing was observed since the last step, no function is called and the lr is kept.

    A function that depends on its two arguments alone becomes part of the program (see :mod:`fused_sched.trace`). It is
    called to compare, in the first 64 steps whose signal the host knows, and then no more; :meth:`explain` says how
    near the program is to it. If it raises at some signals, the host has to look after each step whether it did. Any
    other function is called on the host, which then reads the signal: not inside the capture of a CUDA graph.

    Args:
        optimizer: any one; see :class:`OnDevice`.
        function: from two floats to a float; or a list with one for each param group.
        last_epoch: as in torch.

    Raises:
        ValueError: the list has another length than there are param groups.
        TypeError: ``function`` is not callable.
    """

    __slots__ = ("_audit", "_differs", "_known", "_traced")

    _constants = ("function",)

    def __init__(
        self,
        optimizer: Optimizer,
        function: Function | Sequence[Function],
        last_epoch: int = -1,
        *,
        fused: bool = False,
        skip_with_optimizer: bool = False,
    ) -> None:
        super().__init__(optimizer, function, last_epoch, fused=fused, skip_with_optimizer=skip_with_optimizer)

    def _reset_slots(self, fused: bool, skip_with_optimizer: bool) -> None:
        super()._reset_slots(fused, skip_with_optimizer)
        self._traced: list[Traced] | None = None  # one a group, or one for all
        self._known: list[Any] = []  # the functions that were traced
        self._audit = Audit(done=False)
        self._differs: str | None = None  # where a function turned out to be another one than was traced

    def _why_on_host(self) -> str | None:
        reason = super()._why_on_host()
        return self._why_function_on_host() if reason is None else reason

    def _why_function_on_host(self) -> str | None:
        given, known = [*self.function] if isinstance(self.function, (list, tuple)) else [self.function], self._known
        same = len(known) == len(given) and all(map(is_, known, given))
        if self._traced is None or not same or any(one.changed() for one in self._traced):
            self._traced, self._known, self._audit, self._differs = None, given, Audit(done=False), None
            try:
                found = trace_all(given, given=LR_AND_SIGNAL)
                b = Builder(len(given))
                self._emit_functions(b, found, b.register("signal", 0.0))  # may be too long
                self._traced = found
            except Untraceable as error:
                return error.reason
        return self._differs

    @staticmethod
    def _emit_functions(b: Builder, traced: list[Traced], signal: Value) -> Value:
        inputs = {"lr": b.field("lr"), "signal": signal}
        return emit_per_group(b, [one.outcome for one in traced], inputs, trap_lasts=True)[0]

    def _lr_after(self, b: Builder, signal: Value) -> Value:
        lr, known, traced = b.field("lr"), signal == signal, self._traced
        assert traced is not None
        with b.when(known):
            if len(traced) not in (1, b.n_groups) or (
                isinstance(self.function, (list, tuple)) and len(traced) != b.n_groups
            ):
                b.trap(b.number(1.0), awaited=True)  # the host's code raises
                return lr
            return b.where(known, self._emit_functions(b, traced, signal), lr)

    # -- calls of the function, to compare ---------------------------------------------------------------------

    def _compares(self) -> bool:
        return super()._compares() or (self._traced is not None and not self._audit.done)

    def _prepare(self, restart: bool) -> None:
        super()._prepare(restart)
        schedule = self._schedule
        if not restart and schedule is not None and self._compares() and not schedule.memory.capturing():
            self._compare()

    def _compare(self) -> None:
        signal, traced = self.observed, self._traced
        if traced is None or signal is None or signal != signal:
            return
        lrs = [as_float(group["lr"]) for group in self.optimizer.param_groups]
        given = self._adapted(lrs, signal)
        traced = traced * (len(lrs) if len(traced) == 1 else 1)
        found = [one.evaluate(lr, signal) or (None,) for one, lr in zip(traced, lrs, strict=True)]
        pairs = ((value, wanted) for (value,), wanted in zip(found, given, strict=True))
        self._differs = Audit.difference(f"signal {signal!r}", pairs)
        if self._differs is None:
            self._audit.note()
            return
        if self._schedule is not None and self._schedule.memory.captured:
            raise RuntimeError(f"{self._differs}, and a CUDA graph that was captured has its program")
        self._get_lr_given = given

    def _left_program(self) -> bool:
        return super()._left_program() or self._differs is not None

    def _facts_read(self) -> Iterator[Fact]:
        yield from super()._facts_read()
        for one in self._traced or ():
            yield from one.watch.facts

    def _explained(self) -> str | None:
        if self._traced is None:
            return None
        lines = [f"its function is part of the program: {one.explain()}" for one in dict.fromkeys(self._traced)]
        if any(one.traps for one in self._traced):
            lines.append("each step waits for the device, to see whether it raised")
        return "\n".join([*lines, self._audit.explain()])
