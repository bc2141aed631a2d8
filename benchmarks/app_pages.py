"""How fast the app answers: one reader after another, and 200 readers at once.

    python benchmarks/app_pages.py STORE                       # a folder that `cutaway store` or store_reads.py wrote
    python benchmarks/app_pages.py STORE --seconds 60 --readers 200

The server is `cutaway serve` in a process of its own. First one reader asks for pages one after the other, over one
connection with gzip. Then each of the readers opens a page, reads for a while (1 to 9 seconds, evenly drawn), and opens the
next: of ten pages seven are features, one the table sorted by another column, one a search in it, one more contexts. A page's
time is from the request to its last byte.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

import cutaway as cw
from cutaway.files import write_json

HERE = Path(__file__).parent
SORTS = ("max", "mean", "energy", "documents", "latent")
SEARCHES = ("self", "def", "return", "import", "class")


class Reader:
    """One connection that is kept open. `ask` gives the status, the seconds and the bytes of an answer as sent."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self.pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str) -> tuple[int, float, int]:
        began = time.perf_counter()
        if self.pipe is None:
            self.pipe = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.pipe
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAccept-Encoding: gzip\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"content-length: (\d+)", head)
        size = len(await reader.readexactly(int(length[1]))) if length else await self._pieces(reader)
        if "connection: close" in head:
            writer.close()
            self.pipe = None
        return int(head.split(" ")[1]), time.perf_counter() - began, size

    @staticmethod
    async def _pieces(reader: asyncio.StreamReader) -> int:
        """The length of a body that comes in chunks."""
        total = 0
        while n := int((await reader.readline()).strip(), 16):
            total += len(await reader.readexactly(n))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return total


def pages(slug: str, latents: list[int], random_: random.Random) -> str:
    """The address of a page that somebody opens next."""
    kind = random_.randrange(10)
    at = f"/d/{quote(slug)}/"
    if kind < 7:
        return f"{at}f/{random_.choice(latents)}"
    if kind == 7:
        return f"{at}?sort={random_.choice(SORTS)}&page={random_.randint(1, 20)}"
    if kind == 8:
        return f"{at}?q={random_.choice(SEARCHES)}"
    return f"{at}f/{random_.choice(latents)}/contexts?kind=quantiles&skip=10"


def told(times: list[float]) -> dict[str, float]:
    return {"median": 1e3 * float(np.median(times)), "p95": 1e3 * float(np.quantile(times, 0.95)), "most": 1e3 * max(times),
            "n": len(times)}


async def alone(host: str, port: int, paths: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Each kind of page by one reader, after one of its kind that is not counted."""
    reader, found = Reader(host, port), {}
    for name, some in paths.items():
        await reader.ask(some[0])
        answers = [await reader.ask(path) for path in some]
        wrong = [status for status, _, _ in answers if status != 200]
        if wrong:
            raise RuntimeError(f"{name} was answered with {wrong[0]}")
        sizes = [size for *_, size in answers]
        found[name] = {**told([seconds for _, seconds, _ in answers]), "bytes": float(np.median(sizes)),
                       "most_bytes": max(sizes)}
    return found


async def together(host: str, port: int, slug: str, latents: list[int], readers: int, seconds: float) -> dict[str, Any]:
    """Many readers for a while."""
    times, errors, end = list[float](), Counter[str](), time.perf_counter() + seconds

    async def read(number: int) -> None:
        random_, reader = random.Random(number), Reader(host, port)
        await asyncio.sleep(random_.uniform(0, 5))
        while time.perf_counter() < end:
            try:
                status, took, _ = await asyncio.wait_for(reader.ask(pages(slug, latents, random_)), 30)
                times.append(took)
                if status != 200:
                    errors[str(status)] += 1
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                errors[type(error).__name__] += 1
                reader.pipe = None
            await asyncio.sleep(random_.uniform(1, 9))

    await asyncio.gather(*(read(number) for number in range(readers)))
    return {**told(times), "errors": errors.total(), "kinds": dict(errors), "over_a_second": sum(took > 1 for took in times),
            "readers": readers, "seconds": seconds, "pages_a_second": len(times) / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--n", type=int, default=300)
    given = parser.parse_args()
    with cw.FeatureStore(given.store) as store:
        alive = np.flatnonzero(store.counts > 0)
        slug, facts = store.manifest["dictionary"]["key"], store.overview()
        rng = np.random.default_rng(0)
        latents = rng.choice(alive, given.n).tolist()
        often = rng.choice(store.width, given.n, p=store.counts / store.counts.sum()).tolist()
    at = f"/d/{quote(slug)}/"
    server = subprocess.Popen([sys.executable, "-c", "from cutaway.cli import main; main()", "serve", str(given.store),
                               "--port", "0", "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        host, port = re.match(r"http://([\d.]+):(\d+)/", server.stdout.readline()).groups()  # type: ignore[union-attr]
        found = asyncio.run(alone(host, int(port), {
            "a feature's page": [f"{at}f/{i}" for i in latents],
            "a feature's page, drawn by how often they fire": [f"{at}f/{i}" for i in often],
            "the table, sorted": [f"{at}?sort={sort}&page={page}" for sort in SORTS for page in (1, 7)],
            "the table, filtered": [f"{at}?sort=max&low=0.00001&high={high}" for high in (0.1, 0.01, 0.001)] * 3,
            "the table, searched": [f"{at}?q={word}" for word in SEARCHES] * 2,
            "the overview": ["/"] * 5, "the map": [f"{at}map"] * 3}))
        crowd = asyncio.run(together(host, int(port), slug, latents, given.readers, given.seconds))
    finally:
        server.terminate()
        server.wait(timeout=30)
    result = {"width": facts["width"], "firings": facts["n_entries"], "tokens": facts["n_tokens"], "alone_ms": found,
              "together": crowd, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    write_json(HERE / "results" / f"app_pages_w{facts['width']}_{facts['n_entries'] // 10**6}M.json", result)
    print(f"{facts['width']:,} features, {facts['n_entries']:,} firings, load of the machine {os.getloadavg()[0]:.1f}")
    for name, q in found.items():
        print(f"{name}: median {q['median']:.1f} ms, p95 {q['p95']:.1f}, most {q['most']:.1f} (n = {q['n']}); "
              f"{q['bytes'] / 1000:.1f} kB compressed, at most {q['most_bytes'] / 1000:.1f}")
    print(f"{given.readers} readers for {given.seconds:.0f} s: {crowd['n']} pages, {crowd['errors']} errors, median "
          f"{crowd['median']:.1f} ms, p95 {crowd['p95']:.1f}, most {crowd['most']:.1f}, {crowd['over_a_second']} over a second")


if __name__ == "__main__":
    main()
