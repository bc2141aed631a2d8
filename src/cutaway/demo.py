"""The whole loop on one network: learn features, evaluate them, score heads, act, steer, and write a page about it."""

from __future__ import annotations

import math
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import report as page
from .data.corpora import stdlib
from .dictionaries import Context, Feature, Features, TopK, evaluate, watch
from .edits import steer
from .files import write, write_json
from .metrics import Figure, measure
from .network import Network, open
from .scores import Trust, trusts
from .train import Run, learn
from .units import Units, units

# What each score costs, in words.
SCORES = {"gradient": "1 pass, shared", "abs": "1 pass, shared", "fisher": "1 pass, shared",
          "path": "8 passes a block, on a quarter of the text", "activation": "1 forward pass"}
PROMPTS = ("def", "import", "        if self.")


@dataclass(frozen=True)
class Size:
    """How much of everything the demo does; every figure says its own n."""

    width: int = 2048
    tokens: int = 800_000
    evaluate: int = 40_000
    watch: int = 200_000
    score: int = 8_192
    ablate: int = 30_000
    features: int = 12


QUICK = Size(width=512, tokens=60_000, evaluate=4_096, watch=20_000, score=1_024, ablate=4_096, features=3)


def demo(out: str | Path = "runs/demo", model: str = "pico", size: Size = Size(), seed: int = 0,  # noqa: B008
         say: Callable[[str], None] = print) -> page.Report:
    """Run the loop and leave `report.html`, `report.json`, the dictionary and the table of heads in a folder."""
    started, out = time.time(), Path(out)
    torch.manual_seed(seed)
    net = open(model)
    say(f"{net}")
    train, validation, test = (stdlib(net, split) for split in ("train", "validation", "test"))
    site = f"blocks.{(net.n_blocks - 1) // 2}"

    say(f"1/5  learning {size.width:,} sparse features at {site} from {size.tokens:,} tokens of {train.name}")
    if (out / "learned" / "dictionaries").exists():
        shutil.rmtree(out / "learned")      # of an earlier demo, which this one takes the place of
    run = learn(net, train, {site: TopK(width=size.width, k=32)}, tokens=size.tokens, seed=seed, out=out / "learned")
    say("2/5  evaluating them on text that nothing was trained on, and watching where they fire")
    features = watch(net, run.dictionary, test, size.watch, progress=True)
    learning, shown = _learning(run, features, test, size), features.interesting(size.features, seed=seed)
    say("3/5  scoring every attention head, and checking the scores against the exact effect")
    table, heads = _heads(net, validation, size)
    table.save(out / "heads.parquet")
    say("4/5  closing the best heads, the worst heads and random heads")
    acting = _acting(net, table, heads.cheap, test, size, seed)
    say("5/5  steering one feature")
    steering = _steering(net, shown, validation, test, size)

    done = page.Report(
        page.Run("Inside " + net.name, repr(net), f"{train.name} to learn from, {test.name} to evaluate on",
                 f"TopK, {size.width:,} features at {site}, 32 active a token", " ".join(["cutaway", *sys.argv[1:]]),
                 seed, size.tokens, time.time() - started, time.strftime("%Y-%m-%d %H:%M"), versions(), environment()),
        learning, [described(feature) for feature in shown], heads, acting, steering)
    write(out / "report.html", lambda part: part.write_text(page.render(done), encoding="utf-8"))
    write_json(out / "report.json", done.json())
    page.summary(done)
    say(f"\nThe page is at {(out / 'report.html').resolve()} ({time.time() - started:.0f} s).")
    return done


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("cutaway", "torch", "transformers", "numpy")}


def environment() -> dict[str, str]:
    return {"python": platform.python_version(), "system": platform.system(), "processor": platform.machine(),
            "threads": str(torch.get_num_threads())}


def _learning(run: Run, features: Features, test: Any, size: Size) -> page.Learning:
    key, dictionary = next(iter(run.dictionaries.items()))
    figures = evaluate(run.net, dictionary, test, size.evaluate, progress=True)
    figures["loss"] = replace(figures["loss"], name="loss_untouched")
    history = run.history[key]
    curve = page.Series("FVU of training batches", [h["tokens"] for h in history], [h["fvu"] for h in history])
    return page.Learning(dictionary.site, dictionary.width, [curve], list(figures.values()),
                         page.Histogram.of(features.frequency, spacing="log"))


