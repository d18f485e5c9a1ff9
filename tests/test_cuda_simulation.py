"""The CUDA backend with its kernels run on the host, thread after thread: the CPU backend's bits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lane
import pytest
import torch
from ptx.cuda_operators import PtxOperators

from fused_sched.backends.cuda import (
    BLOCK_THREADS,
    LAUNCH,
    LAUNCH_WIDTH,
    NORM_LAUNCH,
    NORM_LAUNCH_WIDTH,
    SCHEDULE,
    SCHEDULE_WIDTH,
    CudaBackend,
)
from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, LambdaLR, StepLR
from fused_sched.memory.control_block import HEADER
from fused_sched.memory.pointers import REBUILD, UNCHANGED
from fused_sched.optim import SGD, Adam, AdamW
from fused_sched.step_options import SpikeRule

_C: Any = pytest.importorskip("fused_sched._C", reason="the C++ extension is the oracle")

SOURCE = Path(__file__).with_name("cuda_simulation.cpp")
STEPS = 5
# Around the widths of an access, a block's round and a chunk.
SIZES = [1, 3, 4, 7, 8, 9, 127, 512, 513, 1023, 1024, 1025, 2051]
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda p, **k: SGD(p, lr=0.1, weight_decay=0.01, **k),
    "momentum": lambda p, **k: SGD(p, lr=0.1, momentum=0.9, dampening=0.1, maximize=True, **k),
    "nesterov": lambda p, **k: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, **k),
    "adam": lambda p, **k: Adam(p, lr=0.01, weight_decay=0.1, **k),
    "far from the gradient": lambda p, **k: Adam(p, lr=0.01, betas=(0.3, 0.9), maximize=True, **k),
    "adamw": lambda p, **k: AdamW(p, lr=0.01, **k),
    "amsgrad": lambda p, **k: AdamW(p, lr=0.01, amsgrad=True, **k),
}


class Simulation:
    """The operators, on CPU tensors; ``calls`` are the launches of each update so far."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.calls: list[int] = []

    def update(
        self, plan: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        assert plan.shape[1] == LAUNCH_WIDTH
        self.calls.append(len(plan))
        addresses = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (plan, control, scale, found)]
        result = self.library.simulate_update(addresses[0], ctypes.c_int64(len(plan)), *addresses[1:])
        assert result == 0, "unknown kind"

    def measure(
        self, plan: torch.Tensor, control: torch.Tensor, scale: torch.Tensor | None, found: torch.Tensor | None
    ) -> None:
        assert plan.shape[1] == NORM_LAUNCH_WIDTH
        addresses = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (plan, control, scale, found)]
        self.library.simulate_measure(addresses[0], ctypes.c_int64(len(plan)), *addresses[1:])

    def advance(self, schedule: torch.Tensor, control: torch.Tensor) -> None:
        assert schedule.shape == (1, SCHEDULE_WIDTH)
        self.library.simulate_advance(ctypes.c_void_p(schedule.data_ptr()), ctypes.c_void_p(control.data_ptr()))

    def prepare(self, plan: torch.Tensor, device: int) -> None:
        pass


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("cuda_simulation") / "simulation.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def simulation(request: pytest.FixtureRequest) -> Any:
    return PtxOperators(lane.PTX, seed=lane.SEED) if lane.PTX else Simulation(request.getfixturevalue("library"))


@pytest.fixture
def cuda(simulation: Simulation) -> CudaBackend:
    """The backend, whose operators are the simulation's."""
    return CudaBackend(simulation)


def make_params(dtype: torch.dtype, offset: int = 0, sizes: list[int] = SIZES) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    data = [torch.randn(n + offset, generator=generator, dtype=torch.float64).to(dtype)[offset:] for n in sizes]
    return [torch.nn.Parameter(d) for d in data]


def set_gradients(params: list[torch.nn.Parameter], step: int, dtype: torch.dtype | None = None) -> None:
    """Fresh gradients, the same for equal parameters; the sixth parameter has none on even steps."""
    generator = torch.Generator().manual_seed(step)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = None if i == 5 and step % 2 == 0 else g.to(dtype or p.dtype)


def everything(optimizer: Any, params: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    states = [v for p in params for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)]
    return [*(p.detach() for p in params), *states, *(p.grad for p in params if p.grad is not None)]


