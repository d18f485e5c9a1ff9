"""What a Monitor tells of steps, when, and where to."""

from __future__ import annotations

import copy
import csv
import gc
import math
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from platforms import Mirrored

from fused_sched import Monitor, Row, backends
from fused_sched.backends.reference import ReferenceBackend
from fused_sched.lr_scheduler import ExponentialLR, LambdaLR
from fused_sched.memory.platforms import Download
from fused_sched.optim import SGD, AdamW

pytestmark = pytest.mark.thin("triton")

Backend = str | backends.Backend


def make(backend: Backend, groups: int = 1, **options: Any) -> Any:
    """An optimizer whose groups have a parameter each, with a gradient of norm 1, and lrs 1, 1/2, 1/4, ..."""
    params = [torch.nn.Parameter(torch.zeros(4)) for _ in range(groups)]
    for p in params:
        p.grad = torch.full((4,), 0.5)
    return SGD([{"params": [p], "lr": 0.5**i} for i, p in enumerate(params)], backend=backend, **options)


def steps(optimizer: Any, times: int) -> None:
    for _ in range(times):
        optimizer.step()


def numbers(rows: Sequence[Row]) -> list[int]:
    return [row.step for row in rows]


class LateDownload(Download):
    def __init__(self, platform: Late, values: list[torch.Tensor]) -> None:
        super().__init__(values)
        self._platform, self.there = platform, False

    def has_arrived(self) -> bool:
        return self.there

    def wait(self) -> None:
        self.there = True
        self._platform.waits += 1


class Late(Mirrored):
    """What is copied to the host arrives when a test says so; it may say that a graph is being captured."""

    def __init__(self) -> None:
        self.downloads: list[LateDownload] = []
        self.waits = 0
        self.capturing = False

    def is_capturing(self, device: torch.device) -> bool:
        return self.capturing

    def download(self, tensors: Sequence[torch.Tensor]) -> Download:
        assert not self.capturing
        self.downloads.append(LateDownload(self, [t.clone() for t in tensors]))
        return self.downloads[-1]


@pytest.fixture
def late() -> Late:
    return Late()


# -- what a row has ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", [SGD, AdamW])
def test_rows_say_what_the_steps_did(name: Any, fused: bool, backend: Backend, mirrored: bool) -> None:
    params = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    groups = [{"params": params[:1], "lr": 0.5}, {"params": params[1:], "lr": 0.25, "max_grad_norm": 1.0}]
    optimizer = name(groups, backend=backend, skip_nonfinite=True)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step), fused=fused)
    rows: list[Row] = []
    expected = []
    with Monitor(optimizer, every=4, to=rows.extend):
        for step in range(10):
            for p in params:
                p.grad = torch.full_like(p, math.inf if step == 6 else 1.0 + step)
            if step == 3:
                optimizer.param_groups[1]["lr"] = 7.0
            lrs = tuple(group["lr"] for group in optimizer.param_groups)
            optimizer.step()
            scheduler.step()
            norm = math.inf if step == 6 else math.sqrt(7) * (1 + step)
            expected.append((step, lrs, pytest.approx(norm, rel=1e-6), step == 6))
    assert [row[:4] for row in rows] == expected
    assert rows[3].lr == (0.125, 7.0)
    assert all(math.isnan(row.scale) for row in rows)
    assert all(type(x) is t for row in rows for x, t in zip(row, (int, tuple, float, bool, float), strict=True))


