"""The update kernels in Triton's interpreter give the C++ kernels' bits, for every kind of tensor."""

from __future__ import annotations

import lane
import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("fused_sched._C", reason="the C++ extension is the oracle")

from update_case import Case, check_equal, id_of

from fused_sched.kernels import variants
from fused_sched.kernels.numerics import INTERPRETED
from fused_sched.memory.control_block import HEADER
from fused_sched.memory.parameter_table import KINDS

pytestmark = pytest.mark.skipif(
    not INTERPRETED and not lane.PTX, reason="runs on CPU tensors: set TRITON_INTERPRET=1 or FUSED_SCHED_TEST_PTX"
)


def update(case: Case, scale: torch.Tensor | None, found: torch.Tensor | None) -> None:
    launcher = lane.launcher()
    device = case.device_table()
    (only,) = device.signatures
    options = variants.Options(case.rule, only.optional_state, scale is not None, found is not None)
    compiled = launcher.get(variants.update(only.signature, options), torch.device("cpu"))
    launcher.launch(compiled, len(only.chunks), case.triton_arguments(device, scale, found))


@pytest.mark.thin
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", sorted(KINDS, key=str), ids=id_of)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_update_gives_the_bits_of_the_cpu_kernels(rule: str, kind: tuple[torch.dtype, ...], offset: int) -> None:
    got, expected = Case(rule, kind, offset), Case(rule, kind, offset)
    for _ in range(2):
        update(got, None, None)
        expected.update_in_c(None, None)
    check_equal(got, expected)


@pytest.mark.parametrize("found", [None, 0.0, 1.0])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_scaled_gradients_and_skipped_updates(rule: str, found: float | None) -> None:
    kind = (torch.float16, torch.float16, torch.float32)
    got, expected = Case(rule, kind, 0), Case(rule, kind, 0)
    scale = torch.full((1,), 3.0)
    flag = None if found is None else torch.full((1,), found)
    update(got, scale, flag)
    expected.update_in_c(scale, flag)
    check_equal(got, expected)
    assert got.integers[HEADER["skipped"]] == int(found == 1.0)


def test_the_ticket_is_returned() -> None:
    case = Case("adam", (torch.float32,) * 3, 0)
    update(case, None, None)
    assert case.integers[HEADER["ticket"]] == 0
