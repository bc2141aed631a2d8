"""Find names of features, and score each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..catalogue import find, method, methods
from ..dictionaries import Feature, Features
from ..network import Network
from .embedding import minilm
from .endpoint import Endpoint, Spent
from .guess import Guess
from .judges import ByModel, ByRule
from .name import Name
from .outcome import Score, scored
from .rule_induction import rule_induction
from .text import Text, read
from .windows import Unmeasurable, examples

RULE, MODEL = "rule", "model"
SPARE = 8      # features beyond those that are asked for whose rules may serve as floors
DENSE = 0.1    # which fire at no more than this share of tokens


@method("auto-interp", family="explain", title="Names with scores that can be believed", paper="arXiv 2410.13928",
        roster="016")
def explain(features: Features | Feature, ids: Sequence[int] | None = None, by: str = "rule-induction",
            scorers: Sequence[str] = ("detection", "fuzzing"), judge: str = RULE, endpoint: Endpoint | None = None,
            embedder: Network | None = None, reader: Network | None = None, n: int = 50, floors: int = 3, length: int = 32,
            seed: int = 0, progress: bool = False, keep: Callable[[Name], object] | None = None) -> list[Name]:
    """Name features, and score every name on text of other documents against names of other features.

    features: as `watch` gives them, or one of them; ids: which, a dozen that fire neither hardly ever nor nearly always when
    left out. by: an explainer, `rule-induction`, `logit-effects` or `llm-explainer`. scorers: of `detection`, `fuzzing`,
    `simulation`, `embedding`, `surprisal` and `intervention`. judge: `rule`, which each name with a rule has, or `model`.
    endpoint: the language model that explains or judges. embedder: a sentence model, MiniLM when left out; reader: a causal
    language model, the network itself when left out. n: windows of either kind that a name is scored on, of `length` tokens.
    floors: names of other features that are scored on the same windows. seed: of sides, windows and floors. keep: is handed
    each name as soon as it has its scores, so that an interruption loses none.
    What cannot be had is null with its reason. When an endpoint's budget is spent, the names so far are given and the others
    say so. Raises ValueError for an unknown explainer or scorer, and where a language model is needed and none is given.
    """
    if isinstance(features, Feature):
        ids, features = [features.index] if ids is None else ids, features.features
    chosen = [features[i] for i in dict.fromkeys(ids)] if ids is not None else features.interesting(12, seed=seed)
    if not chosen:
        raise ValueError(f"no feature fires often enough in {features.n_tokens:,} tokens to be named; watch more text.")
    explainer, judged_by = means(by, scorers, judge, endpoint, floors)
    text = read(features, length, seed)
    tools: dict[str, Any] = {
        "judge": ByModel(endpoint) if judge == MODEL and endpoint else ByRule(text), "seed": seed,
        "reader": reader or features.net}
    if any("embedder" in inspect.signature(scorer).parameters for scorer in judged_by.values()):
        tools["embedder"] = embedder or minilm()
    said = endpoint.model if judge == MODEL and endpoint else "the name's own rule"
    guesses = _guesses(chosen, explainer, text, {"endpoint": endpoint}, progress)
    spare = _spare(features, chosen, guesses, text, floors, seed)
    known, names = {**{i: g for i, g in guesses.items() if isinstance(g, Guess)}, **spare}, list[Name]()
    for feature, guess in tqdm(list(zip(chosen, guesses.values(), strict=True)), desc="score", unit="name", leave=False,
                               disable=None if progress else True):
        names.append(_name(feature, guess, known, by, judged_by, {**tools, "feature": feature}, text, n, floors, said))
        if keep is not None:
            keep(names[-1])
    return names


def _guesses(chosen: Sequence[Feature], explainer: Callable[..., Guess], text: Text, tools: Mapping[str, Any],
             progress: bool) -> dict[int, Guess | str]:
    """What an explainer says of each feature, or why it says nothing."""
    found: dict[int, Guess | str] = {}
    for feature in tqdm(chosen, desc="name", unit="feature", leave=False, disable=None if progress else True):
        try:
            found[feature.index] = explainer(feature, text, **_wanted(explainer, tools))
        except (Unmeasurable, Spent) as reason:
            found[feature.index] = str(reason)
    return found


def _spare(features: Features, chosen: Sequence[Feature], guesses: Mapping[int, Guess | str], text: Text, floors: int,
           seed: int) -> dict[int, Guess]:
    """Rules of other features, where those that were asked for give too few names to be floors for each other."""
    found: dict[int, Guess] = {}
    if sum(isinstance(guess, Guess) for guess in guesses.values()) <= floors:
        taken = {feature.index for feature in chosen}
        for feature in features.interesting(floors + SPARE + len(taken), most=DENSE, seed=seed + 1):
            if feature.index not in taken and len(found) < floors:
                try:
                    found[feature.index] = rule_induction(feature, text)
                except Unmeasurable:
                    continue
    return found


def _name(feature: Feature, guess: Guess | str, known: Mapping[int, Guess], by: str, scorers: Mapping[str, Callable],
          tools: Mapping[str, Any], text: Text, n: int, floors: int, judge: str) -> Name:
    """One name with its scores."""
    data = f"{text.data.name} ({text.data.fingerprint[:8]})"
    if isinstance(guess, str):
        return Name(feature.index, "", by, data=data, why=guess)
    others = [known[i] for i in sorted(known) if i != feature.index and known[i].text != guess.text]
    order = np.random.default_rng([tools["seed"], feature.index]).permutation(len(others))[:floors]
    if not len(order):
        return Name(feature.index, "", by, data=data, why="no other feature has a name that could be its floor")
    try:
        shown = examples(feature, text, n, tools["seed"])
    except Unmeasurable as reason:
        return Name(feature.index, "", by, data=data, why=f"its name cannot be scored, because {reason}")
    scores = []
    for id, scorer in scorers.items():
        try:
            outcomes = scorer([guess, *(others[i] for i in order)], shown, **_wanted(scorer, tools))
            scores.append(scored(id, outcomes, data, tools["seed"]))
        except (Unmeasurable, Spent) as reason:
            scores.append(Score(id, why=str(reason)))
    if all(score.why for score in scores):
        return Name(feature.index, "", by, tuple(scores), judge, data, shown.density,
                    f"the name {guess.text!r} could not be scored: {scores[0].why}")
    return Name(feature.index, guess.text, guess.by, tuple(scores), judge, data, shown.density)


def _wanted(function: Callable[..., Any], tools: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some tools that a function asks for by name."""
    return {name: tools[name] for name in inspect.signature(function).parameters if name in tools}


