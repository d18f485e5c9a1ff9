"""Hugging Face's schedules: transformers itself beside ours, with random arguments, to the bit."""

from __future__ import annotations

import enum
import functools
import inspect
import math
import random
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import transformers.optimization as hugging_face
from schedule_twins import random_lrs, same_bits
from transformers import SchedulerType

import fused_sched
from fused_sched import schedules
from fused_sched.lr_scheduler import LambdaLR, recipes

CONSTRUCTORS = [name for name in recipes.__all__ if name != "get_scheduler"]
BY_HAND = {name: name for name in CONSTRUCTORS if name != "get_reduce_on_plateau_schedule"}
NAMES = [str(name.value) for name in hugging_face.TYPE_TO_SCHEDULER_FUNCTION]
# by a metric: not functions of the step
METRIC = {"reduce_lr_on_plateau", "greedy"}
STEPS = 2_000
ROUNDS = 4


def _optimizers(rng: random.Random, kind: str = "SGD") -> tuple[Any, Any]:
    """Ours and torch's with the same param groups; the lr of a group is not the optimizer's."""
    default, *lrs = random_lrs(rng, 1 + rng.randint(1, 3))
    made = []
    for module in (fused_sched.optim, torch.optim):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in lrs]
        optimizer = getattr(module, kind)(groups, lr=default)
        optimizer._opt_called = True  # the schedulers are driven alone
        made.append(optimizer)
    return made[0], made[1]


def _lrs(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _assert_alike(ours: Any, theirs: Any, steps: int, what: str) -> None:
    """Drive both; every lr has the same bits, and what one raises at some step the other raises there."""
    for step in range(steps):
        for group, (a, b) in enumerate(zip(_lrs(ours.optimizer), _lrs(theirs.optimizer), strict=True)):
            assert same_bits(a, b), f"{what}: step {step}, group {group}: {a!r}, transformers has {b!r}"
        failures = []
        for scheduler in (theirs, ours):
            try:
                scheduler.step()
            except (ArithmeticError, ValueError) as error:
                failures.append(type(error))
        if failures:
            assert len(failures) == 2, f"{what}: step {step}: only one of two raises {failures}"
            assert failures[0] is failures[1]
            return


def _steps(rng: random.Random, most: int) -> int:
    return rng.choice([0, 1, 2, rng.randint(0, most)])


def _arguments(name: str, lr: float, rng: random.Random) -> dict[str, Any]:
    """Random arguments of a constructor; ``lr`` is the optimizer's."""
    parameters = inspect.signature(getattr(hugging_face, name)).parameters
    made: dict[str, Any] = {}
    if "num_warmup_steps" in parameters:
        made["num_warmup_steps"] = _steps(rng, 300)
    if "num_training_steps" in parameters and "num_decay_steps" not in parameters:
        # less than the warm-up too, and less than the steps that are run
        made["num_training_steps"] = rng.choice([made["num_warmup_steps"] + rng.randint(1, STEPS), _steps(rng, 300)])
    if "power" in parameters and made["num_training_steps"] == made["num_warmup_steps"]:
        made["num_training_steps"] += 1  # else a division by zero, in both: see the factors' test
    if "num_decay_steps" in parameters:
        made["num_decay_steps"] = _steps(rng, 700)
        key, most = rng.choice([("num_stable_steps", 700), ("num_training_steps", STEPS)])
        made[key] = rng.randint(0, most)
    choices = {
        "num_cycles": lambda: rng.choice([1, 3, rng.uniform(0, 5)]),
        "lr_end": lambda: rng.choice([0.0, 1e-9, lr * rng.uniform(0, 0.9)]),
        "power": lambda: rng.choice([1.0, 2, rng.uniform(0.1, 4)]),
        "timescale": lambda: rng.choice([None, rng.randint(1, 5000)]),
        "warmup_type": lambda: rng.choice(["linear", "cosine", "1-sqrt"]),
        "decay_type": lambda: rng.choice(["linear", "cosine", "1-sqrt"]),
        "min_lr_ratio": lambda: rng.choice([0, rng.uniform(0, 1)]),
        "warmup_lr_rate": lambda: rng.choice([None, 0, rng.uniform(0, 1)]),
    }
    for key, choose in choices.items():
        if key in parameters and rng.random() < 0.7:
            made[key] = choose()
    if "min_lr" in parameters:
        made |= rng.choice([{"min_lr": lr * rng.uniform(0, 1)}, {"min_lr_rate": rng.uniform(0, 1)}, {"min_lr": 0}])
    return made


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_constructor_gives_the_bits_of_transformers(name: str, rng: random.Random) -> None:
    for _ in range(ROUNDS):
        ours, theirs = _optimizers(rng)
        arguments = _arguments(name, theirs.defaults["lr"], rng)
        made = getattr(recipes, name)(ours, **arguments)
        assert type(made) is LambdaLR
        _assert_alike(made, getattr(hugging_face, name)(theirs, **arguments), STEPS, f"{name}({arguments})")


@pytest.mark.parametrize("name", sorted(set(NAMES) - METRIC))
@pytest.mark.parametrize("form", ["text", "member", "enum of one's own"])
def test_get_scheduler_gives_the_bits_of_transformers(name: str, form: str, rng: random.Random) -> None:
    member = SchedulerType(name)
    given: Any = {
        "text": name,
        "member": member,
        "enum of one's own": enum.Enum("Mine", {"THIS": name}, type=str)(name),
    }[form]
    constructor = hugging_face.TYPE_TO_SCHEDULER_FUNCTION[member].__name__
    ours, theirs = _optimizers(rng)
    arguments = _arguments(constructor, theirs.defaults["lr"], rng)
    steps = {key: arguments.pop(key, None) for key in ("num_warmup_steps", "num_training_steps")}
    made = recipes.get_scheduler(given, ours, **steps, scheduler_specific_kwargs=arguments)
    expected = hugging_face.get_scheduler(member, theirs, **steps, scheduler_specific_kwargs=arguments)
    _assert_alike(made, expected, 400, f"{name}, {steps}, {arguments}")


def test_every_name_of_transformers_is_made_or_refused_with_a_reason(rng: random.Random) -> None:
    ours, _ = _optimizers(rng)
    steps: dict[str, Any] = {"num_warmup_steps": 3, "num_training_steps": 9}
    specific = {
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 2},
        "polynomial": {"lr_end": 0.0},
    }
    for name in NAMES:
        if name == "greedy":
            with pytest.raises(ValueError, match=r"'greedy'.*metric.*use 'reduce_lr_on_plateau'"):
                recipes.get_scheduler(name, ours, **steps)
            continue
        made = recipes.get_scheduler(name, ours, **steps, scheduler_specific_kwargs=specific.get(name))
        assert isinstance(made, torch.optim.lr_scheduler.LRScheduler), name


