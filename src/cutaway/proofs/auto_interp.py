"""Names and their scorers: on planted features, and on sparse latents against the neurons of the same MLP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..catalogue import find, proof
from ..data.corpora import stdlib
from ..dictionaries import Dictionary, Facts, Features, TopK
from ..dictionaries.parts import TopK as Largest
from ..explain import Name, explain
from ..explain.embedding import minilm
from ..explain.guess import Guess
from ..explain.judges import ByRule
from ..explain.outcome import scored
from ..explain.planted import Planted
from ..explain.rules import Part, Pattern, Rule
from ..explain.text import read
from ..explain.windows import examples
from ..network import Network, open
from ..observe import observe
from ..train import learn
from .proof import Comparison, Proof, compare, say
from .scores import slices

SEEDS = (0, 1, 2)
SITE, K, LEARNED = "blocks.2.mlp", 32, 49_152
WATCHED, LATENTS = 49_152, 16                # tokens of each seed, and features that are named of each kind
PLANTED_AT, PLANTED_IN = "blocks.4", 32_768  # where planted features are added, and the tokens that they fire in
WINDOWS, FLOORS, NOISE = 20, 1, 0.1
OWN = ("detection", "fuzzing", "surprisal", "embedding", "intervention")   # the paper's five scorers
JUDGED = ("detection", "fuzzing")                                          # those that latents are compared by
LEAST, MOST = 100, 0.05                      # firings that a feature must have, and the share of tokens that it may fire at

PLANTED: tuple[tuple[Part, ...], ...] = (
    (Part(0, "reads", "self"),),
    (Part(0, "reads", "import"),),
    (Part(0, "reads", "return"),),
    (Part(0, "reads", "none"),),
    (Part(0, "class", "a number"),),
    (Part(0, "class", "a capitalised word"),),
    (Part(0, "ends", "Error"),),
    (Part(0, "ends", "):"),),
    (Part(0, "reads", "if"),),
    (Part(0, "class", "a quotation mark"), Part(1, "class", "a word in small letters")),
)


@proof("auto-interp")
def auto_interp() -> Proof:
    """Scorers rank true names of planted features above others', and latents above neurons."""
    return measured(open("pico"))


def measured(net: Network) -> Proof:
    """The proof on a network that reads text."""
    embedder, test = minilm(), slices(stdlib(net, "test"), WATCHED, len(SEEDS))
    planted: dict[str, list[dict[str, float]]] = {name: [] for name in (*OWN, "simulation")}
    kinds: dict[str, list[dict[str, float]]] = {}
    examined: list[str] = []
    for seed, text in zip(SEEDS, test, strict=True):
        for name, found in ranks(net, embedder, text.take(PLANTED_IN), seed).items():
            planted[name].append(found)
        say(f"seed {seed}, planted: " + ", ".join(f"{name} {found[-1]['true']:.2f} against {found[-1]['others']:.2f}"
                                                  for name, found in planted.items()))
        for kind, names in compared(net, text, seed).items():
            kinds.setdefault(kind, []).append(summary(names))
            examined += [f"{kind}: {name.text}" for name in names if name.text][:3] if seed == SEEDS[0] else []
        say(f"seed {seed}: " + ", ".join(f"{kind} {found[-1]['detection']:.3f} {found[-1]['fuzzing']:.3f}"
                                         for kind, found in kinds.items()))
    return concluded(planted, kinds, examined, net.name)


def ranks(net: Network, embedder: Network, data: Any, seed: int) -> dict[str, dict[str, float]]:
    """The mean score of the true names of planted features, and of names of other planted features, by scorer."""
    features = Planted(net, data, [Rule((Pattern(parts),)) for parts in PLANTED], PLANTED_AT, NOISE, seed)
    text, random = read(features, seed=seed), np.random.default_rng(seed)
    tools = {"judge": ByRule(text), "embedder": embedder, "reader": net, "seed": seed}
    found: dict[str, list[tuple[float, float]]] = {}
    for i, own in enumerate(features.true):
        others: Sequence[Guess] = [features.true[j] for j in random.permutation(len(PLANTED)) if j != i][:FLOORS]
        shown = examples(features[i], text, WINDOWS, seed)
        for name in (*OWN, "simulation"):
            scorer = find(name, "explain")
            given = {tool: {**tools, "feature": features[i]}[tool] for tool in scorer.signature.parameters
                     if tool in (*tools, "feature")}
            score = scored(name, scorer.object([own, *others], shown, **given), seed=seed)
            found.setdefault(name, []).append((score.value.value, score.floor.value))  # type: ignore[union-attr]
    return {name: dict(zip(("true", "others"), map(float, np.mean(pairs, 0)), strict=True)) for name, pairs in found.items()}


def compared(net: Network, data: Any, seed: int) -> dict[str, list[Name]]:
    """Names of latents, of the k strongest neurons of the same MLP, and of latents that were never trained."""
    run = learn(net, stdlib(net, "train"), {SITE: TopK(2 * neurons(net).d, K)}, LEARNED, batch=256, seed=seed, progress=False)
    trained = run.dictionary
    kinds = {"latents": trained, "neurons": neurons(net), "untrained latents": untrained(trained, seed)}
    watched = {kind: Features(net, dictionary, data) for kind, dictionary in kinds.items()}
    observe(net, data, list(watched.values()))
    return {kind: explain(features, [f.index for f in features.interesting(LATENTS, LEAST, MOST, seed)],
                          scorers=JUDGED, seed=seed) for kind, features in watched.items()}


