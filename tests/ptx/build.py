"""Compiles C++ to libraries that are kept, by content, in a folder.

``FUSED_SCHED_PTX_CACHE`` names the folder; by default it is below the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

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


def build(name: str, source: str, mode: str, extra: Sequence[str] = ()) -> Path:
    """The library of ``source``, compiled unless it is there already."""
    command = [compiler(), *_FLAGS, *MODES[mode]]
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.h")))
    key = hashlib.sha256("\0".join([*command, *extra, source]).encode() + headers).hexdigest()[:24]
    path = cache() / f"{name}_{mode}_{key}.so"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        text = path.with_suffix(f".{os.getpid()}.cpp")
        text.write_text(source)
        subprocess.run([*command, str(text), *extra, "-o", str(part)], check=True)
        text.unlink()
        part.rename(path)
    return path


def sanitizer(mode: str) -> dict[str, str]:
    """Environment of a process that runs kernels under ``"tsan"`` or ``"asan"``."""
    name = {"tsan": "libtsan.so", "asan": "libasan.so"}[mode]
    found = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    options = {
        "TSAN_OPTIONS": "exitcode=0 history_size=4 report_signal_unsafe=0",
        "ASAN_OPTIONS": "detect_leaks=0 halt_on_error=1",
    }
    return {"LD_PRELOAD": found.strip(), "OMP_NUM_THREADS": "1", **options}
