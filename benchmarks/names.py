"""Names by rules: what share of pico's features get one that tells, how often a wrong name does, and what a name costs.

    python benchmarks/names.py                     # 100 features of a TopK of width 2,048 at blocks.2, named on test text

A dictionary is learned on training text. Features that fire neither hardly ever nor nearly always are drawn, named on half of
the documents of rows from all over the test text, and scored on the other half. Then each feature's windows are scored again
under the name of another feature, drawn at random, against floors from further ones: how often that "tells" is how often a
score says so by chance.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import cutaway as cw
from cutaway.counts import count_of
from cutaway.explain.detection import detection
from cutaway.explain.fuzzing import fuzzing
from cutaway.explain.guess import Guess
from cutaway.explain.judges import ByRule
from cutaway.explain.outcome import scored
from cutaway.explain.rule_induction import rule_induction
from cutaway.explain.text import read
from cutaway.explain.windows import Unmeasurable, examples
from cutaway.files import write_json
from cutaway.metrics.intervals import interval

HERE, SITE, FLOORS, WINDOWS = Path(__file__).parent, "blocks.2", 3, 50
SCORERS = {"detection": detection, "fuzzing": fuzzing}


def scattered(data: Any, tokens: int) -> Any:
    """Rows from all over some data, in their order."""
    order = np.random.default_rng(0).permutation(data.index)
    part = replace(data, index=order).take(tokens)
    return replace(part, index=np.sort(part.index))


def told(values: list[float]) -> dict[str, float]:
    low, high = interval(values)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def wrong(features: Any, ids: list[int]) -> dict[str, Any]:
    """The scores of each feature's windows under another feature's name."""
    text, random = read(features), np.random.default_rng(0)
    judge, guesses, tells = ByRule(text), dict[int, Guess](), list[bool]()
    values: dict[str, list[float]] = {name: [] for name in SCORERS}
    for i in ids:
        try:
            guesses[i] = rule_induction(features[i], text)
        except Unmeasurable:
            continue
    for i in guesses:
        try:
            shown = examples(features[i], text, WINDOWS)
        except Unmeasurable:
            continue
        others = [guesses[int(j)] for j in random.permutation([j for j in guesses if j != i])[:1 + FLOORS]]
        scores = [scored(name, scorer(others, shown, judge)) for name, scorer in SCORERS.items()]
        tells.append(any(score.tells for score in scores))
        for score in scores:
            if score.value is not None:
                values[score.scorer].append(score.value.value)
    return {**{name: told(found) for name, found in values.items()}, "tell": sum(tells), "n": len(tells)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--learn", default="400k")
    parser.add_argument("--tokens", default="200k")
    given = parser.parse_args()
    net = cw.open("pico")
    run = cw.learn(net, cw.stdlib(net), {SITE: cw.TopK(width=given.width, k=32)}, tokens=given.learn, progress=False)
    features = cw.watch(net, run.dictionary, scattered(cw.stdlib(net, "test"), count_of(given.tokens)), None)
    ids = [feature.index for feature in features.interesting(given.n, seed=5)]
    began = time.process_time()
    names = cw.explain(features, ids)
    seconds = (time.process_time() - began) / len(ids)
    scores = {scorer: [score for name in names for score in name.scores if score.scorer == scorer and score.value]
              for scorer in SCORERS}
    found = {"site": SITE, "width": given.width, "tokens": features.n_tokens, "features": len(ids),
             "named": sum(bool(name.text) for name in names), "tell": sum(name.tells for name in names),
             "cpu_seconds_a_feature": seconds, "letters": float(np.mean([len(name.text) for name in names if name.text])),
             **{scorer: told([score.value.value for score in some if score.value]) for scorer, some in scores.items()},
             "floors": {scorer: told([score.floor.value for score in some if score.floor]) for scorer, some in scores.items()},
             "wrong": wrong(features, ids), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    write_json(HERE / "results" / "names.json", found)
    print(f"{found['features']} features at {SITE}, {found['tokens']:,} tokens of test text: {found['named']} have a name of "
          f"{found['letters']:.0f} letters, {found['tell']} a score above floor and chance; {seconds:.3f} s of CPU a feature")
    for whose, some in (("own names", found), ("floors", found["floors"]), ("wrong names", found["wrong"])):
        print(f"{whose}: " + ", ".join(f"{name} {some[name]['mean']:.3f} [{some[name]['low']:.3f}, {some[name]['high']:.3f}] "
                                       f"(n = {some[name]['n']})" for name in SCORERS))
    print(f"wrong names that tell: {found['wrong']['tell']} of {found['wrong']['n']}")


if __name__ == "__main__":
    main()
