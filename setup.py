"""The CPU extension, the CUDA library and where packages are; all metadata is in pyproject.toml.

``FUSED_SCHED_BUILD_CPU=1`` makes a failure to build the extension fatal, ``=0`` leaves it out. By
default a failure is noted in ``fused_sched/_build_failure.txt`` and the package works without it.
``FUSED_SCHED_BUILD_CUDA`` says the same of the CUDA library; see build_cuda.py.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # a build backend does not look for modules here

import build_cuda  # noqa: E402

WANTED = os.environ.get("FUSED_SCHED_BUILD_CPU", "auto")
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
EXACT = ["-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]
# Without what only newer systems have than those that torch runs on; see csrc/old_libc.h.
OLD_SYSTEMS = ["-include", "csrc/old_libc.h", "-fno-sized-deallocation"]
LOOPS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]

# The update loops: one source for each instruction set, which alone gets the flags for it.
KERNELS = {"csrc/cpu/kernels_portable.cpp": LOOPS}
if IS_X86:
    KERNELS["csrc/cpu/kernels_avx2.cpp"] = LOOPS + AVX2
    KERNELS["csrc/cpu/kernels_avx512.cpp"] = LOOPS + AVX512
SOURCES = [
    "csrc/direct.cpp",
    "csrc/facts.cpp",
    "csrc/module.cpp",
    "csrc/python.cpp",
    "csrc/scan.cpp",
    "csrc/schedule.cpp",
    "csrc/cpu/capability.cpp",
    "csrc/cpu/measure.cpp",
    "csrc/cpu/parallel.cpp",
    "csrc/cpu/update.cpp",
]
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h"))


NO_TORCH = (
    "fused_sched is compiled with torch's headers and libraries, and there is no torch here: install torch (2.11 or "
    "later) first, then run `pip install --no-build-isolation .`"
)


def find_torch() -> bool:
    """Whether torch can be imported; from the environment that is installed into, where pip hides that from a build."""
    if importlib.util.find_spec("torch") is None:
        sys.path.append(sysconfig.get_path("platlib"))  # behind what pip has put there for the build
        importlib.invalidate_caches()
    return importlib.util.find_spec("torch") is not None


class BuildExtension(build_ext):
    """Compiles the loops with their own flags and CUDA with nvcc, and turns a failure into a note in the package."""

    def run(self) -> None:
        if not {WANTED, build_cuda.wanted()} <= {"0"} and not find_torch():
            raise SystemExit(NO_TORCH)
        self.failures: dict[str, str] = {}
        super().run()
        package = Path("fused_sched") if self.inplace else Path(self.build_lib, "fused_sched")
        for name, file in (("fused_sched._C", "_build_failure.txt"), (build_cuda.NAME, "_build_failure_cuda.txt")):
            note = package / file
            note.unlink(missing_ok=True)
            if name in self.failures:
                package.mkdir(parents=True, exist_ok=True)
                note.write_text(self.failures[name] + "\n")

    def get_ext_filename(self, name: str) -> str:
        *package, last = name.split(".")
        if last == build_cuda.FILE.stem:  # no module: it is loaded by torch.ops.load_library
            return str(Path(*package, build_cuda.FILE.name))
        return str(super().get_ext_filename(name))

    def build_extension(self, extension: Extension) -> None:
        is_cuda = extension.name == build_cuda.NAME
        skipped = build_cuda.reason_to_skip() if is_cuda else None
        if skipped is not None:
            self.failures[extension.name] = f"it was left out of this build: {skipped}"
            return
        try:
            if is_cuda:
                self._build_cuda(extension)
            else:
                self._build(extension)
        except Exception as error:
            if not extension.optional:
                raise
            message = re.sub(r"\['(.*?)',.*\]", r"\1 ...", str(error))  # a compiler's command line is long
            self.failures[extension.name] = f"{type(error).__name__}: {message}"
            print(f"{extension.name} was not built ({self.failures[extension.name]}); the others are used instead")

    def _build_cuda(self, extension: Extension) -> None:
        library = self.get_ext_fullpath(extension.name)
        if self.force or newer_group([*extension.sources, *extension.depends], library):
            build_cuda.build(Path(library), Path(self.build_temp, "cuda"))

    def _build(self, extension: Extension) -> None:
        # only a build needs torch, an sdist does not
        from torch.utils.cpp_extension import include_paths, library_paths

        extension.include_dirs = include_paths()
        extension.library_dirs = library_paths()
        for source, flags in KERNELS.items():
            extension.extra_objects += self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=extension.define_macros,
                extra_postargs=[*EXACT, *OLD_SYSTEMS, *flags],
                depends=HEADERS,
            )
        super().build_extension(extension)


def extensions() -> list[Extension]:
    if WANTED not in ("0", "1", "auto"):
        raise SystemExit(f"FUSED_SCHED_BUILD_CPU={WANTED} must be 1 (required), 0 (left out) or unset (if possible)")
    cpu = Extension(
        "fused_sched._C",
        SOURCES,
        define_macros=[("FUSED_SCHED_X86", "1")] if IS_X86 else [],
        libraries=["torch_cpu", "dl"] if sys.platform == "linux" else ["torch_cpu"],
        extra_compile_args=["-O2", *EXACT, *OLD_SYSTEMS],
        depends=[*KERNELS, *HEADERS],
        py_limited_api=True,
        optional=WANTED != "1",
        language="c++",
    )
    cuda = Extension(
        build_cuda.NAME,
        build_cuda.SOURCES,
        depends=["build_cuda.py", *build_cuda.HEADERS, *HEADERS],
        py_limited_api=True,
        optional=build_cuda.wanted() != "1",
    )
    return [cuda] if WANTED == "0" else [cpu, cuda]


setup(
    packages=[*find_packages(include=["fused_sched", "fused_sched.*"]), "fused_sched.kernels"],
    package_dir={"fused_sched.kernels": "kernels"},
    package_data={"fused_sched": ["py.typed", "_C.pyi"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
