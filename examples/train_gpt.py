"""Train a small GPT in sixteen bits, once with each way to keep what sixteen bits lose, beside torch in float32.

    python examples/train_gpt.py
    python examples/train_gpt.py --steps 1000 --seeds 5 --device cuda

The text is the source of Python's own standard library, read character by character; no network is needed. All runs of
one seed start from the same float32 weights, rounded where the parameters are bfloat16, and see the same batches. Each
run clips its gradients, warms up, follows a cosine, and averages its weights. Prints a table, and draws the losses
into gpt_output/ if matplotlib is there. Takes some minutes on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import platform
import statistics
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fused_sched.lr_scheduler
from fused_sched import plotting
from fused_sched.optim import AdamW

OUTPUT = Path("gpt_output")
# All of them are in Python 3.10 to 3.14. A file that is missing is left out.
FILES = """
argparse ast bdb calendar codecs configparser contextlib copy csv dataclasses datetime difflib dis doctest enum ftplib
functools gettext gzip heapq imaplib inspect ipaddress locale mailbox mimetypes optparse os pdb pickle pickletools
platform plistlib poplib pprint pstats random shelve shutil smtplib socket socketserver ssl statistics subprocess
tarfile tempfile textwrap threading timeit tokenize trace traceback typing uuid warnings weakref"""
CHARACTERS = 128  # ASCII: others become a question mark
LR, LAST_LR, WEIGHT_DECAY, BETAS = 1e-3, 1e-5, 0.1, (0.9, 0.95)
MAX_NORM, EMA_DECAY = 1.0, 0.98


@dataclass(frozen=True, eq=False)
class Way:
    """How parameters are kept."""

    title: str
    dtype: torch.dtype
    keywords: dict[str, Any] = field(default_factory=dict)
    by_torch: bool = False


YARDSTICK = Way("torch, float32", torch.float32, by_torch=True)
WAYS = [
    YARDSTICK,
    Way("float32", torch.float32),
    Way("bfloat16", torch.bfloat16),
    Way("bfloat16, stochastic rounding", torch.bfloat16, {"stochastic_rounding": True}),
    Way("bfloat16, remainder", torch.bfloat16, {"master_weights": "remainder"}),
    Way("bfloat16, float32 master", torch.bfloat16, {"master_weights": "float32"}),
]


@dataclass(frozen=True)
class Size:
    """Of the model and of its batches."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 64
    batch: int = 16


