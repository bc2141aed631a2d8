"""Gemma Scope (Gemma 2): params.npz, with no configuration; the site is in the path or is the user's to say."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..dictionaries import Dictionary
from ..dictionaries.transcoder import Transcoder
from ..files import write as write_file
from ..network import Network
from . import sites
from .found import Found, plain
from .tensors import tensors

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
REPOSITORY = re.compile(r"gemma-scope-(\w+)-(pt|it)-(res|att|mlp|transcoders)")
SITES = {"res": "blocks.{i}", "att": "blocks.{i}.attn.heads", "mlp": "blocks.{i}.mlp"}


def fits(path: Path) -> bool:
    return path.suffix == ".npz" or (path / "params.npz").is_file()


def read(path: Path, pickle: bool = False, net: Network | None = None) -> Found:
    path = path / "params.npz" if path.is_dir() else path
    t, where = tensors(path), path.resolve().as_posix()
    if set(t) != KEYS:
        raise ValueError(f"{path} holds {', '.join(sorted(t))}; Gemma Scope's files hold {', '.join(sorted(KEYS))}.")
    repository = REPOSITORY.search(where)
    layer = re.search(r"/layer_(\d+)/", where)
    kind, i = repository[3] if repository else "", layer[1] if layer else ""
    embedding = "/embedding/" in where
    found: dict[str, Any] = {"site": SITES[kind].format(i=i) if kind in SITES and i else "embed" if embedding else ""}
    if kind == "transcoders":
        hook = f"blocks.{i}.ln2.hook_normalized"
        found = {"site": sites.from_lens(hook, net), "hook": hook, "target": f"blocks.{i}.mlp", "transcoder": True}
    return Found(W_enc=t["W_enc"].T, b_enc=t["b_enc"], W_dec=t["W_dec"], b_dec=t["b_dec"], center=False,
                 activation="jumprelu", threshold=t["threshold"], scale=None if embedding else 1.0,
                 network=f"google/gemma-2-{repository[1]}{'' if repository[2] == 'pt' else '-it'}" if repository else "",
                 choices={"scale": "whether its inputs already are multiplied by sqrt(d): scale=1.0 for activations at "
                                   f"`embed`, or scale={t['W_enc'].shape[0] ** 0.5:g} for rows of the embedding matrix"},
                 more={"format": "gemma-scope"}, **found)


def write(dictionary: Dictionary, path: Path) -> Path:
    """An npz of float32; where it is put should say its site: layer_<L>/width_<W>/average_l0_<N>/params.npz."""
    p = plain(dictionary, "Gemma Scope", ("relu", "jumprelu"), center=False, kinds=(Dictionary, Transcoder))
    if p.W_skip is not None:
        raise ValueError("Gemma Scope's npz has no skip connection; write gemma-scope-2 or cutaway's own format.")
    repository = REPOSITORY.search(path.resolve().as_posix())
    if p.transcoder and repository and repository[3] == "transcoders":
        raise ValueError(f"transcoders in a folder {repository[0]} are read as what was learned before a norm's gain, and this "
                         f"one reads {dictionary.site or 'an unknown site'}; write it elsewhere, or as gemma-scope-2.")
    threshold = np.zeros(len(p.W_enc), np.float32) if p.threshold is None else p.threshold.numpy()
    arrays = {"W_enc": p.W_enc.T.contiguous().numpy(), "W_dec": p.W_dec.numpy(), "b_enc": p.b_enc.numpy(),
              "b_dec": p.b_dec.numpy(), "threshold": threshold}

    def save(file: Path) -> None:
        with open(file, "wb") as opened:
            _savez(opened, arrays)
    return write_file(path if path.suffix == ".npz" else path / "params.npz", partial(save))


def _savez(file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    np.savez(file, allow_pickle=False, **arrays)
