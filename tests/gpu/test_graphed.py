"""``graphed``: calls train as the function does, whatever is done between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, REAL, Gpu
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fused_sched import graphed, lr_scheduler
from fused_sched.memory import mirrors
from fused_sched.optim import SGD, AdamW

Make = Callable[..., "Training"]


class Training:
    """A model, an optimizer, a scheduler, and their training function."""

    def __init__(
        self, backend: Any, name: str = "adamw", fused: bool = True, zero: str = "none", **options: Any
    ) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(DEVICE)
        given: dict[str, Any] = {"lr": 0.05, "backend": backend}
        self.optimizer: Any = AdamW(self.net.parameters(), **given)
        if name == "sgd":
            self.optimizer = SGD(self.net.parameters(), **given, momentum=0.9, dampening=0.1)
        self.scheduler = lr_scheduler.ExponentialLR(self.optimizer, 0.97, fused=fused)
        self.zero, self.calls = zero, 0
        self.average = torch.zeros((), device=DEVICE)

    def update(self, x: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
        self.calls += 1
        if self.zero != "outside":
            self.optimizer.zero_grad(set_to_none=self.zero == "none")
        loss = (self.net(x) - y).square().mean() * factor
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.average.mul_(0.9).add_(loss.detach())
        return loss

    def seen(self) -> list[Tensor]:
        states = [v for p in self.net.parameters() for v in self.optimizer.state[p].values() if v is not None]
        grads = [torch.zeros(()) if p.grad is None else p.grad for p in self.net.parameters()]
        return [t.detach().cpu().clone() for t in (*self.net.parameters(), *states, *grads, self.average)]


def cloned(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def batch(i: int, n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(i)
    x, y = torch.randn(n, 4, generator=generator), torch.randn(n, 2, generator=generator)
    return x.to(DEVICE), y.to(DEVICE)


def assert_equal(graph: Training, eager: Training) -> None:
    """To the bit on the simulated GPU; a real one may choose other kernels in a capture."""
    for a, b in zip(graph.seen(), eager.seen(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4 if REAL else 0, atol=1e-5 if REAL else 0)
    assert graph.scheduler.last_epoch == eager.scheduler.last_epoch
    assert graph.scheduler.get_last_lr() == pytest.approx(eager.scheduler.get_last_lr(), rel=1e-12)
    assert graph.optimizer.param_groups[0]["lr"] == pytest.approx(eager.optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.fixture(params=DEFAULTS)
def make(request: pytest.FixtureRequest, gpu: Gpu) -> Make:
    backend = gpu.backend(request.param)
    return lambda *args, **kwargs: Training(backend, *args, **kwargs)


@pytest.mark.parametrize("zero", ["none", "zeros", "outside"])
@pytest.mark.parametrize(("name", "fused"), [("adamw", True), ("sgd", False)])
def test_calls_are_the_functions(name: str, fused: bool, zero: str, make: Make, gpu: Gpu) -> None:
    graph, eager = make(name, fused, zero), make(name, fused, zero)
    step = graphed(graph.update, graph.optimizer)
    for i in range(12):
        batches = batch(i)
        if i == 1:
            assert_equal(graph, eager)
        if zero == "outside" and i % 3:  # else gradients add up
            for one in (graph, eager):
                one.optimizer.zero_grad(set_to_none=i % 2 == 0)
        loss = step(*batches)
        assert torch.equal(loss.cpu(), eager.update(*batches).detach().cpu()) or REAL
        assert not loss.requires_grad
    assert_equal(graph, eager)
    assert (step.captures, step.replays, graph.calls) == (1, 12, 4)


def test_replays_wait_for_nothing(make: Make, gpu: Gpu) -> None:
    graph = make()
    step = graphed(graph.update, graph.optimizer)
    given = batch(0)
    step(*given)
    with gpu.no_sync():
        for _ in range(5):
            step(*given)


def test_other_shapes_and_constants_are_other_graphs(make: Make) -> None:
    graph, eager = make(), make()
    step = graphed(graph.update, graph.optimizer, cache_size=3)
    for i, (n, factor) in enumerate([(5, 1.0), (3, 1.0), (5, 1.0), (3, 2.0), (5, 1.0), (3, 1.0), (7, 1.0), (5, 1.0)]):
        given = batch(i, n)
        assert torch.equal(step(*given, factor=factor).cpu(), eager.update(*given, factor).detach().cpu()) or REAL
        assert_equal(graph, eager)
    assert step.captures == 4
    assert len(step._recordings) == 3
    step.release()
    given = batch(9)
    step(*given, factor=1.0)
    eager.update(*given)
    assert_equal(graph, eager)


def test_inputs_that_change_all_the_time_are_told(make: Make) -> None:
    graph = make("sgd")
    step = graphed(graph.update, graph.optimizer, cache_size=1, warmup=1)
    for i in range(3):
        step(*batch(0), factor=float(i))
    with pytest.warns(UserWarning, match=r"was captured 4 times.*cache_size=1 shapes or constants"):
        step(*batch(0), factor=3.0)


def test_several_steps_in_one_graph(make: Make) -> None:
    graph, eager, plain = make(), make(), make()
    step = graphed(graph.update, graph.optimizer, steps_per_replay=3)
    other = graphed(plain.update, plain.optimizer, steps_per_replay=3, enabled=False)
    for i in range(4):
        given = [torch.stack(both) for both in zip(*(batch(3 * i + k) for k in range(3)), strict=True)]
        losses, same = step(*given), other(*given)
        one_by_one = torch.stack([eager.update(*batch(3 * i + k)).detach() for k in range(3)])
        assert losses.shape == (3,)
        if not REAL:
            assert torch.equal(losses.cpu(), one_by_one.cpu())
            assert torch.equal(same.cpu(), one_by_one.cpu())
    assert_equal(graph, eager)
    assert_equal(plain, eager)
    with pytest.raises(ValueError, match=r"shape \(5, 4\), but with steps_per_replay=3"):
        step(*batch(0))


@pytest.mark.parametrize("fused", [True, False])
def test_whatever_happens_between_calls(fused: bool, make: Make) -> None:
    graph, eager = make("sgd", fused), make("sgd", fused)
    step = graphed(graph.update, graph.optimizer)
    saved: list[Any] = []

    def both(act: Callable[[Training], Any]) -> None:
        for one in (graph, eager):
            act(one)

    def edit(one: Training) -> None:
        one.optimizer.param_groups[0]["lr"] /= 2
        one.optimizer.param_groups[0]["weight_decay"] = 0.1

    def other_momentum(one: Training) -> None:
        one.optimizer.param_groups[0]["momentum"] = 0.5

    def save(one: Training) -> None:
        saved.append(tree_map(cloned, (one.optimizer.state_dict(), one.scheduler.state_dict())))

    def load(one: Training) -> None:
        mine = saved[0 if one is graph else 1]
        one.optimizer.load_state_dict(mine[0])
        one.scheduler.load_state_dict(mine[1])

    def eager_step(one: Training) -> None:
        one.update(*batch(77))

    def gamma(one: Training) -> None:
        one.scheduler.gamma = 0.9

    def attribute(one: Training) -> None:
        one.scheduler.last_epoch = 40

    acts = [edit, save, eager_step, load, other_momentum, gamma, attribute]
    for i, act in enumerate([*acts, *acts]):
        given = batch(i)
        step(*given)
        eager.update(*given)
        both(act)
        step(*given)
        eager.update(*given)
        assert_equal(graph, eager)


def test_groups_and_states_that_change_are_captured_anew(make: Make) -> None:
    graph, eager = make("sgd"), make("sgd")
    step = graphed(graph.update, graph.optimizer)
    for one, run in ((graph, step), (eager, eager.update)):
        run(*batch(0))
        extra = nn.Parameter(torch.ones(2, device=DEVICE))
        one.net.extra = extra
        one.net.register_forward_hook(lambda net, _, out: out + net.extra)
        one.optimizer.add_param_group({"params": [extra], "lr": 0.5})
        run(*batch(1))
        run(*batch(2))
        one.optimizer.state[extra]["momentum_buffer"] = torch.full((2,), 3.0, device=DEVICE)
        run(*batch(3))
        run(*batch(4))
    assert_equal(graph, eager)
    assert step.captures == 3


@pytest.mark.parametrize("fused", [True, False])
def test_another_program_is_captured_anew(fused: bool, make: Make) -> None:
    graph, eager = make("sgd", fused), make("sgd", fused)
    for one in (graph, eager):
        one.scheduler.detach()
        one.scheduler = lr_scheduler.MultiStepLR(one.optimizer, [2, 5], 0.5, fused=fused)
    step = graphed(graph.update, graph.optimizer)
    for i in range(9):
        if i == 3:
            for one in (graph, eager):
                one.scheduler.milestones.update((4, 4, 6, 7))
        step(*batch(i))
        eager.update(*batch(i))
        assert_equal(graph, eager)
    assert step.captures == 2


def test_two_optimizers_in_one_graph(gpu: Gpu) -> None:
    def training() -> tuple[Any, ...]:
        a, b = (nn.Parameter(torch.ones(3, device=DEVICE) * k) for k in (1, 2))
        backend = gpu.backend(None)
        first, second = AdamW([a], lr=0.1, backend=backend), SGD([b], lr=0.2, backend=backend)
        schedulers = [lr_scheduler.StepLR(o, 2, fused=True) for o in (first, second)]

        def update(x: Tensor) -> dict[str, Tensor]:
            first.zero_grad()
            (a * b.detach() * x).sum().backward()
            first.step()
            second.zero_grad()
            (a.detach() * b).sin().sum().backward()
            second.step()
            for scheduler in schedulers:
                scheduler.step()
            return {"sum": a.sum() + b.sum()}

        return a, b, update, first, second

    a, b, update, first, second = training()
    c, d, eager, *_ = training()
    with pytest.raises(RuntimeError, match=r"a step of SGD is taken inside, which was not named"):
        graphed(update, first)(torch.ones(3, device=DEVICE))
    a, b, update, first, second = training()
    step = graphed(update, first, second, clone_outputs=True)
    results = []
    for i in range(6):
        x = torch.full((3,), float(i), device=DEVICE)
        results.append(step(x)["sum"])
        assert torch.equal(results[-1].cpu(), eager(x)["sum"].detach().cpu()) or REAL
    assert len({float(r) for r in results}) == 6
    torch.testing.assert_close(a.cpu(), c.cpu())
    torch.testing.assert_close(b.cpu(), d.cpu())


REFUSED: dict[str, tuple[type[Exception], str]] = {
    "no gradient": (ValueError, r"parameter 0 of group 1 of AdamW, of shape \(3,\), has no gradient"),
    "cpu": (ValueError, r"argument 0 is on cpu"),
    "requires grad": (ValueError, r"argument 0 requires a gradient"),
    "host read": (RuntimeError, r"cannot be captured.*\.item\(\)"),
    "writes": (RuntimeError, r"writes to its argument 0"),
    "unhashable": (TypeError, r"argument 2 is a bytearray, of which nobody can tell"),
    "python": (RuntimeError, r"OfPython steps in Python, as .* and a CUDA graph would not do it again"),
    "table": (RuntimeError, r"inside a CUDA graph capture.*give horizon=N"),
    "edit": (RuntimeError, r"lr=0.5 was assigned inside a function that becomes a CUDA graph"),
}


def untraceable(step: int) -> float:
    return 1 / (1 + len(torch.arange(step + 2)))


class OfPython(lr_scheduler.ExponentialLR):
    def get_lr(self) -> list[Any]:
        return [0.9 * base * len(torch.ones(1)) for base in self.base_lrs]


@pytest.mark.parametrize("fused", [True, False])
def test_rows_that_are_computed_ahead(fused: bool, make: Make) -> None:
    graph, eager = make("sgd"), make("sgd")
    for one, horizon in ((graph, 40), (eager, 1)):
        one.scheduler.detach()
        one.scheduler = lr_scheduler.LambdaLR(one.optimizer, untraceable, fused=fused, horizon=horizon)
    step = graphed(graph.update, graph.optimizer)
    for i in range(12):
        step(*batch(i))
        eager.update(*batch(i))
    assert_equal(graph, eager)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_changed(case: str, make: Make) -> None:
    graph, eager = make(), make()
    x, y = batch(0)
    reads: list[float] = []

    def update(x: Tensor, y: Tensor, more: Any = None) -> Tensor:
        if case == "writes":
            x.add_(1)
        loss = graph.update(x, y)
        if case == "host read":
            reads.append(loss.item())
        if case == "edit":
            graph.optimizer.param_groups[0]["lr"] = 0.5
        return loss

    step = graphed(update, graph.optimizer)
    if case in ("python", "table"):
        for one in (graph, eager):
            one.scheduler.detach()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is computed on the host
                cls = OfPython if case == "python" else lr_scheduler.LambdaLR
                one.scheduler = cls(one.optimizer, 0.5 if case == "python" else untraceable)
    if case == "no gradient":
        graph.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, device=DEVICE))]})
        eager.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, device=DEVICE))]})
    given: list[Any] = [x, y]
    if case == "cpu":
        given[0] = x.cpu()
    if case == "requires grad":
        given[0] = x.clone().requires_grad_()
    if case == "unhashable":
        given.append(bytearray(b"abc"))
    error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        step(*given)
    assert repr(graph.optimizer.state_dict()) == repr(eager.optimizer.state_dict())
    assert repr(graph.scheduler.state_dict()) == repr(eager.scheduler.state_dict())
    for p, q in zip(graph.net.parameters(), eager.net.parameters(), strict=True):
        assert torch.equal(p.cpu(), q.cpu())
        assert p.grad is None or not p.grad.any()
    assert not graph.average.item()


def test_wrong_arguments(make: Make) -> None:
    graph = make()
    with pytest.raises(TypeError, match=r"torch.optim|no optimizer of fused_sched.optim"):
        graphed(graph.update, torch.optim.SGD(graph.net.parameters()))
    with pytest.raises(TypeError, match=r"no optimizer was named"):
        graphed(graph.update)
    with pytest.raises(ValueError, match=r"warmup=0"):
        graphed(graph.update, graph.optimizer, warmup=0)
    on_cpu = SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizers are on"):
        graphed(graph.update, graph.optimizer, on_cpu)
    with pytest.raises(ValueError, match=r"enabled=True, but only a GPU"):
        graphed(graph.update, on_cpu, enabled=True)


def test_inside_another_capture_it_is_the_function(make: Make, gpu: Gpu) -> None:
    graph, eager = make(), make()
    step = graphed(graph.update, graph.optimizer)
    x, y = batch(0)
    for one in (graph, eager):
        one.update(x, y)
        one.optimizer.zero_grad()
    outer = gpu.capture(lambda: step(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            outer.replay()
            eager.update(x, y)
    assert_equal(graph, eager)
    assert step.captures == 0


@pytest.mark.parametrize(
    ("fused", "flag", "how"),
    [(False, False, {}), (True, False, {}), (True, True, {}), (False, True, {}), (True, False, {"several": 3})],
)
def test_what_the_host_reads_after_replays_waits_for_nothing(
    fused: bool, flag: bool, how: dict[str, int], make: Make, gpu: Gpu
) -> None:
    several = how.get("several", 1)
    graph, eager = make(fused=fused), make(fused=fused)
    if flag:
        for one in (graph, eager):
            one.optimizer.stop_when(torch.zeros((), device=DEVICE))
    step = graphed(graph.update, graph.optimizer, steps_per_replay=several)
    given = [batch(i) for i in range(3 * several)]
    calls: list[Any] = given
    if several > 1:
        calls = [[torch.stack(xs) for xs in zip(*given[i : i + several], strict=True)] for i in range(0, 9, several)]
    step(*calls[0])
    more = batch(99)

    def as_in(one: Training) -> list[Any]:
        return [one.scheduler.last_epoch, *one.scheduler.get_last_lr(), one.optimizer.param_groups[0]["lr"]]

    read = []
    with gpu.no_sync():
        for one in calls[1:]:
            read.append(as_in(graph))
            step(*one)
        read.append(as_in(graph))
        graph.update(*more)  # and the host's own steps go on from there
        read.append(as_in(graph))
        step(*calls[0])
        graph.optimizer.param_groups[0]["lr"] *= 0.5
        read.append(as_in(graph))
        step(*calls[1])
        step(*calls[2])
        read.append(as_in(graph))

    def take(i: int) -> None:
        for one in given[several * i : several * (i + 1)]:
            eager.update(*one)

    expected = []
    for i in range(3):
        take(i)
        expected.append(as_in(eager))
    eager.update(*more)
    expected.append(as_in(eager))
    take(0)
    eager.optimizer.param_groups[0]["lr"] *= 0.5
    expected.append(as_in(eager))
    take(1)
    take(2)
    expected.append(as_in(eager))
    assert read == [pytest.approx(values, rel=1e-12) for values in expected]
    assert_equal(graph, eager)


def test_what_only_the_device_knows_is_read_from_it(make: Make, gpu: Gpu) -> None:
    graph = make(fused=True)
    flag = torch.zeros((), device=DEVICE)
    graph.scheduler.detach()
    graph.scheduler = lr_scheduler.StepLR(graph.optimizer, 1, fused=True, skip_with_optimizer=True)
    graph.optimizer.stop_when(flag)
    step = graphed(graph.update, graph.optimizer)
    for i in range(4):
        flag.fill_(i % 2)
        step(*batch(i))
        assert graph.scheduler.last_epoch == 1 + i // 2


def test_many_replays_are_read_from_the_device(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "_FOLLOWED", 3)
    graph = make(fused=False)
    step = graphed(graph.update, graph.optimizer)
    for i in range(9):
        step(*batch(i))
        if i in (3, 8):
            assert graph.scheduler.last_epoch == i + 1


def test_a_step_that_was_made_eagerly_is_not_that_of_a_replay(make: Make) -> None:
    """An eager update that cannot be skipped leaves a note on the device that a replay must not take for its own."""
    graph, flag = make(fused=True), torch.zeros((), device=DEVICE)
    found: Tensor | None = flag

    def update(x: Tensor, y: Tensor) -> Tensor:
        graph.optimizer.found_inf = found
        return graph.update(x, y)

    def epoch_on_the_device() -> int:
        assert graph.scheduler.state_dict()["last_epoch"] == graph.scheduler.last_epoch
        return int(graph.scheduler.last_epoch)

    step = graphed(update, graph.optimizer)
    step(*batch(0))
    for i in range(1, 4):
        found = None
        update(*batch(i))
        assert epoch_on_the_device() == 2 * i
        found = flag.fill_(i % 2)
        step(*batch(i))
        assert epoch_on_the_device() == 2 * i + 1