@torch.no_grad()
def neurons(net: Network) -> Dictionary:
    """The neurons of the MLP as features, of which the k with the largest absolute values fire: one for each sign."""
    site = net.site(f"{SITE}.neurons")
    width = site.n or 0
    dictionary = Dictionary(width, 2 * width, Largest(K), Facts(site=site.name))
    dictionary.W_enc.copy_(torch.cat([torch.eye(width), -torch.eye(width)]))
    dictionary.W_dec.copy_(dictionary.W_enc)
    return dictionary.requires_grad_(False)


@torch.no_grad()
def untrained(trained: Dictionary, seed: int) -> Dictionary:
    """Random directions in the place of the learned ones, with the same mean taken off and as many that fire."""
    dictionary = Dictionary(trained.d, trained.width, Largest(K), trained.facts)
    directions = torch.randn(trained.width, trained.d, generator=torch.Generator().manual_seed(seed))
    dictionary.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
    dictionary.W_enc.copy_(dictionary.W_dec)
    dictionary.b_dec.copy_(trained.b_dec)
    return dictionary.requires_grad_(False)


def summary(names: Iterable[Name]) -> dict[str, float]:
    """The mean scores of names and of their floors, the share of features without a name, and how often they fire."""
    names = list(names)
    known = [name for name in names if name.text]
    made = {"n": float(len(known)), "without a name": 1 - len(known) / len(names),
            "density of windows": float(np.mean([name.density for name in known]))}
    for i, scorer in enumerate(JUDGED):
        scores = [name.scores[i] for name in known if name.scores[i].value is not None]
        made[scorer] = float(np.mean([score.value.value for score in scores]))  # type: ignore[union-attr]
        made[f"{scorer} floor"] = float(np.mean([score.floor.value for score in scores]))  # type: ignore[union-attr]
        made[f"{scorer} above its floor"] = float(np.mean([score.tells for score in scores]))
    return made


def concluded(planted: dict[str, list[dict[str, float]]], kinds: dict[str, list[dict[str, float]]], examined: list[str],
              name: str) -> Proof:
    """The proof from its figures."""
    def ranked(scorer: str) -> Comparison:
        return compare("true names", "names of other planted features", f"{scorer} score of planted features",
                       [seed["true"] for seed in planted[scorer]], [seed["others"] for seed in planted[scorer]], "higher")

    def against(other: str, scorer: str) -> Comparison:
        return compare(f"TopK latents, k {K}", other, f"{scorer} score of names by rules",
                       [seed[scorer] for seed in kinds["latents"]], [seed[scorer] for seed in kinds[other]], "higher")

    return Proof(
        "auto-interp", "The explanation scorers rank true labels of planted features above shuffled ones, and a small GPT's "
        "sparse latents above its top-k neurons.",
        comparisons=(*map(ranked, OWN), *(against("neurons", scorer) for scorer in JUDGED)),
        beside=(ranked("simulation"), *(against("untrained latents", scorer) for scorer in JUDGED)),
        figures={"planted, by seed": planted, "by kind and seed": kinds, "first names": examined},
        n={"planted features": len(PLANTED), "tokens that they fire in, of each seed": PLANTED_IN,
           "windows of either kind for each planted feature": WINDOWS, "names of other features on the same windows": FLOORS,
           "features of each kind and seed": LATENTS, "tokens that they are watched on, of each seed": WATCHED,
           "activations of each training": LEARNED},
        seeds=SEEDS,
        notes=(f"On {name} and the standard library's source. A seed is its own part of the test text, its own planted "
               "strengths and chance firings (one for ten true ones), its own training and its own sample of features. Names "
               "are found on half of the documents and scored on the other half; silent windows are verified, half of them "
               "hard.",
               "No large language model judges here, as one does in the paper: detection, fuzzing and simulation are judged "
               "by the rule behind the name, so that for planted features they show that the scorers are right, not that a "
               f"reader would be. Surprisal is read by {name} itself, the embedding is MiniLM's, and intervention looks up "
               f"the named tokens in the network's next-token probabilities at {PLANTED_AT}.",
               f"Latents are learned at what the MLP of {SITE} writes, as many as its neurons have signs, and names are those "
               "of rule induction. The neurons are its own, the k of the largest absolute value at each token, one feature "
               f"for each sign. Both fire at k = {K} places a token. Features that fire fewer than {LEAST} times or at more "
               f"than {MOST:.0%} of the tokens are not sampled.")
    ).unless(
        "Likely why: " + "; ".join(
            f"{part.figure}, {np.mean(part.ours):.3f} against {np.mean(part.theirs):.3f}, "
            + ("is the wrong way round" if part.holds is False else "is not decided by three seeds")
            for part in (*map(ranked, OWN), *(against("neurons", scorer) for scorer in JUDGED)) if not part.holds)
        + f". {name} reads a name as code, not as a description, and its latents are few and trained on little.")
