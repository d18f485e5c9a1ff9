"""The update rules: the scalars of one parameter, and the update of a block of elements.

The same operations in the same order as csrc/adam.h and csrc/sgd.h, explicit fused multiply-adds
included, so that the backends agree bit for bit wherever no power is involved. (A product with -1.0
stands for a minus, which Triton 3.6 computes as 0 - x, with the wrong zero.) Kernels must be compiled
without floating-point fusion. Scalars are computed in float64 and rounded once to the compute type.
"""

import triton
import triton.language as tl

from .layout import (
    BETA1,
    BETA2,
    DAMPENING,
    DECOUPLED,
    EPS,
    FLAGS_FIELD,
    LR,
    MAXIMIZE,
    MOMENTUM,
    NESTEROV,
    WEIGHT_DECAY,
)
from .numerics import divide, maximum, power, square_root

SGD = tl.constexpr(0)
ADAM = tl.constexpr(1)


@triton.jit
def adam_scalars(row, count, T: tl.constexpr):
    """Scalars of Adam, as type T.

    Args:
        row: pointer to the group's fields, float64.
        count: updates applied to the parameter so far, int64.
    """
    flags = tl.load(row + FLAGS_FIELD).to(tl.int32)
    decoupled = (flags & DECOUPLED) != 0
    lr = tl.load(row + LR)
    decay = tl.load(row + WEIGHT_DECAY)
    beta1 = tl.load(row + BETA1)
    beta2 = tl.load(row + BETA2)
    eps = tl.load(row + EPS)
    t = count.to(tl.float64) + 1.0
    sign = tl.where((flags & MAXIMIZE) != 0, -1.0, 1.0)
    shrink = tl.where(decoupled & (decay != 0.0), 1.0 - lr * decay, 1.0)
    coupled = tl.where(decoupled, 0.0, decay)
    root_correction = tl.sqrt(1.0 - power(beta2, t))
    step = (lr / (1.0 - power(beta1, t))) * -1.0
    grad_weight = (1.0 - beta1).to(T)
    # torch.lerp(m, g, w) starts from the nearer end
    near = grad_weight < 0.5
    weight = tl.where(near, grad_weight, grad_weight - 1.0)
    return (
        sign.to(T),
        shrink.to(T),
        coupled.to(T),
        near,
        weight,
        beta2.to(T),
        (1.0 - beta2).to(T),
        root_correction.to(T),
        eps.to(T),
        step.to(T),
    )


@triton.jit
def adam_block(scalars, p, g, m, v, largest, amsgrad, AMSGRAD: tl.constexpr):
    """New (p, m, v, largest); ``amsgrad``: whether this parameter keeps ``largest``."""
    sign, shrink, coupled, near, weight, beta2, square_weight, root_correction, eps, step = scalars
    g = g * sign
    p = p * shrink
    g = tl.where(coupled != 0.0, tl.fma(coupled, p, g), g)
    m = tl.fma(weight, g - m, tl.where(near, m, g))
    v = tl.fma(square_weight * g, g, beta2 * v)
    under_root = v
    if AMSGRAD:
        largest = maximum(largest, v)
        under_root = tl.where(amsgrad, largest, v)
    root = square_root(under_root)
    p = p + divide(step * m, divide(root, root_correction) + eps)
    return p, m, v, largest


@triton.jit
def sgd_scalars(row, count, used, T: tl.constexpr):
    """Scalars of SGD, as type T; arguments as in :func:`adam_scalars`; ``used``: momentum is not 0."""
    flags = tl.load(row + FLAGS_FIELD).to(tl.int32)
    return (
        tl.where((flags & MAXIMIZE) != 0, -1.0, 1.0).to(T),
        tl.load(row + WEIGHT_DECAY).to(T),
        tl.load(row + MOMENTUM).to(T),
        (1.0 - tl.load(row + DAMPENING)).to(T),
        (flags & NESTEROV) != 0,
        used,
        count == 0,
        (tl.load(row + LR) * -1.0).to(T),
    )


@triton.jit
def sgd_block(scalars, p, g, buffer, MOMENTUM_USED: tl.constexpr):
    """New (p, buffer)."""
    sign, decay, momentum, grad_weight, nesterov, used, first, step = scalars
    g = g * sign
    g = tl.where(decay != 0.0, tl.fma(decay, p, g), g)
    if MOMENTUM_USED:
        buffer = tl.where(first, g, tl.fma(grad_weight, g, momentum * buffer))
        along = tl.where(nesterov, tl.fma(momentum, buffer, g), buffer)
        g = tl.where(used, along, g)
    p = tl.fma(step, g, p)
    return p, buffer
