"""How well a dictionary found the features that activations are made of."""

from __future__ import annotations

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
    cosines = world.cosines(dictionary.W_dec)
    pairs, nearest, width = matched(cosines), cosines.argmax(1), dictionary.width
    has_child = torch.zeros(world.m, dtype=torch.bool)
    has_child[world.parents[world.parents >= 0]] = True
    of_feature = torch.full((world.m,), -1)
    of_feature[torch.from_numpy(pairs.features)] = torch.from_numpy(pairs.latents)
    parents = (has_child & (of_feature >= 0)).nonzero().flatten()
    child = world.parents >= 0
    both, fired, there = (torch.zeros(width) for _ in range(3))
    silent, asked = torch.zeros(2, len(parents)), torch.zeros(2, len(parents))
    error, active, sums, squares = 0.0, 0, torch.zeros(world.d, dtype=torch.float64), 0.0
    for x, strength in ((s.x, s.strength) for s in world.samples(n, PART, seed)):
        codes = dictionary.encode(x)
        fires, on = codes.dense(width) != 0, strength > 0
        both += (fires & on[:, nearest]).sum(0)
        fired += fires.sum(0)
        there += on[:, nearest].sum(0)
        active += int(fires.sum())
        error += float((dictionary.decode(codes) - x).double().pow(2).sum())
        sums, squares = sums + x.double().sum(0), squares + float(x.double().pow(2).sum())
        if len(parents):
            young = torch.zeros(len(x), world.m).index_add(1, world.parents[child], on[:, child].float()) > 0
            for side in range(2):
                where = on[:, parents] & (young[:, parents] == bool(side))
                asked[side] += where.sum(0)
                silent[side] += (where & ~fires[:, of_feature[parents]]).sum(0)
    alive, real = fired > 0, (asked >= ENOUGH).all(0)
    lost = silent[1, real] / asked[1, real] - silent[0, real] / asked[0, real]
    best = cosines.amax(1)
    about = torch.zeros(world.m).index_add(0, nearest[best >= SHARED], torch.ones(int((best >= SHARED).sum())))
    return {"cosine": float(pairs.cosines.mean()), "recovered": float((pairs.cosines >= FOUND).sum() / world.m),
            "precision": _mean(both[alive] / fired[alive]), "recall": _mean(both[alive] / there[alive].clamp(min=1)),
            "f1": float((2 * both / (fired + there).clamp(min=1)).mean()), "unique": len(nearest.unique()) / width,
            "splitting": _mean(about[about > 0]), "absorption": _mean(lost),
            "fvu": error / (squares - float(sums.pow(2).sum()) / n), "l0": active / n, "dead": float((~alive).float().mean())}


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")


def stability(a: Tensor, b: Tensor, signed: bool = False) -> float:
    """Mean cosine of the decoder rows [width, d] of two seeds, matched one to one; signed: rows may also be opposite."""
    cosines = F.normalize(a.detach().float(), dim=1) @ F.normalize(b.detach().float(), dim=1).T
    return float(matched(cosines.abs() if signed else cosines).cosines.mean())
