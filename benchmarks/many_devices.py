"""Training steps on 1, 2 and 4 processes of one machine, and how near a simple model of them comes.

    python benchmarks/many_devices.py [--rounds 4] [--steps 30] [--quick]

The model knows each machine by a few constants: what compute costs, from steps of one process at several shapes, and what each
kind of message costs, from messages alone. From these it predicts the steps of 2 and 4 processes, which are then measured.
Results: results/many_devices.json and .md; the same model makes the plans in docs/many-devices.md (--plans prints them).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from many_devices_model import KINDS, Shape, exchanges, plans

from cutaway.dictionaries import TopK
from cutaway.timing import profiled
from cutaway.train.learner import Learner
from cutaway.train.parallel import together
from cutaway.train.parallel.group import Group

HERE = Path(__file__).parent
D, K = 256, 32
SHAPES = [(512, 4096), (512, 16384)]                        # batch, width: of the runs that the model predicts
GRID = [(n, width) for n in (128, 256, 512, 1024) for width in (2048, 4096, 8192, 16384)]   # of one process, to learn from
FAST = 0.1                                                   # the share of steps and messages that are taken as undisturbed
SIZES = [2**10, 2**16, 2**19, 2**21, 2**23]                 # bytes that a rank receives in one message


# --- what each process does -------------------------------------------------------------------------------------------

def serve(pipe: Any) -> None:
    torch.set_num_threads(1)
    while (job := pipe.recv()) is not None:
        fn, environment, args = job
        os.environ.update(environment)
        pipe.send(fn(*args))
        if dist.is_initialized():
            dist.destroy_process_group()


def steps(split: str, n: int, width: int, count: int) -> dict[str, Any]:
    """Seconds of steps on a batch of n, on the clock and of the processor, and the bytes that one receives."""
    counted: dict[str, list[int]] = defaultdict(list)
    with together(split, torch.device("cpu"), Path("nowhere")) as ranks, counting(counted):
        group = ranks.group
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(4096, D, generator=generator)
        learner = Learner(TopK(width, K), sample, 10**6, n, 0, None, ranks)
        x = torch.randn(n, D, generator=generator)[group.share(n).start: group.share(n).stop]
        rows: list[dict[str, float]] = []
        for i in range(count + 3):
            group.objects(None)
            counted.clear()
            with profiled() as parts:
                begun, worked = time.perf_counter(), time.process_time()
                learner.step(group.stacked(x) if split == "width" else x)
                group.most([0])
                whole, busy = time.perf_counter() - begun, time.process_time() - worked
            if i >= 3:
                rows.append({"step": whole, "busy": busy, "update": busy * parts.seconds["optimizer"] / whole})
    return {"rows": rows, "received": {kind: [len(sizes), sum(sizes)] for kind, sizes in counted.items()}}


def counting(counted: dict[str, list[int]]) -> Any:
    """Within this block, the bytes of each message that a rank receives, by kind, as a ring exchanges them."""
    from unittest.mock import patch

    def noting(kind: str, real: Any, size: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            counted[kind].append(int(size(args) * (dist.get_world_size() - 1) / dist.get_world_size()))
            return real(*args, **named)
        return call

    def of(i: int, times: int) -> Any:
        return lambda args: times * args[i].numel() * args[i].element_size()
    gather = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
    return patch.multiple(dist, all_reduce=noting("all_reduce", dist.all_reduce, of(0, 2)),
                          all_to_all_single=noting("all_to_all", dist.all_to_all_single, of(0, 1)),
                          **{gather: noting("all_gather", getattr(dist, gather), of(0, 1))})


def messages(count: int) -> dict[str, list[list[float]]]:
    """Messages of each kind and size: {kind: [[bytes received, seconds, seconds of the processor], ...]}."""
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    with together("data", torch.device("cpu"), None) as ranks:
        group: Group = ranks.group
        for received in SIZES:
            numbers = max(group.size, int(received / 4 * group.size / (group.size - 1)))
            todo = {"all_reduce": dist.all_reduce, "all_gather": lambda x: group.stacked(x[: len(x) // group.size]),
                    "all_to_all": group.swapped}
            for kind, send in todo.items():
                x = torch.zeros((numbers // 2 if kind == "all_reduce" else numbers) // group.size * group.size or group.size)
                for _ in range(count):
                    group.objects(None)
                    begun, worked = time.perf_counter(), time.process_time()
                    send(x)
                    found[kind].append([float(received), time.perf_counter() - begun, time.process_time() - worked])
    return found


# --- the processes, and what they are asked ---------------------------------------------------------------------------

class Pool:
    """Processes that stay, so that runs of different sizes can take turns."""

    def __init__(self, most: int):
        context = torch.multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(most):
            here, there = context.Pipe()
            self.processes.append(context.Process(target=serve, args=(there,), daemon=True))
            self.processes[-1].start()
            self.pipes.append(here)

    def run(self, size: int, fn: Any, *args: Any) -> list[Any]:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        for rank, pipe in enumerate(self.pipes[:size]):
            pipe.send((fn, {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": str(port)}, args))
        return [pipe.recv() for pipe in self.pipes[:size]]

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()


def measure(rounds: int, count: int, shapes: list[tuple[int, int]], grid: list[tuple[int, int]]) -> dict[str, Any]:
    """Everything in turn, round after round, so that what else the machine does falls on all alike."""
    found: dict[str, Any] = {"one": defaultdict(list), "messages": defaultdict(list), "many": defaultdict(list), "received": {}}
    pool = Pool(4)
    for number in range(rounds):
        for n, width in grid:
            found["one"][f"{n} {width}"] += pool.run(1, steps, "data", n, width, count)[0]["rows"]
        for size in (2, 4):
            for kind, rows in pool.run(size, messages, count)[0].items():
                found["messages"][f"{size} {kind}"] += rows
            for n, width in shapes:
                for split in ("data", "width"):
                    one = pool.run(size, steps, split, n, width, count)[0]
                    found["many"][f"{size} {split} {n} {width}"] += one["rows"]
                    found["received"][f"{size} {split} {n} {width}"] = one["received"]
        print(f"round {number + 1} of {rounds}", flush=True)
    pool.close()
    return found


# --- the model --------------------------------------------------------------------------------------------------------

def fitted(found: dict[str, Any]) -> dict[str, Any]:
    """The machine's constants: seconds for each unit of each kind of work, by non-negative least squares of relative errors.

    Compute is counted in seconds of the processor and messages by the faster of them, so that other work matters less.
    """
    from scipy.optimize import nnls
    shapes = [tuple(map(int, key.split())) for key in found["one"]]
    step = np.array([statistics.median(row["busy"] - row["update"] for row in rows) for rows in found["one"].values()])
    update = np.array([statistics.median(row["update"] for row in rows) for rows in found["one"].values()])
    pass_work = np.array([[n * width * D, n * K * D, 1.0] for n, width in shapes])
    update_work = np.array([[width * D, n * K * D] for n, width in shapes])
    constants: dict[str, Any] = dict(zip(("product", "sparse", "fixed"), nnls(pass_work / step[:, None], np.ones(len(step)))[0],
                                         strict=True))
    constants |= dict(zip(("adam", "gradient"), nnls(update_work / update[:, None], np.ones(len(update)))[0], strict=True))
    made = pass_work @ [constants[name] for name in ("product", "sparse", "fixed")] + update_work @ [
        constants[name] for name in ("adam", "gradient")]
    constants["one"] = {key: [float(a), float(b)] for key, a, b in zip(found["one"], step + update, made, strict=True)}
    for key, rows in found["messages"].items():
        sizes = sorted({row[0] for row in rows})
        work = np.array([[1.0, size] for size in sizes])
        for name, column, share in ((key, 1, FAST), (f"{key} busy", 2, 0.5)):
            seconds = np.array([np.quantile([row[column] for row in rows if row[0] == size], share) for size in sizes])
            constants[name] = nnls(work / seconds[:, None], np.ones(len(seconds)))[0].tolist()
    return constants


def predicted(split: str, size: int, n: int, width: int, constants: dict[str, Any], cores: int) -> dict[str, float]:
    """Seconds of a step and of its parts."""
    shape = Shape(n, width, D, K, size, split)
    rows, latents = (n // size, width) if split == "data" else (n, width // size)
    entries = n * K if split == "data" else n * K / size      # that a rank multiplies into its weights' gradients
    passes = (constants["product"] * rows * latents * D + constants["fixed"]
              + constants["sparse"] * (rows * K if split == "data" else entries) * D)
    update = constants["adam"] * latents * D + constants["gradient"] * entries * D
    crowd = max(1.0, size / cores)                             # processes that take turns on a core
    exchange, copying = (sum(times * constants[f"{size} {kind}{what}"][0] + sent * constants[f"{size} {kind}{what}"][1]
                             for kind, (times, sent) in exchanges(shape).items()) for what in ("", " busy"))
    return {"step": crowd * (passes + update) + exchange, "busy": passes + update + copying, "exchange": exchange}


def compared(found: dict[str, Any], constants: dict[str, Any]) -> list[dict[str, Any]]:
    """Prediction beside measurement for each run."""
    rows = []
    for key, seconds in found["many"].items():
        size, split, n, width = key.split()
        clock, busy = [row["step"] for row in seconds], statistics.median(row["busy"] for row in seconds)
        low, middle, high = statistics.quantiles(clock, n=4)
        model = predicted(split, int(size), int(n), int(width), constants, os.cpu_count() or 1)
        rows.append({"ranks": int(size), "split": split, "batch": int(n), "width": int(width), "n": len(clock),
                     "median": middle, "low": low, "high": high, "fast": float(np.quantile(clock, FAST)),
                     "model": model["step"], "busy": busy, "model_busy": model["busy"], "model_exchange": model["exchange"],
                     "bytes": found["received"][key], "model_bytes": exchanges(
                         Shape(int(n), int(width), D, K, int(size), split))})
    return rows


HEAD = ("ranks", "split", "batch", "width", "n", "clock", "fast", "model", "model / fast", "processor", "model",
        "model / processor", "MB received", "model")


def table(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Measured and modelled figures side by side."""
    def both(row: dict[str, Any], measured: str, model: str) -> str:
        return f"{1e3 * row[measured]:.0f} | {1e3 * row[model]:.0f} | {row[model] / row[measured]:.2f}"

    (before, after), asked = facts["load"], f"--rounds {facts['rounds']} --steps {facts['steps']}"
    lines = ["# Many devices: measured and modelled steps", "",
             f"`python benchmarks/many_devices.py {asked}`: {facts['cores']} cores, gloo, one thread a process, d {D}, k {K}.",
             f"Load average {before:.1f} before and {after:.1f} after: above the number of cores, other work slows steps down.",
             "Milliseconds; median with quartiles over n steps; *fast* is their tenth percentile; *processor* is what a rank",
             "computes, without waiting, in the median. The model is made from steps of one process and from messages alone.",
             "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for row in rows:
        low, middle, high = (1e3 * row[name] for name in ("low", "median", "high"))
        sent, model = (sum(size for _, size in row[name].values()) / 1e6 for name in ("bytes", "model_bytes"))
        lines.append(f"| {row['ranks']} | {row['split']} | {row['batch']:,} | {row['width']:,} | {row['n']} | "
                     f"{middle:.0f} [{low:.0f}, {high:.0f}] | {both(row, 'fast', 'model')} | "
                     f"{both(row, 'busy', 'model_busy')} | {sent:.3f} | {model:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see whether it works; nothing is written")
    parser.add_argument("--plans", action="store_true", help="print the plans of docs/many-devices.md and end")
    options = parser.parse_args()
    if options.plans:
        print(plans())
        return
    before = os.getloadavg()[0]
    shapes, grid = ([(256, 2048)], GRID[:2] + GRID[4:6]) if options.quick else (SHAPES, GRID)
    found = measure(options.rounds, options.steps, shapes, grid)
    constants = fitted(found)
    rows = compared(found, constants)
    facts = {"rounds": options.rounds, "steps": options.steps, "cores": os.cpu_count(), "torch": torch.__version__,
             "load": [before, os.getloadavg()[0]]}
    off = [made / seconds - 1 for seconds, made in constants["one"].values()]
    text = table(rows, facts) + (f"\nThe model is off by {statistics.median(map(abs, off)):.0%} in the median, and by "
                                 f"{max(map(abs, off)):.0%} at most, for the {len(off)} shapes of one process that its compute "
                                 "is fitted to.\n")
    print(text)
    if not options.quick:
        results = HERE / "results"
        (results / "many_devices.json").write_text(json.dumps({"facts": facts, "constants": constants, "runs": rows}, indent=1))
        (results / "many_devices.md").write_text(text)


if __name__ == "__main__":
    main()
