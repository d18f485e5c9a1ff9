"""What the recipes of CONTRIBUTING.md ask for is there for every rule, scheduler, field and operation that exists."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import fused_sched
from fused_sched import optim
from fused_sched.backends.reference import TORCH_FUNCTIONS
from fused_sched.lr_scheduler.base import OF_TORCHS
from fused_sched.memory import control_block
from fused_sched.memory.parameter_table import KINDS
from fused_sched.optim.fused_optimizer import FusedOptimizer
from fused_sched.program import operations
from fused_sched.program.operations import ARITHMETIC, host_function
from fused_sched.rules import RULES
from fused_sched.step_options import OPTION_FIELDS

ROOT = Path(__file__).parent.parent


def _text(path: str) -> str:
    if not (ROOT / path).exists():
        pytest.skip(f"{path} is not beside the tests")
    return (ROOT / path).read_text()


def _recipe(name: str) -> str:
    """The text that begins with ``name`` in bold."""
    recipes = _text("CONTRIBUTING.md").split("## Recipes\n")[1].split("\n## ")[0]
    (found,) = [part for part in re.split(r"\n(?=\*\*)", recipes) if part.startswith(f"**{name}**")]
    return found


def _files(recipe: str) -> list[str]:
    return [p for p in re.findall(r"`([\w./]+)`", recipe) if "/" in p]


@pytest.mark.parametrize("name", ["An update rule", "A scheduler", "A field", "An operation"])
def test_recipes_name_files_that_exist(name: str) -> None:
    files = _files(_recipe(name))
    assert len(files) >= 3
    assert [p for p in files if not (ROOT / p).exists()] == []


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_each_file_of_the_recipe(rule: str) -> None:
    own = [p for p in _files(_recipe("An update rule")) if "adam" in p]
    assert len(own) == 5
    assert [p for p in own if not (ROOT / p.replace("adam", rule)).exists()] == []


def test_every_rule_is_in_the_lists_of_c() -> None:
    text = _text("csrc/rules.h")
    (listed,) = re.findall(r"using Rules = List<([\w, ]+)>;", text)
    assert [name.strip().lower() for name in listed.split(",")] == sorted(RULES, key=lambda name: RULES[name].code)
    assert [rule.code for rule in RULES.values()] == list(range(len(RULES)))
    assert {*re.findall(r'#include "(\w+)\.h"', text)} == {*RULES, "kinds"}


def test_the_extension_knows_every_rule() -> None:
    extension = pytest.importorskip("fused_sched._C")
    assert extension.rules() == tuple(sorted(RULES, key=lambda name: RULES[name].code))


def test_every_backend_with_kernels_has_them_for_every_rule() -> None:
    for name in ("cpu", "cuda", "triton"):
        try:
            module = importlib.import_module(f"fused_sched.backends.{name}")
        except ImportError:
            continue
        assert getattr(module, f"{name.capitalize()}Backend").rules == RULES


@pytest.mark.parametrize("rule", RULES)
def test_the_triton_module_and_the_header_keep_the_rules_states(rule: str) -> None:
    pytest.importorskip("triton")
    from fused_sched.kernels.rules import RULES as KERNELS

    mine = RULES[rule]
    assert KERNELS[rule].required == mine.optional_state
    assert KERNELS[rule].scalars.fn.__module__ == f"fused_sched.kernels.{rule}"
    assert (KERNELS[rule].counts is None) == (mine.counts is None)
    header = _text(f"csrc/{rule}.h")
    assert f'kName = "{rule}"' in header
    assert int(re.search(r"kRequiredStates = (\d)", header)[1]) == mine.optional_state  # type: ignore[index]
    modes = int(re.search(r"kModes = (\d)", header)[1])  # type: ignore[index]
    assert (modes > 1) == (mine.optional_state < len(mine.states))


@pytest.mark.parametrize("rule", RULES)
def test_header_and_triton_module_read_the_fields_of_the_rule(rule: str) -> None:
    read = {re.sub(r"(?<!^)(?=[A-Z])", "_", f).lower() for f in re.findall(r"kField(\w+)", _text(f"csrc/{rule}.h"))}
    assert read == {*RULES[rule].fields}
    constants = {
        name.removesuffix("_FIELD").lower() for name in re.findall(r"row \+ (\w+)", _text(f"kernels/{rule}.py"))
    }
    assert constants == {*RULES[rule].fields}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_an_optimizer(rule: str) -> None:
    module = importlib.import_module(f"fused_sched.optim.{rule}")
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, FusedOptimizer)]
    own = [c for c in classes if c.__module__ == module.__name__]
    assert own
    for c in own:
        assert c._rule is RULES[rule]
        assert c.__name__ in optim.__all__
        assert issubclass(c, getattr(torch.optim, c.__name__))


def test_every_combination_of_dtypes_is_in_the_list_of_c() -> None:
    (listed,) = re.findall(r"using Kinds =\s*List<(.*?)>;", _text("csrc/kinds.h"), re.DOTALL)
    found = re.findall(r"Kind<(\w+), (\w+), (\w+)>?", listed)
    types = {"float": torch.float32, "double": torch.float64, "BFloat16": torch.bfloat16, "Float16": torch.float16}
    assert sorted(map(str, KINDS)) == sorted(str(tuple(types[t] for t in kind)) for kind in found)


def test_every_scheduler_of_torch_has_a_class_here_and_is_converted() -> None:
    base = torch.optim.lr_scheduler.LRScheduler
    modules = (torch.optim.lr_scheduler, torch.optim.swa_utils)
    public = {c for m in modules for n, c in vars(m).items() if inspect.isclass(c) and not n.startswith("_")}
    theirs = {c for c in public if issubclass(c, base) and c is not base}
    assert len(theirs) >= 16
    for c in theirs:
        ours = getattr(fused_sched.lr_scheduler, c.__name__)
        assert issubclass(ours, c)
        assert c.__name__ in fused_sched.lr_scheduler.__all__
        assert OF_TORCHS[c] is ours


def test_every_scheduler_of_torch_is_compared_with_torchs() -> None:
    from schedule_twins import EVERY

    of_ours = {
        "FeedbackLR",
        "KLAdaptiveLR",
        "ParamScheduler",
        "TracedLR",
    }  # tests/test_measured_schedules.py and others
    ours = {c.__name__ for c in OF_TORCHS.values()} - of_ours
    assert ours == {*EVERY}


def test_every_field_is_in_c_in_triton_and_in_a_rule() -> None:
    header, layout = _text("csrc/control_block.h"), _text("kernels/layout.py")
    for field, position in control_block.FIELDS.items():
        name = "".join(word.capitalize() for word in field.split("_"))
        assert f"kField{name} = {position};" in header
        assert f'FIELDS["{field}"]' in layout
        assert field in OPTION_FIELDS or any(field in rule.fields for rule in RULES.values())
    for rule in RULES.values():
        assert {*rule.fields} <= {*control_block.FIELDS}


def test_every_operation_is_in_every_evaluator() -> None:
    pytest.importorskip("triton")
    from fused_sched.kernels.program_source import EXPRESSIONS

    assert {*TORCH_FUNCTIONS} == {*ARITHMETIC}
    assert {*EXPRESSIONS} == {*ARITHMETIC}
    for name in ARITHMETIC:
        assert callable(host_function(name))
    evaluated = re.findall(r"case kOp(\w+):", _text("csrc/program.h"))
    assert sorted(evaluated) == sorted("".join(w.capitalize() for w in n.split("_")) for n in operations.OPERATIONS)
