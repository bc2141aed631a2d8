"""Cross-layer transcoders: latents that are read at one layer and written at that one and all later ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_safetensors
from ..kernels import decode
from .codes import Codes
from .parts import SPARSIFIERS, part_to_json
from .transcoder import Encoder


class CrossLayer(nn.Module):
    """One encoder a layer; the latents of layer i write at layers i, i + 1, ... (transformer-circuits.pub 2025, attribution
    graphs, section 2.1).

    codes_i = sparsify(x_i @ W_enc[i].T + b_enc[i]); y_j = b_dec[j] + sum over i <= j of codes_i @ W_dec[i][:, j - i].
    W_enc[i]: [width, d]; W_dec[i]: [width, layers - i, d_out]; b_enc[i]: [width]; b_dec[i]: [d_out]; threshold[i]: [width].
    sites, targets: where layers are read and written. What one layer's latents write has no meaning as a sum over targets.
    """

    def __init__(self, d: int, width: int, layers: int, sparsify: Any, d_out: int | None = None,
                 sites: Sequence[str] = (), targets: Sequence[str] = ()):
        super().__init__()
        d_out = d if d_out is None else d_out
        self.sparsify, self.sites, self.targets = sparsify, tuple(sites), tuple(targets)
        self.W_enc = nn.ParameterList(torch.zeros(width, d) for _ in range(layers))
        self.b_enc = nn.ParameterList(torch.zeros(width) for _ in range(layers))
        self.W_dec = nn.ParameterList(torch.zeros(width, layers - i, d_out) for i in range(layers))
        self.b_dec = nn.ParameterList(torch.zeros(d_out) for _ in range(layers))
        tensors: Any = getattr(sparsify, "tensors", lambda width: {})
        self.extra = nn.ModuleList(nn.ParameterDict(tensors(width)) for _ in range(layers))

    @property
    def layers(self) -> int:
        return len(self.W_enc)

    def encode(self, x: Sequence[Tensor]) -> list[Codes]:
        """x: one [..., d] a layer -> codes a layer."""
        if len(x) != self.layers:
            raise ValueError(f"this cross-layer transcoder reads {self.layers} layers; found activations of {len(x)}.")
        return [Encoder(self.W_enc[i], self.b_enc[i], self.extra[i])(self.sparsify, one) for i, one in enumerate(x)]

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

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return self.decode(self.encode(x))

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file that states its own conventions in its header."""
        header = {"kind": "cross-layer", "d": self.W_enc[0].shape[1], "width": self.W_enc[0].shape[0], "layers": self.layers,
                  "d_out": len(self.b_dec[0]), "sparsify": part_to_json(self.sparsify), "sites": self.sites,
                  "targets": self.targets, "layout": "W_enc.i is [width, d]; W_dec.i is [width, layers - i, d_out], for the "
                  "targets i, i + 1, ...", "b_dec": "added to the output; nothing is subtracted from the input"}
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
        sparsify = dict(header["sparsify"])
        made = cls(header["d"], header["width"], header["layers"], SPARSIFIERS[sparsify.pop("name")](**sparsify),
                   header["d_out"], header["sites"], header["targets"])
        made.load_state_dict(tensors)
        return made.requires_grad_(False)
