"""circuit-tracer: a folder with config.yaml and layer_<i>.safetensors, one transcoder a layer."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torch import Tensor

from ..dictionaries import Dictionary
from ..dictionaries.transcoder import Transcoder
from ..files import write as write_file
from ..files import write_safetensors
from ..network import Network
from . import sites
from .found import Found, plain
from .tensors import config, tensors

LAYER = re.compile(r"layer_(\d+)\.safetensors")
THRESHOLD = "activation_function.threshold"


def fits(path: Path) -> bool:
    return LAYER.fullmatch(path.name) is not None


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    named = LAYER.fullmatch(path.name)
    if named is None:
        raise ValueError(f"{path} should be a file layer_<i>.safetensors, with a config.yaml beside it.")
    said, t = config(path.parent / "config.yaml"), tensors(path)
    hooks = {name: f"blocks.{named[1]}.{said.get(f'feature_{name}_hook', '')}" for name in ("input", "output")}
    return Found(W_enc=t["W_enc"], b_enc=t["b_enc"], W_dec=decoder(t, path), b_dec=t["b_dec"], center=False,
                 activation="jumprelu" if THRESHOLD in t else "relu", threshold=positive(t.get(THRESHOLD), path),
                 W_skip=t.get("W_skip"), transcoder=True, site=sites.from_lens(hooks["input"], net), hook=hooks["input"],
                 target=sites.from_lens(hooks["output"], net),
                 network=said.get("model_name", ""), more={"format": "circuit-tracer", **said, **hooks})


def decoder(t: dict[str, Tensor], path: Path) -> Tensor:
    """W_dec as [width, d_out]: sets of both layouts are about, and the biases say which one this is."""
    shape, (width, d_out) = tuple(t["W_dec"].shape), (len(t["b_enc"]), len(t["b_dec"]))
    if width == d_out:
        raise ValueError(f"{path} has as many latents as dimensions, so it does not say which way round its W_dec is.")
    return t["W_dec"].T if shape == (d_out, width) else t["W_dec"]


def positive(threshold: Tensor | None, path: Path) -> Tensor | None:
    """Thresholds, unless some are below 0: circuit-tracer, unlike others, lets negative activations above those through."""
    if threshold is not None and bool((threshold < 0).any()):
        raise ValueError(f"{path} has thresholds below 0, with which circuit-tracer's activations are negative; that cannot be "
                         "read.")
    return threshold


def parts(path: Path) -> dict[str, Path]:
    """The files of a set by layer: those beside its config.yaml, or those that it lists."""
    if not (path / "config.yaml").is_file():
        return {}
    files = {int(named[1]): file for file in path.glob("layer_*.safetensors") if (named := LAYER.fullmatch(file.name))}
    if not files and not (path / "W_enc_0.safetensors").is_file():
        files = {i: path / str(one) for i, one in enumerate(config(path / "config.yaml").get("transcoders") or [])}
        lacking = next((file for file in files.values() if not file.is_file()), None)
        if lacking is not None:
            raise ValueError(f"{path / 'config.yaml'} lists {lacking.relative_to(path)}, which is not in its folder; download "
                             "what it lists, and read each file by itself.")
    return {str(i): files[i] for i in sorted(files)}


def write(dictionary: Dictionary, path: Path) -> Path:
    """One layer of a set: layer_<i>.safetensors, and config.yaml, which is the same for all layers."""
    p = plain(dictionary, "circuit-tracer", ("relu", "jumprelu"), kinds=(Transcoder,))
    assert isinstance(dictionary, Transcoder)
    block = re.search(r"(?:blocks|layers|h)\.(\d+)\b", dictionary.target)
    if not block:
        raise ValueError(f"circuit-tracer's files are named by layer, and the target {dictionary.target!r} is in none; give "
                         "the transcoder a target such as blocks.3.mlp.")
    read, written = (hook(place, int(block[1])) for place in (dictionary.site, dictionary.target))
    t = {"W_enc": p.W_enc, "W_dec": p.W_dec, "b_enc": p.b_enc, "b_dec": p.b_dec, THRESHOLD: p.threshold, "W_skip": p.W_skip}
    write_safetensors(path / f"layer_{block[1]}.safetensors", {name: x.contiguous() for name, x in t.items() if x is not None})
    write_config(path, "transcoder_set", dictionary.facts.network, read, written)
    return path


def hook(site: str, layer: int) -> str:
    """The name of a site inside its layer; ValueError where it has none."""
    named = sites.to_hook(site, layer)
    if not named:
        raise ValueError(f"circuit-tracer names sites inside their layer, and {site or 'no site'} has no such name in "
                         f"layer {layer}; write saelens, gemma-scope-2 or cutaway's own format.")
    return named


def write_config(path: Path, kind: str, network: str, read: str, written: str) -> None:
    lines = {"model_kind": kind, "model_name": network, "feature_input_hook": read, "feature_output_hook": written}
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in lines.items())   # JSON strings are YAML strings
    write_file(path / "config.yaml", lambda part: part.write_text(text, encoding="utf-8"))
