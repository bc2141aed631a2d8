"""Learn sparse features at many sites in one pass over data."""

from __future__ import annotations

import json
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import below, norm_limit
from ..dictionaries import Facts, Recipe
from ..files import write_json, write_safetensors
from ..network import Network
from ..observe import Sample, activations, observe
from .buffer import ShuffleBuffer
from .learner import Learner
from .run import Run, count_of

SAMPLE = 16_384        # activations from which scales, biases and norms begin
BUFFER_BYTES = 256e6   # a shuffle buffer holds at most so much, and at most 65,536 activations


def learn(net: Network, data: Any, recipes: Mapping[str, Recipe | Sequence[Recipe]], tokens: int | str = "1M",
          batch: int = 1024, seed: int = 0, out: str | Path | None = None, save_every: float = 120.0,
          progress: bool = True) -> Run:
    """Train one or more dictionaries at each site, all from the same passes of the network.

    recipes: site names (also with wildcards) to a recipe such as `TopK(width=4096, k=32)` or to several.
    tokens: activations to train each dictionary on, such as 500_000 or "2M"; data that is shorter is read again in another
        order. batch: activations a step. seed: of initialisation, data order and shuffling.
    out: folder for the dictionaries and checkpoints; training that was interrupted there goes on where it stopped, and
        ends with the same weights, bit for bit, as if it had not been. save_every: seconds between checkpoints.

    Special tokens are left out, and so are attention sinks (norms above 10 times the median). Ctrl-C saves and stops.
    """
    total = count_of(tokens)
    steps = total // batch
    if steps < 1:
        raise ValueError(f"{total:,} tokens are less than one batch of {batch:,}; give more tokens or a smaller batch.")
    plan = _plan(net, recipes)
    out = None if out is None else Path(out)
    config: dict[str, Any] = {
        "network": net.name, "data": f"{data.name} ({data.fingerprint})", "tokens": total, "batch": batch, "seed": seed,
        "recipes": {key: recipe.json() for key, (_, recipe) in plan.items()}}
    sites = sorted({site for site, _ in plan.values()})

    samples = [Sample(site, SAMPLE) for site in sites]
    observe(net, data, samples, seed=seed)
    max_norm, buffers, learners = {}, {}, {}
    for site, sample in zip(sites, samples, strict=True):
        if not torch.isfinite(sample.x).all():
            raise ValueError(f"the activations at {site} hold NaN or infinity.")
        max_norm[site] = norm_limit(sample.x)
        x = sample.x[below(sample.x, max_norm[site])]
        capacity = int(min(65_536, BUFFER_BYTES / (4 * x.shape[-1]), max(2 * batch, total // 4)))
        # By the site's name, so that a site is shuffled in the same way whatever else is learned beside it.
        shuffling = torch.Generator().manual_seed(zlib.crc32(f"{site} {seed}".encode()))
        buffers[site] = ShuffleBuffer(capacity, batch, shuffling)
        for key, (at, recipe) in plan.items():
            if at == site:
                learners[key] = Learner(recipe, x, steps, batch, seed)
    facts = {key: Facts(site=site, path=net.site(site).path, network=net.name, data=config["data"], tokens=total,
                        max_norm=max_norm[site], skip_tokens=tuple(getattr(data, "special_ids", ())))
             for key, (site, _) in plan.items()}

    start = {"epoch": 0, "row": 0}
    if out is not None:
        start = _resume(out, config, learners, buffers) or start
    run = Run(net, data, {}, {key: learner.history for key, learner in learners.items()}, config, out)
    saved = time.monotonic()
    with _interruptible() as interrupted, tqdm(total=total, unit="tok", unit_scale=True, desc="learn", leave=False,
                                               disable=None if progress else True) as bar:
        for seen, position in _stream(net, data, sites, seed, start):
            for site in sites:
                for x in buffers[site].add(seen.kept(site, max_norm[site])):
                    _step_all(learners, plan, site, x)
            _show(bar, learners, batch)
            finished = all(learner.done for learner in learners.values())
            if out is not None and not finished and (interrupted() or time.monotonic() - saved > save_every):
                _save(out, config, learners, buffers, position)
                saved = time.monotonic()
            if finished:
                break
            if interrupted():
                where = "" if out is None else f"; run the same command again to go on from {out}"
                raise KeyboardInterrupt(f"stopped after {bar.n:,} tokens{where}")
    run.dictionaries = {key: learner.export(facts[key]) for key, learner in learners.items()}
    if out is not None:
        run.save(out)
        (out / "checkpoint.safetensors").unlink(missing_ok=True)
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


def _stream(net: Network, data: Any, sites: list[str], seed: int, start: dict[str, int]) -> Iterator[tuple]:
    """The data's batches in a new random order each epoch, from a position on, and the position after each."""
    epoch, row = start["epoch"], start["row"]
    while True:
        for seen in activations(net, data, sites, start=row, seed=seed + epoch):
            yield seen, {"epoch": epoch, "row": seen.next_row}
        epoch, row = epoch + 1, 0


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


def _save(out: Path, config: dict[str, Any], learners: dict[str, Learner], buffers: dict[str, ShuffleBuffer],
          position: dict[str, int]) -> None:
    """One checkpoint in one file, which is whole or not there."""
    tensors, facts = {}, {}
    for key, learner in learners.items():
        own, facts[key] = learner.state()
        tensors.update({f"learner|{key}|{name}": t.detach().cpu() for name, t in own.items()})
    for site, buffer in buffers.items():
        tensors.update({f"buffer|{site}|{name}": t.cpu() for name, t in buffer.state().items()})
    header = {"config": config, "position": position, "learners": facts}
    write_safetensors(out / "checkpoint.safetensors", {name: t.contiguous() for name, t in tensors.items()},
                      {"cutaway": json.dumps(header)})


def _resume(out: Path, config: dict[str, Any], learners: dict[str, Learner], buffers: dict[str, ShuffleBuffer]) -> dict | None:
    """Load the checkpoint in a folder, if there is one, and return the data's position."""
    path = out / "checkpoint.safetensors"
    if not path.exists():
        write_json(out / "learning.json", config)
        return None
    from safetensors import safe_open
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["cutaway"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header["config"] != json.loads(json.dumps(config)):
        changed = [name for name in config if header["config"].get(name) != json.loads(json.dumps(config[name]))]
        raise ValueError(f"{out} holds unfinished training with other settings ({', '.join(changed)} differ); "
                         "use another folder, or the same settings to go on.")

    def part(kind: str, key: str) -> dict[str, Tensor]:
        start = f"{kind}|{key}|"
        return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

    for key, learner in learners.items():
        learner.load_state(part("learner", key), header["learners"][key])
    for site, buffer in buffers.items():
        buffer.load_state(part("buffer", site))
    return header["position"]
