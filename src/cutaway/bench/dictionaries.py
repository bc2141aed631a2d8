"""Every method of learning a dictionary, at equal L0, on everything, over seeds; each training is kept when it is finished."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..catalogue import find, methods
from ..dictionaries import Dictionary, Facts, Recipe
from ..dictionaries.truth import stability
from ..files import write_json, write_safetensors
from ..metrics import fidelity
from ..train.learner import Learner
from .scenes import SCENES, Scene, scene

SAMPLE, DECOMPOSED = 4096, 8192   # activations that a dictionary begins from, and that PCA and its like see
# Bilinear autoencoders reconstruct products of activations, so that neither FVU nor L0 means the same; the others learn from
# several tensors of a token.
OTHER = ("bilinear-ae", "crosscoder", "crosscoder-l1", "cross-layer-transcoder", "gradient-sae", "skip-transcoder",
         "transcoder")
TRIES, CLOSE = 3, 0.05           # trainings to bring a penalised method to the wanted L0, and how near is near enough


@dataclass(frozen=True)
class Plan:
    """What is compared: scenes and methods by name (none means all), and how long each is trained.

    samples: activations of each training, batch of them a step. rates: multiples of a method's own learning rate that are
    tried on validation data at the first seed. frontier: at several L0 where a scene has them.
    """

    scenes: tuple[str, ...] = SCENES
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 200_000
    batch: int = 256
    rates: tuple[float, ...] = (1.0, 0.3)
    frontier: bool = True


QUICK = Plan(("superposed-2", "hierarchical"), ("topk", "relu-l1", "mp-sae"), (0, 1), 10_000, 256, (1.0,), False)


def comparable() -> list[str]:
    """The methods that make a dictionary of a given width from activations alone, by training or at once."""
    known = {id: set(found.signature.parameters) for id, found in methods("dictionary").items()}
    return [id for id, names in known.items() if id not in OTHER and ({"width", "lr"} <= names or {"x", "width"} <= names)]


def options(id: str, width: int, l0: float) -> dict[str, Any]:
    """What a method is told of a width and a wanted L0: what of width, k and l0 it takes.

    Groups are as many as divide the width and come nearest to the L0.
    """
    k = max(1, round(l0))
    if id == "group-max":
        k = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - l0))
    known = find(id, "dictionary").signature.parameters
    return {name: value for name, value in {"width": width, "k": k, "l0": float(l0)}.items() if name in known}


def recipe_of(id: str, width: int, l0: float, rate: float = 1.0) -> Recipe:
    """A method's recipe for a width and a wanted L0, at a multiple of its own learning rate."""
    make, given = find(id, "dictionary").object, options(id, width, l0)
    return make(**given, lr=rate * make(**given).rate)


def decomposition(id: str, on: Scene, l0: float, seed: int) -> Dictionary:
    """The dictionary of a method that decomposes a sample at once, such as PCA; at most `DECOMPOSED` activations."""
    found = find(id, "dictionary")
    seeds = {"seed": seed} if "seed" in found.signature.parameters else {}
    return found.object(next(on.train(DECOMPOSED, DECOMPOSED, seed)), **options(id, on.width, l0), **seeds)


