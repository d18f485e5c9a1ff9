"""Contenders from other libraries. One that is not installed is named as such in the row.

``PEERS_PATH`` may name folders (separated as in ``PATH``) into which wheels were unpacked.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from contenders import Absent, Built, Contender, eager, in_graph, stock_cosine
from device import Host
from problems import EPS, WEIGHT_DECAY, Tensors

for _folder in os.environ.get("PEERS_PATH", "").split(os.pathsep):
    if _folder and _folder not in sys.path:
        sys.path.append(_folder)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Absent("not installed" if error.name == name else f"not installed: {error}") from error
    except Exception as error:  # a library that is there and cannot be loaded
        raise Absent(f"installed, but cannot be imported: {type(error).__name__}") from error


def _only_adamw(tensors: Tensors, *recipes: str) -> None:
    problem = tensors.problem
    if problem.rule != "AdamW":
        raise Absent(f"not supported: {problem.rule}")
    if problem.recipe not in recipes:
        raise Absent(f"not supported: {problem.recipe}")


def optimi(name: str, **options: Any) -> Contender:
    """torch-optimi's AdamW: Triton kernels on a GPU, one launch a tensor; foreach on the CPU."""

    def build(tensors: Tensors, device: Host) -> Built:
        library = _library("optimi")
        _only_adamw(tensors, "float32", "bfloat16")
        if device.gpu and not device.dry:
            options.setdefault("triton", True)
        # Kahan summation would be another algorithm, with one more state
        optimizer = library.AdamW(
            tensors.groups(), lr=1e-3, betas=tensors.problem.betas, eps=EPS, weight_decay=WEIGHT_DECAY,
            kahan_sum=False, **options,
        )  # fmt: skip
        return eager(optimizer, stock_cosine(optimizer))

    return Contender(name, build)


def bitsandbytes(name: str) -> Contender:
    """bitsandbytes' AdamW with 32-bit states, one launch a tensor."""

    def build(tensors: Tensors, device: Host) -> Built:
        library = _library("bitsandbytes")
        _only_adamw(tensors, "float32", "bfloat16, states float32")
        optimizer = library.optim.AdamW32bit(
            tensors.groups(), lr=1e-3, betas=tensors.problem.betas, eps=EPS, weight_decay=WEIGHT_DECAY
        )
        return eager(optimizer, stock_cosine(optimizer))

    return Contender(name, build)


def apex_like(name: str = "Apex-like (our replica), graph") -> Contender:
    """Our own writing of Apex's launch pattern: see peers/apex_like.cu."""

    def build(tensors: Tensors, device: Host) -> Built:
        _only_adamw(tensors, "float32", "bfloat16, states float32")
        from peers.apex_like import ApexLike, Unavailable

        try:
            optimizer = ApexLike(tensors.groups(tensor_lr=True), tensors.problem.betas, EPS, WEIGHT_DECAY)
        except Unavailable as why:
            raise Absent(str(why)) from why
        scheduler = stock_cosine(optimizer)
        return in_graph(eager(optimizer, scheduler), optimizer.step, scheduler.step)

    return Contender(name, build)
