"""Whatever device and dtype torch makes tensors of by default, everything works as it does without."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from platforms import MIRRORED

import fused_sched
import fused_sched.kernels
from fused_sched import lr_scheduler, optim, schedules
from fused_sched.backends.reference import ReferenceBackend

DEFAULTS = ["meta", "float64", "float16", "bfloat16"]
BACKENDS = ["cpu", "reference", "mirrored"]
FACTORIES = {
    "arange", "asarray", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {},
}
DTYPES = [torch.float32, torch.bfloat16, torch.complex64, torch.float64]


@contextmanager
def default(name: str | None) -> Iterator[None]:
    """A device or a dtype as torch's default."""
    if name == "meta":
        torch.set_default_device("meta")
    elif name is not None:
        torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def _files() -> list[Path]:
    folders = [Path(fused_sched.__file__).parent, Path(fused_sched.kernels.__file__).parent]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def _calls(path: Path) -> Iterator[tuple[int, str, set[str]]]:
    """Line, name and keywords of each call of a factory of torch."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FACTORIES:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                yield node.lineno, node.func.attr, {k.arg for k in node.keywords if k.arg is not None}


def test_every_tensor_that_is_made_has_its_device_and_dtype_named() -> None:
    calls = [(path.name, *call) for path in _files() for call in _calls(path)]
    assert len(calls) > 15
    assert [call for call in calls if not {"device", "dtype"} <= call[3]] == []


def _train(optimizer: str, dtype: torch.dtype, backend: Any) -> list[Any]:
    """A bit of everything, with tensors of the user's that name device and dtype."""
    p = torch.nn.Parameter(torch.arange(1, 4, dtype=torch.float32, device="cpu").to(dtype))
    q = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64, device="cpu").t()[:, ::2])
    groups = [{"params": [p]}, {"params": [q], "lr": torch.tensor(0.2, dtype=torch.float32, device="cpu")}]
    o = getattr(optim, optimizer)(groups, lr=0.1, backend=backend, **OPTIMIZERS[optimizer])
    plateau = lr_scheduler.ReduceLROnPlateau(o, patience=0)
    ours = [
        lr_scheduler.CosineAnnealingLR(o, 10, fused=True),
        lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o), lr_scheduler.StepLR(o, 2)], [3]),
        lr_scheduler.ParamScheduler(o, "weight_decay", lambda step: 0.01 * step),
    ]
    seen: list[Any] = []
    for step in range(6):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        if step == 4:
            o.grad_scale = torch.full((1,), 2.0, dtype=torch.float32, device="cpu")
            o.found_inf = torch.zeros(1, dtype=torch.float32, device="cpu")
        o.step()
        plateau.step(torch.tensor(1.0, dtype=torch.float32, device="cpu"))
        for one in ours:
            one.step()
        seen.append([one.get_last_lr() for one in ours])
        o.param_groups[0]["lr"] = 0.3
    value = schedules.as_function(ours[1])(7)
    saved = o.state_dict()
    o.load_state_dict(saved)
    ours[0].load_state_dict(ours[0].state_dict())
    o.add_param_group({"params": [torch.nn.Parameter(torch.ones(1, dtype=torch.float32, device="cpu"))]})
    o.step()
    return [*seen, p.detach(), q.detach(), value, saved["param_groups"][1]["lr"]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.thin
@pytest.mark.filterwarnings("ignore:.*is one more fused scheduler:UserWarning")
def test_training_is_the_same_under_any_default(name: str, optimizer: str, dtype: torch.dtype, backend: str) -> None:
    chosen: Any = ReferenceBackend(MIRRORED) if backend == "mirrored" else backend
    expected = _train(optimizer, dtype, chosen)
    with default(name):
        found = _train(optimizer, dtype, chosen)
    assert str(found) == str(expected)
    assert all(map(torch.equal, found[6:8], expected[6:8]))


@pytest.mark.parametrize("name", [None, *DEFAULTS])
def test_the_count_has_the_dtype_that_torch_gives_it(name: str | None) -> None:
    dtypes = []
    with default(name):
        for module in (optim, torch.optim):
            p = torch.nn.Parameter(torch.ones(3, dtype=torch.float32, device="cpu"))
            p.grad = torch.ones_like(p)
            optimizer = module.AdamW([p], foreach=False)
            try:
                optimizer.step()
            except RuntimeError as error:
                if module is torch.optim and "meta tensors" in str(error):
                    pytest.skip("torch 2.11 cannot step with this default")
                raise
            dtypes.append((optimizer.state[p]["step"].dtype, optimizer.state_dict()["state"][0]["step"].dtype))
    assert dtypes[0] == dtypes[1]


def test_a_count_that_is_loaded_keeps_its_dtype() -> None:
    steps = []
    for module in (optim, torch.optim):
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = module.AdamW([p], foreach=False)
        optimizer.step()
        state = optimizer.state_dict()
        state["state"][0]["step"] = torch.tensor(7.0, dtype=torch.float64)
        optimizer.load_state_dict(state)
        optimizer.step()
        steps.append(optimizer.state[p]["step"])
    assert steps[0].dtype == steps[1].dtype
    assert torch.equal(*steps)
