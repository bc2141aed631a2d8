"""Against the truth, where it is known: are the right directions found, and do latents fire when the features are there?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..codes import Codes
from ..dictionary import Dictionary
from ..parts import TopK
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .controls import mean_l0

NAMES = ("mcc", "latent_f1", "uniqueness", "absorption_true")


@dataclass(frozen=True, eq=False)
class World:
    """Activations that are made of known features.

    directions: unit rows [m, d], the commonest feature first; parents: [m], the feature without which one never fires, or
    -1; rate: [m], how often each fires, given its parent; mean: [d].
    """

    directions: Tensor
    parents: np.ndarray
    rate: np.ndarray
    mean: Tensor

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Codes]:
        """x [n, d], and which features it is made of and how strongly.

        Strengths are 1 + |normal| / 2. A feature whose parent is off is off; of siblings at most one is on.
        """
        random = np.random.default_rng(seed)
        m = len(self.rate)
        on = random.random((n, m), dtype=np.float32) < self.rate
        children = np.flatnonzero(self.parents >= 0)
        for parent in np.unique(self.parents[children]):
            mine = children[self.parents[children] == parent]
            # Siblings exclude each other: of those that would fire, a random one does.
            order = random.random((n, len(mine)), dtype=np.float32) * on[:, mine]
            on[:, mine] = (order > 0) & (order == order.max(1, keepdims=True)) & on[:, [parent]]
        strength = np.where(on, 1 + np.abs(random.standard_normal((n, m), dtype=np.float32)) / 2, 0)
        dense = torch.from_numpy(strength)
        k = max(1, int(on.sum(1).max()))
        values, indices = dense.topk(k, dim=1)
        return dense @ self.directions + self.mean, Codes(values, indices)

    def bench(self, n: int = 20_000, seed: int = 1, **options: object) -> Bench:
        """A bench of the world's activations, with its truth; `seed` must not be that of the training sample."""
        x, codes = self.sample(n, seed)
        group = np.arange(n) // 100
        return Bench(x, group, np.arange(n), np.zeros(n, int), "blocks of 100", truth=(self, codes), **options)  # type: ignore[arg-type]


def world(d: int = 32, features: int = 256, active: float = 4.0, roots: int = 16, children: int = 4, seed: int = 0) -> World:
    """Features in superposition, with firing rates by Zipf's law and some in families of a parent and exclusive children.

    d: width of the activations; features: how many; active: how many fire at once, on average, before exclusion; roots:
    parents, with `children` each. After SynthSAEBench (arXiv 2602.14687), smaller: no correlations beyond the families,
    and directions are random in place of nearly orthogonal.
    """
    if roots * (1 + children) > features:
        raise ValueError(f"{roots} families of {1 + children} need {roots * (1 + children)} features; found {features}.")
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(features, d, generator=generator), dim=1)
    rate = np.arange(1, features + 1) ** -0.5
    rate = np.minimum(rate * active / rate.sum(), 0.4)
    parents = np.full(features, -1)
    young = np.arange(roots, roots * (1 + children))
    parents[young] = (young - roots) % roots
    rate[young] = 1 / children                           # given the parent
    return World(directions, parents, rate, 2 * torch.randn(d, generator=generator))


def oracle(dictionary: Dictionary, bench: Bench) -> Dictionary:
    """The true directions, as many as the dictionary has latents and the commonest first, with their transpose as encoder."""
    known: World = bench.truth[0]
    rows = known.directions[: dictionary.width]
    made = Dictionary(dictionary.d, len(rows), TopK(mean_l0(dictionary, bench.x)), dictionary.facts, tied=True)
    with torch.no_grad():
        made.W_dec.copy_(rows)
        made.b_dec.copy_(known.mean)
    return made.requires_grad_(False)


def truth(dictionary: Dictionary, bench: Bench) -> Results:
    """MCC, F1 of firing, uniqueness of matches, and how often a parent's latent is silent when a child is on."""
    if bench.truth is None:
        return dict.fromkeys(NAMES, Undefined("what the activations are made of is not known"))
    from scipy.optimize import linear_sum_assignment
    known, codes = bench.truth
    cosine = np.abs((F.normalize(dictionary.W_dec.detach(), dim=1) @ known.directions.T).numpy())
    rows, columns = linear_sum_assignment(-cosine)
    best = cosine.argmax(1)
    there = codes.dense(len(known.rate)).ne(0).numpy()
    fires = bench.dense(dictionary, np.arange(bench.n)) != 0
    with np.errstate(invalid="ignore"):
        both, said, true = (fires & there[:, best]).sum(0), fires.sum(0), there[:, best].sum(0)
    unique = np.zeros(len(best))
    unique[np.unique(best, return_index=True)[1]] = 1
    paired = dict(zip(columns.tolist(), rows.tolist(), strict=True))
    missed = []
    for parent in np.unique(known.parents[known.parents >= 0]):
        if parent in paired:
            child = there[:, known.parents == parent].any(1)
            silent, on = ~fires[:, paired[parent]], there[:, parent]
            if (on & child).sum() >= 20 and (on & ~child).sum() >= 20:
                missed.append(silent[on & child].mean() - silent[on & ~child].mean())
    return {"mcc": mean_of(cosine[rows, columns], "higher", "pairs of latent and feature"),
            "latent_f1": mean_of(2 * both / np.maximum(said + true, 1), "higher", "latents"),
            "uniqueness": mean_of(unique, "higher", "latents"),
            "absorption_true": mean_of(missed, "lower", "parents", least=3)}


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    return {} if bench.truth is None else {"oracle": ("ceiling", truth(oracle(dictionary, bench), bench))}


TRUTH = Metric(
    "truth", 1, "truth",
    "latents and true features are paired one to one by |cosine| (MCC is its mean); F1 of a latent's firing against its "
    "nearest feature's; nearest features that differ, over latents; and P(parent's latent silent | parent and a child on) - "
    "P(silent | parent on alone)", "the figures of SynthSAEBench on a smaller world",
    {"random": "floor", "components": "beside"}, truth, anchors, repeats=3)
