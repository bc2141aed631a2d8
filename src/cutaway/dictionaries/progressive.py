"""Progressive coding: one dictionary that is used at many sizes, by keeping its first latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from .dictionary import Dictionary
from .matryoshka import Nested, ends
from .parts import TopK as TopKPart
from .parts import auxiliary_terms
from .recipe import Recipe


@method("progressive-sae", family="dictionary", roster="261", paper="arXiv 2505.00190",
        title="Empirical evaluation of progressive coding for sparse autoencoders")
def Progressive(width: int = 4096, k: int = 32, shares: tuple[float, ...] = (1 / 4, 1 / 2, 1), aux: float = 1 / 32,
                dead_after: int | None = None, lr: float | None = None, initial: str = "data") -> Recipe:
    """TopK that is trained at several sizes at once: encoded once at the largest, decoded from nested prefixes.

    loss = the mean over prefixes of FVU + aux * AuxK (section 3). Its prefixes are to be compared with those of a plain
    dictionary whose latents were put in the order of their importance: `sorted_by` and `prefix`.

    width: latents. k: how many fire for each token, chosen once among all latents. shares: where prefixes end, as shares of
    the width. aux, dead_after, lr, initial: as for TopK.
    Not known from the paper: the prefixes' weights, which are equal here. Differs from `Matryoshka` in selecting for each
    token, and in its prefixes.
    """
    losses = (Nested(ends(shares, width)), *auxiliary_terms(aux, dead_after))
    return Recipe("progressive-sae", width, TopKPart(k), losses, lr=lr, initial=initial)


@torch.no_grad()
def importance(dictionary: Dictionary, x: Tensor) -> dict[str, Tensor]:
    """What each latent does on activations x [n, d]: `energy`, the mean of (z_j |W_dec_j|)^2, and `frequency`; [width] each."""
    energy, count = torch.zeros(2, dictionary.width, dtype=torch.float64)
    for part in x.split(2048):
        codes = dictionary.encode(part)
        energy.index_add_(0, codes.indices.flatten(), codes.values.double().pow(2).flatten())
        count += codes.counts(dictionary.width)
    return {"energy": energy / len(x) * dictionary.W_dec.double().pow(2).sum(1), "frequency": count / len(x)}


def sorted_by(dictionary: Dictionary, score: Tensor) -> Dictionary:
    """The same dictionary with its latents in falling order of a score [width]; measure it on data that is not scored."""
    order = score.argsort(descending=True, stable=True)
    extra = {name: value[order] for name, value in dictionary.extra.items()}
    return dictionary.with_sparsifier(dictionary.sparsify, extra, **{
        name: getattr(dictionary, name)[order] for name in ("W_dec", "b_enc", "W_enc")}).requires_grad_(False)


def prefix(dictionary: Dictionary, n: int) -> Dictionary:
    """The first n latents as a dictionary, which selects among them alone."""
    if not 1 <= n <= dictionary.width:
        raise ValueError(f"a prefix holds 1 to {dictionary.width} latents; found {n}.")
    made = Dictionary(dictionary.d, n, dictionary.sparsify, dictionary.facts, dictionary.tied)
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(dict(dictionary.named_parameters())[name][: len(p)])
    return made.requires_grad_(False)
