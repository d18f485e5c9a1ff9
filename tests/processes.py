"""Runs Python code as if in an interpreter of its own, without the seconds that importing torch takes each time.

A server that has imported torch, and what torch's optimizers import late, and nothing of ours, is forked for each run.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

import torch

_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(["torch", "torch._dynamo"])


def run_python(
    arguments: Sequence[str | Path], cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python arguments``, which begin with a path, or with ``-c`` and code, or with ``-m`` and a module."""
    words = [str(word) for word in arguments]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _SERVER.Process(target=_run, args=(words, cwd, {**os.environ, **environment}, outputs))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, process.exitcode, *(path.read_text() for path in outputs))


def _run(words: list[str], cwd: Path, environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    for number, path in enumerate(outputs, 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if threads := environment.get("OMP_NUM_THREADS"):  # which torch reads when it is imported
        torch.set_num_threads(int(threads))
    kind, *rest = words
    try:
        if kind == "-c":
            sys.argv, sys.path[:0] = ["-c", *rest[1:]], [""]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        elif kind == "-m":
            sys.argv, sys.path[:0] = rest, [""]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[:0] = words, [str(Path(kind).resolve().parent)]
            runpy.run_path(kind, run_name="__main__")
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
