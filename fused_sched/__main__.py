"""Command line: ``python -m fused_sched`` describes the installation, ``... plot`` draws a schedule."""

from __future__ import annotations

import argparse
import ast
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import torch

ENVIRONMENT = {
    "FUSED_SCHED_BACKEND": "backend to use instead of the automatic choice",
    "FUSED_SCHED_CPU_CAPABILITY": "instruction set of the cpu backend (portable, avx2, avx512), instead of the best",
    "FUSED_SCHED_BUILD_CPU": "when building: 0 leaves the C++ extension out, 1 makes its failure an error",
    "FUSED_SCHED_BUILD_CUDA": "when building: 0 leaves the CUDA library out, 1 makes its failure an error",
    "TRITON_INTERPRET": "1 runs the triton kernels on the CPU, slowly, for tests",
}
MAX_TEXT = 10_000  # characters of a schedule given as text
MAX_STEPS = 10_000_000

_PLOT_EXAMPLE = """\
example:
  python -m fused_sched plot "CyclicLR(base_lr=0.001, max_lr=0.1, step_size_up=50)" --steps 600 -o curve.png

The text is read, never run: one scheduler's name with numbers, strings, lists and True/False/None as
arguments, without the optimizer. LambdaLR takes a function, which is code, and so cannot be drawn from here.
"""


class UsageError(Exception):
    """What the user gave cannot be used; the message is the one line to show."""


class Call(NamedTuple):
    """A scheduler's name and its arguments without the optimizer."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]


def describe() -> str:
    """The text of ``python -m fused_sched``: versions, devices, backends, environment variables."""
    lines = ["versions"]
    lines += [f"  {name:<16}{value}" for name, value in _versions().items()]
    lines += ["", "backends", *_backend_lines()]
    lines += ["", "environment variables"]
    for name, meaning in ENVIRONMENT.items():
        lines.append(f"  {name}={os.environ[name]}" if name in os.environ else f"  {name} (not set)")
        lines.append(f"      {meaning}")
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "fused_sched": _version("fused_sched"),
        "Python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "torch": torch.__version__,
        "triton": _version("triton", "pytorch-triton"),
        "CUDA of torch": torch.version.cuda or "none (torch is built for the CPU only)",
        "GPUs": ", ".join(gpus) or "none",
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
    }


def _version(*distributions: str) -> str:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _backend_lines() -> list[str]:
    from . import backends

    lines = []
    for name in backends.NAMES:
        reason = backends.reason_unavailable(name)
        lines.append(f"  {name:<16}" + ("available" if reason is None else f"not available: {_one_line(reason)}"))
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for kind in devices:
        device = torch.device(kind)
        try:
            chosen = _one_line(backends.why(device))
        except Exception as error:  # a diagnosis that fails has to say why, not to stop
            chosen = f"none: {_one_line(error)}"
        lines.append(f"  {kind} tensors use {chosen}")
    return lines


def parse_call(text: str) -> Call:
    """Read ``"StepLR(step_size=30, gamma=0.1)"`` without evaluating anything.

    Args:
        text: one call of a name of :data:`fused_sched.lr_scheduler.__all__` with literal arguments.

    Raises:
        UsageError: ``text`` is anything else.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"the schedule is {len(text)} characters long, but at most {MAX_TEXT} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks about escapes in strings
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UsageError(f"{_short(text)} is not a call such as StepLR(step_size=30): {reason}") from None
    except (RecursionError, MemoryError):
        raise UsageError(f"{_short(text)} is nested too deeply; write one call such as StepLR(step_size=30)") from None
    call = tree.body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise UsageError(f"{_short(text)} is not the call of a scheduler by its name, such as StepLR(step_size=30)")
    name = call.func.id
    _check_name(name)
    args = [_literal(argument, f"argument {i}") for i, argument in enumerate(call.args, 1)]
    kwargs = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise UsageError(f"**arguments of {name} are not read: write each as name=value")
        if keyword.arg == "optimizer":
            raise UsageError(f"leave the optimizer of {name} out: it is supplied")
        if keyword.arg in kwargs:
            raise UsageError(f"{_short(keyword.arg)} is given twice to {name}")
        kwargs[keyword.arg] = _literal(keyword.value, keyword.arg)
    return Call(name, args, kwargs)


