"""``python -m fused_sched``: what it shows, which schedules it draws, and that texts are read and never run."""

from __future__ import annotations

import functools
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fused_sched import __main__ as command_line
from fused_sched import __version__, backends, lr_scheduler, plotting, schedules
from fused_sched.__main__ import MAX_DEPTH, MAX_TEXT, Call, UsageError, main, make_scheduler, parse_call
from fused_sched.lr_scheduler import recipes

FUNCTIONS = ("FeedbackLR", "LambdaLR", "MultiplicativeLR", "ParamScheduler")
METRICS = ("KLAdaptiveLR", "ReduceLROnPlateau", "get_reduce_on_plateau_schedule")


def _drawn(text: str, steps: int, monkeypatch: pytest.MonkeyPatch, capsys: Any, *options: str) -> dict[str, Any]:
    """What the command draws for ``text``, by the name of its panel."""
    seen: list[Any] = []
    monkeypatch.setattr(plotting, "draw_panels", lambda panels, path, title: seen.append(panels))
    status = main(["plot", text, "--steps", str(steps), *options])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return {name: next(iter(curves.values())) for name, curves in seen[0].items()}


def _refused(text: str, capsys: Any, *options: str) -> str:
    """The one line that the command shows for what it does not draw."""
    assert main(["plot", text, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 500
    return str(captured.err)


# -- without a command -------------------------------------------------------------------------------------------


def test_description_names_versions_backends_and_variables(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_SCHED_CPU_CAPABILITY", "portable")
    monkeypatch.delenv("FUSED_SCHED_BUILD_CPU", raising=False)
    assert main([]) == 0
    text = capsys.readouterr().out
    assert __version__ in text
    for name in backends.NAMES:
        reason = backends.reason_unavailable(name)
        assert f"{name:<16}{'available' if reason is None else 'not available: '}" in text
    assert "FUSED_SCHED_CPU_CAPABILITY=portable" in text
    assert "FUSED_SCHED_BUILD_CPU (not set)" in text
    assert "cpu tensors use" in text


def test_description_survives_a_backend_that_cannot_run(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_SCHED_BACKEND", "nonsense")
    assert main([]) == 0
    assert "cpu tensors use none: " in capsys.readouterr().out


# -- what is drawn -----------------------------------------------------------------------------------------------


def test_writes_a_picture_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    text = "SequentialLR([LinearLR(start_factor=0.1, total_iters=10), CosineAnnealingLR(T_max=90)], milestones=[10])"
    command = [sys.executable, "-m", "fused_sched", "plot", text, "--steps", "100", "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: 100 steps of SequentialLR, lr 0.01 to {0.1 * _cosine(89, 90):g}\n"
    assert path.read_bytes().startswith(b"<?xml")


def _cosine(step: int, length: int) -> float:
    return schedules.cosine(step, num_warmup_steps=0, num_training_steps=length)


SAME: list[tuple[str, Callable[[Any], Any]]] = [
    ("StepLR(30)", lambda o: lr_scheduler.StepLR(o, 30)),
    (" StepLR ( step_size = 30 , gamma = 1e-1 ) ", lambda o: lr_scheduler.StepLR(o, 30, 0.1)),
    ("MultiStepLR([5, 9], 0.5)", lambda o: lr_scheduler.MultiStepLR(o, [5, 9], 0.5)),
    ("MultiStepLR(milestones=(5, 9))", lambda o: lr_scheduler.MultiStepLR(o, (5, 9))),
    ("StepLR(3, fused=True)", lambda o: lr_scheduler.StepLR(o, 3)),
    ("OneCycleLR(max_lr=1.0, total_steps=200)", lambda o: lr_scheduler.OneCycleLR(o, 1.0, 200)),
    (
        "SequentialLR([LinearLR(start_factor=0.1, total_iters=10), CosineAnnealingLR(T_max=90)], milestones=[10])",
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=10), lr_scheduler.CosineAnnealingLR(o, 90)], [10]
        ),
    ),
    (
        "SequentialLR(schedulers=(ConstantLR(0.5), StepLR(7, 0.5)), milestones=[20], fused=True)",
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.ConstantLR(o, 0.5), lr_scheduler.StepLR(o, 7, 0.5)], [20]),
    ),
    (
        "ChainedScheduler([ExponentialLR(0.99), StepLR(7, 0.5)])",
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(o, 0.99), lr_scheduler.StepLR(o, 7, 0.5)]),
    ),
    (
        "ChainedScheduler(schedulers=[SequentialLR([ChainedScheduler([StepLR(2)]), StepLR(3)], [9]), StepLR(5)])",
        lambda o: lr_scheduler.ChainedScheduler(
            [
                lr_scheduler.SequentialLR(
                    o, [lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(o, 2)]), lr_scheduler.StepLR(o, 3)], [9]
                ),
                lr_scheduler.StepLR(o, 5),
            ]
        ),
    ),
    ("get_scheduler('cosine', num_warmup_steps=10, num_training_steps=90)",
     lambda o: recipes.get_cosine_schedule_with_warmup(o, 10, 90)),
    ("get_scheduler('cosine', 10, 90, {'num_cycles': 2})",
     lambda o: recipes.get_cosine_schedule_with_warmup(o, 10, 90, 2)),
    ("get_scheduler(name='inverse_sqrt', num_warmup_steps=10, fused=True)",
     lambda o: recipes.get_inverse_sqrt_schedule(o, 10)),
    ("get_wsd_schedule(10, 20, num_stable_steps=30, decay_type='1-sqrt')",
     lambda o: recipes.get_wsd_schedule(o, 10, 20, num_stable_steps=30, decay_type="1-sqrt")),
    ("ChainedScheduler([get_linear_schedule_with_warmup(10, 90), StepLR(7)])",
     lambda o: lr_scheduler.ChainedScheduler(
         [recipes.get_linear_schedule_with_warmup(o, 10, 90), lr_scheduler.StepLR(o, 7)])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "make"), SAME, ids=[text for text, _ in SAME])
