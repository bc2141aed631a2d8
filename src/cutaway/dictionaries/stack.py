"""A cross-layer transcoder while it is trained: matrices that are stepped row by row, and one code of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import kernels
from .codes import Codes
from .parts import AuxK, Pass
from .transcoder import Encoder


@dataclass(frozen=True)
class Layered(Codes):
    """The codes of all layers side by side, with latents counted through all layers, and those of each layer apart."""

    layers: tuple[Codes, ...] = ()


class Stack(nn.Module):
    """What `CrossLayer` computes, with the decoder of layer i as a matrix [width, (layers - i) * d_out].

    x: [n, sum of widths read]; what is written: [n, layers * d_out].
    """

    def __init__(self, widths: Sequence[int], width: int, d_out: int, sparsify: Any):
        super().__init__()
        layers = len(widths)
        self.widths, self.per_layer, self.d_out, self.sparsify = tuple(widths), width, d_out, sparsify
        self.W_enc = nn.ParameterList(torch.zeros(width, d) for d in widths)
        self.b_enc = nn.ParameterList(torch.zeros(width) for _ in widths)
        self.W_dec = nn.ParameterList(torch.zeros(width, (layers - i) * d_out) for i in range(layers))
        self.b_dec = nn.ParameterList(torch.zeros(d_out) for _ in widths)
        tensors: Any = getattr(sparsify, "tensors", lambda width: {})
        self.extra = nn.ModuleList(nn.ParameterDict(tensors(width)) for _ in widths)

    @property
    def layers(self) -> int:
        return len(self.widths)

    @property
    def width(self) -> int:
        return self.layers * self.per_layer

    def encoders(self) -> tuple[Tensor, ...]:
        """The matrices [width, d] by which latents are found."""
        return tuple(self.W_enc)

    def settle(self) -> None:
        """Rows may be anywhere."""

    def encode(self, x: Tensor, progress: float = 1.0) -> Layered:
        found = tuple(self.encode_layer(i, part, progress) for i, part in enumerate(x.split(self.widths, -1)))
        indices = [codes.indices + i * self.per_layer for i, codes in enumerate(found)]
        return Layered(torch.cat([codes.values for codes in found], -1), torch.cat(indices, -1), layers=found)

    def encode_layer(self, i: int, x: Tensor, progress: float = 1.0) -> Codes:
        """The codes of one layer, with its latents counted from 0."""
        return self.encoder(i)(self.sparsify, x, progress)

    def encoder(self, i: int) -> Encoder:
        """The encoder of one layer."""
        return Encoder(self.W_enc[i], self.b_enc[i], self.extra[i])

    def decode(self, codes: Layered) -> Tensor:
        made = torch.cat([bias.expand(len(codes.values), -1) for bias in self.b_dec], -1)
        return made + self.summed([self.written(i, layer) for i, layer in enumerate(codes.layers)])

    def written(self, i: int, codes: Codes) -> Tensor:
        """What the latents of layer i write at it and the later ones: [n, (layers - i) * d_out]."""
        return kernels.decode(codes.values, codes.indices, self.W_dec[i])

    def summed(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum over layers of what each writes: [n, layers * d_out]."""
        return torch.stack([F.pad(part, (i * self.d_out, 0)) for i, part in enumerate(parts)]).sum(0)

    def squared_error(self, codes: Layered, y: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.decode(codes) - y
        return residual.pow(2).sum(), residual.detach()


@dataclass(frozen=True)
class AuxKOfLayers(AuxK):
    """`AuxK` with an equal part of the k from each layer's dead latents, which write at it and all later ones."""

    def made(self, p: Pass, dead: Tensor, k: int) -> Tensor:
        stack: Any = p.dictionary
        parts, k = [], -(-k // stack.layers)
        for i, x in enumerate(p.x.split(stack.widths, -1)):
            own = dead[(dead >= i * stack.per_layer) & (dead < (i + 1) * stack.per_layer)] - i * stack.per_layer
            if len(own):
                parts.append(self._reconstruction(x, kernels.take(stack.W_enc[i], own), stack.b_enc[i][own],
                                                  kernels.take(stack.W_dec[i], own), min(k, len(own))))
            else:
                parts.append(x.new_zeros(len(x), (stack.layers - i) * stack.d_out))
        return stack.summed(parts)
