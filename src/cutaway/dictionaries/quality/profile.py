"""The profile of a dictionary: every figure with its interval, its floor and its ceiling from the same run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...files import write_json
from ...network import Network
from ..apart import places
from ..cross_layer import CrossLayer
from ..dictionary import Dictionary
from ..evaluate import moved_to
from ..truth import World
from . import ablation, absorption, core, description, interchange, perturbation, probing, spurious, stability, truth
from .bench import Bench, gather
from .contract import Metric, Results, Sums, Undefined, average, less
from .controls import CONTROLS
from .held_out import held_out
from .keeping import SAME, kept
from .line import FORMAT, Line, Value, plain
from .wired import PROFILED, in_place, note

METRICS: dict[str, Metric] = {metric.id: metric for metric in (
    truth.TRUTH, core.RECONSTRUCTION, core.FIRING, core.WEIGHTS, core.BEHAVIOUR, probing.PROBING, absorption.ABSORPTION,
    spurious.SPURIOUS, perturbation.PERTURBATION, interchange.INTERCHANGE, description.DESCRIPTION, ablation.ABLATION,
    stability.STABILITY)}
ASKED = {metric.id for metric in (
    probing.PROBING, absorption.ABSORPTION, spurious.SPURIOUS, perturbation.PERTURBATION, interchange.INTERCHANGE)}


@dataclass(frozen=True)
class Profile:
    """All lines of one dictionary, and what they were measured on."""

    facts: dict[str, Any]
    lines: tuple[Line, ...]

    def __getitem__(self, name: str) -> Line:
        """The line of a figure."""
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(f"this profile has no figure {name!r}; it has {', '.join(line.name for line in self.lines)}.")

    def json(self) -> dict[str, Any]:
        """The profile as data; what is not defined is null, with its reason."""
        protocols = {m.name: {"protocol": m.protocol, "relation": m.relation, "role": m.role, "control_seeds": m.repeats}
                     for m in METRICS.values()}
        used = {line.metric for line in self.lines}
        lines = [{**asdict(line), "verdict": line.verdict} for line in self.lines]
        return plain({"format": FORMAT, **self.facts, "metrics": {name: protocols[name] for name in protocols if name in used},
                      "lines": lines})

    def save(self, path: str | Path) -> Path:
        """Write the profile as JSON."""
        return write_json(path, self.json())


@torch.no_grad()
def profile(run_or_dictionary: Any, net: Network | None, data: Any, *, trained_on: Any = None,
            others: Sequence[Dictionary] = (), metrics: Iterable[str] | None = None, tokens: int = 50_000,
            seeds: Sequence[int] = (0, 1, 2), unfinished: str | Path | None = None, progress: bool = False) -> Profile:
    """Every figure of a dictionary with its n, interval, floor and ceiling, all from the same run.

    run_or_dictionary: a `Dictionary`, or a `Run` with one. net, data: the network it belongs to, and data that it was not
        trained on; a `dictionaries.truth.World` of known features in the place of data needs no network.
    trained_on: the training data, so that rows with its documents are left out; a run knows its own.
    others: dictionaries of the same recipe from other seeds, for stability. metrics: some of `METRICS`; all if left out.
    tokens: how many activations are looked at. seeds: of controls, splits and probes, at least three.
    unfinished: a file that keeps the lines of each metric as soon as it is measured; a profile of the same dictionary on the
        same data takes from it what is there. Several may share it; delete it when all are finished.

    Figures of `METRICS` are named after published ones only where the protocol is theirs, and each metric says how it
    differs. A figure that the random dictionary of the same L0 reaches as well is said not to discriminate.
    """
    start = time.perf_counter()
    dictionary: Dictionary = run_or_dictionary
    if not isinstance(dictionary, Dictionary | CrossLayer):
        trained_on = getattr(run_or_dictionary, "data", None) if trained_on is None else trained_on
        dictionary = run_or_dictionary.dictionary
    if isinstance(dictionary, CrossLayer):
        raise ValueError("a cross-layer transcoder has a profile for each of its layers: give one of `source_layers()`, or use "
                         "evaluate for all of them together.")
    if dictionary.kind not in PROFILED:
        raise ValueError(f"the profile is of dictionaries whose codes say all that is written; this one is {dictionary.kind}: "
                         "use evaluate.")
    names = list(METRICS) if metrics is None else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"there is no metric {unknown[0]!r}; there are {', '.join(METRICS)}.")
    if len(seeds) < 3:
        raise ValueError(f"controls, splits and probes need at least three seeds; found {len(seeds)}.")
    dictionary = moved_to(dictionary, "cpu")
    options: dict[str, Any] = {"seeds": tuple(seeds), "others": tuple(moved_to(other, "cpu") for other in others)}
    said = "whether the dictionary was trained on this data is not known"
    if isinstance(data, World):
        bench = truth.bench_of(data, tokens, **options)
    else:
        if net is None:
            raise ValueError("data of a network needs the network; give net.")
        data, said = held_out(data, trained_on)
        bench = gather(net, dictionary, data, tokens, **options)
    facts = _facts(dictionary, bench, said)
    facts["tasks"] = list(bench.tasks.names) if bench.data is not None and ASKED.intersection(names) else []
    lines: list[Line] = []
    bar = tqdm(names, desc="profile", leave=False, disable=None if progress else True)
    times = {}
    for name in bar:
        bar.set_postfix_str(name)
        found, times[METRICS[name].name] = kept(
            unfinished, digest_of(METRICS[name], facts), partial(lines_of, METRICS[name], dictionary, bench, facts))
        lines += found
    facts |= {"seconds": round(time.perf_counter() - start, 2), "seconds_by_metric": times}
    return Profile(facts, tuple(lines))


def lines_of(metric: Metric, dictionary: Dictionary, bench: Bench, facts: dict[str, Any]) -> list[Line]:
    """The lines of one metric: the dictionary's figures, then those of each control that says something about them."""
    ours = metric.measure(dictionary, bench)
    defined = any(isinstance(result, Sums) for result in ours.values())
    controls: dict[str, tuple[str, Results]] = {}
    for name, role in metric.controls.items() if defined else ():
        # The best linear map of what is read is no ceiling for what is written elsewhere.
        role = "beside" if role == "ceiling" and not in_place(dictionary) else role
        controls[name] = role, _control(name, metric, dictionary, bench)
    if metric.anchors is not None and defined:
        controls |= metric.anchors(dictionary, bench)
    digest = digest_of(metric, facts)
    lines = []
    for name, result in ours.items():
        beside = {control: _value(found[name], role) for control, (role, found) in controls.items() if name in found}
        floor = controls["random"][1].get(name) if "random" in controls else None
        difference, tells, equal = None, None, []
        better = result.better if isinstance(result, Sums) else ""
        if isinstance(result, Sums) and isinstance(floor, Sums):
            difference = less(result, floor)
            tells = _exceeds(difference, better)
        for control, (role, found) in controls.items():
            other = found.get(name)
            if role == "beside" and isinstance(result, Sums) and isinstance(other, Sums) and _exceeds(
                    less(result, other), better) is False:
                equal.append(control)
        unit = result.unit if isinstance(result, Sums) else ""
        lines.append(Line(name, metric.name, metric.role, better, unit, _value(result), beside, difference, tells,
                          tuple(equal), digest))
    return lines


