"""An update is not a change in place for autograd, as with torch's ``fused=True``: the README says so."""

from __future__ import annotations

import pytest
import torch

from fused_sched.optim import SGD, Adam


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_the_version_of_a_parameter_stays(kind: type, host_backend: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    made = kind([p], lr=0.1, backend=host_backend)
    before = p._version, p.detach().clone()
    for _ in range(3):
        p.grad = torch.ones(3)
        made.step()
    if host_backend != "reference":  # which is made of torch's operations on a detached tensor, and counts
        assert p._version == before[0]
    assert not torch.equal(p, before[1])
