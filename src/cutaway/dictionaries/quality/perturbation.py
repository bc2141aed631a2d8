"""Targeted perturbation: cutting the latents of one class should break its probe and no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dictionary import Dictionary
from . import labels
from .bench import Bench
from .contract import Metric, Results, Sums, Undefined, mean_of, together
from .probes import Probe, accuracy, balanced, fit
from .wired import elsewhere

N = 10                           # latents that are cut
EACH, TEST = 300, 150
STRENGTH = 1e-2
NAMES = ("tpp_intended", "tpp_unintended", "tpp_selectivity")


@dataclass(frozen=True)
class Class:
    """One class in one split: bool [n], tokens to train and to score, and its probe on the activations."""

    y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    probe: Probe


def classes(bench: Bench, seed: int) -> dict[str, Class]:
    """The classes with enough tokens on either side."""
    split, random, found = bench.split(seed), np.random.default_rng(seed), {}
    for name in bench.tasks.names:
        if name in labels.CLASSES or name.startswith("class "):
            y = bench.tasks.of(name)
            train, test = (balanced(y, np.flatnonzero(bench.tasks.known & part), each, random)
                           for part, each in ((split < 2, EACH), (split == 2, TEST)))
            if len(train) == 2 * EACH and len(test) == 2 * TEST:
                found[name] = Class(y, train, test, fit(bench.x[train].numpy(), y[train], STRENGTH))
    return found


def drops(dictionary: Dictionary, bench: Bench, at_random: bool = False) -> Results:
    """How much accuracy of each class's probe goes with its own latents, and with those of other classes."""
    if reason := elsewhere(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    intended, unintended, things = [], [], []
    decoder, active = dictionary.W_dec.detach().numpy(), np.flatnonzero(np.diff(bench.matrix(dictionary).tocsc().indptr))
    for seed in bench.seeds:
        if ("perturbation", seed) not in bench.kept:
            bench.kept["perturbation", seed] = classes(bench, seed)
        chosen: dict[str, Class] = bench.kept["perturbation", seed]
        tests = {name: bench.dense(dictionary, each.test) for name, each in chosen.items()}
        random = np.random.default_rng([seed, N])
        for name, own in chosen.items():
            codes, y = bench.dense(dictionary, own.train), own.y[own.train]
            effect = (codes[y].mean(0) - codes[~y].mean(0)) * (decoder @ own.probe.weight)
            order = np.argsort(-effect, kind="stable")
            cut = random.permutation(active)[:N] if at_random else order[effect[order] > 0][:N]
            fell = {}
            for other, each in chosen.items():
                x, truth = bench.x[each.test].numpy(), each.y[each.test]
                removed = tests[other][:, cut] @ decoder[cut]
                fell[other] = accuracy(each.probe(x), truth) - accuracy(each.probe(x - removed), truth)
            things.append(name)
            intended.append(fell.pop(name))
            unintended.append(float(np.mean(list(fell.values()))) if fell else float("nan"))
    if len(intended) < 3 * len(bench.seeds):
        return dict.fromkeys(NAMES, Undefined("there are fewer than three classes with enough tokens"))
    of = f"classes in {len(bench.seeds)} splits"
    found: Results = {"tpp_intended": mean_of(intended, "higher", of, things=things),
                      "tpp_unintended": mean_of(unintended, "", of, things=things)}
    both = together(np.stack([intended, unintended], 1), things)
    error = both[:, 0].std(ddof=1) / len(both) ** 0.5
    found["tpp_selectivity"] = Undefined(
        "the latents of a class cost its own probe less than two standard errors") if both[:, 0].mean() < 2 * error else Sums(
        both, lambda sums: 1 - sums[..., 1] / sums[..., 0], "higher", of, len(both))
    return found


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    return {"random latents": ("floor", drops(dictionary, bench, at_random=True))}


PERTURBATION = Metric(
    "targeted_perturbation", 2, "diagnostic",
    f"the {N} latents of the largest positive effect on a class's probe are cut from the test activations, the error "
    "stays; the fall of that probe's accuracy (intended), of the others' on average (unintended), and 1 - their "
    "ratio",
    "SAEBench's TPP is intended less unintended on other data; a published audit found it unrelated to quality at N = 10, so "
    "the two stand apart here and are no headline",
    {"random": "floor", "permuted": "floor", "neurons": "beside", "components": "beside"}, drops, anchors, repeats=3)
