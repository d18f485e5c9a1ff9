# ruff: noqa: E501  # lines of scripts
"""Ctrl-C while a scheduler is constructed, and constructors in two threads at once: nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from fused_sched import lr_scheduler
from fused_sched.optim import SGD

pytestmark = pytest.mark.slow

MOMENTS = int(os.environ.get("FUSED_SCHED_TEST_MOMENTS", "30"))
KINDS = (
    "program", "table", "endless", "groups", "fused", "get_lr", "cyclic", "sequence", "chain", "horizon", "same optimizer",
    "same optimizer, fused",
)  # fmt: skip
SCRIPT = """
    import functools, gc, json, random, signal, sys, threading, time, warnings
    import torch
    from fused_sched.optim import SGD
    from fused_sched import lr_scheduler as ours
    from torch.optim import lr_scheduler as torchs

    kind, moments, seed, tracing = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "traced"
    rng = random.Random(seed)
    LOG = []

    def decay(step): return 1.0 / (1.0 + step) if step < 50 else 0.5 ** (step // 10)
    def table(step): LOG.append(step); return 1.0 / (1.0 + step)
    def endless(step):
        n = step + 1
        while n >= 7: n -= 7
        LOG.append(step)
        return n / 7

    def mixed(home, base):
        class Own(base):
            def get_lr(self): return [b * 0.9 ** (self.last_epoch % 7) for b in self.base_lrs]
        return lambda o: Own(o, 3)

    def make(home, o, more):
        if kind == "program": return home.LambdaLR(o, decay)
        if kind == "table": return home.LambdaLR(o, table)
        if kind == "endless": return home.LambdaLR(o, endless)
        if kind == "groups": return home.LambdaLR(o, [lambda step, k=k: 1 / (step + k) for k in range(1, 9)])
        if kind == "fused": return home.LambdaLR(o, decay, **more)
        if kind == "get_lr": return mixed(home, home.StepLR)(o)
        if kind == "cyclic": return home.CyclicLR(o, 0.1, 0.5, 7, scale_fn=decay, cycle_momentum=False)
        if kind == "sequence": return home.SequentialLR(o, [home.LambdaLR(o, decay), home.LambdaLR(o, table)], [3])
        if kind == "chain": return home.ChainedScheduler([home.LambdaLR(o, decay), home.MultiplicativeLR(o, table)], o)
        if kind == "horizon": return home.LambdaLR(o, table, **({"horizon": 20} if home is ours else {}))
        if kind == "same optimizer": return home.LambdaLR(o, decay)
        if kind == "same optimizer, fused": return home.LambdaLR(o, decay, **more)

    FUSED = {"fused": True} if "fused" in kind else {}
    def optimizer(of):
        n = 8 if kind == "groups" else 2
        return of([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1 * (i + 1)} for i in range(n)], lr=0.1)

    # compiled, since Python itself takes a tracer away that a signal interrupts
    tracer = functools.partial(sys.audit, "interrupts")

    def steps(scheduler, o):
        found = []
        for _ in range(6):
            o.step()
            scheduler.step()
            found.append([float(g["lr"]) for g in o.param_groups])
        return found

    later = []
    sys.unraisablehook = lambda x: None if isinstance(x.exc_value, KeyboardInterrupt) else later.append(repr(x.exc_value))
    threading.excepthook = lambda x: later.append(repr(x.exc_value))
    warnings.simplefilter("ignore")
    other = optimizer(torch.optim.SGD)
    expected = steps(make(torchs, other, {}), other)
    for _ in range(3):  # warm
        start = time.perf_counter()
        make(ours, optimizer(SGD), FUSED)
        lasts = time.perf_counter() - start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    if tracing: sys.settrace(tracer)
    state = lambda: (
        sorted(t.name for t in threading.enumerate()), list(warnings.filters), sys.gettrace(), sys.getrecursionlimit(), sys.getprofile()
    )
    before, hit, wrong = state(), 0, []
    for moment in range(moments):
        o = optimizer(SGD)
        done = None
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, lasts))
            done = make(ours, o, FUSED)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            hit += 1
        if state() != before: wrong.append(f"moment {moment}: {state()}")
        interrupted = done is None
        done = None
        if not (interrupted and kind.startswith("same")): o = optimizer(SGD)
        if interrupted and moment % 5 == 0 or kind.startswith("same"):
            gc.collect(0)
            if interrupted and kind.startswith("same"):
                for g, lr in zip(o.param_groups, (0.1, 0.2)): g["lr"] = lr; g.pop("initial_lr", None)
            found = steps(make(ours, o, FUSED), o)
            if found != expected: wrong.append(f"moment {moment}: {found}, torch has {expected}")
        if state() != before: wrong.append(f"after moment {moment}: {state()}")
    sys.settrace(None)
    until = time.monotonic() + 1.5
    try:
        while time.monotonic() < until: sum(range(1000))
    except BaseException as error:
        later.append(repr(error))
    gc.collect()
    print(json.dumps({"hit": hit, "wrong": wrong[:5], "wrongs": len(wrong), "later": later[:5]}))
