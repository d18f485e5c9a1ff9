"""Masters of 16-bit parameters, on every backend: torch's for-loop on float32 copies is the oracle."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from optimizer_twins import OPTIONS, PARAM_LAYOUTS, continued, step_with_equal_gradients
from precision_twins import KEYS, PrecisionTwins, away_from_zero, round_states, same_bits, value_of
from tolerances import CLIPPED_RELATIVE, UPDATE_RELATIVE

from fused_sched import backends
from fused_sched.optim import SGD, Adam, AdamW

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend
NARROW = [torch.bfloat16, torch.float16]
KEPT = [("float32", torch.bfloat16), ("float32", torch.float16), ("remainder", torch.bfloat16)]
every_kept = pytest.mark.parametrize(("kept", "dtype"), KEPT, ids=str)
every_way = pytest.mark.parametrize("kept", ["float32", "remainder"])
FLOAT32 = UPDATE_RELATIVE[torch.float32]
CASES = [
    ("SGD", "plain"),
    ("SGD", "dampening and weight_decay"),
    ("SGD", "nesterov, weight_decay, maximize"),
    ("Adam", "betas below a half"),
    ("Adam", "amsgrad, weight_decay, maximize"),
    ("Adam", "decoupled"),
    ("AdamW", "amsgrad"),
]
every_rule = pytest.mark.parametrize(("name", "case"), [("SGD", "plain"), ("SGD", "nesterov"), ("AdamW", "amsgrad")])


@pytest.fixture(autouse=True)
def _drawn_from_the_seed(seed: int) -> None:
    """Values and gradients."""


def relative_of(name: str, backend: Backend) -> float:
    """SGD is torch's bits in the kernels; the reference has no fused multiply-add, and torch an inexact square root."""
    return 0.0 if name == "SGD" and backend != "reference" else FLOAT32


# -- the update ------------------------------------------------------------------------------------------


@pytest.mark.thin
@every_kept
@pytest.mark.parametrize(("name", "case"), CASES)
def test_values_are_torchs_float32_parameters(
    name: str, case: str, kept: str, dtype: torch.dtype, backend: Backend
) -> None:
    twins = PrecisionTwins(name, backend, dtype, OPTIONS[name][case], kept=kept)
    for step in range(4):
        twins.set_grads(without=[1, 4] if step == 2 else [])
        twins.step()
        twins.assert_same(relative_of(name, backend))
    states = [v for p in twins.params for k, v in twins.ours.state[p].items() if k not in ("step", "remainder")]
    assert {t.dtype for t in states} <= {torch.float32}


@pytest.mark.thin
@every_way
@pytest.mark.parametrize("layout", PARAM_LAYOUTS)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_parameters_that_lie_anyhow(name: str, layout: str, kept: str, backend: Backend) -> None:
    shapes = [(2, 3, 5, 7)] if layout == "channels_last" else [(17, 6), (5, 40)]
    twins = PrecisionTwins(
        name, backend, torch.bfloat16, shapes=shapes, layout=PARAM_LAYOUTS[layout], kept=kept, ema_decay=0.5
    )
    for step in range(3):
        twins.set_grads(without=[0] if step == 1 else [])
        twins.step()
        twins.assert_same(relative_of(name, backend))


@pytest.mark.thin("triton")
@every_way
@every_rule
def test_far_smaller_updates_than_a_unit_in_the_last_place_arrive(
    name: str, case: str, kept: str, backend: Backend
) -> None:
    """Without a master such a run stands still."""
    ends = []
    for options in ({}, {"master_weights": kept}):
        p = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
        cls = {"SGD": SGD, "AdamW": AdamW}[name]
        optimizer: Any = cls([p], **OPTIONS[name][case] | {"lr": 1e-4, "weight_decay": 0}, backend=backend, **options)
        for _ in range(24):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends.append(p.detach().float())
    assert torch.equal(ends[0], torch.ones(40))
    assert bool((ends[1] < 1.0).all())


def test_a_parameter_that_somebody_else_wrote_to_is_the_value(backend: Backend) -> None:
    """Element by element: where it wrote nothing new, the master's digits stay."""
    twins = PrecisionTwins("SGD", backend, torch.bfloat16, {"momentum": 0.9})
    for step in range(6):
        if step in (2, 4):
            twins.write(0.5 if step == 2 else 0.0)
        twins.set_grads()
        twins.step()
        twins.assert_same(relative_of("SGD", backend))


