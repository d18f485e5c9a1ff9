"""The CUDA library builds, and its machine code is as it should be; needs nvcc, but no GPU.

By default it is built for sm_90 only. ``FUSED_SCHED_TEST_CUDA_ARCHITECTURES`` is a list in the form of
``TORCH_CUDA_ARCH_LIST``, or ``default`` for all that a release is built for.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

from fused_sched.rules import RULES

ROOT = Path(__file__).parent.parent
REQUESTED = os.environ.get("FUSED_SCHED_TEST_CUDA_ARCHITECTURES", "9.0")
TYPES = ["float", "double", "BFloat16", "Float16"]
KINDS = [
    *((t, t, t) for t in TYPES),
    *((t, t, "float") for t in TYPES[2:]),
    *(("float", t, "float") for t in TYPES[2:]),
    ("float", "float", "BFloat16"),
    *((t, "float", "float") for t in TYPES[2:]),
    *((t, "float", t) for t in TYPES[2:]),
]


def _build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "build_cuda.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build_cuda = _build_module()
NVCC = build_cuda.find_nvcc()
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc was not found")


def _tool(name: str) -> str:
    folders = [Path(NVCC).resolve().parent, Path("/usr/local/cuda/bin")]
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "backends/nvidia/bin")
    found = shutil.which(name) or next((f for d in folders if (f := shutil.which(name, path=str(d)))), None)
    if found is None:
        pytest.skip(f"{name} was not found")
    os.environ["PATH"] += os.pathsep + str(Path(found).parent)  # cuobjdump calls nvdisasm
    return found


class Kernel(NamedTuple):
    """An update kernel; ``extra``: with the rule's optional state; ``around``: with what goes around an update."""

    rule: str
    extra: bool
    around: bool
    types: tuple[str, str, str]


@dataclass
class Usage:
    """What the compiler said of one kernel."""

    architecture: str
    registers: int
    spilled: int  # bytes stored and loaded


@dataclass
class Library:
    path: Path
    usage: dict[str, list[Usage]]
    code: dict[str, dict[str, list[str]]]  # architecture, function: instructions


def _plain(name: str) -> str:
    return re.sub(r"fused_sched::|\(anonymous namespace\)::|\bvoid ", "", name)


def _kernel(name: str) -> Kernel | None:
    found = re.search(r"update_kernel<common::(\w+), (true|false), (true|false), (\w+), (\w+), (\w+)>", name)
    if found is None:
        return None
    rule, extra, around, *types = found.groups()
    return Kernel(rule.lower(), extra == "true", around == "true", tuple(types))


def _demangle(text: str) -> str:
    return _plain(subprocess.run([_tool("c++filt")], input=text, capture_output=True, text=True, check=True).stdout)


def _read_usage(said: str) -> dict[str, list[Usage]]:
    usage: dict[str, list[Usage]] = {}
    for part in _demangle(said).split("Compiling entry function '")[1:]:
        name, architecture = re.match(r"(.*?)' for '(\w+)'", part, re.DOTALL).groups()  # type: ignore[union-attr]
        own = part.split("Function properties for")[1]  # the functions it calls follow
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", own))
        registers = int(re.search(r"Used (\d+) registers", part)[1])  # type: ignore[index]
        usage.setdefault(name, []).append(Usage(architecture, registers, spilled))
    return usage


def _read_code(path: Path) -> dict[str, dict[str, list[str]]]:
    text = subprocess.run([_tool("cuobjdump"), "-sass", str(path)], capture_output=True, text=True, check=True).stdout
    code: dict[str, dict[str, list[str]]] = {}
    architecture = function = ""
    for line in _demangle(text).splitlines():
        if found := re.match(r"\s*(?:code for|arch =) (sm_\w+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (.*)", line):
            function = found[1]
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?) ;", line):
            code.setdefault(architecture, {}).setdefault(function, []).append(found[1])
    return code


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        if REQUESTED != "default":
            patch.setenv("TORCH_CUDA_ARCH_LIST", REQUESTED)
        said = build_cuda.build(folder / "_cuda.so", folder, ["-Xptxas=-v"])
    assert "warning" not in said, said
    return Library(folder / "_cuda.so", _read_usage(said), _read_code(folder / "_cuda.so"))


