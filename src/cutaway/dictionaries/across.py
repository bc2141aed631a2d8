"""Transcoders as recipes: learned from a module's input to its output, or from any site to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..catalogue import method
from ..network import Network
from .dictionary import Facts
from .recipe import Recipe, geometric_median, scale_encoder, unit
from .topk import TopK
from .transcoder import Transcoder as Dictionary
from .wiring import BESIDE, Row, Wiring, several, sites_of, tensors_of

# Where `blocks.{i}.mlp` is not the output of the whole MLP: the module inside a block whose input the MLP reads.
MLP_BEGINS = {"gemma": "mlp", "opt": "fc1", "bert": "intermediate.dense"}
BOOST = 4.0     # of the learning rate; TopK's 12 leaves most latents dead here (chosen on validation text)


@dataclass(frozen=True)
class Across(Wiring):
    """Reads a module's input and writes its output. skip: with a linear map beside the latents.

    A pattern is a site such as `blocks.*.mlp`, which is written, or `SITE -> SITE` with what is read on the left.
    """

    skip: bool = False

    def places(self, net: Network, pattern: str) -> dict[str, str]:
        left, arrow, right = pattern.rpartition("->")
        written = sites_of(net, right)
        if not arrow:
            reads = [_input_of(net, site.name) for site in written]
        else:
            reads = [site.name for site in sites_of(net, left)]
            if len(reads) != len(written):
                raise ValueError(f"each site that is read belongs to one that is written; {pattern} names {len(reads)} and "
                                 f"{len(written)}.")
        return {site.name: f"{read}{BESIDE}{site.name}" for read, site in zip(reads, written, strict=True)}

    def usual(self, blocks: int) -> str:
        return f"{super().usual(blocks)}.mlp"

    def row(self, widths: tuple[int, ...]) -> Row:
        several(widths, 2, "a transcoder learns from the input and the output")
        return Row(widths, (0,), (1,))

    def empty(self, recipe: Recipe, row: Row, facts: Facts, limits: Sequence[float]) -> Dictionary:
        read, written = tensors_of(facts.site) if facts.site else ("", "")
        limits = limits or (facts.max_norm, float("inf"))
        return Dictionary(row.widths[0], recipe.width, recipe.sparsify, replace(facts, site=read, max_norm=limits[0]),
                          d_out=row.widths[1], skip=self.skip, target=written, target_norm=limits[1])

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: torch.Generator) -> Dictionary:
        """Latents begin along random inputs and write what those inputs' outputs have, with the best common scale."""
        x, y = row.read(sample), row.written(sample)
        made = self.empty(recipe, row, Facts(recipe=recipe.json()), ())
        with torch.no_grad():
            x = x - (center := geometric_median(x[:8192]))
            made.b_dec.copy_(geometric_median(y[:8192]))
            left = y - made.b_dec
            for held, rows in zip((made.W_enc, made.W_dec), paired_rows(recipe, (x, left), generator), strict=True):
                held.copy_(rows)
            made.b_enc.copy_(-made.W_enc @ center)
            x = x[:1024] + center
            scale_encoder(made, made.sparsify, x, lambda: made.directions(made.encode(x)), left[:1024])
        return made


def paired_rows(recipe: Recipe, x: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Unit rows [width, d] for each of some tensors [n, d] of the same tokens: those of random tokens, or random ones."""
    rows = [torch.randn(recipe.width, z.shape[1], generator=generator) for z in x]
    if recipe.initial == "data":
        chosen = torch.randint(len(x[0]), (recipe.width,), generator=generator)
        rows = [z[chosen] + 0.05 * extra * z.var(0).mean() ** 0.5 for z, extra in zip(x, rows, strict=True)]
    return [unit(some) for some in rows]


def _input_of(net: Network, site: str) -> str:
    """The input of the module that writes a site: for `blocks.3.mlp`, what the MLP reads."""
    found = net.site(site)
    if found.io != "out":
        raise ValueError(f"{site} is not the output of a module; name what is read too, as 'SITE -> {site}'.")
    if net.family is not None and net.family.name in MLP_BEGINS and site == f"blocks.{found.block}.mlp":
        return f"{net.prefix}{net.family.blocks}.{found.block}.{MLP_BEGINS[net.family.name]}:in"
    return f"{found.path}:in"


@method("transcoder", family="dictionary", title="Transcoders find interpretable LLM feature circuits",
        paper="arXiv 2406.11944")
def Transcoder(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, lr: float | None = None,
               initial: str = "data") -> Recipe:
    """The k largest latents of a module's input reconstruct its output, so that the latents stand in for what it computes.

    z = ReLU(TopK(W_enc x + b_enc)), y_hat = z W_dec + b_dec (equations 3 to 5); loss = FVU of y + aux * AuxK. Decoder rows have
    unit norm. Learned at `blocks.3.mlp` it reads what that MLP reads; `SITE -> SITE` names both.

    width: latents. k: how many fire for each token. aux, dead_after, lr, initial: as for TopK; rows begin in pairs of one
    token's input and output.
    Differs from the paper: TopK in place of ReLU with an L1 penalty.
    """
    plain = TopK(width, k, aux, dead_after, None, lr, initial)
    return replace(plain, name="transcoder", boost=BOOST, wiring=Across())


@method("skip-transcoder", family="dictionary", title="Transcoders beat sparse autoencoders for interpretability",
        paper="arXiv 2501.18823")
def SkipTranscoder(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None,
                   lr: float | None = None, initial: str = "data") -> Recipe:
    """A transcoder with a linear map from the input to the output beside it, so that latents need not spell out what is linear.

    z as for Transcoder, y_hat = z W_dec + W_skip x + b_dec (section 3.1); loss = FVU of y + aux * AuxK.

    width: latents. k: how many fire for each token. aux, dead_after, lr, initial: as for Transcoder.
    W_skip begins at zero, as in the authors' code; decoder rows do not.
    """
    plain = TopK(width, k, aux, dead_after, None, lr, initial)
    return replace(plain, name="skip-transcoder", boost=BOOST, wiring=Across(skip=True))