EXPLAINER, SCORER = ("feature", "text"), ("guesses", "examples")   # the arguments that each begins with


def means(by: str, scorers: Sequence[str], judge: str, endpoint: Endpoint | None,
          floors: int) -> tuple[Callable[..., Any], dict[str, Callable[..., Any]]]:
    """The explainer, and the scorers by name; ValueError, before anything is looked at, for what cannot be done."""
    explainer, judged_by = _known(by, EXPLAINER), {name: _known(name, SCORER) for name in dict.fromkeys(scorers)}
    if not judged_by:
        raise ValueError("a name is never given without a score; give at least one scorer.")
    if floors < 1:
        raise ValueError(f"a score needs at least one name of another feature as its floor; found floors={floors}.")
    if judge not in (RULE, MODEL):
        raise ValueError(f"names are judged by {RULE!r} or {MODEL!r}; found {judge!r}.")
    if endpoint is None and (judge == MODEL or "endpoint" in inspect.signature(explainer).parameters):
        raise ValueError(f"{by if judge == RULE else 'the judge'} needs a language model; give an endpoint.")
    return explainer, judged_by


def _known(id: str, arguments: tuple[str, str]) -> Callable[..., Any]:
    """The explainer or scorer of an id."""
    fit = [name for name, m in methods("explain").items() if tuple(m.signature.parameters)[:2] == arguments]
    if id not in fit:
        what = "explainer" if arguments == EXPLAINER else "scorer"
        raise ValueError(f"there is no {what} called {id!r}; there are {', '.join(fit)}.")
    return find(id, "explain").object
