"""Stochastic rounding: which words are drawn, what becomes of them, and what does not matter to it."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction
from typing import Any

import pytest
import torch
from optimizer_twins import OPTIONS
from stochastic_twins import ChanceTwins

from fused_sched import backends
from fused_sched.memory.stochastic import draw_bits, rounded_by_chance
from fused_sched.optim import SGD, Adam, AdamW

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend
NARROW = [torch.bfloat16, torch.float16]
CLASSES: dict[str, Any] = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}
every_dtype = pytest.mark.parametrize("dtype", NARROW, ids=str)
every_rule = pytest.mark.parametrize(("name", "case"), [("SGD", "plain"), ("SGD", "nesterov"), ("AdamW", "amsgrad")])


@pytest.fixture(autouse=True)
def _drawn_from_the_seed(seed: int) -> None:
    """Values and gradients."""


def bits_of(p: torch.Tensor) -> torch.Tensor:
    return p.detach().cpu().contiguous().view(torch.int16)


# -- words and rounding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "updates", "stream", "number", "words"),
    [  # the known answers of Random123; elements number * 8 and on have number as the counter's first words
        (0, 0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0x299F31D0A4093822, 0x03707344, 0x13198A2E, None, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_the_words_are_those_of_philox(
    key: int, updates: int, stream: int, number: int | None, words: tuple[int, ...]
) -> None:
    from fused_sched.memory.stochastic import _philox

    if number is None:
        counter = [torch.tensor([n]) for n in (0x243F6A88, 0x85A308D3, stream, updates)]
        assert [int(w) for w in _philox(counter, torch.tensor(key))] == list(words)
    else:
        bits = draw_bits(torch.tensor(key), torch.tensor(updates), stream, torch.empty(8, dtype=torch.bfloat16))
        assert bits.tolist() == [half for w in words for half in (w & 0xFFFF, w >> 16)]


@every_dtype
def test_a_number_becomes_one_of_its_neighbours_as_its_place_between_them_says(dtype: torch.dtype) -> None:
    smallest = -149 if dtype == torch.bfloat16 else -30
    values = torch.randn(4000) * 2.0 ** torch.randint(smallest, 13, (4000,))
    values[:6] = torch.tensor([0.0, -0.0, 2.0**-24, 2.0**-14, 60000.5, -65503.0])
    chance = torch.randint(0, 65536, (4000,))
    rounded = rounded_by_chance(values, chance, dtype)
    for value, drawn, got in zip(values.tolist(), chance.tolist(), rounded.tolist(), strict=True):
        lower, upper = _neighbours(abs(value), dtype)
        # 16 bits decide: what lies below a part of 65536 between the neighbours never carries
        place = int(Fraction(abs(value) - lower) / Fraction(upper - lower) * 65536)
        assert abs(got) == (upper if place + drawn >= 65536 else lower), value
    assert torch.equal(rounded.signbit(), values.signbit())


def _neighbours(value: float, dtype: torch.dtype) -> tuple[float, float]:
    """The largest number of a dtype that is at most a value, and the one after it."""
    nearest = torch.tensor(value).to(dtype)
    lower = nearest.view(torch.int16) - (nearest.double() > value).to(torch.int16)
    pair = torch.stack([lower, lower + 1]).view(dtype).double().tolist()
    return pair[0], pair[1]


@every_dtype
def test_infinities_and_nan_stay_what_they_are(dtype: torch.dtype) -> None:
    """And what is beyond the largest number becomes that or infinity."""
    values = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e38, 65519.0])
    for drawn in (0, 65535):
        got = rounded_by_chance(values, torch.full((5,), drawn), dtype).tolist()
        assert got[:2] == [torch.inf, -torch.inf]
        assert got[2] != got[2]
        assert (got[3] == torch.inf) == (dtype == torch.float16)
        assert dtype == torch.bfloat16 or got[4] == (65504.0 if drawn == 0 else torch.inf)


# -- backends ------------------------------------------------------------------------------------------------


@pytest.mark.thin
@every_dtype
def test_backends_draw_and_round_alike(dtype: torch.dtype, backend: Backend) -> None:
    twins = ChanceTwins(backend, dtype)
    for _ in range(2):
        twins.set_grads()
        twins.step()
        twins.assert_same()


@pytest.mark.thin
@pytest.mark.parametrize("layout", ["transposed", "with gaps", "channels last"])
def test_parameters_that_lie_anyhow(layout: str, backend: Backend) -> None:
    """An element draws by its place in memory; where kernels cannot walk that, by its place in a copy."""
    make: Any = {
        "transposed": lambda t: t.t().contiguous().t(),
        "with gaps": lambda t: torch.nn.functional.pad(t, (0, 3))[:, :-3],
        "channels last": lambda t: t.view(5, 3, 7, 2).contiguous(memory_format=torch.channels_last),
    }[layout]
    values, gradient = torch.randn(15, 14).bfloat16(), torch.randn(15, 14).bfloat16() * 0.01
    ends = []
    for where in (backend, "reference"):
        p = torch.nn.Parameter(make(values))
        optimizer = SGD([p], lr=1.0, stochastic_rounding=True, rounding_seed=5, backend=where)
        for _ in range(2):
            p.grad = gradient.view(p.shape).clone()
            optimizer.step()
        ends.append(bits_of(p))
    assert torch.equal(*ends)


@every_rule
@every_dtype
def test_every_rule_lands_beside_its_float32_value(name: str, case: str, dtype: torch.dtype, backend: Backend) -> None:
    """At one of the two neighbours of what a master would have."""
    values, gradient = torch.randn(300).to(dtype), torch.randn(300).to(dtype)
    options = {**OPTIONS[name][case], "backend": backend}
    p, q = (torch.nn.Parameter(values.clone()) for _ in range(2))
    chance = CLASSES[name]([p], stochastic_rounding=True, **options)
    exact = CLASSES[name]([q], master_weights="float32", **options)
    p.grad, q.grad = gradient.clone(), gradient.clone()
    chance.step()
    exact.step()
    distance = (bits_of(p).to(torch.int32) - bits_of(q).to(torch.int32)).abs()
    assert int(distance.max()) <= 1
    assert int((distance > 0).sum()) > 0


@pytest.mark.thin
@every_dtype
def test_a_tenth_of_a_unit_moves_a_tenth_of_the_elements(dtype: torch.dtype, backend: Backend) -> None:
    unit = torch.finfo(dtype).eps
    p = torch.nn.Parameter(torch.ones(10_000, dtype=dtype))
    optimizer = SGD([p], lr=0.1, maximize=True, stochastic_rounding=True, backend=backend)
    p.grad = torch.full_like(p, unit)
    optimizer.step()
    moved = p.detach() != 1
    assert 850 <= int(moved.sum()) <= 1150
    assert bool((p.detach()[moved] == 1 + unit).all())


@every_rule
def test_far_smaller_updates_than_a_unit_arrive_on_average(name: str, case: str, backend: Backend) -> None:
    """Without chance such a run stands still."""
    ends = []
    for chance in (False, True):
        p = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
        options: Any = {**OPTIONS[name][case], "lr": 1e-4, "weight_decay": 0}
        optimizer = CLASSES[name]([p], stochastic_rounding=chance, backend=backend, **options)
        for _ in range(8):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends.append(p.detach().float())
    assert torch.equal(ends[0], torch.ones(4000))
    assert float(ends[1].mean()) < 1.0


def test_updates_are_counted_and_what_was_skipped_is_not(backend: Backend) -> None:
    p = torch.nn.Parameter(torch.ones(20, dtype=torch.bfloat16))
    optimizer = SGD([p], lr=1.0, stochastic_rounding=True, skip_nonfinite=True, backend=backend)
    for gradient in (1.0, torch.nan, 1.0):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    assert optimizer.state_dict()["fused_sched"]["rounding_updates"] == 2


def test_wider_parameters_are_not_rounded(backend: Backend) -> None:
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    for one, options in ((p, {"stochastic_rounding": True}), (q, {})):
        one.grad = torch.full_like(one, 0.1)
        SGD([one], lr=0.1, backend=backend, **options).step()
    assert torch.equal(p, q)


# -- what draws depend on --------------------------------------------------------------------------------------


def run(optimizer: Any, params: list[torch.nn.Parameter], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 0.003 * (1 + i + step))
        optimizer.step()


def some(n: int = 2) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(50, dtype=torch.bfloat16)) for _ in range(n)]


@pytest.mark.parametrize("way", ["state dict", "pickle", "deepcopy", "torch's class between"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_run_that_goes_on_draws_on(name: str, way: str, backend: Backend) -> None:
    if way in ("pickle", "deepcopy") and not isinstance(backend, str):
        pytest.skip("is pickled by name")
    options: Any = {"lr": 0.01, "stochastic_rounding": True, "backend": backend}
    whole = some()
    run(CLASSES[name](whole, rounding_seed=3, **options), whole, 6)
    params = some()
    optimizer = CLASSES[name](params, rounding_seed=3, **options)
    run(optimizer, params, 3)
    if way == "pickle":
        optimizer = pickle.loads(pickle.dumps(optimizer))
        params = optimizer.param_groups[0]["params"]
    elif way == "deepcopy":
        optimizer = copy.deepcopy(optimizer)
        params = optimizer.param_groups[0]["params"]
    else:
        saved = copy.deepcopy(optimizer.state_dict())
        if way == "torch's class between":
            between = getattr(torch.optim, name)(params, lr=0.01)
            between.load_state_dict(saved)
            saved = {**between.state_dict(), "fused_sched": saved["fused_sched"]}
        optimizer = CLASSES[name](params, rounding_seed=99, **options)
        optimizer.load_state_dict(saved)
    run(optimizer, params, 3, first=3)
    for p, q in zip(params, whole, strict=True):
        assert torch.equal(bits_of(p), bits_of(q))


@pytest.mark.parametrize("skipped_by", ["NaN", "GradScaler", "flag"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_parameter_whose_updates_were_all_skipped_draws_on(name: str, skipped_by: str, backend: Backend) -> None:
    """Its number is in the state dict, with a state that torch's class takes for one that begins."""
    options: Any = {"lr": 0.01, "stochastic_rounding": True, "rounding_seed": 3, "backend": backend}
    options |= {"skip_nonfinite": skipped_by == "NaN"}

    def skipped(optimizer: Any, p: torch.nn.Parameter) -> None:
        p.grad = torch.full_like(p, math.nan if skipped_by == "NaN" else 1.0)
        if skipped_by == "GradScaler":
            optimizer.found_inf = torch.ones(1)
        elif skipped_by == "flag":
            optimizer.stop_when(torch.ones((), dtype=torch.bool))
        optimizer.step()
        if skipped_by == "GradScaler":
            del optimizer.found_inf
        elif skipped_by == "flag":
            optimizer.stop_when(None)

    params = some()
    optimizer = CLASSES[name](params, **options)
    skipped(optimizer, params[1])  # so it has the first stream
    saved = copy.deepcopy(optimizer.state_dict())
    if name != "SGD":
        torchs = getattr(torch.optim, name)(some(), lr=0.01)
        torchs.load_state_dict(copy.deepcopy(saved))
        run(torchs, torchs.param_groups[0]["params"], 1)
    others = some()
    loaded = CLASSES[name](others, **options)
    loaded.load_state_dict(saved)
    run(optimizer, params, 3)
    run(loaded, others, 3)
    assert [optimizer.state[p]["rounding_stream"] for p in params] == [1, 0]
    assert [loaded.state[p]["rounding_stream"] for p in others] == [1, 0]
    for p, q in zip(params, others, strict=True):
        assert torch.equal(bits_of(p), bits_of(q))


