"""The CPU extension and where packages are; all metadata is in pyproject.toml.

``FUSED_SCHED_BUILD_CPU=1`` makes a failure to build the extension fatal, ``=0`` leaves it out. By
default a failure is noted in ``fused_sched/_build_failure.txt`` and the package works without it.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
WANTED = os.environ.get("FUSED_SCHED_BUILD_CPU", "auto")
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
EXACT = ["-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]
LOOPS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]

# The update loops: one source for each instruction set, which alone gets the flags for it.
KERNELS = {"csrc/cpu/kernels_portable.cpp": LOOPS}
if IS_X86:
    KERNELS["csrc/cpu/kernels_avx2.cpp"] = LOOPS + AVX2
    KERNELS["csrc/cpu/kernels_avx512.cpp"] = LOOPS + AVX512
SOURCES = [
    "csrc/module.cpp",
    "csrc/python.cpp",
    "csrc/scan.cpp",
    "csrc/schedule.cpp",
    "csrc/cpu/capability.cpp",
    "csrc/cpu/parallel.cpp",
    "csrc/cpu/update.cpp",
]
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h"))


class BuildExtension(build_ext):
    """Compiles the loops with their own flags, and turns a failure into a note in the package."""

    failure: str | None = None

    def run(self) -> None:
        super().run()
        package = Path("fused_sched") if self.inplace else Path(self.build_lib, "fused_sched")
        note = package / "_build_failure.txt"
        note.unlink(missing_ok=True)
        if self.failure is not None:
            package.mkdir(parents=True, exist_ok=True)
            note.write_text(self.failure + "\n")

    def build_extension(self, extension: Extension) -> None:
        try:
            self._build(extension)
        except Exception as error:
            if WANTED == "1":
                raise
            message = re.sub(r"\['(.*?)',.*\]", r"\1 ...", str(error))  # a compiler's command line is long
            self.failure = f"{type(error).__name__}: {message}"
            print(f"fused_sched: the CPU extension was not built ({self.failure}); the reference backend will be used")

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
                extra_postargs=[*EXACT, *flags],
                depends=HEADERS,
            )
        super().build_extension(extension)


def extensions() -> list[Extension]:
    if WANTED == "0":
        return []
    if WANTED not in ("1", "auto"):
        raise SystemExit(f"FUSED_SCHED_BUILD_CPU={WANTED} must be 1 (required), 0 (left out) or unset (if possible)")
    return [
        Extension(
            "fused_sched._C",
            SOURCES,
            define_macros=[("FUSED_SCHED_X86", "1")] if IS_X86 else [],
            libraries=["torch_cpu"],
            extra_compile_args=["-O2", *EXACT],
            depends=[*KERNELS, *HEADERS],
            py_limited_api=True,
            optional=WANTED != "1",
            language="c++",
        )
    ]


setup(
    packages=[
        "fused_sched",
        "fused_sched.optim",
        "fused_sched.lr_scheduler",
        "fused_sched.backends",
        "fused_sched.kernels",
    ],
    package_dir={"fused_sched.kernels": "kernels"},
    package_data={"fused_sched": ["py.typed"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