def test_where_nothing_is_measured_there_is_no_norm(backend: Backend, mirrored: bool) -> None:
    optimizer = make(backend)
    flag = torch.zeros(())
    with Monitor(optimizer) as monitor:
        steps(optimizer, 1)
        optimizer.param_groups[0]["max_grad_norm"] = math.inf
        steps(optimizer, 1)
        del optimizer.param_groups[0]["max_grad_norm"]
        optimizer.stop_when(flag)
        flag.fill_(1.0)
        steps(optimizer, 1)
        optimizer.stop_when(None)
        steps(optimizer, 1)
    assert [row.skipped for row in monitor.rows] == [False, False, True, False]
    assert [row.grad_norm for row in monitor.rows[1:2]] == [1.0]
    assert all(math.isnan(monitor.rows[i].grad_norm) for i in (0, 2, 3))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_grad_scalers_scale_and_its_skipped_steps(shape: tuple[int, ...], backend: Backend) -> None:
    optimizer = make(backend, max_grad_norm=math.inf)
    (p,) = optimizer.param_groups[0]["params"]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.zeros(()))
    scales = []
    with Monitor(optimizer) as monitor:
        assert optimizer._step_supports_amp_scaling
        for step in range(6):
            p.grad = torch.full((4,), math.inf if step == 3 else scaler.get_scale())
            scales.append(scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
        optimizer.grad_scale = torch.full(shape, 4.0, dtype=torch.float32)
        p.grad = torch.full((4,), 4.0)
        optimizer.step()
        scales.append(4.0)
    assert [row.scale for row in monitor.rows] == scales
    assert [row.skipped for row in monitor.rows] == [step == 3 for step in range(7)]
    assert [row.grad_norm for row in monitor.rows] == [math.inf if step == 3 else 2.0 for step in range(7)]
    assert len({*scales}) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lrs_that_are_tensors(dtype: torch.dtype, backend: Backend, mirrored: bool) -> None:
    """One that somebody writes to, one that a schedule writes to, and one that is a number, as the update used them."""
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    lrs = [torch.tensor(x, dtype=dtype) for x in (0.1, 0.3)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, [lrs[0], 0.7, lrs[1]], strict=True)]
    optimizer = SGD(groups, backend=backend)
    scheduler = ExponentialLR(optimizer, 0.5, fused=True)
    for p in params:
        p.grad = torch.ones_like(p)
    before = torch.zeros(3)
    with Monitor(optimizer) as monitor:
        for step in range(6):
            if step == 2:
                lrs[0].fill_(0.6)
            optimizer.step()
            scheduler.step()
            now = torch.stack([p.detach()[0] for p in params])
            monitor.flush()
            torch.testing.assert_close(torch.tensor(monitor.rows[-1].lr), before - now, rtol=2e-5, atol=1e-7)
            before = now
    first = [row.lr for row in monitor.rows]
    assert first[0] == (lrs[0].new_tensor(0.1).item(), 0.7, lrs[1].new_tensor(0.3).item())
    assert first[2] == (lrs[0].new_tensor(0.6).item(), 0.175, 0.25 * first[0][2])
    assert first[3][0] == first[2][0] / 2


def test_steps_that_change_the_order_of_groups(host_backend: Backend) -> None:
    optimizer = make(host_backend, 2)
    with Monitor(optimizer) as monitor:
        steps(optimizer, 1)
        optimizer.param_groups.reverse()
        steps(optimizer, 1)
    assert [row.lr for row in monitor.rows] == [(1.0, 0.5), (0.5, 1.0)]


def test_a_loop_in_inference_mode_and_with_other_defaults(host_backend: Backend) -> None:
    optimizer = make(host_backend, 2)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"), Monitor(optimizer, every=2) as monitor:
            with torch.inference_mode():
                steps(optimizer, 1)
            steps(optimizer, 2)
            optimizer.step(lambda: 1.0)
    finally:
        torch.set_default_dtype(before)
    assert monitor.rows == [
        Row(i, (1.0, 0.5), pytest.approx(math.nan, nan_ok=True), False, pytest.approx(math.nan, nan_ok=True))
        for i in range(4)
    ]


# -- when they come ------------------------------------------------------------------------------------------


def test_every_so_many_steps_by_poll_and_by_flush(host_backend: Backend, mirrored: bool) -> None:
    optimizer, rows = make(host_backend), list[Row]()
    monitor = Monitor(optimizer, every=3, to=rows.extend)
    seen = []
    for _ in range(7):
        optimizer.step()
        seen.append(len(rows))
    assert seen == [0, 0, 3, 3, 3, 6, 6]
    monitor.poll()
    assert numbers(rows) == [*range(7)]
    steps(optimizer, 1)
    monitor.flush()
    monitor.flush()
    steps(optimizer, 1)
    assert numbers(rows) == [*range(9)]  # the ninth step
    monitor.close()
    monitor.close()
    steps(optimizer, 5)
    assert numbers(rows) == [*range(9)]
    for method in (monitor.poll, monitor.flush):
        with pytest.raises(RuntimeError, match=rf"^Monitor\.{method.__name__}\(\) was called after close\(\)"):
            method()


