"""Cross-layer transcoders: circuit-tracer's W_enc_<i> and W_dec_<i> files, and Gemma Scope 2's folders of one file a layer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..dictionaries.cross_layer import CrossLayer
from ..dictionaries.jump import Jump
from ..dictionaries.parts import ReLU
from ..files import write_safetensors
from ..network import Network
from . import circuit_tracer, gains, sites
from .tensors import config, optional, tensors


@dataclass(frozen=True)
class Layer:
    """One layer as its file has it: W_enc [width, d], W_dec [width, targets, d_out], threshold [width] or none."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None
    site: str = ""
    target: str = ""
    hook: str = ""


def fits(path: Path) -> bool:
    return (path / "W_enc_0.safetensors").is_file() or bool(_gemma_files(path))


def read(path: Path, net: Network | None = None, dtype: torch.dtype | None = torch.float32) -> CrossLayer:
    """A cross-layer transcoder whole, as it has a meaning only with all layers."""
    if not fits(path):
        raise ValueError(f"{path} is no folder of a cross-layer transcoder: circuit-tracer's hold W_enc_0.safetensors, and "
                         "Gemma Scope 2's, with clt in their path, a file with layer_<i> in its name for each layer.")
    layers = _circuit_tracer(path, net) if (path / "W_enc_0.safetensors").is_file() else _gemma(path)
    n, (width, d) = len(layers), layers[0].W_enc.shape
    jumps = [layer.threshold is not None for layer in layers]
    if any(jumps) != all(jumps):
        raise ValueError(f"some layers of {path} have thresholds and some have none, so they do not belong together.")
    with torch.device("meta"):
        made = CrossLayer(d, width, n, Jump() if all(jumps) else ReLU(), layers[0].W_dec.shape[-1],
                          [layer.site for layer in layers], [layer.target for layer in layers])

    def own(x: Tensor) -> nn.Parameter:
        return nn.Parameter((x if dtype is None else x.to(dtype)).contiguous(), requires_grad=False)

    for i, layer in enumerate(layers):
        W_enc, b_enc = layer.W_enc, layer.b_enc
        if net is not None and layer.site and gains.missing(layer.hook):
            W_enc, b_enc = gains.at_input(W_enc, b_enc, layer.hook, net)
        for held, value in ((made.W_enc, W_enc), (made.b_enc, b_enc), (made.b_dec, layer.b_dec),
                            (made.W_dec, later(layer.W_dec, i, n, path))):
            held[i] = own(value)
        if layer.threshold is not None:
            thresholds: Any = made.extra[i]
            thresholds["threshold"] = own(layer.threshold.clamp(min=0))
    return made


def later(W_dec: Tensor, i: int, n: int, path: Path) -> Tensor:
    """The decoder of layer i for targets i, i + 1, ...; files have those alone, or all n targets with nothing before i."""
    if W_dec.ndim != 3 or W_dec.shape[1] not in (n - i, n):
        raise ValueError(f"layer {i} of {path} should write at {n - i} layers, or {n} with those before it; its decoder is "
                         f"{list(W_dec.shape)}.")
    if W_dec.shape[1] == n - i:
        return W_dec
    if bool(W_dec[:, :i].any()):
        raise ValueError(f"layer {i} of {path} writes at layers before it, which a cross-layer transcoder does not.")
    return W_dec[:, i:]


def _circuit_tracer(path: Path, net: Network | None) -> list[Layer]:
    said, layers = config(path / "config.yaml"), []
    for i in range(len(list(path.glob("W_enc_*.safetensors")))):
        t = tensors(path / f"W_enc_{i}.safetensors")
        read, written = (f"blocks.{i}.{said.get(f'feature_{side}_hook', '')}" for side in ("input", "output"))
        layers.append(Layer(t[f"W_enc_{i}"], t[f"b_enc_{i}"], tensors(path / f"W_dec_{i}.safetensors")[f"W_dec_{i}"],
                            t[f"b_dec_{i}"], circuit_tracer.positive(t.get(f"threshold_{i}"), path), sites.from_lens(read, net),
                            sites.from_lens(written, net), read))
    return layers


def _gemma_files(path: Path) -> dict[int, Path]:
    files = path.glob("*layer_*.safetensors") if "clt" in path.resolve().as_posix().lower() else []
    return {int(named[1]): file for file in files if (named := re.search(r"layer_(\d+)", file.name))}


def _gemma(path: Path) -> list[Layer]:
    files, layers = _gemma_files(path), []
    lacking = sorted(set(range(max(files) + 1)) - set(files))
    if lacking:
        raise ValueError(f"{path} lacks layers {', '.join(map(str, lacking))}, and a cross-layer transcoder needs all of them.")
    said = optional(path / "config.json")
    for i in sorted(files):
        t, prefix = tensors(files[i]), f"model.layers.{i}"
        read = said.get("hf_hook_point_in") or f"{prefix}.pre_feedforward_layernorm.output"
        written = said.get("hf_hook_point_out") or f"{prefix}.post_feedforward_layernorm.output"
        if "affine_skip_connection" in t:
            raise ValueError(f"{files[i]} has a skip connection, which cross-layer transcoders are not read with yet.")
        layers.append(Layer(t["w_enc"].T, t["b_enc"], t["w_dec"], t["b_dec"], t["threshold"],
                            *(sites.from_gemma(re.sub(r"layers\.\d+", f"layers.{i}", hook))[0] for hook in (read, written))))
    return layers


def write(made: CrossLayer, path: Path) -> Path:
    """circuit-tracer's files: two a layer, and config.yaml."""
    named = [{circuit_tracer.hook(site, i) for i, site in enumerate(places)} for places in (made.sites, made.targets)]
    if any(len(hooks) != 1 for hooks in named):
        raise ValueError("circuit-tracer has one name for what all layers read and one for what they write; this has "
                         f"{' and '.join(', '.join(sorted(hooks)) for hooks in named)}.")
    for i in range(made.layers):
        own = {f"W_enc_{i}": made.W_enc[i], f"b_enc_{i}": made.b_enc[i], f"b_dec_{i}": made.b_dec[i]}
        if isinstance(made.sparsify, Jump):
            thresholds: Any = made.extra[i]
            own[f"threshold_{i}"] = thresholds["threshold"]
        elif not isinstance(made.sparsify, ReLU):
            raise ValueError("circuit-tracer's cross-layer files hold relu and jumprelu; this transcoder is "
                             f"{type(made.sparsify).__name__}.")
        write_safetensors(path / f"W_enc_{i}.safetensors", {k: x.detach().contiguous() for k, x in own.items()})
        write_safetensors(path / f"W_dec_{i}.safetensors", {f"W_dec_{i}": made.W_dec[i].detach().contiguous()})
    circuit_tracer.write_config(path, "cross_layer_transcoder", "", *(hooks.pop() for hooks in named))
    return path
