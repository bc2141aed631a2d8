"""Sparse probing: how well a few latents answer a question, with all that is chosen chosen on other documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dictionary import Dictionary
from .bench import Bench
from .contract import Metric, Result, Results, Undefined, mean_of
from .probes import auc, balanced, fit

KS = (1, 2, 5, 16)
EACH = (400, 200, 300)            # at most so many true and as many false tokens to train, to choose and to score
LEAST = 40                        # with fewer on a side, a task is undefined for a split
STRENGTHS = (1e-3, 1e-1)          # of the probes' penalty
FULL_STRENGTHS = (1e-3, 1e-2, 1e-1)
NAMES = tuple(f"probing_auc_k{k}" for k in KS) + ("probing_auc_best_k",)


@dataclass(frozen=True)
class Rows:
    """The tokens of one task under one split, and their answers."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    y: np.ndarray

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.train, self.validation, self.test


def rows_of(bench: Bench, y: np.ndarray, known: np.ndarray, seed: int) -> Rows | None:
    """Balanced tokens of the three parts of a split, whole documents each; none where a part has too few."""
    random, split = np.random.default_rng(seed), bench.split(seed)
    train, validation, test = (balanced(y, np.flatnonzero(known & (split == part)), each, random)
                               for part, each in enumerate(EACH))
    return None if min(map(len, (train, validation, test))) < 2 * LEAST else Rows(train, validation, test, y)


def orders(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Latents from best to worst by the difference of their means [as in SAEBench], and by it in standard deviations."""
    gap = np.abs(x[y].mean(0) - x[~y].mean(0))
    spread = x.std(0)
    return [np.argsort(-score, kind="stable")[:max(KS)] for score in (gap, gap / (spread + 1e-6 + 1e-2 * spread.max()))]


def answer(x: tuple[np.ndarray, ...], y: tuple[np.ndarray, ...]) -> list[float]:
    """Test AUC with the best k latents for each k, and with the best k itself; x and y of the three parts.

    For each k, the way of ranking latents and the penalty are those of the best AUC on the validation part.
    """
    ranked, scores = orders(x[0], y[0]), []
    for k in KS:
        tried = []
        for order in ranked:
            for strength in STRENGTHS:
                probe = fit(x[0][:, order[:k]], y[0], strength)
                tried.append((auc(probe(x[1][:, order[:k]]), y[1]), probe, order[:k]))
        best, probe, chosen = max(tried, key=lambda t: t[0])
        scores.append((best, auc(probe(x[2][:, chosen]), y[2])))
    return [*(test for _, test in scores), max(scores)[1]]


def probing(dictionary: Dictionary, bench: Bench, shuffled: bool = False) -> Results:
    """AUC on tokens of documents that nothing was chosen on, averaged over tasks and splits."""
    tasks = bench.tasks
    found = np.full((len(bench.seeds), len(tasks.names), len(NAMES)), np.nan)
    for s, seed in enumerate(bench.seeds):
        for t in range(len(tasks.names)):
            rows = rows_of(bench, tasks.y[:, t], tasks.known, seed)
            if rows is None:
                continue
            x = tuple(bench.dense(dictionary, part) for part in rows.parts())
            train, validation, test = (rows.y[part] for part in rows.parts())
            if shuffled:
                random = np.random.default_rng(seed)
                train, validation = random.permutation(train), random.permutation(validation)
            found[s, t] = answer(x, (train, validation, test))
    return {name: _over_tasks(found[:, :, i], bench) for i, name in enumerate(NAMES)}


def _over_tasks(found: np.ndarray, bench: Bench) -> Result:
    if not found.size:
        return Undefined(f"there are no questions about this data: {bench.tasks.sources}")
    known = np.isfinite(found)
    means = np.where(known, found, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    return mean_of(means, "higher", f"tasks in {len(bench.seeds)} splits of {bench.groups} {bench.grouped_by}", least=5)


def everything(bench: Bench) -> Results:
    """A probe on the activations themselves, its penalty chosen like the others'."""
    found = np.full((len(bench.seeds), len(bench.tasks.names)), np.nan)
    for s, seed in enumerate(bench.seeds):
        for t in range(len(bench.tasks.names)):
            rows = rows_of(bench, bench.tasks.y[:, t], bench.tasks.known, seed)
            if rows is not None:
                x = [bench.x[part].numpy() for part in rows.parts()]
                y = [rows.y[part] for part in rows.parts()]
                probes = [fit(x[0], y[0], strength) for strength in FULL_STRENGTHS]
                found[s, t] = auc(max(probes, key=lambda probe: auc(probe(x[1]), y[1]))(x[2]), y[2])
    return dict.fromkeys(NAMES, _over_tasks(found, bench))


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    return {"shuffled labels": ("floor", probing(dictionary, bench, shuffled=True)),
            "probe on all dimensions": ("ceiling", everything(bench))}


PROBING = Metric(
    "sparse_probing", 1, "downstream",
    f"logistic probes on the k latents that differ most between true and false tokens; {EACH[0]} true and as many false tokens "
    "to train; ranking, penalty and best k are chosen on other documents than those that are scored",
    "SAEBench's sparse probing in idea only: questions about single tokens from the text itself for its 35 data sets, "
    "AUC in place of accuracy, nested selection", {"random": "floor", "neurons": "beside", "components": "beside"},
    probing, anchors, repeats=3)
