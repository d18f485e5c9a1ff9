"""Command line: ``python -m fused_sched`` describes the installation, ``... plot`` draws a schedule."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

ENVIRONMENT = {
    "FUSED_SCHED_BACKEND": "backend to use instead of the automatic choice",
    "FUSED_SCHED_CPU_CAPABILITY": "instruction set of the cpu backend (portable, avx2, avx512), instead of the best",
    "FUSED_SCHED_BUILD_CPU": "when building: 0 leaves the C++ extension out, 1 makes its failure an error",
    "FUSED_SCHED_BUILD_CUDA": "when building: 0 leaves the CUDA library out, 1 makes its failure an error",
    "TRITON_INTERPRET": "1 runs the triton kernels on the CPU, slowly, for tests",
}
MAX_TEXT = 10_000  # characters of a schedule given as text
MAX_DEPTH = 16  # lists of schedulers inside one another
MAX_STEPS = 10_000_000

_PLOT_EXAMPLE = """\
examples:
  python -m fused_sched plot "CyclicLR(base_lr=0.001, max_lr=0.1, step_size_up=50)" --steps 600 -o curve.png
  python -m fused_sched plot "SequentialLR([LinearLR(0.1, total_iters=50), ExponentialLR(0.99)], milestones=[50])"
  python -m fused_sched plot "get_scheduler('cosine', num_warmup_steps=100, num_training_steps=1000)"

The text is read, never run: a scheduler's name with numbers, strings, lists and True/False/None as arguments,
without the optimizer; a list may hold schedulers. Those that take a function, such as LambdaLR, cannot be
drawn from here, because a function is code, nor can those that follow a metric, which only training gives.
"""

_FUNCTION = (
    "takes a function, which is code, and text is never run: draw what fused_sched.schedules.lr_curve gives for it"
)
_METRIC = "follows a metric, which only training gives, so there is no curve to draw"
_REFUSED = {
    "LambdaLR": _FUNCTION,
    "MultiplicativeLR": _FUNCTION,
    "ParamScheduler": _FUNCTION,
    "FeedbackLR": _FUNCTION,
    "KLAdaptiveLR": _METRIC,
    "ReduceLROnPlateau": _METRIC,
    "get_reduce_on_plateau_schedule": _METRIC,
}
# Arguments of the wrong kind or size surface as many types of errors, and at the first step only in part.
_USER_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError)


class UsageError(Exception):
    """What the user gave cannot be used; the message is the one line to show."""


class Call(NamedTuple):
    """A scheduler's name and its arguments without the optimizer; a list in them may hold calls."""

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
        text: one call of a scheduler or recipe of :mod:`fused_sched.lr_scheduler` with literal arguments, and
            with lists of such calls, at most :data:`MAX_DEPTH` of them inside one another.

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
    return _read_call(call, 0)


def _read_call(call: ast.Call, depth: int) -> Call:
    if not isinstance(call.func, ast.Name):
        raise UsageError("a scheduler in a list is called by its name alone, such as StepLR(step_size=30)")
    name = call.func.id
    _check_name(name)
    args = [_value(argument, f"argument {i} of {name}", depth) for i, argument in enumerate(call.args, 1)]
    kwargs: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise UsageError(f"**arguments of {name} are not read: write each as name=value")
        if keyword.arg == "optimizer":
            raise UsageError(f"leave the optimizer of {name} out: it is supplied")
        if keyword.arg in kwargs:
            raise UsageError(f"{_short(keyword.arg)} is given twice to {name}")
        kwargs[keyword.arg] = _value(keyword.value, f"{keyword.arg} of {name}", depth)
    return Call(name, args, kwargs)


def _schedulers() -> dict[str, Callable[..., Any]]:
    """What can be drawn, by name."""
    from . import lr_scheduler
    from .lr_scheduler import recipes

    makers = {name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__}
    makers |= {name: getattr(recipes, name) for name in recipes.__all__}
    return {
        name: make
        for name, make in makers.items()
        if name not in _REFUSED and "optimizer" in inspect.signature(make).parameters
    }


def _check_name(name: str) -> None:
    if name in _REFUSED:
        raise UsageError(f"{name} {_REFUSED[name]}")
    known = _schedulers()
    if name not in known:
        raise UsageError(f"{_short(name)} is not a scheduler of fused_sched; known are {', '.join(sorted(known))}")


def _value(node: ast.expr, what: str, depth: int) -> Any:
    """A literal, or a list in which schedulers stand."""
    if isinstance(node, (ast.List, ast.Tuple)) and any(isinstance(element, ast.Call) for element in node.elts):
        return [_element(element, f"element {i} of {what}", depth + 1) for i, element in enumerate(node.elts, 1)]
    if isinstance(node, ast.Call):
        raise UsageError(f"{what} is a call, but schedulers inside a scheduler stand in a list: [...]")
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UsageError(
            f"{what} must be a number, a string, True, False, None or a list of such values or of schedulers"
        ) from None


def _element(node: ast.expr, what: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise UsageError(f"the schedulers are nested too deeply: at most {MAX_DEPTH} levels of lists are read")
    return _read_call(node, depth) if isinstance(node, ast.Call) else _value(node, what, depth)


def make_scheduler(call: Call, optimizer: Any) -> Any:
    """The scheduler that ``call`` describes, with those in its lists, all on ``optimizer``.

    Raises:
        UsageError: the arguments do not fit.
    """

    def made(value: Any) -> Any:
        if isinstance(value, Call):
            return make_scheduler(value, optimizer)
        return [made(element) for element in value] if isinstance(value, list) else value

    args, kwargs = [made(value) for value in call.args], {key: made(value) for key, value in call.kwargs.items()}
    make = _schedulers()[call.name]
    # first in most signatures, second in those of ChainedScheduler and get_scheduler
    position = list(inspect.signature(make).parameters).index("optimizer")
    if position <= len(args):
        args.insert(position, optimizer)
    else:
        kwargs["optimizer"] = optimizer
    try:
        scheduler = make(*args, **kwargs)
    except _USER_ERRORS as error:
        raise _does_not_work(call.name, error) from None
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UsageError(f"{call.name} here makes a ReduceLROnPlateau, which {_METRIC}")
    return scheduler


def _does_not_work(name: str, error: Exception) -> UsageError:
    return UsageError(f"{name} does not work with these arguments: {type(error).__name__}: {_one_line(error)}")


def plot(options: argparse.Namespace) -> None:
    """Draw the schedule that ``options`` describes; raises :class:`UsageError` with the one line to show."""
    from . import plotting, schedules

    if not 1 <= options.steps <= MAX_STEPS:
        raise UsageError(f"--steps={options.steps} must be from 1 to {MAX_STEPS}")
    if not (math.isfinite(options.lr) and options.lr > 0):
        raise UsageError(f"--lr={options.lr} must be a finite number above 0")
    call = parse_call(options.schedule)
    try:
        plotting.check_suffix(options.output)  # before a run that may take minutes
    except ValueError as error:
        raise UsageError(f"--output: {_one_line(error)}") from None

    keys = ("lr", "momentum") if options.momentum else ("lr",)
    try:
        values = schedules.curves(functools.partial(make_scheduler, call), options.steps, keys, lr=options.lr)
    except _USER_ERRORS as error:  # at some step
        raise _does_not_work(call.name, error) from None
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
