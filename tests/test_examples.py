"""The examples: a GPT in sixteen bits, whose ways learn and lose what they may lose; PPO that learns; a bandit."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "examples"))

import ppo_kl
import train_gpt
import two_optimizers
from processes import run_python
from train_gpt import WAYS, YARDSTICK, Data, Size, Training, Way

from fused_sched import graphed
from fused_sched.step_options import MasterWeights

ROOT = Path(__file__).parent.parent
STEPS = 40


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.load(Size(32, 1, 2, 32, 8), "cpu", 32)


@pytest.fixture(scope="module")
def runs(data: Data) -> dict[Way, Training]:
    return dict(zip(WAYS, train_gpt.train(WAYS, data, STEPS, 0), strict=True))


def test_quick_run_prints_a_row_of_each_way(tmp_path: Path) -> None:
    command = [ROOT / "examples" / "train_gpt.py", "--quick", "--device", "cpu"]
    done = run_python(command, tmp_path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    for way in WAYS:
        (row,) = re.findall(rf"^{re.escape(way.title)} {{2,}}(.*)$", done.stdout, re.MULTILINE)
        assert len([float(number) for number in row.split()]) == 7
    assert "no chart" in done.stdout or (tmp_path / "gpt_output" / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_losses_fall(way: Way, runs: dict[Way, Training]) -> None:
    run = runs[way]
    assert len(run.losses) == STEPS
    assert sum(run.losses[-5:]) < sum(run.losses[:5]) - 2.5
    assert run.final < run.losses[0] - 0.5
    assert run.final < run.averaged < run.losses[0]  # averages come after


@pytest.mark.parametrize("way", [way for way in WAYS if way.keywords], ids=lambda way: way.title)
def test_nothing_is_lost_but_by_plain_bfloat16(way: Way, runs: dict[Way, Training]) -> None:
    (plain,) = [run for other, run in runs.items() if other.dtype == torch.bfloat16 and not other.keywords]
    lost = plain.final - runs[YARDSTICK].final
    assert lost > 0.005
    assert abs(runs[way].final - runs[YARDSTICK].final) < lost / 2


def test_ours_in_float32_is_torchs(runs: dict[Way, Training]) -> None:
    (ours,) = [run for way, run in runs.items() if way.dtype == torch.float32 and not way.by_torch]
    assert ours.losses == pytest.approx(runs[YARDSTICK].losses, abs=1e-4)
    assert ours.averaged == pytest.approx(runs[YARDSTICK].averaged, abs=1e-4)


def test_every_way_to_keep_precision_is_among_them() -> None:
    keywords = [way.keywords for way in WAYS]
    assert {"stochastic_rounding": True} in keywords
    assert all({"master_weights": kind} in keywords for kind in get_args(MasterWeights))


def test_the_same_seed_gives_the_same_run(data: Data, runs: dict[Way, Training]) -> None:
    (way,) = [way for way in WAYS if "stochastic_rounding" in way.keywords]
    torch.rand(7)
    (again,) = train_gpt.train([way], data, STEPS, 0)
    assert again.losses == runs[way].losses
    assert (again.final, again.averaged) == (runs[way].final, runs[way].averaged)


def test_bytes_are_those_of_parameters_and_states(runs: dict[Way, Training]) -> None:
    assert [runs[way].bytes_per_parameter() for way in WAYS] == [12, 12, 6, 6, 12, 14]


def test_files_that_are_missing_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(SystemExit, match="no text to learn"):
        train_gpt.load_text()
    (tmp_path / "ast.py").write_text("é = 1", encoding="utf-8")
    assert bytes(train_gpt.load_text().tolist()) == b"? = 1"


# -- PPO -------------------------------------------------------------------------------------------------

SMALL = ppo_kl.Size(epochs=5, minibatches=8)


def run(script: str, *options: str) -> str:
    """What an example prints on the CPU."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = run_python([ROOT / "examples" / script, *options], ROOT, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_ppo_learns() -> None:
    learner = ppo_kl.Learner(SMALL, "cpu", seed=0)
    assert learner.mean_return() < ppo_kl.LEARNED / 2
    for _ in range(ppo_kl.ITERATIONS):
        learner.iterate()
    assert learner.mean_return() > ppo_kl.LEARNED
    assert learner.updates == 40 * ppo_kl.ITERATIONS
    assert min(learner.lrs) < ppo_kl.LR < max(learner.lrs)  # it went up and down


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("limit", [1.0, 0.02])
def test_ppo_is_what_the_host_would_do(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With early stops and without: the same lrs and parameters, until rounding errors have grown."""
    monkeypatch.setattr(ppo_kl, "KL_LIMIT", limit)
    size = ppo_kl.Size(epochs=4, minibatches=4)
    learners = ppo_kl.Learner(size, "cpu", seed=0), ppo_kl.HostLearner(size, "cpu", seed=0)
    for iteration in range(3):
        for learner in learners:
            torch.manual_seed(iteration)
            learner.iterate()
    ours, torchs = learners
    assert ours.lrs == pytest.approx(torchs.lrs, rel=1e-12)
    assert (len(ours.lrs) < ours.updates) == (len(torchs.lrs) < torchs.updates) == (limit < 1)
    for a, b in zip(ours.policy.parameters(), torchs.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_ppo_prints_a_row_of_each_way() -> None:
    shown = run("ppo_kl.py", "--iterations", "1", "--epochs", "1", "--minibatches", "4", "--environments", "8")
    for name in ("torch, the host reads the KL", "fused_sched, eager"):
        (row,) = re.findall(rf"^{name} +([\d.]+) +(\d+)   ([▁-█]+)$", shown, re.MULTILINE)
        assert 0 < float(row[0]) <= 200
        assert 1 <= len(row[2]) <= 4
    assert "graphed: not run, as no GPU was found" in shown


def test_ppo_draws_the_lr() -> None:
    assert ppo_kl.chart([ppo_kl.MIN_LR, ppo_kl.MAX_LR]) == "▁█"
    assert ppo_kl.chart([ppo_kl.MIN_LR] * 100 + [ppo_kl.MAX_LR] * 100, width=4) == "▁▁██"


@pytest.mark.usefixtures("one_thread")
def test_carts_fall_when_nobody_pushes_rightly_and_begin_anew() -> None:
    torch.manual_seed(0)
    carts = ppo_kl.CartPoles(16, "cpu")
    fell = torch.zeros(16, dtype=torch.bool)
    for _ in range(60):
        failed, over, last = carts.step(torch.ones(16))
        assert torch.equal(failed, over)
        assert (last[failed, 2].abs() > 0.2).all()
        assert (carts.state[failed].abs() <= 0.05).all()
        fell |= failed
    assert fell.all()
    carts.state.zero_()
    carts.age.fill_(carts.LENGTH - 1)
    failed, over, _ = carts.step(torch.zeros(16))
    assert not failed.any()
    assert over.all()


# -- two optimizers --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.slow
def test_actor_and_critic_learn_as_with_torch(fused: bool) -> None:
    steps = two_optimizers.STEPS
    ours, torchs = two_optimizers.Pair("cpu", steps, fused=fused), two_optimizers.torchs("cpu", steps)
    before = ours.distance()
    assert before == torchs.distance() > 0.5
    update = graphed(ours.update, ours.first, ours.second)
    for i in range(steps):
        losses, expected = update(*ours.next_batch(64)), torchs.update(*torchs.next_batch(64))
        if i < 50:  # until rounding errors have grown
            assert [x.item() for x in losses] == pytest.approx([x.item() for x in expected], rel=1e-3, abs=1e-4)
    assert max(ours.distance(), torchs.distance()) < before / 2
    for a, b in zip(ours.schedules, torchs.schedules, strict=True):
        assert a.get_last_lr() == pytest.approx(b.get_last_lr(), rel=1e-12)


def test_actor_and_critic_print_a_row_of_each_way() -> None:
    shown = run("two_optimizers.py", "--steps", "5", "--batch", "8")
    for name in ("torch, eager", "fused_sched, eager"):
        assert re.search(rf"^{name} +[\d.]+ +[\d.]+ +\d+$", shown, re.MULTILINE), shown
    assert "graphed: not run, as no GPU was found" in shown
