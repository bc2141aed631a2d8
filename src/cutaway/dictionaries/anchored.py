"""Dictionaries that normalise each token at run time, and codes that remember what was taken out of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .codes import Codes
from .dictionary import Dictionary, Facts


@dataclass(frozen=True)
class Anchored(Codes):
    """Codes with what the decoder adds for each token besides the latents' rows.

    start: [..., d_out]. scale: [..., 1] or 1; values / scale are in the units in which the weights were learned.
    """

    start: Tensor | None = None
    scale: Tensor | float = 1.0


def layer_norm(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, d] -> mean, divisor and scale [n, 1]: the scale back leaves out the 1e-5 of the divisor, as OpenAI's code does."""
    mean = x.mean(-1, keepdim=True)
    deviation = (x - mean).std(-1, keepdim=True)
    return mean, deviation + 1e-5, deviation


def constant_norm(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, d] -> zero, and the factor by which its norm differs from sqrt(d), twice."""
    scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return torch.zeros_like(scale), scale, scale


NORMS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "layer_norm": layer_norm, "constant_norm": constant_norm}


class Normed(Dictionary, kind="normed"):
    """A dictionary of activations that are normalised token by token (OpenAI's TopK, SAELens' layer_norm).

    z = sparsify(((x - mean) / divisor - b_dec) @ W_enc.T + b_enc); values = scale * z, in the site's own units, so that
    `directions` is what a change of values changes in x; reconstruction = values @ W_dec + scale * b_dec + mean.
    norm: a name in NORMS.
    """

    says: ClassVar[dict[str, str]] = {**Dictionary.says, "input_scale": "each token is normalised as `settings` says"}

    def __init__(self, d: int, width: int, sparsify: Any = None, facts: Facts = Facts(), tied: bool = False,  # noqa: B008
                 norm: str = "layer_norm"):
        super().__init__(d, width, sparsify, facts, tied)
        self.norm = norm

    @property
    def settings(self) -> dict[str, Any]:
        return {"norm": self.norm}

    def encode(self, x: Tensor, progress: float = 1.0) -> Anchored:
        mean, divisor, scale = NORMS[self.norm](x)
        codes = super().encode((x - mean) / divisor, progress)
        return Anchored(codes.values * scale, codes.indices, start=scale * self.b_dec + mean, scale=scale)

    def decode(self, codes: Codes) -> Tensor:
        return self.directions(codes) + start_of(codes)


def start_of(codes: Codes) -> Tensor:
    """What the decoder adds for each token: [..., d_out]; ValueError for codes that do not know."""
    start = getattr(codes, "start", None)
    if start is None:
        raise ValueError("what this dictionary adds depends on the token, so it decodes only the codes that its own encode "
                         "gave; use `directions` for what a change of the codes changes.")
    return start
