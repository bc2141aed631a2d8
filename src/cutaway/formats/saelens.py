"""SAELens: a folder with cfg.json and sae_weights.safetensors, of version 6 or older, finished or from a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dictionaries import Dictionary
from ..dictionaries.mp_sae import Pursuit
from ..dictionaries.transcoder import Transcoder
from ..files import write_json, write_safetensors
from ..network import Network
from . import sites
from .found import Found, gated, plain, unit_rows
from .tensors import config, optional, tensors

WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES = {"standard": "relu", "topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu", "gated": "jumprelu",
                 "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu", "matching_pursuit": "matching-pursuit",
                 "transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu",
                 "jumprelu_skip_transcoder": "jumprelu"}
# What older versions called things; what is absent there means what SAELens itself takes it to mean.
OLD = {"hook_point": "hook_name", "activation_fn_str": "activation_fn", "hook_point_head_index": "hook_head_index"}
NORMS: dict[Any, Any] = {"none": 1.0, None: 1.0, False: 1.0, "layer_norm": "layer_norm",
                         "constant_norm_rescale": "constant_norm", "expected_average_only_in": None, True: None,
                         "covariance_whitening": 1.0}


def fits(path: Path) -> bool:
    if (path / "config.json").is_file() and not (path / "cfg.json").is_file():
        return False   # a later Llama Scope's
    return (path / WEIGHTS).is_file() or path.name == WEIGHTS


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    folder = path if path.is_dir() else path.parent
    said = settings(config(folder / "cfg.json"), folder)
    t, architecture = tensors(folder / WEIGHTS), said["architecture"]
    transcoder = "transcoder" in architecture
    if architecture == "matching_pursuit":
        return pursuit(t, said, net, folder)
    found = Found(
        W_enc=t["W_enc"].T, b_enc=t["b_mag" if architecture == "gated" else "b_enc"], W_dec=t["W_dec"], b_dec=t["b_dec"],
        center=None if transcoder else said.get("apply_b_dec_to_input", True), activation=ARCHITECTURES[architecture],
        k=said.get("k"), threshold=threshold(t), scale=NORMS[said.get("normalize_activations")],
        by_norm=bool(said.get("rescale_acts_by_decoder_norm", False)), W_skip=t.get("W_skip"), transcoder=transcoder,
        **facts(said, net))
    found = replace(found, choices={"scale": "the scale of its inputs, which SAELens' "
        "normalize_activations='expected_average_only_in' keeps outside the file: scale=1.0 if it was folded into the weights, "
        "otherwise sqrt(d) / the mean norm of the activations"})
    if architecture == "gated":
        found = gated(found, t["r_mag"], t["b_gate"], t["b_mag"])
    if said.get("finetuning_scaling_factor") and "scaling_factor" in t:
        found = replace(found, W_dec=found.W_dec * t["scaling_factor"][:, None])
    return unscaled(found, said, folder)


def facts(said: dict[str, Any], net: Network | None) -> dict[str, Any]:
    """What a configuration says besides how codes are computed."""
    return {"network": said.get("model_name") or "", "data": said.get("dataset_path") or "",
            "skip_tokens": skipped(said.get("exclude_special_tokens"), net),
            "more": {"format": "saelens", **{k: v for k, v in said.items() if v is not None}}, **place(said, net)}


def pursuit(t: dict[str, Tensor], said: dict[str, Any], net: Network | None, folder: Path) -> Found:
    """Matching pursuit, whose decoder is its encoder; steps end where what is left is small, or where a latent comes again."""
    rows, b_dec, scale = t["W_dec"], t["b_dec"], NORMS[said.get("normalize_activations")]
    if scale is None or said.get("normalize_activations") == "covariance_whitening":
        raise ValueError(f"{folder} is matching pursuit of inputs whose scale is kept outside of it, which cannot be read.")
    if not said.get("apply_b_dec_to_input", True):
        b_dec = torch.zeros_like(b_dec)   # its decoder adds the bias only where its encoder takes it away
    rule = {"least": said.get("residual_threshold", 1e-2), "once": said.get("stop_on_duplicate_support", True)}
    return Found(W_enc=rows, b_enc=rows.new_zeros(len(rows)), W_dec=rows, b_dec=b_dec, center=True, scale=scale, tied=True,
                 activation="matching-pursuit", k=said.get("max_iterations") or rows.shape[1], rule=rule, **facts(said, net))


def settings(said: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of any version in the words of version 6, with the metadata among them."""
    said = {OLD.get(key, key): value for key, value in said.items()}
    said = {**(said.pop("metadata", None) or {}), **said}
    if "architecture" not in said:   # before version 6
        said["architecture"] = "standard"
    kwargs = said.get("activation_fn_kwargs") or {}
    if said.get("activation_fn") == "topk":
        said.update(architecture="abstopk" if kwargs.get("signed") else "topk", k=kwargs.get("k"))
    elif said.get("activation_fn", "relu") != "relu":
        raise ValueError(f"{folder} has the activation {said['activation_fn']}, which cannot be read; relu and topk can.")
    if said["architecture"] not in ARCHITECTURES:
        raise ValueError(f"{folder} has the architecture {said['architecture']}, which cannot be read; "
                         f"{', '.join(ARCHITECTURES)} can.")
    if said.get("normalize_activations") not in NORMS:
        raise ValueError(f"{folder} has normalize_activations={said['normalize_activations']!r}, which is not known.")
    return said