def check_equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda m, i=i: f"tensor {i}: {m}")


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.thin
def test_steps_have_the_bits_of_the_cpu_backend(
    name: str, dtype: torch.dtype, offset: int, simulation: Simulation, cuda: CudaBackend
) -> None:
    results = []
    for backend in (cuda, "cpu"):
        params = make_params(dtype, offset)
        optimizer = OPTIMIZERS[name]([{"params": params[:6]}, {"params": params[6:], "lr": 0.003}], backend=backend)
        for step in range(STEPS):
            set_gradients(params, step)
            optimizer.step()
        results.append(everything(optimizer, params))
    check_equal(*results)
    assert simulation.calls == [1] * STEPS


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("which", ["gradients", "parameters and gradients"])
def test_states_of_another_type(which: str, low: torch.dtype, cuda: CudaBackend) -> None:
    results = []
    for backend in (cuda, "cpu"):
        params = make_params(torch.float32 if which == "gradients" else low)
        optimizer = AdamW(params, lr=0.01, backend=backend)
        state = {
            "step": torch.tensor(0.0),
            **{k: torch.zeros(0, dtype=torch.float32) for k in ("exp_avg", "exp_avg_sq")},
        }
        for p in params:
            optimizer.state[p] = {k: v if k == "step" else torch.zeros_like(p, dtype=v.dtype) for k, v in state.items()}
        for step in range(STEPS):
            for p in params:
                p.grad = None
                if which == "gradients":
                    p.grad_dtype = low
            set_gradients(params, step, low)
            optimizer.step()
        assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32
        results.append(everything(optimizer, params))
    check_equal(*results)


def test_one_launch_for_each_combination_of_dtypes(simulation: Simulation, cuda: CudaBackend) -> None:
    results = []
    for backend in (cuda, "cpu"):
        params = [*make_params(torch.float32), *make_params(torch.bfloat16), *make_params(torch.float64)]
        optimizer = AdamW(params, lr=0.01, backend=backend)
        scheduler = StepLR(optimizer, 2, fused=True)
        for step in range(STEPS):
            set_gradients(params, step)
            optimizer.step()
            scheduler.step()
        results.append(everything(optimizer, params))
        assert optimizer._block.counts[1:3].tolist() == [STEPS, STEPS]
    check_equal(*results)
    assert simulation.calls == [3] * STEPS


@pytest.mark.parametrize("guarded", [False, True])
def test_overflow_skips_update_and_count(guarded: bool, cuda: CudaBackend) -> None:
    results = []
    for backend in (cuda, "cpu"):
        params = make_params(torch.float16)
        optimizer = SGD(params, lr=0.1, momentum=0.9, backend=backend)
        scheduler = CosineAnnealingLR(optimizer, T_max=9, fused=True, skip_with_optimizer=guarded)
        for step in range(STEPS):
            set_gradients(params, step)
            optimizer.grad_scale = torch.tensor([8.0 + step])
            optimizer.found_inf = torch.tensor([float(step == 2)])
            optimizer.step()
            scheduler.step()
            assert optimizer._block.integers[HEADER["skipped"]] == (step == 2)
        results.append([*everything(optimizer, params), optimizer._block.tensor])
    check_equal(*results)


@pytest.mark.filterwarnings("ignore:.*one more fused scheduler")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("n_groups", [1, 3, 200])
def test_schedules_of_many_groups(n_groups: int, fused: bool, cuda: CudaBackend) -> None:
    results = []
    for backend in (cuda, "cpu"):
        params = make_params(torch.float32, sizes=[3] * n_groups)
        optimizer = SGD([{"params": [p], "lr": 0.1 + i} for i, p in enumerate(params)], momentum=0.5, backend=backend)
        schedulers = [
            CosineAnnealingLR(optimizer, T_max=7, fused=fused),
            LambdaLR(optimizer, [lambda e, i=i: 1.0 / (1 + e + i) for i in range(n_groups)], fused=fused),
            CyclicLR(optimizer, 0.01, 0.3, step_size_up=2, fused=fused),
        ]
        for step in range(STEPS):
            set_gradients(params, step)
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        results.append([*everything(optimizer, params), optimizer._block.tensor])
    check_equal(*results)


@pytest.mark.parametrize("sizes", [[], [0, 0]], ids=["no parameters", "empty parameters"])
def test_a_step_without_elements_ends_too(sizes: list[int], simulation: Simulation, cuda: CudaBackend) -> None:
    params = make_params(torch.float32, sizes=sizes)
    optimizer = AdamW([{"params": params}], lr=1.0, backend=cuda)
    scheduler = StepLR(optimizer, 1, fused=True)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [pytest.approx(0.001)]
    assert optimizer._block.counts[1 : 1 + len(sizes)].tolist() == [3] * len(sizes)
    assert simulation.calls == [1] * 3


