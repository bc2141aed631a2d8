"""eai-sparsify: a folder named by its module, with cfg.json and sae.safetensors, inside the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dictionaries import Dictionary
from ..dictionaries.transcoder import Transcoder
from ..files import write_json, write_safetensors
from ..network import Network
from . import sites
from .found import Found, plain
from .tensors import config, optional, tensors

WEIGHTS = "sae.safetensors"


def fits(path: Path) -> bool:
    return (path / WEIGHTS).is_file() or path.name == WEIGHTS


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    folder = path if path.is_dir() else path.parent
    said, (run, module) = config(folder / "cfg.json"), run_of(folder)
    t = tensors(folder / WEIGHTS)
    # Where the file of a dictionary does not say whether it is a transcoder, older versions say so for the whole run.
    transcode = said.get("transcode", run.get("transcode"))
    activation = said.get("activation") or ("abstopk" if said.get("signed") else "topk")
    more = {"format": "sparsify", "hookpoint": module, **said}
    where: dict[str, Any] = {"site": sites.from_path(module, "in" if transcode else "out", net), "path": module,
             "target": sites.from_path(module, "out", net) if transcode else ""}
    return Found(W_enc=t["encoder.weight"], b_enc=t["encoder.bias"], W_dec=t["W_dec"], b_dec=t["b_dec"],
                 center=None if transcode is None else not transcode, activation=activation, k=said["k"],
                 W_skip=t.get("W_skip"), transcoder=bool(transcode) or "W_skip" in t, network=run.get("model", ""),
                 data=run.get("dataset", ""), more=more, **where)


def run_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The configuration of the run and the module's name, from the folders above: <run>/<module>[/seed0]."""
    name = folder.name
    for above in folder.resolve().parents[:2]:
        if (above / "config.json").is_file():
            relative = folder.resolve().relative_to(above).parts
            return optional(above / "config.json"), relative[0]
    return {}, folder.parent.name if name.startswith("seed") else name


def write(dictionary: Dictionary, path: Path) -> Path:
    """The folder that eai-sparsify reads with `SparseCoder.load_from_disk`; name it by the module, such as `layers.3`."""
    p = plain(dictionary, "eai-sparsify", ("topk", "groupmax"), kinds=(Dictionary, Transcoder))
    if p.W_dec.shape != p.W_enc.shape:
        raise ValueError("eai-sparsify reads and writes one width; this transcoder reads "
                         f"{p.W_enc.shape[1]} and writes {p.W_dec.shape[1]}.")
    t = {"encoder.weight": p.W_enc, "encoder.bias": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec, "W_skip": p.W_skip}
    write_safetensors(path / WEIGHTS, {name: x.contiguous() for name, x in t.items() if x is not None})
    write_json(path / "cfg.json", {
        "activation": p.activation, "expansion_factor": 32, "normalize_decoder": False, "num_latents": len(p.W_enc), "k": p.k,
        "multi_topk": False, "skip_connection": p.W_skip is not None, "transcode": p.transcoder, "d_in": p.W_enc.shape[1]})
    return path
