"""Gemma Scope 2 (Gemma 3): config.json and params.safetensors; cross-layer transcoders are folders of one file a layer."""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionaries import Dictionary
from ..dictionaries.transcoder import Transcoder
from ..files import write_json, write_safetensors
from ..network import Network
from . import sites
from .found import Found, plain
from .tensors import optional, tensors

WEIGHTS = "params.safetensors"
KEYS = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}
# The folders' names, for repositories without a configuration.
HOOKS = {"resid_post": ("output", ""), "attn_out": ("self_attn.o_proj.input", ""),
         "mlp_out": ("post_feedforward_layernorm.output", ""),
         "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output")}


def fits(path: Path) -> bool:
    return (path / WEIGHTS).is_file() or path.name == WEIGHTS


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    path = path / WEIGHTS if path.is_dir() else path
    t, said = tensors(path), optional(path.parent / "config.json")
    if not set(t) >= KEYS:
        raise ValueError(f"{path} holds {', '.join(sorted(t))}; Gemma Scope 2's files hold {', '.join(sorted(KEYS))}.")
    if t["w_dec"].ndim == 3:
        raise ValueError(f"{path} is one layer of a cross-layer transcoder, which writes at {t['w_dec'].shape[1]} layers; "
                         "their sum is not what any of them gets, so read the folder of all layers.")
    if said.get("architecture", "jump_relu") != "jump_relu":
        raise ValueError(f"{path.parent} has the architecture {said['architecture']}, which cannot be read; jump_relu can.")
    hook, out = hooks(path, said)
    (site, module), skip = sites.from_gemma(hook), t.get("affine_skip_connection")
    return Found(W_enc=t["w_enc"].T, b_enc=t["b_enc"], W_dec=t["w_dec"], b_dec=t["b_dec"], center=False,
                 activation="jumprelu", threshold=t["threshold"], W_skip=None if skip is None else skip.T,
                 transcoder=bool(out) or skip is not None, site=site, path=module, target=sites.from_gemma(out)[0],
                 network=said.get("model_name", ""), more={"format": "gemma-scope-2", **said})


def hooks(path: Path, said: dict[str, str]) -> tuple[str, str]:
    """The model's own names of where it is read and written, from the configuration or else from the folders' names."""
    if "hf_hook_point_in" in said:
        out = said.get("hf_hook_point_out") or ""
        return said["hf_hook_point_in"], "" if out == said["hf_hook_point_in"] else out
    layer = re.search(r"layer_(\d+)", path.parent.name)
    kind = next((kind for kind in HOOKS if path.parent.parent.name.startswith(kind)), "")
    if not layer or not kind:
        return "", ""
    read, written = HOOKS[kind]
    prefix = f"model.layers.{layer[1]}"
    return f"{prefix}.{read}", f"{prefix}.{written}" if written else ""


def write(dictionary: Dictionary, path: Path) -> Path:
    p = plain(dictionary, "Gemma Scope 2", ("relu", "jumprelu"), center=False, kinds=(Dictionary, Transcoder))
    threshold = p.b_enc.new_zeros(len(p.W_enc)) if p.threshold is None else p.threshold
    t = {"w_enc": p.W_enc.T, "w_dec": p.W_dec, "b_enc": p.b_enc, "b_dec": p.b_dec, "threshold": threshold,
         "affine_skip_connection": None if p.W_skip is None else p.W_skip.T}
    said = {"architecture": "jump_relu", "model_name": dictionary.facts.network, "width": len(p.W_enc),
            "affine_connection": p.W_skip is not None}
    said["hf_hook_point_in"] = sites.to_gemma(dictionary.site)
    if isinstance(dictionary, Transcoder):
        said["hf_hook_point_out"] = sites.to_gemma(dictionary.target)
    write_safetensors(path / WEIGHTS, {name: x.contiguous() for name, x in t.items() if x is not None})
    write_json(path / "config.json", said)
    return path
