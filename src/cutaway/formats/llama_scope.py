"""Llama Scope: hyperparams.json and checkpoints/final.safetensors; of R1 Distill, config.json and sae_weights.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dictionaries import Dictionary
from ..dictionaries.transcoder import Transcoder
from ..files import write_json, write_safetensors
from ..network import Network
from . import sites
from .found import Found, plain
from .tensors import config, tensors

WEIGHTS = "checkpoints/final.safetensors"


LATER = ("sae_weights.safetensors", "final.safetensors")     # of R1 Distill


def fits(path: Path) -> bool:
    return (path / "hyperparams.json").is_file() or later(path) is not None


def later(path: Path) -> Path | None:
    """The weights of R1 Distill's dictionaries, which lie beside a config.json."""
    found = (path / name for name in LATER if (path / name).is_file())
    return next(found, None) if (path / "config.json").is_file() and not (path / "cfg.json").is_file() else None


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    """Inputs are scaled by sqrt(d) / their mean norm and outputs back by that of the output; the threshold is compared in
    those units, as in their trainer (SAELens scales it once more)."""
    weights = later(path)
    said = config(path / ("hyperparams.json" if weights is None else "config.json"))
    t = tensors(weights or path / WEIGHTS)
    activation = {"jumprelu": "jumprelu", "relu": "relu", "topk": "topk"}.get(said["act_fn"].lower(), "")
    if not activation:
        raise ValueError(f"{path} has act_fn {said['act_fn']}, which cannot be read; jumprelu, relu and topk can.")
    W_dec = t["decoder.weight"].T
    norms, d = said.get("dataset_average_activation_norm") or {}, W_dec.shape[1]
    hook_in, hook_out = said.get("hook_point_in", ""), said.get("hook_point_out", "")
    # Only where decoder rows are not of norm 1 does it matter whether latents are chosen with their norms.
    by_norm = said.get("sparsity_include_decoder_norm")
    if by_norm is None and bool((W_dec.norm(dim=1, dtype=torch.float32) - 1).abs().amax() < 1e-2):
        by_norm = False
    transcoder = hook_in != hook_out
    b_dec = t.get("decoder.bias", W_dec.new_zeros(d))
    return Found(W_enc=t["encoder.weight"], b_enc=t["encoder.bias"], W_dec=W_dec, b_dec=b_dec,
                 center=bool(said.get("apply_decoder_bias_to_pre_encoder", False)), activation=activation,
                 k=said.get("top_k"), threshold=threshold(said, t), by_norm=by_norm, transcoder=transcoder,
                 scale=scale(said, norms, "in", t["encoder.weight"].shape[1]), scale_out=scale(said, norms, "out", d),
                 site=sites.from_lens(hook_in, net), hook=hook_in, target=sites.from_lens(hook_out, net) if transcoder else "",
                 more={"format": "llama-scope", **said})


def threshold(said: dict[str, Any], t: dict[str, Tensor]) -> Any:
    """One for all latents, or of each, whose logarithm is kept."""
    log = t.get("log_jumprelu_threshold")
    return said.get("jump_relu_threshold") if log is None else log.exp()


def scale(said: dict[str, Any], norms: dict[str, float], side: str, d: int) -> float | None:
    """By what activations of one side are multiplied; None where the file does not say."""
    if said.get("norm_activation") in ("none", "inference"):
        return 1.0
    return d**0.5 / norms[side] if side in norms else None


def write(dictionary: Dictionary, path: Path) -> Path:
    """With the scales folded in, so that a mean norm of sqrt(d) is stated, which is a scale of 1."""
    p = plain(dictionary, "Llama Scope", ("relu", "jumprelu", "topk"), center=False, kinds=(Dictionary, Transcoder))
    first = None if p.threshold is None else float(p.threshold[0])
    if p.threshold is not None and not torch.all(p.threshold == p.threshold[0]):
        raise ValueError("Llama Scope's files have one threshold for all latents, and this dictionary's differ; "
                         "write saelens or gemma-scope-2.")
    if p.W_skip is not None:
        raise ValueError("Llama Scope's files have no skip connection; write saelens, gemma-scope-2 or cutaway's own format.")
    target = getattr(dictionary, "target", "") or dictionary.site
    hooks = {name: sites.to_lens(site) or site for name, site in (("in", dictionary.site), ("out", target))}
    write_safetensors(path / WEIGHTS, {"encoder.weight": p.W_enc.contiguous(), "encoder.bias": p.b_enc.contiguous(),
                                       "decoder.weight": p.W_dec.T.contiguous(), "decoder.bias": p.b_dec.contiguous()})
    write_json(path / "hyperparams.json", {
        "d_model": p.W_enc.shape[1], "d_sae": len(p.W_enc), "act_fn": p.activation, "jump_relu_threshold": first, "top_k": p.k,
        "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False, "sparsity_include_decoder_norm": False,
        "norm_activation": "dataset-wise", "hook_point_in": hooks["in"], "hook_point_out": hooks["out"],
        "dataset_average_activation_norm": {"in": p.W_enc.shape[1] ** 0.5, "out": p.W_dec.shape[1] ** 0.5}})
    return path
