"""How long the store takes to build, how big it is, and how long it takes to answer, on synthetic codes.

    python benchmarks/store_reads.py                                # 2M tokens x 64 latents: 128M firings
    python benchmarks/store_reads.py --tokens 10M                   # a tenth of 100M tokens x 64 latents
    python benchmarks/store_reads.py --tokens 200k --width 100000   # a table of 100,000 features

The codes are bursty and Zipf-distributed: each row of 256 tokens draws its own latents, a few of them everywhere and most of
them hardly ever, and each token fires k of these. Token ids are Zipf-distributed ids of the bundled model, whose text and
unembedding the pages show. The store is built in a process of its own, whose memory is watched; queries are of features drawn
at random from those that fire, all in one process and one thread, with files in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cutaway as cw
from cutaway.counts import count_of
from cutaway.dictionaries import Dictionary, Facts
from cutaway.dictionaries.parts import TopK
from cutaway.files import write, write_json
from cutaway.store.build import build_from
from cutaway.store.coded import Coded, Source
from cutaway.store.identity import of_dictionary

HERE, LENGTH, ROWS = Path(__file__).parent, 256, 256     # positions in a row, rows in a chunk


def source(dictionary: Dictionary, tokens: int, k: int, seed: int) -> Source:
    """Synthetic codes, the same from any row on."""
    n_rows, width = -(-tokens // LENGTH), dictionary.width
    weights = 1 / np.arange(1, width + 1) ** 0.9
    edges = np.cumsum(weights / weights.sum())
    names = np.random.default_rng(seed).permutation(width)
    words = np.cumsum(1 / np.arange(1, 4095))
    heights = np.random.default_rng(seed + 1).gamma(2.0, 3.0, width).astype(np.float32)

    def chunk(first: int) -> Coded:
        rng = np.random.default_rng([seed, first])
        rows = min(ROWS, n_rows - first)
        latents = np.empty((rows, LENGTH, k), np.int64)
        for row in range(rows):
            pool = np.unique(names[np.searchsorted(edges, rng.random(12 * k)).clip(max=width - 1)])
            pool = rng.permutation(pool)
            latents[row] = pool[(rng.integers(0, len(pool), LENGTH)[:, None] + np.arange(k)) % len(pool)]
        activations = heights[latents] * rng.standard_exponential(latents.shape, np.float32) + np.float32(0.01)
        ids = 2 + np.searchsorted(words, rng.random((rows, LENGTH)) * words[-1])
        keep = np.ones((rows, LENGTH), bool)
        keep[:, 0] = False
        kept = np.repeat(keep.ravel(), k)
        documents = np.broadcast_to(np.arange(first, first + rows)[:, None] // 8, (rows, LENGTH))
        places = np.repeat(np.arange(rows * LENGTH), k)
        return Coded(keep, places[kept], latents.ravel()[kept], activations.ravel()[kept], documents, ids)

    def chunks(start: int) -> Iterator[Coded]:
        return (chunk(first) for first in range(start, n_rows, ROWS))

    identity = {"network": {"name": "pico", "fingerprint": "none: the codes are synthetic"},
                "dictionary": {"key": "synthetic", "site": "blocks.2", "width": width, "d": dictionary.d,
                               "fingerprint": of_dictionary(dictionary)},
                "data": {"name": f"synthetic, {tokens:,} tokens x {k}", "fingerprint": f"{tokens}-{k}-{seed}"}, "seed": seed}
    return Source(identity, n_rows, LENGTH, ROWS, 4096, chunks)


def dictionary_of(width: int) -> Dictionary:
    """A random dictionary; its width is all that matters."""
    made = Dictionary(256, width, TopK(64), Facts(site="blocks.2"))
    generator = torch.Generator().manual_seed(0)
    made.W_dec.data = torch.nn.functional.normalize(torch.randn(width, 256, generator=generator), dim=1)
    made.W_enc.data = made.W_dec.data.clone()
    return made.requires_grad_(False)


class Memory:
    """The most memory of this process that is not a file's, in bytes, watched by a thread."""

    def __init__(self) -> None:
        self.base = self.most = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._now())
            time.sleep(0.02)


def build(folder: Path, tokens: int, k: int, width: int) -> None:
    """Build the store and print seconds and memory as JSON; run in a process of its own."""
    net, dictionary = cw.open("pico"), dictionary_of(width)
    made, making = source(dictionary, tokens, k, 0), [0.0, 0.0]

    def chunks(start: int) -> Iterator[Coded]:
        """The same chunks, with the time that it takes to make them kept apart."""
        each = made.chunks(start)
        while True:
            began, worked = time.perf_counter(), time.process_time()
            coded = next(each, None)
            making[0] += time.perf_counter() - began
            making[1] += time.process_time() - worked
            if coded is None:
                return
            yield coded

    memory, began, worked = Memory(), time.perf_counter(), time.process_time()
    build_from(folder, replace(made, chunks=chunks), dictionary, net)
    print(json.dumps({"seconds": time.perf_counter() - began - making[0], "processor": time.process_time() - worked - making[1],
                      "making": making[0], "base": memory.base, "most": memory.most}))