def _check_name(name: str) -> None:
    from . import lr_scheduler

    if name == "LambdaLR":
        raise UsageError("LambdaLR takes a function, which is code, and text is never run: use plotting.lr_curve")
    names = sorted(set(lr_scheduler.__all__) - {"LambdaLR"})
    if name not in names:
        raise UsageError(f"{_short(name)} is not a scheduler of fused_sched; known are {', '.join(names)}")


def _literal(node: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UsageError(f"{what} must be a number, a string, True, False, None or a list of such values") from None


def plot(options: argparse.Namespace) -> None:
    """Draw the schedule that ``options`` describes; raises :class:`UsageError` with the one line to show."""
    from . import lr_scheduler, plotting

    if not 1 <= options.steps <= MAX_STEPS:
        raise UsageError(f"--steps={options.steps} must be from 1 to {MAX_STEPS}")
    if not (math.isfinite(options.lr) and options.lr > 0):
        raise UsageError(f"--lr={options.lr} must be a finite number above 0")
    call = parse_call(options.schedule)
    try:
        plotting.check_suffix(options.output)  # before a run that may take minutes
    except ValueError as error:
        raise UsageError(f"--output: {_one_line(error)}") from None

    scheduler_class = getattr(lr_scheduler, call.name)
    keys = ("lr", "momentum") if options.momentum else ("lr",)
    values = _run(lambda optimizer: scheduler_class(optimizer, *call.args, **call.kwargs), call.name, keys, options)
    panels = {"learning rate": {"lr": values["lr"]}}
    if options.momentum:
        panels["momentum"] = {"momentum": values["momentum"]}
    try:
        plotting.draw_panels(panels, options.output, title=_short(" ".join(options.schedule.split()), 110, quote=False))
    except (ImportError, OSError) as error:
        raise UsageError(_one_line(error)) from None
    first_bad = next((i for i, value in enumerate(values["lr"]) if not math.isfinite(value)), None)
    if first_bad is not None:
        print(f"note: the learning rate is {values['lr'][first_bad]} at step {first_bad}: such steps are not drawn")
    print(f"{options.output}: {options.steps} steps of {call.name}, lr {values['lr'][0]:g} to {values['lr'][-1]:g}")


def _run(
    make_scheduler: Callable[[Any], Any], name: str, keys: Sequence[str], options: argparse.Namespace
) -> dict[str, list[float]]:
    from . import plotting

    # Arguments of the wrong kind or size surface as many types of errors, and at the first step only in part.
    user_errors = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError)
    try:
        return plotting.curves(make_scheduler, options.steps, keys, lr=options.lr)
    except user_errors as error:
        raise UsageError(
            f"{name} does not work with these arguments: {type(error).__name__}: {_one_line(error)}"
        ) from None


def _one_line(message: object, limit: int = 400) -> str:
    if isinstance(message, KeyError) and message.args:
        message = message.args[0]  # as text, a KeyError is the repr of its message
    try:
        text = " ".join(str(message).split())
    except ValueError:  # a message may hold an integer that is too long to print
        text = "a value that cannot be printed"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _short(text: str, limit: int = 60, quote: bool = True) -> str:
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return repr(cut) if quote else cut


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fused_sched",
        description="Without a command: show versions, backends and what is chosen, for use or for a bug report.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    drawing = commands.add_parser(
        "plot",
        help="draw the learning rate of a scheduler",
        description="Draw the learning rate that a scheduler gives, step by step, by running it.",
        epilog=_PLOT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drawing.add_argument("schedule", help="the scheduler's call without the optimizer, as one quoted text")
    drawing.add_argument("--steps", type=int, default=1000, help=f"steps to run, 1 to {MAX_STEPS} (default 1000)")
    drawing.add_argument("--lr", type=float, default=0.1, help="the optimizer's learning rate (default 0.1)")
    drawing.add_argument("-o", "--output", default="curve.png", help="file to write, .png or .svg (default curve.png)")
    drawing.add_argument("--momentum", action="store_true", help="draw the momentum too, which starts at 0.9")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 when what was asked for cannot be done."""
    options = _parser().parse_args(argv)
    if options.command is None:
        print(describe())
        return 0
    try:
        plot(options)
    except UsageError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