@pytest.mark.slow
def test_every_kernel_is_there_for_every_architecture(library: Library) -> None:
    text = build_cuda.DEFAULT_ARCHITECTURES if REQUESTED == "default" else REQUESTED
    options = build_cuda.architectures(NVCC, None if REQUESTED == "default" else text)
    expected = {found[1] for option in options if (found := re.search(r"code=(sm_\w+)", option))}
    assert set(library.code) == expected
    flags = [(extra, around) for extra in (False, True) for around in (False, True)]
    wanted = {Kernel(rule, *both, kind) for rule in RULES for both in flags for kind in KINDS}
    for architecture in expected:
        names = library.code[architecture]
        assert {k for name in names if (k := _kernel(name))} == wanted
        measured = {found[1] for name in names if (found := re.search(r"norm_kernel<(\w+)>", name))}
        assert measured == {*TYPES}


@pytest.mark.slow
def test_nothing_is_spilled(library: Library) -> None:
    assert library.usage
    spilling = {name: u for name, usages in library.usage.items() for u in usages if u.spilled}
    assert not spilling


def _most_registers(name: str, kernel: Kernel | None) -> int:
    if kernel is None:
        return 48 if "norm_kernel" in name else 64
    narrow, mastered = kernel.types[2].endswith("16"), kernel.around and kernel.types[0].endswith("16")
    if "double" in kernel.types:
        return 128
    if kernel.rule == "sgd":
        return 64 if not (kernel.around and narrow) else 80 if kernel.extra else 72
    if mastered and narrow:
        return 128 if kernel.extra else 96
    if mastered and kernel.extra and kernel.types[1] == "float":
        return 96
    return 80 if kernel.extra or mastered else 72 if kernel.around or narrow else 64


@pytest.mark.slow
def test_registers_leave_room_for_many_threads(library: Library) -> None:
    for name, usages in library.usage.items():
        kernel = _kernel(name)
        for usage in usages:
            print(usage.architecture, usage.registers, name)
            assert usage.registers <= _most_registers(name, kernel), (name, usage)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("type_", ["float", "BFloat16", "Float16", "double"])
def test_aligned_arrays_are_accessed_by_16_bytes(library: Library, type_: str, rule: int) -> None:
    # parameter, gradient and states; the gradient is written back where a scale is given
    arrays = {("sgd", False): (2, 2), ("sgd", True): (3, 3), ("adam", False): (4, 4), ("adam", True): (5, 5)}
    for functions in library.code.values():
        for name, code in functions.items():
            kernel = _kernel(name)
            if kernel is None or kernel.rule != rule or kernel.types != (type_, type_, type_):
                continue
            # the record itself is read by 16 bytes too, so there are a few loads more
            loads, stores = (n + kernel.around for n in arrays[rule, kernel.extra])  # an average
            assert sum(".128" in c for c in code if "LDG" in c) >= loads, name
            assert sum(".128" in c for c in code if "STG" in c) >= stores, name


@pytest.mark.slow
def test_a_norm_waits_for_four_accesses_of_16_bytes_at_a_time(library: Library) -> None:
    for functions in library.code.values():
        for name, code in functions.items():
            if "norm_kernel" in name:
                accesses = [c for c in code if "LDG" in c or "FFMA" in c or "DFMA" in c]
                text = " ".join("L" if ".128" in c else "-" for c in accesses)
                assert "L L L L" in text, name


@pytest.mark.slow
def test_elements_are_accessed_in_global_memory_only(library: Library) -> None:
    """Wide accesses know their address space; a generic one would test it each time."""
    for functions in library.code.values():
        for name, code in functions.items():
            if _kernel(name):
                assert not [c for c in code if re.search(r"\b(LD|ST)\.E\.(128|U16)", c)], name


