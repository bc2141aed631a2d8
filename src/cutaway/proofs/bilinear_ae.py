"""Bilinear autoencoders on circles in planes of their own: quadratic forms from weights alone, and latents in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..dictionaries import Facts, TopK
from ..dictionaries.bilinear import Bilinear, BilinearAE
from ..dictionaries.truth import World, matched
from ..dictionaries.truth.worlds import directions
from ..train.learner import Learner
from .proof import Comparison, Proof, compare, say

D, M, R = 32, 8, 2                         # dimensions; manifolds; dimensions of each: circles
WIDTH, FORMS, STEPS, BATCH = 128, 64, 500, 512   # the paper's 2d forms; it takes 16d latents
SEEDS, TRAIN, TEST = (0, 1, 2), 16_384, 8192
PENALTIES = (0.0, 0.1, 0.3, 1.0)
GOOD, FAINT, COST = 0.9, 0.1, 0.01          # a recovered plane; an eigenvalue that does not count; see `tuned`
PREFIXES = (6, 12, 24)


def world(seed: int) -> World:
    """One circle is there at a time; the i-th as often as 1 / i, so that manifolds differ in importance."""
    share = 1 / torch.arange(1, M + 1)

    def strengths(n: int, generator: torch.Generator) -> Tensor:
        chosen = torch.multinomial(share, n, True, generator=generator)
        return torch.nn.functional.one_hot(chosen, M).float() * (1 + 0.2 * torch.randn(n, 1, generator=generator)).abs()
    return World("circles", directions(M, D, seed, R), strengths, torch.zeros(D), torch.full((M,), -1), spheres=True)


def recovery(forms: Tensor, known: World) -> np.ndarray:
    """How much of each manifold's plane [m] the form that is matched with it spans, from the weights alone: forms [n, d, d].

    A form is taken as its two eigenvectors of largest eigenvalue by magnitude, without the second where it is below a tenth of
    the first: the mean squared length of what of the true plane lies along them. A form of rank one has 0.5 at most.
    """
    values, vectors = torch.linalg.eigh(forms)
    order = values.abs().argsort(1, descending=True)[:, :R]
    sizes = values.gather(1, order).abs()
    chosen = vectors.gather(2, order[:, None].expand(-1, D, -1)) * (sizes >= FAINT * sizes[:, :1])[:, None]
    inside = torch.einsum("mrd,ndk->nmrk", known.frames, chosen).pow(2).sum((2, 3)) / R
    pairs = matched(inside)
    found = np.zeros(known.m)
    found[pairs.features] = pairs.cosines
    return found


def rank_one(rows: Tensor) -> Tensor:
    """The form that a latent of a linear autoencoder is: its row's product with itself."""
    rows = rows.detach()
    return torch.einsum("nd,ne->nde", rows, rows)


def grouped(rows: Tensor, seed: int) -> Tensor:
    """A linear autoencoder's rows [n, d], put into as many groups as there are manifolds: the sum of each group's forms."""
    from sklearn.cluster import SpectralClustering
    rows = torch.nn.functional.normalize(rows.detach(), dim=1)
    label = SpectralClustering(M, affinity="precomputed", random_state=seed).fit_predict((rows @ rows.T).pow(2).numpy())
    made = rank_one(rows)
    return torch.stack([made[torch.from_numpy(label == group)].sum(0) for group in range(M)])


def linear(x: Tensor, seed: int) -> Tensor:
    """The decoder's rows [WIDTH, d] of a TopK autoencoder: two latents span a circle's plane up to signs, so k is 2."""
    learner = Learner(TopK(WIDTH, 2), x, STEPS, BATCH, seed)
    generator = torch.Generator().manual_seed(seed)
    while not learner.done:
        learner.step(x[torch.randint(len(x), (BATCH,), generator=generator)])
    made = learner.export(Facts())
    assert made is not None
    return made.W_dec


def tuned(x: Tensor, held_out: Tensor) -> float:
    """The strongest penalty that costs at most 1% of the product's squared norm, which is 1, on held-out activations."""
    errors = {}
    for penalty in PENALTIES:
        model, _ = BilinearAE(x, WIDTH, FORMS, penalty=penalty, steps=STEPS, batch=BATCH, seed=100)
        errors[penalty] = float(model.errors(held_out).mean())
    say("penalty: " + ", ".join(f"{penalty:g} error {error:.4f}" for penalty, error in errors.items()))
    return max(penalty for penalty in PENALTIES if errors[penalty] <= COST + min(errors.values()))


def importance(model: Bilinear, x: Tensor) -> Tensor:
    """How much the error rises [width] when one latent alone is left out of the reconstruction."""
    f, overlaps = model.latents(x), model.overlaps()
    moments = f.T @ f / len(f)
    return 2 * moments.diagonal() - 2 * (moments * overlaps).sum(1) + moments.diagonal() * overlaps.diagonal()