def timed(ask: Callable[[Any], Any], about: list[Any]) -> dict[str, float]:
    """Milliseconds of a query about one thing after another, after one that is not counted; `processor`: of all threads."""
    ask(about[0])
    found, busy = [], []
    for one in about:
        began, worked = time.perf_counter(), time.process_time()
        ask(one)
        found.append(1e3 * (time.perf_counter() - began))
        busy.append(1e3 * (time.process_time() - worked))
    return {"median": float(np.median(found)), "p95": float(np.quantile(found, 0.95)), "most": max(found),
            "processor": float(np.median(busy)), "n": len(found)}


def queries(store: cw.FeatureStore, n: int) -> dict[str, dict[str, float]]:
    """What people and pages ask."""
    rng = np.random.default_rng(1)
    alive = np.flatnonzero(store.counts > 0)
    some = rng.choice(alive, n).tolist()
    often = rng.choice(len(store.counts), n, p=store.counts / store.counts.sum()).tolist()
    rows = rng.integers(0, store.manifest["n_rows"], n).tolist()

    def interval(i: int) -> Any:
        top = store.summary(i)["max"]
        return store.interval(i, 0.3 * top, 0.4 * top)
    return {
        "a feature's page, 80 contexts of 41 tokens, as JSON": timed(lambda i: json.dumps(store.page(i)), some),
        "the same, features drawn by how often they fire": timed(lambda i: json.dumps(store.page(i)), often),
        "all firings of a feature": timed(store.postings, some),
        "all firings, features drawn by how often they fire": timed(store.postings, often),
        "20 contexts from an interval of activations": timed(interval, some),
        "exact co-activation of two features": timed(lambda i: store.coactivation(i, some[0]), some[:50]),
        "the features of a token": timed(lambda row: store.at(row, 17), rows),
        "a row with the strongest feature of each token": timed(store.row, rows),
        "the features of a document": timed(lambda row: store.document(row // 8), rows[:30]),
        "features by token": timed(lambda i: store.by_token(2 + i % 500), list(range(30))),
        "features by direction": timed(lambda i: store.by_direction(store.dictionary.W_dec[i]), some[:30]),
        "the table: sort, first 50": timed(lambda sort: store.features(sort), ["max", "energy", "frequency", "documents"] * 5),
        "the table: filter, sort, search a token": timed(
            lambda text: store.features("max", where={"frequency": (1e-6, 0.1)}, search=text), ["def", "self"] * 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="2M")
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--width", type=int, default=32_768)
    parser.add_argument("--n", type=int, default=300, help="how many queries of the commonest kinds")
    parser.add_argument("--folder", type=Path, help="where to build; left out, a folder that goes when it is measured")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    tokens = count_of(given.tokens)
    if given.build:
        build(given.folder, tokens, given.k, given.width)
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="store-"))
    command = [sys.executable, __file__, "--build", "--tokens", str(tokens), "--k", str(given.k), "--width", str(given.width),
               "--folder", str(folder)]
    try:
        built = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        began = time.perf_counter()
        store = cw.FeatureStore(folder)
        store.page(0)
        opened = time.perf_counter() - began
        facts, name = store.overview(), f"store_reads_{given.tokens}_k{given.k}_w{given.width}"
        sizes = {name: entry["bytes"] for name, entry in store.manifest["files"].items()}
        found = {"tokens": facts["n_tokens"], "firings": facts["n_entries"], "width": given.width, "k": given.k,
                 "build": built, "parts": store.manifest["seconds"], "first_page_seconds": opened,
                 "bytes": {"by latent": sum(n for file, n in sizes.items() if file.startswith("latents/")),
                           "by position": sum(n for file, n in sizes.items() if file.startswith("token_")),
                           "whole": facts["bytes"]}, "queries_ms": queries(store, given.n),
                 "cpus": os.cpu_count(), "load": os.getloadavg()[0],
                 "machine": platform.processor() or platform.machine(), "versions": facts["versions"]}
        write_json(HERE / "results" / f"{name}.json", found)
        page = table(found)
        write(HERE / "results" / f"{name}.md", lambda part: part.write_text(page, encoding="utf-8"))
        print(page)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    n, build = found["firings"], found["build"]
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in found["parts"].items())
    lines = [f"{found['tokens']:,} tokens, {n / 1e6:.0f}M firings, {found['width']:,} latents, {found['cpus']} CPUs (load "
             f"{found['load']:.1f} at the end: other work ran beside it when this is above 1).", "",
             "| what | figure |", "|---|---|",
             f"| seconds to build, without making the codes | {build['seconds']:.0f} ({parts}; making them is "
             f"{build['making']:.0f} of the first) |",
             f"| seconds of the processor for the same | {build['processor']:.0f} |",
             f"| firings for each second of the processor | {n / build['processor'] / 1e6:.1f}M |",
             f"| most memory while building, above what was there before | {(build['most'] - build['base']) / 2**20:,.0f} MB |",
             f"| bytes a firing, sorted by latent | {found['bytes']['by latent'] / n:.2f} |",
             f"| bytes a firing, by position | {found['bytes']['by position'] / n:.2f} |",
             f"| the whole store | {found['bytes']['whole'] / 1e6:,.0f} MB |",
             f"| seconds to open it and make the first page | {found['first_page_seconds']:.2f} |", "",
             "| query | median ms | 95th percentile | most | processor ms, median | n |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {q['median']:.1f} | {q['p95']:.1f} | {q['most']:.1f} | {q['processor']:.1f} | {q['n']} |"
              for name, q in found["queries_ms"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
