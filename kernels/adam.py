"""Adam and AdamW: the scalars of one parameter, and the update of a block of elements; see rules.py."""

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .fields import load_field
from .layout import BETA1, BETA2, DECOUPLED, EPS, FLAGS_FIELD, LR, MAXIMIZE, WEIGHT_DECAY
from .numerics import divide, maximum, power, square_root

if TYPE_CHECKING:
    from .variants import Options


@triton.jit
def scalars(row, count, has_maximum, T: tl.constexpr, BOUND: tl.constexpr):
    """Scalars of Adam, as type T; see :class:`rules.KernelRule`."""
    flags = tl.load(row + FLAGS_FIELD).to(tl.int32)
    decoupled = (flags & DECOUPLED) != 0
    lr = load_field(row + LR, BOUND)
    decay = load_field(row + WEIGHT_DECAY, BOUND)
    beta1 = load_field(row + BETA1, BOUND)
    beta2 = load_field(row + BETA2, BOUND)
    eps = load_field(row + EPS, BOUND)
    t = count.to(tl.float64) + 1.0
    sign = tl.where((flags & MAXIMIZE) != 0, -1.0, 1.0).to(T)
    # as type T before the powers, which need all registers there are
    shrink = tl.where(decoupled & (decay != 0.0), 1.0 - lr * decay, 1.0).to(T)
    coupled = tl.where(decoupled, 0.0, decay).to(T)
    eps = eps.to(T)
    root_correction = tl.sqrt(1.0 - power(beta2, t)).to(T)
    square_weight = (1.0 - beta2).to(T)
    beta2 = beta2.to(T)
    grad_weight = (1.0 - beta1).to(T)
    step = ((lr / (1.0 - power(beta1, t))) * -1.0).to(T)
    # torch.lerp(m, g, w) starts from the nearer end
    near = grad_weight < 0.5
    weight = tl.where(near, grad_weight, grad_weight - 1.0)
    values = sign, shrink, coupled, near, weight, beta2, square_weight, root_correction, eps, step
    return values, has_maximum


@triton.jit
def block(scalars, p, g, m, v, largest, amsgrad, AMSGRAD: tl.constexpr):
    """New (p, m, v, largest); see :class:`rules.KernelRule`."""
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


def most_registers(width: int, options: "Options") -> int:
    """See :class:`rules.KernelRule`.

    With 64, eight programs fit a processor. Where that is enough for all of a launch, nothing is worth more; else
    float32 is faster with some more registers and fewer programs. With a schedule, the maximum needs some more not to
    be spilled. Registers are handed out by eights: 96 of them are no more than 89.
    """
    if options.optional_state:
        fused = options.advance is not None
        roomy = options.at_once and not (options.scaled and fused)
        return {2: 96 if fused else 80, 4: 72 if roomy else 80, 8: 96}[width]
    return {2: 64, 4: 64 if options.at_once else 72, 8: 80}[width]
