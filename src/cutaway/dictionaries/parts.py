"""The parts of which recipes are made: sparsifiers and loss terms.

A sparsifier is called as `sparsify(x, dictionary, progress)` and turns inputs x [n, d] into sparse codes, as a rule of the
pre-activations (x - b_dec) @ W_enc.T + b_enc. One that needs more tensors than those says so with `tensors(width)`, and
finds them in `dictionary.extra`. A loss term is a function of one training pass. Both are frozen dataclasses, so that a
recipe can be printed, saved and compared. A part that decides how many latents fire by anything but a field `k` has
`with_l0(l0, width)`, which gives one for another L0; a loss term whose weight goes with `Pass.penalty` says so with `steers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from ..catalogue import OUTSIDE, import_outside
from .codes import Codes
from .ranks import Ranks

if TYPE_CHECKING:
    from .dictionary import Dictionary

T = TypeVar("T")


def falling(k: int, first: int | None, progress: float) -> int:
    """A k that falls from `first` over the first half of training."""
    start = k if first is None else max(first, k)
    return round(start + (k - start) * min(1.0, 2 * progress))


SPARSIFIERS: dict[str, type] = {}


def sparsifier(name: str) -> Callable[[type[T]], type[T]]:
    """Let dictionaries with this sparsifier be saved and read again, under a name."""
    def register(part: type[T]) -> type[T]:
        SPARSIFIERS[name] = part
        return part
    return register


@sparsifier("topk")
@dataclass(frozen=True)
class TopK:
    """The k largest pre-activations of each token, and of those the positive ones (arXiv 2406.04093, section 2.3).

    first: begin training with so many, and fall to k over its first half.
    """

    k: int
    first: int | None = None

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        k = falling(self.k, self.first, progress)
        values, indices = kernels.encode_topk(x, d.W_enc, d.b_enc, min(k, d.width), d.b_dec)
        return Codes(values.relu(), indices)


@sparsifier("relu")
@dataclass(frozen=True)
class ReLU:
    """All positive pre-activations."""

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        return Codes(*kernels.encode_positive(x, d.W_enc, d.b_enc, d.b_dec))


@sparsifier("largest-linear")
@dataclass(frozen=True)
class LargestLinear:
    """The k largest pre-activations by value, of any sign (arXiv 1312.5663): k falls from `first` over half the training."""

    k: int
    first: int | None = None

    def with_l0(self, l0: float, width: int) -> LargestLinear:
        k = round(l0)
        return LargestLinear(k, None if self.first is None else min(width, round(self.first * k / self.k)))

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        k = falling(self.k, self.first, progress)
        return Codes(*kernels.encode_topk(x, d.W_enc, d.b_enc, min(k, d.width), d.b_dec))


@dataclass(frozen=True)
class Pass:
    """One training pass, for loss terms to read.

    x: [n, d] in normalised units, and its codes; silent: [width] tokens since each latent last fired; variance: of what is
    reconstructed about its mean, per token; progress: the share of training that is done; penalty: what steers L0, where
    something does; ranks: the processes that share the batch or the dictionary; target: [n, d_out], what is reconstructed,
    where that is not x.
    """

    dictionary: Dictionary
    x: Tensor
    codes: Codes
    silent: Tensor
    variance: float
    progress: float
    penalty: float = 1.0
    ranks: Ranks = Ranks()
    target: Tensor | None = None

    def risen(self, warmup: float) -> float:
        """How much of its weight a term has that rises linearly over the first `warmup` of training: from 0 to 1."""
        return min(1.0, self.progress / warmup) if warmup else 1.0

    @property
    def y(self) -> Tensor:
        """What is to be reconstructed: [n, d_out]."""
        return self.x if self.target is None else self.target

    @cached_property
    def reconstruction(self) -> Tensor:
        """Of y, with gradients: [n, d_out]."""
        return self.dictionary.decode(self.codes)

    @cached_property
    def error(self) -> tuple[Tensor, Tensor]:
        """The summed squared error, with gradients, and the residual, reconstruction less y [n, d_out], without."""
        return self.dictionary.squared_error(self.codes, self.y)


Loss = Callable[[Pass], Tensor]


@dataclass(frozen=True)
class SquaredError:
    """Squared error of the reconstruction as a share of the variance of the data: FVU on the batch."""

    def __call__(self, p: Pass) -> Tensor:
        return p.error[0] / (len(p.x) * p.variance)


@dataclass(frozen=True)
class L1:
    """Sum of activations weighted by the decoder's norms, so that scaling a latent does not escape the penalty.

    Divided by the square root of the variance and warmed up linearly over the first `warmup` of the training.
    """

    coefficient: float
    warmup: float = 0.05
    steers: ClassVar[bool] = True

    def __call__(self, p: Pass) -> Tensor:
        norms = p.dictionary.norms()
        totals = torch.zeros_like(norms).index_add(0, p.codes.indices.flatten(), p.codes.values.abs().flatten())
        share = p.risen(self.warmup)
        return self.coefficient * p.penalty * share * (totals * norms).sum() / len(p.x) / p.variance**0.5


@dataclass(frozen=True)
class MultiTopK:
    """weight times the error with `times` as many latents, as a share of the variance (arXiv 2406.04093, Multi-TopK).

    For sparsifiers with a field k. It keeps a dictionary useful with more latents than it is trained for.
    """

    weight: float = 1 / 8
    times: int = 4

    def __call__(self, p: Pass) -> Tensor:
        d, k = p.dictionary, min(self.times * p.codes.values.shape[-1], p.dictionary.width)
        wider: Any = d.sparsify
        error, _ = d.squared_error(replace(wider, k=k, first=None)(p.x, d), p.y)
        return self.weight * error / (len(p.x) * p.variance)


@dataclass(frozen=True)
class AuxK:
    """Dead latents learn to reconstruct what is left over (arXiv 2406.04093, appendix A.2).

    The `k` largest dead latents (default d / 2) reconstruct the detached residual; the squared error is taken as a share of
    the residual's variance and weighted by `weight`, and by #dead / k when fewer are dead. A latent is dead when it has
    been silent for `dead_after` tokens. signed: latents of either sign, the largest by magnitude. Differs from the authors'
    code: no decoder bias on either side of the error.
    """

    dead_after: int
    weight: float = 1 / 32
    k: int | None = None
    signed: bool = False

    def dead(self, p: Pass) -> Tensor:
        """The latents that learn from this term."""
        return (p.silent >= self.dead_after).nonzero().flatten()

    def __call__(self, p: Pass) -> Tensor:
        dead = self.dead(p)
        k, n_dead = self.k or p.y.shape[-1] // 2, int(p.ranks.over_latents(torch.tensor(len(dead))))
        if n_dead == 0:
            return p.x.new_zeros(())
        residual = -p.error[1]
        error = self.made(p, dead, min(k, n_dead)) - residual
        spread = p.ranks.mean((residual - p.ranks.mean(residual)).pow(2).sum(-1))
        loss = error.pow(2).sum(-1).mean() / spread.clamp(min=torch.finfo(spread.dtype).tiny)
        return self.weight * min(1.0, n_dead / k) * loss

    def made(self, p: Pass, dead: Tensor, k: int) -> Tensor:
        """What the k largest of the dead latents reconstruct: [n, d_out]."""
        d = p.dictionary
        return self._reconstruction(d.centred(p.x), kernels.take(d.W_enc, dead), d.b_enc[dead], kernels.take(d.W_dec, dead), k)

    def _reconstruction(self, x: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, k: int) -> Tensor:
        """By the k largest of some latents; few latents are multiplied as matrices, which is faster than choosing."""
        if not kernels.is_dense(k, len(encoder)):
            encode = kernels.encode_magnitude if self.signed else kernels.encode_topk
            values, chosen = encode(x, encoder, bias, k)
            return kernels.decode(values if self.signed else values.relu(), chosen, decoder)
        z = F.linear(x, encoder, bias)
        chosen = torch.where(kernels.mask_largest(z.abs() if self.signed else z, k), z, 0)
        return (chosen if self.signed else chosen.relu()) @ decoder


def auxiliary_terms(weight: float, dead_after: int | None, kind: type[AuxK] = AuxK, **settings: Any) -> tuple[AuxK, ...]:
    """The term from which dead latents learn, where it has a weight; no `dead_after` leaves that to the training."""
    return (kind(dead_after or 0, weight, **settings),) if weight else ()


def part_to_json(part: Any) -> dict[str, Any]:
    """A part as data: its name and its settings, as they are read again from JSON."""
    name = next((name for name, kind in SPARSIFIERS.items() if type(part) is kind), type(part).__name__)
    return {"name": name, **json.loads(json.dumps(vars(part)))}


def sparsifier_from_json(data: Mapping[str, Any]) -> Any:
    """The sparsifier that `part_to_json` gave as data; ValueError for one that nobody who is known here has registered."""
    settings = dict(data)
    name = settings.pop("name")
    if name not in SPARSIFIERS:
        import_outside()
    if name not in SPARSIFIERS:
        raise ValueError(f"this dictionary chooses its latents by {name!r}, which is not a part of Cutaway; import the module "
                         f"that adds it first, or name that in {OUTSIDE}.")
    return SPARSIFIERS[name](**settings)
