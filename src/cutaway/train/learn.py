"""Learn sparse features at many sites in one pass over data."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ..counts import count_of
from ..data import as_data
from ..dictionaries import Facts, Recipe
from ..dictionaries.wiring import tensors_of
from ..files import locked
from ..network import Network
from ..timing import part
from .learner import Learner, Settings
from .parallel import Alone, together
from .parallel.alone import Plan
from .run import Run


def learn(net: Network, data: Any, recipes: Mapping[str, Recipe | Sequence[Recipe]], tokens: int | str = "1M",
          batch: int = 1024, seed: int = 0, out: str | Path | None = None, save_every: float = 120.0,
          settings: Settings | None = None, progress: bool = True, split: str = "data", l0: float | None = None) -> Run:
    """Train one or more dictionaries at each site, all from the same passes of the network.

    data: rows for the network, or a `Harvest` of its activations, which is read in place of running it.
    recipes: site names (also with wildcards, or several with commas) to a recipe such as `TopK(width=4096, k=32)` or to
        several. A recipe may learn from more than one tensor of each token: `Transcoder` at `blocks.3.mlp` reads the MLP's
        input and writes its output (`SITE -> SITE` names both), and `Crosscoder` at `blocks.*` reads and writes all of them.
    tokens: activations to train each dictionary on, such as 500_000 or "2M"; data that is shorter is read again in another
        order. batch: activations a step. seed: of initialisation, data order and shuffling.
    out: folder for the dictionaries and checkpoints; training that was interrupted there, in whatever way, goes on where it
        stopped, and ends with the same weights, bit for bit, as if it had not been. save_every: seconds between checkpoints.
    settings: selection in low precision, accumulation of gradients, schedules; see `Settings`.
    split: what is divided among processes that torchrun started: `data`, `width` or `sites`; see docs/many-devices.md. The
        first process's run has all dictionaries; so have the others' with `data`.
    l0: how many latents should fire for each token on average, whatever each recipe's method calls that; left out, as the
        recipes say.

    Special tokens are left out, and so are attention sinks (norms above 10 times the median). Ctrl-C saves and stops.
    """
    total, settings = count_of(tokens), settings or Settings()
    as_data(data)
    if batch < 1:
        raise ValueError(f"a batch holds at least one activation; found batch={batch}.")
    if seed < 0:
        raise ValueError(f"a seed is a whole number from 0; found {seed}.")
    steps = total // batch
    if steps < 1:
        raise ValueError(f"{total:,} tokens are less than one batch of {batch:,}; give more tokens or a smaller batch.")
    out = None if out is None else Path(out)
    with together(split, net.device, out) as ranks:
        return _train(net, data, _plan(net, recipes, l0), total, batch, seed, out, save_every, settings, progress, ranks)


def _train(net: Network, data: Any, plan: Plan, total: int, batch: int, seed: int, out: Path | None, save_every: float,
           settings: Settings, progress: bool, ranks: Alone) -> Run:
    """What `learn` says, as one of some ranks."""
    steps = total // batch
    config: dict[str, Any] = {
        "network": net.name, "data": f"{data.name} ({data.fingerprint})", "tokens": total, "batch": batch, "seed": seed,
        "settings": asdict(settings), "recipes": {key: recipe.json() for key, (_, recipe) in plan.items()}}
    every, plan = sorted({site for site, _ in plan.values()}), ranks.own(plan, batch)
    source = ranks.source(net, data, sorted({site for site, _ in plan.values()}), every, total, batch, seed)
    learners = {key: Learner(recipe, source.samples[site], steps, batch, seed, settings, ranks, source.widths[site])
                for key, (site, recipe) in plan.items()}
    limits = {key: source.max_norm[site] for key, (site, _) in plan.items()}
    facts = {key: Facts(site=site, path=net.site(tensors_of(site)[0]).path, network=net.name, data=config["data"],
                        tokens=total, max_norm=limits[key][0], skip_tokens=tuple(getattr(data, "special_ids", ())))
             for key, (site, _) in plan.items()}

    with nullcontext() if out is None or ranks.group.rank else locked(out, "learning"):
        if out is not None:
            ranks.resume(out, config, learners, source)
        run = Run(net, data, {}, {key: learner.history for key, learner in learners.items()}, config, out)
        saved = time.monotonic()
        show = progress and ranks.group.rank == 0
        with _interruptible(ranks.signals) as interrupted, tqdm(total=total, unit="tok", unit_scale=True, desc="learn",
                                                                leave=False, disable=None if show else True) as bar:
            for turn in source.turns():
                with part("step"):
                    for site, batches in turn.items():
                        for x in batches:
                            _step_all(learners, plan, site, x)
                _show(bar, learners, batch)
                unfinished, stopped, due = ranks.agree(not all(learner.done for learner in learners.values()), interrupted(),
                                                       time.monotonic() - saved > save_every)
                if out is not None and unfinished and (stopped or due):
                    with part("checkpoint"):
                        ranks.save(out, config, learners, source)
                    saved = time.monotonic()
                if not unfinished:
                    break
                if stopped:
                    where = "" if out is None else f"; run the same command again to go on from {out}"
                    raise KeyboardInterrupt(f"stopped after {bar.n:,} tokens{where}")
        gathered = {key: learner.gathered() for key, learner in learners.items()}
        run.dictionaries = {key: learners[key].export(facts[key], tensors, limits[key]) for key, tensors in gathered.items()
                            if tensors is not None}
        ranks.finish(run, out)
    return run


def _plan(net: Network, recipes: Mapping[str, Recipe | Sequence[Recipe]], l0: float | None = None) -> Plan:
    """Each dictionary's key, place and recipe; the key is the site, with the recipe's number where a site has several."""
    if not isinstance(recipes, Mapping) or not all(isinstance(chosen, Recipe | Sequence) for chosen in recipes.values()):
        raise ValueError("recipes are given by the sites where they learn, such as {'blocks.3': TopK(width=4096, k=32)}.")
    plan: dict[str, tuple[str, Recipe]] = {}
    for pattern, chosen in recipes.items():
        several = [chosen] if isinstance(chosen, Recipe) else list(chosen)
        several = several if l0 is None else [recipe.with_l0(l0) for recipe in several]
        places = [recipe.wiring.places(net, pattern) for recipe in several]
        for name in dict.fromkeys(name for found in places for name in found):
            for i, (recipe, found) in enumerate(zip(several, places, strict=True)):
                if name in found:
                    plan[name if len(several) == 1 else f"{name}/{i}-{recipe.name}"] = (found[name], recipe)
    if not plan:
        raise ValueError("no recipes were given; give at least one site and recipe, such as {'blocks.3': TopK()}.")
    return plan


def _step_all(learners: dict[str, Learner], plan: Plan, site: str, x: Tensor) -> None:
    for key, learner in learners.items():
        if plan[key][0] == site and not learner.done:
            learner.step(x)


def _show(bar: tqdm, learners: dict[str, Learner], batch: int) -> None:
    learner = next(iter(learners.values()))
    bar.update(min(item.step_count for item in learners.values()) * batch - bar.n)
    if learner.history:
        last = learner.history[-1]
        bar.set_postfix_str(f"FVU {last['fvu']:.3f}, L0 {last['l0']:.1f}, dead {last['dead']:.1%}", refresh=False)


@contextmanager
def _interruptible(signals: tuple[signal.Signals, ...]) -> Iterator[Any]:
    """Turn these signals into a flag, so that a step is never cut in two; a second Ctrl-C stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in signals}

    def handler(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    for number in signals:
        signal.signal(number, handler)
    try:
        yield asked.is_set
    finally:
        for number, was in before.items():
            signal.signal(number, was)
