"""Cross-layer transcoders as recipes: learned from the inputs of all MLPs to their outputs, at one layer and all later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..catalogue import method
from ..network import Network
from .across import BOOST, Across, paired_rows
from .cross_layer import CrossLayer
from .dictionary import Facts
from .parts import SquaredError, auxiliary_terms
from .parts import TopK as TopKPart
from .recipe import Recipe, geometric_median, scale_encoder
from .stack import AuxKOfLayers, Stack
from .wiring import BESIDE, Row, Wiring, several, tensors_of


@dataclass(frozen=True)
class Upward(Wiring):
    """Reads the inputs of several modules, such as those of `blocks.*.mlp`, and writes their outputs, each and all later
    ones."""

    def places(self, net: Network, pattern: str) -> dict[str, str]:
        pairs = [tensors_of(place) for place in Across().places(net, pattern).values()]
        if len(pairs) < 2:
            raise ValueError(f"a cross-layer transcoder is of several layers; {pattern} names one.")
        reads, writes = zip(*pairs, strict=True)
        return {pattern.replace(" ", "").replace("->", "-").replace("*", "all"): BESIDE.join([*reads, *writes])}

    def usual(self, blocks: int) -> str:
        return "blocks.*.mlp"

    def row(self, widths: tuple[int, ...]) -> Row:
        several(widths, 4, "a cross-layer transcoder learns from the inputs of all layers and then their outputs")
        n = len(widths) // 2
        if len(widths) % 2 or len(set(widths[:n])) > 1 or len(set(widths[n:])) > 1:
            raise ValueError(f"all layers of a cross-layer transcoder have one width, and so has all that they write; found "
                             f"{widths}.")
        return Row(widths, tuple(range(n)), tuple(range(n, 2 * n)))

    def latents(self, recipe: Recipe, row: Row) -> int:
        return recipe.width * len(row.reads)

    def empty(self, recipe: Recipe, row: Row, facts: Facts, limits: Sequence[float]) -> Any:
        names, n = tensors_of(facts.site), len(row.reads)
        return CrossLayer(row.widths[0], recipe.width, n, recipe.sparsify, row.widths[-1], names[:n], names[n:], facts, limits)

    def fill(self, made: Any, tensors: dict[str, Tensor]) -> None:
        own = made.state_dict()
        made.load_state_dict({name: value.view_as(own[name]) for name, value in tensors.items()})

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: torch.Generator) -> Stack:
        """Layer by layer, latents begin along random inputs and write what earlier layers leave, at the best common scale."""
        d_out = row.widths[-1]
        made = Stack(row.of(row.reads), recipe.width, d_out, recipe.sparsify)
        with torch.no_grad():
            left = row.written(sample).clone()
            for bias, part in zip(made.b_dec, left.split(d_out, -1), strict=True):
                bias.copy_(geometric_median(part[:8192]))
                part.sub_(bias)
            for i, x in enumerate(row.read(sample).split(made.widths, -1)):
                later, x = left[:, i * d_out:], x - (center := geometric_median(x[:8192]))
                for held, rows in zip((made.W_enc[i], made.W_dec[i]), paired_rows(recipe, (x, later), generator), strict=True):
                    held.copy_(rows)
                made.b_enc[i].copy_(-made.W_enc[i] @ center)
                x = x + center
                later.sub_(scale_encoder(made.encoder(i), made.sparsify, x, partial(_first, made, i, x), later))
        return made


def _first(stack: Stack, i: int, x: Tensor) -> Tensor:
    """What the latents of layer i write at first."""
    return stack.written(i, stack.encode_layer(i, x))


@method("cross-layer-transcoder", family="dictionary",
        title="Circuit tracing: revealing computational graphs in language models",
        paper="transformer-circuits.pub 2025, attribution graphs: methods")
def CrossLayerTranscoder(width: int = 4096, k: int = 16, aux: float = 1 / 32, dead_after: int | None = None,
                         lr: float | None = None, initial: str = "data") -> Recipe:
    """Latents of each layer's MLP input reconstruct the outputs of that MLP and, with those of other layers, of all later ones.

    z_i = ReLU(TopK(W_enc,i x_i + b_i)), y_j = sum over i <= j of z_i W_dec,i to j + b_j; loss = mean FVU over layers + aux *
    AuxK. A latent's rows over all that it writes have norm 1 together. Learned at `blocks.*.mlp`.

    width: latents of each layer. k: how many fire for each token in each layer. aux, dead_after, lr, initial: as for TopK.
    Differs from the article: TopK in place of JumpReLU with a tanh penalty.
    """
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after, AuxKOfLayers))
    return Recipe("cross-layer-transcoder", width, TopKPart(k), losses, lr=lr, boost=BOOST, initial=initial, wiring=Upward())
