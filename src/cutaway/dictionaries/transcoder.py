"""Transcoders: latents that are read at one site and written at another, such as an MLP's input and output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..network import At, Edit, Network, Site
from .anchored import Anchored, start_of
from .codes import Codes
from .dictionary import Dictionary, Facts, raw


@dataclass(frozen=True)
class Encoder:
    """What a sparsifier reads of a dictionary, where nothing is taken from the input."""

    W_enc: Tensor
    b_enc: Tensor
    extra: Any
    b_dec: Tensor | None = None

    @property
    def width(self) -> int:
        return len(self.W_enc)

    def __call__(self, sparsify: Any, x: Tensor, progress: float = 1.0) -> Codes:
        """x: [..., d] -> values and indices [..., k]."""
        codes = sparsify(x.reshape(-1, x.shape[-1]), self, progress)
        return Codes(codes.values.view(*x.shape[:-1], -1), codes.indices.reshape(*x.shape[:-1], -1))


class Transcoder(Dictionary, kind="transcoder"):
    """Latents of x [..., d] at `facts.site` that write y [..., d_out] at `target` (arXiv 2406.11944; with skip 2501.18823).

    codes = sparsify(x @ W_enc.T + b_enc); y = codes @ W_dec + b_dec, and + x @ W_skip.T where there is a skip connection.
    W_enc: [width, d]; W_dec: [width, d_out]; b_dec: [d_out]; W_skip: [d_out, d] or None.
    """

    says: ClassVar[dict[str, str]] = {
        "layout": "W_enc is [width, d], W_dec [width, d_out], W_skip [d_out, d]",
        "b_dec": "added to the output; nothing is subtracted from the input", "input_scale": "none: folded into the weights"}

    def __init__(self, d: int, width: int, sparsify: Any = None, facts: Facts = Facts(), tied: bool = False,  # noqa: B008
                 d_out: int | None = None, skip: bool = False, target: str = ""):
        if tied:
            raise ValueError("the encoder of a transcoder reads another site than its decoder writes, so they are not tied.")
        super().__init__(d, width, sparsify, facts)
        d_out = d if d_out is None else d_out
        self.target = target
        self.W_dec, self.b_dec = nn.Parameter(torch.zeros(width, d_out)), nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_out, d)) if skip else None

    @property
    def d(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def settings(self) -> dict[str, Any]:
        return {"d_out": self.d_out, "skip": self.W_skip is not None, "target": self.target}

    def encode(self, x: Tensor, progress: float = 1.0) -> Codes:
        if x.shape[-1] != self.d:
            raise ValueError(f"this transcoder reads activations of width {self.d}; found {x.shape[-1]}.")
        codes = Encoder(self.W_enc, self.b_enc, self.extra)(self.sparsify, x, progress)
        if self.W_skip is None:
            return codes
        return Anchored(codes.values, codes.indices, start=x @ self.W_skip.T + self.b_dec)

    def decode(self, codes: Codes) -> Tensor:
        return self.directions(codes) + (self.b_dec if self.W_skip is None else start_of(codes))

    def directions(self, codes: Codes) -> Tensor:
        from ..kernels import decode
        k = codes.values.shape[-1]
        flat = decode(codes.values.reshape(-1, k), codes.indices.reshape(-1, k), self.W_dec)
        return flat.view(*codes.values.shape[:-1], self.d_out)

    def written(self, net: Network) -> Site:
        if not self.target:
            raise ValueError("this transcoder's file does not say at which site it writes; read it again with target=.")
        return net.site(self.target)

    def features(self, net: Network) -> Site:
        raise ValueError(f"a transcoder's latents are read at {self.site} and written at {self.target}, so they are no units "
                         "of one site; use `splice` to put what it writes in the place of the site.")

    def splice(self, net: Network) -> Edit:
        """The edit that writes y in the place of its target, where that is the output of the module whose input it reads."""
        site, target = self.placed(net), self.written(net)
        if (site.path, site.io, target.io) != (target.path, "in", "out"):
            raise ValueError(f"only a transcoder from a module's input to its output can be spliced in; this one reads {site} "
                             f"and writes {target}.")

        def written(y: Tensor, at: At) -> Tensor:
            x = at.module_input
            assert x is not None
            return self(x.to(self.W_dec.dtype)).view(y.shape).to(y.dtype)
        return Edit(raw(target), written)
