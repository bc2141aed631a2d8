"""OpenAI's sparse_autoencoder: <location>/autoencoders/<layer>.pt for GPT-2 small, a pickle."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import torch

from ..dictionaries import Dictionary
from ..dictionaries.anchored import Normed
from ..files import write as write_file
from ..network import Network
from .found import Found, plain
from .tensors import tensors

KEYS = {"pre_bias", "encoder.weight", "latent_bias", "decoder.weight"}
LOCATIONS = {"mlp_post_act": "blocks.{i}.mlp.neurons", "resid_delta_mlp": "blocks.{i}.mlp",
             "resid_delta_attn": "blocks.{i}.attn", "resid_post_mlp": "blocks.{i}",
             "resid_post_attn": "transformer.h.{i}.ln_2:in"}
SCALES: dict[str | None, float | str] = {"relu": 1.0, "topk": "layer_norm"}


def fits(path: Path) -> bool:
    return path.suffix == ".pt" and path.parent.name == "autoencoders"


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    t = tensors(path, pickle)
    if not set(t) >= KEYS:
        raise ValueError(f"{path} lacks {', '.join(sorted(KEYS - set(t)))}, which OpenAI's autoencoders have.")
    # "TopK", and with it a layer norm of each input; the names are those of the classes of their library.
    activation = {"ReLU": "relu", "TopK": "topk", None: None}.get(t.get("activation"), "")
    if activation == "":
        raise ValueError(f"{path} has the activation {t['activation']}, which cannot be read; ReLU and TopK can.")
    state = t.get("activation_state_dict") or {}
    if state.get("postact_fn", "ReLU") != "ReLU":
        raise ValueError(f"{path} puts {state['postact_fn']} after its TopK, which cannot be read; ReLU can.")
    location = next((part for part in path.parts if re.sub(r"_v\d.*$", "", part) in LOCATIONS), "")
    site = LOCATIONS.get(re.sub(r"_v\d.*$", "", location), "").format(i=path.stem) if path.stem.isdigit() else ""
    return Found(W_enc=t["encoder.weight"], b_enc=t["latent_bias"], W_dec=t["decoder.weight"].T, b_dec=t["pre_bias"],
                 center=True, activation=activation, k=state.get("k"),
                 scale=SCALES.get(activation), site=site,
                 network="gpt2" if location else "", more={"format": "openai", "location": location})


def write(dictionary: Dictionary, path: Path) -> Path:
    """A .pt file that their `Autoencoder.from_state_dict` reads; a TopK dictionary must normalise its inputs as theirs do."""
    p = plain(dictionary, "OpenAI", ("relu", "topk"), kinds=(Dictionary, Normed))
    norm = dictionary.norm if isinstance(dictionary, Normed) else None
    if (p.activation, norm) not in (("relu", None), ("topk", "layer_norm")):
        raise ValueError("OpenAI's files give each input a layer norm where the activation is TopK, and none where it is ReLU; "
                         f"this dictionary is {p.activation} with {norm or 'no norm'}.")
    t = {"pre_bias": p.b_dec, "encoder.weight": p.W_enc, "latent_bias": p.b_enc, "decoder.weight": p.W_dec.T,
         "stats_last_nonzero": torch.zeros(len(p.W_enc), dtype=torch.int64),     # their class asks for these three too
         "latents_activation_frequency": torch.ones(len(p.W_enc)), "latents_mean_square": torch.zeros(len(p.W_enc))}
    said = {"activation": "ReLU"} if p.k is None else {
        "activation": "TopK", "activation_state_dict": {"k": p.k, "postact_fn": "ReLU"}}
    path = path if path.suffix == ".pt" else path.with_name(path.name + ".pt")
    return write_file(path, partial(torch.save, {**{name: x.contiguous() for name, x in t.items()}, **said}))
