"""Cutaway's TopK dictionary beside those of eai-sparsify and dictionary-learning, on the same activations.

    python benchmarks/dictionaries_vs_peers.py

The libraries are installed in an environment of their own. All of them train on the same activations of one site in the
same order, with the same width, k, batch and number of tokens; each at its own learning rate and at the best of a sweep on
validation text. All are measured on test text by Cutaway's `evaluate`. What is finished is kept, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_worker import SAMPLE
from safetensors import safe_open
from tqdm.auto import tqdm

import cutaway as cw
from cutaway.data import norm_limit
from cutaway.data.cache import folder as token_folder
from cutaway.dictionaries import Dictionary, Facts, evaluate
from cutaway.dictionaries.parts import TopK
from cutaway.files import write, write_json
from cutaway.metrics import Reconstruction
from cutaway.observe import Sample, activations, observe
from cutaway.train.run import count_of

HERE, CACHE = Path(__file__).parent, token_folder().parent / "benchmarks"
PEERS = {"eai-sparsify": "1.3.3", "dictionary-learning": "0.1.0"}
FACTORS = (0.5, 1, 2, 4, 8)          # of each library's own learning rate; further out while the best is at an end
VALIDATION = 40_000                  # activations by which a learning rate is chosen
SHOWN = {"fvu": "FVU", "loss_recovered_zero": "loss recovered (zero)", "loss_recovered_mean": "loss recovered (mean)",
         "kl": "KL", "dead": "dead"}


@dataclass(frozen=True)
class Contender:
    """A library with settings; rate: its own learning rate; swept_as: whose best rate it takes, if it has no sweep."""

    name: str
    library: str
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


# --- environment, activations -----------------------------------------------------------------------------------------

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
    for split, n in sizes.items():
        path = CACHE / "activations" / f"{key}.{split}.npy"
        if not path.exists():
            write(path, partial(_fill, net=net, site=site, data=data[split], n=n, limit=limit))
    return Harvest(*(CACHE / "activations" / f"{key}.{split}.npy" for split in sizes), limit)


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


# --- training ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Trained:
    """A dictionary, the processor seconds and the versions that made it."""

    dictionary: Dictionary
    folder: Path
    seconds: float
    versions: dict[str, str]
    threads: int


class Workshop:
    """Trains by jobs, several at a time, each in a process of its own; a job that was done before is read again."""

    def __init__(self, net: cw.Network, taken: Harvest, site: str, options: argparse.Namespace, skip: tuple[int, ...]):
        self.taken, self.options = taken, options
        self.facts = Facts(site=site, path=net.site(site).path, network=net.name, max_norm=taken.max_norm, skip_tokens=skip)
        self.python = {"cutaway": Path(sys.executable), **dict.fromkeys(PEERS, environment())}

    def job(self, contender: Contender, rate: float, seed: int) -> dict[str, Any]:
        o = self.options
        return {"library": contender.library, "settings": {**contender.settings, "lr": rate}, "seed": seed, "width": o.width,
                "k": o.k, "batch": o.batch, "steps": o.tokens // o.batch, "d": self.taken.d, "train": str(self.taken.train),
                "validation": str(self.taken.validation)}

    def train(self, job: dict[str, Any]) -> Trained:
        code = source() if job["library"] == "cutaway" else PEERS[job["library"]]
        folder = CACHE / "runs" / digest(job, code)
        if not (folder / "weights.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "job.json", job)
            with open(folder / "log.txt", "w") as log:
                command = [self.python[job["library"]], HERE / "peers_worker.py", folder / "job.json"]
                if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
                    raise RuntimeError(f"{job['library']} did not finish; what it said is in {folder / 'log.txt'}")
        return self.read(folder, job)

    def read(self, folder: Path, job: dict[str, Any]) -> Trained:
        """The dictionary, after a check that it reconstructs as the library itself does."""
        with safe_open(str(folder / "weights.safetensors"), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = file.metadata()
        own = tensors.pop("checked")
        dictionary = Dictionary(job["d"], job["width"], TopK(job["k"]), self.facts).requires_grad_(False)
        dictionary.load_state_dict(tensors)
        x = torch.from_numpy(np.load(job["validation"], mmap_mode="r")[: len(own)].copy())
        off = float((dictionary(x) - own).norm() / own.norm())
        if off > 1e-4:
            raise RuntimeError(f"{folder} is read wrongly: reconstructions differ by {off:.1e} from {job['library']}'s own")
        return Trained(dictionary, folder, float(said["seconds"]), json.loads(said["versions"]), int(said["threads"]))

    def train_all(self, jobs: Iterable[dict[str, Any]], what: str) -> list[Trained]:
        jobs = list(jobs)
        with ThreadPoolExecutor(self.options.jobs) as pool:
            return list(tqdm(pool.map(self.train, jobs), total=len(jobs), desc=what, unit="run"))

    def validation_fvu(self, trained: Trained) -> float:
        x = torch.from_numpy(np.load(self.taken.validation))
        seen = Reconstruction(trained.dictionary.width)
        for part in x.split(2048):
            codes = trained.dictionary.encode(part)
            seen.update(part, trained.dictionary.decode(codes), codes)
        return seen.figures()["fvu"].value

    def sweep(self, contender: Contender) -> dict[float, float]:
        """Validation FVU of the first seed by factor of the learning rate."""
        found: dict[float, float] = {}
        wanted = list(FACTORS)
        while wanted:
            jobs = [self.job(contender, factor * contender.rate, 0) for factor in wanted]
            made = self.train_all(jobs, f"{contender.name}: sweep")
            found.update(zip(wanted, map(self.validation_fvu, made), strict=True))
            best = min(found, key=lambda factor: found[factor])
            wanted = [2 * best] if best == max(found) else [best / 2] if best == min(found) else []
        return found


# --- the table --------------------------------------------------------------------------------------------------------

def measured(net: cw.Network, trained: Trained, data: Any, tokens: int) -> dict[str, Any]:
    """Every figure on test text; kept beside the weights."""
    path = trained.folder / f"figures-{digest(data.fingerprint, tokens)}.json"
    if not path.exists():
        write_json(path, {name: figure.json() for name, figure in evaluate(net, trained.dictionary, data, tokens).items()})
    return {**json.loads(path.read_text()), "seconds": trained.seconds}


def spread(values: list[float], form: Callable[[float], str] = "{:.4f}".format) -> str:
    return f"{form(float(np.mean(values)))} ({form(min(values))} to {form(max(values))})"


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each library and learning rate: mean, least and greatest over seeds."""
    head = ["library", "learning rate", *SHOWN.values(), "CPU s a run"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        seeds = row["seeds"]
        cells = [spread([seed[name]["value"] for seed in seeds]) for name in SHOWN]
        seconds = spread([seed["seconds"] for seed in seeds], "{:.0f}".format)
        lines.append([row["name"], f"{row['rate']:.2g} ({row['which']})", *cells, seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(options: argparse.Namespace) -> None:
    net = cw.open(options.model)
    site, test = options.site, cw.stdlib(net, "test")
    print(f"{net}, {site}: {options.tokens:,} tokens, width {options.width:,}, k {options.k}, batch {options.batch:,}")
    shop = Workshop(net, harvest(net, site, options.tokens), site, options, test.special_ids)
    everyone = contenders(options.width, options.tokens // options.batch, options.tokens)
    sweeps = {c.name: shop.sweep(c) for c in everyone if c.swept_as is None}
    rows = []
    for contender in everyone:
        sweep = sweeps[contender.swept_as or contender.name]
        best = min(sweep, key=lambda factor: sweep[factor])
        rates = {"its own": 1.0, f"best, x{best:g}": best} if best != 1 else {"its own, the best": 1.0}
        for which, factor in rates.items():
            made = shop.train_all([shop.job(contender, factor * contender.rate, seed) for seed in range(options.seeds)],
                                  f"{contender.name}, {which}")
            rows.append({"name": contender.name, "which": which, "rate": factor * contender.rate,
                         "settings": contender.settings, "versions": made[0].versions, "threads": made[0].threads,
                         "seeds": [measured(net, one, test, options.evaluate) for one in made]})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    first = rows[0]["seeds"][0]
    command = f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip()
    asked = {name: value for name, value in vars(options).items() if name != "out"}
    facts = {"command": command, **asked, "steps": options.tokens // options.batch, "cutaway": cw.__version__,
             "source": source(), "python": platform.python_version(), "processor": platform.machine(),
             "max_norm": shop.taken.max_norm, "sweeps": sweeps,
             "test": {"data": first["fvu"]["data"], "activations": first["fvu"]["n"], "predictions": first["kl"]["n"]}}
    out = Path(options.out)
    write_json(out / "dictionaries_vs_peers.json", {**facts, "rows": rows})
    versions = {name: v for row in rows for name, v in row["versions"].items()}
    text = (f"# TopK dictionaries of three libraries on the same activations\n\n`{command}`\n\n{net.name}, {site}: "
            f"{options.tokens:,} tokens, width {options.width:,}, k {options.k}, batch {options.batch:,}. Mean (least to "
            f"greatest) over {options.seeds} seeds, on {first['fvu']['n']:,} test activations and {first['kl']['n']:,} "
            f"predictions of {first['fvu']['data']}. {', '.join(f'{n} {v}' for n, v in versions.items())}.\n\n{table(rows)}\n"
            "Validation FVU by learning rate, as a multiple of each library's own:\n\n")
    for name, sweep in sweeps.items():
        text += f"- {name}: {', '.join(f'x{factor:g} {fvu:.4f}' for factor, fvu in sorted(sweep.items()))}\n"
    write(out / "dictionaries_vs_peers.md", lambda part: part.write_text(text, encoding="utf-8"))
    print(f"\n{text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pico", help="a folder, a hub id or a bundled model")
    parser.add_argument("--site", default="blocks.2", help="where the activations are taken")
    parser.add_argument("--tokens", default="1M", type=count_of, help="activations to train each dictionary on")
    parser.add_argument("--width", default=4096, type=int, help="latents")
    parser.add_argument("--k", default=32, type=int, help="latents that fire for each token")
    parser.add_argument("--batch", default=1024, type=int, help="activations a step")
    parser.add_argument("--seeds", default=3, type=int, help="seeds of initialisation and order")
    parser.add_argument("--evaluate", default=50_000, type=int, help="tokens of test text")
    parser.add_argument("--jobs", default=1, type=int, help="trainings at a time")
    parser.add_argument("--out", default=str(HERE / "results"), help="folder for the table")
    main(parser.parse_args())
