"""A method of a class is replaced while its schedulers run, and put back: ours, or torch's behind it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from methods import methods, replaced
from schedule_twins import DEFAULTS, LEAVES, TORCH, advance, optimizer

import fused_sched
from fused_sched import lr_scheduler

KINDS = (*LEAVES, "ReduceLROnPlateau")
AROUND = ("alone", "sequence", "chain")
Case = tuple[str, str, str, str]  # kind, method, what is around it, whose class


def _smaller(calls: list[str], name: str) -> Any:
    """What counts, and makes numbers smaller."""

    def around(real: Any) -> Any:
        def call(*a: Any, **k: Any) -> Any:
            calls.append(name)
            result = real(*a, **k)
            if isinstance(result, list):
                return [x * 0.75 for x in result]
            return result * 0.75 if isinstance(result, float) else result

        return call

    return around


def _build(home: Any, made: Any, kind: str, around: str) -> Any:
    one = getattr(home, kind)(made, **DEFAULTS[kind])
    if around == "alone":
        return one
    parts = [one, home.ExponentialLR(made, 0.97)]
    return home.SequentialLR(made, parts, [9]) if around == "sequence" else home.ChainedScheduler(parts, made)


def _steps(scheduler: Any, n: int) -> Iterator[list[float]]:
    for _ in range(n):
        scheduler.optimizer.step()
        advance(scheduler)
        yield [g["lr"] for g in scheduler.optimizer.param_groups]


def _curve(
    home: Any, optim: Any, owner: Any, case: tuple[str, str, str], patch: pytest.MonkeyPatch, **more: Any
) -> Any:
    kind, method, around, _ = case
    made = _build(home, optimizer(optim, "SGD", [0.1, 0.3], **more), kind, around)
    calls: list[str] = []
    lrs = [*_steps(made, 3)]
    with patch.context() as here:
        here.setattr(owner, method, replaced(owner, method, _smaller(calls, method)))
        lrs += _steps(made, 4)
    return [*lrs, *_steps(made, 5)], calls, made


CASES = [
    (kind, method, around, whose)
    for whose in ("ours", "torch's")
    for around in AROUND
    for kind in KINDS
    for method in methods(getattr(TORCH, kind))
    if around == "alone" or kind in ("StepLR", "LambdaLR", "LinearLR", "CosineAnnealingLR")
    if whose == "ours" or method != "get_last_lr"  # ours asks the device
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_in_mid_run(case: Case, host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, method, _, whose = case
    theirs = getattr(TORCH, kind)
    if whose == "torch's":  # where torch has it
        theirs = next(c for c in theirs.__mro__ if method in c.__dict__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected, called, _ = _curve(TORCH, torch.optim, theirs, case, monkeypatch)
        owner = theirs if whose == "torch's" else getattr(lr_scheduler, kind)
        found, ours_called, _ = _curve(lr_scheduler, fused_sched.optim, owner, case, monkeypatch, backend=host_backend)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert ours_called == called


def test_a_fused_scheduler_refuses_it(host_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (lr_scheduler.StepLR, torch.optim.lr_scheduler.StepLR, torch.optim.lr_scheduler.LRScheduler):
        for method in ("_update_lr", "step"):
            made = lr_scheduler.StepLR(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend), 3, fused=True)
            with monkeypatch.context() as patch:
                patch.setattr(owner, method, replaced(owner, method, _smaller([], method)), raising=False)
                with pytest.raises(ValueError, match=f"(?s)({method}|own).*leave out fused"):
                    made.optimizer.step()


# -- what all attributes go by -----------------------------------------------------------------------------


def _classes(home: Any) -> dict[str, Any]:
    class Bounded(home.LambdaLR):  # type: ignore[misc,name-defined]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, min(value, 2) if name == "last_epoch" else value)

    class Asked(home.LambdaLR):  # type: ignore[misc,name-defined]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            return min(value, 2) if name == "last_epoch" else value

    class Answers(home.LambdaLR):  # type: ignore[misc,name-defined]
        def __getattr__(self, name: str) -> Any:
            if name == "lr_lambdas":
                return [lambda step: 0.25] * 2
            raise AttributeError(name)

    class OwnLR(home.LambdaLR):  # type: ignore[misc,name-defined]
        def get_lr(self) -> list[float]:
            return [0.125, 0.25]

    class OwnUpdate(home.LambdaLR):  # type: ignore[misc,name-defined]
        def _update_lr(self, epoch: Any = None) -> None:
            self.last_epoch += 1
            for group in self.optimizer.param_groups:
                group["lr"] = 7.0
            self._last_lr = [7.0, 7.0]

    return {cls.__name__: cls for cls in (Bounded, Asked, Answers, OwnLR, OwnUpdate)}


def _decay(step: int) -> float:
    return 0.5**step


@pytest.mark.parametrize("name", _classes(TORCH))
@pytest.mark.parametrize("around", ["alone", "chain"])
def test_another_class(name: str, around: str, host_backend: str) -> None:
    """From the start, and assigned to ``__class__`` in mid-run and back."""
    curves = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for home, optim, more in (
            (TORCH, torch.optim, {}),
            (lr_scheduler, fused_sched.optim, {"backend": host_backend}),
        ):
            cls = _classes(home)[name]
            found = []
            for start in (cls, home.LambdaLR):
                made = optimizer(optim, "SGD", [0.1, 0.3], **more)
                part = start(made, _decay)
                whole = part if around == "alone" else home.ChainedScheduler([part, home.StepLR(made, 4)], made)
                found += _steps(whole, 3)
                part.__class__ = cls
                if name == "Answers":
                    del part.lr_lambdas
                found += _steps(whole, 4)
                if name != "Answers":
                    part.__class__ = home.LambdaLR
                found += _steps(whole, 3)
            curves.append(found)
    assert curves[0] == curves[1]
