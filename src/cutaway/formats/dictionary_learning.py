"""saprmarks/dictionary_learning: ae.pt, a pickle, with the config.json of its trainer beside it or not.

Weights are read as they are; the library's own `AutoEncoder.from_pretrained` gives decoder rows norm 1 by default, and so
codes that are larger by those norms, with the same reconstruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..dictionaries import Dictionary
from ..files import write as write_file
from ..files import write_json
from ..network import Network
from .found import Found, gated, plain
from .tensors import optional, tensors

LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")       # [width, d], [width], [d, width]
PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")                        # [d, width], [width], [width, d], [d]


@dataclass(frozen=True)
class Kind:
    """One of the library's classes: its tensors, the name of b_dec, whether that is subtracted, and what fires."""

    keys: tuple[str, ...]
    b_dec: str
    center: bool
    activation: str


KINDS = {
    "AutoEncoder": Kind((*LINEAR, "bias"), "bias", True, "relu"),
    "AutoEncoderNew": Kind((*LINEAR, "decoder.bias"), "decoder.bias", False, "relu"),
    "GatedAutoEncoder": Kind(("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"),
                             "decoder_bias", True, "gated"),
    "AutoEncoderTopK": Kind((*LINEAR, "b_dec", "k", "threshold"), "b_dec", True, "topk"),
    "BatchTopKSAE": Kind((*LINEAR, "b_dec", "k", "threshold"), "b_dec", True, "jumprelu"),
    "MatryoshkaBatchTopKSAE": Kind((*PLAIN, "k", "threshold", "group_sizes"), "b_dec", True, "jumprelu"),
    "JumpReluAutoEncoder": Kind((*PLAIN, "threshold"), "b_dec", False, "jumprelu")}


def fits(path: Path) -> bool:
    return (path / "ae.pt").is_file() or path.name == "ae.pt" or re.fullmatch(r"ae_\d+\.pt", path.name) is not None


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    path = path / "ae.pt" if path.is_dir() else path
    held = tensors(path, pickle)
    # A backup keeps the weights under "ae", and is written under the same name as what is finished.
    t, backup = (held["ae"], True) if "ae" in held else (held, False)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    said = optional(folder / "config.json")
    trainer = said.get("trainer", {})
    name, kinds = class_of(path, trainer.get("dict_class"), set(t))
    kind = KINDS[name]
    linear = "encoder.weight" in t
    site = re.fullmatch(r"resid_post_layer_(\d+)", trainer.get("submodule_name") or "")
    found = Found(
        W_enc=t["encoder.weight"] if linear else t["W_enc"].mT, W_dec=t["decoder.weight"].mT if linear else t["W_dec"],
        b_enc=next(t[key] for key in ("encoder.bias", "b_enc", "mag_bias") if key in t), b_dec=t[kind.b_dec],
        center=kind.center, activation=kind.activation, k=int(t["k"]) if "k" in t else None, threshold=t.get("threshold"),
        scale=None if backup and held.get("norm_factor") is not None else 1.0,
        site=f"blocks.{site[1]}" if site else "", network=trainer.get("lm_name", ""),
        more={"format": "dictionary_learning", "class": name, **said})
    if kind.activation == "gated":
        return gated(found, t["r_mag"], t["gate_bias"], t["mag_bias"])
    return asking(found, kinds, bool(trainer), held.get("norm_factor"))


def class_of(path: Path, told: str | None, keys: set[str]) -> tuple[str, list[str]]:
    """The class of a file, as its configuration names it or by its tensors; and all classes that have these tensors."""
    able = [name for name, kind in KINDS.items() if set(kind.keys) == keys]
    if told is not None and told not in KINDS:
        raise ValueError(f"{path} was written by the class {told}, which cannot be read; {', '.join(KINDS)} can.")
    if not able or (told is not None and told not in able):
        raise ValueError(f"{path} holds {', '.join(sorted(keys)) or 'nothing'}, which is not what "
                         f"{told or 'any class of dictionary_learning'} writes.")
    return told or able[0], [told] if told else able


def asking(found: Found, kinds: list[str], configured: bool, norm_factor: Any) -> Found:
    """With a question for each convention that the file does not decide."""
    choices = {"scale": "whether its biases are in the site's units: scale=1.0 if so, otherwise "
                        f"scale={1 / float(norm_factor):g}, from the backup's norm_factor"} if norm_factor else {}
    if len(kinds) > 1:
        found = replace(found, activation=None)
        choices["activation"] = ("which class wrote it, as no config.json is beside it: activation='topk' (AutoEncoderTopK: "
                                 f"the k={found.k} largest of each token) or 'jumprelu' (BatchTopKSAE: above its threshold)")
    if found.activation in ("jumprelu", None) and found.k is not None and float(found.threshold) < 0:
        # The threshold is only measured from a certain step on; until then it is -1, and everything positive would fire.
        found = replace(found, activation=None, threshold=None)
        choices["activation"] = (f"which latents fire, as its threshold was never measured: activation='topk' (the k={found.k} "
                                 "largest of each token), or activation='jumprelu' with threshold=, a number from your data")
    if kinds == ["JumpReluAutoEncoder"] and not configured:
        found = replace(found, center=None)   # a flag of the object that its file does not keep
        choices["center"] = ("whether b_dec is taken from the input, as no config.json is beside it: center=False (as its "
                             "trainer does), or center=True (apply_b_dec_to_input, for what came from SAELens)")
    return replace(found, choices=choices)


def write(dictionary: Dictionary, path: Path) -> Path:
    """The folder with ae.pt and config.json that the class's `from_pretrained` and `load_dictionary` read."""
    p = plain(dictionary, "dictionary_learning", ("relu", "topk", "jumprelu"))
    facts, width = dictionary.facts, len(p.W_enc)
    linear = {"encoder.weight": p.W_enc, "encoder.bias": p.b_enc, "decoder.weight": p.W_dec.T}
    unsubtracted = plain(dictionary, "dictionary_learning", ("relu", "topk", "jumprelu"), center=False)
    makers: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "relu": ("AutoEncoder", lambda: {**linear, "bias": p.b_dec}),
        "topk": ("AutoEncoderTopK", lambda: {**linear, "b_dec": p.b_dec, "k": torch.tensor(p.k, dtype=torch.int),
                                             "threshold": torch.tensor(-1.0)}),
        "jumprelu": ("JumpReluAutoEncoder", lambda: {"W_enc": p.W_enc.T, "b_enc": unsubtracted.b_enc, "W_dec": p.W_dec,
                                                     "b_dec": p.b_dec, "threshold": p.threshold})}
    name, make = makers[p.activation]
    block = re.fullmatch(r"blocks\.(\d+)", facts.site)
    t = {key: x.contiguous() for key, x in make().items()}
    write_file(path / "ae.pt", partial(torch.save, t))
    write_json(path / "config.json", {"trainer": {
        "dict_class": name, "activation_dim": p.W_enc.shape[1], "dict_size": width, "k": p.k, "lm_name": facts.network,
        "layer": int(block[1]) if block else None, "submodule_name": f"resid_post_layer_{block[1]}" if block else facts.site}})
    return path