def test_separate_operations_stay_separate(tmp_path: Path) -> None:
    """A program's product and sum are two roundings, as in Python."""
    source = tmp_path / "probe.cu"
    source.write_text(
        f'#include "{ROOT}/csrc/program.h"\n'
        "using namespace fused_sched;\n"
        "__global__ void probe(double* x, float* y) {\n"
        "  constexpr int32_t product[] = {kOpMul, 0, 1, 0, 0}, sum[] = {kOpAdd, 2, 3, 0, 0};\n"
        "  double values[] = {x[1], x[2], 0.0, x[3]};\n"
        "  values[2] = common::apply(product, values);\n"
        "  x[0] = common::apply(sum, values);\n"
        "  y[0] = y[1] * y[2] + y[3];\n"
        "  y[4] = common::multiply_add(y[5], y[6], y[7]);\n"
        "}\n"
    )
    output = tmp_path / "probe.cubin"
    subprocess.run([NVCC, *build_cuda.FLAGS, "-arch=sm_90", "-cubin", str(source), "-o", str(output)], check=True)
    (functions,) = _read_code(output).values()
    (code,) = functions.values()
    assert [sum(c.startswith(op) for c in code) for op in ("DMUL", "DADD", "DFMA", "FMUL", "FADD", "FFMA")] == [
        1, 1, 0, 1, 1, 1,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_library_needs_nothing_but_torch(library: Library) -> None:
    needed = re.findall(
        r"NEEDED.*\[(.*)\]",
        subprocess.run([_tool("readelf"), "-d", str(library.path)], capture_output=True, text=True, check=True).stdout,
    )
    assert [n for n in needed if n.startswith("libtorch") or "cuda" in n] == ["libtorch_cpu.so"]
    assert not [n for n in needed if "python" in n]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_operators_load_and_refuse(library: Library) -> None:
    script = (
        "import sys, torch\n"
        "torch.ops.load_library(sys.argv[1])\n"
        "ops = torch.ops.fused_sched\n"
        "plan, control = torch.zeros(1, 16, dtype=torch.int64), torch.zeros(9, dtype=torch.float64)\n"
        "for call in (\n"
        "    lambda: ops.cuda_update(plan[:, :15], control, None, None),\n"
        "    lambda: ops.cuda_update(plan, control, None, None),\n"
        "    lambda: ops.cuda_measure(plan, control, None, None),\n"
        "    lambda: ops.cuda_measure(torch.zeros(1, 18, dtype=torch.int64), control, None, None),\n"
        "    lambda: ops.cuda_advance(plan, control),\n"
        "    lambda: ops.cuda_prepare(plan, 0),\n"
        "    lambda: ops.cuda_check(0),\n"
        "):\n"
        "    try:\n"
        "        call()\n"
        "    except RuntimeError as error:\n"
        "        print(str(error).splitlines()[0])\n"
        "    else:\n"
        "        print('no error')\n"
    )
    command = [sys.executable, "-c", script, str(library.path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].startswith("fused_sched: plan must be")
    assert lines[2] == "fused_sched: plan must be a contiguous int64 CPU tensor of shape (n, 18)"
    assert lines[1] == lines[3] == lines[4] == "fused_sched: control must be a contiguous float64 CUDA tensor"
    assert lines[5].startswith("fused_sched: ")
    assert lines[6].startswith("fused_sched: ")
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9.0", ["arch=compute_90,code=sm_90"]),
        ("8.0;9.0a", ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a"]),
        ("12.0+PTX", ["arch=compute_120,code=sm_120", "arch=compute_120,code=compute_120"]),
        ("8.0 8.6, 9.0", [f"arch=compute_{n},code=sm_{n}" for n in (80, 86, 90)]),
    ],
)
def test_lists_of_architectures(text: str, expected: list[str]) -> None:
    assert build_cuda.architectures(NVCC, text) == [f"-gencode={e}" for e in expected]


def test_a_wrong_list_of_architectures_is_refused() -> None:
    with pytest.raises(ValueError, match="write numbers, as in"):
        build_cuda.architectures(NVCC, "8.0;Hopper")


def test_the_default_list_is_what_the_compiler_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    options = build_cuda.architectures(NVCC)
    assert "-gencode=arch=compute_90,code=sm_90" in options
    assert sum("code=compute_" in o for o in options) <= 1


def _toolkit(folder: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only tells its version."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho '{said}'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(folder))


def test_a_wheel_is_told_by_the_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _toolkit(tmp_path, "Cuda compilation tools, release 12.8, V12.8.93", monkeypatch)
    assert build_cuda.version_suffix() == "cu128"
    assert build_cuda.compression(build_cuda.require_nvcc()) == []


def test_a_toolkit_that_does_not_tell_its_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _toolkit(tmp_path, "no release", monkeypatch)
    with pytest.raises(RuntimeError, match="does not say its release: 'no release"):
        build_cuda.version_suffix()


def test_a_missing_toolkit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="install the CUDA toolkit or set CUDA_HOME"):
        build_cuda.version_suffix()


def test_what_is_built_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("0", "1"):
        monkeypatch.setenv("FUSED_SCHED_BUILD_CUDA", value)
        assert build_cuda.reason_to_skip() == (None if value == "1" else "FUSED_SCHED_BUILD_CUDA=0")
    monkeypatch.delenv("FUSED_SCHED_BUILD_CUDA")
    if torch.version.cuda is None:
        assert "torch is not a CUDA build" in build_cuda.reason_to_skip()
    monkeypatch.setenv("FUSED_SCHED_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="must be 1"):
        build_cuda.reason_to_skip()
