"""One sparse code of several sites at once, with an encoder and a decoder for each: what crosscoders are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..network import At, Edit, Network, Site
from .codes import Codes
from .dictionary import Dictionary, Facts
from .through import raw


class SharedCode(Dictionary, kind="crosscoder"):
    """Latents that are read at several sites and written at all of them (transformer-circuits.pub 2024, crosscoders).

    x is what is at the sites side by side, [..., sum of widths]; codes = sparsify((x - b_dec) @ W_enc.T + b_enc), which is
    the sum of one encoder a site; reconstruction = codes @ W_dec + b_dec, which is one decoder a site, side by side. sites,
    widths: in their order; limits: the largest norm at each that is no attention sink. scales: the spread of each site's
    activations, in units of which decoders are compared.
    """

    says: ClassVar[dict[str, str]] = {
        **Dictionary.says, "layout": "W_enc and W_dec are [width, sum of widths], the sites side by side"}

    def __init__(self, d: int, width: int, sparsify: Any = None, facts: Facts = Facts(), tied: bool = False,  # noqa: B008
                 sites: Sequence[str] = (), widths: Sequence[int] = (), limits: Sequence[float] = (),
                 scales: Sequence[float] = ()):
        super().__init__(d, width, sparsify, facts, tied)
        self.sites, self.widths, self.limits = tuple(sites), tuple(widths) or (d,), tuple(limits)
        self.scales = tuple(scales) or (1.0,) * len(self.widths)

    @property
    def settings(self) -> dict[str, Any]:
        return {"sites": self.sites, "widths": self.widths, "limits": self.limits, "scales": self.scales}

    @property
    def reads(self) -> tuple[str, ...]:
        return self.sites

    @property
    def writes(self) -> tuple[str, ...]:
        return self.sites

    def apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """What lies side by side [..., sum of widths], for each site."""
        return x.split(self.widths, -1)

    def rows_into(self, j: int) -> Tensor:
        return self.apart(self.W_dec)[j]

    def units(self) -> Tensor:
        return torch.cat([self.W_dec.new_full((n,), scale) for n, scale in zip(self.widths, self.scales, strict=True)])

    def site_norms(self) -> Tensor:
        """The norm of each latent's decoder at each site, in units of the site's spread: [width, sites]."""
        parts = zip(self.apart(self.W_dec), self.scales, strict=True)
        return torch.stack([part.norm(dim=1) / scale for part, scale in parts], 1)

    def norms(self) -> Tensor:
        """The sum of the decoder's norms over sites: [width]."""
        return self.site_norms().sum(1)

    def shares(self) -> Tensor:
        """How much of each latent belongs to each site: [width, sites], rows sum to 1.

        For two networks, 0.5 says that both have the feature, and 0 or 1 that only one of them has it.
        """
        norms = self.site_norms().detach()
        return norms / norms.sum(1, keepdim=True).clamp(min=1e-12)

    def encoded(self, x: Sequence[Tensor]) -> Codes:
        return self.encode(torch.cat(list(x), -1))

    def passed(self, x: Sequence[Tensor]) -> tuple[Codes, list[Tensor]]:
        codes = self.encoded(x)
        return codes, list(self.apart(self.decode(codes)))

    def speaks_for(self, x: Sequence[Tensor], y: Mapping[int, Tensor], tokens: Tensor | None = None) -> Tensor:
        return self.keeps(torch.cat(list(x), -1), tokens)

    def keeps(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        keep = super().keeps(x, tokens)
        for part, limit in zip(self.apart(x), self.limits, strict=False):
            keep = keep & ~(part.float().norm(dim=-1) > limit)
        return keep

    def fold(self, scales: Sequence[float]) -> None:
        column = torch.cat([torch.full((n,), scale) for n, scale in zip(self.widths, scales, strict=True)])
        self.W_enc.div_(column)
        self.W_dec.mul_(column)
        self.b_dec.mul_(column)
        self.scales = tuple(scales)

    def placed(self, net: Network) -> Site:
        raise ValueError(f"a crosscoder is of several sites ({', '.join(self.sites)}), so it has no one site; use `evaluate`, "
                         "`passed` or `splice`.")

    def splice(self, net: Network) -> list[Edit]:
        """The edits that put the reconstruction in the place of every site, made from the network as it is.

        The code needs what is at all sites, later ones too, so that a pass without the edits is made first.
        """
        return list(self._written(net, lambda x: self.passed(x)[1]))

    def instead(self, net: Network, values: Sequence[Tensor | float]) -> list[Edit]:
        return list(self._written(net, lambda x: values))

    def _written(self, net: Network, make: Any) -> Iterator[Edit]:
        """Edits that put what `make` gives, from what is at the sites in the network as it is, in their places."""
        kept: dict[int, tuple[At, list[Tensor], list[Any]]] = {}

        def seen(at: At) -> tuple[list[Tensor], list[Any]]:
            if at.past:
                raise ValueError("a crosscoder reads sites after those that it writes, so it is spliced into passes over whole "
                                 "rows, without a cache.")
            if 0 not in kept or kept[0][0] is not at:
                with net.as_it_is():
                    found = net.record({name: x for name, x in at.inputs.items() if isinstance(x, Tensor)}, self.sites)
                x = [found[site].to(self.W_dec.dtype) for site in self.sites]
                kept[0] = at, x, make(x)
            return kept[0][1:]

        def writer(i: int) -> Any:
            def write(y: Tensor, at: At) -> Tensor:
                x, values = seen(at)
                speaks = self.speaks_for(x, {}, at.tokens)
                return torch.where(speaks[..., None], torch.as_tensor(values[i]).to(y), y)
            return write

        return (Edit(raw(net.site(site)), writer(i)) for i, site in enumerate(self.sites))
