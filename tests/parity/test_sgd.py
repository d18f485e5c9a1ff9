"""SGD against torch.optim.SGD's for-loop and a float64 run of it."""

from __future__ import annotations

import pytest
import torch
from optimizer_twins import SGD_OPTIONS, Twins, assert_equal, assert_same, generator, normal

SIZES = [0, 1, 3, 15, 17, 1023]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]


@pytest.mark.thin("triton")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SGD_OPTIONS)
def test_every_variant_follows_torch(case: str, dtype: torch.dtype, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins("SGD", [[normal(g, n, dtype) for n in SIZES]], backend, **SGD_OPTIONS[case])
    for steps in (1, 2, 3):
        twins.run(g, steps)
        assert_same(twins)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", SGD_OPTIONS)
def test_cpu_backend_is_bit_equal_to_torch(case: str, dtype: torch.dtype, cpu_with_fma: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins("SGD", [[normal(g, n, dtype) for n in [*SIZES, 40003]]], cpu_with_fma, **SGD_OPTIONS[case])
    twins.run(g, 3)
    for p, q in zip(twins.our_params, twins.torch_params, strict=True):
        assert_equal(p, q)
    for key, mine, torchs in twins.states():
        assert_equal(mine, torchs, key)
