"""Tracing ``get_lr`` of a scheduler: as a function of the step, with the hyperparameters of each group as inputs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from torch import Tensor, float64

from ..program.bounds import ANY, Interval
from ..program.builder import Builder, Value
from ..trace.builtin import CLASS_OF, COPIES
from ..trace.function import (
    Evaluator,
    compare,
    emit_per_group,
    evaluator_of,
    naming,
    promise,
    returned,
    steps_to_compare,
    symbols,
)
from ..trace.graph import JUMPS, Node
from ..trace.mathematics import quiet_numpy
from ..trace.outside import StandIn, Watch
from ..trace.paths import LAST_STEP, Explorer, Outcome, Untraceable
from ..trace.sandbox import Sandbox
from .registers import LAST_LR, Register

_NUMBERS = ("lr", "weight_decay", "momentum", "dampening", "eps")
_PAIR = ("beta1", "beta2")
MOST_GROUPS_ALONE = 16  # groups that are explored one after the other, where their values decide
MOST_COMPARED = 600
_STEPS = ("epoch", "count")
_BETWEEN_STEPS = ("step", "state_dict", "load_state_dict", "explain", "detach", "observe")
_GROUP = "a param group, where it may read numbers: return the lr, and let a ParamScheduler set others"
_GroupCopy: Any = type("_GroupCopy", (COPIES[dict],), {"__slots__": (), "_what": lambda self: _GROUP})
CLASS_OF[_GroupCopy] = dict


class TracedGetLR:
    """``get_lr`` of a scheduler as operations on the epoch, the count of steps and the fields of each group."""

    def __init__(
        self, name: str, outcomes: Sequence[Outcome], evaluators: Sequence[Evaluator], watch: Watch, compared: int
    ) -> None:
        self.name, self.outcomes, self.watch, self.compared = name, outcomes, watch, compared
        self._evaluators = evaluators

    @property
    def traps(self) -> bool:
        """Whether get_lr raises at some epochs."""
        return any(not one.trap.is_const for one in self.outcomes)

    @property
    def horizon(self) -> int:
        """The last epoch, and count, up to which whole numbers are exact."""
        return min(one.horizon for one in self.outcomes)

    def emit(self, b: Builder, epoch: Value, count: Value) -> Value:
        """Append the next lr of each group; an epoch at which get_lr raises becomes a trap."""
        inputs = {"epoch": epoch, "count": count}
        used = {node.field for one in self.outcomes for node in one.nodes if node.op == "input"}
        inputs |= {name: b.field(name) for name in (*_NUMBERS, *_PAIR) if name in used}
        return emit_per_group(b, self.outcomes, inputs)[0]

    def evaluate(self, epoch: int, count: int, groups: Sequence[Any]) -> list[float] | None:
        """The next lr of each group as the host computes it; None where get_lr raises."""
        lrs: list[float] = []
        for run, group in zip(self._evaluators, groups, strict=True):
            found = run({"epoch": float(epoch), "count": float(count), **_fields(group)})
            if found is None:
                return None
            lrs += found
        return lrs

    def why_not_with(self, groups: Sequence[Any]) -> str | None:
        """Why these groups need torch's arithmetic, if so: a float32 tensor is rounded there in every step."""
        for one, group in zip(self.outcomes, groups, strict=True):
            for field, value in _fields(group).items():
                if isinstance(value, Tensor) and value.dtype != float64 and field in _decisive(one):
                    return f"its path or a whole number depends on {field}, a tensor of {value.dtype}"
        return None

    def changed(self) -> bool:
        """Whether something that get_lr read is not what it was: trace it again."""
        return self.watch.changed()

    def explain(self) -> str:
        """What was traced, how it was checked and what is promised."""
        values, kinds = max(len(one.nodes) for one in self.outcomes), {one.bits for one in self.outcomes}
        paths = max(one.paths for one in self.outcomes)
        return (
            f"{self.name}: {paths} path(s), {values} values for {len(kinds)} kind(s) of param group; "
            f"{promise(self.outcomes)}; compared at {self.compared} combinations of epoch and values"
        )


