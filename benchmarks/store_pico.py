"""From a trained dictionary to a served page of any of its features: what that costs beside the forward pass itself.

    python benchmarks/store_pico.py                     # 2M tokens of the standard library, TopK of width 4,096 at blocks.2
    python benchmarks/store_pico.py --tokens 100k       # a small one

Three things are timed on the same tokens, one after the other, each in a process of its own. `forward`: the bundled model
runs over all of the text up to the dictionary's site, and nothing is done with what it computes. `store`: the command `cutaway
store`, from its start to its end, loading included. `serve`: the command `cutaway serve`, from its start until the first page
of a feature drawn at random is there; then pages of other features, one after another. The dictionary is learned before, which
is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cutaway.counts import count_of
from cutaway.files import write, write_json

HERE, PAGES, SITE = Path(__file__).parent, 50, "blocks.2"
COMMAND = [sys.executable, "-c", "from cutaway.cli import main; main()"]
LIMIT = 180.0      # seconds above the forward pass that are allowed


def forward(tokens: int) -> None:
    """Run the network over the text as a store does, and print the seconds of it alone; in a process of its own."""
    import cutaway as cw
    from cutaway.observe import activations
    from cutaway.store.coded import BATCH
    net = cw.open("pico")
    data = cw.stdlib(net).take(tokens)
    began = time.perf_counter()
    rows = sum(len(seen.batch.rows) for seen in activations(net, data, [SITE], BATCH))
    print(json.dumps({"seconds": time.perf_counter() - began, "rows": rows, "tokens": rows * data.row_tokens}))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def served(run: Path) -> dict[str, Any]:
    """Serve a run; seconds until the first page of a feature, and milliseconds of further ones."""
    began = time.perf_counter()
    server = subprocess.Popen([*COMMAND, "serve", str(run), "--port", "0", "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        address = None
        while address is None:
            line = server.stdout.readline() if server.stdout else ""
            if not line:
                raise RuntimeError("the server ended before it said where it listens.")
            address = re.search(r"http://[0-9.]+:\d+", line)

        def page(latent: int) -> int:
            with urllib.request.urlopen(f"{address[0]}/d/{SITE}/f/{latent}", timeout=60) as reply:
                return len(reply.read())
        import cutaway as cw
        store = cw.FeatureStore(cw.stores(run)[SITE])
        some = np.random.default_rng(0).permutation(np.flatnonzero(store.counts > 0))[:PAGES + 1].tolist()
        looked = time.perf_counter()
        store.close()
        page(some[0])
        first = time.perf_counter() - began
        each = [1e3 * timed(lambda latent=latent: page(latent))[0] for latent in some[1:]]
        return {"first_page_seconds": first, "choosing_seconds": looked - began, "page_ms_median": float(np.median(each)),
                "page_ms_p95": float(np.quantile(each, 0.95)), "pages": len(each)}
    finally:
        server.terminate()
        server.wait(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="2M")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--learn", default="300k", help="tokens that the dictionary learns from, which is not timed")
    parser.add_argument("--forward", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    tokens = count_of(given.tokens)
    if given.forward:
        forward(tokens)
        return
    folder = Path(tempfile.mkdtemp(prefix="store-pico-"))
    run = folder / "run"
    try:
        subprocess.run([*COMMAND, "learn", "pico", "--site", SITE, "--set", f"width={given.width}", f"k={given.k}", "--tokens",
                        given.learn, "--out", str(run)], check=True, stdout=subprocess.DEVNULL)
        own = [sys.executable, __file__, "--forward", "--tokens", str(tokens)]
        process, printed = timed(lambda: subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout)
        plain = json.loads(printed.splitlines()[-1])
        stored, _ = timed(lambda: subprocess.run([*COMMAND, "store", str(run), "--tokens", str(tokens)], check=True,
                                                 stdout=subprocess.DEVNULL))
        manifest = json.loads((run / "store" / SITE / "manifest.json").read_text())
        pages = served(run)
        above = stored + pages["first_page_seconds"] - plain["seconds"]
        found = {"tokens": manifest["n_tokens"], "firings": manifest["n_entries"], "width": given.width, "k": given.k,
                 "site": SITE, "forward_seconds": plain["seconds"], "forward_process_seconds": process, "store_seconds": stored,
                 "parts": manifest["seconds"], **pages, "seconds_above_the_forward_pass": above, "limit": LIMIT,
                 "holds": above <= LIMIT, "threads": os.environ.get("OMP_NUM_THREADS", "all"), "cpus": os.cpu_count(),
                 "load": os.getloadavg()[0], "machine": platform.processor() or platform.machine(),
                 "versions": manifest["versions"]}
        name = f"store_pico_{given.tokens}"
        write_json(HERE / "results" / f"{name}.json", found)
        text = table(found)
        write(HERE / "results" / f"{name}.md", lambda part: part.write_text(text, encoding="utf-8"))
        print(text)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["parts"].items())
    lines = [f"pico, {found['site']}, TopK of width {found['width']:,} with k {found['k']}; {found['tokens']:,} tokens that "
             f"count, {found['firings']:,} firings; {found['cpus']} CPUs, threads {found['threads']} (load {found['load']:.1f} "
             "at the end: other work ran beside it when this is above what one process makes).", "",
             "| what | seconds |", "|---|---|",
             f"| a plain forward pass up to the site | {found['forward_seconds']:.1f} |",
             f"| `cutaway store`, all of it | {found['store_seconds']:.1f} ({parts}) |",
             f"| `cutaway serve`, until the first feature's page is there | {found['first_page_seconds']:.1f} |",
             f"| from the dictionary to the page, above the forward pass | {found['seconds_above_the_forward_pass']:.1f} "
             f"(limit {found['limit']:.0f}) |",
             f"| a further page | {found['page_ms_median'] / 1e3:.4f} median, {found['page_ms_p95'] / 1e3:.4f} at the 95th "
             f"percentile of {found['pages']} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
