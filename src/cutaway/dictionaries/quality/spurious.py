"""Removing a spurious correlation: does cutting a few latents make a biased probe right?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..dictionary import Dictionary
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .probes import Probe, accuracy, fit
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


@dataclass(frozen=True)
class Case:
    """One pair of questions in one split: the tokens with even answers, those that are scored, the probe that learned where
    the answers agree, that of the other question, and the accuracy of the first and of one that learned from even answers."""

    even: np.ndarray
    scored: np.ndarray
    biased: Probe
    concept: Probe
    before: float
    best: float


def case(bench: Bench, seed: int, wanted: int, spurious: int) -> Case | None:
    """What does not depend on a dictionary; none where bias costs no more than chance."""
    random, split, x = np.random.default_rng([seed, wanted, spurious]), bench.split(seed), bench.x.numpy()
    y, other = bench.tasks.y[:, wanted], bench.tasks.y[:, spurious]
    train, test = (cells(y, other, np.flatnonzero(bench.tasks.known & part)) for part in (split < 2, split == 2))
    few = round(TRAIN * (1 - BIAS))
    uneven, even, scored = (draw(train, TRAIN - few, few, random), draw(train, TRAIN // 2, TRAIN // 2, random),
                            draw(test, TEST, TEST, random))
    biased, right = (fit(x[rows], y[rows], STRENGTH) for rows in (uneven, even))
    before, best = (accuracy(probe(x[scored]), y[scored]) for probe in (biased, right))
    if best - before < 2 * (2 * 0.25 / len(scored)) ** 0.5:
        return None
    return Case(even, scored, biased, fit(x[even], other[even], STRENGTH), before, best)


def removal(dictionary: Dictionary, bench: Bench) -> Results:
    """Accuracy that a biased probe wins back, as a share of what an unbiased probe has over it, over pairs of questions."""
    if reason := elsewhere(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    if "spurious" not in bench.kept:
        bench.kept["spurious"] = {(seed, pair): case(bench, seed, *pair) for seed in bench.seeds for pair in pairs(bench, seed)}
    cases: dict[tuple[int, tuple[int, int]], Case | None] = bench.kept["spurious"]
    if not cases:
        return dict.fromkeys(NAMES, Undefined("no two questions have all four pairs of answers often enough"))
    decoder, found = dictionary.W_dec.detach().numpy(), np.full((len(cases), len(NS)), np.nan)
    for row, ((_, (wanted, spurious)), at) in enumerate(cases.items()):
        if at is None:
            continue
        x, y, other = bench.x[at.scored].numpy(), bench.tasks.y[at.scored, wanted], bench.tasks.y[at.even, spurious]
        codes, scored = bench.dense(dictionary, at.even), bench.dense(dictionary, at.scored)
        effect = np.abs((codes[other].mean(0) - codes[~other].mean(0)) * (decoder @ at.concept.weight))
        order = np.argsort(-effect, kind="stable")
        found[row] = [(accuracy(at.biased(x - scored[:, order[:n]] @ decoder[order[:n]]), y) - at.before)
                      / (at.best - at.before) for n in NS]
    harmless = sum(at is None for at in cases.values())
    said = f"pairs of questions in {len(bench.seeds)} splits; {harmless} times bias cost less than its error"
    things = [frozenset(pair) for _, pair in cases]
    return {name: mean_of(found[:, i], "higher", said, least=5, things=things) for i, name in enumerate(NAMES)}


SPURIOUS = Metric(
    "spurious_removal", 2, "diagnostic",
    f"a probe learns a question where another has the same answer {BIAS:.0%} of the time; the N latents of the largest effect "
    "on a probe of the other question are cut from the test activations, the error of reconstruction stays; (cut - biased) / "
    "(unbiased - biased) of the accuracy where all four combinations are equal; pairs count where the denominator is over two "
    "standard errors",
    "the idea of SHIFT and of SAEBench's SCR; other data, questions and probes. A published audit found that SCR ranks a "
    "perfect dictionary below trained ones, so it is no headline",
    {"random": "floor", "permuted": "floor", "neurons": "beside", "components": "beside"}, removal, repeats=3)
