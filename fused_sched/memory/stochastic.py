"""Rounding to 16 bits up or down by chance, as torch operations.

csrc/stochastic.h and kernels/stochastic.py do the same.

The random bits are words of Philox4x32-10 (Salmon et al., 2011). One call gives 16 bits for each of eight elements; its
counter has their place in memory, the number of updates so far and the parameter's stream, its key is the seed.
"""

from __future__ import annotations

import torch

from .parameter_table import is_dense

DRAWN = 8  # elements whose bits are drawn at a time
STREAMS = 2**32  # how many there can be
_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def draw_bits(seed: torch.Tensor, updates: torch.Tensor, stream: int, param: torch.Tensor) -> torch.Tensor:
    """16 random bits for each element of a parameter.

    Args:
        seed, updates: 0-d int64 tensors on the parameter's device.
        stream: of the parameter's state.
        param: of any shape.

    Returns:
        int64 tensor of the parameter's shape, from 0 to 65535.
    """
    number = torch.arange(-(-param.numel() // DRAWN), dtype=torch.int64, device=param.device)
    words = _philox([number & _LOW, number >> 32, stream + 0 * number, (updates & _LOW) + 0 * number], seed)
    halves = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], dim=1)
    bits = halves.reshape(-1)[: param.numel()]
    return bits.as_strided(param.shape, param.stride()) if is_dense(param) else bits.reshape(param.shape)


def _philox(counter: list[torch.Tensor], seed: torch.Tensor) -> list[torch.Tensor]:
    a, b, c, d = counter
    keys = [seed & _LOW, (seed >> 32) & _LOW]
    for _ in range(10):
        high_a, low_a = _product(a, _MULTIPLIERS[0])
        high_c, low_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ keys[0], low_c, high_a ^ d ^ keys[1], low_a
        keys = [(key + step) & _LOW for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return [a, b, c, d]


def _product(x: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and the lower 32 bits of a product of two such numbers, which int64 has no room for."""
    upper, lower = x * (factor >> 16), x * (factor & 0xFFFF)
    return (upper + (lower >> 16)) >> 16, ((upper << 16) + lower) & _LOW


def rounded_by_chance(value: torch.Tensor, chance: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A float32 as one of its two neighbours of 16 bits, each the likelier the nearer it is.

    Args:
        value: float32.
        chance: int64, 16 random bits for each element.
        dtype: bfloat16 or float16.

    Returns:
        Of ``dtype``; infinities and NaN as ever.
    """
    bits = value.contiguous().view(torch.int32).to(torch.int64)
    magnitude = bits & 0x7FFFFFFF
    if dtype == torch.bfloat16:
        finite, least_special = (magnitude + chance) >> 16, 255 << 23
    else:
        smallest_normal, least_special = 113 << 23, 143 << 23
        normal = (magnitude - (112 << 23) + (chance >> 3)) >> 13
        # in units of 2**-40, of which a subnormal's last digit has 2**16
        units = torch.where(magnitude < smallest_normal, value.abs(), 0.0) * 2.0**40
        finite = torch.where(magnitude < smallest_normal, (units.to(torch.int64) + chance) >> 16, normal)
    signed = finite | torch.where(bits < 0, 0x8000, 0)
    stored = signed.to(torch.int32).to(torch.int16).view(dtype).reshape(value.shape)
    return torch.where(magnitude >= least_special, value.to(dtype), stored)
