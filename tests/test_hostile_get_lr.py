# ruff: noqa: E501  # programs of one line
"""Schedulers of the user's whose get_lr is made to fool a trace, beside the same ones of torch's."""

from __future__ import annotations

import gc
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from schedule_twins import OURS, TORCH, optimizer, same_bits

import fused_sched

pytestmark = pytest.mark.slow

STEPS = 400
LATER = 100
Maker = Callable[[Any], tuple[Any, list[Callable[[Any], Any]]]]
MAKERS: dict[str, Maker] = {}


def _case(name: str, body: str, *edits: Callable[[Any], Any], base: str = "StepLR", **attributes: Any) -> None:
    """A subclass whose get_lr computes ``lrs`` in ``body`` from step 100 on, as ``late`` hides it from comparing."""

    def make(home: Any, late: bool) -> Any:
        start = f"if self.last_epoch < {LATER if late else -1}: return [b * 0.5 for b in self.base_lrs]"
        lines = [start, *body.splitlines()]
        source = "class Own(Base):\n def get_lr(self):\n" + "\n".join(f"  {line}" for line in lines)
        space: dict[str, Any] = {"Base": getattr(home, base), "LOG": [], "__name__": "hostile"}
        exec(source, space)  # noqa: S102
        kind = space["Own"]
        for key, value in attributes.items():
            setattr(kind, key, value() if callable(value) and getattr(value, "__name__", "") == "<lambda>" else value)
        return kind, space

    MAKERS[name] = make, edits  # type: ignore[assignment]


def _groups(s: Any) -> Any:
    return s.optimizer.param_groups