@every_kept
def test_weights_that_are_loaded_later_are_the_values(kept: str, dtype: torch.dtype, backend: Backend) -> None:
    """A remainder stays, which is less than the loaded digits."""
    twins = PrecisionTwins("AdamW", backend, dtype, kept=kept)
    twins.set_grads()
    twins.step()
    twins.write()
    for _ in range(2):
        twins.set_grads()
        twins.step()
        twins.assert_same(FLOAT32)


def test_values_that_the_parameter_cannot_hold(backend: Backend) -> None:
    """A master beyond float16's largest number comes back; a NaN stays one."""
    p = torch.nn.Parameter(torch.tensor([6e4, -6e4, 1.0, 3e-7], dtype=torch.float16))
    optimizer = SGD([p], lr=1.0, master_weights="float32", backend=backend)
    for gradient in ([-2e4, 2e4, float("nan"), 0.0], [3e4, -3e4, 0.0, 0.0]):
        p.grad = torch.tensor(gradient, dtype=torch.float16)
        optimizer.step()
    assert p.tolist()[:2] == [49984.0, -49984.0]
    assert optimizer.state[p]["master"].tolist()[:2] == [5e4, -5e4]
    assert p.isnan().tolist() == [False, False, True, False]
    assert same_bits(p[3:], torch.tensor([3e-7], dtype=torch.float16))


def test_only_16_bit_parameters_have_masters(backend: Backend) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.complex64]
    params = [torch.nn.Parameter(torch.ones(5, dtype=dtype)) for dtype in dtypes]
    plain = [torch.nn.Parameter(p.detach().clone()) for p in params]
    ours = AdamW(params, lr=0.1, master_weights="float32", backend=backend)
    others = AdamW(plain, lr=0.1, backend=backend)
    for _ in range(3):
        for p, q in zip(params, plain, strict=True):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        ours.step()
        others.step()
    assert ["master" in ours.state[p] for p in params] == [False, True, False, True, False]
    for i in (0, 2, 4):
        assert torch.equal(params[i], plain[i])
        assert ours.state[params[i]]["exp_avg"].dtype == dtypes[i]


# -- remainders ---------------------------------------------------------------------------------------------


def test_a_remainder_and_its_parameter_hold_every_float32(backend: Backend) -> None:
    """All low halves beside two high ones, some beside others, infinities; lr 0 leaves them as they are."""
    low = torch.arange(65536, dtype=torch.int32)
    every, some = torch.tensor([0x3F80, -0x8000]), torch.tensor([-0x4080, 0x0000, 0x0001, 0x7F7F, 0x4B7F, 0x3FFF])
    bits = [((h.to(torch.int32) << 16)[:, None] + b).reshape(-1) for h, b in ((every, low), (some, low[::73]))]
    values = torch.cat(bits).view(torch.float32)
    values = torch.cat([values, torch.tensor([math.inf, -math.inf])])
    p, remainder = split(values)
    optimizer = SGD([p], lr=0.0, master_weights="remainder", backend=backend)
    optimizer.state[p]["remainder"] = remainder
    assert same_bits(value_of(optimizer, p, "remainder"), values)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same_bits(value_of(optimizer, p, "remainder"), values)
    assert same_bits(p.detach(), away_from_zero(values))


def split(values: torch.Tensor) -> tuple[torch.nn.Parameter, torch.Tensor]:
    """A parameter and its remainder."""
    p = away_from_zero(values)
    return torch.nn.Parameter(p), (values.view(torch.int32) - p.float().view(torch.int32)).to(torch.int16)


