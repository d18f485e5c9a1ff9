"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# read when triton is imported, so before any test module
if os.environ.get("FUSED_SCHED_TEST_PTX"):
    os.environ["TRITON_INTERPRET"] = "0"
elif not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

sys.path.insert(0, str(Path(__file__).parent))  # for `support` and `tolerances`: importlib mode adds nothing

import lane
from interpreter import imitate_hardware
from platforms import MIRRORED
from ptx import watch_memory
from thin import mark_spare_variants

import fused_sched
from fused_sched import backends
from fused_sched.memory.platforms import TORCH

if not Path(fused_sched.__file__).is_relative_to(os.environ.get("FUSED_SCHED_TEST_PACKAGE", "/")):
    raise ImportError(f"{fused_sched.__file__} was imported, not the package that is to be tested")
if lane.PTX:
    watch_memory()

# Workers share the cores: with as many threads each as there are cores, they wait for each other most of the time.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # for what tests start

ROUNDS = int(os.environ.get("FUSED_SCHED_TEST_ROUNDS", "1"))  # how many seeds a test with a seed runs with
INTERPRETED = 1  # variants of a test that the ordinary lane runs in Triton's interpreter, which is slow
SHARE = int(os.environ.get("FUSED_SCHED_TEST_SHARE", "1"))  # of the slow tests, one of so many, drawn anew in each run


def pytest_report_header() -> str:
    return f"{lane.RUN_SEED}={lane.SEED}"


def _left_out(item: pytest.Item) -> bool:
    if SHARE == 1 or item.get_closest_marker("slow") is None:
        return False
    return random.Random(f"{lane.SEED} {item.nodeid}").randrange(SHARE) > 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if ROUNDS > 1 and "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(ROUNDS), indirect=True, ids=lambda n: f"round {n}")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Chooses the slow tests of this run.

    With compiled kernels only what they take part in, by ``backend`` or ``gpu``, or in a module with ``lane``.
    """
    for name in ("FUSED_SCHED_TEST_ROUNDS", "FUSED_SCHED_TEST_SHARE"):  # of this run, not of one that a test starts
        os.environ.pop(name, None)
    mark_spare_variants(items, {"triton": INTERPRETED} if os.environ.get("TRITON_INTERPRET") == "1" else {})
    wanted = [i for i in items if not _left_out(i)]
    if lane.PTX:
        wanted = [i for i in wanted if {"backend", "gpu"} & {*i.fixturenames} or hasattr(i.module, "lane")]
    config.hook.pytest_deselected(items=[*{*items}.difference(wanted)])
    items[:] = wanted


def pytest_collection_finish() -> None:
    """What is there before the first test stays: a collection in a test then looks at what tests made only."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries report at the exit what was never freed


def _skip_unless_available(name: str) -> None:
    reason = lane.reason_unavailable(name)
    if reason is not None:
        pytest.skip(f"backend {name} cannot run here: {reason}")


@pytest.fixture(params=lane.NAMES)
def backend(request: pytest.FixtureRequest) -> str | backends.Backend:
    """Each backend in turn; skipped, with the reason, where it cannot run.

    By its name, but in a test with ``remote`` or ``mirrored`` one that thinks that its memory is remote.
    """
    _skip_unless_available(request.param)
    return _at_home(request, request.param)


@pytest.fixture
def host_backend(request: pytest.FixtureRequest) -> str | backends.Backend:
    """The fastest backend for CPU tensors, for tests in which the backend does not matter; as ``backend``."""
    return _at_home(request, "cpu" if backends.reason_unavailable("cpu") is None else "reference")


def _at_home(request: pytest.FixtureRequest, name: str) -> str | backends.Backend:
    names = request.fixturenames
    mirror = "remote" in names or ("mirrored" in names and request.getfixturevalue("mirrored"))
    return lane.backend(name, MIRRORED if mirror else TORCH)


@pytest.fixture
def remote() -> None:
    """The control block keeps a host mirror, as on a GPU, though its memory is on the CPU."""


@pytest.fixture(params=["local", "remote"])
def mirrored(request: pytest.FixtureRequest) -> bool:
    """Both homes of the control block: the host's own memory, and a device with a host mirror."""
    return bool(request.param == "remote")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of the test's own; pytest shows it when the test fails, and FUSED_SCHED_TEST_SEED repeats it."""
    own = random.Random(f"{lane.SEED} {request.node.nodeid}").randrange(2**31)
    value = int(os.environ.get("FUSED_SCHED_TEST_SEED", own))
    print(f"FUSED_SCHED_TEST_SEED={value}")
    torch.manual_seed(value)
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Python's generator, started from ``seed``."""
    return random.Random(seed)


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == "fused_sched" and tensor.device.type != "meta":
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.fill_(float("nan"))
            elif tensor.dtype != torch.bool:
                tensor.fill_(torch.iinfo(tensor.dtype).max)
        return tensor

    return poisoned


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that fused_sched takes uninitialised holds NaN, so that reading it before writing shows."""
    monkeypatch.setattr(torch, "empty", _poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", _poisoned(torch.empty_like))


@pytest.fixture(autouse=True)
def _interpreter_like_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        imitate_hardware(monkeypatch)
