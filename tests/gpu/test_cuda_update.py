"""The kernels of the CUDA library on a GPU: the Triton backend's bits, or nearly so where a power is involved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, REAL, Body, Gpu, Graph
from schedule_twins import assert_alike, last_lr_on_the_device, on_the_device, seen
from tolerances import DEVICES_RELATIVE, SCHEDULE_RELATIVE

from fused_sched import backends
from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, LambdaLR, StepLR
from fused_sched.memory.control_block import HEADER
from fused_sched.optim import SGD, Adam, AdamW
from fused_sched.program.account import MADE

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [1, 7, 8, 130, 1024, 1031, *([8192, 70_001] if REAL else [2051])]
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "dampening": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "maximize": True}),
    "adam": (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (AdamW, {"lr": 0.01}),
    "amsgrad": (AdamW, {"lr": 0.01, "amsgrad": True, "betas": (0.3, 0.9)}),
}
NoSync = Callable[[], Any]
Capture = Callable[[Body], Graph]
WarmUp = Callable[[Body, int], None]


@pytest.fixture(autouse=True)
def cuda(gpu: Gpu) -> Any:
    """The backend."""
    return gpu.backend("cuda")


def other_backend(name: str, gpu: Gpu) -> Any:
    """The Triton backend, or the CPU's."""
    if name == "triton":
        return gpu.backend(name)
    reason = backends.reason_unavailable(name)
    if reason is not None:
        pytest.skip(reason)
    return name


def make_params(dtype: torch.dtype, offset: int = 0, device: str = DEVICE, sizes: Any = SIZES) -> list[Any]:
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(n + offset, generator=generator).to(dtype).to(device)[offset:] for n in sizes]
    return [torch.nn.Parameter(t) for t in made]


def set_gradients(params: list[Any], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator).to(p.dtype).to(p.device)
        p.grad = None if (i + step) % 5 == 4 else g


def everything(optimizer: Any, params: list[Any]) -> list[torch.Tensor]:
    states = [v for p in params for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)]
    return [t.detach().cpu() for t in (*params, *states)]


def check_close(got: list[torch.Tensor], expected: list[torch.Tensor], exact: bool) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        tolerance = 0.0 if exact else DEVICES_RELATIVE[a.dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"tensor {i}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("other", ["triton", "cpu"])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_update_matches_another_backend(
    rule: str, dtype: torch.dtype, offset: int, other: str, gpu: Gpu, cuda: Any
) -> None:
    make, options = RULES[rule]
    results = []
    for backend, where in ((cuda, DEVICE), (other_backend(other, gpu), "cpu" if other == "cpu" else DEVICE)):
        params = make_params(dtype, offset, where)
        optimizer = make(params, backend=backend, **options)
        for step in range(5):
            set_gradients(params, step)
            optimizer.step()
        results.append(everything(optimizer, params))
    check_close(*results, exact=make is SGD)  # without a power there is one right answer


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_scaled_gradients_and_overflow(found: float, gpu: Gpu, cuda: Any) -> None:
    results, last_lrs = [], []
    for backend, device in ((cuda, DEVICE), (other_backend("cpu", gpu), "cpu")):
        params = make_params(torch.float16, device=device)
        optimizer = SGD(params, lr=0.1, momentum=0.9, backend=backend)
        scheduler = CosineAnnealingLR(optimizer, T_max=9, fused=True, skip_with_optimizer=True)
        for step in range(4):
            set_gradients(params, step)
            optimizer.grad_scale = torch.tensor([8.0], device=device)
            optimizer.found_inf = torch.tensor([found if step == 2 else 0.0], device=device)
            optimizer.step()
            scheduler.step()
            assert optimizer._block.integers[HEADER["skipped"]].item() == (step == 2 and found == 1.0)
        results.append([*everything(optimizer, params), *(p.grad.cpu() for p in params if p.grad is not None)])
        last_lrs.append(scheduler.get_last_lr())  # read from the device: only that knows what was skipped
    check_close(*results, exact=False)
    assert last_lrs[0] == pytest.approx(last_lrs[1], rel=SCHEDULE_RELATIVE)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("n_groups", [1, 3, pytest.param(300, marks=pytest.mark.slow)])
