"""Seconds of training until the held-out FVU falls below each of several values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from peers import CACHE, HERE, PEERS, Contender, Harvest, contenders, digest, harvest, sweep
from tqdm.auto import tqdm
from train_steps import SPARSE, python_of
from workers import Worker, started

import cutaway as cw
from cutaway.files import write_json

THRESHOLDS = (0.20, 0.18, 0.16, 0.14, 0.12)
KEPT = HERE / "results" / "dictionaries_vs_peers.json"
WIDTH, K, BATCH, SWEPT = 4096, 32, 1024, 250_000    # as in the kept results, whose learning rates are taken
WARM = 2                                            # steps of a trainer that is thrown away, before the one that counts


def of_sae_lens(steps: int) -> list[Contender]:
    """sae-lens by default; with scaled activations and the rate falling over the last 20% of the steps; and sparse as well."""
    scaled = {"normalize_activations": "expected_average_only_in"}
    ways = {"sae-lens": {}, "sae-lens, scaled and decayed": {"sae": scaled, "lr_decay_steps": steps // 5},
            "sae-lens, scaled, decayed, sparse": {"sae": scaled | SPARSE, "lr_decay_steps": steps // 5}}
    return [Contender(name, "sae-lens", 3e-4, settings) for name, settings in ways.items()]


def entrants(tokens: int) -> list[Contender]:
    """Everyone, for a run planned for so many activations; of settings that end at the same FVU, only the faster one."""
    steps = tokens // BATCH
    return [c for c in contenders(WIDTH, steps, tokens) if c.swept_as is None] + of_sae_lens(steps)


def job(entrant: Contender, rate: float, data: Path, d: int, tokens: int, seed: int) -> dict[str, Any]:
    return {"library": entrant.package, "settings": {**entrant.settings, "lr": rate}, "data": str(data), "d": d, "width": WIDTH,
            "k": K, "batch": BATCH, "steps": tokens // BATCH, "seed": seed}


# --- learning rates ---------------------------------------------------------------------------------------------------

def best_factors(options: argparse.Namespace, net: cw.Network) -> dict[str, float]:
    """The best learning rate of each, as a multiple of its own: from the kept results, or else by a sweep like theirs."""
    if options.rates == "own":
        return {entrant.name: 1.0 for entrant in entrants(SWEPT)}
    if not KEPT.exists():
        raise FileNotFoundError(f"the learning rates are those of {KEPT}, which is not there; run dictionaries_vs_peers.py "
                                "first, or choose --rates own.")
    kept = json.loads(KEPT.read_text())
    setting = {"model": options.model, "site": options.site, "width": WIDTH, "k": K, "batch": BATCH, "tokens": SWEPT}
    if differs := [name for name, value in setting.items() if kept[name] != value]:
        raise ValueError(f"{KEPT} was made with another {', '.join(differs)}; its learning rates do not hold here.")
    taken = harvest(net, options.site, SWEPT)
    sweeps = {name: {float(factor): fvu for factor, fvu in found.items()} for name, found in kept["sweeps"].items()}
    sweeps |= {entrant.name: sweep(lambda wanted, entrant=entrant: swept(entrant, wanted, taken))  # type: ignore[misc]
               for entrant in of_sae_lens(SWEPT // BATCH)}
    return {name: min(found, key=lambda factor: found[factor]) for name, found in sweeps.items()}


def swept(entrant: Contender, factors: list[float], taken: Harvest) -> list[float]:
    """Validation FVU after a whole run at each multiple of the learning rate; what was found before is read again."""
    found = []
    for factor in tqdm(factors, desc=f"{entrant.name}: sweep", unit="run"):
        asked = job(entrant, factor * entrant.rate, taken.train, taken.d, SWEPT, seed=0)
        path = CACHE / "sweeps" / f"{digest(asked, PEERS[entrant.package])}.json"
        if not path.exists():
            with started([(f"{entrant.name} sweep", python_of(entrant.package))]) as workers:
                worker = next(iter(workers.values()))
                worker.ask("build", job=asked)
                worker.ask("step", n=asked["steps"])
                write_json(path, worker.ask("fvu", data=str(taken.validation), n=10**9))
        found.append(json.loads(path.read_text())["fvu"])
    return found


# --- runs -------------------------------------------------------------------------------------------------------------

class Race:
    """One library on the way through one run: its seconds of training, and FVU by step."""

    def __init__(self, worker: Worker, asked: dict[str, Any], options: argparse.Namespace, held_out: Path):
        self.worker, self.asked, self.options, self.held_out = worker, asked, options, held_out
        # A first trainer is thrown away: what a process does once, such as compiling, is not training.
        worker.ask("build", job=asked)
        worker.ask("step", n=WARM)
        self.built = worker.ask("build", job=asked)
        self.seconds, self.steps, self.curve = self.built["seconds"], 0, list[tuple[int, float, float]]()

    @property
    def running(self) -> bool:
        reached = self.curve and self.curve[-1][2] < min(THRESHOLDS)
        return not reached and self.steps < self.asked["steps"] and self.seconds < self.options.budget

    def turn(self) -> None:
        n = min(self.options.every, self.asked["steps"] - self.steps)
        self.seconds += sum(self.worker.ask("step", n=n)["seconds"])
        self.steps += n
        fvu = self.worker.ask("fvu", data=str(self.held_out), n=self.options.held_out)["fvu"]
        self.curve.append((self.steps, self.seconds, fvu))

    def reached(self, threshold: float) -> float | None:
        return next((seconds for _, seconds, fvu in self.curve if fvu < threshold), None)


@contextmanager
def races(asked: dict[str, tuple[Contender, dict]], options: argparse.Namespace, held_out: Path) -> Iterator[dict[str, Race]]:
    """Everyone at the start of a run."""
    with started((name, python_of(entrant.package)) for name, (entrant, _) in asked.items()) as workers:
        yield {name: Race(workers[name], one, options, held_out) for name, (_, one) in asked.items()}


def fvu_section(options: argparse.Namespace) -> dict[str, Any]:
    """Every library in turn, a few steps and an evaluation at a time; longer plans until the lowest value is reached."""
    net = cw.open(options.model)
    factors = best_factors(options, net)
    taken = harvest(net, options.site, max(options.lengths))
    rows: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = {"versions": {}, "threads": 0}
    for seed in range(options.seeds):
        done: set[str] = set()
        for tokens in sorted(options.lengths):
            left = [entrant for entrant in entrants(tokens) if entrant.name not in done]
            asked = {entrant.name: (entrant, job(entrant, factors[entrant.name] * entrant.rate, taken.train, taken.d, tokens,
                                                 seed)) for entrant in left}
            what = f"fvu, {tokens:,} activations, seed {seed}"
            with races(asked, options, taken.validation) as racing, tqdm(desc=what, unit="turn") as bar:
                while running := [race for race in racing.values() if race.running]:
                    for race in running:
                        race.turn()
                    bar.update()
                for name, race in racing.items():
                    row = rows.setdefault(name, {"name": name, "factor": factors[name], "runs": []})
                    row["runs"].append({"seed": seed, "tokens": tokens, "rate": race.asked["settings"]["lr"], "settings":
                                        asked[name][0].settings, "build": race.built["seconds"], "curve": race.curve,
                                        "reached": {str(value): race.reached(value) for value in THRESHOLDS}})
                    facts["versions"] |= race.built["versions"]
                    facts["threads"] = max(facts["threads"], race.built["threads"])
                    if race.reached(min(THRESHOLDS)) is not None:
                        done.add(name)
    chosen = {"model": options.model, "site": options.site, "width": WIDTH, "k": K, "batch": BATCH, "lengths": options.lengths,
              "seeds": options.seeds, "every": options.every, "budget": options.budget, "rates": options.rates,
              "held_out": options.held_out}
    return {**chosen, **facts, "rows": list(rows.values())}


def least(row: dict[str, Any], seed: int, threshold: float) -> float | None:
    """The shortest time in which a seed reached a value, of all planned lengths."""
    times = [run["reached"][str(threshold)] for run in row["runs"] if run["seed"] == seed]
    return min((time for time in times if time is not None), default=None)


def fvu_table(results: dict[str, Any]) -> str:
    seeds, lengths = results["seeds"], ", ".join(f"{tokens:,}" for tokens in sorted(results["lengths"]))
    text = (f"## Seconds until a held-out FVU\n\n{results['model']}, {results['site']}, width {results['width']:,}, "
            f"k {results['k']}, batch {results['batch']:,}, the same activations in the same order. Each library at its "
            f"{results['rates']} learning rate. Seconds of building and training, without evaluation, until FVU on "
            f"{results['held_out']:,} validation activations, looked at every {results['every']} steps, is first below the "
            "value: the shortest of runs "
            f"planned for {lengths} activations, of which the longer ones are left out once all is reached, each of at most "
            f"{results['budget']:.0f} s; median (least to greatest) of {seeds} seeds.\n\n"
            f"| | learning rate | {' | '.join(f'{value:.2f}' for value in THRESHOLDS)} | least FVU seen |\n"
            f"|{' --- |' * (3 + len(THRESHOLDS))}\n")
    for row in results["rows"]:
        cells = [seconds_of([least(row, seed, value) for seed in range(seeds)]) for value in THRESHOLDS]
        lowest = min(fvu for run in row["runs"] for _, _, fvu in run["curve"])
        text += f"| {row['name']} | {row['runs'][0]['rate']:.2g} (x{row['factor']:g}) | {' | '.join(cells)} | {lowest:.3f} |\n"
    return text


def seconds_of(times: list[float | None]) -> str:
    """A cell: median and range, or how many seeds did not get there."""
    there = [time for time in times if time is not None]
    if not there:
        return "not reached"
    spread = f"{median(there):.1f} ({min(there):.1f} to {max(there):.1f})"
    return spread if len(there) == len(times) else f"{spread}; not reached by {len(times) - len(there)} of {len(times)}"