def test_no_position_matters(backend: Backend) -> None:
    """A parameter draws the same wherever in the groups it is, and whoever else is there."""
    alone, moved = some(3), some(3)
    gradients = [torch.full_like(alone[0], 0.003 * (1 + i)) for i in range(3)]
    optimizers = [SGD(params, lr=0.01, stochastic_rounding=True, rounding_seed=1, backend=backend)
                  for params in (alone, moved)]  # fmt: skip
    for step in range(4):
        if step == 2:
            optimizers[1].param_groups[0]["params"] = [moved[2], moved[0]]
        for params, optimizer in zip((alone, moved), optimizers, strict=True):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g.clone()
            optimizer.step()
    for i in (0, 2):
        assert torch.equal(bits_of(alone[i]), bits_of(moved[i]))


def test_seeds_streams_and_updates_draw_differently(backend: Backend) -> None:
    ends = []
    for seed in (1, 2):
        params = some()
        optimizer = SGD(params, lr=1.0, stochastic_rounding=True, rounding_seed=seed, backend=backend)
        for _ in range(2):
            for p in params:
                p.data.fill_(1.0)
                p.grad = torch.full_like(p, 2.0**-9)
            optimizer.step()
            ends += [bits_of(p).clone() for p in params]
    assert not any(torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])
    assert [optimizer.state[p]["rounding_stream"] for p in params] == [0, 1]


