"""The estimator table: which cheap score agrees with the exact effect, for heads, neurons, features and layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..catalogue import proof
from ..data.corpora import stdlib
from ..dictionaries import Dictionary, TopK
from ..network import Network, open
from ..scores.trust import agreement, stratified
from ..train import learn
from ..units import Units, units
from .proof import Comparison, Proof, compare, interval, say

SITE = "blocks.2"
SEEDS = (0, 1, 2)
SCORED, CHECKED, PATH = 4_096, 2_048, 512        # tokens a seed: of the scores, of the exact effect, of the path score
SAMPLE = 48                                      # units of a kind whose exact effect is measured, where there are more
WIDTH, K, LEARNED = 1024, 16, 65_536             # the dictionary whose features are scored
CHEAP = ("gradient", "abs", "fisher", "activation")
OTHER, SAME = "scored on other text", "scored on the same text"
Agreement = tuple[float, float, float]           # with its 95% interval over units
Found = dict[str, list[dict[str, dict[str, Agreement]]]]  # by kind, seed, text and score


@dataclass(frozen=True)
class Row:
    """One kind of unit: its table, the scores that are asked for, and options of the path score where it is one of them."""

    units: Units
    names: tuple[str, ...]
    path: bool = False


def tables(net: Network, dictionary: Dictionary) -> dict[str, Row]:
    """The kinds of unit of the estimator table."""
    return {
        "heads": Row(units(net, "heads"), CHEAP),
        "neurons of one layer": Row(units(net, "neurons", sites=f"{SITE}.mlp.neurons"), CHEAP),
        "features": Row(units(net, "features", dictionary=dictionary), (*CHEAP, "frequency")),
        "layers": Row(units(net, "layers"), CHEAP, path=True),
    }


def slices(data: Any, tokens: int, n: int) -> list[Any]:
    """n disjoint parts of data of so many tokens each, their rows drawn from all over it."""
    rows = max(1, tokens // data.row_tokens)
    if data.n_rows < n * rows:
        raise ValueError(f"{data.name} has {data.n_rows} rows, which is less than {n} parts of {rows}.")
    order = np.random.default_rng(0).permutation(data.index)
    return [replace(data, index=np.sort(order[i * rows: (i + 1) * rows])) for i in range(n)]


def agreements(row: Row, scored: Any, checked: Any, seed: int, n: int = SAMPLE) -> dict[str, dict[str, Agreement]]:
    """Spearman's rank correlation of each score with the exact effect on the checked text, with its interval over units.

    Gives two tables: of the scores on other text, and of the scores on the checked text itself, which share its chance.
    """
    table = row.units.score(list(row.names), scored)
    if row.path:
        table = table.score("path", scored, tokens=PATH, steps=4)
    if "frequency" in row.names:  # a feature that never fires has no effect to be ranked
        table = table.pick(table.column("frequency") > 0)
    sample = table.pick(stratified([table.column(name) for name in table.scores], len(table), n, seed))
    exact = sample.score("exact", checked).column("exact")
    same = replace(sample, about={}).score(list(row.names), checked)
    return {text: {name: agreement(t.column(name), exact, seed) for name in t.scores if np.ptp(t.column(name)) > 0}
            for text, t in ((OTHER, sample), (SAME, same))}


@proof("score-trust")
def score_trust() -> Proof:
    """Signed gradient and Fisher swap places between heads and neurons."""
    return measured(open("pico"))


def measured(net: Network) -> Proof:
    """The proof on a network that reads text."""
    dictionary = learn(net, stdlib(net, "train"), {SITE: TopK(WIDTH, K)}, LEARNED, batch=256, progress=False).dictionary
    say(f"learned {WIDTH} features at {SITE}")
    kinds = tables(net, dictionary)
    parts = zip(SEEDS, slices(stdlib(net, "validation"), SCORED, len(SEEDS)),
                slices(stdlib(net, "test"), CHECKED, len(SEEDS)), strict=True)
    found: Found = {kind: [] for kind in kinds}
    for seed, scored, checked in parts:
        for kind, row in kinds.items():
            found[kind].append(agreements(row, scored, checked, seed))
            for text, values in found[kind][-1].items():
                say(f"seed {seed}, {kind}, {text}: " + ", ".join(f"{name} {v[0]:.2f}" for name, v in values.items()))
    return concluded(found, {kind: min(SAMPLE, len(row.units)) for kind, row in kinds.items()}, net.name)


def concluded(found: Found, sizes: dict[str, int], name: str) -> Proof:
    """The proof from the agreements."""
    def of(kind: str, score: str, text: str) -> list[float]:
        return [seed[text][score][0] for seed in found[kind] if score in seed[text]]

    def mean(kind: str, score: str, text: str) -> float:
        return float(np.mean(of(kind, score, text)))

    def summary(kind: str, score: str, text: str) -> dict[str, Any]:
        values = of(kind, score, text)
        return {"mean": mean(kind, score, text), "interval over seeds": interval(values), "by seed": values,
                "interval over units by seed": [seed[text][score][1:] for seed in found[kind] if score in seed[text]]}

    def swapped(text: str) -> tuple[Comparison, ...]:
        return tuple(compare(first, second, f"rank correlation with the exact effect, {kind}, {text}",
                             of(kind, first, text), of(kind, second, text), "higher")
                     for kind, first, second in (("heads", "fisher", "gradient"),
                                                 ("neurons of one layer", "gradient", "fisher")))

    return Proof(
        "score-trust", "Signed gradient and Fisher swap places between heads and neurons: for heads the signed gradient "
        "agrees less than Fisher with the exact effect, for the neurons of one layer it agrees more.",
        comparisons=swapped(OTHER),
        beside=swapped(SAME),
        figures={text: {kind: {score: summary(kind, score, text) for score in seeds[0][text]}
                        for kind, seeds in found.items()} for text in (OTHER, SAME)},
        n={**sizes, "validation tokens of the scores": SCORED, "validation tokens of path": PATH,
           "test tokens of the exact effect": CHECKED},
        seeds=SEEDS,
        notes=(f"On {name}, the standard library's source; units are closed to zero, layers are skipped; the metric is the "
               f"mean next-token loss. Neurons and features are those of {SITE}, the features that fire at all on the "
               "seed's validation text. Gradient is signed.",
               "The claim is judged by scores on validation text and the exact effect on test text; beside it stand the "
               "same scores on the test text itself, which share its chance with the exact effect.",
               "A seed is its own text and its own sample of neurons and features; heads and layers are all of them. There "
               "are few layers, so that their agreement is coarse.")
    ).unless(
        f"Likely why: over {CHECKED:,} tokens the exact effect of one neuron is mostly the chance of the text. The signed "
        f"gradient agrees {mean('neurons of one layer', 'gradient', SAME):.2f} with it on the same text and "
        f"{mean('neurons of one layer', 'gradient', OTHER):.2f} on other text, Fisher "
        f"{mean('neurons of one layer', 'fisher', SAME):.2f} and {mean('neurons of one layer', 'fisher', OTHER):.2f}. For "
        f"heads the signed gradient itself changes with the text, from {min(of('heads', 'gradient', OTHER)):.2f} to "
        f"{max(of('heads', 'gradient', OTHER)):.2f}, and Student's interval over three seeds is wide.")