def trace_get_lr(scheduler: Any) -> TracedGetLR:
    """``scheduler.get_lr`` as a program of epoch, step count and each group's hyperparameters.

    It is not called: its code is run symbolically as inside ``step()``, in the sandbox of
    :func:`fused_sched.trace.trace`, and compared with that code run on numbers.

    Args:
        scheduler: a constructed :class:`torch.optim.lr_scheduler.LRScheduler`.

    Raises:
        Untraceable: it does what a program cannot, writes to the scheduler or a group, or lets the lr of a group
            depend on another group; its ``reason`` says what.
    """
    name = f"{type(scheduler).__qualname__}.get_lr"
    with naming(name), quiet_numpy():
        groups = scheduler.optimizer.param_groups
        explorer = _explorer(groups)
        with closing(_sandbox(scheduler)) as box:
            folded = _explore(box, explorer, scheduler, groups)
            own = [folded] * len(groups)
            if any(_groups_of(v) - {g} for g, v in enumerate(folded.values)):
                own = _alone(scheduler, groups)
            outcomes = [_of_one(one, g) for g, one in enumerate(own)]
            inputs = _draw(explorer, groups)
            kinds = [one.bits for one in outcomes]
            compiled: dict[Any, Evaluator] = {}
            for g, kind in enumerate(kinds):
                if kind not in compiled:
                    evaluator = compiled[kind] = evaluator_of(outcomes[g])
                    rebuilt = lambda values, g=g: _get_lr(box, scheduler, groups, values)[g]  # noqa: E731
                    compare(explorer, evaluator, rebuilt, [_of_group(x, g) for x in inputs])
            evaluators = [compiled[kind] for kind in kinds]
        return TracedGetLR(name, outcomes, evaluators, box.watch, len(inputs))


def _sandbox(scheduler: Any) -> Sandbox:
    """One that says of a scheduler on the device what get_lr may not ask it for, and what to do instead."""
    box, kind = Sandbox(), type(scheduler)
    registers = {name for name in dir(kind) if isinstance(getattr(kind, name, None), Register)}
    if registers:
        instead = "take group['lr'] of self.optimizer.param_groups, which is the same until the lr is edited by hand"
        reasons = {name: f"it reads self.{name}, which moves with the program: compute it" for name in registers}
        reasons = {name: f"{reason} from self.last_epoch" for name, reason in reasons.items()}
        ours = [name for name in _BETWEEN_STEPS if _is_of_this_package(kind, name)]
        reasons |= {name: f"it calls self.{name}(), which is for between steps" for name in ours}
        reasons[LAST_LR] = f"it reads self.{LAST_LR}, which the step is about to write: {instead}"
        if _is_of_this_package(kind, "get_last_lr"):
            reasons["get_last_lr"] = f"it calls self.get_last_lr(), of what the step is about to write: {instead}"
        box.refused.update({(id(scheduler), name): reason for name, reason in reasons.items()})
    return box


def _is_of_this_package(kind: type, name: str) -> bool:
    """Whether a class of ours is where a scheduler has a method from, and not the user's."""
    owner = next((one for one in kind.__mro__ if name in one.__dict__), None)
    return owner is not None and owner.__module__.startswith(f"{__package__}.")


