"""Names by rule induction: which tokens, sequences and character patterns say best where a feature fires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..catalogue import method
from ..dictionaries import Feature
from .guess import Guess
from .rules import SHORTLY, Part, Pattern, Rule
from .surroundings import STATES
from .text import Positions, Text
from .vocabulary import CLASSES, Vocabulary
from .windows import FEWEST, Unmeasurable

GAIN = 0.02        # what a further pattern must add to the agreement
DEEPER = 0.03      # what a further part must add to it
BEAM = 6           # partial patterns that are followed at a time
BEST = 4           # parts of each kind that are tried at a place
MANY = 20_000      # tokens beyond which "shortly before" is not looked at


@dataclass(frozen=True)
class Signal:
    """A feature over the positions of the naming side: value and whether it fires [n], how often, and the sum of its values.

    before: hits, positions and sum that earlier patterns match already.
    """

    value: np.ndarray
    fires: np.ndarray
    count: int
    total: float
    before: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Found:
    """A pattern with what it matches: how often the feature fires there, how many positions, and the sum of its values."""

    parts: tuple[Part, ...]
    hits: float
    n: float
    sum: float
    where: np.ndarray


@method("rule-induction", family="explain", title="Names by rule induction", paper="after N2G, arXiv 2305.19911")
def rule_induction(feature: Feature, text: Text, patterns: int = 4, deepest: int = 3) -> Guess:
    """Say where a feature fires by at most a few patterns of tokens, found by sequential covering with a beam search.

    Everything is counted on all tokens of the naming side. A pattern joins up to `deepest` parts: the token itself, the
    three before it, or one shortly before; each exactly, in any case, by its beginning or end, or by a class of
    characters; or the state of the text there, such as in a comment. Patterns are added, at most `patterns` of them, while F1
    rises, whose recall is the mean of the shares of the feature's firings and of their summed activation, and whose precision
    is the share of matched tokens at which it fires. Of a feature that fires with both signs, the positive one is named. N2G,
    which this is after, prunes and widens single contexts with the network instead. Raises Unmeasurable for a feature that
    hardly fires.
    """
    positions, vocabulary = text.naming, text.vocabulary
    value = np.maximum(text.activations(feature).ravel()[positions.at], 0)
    signal = Signal(value, value > 0, int((value > 0).sum()), float(value.sum()))
    if signal.count < FEWEST:
        raise Unmeasurable(f"it fires at {signal.count} tokens of the text to name it on, and it takes at least "
                           f"{FEWEST}")
    chosen: list[Pattern] = []
    open, best = np.arange(len(value)), 0.0
    while len(chosen) < patterns:
        found = _pattern(open, positions, signal, vocabulary, deepest)
        agreement = float(_agreement(found.hits, found.n, found.sum, signal)) if found else 0.0
        if found is None or agreement < best + (GAIN if chosen else 0):
            break
        best = agreement
        hits, n, total = signal.before
        signal = replace(signal, before=(hits + found.hits, n + found.n, total + found.sum))
        chosen.append(Pattern(found.parts, found.sum / found.n))
        open = np.setdiff1d(open, found.where, assume_unique=True)
    rule = Rule(tuple(chosen))
    return Guess(str(rule), "rule-induction", rule)


def _agreement(hits: np.ndarray | float, n: np.ndarray | float, total: np.ndarray | float, signal: Signal) -> np.ndarray:
    """F1 of precision by tokens and recall by sum and tokens alike, of some matches together with those of earlier patterns.

    Precision is a little below what was counted, so that a chance match is not perfect.
    """
    hits, n, total = signal.before[0] + hits, signal.before[1] + np.asarray(n), signal.before[2] + np.asarray(total)
    precision, recall = hits / (n + 1), (hits / signal.count + total / signal.total) / 2
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def _pattern(open: np.ndarray, positions: Positions, signal: Signal, vocabulary: Vocabulary,
             deepest: int) -> Found | None:
    """The best further pattern over the positions that none matches yet."""
    beam = [Found((), 0, 0, 0, open)]
    best, highest = None, 0.0
    for depth in range(deepest):
        step: list[tuple[float, Found, Part]] = []
        for state in beam:
            if depth and float(_agreement(state.hits, state.hits, state.sum, signal)) <= highest + DEEPER:
                continue                # no part could be precise enough to make it the best
            for part, hits, n, total in _parts(state, positions, signal, vocabulary):
                made = float(_agreement(hits, n, total, signal))
                step.append((made, Found((*state.parts, part), hits, n, total, state.where), part))
        step.sort(key=lambda entry: -entry[0])
        beam, seen = [], set()
        for made, state, part in step:
            if (state.hits, state.n, state.sum) in seen:
                continue
            seen.add((state.hits, state.n, state.sum))
            where = state.where[_holds(part, state.where, positions, vocabulary)]
            beam.append(Found(state.parts, state.hits, state.n, state.sum, where))
            if made > highest + (DEEPER if depth else 0):
                best, highest = beam[-1], made
            if len(beam) == BEAM:
                break
    return best


def _holds(part: Part, where: np.ndarray, positions: Positions, vocabulary: Vocabulary) -> np.ndarray:
    if part.kind == "state":
        return positions.states[list(STATES).index(part.value)].astype(bool)[positions.state[where]]
    member = vocabulary.members(part.kind, part.value)
    if part.back == SHORTLY:
        return member[positions.earlier(where)].any(1)
    return member[positions.before[part.back][where]]


def _parts(state: Found, positions: Positions, signal: Signal,
           vocabulary: Vocabulary) -> Iterator[tuple[Part, float, float, float]]:
    """The best further parts of a pattern, with how often it then fires, over how many positions, and with what sum."""
    taken, where = {part.back for part in state.parts if part.kind != "state"}, state.where
    fires, value = signal.fires[where], signal.value[where]
    counts = _counts(positions.state[where], fires, value, positions.states.shape[1])
    yield from _best(0, "state", list(STATES), counts @ positions.states.T, signal)
    for back in range(Positions.BACK):
        if back not in taken:
            ids = positions.before[back][where]
            yield from _at(back, _counts(ids, fires, value, len(vocabulary)), vocabulary, signal)
    if state.parts and SHORTLY not in taken and len(where) <= MANY:
        ids = np.sort(positions.earlier(where), 1)
        new = np.concatenate([np.ones((len(ids), 1), bool), ids[:, 1:] != ids[:, :-1]], 1)
        times = new.sum(1)
        counts = _counts(ids[new], np.repeat(fires, times), np.repeat(value, times), len(vocabulary))
        yield from _best(SHORTLY, "is", vocabulary.words, counts, signal)


def _counts(ids: np.ndarray, fires: np.ndarray, value: np.ndarray, size: int) -> np.ndarray:
    """For each token, how often the feature fires there, how often it stands there, and the sum of the values: [3, size]."""
    there = np.flatnonzero(fires)
    return np.stack([np.bincount(ids[there], minlength=size + 1)[:size], np.bincount(ids, minlength=size + 1)[:size],
                     np.bincount(ids[there], weights=value[there], minlength=size + 1)[:size]])


def _at(back: int, counts: np.ndarray, vocabulary: Vocabulary,
        signal: Signal) -> Iterator[tuple[Part, float, float, float]]:
    """The best parts of every kind at one place, from the counts of each token."""
    there = np.flatnonzero(counts[1])
    counts = counts[:, there]
    for kind, group, labels in vocabulary.groupings:
        here = group[there]
        held = here >= 0
        sums = np.stack([np.bincount(here[held], weights=row[held], minlength=len(labels)) for row in counts])
        yield from _best(back, kind, labels, sums, signal)
    yield from _best(back, "class", list(CLASSES), counts @ vocabulary.classes[:, there].T, signal)


def _best(back: int, kind: str, labels: Sequence[str], sums: np.ndarray,
          signal: Signal) -> Iterator[tuple[Part, float, float, float]]:
    fit = np.flatnonzero(sums[0])
    made = _agreement(sums[0][fit], sums[1][fit], sums[2][fit], signal)
    for i in fit[np.argsort(-made, kind="stable")[:BEST]]:
        if labels[i]:
            yield Part(back, kind, labels[i]), float(sums[0][i]), float(sums[1][i]), float(sums[2][i])
