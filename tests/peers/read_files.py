"""Reads what Cutaway wrote with the libraries themselves: `PYTHON tests/peers/read_files.py folder`.

Each folder `<library>/<case>` holds inputs.safetensors; what the library makes of them is left as theirs.safetensors.
Nothing of Cutaway is used here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Made = tuple[Tensor, Tensor]   # codes [n, width], reconstructions [n, d_out]


def saelens(folder: Path, x: Tensor) -> Made:
    from sae_lens import SAE
    one = SAE.load_from_disk(folder)
    return one.encode(x), one(x)


def sparsify(folder: Path, x: Tensor) -> Made:
    from sparsify import SparseCoder
    one = SparseCoder.load_from_disk(folder)
    made = one(x)
    return torch.zeros(len(x), one.num_latents).scatter(-1, made.latent_indices, made.latent_acts), made.sae_out


def dictionary_learning(folder: Path, x: Tensor) -> Made:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import top_k
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    made = getattr(dictionary, name, None) or getattr(top_k, name)
    settings: dict[str, Any] = {"normalize_decoder": False} if name == "AutoEncoder" else {}
    one = made.from_pretrained(folder / "ae.pt", **settings)
    return one.encode(x), one(x)


LIBRARIES: dict[str, Callable[[Path, Tensor], Made]] = {
    "saelens": saelens, "sparsify": sparsify, "dictionary-learning": dictionary_learning}

if __name__ == "__main__":
    with torch.no_grad():
        for path in sorted(Path(sys.argv[1]).glob("*/*/inputs.safetensors")):
            codes, made = LIBRARIES[path.parent.parent.name](path.parent, load_file(path)["x"])
            save_file({"codes": codes.contiguous(), "reconstruction": made.contiguous()}, path.with_name("theirs.safetensors"))
