"""What SGD, Adam and AdamW share: one launch over all param groups, hyperparameters on the device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from operator import is_
from typing import Any

import torch

from .. import backends
from ..compiled import not_compiled
from ..memory.mirrors import recording_of
from ..memory.parameter_table import ParameterTable
from ..memory.shards import any_anywhere
from ..memory.values import check_values, fake_mode, modes_on, refuse_fake_mode
from ..program.schedule import Schedule
from ..rules import Rule
from ..step_options import STREAM, StepKeywords, split
from .addition import is_torchs, narrow
from .checks import check_gradients, check_params
from .home import Home, refuse_in_rehearsal
from .param_group import ParamGroup
from .param_state import OptimizerState, take_back_steps
from .saving import Saving
from .shown import shown
from .sparse import check_sparse, update_sparse, zero_sparse
from .sync import Sync


class FusedOptimizer(Saving):
    """Base of the optimizers; a subclass also inherits torch's class of the same name.

    ``step`` reads hyperparameters from the control block, updates every tensor that has a gradient,
    and advances the schedules made with ``fused=True``. GradScaler's ``grad_scale`` and ``found_inf``
    are read by the update itself: a skipped step changes no parameter, state or count.

    Beside torch's arguments, every optimizer takes these keywords. Clipping, skipping and averaging happen on the
    device, right in a captured CUDA graph and without a wait; see ``measuring.py`` and ``averaging.py``.

    * ``max_grad_norm``: clip the gradients' norm to this number, as ``torch.nn.utils.clip_grad_norm_``, without
      rewriting the gradients. A field of param groups: it may be edited, scheduled, and differ between groups.
    * ``norm_scope``: ``"all"`` (default), one norm of all gradients; ``"group"``, one of each group's.
    * ``skip_nonfinite``: a step whose gradients have an infinity or a NaN changes nothing.
    * ``skip_spikes``: a :class:`SpikeRule`; nor does a step whose norm is far larger than those before.
    * ``ema_decay``: keep an exponential moving average of each parameter in its state, as torch's ``AveragedModel``
      with ``get_ema_multi_avg_fn(ema_decay)``. A field of param groups; of a parameter that is listed several times,
      the last one's counts. ``state[p]["ema"]`` is NaN until an update counts: the average is the parameter then.
    * ``ema_dtype``: ``"float32"`` (default), averages of 16-bit parameters are float32; ``"parameter"``, they are of
      the parameters' dtype.
    * ``zero_grad_in_step``: leave zeros in the gradients, also where the step was skipped.
    * ``master_weights``: ``"float32"``, keep a float32 of each bfloat16 or float16 parameter in its state, which is
      updated, and rounded to the parameter; ``"remainder"``, the 16 bits that bfloat16 parameters lack of it. States
      are then float32. Parameters of other dtypes have none.
    * ``state_dtype``: ``torch.bfloat16``, for float32 or bfloat16 parameters, or ``torch.float32``, for those and
      float16: the dtype of the states. Updates are computed in float32.
    * ``stochastic_rounding``: round new values of 16-bit parameters up or down by chance, the likelier the nearer, so
      that on average nothing is lost. The random bits are words of Philox4x32-10; they depend on ``rounding_seed``
      (default: torch's, which nothing is taken from), the number of updates so far, ``state[p]["rounding_stream"]``,
      and an element's place in its parameter.

    Raises TypeError where a parameter's dtype does not go with ``master_weights="remainder"`` (float16) or with
    ``state_dtype``, ValueError where one of these is no value that there is.

    As torch's ``fused=True``, and other than its default, an update does not count as a change in place for autograd:
    ``p._version`` stays what it was.

    Attributes:
        tables: the parameter tables of the last step, in the order in which they are updated.
    """

    _rule: Rule

    tables: tuple[ParameterTable, ...] = ()
    advances_schedules = True
    _updates: Sequence[backends.Update] = ()
    _prepared_for: list[Schedule] | None = None
    _sparse = False  # some gradients of them are
    _staged = False  # some parameters of them are copied to where kernels can walk, and back

    @staticmethod
    def _refuse_differentiable(differentiable: Any) -> None:
        if differentiable:
            raise ValueError(
                f"{differentiable=} is not supported: the fused update is invisible to autograd. "
                "Use torch.optim's class of the same name where gradients must flow through the step"
            )

    def _refuse_init_group(self) -> None:
        """A subclass may have a step() of its own, but not a part of torch's that ours does not come to."""
        users = next((c for c in type(self).__mro__ if "_init_group" in c.__dict__), None)
        if users is not None and not users.__module__.startswith("torch."):
            raise TypeError(
                f"{type(self).__name__} overrides _init_group, which torch's step() calls and the fused one does not: "
                "override step() instead, or use torch.optim's class of the same name"
            )

    def _start(self, backend: str | backends.Backend | None, step: StepKeywords | None = None) -> None:
        """Move hyperparameters and state into the control block; ends every constructor."""
        self._refuse_init_group()
        if step is not None:
            self._take_options(step)
        device = check_params(self.param_groups, self._options) or torch.device("cpu")
        for group in self.param_groups:
            self._refuse_differentiable(group.get("differentiable"))
        self._backend_given = backend
        self._move_to(device, len(self.param_groups), sum(len(g["params"]) for g in self.param_groups))
        self.param_groups = [self._own_group(g) for g in self.param_groups]
        self._note_groups()
        self.state = self._own_state(self.state)
        self._known_state = self.state
        self._start_measuring()
        self._start_rounding()
        self.note_lrs_scheduled()

    def _take_options(self, step: StepKeywords) -> None:
        self._options, fields = split(step)
        self.defaults.update(fields)
        for group in self.param_groups:
            for name, value in fields.items():
                group.setdefault(name, value)

    @shown
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._block.device

    @shown
    def backend(self) -> backends.Backend:
        """What runs the updates; its ``name`` says which one was chosen."""
        return self._backend

    def _own_group(self, group: dict[str, Any]) -> ParamGroup:
        if isinstance(group, ParamGroup) and group.lives_in(self._block):
            return group
        known = self._changes.given.group_of(group)
        if known is not None:
            return known
        self._refuse_differentiable(group.get("differentiable"))
        check_params([group], self._options, self._block.device)
        made = ParamGroup(group, tuple(self.defaults), self._block, self._changes)
        self._changes.given.watch(group, made)
        return made

    def _own_state(self, state: dict[Any, Any]) -> OptimizerState:
        if isinstance(state, OptimizerState) and state.belongs_to(self._block):
            return state
        return OptimizerState(self._rule, self._block, self._changes, state)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """For GradScaler: whether an update may unscale the gradients, and be skipped, by itself.

        Not where code of the user's runs with it, which is to see gradients that are unscaled, and no skipped update.
        """
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return not hooks and inspect.unwrap(type(self).step) is inspect.unwrap(FusedOptimizer.step)

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        pass  # torch's constructors say so where they are given fused=True

    @not_compiled
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step, and one step of every schedule made with ``fused=True``.

        Args:
            closure: reevaluates the model and returns the loss; optional.

        Returns:
            What ``closure`` returned, else None.

        Raises:
            RuntimeError, TypeError, ValueError, KeyError: a gradient is sparse where torch does not take it, or a
                parameter, a group or a state is not what an update can do with; nothing was changed.
        """
        if modes_on() and fake_mode() is not None:
            refuse_fake_mode("step()")
        if self._averages_are_in is not None:
            self._refuse_among_averages("step()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if Home.rehearsal is None:
            self._update()
        else:
            with Home.rehearsal.work_of(self):
                self._update()
        return loss

    def _update(self) -> None:
        """A step, but for the closure."""
        schedules = self._schedules
        if self._changes.lr_by_hand and not self._block.capturing():  # there is nothing to be read there
            schedules = self._without_trial_step(schedules)
        if self._take_in(schedules) or not self._tables_are_current():
            self.sync()
        if Home.rehearsal is not None:
            Home.rehearsal.before_update(self)
        found = self._found_to_stop()
        may_be_skipped = found is not None or self._may_skip
        if may_be_skipped:
            for schedule in schedules:
                schedule.prepare_skippable_update()
        observers = self._present_observers() if self._observers else ()
        lrs = self._coming_lrs() if observers else None  # before schedules advance in the launch
        if self._staged:
            self._update_staged(schedules, found)
        else:
            self._launch(schedules, found)
        for schedule in schedules:
            schedule.note_update(may_be_skipped)
        if lrs is not None:
            self._tell(observers, lrs)

    def _take_in(self, schedules: Sequence[Schedule]) -> bool:
        """What the user did to groups, states and schedules since the last step; True if tables are to be made anew."""
        changes = self._changes
        if changes.lent:
            take_back_steps(changes.lent)
            changes.lent.clear()
        if changes.handed_out:
            changes.look_at_handed_out()
        if self.groups_changed():
            self.sync_groups()
        for schedule in schedules:  # what can fail first: nothing has been made for the step yet
            if schedule.before_advance is not None:
                schedule.before_advance()
        return self.has_changes

    def expect_replays(self) -> None:
        """A graph is being captured, all of whose replays are told: the host's numbers are none of what it will use."""
        recording_of(self._block.mirrors, self._block.platform)

    @property
    def has_changes(self) -> bool:
        """Whether the next step has to make its tables anew."""
        return self._changes.structure or self.state is not self._known_state

    def before_replay(self, schedules: Collection[Schedule]) -> bool:
        """As a step takes in what was changed by hand, for replays of a captured one, which Python has no part in.

        Args:
            schedules: that the graph advances.

        Returns:
            Whether these are at work still.

        Raises:
            TypeError, ValueError, KeyError, RuntimeError: see :meth:`step`.
        """
        at_work = [schedule.before_advance.before_replay() for schedule in schedules]
        if self._take_in(()) or not self._tables_are_current():
            self.sync()
        return all(map(is_, at_work, schedules))

    def _launch(self, schedules: list[Schedule], found: torch.Tensor | None) -> None:
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            check_values("grad_scale", scale)
        if self._sparse:
            for table in self.tables:
                check_sparse(table, self._block, self.state)
        if schedules != self._prepared_for:
            self._prepare_updates(schedules)
        if self._zeroes:
            self._check_gradients_apart()
        if self._measurement is not None:
            self._measurement.grad_scale, self._measurement.found_inf = scale, found
            self._backend.measure(self._measurement)
        run = self._backend.update
        for update in self._updates:
            update.grad_scale, update.found_inf = scale, found
            if self._sparse:
                update_sparse(update, self.state)
                if update.zeroes:
                    zero_sparse(update.table)
            run(update)

    def _prepare_updates(self, schedules: list[Schedule]) -> None:
        """What a step gives the backend, for as long as tables and schedules stay the same."""
        last = len(self.tables) - 1
        runs = [s.in_update for s in schedules]
        ways = {
            "measured": self._measurement is not None,
            "clipped": any("max_grad_norm" in group for group in self.groups_seen),
            "zeroes": self._zeroes,
            "draws": self._options.stochastic_rounding,
        }
        self._updates = [
            backends.Update(self._rule, table, self._block, None, None, runs if i == last else [], **ways)
            for i, table in enumerate(self.tables)
        ]
        self._prepared_for = list(schedules)

    def _update_staged(self, schedules: list[Schedule], found: torch.Tensor | None) -> None:
        """As :meth:`_launch`. If the results cannot be copied back, no count and no schedule has advanced."""
        counts = self._block.counts
        before = None if self._block.capturing() else counts.clone()
        try:
            self._launch([], found)
        except BaseException:
            if before is not None:
                counts[:] = before
            raise
        for schedule in schedules:
            self._backend.advance(schedule.in_update)

    def _keep_for_graph(self, tensors: list[torch.Tensor]) -> None:
        entries = self.tables[0].entries if self.tables else ()
        self._backend.keep(entries[0].param if entries else self._block, tensors)

    def _without_trial_step(self, schedules: list[Schedule]) -> list[Schedule]:
        """No schedule advances on the step by which torch's distributed checkpoint creates the state.

        It sets every lr to 0 by hand, makes a gradient of zeros for every parameter and calls step() on an empty state;
        SGD without momentum has an empty state at any time. Where scheduler.step() follows, it was no trial after
        all, and that step is an advance of its own.
        """
        self._changes.lr_by_hand = False
        lrs = [g["lr"] for g in self.param_groups]
        if not schedules or not lrs or self.state or any(lrs) or not self._all_gradients_are_zeros():
            return schedules
        return []

    def _all_gradients_are_zeros(self) -> bool:
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.requires_grad]
        there = bool(gradients) and all(g is not None and g.layout == torch.strided for g in gradients)
        return there and not any_anywhere(g for g in gradients if g is not None)

    # -- groups, parameters and state as they are now --------------------------------------------------

    def groups_changed(self) -> bool:
        if self._changes.given.groups:
            self._changes.given.follow()
        groups, known = self.param_groups, self.groups_seen
        if groups is not self._known_groups or self._changes.rebound:
            return True
        bindings = self._block.bindings
        if bindings.fields and bindings.moved():
            return True
        if 0 < len(groups) == len(known) <= 2:  # as most have
            return groups[0] is not known[0] or groups[-1] is not known[-1]
        return len(groups) != len(known) or not all(map(is_, groups, known))

    def _tables_are_current(self) -> bool:
        """Whether they hold the parameters and state that are there; brings their gradients up to date."""
        scan = self._backend.scan
        for table in self.tables:  # noqa: SIM110  # all() takes longer than the rest of this
            if not scan(table):
                return False
        return True

    def sync(self) -> None:
        """Make the parameter table from groups, parameters and state as they are now, whatever was done to them.

        Linear in their number. Where it raises, nothing was changed.

        Raises:
            TypeError, ValueError, KeyError, RuntimeError: something is there that an update cannot do with; or what a
                captured CUDA graph points to would have to move.
        """
        backends.say_if_slow(self._block.device, self._backend_given)
        check_gradients(self.param_groups, type(self).__name__, self._rule.takes_sparse)
        groups = [self._own_group(g) for g in self.param_groups]
        state = self._own_state(self.state)
        unseen = self._scheduled_fields | self._block.bindings.fields
        found = Sync(self._rule, self._block, state, unseen, self._backend.walks_memory, self._options)
        with torch.no_grad():
            found.build(groups)
        self._take_groups(groups)
        self.state = self._known_state = state
        for p, one in found.states.items():
            state[p] = one
        for (_, key), (one, tensor) in found.tensors.items():
            one.store(key, tensor)
        for one, stream in found.streams.values():
            one.store(STREAM, stream)
        for table in self.tables:
            self._backend.discard(table)
        self.tables, self._prepared_for = tuple(found.tables), None
        self._prepare_measurement()
        self._staged = any(table.staged for table in self.tables)
        self._sparse = any(table.sparse for table in self.tables)
        for table in self.tables:
            self._backend.prepare(table)
        self._changes.structure = False
        if not self._tables_are_current():
            raise RuntimeError("the parameters changed while the table was built: do not step from several threads")

    def sync_groups(self) -> None:
        self._take_groups([self._own_group(g) for g in self.param_groups])

    def _take_groups(self, groups: list[ParamGroup]) -> None:
        if not isinstance(self.param_groups, list):
            self.param_groups = list(groups)  # type: ignore[unreachable]
        if self.groups_changed():
            self._changes.structure = True
            for i, group in enumerate(groups):
                self.param_groups[i] = group
            self._note_groups()

    def _note_groups(self) -> None:
        self._known_groups = self.param_groups
        self.groups_seen = list(self.param_groups)
        self._changes.rebound = False
        if self._block.bindings.fields:
            self._block.follow_moved()
            self._block.note_order(self.rows)

    def values_assigned(self) -> int:
        return self._changes.values

    def watch_fields(self, fields: Collection[str]) -> str | None:
        return None  # the control block has all of them

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(group.row for group in self.groups_seen)

    @not_compiled
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group, as in torch.

        Raises:
            ValueError: its parameters are on another device.
            TypeError: a parameter's dtype or layout is not supported.
            RuntimeError: a captured CUDA graph points to a control block without room for it.
        """
        add = super().add_param_group
        if "_block" not in self.__dict__:
            add(param_group)  # torch's constructor is still collecting groups
            return
        refuse_in_rehearsal("add_param_group()")
        narrowed = narrow(self, param_group, self.groups_changed) if is_torchs(add) else None
        if narrowed is not None:
            self.param_groups.append(self._own_group(narrowed.add(param_group)))
            self._note_groups()
        else:
            add(param_group)
            try:
                self.param_groups[-1] = self._own_group(self.param_groups[-1])
            except BaseException:
                del self.param_groups[-1]
                raise
        self._changes.structure = True
