"""Adam and AdamW against torch's for-loops and float64 runs of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizer_twins import ADAM_OPTIONS, EVERY_VARIANT, OPTIONS, Twins, assert_equal, assert_same, generator, normal

from fused_sched.optim import Adam

SIZES = [0, 1, 3, 15, 17, 1023]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
VARIANTS = [(name, case) for name, case in EVERY_VARIANT if name != "SGD"]


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "case"), VARIANTS)
def test_every_variant_follows_torch(name: str, case: str, dtype: torch.dtype, backend: str, seed: int) -> None:
    g = generator(seed)
    twins = Twins(name, [[normal(g, n, dtype) for n in SIZES]], backend, **OPTIONS[name][case])
    for steps in (1, 2, 3):
        twins.run(g, steps)
        assert_same(twins)


def _decays_into_the_gradient(name: str, options: dict[str, Any]) -> bool:
    return name == "Adam" and "weight_decay" in options and not options.get("decoupled_weight_decay")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "case"), VARIANTS)
def test_cpu_backend_moments_are_bit_equal_to_torch(
    name: str, case: str, dtype: torch.dtype, cpu_with_fma: str, seed: int
) -> None:
    """torch's vector square root is not correctly rounded, so parameters are not: see the tolerances.

    Where weight decay goes into the gradient, the moments see the parameters.
    """
    options = OPTIONS[name][case]
    g = generator(seed)
    twins = Twins(name, [[normal(g, n, dtype) for n in [*SIZES, 40003]]], cpu_with_fma, **options)
    steps = 1 if _decays_into_the_gradient(name, options) else 3
    twins.run(g, steps)
    for key, mine, torchs in twins.states():
        assert_equal(mine, torchs, key)


def test_betas_below_a_half_use_lerp_from_the_nearer_end(backend: str) -> None:
    """With beta1 = 0 the moment is the gradient, exactly, however large the moment was."""
    p = torch.zeros(3, requires_grad=True)
    optimizer = Adam([p], lr=0.1, betas=(0.0, 0.9), backend=backend)
    for gradient in ([1e20, -1e20, 1e8], [1.0, 2.0, 0.1]):
        p.grad = torch.tensor(gradient)
        optimizer.step()
    assert_equal(optimizer.state[p]["exp_avg"], torch.tensor([1.0, 2.0, 0.1]))


@pytest.mark.parametrize("case", ADAM_OPTIONS)
def test_step_by_hand_in_float64(case: str, backend: str) -> None:
    """Two steps written out with Python's own numbers."""
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **ADAM_OPTIONS[case]}
    b1, b2 = options["betas"]
    lr, p, m, v, largest = 0.05, 0.7, 0.0, 0.0, 0.0
    twins = Twins("Adam", [[torch.tensor([p], dtype=torch.float64)]], backend, lr=lr, **options)
    for t, gradient in enumerate((0.3, -0.2), start=1):
        twins.set_grads([torch.tensor([gradient], dtype=torch.float64)])
        twins.ours.step()
        g = -gradient if options.get("maximize") else gradient
        if options.get("decoupled_weight_decay"):
            p *= 1 - lr * options["weight_decay"]
        else:
            g += options["weight_decay"] * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        largest = max(largest, v)
        root = (largest if options.get("amsgrad") else v) ** 0.5 / (1 - b2**t) ** 0.5
        p -= lr / (1 - b1**t) * m / (root + options["eps"])
        assert twins.our_params[0].item() == pytest.approx(p, rel=1e-13)
