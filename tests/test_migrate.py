"""docs/migrate.md: what is shown of other libraries and what is shown of this one train alike."""

from __future__ import annotations

import ast
import copy
import os
import re
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python

from fused_sched.lr_scheduler import KLAdaptiveLR, StepLR
from fused_sched.optim import SGD, Adam, AdamW

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "migrate.md").read_text()
# Of lrs and of parameters. Elsewhere an lr in a float32 tensor; a master whose halves are rounded to another side.
TOLERANCES = {"dion's CudaGraphOptimizer": (1e-6, 1e-4), "LeanRL's recipe": (1e-6, 1e-4)}
TOLERANCES |= {"Transformer Engine's FusedAdam": (1e-12, 2e-2)}
SLOW = {"DeepSpeed"}  # compiles at its first start


def _pairs() -> dict[str, list[str]]:
    """Blocks of each section: before, after, and what else is there."""
    sections = re.split(r"^## From (.*)$", PAGE, flags=re.MULTILINE)[1:]
    found = {}
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        blocks = re.findall(r"^```python( before)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert [bool(before) for before, _ in blocks[:2]] == [True, False], title
        found[title] = [code for _, code in blocks]
    return found


PAIRS = _pairs()


def _imported(code: str) -> set[str]:
    """Modules that a block imports, without their submodules."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


def _trained(code: str, path: Path) -> tuple[list[float], list[torch.Tensor]]:
    """The lrs and the parameters that a block ends with, in a process of its own."""
    keep = f"torch.save((lrs, [p.detach().cpu() for p in model.parameters()]), {str(path)!r})"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    there = os.environ.get("PYTHONPATH", "")
    done = run_python(
        ["-c", f"import torch\ntorch.manual_seed(0)\n{code}\n{keep}"],
        path.parent,
        timeout=500,
        PYTHONPATH=f"{ROOT}{os.pathsep}{there}",
        **alone,
    )
    assert done.returncode == 0, done.stderr
    lrs, weights = torch.load(path)
    return lrs, weights


@pytest.mark.parametrize("title", [pytest.param(t, marks=[pytest.mark.slow] if t in SLOW else []) for t in PAIRS])
def test_before_and_after_train_alike(title: str, tmp_path: Path) -> None:
    before, after = PAIRS[title][:2]
    for name in sorted(_imported(before)):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if ".cuda()" in before and not torch.cuda.is_available():
        pytest.skip(f"{title} needs a GPU")
    theirs, ours = _trained(before, tmp_path / "before.pt"), _trained(after, tmp_path / "after.pt")
    of_lrs, of_weights = TOLERANCES.get(title, (1e-12, 1e-5))
    assert len(set(theirs[0])) > 5
    torch.testing.assert_close(ours[0], theirs[0], rtol=of_lrs, atol=0.01 * of_lrs)
    torch.testing.assert_close(ours[1], theirs[1], rtol=of_weights, atol=of_weights)


def test_pairs_are_of_all_that_the_page_names() -> None:
    assert len(PAIRS) == 8
    for before, after, *_ in PAIRS.values():
        assert "fused_sched" not in before
        assert _imported(after) == {"torch", "fused_sched"}


@pytest.mark.parametrize("title", PAIRS)
def test_both_draw_the_same_batches(title: str) -> None:
    """Else nothing that they train to could be compared."""
    draws = [re.findall(r"torch\.randn\(.*?\)|range\(.*?\)|nn\.Linear\(.*?\)", code) for code in PAIRS[title][:2]]
    assert draws[0] == draws[1]
    assert len(draws[0]) >= 3


# -- state dicts ---------------------------------------------------------------------------------------------


def _from_fused_adam() -> Any:
    names: dict[str, Any] = {}
    exec(PAIRS["Apex's FusedAdam"][2], names)  # noqa: S102
    return names["from_fused_adam"]


def _step(optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def _as_apex(saved: dict[str, Any]) -> dict[str, Any]:
    """torch's state dict in the form that Apex and Transformer Engine have: the count is the group's."""
    apex = copy.deepcopy(saved)
    for group in apex["param_groups"]:
        states = [apex["state"][n] for n in group["params"] if n in apex["state"]]
        counts = {int(state.pop("step")) for state in states}
        kept = {k: group[k] for k in ("lr", "initial_lr", "betas", "eps", "weight_decay", "params") if k in group}
        group.clear()
        group.update(kept, bias_correction=True)
        if counts:
            (group["step"],) = counts
    return apex


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_state_dict_of_fused_adam_goes_on_here(ours: Any, theirs: Any, steps: int) -> None:
    weights = [torch.nn.Parameter(torch.arange(3.0) + k) for k in range(3)]
    groups = [{"params": weights[:2], "lr": 0.1}, {"params": weights[2:], "weight_decay": 0.3}]
    other = theirs(groups, lr=0.01, betas=(0.8, 0.9))
    for seed in range(steps):
        _step(other, seed)
    mine = [torch.nn.Parameter(p.detach().clone()) for p in weights]
    optimizer = ours([{"params": mine[:2]}, {"params": mine[2:]}])
    optimizer.load_state_dict(_from_fused_adam()(_as_apex(other.state_dict()), optimizer))
    for seed in range(10, 13):
        _step(other, seed)
        _step(optimizer, seed)
    torch.testing.assert_close(mine, weights)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.01]
    assert optimizer.state[mine[0]]["step"] == steps + 3


def test_a_scheduler_goes_on_with_what_the_groups_had() -> None:
    other = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.8)
    theirs = torch.optim.lr_scheduler.StepLR(other, 3, 0.5)
    for seed in range(7):
        _step(other, seed)
        theirs.step()
    optimizer = AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    saved = _as_apex(other.state_dict())
    saved["param_groups"][0]["max_lr"] = 0.9  # as OneCycleLR has it
    optimizer.load_state_dict(_from_fused_adam()(saved, optimizer))
    assert optimizer.param_groups[0]["max_lr"] == 0.9
    assert "step" not in optimizer.param_groups[0]
    scheduler = StepLR(optimizer, 3, 0.5, last_epoch=theirs.last_epoch - 1)
    assert (scheduler.base_lrs, optimizer.param_groups[0]["lr"]) == ([0.8], theirs.get_last_lr()[0])


def test_a_state_dict_without_bias_correction_is_refused() -> None:
    optimizer = AdamW([torch.nn.Parameter(torch.ones(2))])
    saved = _as_apex(optimizer.state_dict())
    saved["param_groups"][0]["bias_correction"] = False
    with pytest.raises(ValueError, match="bias_correction=False"):
        _from_fused_adam()(saved, optimizer)


# -- rsl_rl's own update -------------------------------------------------------------------------------------


def test_the_lrs_of_rsl_rls_own_update() -> None:
    """Its PPO, and our scheduler with the divergences that it has measured."""
    pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")
    from rsl_rl.algorithms import PPO
    from rsl_rl.models import MLPModel
    from rsl_rl.storage import RolloutStorage
    from tensordict import TensorDict

    torch.manual_seed(0)
    obs, sets = TensorDict({"policy": torch.randn(16, 4)}, [16]), {"actor": ["policy"], "critic": ["policy"]}
    noise = {"class_name": "GaussianDistribution"}
    actor, critic = MLPModel(obs, sets, "actor", 2, [8], distribution_cfg=noise), MLPModel(obs, sets, "critic", 1, [8])
    ppo = PPO(actor, critic, RolloutStorage("rl", 16, 8, obs, [2]), schedule="adaptive", desired_kl=0.01)
    scheduler = KLAdaptiveLR(SGD([torch.nn.Parameter(torch.ones(1))], lr=1e-3), target_kl=0.01, min_lr=1e-5)
    divergence, step, lrs, followed = actor.get_kl_divergence, ppo.optimizer.step, [], []

    def measured(*arguments: Any) -> torch.Tensor:
        kl: torch.Tensor = divergence(*arguments)
        scheduler.observe(kl.mean().clone())
        return kl

    def stepped() -> None:
        scheduler.optimizer.step()
        scheduler.step()
        lrs.append(ppo.optimizer.param_groups[0]["lr"])
        followed.append(scheduler.get_last_lr()[0])
        step()

    actor.get_kl_divergence, ppo.optimizer.step = measured, stepped
    for _ in range(3):
        for _ in range(8):
            ppo.act(obs)
            obs = TensorDict({"policy": torch.randn(16, 4)}, [16])
            ppo.process_env_step(obs, torch.randn(16), torch.zeros(16), {})
        ppo.compute_returns(obs)
        ppo.update()
    assert len(set(lrs)) > 3
    torch.testing.assert_close(followed, lrs, rtol=1e-12, atol=0)
