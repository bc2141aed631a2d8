"""Cutaway's TopK dictionary beside those of eai-sparsify and dictionary-learning, on the same activations.

    python benchmarks/dictionaries_vs_peers.py

The libraries are installed in an environment of their own. All of them train on the same activations of one site in the
same order, with the same width, k, batch and number of tokens; each at its own learning rate and at the best of a sweep on
validation text. All are measured on test text by Cutaway's `evaluate`. What is finished is kept, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import CACHE, HERE, PEERS, Contender, Harvest, contenders, digest, environment, harvest, source, sweep
from safetensors import safe_open
from tqdm.auto import tqdm

import cutaway as cw
from cutaway.counts import count_of
from cutaway.dictionaries import Dictionary, Facts, evaluate
from cutaway.dictionaries.parts import TopK
from cutaway.files import write, write_json
from cutaway.metrics import Reconstruction

SHOWN = {"fvu": "FVU", "loss_recovered_zero": "loss recovered (zero)", "loss_recovered_mean": "loss recovered (mean)",
         "kl": "KL", "dead": "dead"}


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
        return {"library": contender.package, "settings": {**contender.settings, "lr": rate}, "seed": seed, "width": o.width,
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
        def measure(factors: list[float]) -> list[float]:
            jobs = [self.job(contender, factor * contender.rate, 0) for factor in factors]
            return [self.validation_fvu(made) for made in self.train_all(jobs, f"{contender.name}: sweep")]

        return sweep(measure)


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
    rows: list[dict[str, Any]] = []
    for contender in everyone:
        found = sweeps[contender.swept_as or contender.name]
        best = min(found, key=lambda factor: found[factor])
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
    facts: dict[str, Any] = {"command": command, **asked, "steps": options.tokens // options.batch, "cutaway": cw.__version__,
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
    for name, found in sweeps.items():
        text += f"- {name}: {', '.join(f'x{factor:g} {fvu:.4f}' for factor, fvu in sorted(found.items()))}\n"
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
