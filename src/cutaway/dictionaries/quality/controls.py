"""Dictionaries that nobody trained, to read a figure against; all of them are measured in the same run.

A control speaks for the same activations as the dictionary it stands beside: it has the same facts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..across import Across
from ..crosscoder import Joint
from ..dictionary import Dictionary
from ..parts import LargestLinear, TopK
from ..recipe import Recipe
from ..shared_code import SharedCode
from ..wiring import Row

# Away from the seeds that people give: a world of known features may have drawn its directions from the very same numbers.
STREAM = 0x52414E44
Control = Callable[[Dictionary, Tensor, int, Tensor | None], Dictionary]


def random_initial(dictionary: Dictionary, x: Tensor, seed: int, y: Tensor | None = None) -> Dictionary:
    """Random unit decoder rows and their transpose as encoder, at the dictionary's width and L0 on x [n, d].

    It is the start of training from random rows: the bias is the geometric median and the encoder has the least-squares
    scale. y: [n, d_out], what is written, where that is not x; decoder rows are then random by themselves.
    """
    if dictionary.kind:
        return _random_wired(dictionary, x, seed, y)
    scale = x.var(0).mean().sqrt()
    made = Recipe("random", dictionary.width, TopK(mean_l0(dictionary, x)), initial="random").build(
        x[:16_384] / scale, torch.Generator().manual_seed(STREAM + seed))
    made.facts = dictionary.facts
    with torch.no_grad():
        made.b_dec.mul_(scale)
    return made.requires_grad_(False)


@torch.no_grad()
def _random_wired(dictionary: Dictionary, x: Tensor, seed: int, y: Tensor | None) -> Dictionary:
    """`random_initial` of a dictionary that reads or writes several tensors."""
    recipe = Recipe("random", dictionary.width, TopK(mean_l0(dictionary, x)), initial="random")
    generator, tensors = torch.Generator().manual_seed(STREAM + seed), [*x.split(_widths(dictionary, x), 1)]
    tensors += [y] if y is not None else []
    scales = [float(part.var(0).mean().sqrt()) for part in tensors]
    row = Row(tuple(part.shape[1] for part in tensors), (0,), (1,))
    sample = torch.cat([part[:16_384] / scale for part, scale in zip(tensors, scales, strict=True)], 1)
    built = (Joint() if y is None else Across()).build(recipe, row, sample, generator)
    built.fold(scales)
    own = {name: getattr(built, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    return dictionary.with_sparsifier(recipe.sparsify, {}, **own, **_no_skip(dictionary)).requires_grad_(False)


def _widths(dictionary: Dictionary, x: Tensor) -> tuple[int, ...]:
    return dictionary.widths if isinstance(dictionary, SharedCode) else (x.shape[1],)


def _no_skip(dictionary: Dictionary) -> dict[str, Tensor]:
    skip = getattr(dictionary, "W_skip", None)
    return {} if skip is None else {"W_skip": torch.zeros_like(skip)}


def permuted(dictionary: Dictionary, x: Tensor, seed: int, y: Tensor | None = None) -> Dictionary:
    """The same encoder and the same codes, with the decoder's rows in a random order: the meaning of codes is lost."""
    order = torch.randperm(dictionary.width, generator=torch.Generator().manual_seed(seed))
    extra = {name: value.detach() for name, value in dictionary.extra.items()}
    return dictionary.with_sparsifier(dictionary.sparsify, extra, W_enc=dictionary.W_enc,
                                      W_dec=dictionary.W_dec[order]).requires_grad_(False)


def _linear(dictionary: Dictionary, rows: Tensor, x: Tensor, y: Tensor | None) -> Dictionary:
    """A dictionary whose codes are the signed projections on orthonormal rows [k, d] of x about its mean, each site in its own
    units, and which writes them back, or what of y follows from them by the best linear map."""
    keep, mean, units = LargestLinear(len(rows)), x.mean(0), torch.ones(x.shape[1]) if y is not None else dictionary.units()
    settings = {name: value for name, value in dictionary.settings.items() if name != "skip"}
    made = type(dictionary)(dictionary.d, len(rows), keep, dictionary.facts, **settings)
    with torch.no_grad():
        made.W_enc.copy_(rows / units)
        if y is None:
            made.W_dec.copy_(rows * units)
            made.b_dec.copy_(mean)
        else:
            made.b_enc.copy_(-rows @ mean)
            codes = (x - mean).double() @ rows.double().T
            made.W_dec.copy_(torch.linalg.lstsq(codes.T @ codes, codes.T @ (y - y.mean(0)).double(), driver="gelsd").solution)
            made.b_dec.copy_(y.mean(0))
    return made.requires_grad_(False)


def components(dictionary: Dictionary, x: Tensor, seed: int, y: Tensor | None = None) -> Dictionary:
    """All principal components of x, as signed codes."""
    return _linear(dictionary, _axes(dictionary, x, y), x, y)


def few_components(dictionary: Dictionary, x: Tensor, seed: int, y: Tensor | None = None) -> Dictionary:
    """As many principal components as the dictionary's L0."""
    return _linear(dictionary, _axes(dictionary, x, y)[: mean_l0(dictionary, x)], x, y)


def _axes(dictionary: Dictionary, x: Tensor, y: Tensor | None) -> Tensor:
    """The directions along which x varies, the most first: [d, d]."""
    x = (x - x.mean(0)).double() / (1 if y is not None else dictionary.units().double())
    return torch.linalg.eigh(x.T @ x).eigenvectors.T.flip(0).float()


def neurons(dictionary: Dictionary, x: Tensor, seed: int, y: Tensor | None = None) -> Dictionary:
    """The site's own dimensions, about their mean: a reconstruction without error, at an L0 of d; of another site that is
    written, what follows from them by the best linear map."""
    return _linear(dictionary, torch.eye(dictionary.d), x, y)


def mean_l0(dictionary: Dictionary, x: Tensor) -> int:
    """How many latents fire for an activation, on average and at least one."""
    return min(max(1, round(float(dictionary.encode(x[:8192]).l0.float().mean()))), dictionary.width)


# name -> how it is made, and whether its seed matters, so that several are measured and averaged
CONTROLS: dict[str, tuple[Control, bool]] = {
    "random": (random_initial, True), "permuted": (permuted, True), "components": (components, False),
    "few components": (few_components, False), "neurons": (neurons, False)}
