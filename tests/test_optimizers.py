"""The optimizers as a user meets them: construction, errors, closures, hooks, edits, copies, memory."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_twins import Twins, assert_close, assert_equal, assert_same, generator, normal
from torch import Tensor, nn

import fused_sched
from fused_sched import backends
from fused_sched.optim import SGD, Adam, AdamW

pytestmark = pytest.mark.thin("triton")

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {},
}
every_optimizer = pytest.mark.parametrize("name", OPTIONS)


def make_twins(name: str, backend: str, g: torch.Generator, shapes: Any = ((4, 3), 5), **options: Any) -> Twins:
    return Twins(name, [[normal(g, s) for s in shapes]], backend, **{**OPTIONS[name], **options})


def snapshot(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of all parameters and state tensors, counts included."""
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    states = optimizer.state_dict()["state"].values()
    return params + [t.clone() for s in states for t in s.values()]


def assert_unchanged(optimizer: torch.optim.Optimizer, before: list[Tensor]) -> None:
    after = snapshot(optimizer)
    assert len(after) == len(before)
    for a, b in zip(after, before, strict=True):
        assert torch.equal(a, b)


# -- construction ------------------------------------------------------------------------------------


@every_optimizer
def test_signature_is_torchs_and_backend(name: str) -> None:
    ours = inspect.signature(getattr(fused_sched.optim, name)).parameters
    torchs = inspect.signature(getattr(torch.optim, name)).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values() if p.name not in ("backend", "step")] == [
        (p.name, p.kind, p.default) for p in torchs.values()
    ]
    assert ours["step"].kind is inspect.Parameter.VAR_KEYWORD
    assert ours["backend"].kind is inspect.Parameter.KEYWORD_ONLY
    assert ours["backend"].default is None


@every_optimizer
def test_is_an_instance_of_torchs_class(name: str) -> None:
    optimizer = getattr(fused_sched.optim, name)([torch.zeros(1, requires_grad=True)])
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert type(optimizer).__name__ == name


@every_optimizer
def test_defaults_and_groups_are_torchs(name: str, backend: str) -> None:
    p = torch.zeros(1, requires_grad=True)
    ours = getattr(fused_sched.optim, name)([p], backend=backend, **OPTIONS[name])
    torchs = getattr(torch.optim, name)([p], **OPTIONS[name])
    assert ours.defaults == torchs.defaults
    assert ours.param_groups == torchs.param_groups
    assert repr(ours) == repr(torchs)


BAD_ARGUMENTS = [
    ("SGD", {"lr": -1.0}),
    ("SGD", {"momentum": -1.0}),
    ("SGD", {"weight_decay": -1.0}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("SGD", {"lr": torch.ones(2)}),
    ("SGD", {"fused": True, "foreach": True}),
    ("Adam", {"lr": -1.0}),
    ("Adam", {"eps": -1.0}),
    ("Adam", {"betas": (1.0, 0.9)}),
    ("Adam", {"betas": (0.9, 1.0)}),
    ("Adam", {"betas": (0.9, -0.1)}),
    ("Adam", {"weight_decay": -1.0}),
    ("Adam", {"lr": torch.tensor(0.1), "foreach": True}),
    ("Adam", {"fused": True, "foreach": True}),
    ("AdamW", {"lr": -1.0}),
    ("AdamW", {"betas": (0.9, 2.0)}),
]


@pytest.mark.parametrize(("name", "options"), BAD_ARGUMENTS)
def test_bad_arguments_raise_as_in_torch(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(Exception) as torchs:
        getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)], **options)
    with pytest.raises(type(torchs.value)) as ours:
        getattr(fused_sched.optim, name)([torch.zeros(1, requires_grad=True)], **options)
    assert str(ours.value) == str(torchs.value)


BAD_PARAMS: list[tuple[str, Callable[[], Any]]] = [
    ("empty", list),
    ("a tensor", lambda: torch.zeros(1, requires_grad=True)),
    ("a number", lambda: [1.0]),
    ("not a leaf", lambda: [torch.zeros(1, requires_grad=True) * 2]),
    ("mixed named", lambda: [("a", torch.zeros(1, requires_grad=True)), torch.zeros(1, requires_grad=True)]),
    ("in two groups", lambda: [{"params": [p]} for p in [torch.zeros(1, requires_grad=True)] * 2]),
]


@pytest.mark.parametrize("what", [w for w, _ in BAD_PARAMS])
@every_optimizer
def test_bad_params_raise_as_in_torch(name: str, what: str) -> None:
    make = dict(BAD_PARAMS)[what]
    with pytest.raises(Exception) as torchs:
        getattr(torch.optim, name)(make())
    with pytest.raises(type(torchs.value)) as ours:
        getattr(fused_sched.optim, name)(make())
    assert str(ours.value) == str(torchs.value)