def described(feature: Feature) -> page.Feature:
    """A feature as the page shows it: its contexts from the top and from across its whole range."""
    features = feature.features
    try:
        up, down = feature.logits()
    except ValueError:      # the network has no unembedding that reads what it writes
        up, down = [], []
    frequency = Figure("frequency", feature.frequency, *_share_interval(feature.count, features.n_tokens),
                       features.n_tokens, data=features.data.name)
    top = [_context(c) for c in feature.contexts(8)]
    spread = [_context(c, f"quantile {c.quantile:.2f}") for c in feature.contexts(8, "quantiles")]
    return page.Feature(feature.index, frequency, feature.max, page.Histogram.of(feature.activations), up, down, top,
                        spread)


def _context(context: Context, label: str = "") -> page.Context:
    return page.Context(context.tokens, context.activations, f"row {context.row}, token {context.position}", label,
                        context.peak)


def _share_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z, share = 1.96, count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _heads(net: Network, validation: Any, size: Size) -> tuple[Units, page.Heads]:
    """Every score of every head on half of the validation text, and its agreement with the exact effect on the other."""
    seen, unseen = validation.split(0.5)
    table, seconds = units(net, "heads"), {}
    for names, share in ((["gradient", "abs", "fisher"], 1), (["path"], 4), (["activation"], 1)):
        started = time.time()
        table = table.score(names, seen.take(size.score // share))
        seconds.update(dict.fromkeys(names, time.time() - started))
    started = time.time()
    table = table.score("exact", unseen.take(size.score))
    took = time.time() - started
    trusted = trusts(table, list(SCORES), unseen.take(size.score), n=len(table))  # compares with the column above
    found = [page.Estimator(name, _agreement(trusted[name]), cost, seconds[name]) for name, cost in SCORES.items()]
    found.append(page.Estimator("exact", page.Missing("agreement", "it is what the others are compared with"),
                                f"{len(table)} forward passes", took))
    best = max(SCORES, key=lambda name: trusted[name].agreement if trusted[name].defined else -1.0)
    shape = (net.n_blocks, -1)
    scale = {"exact": "nats a token"}
    maps = [page.ScoreMap(name, table.column(name).reshape(shape).tolist(), scale.get(name, ""))
            for name in dict.fromkeys(("exact", best, "gradient", "fisher"))]
    names = ["exact", *SCORES]
    return table, page.Heads("exact", best, maps, found, page.Agreement(names, table.agreement(names).to_numpy().tolist()))


def _agreement(trust: Trust) -> page.Shown:
    if not trust.defined:
        return page.Missing("agreement", trust.why)
    return Figure("agreement", trust.agreement, trust.low, trust.high, trust.n, of="heads",
                  baseline="the exact effect on other text", data=trust.data, seed=trust.seed)


def _acting(net: Network, table: Units, score: str, test: Any, size: Size, seed: int) -> page.Acting:
    """Close an eighth of the heads: the best by the score, the worst, and as many at random."""
    n, text = max(1, len(table) // 8), test.take(size.ablate)
    random = np.random.default_rng(seed).permutation(len(table))[:n]
    chosen = {"best": table.top(score, n), "worst": table.bottom(score, n), "random": table.pick(random)}
    untouched = measure(net, text, "loss")["loss"]
    ablations = []
    for kind, heads in chosen.items():
        with net.edited(heads.keep(score, 0.0).edits()):
            figures = measure(net, text, ["loss", "kl"])
        names = [f"{block}.{unit}" for block, unit in zip(heads.frame["block"], heads.frame["unit"], strict=True)]
        article = "random heads" if kind == "random" else f"heads that {score} ranks {kind}"
        ablations.append(page.Ablation(kind, f"{n} {article}", names, figures["loss"], figures["kl"]))
    return page.Acting(score, untouched, ablations)


def _steering(net: Network, features: list[Feature], validation: Any, test: Any, size: Size) -> page.Steering:
    """Push the shown feature that moves the next token most on validation text, at the strength of its own maximum."""
    text = validation.take(size.score)

    def effect(feature: Feature) -> float:
        with net.edited(steer(feature, feature.max)):
            return measure(net, text, "kl")["kl"].value
    feature = max(features, key=effect)
    edit = steer(feature, feature.max)
    samples = []
    for prompt in PROMPTS:
        before = net.generate(prompt, 32)
        with net.edited(edit):
            after = net.generate(prompt, 32)
        samples.append(page.Sample(prompt, before[len(prompt):], after[len(prompt):]))
    plain = measure(net, test.take(size.ablate), "loss")["loss"]
    with net.edited(edit):
        figures = measure(net, test.take(size.ablate), ["loss", "kl"])
    shown: list[page.Shown] = [
        replace(plain, name="loss_untouched"), replace(figures["loss"], name="loss_steered"), figures["kl"]]
    return page.Steering(feature.index, feature.dictionary.site, feature.max, "its largest activation", samples, shown)
