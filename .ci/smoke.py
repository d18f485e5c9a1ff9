"""Checks an installed wheel: what it contains, where it is imported from, and that it trains as torch does."""

import sys
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
    check_contents(Path(sys.argv[1]))
    weights, rates = train(AdamW, CosineAnnealingLR)
    expected_weights, expected_rates = train(torch.optim.AdamW, torch.optim.lr_scheduler.CosineAnnealingLR)
    # The same float64 recurrence gives the same rates; the float32 update may round differently.
    torch.testing.assert_close(rates, expected_rates, rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)
    print("ten steps of AdamW with CosineAnnealingLR agree with torch")


if __name__ == "__main__":
    main()
