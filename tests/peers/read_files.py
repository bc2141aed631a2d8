"""Reads what Cutaway wrote with the libraries themselves: `PYTHON tests/peers/read_files.py folder`.

Each folder `<format>/<case>` holds inputs.safetensors and, in `repository` or beside it, what was written; what the
library makes of it is left as theirs.safetensors. Formats that are of no library are read by sae-lens and circuit-tracer, which
know them, by the functions by which those read what they have downloaded. Nothing of Cutaway is used here.
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


def openai(folder: Path, x: Tensor) -> Made:
    from sparse_autoencoder.model import Autoencoder
    one = Autoencoder.from_state_dict(torch.load(next(folder.rglob("*.pt"))))
    codes, info = one.encode(x)
    return codes, one.decode(codes, info)


def circuit_tracer(folder: Path, x: Tensor) -> Made:
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
    path = next(path for path in folder.rglob("*") if path.name.startswith(("layer_3.", "params.")))
    kind = {".npz": "gemma-scope"}.get(path.suffix, "gemma-scope-2" if path.name.startswith("params.") else None)
    one = load_transcoder_set({0: str(path)}, "", "", "", dtype=torch.float32, lazy_encoder=False, lazy_decoder=False,
                              special_load_fn=kind)[0]
    codes = one.encode(x)
    return codes, one.decode(codes, x)


def cross_layer(folder: Path, x: Tensor) -> Made:
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    one = load_clt(str(folder), dtype=torch.float32, lazy_decoder=False)
    codes = one.encode(x)
    return codes, one.decode(codes)


def known_to_saelens(folder: Path, x: Tensor) -> Made:
    """By the function with which sae-lens reads a repository of this kind, which here is a folder."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.registry import get_sae_class
    from safetensors.torch import load_file
    root, (name, inside, shape) = folder / "repository", json.loads((folder / "repository.json").read_text())

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(root / subfolder / filename)

    loaders.hf_hub_download = local
    loaders.get_safetensors_tensor_shapes = lambda repo_id, filename: {
        key: list(value.shape) for key, value in load_file(root / filename).items()}
    read = {"gemma-scope": loaders.gemma_2_transcoder_huggingface_loader if "transcoders" in name else
            loaders.gemma_2_sae_huggingface_loader, "gemma-scope-2": loaders.gemma_3_sae_huggingface_loader,
            "llama-scope": loaders.llama_scope_sae_huggingface_loader}[folder.parent.name]
    said, weights, _ = read(name, inside, "cpu", False, {"dtype": "float32", **shape})
    said = loaders.handle_config_defaulting(said)
    one = get_sae_class(said["architecture"])[0].from_dict(said)
    one.process_state_dict_for_loading(weights)
    one.load_state_dict(weights)
    return one.encode(x), one(x)


def by_both(folder: Path, x: Tensor) -> Made:
    """What sae-lens makes of a file, after a check that circuit-tracer makes the same of it where it reads such files."""
    codes, made = known_to_saelens(folder, x)
    if "transcoder" in (folder / "repository.json").read_text():
        for ours, theirs in zip((codes, made), circuit_tracer(folder, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    return codes, made


LIBRARIES: dict[str, Callable[[Path, Tensor], Made]] = {
    "saelens": saelens, "sparsify": sparsify, "dictionary-learning": dictionary_learning, "openai": openai,
    "circuit-tracer": circuit_tracer, "cross-layer": cross_layer, "gemma-scope": by_both, "gemma-scope-2": by_both,
    "llama-scope": known_to_saelens}

if __name__ == "__main__":
    with torch.no_grad():
        for path in sorted(Path(sys.argv[1]).glob("*/*/inputs.safetensors")):
            codes, made = LIBRARIES[path.parent.parent.name](path.parent, load_file(path)["x"])
            save_file({"codes": codes.contiguous(), "reconstruction": made.contiguous()}, path.with_name("theirs.safetensors"))
