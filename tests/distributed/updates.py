"""Updates of DTensors of many placements, beside torch's for-loop on the same whole tensors."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from fused_sched import optim
from fused_sched.memory import pointers
from fused_sched.step_options import StepKeywords

SHAPES: tuple[tuple[int, ...], ...] = ((7, 5), (1, 3), (4,), (6, 9), (2, 3, 5), (1,), (8, 8))
CLASSES = {"SGD": (optim.SGD, torch.optim.SGD), "AdamW": (optim.AdamW, torch.optim.AdamW)}


def mesh_of(*shape: int) -> DeviceMesh:
    """A mesh of all ranks."""
    names = ("data", "tensor")[: len(shape)]
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def placements_for(mesh: DeviceMesh, shape: tuple[int, ...]) -> list[list[Placement]]:
    """All of a tensor: those of a mesh dimension, in every combination."""
    each: list[Placement] = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
    found: list[list[Placement]] = [[]]
    for _ in range(mesh.ndim):
        found = [[*chosen, placement] for chosen in found for placement in each]
    return found


class Twins:
    """An optimizer of DTensors, and torch's of whole tensors with the same numbers."""

    def __init__(
        self, name: str, meshes: list[DeviceMesh], options: dict[str, Any], dtype: torch.dtype, n_shapes: int = 7
    ) -> None:
        torch.manual_seed(0)
        make_ours, make_torchs = CLASSES[name]
        self.spread: list[tuple[DeviceMesh, list[Placement]]] = []
        self.whole: list[torch.nn.Parameter] = []
        self.ours: list[torch.nn.Parameter] = []
        for mesh in meshes:
            for shape in SHAPES[:n_shapes]:
                for placements in placements_for(mesh, shape):
                    value = torch.randn(shape, dtype=dtype)
                    self.spread.append((mesh, placements))
                    self.whole.append(torch.nn.Parameter(value.clone()))
                    self.ours.append(torch.nn.Parameter(distribute_tensor(value, mesh, placements)))
        plain = torch.randn(3, dtype=dtype)  # a parameter that is none of these, beside them
        self.whole.append(torch.nn.Parameter(plain.clone()))
        self.ours.append(torch.nn.Parameter(plain.clone()))
        self.optimizer = make_ours(self.ours, **options)
        own = {"backend", *StepKeywords.__annotations__}
        foreign = {k: v for k, v in options.items() if k not in own}
        self.torchs = make_torchs(self.whole, foreach=False, **foreign)

    def set_gradients(self, step: int) -> None:
        """The same in both; some are missing."""
        spread = [*self.spread, None]
        for i, (p, q, how) in enumerate(zip(self.ours, self.whole, spread, strict=True)):
            g = torch.randn_like(q)
            p.grad = q.grad = None
            if (i + step) % 5:
                q.grad = g
                p.grad = g.clone() if how is None else distribute_tensor(g, *how)

    def step(self) -> None:
        self.optimizer.step()
        self.torchs.step()

    def difference(self) -> float:
        """The largest, of parameters and states, relative to the size of a number plus 1."""
        worst = 0.0
        for p, q in zip(self.ours, self.whole, strict=True):
            pairs: list[tuple[Any, Any]] = [(p.detach(), q.detach())]
            for key, value in self.torchs.state[q].items():
                pairs.append((self.optimizer.state[p][key], value))
            for mine, expected in pairs:
                if isinstance(mine, DTensor):
                    assert (mine.device_mesh, mine.placements) == (p.device_mesh, p.placements)
                    mine = mine.full_tensor()
                worst = max(worst, float(((mine - expected).abs() / (expected.abs() + 1)).max()))
        return worst


def follow(
    name: str, shapes: list[tuple[int, ...]], options: dict[str, Any], dtype: torch.dtype, n_shapes: int = 7
) -> float:
    """How far steps are from torch's."""
    twins = Twins(name, [mesh_of(*shape) for shape in shapes], options, dtype, n_shapes)
    for step in range(4):
        twins.set_gradients(step)
        twins.step()
    for p in twins.ours:
        if isinstance(p, DTensor):
            kept = {k: v for k, v in twins.optimizer.state[p].items() if k != "step"}
            assert all(isinstance(value, DTensor) for value in kept.values())
    return twins.difference()


