"""Crosscoders: one code of several sites, or of the same site in two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from ..network import Network
from .codes import Codes
from .dictionary import Facts
from .parts import SquaredError, auxiliary_terms, sparsifier
from .parts import TopK as TopKPart
from .recipe import Recipe
from .relu_l1 import ReLU
from .shared_code import SharedCode
from .wiring import BESIDE, Row, Wiring, sites_of, tensors_of


@dataclass(frozen=True)
class Joint(Wiring):
    """Reads all sites of a pattern, such as `blocks.*` or `blocks.1,blocks.3`, and writes all of them."""

    def places(self, net: Network, pattern: str) -> dict[str, str]:
        names = [site.name for site in sites_of(net, pattern)]
        if len(names) < 2:
            raise ValueError(f"a crosscoder is of several sites; {pattern} names {', '.join(names)} alone.")
        return {pattern.replace(" ", "").replace("*", "all"): BESIDE.join(names)}

    def usual(self, blocks: int) -> str:
        return "blocks.*"

    def row(self, widths: tuple[int, ...]) -> Row:
        every = tuple(range(len(widths)))
        return Row(widths, every, every)

    def empty(self, recipe: Recipe, row: Row, facts: Facts, limits: Sequence[float]) -> SharedCode:
        sites = tensors_of(facts.site) if facts.site else [f"site {i}" for i in range(len(row.widths))]
        return SharedCode(sum(row.widths), recipe.width, recipe.sparsify, replace(facts, max_norm=float("inf")), recipe.tied,
                          sites=sites, widths=row.widths, limits=limits)

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: torch.Generator) -> Any:
        return recipe.build(sample, generator, partial(SharedCode, widths=row.widths))


@sparsifier("norm-weighted-topk")
@dataclass(frozen=True)
class NormWeighted:
    """The k largest latents of each token by activation times the sum of the decoder's norms over sites, if positive."""

    k: int

    def __call__(self, x: Tensor, d: Any, progress: float = 1.0) -> Codes:
        norms, k = d.norms().detach(), min(self.k, d.width)

        def choose(on: ModuleType, x: Tensor, weight: Tensor, bias: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
            _, indices = on.largest(x, weight * norms[:, None], bias * norms, k, False, None)
            return on.products(x, weight, indices) + bias[indices], indices

        values, indices = kernels.encode_by(x, d.W_enc, d.b_enc, choose, d.b_dec)
        return Codes(values.relu(), indices)

    def inference(self, d: Any) -> Any:
        """The same as TopK: latents are scaled so that their norms sum to 1."""
        norms = d.norms().clamp(min=1e-12)
        return d.with_sparsifier(TopKPart(self.k), {}, W_enc=d.W_enc * norms[:, None], b_enc=d.b_enc * norms,
                                 W_dec=d.W_dec / norms[:, None])


@method("crosscoder", family="dictionary", title="Sparse crosscoders for cross-layer features and model diffing",
        paper="transformer-circuits.pub 2024, crosscoders")
def Crosscoder(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, lr: float | None = None,
               initial: str = "data") -> Recipe:
    """One code of several sites, or of a site in two networks: the k latents that write most over all sites reconstruct all.

    z = W_enc (x - b_dec) + b_enc with x the sites side by side, each at variance 1; the k largest z_i * sum_s |W_dec,i at s|
    are kept; loss = mean FVU over sites + aux * AuxK. Learned at `blocks.*` it reads and writes all blocks; for two networks
    see `cutaway.side_by_side`.

    width: latents. k: how many fire for each token. aux, dead_after, lr, initial: as for TopK.
    Differs from the article: the k largest norm-weighted latents in place of a penalty on them (`crosscoder-l1` has it), a
    bias that is subtracted from the input, and rows over all sites at norm 1 in training.
    """
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after))
    return Recipe("crosscoder", width, NormWeighted(k), losses, lr=lr, initial=initial, wiring=Joint())


@method("crosscoder-l1", family="dictionary", title="Sparse crosscoders for cross-layer features and model diffing",
        paper="transformer-circuits.pub 2024, crosscoders")
def CrosscoderL1(width: int = 4096, l1: float = 0.3, l0: float | None = None, lr: float | None = None,
                 initial: str = "data") -> Recipe:
    """One code of several sites whose penalty is the activation times the sum of the decoder's norms over sites.

    z = ReLU(W_enc (x - b_dec) + b_enc); loss = mean FVU over sites + l1 * sum_i z_i sum_s |W_dec,i at s|. The sum of norms,
    in place of the norm over all sites, lets a latent belong to one site alone.

    width: latents. l1: weight of the penalty. l0: steer the weight until so many latents fire on average. lr: Adam's learning
    rate; left out, by the scaling rule. initial: decoder rows from `data` or `random`.
    Differs from the article: each site is brought to variance 1, and a bias is subtracted from the input.
    """
    plain = ReLU(width, l1, l0, lr, initial)
    return replace(plain, name="crosscoder-l1", wiring=Joint(), unit_norm=False)
