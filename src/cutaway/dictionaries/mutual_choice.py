"""Mutual Choice: the largest affinities of a whole batch of tokens and features, whoever's they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..catalogue import method
from .batch_topk import BatchLargest
from .codes import Codes
from .parts import AuxK, SquaredError, auxiliary_terms, sparsifier
from .recipe import Recipe
from .zipf import AuxZipf

if TYPE_CHECKING:
    from .dictionary import Dictionary


DECAY = 0.99   # of the running mean of how often each latent fires


@sparsifier("mutual-choice")
@dataclass(frozen=True)
class MutualLargest(BatchLargest):
    """`batch_topk.BatchLargest`, which also follows how often each latent fires in `extra["density"]` [width]."""

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {**super().tensors(width), "density": torch.zeros(width)}

    def after(self, d: Dictionary, codes: Codes, progress: float) -> None:
        super().after(d, codes, progress)
        follow(d.extra["density"].data, codes.counts(d.width) / max(1, len(codes.values)))


def follow(known: Tensor, now: Tensor) -> None:
    """Move running means, in place, toward a batch's; they begin at the first batch's."""
    known.copy_(torch.where((known > 0).any(), known.lerp(now, 1 - DECAY), now))


AUXILIARY = {"zipf": AuxZipf, "dead": AuxK}


@method("mutual-choice", family="dictionary", roster="041", paper="arXiv 2411.02124",
        title="Adaptive sparse allocation with mutual choice and feature choice sparse autoencoders")
def MutualChoice(width: int = 4096, k: int = 32, aux: float = 1 / 32, auxiliary: str = "zipf",
                 dead_after: int | None = None, lr: float | None = None, initial: str = "data") -> Recipe:
    """The n * k largest affinities of n tokens and all latents are kept, and under-used latents learn from what is left over.

    Affinities are the positive pre-activations; the selection is that of BatchTopK, so what is new is aux_zipf_loss: latents
    that fire for less than a tenth of what Zipf's law expects at their rank reconstruct the residual. loss = FVU + aux *
    AuxZipf. The finished dictionary has one threshold, the running mean of the least affinity that was kept.

    width: latents. k: how many fire for each token on average. aux: weight of the auxiliary loss. auxiliary: `zipf`, or `dead`
    for AuxK. dead_after: tokens of silence after which a latent is dead; left out, 2% of the training's tokens. lr, initial:
    as for TopK.
    Not known from the paper, and chosen here: the tenth, the law's fit (see `zipf`), that densities are running means over
    about 100 batches, and the finished dictionary.
    """
    if auxiliary not in AUXILIARY:
        raise ValueError(f"the auxiliary loss is one of {', '.join(AUXILIARY)}; found {auxiliary!r}.")
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after, AUXILIARY[auxiliary]))
    return Recipe("mutual-choice", width, MutualLargest(k), losses, lr=lr, initial=initial)
