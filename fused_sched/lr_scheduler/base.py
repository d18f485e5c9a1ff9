"""What the schedulers share: torch's interface around a program that runs on the device."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import torch
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler

from ..compiled import not_compiled
from ..memory.values import as_float, refuse_fake_mode
from ..notice import warn
from ..optim.home import Home
from ..program.program import Program
from .arguments import check_arguments
from .attributes import keep
from .binding import Bound
from .host_steps import groups_to_put_back, tensors_kept
from .overrides import StandIn
from .undo import UndoneOnError

OF_TORCHS: dict[type, type[OnDevice]] = {}  # our class for each of torch's


class OnDevice(Bound):
    """Mixin in front of a torch scheduler class; see the package's docstring for the two new keywords.

    torch's constructor runs as it is, initial step included; from then on ``step()`` advances the program.

    It drives an optimizer of fused_sched.optim, or any other whose groups hold what the schedule sets in tensors of
    one float32 or float64 on one device. With values that are no such tensors it steps as torch's class does.

    Raises:
        ValueError: ``fused`` or ``skip_with_optimizer`` with an optimizer that is not of fused_sched.optim.
        TypeError: ``optimizer`` is no optimizer.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        torchs_own = [c for c in cls.__bases__ if issubclass(c, LRScheduler) and not issubclass(c, OnDevice)]
        if torchs_own and not hasattr(cls, "_torch_class"):
            cls._torch_class = torchs_own[0]
            cls._stand_in = StandIn(cls, cls._torch_class)
            OF_TORCHS.setdefault(cls._torch_class, cls)

    def __init__(
        self, optimizer: Any, *args: Any, fused: bool = False, skip_with_optimizer: bool = False, **kwargs: Any
    ) -> None:
        refuse_fake_mode(type(self).__name__)
        self._reset_slots(fused, skip_with_optimizer)
        self._home = self._home_in(optimizer)
        with UndoneOnError(groups_to_put_back(optimizer)):
            try:
                with tensors_kept(optimizer):
                    self._construct(optimizer, *args, **kwargs)
                self._bind()
                self._compare_first()
            except BaseException:
                if self._home is not None and self._schedule is not None:  # nobody has this scheduler
                    self._home.stop_advancing(self._schedule)
                raise
        self._home.note_lrs_scheduled()

    def _construct(self, *args: Any, **kwargs: Any) -> None:
        """Torch's constructor."""
        check_arguments(self._torch_class, args, kwargs)
        super().__init__(*args, **kwargs)

    def __del__(self) -> None:
        """A fused scheduler that nobody has any more goes on with its optimizer, which it then has weakly."""
        schedule = getattr(self, "_schedule", None)
        if schedule is None or not self._fused or self._is_part or sys.is_finalizing():
            return
        optimizer = self.__dict__.get("optimizer")
        home = self._home
        if optimizer is not None and schedule in home.fused_schedules:
            schedule.before_advance.let_go(self)
            home.keep_scheduler(self)
            for one in self._family():
                if one._source is not None:
                    one._source.serve(weakref.ref(one))
                keep(one, "optimizer", weakref.proxy(optimizer))
                one._home = weakref.proxy(home)

    @not_compiled
    def step(self, epoch: float | None = None) -> None:
        """One step of the schedule.

        Args:
            epoch: deprecated, as in torch: jump there, by the closed form where the schedule has one.
        """
        if Home.rehearsal is None:
            # a method of the class: to find it by the instance, Python looks in its dict, which is not an exact dict
            OnDevice._step(self, epoch)
        else:
            with Home.rehearsal.work_of(self._home):
                OnDevice._step(self, epoch)

    def _step(self, epoch: float | None) -> None:
        if epoch is not None or not OnDevice._advance(self):
            if Home.rehearsal is not None:
                self._refuse_in_graph()
            if epoch is not None:
                warn(EPOCH_DEPRECATION_WARNING)
            self._step_to(epoch)

    def _refuse_in_graph(self) -> None:
        why = "" if self._host_reason is None else f", as {self._host_reason}"
        raise RuntimeError(
            f"{type(self).__name__} steps in Python{why}, and a CUDA graph would not do it again: give it a function "
            "that can be traced (docs/tracing.md), or horizon=N; with an optimizer of torch, an lr that is a tensor; "
            "or use graphed(..., enabled=False)"
        )

    def _advance(self) -> bool:
        """One step by the device; False if Python has to make it."""
        if self._is_first_step:
            return False
        if self._methods_touched and self._schedule is None:
            self._look_again()
        schedule = None if self._outer_reference is not None else self._schedule
        if schedule is not None and schedule.account is not None:
            if self._is_step_taken():
                return True
            schedule = self._schedule
        if not self._order_checked and self._order_matters and not self._home.in_capture():
            self._check_order()  # once: reading the register may wait for the device
        if schedule is None:
            return False
        Bound._before_advance(self)
        schedule = self._schedule  # perhaps another one than before
        if schedule is None:  # something changed so that only Python can run it now
            return False
        schedule.advance()
        if schedule.may_trap and schedule.trapped:
            self._step_by_python()
        return True

    def _is_step_taken(self) -> bool:
        """Of a fused scheduler: whether an update has made the step, or the device was told to make it if not."""
        schedule = self._schedule
        assert schedule is not None
        if not schedule.take_certain_step():
            assert schedule.account is not None
            if schedule.account.open:
                self._before_advance(prepared=True)
            schedule = self._schedule  # perhaps another one than before
            if schedule is None or not schedule.take_step():
                return False
        if schedule.may_trap and schedule.trapped:
            self._step_by_python()
        return True

    def _initial_step(self) -> None:
        """Torch's constructor makes the first step; ours is a slot, which costs less to look at than torch's mark."""
        self._is_first_step = True
        try:
            super()._initial_step()  # type: ignore[misc]
        finally:
            self._is_first_step = False

    def _steps_taken(self) -> int:
        return int(self._step_count)

    def _check_order(self) -> None:
        self._order_checked = True
        if self._steps_taken() != 1:
            return
        if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization; "
                "call `optimizer.step()` before `lr_scheduler.step()`"
            )
        elif not getattr(self.optimizer, "_opt_called", False):
            warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first value of the schedule "
                "is skipped. Call `optimizer.step()` first"
            )

    @not_compiled
    def get_last_lr(self) -> list[Any]:
        """The lr of each group as of the last step of the schedule: Python floats.

        A group whose lr is a tensor has a tensor here too, a copy.
        """
        self._raise_if_trapped()
        values: list[Any] = self._last_lr
        lrs = [group.get("lr") for group in self.optimizer.param_groups]
        if len(values) == len(lrs) and any(map(torch.is_tensor, lrs)):
            return [like_lr(x, lr) for x, lr in zip(values, lrs, strict=True)]
        return values

    @not_compiled
    def state_dict(self) -> dict[str, Any]:
        """The state in torch's format; it loads into torch's class of the same name, and back.

        Its numbers are those that the device has, to the last place.
        """
        self._settle()
        self._home.expire_mirrors()
        self._raise_if_trapped()
        return super().state_dict()  # type: ignore[misc,no-any-return]

    @not_compiled
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of this class or of torch's. As in torch, load the optimizer's state too."""
        self._settle()
        with UndoneOnError(self._to_put_back()):
            self._load(state_dict)

    def _load(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # type: ignore[misc]
        if self._source is not None:
            self._source.forget()
            (self._outer or self)._touched = True
        if self._schedule is not None and not self._is_part:
            self._schedule.forget_step()

    @property
    def program(self) -> Program | None:
        """The program of this schedule, or of the one that it is part of; None if it runs on the host."""
        self._settle()
        return None if self._schedule is None else self._schedule.program

    @not_compiled
    def explain(self) -> str:
        """Where the lr is computed and why, and the program."""
        self._settle()
        lines = []
        if self._is_part:
            around = "a scheduler that is gone" if self._outer is None else type(self._outer).__name__
            lines.append(f"{type(self).__name__} runs as part of the program of {around}")
        for one in self._family():
            if one._host_reason is not None:
                lines.append(f"{type(one).__name__} runs on the host: {one._host_reason}")
            elif (said := one._explained()) is not None:
                lines.append(f"{type(one).__name__}: {said}")
            elif one._schedule is not None and (one is self or not one._parts()):
                lines.append(f"{type(one).__name__} is a program on {one._schedule.block.device}")
        return "\n".join([*lines, *([] if self.program is None else [str(self.program)])])

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()
        self._settle()
        self._home.expire_mirrors()
        made = self._schedule is not None and self._schedule.is_step_made()
        make, cls = self._maker_of_copies()
        arguments = cls, self._fused, self._skip_with_optimizer, self._horizon, made, self._unused()
        return make, arguments, self.__getstate__()

    def _maker_of_copies(self) -> tuple[Any, type]:
        return copy_of, type(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._settle()


def copy_of(
    cls: Any, fused: bool, skip_with_optimizer: bool, horizon: int, made: bool, observed: float | None = None
) -> Any:
    """A scheduler that a copy's attributes are put into."""
    one = cls.__new__(cls)
    one._horizon, one._step_was_made = horizon, made
    one._reset_slots(fused, skip_with_optimizer)
    one._methods_touched = True  # so that the first step settles it
    one._pending, one._observing = observed, True
    return one


def like_lr(value: Any, lr: Any) -> Any:
    """A number as a tensor where ``lr`` is one."""
    return torch.full_like(lr, as_float(value), requires_grad=False) if torch.is_tensor(lr) else value
