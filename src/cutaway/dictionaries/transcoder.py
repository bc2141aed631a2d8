"""Transcoders: latents that are read at one site and written at another, such as an MLP's input and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data import below
from ..network import Edit, Network, Site
from .anchored import Anchored, start_of
from .codes import Codes
from .dictionary import Dictionary, Facts
from .through import through


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
        return Codes(codes.values.view(*x.shape[:-1], -1), codes.indices.reshape(*x.shape[:-1], -1), codes.aside)


class Transcoder(Dictionary, kind="transcoder"):
    """Latents of x [..., d] at `facts.site` that write y [..., d_out] at `target` (arXiv 2406.11944; with skip 2501.18823).

    codes = sparsify(x @ W_enc.T + b_enc); y = codes @ W_dec + b_dec, and + x @ W_skip.T where there is a skip connection.
    W_enc: [width, d]; W_dec: [width, d_out]; b_dec: [d_out]; W_skip: [d_out, d] or None. target_norm: where the target has a
    greater norm (an attention sink), it is left alone.
    """

    says: ClassVar[dict[str, str]] = {
        "layout": "W_enc is [width, d], W_dec [width, d_out], W_skip [d_out, d]",
        "b_dec": "added to the output; nothing is subtracted from the input", "input_scale": "none: folded into the weights"}

    def __init__(self, d: int, width: int, sparsify: Any = None, facts: Facts = Facts(), tied: bool = False,  # noqa: B008
                 d_out: int | None = None, skip: bool = False, target: str = "", target_norm: float = inf):
        if tied:
            raise ValueError("the encoder of a transcoder reads another site than its decoder writes, so they are not tied.")
        super().__init__(d, width, sparsify, facts)
        d_out = d if d_out is None else d_out
        self.target, self.target_norm = target, target_norm
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
        most = {"target_norm": self.target_norm} if self.target_norm < inf else {}
        return {"d_out": self.d_out, "skip": self.W_skip is not None, "target": self.target, **most}

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def guards(self) -> tuple[int, ...]:
        return (0,) if self.target_norm < inf else ()

    def centred(self, x: Tensor) -> Tensor:
        return x

    def encode(self, x: Tensor, progress: float = 1.0) -> Codes:
        if x.shape[-1] != self.d:
            raise ValueError(f"this transcoder reads activations of width {self.d}; found {x.shape[-1]}.")
        self.by_rows()
        codes = Encoder(self.W_enc, self.b_enc, self.extra)(self.sparsify, x, progress)
        if self.W_skip is None:
            return codes
        return Anchored(codes.values, codes.indices, codes.aside, start=x @ self.W_skip.T + self.b_dec)

    def decode(self, codes: Codes) -> Tensor:
        return self.directions(codes) + (self.b_dec if self.W_skip is None else start_of(codes))

    def directions(self, codes: Codes) -> Tensor:
        from ..kernels import decode
        k = codes.values.shape[-1]
        flat = decode(codes.values.reshape(-1, k), codes.indices.reshape(-1, k), self.W_dec)
        return flat.view(*codes.values.shape[:-1], self.d_out)

    def squared_error(self, codes: Codes, x: Tensor) -> tuple[Tensor, Tensor]:
        from ..kernels import squared_error
        if self.W_skip is None:
            return squared_error(codes.values, codes.indices, self.W_dec, self.b_dec, x)
        return squared_error(codes.values, codes.indices, self.W_dec, torch.zeros_like(self.b_dec), x - start_of(codes))

    def speaks_for(self, x: Sequence[Tensor], y: Mapping[int, Tensor], tokens: Tensor | None = None) -> Tensor:
        keep = self.keeps(x[0], tokens)
        return keep & below(y[0], self.target_norm) if y else keep

    def keeps_written(self, y: Tensor, tokens: Tensor | None = None) -> Tensor:
        return self._without_special(below(y, self.target_norm), tokens)

    def fold(self, scales: Sequence[float]) -> None:
        read, written = scales
        self.W_enc.mul_(written / read)
        self.b_enc.mul_(written)
        self.b_dec.mul_(written)
        if self.W_skip is not None:
            self.W_skip.mul_(written / read)
        for name in getattr(self.sparsify, "units", ()):
            self.extra[name].mul_(written)

    def written(self, net: Network) -> Site:
        if not self.target:
            raise ValueError("this transcoder's file does not say at which site it writes; read it again with target=.")
        return net.site(self.target)

    def features(self, net: Network) -> Site:
        raise ValueError(f"a transcoder's latents are read at {self.site} and written at {self.target}, so they are no units "
                         "of one site; use `splice` to put what it writes in the place of the site.")

    def instead(self, net: Network, values: Sequence[Tensor | float]) -> list[Edit]:
        return through(net, self, lambda i, x: None, lambda j, kept, y: values[j])

    def splice(self, net: Network) -> list[Edit]:
        """The edits that write y in the place of its target, for the tokens that the transcoder speaks for."""
        return through(net, self, lambda i, x: x, lambda j, x, y: self(x[0].to(self.W_dec.dtype)))
