"""Trains one dictionary with one library, in that library's own environment: `python peers_worker.py job.json`.

The job names the library, the activations and where to write. What comes out is one safetensors file with W_enc and W_dec
[width, d], b_enc [width] and b_dec [d], read as codes = relu(topk(W_enc (x - b_dec) + b_enc)) and reconstruction =
codes W_dec + b_dec; and, so that this reading can be checked, the library's own reconstruction of the first validation
activations. The libraries' own trainers run here, unchanged.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CHECKED = 256    # activations that both sides reconstruct
SAMPLE = 16_384  # activations from which Cutaway's dictionaries begin, as in `cutaway.learn`
Trained = tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]


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


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Seconds of processor time of this process."""
    began = time.process_time()
    yield
    seconds.append(time.process_time() - began)


def cutaway(job: dict[str, Any], batches: Batches, folder: Path, seconds: list[float]) -> Trained:
    """The step that `cutaway.learn` takes, on batches from the file."""
    from itertools import islice

    from cutaway.dictionaries import Facts, TopK
    from cutaway.train.learner import Learner
    sample = torch.cat(list(islice(batches, -(-SAMPLE // job["batch"]))))
    with timed(seconds):
        learner = Learner(TopK(job["width"], job["k"], **job["settings"]), sample, job["steps"], job["batch"], job["seed"])
        for x in batches:
            learner.step(x)
    made = learner.export(Facts())
    return made.state_dict(), made


def sparsify_trainer(job: dict[str, Any], stream: Iterator[Tensor], folder: str | Path) -> Any:
    """eai-sparsify's Trainer, shown a network whose only module gives the next activations of a stream."""
    from sparsify import SparseCoderConfig, TrainConfig, Trainer

    class Source(nn.Module):
        """What the Trainer needs of a language model; a row of token ids stands for one batch of activations."""

        def __init__(self) -> None:
            super().__init__()
            self.site, self.unused = nn.Identity(), nn.Parameter(torch.zeros(1))
            self.device, self.dummy_inputs = torch.device("cpu"), {"input_ids": torch.zeros(1, 1)}

        @property
        def base_model(self) -> nn.Module:
            return self

        def forward(self, input_ids: Tensor) -> None:
            self.site(next(stream)[None] if input_ids.shape[1] == job["batch"] else torch.zeros(1, 1, job["d"]))

    rows = [{"input_ids": torch.zeros(job["batch"], dtype=torch.int64)}] * job["steps"]
    config = TrainConfig(
        SparseCoderConfig(num_latents=job["width"], k=job["k"]), batch_size=1, hookpoints=["site"], init_seeds=[job["seed"]],
        log_to_wandb=False, save_dir=str(folder), run_name="sparsify", **job["settings"])
    return Trainer(config, rows, Source())


def sparsify(job: dict[str, Any], batches: Batches, folder: Path, seconds: list[float]) -> Trained:
    """eai-sparsify: its Trainer."""
    from sparsify import SparseCoder
    trainer = sparsify_trainer(job, iter(batches), folder)
    with timed(seconds):
        trainer.fit()
    made = SparseCoder.load_from_disk(folder / "sparsify" / "site")
    weights = {"W_enc": made.encoder.weight, "b_enc": made.encoder.bias, "W_dec": made.W_dec, "b_dec": made.b_dec}
    return weights, lambda x: made(x).sae_out


def dictionary_learning(job: dict[str, Any], batches: Batches, folder: Path, seconds: list[float]) -> Trained:
    """dictionary-learning: its trainSAE with the TopK trainer."""
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    settings = dict(job["settings"])
    normalize = settings.pop("normalize_activations", False)
    trainer = dict(trainer=TopKTrainer, steps=job["steps"], activation_dim=job["d"], dict_size=job["width"], k=job["k"],
                   layer=0, lm_name="", seed=job["seed"], device="cpu", **settings)
    with timed(seconds):
        trainSAE(batches, [trainer], steps=job["steps"], save_dir=str(folder), normalize_activations=normalize, device="cpu")
    made = AutoEncoderTopK.from_pretrained(folder / "trainer_0" / "ae.pt", device="cpu")
    weights = {"W_enc": made.encoder.weight, "b_enc": made.encoder.bias, "W_dec": made.decoder.weight.T, "b_dec": made.b_dec}
    return weights, made


LIBRARIES = {"cutaway": cutaway, "eai-sparsify": sparsify, "dictionary-learning": dictionary_learning}


def main(path: str) -> None:
    from safetensors.torch import save_file
    job = json.loads(Path(path).read_text())
    folder, seconds = Path(path).parent, list[float]()
    batches = Batches(job["train"], job["batch"], job["steps"], job["seed"])
    weights, reconstruct = LIBRARIES[job["library"]](job, batches, folder, seconds)
    x = torch.from_numpy(np.load(job["validation"], mmap_mode="r")[:CHECKED].copy())
    with torch.no_grad():
        tensors = {**weights, "checked": reconstruct(x)}
    packages = ("torch", "numpy", job["library"])
    facts = {"seconds": str(sum(seconds)), "versions": json.dumps({name: version(name) for name in packages}),
             "threads": str(torch.get_num_threads())}
    save_file({name: value.detach().float().contiguous().clone() for name, value in tensors.items()},
              folder / "weights.part", facts)
    os.replace(folder / "weights.part", folder / "weights.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
