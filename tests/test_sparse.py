"""SGD with sparse gradients: what torch's for-loop does with them, beside dense gradients that the kernels apply."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from platforms import MIRRORED

import fused_sched.optim
from fused_sched.backends.reference import ReferenceBackend
from fused_sched.lr_scheduler import CosineAnnealingLR, LambdaLR, ParamScheduler, StepLR
from fused_sched.memory.platforms import Platform

ROWS, WIDTH = 20, 3
BACKENDS = ["cpu", "reference", "mirrored"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "maximize": {"maximize": True},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5, "maximize": True},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


def _backend(name: str) -> Any:
    return ReferenceBackend(MIRRORED) if name == "mirrored" else name


def _sparse(rng: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """As of an embedding: some rows, one of them twice."""
    indices = torch.randint(ROWS, (1, 6), generator=rng)
    return torch.sparse_coo_tensor(
        indices, torch.randn(6, WIDTH, generator=rng).to(dtype), (ROWS, WIDTH), check_invariants=True
    )


class Twin:
    """The same training with our class and with torch's."""

    def __init__(self, backend: str, dtype: torch.dtype = torch.float32, fused: bool = False, **options: Any) -> None:
        rng = torch.Generator().manual_seed(3)
        start = [torch.randn(ROWS, WIDTH, generator=rng).to(dtype) for _ in range(3)]
        self.ours, self.torchs = ([torch.nn.Parameter(s.clone()) for s in start] for _ in range(2))
        self.optimizer = fused_sched.optim.SGD(self._groups(self.ours), lr=0.1, backend=_backend(backend), **options)
        self.reference = torch.optim.SGD(self._groups(self.torchs), lr=0.1, foreach=False, fused=False, **options)
        self.scheduler = CosineAnnealingLR(self.optimizer, 40, fused=fused)
        self.theirs = torch.optim.lr_scheduler.CosineAnnealingLR(self.reference, 40)
        self.rng, self.dtype = rng, dtype

    @staticmethod
    def _groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        """A sparse one beside a dense one, and another in a group of its own."""
        return [{"params": params[:2]}, {"params": params[2:], "lr": 0.01}]

    def step(self, kinds: str) -> None:
        """One update and one step of the schedule; of each parameter ``s``parse, ``d``ense or no (``-``) gradient."""
        for kind, a, b in zip(kinds, self.ours, self.torchs, strict=True):
            g = _sparse(self.rng, self.dtype) if kind == "s" else torch.randn(ROWS, WIDTH, generator=self.rng)
            a.grad, b.grad = (None, None) if kind == "-" else (g.to(self.dtype).clone(), g.to(self.dtype).clone())
        self.optimizer.step()
        self.reference.step()
        self.scheduler.step()
        self.theirs.step()

    def check(self, exact: bool) -> None:
        torch.testing.assert_close(self.scheduler.get_last_lr(), self.theirs.get_last_lr(), rtol=1e-12, atol=1e-18)
        for a, b in zip(self.ours, self.torchs, strict=True):
            if exact:
                assert torch.equal(a, b)
            else:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            mine, theirs = self.optimizer.state[a], self.reference.state[b]
            if theirs.get("momentum_buffer") is not None:
                x, y = mine["momentum_buffer"], theirs["momentum_buffer"]
                assert x.layout == y.layout
                torch.testing.assert_close(x.to_dense(), y.to_dense(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True], ids=["apart", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.thin
def test_fifty_steps_of_a_moving_lr_are_torchs(options: str, backend: str, dtype: torch.dtype, fused: bool) -> None:
    twin = Twin(backend, dtype, fused, **OPTIONS[options])
    for _ in range(50):
        twin.step("sds")
    twin.check(exact=backend == "cpu")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("options", OPTIONS)
def test_16_bit_parameters_have_torchs_bits(options: str, backend: str) -> None:
    twin = Twin(backend, torch.bfloat16, **OPTIONS[options])
    for _ in range(20):
        twin.step("sds")
    for i in (0, 2):
        assert torch.equal(twin.ours[i], twin.torchs[i])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_and_dense_gradients_in_turn(backend: str) -> None:
    twin = Twin(backend)
    for kinds in ["sds", "dss", "s-d", "ddd", "-ss", "---", "sss", "dsd"] * 3:
        twin.step(kinds)
    twin.check(exact=backend == "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_momentum_a_dense_gradient_may_come_first(backend: str) -> None:
    twin = Twin(backend, momentum=0.9, dampening=0.1)
    for kinds in ["dds", "sd-", "dds", "sds", "-ds"] * 3:
        twin.step(kinds)
    twin.check(exact=backend == "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_torch_cannot_add_is_refused_before_anything_is_changed(backend: str) -> None:
    for options, kinds, match in (
        ({"weight_decay": 0.1}, ["sds"], "weight_decay=0.1 with a sparse gradient"),
        ({"momentum": 0.9, "nesterov": True}, ["ddd", "ssd"], "nesterov=True with a sparse gradient and a dense"),
        ({"momentum": 0.9}, ["sdd", "ddd"], "its parameter's 'momentum_buffer' is sparse"),
    ):
        twin = Twin(backend, fused=True, **options)
        for kind in kinds[:-1]:
            twin.step(kind)
        before = copy.deepcopy([list(twin.ours), twin.optimizer.state_dict(), twin.scheduler.last_epoch])
        with pytest.raises(RuntimeError, match=match):
            twin.step(kinds[-1])
        with pytest.raises(RuntimeError, match="add"):
            twin.reference.step()
        assert str([list(twin.ours), twin.optimizer.state_dict(), twin.scheduler.last_epoch]) == str(before)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_refuses_them_as_torchs_does(name: str) -> None:
    for module in (fused_sched.optim, torch.optim):
        p = torch.nn.Parameter(torch.ones(ROWS, WIDTH))
        p.grad = _sparse(torch.Generator(), torch.float32)
        with pytest.raises(RuntimeError, match="sparse"):
            getattr(module, name)([p]).step()
        assert torch.equal(p, torch.ones(ROWS, WIDTH))


@pytest.mark.parametrize("options", ["plain", "momentum", "nesterov"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradscaler_skips_and_unscales_them(backend: str, options: str) -> None:
    values = [1.0, float("inf"), 2.0, 3.0, float("nan"), 4.0]
    trained = []
    for module in (fused_sched.optim, torch.optim):
        p, q = (torch.nn.Parameter(torch.ones(ROWS, WIDTH)) for _ in range(2))
        new = {"backend": _backend(backend)} if module is fused_sched.optim else {"foreach": False}
        optimizer = module.SGD([p, q], lr=0.1, **OPTIONS[options], **new)
        scheduler = _lr_module(module).StepLR(optimizer, 2, 0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
        seen = []
        for i, value in enumerate(values):
            optimizer.zero_grad()
            rows = torch.tensor([i, i, 3])
            scaler.scale((torch.nn.functional.embedding(rows, p, sparse=True) * value).sum() + q.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            assert p.grad is not None
            seen.append(p.grad.to_dense())
        trained.append((p.detach(), q.detach(), seen[0], seen[2]))
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def _lr_module(module: Any) -> Any:
    return fused_sched.lr_scheduler if module is fused_sched.optim else torch.optim.lr_scheduler


@pytest.mark.parametrize("options", ["plain", "momentum"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_states_go_to_torchs_class_and_back_in_mid_run(backend: str, options: str) -> None:
    twin = Twin(backend, **OPTIONS[options])
    for _ in range(3):
        twin.step("sds")
    ours, torchs = copy.deepcopy(twin.optimizer.state_dict()), copy.deepcopy(twin.reference.state_dict())
    twin.optimizer.load_state_dict(torchs)
    twin.reference.load_state_dict(ours)
    for _ in range(3):
        twin.step("sds")
    twin.check(exact=False)
    again = copy.deepcopy(twin.optimizer)
    assert str(again.state_dict()) == str(twin.optimizer.state_dict())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_momentum_that_a_program_sets(backend: str) -> None:
    def momentum(step: int) -> float:
        return 0.0 if step < 3 else 0.8

    trained = []
    for module in (fused_sched.optim, torch.optim):
        rng = torch.Generator().manual_seed(1)
        p = torch.nn.Parameter(torch.ones(ROWS, WIDTH))
        new = {"backend": _backend(backend)} if module is fused_sched.optim else {"foreach": False}
        optimizer = module.SGD([p], lr=0.1, **new)
        scheduler = ParamScheduler(optimizer, "momentum", momentum) if module is fused_sched.optim else None
        for step in range(8):
            if scheduler is None:
                optimizer.param_groups[0]["momentum"] = momentum(step)
            p.grad = _sparse(rng, torch.float32)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        trained.append(p.detach())
    torch.testing.assert_close(*trained, rtol=1e-6, atol=1e-7)


class Capturing(Platform):
    """Says whether a graph is being captured."""

    on = False

    def is_capturing(self, device: torch.device) -> bool:
        return self.on


def test_a_capture_refuses_them() -> None:
    platform = Capturing()
    p = torch.nn.Parameter(torch.ones(ROWS, WIDTH))
    p.grad = _sparse(torch.Generator(), torch.float32)
    optimizer = fused_sched.optim.SGD([p], lr=0.1, backend=ReferenceBackend(platform))
    optimizer.step()
    before = p.detach().clone()
    platform.on = True
    with pytest.raises(RuntimeError, match="a sparse gradient was applied inside a CUDA graph capture"):
        optimizer.step()
    assert torch.equal(p, before)


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.ones(ROWS, WIDTH))
    optimizer = fused_sched.optim.SGD([p], lr=0.1, momentum=0.9, backend=ReferenceBackend(MIRRORED))
    LambdaLR(optimizer, lambda step: 1 / (1 + step), fused=True)
    rng = torch.Generator()
    p.grad = _sparse(rng, torch.float32)
    optimizer.step()

    def refuse(*args: Any) -> Any:
        raise AssertionError("the host waited for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for _ in range(3):
        p.grad = torch.sparse_coo_tensor(p.grad._indices(), p.grad._values(), p.shape, check_invariants=False)
        optimizer.step()


def _embedding(sparse: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(ROWS, WIDTH, sparse=sparse), torch.nn.Linear(WIDTH, 1))


def test_a_model_with_a_sparse_embedding_trains_as_with_a_dense_one() -> None:
    trained = []
    for sparse in (True, False):
        model = _embedding(sparse)
        optimizer = fused_sched.optim.SGD(model.parameters(), lr=0.1)
        scheduler = StepLR(optimizer, 5, 0.5, fused=True)
        for step in range(20):
            optimizer.zero_grad()
            model(torch.tensor([step % ROWS, 3, 3])).square().sum().backward()
            optimizer.step()
            scheduler.step()
        trained.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*trained, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_is_there_from_the_first_update_that_counts(backend: str) -> None:
    p = torch.nn.Parameter(torch.ones(ROWS, WIDTH))
    optimizer = fused_sched.optim.SGD([p], lr=0.1, momentum=0.9, backend=_backend(backend))
    optimizer.found_inf = torch.ones(1)
    p.grad = _sparse(torch.Generator(), torch.float32)
    optimizer.step()
    assert torch.equal(p, torch.ones(ROWS, WIDTH))
    assert optimizer.state_dict()["state"] == {}
    optimizer.found_inf.zero_()
    optimizer.step()
    buffer = optimizer.state_dict()["state"][0]["momentum_buffer"]
    torch.testing.assert_close(buffer.to_dense(), p.grad.to_dense())
