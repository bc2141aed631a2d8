"""What somebody at the table of features waits for, in a real browser.

    python benchmarks/store_reads.py --tokens 200k --width 100000 --folder STORE      # a table of 100,000 features
    python benchmarks/app_browser.py STORE

The server is `cutaway serve` in a process of its own, the browser a chromium without a window. A time is from the click on a
column's head, on the next page or on a filter, or from the last letter that is typed, until the new table is drawn: the second
frame after it was put in. Typing waits 80 ms for further letters, which is counted.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

import cutaway as cw
from cutaway.files import write_json

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

# What is done, and how: each script ends in what makes the browser ask for a new table.
SENT = "dispatchEvent(new Event('input', {{bubbles: true}}))"
ACTS = {
    "sort by a column": "document.querySelectorAll('#table thead a')[{i} % 5].click()",
    "the next page": "document.querySelector('#table a[rel=next]').click()",
    "choose by state": "const s = document.querySelector('select[name=status]');"
                       "s.value = ['alive', 'dead', 'rare', ''][{i} % 4]; s." + SENT,
    "search by a word": "const q = document.querySelector('#filters input[name=q]');"
                        "q.value = ['self', 'def', 'return', 'import', 'class'][{i} % 5]; q." + SENT}
TIMED = """new Promise((done, fail) => {{
    setTimeout(() => fail('no new table came'), 20000);
    document.body.addEventListener('htmx:afterSwap', () => requestAnimationFrame(() => requestAnimationFrame(
        () => done(performance.now() - began))), {{once: true}});
    const began = performance.now();
    {act};
}})"""


def timed(tab: Any, table: str, act: str, n: int) -> dict[str, float]:
    """Milliseconds of doing one thing n times, after one that is not counted; each begins at the whole table."""
    times = []
    for i in range(n + 1):
        tab.go(table)
        tab.until("document.readyState == 'complete' && window.htmx !== undefined")
        times.append(tab.js(TIMED.format(act=act.format(i=i))))
    return {"median": float(np.median(times[1:])), "p95": float(np.quantile(times[1:], 0.95)), "most": max(times[1:]), "n": n}


def main() -> None:
    import browser
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--n", type=int, default=20)
    given = parser.parse_args()
    with cw.FeatureStore(given.store) as store:
        slug, facts = store.manifest["dictionary"]["key"], store.overview()
    server = subprocess.Popen([sys.executable, "-m", "cutaway", "serve", str(given.store), "--port", "0", "--no-browser"],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        address = re.match(r"http://[\d.]+:\d+", server.stdout.readline())[0]  # type: ignore[index]
        with browser.browser() as tab:
            found = {name: timed(tab, f"{address}/d/{quote(slug)}/", act, given.n) for name, act in ACTS.items()}
    finally:
        server.terminate()
        server.wait(timeout=30)
    write_json(HERE / "results" / f"app_browser_w{facts['width']}.json",
               {"width": facts["width"], "firings": facts["n_entries"], "ms": found, "cpus": os.cpu_count(),
                "load": os.getloadavg()[0]})
    print(f"{facts['width']:,} features, {facts['n_entries']:,} firings, load of the machine {os.getloadavg()[0]:.1f}")
    for name, q in found.items():
        print(f"{name}: median {q['median']:.0f} ms, p95 {q['p95']:.0f}, most {q['most']:.0f} (n = {q['n']})")


if __name__ == "__main__":
    main()