_EACH = "return [{} for g, b in zip(self.optimizer.param_groups, self.base_lrs)]"
_case("a key that appears", _EACH.format("b * g.get('lr_scale', 1.0)"), lambda s: _groups(s)[0].update(lr_scale=0.25))
_case(
    "a key asked for that appears",
    _EACH.format("b * (0.25 if 'fast' in g else 0.5)"),
    lambda s: _groups(s)[1].update(fast=True),
)
_case("number of keys", _EACH.format("b / len(g)"), lambda s: _groups(s)[1].update(fast=True))
_case(
    "order of keys",
    "return [b * (0.5 if [*g][0] == 'params' else 0.25) for g, b in zip(self.optimizer.param_groups, self.base_lrs)]",
)
_case("keys", _EACH.format("b / sum(len(k) for k in g.keys())"))
_case(
    "a key that changes",
    _EACH.format("b * g['scale']"),
    lambda s: _groups(s)[0].update(scale=0.25),
    lambda s: _groups(s)[0].update(scale=2),
)
_case("a key that goes", _EACH.format("b * g.get('scale', 1.5)"), lambda s: _groups(s)[0].pop("scale"))
_case(
    "flag of a group",
    _EACH.format("b * (0.25 if g['nesterov'] else 0.5)"),
    lambda s: _groups(s)[0].update(nesterov=True),
)
_case("weight decay", _EACH.format("b * (1 + g['weight_decay'])"), lambda s: _groups(s)[0].update(weight_decay=0.125))
_case("number of parameters", _EACH.format("b / len(g['params'])"))
_case("initial lr", _EACH.format("g['initial_lr'] * 0.5"), lambda s: _groups(s)[0].update(initial_lr=0.75))
_case(
    "lr written",
    "for g in self.optimizer.param_groups: g['lr'] = 0.25\nreturn [g['lr'] * 2 for g in self.optimizer.param_groups]",
)
_case(
    "weight decay written",
    "for g in self.optimizer.param_groups: g['weight_decay'] = 0.25\nreturn [b * 0.5 for b in self.base_lrs]",
)
_case("attribute written", "self.mine = self.last_epoch\nreturn [b / (1 + self.mine) for b in self.base_lrs]")
_case("counter", "self.calls += 1\nreturn [b / self.calls for b in self.base_lrs]", calls=0)
_case("log", "LOG.append(self.last_epoch)\nreturn [b * 0.5 for b in self.base_lrs]")
_case("base_lrs changed in it", "self.base_lrs[0] *= 0.99\nreturn list(self.base_lrs)")
_case(
    "base_lrs changed by the user",
    "return [b * 0.5 for b in self.base_lrs]",
    lambda s: s.base_lrs.__setitem__(0, 0.75),
    lambda s: setattr(s, "base_lrs", [0.5, 0.25]),
)
_case(
    "attribute of the class",
    "return [b * self.rate for b in self.base_lrs]",
    lambda s: setattr(type(s), "rate", 0.25),
    lambda s: setattr(s, "rate", 2.0),
    rate=0.5,
)
_case(
    "property", "return [b * self.rate for b in self.base_lrs]", rate=property(lambda self: 1 / (1 + self.last_epoch))
)
_case(
    "method",
    "return [self.one(b) for b in self.base_lrs]",
    lambda s: setattr(type(s), "one", lambda self, b: b * 0.25),
    one=lambda: lambda self, b: b * 0.5,
)
_case(
    "super",
    "return [x * 0.5 for x in super(Own, self).get_lr()]",
    lambda s: setattr(s, "gamma", 0.75),
    lambda s: setattr(s, "step_size", 7),
)
_case("super without arguments", "return [x for x in super().get_lr()]", lambda s: setattr(s, "gamma", 0.75))
_case("last lr", "if self._is_initial: return list(self.base_lrs)\nreturn [x * 0.999 for x in self._last_lr]")
_case("get_last_lr", "if self._is_initial: return list(self.base_lrs)\nreturn [x * 0.999 for x in self.get_last_lr()]")
_case("recursion over lr", _EACH.format("g['lr'] * 0.999"), lambda s: _groups(s)[0].update(lr=0.75))
_case("neighbour", "return [self.optimizer.param_groups[i - 1]['lr'] * 0.999 for i in range(2)]")
_case("sum over groups", "t = sum(g['lr'] for g in self.optimizer.param_groups)\nreturn [t * b for b in self.base_lrs]")
_case(
    "decided by another group",
    "if self.optimizer.param_groups[1]['lr'] > 0.05: return [b * 0.5 for b in self.base_lrs]\nreturn [b * 0.25 for b in self.base_lrs]",
    lambda s: _groups(s)[1].update(lr=0.01),
)
_case("step count", "return [b / self._step_count for b in self.base_lrs]", lambda s: setattr(s, "_step_count", 7))
_case(
    "last epoch set", "return [b / (1 + self.last_epoch) for b in self.base_lrs]", lambda s: setattr(s, "last_epoch", 7)
)
_case("is_initial", "return [b * (0.5 if self._is_initial else 0.25) for b in self.base_lrs]")
_case("called within step", "return [b * (0.5 if self._get_lr_called_within_step else 0.25) for b in self.base_lrs]")
_case(
    "defaults",
    "return [b * (1 + self.optimizer.defaults['lr']) for b in self.base_lrs]",
    lambda s: s.optimizer.defaults.update(lr=0.5),
)
_case("state of the optimizer", "return [b / (1 + len(self.optimizer.state)) for b in self.base_lrs]")
_case(
    "class of the optimizer",
    "return [b * (0.5 if type(self.optimizer).__name__ == 'SGD' else 0.25) for b in self.base_lrs]",
)
_case("isinstance of itself", "return [b * (0.5 if isinstance(self, Base) else 0.25) for b in self.base_lrs]")
_case(
    "class of itself",
    "return [b * len(self.__class__.__name__) / 7 for b in self.base_lrs]",
    lambda s: setattr(type(s), "__name__", "Longer"),
)
_case(
    "identity of groups",
    "g = self.optimizer.param_groups\nreturn [b * (0.5 if g[0] is g[0] and g is self.optimizer.param_groups else 0.25) for b in self.base_lrs]",
)
_case("a group that is merged", _EACH.format("(g | {'lr': 0.75})['lr'] * b"))
_case("a group that is copied", _EACH.format("dict(g)['lr'] * 0.999"))
_case("a group that is unpacked", _EACH.format("{**g}['lr'] * 0.999"))
_case(
    "a group that is matched",
    "found = []\nfor g in self.optimizer.param_groups:\n match g:\n  case {'lr': lr, 'momentum': 0.7}: found.append(lr * 0.999)\n  case _: found.append(0.125)\nreturn found",
)
_case("type of a group", _EACH.format("b * (0.5 if isinstance(g, dict) else 0.25)"))
_case("repr of a group", _EACH.format("b * (0.5 if 'lr' in str(g) else 0.25)"))
_case("a group in a global", "G = self.optimizer.param_groups[0]\nreturn [G['lr'] * 0.999, G['lr'] * 0.5]")
_case("generator", "return (b * 0.5 for b in self.base_lrs)")
_case("tuple", "return tuple(b * 0.5 for b in self.base_lrs)")
_case("map", "return map(lambda b: b * 0.5, self.base_lrs)")
_case("raises at 150", "if self.last_epoch == 150: raise LookupError('x')\nreturn [b * 0.5 for b in self.base_lrs]")
_case("closed form", "return [b * 0.5 ** (self.last_epoch // 50) for b in self.base_lrs]", lambda s: s.step(17))
_case(
    "hasattr",
    "return [b * (0.25 if hasattr(self, 'flag') else 0.5) for b in self.base_lrs]",
    lambda s: setattr(s, "flag", 1),
    lambda s: delattr(s, "flag"),
)
_case(
    "truth of itself",
    "return [b * (0.5 if self else 0.25) for b in self.base_lrs]",
    lambda s: setattr(type(s), "__bool__", lambda self: False),
)
_case("warnings", "import warnings\nwarnings.warn('x')\nreturn [b * 0.5 for b in self.base_lrs]")
_case(
    "of cosine",
    "return [x * 0.5 for x in super().get_lr()]",
    lambda s: setattr(s, "T_max", 60),
    base="ExponentialLR",
    gamma=0.99,
)