def test_plateau_is_ours_and_gets_its_arguments(rng: random.Random) -> None:
    made_by = (
        lambda o: recipes.get_reduce_on_plateau_schedule(o, patience=2, factor=0.5),
        lambda o: recipes.get_scheduler(
            "reduce_lr_on_plateau", o, scheduler_specific_kwargs={"patience": 2, "factor": 0.5}
        ),
    )
    for make in made_by:
        ours, theirs = _optimizers(rng)
        before = _lrs(ours)
        made = make(ours)
        assert type(made) is fused_sched.lr_scheduler.ReduceLROnPlateau
        expected = hugging_face.get_reduce_on_plateau_schedule(theirs, patience=2, factor=0.5)
        for _ in range(40):
            metric = rng.random()
            made.step(metric)
            expected.step(metric)
            assert _lrs(ours) == _lrs(theirs)
        assert all(now < then for now, then in zip(_lrs(ours), before, strict=True))


@pytest.mark.parametrize("keyword", ["fused", "skip_with_optimizer"])
def test_plateau_refuses_the_keywords_that_it_cannot_have(keyword: str, rng: random.Random) -> None:
    ours, _ = _optimizers(rng)
    keywords: dict[str, Any] = {keyword: True}
    with pytest.raises(ValueError, match=f"{keyword}=True.*metric.*leave"):
        recipes.get_scheduler("reduce_lr_on_plateau", ours, **keywords)


# -- calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.__all__)
def test_parameters_begin_with_those_of_transformers(name: str) -> None:
    ours = list(inspect.signature(getattr(recipes, name)).parameters.values())
    theirs = list(inspect.signature(getattr(hugging_face, name)).parameters.values())
    new = [p for p in ours if p.name in ("fused", "skip_with_optimizer")]
    assert [p.kind for p in new] == [inspect.Parameter.KEYWORD_ONLY] * 2
    assert [p.default for p in new] == [False, False]
    rest = [p for p in ours if p not in new]
    assert [(p.name, p.kind, p.default) for p in rest] == [(p.name, p.kind, p.default) for p in theirs]