@pytest.mark.parametrize("steps", [20, pytest.param(10_000, marks=pytest.mark.slow)])
@every_rule
def test_many_steps_have_the_bits_of_a_float32_run(name: str, case: str, steps: int, host_backend: Backend) -> None:
    """From starts with every low half; the float32 run is ours, with the same gradients of 16 bits."""
    values = torch.randn(65536) * 10.0 ** torch.randint(-3, 2, (65536,))
    values = ((values.view(torch.int32) & -65536) + torch.arange(65536, dtype=torch.int32)).view(torch.float32)
    p, remainder = split(values)
    q = torch.nn.Parameter(values.clone())
    q.grad_dtype = torch.bfloat16
    cls = {"SGD": SGD, "AdamW": AdamW}[name]
    options = OPTIONS[name][case] | {"lr": 0.0, "backend": host_backend}
    ours: Any = cls([p], **options, master_weights="remainder")
    single: Any = cls([q], **options)
    gradients = torch.randn(13, 65536).bfloat16()
    for step in range(steps):
        p.grad = q.grad = gradients[step % 13]
        ours.step()
        single.step()
        if step == 0:  # which made the state
            ours.state[p]["remainder"] = remainder
            ours.param_groups[0]["lr"] = single.param_groups[0]["lr"] = 1e-3
    assert same_bits(value_of(ours, p, "remainder"), q.detach())
    assert same_bits(p.detach(), away_from_zero(q.detach()))


def test_a_parameter_written_to_keeps_no_more_than_half_a_unit(backend: Backend) -> None:
    """A remainder stands beside whatever was written; beside 0 and infinity, and for NaN, there is none on one side."""
    p = torch.nn.Parameter(
        torch.tensor([1.0, 0.0, -0.0, math.inf, -math.inf, math.nan], dtype=torch.bfloat16).repeat(2)
    )
    optimizer = SGD([p], lr=0.0, master_weights="remainder", ema_decay=0.0, backend=backend)
    optimizer.state[p]["remainder"] = torch.tensor([-32768] * 6 + [32767] * 6, dtype=torch.int16)
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(p.isnan(), before.isnan())
    number = ~before.isnan()
    assert same_bits(p.detach()[number], before[number])
    ema = optimizer.state[p]["ema"]  # the value
    assert ema[[0, 6]].tolist() == [1 - 2**-9, 1 + 32767 * 2**-23]
    assert ema[[1, 2]].tolist() == [0.0, 0.0]
    assert ema[[9, 10]].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("value", [torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.int32)], ids=str)
