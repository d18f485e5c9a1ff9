"""A scheduler as a program: what it emits, and why Python may have to run it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..facts import look_at
from ..memory.values import as_float
from ..program.account import MADE
from ..program.builder import Builder, Operand, Value
from ..program.program import LAST_EPOCH, STEP_COUNT, Program
from ..program.schedule import Schedule
from ..trace import Untraceable
from .attributes import Attributes, keep, kept
from .audit import Audit
from .functions import StepFunctions, as_number
from .overrides import StandIn, plain_function
from .registers import BEFORE_THE_FIRST, LAST_LR, GroupRegister, Register, is_counted
from .traced_get_lr import TracedGetLR, trace_get_lr

if TYPE_CHECKING:
    from typing_extensions import Self


class Programmed:
    """A scheduler whose steps are a program; the first of the classes that make up :class:`OnDevice`.

    They build on each other in one line, each in a file of its own: what the program is, what users change by hand,
    steps by torch's own code, how the program is put to work, torch's interface.

    A subclass implements :meth:`_next_lr`, or :meth:`_emit_step` where a step is more than an lr. The
    attributes in ``_registers``, and ``_last_lr``, are registers of the program: reading them reads the
    schedule, writing them moves it.

    Inside a SequentialLR or ChainedScheduler, which run as one program, ``_schedule`` is the outermost
    scheduler's and ``_scope`` the prefix of this one's names in it; ``_outer`` is the outermost scheduler.

    References go one way, so that all is freed when the user lets go of it: a scheduler has its optimizer and its
    parts. A part knows the outermost scheduler weakly, and a fused schedule its scheduler (see :class:`Hold`).
    """

    # In slots, so that state_dict(), which is all of __dict__, has torch's keys and no others.
    __slots__ = (
        "__weakref__", "_bases", "_comparing", "_fused", "_get_lr_audit", "_get_lr_differs", "_get_lr_given",
        "_groups_seen", "_home", "_horizon", "_host_reason", "_in_torchs_step", "_is_first_step", "_lrs_lent",
        "_methods_outdated", "_methods_touched", "_observing", "_order_checked", "_outdated", "_outer_reference",
        "_parts_seen", "_pending", "_restarts", "_schedule", "_scope", "_seen_in_groups", "_skip_with_optimizer",
        "_source", "_step_was_made", "_tabulates", "_touched", "_traced_get_lr", "_values_seen", "_watched_parts",
        "_watches_groups",
    )  # fmt: skip

    # Attributes of the torch class that are constants of the program; users may change them at any time.
    _constants: ClassVar[tuple[str, ...]] = ()
    _group_constants: ClassVar[tuple[str, ...]] = ()  # the same, kept by torch in the param groups
    _registers: ClassVar[tuple[str, ...]] = (LAST_EPOCH, STEP_COUNT)
    _sets: ClassVar[str] = "the lr"  # for messages
    _enables_get_lr: ClassVar[bool] = True  # torch's step says that get_lr is called within it
    _overwrites: ClassVar[bool] = False  # what it sets does not depend on what is there
    _order_matters: ClassVar[bool] = True  # torch warns if the first step comes before the optimizer's
    _bound_functions: ClassVar[dict[str, tuple[Any, ...]]] = {}  # attributes with methods of torch's that it bound
    _torch_class: ClassVar[type[LRScheduler]]
    _stand_in: ClassVar[StandIn]

    optimizer: Any
    _home: Any  # see Home; None before torch's constructor has said that what was given is no optimizer
    base_lrs: list[Any]
    _horizon: int  # steps computed ahead
    _step_was_made: bool  # of a copy, until it is settled: an update had made the coming step
    _is_initial = False  # torch's constructor makes the first step
    last_epoch = Register()
    _step_count = Register()
    _last_lr = GroupRegister()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        object.__setattr__(made, "__dict__", Attributes(made))
        made._horizon = 1
        made._reset_slots(False, False)
        made._home, made._step_was_made = None, False
        made._methods_touched = True  # in case that it is not constructed: see _settle
        return made

    @classmethod
    def _live_attributes(cls) -> frozenset[str]:
        """The attributes that are registers of the program."""
        return frozenset((*cls._registers, LAST_LR))

    def _take_assigned(self, name: str, value: Any) -> None:
        """``value`` is about to be stored in ``__dict__``, which no ``__setattr__`` sees."""
        if name in self._live_attributes():
            getattr(type(self), name).send(self, value)

    def _note_change(self, name: str) -> None:
        """Another value was assigned to an attribute, or it was deleted."""

    def _reset_slots(self, fused: bool, skip_with_optimizer: bool) -> None:
        self._schedule: Schedule | None = None
        self._scope = ""
        self._outer_reference: weakref.ref[Programmed] | None = None
        self._host_reason: str | None = None
        self._traced_get_lr: TracedGetLR | None = None  # of a subclass that overrides it
        self._is_first_step = False
        self._in_torchs_step = False
        # say whether facts that the program was built on hold no more, here and in the parts; of classes' methods alone
        self._outdated = self._methods_outdated = look_at(())
        self._seen_in_groups: list[list[Any]] = []
        self._values_seen = -1
        self._parts_seen: tuple[Any, ...] = ()  # at any depth, as the program was built
        self._lrs_lent: Any = None  # as of when: see GroupRegister
        self._methods_touched = False  # a method was assigned or deleted since
        self._touched = False  # a constant was assigned since the program was built
        self._tabulates = False  # Python computes values ahead of every advance
        self._restarts = False  # the coming step begins anew at epoch 0, inside a sequence
        self._bases: list[Any] = []  # of LambdaLR: base_lrs as they were when its functions were called
        self._get_lr_given: list[Any] | None = None  # what get_lr gave for a step that Python is to make
        self._comparing = False  # functions of the user's are called to compare them with the program
        self._get_lr_audit = Audit(done=True)
        self._get_lr_differs: str | None = None
        # in which of this one and its parts a change of what torch keeps in the groups has to be looked for
        self._watches_groups = False
        self._watched_parts: tuple[Any, ...] = ()
        self._groups_seen: Any = None  # the groups that the program drives, as the optimizer knew them
        self._order_checked = False
        self._pending: float | None = None  # what was observed, as of the last pull, and no step has used
        self._observing = False  # a step without a metric is meant
        self._source: StepFunctions | None = None  # where values that depend on a user's function come from
        if not isinstance(self._horizon, int) or self._horizon < 1:
            raise ValueError(
                f"horizon={self._horizon!r} must be an int of at least 1: the number of steps computed ahead"
            )
        for name, value in (("fused", fused), ("skip_with_optimizer", skip_with_optimizer)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}={value!r} must be True or False")
        self._fused, self._skip_with_optimizer = fused, skip_with_optimizer

    @property
    def _is_part(self) -> bool:
        """Whether the program is that of a scheduler around this one."""
        return self._outer_reference is not None

    @property
    def _outer(self) -> Programmed | None:
        """The outermost scheduler around this one; None if there is none, or it is gone."""
        return None if self._outer_reference is None else self._outer_reference()

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        """Append the operations that give the lr of each group at ``epoch`` (already incremented)."""
        raise NotImplementedError

    def _emit_step(self, b: Builder) -> None:
        """Append one step: torch's ``step()``."""
        for name, first in BEFORE_THE_FIRST.items():
            last, now = kept(self, name), b.register(name, kept(self, name)) + 1
            b.set_register(name, now)
            if self._is_traced and not is_counted(name, last):
                # edited, or a part of a nested sequence that is not entered at its milestone
                b.trap(now <= first if isinstance(last, int) and last < first else b.number(1.0))
        self._emit_at(b, b.register(LAST_EPOCH, kept(self, LAST_EPOCH)))

    def _emit_restart(self, b: Builder) -> None:
        """Append a return to epoch 0: torch's ``_update_lr(0)``, by the closed form where there is one."""
        b.register(LAST_EPOCH, kept(self, LAST_EPOCH))
        b.set_register(LAST_EPOCH, 0.0)
        if hasattr(self, "_get_closed_form_lr"):
            self._emit_lr(b, self._per_group(b, "lr at epoch 0", self._closed_form_at_0()))
        else:
            self._emit_at(b, b.number(0.0))

    def _closed_form_at_0(self) -> list[float]:
        epoch = kept(self, LAST_EPOCH)
        keep(self, LAST_EPOCH, 0)
        schedule, self._schedule = self._schedule, None  # torch's code is to see the 0
        try:
            return [as_float(x) for x in self._get_closed_form_lr()]  # type: ignore[attr-defined]
        except ArithmeticError as error:
            raise ValueError(
                f"{type(self).__name__} cannot start at a milestone: its closed form fails at epoch 0 with "
                f"{type(error).__name__}: {error}. Change its arguments, or make it the first scheduler"
            ) from None
        finally:
            keep(self, LAST_EPOCH, epoch)
            self._schedule = schedule

    def _emit_ignore(self, b: Builder) -> None:
        """Append what lets go of what was observed, in a step that is that of others in a sequence."""

    def _emit_at(self, b: Builder, epoch: Value) -> None:
        """Append what the schedule writes at ``epoch``."""
        if self._traced_get_lr is None:
            lr = self._next_lr(b, epoch)
        else:
            lr = self._traced_get_lr.emit(b, epoch, b.register(STEP_COUNT, kept(self, STEP_COUNT)))
        self._emit_lr(b, lr)

    def _per_group(self, b: Builder, name: str, values: Sequence[Any], used: Value | None = None) -> Value:
        """A constant with one number a group.

        Where there are not as many as groups, or some are None, torch's code raises when it comes to them: there the
        program traps.

        Args:
            used: where torch's code comes to them; default, everywhere.
        """
        if len(values) == b.n_groups and not any(x is None for x in values):
            return b.const(name, [as_float(x) for x in values])
        b.trap(b.number(1.0) if used is None else used, awaited=True)
        return b.const(name, [0.0] * b.n_groups)

    def _emit_lr(self, b: Builder, lr: Operand) -> None:
        b.set_field("lr", lr)
        self._emit_last_lr(b, lr)

    def _emit_last_lr(self, b: Builder, lr: Operand) -> None:
        b.group_register(LAST_LR, GroupRegister.initial(kept(self, LAST_LR), b.n_groups))
        b.set_register(LAST_LR, lr)

    def _check(self) -> None:
        """Refuse constants that torch would fail on at some later step."""

    def _parts(self) -> list[Any]:
        """The schedulers that this one is made of."""
        return []

    def _family(self) -> Iterator[Any]:
        """This scheduler and all that it is made of, at any depth."""
        yield self
        for part in self._parts():
            if isinstance(part, Programmed):
                yield from part._family()

    def _functions(self) -> list[Any]:
        """Functions of the user that the schedule calls."""
        return []

    def _outputs(self) -> int:
        """How many numbers such a function returns."""
        return 1

    def _columns(self) -> int:
        """How many numbers of each group the functions give in a step."""
        return self._outputs()

    def _argument(self, epoch: int) -> int:
        """What the functions are given in the step to ``epoch``."""
        return epoch

    def _is_valid(self) -> Callable[[Any], Any] | None:
        """Says whether a number that a function gave may be used; None if any may."""
        return None

    def _called(self, epoch: int) -> list[list[Any]]:
        """What the functions give, called as torch's code calls them; one list a column."""
        raise NotImplementedError

    def _rows(self, called: Sequence[Sequence[Any]]) -> list[list[float]]:
        """What the table holds for such values."""
        return [[as_number(x) for x in column] for column in called]

    def _written(self) -> list[list[Any]] | None:
        """The rows that torch's constructor wrote; None where they cannot be known."""
        return None

    def _compares(self) -> bool:
        """Whether a user's function is called beside the program, to compare."""
        if self._traced_get_lr is not None and not self._get_lr_audit.done:
            return True
        return self._source is not None and self._source.comparing

    @property
    def _is_traced(self) -> bool:
        """Whether a function of the user's is part of the program."""
        return self._traced_get_lr is not None or (self._source is not None and self._source.traced)

    @property
    def _has_own_get_lr(self) -> bool:
        """Whether get_lr is the user's, which then calls what functions there are."""
        return self._stand_in.calls_get_lr and self._stand_in.is_overridden(self, "get_lr")

    def _ensure_source(self) -> None:
        if self._has_own_get_lr:
            self._source = None
        elif self._source is None and self._functions():
            caller = weakref.ref(self)
            self._source = StepFunctions(caller, self._horizon, self._outputs(), self._columns())  # type: ignore[arg-type]

    def _why_on_host(self) -> str | None:
        """The reason why only Python can run this scheduler, or None."""
        cls, stand_in = type(self), self._stand_in
        missing = next((n for n in (*self._registers, LAST_LR) if n not in self.__dict__), None)
        if missing is not None:
            return f"{cls.__name__} has no attribute {missing}, which torch's constructor sets and a program needs"
        overridden = stand_in.overridden(self)
        if overridden is not None:
            return f"{overridden}, which only Python can run"
        for name, functions in self._bound_functions.items():
            if name in self.__dict__ and plain_function(self.__dict__[name]) not in functions:
                return f"{name} of this {cls.__name__} is not one of torch's, so only Python can run it"
        if self._has_own_get_lr:
            return self._why_get_lr_on_host()
        self._traced_get_lr = None
        if self._torch_class is LRScheduler:
            return f"{cls.__name__} does not define get_lr"
        if self._source is not None and self._source.not_numbers:
            return self._source.not_numbers
        return self._why_parts_on_host()

    def _why_parts_on_host(self) -> str | None:
        members = [*self._family()]
        if len({id(one) for one in members}) < len(members):
            return f"a scheduler is in this {type(self).__name__} twice"
        for part in self._parts():
            if isinstance(part, ReduceLROnPlateau) and not isinstance(part, Programmed):
                return f"{type(self).__name__} contains torch's {type(part).__name__}, whose step() needs a metric"
            if not isinstance(part, Programmed):
                return f"{type(self).__name__} contains {type(part).__name__}, which is not of fused_sched.lr_scheduler"
            if part._home is not self._home:
                return f"{type(part).__name__} in this {type(self).__name__} has another optimizer"
            overridden = part._stand_in.overridden(part, self._stand_in.asked_of_parts)
            if overridden is not None:
                return f"{overridden}, which only Python can run"
            reason = part._why_on_host()
            if reason is not None:
                return reason
        return None

    def _why_get_lr_on_host(self) -> str | None:
        """As :meth:`_why_on_host`, for a get_lr of the user's: None if it is traced."""
        cls = type(self)
        if cls._emit_step is not Programmed._emit_step:
            return f"{cls.__name__} overrides get_lr of {self._torch_class.__name__}, which has a state of its own"
        if self._get_lr_differs is not None:
            return self._get_lr_differs
        traced = self._traced_get_lr
        if traced is None or traced.changed() or len(traced.outcomes) != len(self.optimizer.param_groups):
            self._pull()
            try:
                traced = self._traced_get_lr = trace_get_lr(self)
                self._get_lr_audit = Audit(done=False)
            except Untraceable as error:
                self._traced_get_lr = None
                return f"{cls.__name__} overrides get_lr, which cannot be traced: {error}"
        different = traced.why_not_with(self.optimizer.param_groups)
        if different is not None:
            self._traced_get_lr = None
            return f"{cls.__name__} overrides get_lr, and {different}"
        return None

    def _build(self) -> Program:
        for one in self._family():
            one._check()
        b = Builder(len(self.optimizer.param_groups), self._home.fields_bound)
        if self._fused:
            b.register(MADE, 0.0)
        self._emit_step(b)
        return b.finish(type(self).__name__)

    def _pull(self) -> None:
        """Store the registers in ``__dict__``, as they are now."""
        if self._schedule is not None:
            for name in (*self._registers, LAST_LR):
                if name in self.__dict__:
                    keep(self, name, getattr(self, name))

    def _in_program(self) -> list[str]:
        """The attributes that the program has."""
        return [name for name in (*self._registers, LAST_LR) if name in self.__dict__]

    def _unused(self) -> float | None:
        """What was observed and no step has used."""
        return None

    def _explained(self) -> str | None:
        """How a function of the user's is part of the program."""
        if self._traced_get_lr is not None:
            return f"its get_lr is part of the program: {self._traced_get_lr.explain()}"
        return None if self._source is None else self._source.explain()
