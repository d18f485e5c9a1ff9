"""Tracing ``get_lr`` of a scheduler."""

from __future__ import annotations

import math
import random
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..program.builder import Builder, Value
from . import verify
from .containers import Container
from .emit import Form, any_trap, emit_form, emit_groups, make_form
from .explore import LAST_STEP, Explorer, Leaf, Tree, Untraceable, current
from .expression import Node
from .function import all_raise, count_leaves, returned, show_error
from .mathematics import learn_numpy
from .sandbox import Sandbox
from .symbol import Sym
from .watch import Watch

FIELDS = ("lr", "weight_decay", "momentum", "dampening", "eps", "betas")
MOST_GROUPS_ALONE = 16  # groups that are explored one after the other, where their values decide
_ANY = (-math.inf, math.inf, True)


class TracedScheduler:
    """``get_lr`` of a scheduler as operations on the epoch, the count of steps and the fields of each group."""

    def __init__(self, name: str, forms: Sequence[Form], watch: Watch, leaves: int, checked: int) -> None:
        self.name, self.forms, self.watch, self.leaves, self.checked = name, list(forms), watch, leaves, checked

    @property
    def traps(self) -> bool:
        """Whether get_lr raises at some epochs."""
        return any(f.traps for f in self.forms)

    def emit(self, b: Builder, epoch: Value, count: Value) -> Value:
        """Append the next lr of each group; an epoch at which get_lr raises becomes a trap."""
        inputs: dict[str, Callable[[], Value]] = {"epoch": lambda: epoch, "count": lambda: count}
        for name in (*FIELDS[:-1], "beta1", "beta2"):
            inputs[name] = _reader(b, name)
        values, trapped = emit_groups(b, self.forms, inputs, same=False)
        if trapped is not None:
            b.trap(trapped)
        return values[0]

    def changed(self) -> bool:
        """Whether something that get_lr read is not what it was: trace it again."""
        return self.watch.changed()

    def explain(self) -> str:
        """What was traced and how it was checked, in one line."""
        lines = max(len(f.lines) for f in self.forms)
        return (
            f"{self.name}: {self.leaves} path(s), {lines} values for {len(set(self.forms))} kind(s) of param group; "
            f"equal to get_lr bit for bit at {self.checked} combinations of epoch and values"
        )


def _reader(b: Builder, name: str) -> Callable[[], Value]:
    return lambda: b.field(name)


class GroupView(Container):
    """A param group whose hyperparameters are symbolic."""

    __slots__ = ("_fields",)

    def __init__(self, box: Sandbox, real: Any, fields: dict[str, Any]) -> None:
        super().__init__(box, real)
        self._fields = fields

    def _changes(self, *arguments: Any) -> Any:
        what = repr(arguments[0]) if arguments else "entries"
        raise current().stop(f"it assigns to {what} of a param group")

    __setitem__ = __delitem__ = __ior__ = _changes

    def __getitem__(self, key: Any) -> Any:
        if key in self._fields:
            return self._fields[key]
        if key not in self._real:
            raise KeyError(key)
        value = self._real[key]
        if key == "params":
            raise current().stop("it reads the parameters of a param group")
        return self._box.read_key(self._real, key, value)

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self._real else default

    def __contains__(self, key: Any) -> bool:
        return key in self._real

    def keys(self) -> Any:
        return dict.fromkeys(self._real).keys()

    def _parts(self) -> list[Any]:
        return list(self._real)


class GroupsView(Container):
    """The optimizer's param_groups."""

    __slots__ = ("_views",)

    def __init__(self, box: Sandbox, real: Any, views: list[GroupView]) -> None:
        super().__init__(box, real)
        self._views = views

    def _parts(self) -> list[Any]:
        return list(self._views)

    def __getitem__(self, index: Any) -> Any:
        return self._views[index]


def trace_get_lr(scheduler: Any) -> TracedScheduler:
    """``type(scheduler).get_lr`` as a program of epoch, step count and each group's hyperparameters.

    It is run symbolically as inside ``step()``, in the sandbox of :func:`trace`, and then compared bit for bit with
    the real method on a stand-in of the scheduler, at a few hundred combinations of epochs and random values.

    Args:
        scheduler: a constructed :class:`torch.optim.lr_scheduler.LRScheduler`.

    Raises:
        Untraceable: it does what a program cannot, writes to the scheduler or a group, or lets the lr of a group
            depend on another group; its ``reason`` says what.
    """
    name = f"{type(scheduler).__qualname__}.get_lr"
    try:
        return _trace(scheduler, name)
    except Untraceable as error:
        raise Untraceable(f"{name}: {error.reason}") from None
    except RecursionError:
        raise Untraceable(f"{name}: it recurses too deeply") from None