def test_nothing_to_tell_yet(host_backend: Backend) -> None:
    given: list[Any] = []
    with Monitor(make(host_backend), to=given.append) as monitor:
        monitor.poll()
        monitor.flush()
    assert given == []


def test_steps_do_not_wait_and_take_what_has_arrived(late: Late) -> None:
    optimizer, rows = make(ReferenceBackend(late)), list[Row]()
    monitor = Monitor(optimizer, every=4, to=rows.extend)
    steps(optimizer, 9)
    assert len(late.downloads) == 2
    assert rows == []
    late.downloads[1].there = True
    steps(optimizer, 1)
    assert rows == []  # in their order: the first is still on its way
    late.downloads[0].there = True
    steps(optimizer, 1)
    assert numbers(rows) == [*range(8)]
    assert late.waits == 0
    monitor.flush()
    assert numbers(rows) == [*range(11)]
    assert late.waits == 1
    monitor.close()


def test_poll_does_not_pile_up_copies(late: Late) -> None:
    optimizer, rows = make(ReferenceBackend(late)), list[Row]()
    monitor = Monitor(optimizer, to=rows.extend)
    for _ in range(30):
        steps(optimizer, 1)
        monitor.poll()
    assert len(late.downloads) == 8
    for download in late.downloads:
        download.there = True
    monitor.poll()
    assert numbers(rows) == [*range(8)]
    assert len(late.downloads) == 9
    late.downloads[-1].there = True
    monitor.poll()
    assert numbers(rows) == [*range(30)]
    assert late.waits == monitor.overwritten == 0
    monitor.close()


