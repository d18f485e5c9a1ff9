"""Checks an installed wheel: what it contains, where it is imported from, and that it trains as torch does.

Without a compiler anywhere, and with another torch than the one that the wheel was built with.
"""

import argparse
import shutil
from importlib import metadata
from pathlib import Path

import torch

import fused_sched
from fused_sched import backends
from fused_sched.lr_scheduler import CosineAnnealingLR
from fused_sched.optim import AdamW


def check_contents(checkout: Path) -> None:
    """The package comes from the wheel, and the wheel holds no top-level ``kernels``."""
    location = Path(fused_sched.__file__).resolve()
    assert checkout.resolve() not in location.parents, f"imported from the checkout: {location}"
    files = {str(path) for path in metadata.files("fused_sched") or ()}
    top = {name.split("/")[0] for name in files}
    assert "kernels" not in top, f"a top-level kernels would shadow another package: {sorted(top)}"
    assert "fused_sched/kernels/__init__.py" in files, "the kernels are missing"
    assert "fused_sched/py.typed" in files, "py.typed is missing"
    reason = backends.reason_unavailable("cpu")
    assert reason is None, f"backend cpu is not available: {reason}"
    print(f"fused_sched {metadata.version('fused_sched')} from {location.parent}")


def check_surroundings(built_with: str) -> None:
    """Nothing could be compiled here, and torch is another one."""
    found = [name for name in ("c++", "g++", "gcc", "cc", "clang", "nvcc") if shutil.which(name)]
    assert not found, f"there is a compiler: {found}"
    assert torch.__version__ != built_with, f"the wheel was built with torch {built_with} too: try it with another"
    print(f"built with torch {built_with}, run with torch {torch.__version__}, no compiler")


def check_cuda_library() -> None:
    """It is in the wheel, and this torch takes its operators; only a GPU may be missing."""
    reason = backends.reason_unavailable("cuda")
    assert reason in (None, "no GPU was found"), f"backend cuda is not available: {reason}"
    assert hasattr(torch.ops.fused_sched, "cuda_update"), "the CUDA library has no operators"
    print(f"the CUDA library was loaded; {reason or 'there is a GPU'}")


def check_many_parameters() -> None:
    """One optimizer with 1,000 parameters, ten steps with a fused schedule: backend cpu, and torch's numbers."""
    generator = torch.Generator().manual_seed(1)
    starts = [torch.randn(1 + i % 64, generator=generator) for i in range(1000)]
    ours = [torch.nn.Parameter(start.clone()) for start in starts]
    torchs = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer, expected = AdamW(ours, lr=1e-2), torch.optim.AdamW(torchs, lr=1e-2)
    scheduler = CosineAnnealingLR(optimizer, T_max=10, fused=True)
    expected_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(expected, T_max=10)
    for _ in range(10):
        for mine, other in zip(ours, torchs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step()
        scheduler.step()
        expected.step()
        expected_scheduler.step()
    torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-6)
    assert optimizer.backend.name == "cpu", optimizer.backend.name
    print(f"an optimizer on {len(ours):,} parameters: backend {optimizer.backend.name}; ten steps agree with torch")


def train(optimizer_class: type, scheduler_class: type) -> tuple[torch.Tensor, list[float]]:
    """Ten steps on a fixed problem: the final weights, and the learning rate after every step."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(32, 8, generator=generator), torch.randn(32, 4, generator=generator)
    weights = torch.nn.Parameter(torch.randn(8, 4, generator=generator))
    optimizer = optimizer_class([weights], lr=1e-2, weight_decay=0.1)
    scheduler = scheduler_class(optimizer, T_max=10)
    rates = []
    for _ in range(10):
        optimizer.zero_grad()
        (inputs @ weights - targets).square().mean().backward()
        optimizer.step()
        scheduler.step()
        rates.append(float(scheduler.get_last_lr()[0]))
    return weights.detach(), rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="where it must not be imported from")
    parser.add_argument("--built-with", required=True, help="the torch that the wheel was built with")
    parser.add_argument("--cuda", action="store_true", help="the wheel has the CUDA library")
    chosen = parser.parse_args()
    check_contents(chosen.checkout)
    check_surroundings(chosen.built_with)
    weights, rates = train(AdamW, CosineAnnealingLR)
    expected_weights, expected_rates = train(torch.optim.AdamW, torch.optim.lr_scheduler.CosineAnnealingLR)
    # The same float64 recurrence gives the same rates; the float32 update may round differently.
    torch.testing.assert_close(rates, expected_rates, rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)
    print("ten steps of AdamW with CosineAnnealingLR agree with torch")
    check_many_parameters()
    if chosen.cuda:
        check_cuda_library()


if __name__ == "__main__":
    main()