def digest_of(metric: Metric, facts: dict[str, Any]) -> str:
    """Of the way of measuring, and of what is measured on what."""
    compared = ("others",) if metric.id == stability.STABILITY.id else ()
    return metric.digest({key: facts[key] for key in (*SAME, *compared)})


def _exceeds(difference: tuple[float, float, float], better: str) -> bool | None:
    """Whether a difference with its interval lies on the better side of zero; none where neither side is, or no interval."""
    if not isfinite(difference[1]):
        return None
    return {"higher": difference[1] > 0, "lower": difference[2] < 0}.get(better)


def _control(name: str, metric: Metric, dictionary: Dictionary, bench: Bench) -> Results:
    """A control's figures, averaged over its seeds where it has some."""
    make, seeded = CONTROLS[name]
    found = []
    for seed in bench.seeds[: metric.repeats] if seeded else (0,):
        if (name, seed) not in bench.kept:
            bench.kept[name, seed] = make(dictionary, bench.x, seed, bench.y)
        found.append(metric.measure(bench.kept[name, seed], bench))
    merged: Results = {}
    for figure, first in found[0].items():
        defined = [result for each in found if isinstance(result := each[figure], Sums)]
        merged[figure] = average(defined) if defined else first
    return merged


def _value(result: Sums | Undefined, role: str = "") -> Value:
    if isinstance(result, Undefined):
        return Value(role=role, undefined=result.reason)
    value = result.value
    if not isfinite(value):
        return Value(role=role, undefined="the result is not a finite number")
    return Value(value, *result.interval, result.n, result.of, role)


def checksum(dictionary: Dictionary) -> str:
    """A number that changes with the weights, for knowing a profile's dictionary again."""
    weights = torch.cat([p.detach().flatten()[:: max(1, p.numel() // 4096)].double() for p in dictionary.parameters()])
    return f"{float(weights.sum()):.9g}"


def _facts(dictionary: Dictionary, bench: Bench, said: str) -> dict[str, Any]:
    from ...network.fingerprint import fingerprint
    net, data = bench.net, bench.data
    recipe = dictionary.facts.recipe
    made = {"site": places(dictionary), "width": dictionary.width, "d": dictionary.d, "recipe": recipe.get("name", "")}
    official = {name: round(bench.n / n, 4) for name, n in core.OFFICIAL.items()}
    return {
        "network": net.name if net else "", "fingerprint": fingerprint(net) if net else "",
        "dictionary": {**made, "checksum": checksum(dictionary)}, "others": [checksum(other) for other in bench.others],
        "data": f"{data.name} ({data.fingerprint})" if data is not None else f"the world {bench.truth[0].name}",
        "held_out": said, "note": note(dictionary), "tokens": bench.n, "rows": len(set(bench.row.tolist())),
        "groups": f"{bench.groups} {bench.grouped_by}",
        "seeds": list(bench.seeds), "share_of_official_budget": official}
