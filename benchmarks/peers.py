"""What the benchmarks against other libraries share: the peers and their environment, settings, and activations."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_worker import SAMPLE
from tqdm.auto import tqdm

import cutaway as cw
from cutaway.data import norm_limit
from cutaway.data.cache import folder as token_folder
from cutaway.files import write, write_json
from cutaway.observe import Sample, activations, observe

HERE, CACHE = Path(__file__).parent, token_folder().parent / "benchmarks"
PEERS = {"eai-sparsify": "1.3.3", "dictionary-learning": "0.1.0", "sae-lens": "6.54.12"}
FACTORS = (0.5, 1, 2, 4, 8)          # of each library's own learning rate; further out while the best is at an end
VALIDATION = 40_000                  # activations by which a learning rate is chosen


@dataclass(frozen=True)
class Contender:
    """A package with settings, who takes part.

    package: `cutaway`, or a name on PyPI; rate: its own learning rate; swept_as: whose best rate it takes, if it has no sweep.
    """

    name: str
    package: str
    rate: float
    settings: dict[str, Any]
    swept_as: str | None = None


def contenders(width: int, steps: int, tokens: int) -> list[Contender]:
    """Everyone at the settings that their libraries give them; what had to be chosen is in the README beside this."""
    law = (width / 2**14) ** -0.5
    warmup = {"warmup_steps": min(1000, steps // 20)}
    decay = {"decay_start": int(0.8 * steps), "normalize_activations": True}
    auxk = {"auxk_alpha": 1 / 32, "dead_feature_threshold": int(0.02 * tokens)}
    return [
        Contender("Cutaway", "cutaway", cw.TopK(width).rate, {}),
        Contender("eai-sparsify", "eai-sparsify", 5e-3 * law, {}),
        Contender("eai-sparsify, AuxK 1/32", "eai-sparsify", 5e-3 * law, auxk, swept_as="eai-sparsify"),
        Contender("dictionary-learning", "dictionary-learning", 2e-4 * law, warmup),
        Contender("dictionary-learning, scaled and decayed", "dictionary-learning", 2e-4 * law, warmup | decay)]


def sweep(measure: Callable[[list[float]], list[float]]) -> dict[float, float]:
    """FVU by factor of the learning rate, which `measure` gives for several at a time, until the best is not at an end."""
    found: dict[float, float] = {}
    wanted = list(FACTORS)
    while wanted:
        found.update(zip(wanted, measure(wanted), strict=True))
        best = min(found, key=lambda factor: found[factor])
        wanted = [2 * best] if best == max(found) else [best / 2] if best == min(found) else []
    return found


def environment() -> Path:
    """The peers' Python; made once. torch comes first, so that it is the version that Cutaway is measured with."""
    home = CACHE / "peers"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = [f"torch=={torch.__version__.partition('+')[0]}", *(f"{name}=={v}" for name, v in PEERS.items())]
    if not (home / "ready.json").exists() or json.loads((home / "ready.json").read_text()) != packages:
        print(f"installing {' '.join(packages)} in {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        pip = partial(subprocess.run, check=True)
        pip([python, "-m", "pip", "install", "-q", packages[0]])
        pip([python, "-m", "pip", "install", "-q", *packages])
        pip([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision"])  # made for another torch, it breaks transformers
        write_json(home / "ready.json", packages)
    return python


@dataclass(frozen=True)
class Harvest:
    """Files of activations [n, d] for training and validation, and the norm above which an activation is a sink."""

    train: Path
    validation: Path
    max_norm: float

    @property
    def d(self) -> int:
        return np.load(self.train, mmap_mode="r").shape[1]


def harvest(net: cw.Network, site: str, tokens: int) -> Harvest:
    """Activations without begin tokens and attention sinks, written once."""
    sizes = {"train": tokens, "validation": VALIDATION}
    data = {split: cw.stdlib(net, split) for split in sizes}
    sample = Sample(site, SAMPLE)
    observe(net, data["train"], [sample], seed=0)
    limit = norm_limit(sample.x)
    weights = hashlib.sha256(b"".join(p.detach().float().numpy().tobytes() for p in net.module.parameters())).hexdigest()
    key = digest(weights, site, tokens, *(d.fingerprint for d in data.values()))
    paths = {split: CACHE / "activations" / f"{key}.{split}.npy" for split in sizes}
    for split, path in paths.items():
        if not path.exists():
            write(path, partial(_fill, net=net, site=site, data=data[split], n=sizes[split], limit=limit))
    return Harvest(paths["train"], paths["validation"], limit)


def _fill(path: Path, net: cw.Network, site: str, data: Any, n: int, limit: float) -> None:
    """Write n activations to a file, from as many passes over the data as it takes."""
    kept = (seen.kept(site, limit).float().cpu().numpy()
            for epoch in count() for seen in activations(net, data, [site], seed=epoch))
    first = next(kept)
    with open(path, "wb") as file, tqdm(total=n, unit="tok", unit_scale=True, desc=f"activations, {data.name}") as bar:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (n, first.shape[1])})
        for x in chain([first], kept):
            x = x[: n - bar.n]
            file.write(x.tobytes())
            bar.update(len(x))
            if bar.n == n:
                break


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def source() -> str:
    """A hash of the code that trains Cutaway's dictionaries, so that runs of older code are not taken for this one's."""
    root = Path(cw.__file__).parent
    files = sorted(path for part in ("dictionaries", "kernels", "train") for path in (root / part).glob("*.py"))
    return digest([path.read_text() for path in files])


