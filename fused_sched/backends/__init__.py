"""Backends, and which one is used where.

A backend named explicitly (``backend=`` of an optimizer, or ``FUSED_SCHED_BACKEND``) that cannot run
raises with the reason. The automatic choice takes the first that can; ``python -m fused_sched`` says
which and why.
"""

from __future__ import annotations

import importlib
import os
from functools import cache

import torch

from ..memory.platforms import TORCH, Platform
from ..notice import warn
from .base import Backend, Measurement, Update

__all__ = ["NAMES", "Backend", "Measurement", "Update", "choose", "make", "reason_unavailable", "why"]

ENVIRONMENT = "FUSED_SCHED_BACKEND"
_MODULES = {"triton": "triton", "cuda": "cuda", "cpu": "cpu", "reference": "reference"}
_AUTOMATIC: dict[str, tuple[str, ...]] = {
    "triton": ("cuda",),
    "cuda": ("cuda",),
    "cpu": ("cpu",),
    "reference": ("cpu", "cuda"),
}
_DEVICES = dict(_AUTOMATIC)
if os.environ.get("TRITON_INTERPRET") == "1":
    # The interpreter follows addresses on the host. It is slow, so it runs only when named.
    _AUTOMATIC["triton"], _DEVICES["triton"] = (), ("cpu",)
NAMES: tuple[str, ...] = tuple(_MODULES)  # in order of preference


def make(name: str, platform: Platform) -> Backend:
    """A backend of its own, which asks ``platform`` about devices.

    Raises:
        ImportError: it cannot run here; the message has the reason.
    """
    made: Backend = importlib.import_module(f".{_MODULES[name]}", __name__).make(platform)
    return made


@cache
def _load(name: str) -> Backend | str:
    try:
        return make(name, TORCH)
    except ImportError as error:
        return str(error)


def reason_unavailable(name: str) -> str | None:
    """Why a backend cannot run on this machine; None if it can."""
    loaded = _load(name)
    return loaded if isinstance(loaded, str) else None


def choose(device: torch.device, name: str | Backend | None = None) -> Backend:
    """The backend for tensors on ``device``.

    Args:
        device: where the parameters are.
        name: a backend's name; default the environment variable ``FUSED_SCHED_BACKEND``, else automatic.
            A :class:`Backend` is taken as it is, whatever the device.

    Raises:
        ValueError: the name is unknown, or that backend does not serve this kind of device.
        RuntimeError: the named backend cannot run here; the message has the reason.
    """
    if isinstance(name, Backend):
        return name
    origin = "backend" if name is not None else ENVIRONMENT
    name = name if name is not None else os.environ.get(ENVIRONMENT) or None
    if name is None:
        for candidate in NAMES:
            if device.type in _AUTOMATIC[candidate]:
                loaded = _load(candidate)
                if isinstance(loaded, Backend):
                    return loaded
        raise RuntimeError(f"no backend serves device type {device.type!r}: move the parameters to the CPU or a GPU")
    if name not in NAMES:
        raise ValueError(f"{origin}={name!r} is not a backend: choose one of {', '.join(NAMES)}")
    if device.type not in _DEVICES[name]:
        serving = [n for n in NAMES if device.type in _DEVICES[n]]
        raise ValueError(
            f"{origin}={name!r} serves {', '.join(_DEVICES[name])} tensors, but the parameters are on {device}: "
            f"choose one of {', '.join(serving) or 'none'}"
        )
    loaded = _load(name)
    if isinstance(loaded, str):
        raise RuntimeError(f"{origin}={name!r} cannot run here: {loaded}")
    return loaded


def why(device: torch.device) -> str:
    """One line: the backend used for ``device`` and the reason."""
    forced = os.environ.get(ENVIRONMENT)
    if forced:
        return f"{choose(device).name}: {ENVIRONMENT}={forced}"
    passed = [
        f"{name} is unavailable ({reason_unavailable(name)})"
        for name in NAMES[: NAMES.index(choose(device).name)]
        if device.type in _AUTOMATIC[name]
    ]
    return f"{choose(device).name}: {'; '.join(passed) or f'first choice for {device.type}'}"


def say_if_slow(device: torch.device, name: str | Backend | None) -> None:
    """Warn, once in a process, that ``reference`` runs because nothing better can, unless somebody asked for it.

    Args:
        device: where the parameters are.
        name: as :func:`choose` got it.
    """
    if name is None and not os.environ.get(ENVIRONMENT) and choose(device).name == "reference":
        _say_slow(why(device).partition(": ")[2])


@cache
def _say_slow(reason: str) -> None:
    warn(
        f"fused_sched updates by its slow backend 'reference', because {reason}. Install what is missing, then "
        "fused_sched again; or give backend='reference' to the optimizer, and this is not said"
    )