def test_every_schedule_function_of_transformers_has_a_counterpart() -> None:
    there = {f.__name__ for f in hugging_face.TYPE_TO_SCHEDULER_FUNCTION.values()} | {"get_scheduler"}
    assert there - {"get_greedy_schedule"} == set(recipes.__all__)


def test_positional_arguments_mean_the_same(rng: random.Random) -> None:
    calls = {
        "get_constant_schedule": (),
        "get_constant_schedule_with_warmup": (rng.randint(1, 20),),
        "get_linear_schedule_with_warmup": (5, rng.randint(6, 50)),
        "get_cosine_schedule_with_warmup": (5, 40, rng.uniform(0, 3)),
        "get_cosine_with_hard_restarts_schedule_with_warmup": (5, 40, rng.randint(1, 5)),
        "get_polynomial_decay_schedule_with_warmup": (5, 40, 1e-9, rng.uniform(0.5, 3)),
        "get_inverse_sqrt_schedule": (5, rng.randint(1, 50)),
        "get_cosine_with_min_lr_schedule_with_warmup": (5, 40, 0.7, -1, None, rng.random()),
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": (5, 40, 0.7, -1, None, rng.random(), rng.random()),
        "get_wsd_schedule": (5, 10, 40, None, "1-sqrt", "linear", rng.random(), 0.5),
    }
    assert calls.keys() == BY_HAND.keys()
    for name, arguments in calls.items():
        ours, theirs = _optimizers(rng, "AdamW")
        made = getattr(recipes, name)(ours, *arguments)
        _assert_alike(made, getattr(hugging_face, name)(theirs, *arguments), 60, name)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_resumes_as_transformers_does(name: str, rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    arguments = _arguments(name, theirs.defaults["lr"], rng)
    for optimizer in (ours, theirs):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    last_epoch = rng.randint(0, 500)
    made = getattr(recipes, name)(ours, **arguments, last_epoch=last_epoch)
    assert made.last_epoch == last_epoch + 1
    _assert_alike(made, getattr(hugging_face, name)(theirs, **arguments, last_epoch=last_epoch), 50, f"{arguments}")


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_state_loads_into_transformers_and_back(name: str, rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    arguments = _arguments(name, theirs.defaults["lr"], rng)
    made = getattr(recipes, name)(ours, **arguments)
    expected = getattr(hugging_face, name)(theirs, **arguments)
    for _ in range(rng.randint(1, 30)):
        made.step()
        expected.step()
    state = made.state_dict()
    made.load_state_dict(expected.state_dict())
    expected.load_state_dict(state)
    _assert_alike(made, expected, 30, f"{arguments}")


@pytest.mark.parametrize("keyword", ["fused", "skip_with_optimizer"])
@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_new_keywords_reach_the_scheduler(name: str, keyword: str, rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    arguments = _arguments(name, theirs.defaults["lr"], rng)
    keywords: dict[str, Any] = {keyword: True}
    made = getattr(recipes, name)(ours, **arguments, **keywords)
    assert (made._fused, made._skip_with_optimizer) == (keyword == "fused", keyword == "skip_with_optimizer")


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_recipe_is_a_program_that_calls_no_python(name: str, rng: random.Random) -> None:
    for _ in range(3):
        ours, theirs = _optimizers(rng)
        made = getattr(recipes, name)(ours, **_arguments(name, theirs.defaults["lr"], rng))
        assert "part of the program" in made.explain()


def test_fused_recipe_advances_inside_the_update(rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    made = recipes.get_scheduler("cosine", ours, 10, 80, fused=True)
    expected = hugging_face.get_scheduler("cosine", theirs, 10, 80)
    for step in range(100):
        assert _lrs(ours) == _lrs(theirs), step
        ours.step()
        made.step()
        theirs.step()
        expected.step()


# -- errors ---------------------------------------------------------------------------------------------------

BAD_CALLS = [
    ("get_scheduler", ("nonsense",), {}, "'nonsense' is not a schedule: choose one of linear"),
    ("get_scheduler", (None,), {}, "None is not a schedule"),
    ("get_scheduler", (7,), {}, "7 is not a schedule"),
    ("get_scheduler", ("linear",), {}, "num_warmup_steps=None.*'linear'.*give"),
    ("get_scheduler", ("constant_with_warmup",), {}, "num_warmup_steps=None"),
    ("get_scheduler", ("warmup_stable_decay",), {"num_training_steps": 9}, "num_warmup_steps=None"),
    ("get_scheduler", ("cosine",), {"num_warmup_steps": 3}, "num_training_steps=None.*'cosine'"),
    ("get_scheduler", ("cosine_with_min_lr",), {"num_warmup_steps": 3, "num_training_steps": 9}, "both None.*give one"),
    ("get_polynomial_decay_schedule_with_warmup", (), {"num_warmup_steps": 3, "num_training_steps": 9, "lr_end": 50.0},
     "lr_end=50.0 must be below the optimizer's lr"),
    ("get_polynomial_decay_schedule_with_warmup", (),
     {"num_warmup_steps": 3, "num_training_steps": 9, "lr_end": math.nan}, "lr_end=nan"),
    ("get_cosine_with_min_lr_schedule_with_warmup", (),
     {"num_warmup_steps": 3, "num_training_steps": 9, "min_lr": 1e-3, "min_lr_rate": 0.1}, "give one of them"),
    ("get_cosine_with_min_lr_schedule_with_warmup_lr_rate", (), {"num_warmup_steps": 3, "num_training_steps": 9},
     "both None"),
    ("get_wsd_schedule", (), {"num_warmup_steps": 3, "num_decay_steps": 9}, "both None"),
    ("get_wsd_schedule", (), {"num_warmup_steps": 3, "num_decay_steps": 9, "num_stable_steps": 2, "warmup_type": "up"},
     "warmup_type='up' is unknown: choose one of 'linear', 'cosine', '1-sqrt'"),
    ("get_wsd_schedule", (), {"num_warmup_steps": 3, "num_decay_steps": 9, "num_stable_steps": 2, "decay_type": None},
     "decay_type=None is unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "kwargs", "message"), BAD_CALLS)
def test_bad_values_raise_in_both(
    function: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str, rng: random.Random
) -> None:
    ours, theirs = _optimizers(rng)
    with pytest.raises(ValueError):
        getattr(hugging_face, function)(*args, theirs, **kwargs)
    with pytest.raises(ValueError, match=message):
        getattr(recipes, function)(*args, ours, **kwargs)
    assert _lrs(ours) == _lrs(theirs)  # nothing was changed on the way


@pytest.mark.parametrize(
    ("name", "specific"),
    [
        ("linear", {"num_cycles": 2}),
        ("cosine", {"nonsense": 1}),
        ("cosine", {"num_warmup_steps": 1}),
        ("inverse_sqrt", {"power": 1}),
        ("warmup_stable_decay", {}),
    ],
)
def test_arguments_of_another_schedule_raise_in_both(name: str, specific: dict[str, Any], rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    for module, optimizer in ((hugging_face, theirs), (recipes, ours)):
        with pytest.raises(TypeError):
            module.get_scheduler(name, optimizer, 3, 9, specific)


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup"])
def test_specific_arguments_are_ignored_where_transformers_ignores_them(name: str, rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    specific = {"num_cycles": 2}
    made = recipes.get_scheduler(name, ours, 5, 9, specific)
    _assert_alike(made, hugging_face.get_scheduler(name, theirs, 5, 9, specific), 12, name)
    assert specific == {"num_cycles": 2}


def test_both_lengths_of_wsd_warn_at_the_callers_line(rng: random.Random) -> None:
    ours, theirs = _optimizers(rng)
    lengths = {"num_decay_steps": 4, "num_stable_steps": 6}
    with pytest.warns(UserWarning, match="Both"):
        expected = hugging_face.get_scheduler("warmup_stable_decay", theirs, 3, 90, lengths)
    with pytest.warns(UserWarning, match="num_training_steps=90 has no effect") as caught:
        made = recipes.get_scheduler("warmup_stable_decay", ours, 3, 90, lengths)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="num_training_steps=90 has no effect") as caught:
        recipes.get_wsd_schedule(ours, 3, num_training_steps=90, **lengths)
    assert caught[0].filename == __file__
    _assert_alike(made, expected, 20, "both lengths")


def test_torchs_optimizer_is_driven_as_by_torch(rng: random.Random) -> None:
    _, theirs = _optimizers(rng)
    scheduler = recipes.get_scheduler("linear", theirs, 3, 9)
    assert "only Python can set it" in scheduler.explain()
    before = [g["initial_lr"] for g in theirs.param_groups]
    theirs._opt_called = True
    scheduler.step()
    assert [g["lr"] for g in theirs.param_groups] == [lr * (1 / 3) for lr in before]


# -- the factors ----------------------------------------------------------------------------------------------

FACTORS = {
    "constant": "_get_constant_lambda",
    "constant_with_warmup": "_get_constant_schedule_with_warmup_lr_lambda",
    "linear": "_get_linear_schedule_with_warmup_lr_lambda",
    "cosine": "_get_cosine_schedule_with_warmup_lr_lambda",
    "cosine_with_restarts": "_get_cosine_with_hard_restarts_schedule_with_warmup_lr_lambda",
    "polynomial": "_get_polynomial_decay_schedule_with_warmup_lr_lambda",
    "inverse_sqrt": "_get_inverse_sqrt_schedule_lr_lambda",
    "cosine_with_min_lr": "_get_cosine_schedule_with_warmup_lr_lambda",
    "cosine_warmup_with_min_lr": "_get_cosine_with_min_lr_schedule_with_warmup_lr_rate_lambda",
    "warmup_stable_decay": "_get_wsd_scheduler_lambda",
}


def test_there_is_a_factor_for_every_name_that_is_a_function_of_the_step() -> None:
    assert FACTORS.keys() == set(NAMES) - METRIC


def _factor_arguments(name: str, rng: random.Random) -> dict[str, Any]:
    known = {
        "num_warmup_steps": lambda: rng.choice([0, 1, rng.randint(0, 10**6), rng.uniform(0, 100)]),
        "num_training_steps": lambda: rng.choice([0, 1, rng.randint(0, 10**7), rng.randint(0, 1000)]),
        "num_stable_steps": lambda: rng.choice([0, rng.randint(0, 10**6)]),
        "num_decay_steps": lambda: rng.choice([0, rng.randint(0, 10**6)]),
        "num_cycles": lambda: rng.choice([0.5, 1, rng.uniform(-2, 20)]),
        "lr_init": lambda: rng.uniform(1e-6, 2),
        "lr_end": lambda: rng.uniform(0, 1e-6),
        "power": lambda: rng.choice([1.0, 3, rng.uniform(0.1, 5)]),
        "timescale": lambda: rng.randint(1, 10**6),
        "min_lr_rate": lambda: rng.choice([0, rng.uniform(-1, 1)]),
        "warmup_lr_rate": lambda: rng.choice([None, rng.uniform(0, 1)]),
        "warmup_type": lambda: rng.choice(["linear", "cosine", "1-sqrt"]),
        "decay_type": lambda: rng.choice(["linear", "cosine", "1-sqrt"]),
        "min_lr_ratio": lambda: rng.choice([0, rng.uniform(-1, 1)]),
    }
    parameters = list(inspect.signature(getattr(schedules, name)).parameters)[1:]
    return {parameter: known[parameter]() for parameter in parameters}


@pytest.mark.parametrize("name", sorted(FACTORS))
def test_factor_has_the_bits_of_transformers_over_large_ranges(name: str, rng: random.Random) -> None:
    for _ in range(60):
        arguments = _factor_arguments(name, rng)
        ours = functools.partial(getattr(schedules, name), **arguments)
        theirs = functools.partial(getattr(hugging_face, FACTORS[name]), **arguments)
        edges = [int(v) + d for k, v in arguments.items() if "steps" in k or k == "timescale" for d in (-1, 0, 1)]
        edges += [0, 1, int(sum(v for k, v in arguments.items() if "steps" in k))]
        for step in [*filter(lambda s: s >= 0, edges), *(rng.randint(0, 10**7) for _ in range(60))]:
            results: list[Any] = []
            for factor in (theirs, ours):
                try:
                    results.append(factor(step))
                except (ArithmeticError, ValueError) as error:
                    results.append(type(error))
            if isinstance(results[0], type):
                assert results[0] is results[1], (arguments, step)
            else:
                assert same_bits(*results), (arguments, step, results)


def test_import_takes_no_transformers() -> None:
    code = "import sys, fused_sched.lr_scheduler.recipes; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_recipe_warns(rng: random.Random) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in BY_HAND:
            ours, _ = _optimizers(rng)
            getattr(recipes, name)(ours, **_arguments(name, ours.defaults["lr"], rng)).step()
