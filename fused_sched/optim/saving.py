"""State dicts, copies and pickles of an optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from .. import backends
from ..compiled import not_compiled
from ..step_options import AVERAGE, OF_NO_RULE, OPTION_FIELDS, STREAM, StepKeywords
from .averaging import Averaging
from .home import refuse_in_rehearsal
from .load import Load, with_own_dtypes
from .measuring import SAVED, Measuring
from .observing import Observing
from .param_state import OptimizerState, ParamState, stored_average, whole_step
from .rehearsed import Rehearsed
from .rounding import Rounding, check_stream
from .stopping import Stopping


class Saving(Measuring, Averaging, Rounding, Stopping, Observing, Rehearsed, Optimizer):
    """The part of an optimizer that is saved and loaded."""

    _known_state: Any
    _loading: dict[str, Any] | None = None  # the state dict on its way in, as torch's hooks left it

    def _start(self, backend: str | backends.Backend | None, step: StepKeywords | None = None) -> None:
        """Move hyperparameters and state into a control block."""
        raise NotImplementedError

    def _own_state(self, state: dict[Any, Any]) -> OptimizerState:
        """A state as one of this optimizer's."""
        raise NotImplementedError

    @not_compiled
    def state_dict(self) -> dict[str, Any]:
        """The state in torch's format; it loads into torch's class of the same name, and back.

        Hyperparameters are those that the device has, to the last place, so that a run goes on from them as it would.
        Where steps measure the gradients, or round by chance, one more key, which torch's class does not look at, has
        how far they are.
        """
        self._refuse_among_averages("state_dict()")
        self._block.expire()
        with self._reserves_aside():
            packed = super().state_dict()
        packed["state"] = self._plain_state(packed["state"])
        own = self._own_so_far()
        if own:
            packed[SAVED] = own
        return packed

    @not_compiled
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state dict, of this class or of torch's class of the same name.

        A group in it that says nothing of ``max_grad_norm`` or ``ema_decay`` leaves them as they are.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: see :class:`Load`; nothing was changed.
        """
        self._refuse_among_averages("load_state_dict()")
        refuse_in_rehearsal("load_state_dict()")

        def look(optimizer: Optimizer, given: dict[str, Any]) -> None:
            self._loading = given
            for values in given["state"].values():  # torch's cast makes others of what is no number
                if isinstance(values, Mapping):
                    self._check_numbers(values)

        last = self.register_load_state_dict_pre_hook(look)  # of those hooks
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            self._loading = None

    def _check_numbers(self, values: Mapping[str, Any]) -> None:
        if self._rule.step_key is not None and self._rule.step_key in values:
            whole_step(values[self._rule.step_key])
        if self._options.stochastic_rounding and values.get(STREAM) is not None:
            check_stream(values[STREAM])

    def _own_so_far(self) -> dict[str, Any]:
        """What torch's class does not know of."""
        return {**self._measured_so_far(), **self._rounded_so_far()}

    def _check_own(self, saved: Any) -> None:
        """Make sure that :meth:`_go_on` cannot fail.

        Raises:
            TypeError, ValueError: ``saved`` is not what :meth:`_own_so_far` gives.
        """
        if saved is None:
            return
        if not isinstance(saved, dict):
            raise TypeError(
                f"the state dict has {SAVED!r}: {saved!r}, but must have a dict, or nothing, under that key"
            )
        self._check_measured(saved)
        self._check_rounded(saved)

    def _go_on(self, saved: dict[str, Any]) -> None:
        """Take over what another optimizer has come to."""
        self._go_on_measuring(saved)
        self._go_on_rounding(saved)

    @contextmanager
    def _reserves_aside(self) -> Iterator[None]:
        """Without states of parameters in no group that hold nothing yet: torch has none of them to refuse."""
        listed = {p for g in self.param_groups for p in g["params"]}
        unlisted = {p: s for p, s in self.state.items() if p not in listed and isinstance(s, ParamState)}
        averaged = self._states_averaged() if unlisted else set()
        aside = {p: s for p, s in unlisted.items() if s and not self._without_reserves(s, averaged)}
        for p in aside:
            dict.pop(self.state, p)
        try:
            yield
        finally:
            for p, state in aside.items():
                dict.setdefault(self.state, p, state)

    def _without_reserves(self, state: ParamState, averaged: Collection[int]) -> dict[str, Any]:
        """A copy without what only says "nothing yet".

        Torch's Adam takes a state whole or not at all: where a number of its own, or an average, has to be kept, so are
        the rule's keys. A master that no update has changed is the parameter.

        Args:
            averaged: by identity, states whose averages hold something.
        """
        not_begun = stored_average(state) is not None and id(state) not in averaged
        reserved: set[str | None] = {AVERAGE} if not_begun else set()
        if state.holds_nothing:
            has_own = any(state.stored(key) is not None for key in {STREAM, AVERAGE} - reserved)
            if self._rule.step_key is None:  # a master may hold something all the same
                reserved |= {*self._rule.state_keys}
            elif not has_own:
                reserved |= {self._rule.step_key, *self._rule.state_keys, *OF_NO_RULE}
        return {k: v for k, v in state.items() if k not in reserved}

    def _plain_state(self, state: dict[Any, Any]) -> dict[Any, Any]:
        plain: dict[Any, Any] = {}
        averaged = self._states_averaged()
        for key, values in state.items():
            if isinstance(values, ParamState):
                kept = self._without_reserves(values, averaged)
                if values and not kept:
                    continue
                values = kept
            plain[key] = values
        return plain

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_among_averages("a copy or a pickle of the optimizer")
        self._block.expire()
        return {
            "defaults": self.defaults,
            "state": defaultdict(dict, self._plain_state(self.state)),
            "param_groups": self.param_groups,
            "_backend_given": self._backend_given,
            "_options": self._options,
            "_own": self._own_so_far(),
            # others may be copied with it that have them too
            "_given": [group.given and group.given.is_used() and group.given.dict for group in self.groups_seen],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_block" not in self.__dict__:
            own, given = state.pop("_own", {}), state.pop("_given", ())
            super().__setstate__(state)
            self._start(self.__dict__.get("_backend_given"))
            for one, group in zip(given, self.groups_seen, strict=False):
                if one:
                    self._changes.given.watch(one, group)
            self._go_on(own)
            return
        self.sync_groups()
        self.state = self._own_state(self.state)
        before: Any = self.param_groups, self.state, self.defaults
        by_hand = self._changes.lr_by_hand
        try:
            super().__setstate__(state)
            for group, present in zip(self.param_groups, before[0], strict=True):
                for name in OPTION_FIELDS:
                    if name in present:
                        group.setdefault(name, present[name])
            if self._loading is not None:
                self._check_own(self._loading.get(SAVED))
                with_own_dtypes(self._rule, self._options, self.param_groups, self.state, self._loading)
            load = Load(self._rule, self._options, before[1], tuple(self.defaults), self._block.captured)
            load.check(self.param_groups, self.state)
        except BaseException:
            self.param_groups, self.state, self.defaults = before
            raise
        groups, loaded = before[0], self.param_groups
        self._changes.given.clear()
        self.param_groups = groups
        for group, values in zip(groups, loaded, strict=True):
            if group is not values:
                group.replace(values)
        self._changes.lr_by_hand = by_hand
        self.state = self._known_state = load.take()
        self._go_on({} if self._loading is None else self._loading.get(SAVED) or {})
        self._changes.structure = True