@pytest.mark.parametrize("kept", ["float32", "parameter"])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "amsgrad"])
def test_averages_and_zeros_have_the_bits_of_the_cpu_backend(
    name: str, dtype: torch.dtype, offset: int, kept: str, cuda: CudaBackend
) -> None:
    """One parameter has no gradient at every other step, and is averaged all the same."""
    results = []
    for backend in (cuda, "cpu"):
        params = make_params(dtype, offset)
        groups = [{"params": params[:6]}, {"params": params[6:], "ema_decay": 0.3}]
        options = {"ema_decay": 0.99, "ema_dtype": kept, "zero_grad_in_step": True}
        optimizer = OPTIMIZERS[name](groups, backend=backend, **options)
        for step in range(1, 1 + STEPS):
            set_gradients(params, step)
            optimizer.step()
            assert not any(p.grad.any() for p in params if p.grad is not None)
        assert all(optimizer.state[p]["ema"].isfinite().all() for p in params)
        results.append(everything(optimizer, params))
    check_equal(*results)


@pytest.mark.thin
@pytest.mark.parametrize("averaged", [False, True], ids=["", "averaged"])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", ["bfloat16 float32", "float16 float32", "bfloat16 remainder"])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "amsgrad"])
def test_masters_have_the_bits_of_the_cpu_backend(
    name: str, kind: str, offset: int, averaged: bool, cuda: CudaBackend
) -> None:
    """Some elements are written to by hand, in a step in which one parameter has no gradient."""
    dtype, kept = kind.split()
    results = []
    for backend in (cuda, "cpu"):
        params = make_params(getattr(torch, dtype), offset)
        options = {"ema_decay": 0.9, "max_grad_norm": float("inf")} if averaged else {}
        optimizer = OPTIMIZERS[name](params, backend=backend, master_weights=kept, **options)
        for step in range(1, 1 + STEPS):
            set_gradients(params, step)
            if step == 2:
                for p in params:
                    p.data[: len(p) // 2] = 0.25
            optimizer.step()
        results.append(everything(optimizer, params))
    check_equal(*results)


@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_clipping_is_that_of_the_cpu_backend(dtype: torch.dtype, scaled: bool, scope: str, cuda: CudaBackend) -> None:
    """Norms are sums in another order, and of squares in the type computed in."""
    results, norms = [], []
    for backend in (cuda, "cpu"):
        params = make_params(dtype)
        groups = [{"params": params[:6], "max_grad_norm": 0.5}, {"params": params[6:]}]
        optimizer = SGD(groups, lr=0.1, momentum=0.9, max_grad_norm=2.0, norm_scope=scope, backend=backend)
        for step in range(STEPS):
            set_gradients(params, step)
            optimizer.grad_scale = torch.tensor([4.0]) if scaled else None
            optimizer.step()
        results.append(everything(optimizer, params))
        norms.append([optimizer.grad_norm.item(), *(n.item() for n in optimizer.group_grad_norms)])
    relative = 1e-14 if dtype == torch.float64 else 1e-6
    assert norms[0] == pytest.approx(norms[1], rel=relative)
    assert (norms[0][1] == norms[0][2]) == (scope == "all")
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=max(relative, 2 * torch.finfo(a.dtype).eps), atol=relative)


@pytest.mark.parametrize("zeroes", [False, True], ids=["", "zeroing"])
def test_skipped_steps_leave_everything(zeroes: bool, simulation: Simulation, cuda: CudaBackend) -> None:
    results = []
    for backend in (cuda, "cpu"):
        params = [*make_params(torch.float32), *make_params(torch.bfloat16)]
        options = {"skip_nonfinite": True, "ema_decay": 0.9, "zero_grad_in_step": zeroes}
        optimizer = AdamW(params, lr=0.01, backend=backend, **options)
        scheduler = StepLR(optimizer, 2, fused=True, skip_with_optimizer=True)
        for step in range(STEPS):
            set_gradients(params, step + 1)
            if step in (1, 2):
                params[13 * step - 10].grad[1] = float("nan" if step == 1 else "inf")
            optimizer.step()
            scheduler.step()
        assert optimizer.skipped_steps.item() == 2
        assert optimizer._block.integers[HEADER["ticket"]] == 0
        results.append([*everything(optimizer, params), optimizer._block.counts])
        assert not zeroes or not any(p.grad.any() for p in params if p.grad is not None)
    check_equal(*results)
    assert simulation.calls == [2] * STEPS  # of each dtype, whether skipped or not


def test_spikes_are_those_of_the_cpu_backend(cuda: CudaBackend) -> None:
    results = []
    for backend in (cuda, "cpu"):
        generator = torch.Generator().manual_seed(8)
        params = make_params(torch.float64, sizes=[5, 300])
        optimizer = SGD(params, lr=0.1, skip_spikes=SpikeRule(300, 3.0), backend=backend)
        skipped = []
        for step in range(200):
            size = 50.0 if step % 17 == 3 else float("inf") if step == 90 else 1.0
            for p in params:
                p.grad = (1 + 0.01 * torch.rand(p.shape, generator=generator, dtype=torch.float64)) * size
            optimizer.step()
            skipped.append(optimizer.skipped_steps.item())
        results.append(skipped)
    assert results[0] == results[1]
    assert 1 < results[0][-1] < 20