def _explorer(groups: Sequence[Any]) -> Explorer:
    inputs: dict[str, Any] = {
        "epoch": (Interval(0.0, float(LAST_STEP)), True),
        "count": (Interval(1.0, float(LAST_STEP)), True),
    }
    for g, group in enumerate(groups):
        inputs |= {f"{field} {g}": (ANY, False) for field in _fields(group)}
    return Explorer(inputs, scale=1 + len(groups) // 16)


def _explore(box: Sandbox, explorer: Explorer, scheduler: Any, groups: Sequence[Any]) -> Outcome:
    def once() -> tuple[Node, ...]:
        lrs = _get_lr(box, scheduler, groups, symbols(explorer))
        return returned(lrs[0] if len(groups) == 1 and len(lrs) == 1 else lrs, len(groups))

    return explorer.explore(once)


def _alone(scheduler: Any, groups: Sequence[Any]) -> list[Outcome]:
    """Each group explored by itself, where values of the groups decide the path."""
    if len(groups) > MOST_GROUPS_ALONE:
        raise Untraceable(f"values of more than {MOST_GROUPS_ALONE} param groups decide its path")
    found = []
    for g in range(len(groups)):
        explorer = _explorer(groups)
        # what other groups decide must not matter here, whichever way it goes: comparing would show it
        explorer.free = lambda node, g=g: True if _groups_of(node) - {g} else None  # type: ignore[misc]
        with closing(_sandbox(scheduler)) as box:
            found.append(_explore(box, explorer, scheduler, groups))
    return found


def _get_lr(box: Sandbox, scheduler: Any, groups: Sequence[Any], values: Mapping[str, Any]) -> Any:
    """What the rebuilt get_lr returns inside ``step()``, where hyperparameters, epoch and count are ``values``."""
    for attribute, value in (
        ("last_epoch", values["epoch"]),
        ("_step_count", values["count"]),
        ("_is_initial", False),
        ("_get_lr_called_within_step", True),
        ("optimizer", box.wrap(scheduler.optimizer)),
    ):
        box.overrides[id(scheduler), attribute] = value
    copies = COPIES[list](_copy_of_group(box, group, g, values) for g, group in enumerate(groups))
    box.overrides[id(scheduler.optimizer), "param_groups"] = copies
    return box.wrap(scheduler).get_lr()


def _copy_of_group(box: Sandbox, group: Any, g: int, values: Mapping[str, Any]) -> Any:
    fields = {name: values[f"{name} {g}"] for name in _fields(group)}
    if "betas" in group:
        fields["betas"] = tuple(fields.pop(name) for name in _PAIR)
    box.watch.elements(group, keys_alone=True)
    made = {}
    for key in group:
        if key in fields:
            value = fields[key]
        elif key == "params":
            value = StandIn(group[key], None)
        else:
            value = box.wrap(box.watch.variable(group, key))
        made[key] = value
    return _GroupCopy(made)


def _fields(group: Any) -> dict[str, Any]:
    found = {f: group[f] for f in _NUMBERS if f in group and (f == "lr" or isinstance(group[f], (int, float)))}
    return found | (dict(zip(_PAIR, group["betas"], strict=True)) if "betas" in group else {})


def _groups_of(node: Node) -> set[int]:
    return {int(name.split()[1]) for name in node.inputs if " " in name}


def _decisive(outcome: Outcome) -> set[str]:
    """Inputs of which the least change may change a result by much: they are compared, or made whole numbers."""
    return {name.partition(" ")[0] for node in outcome.nodes if node.op in JUMPS for name in node.inputs}


def _of_one(of_all: Outcome, g: int) -> Outcome:
    if _groups_of(of_all.trap):
        raise Untraceable("whether it raises depends on values of a param group")
    for field, _, group in (name.partition(" ") for name in of_all.values[g].inputs):
        if group and int(group) != g:
            raise Untraceable(f"the lr of group {g} depends on {field!r} of group {group}")
    return replace(of_all, values=of_all.values[g : g + 1])


# -- comparing ---------------------------------------------------------------------------------------------


def _draw(explorer: Explorer, groups: Sequence[Any]) -> list[dict[str, Any]]:
    """Epochs and counts as they come, and random values of the groups."""
    most = MOST_COMPARED if len(groups) < 8 else 100
    steps = steps_to_compare(explorer, sparse=True)
    epochs = sorted({*range(20), *steps[:: max(1, len(steps) // most)]})
    generator = random.Random(0)
    names = [name for name in explorer.inputs if name not in _STEPS]
    made = []
    for epoch in epochs:
        for count in {epoch + 1, 1} if epoch < 20 else {epoch + 1}:
            drawn = {n: generator.choice((generator.random(), 10 ** generator.uniform(-8, 1))) for n in names}
            made.append({"epoch": epoch, "count": count, **drawn})
    return made


def _of_group(values: Mapping[str, Any], g: int) -> dict[str, Any]:
    """All values, and those of one group by the names that its outcome has."""
    return {**values, **{name.partition(" ")[0]: x for name, x in values.items() if name.endswith(f" {g}")}}
