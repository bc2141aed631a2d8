"""A recipe: what a method of learning sparse features is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from .dictionary import Dictionary, Facts
from .parts import SquaredError, part_to_json
from .wiring import Wiring


@dataclass(frozen=True)
class Recipe:
    """The parts of one method; a dictionary is trained from it by `cutaway.learn`.

    width: how many latents. sparsify and losses: see `parts`. unit_norm: decoder rows are kept at norm 1, and gradients
    along them are removed. tied: the encoder is the decoder. lr: Adam's learning rate; left out, the published scaling
    rule 2e-4 / sqrt(width / 2^14) (arXiv 2406.04093; constant from eai-sparsify) times `boost`, which was chosen on
    validation text for runs of about a million tokens, far shorter than those that the rule was made for. l0: steer the
    penalty of the loss terms until so many latents fire on average, and while the learning rate falls all of the encoder's
    biases too. initial: how decoder rows begin, `data` or `random`. wiring: which sites a dictionary reads and writes; left
    out, one and the same. Any recipe may be given another, such as `replace(BatchTopK(1024, 32), wiring=Joint())`.
    """

    name: str
    width: int
    sparsify: Any
    losses: tuple[Any, ...] = (SquaredError(),)
    unit_norm: bool = True
    tied: bool = False
    lr: float | None = None
    boost: float = 12.0
    l0: float | None = None
    initial: str = "data"
    wiring: Wiring = Wiring()

    def __post_init__(self) -> None:
        if self.initial not in ("data", "random"):
            raise ValueError(f"decoder rows begin as 'data' or 'random'; found initial={self.initial!r}.")
        k = getattr(self.sparsify, "k", 1)
        if not 1 <= k <= self.width:
            raise ValueError(f"k must be between 1 and the width {self.width}; found {k}.")
        k = getattr(self.sparsify, "k", None)
        if self.width < 1 or (k is not None and not 1 <= k <= self.width):
            found = f"width={self.width}" + ("" if k is None else f" and k={k}")
            raise ValueError(f"a dictionary has 1 latent or more, of which k fire, from 1 to all of them; found {found}.")
        if self.lr is not None and not 0 < self.lr < inf:
            raise ValueError(f"a learning rate is a number above 0; found lr={self.lr}.")
        if self.l0 is not None and not 0 < self.l0 <= self.width:
            raise ValueError(f"an L0 is from 0 (not included) to the width {self.width}; found l0={self.l0}.")

    @property
    def rate(self) -> float:
        return self.lr if self.lr is not None else self.boost * 2e-4 / (self.width / 2**14) ** 0.5

    def json(self) -> dict[str, Any]:
        """The recipe as data, for run folders and dictionary files."""
        wiring = {} if type(self.wiring) is Wiring else {"wiring": part_to_json(self.wiring)}
        return {"name": self.name, "width": self.width, "sparsify": part_to_json(self.sparsify),
                "losses": [part_to_json(term) for term in self.losses], "unit_norm": self.unit_norm, "tied": self.tied,
                "lr": self.rate, "l0": self.l0, "initial": self.initial, **wiring}

    def with_l0(self, l0: float) -> Recipe:
        """The same recipe with so many latents for each token on average, whatever its parts call that.

        Numbers that must be whole, such as k, are rounded. Raises ValueError for an L0 that cannot be had.
        """
        if not 1 <= l0 <= self.width:
            raise ValueError(f"L0 is from 1 to the width {self.width}; found l0={l0}.")
        sparsify, *losses = (part.with_l0(float(l0), self.width) if hasattr(part, "with_l0") else part
                             for part in (self.sparsify, *self.losses))
        if not hasattr(sparsify, "with_l0") and hasattr(sparsify, "k"):
            sparsify = replace(sparsify, k=round(l0))
        steered = any(getattr(term, "steers", False) for term in losses)
        if not (steered or hasattr(sparsify, "with_l0") or hasattr(sparsify, "k")):
            raise ValueError(f"{self.name} has no setting for how many latents fire; a part of it must have `with_l0`, or a "
                             "loss term `steers`.")
        return replace(self, sparsify=sparsify, losses=tuple(losses), l0=float(l0) if steered else None)

    def build(self, sample: Tensor, generator: torch.Generator, make: Callable[..., Dictionary] = Dictionary,
              latents: range | None = None) -> Dictionary:
        """A dictionary at the start of training, from a sample [n, d] of activations in normalised units.

        make: the kind of dictionary; latents: only these of all are made, the same as they are among all.

        The bias is the sample's geometric median. Decoder rows are unit vectors, random or along random activations from
        the bias; the encoder is the decoder, scaled so that the first reconstructions have the least squared error. Of all
        that can be chosen at the start this matters most: with the plain transpose, FVU at the middle of pico after half a
        million tokens was 0.25 in place of 0.09.
        """
        d = sample.shape[-1]
        mine = range(self.width) if latents is None else latents
        dictionary = make(d, len(mine), self.sparsify, Facts(recipe=self.json()), self.tied)
        with torch.no_grad():
            dictionary.b_dec.copy_(geometric_median(sample[:8192]))
            rows = random_rows(self.width, d, mine, generator)
            if self.initial == "data":
                chosen = torch.randint(len(sample), (self.width,), generator=generator)[mine.start: mine.stop]
                rows = sample[chosen] - dictionary.b_dec + 0.05 * rows * (sample.var(0).mean() ** 0.5)
            rows = unit(rows)
            dictionary.W_dec.copy_(rows)
        if not self.tied:
            start_encoder(dictionary, rows, sample)
        return dictionary


@torch.no_grad()
def start_encoder(dictionary: Dictionary, rows: Tensor, sample: Tensor) -> None:
    """Begin an encoder along rows [width, d], scaled so that the first reconstructions of a sample have the least error."""
    dictionary.W_enc.copy_(rows)
    x = sample[:1024]
    scale_encoder(dictionary, dictionary.sparsify, dictionary.centred(x), lambda: dictionary.directions(dictionary.encode(x)),
                  x - dictionary.b_dec)


@torch.no_grad()
def scale_encoder(encoder: Any, sparsify: Any, x: Tensor, reconstruct: Callable[[], Tensor], y: Tensor) -> Tensor:
    """Scale an encoder so that the first reconstructions have the least squared error to y [n, d_out]; gives them.

    encoder: has W_enc, b_enc and `extra`. x: [n, d], what its rows are multiplied with. A sparsifier that has `begin` sets
    what it keeps by the unscaled encoder, and that goes with the scale.
    """
    kept = []
    if hasattr(sparsify, "begin"):
        sparsify.begin(x[:1024], encoder)
        kept = [encoder.extra[name] for name in sparsify.units]
    first = reconstruct()
    scale = ((first * y).sum() / first.pow(2).sum().clamp(min=1e-12)).clamp(min=0.01, max=10.0)
    for part in (encoder.W_enc, encoder.b_enc, *kept):
        part.mul_(scale)
    return scale * first


def random_rows(width: int, d: int, chosen: range, generator: torch.Generator, block: int = 2**16) -> Tensor:
    """Some rows of torch.randn(width, d), made in blocks, so that they take no more memory than there are of them."""
    parts = []
    for first in range(0, width, block):
        rows = torch.randn(min(block, width - first), d, generator=generator)
        parts.append(rows[max(0, chosen.start - first): max(0, chosen.stop - first)].clone())
    return torch.cat(parts)


def unit(rows: Tensor) -> Tensor:
    """Rows [n, d] at norm 1."""
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def geometric_median(x: Tensor, steps: int = 50) -> Tensor:
    """The point [d] with the least summed distance to x [n, d], by Weiszfeld's iteration."""
    point = x.mean(0)
    for _ in range(steps):
        weights = 1 / (x - point).norm(dim=1).clamp(min=1e-8)
        new = (x * weights[:, None]).sum(0) / weights.sum()
        if (new - point).norm() <= 1e-6 * point.norm().clamp(min=1e-12):
            break
        point = new
    return point
