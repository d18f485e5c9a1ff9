"""What parameters, gradients and states must be for an update to use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..memory.parameter_table import DTYPES, KINDS, real_dtype
from ..memory.shards import has_partial, how_spread, is_shard, local, spread_alike
from ..memory.values import USE_TORCHS, check_values
from ..rules import Rule
from ..step_options import REMAINDER, StepOptions


def why_not_trainable(p: Any, device: torch.device | None, options: StepOptions) -> Exception | None:
    """What keeps a parameter from being updated; None if nothing does.

    Args:
        p: the parameter.
        device: of the optimizer; None if it is not known yet.
        options: of the optimizer.

    Returns:
        TypeError for its kind, layout or dtype, ValueError for its device.
    """
    if has_partial(p):
        return TypeError(
            f"a parameter is {how_spread(p)}, whose parts have still to be added up: redistribute() it to Shard or "
            "Replicate before the optimizer is made"
        )
    p = local(p)
    if isinstance(p, FakeTensor) or torch._is_functional_tensor(p):
        return TypeError(
            f"a parameter is a {type(p).__name__} without values: make the optimizer of parameters made outside of "
            f"FakeTensorMode and functionalization, or {USE_TORCHS}"
        )
    if is_traceable_wrapper_subclass(p):
        return TypeError(
            f"a parameter, or the part of a DTensor that is here, is a {type(p).__name__}, a tensor subclass without "
            "memory of its own: use torch.optim's class of the same name for it"
        )
    if p.layout != torch.strided:
        return TypeError(
            f"a parameter has layout {p.layout}; only dense parameters are supported: "
            "use torch.optim.SparseAdam or torch.optim.SGD for it"
        )
    if real_dtype(p.dtype) not in DTYPES:
        return TypeError(
            f"a parameter has dtype {p.dtype}; supported are float32, float64, bfloat16, float16, "
            "complex64 and complex128: convert it or leave it out"
        )
    if p.device.type == "meta":
        return TypeError("a parameter is on the meta device: materialise the model before the optimizer")
    if device is not None and p.device != device:
        return ValueError(
            f"a parameter is on {p.device}, the optimizer on {device}; one optimizer drives one device: make one "
            "optimizer for each device, and move a model before its optimizer is made"
        )
    return _why_not_so_precise(p.dtype, options)


def _why_not_so_precise(param: torch.dtype, options: StepOptions) -> TypeError | None:
    """What keeps a parameter from having the states that are asked for."""
    if options.master_weights == "remainder" and param == torch.float16:
        return TypeError(
            "master_weights='remainder' keeps what a bfloat16 lacks of a float32, but a parameter is of torch.float16: "
            "use master_weights='float32', or make an optimizer of its own for it"
        )
    states = options.state_dtype
    if states is not None and (param, param, states) not in KINDS:
        fitting = [str(p) for p in DTYPES if (p, p, states) in KINDS]
        return TypeError(
            f"state_dtype={states} goes with parameters of {', '.join(fitting)}, but one is of {param}: make an "
            "optimizer of its own for it"
        )
    return None


def check_trainable(p: torch.Tensor, device: torch.device | None, options: StepOptions) -> None:
    """Raise what :func:`why_not_trainable` says."""
    reason = why_not_trainable(p, device, options)
    if reason is not None:
        raise reason


def check_params(
    groups: Iterable[Mapping[str, Any]], options: StepOptions, device: torch.device | None = None
) -> torch.device | None:
    """Make sure that all parameters that want a gradient can be updated, and are on one device.

    Returns:
        The device: that given, else that of the first parameter that wants a gradient, else of the first one.

    Raises:
        TypeError, ValueError: see :func:`why_not_trainable`.
    """
    params = [p for group in groups for p in group["params"]]
    for p in params:
        if p.requires_grad:
            check_trainable(p, device, options)
            device = device or p.device
    return device or next((p.device for p in params if p.device.type != "meta"), None)


def check_gradients(groups: Iterable[Mapping[str, Any]], kind: str, takes_sparse: bool) -> None:
    """Raise RuntimeError if a gradient is sparse and may not be, TypeError if it has no values, or not its parameter's.

    ValueError, if it is a DTensor that is not spread as its parameter is.
    """
    for group in groups:
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            _check_spread(p, g)
            g = local(g)
            if g.layout == torch.sparse_coo and takes_sparse:
                continue
            if g.layout != torch.strided:
                raise RuntimeError(
                    f"{kind} got a gradient with layout {g.layout}; only dense gradients are supported: "
                    "use sparse=False in the embedding, torch.optim.SparseAdam or SGD"
                )
            check_values("a gradient", g)


def _check_spread(p: torch.Tensor, g: torch.Tensor) -> None:
    """Raise TypeError or ValueError unless each process has the same part of a gradient as of its parameter."""
    if is_shard(p) != is_shard(g):
        raise TypeError(
            f"a parameter is {how_spread(p)}, but its gradient is {how_spread(g)}: assign a gradient of its "
            "parameter's kind, as distribute_tensor() or full_tensor() makes it"
        )
    if not spread_alike(p, g):
        raise ValueError(
            f"a parameter is {how_spread(p)}, but its gradient is {how_spread(g)}: assign "
            "p.grad = p.grad.redistribute(p.device_mesh, p.placements) before step()"
        )


def check_complete(rule: Rule, state: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise KeyError if a state that has begun lacks something, where torch raises it too."""
    if rule.step_key is None or not state:
        return
    for key in (rule.step_key, *keys):
        if key not in state:
            raise KeyError(
                f"the state of a parameter has {', '.join(map(repr, state))}, but no {key!r}: assign it, or delete "
                "the whole entry, so that it begins anew"
            )


