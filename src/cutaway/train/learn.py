"""Learn sparse features at many sites in one pass over data."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ..counts import count_of
from ..dictionaries import Facts, Recipe
from ..files import write_json
from ..network import Network
from ..timing import part
from . import checkpoint
from .learner import Learner, Settings
from .run import Run
from .sources import Source, source_of


def learn(net: Network, data: Any, recipes: Mapping[str, Recipe | Sequence[Recipe]], tokens: int | str = "1M",
          batch: int = 1024, seed: int = 0, out: str | Path | None = None, save_every: float = 120.0,
          settings: Settings | None = None, progress: bool = True) -> Run:
    """Train one or more dictionaries at each site, all from the same passes of the network.

    data: rows for the network, or a `Harvest` of its activations, which is read in place of running it.
    recipes: site names (also with wildcards) to a recipe such as `TopK(width=4096, k=32)` or to several.
    tokens: activations to train each dictionary on, such as 500_000 or "2M"; data that is shorter is read again in another
        order. batch: activations a step. seed: of initialisation, data order and shuffling.
    out: folder for the dictionaries and checkpoints; training that was interrupted there, in whatever way, goes on where it
        stopped, and ends with the same weights, bit for bit, as if it had not been. save_every: seconds between checkpoints.
    settings: selection in low precision, accumulation of gradients, schedules; see `Settings`.

    Special tokens are left out, and so are attention sinks (norms above 10 times the median). Ctrl-C saves and stops.
    """
    total, settings = count_of(tokens), settings or Settings()
    steps = total // batch
    if steps < 1:
        raise ValueError(f"{total:,} tokens are less than one batch of {batch:,}; give more tokens or a smaller batch.")
    plan = _plan(net, recipes)
    out = None if out is None else Path(out)
    config: dict[str, Any] = {
        "network": net.name, "data": f"{data.name} ({data.fingerprint})", "tokens": total, "batch": batch, "seed": seed,
        "settings": asdict(settings), "recipes": {key: recipe.json() for key, (_, recipe) in plan.items()}}
    sites = sorted({site for site, _ in plan.values()})

    source = source_of(net, data, sites, total, batch, seed)
    learners = {key: Learner(recipe, source.samples[site], steps, batch, seed, settings)
                for key, (site, recipe) in plan.items()}
    facts = {key: Facts(site=site, path=net.site(site).path, network=net.name, data=config["data"], tokens=total,
                        max_norm=source.max_norm[site], skip_tokens=tuple(getattr(data, "special_ids", ())))
             for key, (site, _) in plan.items()}

    if out is not None:
        _resume(out, config, learners, source)
    run = Run(net, data, {}, {key: learner.history for key, learner in learners.items()}, config, out)
    saved = time.monotonic()
    with _interruptible() as interrupted, tqdm(total=total, unit="tok", unit_scale=True, desc="learn", leave=False,
                                               disable=None if progress else True) as bar:
        for turn in source.turns():
            with part("step"):
                for site, batches in turn.items():
                    for x in batches:
                        _step_all(learners, plan, site, x)
            _show(bar, learners, batch)
            finished = all(learner.done for learner in learners.values())
            if out is not None and not finished and (interrupted() or time.monotonic() - saved > save_every):
                with part("checkpoint"):
                    _save(out, config, learners, source)
                saved = time.monotonic()
            if finished:
                break
            if interrupted():
                where = "" if out is None else f"; run the same command again to go on from {out}"
                raise KeyboardInterrupt(f"stopped after {bar.n:,} tokens{where}")
    run.dictionaries = {key: learner.export(facts[key]) for key, learner in learners.items()}
    if out is not None:
        run.save(out)
        checkpoint.remove(out)
    return run


def _plan(net: Network, recipes: Mapping[str, Recipe | Sequence[Recipe]]) -> dict[str, tuple[str, Recipe]]:
    """Each dictionary's key, site and recipe; the key is the site, with the recipe's place where a site has several."""
    plan: dict[str, tuple[str, Recipe]] = {}
    for pattern, chosen in recipes.items():
        several = [chosen] if isinstance(chosen, Recipe) else list(chosen)
        for site in net.sites(pattern):
            if site.is_weight or site.io == "pattern":
                raise ValueError(f"{site.name} holds {site.io}, not activations, so no dictionary can be learned there.")
            for i, recipe in enumerate(several):
                plan[site.name if len(several) == 1 else f"{site.name}/{i}-{recipe.name}"] = (site.name, recipe)
    if not plan:
        raise ValueError("no recipes were given; give at least one site and recipe, such as {'blocks.3': TopK()}.")
    return plan


def _step_all(learners: dict[str, Learner], plan: dict[str, tuple[str, Recipe]], site: str, x: Tensor) -> None:
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
def _interruptible() -> Iterator[Any]:
    """Turn the first Ctrl-C into a flag, so that a step is never cut in two; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, handler)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _save(out: Path, config: dict[str, Any], learners: dict[str, Learner], source: Source) -> None:
    tensors, facts = source.state()
    tensors, header = {f"source|{name}": t for name, t in tensors.items()}, {"config": config, "source": facts}
    states = {key: learner.state() for key, learner in learners.items()}
    tensors.update({f"learner|{key}|{name}": t for key, (own, _) in states.items() for name, t in own.items()})
    checkpoint.save(out, tensors, {**header, "learners": {key: own for key, (_, own) in states.items()}})


def _resume(out: Path, config: dict[str, Any], learners: dict[str, Learner], source: Source) -> None:
    """Go on from the newest whole checkpoint in a folder, if there is one."""
    config = json.loads(json.dumps(config))
    found = checkpoint.newest(out)
    if found is None:
        write_json(out / "learning.json", config)
        return
    tensors, header = found
    if header["config"] != config:
        changed = [name for name in config if header["config"].get(name) != config[name]]
        raise ValueError(f"{out} holds unfinished training with other settings ({', '.join(changed)} differ); "
                         "use another folder, or the same settings to go on.")

    def inside(start: str) -> dict[str, Tensor]:
        return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

    for key, learner in learners.items():
        learner.load_state(inside(f"learner|{key}|"), header["learners"][key])
    source.load_state(inside("source|"), header["source"])
