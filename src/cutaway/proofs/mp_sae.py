"""Matching pursuit against TopK and ReLU autoencoders on a tree of features whose directions are correlated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..dictionaries import BatchTopK, Dictionary, Facts, Recipe, ReLU, TopK
from ..dictionaries.mp_sae import MatchingPursuit
from ..dictionaries.truth import World, judge, matched
from ..train.learner import Learner
from .proof import Comparison, Proof, compare, say

D, K = 20, 2
SEEDS, STEPS, BATCH, VALIDATION, TEST = (0, 1, 2, 3, 4), 800, 200, 4096, 8192
CHILDREN, ROOTS = 3, 11                         # of each of the first three roots; roots in all, of which one is there
# The authors' shares of mixing that make directions of one level correlate by 0, 0.4 and 0.8 (siblings, roots).
MIXES = {0.0: (0.0, 0.0), 0.4: (0.282, 0.594), 0.8: (0.482, 0.7739)}
RATES = (2.0, 0.7, 0.25)                        # multiples of a recipe's own learning rate that are tried
MEAN, SPREAD = 1.5, 0.25
RECIPES: dict[str, Callable[[], Recipe]] = {
    "mp-sae": partial(MatchingPursuit, D, K), "topk": partial(TopK, D, K), "batch-topk": partial(BatchTopK, D, K),
    "relu-l1": partial(ReLU, D, l0=float(K))}


def parents() -> Tensor:
    """Roots come first: three parents, then eight without children; then the children, three and three and three."""
    return torch.cat([torch.full((ROOTS,), -1), torch.arange(3).repeat_interleave(CHILDREN)])


def tree(correlation: float, seed: int) -> World:
    """20 features in 20 dimensions (arXiv 2506.03093, section 4): exactly one root, and mostly one of its children.

    Directions are orthonormal and then mixed with the mean of the others of their level: q_i <- (1 - e) q_i + e * mean.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    levels = [torch.arange(ROOTS), *(ROOTS + CHILDREN * i + torch.arange(CHILDREN) for i in range(3))]
    among, roots = MIXES[correlation]
    for level, share in zip(levels, (roots, among, among, among), strict=True):
        own = rows[level]
        others = (own.sum(0) - own) / (len(level) - 1)
        rows[level] = (1 - share) * own + share * others
    rows = rows / rows.norm(dim=1, keepdim=True)

    def strengths(n: int, generator: torch.Generator) -> Tensor:
        on = torch.zeros(n, D)
        root = torch.multinomial(torch.tensor([0.2] * 3 + [0.05] * 8), n, True, generator=generator)
        child = torch.multinomial(torch.tensor([0.2] * 3 + [0.4]), n, True, generator=generator)
        on[torch.arange(n), root] = 1
        has = ((root < 3) & (child < CHILDREN)).nonzero().flatten()
        on[has, ROOTS + CHILDREN * root[has] + child[has]] = 1
        return on * (MEAN + SPREAD * torch.randn(n, D, generator=generator)).relu()
    return World(f"tree {correlation:g}", rows[:, None], strengths, torch.zeros(D), parents())


def train(recipe: Recipe, world: World, seed: int) -> Dictionary:
    learner = Learner(recipe, world.sample(4096, 50_000 + seed).x, STEPS, BATCH, seed)
    for sample in world.samples(STEPS * BATCH, BATCH, 10_000 + seed):
        learner.step(sample.x)
    made = learner.export(Facts())
    assert made is not None
    return made