def rank(values: Sequence[float] | Tensor) -> float:
    """Spearman's correlation of values with their place, from the first on: -1 for falling ones."""
    from scipy.stats import spearmanr
    return float(spearmanr(np.arange(len(values)), np.asarray(values)).statistic)


@proof("bilinear-ae")
def circles() -> Proof:
    """Latents recover the quadratic forms of circles from weights alone; ordering puts the important ones first."""
    known = world(100)
    penalty = tuned(known.sample(TRAIN, 1).x, known.sample(TEST, 2).x)
    rows: list[dict[str, float]] = []
    for seed in SEEDS:
        known = world(seed)
        x, test = known.sample(TRAIN, 10_000 + seed).x, known.sample(TEST, 999).x
        mixed, _ = BilinearAE(x, WIDTH, FORMS, penalty=penalty, steps=STEPS, batch=BATCH, seed=seed)
        plain, _ = BilinearAE(x, WIDTH, penalty=0.0, steps=STEPS, batch=BATCH, seed=seed)
        ordered, _ = BilinearAE(x, WIDTH, ordered=True, penalty=0.0, steps=STEPS, batch=BATCH, seed=seed)
        latents = linear(x, seed)
        strength = importance(plain, x).argsort(descending=True)
        found = recovery(mixed.forms(), known)
        row = {"plane": float(found.mean()), "recovered": float((found >= GOOD).mean()),
               "plane, TopK": float(recovery(rank_one(latents), known).mean()),
               "plane, TopK grouped": float(recovery(grouped(latents, seed), known).mean()),
               "plane, latents without a mix": float(recovery(plain.forms(), known).mean()),
               "order": rank(importance(ordered, test)), "order, without": rank(importance(plain, test))}
        errors = {"ordered": ordered.prefix_errors(test), "plain": plain.prefix_errors(test),
                  "plain, sorted": plain.prefix_errors(test, strength)}
        row |= {f"error at {m}, {name}": float(error[m - 1]) for name, error in errors.items() for m in (*PREFIXES, WIDTH)}
        row |= {f"error, {name}": float(error.mean()) for name, error in errors.items()}
        rows.append(row)
        say(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items() if " at " not in name))
    return concluded(rows, penalty)


def concluded(rows: list[dict[str, float]], penalty: float) -> Proof:
    """The proof from each seed's figures."""
    def against(ours: str, theirs: str, method: str, baseline: str, figure: str, better: str) -> Comparison:
        return compare(method, baseline, figure, [row[ours] for row in rows], [row[theirs] for row in rows], better)

    planes, prefixes = "share of a circle's plane in its form", "error in product space, mean over prefixes"
    recovered, order = float(np.mean([row["recovered"] for row in rows])), max(row["order"] for row in rows)
    ours = f"bilinear autoencoder, {FORMS} forms"
    return Proof(
        "bilinear-ae", "On activations from known quadratic manifolds, bilinear latents recover the quadratic form from "
        "weights alone, and the ordering loss ranks latents by importance.",
        comparisons=(against("plane", "plane, TopK", ours, f"TopK {WIDTH}, k 2, a latent's row as its form", planes, "higher"),
                     against("error, ordered", "error, plain", "ordering loss", "the same without it", prefixes, "lower")),
        checks={f"{GOOD:.0%} of the planes are spanned to {GOOD} or more": recovered >= GOOD,
                "with the ordering loss a latent's importance falls with its place (Spearman below -0.7, every seed)":
                    order < -0.7},
        beside=(against("plane", "plane, TopK grouped", ours, f"TopK, its rows clustered into {M} groups", planes, "higher"),
                against("plane", "plane, latents without a mix", ours, "products of two directions alone", planes, "higher"),
                against("error, ordered", "error, plain, sorted", "ordering loss", "without it, sorted afterwards", prefixes,
                        "lower"),
                against("order", "order, without", "ordering loss", "without it", "Spearman of importance and place", "lower")),
        figures={"by_seed": rows, "penalty": penalty, "recovered": recovered},
        n={"manifolds of each seed": M, "training activations": TRAIN, "test activations": TEST, "latents": WIDTH},
        seeds=SEEDS,
        notes=(f"{M} circles in random planes of R^{D}, one there at a time, the i-th as often as 1/i. Planes are read from "
               "each form's eigenvectors. The penalty is the strongest that costs at most 1% of the product's squared norm on "
               "held-out activations of another world. That the measure is of planes, and not of the projectors on them, was "
               "chosen on another world: a circle's products span three forms, and which of them a latent is does not matter.",
               "One row of a linear autoencoder spans half of a plane at most; clustering was told how many manifolds there "
               "are. Smaller than the paper: activations of a 0.6B model and 16,384 latents there.")
    ).unless(f"Likely why: {recovered:.0%} of the planes were recovered; the weakest rank correlation is {order:.2f}.")
