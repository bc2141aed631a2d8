"""Against the truth, where it is known: are the right directions found, and do latents fire when the features are there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..dictionary import Dictionary
from ..parts import TopK
from ..truth import World, judged
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .controls import mean_l0

NAMES = ("mcc", "latent_f1", "uniqueness", "absorption_true")
PART = 4096


def bench_of(world: World, n: int = 20_000, seed: int = 1_000_003, **options: Any) -> Bench:
    """A bench of a world's activations, with its truth; `seed` must not be that of the training sample."""
    sample, rows = world.sample(n, seed), np.arange(n)
    return Bench(sample.x, rows // 100, rows, np.zeros(n, int), "blocks of 100", truth=(world, sample), **options)


def oracle(dictionary: Dictionary, bench: Bench) -> Dictionary | None:
    """The true directions, as many as the dictionary has latents and the commonest first, with their transpose as encoder;
    none for features that are manifolds. One with two poles has a direction for each."""
    world, sample = bench.truth
    if world.frames.shape[1] > 1:
        return None
    rows = world.frames[(sample.strength > 0).sum(0).argsort(descending=True), 0]
    rows = (torch.stack([rows, -rows], 1).flatten(0, 1) if world.spheres else rows)[: dictionary.width]
    made = Dictionary(dictionary.d, len(rows), TopK(min(mean_l0(dictionary, bench.x), len(rows))), dictionary.facts, tied=True)
    with torch.no_grad():
        made.W_dec.copy_(rows)
        made.b_dec.copy_(world.bias)
    return made.requires_grad_(False)


def truth(dictionary: Dictionary, bench: Bench) -> Results:
    """MCC, F1 of firing, uniqueness of matches, and how often a parent's latent is silent when a child is there."""
    if bench.truth is None:
        return dict.fromkeys(NAMES, Undefined("what the activations are made of is not known"))
    world, sample = bench.truth

    def seen() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in np.array_split(np.arange(bench.n), -(-bench.n // PART)):
            yield torch.from_numpy(bench.dense(dictionary, rows) != 0), sample.strength[rows] > 0

    found = judged(world, dictionary.W_dec, seen())
    return {"mcc": mean_of(found.pairs.cosines, "higher", "pairs of latent and feature"),
            "latent_f1": mean_of(found.f1.numpy(), "higher", "latents"),
            "uniqueness": mean_of(found.first.numpy(), "higher", "latents"),
            "absorption_true": mean_of(found.lost.numpy(), "lower", "parents", least=3)}


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    known = oracle(dictionary, bench) if bench.truth is not None else None
    return {} if known is None else {"oracle": ("ceiling", truth(known, bench))}


TRUTH = Metric(
    "truth", 1, "truth",
    "latents and true features are paired one to one by |cosine| (MCC is its mean); F1 of a latent's firing against its "
    "nearest feature's; nearest features that differ, over latents; and P(parent's latent silent | parent and a child on) - "
    "P(silent | parent on alone)", "the figures of SynthSAEBench on smaller worlds",
    {"random": "floor", "components": "beside"}, truth, anchors, repeats=3)