class Block(torch.nn.Module):
    """Attention to what came before, then a perceptron."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.before_attention, self.before_perceptron = (torch.nn.LayerNorm(size.width) for _ in range(2))
        self.attention = torch.nn.Linear(size.width, 3 * size.width)
        self.out = torch.nn.Linear(size.width, size.width)
        self.up = torch.nn.Linear(size.width, 4 * size.width)
        self.down = torch.nn.Linear(4 * size.width, size.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        both = self.attention(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = both.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(functional.gelu(self.up(self.before_perceptron(x))))
        return x


class GPT(torch.nn.Module):
    """Characters in, logits of the next characters out."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.characters = torch.nn.Embedding(CHARACTERS, size.width)
        self.places = torch.nn.Embedding(size.context, size.width)
        self.blocks = torch.nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = torch.nn.LayerNorm(size.width)
        self.head = torch.nn.Linear(size.width, CHARACTERS)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        x = self.characters(text) + self.places.weight[: text.shape[1]]
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def make_model(size: Size, seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(size)
    for embedding in (model.characters, model.places):
        torch.nn.init.normal_(embedding.weight, std=0.1)
    return model


def loss_of(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Mean over all characters but the first of each window."""
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def exact_loss(model: torch.nn.Module, windows: torch.Tensor) -> float:
    """Computed in float32, so that only what the parameters are makes a difference."""
    exact = copy.deepcopy(model).float()
    return sum(loss_of(exact, part).item() * len(part) for part in windows.split(64)) / len(windows)


def load_text() -> torch.Tensor:
    """Codes of all characters of :data:`FILES`."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in (folder / f"{name}.py" for name in FILES.split()) if path.exists()]
    if not paths:
        raise SystemExit(f"none of the standard library's sources is in {folder}: there is no text to learn")
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return torch.frombuffer(bytearray(text.encode("ascii", errors="replace")), dtype=torch.uint8).long()


@dataclass
class Data:
    """What is trained with, and the windows that the final losses are of; one tenth of the text is for these."""

    size: Size
    train: torch.Tensor
    validation: torch.Tensor

    @classmethod
    def load(cls, size: Size, device: str, windows: int) -> Data:
        text = load_text().to(device)
        split = len(text) * 9 // 10
        starts = torch.linspace(split, len(text) - size.context - 1, windows).long().to(device)
        return cls(size, text[:split], text[starts[:, None] + torch.arange(size.context + 1, device=device)])

    def batches(self, steps: int, seed: int) -> Iterator[torch.Tensor]:
        """Windows of one character more than the context."""
        generator = torch.Generator().manual_seed(seed)
        window = torch.arange(self.size.context + 1)
        for _ in range(steps):
            starts = torch.randint(len(self.train) - self.size.context, (self.size.batch, 1), generator=generator)
            yield self.train[(starts + window).to(self.train.device)]


class Training:
    """One run: a model, its optimizer and schedule, and what is recorded of them."""

    def __init__(self, way: Way, model: GPT, steps: int, seed: int) -> None:
        self.model = copy.deepcopy(model).to(way.dtype)
        common: dict[str, Any] = {"lr": LR, "betas": BETAS, "weight_decay": WEIGHT_DECAY}
        around: dict[str, Any] = {"max_grad_norm": MAX_NORM, "ema_decay": EMA_DECAY, **way.keywords}
        self.averages: AveragedModel | None = None
        self.optimizer: Any
        if way.by_torch:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), **common, fused=True)
            self.averages = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
            self.scheduler = warm_up_then_cosine(torch.optim.lr_scheduler, self.optimizer, steps)
        else:
            torch.manual_seed(seed)  # for stochastic rounding
            self.optimizer = AdamW(self.model.parameters(), **common, **around)
            self.scheduler = warm_up_then_cosine(fused_sched.lr_scheduler, self.optimizer, steps, fused=True)
        self.losses: list[float] = []  # of training, at each step
        self.seconds: list[float] = []
        self.update_seconds: list[float] = []  # of those, what comes after backward()
        self.final = self.averaged = math.nan  # losses in validation, of the weights and of their averages

    def finish(self, windows: torch.Tensor) -> None:
        self.final = exact_loss(self.model, windows)
        if self.averages is not None:
            self.averaged = exact_loss(self.averages.module, windows)
        else:
            with self.optimizer.ema_weights():
                self.averaged = exact_loss(self.model, windows)

    def step(self, windows: torch.Tensor) -> None:
        start = time_on(windows.device)
        self.optimizer.zero_grad()
        loss = loss_of(self.model, windows)
        loss.backward()
        middle = time_on(windows.device)
        if self.averages is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.scheduler.step()
        if self.averages is not None:
            self.averages.update_parameters(self.model)
        end = time_on(windows.device)
        self.seconds.append(end - start)
        self.update_seconds.append(end - middle)
        self.losses.append(loss.item())

    def bytes_per_parameter(self) -> float:
        """And of its state, but for the average."""
        total = elements = 0
        for p in self.model.parameters():
            state = {"param": p, **self.optimizer.state[p], "ema": None}
            total += sum(t.numel() * t.element_size() for t in state.values() if torch.is_tensor(t) and t.dim())
            elements += p.numel()
        return total / elements


def warm_up_then_cosine(schedulers: Any, optimizer: Any, steps: int, **keywords: Any) -> Any:
    """A tenth of the steps up to the lr, then half a cosine; of torch's module or of ours."""
    warm_up = max(1, steps // 10)
    parts = [
        schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=warm_up),
        schedulers.CosineAnnealingLR(optimizer, T_max=max(1, steps - warm_up), eta_min=LAST_LR),
    ]
    return schedulers.SequentialLR(optimizer, parts, milestones=[warm_up], **keywords)