def skipped(exclude: bool | list[int] | None, net: Network | None) -> tuple[int, ...]:
    """Ids of the tokens that it was not trained on: a list, or all special tokens of the network's tokenizer."""
    if isinstance(exclude, list):
        return tuple(exclude)
    return tuple(net.tokenizer.all_special_ids) if exclude and net is not None and net.tokenizer is not None else ()


def threshold(t: dict[str, Tensor]) -> Tensor | None:
    if "log_threshold" in t:
        return t["log_threshold"].exp()
    return t.get("threshold", t.get("topk_threshold"))


def place(said: dict[str, Any], net: Network | None) -> dict[str, Any]:
    """Where it reads and writes: by the model's own name where there is one, which is exact, or by TransformerLens's."""
    def named(hook: str | None, own: str | None, head: Any) -> tuple[str, str, str]:
        path, _, io = (own or "").rpartition(".")
        path, io = (path, io.removesuffix("put")) if io in ("input", "output") else (own or "", "out")
        if head is not None:
            return "", path, ""   # one head's part of a site is none
        exact = sites.from_path(path, io, net) if path else ""
        return exact or sites.from_lens(hook or "", net), path, "" if exact else hook or ""

    site, path, hook = named(said.get("hook_name"), said.get("hf_hook_name"), said.get("hook_head_index"))
    target = named(said.get("hook_name_out"), said.get("hf_hook_name_out"), said.get("hook_head_index_out"))
    return {"site": site, "path": path, "hook": hook, "target": target[0]}


def unscaled(found: Found, said: dict[str, Any], folder: Path) -> Found:
    """With the scale and the whitening that a training keeps in files of their own folded in."""
    scaler = optional(folder / "activation_scaler.json")
    if found.scale is None and scaler.get("scaling_factor") is not None:
        found = replace(found, scale=float(scaler["scaling_factor"]))
    if said.get("normalize_activations") != "covariance_whitening":
        return found
    w = tensors(folder / "activation_whitening.safetensors")
    mean, matrix, inverse = (w[name].to(torch.promote_types(w[name].dtype, found.b_dec.dtype))
                             for name in ("mean", "matrix", "inverse_matrix"))
    W_enc, W_dec, b_enc = found.W_enc.to(matrix.dtype), found.W_dec.to(matrix.dtype), found.b_enc
    if found.by_norm:   # whitening changes the norms by which latents are chosen
        W_enc, b_enc, W_dec = unit_rows(W_enc, b_enc, W_dec)
    W_enc = W_enc @ matrix.T
    b_enc = b_enc if found.center else b_enc - W_enc @ mean
    return replace(found, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec @ inverse,
                   b_dec=found.b_dec.to(matrix.dtype) @ inverse + mean, by_norm=False)


def write(dictionary: Dictionary, path: Path) -> Path:
    """The folder that SAELens 6 reads with `SAE.load_from_disk`."""
    p = plain(dictionary, "SAELens", ("relu", "topk", "jumprelu", "abstopk", "matching-pursuit"),
              kinds=(Dictionary, Transcoder))
    if p.transcoder and p.activation not in ("relu", "jumprelu"):
        raise ValueError(f"SAELens has no transcoder with the activation {p.activation}; write cutaway's own format.")
    names = {value: key for key, value in reversed(ARCHITECTURES.items())}
    architecture = names[p.activation]
    if p.transcoder:
        parts = ("jumprelu" if p.activation == "jumprelu" else "", "skip" if p.W_skip is not None else "", "transcoder")
        architecture = "_".join(filter(None, parts))
    t: dict[str, Tensor | None] = {"W_enc": p.W_enc.T, "b_enc": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec,
                                   "threshold": p.threshold, "W_skip": p.W_skip}
    if p.activation == "matching-pursuit":
        t = {"W_dec": p.W_dec, "b_dec": p.b_dec}
    own, target = dictionary.facts, getattr(dictionary, "target", "")
    metadata = {"sae_lens_version": "6.0.0", "hook_name": sites.to_lens(own.site) or None,
                "hf_hook_name": sites.to_module(own.site) or None,
                "model_name": own.network or None, "dataset_path": own.data or None,
                "exclude_special_tokens": list(own.skip_tokens) or None}
    said: dict[str, Any] = {
        "architecture": architecture, "d_in": p.W_enc.shape[1], "d_sae": len(p.W_enc), "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": not p.transcoder, "normalize_activations": "none", "reshape_activations": "none"}
    if p.transcoder:
        said["d_out"] = p.W_dec.shape[1]
        metadata.update(hook_name_out=sites.to_lens(target) or None, hf_hook_name_out=sites.to_module(target) or None)
    if isinstance(dictionary.sparsify, Pursuit):
        said.update(max_iterations=p.k, residual_threshold=dictionary.sparsify.least,
                    stop_on_duplicate_support=dictionary.sparsify.once)
    elif p.k is not None:
        said.update(k=p.k, rescale_acts_by_decoder_norm=False)
    write_safetensors(path / WEIGHTS, {name: x.contiguous() for name, x in t.items() if x is not None})
    write_json(path / "cfg.json", {**said, "metadata": metadata})
    return path