def test_rows_that_are_overwritten_are_counted(host_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by replays, of which the host knows nothing."""
    optimizer, rows = make(host_backend), list[Row]()
    monitor = Monitor(optimizer, every=2, to=rows.extend, capacity=5)
    monkeypatch.setattr(monitor, "note_step", lambda: None)
    steps(optimizer, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.poll()
    assert numbers(rows) == [*range(5)]
    steps(optimizer, 12)
    with pytest.warns(UserWarning, match="^7 rows of a Monitor were overwritten.*call poll.. more often, or") as caught:
        monitor.poll()
    assert caught[0].filename == __file__
    assert numbers(rows[5:]) == [*range(12, 17)]
    steps(optimizer, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.close()
    assert numbers(rows[10:]) == [*range(18, 23)]
    assert monitor.overwritten == 8


def test_a_step_that_fails_is_none(host_backend: Backend) -> None:
    optimizer = make(host_backend)
    with torch._subclasses.FakeTensorMode():
        fake = torch.ones(())
    with Monitor(optimizer) as monitor:
        steps(optimizer, 1)
        optimizer.grad_scale = fake
        with pytest.raises(TypeError, match="grad_scale is a FakeTensor"):
            optimizer.step()
        optimizer.grad_scale = None
        steps(optimizer, 1)
    assert numbers(monitor.rows) == [0, 1]


def test_the_number_of_the_first_step(host_backend: Backend) -> None:
    optimizer = make(host_backend)
    with Monitor(optimizer, first_step=2**40) as monitor:
        steps(optimizer, 2)
    assert numbers(monitor.rows) == [2**40, 2**40 + 1]


# -- where they go ---------------------------------------------------------------------------------------


class Writer:
    """As much as is needed of torch.utils.tensorboard.SummaryWriter."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))


def test_a_summary_writer(host_backend: Backend) -> None:
    optimizer, writer = make(host_backend, 2, skip_nonfinite=True), Writer()
    with Monitor(optimizer, to=writer):
        steps(optimizer, 1)
        optimizer.param_groups[0]["params"][0].grad[0] = math.nan
        optimizer.grad_scale = torch.tensor(2.0)
        steps(optimizer, 1)
    first, second = ([(t, v) for t, v, n in writer.scalars if n == step] for step in (0, 1))
    assert first == [("lr/0", 1.0), ("lr/1", 0.5), ("grad_norm", math.sqrt(2)), ("skipped", 0)]
    assert [tag for tag, _ in second] == ["lr/0", "lr/1", "grad_norm", "skipped", "scale"]
    assert math.isnan(second[2][1])  # which was measured
    assert [value for _, value in second[3:]] == [1, 2.0]
    plain, writer = make(host_backend), Writer()
    with Monitor(plain, to=writer):
        steps(plain, 1)
    assert [tag for tag, *_ in writer.scalars] == ["lr/0", "skipped"]


def read(path: Path) -> list[list[str]]:
    return [*csv.reader(path.open(newline=""))]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_csv_file(kind: Any, host_backend: Backend, tmp_path: Path) -> None:
    optimizer, path = make(host_backend, 2, max_grad_norm=math.inf), tmp_path / "run.csv"
    with Monitor(optimizer, every=2, to=kind(path)):
        optimizer.param_groups[0]["lr"] = 0.1 + 0.2
        steps(optimizer, 2)
        assert len(read(path)) == 3  # as they come, not at the end
        optimizer.grad_scale = torch.tensor(1.0)
        optimizer.found_inf = torch.tensor(1.0)
        steps(optimizer, 1)
    norm = repr(math.sqrt(2))
    assert read(path) == [
        ["step", "grad_norm", "skipped", "scale", "lr/0", "lr/1"],
        ["0", norm, "0", "", "0.30000000000000004", "0.5"],
        ["1", norm, "0", "", "0.30000000000000004", "0.5"],
        ["2", norm, "1", "1.0", "0.30000000000000004", "0.5"],
    ]


def test_a_csv_file_that_goes_on_and_gets_more_groups(host_backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    optimizer = make(host_backend)
    with Monitor(optimizer, to=path):
        steps(optimizer, 1)
    with Monitor(optimizer, to=path, every=1, first_step=1):
        steps(optimizer, 1)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.125})
        steps(optimizer, 1)
        del optimizer.param_groups[1]
        steps(optimizer, 1)
    assert [(row["step"], row["grad_norm"], row["lr/0"], row["lr/1"]) for row in csv.DictReader(path.open())] == [
        ("0", "", "1.0", ""),
        ("1", "", "1.0", ""),
        ("2", "", "1.0", "0.125"),
        ("3", "", "1.0", ""),
    ]
    assert os.listdir(tmp_path) == ["run.csv"]


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        ("run.txt", ValueError, r"to='.*run\.txt' must be a path that ends in \.csv"),
        ("missing/run.csv", FileNotFoundError, "missing"),
        (
            "other.csv",
            ValueError,
            r"is a file with the columns a, b, to which .* step, grad_norm, skipped, scale, lr/0",
        ),
    ],
)
def test_files_that_rows_cannot_go_to(
    to: str, error: type[Exception], message: str, host_backend: Backend, tmp_path: Path
) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    optimizer = make(host_backend)
    with pytest.raises(error, match=message):
        Monitor(optimizer, to=tmp_path / to)
    assert optimizer._observers == ()
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    assert os.listdir(tmp_path) == ["other.csv"]


def test_what_raises_gets_the_same_rows_again(host_backend: Backend) -> None:
    optimizer, given = make(host_backend), list[list[int]]()

    def refuse(rows: list[Row]) -> None:
        given.append(numbers(rows))
        rows.clear()  # it is its own list
        if len(given) < 3:
            raise OSError("disk full")

    monitor = Monitor(optimizer, every=2, to=refuse)
    steps(optimizer, 1)
    (p,) = optimizer.param_groups[0]["params"]
    for n in (2, 3):
        with pytest.raises(OSError, match="disk full"):
            optimizer.step()
        assert p.tolist() == [-0.5 * n] * 4  # the step was made
    steps(optimizer, 1)
    assert given == [[0, 1], [0, 1], [0, 1], [2, 3]] or given == [[0, 1], [0, 1], [0, 1, 2, 3]]
    monitor.close()


