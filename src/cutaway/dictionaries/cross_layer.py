"""Cross-layer transcoders: latents that are read at one layer and written at that one and all later ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import below
from ..files import write_safetensors
from ..kernels import decode
from ..network import Edit, Network, Site
from .codes import Codes
from .dictionary import Dictionary, Facts
from .parts import part_to_json, sparsifier_from_json
from .source_layer import SourceLayer
from .through import through
from .transcoder import Encoder
from .wiring import BESIDE


class CrossLayer(nn.Module):
    """One encoder a layer; the latents of layer i write at layers i, i + 1, ... (transformer-circuits.pub 2025, attribution
    graphs, section 2.1).

    codes_i = sparsify(x_i @ W_enc[i].T + b_enc[i]); y_j = b_dec[j] + sum over i <= j of codes_i @ W_dec[i][:, j - i].
    W_enc[i]: [width, d]; W_dec[i]: [width, layers - i, d_out]; b_enc[i]: [width]; b_dec[i]: [d_out]; threshold[i]: [width].
    sites, targets: where layers are read and written. What one layer's latents write has no meaning as a sum over targets.
    facts: as of a dictionary; limits: the largest norm at each site and then at each target that is no attention sink.
    """

    def __init__(self, d: int, width: int, layers: int, sparsify: Any, d_out: int | None = None,
                 sites: Sequence[str] = (), targets: Sequence[str] = (), facts: Facts = Facts(),  # noqa: B008
                 limits: Sequence[float] = ()):
        super().__init__()
        d_out = d if d_out is None else d_out
        self.sparsify, self.sites, self.targets = sparsify, tuple(sites), tuple(targets)
        self.facts, self.limits = facts, tuple(limits)
        self.W_enc = nn.ParameterList(torch.zeros(width, d) for _ in range(layers))
        self.b_enc = nn.ParameterList(torch.zeros(width) for _ in range(layers))
        self.W_dec = nn.ParameterList(torch.zeros(width, layers - i, d_out) for i in range(layers))
        self.b_dec = nn.ParameterList(torch.zeros(d_out) for _ in range(layers))
        tensors: Any = getattr(sparsify, "tensors", lambda width: {})
        self.extra = nn.ModuleList(nn.ParameterDict(tensors(width)) for _ in range(layers))

    @property
    def layers(self) -> int:
        return len(self.W_enc)

    @property
    def width(self) -> int:
        """The latents of all layers."""
        return self.layers * len(self.b_enc[0])

    @property
    def d(self) -> int:
        return self.W_enc[0].shape[1]

    @property
    def site(self) -> str:
        return self.facts.site

    @property
    def reads(self) -> tuple[str, ...]:
        return self.sites

    @property
    def writes(self) -> tuple[str, ...]:
        return self.targets

    @property
    def guards(self) -> tuple[int, ...]:
        """The numbers of those targets whose attention sinks it leaves alone."""
        return tuple(j for j, limit in enumerate(self.limits[self.layers:]) if limit < float("inf"))

    def rows_into(self, j: int) -> Tensor:
        """The rows of all latents into target j: [latents of all layers, d_out], zero for those of later layers."""
        rows = [W_dec[:, j - i] if i <= j else torch.zeros_like(W_dec[:, 0]) for i, W_dec in enumerate(self.W_dec)]
        return torch.cat(rows)

    def source_layers(self) -> dict[str, SourceLayer]:
        """The latents of each layer as a dictionary of their own, by the layer's target."""
        limits, made = self.limits or (float("inf"),) * 2 * self.layers, {}
        for i, target in enumerate(self.targets):
            facts = replace(self.facts, site=self.sites[i], max_norm=limits[i])
            one = SourceLayer(self.d, len(self.b_enc[i]), self.sparsify, facts, d_out=(self.layers - i) * len(self.b_dec[0]),
                              target=BESIDE.join(self.targets[i:]), limits=limits[self.layers + i:])
            with torch.no_grad():
                one.W_enc.copy_(self.W_enc[i])
                one.b_enc.copy_(self.b_enc[i])
                one.W_dec.copy_(self.W_dec[i].flatten(1))
                own: Any = self.extra[i]
                for name, value in own.items():
                    one.extra[name].copy_(value)
            made[target] = one.requires_grad_(False)
        return made

    def encode(self, x: Sequence[Tensor]) -> list[Codes]:
        """x: one [..., d] a layer -> codes a layer."""
        if len(x) != self.layers:
            raise ValueError(f"this cross-layer transcoder reads {self.layers} layers; found activations of {len(x)}.")
        return [self.encode_layer(i, one) for i, one in enumerate(x)]

    def encode_layer(self, i: int, x: Tensor) -> Codes:
        """The codes of one layer."""
        return Encoder(self.W_enc[i], self.b_enc[i], self.extra[i])(self.sparsify, x)

    def decode(self, codes: Sequence[Codes]) -> list[Tensor]:
        """Codes a layer -> one [..., d_out] a layer."""
        shape = codes[0].values.shape[:-1]
        written: list[Tensor] = [bias.expand(*shape, -1) for bias in self.b_dec]
        for i, code in enumerate(codes):
            k = code.values.shape[-1]
            rows = decode(code.values.reshape(-1, k), code.indices.reshape(-1, k), self.W_dec[i].flatten(1))
            for j, part in enumerate(rows.view(*shape, self.layers - i, -1).unbind(-2)):
                written[i + j] = written[i + j] + part
        return written

    def decode_layer(self, j: int, codes: Sequence[Codes]) -> Tensor:
        """What the layers up to j write at j: [..., d_out]."""
        made = self.b_dec[j]
        for i, code in enumerate(codes[: j + 1]):
            k = code.values.shape[-1]
            rows = self.W_dec[i][:, j - i].contiguous()
            part = decode(code.values.reshape(-1, k), code.indices.reshape(-1, k), rows)
            made = made + part.view(*code.values.shape[:-1], -1)
        return made

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return self.decode(self.encode(x))

    def encoded(self, x: Sequence[Tensor]) -> Codes:
        """The codes of all layers as one, with latents counted through all layers."""
        return self._as_one(self.encode(x))

    def passed(self, x: Sequence[Tensor]) -> tuple[Codes, list[Tensor]]:
        """The codes of all layers as one, and what is reconstructed at each target."""
        codes = self.encode(x)
        return self._as_one(codes), self.decode(codes)

    def _as_one(self, codes: Sequence[Codes]) -> Codes:
        indices = [code.indices + i * len(self.b_enc[0]) for i, code in enumerate(codes)]
        return Codes(torch.cat([code.values for code in codes], -1), torch.cat(indices, -1))

    def speaks_for(self, x: Sequence[Tensor], y: Mapping[int, Tensor], tokens: Tensor | None = None) -> Tensor:
        """Which tokens it speaks for [...]: no special ones, and no attention sinks at any site or target that is given."""
        limits = self.limits or (float("inf"),) * 2 * self.layers
        keep = torch.ones(x[0].shape[:-1], dtype=torch.bool, device=x[0].device)
        for one, limit in (*zip(x, limits, strict=False), *((y[j], limits[self.layers + j]) for j in y)):
            keep = keep & below(one, limit)
        if tokens is not None and self.facts.skip_tokens and tokens.shape == keep.shape:
            keep = keep & ~torch.isin(tokens, torch.tensor(self.facts.skip_tokens, device=tokens.device))
        return keep

    def fold(self, scales: Sequence[float]) -> None:
        """Turn weights learned from activations divided by scales, of all sites and then all targets, into the activations'
        own."""
        n = self.layers
        for i in range(n):
            self.W_enc[i].div_(scales[i])
            self.b_dec[i].mul_(scales[n + i])
            self.W_dec[i].mul_(torch.tensor(scales[n + i:])[:, None])

    def placed(self, net: Network) -> Site:
        raise ValueError(f"a cross-layer transcoder is of several sites ({', '.join(self.sites)}), so it has no one site; use "
                         "`evaluate`, `passed` or `splice`.")

    def instead(self, net: Network, values: Sequence[Tensor | float]) -> list[Edit]:
        """The edits that put a number or a vector [d_out] in the place of each target, where it speaks for it."""
        return through(net, self, lambda i, x: None, lambda j, kept, y: values[j])

    def splice(self, net: Network) -> list[Edit]:
        """The edits that write at every target what the layers up to it make of what they read in the same pass."""
        def take(i: int, x: Tensor) -> Codes:
            return self.encode_layer(i, x.to(self.W_enc[i].dtype))

        def give(j: int, codes: list[Codes], y: Tensor) -> Tensor:
            return self.decode_layer(j, codes)
        return through(net, self, take, give)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file that states its own conventions in its header."""
        header = {"kind": "cross-layer", "d": self.d, "width": len(self.b_enc[0]), "layers": self.layers,
                  "d_out": len(self.b_dec[0]), "sparsify": part_to_json(self.sparsify), "sites": self.sites,
                  "targets": self.targets, "facts": vars(self.facts), "limits": self.limits,
                  "layout": "W_enc.i is [width, d]; W_dec.i is [width, layers - i, d_out], for the targets i, i + 1, ...",
                  "b_dec": "added to the output; nothing is subtracted from the input"}
        tensors = {name: p.detach().contiguous().cpu() for name, p in self.named_parameters()}
        return write_safetensors(path, tensors, {"cutaway": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> CrossLayer:
        """Read what `save` wrote."""
        from safetensors import safe_open
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {}).get("cutaway", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("kind") != "cross-layer":
            raise ValueError(f"{path} does not hold a cross-layer transcoder of Cutaway.")
        facts = Facts(**header.get("facts", {}))
        made = cls(header["d"], header["width"], header["layers"], sparsifier_from_json(header["sparsify"]),
                   header["d_out"], header["sites"], header["targets"],
                   replace(facts, skip_tokens=tuple(facts.skip_tokens)), header.get("limits", ()))
        made.load_state_dict(tensors)
        return made.requires_grad_(False)


Dictionary.readers["cross-layer"] = CrossLayer.load