def test_a_remainder_of_another_dtype_is_refused(value: torch.Tensor, backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = SGD([p], lr=0.1, master_weights="remainder", backend=backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["remainder"] = value
    message = r"'remainder' has dtype .*, but must have torch.int16, the bits .*: assign"
    if not value.is_floating_point():
        with pytest.raises(TypeError, match=message):
            optimizer.load_state_dict(saved)
    optimizer.state[p]["remainder"] = value
    with pytest.raises(TypeError, match=message):
        optimizer.step()


@pytest.mark.parametrize("kept", ["float32", "remainder"])
def test_torchs_class_may_be_between(kept: Any, backend: Backend) -> None:
    """It rounds what it loads: a remainder is nothing then, and the parameter is the value."""
    p = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
    optimizer = AdamW([p], lr=1e-4, master_weights=kept, backend=backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    torchs = torch.optim.AdamW([p], lr=1e-2)
    torchs.load_state_dict(optimizer.state_dict())
    torchs.step()
    begun = p.detach().float()
    after = AdamW([p], lr=0.0, weight_decay=0, master_weights=kept, backend=backend)
    after.load_state_dict(torchs.state_dict() | {"param_groups": after.state_dict()["param_groups"]})
    p.grad = torch.ones_like(p)
    after.step()
    assert torch.equal(p.detach().float(), begun)
    assert torch.equal(after.state[p]["master"], begun) if kept == "float32" else not after.state[p]["remainder"].any()


@pytest.mark.parametrize("now", [{}, {"master_weights": "float32"}, {"master_weights": "remainder"}], ids=str)
def test_a_load_leaves_out_what_updates_would_not_follow(now: dict[str, Any], backend: Backend) -> None:
    """It would be believed in a later run."""
    for before in ({"master_weights": "float32"}, {"master_weights": "remainder"}, {"stochastic_rounding": True}):
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = AdamW([p], lr=1e-4, backend=backend, **before)
        p.grad = torch.ones_like(p)
        optimizer.step()
        after = AdamW([p], lr=1e-4, backend=backend, **now)
        after.load_state_dict(optimizer.state_dict())
        kept = {"master", "remainder", "rounding_stream"} & after.state[p].keys()
        own = {"float32": "master", "remainder": "remainder"}.get(now.get("master_weights", ""))
        assert kept <= {own}


@pytest.mark.parametrize("options", [{"master_weights": "float32"}, {"master_weights": "remainder"},
                                     {"stochastic_rounding": True}], ids=str)  # fmt: skip
@pytest.mark.thin
def test_a_model_may_become_narrow_in_mid_run(options: dict[str, Any], backend: Backend) -> None:
    """From then on its parameters are kept as those of an optimizer that was made for them."""
    model = torch.nn.Linear(40, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    optimizer = SGD(model.parameters(), lr=1e-4, backend=backend, **options)
    model.weight.grad = torch.zeros(1, 40)
    optimizer.step()
    model.bfloat16()
    for _ in range(50):
        model.weight.grad = torch.ones(1, 40, dtype=torch.bfloat16)
        optimizer.step()
    assert 0.99 < float(model.weight.detach().float().mean()) < 1.0


def test_a_remainder_refuses_a_model_that_becomes_float16(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = SGD([p], lr=1.0, master_weights="remainder", backend=backend)
    p.grad = torch.full_like(p, 2.0**-10)
    optimizer.step()
    p.data = torch.tensor([1.2345, 3.3]).half()
    p.grad = torch.zeros_like(p)
    with pytest.raises(TypeError, match="master_weights='remainder'"):
        optimizer.step()
    assert p.tolist() == torch.tensor([1.2345, 3.3]).half().tolist()


def test_a_remainder_is_beside_bfloat16_alone() -> None:
    message = r"master_weights='remainder' .*, but a parameter is of torch.float16: use master_weights='float32', or"
    with pytest.raises(TypeError, match=message):
        SGD([torch.nn.Parameter(torch.ones(1, dtype=torch.float16))], lr=0.1, master_weights="remainder")


# -- with what else a step does -----------------------------------------------------------------------------


@pytest.mark.thin("triton")
@every_kept
@every_rule
def test_clipped_averaged_and_zeroed(name: str, case: str, kept: str, dtype: torch.dtype, backend: Backend) -> None:
    """Averages follow the masters, also where a parameter has no gradient; the norm is that of the gradients."""
    twins = PrecisionTwins(
        name, backend, dtype, OPTIONS[name][case], kept=kept, max_grad_norm=2.0, ema_decay=0.7, zero_grad_in_step=True
    )
    for step in range(4):
        twins.set_grads(without=[1, 4] if step in (2, 3) else [])
        twins.step()
        twins.assert_same(CLIPPED_RELATIVE[torch.float32])
        assert not any(p.grad.any() for p in twins.params if p.grad is not None)


@every_way
def test_a_skipped_step_changes_nothing(kept: str, backend: Backend) -> None:
    twins = PrecisionTwins("AdamW", backend, torch.bfloat16, kept=kept, skip_nonfinite=True, ema_decay=0.5)
    twins.set_grads()
    twins.step()
    before = [p.detach().clone() for p in twins.params], twins.values()
    for p in twins.params:
        p.grad = torch.full_like(p, float("nan"))
    twins.ours.step()
    after = [p.detach().clone() for p in twins.params], twins.values()
    for a, b in zip(before[0] + before[1], after[0] + after[1], strict=True):
        assert same_bits(a, b)
    twins.set_grads()
    twins.step()
    twins.assert_same(FLOAT32)


@every_kept
def test_gradients_of_a_grad_scaler(kept: str, dtype: torch.dtype, backend: Backend) -> None:
    twins = PrecisionTwins("Adam", backend, dtype, kept=kept)
    for step in range(4):
        twins.set_grads()
        twins.ours.found_inf = torch.tensor([float(step == 1)])
        twins.ours.grad_scale = torch.tensor([4.0])
        for p in twins.params:
            p.grad.mul_(4.0)
        twins.ours.step()
        if step != 1:
            twins.torchs.step()
        twins.assert_same(FLOAT32)


def test_averages_in_the_place_of_parameters_leave_masters_alone(backend: Backend) -> None:
    twins = PrecisionTwins("SGD", backend, torch.bfloat16, ema_decay=0.5, ema_dtype="float32")
    twins.set_grads()
    twins.step()
    with twins.ours.ema_weights():
        assert same_bits(twins.params[1].detach(), twins.ours.state[twins.params[1]]["ema"].bfloat16())
    twins.set_grads()
    twins.step()
    twins.assert_same(relative_of("SGD", backend))


# -- saving and loading --------------------------------------------------------------------------------------


@pytest.mark.thin("triton")
@every_way
@pytest.mark.parametrize("way", ["state dict", "deepcopy", "pickle"])
@every_rule
def test_a_run_goes_on_from_a_checkpoint(name: str, case: str, way: str, kept: str, backend: Backend) -> None:
    """Bit for bit, though torch's load_state_dict would make all of it 16-bit."""
    if way != "state dict" and not isinstance(backend, str):
        pytest.skip("a backend is copied by its name")
    twins = PrecisionTwins(name, backend, torch.bfloat16, OPTIONS[name][case], kept=kept)
    for _ in range(2):
        twins.set_grads()
        twins.step()
    optimizer = continued(
        way, twins.ours, lambda: PrecisionTwins(name, backend, torch.bfloat16, OPTIONS[name][case], kept=kept).ours
    )
    for _ in range(2):
        twins.set_grads()
        pairs = step_with_equal_gradients(twins.ours, optimizer)
    for q, p in pairs:
        assert same_bits(p.detach(), q.detach())
        mine, theirs = optimizer.state[p], twins.ours.state[q]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@every_way
@every_rule
def test_a_state_without_masters_begins_with_the_parameters(name: str, case: str, kept: str, backend: Backend) -> None:
    """So do states of torch's class; and torch's class takes ours."""
    twins = PrecisionTwins(name, backend, torch.bfloat16, OPTIONS[name][case], kept=kept)
    twins.set_grads()
    twins.step()
    saved = copy.deepcopy(twins.ours.state_dict())
    torchs = type(twins.torchs)([torch.nn.Parameter(p.detach().clone()) for p in twins.params], lr=0.1)
    torchs.load_state_dict(saved)
    for state in saved["state"].values():
        del state[KEYS[kept]]
    other = PrecisionTwins(name, backend, torch.bfloat16, OPTIONS[name][case], kept=kept)
    other.ours.load_state_dict(saved)
    for p, q in zip(other.params, other.torch_params, strict=True):
        q.data.copy_(p)
    other.torchs.load_state_dict(saved)
    other.set_grads()
    other.step()
    other.assert_same(relative_of(name, backend))


def test_a_state_that_holds_nothing_is_not_saved(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = Adam([p], master_weights="float32", skip_nonfinite=True, backend=backend)
    p.grad = torch.full_like(p, float("nan"))
    optimizer.step()
    assert optimizer.state[p]["master"].tolist() == [1.0] * 3
    assert optimizer.state_dict()["state"] == {}


def test_a_master_of_another_shape_is_refused(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = SGD([p], lr=0.1, master_weights="float32", backend=backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["master"] = torch.ones(4)
    with pytest.raises(ValueError, match=r"'master' has shape \(4,\), but its parameter has \(3,\)"):
        optimizer.load_state_dict(saved)


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["float16", True, "remainders"])
def test_masters_of_no_kind_that_there_is(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"master_weights={value!r} must be one of 'float32'.*, or None"):
        SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, master_weights=value)


def test_sparse_gradients_have_no_masters() -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True, dtype=torch.bfloat16)
    optimizer = SGD(embedding.parameters(), lr=0.1, master_weights="float32")
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"master_weights='float32' with a sparse gradient.*: use dense gradients"):
        optimizer.step()


# -- states of another dtype ------------------------------------------------------------------------------------


@pytest.mark.thin
@pytest.mark.parametrize("clipped", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_states_of_16_bits(name: str, case: str, dtype: torch.dtype, clipped: bool, backend: Backend) -> None:
    """They are float32 in the update, and rounded where it stores them; masters go with them.

    Where ours is not torch's bits, one last place may decide to which side a state is rounded.
    """
    exact = name == "SGD" and backend != "reference" and not clipped
    options = {"max_grad_norm": 1.0, "ema_decay": 0.9} if clipped else {}
    if dtype == torch.float32:
        options["master_weights"] = None
    twins = PrecisionTwins(name, backend, dtype, OPTIONS[name][case], state_dtype=torch.bfloat16, **options)
    for step in range(4):
        twins.set_grads(without=[1, 4] if step == 2 else [])
        twins.step()
        round_states(twins.torchs)
        twins.assert_same(0.0 if exact else 1e-3)
    for p, q in zip(twins.params, twins.torch_params, strict=True):
        for key, value in twins.ours.state[p].items():
            if key not in ("step", "master", "ema"):
                assert value.dtype == torch.bfloat16
                assert not exact or torch.equal(value.float(), twins.torchs.state[q][key])


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_states_of_32_bits_beside_16(dtype: torch.dtype, backend: Backend) -> None:
    params = [torch.nn.Parameter(torch.randn(40).to(dtype)), torch.nn.Parameter(torch.randn(5))]
    optimizer = AdamW(params, state_dtype=torch.float32, backend=backend)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p in params:
        assert torch.equal(optimizer.state[p]["exp_avg"], torch.lerp(torch.zeros(()), p.grad.float(), 0.1))


@pytest.mark.thin("triton")
@pytest.mark.parametrize("master", [None, "float32"])
@every_rule
def test_a_run_with_16_bit_states_goes_on(name: str, case: str, master: str | None, backend: Backend) -> None:
    """torch's class takes the state dict, and ours takes torch's, of which it keeps 16 bits."""
    dtype = torch.float32 if master is None else torch.bfloat16
    options = {"state_dtype": torch.bfloat16, "master_weights": master}
    twins = PrecisionTwins(name, backend, dtype, OPTIONS[name][case], **options)
    for _ in range(2):
        twins.set_grads()
        twins.step()
    saved = copy.deepcopy(twins.ours.state_dict())
    other = PrecisionTwins(name, backend, dtype, OPTIONS[name][case], **options)
    other.ours.load_state_dict(saved)
    twins.torchs.load_state_dict(saved)
    for p, q, t in zip(other.params, twins.params, twins.torch_params, strict=True):
        p.data.copy_(q.data)
        mine, theirs, torchs = other.ours.state[p], twins.ours.state[q], twins.torchs.state[t]
        assert {k: v.dtype for k, v in mine.items()} == {k: v.dtype for k, v in theirs.items()}
        assert all(torch.equal(torchs[k], v.float()) for k, v in theirs.items())
    twins.set_grads()
    for p, q in zip(other.params, twins.params, strict=True):
        p.grad = q.grad.clone()
    twins.ours.step()
    other.ours.step()
    for p, q in zip(other.params, twins.params, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(other.ours.state[p][k], v) for k, v in twins.ours.state[q].items())


def test_states_become_those_that_are_asked_for(backend: Backend) -> None:
    """Whatever was assigned; without state_dtype=, 16-bit states of a float32 parameter do not stay."""
    for wanted, dtype in ((torch.bfloat16, torch.bfloat16), (None, torch.float32)):
        p = torch.nn.Parameter(torch.ones(5))
        optimizer = AdamW([p], state_dtype=wanted, backend=backend)
        for given in (torch.float32, torch.bfloat16):
            p.grad = torch.ones(5)
            optimizer.step()
            optimizer.state[p]["exp_avg"] = torch.zeros(5, dtype=given)
            optimizer.step()
            assert optimizer.state[p]["exp_avg"].dtype == dtype
            assert optimizer.state[p]["exp_avg_sq"].dtype == dtype


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("bfloat16", TypeError, r"state_dtype='bfloat16' must be a dtype, such as torch.bfloat16, or None"),
        (torch.float16, ValueError, r"state_dtype=torch.float16 must be torch.bfloat16 or torch.float32, or None for"),
        (torch.int32, ValueError, r"state_dtype=torch.int32 must be"),
    ],
)
def test_states_of_no_dtype_that_there_is(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AdamW([torch.nn.Parameter(torch.ones(1))], state_dtype=value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64], ids=str)
def test_parameters_that_have_no_such_states(dtype: torch.dtype) -> None:
    """At construction, in a group that is added, and where one was converted later."""
    message = (
        rf"state_dtype=torch.bfloat16 goes with parameters of torch.float32, torch.bfloat16, but one is of {dtype}: "
    )
    odd = torch.nn.Parameter(torch.ones(2, dtype=dtype))
    with pytest.raises(TypeError, match=message):
        AdamW([odd], state_dtype=torch.bfloat16)
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([p], state_dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=message):
        optimizer.add_param_group({"params": [odd]})
    p.data = p.data.to(dtype)
    p.grad = torch.ones_like(p)
    with pytest.raises(TypeError, match=message):
        optimizer.step()