@pytest.mark.parametrize("n_groups", [1, 130, 1000])
@pytest.mark.parametrize("scope", ["all", "group"])
def test_norms_of_many_groups(scope: str, n_groups: int, cuda: CudaBackend) -> None:
    """Two of them have more sums than one thread adds up."""
    sizes = [3] * n_groups
    sizes[n_groups // 2], sizes[-1] = 80_000, 150_001
    params = make_params(torch.float32, sizes=sizes)
    groups = [{"params": [p]} for p in params]
    optimizer = SGD(groups, lr=0.0, max_grad_norm=1.0, norm_scope=scope, backend=cuda)
    set_gradients(params, 1)
    optimizer.step()
    each = [p.grad.double().square().sum() if p.grad is not None else torch.zeros(()) for p in params]
    norm = torch.stack(each).sum().sqrt()
    torch.testing.assert_close(optimizer.grad_norm, norm, rtol=1e-6, atol=0)
    expected = torch.stack(each).sqrt() if scope == "group" else norm.repeat(n_groups)
    found = torch.stack(optimizer.group_grad_norms)
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=0)
    rows = [optimizer._block.measured(group.row, "clip_factor") for group in optimizer.groups_seen]
    torch.testing.assert_close(torch.stack(rows), (1 / (found + 1e-6)).clamp(max=1.0), rtol=1e-14, atol=0)
    again = optimizer.grad_norm.item(), found.tolist()
    optimizer.step()
    assert again == (optimizer.grad_norm.item(), torch.stack(optimizer.group_grad_norms).tolist())


def test_gradients_that_moved_are_measured(cuda: CudaBackend) -> None:
    params = make_params(torch.float32)
    optimizer = AdamW(params, max_grad_norm=1.0, backend=cuda)
    norms = []
    for step in (1, 3):
        set_gradients(params, step)
        optimizer.step()
        squares = [p.grad.double().square().sum() for p in params if p.grad is not None]
        assert optimizer.grad_norm.item() == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-6)
        norms.append(optimizer.grad_norm.item())
    assert norms[0] != norms[1]
    (launches,) = cuda.measurements.values()
    grads = cuda.device_tables[optimizer.tables[0]].grads
    assert launches.prepared[0].rows[:, NORM_LAUNCH.index("grads")].tolist() == [grads.data_ptr()]


def test_unchanged_gradients_change_nothing_on_the_host(cuda: CudaBackend) -> None:
    params = make_params(torch.float32)
    optimizer = AdamW(params, lr=0.01, backend=cuda)
    set_gradients(params, 1)
    optimizer.step()
    table = cuda.device_tables[optimizer.tables[0]]
    launches, rows, grads = table.launches, table.launches.prepared, table.grads
    before = rows.clone()
    optimizer.step()
    assert (table.launches, table.grads) == (launches, grads)
    assert torch.equal(rows, before)
    set_gradients(params, 1)
    optimizer.step()
    assert table.launches is launches
    assert rows[0, LAUNCH.index("grads")] == table.grads.data_ptr() != grads.data_ptr()


def test_the_scan_compares_devices(cuda: CudaBackend) -> None:
    params = make_params(torch.float32)
    optimizer = AdamW(params, lr=0.01, backend=cuda)
    set_gradients(params, 1)
    optimizer.step()
    t = optimizer.tables[0]
    arguments = t.lists, t.ids, t.layouts, t.records, t.needed, t.held, t.specs
    assert [_C.scan(*arguments), _C.scan(*arguments, 1, 0)] == [UNCHANGED] * 2
    assert [_C.scan(*arguments, 2, 0), _C.scan(*arguments, 1, 1)] == [REBUILD] * 2
    with pytest.raises(TypeError, match="takes 9 positional arguments, but 8 were given"):
        _C.scan(*arguments, 1)


def test_words_have_the_order_of_the_headers() -> None:
    def fields(header: str, struct: str) -> list[str]:
        text = (Path(__file__).parent.parent / "csrc/cuda" / header).read_text()
        body = text.split(f"struct {struct} {{")[1].split("};")[0]
        return [line.split(";")[0].split()[-1].lstrip("*") for line in body.splitlines() if ";" in line]

    launch = (Path(__file__).parent.parent / "csrc/cuda/launch.h").read_text()
    assert f"kBlockThreads = {BLOCK_THREADS};" in launch
    assert fields("plan.h", "Launch") == [*LAUNCH, "unused"]
    assert fields("plan.h", "NormLaunch") == [*NORM_LAUNCH]
    assert fields("step.h", "DeviceSchedule") == [*SCHEDULE]