def test_a_callback_that_steps_polls_and_closes(host_backend: Backend) -> None:
    """Whatever it calls, rows come in their order and once; what it makes itself comes afterwards."""
    optimizer, given = make(host_backend), list[list[int]]()

    def act(rows: list[Row]) -> None:
        given.append(numbers(rows))
        if len(given) == 1:
            optimizer.step()
            monitor.poll()
        elif len(given) == 2:
            optimizer.step()
            monitor.close()

    monitor = Monitor(optimizer, every=2, to=act)
    steps(optimizer, 5)
    assert given == [[0, 1], [2], [3]]
    assert optimizer._observers == ()


@pytest.mark.slow
def test_a_script_that_does_not_close(tmp_path: Path) -> None:
    code = (
        "import torch, fused_sched\n"
        "from fused_sched.optim import SGD\n"
        "optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], backend='reference')\n"
        "monitor = fused_sched.Monitor(optimizer, to='run.csv')\n"
        "for _ in range(3): optimizer.step()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read(tmp_path / "run.csv")) == 4


# -- whose steps -----------------------------------------------------------------------------------------


def test_groups_that_come_and_go(backend: Backend, mirrored: bool) -> None:
    optimizer = make(backend)
    with Monitor(optimizer, every=100, capacity=100) as monitor:
        steps(optimizer, 3)
        more = torch.nn.Parameter(torch.zeros(4))
        optimizer.add_param_group({"params": [more], "lr": 0.125, "max_grad_norm": math.inf})
        steps(optimizer, 2)
        del optimizer.param_groups[0]
        steps(optimizer, 2)
        monitor.poll()
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(4))]})
        steps(optimizer, 1)
    assert [row.lr for row in monitor.rows] == [(1.0,)] * 3 + [(1.0, 0.125)] * 2 + [(0.125,)] * 2 + [(0.125, 1e-3)]
    assert numbers(monitor.rows) == [*range(8)]
    assert [math.isnan(row.grad_norm) for row in monitor.rows] == [True] * 3 + [False] * 5
    assert monitor.overwritten == 0


def test_a_group_a_step_does_not_keep_all_rings(host_backend: Backend) -> None:
    optimizer = make(host_backend)
    with Monitor(optimizer) as monitor:
        for _ in range(20):
            steps(optimizer, 1)
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(4))]})
        assert len(monitor._ring._rings) == 1
    assert [len(row.lr) for row in monitor.rows] == [*range(1, 21)]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_the_optimizer_has_no_monitor(how: Any, host_backend: Backend) -> None:
    optimizer = make(host_backend)
    with Monitor(optimizer) as monitor:
        steps(optimizer, 1)
        copied = how(optimizer)
        steps(copied, 5)
        steps(optimizer, 1)
        with pytest.raises(TypeError, match="^a Monitor belongs to one optimizer and cannot be copied or pickled"):
            how(monitor)
    assert numbers(monitor.rows) == [0, 1]
    assert copied._observers == ()


def test_a_load_goes_on(host_backend: Backend) -> None:
    optimizer, other = make(host_backend), make(host_backend)
    other.param_groups[0]["lr"] = 0.25
    with Monitor(optimizer) as monitor:
        steps(optimizer, 2)
        optimizer.load_state_dict(other.state_dict())
        steps(optimizer, 1)
    assert [(row.step, row.lr) for row in monitor.rows] == [(0, (1.0,)), (1, (1.0,)), (2, (0.25,))]


def test_two_monitors(host_backend: Backend, mirrored: bool) -> None:
    optimizer = make(host_backend, skip_nonfinite=True)
    with Monitor(optimizer, every=2) as first:
        steps(optimizer, 3)
        with Monitor(optimizer, first_step=50) as second:
            steps(optimizer, 3)
        steps(optimizer, 1)
    assert numbers(first.rows) == [*range(7)]
    assert numbers(second.rows) == [50, 51, 52]
    assert [row[1:4] for row in first.rows[3:6]] == [row[1:4] for row in second.rows]


