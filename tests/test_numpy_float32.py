"""Functions that give numpy's float32, whose products are float32, as torch has them on the host."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from schedule_twins import OURS, TORCH, optimizer

import fused_sched
from fused_sched.backends import Backend
from fused_sched.program.builder import Builder
from fused_sched.program.single import to_single

LRS = [0.1, 0.3]
needs_numpy_2 = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="before numpy 2 such a product is a float64"
)


def _round() -> Callable[[float], float]:
    b = Builder(1)
    x = b.register("x", 0.0)
    b.register("rounded", 0.0)
    b.set_register("rounded", to_single(b, x))
    program = b.finish("to_single")
    advance, at, memory = program.compile_host(), program.offsets, program.initial_memory([0]).tolist()

    def run(value: float) -> float:
        mine = memory.copy()
        mine[at["x"]] = value
        advance(mine, [])
        return float(mine[at["rounded"]])

    return run


def test_a_program_rounds_as_numpy_does(rng: random.Random) -> None:
    """Near every power of two, at half way between two numbers of float32, beside that, and anywhere."""
    numbers = [0.0, -0.0, float("inf"), float("nan")]
    for exponent in range(-152, 127):
        power, place = 2.0**exponent, 2.0 ** (exponent - 23)
        for _ in range(20):
            whole = power + place * rng.randrange(2**23)
            numbers += [whole, whole + place / 2, whole + place / 4, whole + place / 2 * (1 + 2.0**-20)]
            numbers += [whole + place / 2 * (1 - 2.0**-20), power * rng.uniform(1, 2)]
        numbers += [power * (1 + sign * 2.0**-bits) for bits in (23, 24, 25, 26) for sign in (-1, 1)]
    run = _round()
    for number in (*numbers, *(-x for x in numbers)):
        found, expected = run(number), float(np.float32(number))
        assert repr(found + 0.0) == repr(expected + 0.0), number.hex()  # what is too small may lose its sign
    assert str(run(-0.0)) == "-0.0"


def factor(step: Any) -> Any:
    """Of 24 bits, such that every product has to be rounded, some at half way."""
    return np.float32(0.75) if step % 3 == 0 else np.float32(1.0 / (1.0 + 0.01 * step))


KINDS: dict[str, Callable[..., Any]] = {
    "LambdaLR": lambda home, made, **more: home.LambdaLR(made, factor, **more),
    "MultiplicativeLR": lambda home, made, **more: home.MultiplicativeLR(made, factor, **more),
    "MultiplicativeLR of two": lambda home, made, **more: home.MultiplicativeLR(made, [factor, lambda s: 0.9], **more),
    "CyclicLR": lambda home, made, **more: home.CyclicLR(
        made, 0.1, 0.3, 4, scale_fn=factor, scale_mode="iterations", cycle_momentum=False, **more
    ),
    "CyclicLR with momentum": lambda home, made, **more: home.CyclicLR(
        made, [0.1, 0.2], 0.3, 4, 3, scale_fn=factor, **more
    ),
    "SequentialLR": lambda home, made, **more: home.SequentialLR(
        made, [home.MultiplicativeLR(made, factor), home.ExponentialLR(made, 0.9)], [5], **more
    ),
}


def _numbers(made: Any) -> list[tuple[float, float]]:
    return [(float(group["lr"]), float(group["momentum"])) for group in made.param_groups]


@needs_numpy_2
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_are_torchs(kind: str, fused: bool, backend: Backend) -> None:
    mine = optimizer(fused_sched.optim, "SGD", LRS, momentum=0.9, backend=backend)
    theirs = optimizer(torch.optim, "SGD", LRS, momentum=0.9)
    ours, torchs = KINDS[kind](OURS, mine, **({"fused": True} if fused else {})), KINDS[kind](TORCH, theirs)
    for step in range(12):
        if step == 7:
            for made in (mine, theirs):
                made.param_groups[0]["lr"] = 0.123456789
        mine.step()
        theirs.step()
        ours.step()
        torchs.step()
        assert _numbers(mine) == _numbers(theirs), step
        assert ours.get_last_lr() == torchs.get_last_lr(), step
    assert ours.program is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_lr_that_is_a_tensor_stays_of_its_dtype(dtype: torch.dtype, host_backend: str) -> None:
    """As torch has it: numpy's float32 is a number there, and the product is as wide as the tensor."""
    both = []
    for home, module, options in ((OURS, fused_sched.optim, {"backend": host_backend}), (TORCH, torch.optim, {})):
        weights, lr = torch.nn.Parameter(torch.ones(2)), torch.tensor(0.1, dtype=dtype)
        made = module.SGD([weights], lr=lr, **options)
        both.append((made, home.MultiplicativeLR(made, lambda step: np.float32(0.7)), lr))
    for _ in range(5):
        for made, scheduler, _ in both:
            made.step()
            scheduler.step()
        assert both[0][2] == both[1][2]
        assert both[0][2].dtype == dtype


@needs_numpy_2
def test_rows_ahead_are_those_of_torch(host_backend: str) -> None:
    mine = optimizer(fused_sched.optim, "SGD", LRS, momentum=0.9, backend=host_backend)
    theirs = optimizer(torch.optim, "SGD", LRS, momentum=0.9)
    ours = KINDS["CyclicLR with momentum"](OURS, mine, horizon=4, fused=True)
    torchs = KINDS["CyclicLR with momentum"](TORCH, theirs)
    for step in range(10):
        if step == 5:
            ours.max_lrs, torchs.max_lrs = [0.5, 0.6], [0.5, 0.6]
        mine.step()
        theirs.step()
        ours.step()
        torchs.step()
        assert _numbers(mine) == _numbers(theirs), step


def test_another_dtype_is_refused_with_function_and_way_out(host_backend: str) -> None:
    """What the program cannot compute; the message is of the first step, since no function is called before."""

    def narrow(step: int) -> Any:
        return np.float16(0.5)

    mine = optimizer(fused_sched.optim, "SGD", LRS, backend=host_backend)
    OURS.MultiplicativeLR(mine, [lambda step: 0.5, narrow], fused=True)
    said = r"the function .*narrow \(test_numpy_float32.py:\d+\) gave a float16, .*: let it return a float"
    with pytest.raises(ValueError, match=said + ".*: leave out fused"):
        mine.step()
    assert [group["lr"] for group in mine.param_groups] == LRS
    with pytest.raises(TypeError, match=said + r".*At step 1 .* a table of 3 steps"):
        OURS.MultiplicativeLR(optimizer(fused_sched.optim, "SGD", LRS, backend=host_backend), narrow, horizon=3)
