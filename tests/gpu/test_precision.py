"""Masters of 16-bit parameters on a GPU, in captured graphs too: torch's for-loop on float32 copies is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Graph
from optimizer_twins import OPTIONS
from precision_twins import PrecisionTwins, round_states
from tolerances import CLIPPED_RELATIVE, UPDATE_RELATIVE

FLOAT32 = UPDATE_RELATIVE[torch.float32]
# Around the widths of an access, a block's round and a chunk; one has no elements.
SHAPES = [(n,) for n in (3, 1031, 130, 0, 2051, 7)]
KEPT = [("float32", torch.bfloat16), ("float32", torch.float16), ("remainder", torch.bfloat16)]
every_kept = pytest.mark.parametrize(("kept", "dtype"), KEPT, ids=str)
every_rule = pytest.mark.parametrize(("name", "case"), [("SGD", "plain"), ("SGD", "nesterov"), ("AdamW", "amsgrad")])
Capture = Callable[[Body], Graph]


@pytest.fixture(autouse=True)
def _drawn_from_the_seed(seed: int) -> None:
    """Values and gradients."""


def one_element_off(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(values.reshape(-1), (1, 0))[1:].view(values.shape)


@pytest.mark.thin
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@every_kept
@every_rule
def test_values_are_torchs_float32_parameters(
    name: str, case: str, kept: str, dtype: torch.dtype, aligned: bool, gpu_backend: Any
) -> None:
    layout = torch.Tensor.clone if aligned else one_element_off
    twins = PrecisionTwins(
        name, gpu_backend, dtype, OPTIONS[name][case], shapes=SHAPES, device=DEVICE, layout=layout, kept=kept
    )
    for step in range(3):
        if step == 2:
            twins.write(0.25)
        twins.set_grads(without=[1] if step == 1 else [])
        twins.step()
        twins.assert_same(0.0 if name == "SGD" else FLOAT32)


@pytest.mark.thin
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@every_kept
@every_rule
@pytest.mark.slow
def test_gradients_of_float32_arrive_with_all_digits(
    name: str, case: str, kept: str, dtype: torch.dtype, aligned: bool, gpu_backend: Any
) -> None:
    layout = torch.Tensor.clone if aligned else one_element_off
    options, single = OPTIONS[name][case], torch.float32
    twins = PrecisionTwins(
        name, gpu_backend, dtype, options, shapes=SHAPES, device=DEVICE, layout=layout, kept=kept, grad_dtype=single
    )
    for step in range(3):
        twins.set_grads(without=[1] if step == 1 else [])
        twins.step()
        twins.assert_same(0.0 if name == "SGD" else FLOAT32)


@pytest.mark.thin
@pytest.mark.parametrize("grad_dtype", [None, torch.float32], ids=["", "float32 gradients"])
@every_kept
@every_rule
def test_replays_clip_average_and_see_what_is_written(
    name: str,
    case: str,
    kept: str,
    dtype: torch.dtype,
    grad_dtype: torch.dtype | None,
    gpu_backend: Any,
    capture: Capture,
    no_sync: Callable[[], Any],
) -> None:
    """A captured graph takes what is written to a parameter between replays."""
    around = {"max_grad_norm": 2.0, "ema_decay": 0.7, "skip_nonfinite": True, "zero_grad_in_step": True}
    options: dict[str, Any] = {"kept": kept, "grad_dtype": grad_dtype, **around}
    twins = PrecisionTwins(name, gpu_backend, dtype, OPTIONS[name][case], shapes=SHAPES, device=DEVICE, **options)
    twins.set_grads()
    twins.step()
    graph = capture(twins.ours.step)
    for step in range(4):
        if step == 2:
            twins.write(0.25)
        for p, q in zip(twins.params, twins.torch_params, strict=True):
            g = torch.randn(q.shape).to(twins.grad_dtype)
            p.grad.copy_(g.to(DEVICE))
            q.grad = g.float()
        with no_sync():
            graph.replay()
        torch.nn.utils.clip_grad_norm_(twins.torch_params, 2.0, foreach=False)
        twins.torchs.step()
        twins.averaged.update_parameters(twins.model)
        twins.assert_same(CLIPPED_RELATIVE[torch.float32])
    before = twins.values()
    for p in twins.params:
        p.grad.fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(before, twins.values(), strict=True))


@pytest.mark.parametrize("around", [{}, {"max_grad_norm": 2.0, "ema_decay": 0.7}], ids=["", "clipped and averaged"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.thin
def test_states_of_16_bits(name: str, around: dict[str, float], gpu_backend: Any) -> None:
    """One last place may decide to which side a state is rounded."""
    case = {"SGD": "nesterov", "AdamW": "amsgrad"}[name]
    options = {"master_weights": None, "state_dtype": torch.bfloat16, **around}
    twins = PrecisionTwins(
        name, gpu_backend, torch.float32, OPTIONS[name][case], shapes=SHAPES, device=DEVICE, **options
    )
    for _ in range(3):
        twins.set_grads()
        twins.step()
        round_states(twins.torchs)
        twins.assert_same(0.0 if name == "SGD" and not around else 1e-3)


@pytest.mark.thin
def test_one_launch(gpu_backend: Any, work: Callable[[Body], list[str]]) -> None:
    twins = PrecisionTwins("AdamW", gpu_backend, torch.bfloat16, shapes=SHAPES, device=DEVICE)
    twins.set_grads()
    twins.ours.step()
    assert ["update_kernel" in name for name in work(twins.ours.step)] == [True]