"""


def _run(kind: str, moments: int, seed: int, tracing: str) -> Any:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), kind, str(moments), str(seed), tracing]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["program", "get_lr"])
def test_interrupted_constructors_leave_nothing(kind: str, seed: int) -> None:
    found = _run(kind, 45, seed, "plain")
    assert found["wrong"] == found["later"] == []
    assert found["hit"] > 10


def test_a_tracer_is_put_back(seed: int) -> None:
    found = _run("program", 60, seed, "traced")
    assert found["wrong"] == found["later"] == []
    assert found["hit"] > 10


@pytest.mark.parametrize("tracing", ["plain", "traced"])
@pytest.mark.parametrize("kind", KINDS)
def test_interrupts_of_each_kind(kind: str, tracing: str, seed: int) -> None:
    found = _run(kind, MOMENTS, seed, tracing)
    assert found["wrong"] == found["later"] == []
    assert found["hit"] > MOMENTS // 5


THREADS = """
    import json, sys, threading, warnings
    import torch
    from fused_sched.optim import SGD
    from fused_sched import lr_scheduler as ours
    from torch.optim import lr_scheduler as torchs

    sys.setswitchinterval(1e-5)
    FACTOR = 0.5
    def shared(step): return FACTOR / (step + 1) if step > 3 else (step + 1) / 4
    errors, results = [], {}
    start = threading.Barrier(2)
    for f in (lambda step: 0.5, lambda step: errors.clear() or 0.5):  # what torch imports at its first use changes filters
        o = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        s = ours.LambdaLR(o, f)
        o.step()
        s.step()
    filters, limit = list(warnings.filters), sys.getrecursionlimit()

    def work(home, of, name, wait=True):
        try:
            if wait: start.wait()
            found = []
            for k in range(100):
                own = lambda step, k=k: 1 / (step + k + 1)
                log = []
                tabled = lambda step: log.append(step) or 0.5 ** step
                o = of([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
                o._opt_called = True
                f = (shared, own, tabled)[k % 3]
                s = home.LambdaLR(o, f)
                for _ in range(4):
                    s.step()
                    found.append(float(o.param_groups[0]["lr"]))
                found.append(list(log))
                if home is ours: found.append(s._source.traced == (k % 3 < 2))
                else: found.append(True)
                if sys.gettrace() is not None: errors.append("a tracer is left")
                if list(warnings.filters) != filters: errors.append("filters")
            results[name] = found
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(ours, SGD, name)) for name in "ab"]
    for t in threads: t.start()
    for t in threads: t.join()
    work(torchs, torch.optim.SGD, "torch", False)
    same = results.get("a") == results.get("b") == results["torch"]
    left = [t.name for t in threading.enumerate()]
    print(json.dumps({"errors": errors[:5], "same": same, "left": left, "kept": [*warnings.filters] == filters and limit == sys.getrecursionlimit()}))
"""


def test_two_threads_construct_at_once() -> None:
    command = [sys.executable, "-c", textwrap.dedent(THREADS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout) == {"errors": [], "same": True, "left": ["MainThread"], "kept": True}


def test_an_interrupted_fused_constructor_leaves_no_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes at the end, when the optimizer has the schedule already."""

    def interrupt(scheduler: Any) -> None:
        raise KeyboardInterrupt

    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(lr_scheduler.StepLR, "_compare_first", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lr_scheduler.StepLR(optimizer, 1, 0.5, fused=True)
    gc.collect()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1
