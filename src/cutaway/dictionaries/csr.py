"""CSR: sparse codes of finished embeddings, whose few active units are to keep neighbours apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from ..catalogue import method
from .parts import MultiTopK, Pass, SquaredError, auxiliary_terms
from .parts import TopK as TopKPart
from .recipe import Recipe


@dataclass(frozen=True)
class Contrast:
    """weight * mean -log(exp(s_ii) / sum_j exp(s_ij)), s the cosine of the codes of tokens i and j over a temperature.

    A token's positive is itself (arXiv 2503.01776, equation 6), so this pushes the codes of different tokens apart.
    """

    weight: float
    temperature: float = 0.2

    def __call__(self, p: Pass) -> Tensor:
        z = F.normalize(kernels.reference.dense(p.codes.values, p.codes.indices, p.dictionary.width), dim=-1, eps=1e-6)
        return self.weight * F.cross_entropy(z @ z.T / self.temperature, torch.arange(len(z), device=z.device))


@method("csr", family="dictionary", roster="259", paper="arXiv 2503.01776",
        title="Beyond Matryoshka: revisiting sparse coding for adaptive representation")
def CSR(width: int = 4096, k: int = 32, contrast: float = 0.1, more: float = 1 / 8, aux: float = 1 / 32,
        dead_after: int | None = None, lr: float | None = None, initial: str = "data") -> Recipe:
    """A tied TopK autoencoder of embeddings, with an error at four times the latents and a term that parts the codes.

    z_k = ReLU(TopK_k(W (v - b_dec) + b_enc)), v_hat = z_k W + b_dec; loss = L(k) + more * L(4k) + aux * AuxK + contrast *
    L_cl (equations 5 to 7), with L the FVU. Codes are made for search: the dot product of two is their similarity.

    width: latents; the paper's choice is 4 times the embedding's. k: active units. contrast: weight of L_cl, 0.1 in the
    authors' code and 1 in the paper. more: weight of the error at 4k. aux, dead_after, lr, initial: as for TopK.
    Differs from the authors' code: each pair of codes is counted once (there, both copies of the same forward pass are), and
    a latent's silence is that of the k largest alone.
    """
    losses = (SquaredError(), *((MultiTopK(more),) if more else ()), *((Contrast(contrast),) if contrast else ()),
              *auxiliary_terms(aux, dead_after))
    return Recipe("csr", width, TopKPart(k), losses, unit_norm=False, tied=True, lr=lr, initial=initial)