def check_shape(p: torch.Tensor, key: str, tensor: Any) -> None:
    """Raise TypeError or ValueError if a state is not a tensor of its parameter's shape."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"state {key!r} is {tensor!r}, but must be a tensor of its parameter's shape: assign one")
    check_values(f"state {key!r}", local(tensor))
    if tensor.shape != p.shape:
        raise ValueError(
            f"state {key!r} has shape {tuple(tensor.shape)}, but its parameter has {tuple(p.shape)}: "
            "assign a tensor of the parameter's shape, or delete the entry"
        )
    if not spread_alike(p, tensor):
        raise ValueError(
            f"state {key!r} is {how_spread(tensor)}, but its parameter is {how_spread(p)}: redistribute() it, or make "
            "it by distribute_tensor(), as torch.distributed.checkpoint does, or delete the entry"
        )


def check_dtype(key: str, tensor: torch.Tensor) -> None:
    """Raise TypeError if what are bits of numbers is given as numbers."""
    if key == REMAINDER and tensor.dtype != torch.int16:
        raise TypeError(
            f"state {key!r} has dtype {tensor.dtype}, but must have torch.int16, the bits that parameters lack: assign "
            "such a tensor, or delete it, and the parameter is all that counts"
        )


def refuse_sparse(p: torch.Tensor, averaged: bool, options: StepOptions) -> None:
    """torch's operations, which apply a sparse gradient, know only what the parameter itself stores."""
    if averaged:
        raise RuntimeError(
            "ema_decay with a sparse gradient, whose parameter is not averaged: put the parameter into a group "
            "without ema_decay, or use dense gradients"
        )
    if options.state_dtype is not None:
        raise RuntimeError(
            f"state_dtype={options.state_dtype} with a sparse gradient, whose momentum buffer has its dtype: use dense "
            "gradients, or an optimizer of its own for the embedding"
        )
    if options.master(p.dtype) is not None:
        raise RuntimeError(
            f"master_weights={options.master_weights!r} with a sparse gradient, which is applied to the {p.dtype} "
            "parameter itself: use dense gradients, or an optimizer of its own for the embedding"
        )
    if options.rounds_by_chance(p.dtype):
        raise RuntimeError(
            f"stochastic_rounding=True with a sparse gradient, by which a {p.dtype} parameter would be rounded to the "
            "nearest: use dense gradients, or an optimizer of its own for the embedding"
        )


def refuse_shared_elements(p: torch.Tensor) -> None:
    """An update of such a parameter could not be written back."""
    if any(stride == 0 and size > 1 for size, stride in zip(p.shape, p.stride(), strict=True)):
        raise RuntimeError(
            f"a parameter of shape {tuple(p.shape)} and strides {p.stride()} has elements that share memory, as after "
            "expand(): clone() it before the optimizer is made"
        )
    if p.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("a parameter was made in inference mode, where it cannot be updated outside: clone() it")