def _trace(scheduler: Any, name: str) -> TracedScheduler:
    learn_numpy()
    groups = scheduler.optimizer.param_groups
    tree, explorer, watch = _explore(scheduler, groups, None)
    if all_raise(tree):
        raise Untraceable(f"it raises {show_error(tree)} at every epoch")
    trees = [tree] * len(groups)
    if len(groups) > 1 and _decides_by_groups(tree):
        if len(groups) > MOST_GROUPS_ALONE:
            raise Untraceable(f"values of more than {MOST_GROUPS_ALONE} param groups decide its path")
        trees = [_explore(scheduler, groups, g)[0] for g in range(len(groups))]
    forms = [_form(t, g) for g, t in enumerate(trees)]
    for form in forms:
        if form.traps and not _uniform_traps(form):
            raise Untraceable("whether it raises depends on values of a param group")
    checked = _check(scheduler, forms, explorer)
    return TracedScheduler(name, forms, watch, max(map(count_leaves, trees)), checked)


def _explore(scheduler: Any, groups: Any, only: int | None) -> tuple[Tree, Explorer, Watch]:
    inputs: dict[str, Any] = {
        "epoch": ((0.0, float(LAST_STEP), False), True),
        "count": ((1.0, float(LAST_STEP), False), True),
    }
    for g, group in enumerate(groups):
        for field in _fields_of(group):
            inputs[f"{field} {g}"] = (_ANY, False)
    explorer = Explorer(inputs, scale=1 + len(groups) // 16)
    if only is not None:
        # What other groups decide must not matter here, whichever way it goes: the check below would show it.
        explorer.free = lambda node: True if node.inputs and _groups_of(node) - {only} else None
    with Sandbox(explorer) as box:

        def once() -> tuple[Any, ...]:
            view = _scheduler_view(box, scheduler, groups)
            function = box.bind(_method(scheduler), "get_lr", view, box.wrap(type(scheduler)))
            result = function()
            if isinstance(result, Container):
                result = list(result)
            if not isinstance(result, (list, tuple)):
                raise current().stop(f"it returns a {type(result).__name__}, not a list of one lr a group")
            if len(groups) == 1:
                return returned(result[0] if len(result) == 1 else result, 1)
            return returned(result, len(groups))

        return explorer.explore(once), explorer, box.watch


def _method(scheduler: Any) -> types.FunctionType:
    for owner in type(scheduler).__mro__:
        if "get_lr" in owner.__dict__:
            return owner.__dict__["get_lr"]  # type: ignore[no-any-return]
    raise Untraceable("there is no get_lr")


def _fields_of(group: Any) -> list[str]:
    names = [f for f in FIELDS[:-1] if (f in group and isinstance(group[f], (int, float))) or f == "lr"]
    return [*names, "beta1", "beta2"] if "betas" in group else names


def _scheduler_view(box: Sandbox, scheduler: Any, groups: Any) -> Any:
    made = box.explorer.inputs
    views = []
    for g, group in enumerate(groups):
        fields: dict[str, Any] = {f: Sym(made[f"{f} {g}"], "float") for f in _fields_of(group)}
        if "betas" in group:
            fields["betas"] = (fields.pop("beta1"), fields.pop("beta2"))
        views.append(GroupView(box, group, fields))
    view = box.wrap(scheduler)
    optimizer = box.wrap(scheduler.optimizer)
    for attribute, value in (
        ("last_epoch", Sym(made["epoch"], "int")),
        ("_step_count", Sym(made["count"], "int")),
        ("_is_initial", False),
        ("_get_lr_called_within_step", True),
        ("optimizer", optimizer),
    ):
        box.overrides[id(scheduler), attribute] = value
    box.overrides[id(scheduler.optimizer), "param_groups"] = GroupsView(box, groups, views)
    return view


def _groups_of(node: Node) -> set[int]:
    return {int(name.split()[1]) for name in node.inputs if " " in name}


def _decides_by_groups(tree: Tree) -> bool:
    if isinstance(tree, Leaf):
        return False
    return bool(_groups_of(tree.condition)) or _decides_by_groups(tree.true) or _decides_by_groups(tree.false)


def _form(tree: Tree, g: int) -> Form:
    def rename(name: str) -> str:
        field, _, group = name.partition(" ")
        if group and int(group) != g:
            raise Untraceable(f"the lr of group {g} depends on {field!r} of group {group}")
        return field

    return make_form(tree, lambda leaf: leaf.values[g : g + 1], rename)


def _uniform_traps(form: Form) -> bool:
    """Whether the decisions above a trap are the same for all groups."""
    varies: list[bool] = []
    for op, value, places in form.lines:
        varies.append((op == "input" and value not in ("epoch", "count")) or any(varies[p] for p in places))
    forks = [form.shape]
    for shape in forks:  # grows
        if shape[0] == "fork":
            if any_trap(shape) and varies[shape[1]]:
                return False
            forks += shape[2:]
    return True


# -- checking ----------------------------------------------------------------------------------------------


def _check(scheduler: Any, forms: Sequence[Form], explorer: Explorer) -> int:
    """Compare with the real method.

    Raises:
        Untraceable: they differ somewhere.
    """
    compiled = {form: _compile(form) for form in dict.fromkeys(forms)}
    stand_in, rows = _stand_in(scheduler)
    generator, checked = random.Random(0), 0
    epochs = _epochs(explorer, len(forms))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in epochs:
            for count in {epoch + 1, 1} if checked < 40 else {epoch + 1}:
                values = [_draw(generator, row) for row in rows]
                stand_in.last_epoch, stand_in._step_count = epoch, count
                expected = verify.expected_of(stand_in.get_lr)
                found = [compiled[f](float(epoch), float(count), v) for f, v in zip(forms, values, strict=True)]
                _compare(found, expected, epoch, count)
                checked += 1
    return checked


def _epochs(explorer: Explorer, n_groups: int) -> list[int]:
    must, _ = verify.steps_to_check(explorer, sparse=True)
    limit = 600 if n_groups < 8 else 100
    centres = {p for p in explorer.points if p <= explorer.horizon}
    near = {x for c in centres for x in (c - 1, c, c + 1) if x >= 0}
    chosen = must[:: max(1, len(must) // limit)]
    return sorted({*chosen, *range(20), *sorted(near)[:limit]})


def _draw(generator: random.Random, group: dict[str, Any]) -> dict[str, float]:
    values = {}
    for name in _fields_of(group):
        values[name] = generator.choice((generator.random(), 10 ** generator.uniform(-8, 1)))
        if name in group:
            group[name] = values[name]
    if "betas" in group:
        group["betas"] = (values["beta1"], values["beta2"])
    return values


def _stand_in(scheduler: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A copy of the scheduler over plain groups, to call get_lr on."""
    kind: Any = type(scheduler)
    made = kind.__new__(kind)
    if hasattr(made, "_reset_slots"):  # one of ours: without a program
        made._reset_slots(False, False)
    made.__dict__.update(scheduler.__dict__)
    rows = [{k: v for k, v in g.items() if k != "params"} for g in scheduler.optimizer.param_groups]
    optimizer = types.SimpleNamespace(param_groups=rows, defaults=dict(scheduler.optimizer.defaults))
    for name, value in (("optimizer", optimizer), ("_get_lr_called_within_step", True), ("_is_initial", False)):
        made.__dict__[name] = value
    return made, rows


def _compile(form: Form) -> Callable[[float, float, dict[str, float]], float | None]:
    b = Builder(1)
    inputs = {op[1] for op in form.lines if op[0] == "input"} | {"epoch", "count"}
    registers = {name: b.register(name, 0.0) for name in sorted(inputs)}
    values, trapped = emit_form(b, [form], {name: _given(v) for name, v in registers.items()})
    b.register("result", 0.5)
    b.set_register("result", values[0])
    b.register("trapped", 0.0)
    if trapped is not None:
        b.set_register("trapped", trapped)
    program = b.finish("traced")
    advance, at = program.compile_host(), program.offsets
    initial: list[float] = program.initial_memory([0]).tolist()
    fields = [(name, at[name]) for name in inputs if name not in ("epoch", "count")]

    def run(epoch: float, count: float, row: dict[str, float]) -> float | None:
        memory = initial.copy()
        memory[at["epoch"]], memory[at["count"]] = epoch, count
        for name, place in fields:
            memory[place] = row[name]
        advance(memory, [])
        return None if memory[at["trapped"]] else memory[at["result"]]

    return run


def _given(value: Value) -> Callable[[], Value]:
    return lambda: value


def _compare(found: list[float | None], expected: Any, epoch: int, count: int) -> None:
    raised = any(x is None for x in found)
    if raised or not verify.same(tuple(x for x in found if x is not None), expected):
        if raised and expected is None:
            return
        shown = "an exception" if raised else repr(found)
        real = "an exception" if expected is None else repr(expected)
        raise Untraceable(f"at epoch {epoch} (step count {count}) its program gives {shown}, but get_lr {real}")