def test_schedules_follow_the_host(n_groups: int, fused: bool, cuda: Any, no_sync: NoSync) -> None:
    params = make_params(torch.float32, sizes=[3] * n_groups)
    optimizer = SGD([{"params": [p], "lr": 0.1 + i} for i, p in enumerate(params)], momentum=0.5, backend=cuda)
    makers: list[Callable[[Any], Any]] = [
        lambda o: CosineAnnealingLR(o, T_max=70, fused=fused),
        lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch), fused=fused),
        lambda o: CyclicLR(o, 0.01, 0.3, step_size_up=7, fused=fused),
        lambda o: StepLR(o, 9, fused=fused),
    ]
    scheduler = makers[n_groups % len(makers)](optimizer)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    scheduler.step()
    with no_sync():
        for _ in range(40):
            optimizer.step()
            scheduler.step()
    assert_alike(on_the_device(optimizer), seen(optimizer), SCHEDULE_RELATIVE, "mirror")
    memory = scheduler._schedule.memory
    device, host = memory.tensor.tolist(), list(memory.host)
    if fused:
        made = scheduler._schedule.program.offsets[MADE]  # which the host keeps in another way
        del device[made], host[made]
    assert device == pytest.approx(host, rel=SCHEDULE_RELATIVE)
    assert optimizer._block.integers[HEADER["ticket"]].item() == 0


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("fresh", [False, True], ids=["static gradients", "gradients of the graph"])
def test_replays_equal_eager_steps(
    fresh: bool, fused: bool, cuda: Any, capture: Capture, warm_up: WarmUp, no_sync: NoSync
) -> None:
    results = []
    for graphed in (True, False):
        params = make_params(torch.float32)
        optimizer = AdamW([{"params": params[:2], "lr": 0.02}, {"params": params[2:]}], lr=0.01, backend=cuda)
        scheduler = CosineAnnealingLR(optimizer, T_max=600, fused=fused)
        for p in params:
            p.grad = torch.zeros_like(p)

        def body(params: Any = params, optimizer: Any = optimizer, scheduler: Any = scheduler) -> None:
            for p in params:
                gradient = torch.sin(p.detach() * 3) * 0.5 + 0.01
                if fresh:
                    p.grad = gradient
                else:
                    p.grad.copy_(gradient)
            optimizer.step()
            scheduler.step()

        warm_up(body, 3)
        run = capture(body).replay if graphed else body
        with no_sync():
            for i in range(200):
                optimizer.param_groups[0]["weight_decay"] = i / 1000
                run()
        memories = [optimizer._block.tensor.cpu(), scheduler._schedule.memory.tensor.cpu()]
        results.append([*everything(optimizer, params), *memories])
        assert scheduler.get_last_lr() == pytest.approx(last_lr_on_the_device(scheduler), rel=SCHEDULE_RELATIVE)
    check_close(*results, exact=True)


def test_many_steps_leave_no_block_behind(cuda: Any) -> None:
    """With many blocks, exactly one ends each step, and the ticket is back at 0."""
    steps = 300 if REAL else 3
    params = make_params(torch.float32, sizes=[1] * (10 * steps) + [10_000 * steps])
    optimizer = SGD(params, lr=0.0, momentum=0.9, backend=cuda)
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(steps):
        optimizer.step()
    assert (optimizer._block.counts[1 : 1 + len(params)] == steps).all()
    assert optimizer._block.integers[HEADER["ticket"]].item() == 0


def test_a_step_is_one_launch(cuda: Any, work: Callable[[Body], list[str]]) -> None:
    params = make_params(torch.float32)
    optimizer = AdamW([{"params": [p]} for p in params], lr=0.01, backend=cuda)
    scheduler = CosineAnnealingLR(optimizer, T_max=10, fused=True)
    for p in params:
        p.grad = torch.zeros_like(p)

    def step() -> None:
        optimizer.step()
        scheduler.step()

    step()
    kernels = work(step)
    assert len(kernels) == 1, kernels
    assert "update_kernel" in kernels[0]


@pytest.mark.real_gpu
def test_another_device_and_stream_than_the_current(cuda: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    params = make_params(torch.float32, device="cuda:1")
    optimizer = SGD(params, lr=1.0, backend=cuda)
    before = params[3].detach().clone()
    set_gradients(params, 0)
    with torch.cuda.stream(torch.cuda.Stream("cuda:1")):
        torch.cuda.set_device(0)
        optimizer.step()
    torch.cuda.synchronize("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(params[3].detach(), before - params[3].grad)