def learn(recipe: Recipe, on: Scene, samples: int, batch: int, seed: int) -> Dictionary:
    """A dictionary of a recipe, from fresh activations of a scene."""
    begin = next(on.train(SAMPLE, SAMPLE, seed + 5000))
    learner = Learner(recipe, begin, samples // batch, batch, seed)
    for x in on.train(samples, batch, seed):
        if learner.done:
            break
        learner.step(x)
    made = learner.export(Facts())
    assert made is not None     # one process trains alone here
    return made


def at_l0(id: str, on: Scene, l0: float, rate: float, plan: Plan, seed: int) -> tuple[Dictionary, float]:
    """A dictionary whose L0 on validation data is the wanted one, where the method can be told, and its FVU there.

    A method that is told an L0 and misses it is told again, by what it missed.
    """
    aim, steered = float(l0), "l0" in find(id, "dictionary").signature.parameters
    for _ in range(TRIES if steered else 1):
        dictionary = learn(recipe_of(id, on.width, aim, rate), on, plan.samples, plan.batch, seed)
        found = fidelity(dictionary, on.validation)
        if abs(found["l0"] / l0 - 1) <= CLOSE or found["l0"] == 0:
            break
        aim *= min(max(l0 / found["l0"], 0.5), 2.0)
    return dictionary, found["fvu"]


def bench(out: str | Path, plan: Plan = Plan()) -> list[dict[str, Any]]:  # noqa: B008
    """Run what is not yet there of a plan, and give all of its cells: scene, method, l0, seed and figures.

    Each cell is a JSON file in `out`, with its decoder's rows beside it, from which stability over seeds is made. A method
    that cannot be trained on a scene has its error in the cell. A folder belongs to one budget: samples, batch, rates.
    """
    out = Path(out)
    budget = {name: value for name, value in asdict(plan).items() if name in ("samples", "batch", "rates")}
    budget["rates"] = list(plan.rates)
    ids = plan.methods or tuple(comparable())
    for id in ids:
        find(id, "dictionary")
    wanted = {name: scene(name, plan.samples, plan.frontier) for name in plan.scenes}
    path = out / "budget.json"
    kept_budget = json.loads(path.read_text(encoding="utf-8")) if path.exists() else budget
    if kept_budget != budget:
        said = ", ".join(f"{name} {kept_budget[name]}" for name in budget)
        raise ValueError(f"{out} holds trainings of another budget ({said}); take another folder, or the same samples, batch "
                         "and rates.")
    write_json(path, budget)
    for seed in plan.seeds:
        for name, l0, id in _order(wanted, ids):
            _cell(out, id, wanted[name], name, l0, seed, plan)
    return kept(out, plan)


def kept(out: str | Path, plan: Plan = Plan()) -> list[dict[str, Any]]:  # noqa: B008
    """The cells of a plan that are there already, with their stability over seeds."""
    return [_stable(Path(out), cell) for cell in cells(out)
            if cell["scene"] in plan.scenes and (not plan.methods or cell["method"] in plan.methods)]


def _order(wanted: dict[str, Scene], ids: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
    """The table's L0 of all scenes first, then the rest of the frontiers."""
    for place in range(max(len(one.l0s) for one in wanted.values())):
        for name, one in wanted.items():
            for id in ids:
                if place < len(one.l0s):
                    yield name, one.l0s[place], id


def _cell(out: Path, id: str, on: Scene, name: str, l0: int, seed: int, plan: Plan) -> None:
    path = out / name / f"{id}-l0-{l0}-seed-{seed}.json"
    if path.exists():
        return
    start, cpu = time.perf_counter(), time.process_time()
    facts = {"scene": name, "method": id, "l0": l0, "seed": seed, "width": on.width}
    try:
        rate, dictionary = _tuned(out, id, on, name, l0, plan, seed)
        figures = dict(on.judge(dictionary))
    except (ValueError, NotImplementedError, TypeError) as error:
        write_json(path, {**facts, "error": str(error)})
        print(f"  {name}, {id}, L0 {l0}, seed {seed}: {error}", file=sys.stderr, flush=True)
        return
    write_safetensors(path.with_suffix(".safetensors"), {"W_dec": dictionary.W_dec.detach().contiguous()})
    write_json(path, {**facts, "rate": rate, "figures": figures, "seconds": time.perf_counter() - start,
                      "cpu_seconds": time.process_time() - cpu})
    told = ", ".join(f"{key} {figures[key]:.3f}" for key in ("fvu", "l0", "cosine", "f1") if key in figures)
    print(f"  {name}, {id}, L0 {l0}, seed {seed}: {told} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)


def _tuned(out: Path, id: str, on: Scene, name: str, l0: int, plan: Plan, seed: int) -> tuple[float, Dictionary]:
    """A dictionary of a seed at the multiple of the method's own learning rate with the least FVU on validation data.

    The multiple is chosen at the first seed, which is trained at all of them, and kept for the others.
    """
    if "x" in find(id, "dictionary").signature.parameters:
        return 1.0, decomposition(id, on, l0, seed)
    path = out / name / f"{id}-l0-{l0}-rate.json"
    if path.exists():
        rate = float(json.loads(path.read_text(encoding="utf-8"))["rate"])
        return rate, at_l0(id, on, l0, rate, plan, seed)[0]
    tried = {rate: at_l0(id, on, l0, rate, plan, plan.seeds[0]) for rate in plan.rates}
    best = min(tried, key=lambda rate: tried[rate][1])
    write_json(path, {"rate": best, "validation_fvu": {rate: fvu for rate, (_, fvu) in tried.items()}})
    return best, tried[best][0] if seed == plan.seeds[0] else at_l0(id, on, l0, best, plan, seed)[0]


def cells(out: str | Path) -> list[dict[str, Any]]:
    """What a folder holds."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(out).glob("*/*-seed-*.json"))]


def _stable(out: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """The cell with its stability: the mean cosine of its decoder's rows with those of the next seed that is there."""
    if "error" in cell:
        return cell
    stem = f"{cell['method']}-l0-{cell['l0']}-seed-"
    paths = sorted((out / cell["scene"]).glob(f"{stem}*.safetensors"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    own = next(i for i, path in enumerate(paths) if path.stem == f"{stem}{cell['seed']}")
    if len(paths) > 1:
        a, b = (load_file(paths[i % len(paths)])["W_dec"] for i in (own, own + 1))
        cell["figures"]["stability"] = stability(a, b)
    return cell
