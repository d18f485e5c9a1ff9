"""Compiles C++ to libraries that are kept, by content, in a folder, as is whatever else takes long to make.

``FUSED_SCHED_PTX_CACHE`` names the folder; by default it is below the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock  # torch needs it too

SOURCES = Path(__file__).parent / "cpp"
_FLAGS = [
    "-std=c++17", "-w", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv",
    "-mfma", "-mf16c", "-pthread", f"-I{SOURCES}",
]  # fmt: skip
# how threads run; a sanitizer's library has to be loaded first, see sanitizer()
MODES = {
    "fibers": [],
    "tsan": ["-g", "-fsanitize=thread"],
    "asan": ["-g", "-fsanitize=address"],
}


def compiler() -> str:
    """The C++ compiler.

    Raises:
        RuntimeError: there is none.
    """
    found = os.environ.get("CXX") or shutil.which("g++")
    if found is None:
        raise RuntimeError("compiled kernels cannot run here: g++ was not found: install it, or name a compiler in CXX")
    return found


def cache() -> Path:
    """The folder of compiled libraries."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fused_sched_ptx"
    folder = Path(os.environ.get("FUSED_SCHED_PTX_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept(name: str, given: Iterable[str | Path], make: Callable[[Path], None]) -> Path:
    """What ``make`` writes, unless it is there already for the same texts and files; made by one process at a time."""
    key = hashlib.sha256()
    for part in given:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        key.update(len(content).to_bytes(8, "little") + content)
    stem, dot, kind = name.rpartition(".")
    path = cache() / f"{stem}_{key.hexdigest()[:24]}{dot}{kind}"
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                unfinished = path.with_suffix(".part")
                make(unfinished)
                unfinished.rename(path)
    return path


def build(name: str, source: str, mode: str, extra: Sequence[str] = ()) -> Path:
    """The library of ``source``, compiled unless it is there already."""
    command = [compiler(), *_FLAGS, *MODES[mode]]

    def compile_it(path: Path) -> None:
        text = path.with_suffix(".cpp")
        text.write_text(source)
        subprocess.run([*command, str(text), *extra, "-o", str(path)], check=True)
        text.unlink()

    return kept(f"{name}_{mode}.so", [*command, *extra, source, *sorted(SOURCES.glob("*.h"))], compile_it)


def sanitizer(mode: str) -> dict[str, str]:
    """Environment of a process that runs kernels under ``"tsan"`` or ``"asan"``."""
    name = {"tsan": "libtsan.so", "asan": "libasan.so"}[mode]
    found = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    options = {
        "TSAN_OPTIONS": "exitcode=0 history_size=4 report_signal_unsafe=0",
        "ASAN_OPTIONS": "detect_leaks=0 halt_on_error=1",
    }
    return {"LD_PRELOAD": found.strip(), "OMP_NUM_THREADS": "1", **options}