def test_without_a_seed_it_is_torchs(backend: Backend) -> None:
    ends = []
    for seed in (11, 11, 12):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        params = some(1)
        run(SGD(params, lr=0.01, stochastic_rounding=True, backend=backend), params, 3)
        assert torch.equal(torch.get_rng_state(), before)  # of which nothing is taken
        ends.append(bits_of(params[0]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"stochastic_rounding": 1}, TypeError, "stochastic_rounding=1 must be True or False"),
        ({"stochastic_rounding": True, "rounding_seed": 0.5}, TypeError, "rounding_seed=0.5 must be a whole number"),
        ({"stochastic_rounding": True, "rounding_seed": 2**63}, ValueError, "rounding_seed=9223372036854775808 must"),
        ({"rounding_seed": 4}, ValueError, "rounding_seed=4 is of no use without stochastic_rounding=True"),
        ({"stochastic_rounding": True, "master_weights": "float32"}, ValueError, "choose one of them"),
    ],
)
def test_what_it_is_not_made_with(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        SGD(some(1), lr=0.1, **options)


@pytest.mark.parametrize(
    ("stream", "error"), [("a", TypeError), (True, TypeError), (-1, ValueError), (2**32, ValueError)]
)
def test_streams_that_are_none(stream: Any, error: type[Exception], backend: Backend) -> None:
    """Assigned or loaded, nothing is changed."""
    params = some(1)
    optimizer = SGD(params, lr=0.1, momentum=0.9, stochastic_rounding=True, backend=backend)
    run(optimizer, params, 1)
    saved = optimizer.state_dict()
    before = bits_of(params[0]).clone()
    saved["state"][0]["rounding_stream"] = stream
    with pytest.raises(error, match=f"rounding_stream' is {stream!r}"):
        optimizer.load_state_dict(saved)
    run(optimizer, params, 0)
    optimizer.state[params[0]]["rounding_stream"] = stream
    with pytest.raises(error, match="rounding_stream"):
        run(optimizer, params, 1)
    assert torch.equal(bits_of(params[0]), before)


def test_sparse_gradients_are_refused(backend: Backend) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True, dtype=torch.bfloat16)
    optimizer = SGD(embedding.parameters(), lr=1.0, stochastic_rounding=True, backend=backend)
    embedding(torch.tensor([1])).float().sum().backward()
    with pytest.raises(RuntimeError, match="stochastic_rounding=True with a sparse gradient"):
        optimizer.step()


@pytest.mark.parametrize("name", ["rounding_seed", "rounding_updates"])
def test_counts_that_are_none(name: str, backend: Backend) -> None:
    params = some(1)
    optimizer = SGD(params, lr=0.1, stochastic_rounding=True, backend=backend)
    run(optimizer, params, 1)
    saved = optimizer.state_dict()
    saved["fused_sched"][name] = "three"
    with pytest.raises(ValueError, match=f"{name}.*'three'"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize(
    ("there", "missing"), [("rounding_seed", "rounding_updates"), ("rounding_updates", "rounding_seed")]
)
def test_a_seed_and_its_updates_go_together(there: str, missing: str, backend: Backend) -> None:
    params = some(1)
    optimizer = SGD(params, lr=0.1, stochastic_rounding=True, backend=backend)
    run(optimizer, params, 1)
    saved = optimizer.state_dict()
    del saved["fused_sched"][missing]
    with pytest.raises(ValueError, match=f"'{there}' without '{missing}', and random bits depend on both"):
        optimizer.load_state_dict(saved)