@every_optimizer
def test_differentiable_is_refused(name: str) -> None:
    cls = getattr(fused_sched.optim, name)
    p = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"differentiable=True.*torch\.optim"):
        cls([p], differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        cls([{"params": [p], "differentiable": True}])


UNSUPPORTED: list[tuple[str, Callable[[], Tensor], str]] = [
    ("sparse", lambda: torch.zeros(3).to_sparse(), "sparse"),
    ("float8", lambda: torch.zeros(3).to(torch.float8_e4m3fn), "float8"),
    ("meta", lambda: torch.zeros(3, device="meta"), "meta"),
]


@pytest.mark.parametrize("what", [w for w, _, _ in UNSUPPORTED])
@every_optimizer
def test_unsupported_parameters_are_refused_by_name(name: str, what: str, backend: str) -> None:
    make, match = next((m, t) for w, m, t in UNSUPPORTED if w == what)
    cls = getattr(fused_sched.optim, name)
    with pytest.raises(TypeError, match=match):
        cls([make().requires_grad_()], backend=backend)
    twins = make_twins(name, backend, generator(1))
    twins.run(generator(2), 1)
    before = snapshot(twins.ours)
    with pytest.raises(TypeError, match=match):
        twins.ours.add_param_group({"params": [make().requires_grad_()]})
    assert_unchanged(twins.ours, before)
    assert len(twins.ours.param_groups) == 1
    twins.run(generator(3), 1)
    assert_same(twins)


@pytest.mark.parametrize("what", [w for w, _, _ in UNSUPPORTED])
@every_optimizer
def test_frozen_parameters_of_any_kind_are_left_alone(name: str, what: str, backend: str) -> None:
    frozen = torch.nn.Parameter(next(m for w, m, _ in UNSUPPORTED if w == what)(), requires_grad=False)
    p = torch.nn.Parameter(torch.ones(3))
    made = getattr(fused_sched.optim, name)([frozen, p], lr=0.1, backend=backend)
    for _ in range(2):
        p.grad = torch.ones(3)
        made.step()
    assert not torch.equal(p, torch.ones(3))
    assert list(made.state_dict()["state"]) in ([], [1])


def test_wrong_backend_names(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"backend='rocket' is not a backend: choose one of .*reference"):
        SGD([p], backend="rocket")
    monkeypatch.setenv("FUSED_SCHED_BACKEND", "rocket")
    with pytest.raises(ValueError, match="FUSED_SCHED_BACKEND='rocket'"):
        SGD([p])
    monkeypatch.setenv("FUSED_SCHED_BACKEND", "reference")
    assert SGD([p]).backend.name == "reference"
    monkeypatch.setenv("FUSED_SCHED_BACKEND", "")
    assert SGD([p]).backend.name == ("cpu" if backends.reason_unavailable("cpu") is None else "reference")


def test_backend_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_SCHED_BACKEND", "rocket")
    assert SGD([torch.zeros(1, requires_grad=True)], backend="reference").backend.name == "reference"


def test_a_backend_can_be_given_and_is_shared_by_copies(host_backend: str, remote: None) -> None:
    p = torch.zeros(1, requires_grad=True)
    optimizer = SGD([p], backend=host_backend)
    assert optimizer.backend is host_backend
    assert optimizer._block.remote
    assert copy.deepcopy(optimizer).backend is host_backend
    loaded = pickle.loads(pickle.dumps(optimizer))
    assert loaded.backend is backends.choose(p.device, host_backend.name)
    assert not loaded._block.remote


@every_optimizer
def test_flags_for_torchs_own_implementations_change_nothing(name: str, backend: str, seed: int) -> None:
    flags: list[dict[str, Any]] = [{"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}]
    if name != "SGD":
        flags.append({"capturable": True})
    results = []
    for options in [{}, *flags]:
        g = generator(seed)
        p = normal(g, 9).requires_grad_()
        optimizer = getattr(fused_sched.optim, name)([p], backend=backend, **OPTIONS[name], **options)
        for _ in range(3):
            p.grad = normal(g, 9)
            optimizer.step()
        results.append(snapshot(optimizer))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_equal(a, b)


@every_optimizer
def test_lr_given_as_a_tensor(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g, lr=0.125)
    tensor = getattr(fused_sched.optim, name)(
        twins.our_params, lr=torch.tensor(0.125), backend=backend, **OPTIONS[name]
    )
    twins.ours = tensor
    twins.run(g, 2)
    tensor.param_groups[0]["lr"].fill_(0.5)
    twins.torchs.param_groups[0]["lr"] = 0.5
    twins.run(g, 2)
    assert_same(twins)
    tensor.param_groups[0]["lr"] = twins.torchs.param_groups[0]["lr"] = 0.25
    twins.run(g, 1)
    assert_same(twins)


@every_optimizer
def test_groups_that_were_given_one_lr_tensor_share_it(name: str, backend: str) -> None:
    p, q = (torch.zeros(1, requires_grad=True) for _ in range(2))
    lr = torch.tensor(0.5)
    optimizer = getattr(fused_sched.optim, name)([{"params": [p]}, {"params": [q]}], lr=lr, backend=backend)
    optimizer.param_groups[0]["lr"].fill_(0.25)
    assert [g["lr"] is lr for g in optimizer.param_groups] == [True, True]


@every_optimizer
def test_named_parameters(name: str, backend: str, seed: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other = copy.deepcopy(model)
    ours = getattr(fused_sched.optim, name)(model.named_parameters(), backend=backend, **OPTIONS[name])
    torchs = getattr(torch.optim, name)(other.named_parameters(), foreach=False, **OPTIONS[name])
    x = normal(generator(seed), (5, 3))
    for _ in range(3):
        for m, o in ((model, ours), (other, torchs)):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    assert ours.state_dict()["param_groups"][0]["param_names"] == torchs.state_dict()["param_groups"][0]["param_names"]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p, q)


@pytest.mark.usefixtures("mirrored")
def test_lr_tensor_put_aside_can_be_put_back(host_backend: str) -> None:
    """Reads give a live view; another assignment leaves the tensor read before with its value, as in torch."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.25), backend=host_backend)
    group = optimizer.param_groups[0]
    aside = group["lr"]
    assert group["lr"] is aside
    group["lr"] = torch.tensor(0.0)
    assert (float(aside), float(group["lr"])) == (0.25, 0.0)
    aside.fill_(0.5)
    assert float(group["lr"]) == 0.0
    group["lr"] = aside
    assert float(group["lr"]) == 0.5
    group["lr"] *= 2  # in place, then assigned to itself
    assert float(group["lr"]) == 1.0
    group["lr"] = 0.125
    assert type(group["lr"]) is float


@every_optimizer
def test_lr_tensor_travels_to_torch(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g, lr=0.0625)
    options = {"lr": torch.tensor(0.0625), "backend": backend, **OPTIONS[name]}
    twins.ours = getattr(fused_sched.optim, name)(twins.our_params, **options)
    twins.run(g, 2)
    theirs = getattr(torch.optim, name)(twins.our_params, foreach=False)
    theirs.load_state_dict(twins.ours.state_dict())
    assert float(copy.deepcopy(twins.ours).param_groups[0]["lr"]) == 0.0625
    twins.ours = theirs
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_parameters_of_several_dtypes(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.float16, torch.float32]
    values = [normal(g, 40, dtype) for dtype in dtypes]
    twins = Twins(name, [values[:3], values[3:]], backend, **OPTIONS[name])
    twins.run(g, 4)
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        assert_close(p, q)
    for key, mine, torchs in twins.states():
        assert_close(mine, torchs, key)


# -- hyperparameters ---------------------------------------------------------------------------------


@every_optimizer
def test_groups_with_options_of_their_own(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    own: list[dict[str, Any]] = [{}, {"lr": 0.5, "weight_decay": 0.3}, {"maximize": True}]
    if name == "SGD":
        own += [{"momentum": 0.0, "dampening": 0.0}, {"momentum": 0.5, "nesterov": True, "dampening": 0.0}]
    else:
        own += [{"betas": (0.2, 0.5)}, {"eps": 0.1}, {"amsgrad": not OPTIONS[name].get("amsgrad", False)}]
    values = [[normal(g, 3), normal(g, (2, 2))] for _ in own]
    twins = Twins(name, values, backend, group_options=own, **OPTIONS[name])
    for _ in range(5):
        twins.run(g, 1)
        assert_same(twins)


@every_optimizer
def test_every_hyperparameter_edited_mid_run(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    edits: list[dict[str, Any]] = [{"lr": 0.3}, {"weight_decay": 0.5}, {"maximize": True}, {"weight_decay": 0.0}]
    if name == "SGD":
        edits += [{"momentum": 0.5}, {"dampening": 0.0}, {"nesterov": True}, {"momentum": 0.0}, {"momentum": 0.9}]
    else:
        edits += [{"betas": (0.5, 0.6)}, {"eps": 0.01}, {"betas": [0.8, 0.9]}]
    twins.run(g, 2)
    for edit in edits:
        for optimizer in (twins.ours, twins.torchs):
            optimizer.param_groups[0].update(edit)
        twins.run(g, 2)
        assert_same(twins)


def test_momentum_switched_on_after_the_first_steps(backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins("SGD", [[normal(g, 5)]], backend, dampening=0.5)
    twins.run(g, 2)
    for optimizer in (twins.ours, twins.torchs):
        optimizer.param_groups[0]["momentum"] = 0.9
    twins.run(g, 3)
    assert_same(twins)


def test_amsgrad_switched_on_mid_run_starts_from_zero(backend: str, seed: int) -> None:
    """torch raises KeyError here; ours begins with a largest square of 0."""
    g = generator(seed)
    twins = Twins("Adam", [[normal(g, 5)]], backend)
    twins.run(g, 2)
    twins.ours.param_groups[0]["amsgrad"] = twins.torchs.param_groups[0]["amsgrad"] = True
    twins.torchs.state[twins.torch_params[0]]["max_exp_avg_sq"] = torch.zeros(5)
    twins.run(g, 2)
    assert_same(twins)


# -- gradients that are missing, replaced, sparse ----------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64], ids=str)
def test_gradients_come_and_go(kind: torch.dtype, name: str, backend: str, seed: int) -> None:
    """Parameter 0 always has one, 1 now and then, 2 never, 3 from the third step on."""
    g = generator(seed)
    twins = Twins(
        name,
        [[normal(g, 5, kind), normal(g, 4, kind)], [normal(g, 3, kind), normal(g, 2, kind)]],
        backend,
        **OPTIONS[name],
    )
    for step, odd in enumerate([True, False, False, True, False, True]):
        grads: list[Tensor | None] = list(twins.random_grads(g))
        grads[1] = grads[1] if odd else None
        grads[2] = None
        grads[3] = grads[3] if step >= 2 else None
        twins.set_grads(grads)
        twins.step()
        assert_same(twins)
    if name != "SGD":
        steps = [s["step"].item() for s in twins.ours.state_dict()["state"].values()]
        assert steps == [6, 3, 4]


@every_optimizer
def test_step_without_any_gradient_changes_nothing(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.step()
    assert_same(twins)
    assert twins.ours.state_dict()["state"] == {}
    twins.run(g, 2)
    before = snapshot(twins.ours)
    twins.ours.zero_grad()
    twins.ours.step()
    assert_unchanged(twins.ours, before)


@every_optimizer
@pytest.mark.parametrize("set_to_none", [True, False])
def test_backward_with_zero_grad(set_to_none: bool, name: str, backend: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    other = copy.deepcopy(model)
    runs = [
        (model, getattr(fused_sched.optim, name)(model.parameters(), lr=0.01, backend=backend, **OPTIONS[name])),
        (other, getattr(torch.optim, name)(other.parameters(), lr=0.01, foreach=False, **OPTIONS[name])),
    ]
    x = torch.randn(16, 4)
    for _ in range(5):
        for m, o in runs:
            m(x).square().mean().backward()
            nn.utils.clip_grad_norm_(m.parameters(), 0.1)
            o.step()
            o.zero_grad(set_to_none=set_to_none)
            for p in m.parameters():
                assert p.grad is None if set_to_none else not p.grad.any()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p, q)


@every_optimizer
def test_gradients_written_in_place_and_reassigned(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 1)
    for in_place in (True, False, True, True, False):
        if in_place:
            for p, q in zip(twins.our_params, twins.torch_params, strict=True):
                p.grad.mul_(-0.5)
                q.grad.mul_(-0.5)
            twins.step()
        else:
            twins.run(g, 1)
        assert_same(twins)


@every_optimizer
@pytest.mark.parametrize("when", ["first step", "later"])
def test_sparse_gradient_is_refused_and_changes_nothing(when: str, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g, shapes=(3, 5, 4))
    if when == "later":
        twins.run(g, 2)
    before = snapshot(twins.ours)
    grads = twins.random_grads(g)
    twins.set_grads([grads[0], None, None])
    twins.our_params[1].grad = grads[1].to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        twins.ours.step()
    assert_unchanged(twins.ours, before)
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_sparse_gradient_of_a_staged_parameter_is_refused(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    p = normal(g, (4, 6))[:, ::2].detach().requires_grad_()
    optimizer = getattr(fused_sched.optim, name)([p], backend=backend, **OPTIONS[name])
    p.grad = normal(g, (4, 3))
    optimizer.step()
    before = snapshot(optimizer)
    p.grad = normal(g, (4, 3)).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert_unchanged(optimizer, before)


@every_optimizer
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_gradients_spread_as_in_torch(value: float, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    grads = twins.random_grads(g)
    grads[1][2] = value
    twins.set_grads(grads)
    twins.step()
    twins.run(g, 2)
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        torch.testing.assert_close(p, q, equal_nan=True)
    for key, mine, torchs in twins.states():
        torch.testing.assert_close(mine, torchs, equal_nan=True, msg=key)


@every_optimizer
def test_gradients_are_not_changed_by_the_step(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g, maximize=True)
    for _ in range(2):
        grads = twins.random_grads(g)
        twins.set_grads(grads)
        twins.ours.step()
        for p, grad in zip(twins.our_params, grads, strict=True):
            assert_equal(p.grad, grad)


def test_first_momentum_is_the_gradient_and_no_alias_of_it(backend: str) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = SGD([p], lr=0.5, momentum=0.9, dampening=0.5, backend=backend)
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    assert_equal(p.detach(), torch.tensor([0.5, 0.0, -0.5]))
    p.grad.zero_()
    assert_equal(optimizer.state[p]["momentum_buffer"], torch.tensor([1.0, 2.0, 3.0]))


# -- closures and hooks ------------------------------------------------------------------------------


@every_optimizer
def test_closure(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    start = [p.detach().clone() for p in twins.our_params]
    calls = []

    def closure_for(params: list[Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = sum((p.square().sum() for p in params), torch.zeros(()))
            loss.backward()
            return loss

        return closure

    with torch.no_grad():
        ours = twins.ours.step(closure_for(twins.our_params, twins.ours))
    torchs = twins.torchs.step(closure_for(twins.torch_params, twins.torchs))
    assert calls == [True, True]
    assert_equal(ours.detach(), torchs.detach())
    assert ours.item() == pytest.approx(sum(float(s.square().sum()) for s in start))
    assert_same(twins)
    assert twins.ours.step() is None
    assert twins.ours.step(closure=lambda: 42) == 42


@every_optimizer
def test_exception_in_closure_changes_nothing(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 1)
    before = snapshot(twins.ours)

    def closure() -> None:
        raise KeyError("from the closure")

    with pytest.raises(KeyError, match="from the closure"):
        twins.ours.step(closure)
    assert_unchanged(twins.ours, before)


@every_optimizer
def test_step_hooks(name: str, backend: str) -> None:
    p = torch.ones(1, requires_grad=True)
    optimizer = getattr(fused_sched.optim, name)([p], lr=0.5, backend=backend)
    seen: list[tuple[str, float]] = []
    p.grad = torch.ones(1)

    def halve_lr(o: Any, args: Any, kwargs: Any) -> None:
        seen.append(("pre", p.item()))
        o.param_groups[0]["lr"] = 0.25

    def look(o: Any, args: Any, kwargs: Any) -> None:
        seen.append(("post", p.item()))

    handles = [optimizer.register_step_pre_hook(halve_lr), optimizer.register_step_post_hook(look)]
    optimizer.step()
    weight_decay = optimizer.param_groups[0]["weight_decay"]
    assert [s[0] for s in seen] == ["pre", "post"]
    assert seen[0][1] == 1.0
    assert seen[1][1] == pytest.approx(1 - 0.25 * weight_decay - 0.25, rel=1e-6)
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 2


@every_optimizer
def test_pre_hook_may_replace_the_arguments(name: str, backend: str) -> None:
    p = torch.ones(1, requires_grad=True)
    optimizer = getattr(fused_sched.optim, name)([p], backend=backend)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: "replaced"), {}))
    assert optimizer.step() == "replaced"


# -- edits of groups and parameters ------------------------------------------------------------------


@every_optimizer
def test_add_param_group_mid_run(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 2)
    for options in ({"lr": 0.5}, {"weight_decay": 0.0}):
        values = [normal(g, (2, 3)), normal(g, 1)]
        for optimizer, groups in ((twins.ours, twins.our_groups), (twins.torchs, twins.torch_groups)):
            groups.append([v.clone().requires_grad_() for v in values])
            optimizer.add_param_group({"params": groups[-1], **options})
        twins.run(g, 2)
        assert_same(twins)


@pytest.mark.thin("triton")
@every_optimizer
def test_add_param_group_beyond_the_first_capacity(name: str, backend: str, seed: int) -> None:
    """Seventy groups after one: the control block moves, and hyperparameters with it; counts stay theirs."""
    g = generator(seed)
    twins = make_twins(name, backend, g, shapes=(3,))
    kept = twins.ours.param_groups[0]
    scheduler = fused_sched.lr_scheduler.ExponentialLR(twins.ours, 0.5)
    torchs_scheduler = torch.optim.lr_scheduler.ExponentialLR(twins.torchs, 0.5)
    twins.run(g, 3)
    memory = twins.ours._block.tensor
    for i in range(70):
        value = normal(g, 2)
        for optimizer, groups in ((twins.ours, twins.our_groups), (twins.torchs, twins.torch_groups)):
            groups.append([value.clone().requires_grad_()])
            optimizer.add_param_group({"params": groups[-1], "lr": 0.01 * (i + 1), "initial_lr": 0.01 * (i + 1)})
    assert twins.ours._block.tensor is not memory
    twins.run(g, 2)
    assert_same(twins)
    scheduler.step()
    torchs_scheduler.step()
    assert twins.ours.param_groups[0] is kept
    kept["weight_decay"] = twins.torchs.param_groups[0]["weight_decay"] = 0.7
    twins.run(g, 2)
    assert_same(twins)
    assert [x["lr"] for x in twins.ours.param_groups] == [x["lr"] for x in twins.torchs.param_groups]


@every_optimizer
def test_param_list_edited_in_place(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g, shapes=(3, 4, 5))
    twins.run(g, 2)
    extra = normal(g, (2, 2))

    def edit(optimizer: Any, groups: list[list[Tensor]], change: Callable[[list[Tensor]], Any]) -> None:
        change(optimizer.param_groups[0]["params"])
        groups[0] = list(optimizer.param_groups[0]["params"])

    changes: list[Callable[[list[Tensor]], Any]] = [
        lambda ps: ps.reverse(),
        lambda ps: ps.pop(1),
        lambda ps: ps.append(extra.clone().requires_grad_()),
        lambda ps: ps.insert(0, ps.pop()),
    ]
    for change in changes:
        edit(twins.ours, twins.our_groups, change)
        edit(twins.torchs, twins.torch_groups, change)
        twins.run(g, 2)
        for p, q in zip(twins.our_params, twins.torch_params, strict=True):
            assert_close(p, q)
            ours, torchs = twins.ours.state[p], twins.torchs.state[q]
            for key in torchs:
                assert_close(ours[key], torchs[key], key)


@every_optimizer
def test_params_of_a_group_replaced(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 2)
    value = normal(g, (4, 3))
    for optimizer, groups in ((twins.ours, twins.our_groups), (twins.torchs, twins.torch_groups)):
        groups[0] = [value.clone().requires_grad_(), groups[0][1]]
        optimizer.param_groups[0]["params"] = groups[0]
    twins.run(g, 2)
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        assert_close(p, q)


@every_optimizer
def test_group_replaced_by_a_plain_dict(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, 4)], [normal(g, 4)]], backend, **OPTIONS[name])
    twins.run(g, 2)
    for optimizer in (twins.ours, twins.torchs):
        optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 0.3}
    twins.run(g, 2)
    assert_same(twins)
    for optimizer in (twins.ours, twins.torchs):
        optimizer.param_groups[1]["lr"] = 0.6
    twins.run(g, 1)
    assert_same(twins)
    for optimizer in (twins.ours, twins.torchs):
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.param_groups.reverse()
    for groups in (twins.our_groups, twins.torch_groups):
        groups.reverse()
    twins.run(g, 2)
    assert_same(twins)
    for optimizer in (twins.ours, twins.torchs):
        optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    twins.run(g, 2)
    assert_same(twins)


@every_optimizer
def test_group_removed(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, 4)], [normal(g, 3)]], backend, **OPTIONS[name])
    twins.run(g, 2)
    gone = twins.our_params[0].detach().clone()
    for optimizer in (twins.ours, twins.torchs):
        del optimizer.param_groups[0]
    twins.run(g, 2)
    assert_equal(twins.our_params[0].detach(), gone)
    assert_close(twins.our_params[1], twins.torch_params[1])


# -- edits of the state ------------------------------------------------------------------------------


def _first_key(name: str) -> str:
    return "momentum_buffer" if name == "SGD" else "exp_avg"


STATE_EDITS: dict[str, Callable[[torch.optim.Optimizer, Tensor, str], Any]] = {
    "clear": lambda o, p, key: o.state.clear(),
    "pop": lambda o, p, key: o.state.pop(p),
    "del": lambda o, p, key: o.state.__delitem__(p),
    "replaced by an empty dict": lambda o, p, key: o.state.__setitem__(p, {}),
    "tensor replaced": lambda o, p, key: o.state[p].__setitem__(key, torch.full_like(p.detach(), 0.25)),
    "tensor changed in place": lambda o, p, key: o.state[p][key].mul_(-3),
    "tensor zeroed in place": lambda o, p, key: o.state[p][key].zero_(),
    "dict of one parameter replaced": lambda o, p, key: o.state.__setitem__(
        p, {k: v.clone() + 1 for k, v in o.state[p].items()}
    ),
    "data replaced": lambda o, p, key: setattr(o.state[p][key], "data", torch.full_like(p.detach(), 0.5)),
}


@every_optimizer
@pytest.mark.parametrize("edit", STATE_EDITS)
def test_state_edited(edit: str, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 3)
    for optimizer, p in ((twins.ours, twins.our_params[0]), (twins.torchs, twins.torch_params[0])):
        STATE_EDITS[edit](optimizer, p, _first_key(name))
    for _ in range(2):
        twins.run(g, 1)
        assert_same(twins)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_step_reads_as_torchs(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    for expected in range(1, 5):
        twins.run(g, 1)
        for p, q in zip(twins.our_params, twins.torch_params, strict=True):
            mine, torchs = twins.ours.state[p]["step"], twins.torchs.state[q]["step"]
            assert (mine.dtype, mine.shape, mine.item()) == (torchs.dtype, torchs.shape, expected)
            assert dict(twins.ours.state[p].items())["step"].item() == expected


STEP_EDITS: dict[str, Callable[[Any], Any]] = {
    "assigned a tensor": lambda s: s.__setitem__("step", torch.tensor(7.0)),
    "changed in place": lambda s: s["step"].fill_(11),
    "added to in place": lambda s: s["step"].add_(2),
    "read twice, changed once": lambda s: (s["step"], s["step"].add_(5), s["step"]),
    "changed, then assigned": lambda s: (s["step"].zero_(), s.__setitem__("step", torch.tensor(9.0))),
    "assigned, then changed": lambda s: (s.__setitem__("step", torch.tensor(9.0)), s["step"].add_(1)),
}


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("edit", STEP_EDITS)
def test_step_edited(edit: str, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.run(g, 3)
    for optimizer, p in ((twins.ours, twins.our_params[0]), (twins.torchs, twins.torch_params[0])):
        STEP_EDITS[edit](optimizer.state[p])
    assert_same(twins)
    twins.run(g, 1)
    assert_same(twins)
    twins.run(g, 1)
    assert_same(twins)


def test_step_that_was_read_long_ago_does_not_come_back(backend: str, seed: int) -> None:
    """A tensor read from the state belongs to the next step only; afterwards it is the user's own."""
    g = generator(seed)
    twins = make_twins("Adam", backend, g)
    twins.run(g, 1)
    old = twins.ours.state[twins.our_params[0]]["step"]
    twins.run(g, 1)
    old.zero_()
    twins.run(g, 1)
    assert_same(twins)


def test_state_of_the_wrong_shape_is_refused(backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins("Adam", backend, g)
    twins.run(g, 1)
    twins.ours.state[twins.our_params[0]]["exp_avg"] = torch.zeros(7)
    before = [p.detach().clone() for p in twins.our_params]
    with pytest.raises(ValueError, match=r"'exp_avg' has shape \(7,\)"):
        twins.ours.step()
    for p, b in zip(twins.our_params, before, strict=True):
        assert_equal(p.detach(), b)


@every_optimizer
def test_entries_that_are_not_parameters_stay_in_the_state(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    twins.ours.state["note"] = {"anything": 1}
    twins.run(g, 2)
    assert twins.ours.state["note"] == {"anything": 1}
    assert twins.ours.state_dict()["state"]["note"] == {"anything": 1}


# -- dtype changes -----------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_model_converted_before_the_first_step(dtype: torch.dtype, name: str, backend: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(3, 4)
    other = copy.deepcopy(model).to(dtype)
    ours = getattr(fused_sched.optim, name)(model.parameters(), backend=backend, **OPTIONS[name])
    torchs = getattr(torch.optim, name)(other.parameters(), foreach=False, **OPTIONS[name])
    model.to(dtype)
    for _ in range(3):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            p.grad += p.grad.sign()
            q.grad = p.grad.clone()
        ours.step()
        torchs.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p, q)
        for key, mine in ours.state[p].items():
            assert mine.dtype == (torch.float32 if key == "step" else dtype)


@every_optimizer
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_model_converted_mid_run(dtype: torch.dtype, gaps: bool, name: str, backend: str, seed: int) -> None:
    """torch's Adam raises here; ours goes on, in 64 bit with states of 64 bit."""
    g = generator(seed)
    values = normal(g, (3, 8))
    p = (values[:, ::2] if gaps else values[:, :4].clone()).detach().requires_grad_()
    q = p.detach().double().requires_grad_()
    ours = getattr(fused_sched.optim, name)([p], lr=0.01, backend=backend, **OPTIONS[name])
    truth = getattr(torch.optim, name)([q], lr=0.01, foreach=False, **OPTIONS[name])
    for step in range(6):
        if step == 3:
            p.data = p.data.to(dtype)
            p.grad = None
        q.grad = normal(g, (3, 4), torch.float64).to(p.dtype).double()
        q.grad += q.grad.sign()
        p.grad = q.grad.to(p.dtype)
        q.grad = p.grad.double()
        ours.step()
        truth.step()
    assert_close(p.detach().double(), q.detach(), relative=1e-6 if dtype == torch.float64 else 2e-2)
    if dtype == torch.float64:
        assert {t.dtype for k, t in ours.state[p].items() if k != "step"} == {torch.float64}


def test_bfloat16_parameters_with_float32_state(backend: str, seed: int) -> None:
    """States given in float32 stay so, and one that is added later is float32 too."""
    g = generator(seed)
    p = normal(g, 40, torch.bfloat16).requires_grad_()
    q = p.detach().float().requires_grad_()
    ours = Adam([p], lr=0.01, backend=backend)
    theirs = torch.optim.Adam([q], lr=0.01, foreach=False)
    ours.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros(40), "exp_avg_sq": torch.zeros(40)}
    for step in range(5):
        if step == 2:
            ours.param_groups[0]["amsgrad"] = theirs.param_groups[0]["amsgrad"] = True
            theirs.state[q]["max_exp_avg_sq"] = torch.zeros(40)
        p.grad = normal(g, 40, torch.bfloat16)
        q.grad = p.grad.float()
        ours.step()
        theirs.step()
    for key, tensor in theirs.state[q].items():
        assert_close(ours.state[p][key], tensor, key)
    assert_close(p.detach().float(), q.detach(), relative=2e-2)


# -- copies ------------------------------------------------------------------------------------------


def _through_torch_save(model_and_optimizer: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model_and_optimizer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "torch.save": _through_torch_save,
}


@pytest.mark.thin("triton")
@every_optimizer
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("steps", [0, 3])
def test_copies_go_on_bit_equal(steps: int, how: str, name: str, backend: str | backends.Backend, seed: int) -> None:
    if how != "deepcopy" and not isinstance(backend, str):
        pytest.skip("a pickle has the name of its backend, which would be found by that when it is loaded")
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = getattr(fused_sched.optim, name)(model.parameters(), backend=backend, **OPTIONS[name])

    def train(m: nn.Module, o: torch.optim.Optimizer, g: torch.Generator) -> None:
        o.zero_grad()
        m(normal(g, (5, 3))).square().mean().backward()
        o.step()

    g = generator(seed)
    for _ in range(steps):
        train(model, optimizer, g)
    optimizer.param_groups[0]["lr"] = 0.05
    state = g.get_state()
    other, twin = COPIES[how]((model, optimizer))
    assert type(twin) is type(optimizer)
    assert twin.param_groups[0]["params"][0] is next(other.parameters())
    for _ in range(3):
        train(model, optimizer, g)
    g.set_state(state)
    before = snapshot(optimizer)
    for _ in range(3):
        train(other, twin, g)
    for a, b in zip(snapshot(twin), before, strict=True):
        assert_equal(a, b)
    twin.param_groups[0]["lr"] = 0.5
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert twin.backend.name == optimizer.backend.name


# -- memory ------------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("layout", ["contiguous", "gaps"])
def test_no_reference_to_gradients_is_kept(layout: str, name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    values = normal(g, (4, 6))
    p = (values if layout == "contiguous" else values[:, ::2]).detach().requires_grad_()
    optimizer = getattr(fused_sched.optim, name)([p], backend=backend, **OPTIONS[name])
    for _ in range(2):
        p.grad = normal(g, p.shape)
        optimizer.step()
        gone = weakref.ref(p.grad)
        storage = weakref.ref(p.grad.untyped_storage())
        optimizer.zero_grad(set_to_none=True)
        assert gone() is None
        assert storage() is None


@every_optimizer
@pytest.mark.thin
def test_optimizer_and_its_scheduler_are_collectable(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    p = normal(g, 5).requires_grad_()
    optimizer = getattr(fused_sched.optim, name)([p], backend=backend, **OPTIONS[name])
    scheduler = fused_sched.lr_scheduler.ExponentialLR(optimizer, 0.5, fused=True)
    for _ in range(2):
        p.grad = normal(g, 5)
        optimizer.step()
        scheduler.step()
    optimizer.state_dict()
    tensors = [weakref.ref(t) for t in optimizer.state[p].values() if t.dim()]
    gone = [weakref.ref(optimizer), weakref.ref(scheduler), weakref.ref(optimizer._block.tensor), *tensors]
    del optimizer, scheduler
    gc.collect()
    assert [r() for r in gone] == [None] * len(gone)


@every_optimizer
@pytest.mark.thin
def test_parameter_dropped_from_the_group_is_collectable(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    params = [normal(g, 5).requires_grad_() for _ in range(2)]
    optimizer = getattr(fused_sched.optim, name)(params, backend=backend, **OPTIONS[name])
    for p in params:
        p.grad = normal(g, 5)
    optimizer.step()
    gone = weakref.ref(params[0])
    del optimizer.param_groups[0]["params"][0]
    optimizer.state.pop(params.pop(0), None)
    del p
    optimizer.step()
    gc.collect()
    assert gone() is None


def test_steps_make_no_new_memory(host_backend: str, seed: int) -> None:
    """State and parameters stay where they are from step to step."""
    g = generator(seed)
    twins = make_twins("Adam", host_backend, g)
    twins.run(g, 1)
    pointers = [t.data_ptr() for p in twins.our_params for k, t in twins.ours.state[p].items() if k != "step"]
    twins.run(g, 3)
    assert pointers == [t.data_ptr() for p in twins.our_params for k, t in twins.ours.state[p].items() if k != "step"]


# -- threads and other optimizers --------------------------------------------------------------------


@every_optimizer
def test_number_of_threads_does_not_change_a_bit(name: str, host_backend: str, seed: int) -> None:
    results = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            g = generator(seed)
            twins = make_twins(name, host_backend, g, shapes=(70001, 3, 16384, 0, 16385))
            for _ in range(2):
                twins.set_grads(twins.random_grads(g))
                twins.ours.step()
            results.append(snapshot(twins.ours))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_equal(a, b)


@every_optimizer
def test_two_optimizers_on_the_same_parameters(name: str, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = make_twins(name, backend, g)
    ours = Adam(twins.our_params, lr=0.02, backend=backend)
    torchs = torch.optim.Adam(twins.torch_params, lr=0.02, foreach=False)
    for _ in range(3):
        twins.run(g, 1)
        ours.step()
        torchs.step()
        assert_same(twins)
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        assert_close(ours.state[p]["exp_avg_sq"], torchs.state[q]["exp_avg_sq"])
        assert ours.state[p]["step"].item() == 3


def test_training_reaches_the_minimum(host_backend: str) -> None:
    """(x - 3)**2 from 0."""
    for cls, options in (
        (SGD, {"lr": 0.1, "momentum": 0.5}),
        (Adam, {"lr": 0.1}),
        (AdamW, {"lr": 0.1, "weight_decay": 0.0}),
    ):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = cls([x], backend=host_backend, **options)
        for _ in range(400):
            optimizer.zero_grad()
            (x - 3).square().sum().backward()
            optimizer.step()
        assert x.item() == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_an_init_group_of_the_users_is_refused(name: str) -> None:
    ours = getattr(fused_sched.optim, name)
    mine = type("Mine", (ours,), {"_init_group": lambda self, *a: False})
    with pytest.raises(TypeError, match=r"^Mine overrides _init_group, .*: override step\(\) instead, or use torch"):
        mine([torch.nn.Parameter(torch.ones(2))])
    type("Mine", (ours,), {"step": lambda self: None})([torch.nn.Parameter(torch.ones(2))])