@torch.no_grad()
def fvu(dictionary: Dictionary, x: Tensor) -> float:
    return float((dictionary(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum())


def tuned(name: str) -> Recipe:
    """A method's recipe at the learning rate with the least FVU on validation data of the middle tree."""
    world, plain = tree(0.4, 100), RECIPES[name]()
    x = world.sample(VALIDATION, 777).x
    tried = {rate: fvu(train(replace(plain, lr=rate * plain.rate), world, 100), x) for rate in RATES}
    best = min(tried, key=lambda rate: tried[rate])
    say(f"{name}: learning rate {best * plain.rate:.2g} of FVU " + ", ".join(f"{value:.4f}" for value in tried.values()))
    return replace(plain, lr=best * plain.rate)


def geometry(dictionary: Dictionary, world: World) -> float:
    """Mean absolute difference between the cosines of features with each other and those of the latents matched with them."""
    pairs = matched(world.cosines(dictionary.W_dec))
    rows = torch.zeros(D, D)
    rows[torch.from_numpy(pairs.features)] = dictionary.W_dec.detach()[torch.from_numpy(pairs.latents)]
    rows, true = torch.nn.functional.normalize(rows, dim=1), world.frames[:, 0]
    other = ~torch.eye(D, dtype=torch.bool)
    return float((rows @ rows.T - true @ true.T)[other].abs().mean())


def figures(dictionary: Dictionary, world: World) -> dict[str, float]:
    return {**judge(dictionary, world, TEST, 999), "geometry": geometry(dictionary, world)}


@proof("mp-sae")
def hierarchy() -> Proof:
    """On a tree of features it recovers directions that TopK and ReLU miss, and each further step lowers the error."""
    recipes = {name: tuned(name) for name in RECIPES}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    detail: dict[str, dict[str, float]] = {}
    falls = []
    for seed in SEEDS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
        for correlation in MIXES:
            world = tree(correlation, seed)
            for name, recipe in recipes.items():
                dictionary = train(recipe, world, seed)
                found[name].append(figures(dictionary, world))
                detail[f"{name}, correlation {correlation:g}, seed {seed}"] = found[name][-1]
                if name == "mp-sae":
                    x = world.sample(TEST, 999).x
                    falls.append([_with_steps(dictionary, x, steps) for steps in range(1, 2 * K + 1)])
        for name, each in found.items():
            rows[name].append({key: float(np.mean([one[key] for one in each])) for key in each[0]})
        say(f"seed {seed}: " + ", ".join(f"{name} recovered {found[-1]['recovered']:.2f} cosine {found[-1]['cosine']:.3f} "
                                         f"L0 {found[-1]['l0']:.2f}" for name, found in rows.items()))

    def against(name: str, figure: str, better: str) -> Comparison:
        return compare(f"MP-SAE, {K} steps", f"{name} at L0 {K}", figure, [r[figure] for r in rows["mp-sae"]],
                       [r[figure] for r in rows[name]], better)

    off = max(abs(row["l0"] / K - 1) for name in ("topk", "relu-l1") for row in rows[name])
    return Proof(
        "mp-sae", "On hierarchical features with correlated directions MP-SAE recovers directions that ReLU and TopK "
        "autoencoders miss at equal L0, and its error falls with each further step at inference.",
        comparisons=(against("topk", "recovered", "higher"), against("relu-l1", "recovered", "higher")),
        checks={f"the error falls with every step from 1 to {2 * K} for all trees and seeds":
                all(b < a for one in falls for a, b in zip(one, one[1:], strict=False)),
                "the L0 of TopK and ReLU differ from it by at most 10%": off <= 0.1},
        beside=(against("batch-topk", "recovered", "higher"), against("topk", "cosine", "higher"),
                against("topk", "geometry", "lower"), against("relu-l1", "geometry", "lower"),
                against("topk", "f1", "higher"), against("topk", "fvu", "lower")),
        figures={"by_seed": rows, "by_tree": detail, "fvu_by_steps": falls,
                 "rates": {name: recipe.rate for name, recipe in recipes.items()}},
        n={"features": D, "training activations": STEPS * BATCH, "test activations": TEST, "trees of each seed": len(MIXES)},
        seeds=SEEDS,
        notes=("The authors' tree: 20 features in 20 dimensions, one of 11 roots at a time, three of which have three children "
               "that exclude each other; true L0 1.36. A seed's figure is the mean over correlations 0, 0.4 and 0.8 within "
               "a level. Recovered: the share of features whose partner's cosine is at least 0.9. Geometry: mean absolute "
               "error of the cosines between features. Learning rates were chosen on validation data of another tree.",
               "Five seeds, the least for synthetic data; a first run with three seeds, whose roots at 0.4 were mixed too "
               "little (to 0.3), left ReLU undecided: the interval of recovered was -0.02 to 0.83.",
               "All have L0 2, the next whole number above the truth; the authors train 15,000 steps and let MP end by itself. "
               "FVU at equal L0 on a small GPT is in `cutaway bench dictionaries`, not here.")
    ).unless("Likely why: " + " ".join(f"{name} recovered {np.mean([r['recovered'] for r in each]):.0%} of the features."
                                        for name, each in rows.items()))


def _with_steps(dictionary: Dictionary, x: Tensor, steps: int) -> float:
    deeper = replace(dictionary.sparsify, k=steps)
    codes = deeper(x, dictionary)
    return float((dictionary.decode(codes) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
