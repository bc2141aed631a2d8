"""Dictionaries that nobody trained, to read a figure against; all of them are measured in the same run.

A control speaks for the same activations as the dictionary it stands beside: it has the same facts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..dictionary import Dictionary
from ..parts import LargestLinear, TopK
from ..recipe import Recipe

# Away from the seeds that people give: a world of known features may have drawn its directions from the very same numbers.
STREAM = 0x52414E44
Control = Callable[[Dictionary, Tensor, int], Dictionary]


def random_initial(dictionary: Dictionary, x: Tensor, seed: int) -> Dictionary:
    """Random unit decoder rows and their transpose as encoder, at the dictionary's width and L0 on x [n, d].

    It is the start of training from random rows: the bias is the geometric median and the encoder has the least-squares
    scale.
    """
    scale = x.var(0).mean().sqrt()
    made = Recipe("random", dictionary.width, TopK(mean_l0(dictionary, x)), initial="random").build(
        x[:16_384] / scale, torch.Generator().manual_seed(STREAM + seed))
    made.facts = dictionary.facts
    with torch.no_grad():
        made.b_dec.mul_(scale)
    return made.requires_grad_(False)


def permuted(dictionary: Dictionary, x: Tensor, seed: int) -> Dictionary:
    """The same encoder and the same codes, with the decoder's rows in a random order: the meaning of codes is lost."""
    order = torch.randperm(dictionary.width, generator=torch.Generator().manual_seed(seed))
    made = Dictionary(dictionary.d, dictionary.width, dictionary.sparsify, dictionary.facts)
    for name, value in (("W_enc", dictionary.W_enc), ("W_dec", dictionary.W_dec[order]), ("b_enc", dictionary.b_enc),
                        ("b_dec", dictionary.b_dec)):
        setattr(made, name, torch.nn.Parameter(value.detach().clone()))
    return made.requires_grad_(False)


def _linear(dictionary: Dictionary, rows: Tensor, mean: Tensor) -> Dictionary:
    """A dictionary whose codes are the signed projections on orthonormal rows [k, d]."""
    made = Dictionary(dictionary.d, len(rows), LargestLinear(len(rows)), dictionary.facts, tied=True)
    with torch.no_grad():
        made.W_dec.copy_(rows)
        made.b_dec.copy_(mean)
    return made.requires_grad_(False)


def components(dictionary: Dictionary, x: Tensor, seed: int) -> Dictionary:
    """All principal components of x, as signed codes."""
    mean = x.mean(0)
    rows = torch.linalg.eigh((x - mean).double().T @ (x - mean).double()).eigenvectors.T.flip(0)
    return _linear(dictionary, rows.float(), mean)


def few_components(dictionary: Dictionary, x: Tensor, seed: int) -> Dictionary:
    """As many principal components as the dictionary's L0."""
    every = components(dictionary, x, seed)
    return _linear(dictionary, every.W_dec[: mean_l0(dictionary, x)], every.b_dec)


def neurons(dictionary: Dictionary, x: Tensor, seed: int) -> Dictionary:
    """The site's own dimensions, about their mean: a reconstruction without error, at an L0 of d."""
    return _linear(dictionary, torch.eye(dictionary.d), x.mean(0))


def mean_l0(dictionary: Dictionary, x: Tensor) -> int:
    """How many latents fire for an activation, on average and at least one."""
    return min(max(1, round(float(dictionary.encode(x[:8192]).l0.float().mean()))), dictionary.width)


# name -> how it is made, and whether its seed matters, so that several are measured and averaged
CONTROLS: dict[str, tuple[Control, bool]] = {
    "random": (random_initial, True), "permuted": (permuted, True), "components": (components, False),
    "few components": (few_components, False), "neurons": (neurons, False)}
