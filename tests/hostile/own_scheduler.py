# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions that use the scheduler that calls them, or its optimizer."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

from hostile.registry import EITHER, TABLE, Subject, hostile, module


def _of_scheduler(name: str, use: str, where: str = TABLE) -> None:
    def make() -> Subject:
        made = module(f"SCHEDULER = None\ndef f(step):\n if SCHEDULER is None: return 0.5\n {use}", LOG=[])
        return Subject(made.f, attach=setting_scheduler(made), state=lambda: list(made.LOG))

    make.__name__ = f"scheduler_{name}"
    hostile(where)(make)


def setting_scheduler(made: types.ModuleType) -> Callable[[Any], None]:
    """Let the functions of a module know their scheduler, weakly."""
    return lambda scheduler: setattr(made, "SCHEDULER", weakref.proxy(scheduler))


_of_scheduler("last_epoch", "return 1 / (1 + SCHEDULER.last_epoch)")
_of_scheduler("step_count", "return 1 / (1 + SCHEDULER._step_count)")
_of_scheduler("last_lr", "return 0.5 + SCHEDULER._last_lr[0] / 4")
_of_scheduler("get_last_lr", "return 0.5 + SCHEDULER.get_last_lr()[0] / 4")
_of_scheduler("state_dict", "return SCHEDULER.state_dict()['last_epoch'] / 4096")
_of_scheduler("base_lrs", "return SCHEDULER.base_lrs[0]")
_of_scheduler("lr_of_group", "return 0.5 + SCHEDULER.optimizer.param_groups[0]['lr'] / 4")
_of_scheduler("all_of_it", "LOG[:] = [sorted((k, v) for k, v in vars(SCHEDULER).items() if type(v) in (int, float, bool))]; return 0.5")
_of_scheduler("within_step", "return 0.5 if SCHEDULER._get_lr_called_within_step else 0.25")
_of_scheduler("is_initial", "return 0.5 if SCHEDULER._is_initial else 0.25")
_of_scheduler("base_lrs_written", "SCHEDULER.base_lrs[0] *= 0.999; return 0.5")
_of_scheduler("base_lrs_replaced", "SCHEDULER.base_lrs = [SCHEDULER.base_lrs[0] * 0.999]; return 0.5")
_of_scheduler("group_written", "SCHEDULER.optimizer.param_groups[0]['weight_decay'] = step / 1000; LOG.append(step); return SCHEDULER.optimizer.param_groups[0]['weight_decay']")
_of_scheduler("last_epoch_written", "SCHEDULER.last_epoch += step % 3 == 0; return 1 / (1 + step)")
_of_scheduler("attribute_of_its_own", "SCHEDULER.mine = step; return SCHEDULER.mine / 4096")
_of_scheduler("learned_lr", "SCHEDULER.optimizer.param_groups[0]['lr'] = 0.25; return SCHEDULER.optimizer.param_groups[0]['lr']")


def _holding(name: str, use: str, *edits: str, where: str = EITHER) -> None:
    """As :func:`_of_scheduler`, where the function has the scheduler and the optimizer themselves."""

    def make() -> Subject:
        made = module(f"S = O = None\ndef f(step):\n if S is None: return 0.5\n {use}", LOG=[])
        changes = [functools.partial(exec, edit, vars(made)) for edit in edits]

        def attach(scheduler: Any) -> None:
            made.S, made.O = scheduler, scheduler.optimizer

        return Subject(made.f, changes, attach=attach, state=lambda: list(made.LOG))

    make.__name__ = f"held_{name}"
    hostile(where)(make)


_holding("last_epoch", "return 1 / (1 + S.last_epoch)", "S.last_epoch = 7")
_holding("within_step", "return 0.5 if S._get_lr_called_within_step else 0.25")
_holding("is_initial", "return 0.5 if S._is_initial else 0.25")
_holding("base_lrs", "return S.base_lrs[0]", "S.base_lrs[0] = 0.25", "S.base_lrs = [0.75]")
_holding("functions", "return 1 / len(S.lr_lambdas)")
_holding("attribute", "return getattr(S, 'mine', 0.5)", "S.mine = 0.25", "del S.mine")
_holding("class_attribute", "return getattr(S, 'mine', 0.5)", "type('X', (), {})", "S.__dict__['mine'] = 0.25")
_holding("name", "return len(type(S).__name__) / 10")
_holding("optimizer", "return 0.5 if S.optimizer is O else 0.25")
_holding("lr", "return 0.5 + O.param_groups[0]['lr'] / 4", "O.param_groups[0]['lr'] = 0.75")
_holding("weight_decay", "return 0.5 + O.param_groups[0]['weight_decay']", "O.param_groups[0]['weight_decay'] = 0.25")
_holding("own_key", "return O.param_groups[0].get('scale', 0.5)", "O.param_groups[0]['scale'] = 0.25", "del O.param_groups[0]['scale']")
_holding("groups", "return 1 / len(O.param_groups)")
_holding("defaults", "return O.defaults['lr']", "O.defaults['lr'] = 0.25")
_holding("state", "return 1 / (1 + len(O.state))", "O.state[0] = {}")
_holding("called", "return 0.5 if getattr(O, '_opt_called', False) else 0.25", "O._opt_called = False")
_holding("optimizer_attribute", "return getattr(O, 'scale', 0.5)", "O.scale = 0.25", "type(O).scale = 0.75", "del O.scale", "del type(O).scale")
_holding("truth", "return 0.5 if O and S else 0.25")
_holding("parameter", "return 0.5 + float(O.param_groups[0]['params'][0])")
_holding("hasattr", "return 0.5 if hasattr(S, 'get_lr') and not hasattr(S, 'nothing') else 0.25", "S.nothing = 1")
