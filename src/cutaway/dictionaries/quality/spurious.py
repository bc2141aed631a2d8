"""Removing a spurious correlation: does cutting a few latents make a biased probe right?"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ..dictionary import Dictionary
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .probes import accuracy, fit
from .wired import elsewhere

NS = (10, 50)                    # latents that are cut
PAIRS, TRAIN, TEST = 12, 200, 100
BIAS = 0.95                      # how often the two labels agree where the biased probe learns
STRENGTH = 1e-2
NAMES = tuple(f"scr_{n}" for n in NS)
Cells = dict[tuple[bool, bool], np.ndarray]


def cells(a: np.ndarray, b: np.ndarray, pool: np.ndarray) -> Cells:
    """The members of a pool for each answer to two questions."""
    return {(i, j): pool[(a[pool] == i) & (b[pool] == j)] for i in (False, True) for j in (False, True)}


def pairs(bench: Bench, seed: int) -> list[tuple[int, int]]:
    """Pairs of questions whose answers are free of each other: all four combinations are common on both sides."""
    tasks, split, random = bench.tasks, bench.split(seed), np.random.default_rng(seed)
    train, test = (np.flatnonzero(tasks.known & part) for part in (split < 2, split == 2))
    found = [(i, j) for i, j in combinations(range(len(tasks.names)), 2)
             if min(map(len, cells(tasks.y[:, i], tasks.y[:, j], train).values())) >= TRAIN
             and min(map(len, cells(tasks.y[:, i], tasks.y[:, j], test).values())) >= TEST]
    return [tuple(random.permutation(found[i]).tolist()) for i in random.permutation(len(found))[:PAIRS]]


def draw(cells: Cells, agree: int, differ: int, random: np.random.Generator) -> np.ndarray:
    return np.concatenate([random.permutation(members)[:agree if i == j else differ] for (i, j), members in cells.items()])


def removal(dictionary: Dictionary, bench: Bench) -> Results:
    """Accuracy that a biased probe wins back, as a share of what an unbiased probe has over it, over pairs of questions."""
    if reason := elsewhere(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    found: list[list[float]] = []
    unmeasurable = 0
    for seed in bench.seeds:
        split = bench.split(seed)
        for wanted, spurious in _kept_pairs(bench, seed):
            random = np.random.default_rng([seed, wanted, spurious])
            y, other = bench.tasks.y[:, wanted], bench.tasks.y[:, spurious]
            train, test = (cells(y, other, np.flatnonzero(bench.tasks.known & part)) for part in (split < 2, split == 2))
            few = round(TRAIN * (1 - BIAS))
            biased, even, scored = (draw(train, TRAIN - few, few, random), draw(train, TRAIN // 2, TRAIN // 2, random),
                                    draw(test, TEST, TEST, random))
            x = bench.x.numpy()
            base, oracle, concept = (fit(x[rows], of[rows], STRENGTH) for rows, of in (
                (biased, y), (even, y), (even, other)))
            before, best = accuracy(base(x[scored]), y[scored]), accuracy(oracle(x[scored]), y[scored])
            if best - before < 2 * (2 * 0.25 / len(scored)) ** 0.5:
                unmeasurable += 1
                found.append([float("nan")] * len(NS))
                continue
            codes = bench.dense(dictionary, even)
            decoder = dictionary.W_dec.detach().numpy()
            effect = np.abs((codes[other[even]].mean(0) - codes[~other[even]].mean(0)) * (decoder @ concept.weight))
            order, test_codes = np.argsort(-effect, kind="stable"), bench.dense(dictionary, scored)
            found.append([(accuracy(base(x[scored] - test_codes[:, order[:n]] @ decoder[order[:n]]), y[scored]) - before)
                          / (best - before) for n in NS])
    if not found:
        return dict.fromkeys(NAMES, Undefined("no two questions have all four pairs of answers often enough"))
    said = f"pairs of questions in {len(bench.seeds)} splits; {unmeasurable} more where bias costs less than its error"
    return {name: mean_of(np.array(found)[:, i], "higher", said, least=5) for i, name in enumerate(NAMES)}


def _kept_pairs(bench: Bench, seed: int) -> list[tuple[int, int]]:
    if ("pairs", seed) not in bench.kept:
        bench.kept["pairs", seed] = pairs(bench, seed)
    return bench.kept["pairs", seed]


SPURIOUS = Metric(
    "spurious_removal", 1, "diagnostic",
    f"a probe learns a question where another has the same answer {BIAS:.0%} of the time; the N latents of the largest effect "
    "on a probe of the other question are cut from the test activations, the error of reconstruction stays; (cut - biased) / "
    "(unbiased - biased) of the accuracy where all four combinations are equal; pairs count where the denominator is over two "
    "standard errors",
    "the idea of SHIFT and of SAEBench's SCR; other data, questions and probes. A published audit found that SCR ranks a "
    "perfect dictionary below trained ones, so it is no headline",
    {"random": "floor", "permuted": "floor", "neurons": "beside", "components": "beside"}, removal, repeats=3)
