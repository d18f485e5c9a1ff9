"""Adam."""

from __future__ import annotations

import torch
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .. import rules
from ..backends import Backend
from ..step_options import StepKeywords
from .fused_optimizer import FusedOptimizer


class Adam(FusedOptimizer, torch.optim.Adam):
    """Adam (Kingma and Ba, 2015), after :class:`torch.optim.Adam`.

    Args:
        params: parameters, named parameters or param groups; float32, float64, bfloat16, float16 or complex.
        lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as in torch.
        foreach, capturable, fused: accepted for torch's sake; the backend alone decides how the update runs.
        differentiable: not supported.
        backend: name of a backend, or a backend; default: the best one for the parameters' device.
        step: what else a step does; see :class:`FusedOptimizer`.

    Raises:
        ValueError: a hyperparameter is out of range, or ``differentiable=True``.
        TypeError: a parameter's dtype or layout is not supported.
    """

    _rule = rules.ADAM

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float | torch.Tensor, float | torch.Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        backend: str | Backend | None = None,
        **step: Unpack[StepKeywords],
    ) -> None:
        self._refuse_differentiable(differentiable)
        torch.optim.Adam.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._start(backend, step)