def time_on(device: torch.device) -> float:
    """In seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def train(ways: list[Way], data: Data, steps: int, seed: int) -> list[Training]:
    """One run of each way, step by step side by side, so that all are timed under the same conditions."""
    model = make_model(data.size, seed).to(data.train.device)
    runs = [Training(way, model, steps, seed) for way in ways]
    for windows in data.batches(steps, seed):
        for run in runs:
            run.step(windows)
    for run in runs:
        run.finish(data.validation)
    return runs


def print_table(results: dict[Way, list[Training]]) -> None:
    """Means over the seeds."""
    finals = {way: [run.final for run in of_way] for way, of_way in results.items()}
    mean = statistics.fmean(finals[YARDSTICK])
    spread = statistics.stdev(finals[YARDSTICK]) if len(finals[YARDSTICK]) > 1 else math.nan
    print(f"\n{'':<30}{'bytes a':>10}{'validation loss':>21}{'minus torch, float32':>24}{'ms a step':>19}")
    print(
        f"{'parameters':<30}{'parameter':>10}{'weights':>11}{'averages':>10}{'':>12}{'in spreads':>12}"
        f"{'all':>10}{'update':>9}"
    )
    for way, of_way in results.items():
        loss, averaged = statistics.fmean(finals[way]), statistics.fmean(run.averaged for run in of_way)
        seconds = statistics.median(s for run in of_way for s in run.seconds)
        update = statistics.median(s for run in of_way for s in run.update_seconds)
        print(
            f"{way.title:<30}{of_way[0].bytes_per_parameter():>10.0f}{loss:>11.4f}{averaged:>10.4f}"
            f"{loss - mean:>+12.4f}{(loss - mean) / spread:>+12.2f}{1e3 * seconds:>10.1f}{1e3 * update:>9.2f}"
        )
    print(f"""
The spread, {spread:.4f}, is the standard deviation of the loss that '{YARDSTICK.title}' has with different seeds.
Bytes are the parameter's and its state's; its gradient and its average are not among them. Clipping and averaging are
part of the update.""")


def draw(results: dict[Way, list[Training]], path: Path) -> None:
    """Training losses, means over the seeds and over some steps; and how far they are from the yardstick's."""
    width = max(1, len(results[YARDSTICK][0].losses) // 12)
    curves = {}
    for way, of_way in results.items():
        losses = [statistics.fmean(at_step) for at_step in zip(*(run.losses for run in of_way), strict=True)]
        curves[way.title] = [
            statistics.fmean(losses[i - width + 1 : i + 1]) if i >= width - 1 else math.nan for i in range(len(losses))
        ]
    base = curves[YARDSTICK.title]
    apart = {name: [a - b for a, b in zip(curve, base, strict=True)] for name, curve in curves.items()}
    panels = {"training loss": curves, f"minus {YARDSTICK.title}": apart}
    plotting.draw_panels(panels, path, f"A GPT in sixteen bits: mean of {width} steps, of {len(of_way)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of each run; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a tiny model, for a look at what is printed")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the model is small: more threads make the times noisy, and not much shorter
    size, windows = (Size(32, 1, 2, 32, 8), 64) if arguments.quick else (Size(), 512)
    steps, seeds = (30, 2) if arguments.quick else (arguments.steps, arguments.seeds)
    data = Data.load(size, arguments.device, windows)
    count = sum(p.numel() for p in make_model(size, 0).parameters())
    print(
        f"a GPT of {count:,} parameters on {len(data.train):,} characters of Python {platform.python_version()}: "
        f"{steps} steps a run, torch {torch.__version__} on {arguments.device}"
    )
    results: dict[Way, list[Training]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        print(f"seed {seed + 1} of {seeds}", flush=True)
        for way, run in zip(WAYS, train(WAYS, data, steps, seed), strict=True):
            results[way].append(run)
    print_table(results)
    OUTPUT.mkdir(exist_ok=True)
    try:
        draw(results, OUTPUT / "loss.png")
    except ImportError as error:
        print(f"no chart: {error}")
    else:
        print(f"Chart: {OUTPUT / 'loss.png'}")


if __name__ == "__main__":
    main()
