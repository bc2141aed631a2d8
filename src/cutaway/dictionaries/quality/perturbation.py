"""Targeted perturbation: cutting the latents of one class should break its probe and no other."""

from __future__ import annotations

import numpy as np

from ..dictionary import Dictionary
from . import labels
from .bench import Bench
from .contract import Metric, Results, Sums, Undefined, mean_of
from .probes import accuracy, balanced, fit
from .wired import elsewhere

N = 10                           # latents that are cut
EACH, TEST = 300, 150
STRENGTH = 1e-2
NAMES = ("tpp_intended", "tpp_unintended", "tpp_selectivity")


def drops(dictionary: Dictionary, bench: Bench, at_random: bool = False) -> Results:
    """How much accuracy of each class's probe goes with its own latents, and with those of other classes."""
    if reason := elsewhere(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    names = [name for name in bench.tasks.names if name in labels.CLASSES or name.startswith("class ")]
    intended, unintended = [], []
    for seed in bench.seeds:
        split, random = bench.split(seed), np.random.default_rng(seed)
        chosen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in names:
            y = bench.tasks.of(name)
            train, test = (balanced(y, np.flatnonzero(bench.tasks.known & part), each, random)
                           for part, each in ((split < 2, EACH), (split == 2, TEST)))
            if len(train) == 2 * EACH and len(test) == 2 * TEST:
                chosen[name] = train, test
        probes = {name: fit(bench.x[train].numpy(), bench.tasks.of(name)[train], STRENGTH)
                  for name, (train, _) in chosen.items()}
        decoder, active = dictionary.W_dec.detach().numpy(), np.flatnonzero(np.diff(bench.matrix(dictionary).tocsc().indptr))
        for name, (train, _) in chosen.items():
            codes, y = bench.dense(dictionary, train), bench.tasks.of(name)[train]
            effect = np.maximum((codes[y].mean(0) - codes[~y].mean(0)) * (decoder @ probes[name].weight), 0)
            order = random.permutation(active) if at_random else np.argsort(-effect, kind="stable")
            cut = order[:N]
            fell = {}
            for other, (_, test) in chosen.items():
                x, truth = bench.x[test].numpy(), bench.tasks.of(other)[test]
                removed = bench.dense(dictionary, test)[:, cut] @ decoder[cut]
                fell[other] = accuracy(probes[other](x), truth) - accuracy(probes[other](x - removed), truth)
            intended.append(fell.pop(name))
            unintended.append(float(np.mean(list(fell.values()))) if fell else float("nan"))
    if len(intended) < 3 * len(bench.seeds):
        return dict.fromkeys(NAMES, Undefined("there are fewer than three classes with enough tokens"))
    of = f"classes in {len(bench.seeds)} splits"
    own = mean_of(intended, "higher", of)
    found: Results = {"tpp_intended": own, "tpp_unintended": mean_of(unintended, "", of)}
    error = np.std(intended, ddof=1) / len(intended) ** 0.5
    found["tpp_selectivity"] = Undefined(
        "the latents of a class cost its own probe less than two standard errors") if np.mean(intended) < 2 * error else Sums(
        np.stack([intended, unintended], 1), lambda sums: 1 - sums[..., 1] / sums[..., 0], "higher", of, len(intended))
    return found


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    return {"random latents": ("floor", drops(dictionary, bench, at_random=True))}


PERTURBATION = Metric(
    "targeted_perturbation", 1, "diagnostic",
    f"the {N} latents of the largest positive effect on a class's probe are cut from the test activations, the error "
    "stays; the fall of that probe's accuracy (intended), of the others' on average (unintended), and 1 - their "
    "ratio",
    "SAEBench's TPP is intended less unintended on other data; a published audit found it unrelated to quality at N = 10, so "
    "the two stand apart here and are no headline",
    {"random": "floor", "permuted": "floor", "neurons": "beside", "components": "beside"}, drops, anchors, repeats=3)
