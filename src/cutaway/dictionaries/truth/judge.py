"""How well a dictionary found the features that activations are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .world import World

FOUND = 0.9       # a feature is recovered when its partner's cosine with it is at least this
SHARED = 0.7      # a latent is about a feature when its cosine with it is at least this
ENOUGH = 20       # tokens that must be there, on both sides of a question, for a parent to count in absorption
PART = 1024


class Matched(NamedTuple):
    """latents, features: [min(width, m)], the pairs; cosines of theirs."""

    latents: np.ndarray
    features: np.ndarray
    cosines: np.ndarray


def matched(cosines: Tensor | np.ndarray) -> Matched:
    """Pairs, one to one, of the greatest summed cosine (the Hungarian method): cosines [width, m]."""
    from scipy.optimize import linear_sum_assignment
    cosines = np.asarray(cosines)
    latents, features = linear_sum_assignment(-cosines)
    return Matched(latents, features, cosines[latents, features])


@dataclass(frozen=True)
class Judged:
    """What latents do where the features are known.

    pairs: latents and features, one to one. nearest, best: [width], the feature of the greatest cosine with each latent, and
    that cosine. both, fired, there: [width], at how many activations a latent fires and its nearest feature is there, at how
    many it fires, and at how many that feature is there. lost: for each parent that is asked about often enough, P(its latent
    is silent | parent and a child there) - P(silent | parent alone).
    """

    pairs: Matched
    nearest: Tensor
    best: Tensor
    both: Tensor
    fired: Tensor
    there: Tensor
    lost: Tensor

    @property
    def alive(self) -> Tensor:
        """Whether a latent ever fires: [width]."""
        return self.fired > 0

    @property
    def f1(self) -> Tensor:
        """Of each latent's firing against its nearest feature's being there, 0 for one that never fires: [width]."""
        return 2 * self.both / (self.fired + self.there).clamp(min=1)

    @property
    def first(self) -> Tensor:
        """Whether no earlier latent has the same nearest feature: bool [width]; their share is the uniqueness."""
        order = np.unique(self.nearest.numpy(), return_index=True)[1]
        return torch.zeros(len(self.nearest), dtype=torch.bool).index_fill(0, torch.from_numpy(order), True)


@torch.no_grad()
def judged(world: World, decoder: Tensor, seen: Iterable[tuple[Tensor, Tensor]]) -> Judged:
    """What latents with the decoder rows [width, d] do. seen: parts of activations, as two tables of yes and no: which
    latents fire [n, width], and which features are there [n, m]."""
    cosines = world.cosines(decoder)
    pairs, nearest, width = matched(cosines), cosines.argmax(1), len(decoder)
    child = world.parents >= 0
    has_child = torch.zeros(world.m, dtype=torch.bool)
    has_child[world.parents[child]] = True
    of_feature = torch.full((world.m,), -1)
    of_feature[torch.from_numpy(pairs.features)] = torch.from_numpy(pairs.latents)
    parents = (has_child & (of_feature >= 0)).nonzero().flatten()
    both, fired, there = (torch.zeros(width) for _ in range(3))
    silent, asked = torch.zeros(2, len(parents)), torch.zeros(2, len(parents))
    for fires, on in seen:
        both += (fires & on[:, nearest]).sum(0)
        fired += fires.sum(0)
        there += on[:, nearest].sum(0)
        if len(parents):
            young = torch.zeros(len(on), world.m).index_add(1, world.parents[child], on[:, child].float()) > 0
            for side in range(2):
                where = on[:, parents] & (young[:, parents] == bool(side))
                asked[side] += where.sum(0)
                silent[side] += (where & ~fires[:, of_feature[parents]]).sum(0)
    real = (asked >= ENOUGH).all(0)
    lost = silent[1, real] / asked[1, real] - silent[0, real] / asked[0, real]
    return Judged(pairs, nearest, cosines.amax(1), both, fired, there, lost)


@torch.no_grad()
def judge(dictionary: Any, world: World, n: int = 8192, seed: int = 1_000_003) -> dict[str, float]:
    """Figures of a dictionary on n fresh activations of the world it was trained on; `seed` must not be that of its training.

    cosine: mean of the matched pairs (MCC of SynthSAEBench); recovered: share of all features whose partner has a cosine
    of at least 0.9; precision, recall, f1: of a latent's firing against its nearest feature's being there, means over
    latents that ever fire (f1 of latents that never fire is 0 and counts); unique: nearest features that differ, over
    latents; splitting: latents about a feature (cosine at least 0.7 and nearest), mean over features that have one;
    absorption: P(parent's latent silent | parent and a child there) - P(silent | parent alone), mean over parents, nan
    without any; fvu, l0, dead. A dictionary is anything with W_dec, width, encode and decode.
    """
    error, active, sums, squares = 0.0, 0, torch.zeros(world.d, dtype=torch.float64), 0.0

    def seen() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal error, active, sums, squares
        for sample in world.samples(n, PART, seed):
            codes, x = dictionary.encode(sample.x), sample.x.double()
            fires = codes.dense(dictionary.width) != 0
            active += int(fires.sum())
            error += float((dictionary.decode(codes) - sample.x).double().pow(2).sum())
            sums, squares = sums + x.sum(0), squares + float(x.pow(2).sum())
            yield fires, sample.strength > 0

    found = judged(world, dictionary.W_dec, seen())
    pairs, alive = found.pairs, found.alive
    own = found.nearest[found.best >= SHARED]
    about = torch.zeros(world.m).index_add(0, own, torch.ones(len(own)))
    return {"cosine": float(pairs.cosines.mean()), "recovered": float((pairs.cosines >= FOUND).sum() / world.m),
            "precision": _mean(found.both[alive] / found.fired[alive]),
            "recall": _mean(found.both[alive] / found.there[alive].clamp(min=1)),
            "f1": float(found.f1.mean()), "unique": float(found.first.float().mean()),
            "splitting": _mean(about[about > 0]), "absorption": _mean(found.lost),
            "fvu": error / (squares - float(sums.pow(2).sum()) / n), "l0": active / n, "dead": float((~alive).float().mean())}


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")


def stability(a: Tensor, b: Tensor, signed: bool = False) -> float:
    """Mean cosine of the decoder rows [width, d] of two seeds, matched one to one; signed: rows may also be opposite."""
    cosines = F.normalize(a.detach().float(), dim=1) @ F.normalize(b.detach().float(), dim=1).T
    return float(matched(cosines.abs() if signed else cosines).cosines.mean())