def spread(*shape: int, by: Placement | None = None, dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    """A parameter of random numbers, on a mesh of all ranks; by default, each has some of the rows."""
    torch.manual_seed(2)
    mesh = mesh_of(dist.get_world_size())
    whole = torch.randn(shape, dtype=dtype)
    return torch.nn.Parameter(distribute_tensor(whole, mesh, [Shard(0) if by is None else by]))


def message_of(error: type[Exception], call: Callable[[], Any]) -> str:
    """What an error says that has to come."""
    try:
        call()
    except error as raised:
        return str(raised)
    raise AssertionError(f"there was no {error.__name__}")


def refusals() -> dict[str, str]:
    """What is said of DTensors that cannot be updated; nothing is changed by them."""
    said = {}
    p = spread(6, 2)
    mesh, before = p.device_mesh, p.full_tensor().clone()
    partial = torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))
    said["partial parameter"] = message_of(TypeError, lambda: optim.AdamW([partial]))
    optimizer = optim.AdamW([p])
    local = p.to_local().detach()
    grads: dict[str, Any] = {
        "partial gradient": DTensor.from_local(torch.ones(6, 2, dtype=local.dtype), mesh, [Partial()]),
        "other placements": distribute_tensor(torch.ones(6, 2, dtype=local.dtype), mesh, [Shard(1)]),
    }
    for warm in ("", " after a step"):
        for name, grad in grads.items():
            p.grad = grad
            said[name + warm] = message_of(ValueError, optimizer.step)
        p.grad = None
        assert torch.equal(p.full_tensor(), before)
        p.grad = torch.zeros_like(p)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
    assert torch.equal(p.full_tensor(), before)
    state = optimizer.state[p]
    kept = state["exp_avg"]
    state["exp_avg"] = torch.zeros(6, 2, dtype=local.dtype)
    said["plain state"] = message_of(ValueError, optimizer.step)
    state["exp_avg"] = kept.redistribute(mesh, [Replicate()])
    said["state elsewhere"] = message_of(ValueError, optimizer.step)
    state["exp_avg"] = kept
    optimizer.step()
    return said


def follow_other_memory(backend: str) -> bool:
    """Whether steps go on with the part that a DTensor has now, as FSDP2 gives it another one."""
    p, q = spread(7, 3), spread(7, 3)
    ours, theirs = optim.AdamW([p], backend=backend), torch.optim.AdamW([q], foreach=False)
    for step in range(6):
        g = torch.full_like(q, 1.0 + step)
        p.grad, q.grad = g, g.clone()
        if step == 2:
            p._local_tensor = p._local_tensor.clone()
        if step == 3:
            p._local_tensor.data = p._local_tensor.clone()
        if step == 4:
            ours.state[p]["exp_avg"]._local_tensor.mul_(2)
            theirs.state[q]["exp_avg"]._local_tensor.mul_(2)
        if step == 5:
            part = ours.state[p]["exp_avg"]._local_tensor
            part.data = part + 1
            theirs.state[q]["exp_avg"]._local_tensor.add_(1)
        ours.step()
        theirs.step()
    return torch.allclose(p.full_tensor(), q.full_tensor(), rtol=1e-14, atol=1e-14)


def kept_beside(options: dict[str, Any], dtype: torch.dtype) -> dict[str, float]:
    """How far parameters, averages and masters are from those of the whole tensor on one process."""
    p = spread(9, 4, dtype=dtype)
    q = torch.nn.Parameter(p.full_tensor().detach().clone())
    ours, whole = optim.AdamW([p], lr=0.1, **options), optim.AdamW([q], lr=0.1, **options)
    for _ in range(5):
        q.grad = torch.randn_like(q)
        p.grad = distribute_tensor(q.grad, p.device_mesh, p.placements)
        ours.step()
        whole.step()
    pairs: dict[str, tuple[Any, Any]] = {"p": (p.detach(), q.detach())}
    pairs |= {key: (ours.state[p][key], value) for key, value in whole.state[q].items() if key != "step"}
    if "ema_decay" in options:
        with ours.ema_weights(), whole.ema_weights():
            pairs["averaged"] = p.full_tensor().clone(), q.detach().clone()
    return {key: float((whole_of(mine) - whole_of(right)).abs().max()) for key, (mine, right) in pairs.items()}


