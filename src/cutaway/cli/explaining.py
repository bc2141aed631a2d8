"""The command that names features, and says how far each name can be believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..counts import count_of
from ..files import write_json
from . import folder, inputs
from .screen import say


def explain(run: Annotated[Path, tyro.conf.Positional], ids: Annotated[tuple[int, ...], tyro.conf.Positional] = (), /,
            by: str = "rule-induction", scorers: tuple[str, ...] = ("detection", "fuzzing"), site: str = "", data: str = "",
            tokens: str = "200k", n: int = 50, floors: int = 3, judge: str = "", endpoint: str = "", model: str = "",
            key_from: str = "", requests: int = 1000, token_budget: str = "1M", longest: int = 400, out: Path | None = None,
            seed: int = 0, device: str = "cpu") -> None:
    """Name features of a run, and score every name on held-out text against names of other features.

    Where `cutaway store` made a store, names are kept in it one by one as they are found, and its pages show them.

    Args:
        run: The folder that `cutaway learn` wrote, such as runs/learn.
        ids: Numbers of features, such as 17 203; left out, a dozen that fire neither hardly ever nor nearly always.
        by: rule-induction and logit-effects need nothing else; llm-explainer asks a language model.
        scorers: Of detection, fuzzing, simulation, embedding, surprisal and intervention.
        site: Which dictionary, where the run has several; a cross-layer transcoder has one for each of its layers.
        data: Where to look; left out, the standard library's test split for runs that learned from it, and otherwise
            what the run learned from.
        tokens: In how many tokens to look: names are found on one half of the documents and scored on the other.
        n: Windows in which a feature fires, and as many in which it does not, on which a name is scored.
        floors: Names of other features that are scored on the same windows.
        judge: rule (the name's own rule) or model; left out, model for names by a language model and rule for others.
        endpoint: An OpenAI-compatible language model, such as http://127.0.0.1:8080/v1.
        model: The model's name there.
        key_from: The environment variable that holds the endpoint's key, where it needs one, such as OPENAI_API_KEY.
        requests: At most so many requests; what was answered is kept, and is not asked again.
        token_budget: At most about so many tokens, of prompts and answers together, such as 200k.
        longest: Tokens of one answer; give a model that reasons first a few thousand.
        out: Folder for the names as JSON, the prompts and answers, and the configuration; left out, `names` in the run's
            folder.
        seed: Of everything that is random.
        device: Where the network runs, such as cpu or cuda.
    """
    from ..dictionaries import watch
    from ..explain import Endpoint
    from ..explain import explain as name
    from ..explain.naming import means
    from ..store.database import now
    from ..store.identity import of_dictionary
    from ..store.making import store_of
    from .learning import _load, only
    if n < 2:
        raise ValueError(f"a name is scored on at least two windows in which its feature fires; found --n {n}.")
    run, out = Path(run), Path(out) if out is not None else Path(run) / "names"
    if bool(endpoint) != bool(model):
        raise ValueError("a language model is given by both --endpoint and --model, such as --endpoint "
                         "http://127.0.0.1:8080/v1 --model llama.")
    asked = Endpoint(endpoint, model, key_from, out / "answers.jsonl", requests, count_of(token_budget),
                     longest=longest) if endpoint else None
    judged = judge or ("model" if by == "llm-explainer" else "rule")
    means(by, scorers, judged, asked, floors)     # with words for what cannot be done, before anything is looked at
    loaded, learned = _load(run, device)
    loaded = only(loaded, site)
    wrong = [i for i in ids if not 0 <= i < loaded.dictionary.width]
    if wrong:
        raise IndexError(f"this dictionary has the features 0 to {loaded.dictionary.width - 1}; found {wrong[0]}.")
    chosen = data or ("stdlib:test" if learned["data"] == "stdlib" else learned["data"])
    source = _scattered(inputs.data(chosen, loaded.net), tokens, seed)
    given = {"run": run, "ids": ids, "by": by, "scorers": scorers, "site": site, "data": data, "tokens": tokens, "n": n,
             "floors": floors, "judge": judge, "endpoint": endpoint, "model": model, "key_from": key_from,
             "requests": requests, "token_budget": token_budget, "longest": longest, "out": out, "seed": seed, "device": device}
    dictionary, key, at = loaded.dictionary, next(iter(loaded.dictionaries)), now()
    with folder.begun(out, "explain", given), store_of(run, key, dictionary) as kept:
        def keep(found: Any) -> None:
            if kept is not None:
                kept.names.keep(found, model, at)
        features = watch(loaded.net, dictionary, source, None, progress=True)
        names = name(features, tuple(ids) or None, by, tuple(scorers), judged, asked, n=n, floors=floors, seed=seed,
                     progress=True, keep=keep)
    for found in names:
        say(f"{found}\n")
    told, named = sum(found.tells for found in names), sum(bool(found.text) for found in names)
    written = write_json(out / f"{key.replace('/', '+')}.json", {
        "site": dictionary.site, "dictionary": of_dictionary(dictionary), "by": by, "at": at,
        "names": [found.json() for found in names], "endpoint": asked.json() if asked else None})
    say(f"{named} of {len(names)} features have a name; {told} of these have a score above its floor and chance.")
    if asked:
        say(f"{asked.model} got {asked.sent:,} requests for {asked.asked:,} questions and used {asked.used:,} tokens; "
            f"{asked.unread} answers were unreadable.")
    where = f"the store {kept.folder}, whose pages show them" if kept is not None else (
        f"no store, for this run has none; `cutaway store {run}` makes one and takes them in")
    say(f"Kept in {written}, and in {where}")


def _scattered(source: Any, tokens: str, seed: int) -> Any:
    """So many tokens of data, in rows from all over it; a harvest is refused."""
    import numpy as np
    source = inputs.first(source, "all")
    order = np.random.default_rng(seed).permutation(source.index)
    part = inputs.first(replace(source, index=order), tokens)
    return replace(part, index=np.sort(part.index))
