"""Checks a folder made by ``gpu_check.sh pack``: everything is in it, and both libraries load.

python benchmarks/packed.py FOLDER
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path

NEEDED = [
    "COMMIT",
    "pyproject.toml",
    "site/fused_sched/_C.abi3.so",
    "site/fused_sched/_cuda.so",
    "site/fused_sched/kernels/update.py",
    "tests/conftest.py",
    "tests/gpu/conftest.py",
    "tests/gpu/test_update.py",
    "benchmarks/gpu.py",
    "benchmarks/gpu_check.sh",
    "benchmarks/smoke.py",
    "examples/captured_loop.py",
]


def check(folder: Path) -> list[str]:
    """What is wrong with ``folder``."""
    wrong = [f"{name} is missing" for name in NEEDED if not (folder / name).is_file()]
    libraries = [*folder.glob("apex_like/*.so")]
    if len(libraries) != 1:
        wrong.append(f"apex_like/ has {len(libraries)} libraries, not 1")
    if wrong:
        return wrong
    ctypes.CDLL(str(libraries[0]))
    sys.path.insert(0, str(folder / "site"))
    backends = importlib.import_module("fused_sched.backends")
    package = Path(backends.__file__ or "").parent.parent
    if package != folder / "site" / "fused_sched":
        wrong.append(f"fused_sched is imported from {package}")
    expected = {"cpu": None, "cuda": "no GPU was found"}  # the reason that is given once the library is loaded
    for name, reason in expected.items():
        found = backends.reason_unavailable(name)
        if found not in (None, reason):
            wrong.append(f"backend {name}: {found}")
    return wrong


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    wrong = check(folder)
    for item in wrong:
        print(f"error: {item}", file=sys.stderr)
    if not wrong:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {size / 2**20:.1f} MiB, commit {(folder / 'COMMIT').read_text().strip()}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