def whole_of(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, in a dtype that gloo knows."""
    wide = tensor.double()
    return wide.full_tensor() if isinstance(wide, DTensor) else wide


def rounded_by_chance(placement: Placement) -> list[list[float]]:
    """What the rows of a parameter of equal numbers are after a step that rounds by chance."""
    p = spread(2, 400, by=placement, dtype=torch.bfloat16)
    with torch.no_grad():
        p._local_tensor.fill_(1.0)
    optimizer = optim.SGD([p], lr=1.0, stochastic_rounding=True, rounding_seed=7)
    p.grad = torch.full_like(p, 0.001)
    optimizer.step()
    return p.full_tensor().float().tolist()


def copied() -> bool:
    """Whether a copied optimizer goes on as the first one."""
    p = spread(5, 2)
    optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.ones_like(p)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    (q,) = twin.param_groups[0]["params"]
    q.grad = torch.ones_like(q)
    optimizer.step()
    twin.step()
    return torch.equal(p.full_tensor(), q.full_tensor()) and isinstance(twin.state[q]["momentum_buffer"], DTensor)


def seconds_of_steps(tensors: int) -> dict[str, float]:
    """Shortest of steps of plain parameters, of DTensors, and of torch's for-loop with the same DTensors."""
    plain = [torch.nn.Parameter(torch.ones(64)) for _ in range(tensors)]
    mesh = mesh_of(dist.get_world_size())
    parts = [torch.nn.Parameter(distribute_tensor(torch.ones(64), mesh, [Shard(0)])) for _ in range(tensors)]
    for p in [*plain, *parts]:
        p.grad = torch.ones_like(p)
    steps = {
        "plain": (optim.AdamW(plain).step, 30),
        "parts": (optim.AdamW(parts).step, 30),
        "torch": (torch.optim.AdamW(parts, foreach=False).step, 2),
    }
    shortest = {}
    for name, (step, times) in steps.items():
        step()
        taken = []
        for _ in range(times):
            begin = time.perf_counter()
            step()
            taken.append(time.perf_counter() - begin)
        shortest[name] = min(taken)
    return shortest


def clipped(name: str, shapes: list[tuple[int, ...]], options: dict[str, Any], n_shapes: int) -> dict[str, Any]:
    """Steps that clip, beside ours of the whole tensors on one process: differences, norms, skipped steps."""
    twins = Twins(name, [mesh_of(*shape) for shape in shapes], {"lr": 0.1, **options}, torch.float64, n_shapes)
    on_one = CLASSES[name][0](twins.whole, lr=0.1, **options)  # without DTensors, measured on this process alone
    half = len(twins.ours) // 2
    for optimizer, params in ((twins.optimizer, twins.ours), (on_one, twins.whole)):
        (group,) = optimizer.param_groups
        group["params"] = params[:half]
        optimizer.add_param_group({"params": params[half:], "max_grad_norm": 0.5})
    norms = []
    for step in range(5):
        twins.set_gradients(step)
        if step == 3:  # in the largest, of which every process has something
            there = [i for i, p in enumerate(twins.ours) if p.grad is not None and isinstance(p, DTensor)]
            largest = max(there, key=lambda i: twins.ours[i].numel())
            twins.whole[largest].grad.view(-1)[-1] = float("nan")
            if dist.get_rank() == dist.get_world_size() - 1:
                twins.ours[largest].grad._local_tensor.view(-1)[:1] = float("nan")
        for optimizer in (twins.optimizer, on_one):
            optimizer.step()
            norms.append([float(optimizer.grad_norm), *map(float, optimizer.group_grad_norms)])
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in twins.ours]
    worst = max(float((p - q).abs().max()) for p, q in zip(whole, twins.whole, strict=True))
    skipped = [int(optimizer.skipped_steps) for optimizer in (twins.optimizer, on_one)]
    return {"worst": worst, "norms": norms[::2], "right": norms[1::2], "skipped": skipped}


def collectives_of_a_step(options: dict[str, Any]) -> int:
    """How many there are."""
    p, q = spread(6, 2), spread(5)
    optimizer = optim.AdamW([{"params": [p]}, {"params": [q]}], max_grad_norm=1.0, **options)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    with CommDebugMode() as counted:
        optimizer.step()
    return int(counted.get_total_counts())


def torchs_norm() -> list[float]:
    """The norm that torch finds of DTensors, and ours."""
    params = [spread(7, 3), spread(4, by=Replicate()), spread(2, 5, by=Shard(1))]
    for number, p in enumerate(params):
        p.grad = p.detach() * (number + 1)
    expected = torch.nn.utils.get_total_norm([p.grad for p in params])
    optimizer = optim.SGD(params, lr=0.1, max_grad_norm=math.inf)
    optimizer.step()
    return [float(expected.full_tensor()), float(optimizer.grad_norm)]


def spikes() -> list[int]:
    """Steps skipped by a SpikeRule so far, where one process alone has large gradients."""
    p = spread(8)
    optimizer = optim.SGD([p], lr=0.1, skip_spikes=optim.SpikeRule(8, 3.0))
    skipped = []
    for step in range(12):
        p.grad = torch.full_like(p, 1.0 + 0.01 * (step % 3))
        if step == 9 and dist.get_rank() == 0:
            p.grad._local_tensor.mul_(100)
        optimizer.step()
        skipped.append(int(optimizer.skipped_steps))
    return skipped


