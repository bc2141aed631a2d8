"""Trains one dictionary with another library, in that library's own environment.

    python peers_worker.py job.json

The job names the library, the activations and where to write. What comes out is one safetensors file with W_enc and W_dec
[width, d], b_enc [width] and b_dec [d], in the convention codes = topk(relu(W_enc (x - b_dec) + b_enc)),
reconstruction = codes W_dec + b_dec; and, so that this reading can be checked, the library's own reconstruction of the
first rows of the validation activations. Both libraries' own trainers run here, unchanged.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CHECKED = 256  # activations that both sides reconstruct


@dataclass(frozen=True)
class Batches:
    """Activations [n, d] from a file in the order of a seed, `batch` at a time; every library reads exactly these."""

    path: str
    batch: int
    steps: int
    seed: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        x = np.load(self.path, mmap_mode="r")
        order = np.random.default_rng(self.seed).permutation(len(x))[: self.steps * self.batch]
        return (torch.from_numpy(x[chosen]) for chosen in order.reshape(self.steps, self.batch))


def sparsify(job: dict[str, Any], batches: Batches, folder: Path) -> tuple[dict[str, Tensor], Any, float]:
    """eai-sparsify: its Trainer, shown a network whose only module gives the next activations."""
    from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer

    class Source(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.site = nn.Identity()
            self.anchor = nn.Parameter(torch.zeros(job["d"]), requires_grad=False)
            self.base_model, self.device = self.site, torch.device("cpu")
            self.dummy_inputs = {"input_ids": torch.zeros(1, 1)}

        def forward(self, input_ids: Tensor) -> None:
            self.site(next(self.stream)[None] if input_ids.numel() == job["batch"] else self.anchor[None, None])

    source = Source()
    source.base_model = source
    source.stream = iter(batches)
    rows = [{"input_ids": torch.zeros(job["batch"], dtype=torch.int64)}] * job["steps"]
    settings = TrainConfig(
        SparseCoderConfig(num_latents=job["width"], k=job["k"]), batch_size=1, hookpoints=["site"], init_seeds=[job["seed"]],
        log_to_wandb=False, save_dir=str(folder), run_name="run", **job["settings"])
    trainer = Trainer(settings, rows, source)
    began = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - began
    made = SparseCoder.load_from_disk(folder / "run" / "site")
    weights = {"W_enc": made.encoder.weight, "b_enc": made.encoder.bias, "W_dec": made.W_dec, "b_dec": made.b_dec}
    return weights, lambda x: made(x).sae_out, seconds


def dictionary_learning(job: dict[str, Any], batches: Batches, folder: Path) -> tuple[dict[str, Tensor], Any, float]:
    """dictionary-learning: its trainSAE with the TopK trainer."""
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    settings = dict(job["settings"])
    normalize = settings.pop("normalize_activations", False)
    trainer = dict(trainer=TopKTrainer, steps=job["steps"], activation_dim=job["d"], dict_size=job["width"], k=job["k"],
                   layer=0, lm_name="", seed=job["seed"], device="cpu", **settings)
    began = time.perf_counter()
    trainSAE(batches, [trainer], steps=job["steps"], save_dir=str(folder), normalize_activations=normalize, device="cpu")
    seconds = time.perf_counter() - began
    made = AutoEncoderTopK.from_pretrained(folder / "trainer_0" / "ae.pt", device="cpu")
    weights = {"W_enc": made.encoder.weight, "b_enc": made.encoder.bias, "W_dec": made.decoder.weight.T, "b_dec": made.b_dec}
    return weights, made, seconds


LIBRARIES = {"eai-sparsify": sparsify, "dictionary-learning": dictionary_learning}


def main(path: str) -> None:
    from safetensors.torch import save_file
    job = json.loads(Path(path).read_text())
    folder = Path(job["out"])
    batches = Batches(job["train"], job["batch"], job["steps"], job["seed"])
    weights, reconstruct, seconds = LIBRARIES[job["library"]](job, batches, folder)
    x = torch.from_numpy(np.array(np.load(job["validation"], mmap_mode="r")[:CHECKED]))
    with torch.no_grad():
        checked = reconstruct(x)
    tensors = {**weights, "checked": checked}
    save_file({name: value.detach().float().contiguous().clone() for name, value in tensors.items()},
              folder / "weights.safetensors", {"seconds": str(seconds)})


if __name__ == "__main__":
    main(sys.argv[1])
