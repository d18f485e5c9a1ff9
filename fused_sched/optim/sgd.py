"""SGD."""

from __future__ import annotations

import torch
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .. import rules
from ..backends import Backend
from ..step_options import StepKeywords
from .fused_optimizer import FusedOptimizer


class SGD(FusedOptimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum, after :class:`torch.optim.SGD`.

    Args:
        params: parameters, named parameters or param groups; float32, float64, bfloat16, float16 or complex.
        lr, momentum, dampening, weight_decay, nesterov, maximize: as in torch.
        foreach, fused: accepted for torch's sake; the backend alone decides how the update runs.
        differentiable: not supported.
        backend: name of a backend, or a backend; default: the best one for the parameters' device.
        step: what else a step does; see :class:`FusedOptimizer`.

    Raises:
        ValueError: a hyperparameter is out of range, or ``differentiable=True``.
        TypeError: a parameter's dtype or layout is not supported.
    """

    _rule = rules.SGD

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | torch.Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str | Backend | None = None,
        **step: Unpack[StepKeywords],
    ) -> None:
        self._refuse_differentiable(differentiable)
        torch.optim.SGD.__init__(
            self,
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
        )
        self._start(backend, step)