def _run(home: Any, module: Any, name: str, late: bool, edits: dict[int, int]) -> Any:
    make, changes = MAKERS[name]
    made = optimizer(module, "SGD", [0.1, 0.2])
    for group in made.param_groups:
        group["scale"] = 1.0
    kind, space = make(home, late)  # type: ignore[call-arg]
    arguments = (3,) if kind.__mro__[1].__name__ == "StepLR" else (0.99,)
    scheduler = kind(made, *arguments)
    history = []
    for step in range(1, STEPS):
        if step in edits:
            changes[edits[step]](scheduler)  # type: ignore[operator]
        error = None
        try:
            scheduler.step()
        except LookupError as caught:
            error = type(caught).__name__
            scheduler.last_epoch, scheduler._step_count = 151, 152
        history.append((error, [float(g["lr"]) for g in made.param_groups], scheduler.last_epoch))
    return history, list(space["LOG"]), scheduler


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("name", MAKERS)
def test_hostile_get_lr(name: str, late: bool, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    n = len(MAKERS[name][1])
    first = LATER + 5 if late else rng.choice((3, 40, 64, 65, 90))
    edits = {at: k for k, at in enumerate(sorted([first, *rng.sample(range(first + 1, STEPS), n - 1)]) if n else [])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, our_log, scheduler = _run(OURS, fused_sched.optim, name, late, edits)
        torchs, their_log, _ = _run(TORCH, __import__("torch").optim, name, late, edits)
    for step, ((error, lrs, epoch), expected) in enumerate(zip(ours, torchs, strict=True), 1):
        why = f"step {step} (edits {edits}): {(error, lrs, epoch)}, torch has {expected}\n{scheduler.explain()[:500]}"
        assert (error, epoch) == (expected[0], expected[2]), why
        assert all(map(same_bits, lrs, expected[1])), why
    assert our_log == their_log, scheduler.explain()[:500]
    gc.collect(0)
    assert [x.exc_value for x in raised] == []
