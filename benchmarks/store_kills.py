"""A store that is killed while it is built: is anything lost, and does it end as if nothing had happened?

    python benchmarks/store_kills.py                # 12 kills

`cutaway store` runs in a process of its own and is killed (SIGKILL) at a moment drawn evenly from the whole time that it takes
undisturbed; the same command is then run again, and killed again, at most three times before it may end. Every file of what
comes out is compared with that of the undisturbed store; of the manifest, all but the times, and not config.json, which says
when the command was given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cutaway.files import write_json

HERE, SITE, TIMES = Path(__file__).parent, "blocks.2", ("seconds", "finished")
OTHER = ("manifest.json", "config.json", ".lock")
COMMAND = [sys.executable, "-m", "cutaway"]


def contents(folder: Path) -> dict[str, str]:
    """A checksum of every file, and the manifest without its times."""
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OTHER}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {**found, "manifest.json": json.dumps({k: v for k, v in manifest.items() if k not in TIMES}, sort_keys=True)}


def reached(folder: Path) -> str:
    """The last step that a build has finished."""
    journal = folder / "build" / "journal.jsonl"
    lines = [line for line in journal.read_text(encoding="utf-8").split("\n")[:-1] if line] if journal.exists() else []
    return json.loads(lines[-1])["step"].split(" ")[0] if lines else "nothing yet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--tokens", default="200k")
    given = parser.parse_args()
    chance, work = random.Random(0), Path(tempfile.mkdtemp(prefix="store-kills-"))
    try:
        run = work / "run"
        subprocess.run([*COMMAND, "learn", "pico", "--site", SITE, "--set", "width=1024", "k=16", "--tokens", "100k", "--out",
                        str(run)], check=True, stdout=subprocess.DEVNULL)
        whole = [*COMMAND, "store", str(run), "--tokens", given.tokens]
        began = time.perf_counter()
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
        length = time.perf_counter() - began
        folder = run / "store" / SITE
        wanted, moments, differing, rounds, kills = contents(folder), Counter[str](), 0, 0, 0
        while kills < given.kills:
            shutil.rmtree(run / "store")
            for _ in range(3):
                process = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    process.wait(timeout=chance.uniform(0, length))
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
                    moments[reached(folder)] += 1
            subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
            rounds += 1
            differing += contents(folder) != wanted
        found = {"kills": kills, "rounds": rounds, "differing": differing, "after": dict(moments), "tokens": given.tokens,
                 "seconds": length}
        write_json(HERE / "results" / "store_kills.json", found)
        print(f"{kills} kills in {rounds} stores of {length:.0f} s: {differing} differ from the undisturbed one; killed after "
              + ", ".join(f"{step} ({n})" for step, n in moments.items()))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
