"""What the schedulers share: torch's bookkeeping around a program that runs on the device."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler

from ..builder import Builder, Value
from ..control_block import refuse_in_capture
from ..optim.fused_optimizer import FusedOptimizer
from ..program import LAST_EPOCH, STEP_COUNT, Program
from ..schedule import Schedule
from .host_table import HostTable

LAST_LR = "_last_lr"


class OnDevice:
    """Mixin in front of a torch scheduler class; see the package's docstring for the two new keywords.

    A subclass implements :meth:`_next_lr`. torch's constructor runs as it is, initial step included;
    from then on ``step()`` advances the program. ``last_epoch``, ``_step_count`` and ``_last_lr`` are
    registers of the program: reading them reads the schedule, writing them moves it.

    Raises:
        TypeError: ``optimizer`` is not one of fused_sched.optim.
    """

    # In slots, so that state_dict(), which is all of __dict__, has torch's keys and no others.
    __slots__ = ("_fused", "_order_checked", "_schedule", "_seen", "_skip_with_optimizer", "_table")

    # Attributes of the torch class that are constants of the program; users may change them at any time.
    _constants: ClassVar[tuple[str, ...]] = ()
    _torch_class: ClassVar[type[LRScheduler]]

    optimizer: Any
    base_lrs: list[Any]
    _opt_called: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if OnDevice in cls.__bases__:
            cls._torch_class = next(c for c in cls.__mro__[2:] if issubclass(c, LRScheduler))
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
        if not isinstance(optimizer, FusedOptimizer):
            name = type(optimizer).__name__
            raise TypeError(
                f"{type(self).__name__} drives the optimizers of fused_sched.optim, but got {name}: construct "
                f"fused_sched.optim.{name if name in ('SGD', 'Adam', 'AdamW') else 'AdamW'}, or use "
                f"torch.optim.lr_scheduler.{type(self)._torch_class.__name__}"
            )
        self._schedule: Schedule | None = None
        self._seen: list[Any] = []
        self._order_checked = False
        if not hasattr(self, "_table"):
            self._table: HostTable | None = None
        self._fused, self._skip_with_optimizer = bool(fused), bool(skip_with_optimizer)
        super().__init__(optimizer, *args, **kwargs)  # type: ignore[call-arg]
        self._bind()
        optimizer._changes.lr_by_hand = False

    # -- the program ---------------------------------------------------------------------------------

    def _next_lr(self, b: Builder, epoch: Value) -> Value:
        """Append the operations that give the lr of each group at ``epoch`` (already incremented)."""
        raise NotImplementedError

    def _row(self, epoch: int) -> list[float]:
        """The row of the host table for ``epoch``, in schedulers that have one."""
        raise NotImplementedError

    def _check(self) -> None:
        """Refuse constants that torch would fail on at some later step."""

    def _build(self) -> Program:
        self._check()
        state = self.__dict__
        b = Builder(len(self.optimizer.param_groups))
        epoch = b.register(LAST_EPOCH, state[LAST_EPOCH]) + 1
        b.set_register(LAST_EPOCH, epoch)
        b.set_register(STEP_COUNT, b.register(STEP_COUNT, state[STEP_COUNT]) + 1)
        b.group_register(LAST_LR, [float(x) for x in state[LAST_LR]])
        lr = self._next_lr(b, epoch)
        b.set_field("lr", lr)
        b.set_register(LAST_LR, lr)
        return b.finish(type(self).__name__)

    def _bind(self, pending: bool = False) -> None:
        """Build the program and put it on the optimizer's device."""
        overridden = [
            name
            for name in ("get_lr", "_update_lr", "_get_closed_form_lr")
            if getattr(type(self), name, None) is not getattr(self._torch_class, name, None)
        ]
        if overridden:
            message = f"{type(self).__name__} overrides {overridden[0]}, which only Python can run"
            if self._fused or self._skip_with_optimizer:
                raise ValueError(f"{message}: leave out fused and skip_with_optimizer")
            warnings.warn(f"{message}: its lr is computed on the host at every step()", UserWarning, stacklevel=4)
            return
        optimizer = self.optimizer
        previous = self._schedule
        self._schedule = Schedule(self._build(), optimizer._block, optimizer._backend, self._skip_with_optimizer)
        self._schedule.before_advance = self._before_advance
        self._schedule.pending = pending if previous is None else previous.pending
        optimizer._scheduled_fields |= self._schedule.program.fields_written
        self._seen = self._look()
        schedules = optimizer._schedules
        if previous in schedules:
            schedules[schedules.index(previous)] = self._schedule
        elif self._fused:
            if schedules:
                names = ", ".join(s.program.name for s in schedules)
                warnings.warn(
                    f"{type(self).__name__} is one more fused scheduler on an optimizer that advances {names} already: "
                    "every optimizer.step() advances all of them. Call detach() on a scheduler that is replaced",
                    UserWarning,
                    stacklevel=4,
                )
            schedules.append(self._schedule)
        optimizer._changes.structure = True  # which state tensors are needed may depend on the program

    def _look(self) -> list[Any]:
        return [copy.copy(self.__dict__.get(name)) for name in self._constants]

    def _table_rows(self) -> int:
        assert self._table is not None
        return self._table.rows

    def _fill_table(self, symbol: str) -> None:
        """Put the row of the coming step on the device."""
        assert self._table is not None
        assert self._schedule is not None
        self._table.ensure(self._schedule, symbol, self.last_epoch + 1)

    def _before_advance(self) -> None:
        """Take in what was changed by hand: groups, constants; subclasses also fill their tables."""
        schedule, optimizer = self._schedule, self.optimizer
        assert schedule is not None
        if optimizer._groups_changed():
            optimizer._adopt_groups()
        schedule.block = optimizer._block
        if schedule.n_groups != len(optimizer.param_groups):
            self._take_groups()
        elif self._constants_changed():
            self._refresh()

    def _constants_changed(self) -> bool:
        return [*map(self.__dict__.get, self._constants)] != self._seen

    def _take_groups(self) -> None:
        """Drive the groups that the optimizer has now."""
        groups = self.optimizer.param_groups
        if not self._covers_groups():
            raise ValueError(
                f"{type(self).__name__} was made for {len(self.base_lrs)} param groups, but the optimizer has "
                f"{len(groups)}: make a new scheduler after adding or removing a group"
            )
        self._pull()
        self.__dict__[LAST_LR] = [float(g["lr"]) for g in groups]
        if self._table is not None:
            self._table.forget()
        self._bind()

    def _covers_groups(self) -> bool:
        """Whether the schedule can drive the groups that the optimizer has now."""
        return "base_lrs" not in self._constants or len(self.base_lrs) == len(self.optimizer.param_groups)

    def _refresh(self) -> None:
        assert self._schedule is not None
        self._pull()
        if self._table is not None:
            self._table.forget()
        if not self._schedule.take_constants(self._build()):
            self._bind()
        self._seen = self._look()

    # -- torch's interface ---------------------------------------------------------------------------

    def step(self, epoch: int | None = None) -> None:
        """One step of the schedule.

        Args:
            epoch: deprecated, as in torch: jump there, by the closed form where the schedule has one.

        Raises:
            RuntimeError: the scheduler is ``fused`` and the optimizer took no step since the last call.
        """
        schedule = self._schedule
        if self._fused and schedule is not None and epoch is None:
            if not schedule.pending:
                raise RuntimeError(
                    f"{type(self).__name__}.step() was called, but this scheduler is fused=True and advances inside "
                    "optimizer.step(), which was not called since: call optimizer.step() first, or leave out fused"
                )
            schedule.pending = False
            return
        if not self._order_checked:  # once: reading the register may wait for the device
            count = self._step_count
            self._order_checked = count > 0  # the constructor's own step comes before the user's first
            if count == 1:
                self._check_order()
        if schedule is None or epoch is not None or not self._covers_groups():
            refuse_in_capture(self.optimizer._block.tensor, f"the lr of {type(self).__name__} was computed by Python")
            self._step_count += 1  # type: ignore[misc]
            if epoch is not None:
                warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
            self._update_lr(epoch)  # type: ignore[attr-defined]
            return
        self._before_advance()
        self._schedule.advance()  # type: ignore[union-attr]  # perhaps another one than before

    def _check_order(self) -> None:
        if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization; "
                "call `optimizer.step()` before `lr_scheduler.step()`",
                UserWarning,
                stacklevel=3,
            )
        elif not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first value of the schedule "
                "is skipped. Call `optimizer.step()` first",
                UserWarning,
                stacklevel=3,
            )

    def get_last_lr(self) -> list[Any]:
        """The lr of each group as of the last step of the schedule: Python floats.

        A group whose lr was given as a tensor has a tensor here too, a copy.
        """
        values = self._last_lr
        groups = self.optimizer.param_groups
        if len(values) == len(groups):
            pairs = zip(values, groups, strict=True)
            return [torch.tensor(x, dtype=torch.float64) if torch.is_tensor(g["lr"]) else x for x, g in pairs]
        return values

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's format; it loads into torch's class of the same name, and back."""
        self._pull()
        return super().state_dict()  # type: ignore[misc,no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of this class or of torch's. As in torch, load the optimizer's state too."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        if self._schedule is not None:
            state = self.__dict__
            if self._table is not None:
                self._table.forget()
            self.last_epoch = state[LAST_EPOCH]  # type: ignore[misc]
            self._step_count = state[STEP_COUNT]  # type: ignore[misc]
            self._last_lr = state[LAST_LR]

    def detach(self) -> None:
        """Stop advancing inside ``optimizer.step()``, for a ``fused`` scheduler that another one replaces."""
        schedules = self.optimizer._schedules
        if self._schedule in schedules:
            schedules.remove(self._schedule)
        self._fused = False

    @property
    def program(self) -> Program | None:
        """The program of this schedule; None if it runs on the host."""
        return None if self._schedule is None else self._schedule.program

    # -- registers -----------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Write the registers into ``__dict__``, where torch's code expects them."""
        if self._schedule is not None:
            state = self.__dict__
            state[LAST_EPOCH], state[STEP_COUNT] = self.last_epoch, self._step_count
            state[LAST_LR] = self._last_lr

    def __getstate__(self) -> dict[str, Any]:
        self._pull()
        rows = None if self._table is None else self._table.rows
        pending = self._schedule is not None and self._schedule.pending
        return {**self.__dict__, "_on_device": (self._fused, self._skip_with_optimizer, rows, pending)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._schedule, self._seen, self._order_checked = None, [], False
        self._fused, self._skip_with_optimizer, rows, pending = state.pop("_on_device")
        self._table = None if rows is None else HostTable(rows, self._row)
        self.__dict__.update(state)
        self._bind(pending)

    def _read_register(self, name: str) -> int | float:
        if self._schedule is None:
            try:
                return self.__dict__[name]  # type: ignore[no-any-return]
            except KeyError:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None
        value = self._schedule.read(name)
        return int(value) if value.is_integer() else value

    def _write_register(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if self._schedule is not None:
            self._schedule.write(name, float(value))

    last_epoch: int = property(  # type: ignore[assignment]
        lambda self: self._read_register(LAST_EPOCH), lambda self, value: self._write_register(LAST_EPOCH, value)
    )
    _step_count: int = property(  # type: ignore[assignment]
        lambda self: self._read_register(STEP_COUNT), lambda self, value: self._write_register(STEP_COUNT, value)
    )

    @property
    def _last_lr(self) -> list[Any]:
        values: list[Any] = self.__dict__[LAST_LR]
        if self._schedule is None or len(values) != self._schedule.program.n_groups:
            return values
        return self._schedule.read_group(LAST_LR)

    @_last_lr.setter
    def _last_lr(self, values: list[Any]) -> None:
        self.__dict__[LAST_LR] = values
        if self._schedule is not None and len(values) == self._schedule.program.n_groups:
            self._schedule.write_row(LAST_LR, [float(x) for x in values])
