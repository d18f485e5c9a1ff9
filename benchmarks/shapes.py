"""Shape sets: the parameters of well-known models, and hostile ones."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2(layers: int = 12, d: int = 768, vocabulary: int = 50257, context: int = 1024) -> list[Shape]:
    block: list[Shape] = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,)]
    block += [(d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(vocabulary, d), (context, d), *block * layers, (d,), (d,)]


def vit_b16(layers: int = 12, d: int = 768) -> list[Shape]:
    block: list[Shape] = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,)]
    block += [(d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(1, 1, d), (1, 197, d), (d, 3, 16, 16), (d,), *block * layers, (d,), (d,), (1000, d), (1000,)]


def llama(layers: int = 22, d: int = 2048, hidden: int = 5632, vocabulary: int = 32000, kv: int = 256) -> list[Shape]:
    block: list[Shape] = [(d, d), (kv, d), (kv, d), (d, d), (hidden, d), (hidden, d), (d, hidden), (d,), (d,)]
    return [(vocabulary, d), *block * layers, (d,), (vocabulary, d)]


def lora_7b(layers: int = 32, d: int = 4096, hidden: int = 11008, rank: int = 8) -> list[Shape]:
    pairs = [(d, d)] * 4 + [(d, hidden)] * 2 + [(hidden, d)]
    return [shape for _ in range(layers) for i, o in pairs for shape in ((rank, i), (o, rank))]


def lora_r1(layers: int = 32, d: int = 1024) -> list[Shape]:
    return [shape for _ in range(7 * layers) for shape in ((1, d), (d, 1))]


def embeddings() -> list[Shape]:
    """26 tables of a recommender, 100 to a million rows of 16, and its MLPs."""
    shapes: list[Shape] = [(int(10 ** (2 + 4 * i / 25)), 16) for i in range(26)]
    for a, b in ((13, 512), (512, 256), (256, 16), (415, 512), (512, 256), (256, 1)):
        shapes += [(b, a), (b,)]
    return shapes


SETS: dict[str, list[Shape]] = {
    "tiny 1000x64": [(64,)] * 1000,
    "LoRA r1": lora_r1(),
    "LoRA-7B r8": lora_7b(),
    "ResNet-50": resnet50(),
    "embeddings": embeddings(),
    "ViT-B/16": vit_b16(),
    "GPT-2 124M": gpt2(),
    "Llama-like 1.1B": llama(),
    "odd sizes": [(n,) for n in range(1, 400)],
    "one huge, 1000 tiny": [(20_000_000,)] + [(7,)] * 1000,
    "465 tensors": [(768 if i % 2 else 96, 24) for i in range(465)],
    "dry": [(9,), (64, 3), (1,), (1030,), (7,)],  # of a dry run, in which numbers mean nothing
}


def numel(shapes: list[Shape]) -> int:
    """Number of parameters of a set."""
    return sum(math.prod(s) for s in shapes)