def test_draws_what_the_code_gives(
    text: str, make: Callable[[Any], Any], rng: random.Random, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lr = rng.uniform(0.01, 1)
    panels = _drawn(text, 100, monkeypatch, capsys, "--lr", repr(lr), "--momentum")
    expected = schedules.curves(make, 100, ("lr", "momentum"), lr=lr)
    assert panels == {"learning rate": expected["lr"], "momentum": expected["momentum"]}
    assert len(set(expected["lr"])) > 2


def test_every_name_is_drawn_or_refused_with_a_reason(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {
        "StepLR": "3", "MultiStepLR": "[3]", "ExponentialLR": "0.9", "CosineAnnealingLR": "9", "SWALR": "0.1",
        "CyclicLR": "0.1, 0.2", "CosineAnnealingWarmRestarts": "9", "OneCycleLR": "0.1, 30",
        "SequentialLR": "[StepLR(3)], []", "ChainedScheduler": "[StepLR(3)]", "get_scheduler": "'constant'",
        "get_constant_schedule": "", "get_wsd_schedule": "3, 4, 20", "get_inverse_sqrt_schedule": "3",
        "get_constant_schedule_with_warmup": "3", "ConstantLR": "", "LinearLR": "", "PolynomialLR": "",
        "get_cosine_with_min_lr_schedule_with_warmup": "3, 9, min_lr_rate=0.1",
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": "3, 9, min_lr_rate=0.1",
    }  # fmt: skip
    names = {*lr_scheduler.__all__, *recipes.__all__} - {"on_device"}
    assert names >= {*FUNCTIONS, *METRICS, *arguments}
    for name in sorted(names):
        if name in FUNCTIONS + METRICS:
            continue
        _drawn(f"{name}({arguments.get(name, '3, 9')})", 20, monkeypatch, capsys)


@pytest.mark.parametrize(
    "pattern", ["{}", "SequentialLR([StepLR(3), {}], [5])", "ChainedScheduler([SequentialLR([{}], [])])"]
)
@pytest.mark.parametrize("name", FUNCTIONS + METRICS)
def test_what_needs_a_function_or_a_metric_is_refused(name: str, pattern: str, capsys: Any) -> None:
    message = _refused(pattern.format(f"{name}(3)"), capsys)
    assert message.startswith(f"error: {name} ")
    assert ("takes a function" if name in FUNCTIONS else "follows a metric") in message


@pytest.mark.parametrize("pattern", ["{}", "SequentialLR([StepLR(3), {}], [5])"])
def test_names_that_lead_to_a_metric_are_refused(pattern: str, capsys: Any) -> None:
    message = _refused(pattern.format("get_scheduler('reduce_lr_on_plateau')"), capsys)
    assert "get_scheduler here makes a ReduceLROnPlateau, which follows a metric" in message
    assert "'greedy' is not supported" in _refused(pattern.format("get_scheduler('greedy')"), capsys)


def test_all_schedulers_get_the_same_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for name in ("StepLR", "ChainedScheduler", "SequentialLR"):
        make = getattr(lr_scheduler, name)

        @functools.wraps(make)
        def note(*args: Any, make: Any = make, **kwargs: Any) -> Any:
            made.append(make(*args, **kwargs))
            return made[-1]

        monkeypatch.setattr(lr_scheduler, name, note)
    text = "SequentialLR([ChainedScheduler([StepLR(1), StepLR(2)]), StepLR(3)], [4])"
    schedules.curves(functools.partial(make_scheduler, parse_call(text)), 1, ())
    assert len(made) == 5
    assert len({id(scheduler.optimizer) for scheduler in made}) == 1


# -- texts -------------------------------------------------------------------------------------------------------


def test_a_text_becomes_names_and_literals(rng: random.Random) -> None:
    a, b = rng.randint(-99, 99), rng.uniform(-1, 1)
    text = f"SequentialLR([StepLR({a}, gamma={b!r}), 7, [ConstantLR(), None]], milestones=[1, 'x', {{'k': (True,)}}])"
    inner = Call("StepLR", [a], {"gamma": b})
    assert parse_call(text) == Call(
        "SequentialLR", [[inner, 7, [Call("ConstantLR", [], {}), None]]], {"milestones": [1, "x", {"k": (True,)}]}
    )


HOSTILE = [
    "",
    "StepLR",
    "StepLR(",
    "3",
    "'StepLR(3)'",
    "StepLR(3); StepLR(4)",
    "StepLR(3)\nStepLR(4)",
    "x = StepLR(3)",
    "StepLR(3).step()",
    "lr_scheduler.StepLR(3)",
    "StepLR(3)(4)",
    "(lambda: StepLR(3))()",
    "[StepLR(3)]",
    "exec('raise SystemExit')",
    "__import__('os').system('touch {mark}')",
    "StepLR(__import__('os').system('touch {mark}'))",
    "StepLR(step_size=open('{mark}', 'w'))",
    "SequentialLR([open('{mark}', 'w')], [])",
    "SequentialLR([StepLR(3), __import__('os').system('touch {mark}')], [4])",
    "SequentialLR([StepLR(open('{mark}', 'w'))], [])",
    "SequentialLR([StepLR(3), [open('{mark}', 'w')]], [4])",
    "SequentialLR([StepLR(3) for _ in open('{mark}', 'w')], [])",
    "SequentialLR([StepLR(3), *[StepLR(3)]], [4])",
    "SequentialLR([lr_scheduler.StepLR(3)], [])",
    "SequentialLR([StepLR], [])",
    "SequentialLR({{StepLR(3)}}, [])",
    "SequentialLR({{'a': StepLR(3)}}, [])",
    "SequentialLR(StepLR(3), [])",
    "SequentialLR([[StepLR(3)]], [])",
    "SequentialLR([StepLR(3), [StepLR(4)]], [4])",
    "SequentialLR([StepLR(3), 4], [4])",
    "SequentialLR([], [])",
    "SequentialLR([StepLR(3)], [4])",
    "SequentialLR([StepLR(3), ChainedScheduler([StepLR(4)])], [5])",
    "SequentialLR([StepLR(3)])",
    "ChainedScheduler([])",
    "ChainedScheduler()",
    "ChainedScheduler(3)",
    "ChainedScheduler([StepLR(3, fused=True)])",
    "ChainedScheduler([StepLR(3)], optimizer=None)",
    "ChainedScheduler([StepLR(3)], None, 1)",
    "StepLR(gamma=StepLR(3))",
    "StepLR(optimizer=3)",
    "StepLR(optimizer=StepLR(3))",
    "StepLR(3, step_size=4)",
    "StepLR(step_size=3, step_size=4)",
    "StepLR(**{{'step_size': 3}})",
    "StepLR(*[3])",
    "StepLR()",
    "StepLR(0)",
    "StepLR(3, nonsense=4)",
    "StepLR(3, last_epoch=5)",
    "StepLR(3 + 4)",
    "StepLR(10**10**10)",
    "StepLR(step_size=f'{{open(1)}}')",
    "StepLR(1 if True else 2)",
    "StepLR(lambda: 3)",
    "StepLR(3, gamma=[1, 2])",
    "StepLR(" + "9" * 4000 + ", gamma=" + "9" * 4000 + ")",
    "StepLR(3, gamma=" + "9" * 5000 + ")",
    "CosineAnnealingLR(0)",
    "OneCycleLR(max_lr=1.0, total_steps=20)",
    "PolynomialLR(total_iters=10, power='x')",
    "NoSuchLR(3)",
    "on_device(3)",
    "OnDevice(3)",
    "__all__(3)",
    "recipes()",
    "get_scheduler()",
    "get_scheduler('nonsense')",
    "get_scheduler('linear')",
    "get_scheduler('linear', 3)",
    "get_scheduler(['linear'], 3, 9)",
    "get_scheduler('linear', 3, 9, {{'optimizer': 3}})",
    "get_scheduler('linear', 3, 9, 7)",
    "get_scheduler('linear', 'a', 'b')",
    "get_scheduler('cosine_with_min_lr', 3, 9)",
    "get_scheduler('polynomial', 3, 9, {{'lr_end': 9.0}})",
    "get_polynomial_decay_schedule_with_warmup(3, 3)",
    "get_inverse_sqrt_schedule(0, timescale=-5)",
    "StepLR(3)\0",
    "StepLR('\ud800')",
    "\N{FULLWIDTH LATIN CAPITAL LETTER S}tepLR(",
    "StepLR(3" + ", 3" * 2000 + ")",
    "ChainedScheduler([" * 500 + "StepLR(3)" + "])" * 500,
    "ChainedScheduler([" * (MAX_DEPTH + 1) + "StepLR(3)" + "])" * (MAX_DEPTH + 1),
    "ChainedScheduler([StepLR(3), " + "[StepLR(3), " * 600 + "3" + "]" * 600 + "])",
    "StepLR(" * 500 + "3" + ")" * 500,
    "StepLR(" + "[" * 3000 + "]" * 3000 + ")",
    "StepLR(" + "(" * 150 + "3" + ")" * 150 + ", [" + "-" * 3000 + "3])",
    "a" * (MAX_TEXT + 1),
    "StepLR(" + "3, " * MAX_TEXT + ")",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_one_line_of_error(
    text: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setattr(plotting, "draw_panels", lambda *args, **kwargs: pytest.fail("it was drawn"))
    monkeypatch.chdir(tmp_path)
    _refused(text.replace("{mark}", str(mark)).replace("{{", "{").replace("}}", "}"), capsys, "--steps", "40")
    assert not list(tmp_path.iterdir())


def test_the_deepest_nest_that_is_read_is_drawn(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = "ChainedScheduler([" * MAX_DEPTH + "StepLR(3)" + "])" * MAX_DEPTH
    panels = _drawn(text, 10, monkeypatch, capsys)
    assert panels["learning rate"] == schedules.lr_curve(lambda o: lr_scheduler.StepLR(o, 3), 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NoSuchLR(3)", "'NoSuchLR' is not a scheduler of fused_sched; known are .*ChainedScheduler"),
        ("SequentialLR([StepLR(3), NoSuchLR(3)], [4])", "'NoSuchLR' is not a scheduler"),
        ("SequentialLR([StepLR(3), StepLR()], [4])", "error: StepLR does not work with these arguments: TypeError"),
        ("SequentialLR([StepLR(3)], [4])", "error: SequentialLR does not work with these arguments: ValueError"),
        ("StepLR(StepLR(3))", "argument 1 of StepLR is a call, but schedulers inside a scheduler stand in a list"),
        ("SequentialLR([StepLR(3), a.b()], [4])", "a scheduler in a list is called by its name alone"),
        ("SequentialLR([StepLR(3), x], [4])", "element 2 of argument 1 of SequentialLR must be a number"),
        ("SequentialLR(optimizer=1)", "leave the optimizer of SequentialLR out: it is supplied"),
        ("ChainedScheduler([" * 40 + "StepLR(3)" + "])" * 40, f"nested too deeply: at most {MAX_DEPTH} levels"),
        ("OneCycleLR(1.0, total_steps=9)", "OneCycleLR does not work with these arguments: ValueError: Tried to step"),
    ],
)
def test_errors_say_what_is_wrong(text: str, message: str, capsys: Any) -> None:
    shown = _refused(text, capsys, "--steps", "40")
    assert re.search(message, shown), shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps=0 must be from 1"),
        (["--steps", str(10**8)], "must be from 1"),
        (["--lr", "0"], "--lr=0.0 must be a finite number above 0"),
        (["--lr", "nan"], "--lr=nan"),
        (["-o", "curve.jpg"], "--output: .* must end in .png or .svg"),
        (["-o", "/no/such/folder/curve.png"], "No such file"),
    ],
)
def test_bad_options(options: list[str], message: str, capsys: Any) -> None:
    assert re.search(message, _refused("StepLR(3)", capsys, *options))


def test_what_is_not_finite_is_noted(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(plotting, "draw_panels", lambda *args, **kwargs: None)
    assert main(["plot", "ExponentialLR(1e200)", "--steps", "9"]) == 0
    assert "note: the learning rate is inf at step 2" in capsys.readouterr().out


def test_help_shows_texts_that_work(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r'plot "(.*?)"', command_line._PLOT_EXAMPLE)
    assert len(examples) == 3
    for text in examples:
        _drawn(text, 30, monkeypatch, capsys)


def test_parse_call_raises_usage_errors_only(rng: random.Random) -> None:
    """Texts made at random of what means something to the reader."""
    pieces = ["StepLR", "SequentialLR", "ChainedScheduler", "get_scheduler", "(", ")", "[", "]", ",", "3", "'x'", "=",
              "gamma", "*", "**", "{", "}", ":", ".", " ", "\n", "-", "lambda", "for", "None", "\\", "#"]  # fmt: skip
    outcomes = set()
    for _ in range(3000):
        text = "StepLR(" + "".join(rng.choice(pieces) for _ in range(rng.randint(0, 9))) + rng.choice([")", "])", ""])
        try:
            outcomes.add(type(parse_call(text)))
        except UsageError as error:
            outcomes.add(type(error))
    assert outcomes == {Call, UsageError}
