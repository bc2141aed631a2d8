"""Long-lived worker processes that are asked over pipes, and the machine that they run on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from peers import CACHE, HERE

import cutaway as cw

PAUSE = 0.05                                          # seconds between two turns, in which the last one's threads fall asleep
THREADS = ("OMP_", "GOMP_", "KMP_", "MKL_", "NUMBA_NUM_THREADS", "OPENBLAS_")  # settings of threads are not handed on
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8", "amx_tile")


class Worker:
    """A `train_worker.py` in some Python; it ends when its stdin is closed, also when this process dies."""

    def __init__(self, python: Path, name: str):
        self.name, self.log = name, CACHE / "logs" / f"{''.join(c if c.isalnum() else '-' for c in name)}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.idle = {"wall": 0.0, "processor": 0.0}
        environment = {key: value for key, value in os.environ.items() if not key.startswith(THREADS)}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([python, HERE / "train_worker.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, env=environment, text=True)

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to one request; whatever went wrong is one sentence."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended before it answered"}
        if "error" in answer:
            raise RuntimeError(f"{self.name} did not {do}: {answer['error']}; what it said is in {self.log}")
        for name, value in answer.pop("idle").items():
            self.idle[name] += value
        time.sleep(PAUSE)
        return answer

    @property
    def idle_share(self) -> float:
        """Share of one processor that it used while it was waiting; more than a little would slow the others down."""
        return self.idle["processor"] / max(self.idle["wall"], 1e-9)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def started(pythons: Iterable[tuple[str, Path]]) -> Iterator[dict[str, Worker]]:
    """A worker for each (name, Python); all end with the block."""
    with ExitStack() as stack:
        workers = {}
        for name, python in pythons:
            workers[name] = Worker(python, name)
            stack.callback(workers[name].close)
        yield workers


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, memory, load and versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = set(facts.get("flags", "").split())
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    return {"processor": facts.get("model name", platform.processor() or platform.machine()), "cores": os.cpu_count(),
            "flags": [flag for flag in FLAGS if flag in has], "load": load, "system": platform.system(),
            "python": platform.python_version(), "cutaway": cw.__version__, "commit": commit()}


def commit() -> str | None:
    """The checkout's commit, marked when tracked files differ from it."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True, check=True).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
