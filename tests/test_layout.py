"""Numbers that two languages share, and the direction of imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fused_sched
from fused_sched.memory import bindings, control_block, parameter_table
from fused_sched.program import operations, program

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fused_sched.__file__).parent


def _source(name: str) -> str:
    path = ROOT / "csrc" / name
    if not path.exists():
        pytest.skip("csrc/ is not beside the tests")
    return re.sub(r"//[^\n]*", "", path.read_text())


def _constants(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"constexpr int(?:64_t)? (k\w+) = (-?\d+);", text)}


def _camel(prefix: str, name: str) -> str:
    return prefix + "".join(word.capitalize() for word in name.split("_"))


def test_control_block_is_the_same_in_cpp() -> None:
    expected = {"kGroupsOffset": control_block.GROUPS_OFFSET, "kGroupStride": control_block.GROUP_STRIDE}
    expected |= {"kBound": control_block.BOUND, "kBoundSingle": bindings.SINGLE, "kBoundSilent": bindings.SILENT}
    for prefix, table in (
        ("kHeader", control_block.HEADER),
        ("kField", control_block.FIELDS),
        ("kFlag", control_block.FLAGS),
        ("kMeasured", control_block.MEASURED),
    ):
        expected |= {_camel(prefix, name): value for name, value in table.items()}
    assert _constants(_source("control_block.h")) == expected


def test_fields_fit_their_row_and_the_header() -> None:
    assert sorted(control_block.FIELDS.values()) == list(range(len(control_block.FIELDS)))
    after = len(control_block.FIELDS)
    assert sorted(control_block.MEASURED.values()) == list(range(after, after + len(control_block.MEASURED)))
    assert after + len(control_block.MEASURED) <= control_block.BOUND
    assert 2 * control_block.BOUND == control_block.GROUP_STRIDE
    assert max(control_block.HEADER.values()) < control_block.GROUPS_OFFSET
    bits = list(control_block.FLAGS.values())
    assert sum(bits) == 2 ** len(bits) - 1  # every flag a bit of its own


def test_op_codes_are_the_same_in_cpp() -> None:
    text = _source("program.h")
    found = re.search(r"enum Op : int \{(.*?)\};", text, re.DOTALL)
    assert found is not None
    names = [name.strip() for name in found[1].split(",") if name.strip()]
    assert names == [_camel("kOp", name) for name in operations.OPERATIONS] + ["kOpCount"]
    assert [operations.OP_CODES[name] for name in operations.OPERATIONS] == list(range(len(operations.OPERATIONS)))
    assert _constants(text) == {"kMaxOperations": program.MAX_OPERATIONS, "kCodeWidth": program.CODE_WIDTH}


def test_every_arithmetic_operation_is_computed_in_cpp() -> None:
    cases = re.findall(r"case (kOp\w+):", _source("program.h"))
    assert sorted(cases) == sorted(_camel("kOp", name) for name in operations.OPERATIONS)


def test_record_is_the_same_in_cpp() -> None:
    """``struct Record``: pointers and 64-bit numbers, one for each word of a record."""
    text = "".join(_source(p.relative_to(ROOT / "csrc").as_posix()) for p in sorted((ROOT / "csrc").rglob("*.h")))
    found = re.search(r"struct Record \{(.*?)\};", text, re.DOTALL)
    assert found is not None
    words: list[str] = []
    for name, size in re.findall(r"(\w+)(?:\[(\d+)\])?;", found[1]):
        words += [f"{name}{i}" for i in range(int(size))] if size else [name]
    assert words == sorted(parameter_table.RECORD, key=parameter_table.RECORD.__getitem__)
    assert len(words) == parameter_table.RECORD_WIDTH


# A module may import what is to the left of it. `optim` and `lr_scheduler` are the user's side.
LAYERS = (
    ("rules", "step_options", "_C"),
    ("memory",),
    ("program",),
    ("trace",),
    ("kernels",),
    ("backends",),
    ("optim",),
    ("rows",),
    ("monitor",),
    ("curves",),
    ("schedules",),
    ("lr_scheduler",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def _imports(path: Path) -> Iterator[str]:
    """Top-level parts of fused_sched that a file imports when it is imported itself."""
    package = ("fused_sched", *path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # for type checkers only: not an import
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "fused_sched" and len(parts) > 1:
                yield parts[1]


FILES = [p.relative_to(PACKAGE).as_posix() for p in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("file", [f for f in FILES if f.partition("/")[0].removesuffix(".py") in LEVEL])
def test_imports_go_one_way(file: str) -> None:
    mine = file.partition("/")[0].removesuffix(".py")
    wrong = {name for name in _imports(PACKAGE / file) if name != mine and LEVEL.get(name, -1) >= LEVEL[mine]}
    assert not wrong, f"{mine} imports {wrong}"


def test_import_direction_test_sees_imports() -> None:
    assert set(_imports(PACKAGE / "lr_scheduler" / "programmed.py")) >= {"trace", "program"}
    assert "memory" in set(_imports(PACKAGE / "program" / "program.py"))


def _reached(path: Path) -> Iterator[str]:
    """Private attributes that a file asks of an optimizer or of a home."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
            if owner in ("home", "optimizer", "opt", "stub") and node.attr.startswith("_"):
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            owner, name = ast.unparse(node.args[0]).rpartition(".")[2].lstrip("_"), node.args[1]
            if owner in ("home", "optimizer", "opt", "stub") and isinstance(name, ast.Constant):
                yield from [name.value] if str(name.value).startswith("_") else []


OF_TORCH = {"_opt_called"}  # by which torch's schedulers know that an optimizer has made a step
USERS = [*(PACKAGE / f for f in FILES if f.partition("/")[0] not in ("optim", "memory")), *ROOT.glob("benchmarks/*.py")]


@pytest.mark.parametrize("path", [*USERS, *ROOT.glob("examples/*.py")], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_an_optimizer_is_reached_through_its_methods(path: Path) -> None:
    assert not set(_reached(path)) - OF_TORCH


def test_the_test_of_methods_sees_private_attributes(tmp_path: Path) -> None:
    text = "a.optimizer._block\nself._home._changes.values\nopt._x = getattr(self._optimizer, '_y', 0)\nhome.watch"
    (tmp_path / "file.py").write_text(text)
    assert sorted(_reached(tmp_path / "file.py")) == ["_block", "_changes", "_x", "_y"]


def test_import_takes_only_what_it_needs() -> None:
    code = "import sys, fused_sched; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    with_torch = "import sys, torch, torch.optim; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    ours, torchs = (
        set(subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout.split())
        for c in (code, with_torch)
    )
    assert "fused_sched" in ours
    for name in ("triton", "matplotlib", "sklearn", "tqdm", "hypothesis", "transformers"):
        assert name not in ours - torchs, name
