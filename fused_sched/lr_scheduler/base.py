"""What the schedulers share: torch's bookkeeping around a program that runs on the device."""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler

from ..builder import TRAP, Builder, Operand, Value
from ..control_block import FIELDS, refuse_in_capture
from ..optim.fused_optimizer import FusedOptimizer
from ..program import LAST_EPOCH, STEP_COUNT, Program
from ..schedule import Schedule
from ..trace import TracedScheduler, Untraceable, trace_get_lr
from .functions import StepFunctions
from .registers import LAST_LR, GroupRegister, Register


class OnDevice:
    """Mixin in front of a torch scheduler class; see the package's docstring for the two new keywords.

    A subclass implements :meth:`_next_lr`, or :meth:`_emit_step` where a step is more than an lr. torch's
    constructor runs as it is, initial step included; from then on ``step()`` advances the program. The
    attributes in ``_registers``, and ``_last_lr``, are registers of the program: reading them reads the
    schedule, writing them moves it.

    Inside a SequentialLR or ChainedScheduler, which run as one program, ``_schedule`` is the outermost
    scheduler's and ``_scope`` the prefix of this one's names in it; ``_outer`` is the outermost scheduler.

    Raises:
        TypeError: ``optimizer`` is not one of fused_sched.optim.
    """

    # In slots, so that state_dict(), which is all of __dict__, has torch's keys and no others.
    __slots__ = (
        "_fused", "_horizon", "_host_reason", "_members", "_order_checked", "_outer", "_schedule", "_scope", "_seen",
        "_seen_in_groups", "_skip_with_optimizer", "_source", "_tabulates", "_touched", "_traced_get_lr",
        "_values_seen", "_watched",
    )  # fmt: skip

    # Attributes of the torch class that are constants of the program; users may change them at any time.
    _constants: ClassVar[tuple[str, ...]] = ()
    _group_constants: ClassVar[tuple[str, ...]] = ()  # the same, kept by torch in the param groups
    _registers: ClassVar[tuple[str, ...]] = (LAST_EPOCH, STEP_COUNT)
    _order_matters: ClassVar[bool] = True  # torch warns if the first step comes before the optimizer's
    _torch_class: ClassVar[type[LRScheduler]]

    optimizer: Any
    base_lrs: list[Any]
    last_epoch = Register()
    _step_count = Register()
    _last_lr = GroupRegister()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        torchs_own = [c for c in cls.__bases__ if issubclass(c, LRScheduler) and not issubclass(c, OnDevice)]
        if torchs_own and not hasattr(cls, "_torch_class"):
            cls._torch_class = torchs_own[0]
            own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
            if "__init__" not in cls.__dict__:  # its signature must not be another class's too

                def __init__(self: OnDevice, *args: Any, **kwargs: Any) -> None:
                    OnDevice.__init__(self, *args, **kwargs)

                cls.__init__ = __init__  # type: ignore[method-assign]
            torchs = list(inspect.signature(cls._torch_class.__init__).parameters.values())
            cls.__init__.__signature__ = inspect.Signature(torchs + own)  # type: ignore[attr-defined]

    def __init__(
        self, optimizer: Any, *args: Any, fused: bool = False, skip_with_optimizer: bool = False, **kwargs: Any
    ) -> None:
        self._require_ours(optimizer)
        self._reset_slots(fused, skip_with_optimizer)
        super().__init__(optimizer, *args, **kwargs)  # type: ignore[call-arg]
        self._bind()
        optimizer._changes.lr_by_hand = False

    def _require_ours(self, optimizer: Any) -> None:
        if not isinstance(optimizer, FusedOptimizer):
            name = type(optimizer).__name__
            raise TypeError(
                f"{type(self).__name__} drives the optimizers of fused_sched.optim, but got {name}: construct "
                f"fused_sched.optim.{name if name in ('SGD', 'Adam', 'AdamW') else 'AdamW'}, or use "
                f"{self._torch_class.__module__}.{self._torch_class.__name__}"
            )

    def _reset_slots(self, fused: bool, skip_with_optimizer: bool) -> None:
        self._schedule: Schedule | None = None
        self._scope = ""
        self._outer: OnDevice | None = None
        self._host_reason: str | None = None
        self._members: tuple[OnDevice, ...] = ()  # this scheduler and its parts, as built into the program
        self._traced_get_lr: TracedScheduler | None = None  # of a subclass that overrides it
        self._seen: dict[str, Any] = {}
        self._seen_in_groups: list[list[Any]] = []
        self._values_seen = -1
        self._touched = False  # a constant was assigned since the program was built
        self._tabulates = False  # Python computes values ahead of every advance
        self._watched: tuple[OnDevice, ...] = ()  # members in which a change has to be looked for
        self._order_checked = False
        self._source: StepFunctions | None = None  # where values that depend on a user's function come from
        if not hasattr(self, "_horizon"):
            self._horizon = 1
        if not isinstance(self._horizon, int) or self._horizon < 1:
            raise ValueError(
                f"horizon={self._horizon!r} must be an int of at least 1: the number of steps computed ahead"
            )
        self._fused, self._skip_with_optimizer = bool(fused), bool(skip_with_optimizer)

    # -- the program ---------------------------------------------------------------------------------

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        """Append the operations that give the lr of each group at ``epoch`` (already incremented)."""
        raise NotImplementedError

    def _emit_step(self, b: Builder) -> None:
        """Append one step: torch's ``step()``."""
        epoch = b.register(LAST_EPOCH, self.__dict__[LAST_EPOCH]) + 1
        b.set_register(LAST_EPOCH, epoch)
        b.set_register(STEP_COUNT, b.register(STEP_COUNT, self.__dict__[STEP_COUNT]) + 1)
        self._emit_at(b, epoch)

    def _emit_restart(self, b: Builder) -> None:
        """Append a return to epoch 0: torch's ``_update_lr(0)``, by the closed form where there is one."""
        b.register(LAST_EPOCH, self.__dict__[LAST_EPOCH])
        b.set_register(LAST_EPOCH, 0.0)
        if hasattr(self, "_get_closed_form_lr"):
            self._emit_lr(b, b.const("lr at epoch 0", self._closed_form_at_0()))
        else:
            self._emit_at(b, b.number(0.0))

    def _closed_form_at_0(self) -> list[float]:
        epoch, self.__dict__[LAST_EPOCH] = self.__dict__[LAST_EPOCH], 0
        schedule, self._schedule = self._schedule, None  # torch's code is to see the 0
        try:
            return [float(x) for x in self._get_closed_form_lr()]  # type: ignore[attr-defined]
        except ArithmeticError as error:
            raise ValueError(
                f"{type(self).__name__} cannot start at a milestone: its closed form fails at epoch 0 with "
                f"{type(error).__name__}: {error}. Change its arguments, or make it the first scheduler"
            ) from None
        finally:
            self.__dict__[LAST_EPOCH], self._schedule = epoch, schedule

    def _emit_at(self, b: Builder, epoch: Value) -> None:
        """Append what the schedule writes at ``epoch``."""
        if self._traced_get_lr is None:
            lr = self._next_lr(b, epoch)
        else:
            lr = self._traced_get_lr.emit(b, epoch, b.register(STEP_COUNT, self.__dict__[STEP_COUNT]))
        self._emit_lr(b, lr)

    def _emit_lr(self, b: Builder, lr: Operand) -> None:
        b.group_register(LAST_LR, [float(x) for x in self.__dict__[LAST_LR]])
        b.set_field("lr", lr)
        b.set_register(LAST_LR, lr)

    def _check(self) -> None:
        """Refuse constants that torch would fail on at some later step."""

    def _parts(self) -> list[Any]:
        """The schedulers that this one is made of."""
        return []

    def _family(self) -> Iterator[OnDevice]:
        """This scheduler and all that it is made of, at any depth."""
        yield self
        for part in self._parts():
            if isinstance(part, OnDevice):
                yield from part._family()

    def _why_on_host(self) -> str | None:
        """The reason why only Python can run this scheduler, or None."""
        cls, own = type(self), _program_class(type(self))
        if cls._update_lr is not own._update_lr:  # type: ignore[attr-defined]
            return f"{cls.__name__} overrides _update_lr, which only Python can run"
        if cls.get_lr is not own.get_lr:  # type: ignore[attr-defined]
            return self._why_get_lr_on_host()
        for part in self._parts():
            if not isinstance(part, OnDevice):
                return f"{cls.__name__} contains {type(part).__name__}, which is not of fused_sched.lr_scheduler"
            if type(part).step is not _program_class(type(part)).step:
                return f"{type(part).__name__} overrides step, which only Python can run"
            reason = part._why_on_host()
            if reason is not None:
                return reason
        return None

    def _why_get_lr_on_host(self) -> str | None:
        """As :meth:`_why_on_host`, for a get_lr of the user's: None if it is traced."""
        cls = type(self)
        if cls._emit_step is not OnDevice._emit_step:
            return f"{cls.__name__} overrides get_lr of {self._torch_class.__name__}, which has a state of its own"
        if self._traced_get_lr is None or self._traced_get_lr.changed():
            self._pull()
            try:
                self._traced_get_lr = trace_get_lr(self)
            except Untraceable as error:
                self._traced_get_lr = None
                return f"{cls.__name__} overrides get_lr, which cannot be traced: {error}"
        return None

    def _build(self) -> Program:
        for one in self._members:
            one._check()
        b = Builder(len(self.optimizer.param_groups))
        self._emit_step(b)
        return b.finish(type(self).__name__)

    def _bind(self, pending: bool = False) -> None:
        """Build the program and put it on the optimizer's device."""
        self._host_reason = self._why_on_host()
        if self._host_reason is not None:
            if self._fused or self._skip_with_optimizer:
                raise ValueError(f"{self._host_reason}: leave out fused and skip_with_optimizer")
            _warn(f"{self._host_reason}: its lr is computed on the host at every step()")
            for one in self._members:
                one._pull()
            for one in self._members:
                one._schedule = one._outer = None
            self._members = ()
            return
        optimizer = self.optimizer
        previous = self._schedule
        self._members = tuple(self._family())
        for one in self._members:
            one._pull()
            one._ensure_source()
            if one._source is not None:
                one._source.forget()  # rows computed ahead are in the memory of another schedule
        schedule = Schedule(self._build(), optimizer._block, optimizer._backend, self._skip_with_optimizer)
        schedule.before_advance = self._before_advance
        schedule.pending = pending if previous is None else previous.pending
        optimizer._scheduled_fields |= schedule.program.fields_written
        self._take_over(schedule, "", None)
        self._note_all_constants()
        schedules = optimizer._schedules
        if previous in schedules:
            schedules[schedules.index(previous)] = schedule
        elif self._fused:
            written = schedule.program.fields_written
            rivals = [s.program.name for s in schedules if s.program.fields_written & written]
            if rivals:
                _warn(
                    f"{type(self).__name__} is one more fused scheduler on an optimizer that advances "
                    f"{', '.join(rivals)} already: every optimizer.step() advances all of them. Call detach() on a "
                    "scheduler that is replaced"
                )
            schedules.append(schedule)
        for one in self._members:
            if one._source is not None and one._source.horizon > 1:
                one._prepare(restart=False)
        optimizer._changes.structure = True  # which state tensors are needed may depend on the program

    def _functions(self) -> list[Any]:
        """Functions of the user that the schedule calls."""
        return []

    def _outputs(self) -> int:
        """How many numbers such a function returns."""
        return 1

    def _tabulated(self, epoch: int) -> list[list[float]]:
        """What the table holds for ``epoch`` where the functions cannot be traced; one list an output."""
        raise NotImplementedError

    def _ensure_source(self) -> None:
        if self._source is None and self._functions():
            self._source = StepFunctions(self._functions, self._tabulated, self._horizon, self._outputs())

    def _take_over(self, schedule: Schedule, scope: str, outer: OnDevice | None) -> None:
        """Let this scheduler and its parts be run by ``schedule``."""
        self._schedule, self._scope, self._outer = schedule, scope, outer
        for i, part in enumerate(self._parts()):
            part._take_over(schedule, f"{scope}{i}.", outer or self)

    # -- what users change by hand -------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self._constants:
            (self._outer or self)._touched = True

    def _look(self) -> dict[str, Any]:
        """Copies of the constants that are containers, by which a change inside them is recognised."""
        constants = {name: self.__dict__.get(name) for name in self._constants}
        return {name: copy.copy(x) for name, x in constants.items() if isinstance(x, (list, dict))}

    def _look_at_groups(self) -> list[list[Any]]:
        return [[g.get(name) for g in self.optimizer.param_groups] for name in self._group_constants]

    def _note_constants(self) -> None:
        self._touched, self._values_seen = False, self.optimizer._changes.values
        self._seen, self._seen_in_groups = self._look(), self._look_at_groups()

    def _note_all_constants(self) -> None:
        members = self._members
        for one in members:
            one._note_constants()
        self._tabulates = any(one._source is not None and not one._source.traced for one in members)
        self._watched = tuple(
            one for one in members if one._seen or one._source or one._traced_get_lr or one._group_constants
        )

    def _before_advance(self) -> None:
        """Take in what was changed by hand: groups, constants, values of a user's function."""
        schedule, optimizer = self._schedule, self.optimizer
        assert schedule is not None
        if schedule.trapped:
            self._step_by_python()
        if optimizer._groups_changed():
            optimizer._adopt_groups()
        schedule.block = optimizer._block
        if schedule.n_groups != len(optimizer.param_groups):
            self._take_groups()
        elif self._touched or (self._watched and any(one._constants_changed() for one in self._watched)):
            self._refresh()
        if self._tabulates:
            self._prepare(restart=False)

    def _prepare(self, restart: bool) -> None:
        """Put on the device what Python has to compute for the coming step (``restart``: to epoch 0)."""
        if self._source is not None and not self._source.traced:
            assert self._schedule is not None
            self._source.prepare(self._schedule, self._scope, lambda: self._coming_epoch(restart))

    def _coming_epoch(self, restart: bool) -> int:
        return 0 if restart else int(self.last_epoch) + 1

    def _constants_changed(self) -> bool:
        """Whether something changed that no assignment to an attribute tells of."""
        if self._source is not None and self._source.changed():
            return True
        if self._traced_get_lr is not None and self._traced_get_lr.changed():
            return True
        if self._group_constants and self.optimizer._changes.values != self._values_seen:
            self._values_seen = self.optimizer._changes.values
            if self._look_at_groups() != self._seen_in_groups:
                return True
        state = self.__dict__
        for name, value in self._seen.items():  # noqa: SIM110  # on the step path: any() costs more
            if state[name] != value:
                return True
        return False

    def _take_groups(self) -> None:
        """Drive the groups that the optimizer has now."""
        groups = self.optimizer.param_groups
        if not self._covers_groups():
            raise ValueError(
                f"{type(self).__name__} was made for {self._groups_made_for()} param groups, but the optimizer has "
                f"{len(groups)}: make a new scheduler after adding or removing a group"
            )
        for one in self._members:
            one._pull()
            one.__dict__[LAST_LR] = [float(g["lr"]) for g in groups]
            if one._source is not None:
                one._source.forget()
        self._bind()

    def _groups_made_for(self) -> int:
        return len(self.__dict__[LAST_LR])

    def _covers_groups(self) -> bool:
        """Whether the schedule can drive the groups that the optimizer has now."""
        n = len(self.optimizer.param_groups)
        if "base_lrs" in self._constants and len(self.base_lrs) != n:
            return False
        if self._group_constants and not all(
            k in g for g in self.optimizer.param_groups for k in self._group_constants
        ):
            return False
        return all(part._covers_groups() for part in self._parts())

    def _refresh(self) -> None:
        assert self._schedule is not None
        for one in self._members:
            one._pull()
            if one._source is not None:
                one._source.forget()
        if self._why_on_host() is not None or not self._schedule.take_constants(self._build()):
            self._bind()
        self._note_all_constants()

    # -- torch's interface ---------------------------------------------------------------------------

    def step(self, epoch: float | None = None) -> None:
        """One step of the schedule.

        Args:
            epoch: deprecated, as in torch: jump there, by the closed form where the schedule has one.

        Raises:
            RuntimeError: the scheduler is ``fused`` and the optimizer took no step since the last call.
        """
        if epoch is not None or not self._advance():
            if epoch is not None:
                warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
            self._step_on_host(epoch)

    def _advance(self) -> bool:
        """One step by the device; False if Python has to make it."""
        schedule = self._schedule
        if getattr(self, "_is_initial", False):
            return False
        if self._outer is None and self._fused and schedule is not None:
            if schedule.trapped:
                self._step_by_python()
            if not schedule.pending:
                raise RuntimeError(
                    f"{type(self).__name__}.step() was called, but this scheduler is fused=True and advances inside "
                    "optimizer.step(), which was not called since: call optimizer.step() first, or leave out fused"
                )
            schedule.pending = False
            return True
        if self._order_matters and not self._order_checked:  # once: reading the register may wait for the device
            self._check_order()
        if schedule is None or self._outer is not None:
            return False
        if schedule.n_groups != len(self.optimizer.param_groups) and not self._covers_groups():
            return False
        self._before_advance()
        schedule = self._schedule  # perhaps another one than before
        if schedule is None:  # something changed so that only Python can run it now
            return False
        schedule.advance()
        if schedule.trapped:
            self._step_by_python()
        return True

    def _step_on_host(self, epoch: float | None = None) -> None:
        """One step by torch's Python code."""
        refuse_in_capture(self.optimizer._block.tensor, f"the lr of {type(self).__name__} was computed by Python")
        if getattr(self, "_is_initial", False):
            self._ensure_source()  # before torch calls the user's function, which may never return
        self._step_count += 1
        self._update_lr(epoch)  # type: ignore[attr-defined]

    def _step_by_python(self) -> None:
        """The program trapped: let torch's code make the step, or raise what it raises there."""
        schedule = self._schedule
        assert schedule is not None
        refuse_in_capture(self.optimizer._block.tensor, f"the lr of {type(self).__name__} was computed by Python")
        schedule.write(TRAP, 0.0)
        block = self.optimizer._block
        saved = [(one, name, getattr(one, name)) for one in self._members for name in (*one._registers, LAST_LR)]
        slots = [block.slot(group, field) for group in range(block.n_groups) for field in FIELDS]
        values = [block.read(slot) for slot in slots]
        reason: Exception | None = None
        try:
            self._step_on_host()
        except Exception as error:
            reason = error
        if reason is None and not schedule.memory.captured:
            return
        for one, name, value in saved:
            setattr(one, name, value)
        for slot, before in zip(slots, values, strict=True):
            block.write(slot, before)
        if reason is not None and not schedule.memory.captured:
            raise reason
        why = f"{type(reason).__name__}: {reason}" if reason else "the values computed ahead by Python had been used up"
        raise RuntimeError(
            f"{type(self).__name__} stopped before epoch {self._coming_epoch(restart=False)}, and the lr has stayed as "
            f"it was in all replays of the CUDA graph since then: {why}"
        ) from reason

    def _steps_taken(self) -> int:
        return int(self._step_count)

    def _check_order(self) -> None:
        self._order_checked = True
        if self._steps_taken() != 1:
            return
        if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            _warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization; "
                "call `optimizer.step()` before `lr_scheduler.step()`"
            )
        elif not getattr(self.optimizer, "_opt_called", False):
            _warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first value of the schedule "
                "is skipped. Call `optimizer.step()` first"
            )

    def get_last_lr(self) -> list[Any]:
        """The lr of each group as of the last step of the schedule: Python floats.

        A group whose lr was given as a tensor has a tensor here too, a copy.
        """
        self._raise_if_trapped()
        values: list[Any] = self._last_lr
        groups = self.optimizer.param_groups
        if len(values) == len(groups):
            pairs = zip(values, groups, strict=True)
            return [torch.tensor(x, dtype=torch.float64) if torch.is_tensor(g["lr"]) else x for x, g in pairs]
        return values

    def _raise_if_trapped(self) -> None:
        schedule = self._schedule
        if schedule is not None and self._outer is None and schedule.read_trap():
            self._step_by_python()

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's format; it loads into torch's class of the same name, and back."""
        self._raise_if_trapped()
        self._pull()
        return super().state_dict()  # type: ignore[misc,no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of this class or of torch's. As in torch, load the optimizer's state too."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        (self._outer or self)._touched = True  # torch's code writes to __dict__
        if self._schedule is not None:
            state = self.__dict__
            if self._source is not None:
                self._source.forget()
            for name in (*self._registers, LAST_LR):
                setattr(self, name, state[name])

    def detach(self) -> None:
        """Stop advancing inside ``optimizer.step()``, for a ``fused`` scheduler that another one replaces."""
        schedules = self.optimizer._schedules
        if self._schedule in schedules:
            schedules.remove(self._schedule)
        self._fused = False

    @property
    def program(self) -> Program | None:
        """The program of this schedule, or of the one that it is part of; None if it runs on the host."""
        return None if self._schedule is None else self._schedule.program

    def explain(self) -> str:
        """Where the lr is computed and why, and the program."""
        lines = []
        if self._outer is not None:
            lines.append(f"{type(self).__name__} runs as part of the program of {type(self._outer).__name__}")
        for one in self._family():
            if one._host_reason is not None:
                lines.append(f"{type(one).__name__} runs on the host: {one._host_reason}")
            elif one._source is not None:
                lines.append(f"{type(one).__name__}: {one._source.explain()}")
            elif one._traced_get_lr is not None:
                lines.append(f"{type(one).__name__}: its get_lr is part of the program: {one._traced_get_lr.explain()}")
            elif one is self or not one._parts():
                lines.append(f"{type(one).__name__} is a program on {self.optimizer._block.tensor.device}")
        return "\n".join([*lines, *([] if self.program is None else [str(self.program)])])

    # -- registers -----------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Write the registers into ``__dict__``, where torch's code expects them."""
        if self._schedule is not None:
            for name in (*self._registers, LAST_LR):
                self.__dict__[name] = getattr(self, name)

    def __getstate__(self) -> dict[str, Any]:
        self._pull()
        pending = self._schedule is not None and self._schedule.pending
        return {**self.__dict__, "_on_device": (self._fused, self._skip_with_optimizer, self._horizon, pending)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        fused, skip_with_optimizer, horizon, pending = state.pop("_on_device")
        self._horizon = horizon
        self._reset_slots(fused, skip_with_optimizer)
        self.__dict__.update(state)
        self._bind(pending)


def _warn(message: str) -> None:
    """Warn at the line of the caller that is not of this package."""
    level, package = 2, __name__.partition(".")[0]
    while sys._getframe(level).f_globals.get("__name__", "").partition(".")[0] == package:
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level + 1)


def _program_class(cls: type[OnDevice]) -> type[OnDevice]:
    """The class in ``cls``'s ancestry that mixes OnDevice into torch's."""
    return next(c for c in cls.__mro__ if "_torch_class" in c.__dict__)
