"""Absorption: a latent that should fire for a class is silent on some of it, because more special latents took its part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dictionary import Dictionary
from . import labels
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .probes import Probe, balanced, f1, fit
from .wired import elsewhere

GAIN, MOST = 0.03, 10            # a further latent belongs to the class's own while F1 gains so much; at most so many
PROBE_F1 = 0.6                   # classes that the activations themselves do not show so well do not count
LETTERS = 20                     # first letters that must be shown so well
COSINE, PART = 0.1, 0.4          # an absorber points along the probe, and carries so much of the token's projection on it
EACH, LEAST = 300, 40
STRENGTH = 1e-2


@dataclass(frozen=True)
class Question:
    """One class and its tokens: to train, to choose and to score; and the probe of it on the activations."""

    name: str
    y: np.ndarray
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]
    probe: Probe


def question(bench: Bench, name: str, y: np.ndarray, known: np.ndarray, split: np.ndarray, seed: int) -> Question | None:
    """The question with its probe; none where tokens are few or the probe is poor on the scored tokens."""
    random = np.random.default_rng(seed)
    parts = tuple(balanced(y, np.flatnonzero(known & (split == part)), EACH, random) for part in range(3))
    if min(map(len, parts)) < 2 * LEAST:
        return None
    train, _, test = parts
    probe = fit(bench.x[train].numpy(), y[train], STRENGTH)
    return Question(name, y, parts, probe) if f1(probe(bench.x[test].numpy()), y[test]) >= PROBE_F1 else None  # type: ignore[arg-type]


def classes(bench: Bench, seed: int) -> list[Question | None]:
    """What a token is to Python's tokenizer, split by documents."""
    return [question(bench, name, bench.tasks.of(name), bench.tasks.known, bench.split(seed), seed)
            for name in bench.tasks.names if name in labels.CLASSES]


def letters(bench: Bench, seed: int) -> list[Question | None]:
    """The first letter of tokens that are words, split by words, so that no probe has seen the words it is asked about."""
    first, token = bench.tasks.letters, bench.tasks.token
    share = np.random.default_rng(seed).random(int(token.max(initial=0)) + 1)[token]
    split = np.searchsorted([0.5, 0.7], share)
    return [question(bench, name, first == i, first >= 0, split, seed) for i, name in enumerate(labels.LETTERS)]


def absorbed(dictionary: Dictionary, bench: Bench, asked: Question) -> tuple[float, float] | None:
    """Shares of the class's test tokens that are wholly absorbed, and of the projection that absorbers carry.

    None where the class has no latents of its own: a dictionary that does not know a class cannot absorb it.
    """
    train, validation, test = asked.parts
    codes, y = bench.dense(dictionary, train), asked.y
    order = np.argsort(-(codes[y[train]].mean(0) - codes[~y[train]].mean(0)), kind="stable")[:MOST]
    chosen_codes = bench.dense(dictionary, validation)

    def score(k: int) -> float:
        probe = fit(codes[:, order[:k]], y[train], STRENGTH)
        return f1(probe(chosen_codes[:, order[:k]]), y[validation])

    k, best = 1, score(1)
    while k < MOST and (gained := score(k + 1)) - best > GAIN:
        k, best = k + 1, gained
    if best < PROBE_F1:
        return None
    own = order[:k]
    true = test[y[test]]
    right = true[asked.probe(bench.x[true].numpy()) > 0]
    if len(right) < LEAST // 2:
        return None
    fires, direction = bench.dense(dictionary, right), asked.probe.weight / np.linalg.norm(asked.probe.weight)
    decoder = dictionary.W_dec.detach().numpy()
    along = decoder @ direction
    carried = fires * along                                           # [tokens, width]
    others = along / np.linalg.norm(decoder, axis=1).clip(1e-12) >= COSINE
    others[own] = False
    whole = (bench.x[right].numpy() - dictionary.b_dec.detach().numpy()) @ direction
    taken = np.where(others, carried, 0).max(1)
    main = carried[:, own].sum(1).clip(0)
    silent = (fires[:, own] == 0).all(1)
    absorbs = (whole > 0) & (taken >= PART * whole)
    share = np.where(absorbs, taken / np.maximum(taken + main, 1e-12), 0)
    return float((silent & absorbs).mean()), float(share.mean())


def absorption(dictionary: Dictionary, bench: Bench) -> Results:
    """Absorption over Python's classes of tokens, and over first letters where the activations show enough of them."""
    found, reason = Results(), elsewhere(dictionary)
    for group, made, least in (("classes", classes, 3), ("letters", letters, LETTERS)):
        names = [f"absorption_{kind}_{group}" for kind in ("full", "fraction")]
        if reason:
            found |= dict.fromkeys(names, Undefined(reason))
            continue
        full, fraction, things, asked, unknown = [], [], [], 0, 0
        for seed in bench.seeds:
            key = ("absorption", group, seed)
            if key not in bench.kept:
                bench.kept[key] = [each for each in made(bench, seed) if each is not None]
            asked = max(asked, len(bench.kept[key]))
            for each in bench.kept[key]:
                result = absorbed(dictionary, bench, each)
                things.append(each.name)
                unknown += result is None
                full.append(result[0] if result else np.nan)
                fraction.append(result[1] if result else np.nan)
        of = f"{group} in {len(bench.seeds)} splits" + f"; {unknown} times without latents of their own" * bool(unknown)
        for name, values in zip(names, (full, fraction), strict=True):
            found[name] = mean_of(values, "lower", of, least=3, things=things) if asked >= least else Undefined(
                f"the activations show {asked} {group} with an F1 of {PROBE_F1} or more, and {least} are needed")
    return found


ABSORPTION = Metric(
    "absorption", 2, "diagnostic",
    f"for classes that a probe on the activations finds (F1 {PROBE_F1}) and that have latents of their own (up to {MOST}, each "
    f"worth {GAIN} of F1): the share of rightly found tokens on which all of these are silent while one other latent, of "
    f"cosine {COSINE} with the probe, carries {PART} of the projection; and the part that such latents carry",
    "after SAEBench 0.6, for Python's classes of tokens, and for first letters of words in running text without a prompt; one "
    "absorber a token in place of up to three", {"random": "floor"}, absorption, repeats=3)