def found_by_one(backend: str) -> tuple[int, list[float]]:
    """GradScaler's found_inf of one process is that of all."""
    p = spread(6)
    with torch.no_grad():
        p._local_tensor.fill_(1.0)
    optimizer = optim.SGD([p], lr=0.5, max_grad_norm=math.inf, backend=backend)
    for step in range(2):
        p.grad = torch.ones_like(p)
        optimizer.grad_scale = torch.tensor([2.0])
        optimizer.found_inf = torch.tensor([float(step == 0 and dist.get_rank() == 0)])
        optimizer.step()
    return int(optimizer.skipped_steps), p.full_tensor().tolist()


def meshes_apart() -> str:
    """What is said where no collective finds the norm."""
    whole = mesh_of(4)
    pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))["b"]
    params = [torch.nn.Parameter(distribute_tensor(torch.ones(8), mesh, [Shard(0)])) for mesh in (whole, pairs)]
    return message_of(RuntimeError, lambda: optim.AdamW(params, max_grad_norm=1.0))


def gradients_on_their_way(kernels: str) -> tuple[float, bool]:
    """A gradient whose part is still to arrive, as tensor parallelism may leave it, and a new one each step."""
    p, q = spread(6, 2, by=Replicate()), spread(6, 2, by=Replicate())
    ours, theirs = optim.AdamW([p], backend=kernels), torch.optim.AdamW([q], foreach=False)
    for step in range(4):
        part = torch.full_like(p.to_local().detach(), 1.0 + step)
        arriving = all_reduce(part, "sum", p.device_mesh)
        assert type(arriving).__name__ == "AsyncCollectiveTensor"
        p.grad = type(p)(arriving, copy.copy(p._spec), requires_grad=False)
        q.grad = distribute_tensor(part * dist.get_world_size(), q.device_mesh, q.placements)
        ours.step()
        theirs.step()
    rebuilt = ours.tables
    p.grad = torch.ones_like(p)
    ours.step()
    q.grad = torch.ones_like(q)
    theirs.step()
    return float((p - q).to_local().abs().max()), rebuilt == ours.tables


def follow_by_python() -> float:
    """As :func:`follow`, where the C++ extension is missing and kernels of a GPU run."""
    extension, pointers._C = pointers._C, None
    try:
        return follow("AdamW", [(2,)], {"lr": 0.1, "backend": "triton"}, torch.float64, 2)
    finally:
        pointers._C = extension


def scaled(options: dict[str, Any]) -> list[tuple[list[float], float]]:
    """Parameters and scale after steps by GradScaler, of which one process finds an infinity: ours, torch's."""
    found = []
    for make in (optim.SGD, torch.optim.SGD):
        p = spread(6)
        optimizer = make([p], lr=0.5, momentum=0.9, **(options if make is optim.SGD else {}))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        for step in range(5):
            p.grad = torch.full_like(p, 8.0 * (1 + step))
            if step == 1 and dist.get_rank() == 1:
                p.grad._local_tensor[-1] = math.inf
            scaler.scale(torch.ones(()))
            scaler.step(optimizer)
            scaler.update()
        found.append((p.full_tensor().tolist(), scaler.get_scale()))
    return found


def first_version() -> tuple[float, str]:
    """FullyShardedDataParallel beside torch's optimizer, and what is said of a norm there."""
    whole = []
    for make in (optim.AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = FullyShardedDataParallel(torch.nn.Linear(5, 3), use_orig_params=True, device_id=torch.device("cpu"))
        optimizer = make(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        with FullyShardedDataParallel.summon_full_params(model):
            whole.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    said = message_of(RuntimeError, lambda: optim.AdamW(model.parameters(), max_grad_norm=1.0))
    return float((whole[0] - whole[1]).abs().max()), said


def redundancy() -> list[str]:
    """What is said of a norm with ZeroRedundancyOptimizer: when it is made, and when the norm is asked for later."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns when it is imported

    skipping: Any = partial(optim.AdamW, skip_nonfinite=True)  # other keywords come to the groups
    model = torch.nn.Linear(5, 3)
    sharded = ZeroRedundancyOptimizer(model.parameters(), optim.AdamW, lr=0.1)
    model(torch.ones(2, 5)).sum().backward()
    sharded.step()
    before = [p.detach().clone() for p in model.parameters()]
    sharded.param_groups[0]["max_grad_norm"] = 1.0
    said = [
        message_of(RuntimeError, sharded.step),
        message_of(RuntimeError, lambda: ZeroRedundancyOptimizer(model.parameters(), skipping)),
    ]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    return said
