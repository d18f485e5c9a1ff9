"""The simulated GPU replays what a GPU would, and finds what a GPU computes garbage for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fused_sched.backends.cuda import CudaBackend
from fused_sched.optim import SGD
from simulated_gpu.backends import SimulatedPlatform, StreamedOperators
from simulated_gpu.device import DEVICE
from simulated_gpu.graph import STREAM, Graph, SimulationError


def on_device(*values: float) -> torch.Tensor:
    return torch.tensor(values).to(DEVICE)


def captured(body: Callable[[], Any]) -> Graph:
    with STREAM.capture() as graph:
        body()
    return graph


# -- what a replay does ------------------------------------------------------------------------------------


def test_a_capture_does_nothing_and_a_replay_does_it_on_the_same_memory() -> None:
    x, y = on_device(1.0, 2.0), on_device(0.0, 0.0)
    graph = captured(lambda: y.copy_(torch.sin(x * 2).add_(1).view(2)[:2]))
    assert y.tolist() == [0.0, 0.0]
    for values in ([1.0, 2.0], [0.25, 7.0]):
        x.copy_(torch.tensor(values))
        graph.replay()
        assert y.tolist() == (torch.sin(torch.tensor(values) * 2) + 1).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64], ids=str)
def test_operations_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    given = torch.arange(24).reshape(2, 3, 4).to(dtype)
    ours = given.to(DEVICE)
    for change in (lambda t: t + t, lambda t: t.transpose(0, 2).contiguous(), lambda t: t[1:, ::2], lambda t: t != 0):
        expected, found = change(given), change(ours)
        assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)
        assert torch.equal(found.cpu(), expected)


def test_gradients_are_computed() -> None:
    torch.manual_seed(1)
    layers = [torch.nn.Linear(4, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(5, 4)
    layers[1](x).square().mean().backward()
    layers[0].to(DEVICE)(x.to(DEVICE)).square().mean().backward()
    assert torch.equal(layers[0].weight.grad.cpu(), layers[1].weight.grad)


def test_operations_that_write_to_a_list_of_tensors() -> None:
    gradients = [on_device(8.0, 2.0), torch.empty(0, device=DEVICE), on_device(4.0)]
    found, half = on_device(0.0), on_device(0.5)
    graph = captured(lambda: torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, half))
    assert gradients[2].item() == 4.0
    graph.replay()
    assert [g.tolist() for g in gradients] == [[4.0, 1.0], [], [2.0]]
    assert found.item() == 0.0
    gradients[2].fill_(torch.inf)
    graph.replay()
    assert found.item() == 1.0


def test_an_operation_returns_what_its_schema_says() -> None:
    scale, growth, found = on_device(8.0), torch.tensor([3], dtype=torch.int32).to(DEVICE), on_device(1.0)
    assert torch._amp_update_scale_(scale, growth, found, 2.0, 0.5, 10) is scale
    assert (scale.item(), growth.item()) == (4.0, 0)
    values, indices = torch.empty(0, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE)
    returned = torch.max(torch.tensor([[1.0, 5.0]]).to(DEVICE), 1, out=(values, indices))
    assert [*map(id, returned)] == [id(values), id(indices)]
    assert (values.tolist(), indices.tolist()) == ([5.0], [1])


def test_numbers_of_the_host_go_along_as_they_were() -> None:
    x, number = on_device(1.0), torch.tensor(2.0)
    graph = captured(lambda: x.mul_(number))
    number.fill_(100.0)
    graph.replay()
    assert x.item() == 2.0


def test_memory_of_a_capture_is_the_graphs() -> None:
    x = on_device(3.0)
    made: list[torch.Tensor] = []
    graph = captured(lambda: made.append(x * 2))
    del made[:]
    y = on_device(0.0)
    more = captured(lambda: y.add_(x * 2))
    graph.replay()
    more.replay()
    assert y.item() == 6.0


def test_what_is_not_written_is_nan() -> None:
    assert torch.empty(3, device=DEVICE).isnan().all()
    x = on_device(1.0)
    made: list[torch.Tensor] = []
    graph = captured(lambda: made.append(x + 1))
    assert made[0].isnan()
    graph.replay()
    assert made[0].item() == 2.0


def test_outside_of_a_capture_things_happen_at_once_and_once() -> None:
    x, y = on_device(1.0), on_device(1.0)

    def body() -> None:
        x.add_(1)
        with SimulatedPlatform().outside_of_capture():
            assert not SimulatedPlatform().is_capturing(DEVICE)
            y.add_(1)
            assert y.item() == 2.0
        assert SimulatedPlatform().is_capturing(DEVICE)

    graph = captured(body)
    graph.replay()
    graph.replay()
    assert (x.item(), y.item()) == (3.0, 2.0)


def test_an_error_ends_the_capture() -> None:
    with pytest.raises(ZeroDivisionError), STREAM.capture():
        1 / 0
    assert STREAM.graph is None


# -- what it finds -----------------------------------------------------------------------------------------

READS: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x.item(),
    "float": lambda x: float(x),
    "bool": lambda x: bool(x),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copy": lambda x: torch.zeros(1).copy_(x),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "nonzero to out": lambda x: torch.nonzero(x, out=torch.empty(0, dtype=torch.int64, device=DEVICE)),
    "unique": lambda x: torch.unique(x),
    "unique rows": lambda x: torch.unique(x, dim=0),
    "masked_select": lambda x: x.masked_select(x >= 0),
    "read by a mask": lambda x: x[x >= 0],
    "write by a mask": lambda x: x.__setitem__(x >= 0, x * 1),
    "write by a mask of bytes": lambda x: x.repeat(2).index_put_(((x >= 0).byte().repeat(2),), x.repeat(2)),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("how", READS)
def test_a_read_by_the_host_inside_a_capture(how: str) -> None:
    x = on_device(1.0)
    READS[how](x)
    with pytest.raises(SimulationError, match="inside a capture: the host waits"):
        captured(lambda: READS[how](x))


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("how", READS)
def test_a_read_by_the_host_where_it_must_not_wait(how: str) -> None:
    x = on_device(1.0)
    with STREAM.no_sync():
        x.add_(1)
        x.copy_(torch.zeros(1), non_blocking=True)
        with pytest.raises(SimulationError, match="the host waits for the device"):
            READS[how](x)
    READS[how](x)


def test_the_host_must_not_wait_until_the_outer_context_ends() -> None:
    x = on_device(1.0)
    with STREAM.no_sync():
        with STREAM.no_sync():
            pass
        with pytest.raises(SimulationError, match="the host waits for the device"):
            x.item()
    assert x.item() == 1.0


def test_indices_and_sizes_that_the_host_knows_wait_for_nothing() -> None:
    x, where, found = on_device(1.0, 2.0, 3.0), torch.tensor([2, 0]).to(DEVICE), on_device(0.0, 0.0)

    def body() -> None:
        found.copy_(x[where])
        x[where] = x[where] * 2
        x.masked_fill_(x == 2, 5.0)

    with STREAM.no_sync():
        graph = captured(body)
        repeated = x[:2].repeat_interleave(where, output_size=2)
    graph.replay()
    assert (found.tolist(), x.tolist(), repeated.tolist()) == ([3.0, 1.0], [5.0, 5.0, 6.0], [1.0, 1.0])


@pytest.mark.parametrize("non_blocking", [False, True])
def test_a_copy_of_the_hosts_memory_inside_a_capture(non_blocking: bool) -> None:
    x = on_device(1.0)
    with pytest.raises(SimulationError, match="a copy from the host inside a capture"):
        captured(lambda: x.copy_(torch.ones(1), non_blocking=non_blocking))
    with pytest.raises(SimulationError, match="a copy from the host inside a capture"):
        captured(lambda: torch.tensor([1.0, 2.0], device=DEVICE))


def test_memory_that_is_freed_before_a_replay() -> None:
    inputs, y = [on_device(1.0)], on_device(1.0)
    graph = captured(lambda: y.add_(inputs[0]))
    view = inputs.pop()[:1]
    graph.replay()
    del view
    with pytest.raises(SimulationError, match=r"add.* uses memory that was freed between its capture and a replay"):
        graph.replay()


def test_memory_that_is_reached_through_a_table_and_freed_before_a_replay() -> None:
    x = on_device(1.0)
    inner = torch.tensor([5, x.data_ptr()]).to(DEVICE)
    outer = torch.tensor([inner.data_ptr(), 7]).to(DEVICE)
    with STREAM.capture() as graph:
        STREAM.launch("a launch", lambda: None, [outer.data_ptr() + 8])
    graph.replay()
    del x
    with pytest.raises(SimulationError, match="a launch uses memory that was freed"):
        graph.replay()


def test_host_and_device_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        on_device(1.0, 2.0) + torch.ones(2)


NOT_SIMULATED: dict[str, Callable[[torch.Tensor], Any]] = {
    "resize": lambda x: x.resize_(10),
    "resize of nothing": lambda x: x[:0].resize_(10),
    "set": lambda x: x.set_(torch.ones(5).to(DEVICE)),
    "set to nothing": lambda x: x.set_(),
    "deepcopy": lambda x: copy.deepcopy(x),
    "deepcopy of an optimizer": lambda x: copy.deepcopy(torch.optim.SGD([x], lr=0.1)),
    "conj": lambda x: torch.complex(x, x).conj().cpu(),
    "real": lambda x: torch.view_as_real(torch.complex(x, x)[:1]),
    "neg": lambda x: torch._neg_view(x).cpu(),
}


@pytest.mark.parametrize("what", NOT_SIMULATED)
def test_what_is_not_simulated_is_refused(what: str) -> None:
    x = on_device(1.0, 2.0)
    with pytest.raises(SimulationError, match="not simulated"):
        NOT_SIMULATED[what](x)
    assert x.tolist() == [1.0, 2.0]


def test_other_memory_is_copied_deeply_still() -> None:
    assert copy.deepcopy(torch.ones(2)).tolist() == [1.0, 1.0]


# -- faults of a backend -----------------------------------------------------------------------------------


class NoKernels:
    """Operators that do nothing."""

    def update(self, *_: object) -> None:
        pass

    advance = update


class CopyingPlatform(SimulatedPlatform):
    """Uploads in the capture itself."""

    def upload(self, values: torch.Tensor, device: torch.device) -> torch.Tensor:
        return values.to(device, non_blocking=True)


def backend(platform: SimulatedPlatform) -> CudaBackend:
    return CudaBackend(StreamedOperators(NoKernels()), platform)


def stepping(made: CudaBackend) -> tuple[SGD, Callable[[], None]]:
    """An optimizer, and a step with new gradients."""
    p = torch.nn.Parameter(torch.ones(3).to(DEVICE))
    optimizer = SGD([p], lr=0.1, momentum=0.9, backend=made)

    def step() -> None:
        p.grad = p.detach() * 2
        optimizer.step()

    step()
    return optimizer, step


def test_a_backend_that_uploads_inside_a_capture_is_found() -> None:
    captured(stepping(backend(SimulatedPlatform()))[1])
    with pytest.raises(SimulationError, match="a copy from the host inside a capture"):
        captured(stepping(backend(CopyingPlatform()))[1])


def test_a_backend_that_does_not_keep_its_tables_is_found() -> None:
    for keeps in (True, False):
        made = backend(SimulatedPlatform())
        _, step = stepping(made)
        graph = captured(step)
        step()  # follows other gradients, in another table
        if keeps:
            graph.replay()
            continue
        made.captured.clear()
        with pytest.raises(SimulationError, match="update_kernel uses memory that was freed"):
            graph.replay()


def test_an_optimizer_that_is_gone_before_a_replay_is_found() -> None:
    optimizer, step = stepping(backend(SimulatedPlatform()))
    graph = captured(step)
    graph.replay()
    del optimizer, step
    with pytest.raises(SimulationError, match="freed"):
        graph.replay()


def test_the_host_writes_no_hyperparameter_inside_a_capture() -> None:
    optimizer, _ = stepping(backend(SimulatedPlatform()))
    with pytest.raises(RuntimeError, match="a hyperparameter was set by hand inside a CUDA graph capture"):
        captured(lambda: optimizer.param_groups[0].update(lr=1.0))
