"""Interchange: latents of one question are taken over from another token; does its answer follow, and do others stay?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..dictionary import Dictionary
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .probes import Probe, accuracy, balanced, fit
from .wired import elsewhere

NS = (1, 2, 5, 10, 20, 50)       # latents that are taken over
QUESTIONS, ALIKE = 6, 0.5        # so many questions, no two of which correlate more than this
READ = 0.8                       # accuracy with which a question must be read from the activations
EACH, PAIRS, LEAST = 300, 100, 50
STRENGTH = 1e-2
TRAIN, CHOOSE, SCORE = 0, 1, 2   # parts of a split
NAMES = ("interchange_cause", "interchange_isolation", "interchange_both")
Pairs = tuple[np.ndarray, np.ndarray]
Patch = Callable[["Asked", int, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Asked:
    """Questions of one split: y: bool [n, questions]; their probes on the activations; train: balanced tokens of each;
    pairs: for each question, by part of the split, tokens and as many with the other answer to take over from. All of these
    are read rightly."""

    names: list[str]
    y: np.ndarray
    probes: list[Probe]
    train: list[np.ndarray]
    pairs: list[dict[int, Pairs]]


def asked(bench: Bench, seed: int) -> Asked:
    """Questions that the activations answer well and that do not say the same, the best read first."""
    tasks, split, random = bench.tasks, bench.split(seed), np.random.default_rng(seed)
    found: list[tuple[float, int, Probe, np.ndarray]] = []
    for t in range(len(tasks.names)):
        y = tasks.y[:, t]
        train, choose, score = (balanced(y, np.flatnonzero(tasks.known & (split == part)), EACH, random) for part in range(3))
        if min(map(len, (train, choose, score))) < 2 * LEAST:
            continue
        probe = fit(bench.x[train].numpy(), y[train], STRENGTH)
        if (read := accuracy(probe(bench.x[choose].numpy()), y[choose])) >= READ:
            found.append((read, t, probe, train))
    chosen: list[tuple[int, Probe, np.ndarray]] = []
    for _, t, probe, train in sorted(found, key=lambda each: (-each[0], each[1])):
        same = [abs(np.corrcoef(tasks.y[tasks.known, t], tasks.y[tasks.known, other])[0, 1]) for other, *_ in chosen]
        if len(chosen) < QUESTIONS and max(same, default=0.0) <= ALIKE:
            chosen.append((t, probe, train))
    y = tasks.y[:, [t for t, *_ in chosen]]
    x = bench.x.numpy()
    pairs = [{part: _pairs(y[:, q], probe, x, np.flatnonzero(tasks.known & (split == part)), random)
              for part in (CHOOSE, SCORE)} for q, (_, probe, _) in enumerate(chosen)]
    names = [tasks.names[t] for t, *_ in chosen]
    return Asked(names, y, [probe for _, probe, _ in chosen], [train for *_, train in chosen], pairs)


def _pairs(y: np.ndarray, probe: Probe, x: np.ndarray, pool: np.ndarray, random: np.random.Generator) -> Pairs:
    """Tokens of a pool and others with the other answer, as many of either kind first; all are read rightly."""
    right = pool[(probe(x[pool]) > 0) == y[pool]]
    true, false = (random.permutation(right[y[right] == answer]) for answer in (True, False))
    n = min(len(true), len(false), PAIRS)
    return np.concatenate([true[:n], false[:n]]), np.concatenate([random.permutation(false[:n]), random.permutation(true[:n])])


def answers(asked: Asked, question: int, patched: np.ndarray, bench: Bench, pairs: Pairs) -> tuple[float, float]:
    """Of patched activations [pairs, d]: how often the question is answered as for the token that was taken over from; and how
    often other questions are answered as before, of all in which the two tokens differ."""
    before, taken = (bench.x[rows].numpy() for rows in pairs)
    cause = float(((asked.probes[question](patched) > 0) == asked.y[pairs[1], question]).mean())
    stayed = []
    for other in (probe for q, probe in enumerate(asked.probes) if q != question):
        read, differ = other(before) > 0, (other(before) > 0) != (other(taken) > 0)
        stayed.append(((other(patched) > 0) == read)[differ])
    return cause, float(np.concatenate(stayed).mean())


def both(cause: float, isolation: float) -> float:
    """Their harmonic mean, which is 0 for what changes nothing, and for what changes everything."""
    return 2 * cause * isolation / (cause + isolation) if cause + isolation else 0.0


def over_questions(bench: Bench, patch: Patch) -> Results:
    """The three figures of a way to patch, over questions and splits."""
    rows, things = [], []
    for seed in bench.seeds:
        if ("interchange", seed) not in bench.kept:
            bench.kept["interchange", seed] = asked(bench, seed)
        questions: Asked = bench.kept["interchange", seed]
        if len(questions.probes) < 3:
            continue
        for q, pairs in enumerate(questions.pairs):
            if min(len(pairs[part][0]) for part in (CHOOSE, SCORE)) < LEAST:
                continue
            found = answers(questions, q, patch(questions, q, *pairs[SCORE]), bench, pairs[SCORE])
            rows.append((*found, both(*found)))
            things.append(questions.names[q])
    if not rows:
        return dict.fromkeys(NAMES, Undefined("fewer than three questions are read well enough from the activations"))
    of = f"questions in {len(bench.seeds)} splits"
    cause, isolation, harmonic = np.array(rows).T
    # Alone, either is had for nothing: by taking over everything, or nothing.
    sides = (cause, ""), (isolation, ""), (harmonic, "higher")
    return {name: mean_of(values, better, of, things=things) for name, (values, better) in zip(NAMES, sides, strict=True)}


def interchange(dictionary: Dictionary, bench: Bench) -> Results:
    """Latents of the largest effect on a question's probe are taken over; how many is chosen on other documents."""
    if reason := elsewhere(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    decoder = dictionary.W_dec.detach().numpy()

    def patched(cut: np.ndarray, base: np.ndarray, source: np.ndarray) -> np.ndarray:
        change = bench.dense(dictionary, source)[:, cut] - bench.dense(dictionary, base)[:, cut]
        return bench.x[base].numpy() + change @ decoder[cut]

    def patch(asked: Asked, q: int, base: np.ndarray, source: np.ndarray) -> np.ndarray:
        train, y = asked.train[q], asked.y[:, q]
        codes = bench.dense(dictionary, train)
        effect = np.abs((codes[y[train]].mean(0) - codes[~y[train]].mean(0)) * (decoder @ asked.probes[q].weight))
        order, pairs = np.argsort(-effect, kind="stable"), asked.pairs[q][CHOOSE]
        n = max(NS, key=lambda n: both(*answers(asked, q, patched(order[:n], *pairs), bench, pairs)))
        return patched(order[:n], base, source)

    return over_questions(bench, patch)


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    """Nothing and everything taken over, and what lies along a question's probe and along no other's."""
    x = bench.x.numpy()

    def along(asked: Asked, q: int, base: np.ndarray, source: np.ndarray) -> np.ndarray:
        others = np.linalg.qr(np.stack([probe.weight for i, probe in enumerate(asked.probes) if i != q], 1))[0]
        own = asked.probes[q].weight - others @ (others.T @ asked.probes[q].weight)
        return x[base] + np.outer((x[source] - x[base]) @ own, own) / (own @ own)

    return {"nothing": ("floor", over_questions(bench, lambda asked, q, base, source: x[base])),
            "everything": ("floor", over_questions(bench, lambda asked, q, base, source: x[source])),
            "along the probe": ("ceiling", over_questions(bench, along))}


INTERCHANGE = Metric(
    "interchange", 2, "diagnostic",
    f"up to {QUESTIONS} questions that a probe reads from the activations ({READ:.0%}) and that correlate at most {ALIKE}; for "
    "each, the latents of the largest effect on its probe (how many is chosen on other documents) take the values that they "
    "have at a token with the other answer, the error stays; how often that answer is then read (cause), how often the other "
    "questions in which the two tokens differ are read as before (isolation), and their harmonic mean",
    "the idea of RAVEL (arXiv 2402.17700), whose attributes are answers of a large language model about entities; here they "
    "are what probes read at the site, nothing is trained to choose latents, and the harmonic mean takes the place of the "
    "mean, which is .5 for taking over nothing or everything",
    {"random": "floor", "permuted": "floor", "neurons": "beside", "components": "beside"}, interchange, anchors, repeats=3)