def test_a_monitor_that_is_gone(host_backend: Backend) -> None:
    optimizer = make(host_backend)
    monitor = Monitor(optimizer, to=list[Row]().extend)
    steps(optimizer, 2)
    kept = [monitor]
    del monitor
    with pytest.warns(UserWarning, match="^a Monitor that nobody has any more was not closed.* with Monitor"):
        kept.clear()
    steps(optimizer, 2)
    assert optimizer._observers == ()


def test_a_monitor_that_is_gone_with_nothing_to_tell(host_backend: Backend) -> None:
    optimizer, rows = make(host_backend), list[Row]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor = Monitor(optimizer, every=2, to=rows.extend)
        steps(optimizer, 2)
        del monitor  # it told all
        monitor = Monitor(optimizer)
        steps(optimizer, 1)
        kept = monitor.rows
        del monitor  # whose rows nobody could have asked for
        gc.collect()
    assert numbers(rows) == [0, 1]
    assert kept == []


def test_an_optimizer_is_freed_with_its_monitor(host_backend: Backend) -> None:
    import weakref

    optimizer = make(host_backend)
    monitor = Monitor(optimizer)
    steps(optimizer, 1)
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer, monitor
        assert gone() is None
    finally:
        gc.enable()


def test_unobserved_steps(host_backend: Backend) -> None:
    optimizer = make(host_backend)
    with Monitor(optimizer) as monitor:
        with optimizer.unobserved():
            with optimizer.unobserved():
                steps(optimizer, 1)
            steps(optimizer, 1)
            late = Monitor(optimizer)
        steps(optimizer, 1)
        late.close()
        with pytest.raises(ZeroDivisionError), optimizer.unobserved():
            _ = 1 / 0
        steps(optimizer, 1)
    assert numbers(monitor.rows) == [0, 1]
    assert numbers(late.rows) == [0]


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def test_an_optimizer_in_a_wrapper(host_backend: Backend) -> None:
    optimizer = make(host_backend)
    wrapper = Wrapper(optimizer)
    with Monitor(wrapper) as monitor:
        wrapper.step()
    assert numbers(monitor.rows) == [0]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.Adam([torch.zeros(1)]), r"fused_sched\.optim's SGD, Adam, AdamW, and .* torch\.optim\.adam\.Adam"),
        (None, "not by those of builtins.NoneType"),
    ],
    ids=["torch", "none"],
)
def test_optimizers_of_others(optimizer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Monitor(optimizer)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "^every=0 must be at least 1"),
        ({"every": 1.5}, TypeError, "^every=1.5 must be a whole number, such as 100"),
        ({"every": True}, TypeError, "^every=True must be"),
        ({"capacity": 0}, ValueError, "^capacity=0 must be at least 1"),
        ({"capacity": "9"}, TypeError, "^capacity='9' must be"),
        ({"capacity": 99}, ValueError, "^capacity=99 must be at least every=100"),
        ({"first_step": -1}, ValueError, "^first_step=-1 must be at least 0"),
        ({"to": 3}, TypeError, "^to=3 must be a function of a list of rows, an object with add_scalar"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str, host_backend: Backend) -> None:
    optimizer = make(host_backend)
    with pytest.raises(error, match=message):
        Monitor(optimizer, **arguments)
    assert optimizer._observers == ()


# -- captures ------------------------------------------------------------------------------------------------


def test_inside_a_capture(late: Late) -> None:
    optimizer = make(ReferenceBackend(late))
    monitor = Monitor(optimizer, every=1)
    late.capturing = True
    for act, what in (
        (lambda: Monitor(optimizer), "a Monitor was made"),
        (monitor.poll, r"Monitor\.poll\(\) was called"),
        (monitor.flush, r"Monitor\.flush\(\) was called"),
        (monitor.close, r"Monitor\.close\(\) was called"),
    ):
        with pytest.raises(RuntimeError, match=f"^{what} inside a CUDA graph capture.*before the capture or between"):
            act()
    late.capturing = False
    monitor.close()
    optimizer._block.note_capture()
    with pytest.warns(UserWarning, match="^a Monitor was made after a CUDA graph was captured: replays") as caught:
        Monitor(optimizer).close()
    assert caught[0].filename == __file__
