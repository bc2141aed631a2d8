"""ReAGent on pico: are its importances of tokens more faithful than those of gradients, attention and chance?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribute import inputs_of
from ..attribute.inputs import Inputs
from ..attribute.target import Target
from ..catalogue import find, proof
from ..data import Batch
from ..data.corpora import stdlib
from ..metrics.faithfulness import area, deletion, insertion, soft
from ..network import Network, open
from .proof import Comparison, Proof, compare, over_seeds

SEEDS = (0, 1, 2)
ROWS, TOKENS = 12, 33              # contexts of a seed, and their tokens with the one that begins
SURE = 0.5                         # the least probability of the network's own answer
DRAWS = 8                          # of the masks on embeddings
METHODS: dict[str, dict[str, Any]] = {
    "reagent": {"runs": 5, "steps": 50}, "saliency": {}, "attention": {}, "random": {}, "input-x-gradient": {},
    "integrated-gradients": {"n_steps": 32}, "leave-one-out": {}}
MEASURES = ("soft sufficiency", "soft comprehensiveness")
STEPS = 8                          # of deletion and insertion
NAMED = ("saliency", "attention", "random")


@torch.no_grad()
def contexts(net: Network, seed: int) -> tuple[Batch, Target]:
    """Beginnings of rows of test text whose next token the network is sure of, and that token."""
    data = stdlib(net, "test")
    order = np.random.default_rng(seed).permutation(data.n_rows)
    found: list[Tensor] = []
    answers: list[Tensor] = []
    for at in range(0, len(order), 64):
        batch = data.rows(order[at: at + 64])
        ids = batch.inputs["input_ids"][:, :TOKENS]  # type: ignore[index]
        p = net.logits({"input_ids": ids})[:, -1].softmax(-1)
        sure = p.amax(1) >= SURE
        found.append(ids[sure])
        answers.append(p.argmax(1)[sure])
        if sum(map(len, found)) >= ROWS:
            break
    ids, answer = torch.cat(found)[:ROWS], torch.cat(answers)[:ROWS]
    keep = ~torch.isin(ids, torch.tensor(net.tokenizer.all_special_ids))
    return Batch({"input_ids": ids}, keep, None, torch.arange(len(ids))), Target(
        "probability", answer, None, torch.full((len(ids),), TOKENS - 1))


def signless(name: str, values: Tensor) -> Tensor:
    """How important each token is; ways with a sign count by size, as their authors' comparison does."""
    return values if name in ("reagent", "attention", "random", "leave-one-out") else values.abs()


def drawer(inputs: Inputs, target: Target, seed: int) -> Any:
    """The answer's probability with each element of an embedding open with its token's chance."""
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def drawn(rows: Tensor, chances: Tensor) -> Tensor:
        parts = []
        for row, chance in zip(rows.split(inputs.limit), chances.split(inputs.limit), strict=True):
            x, base = inputs.x[row], inputs.baseline[row]
            gate = (torch.rand(x.shape, generator=generator) < chance[..., None]).to(x)
            parts.append(inputs.values(base + gate * (x - base), target, row))
        return torch.cat(parts)
    return drawn


def one(seed: int) -> dict[str, dict[str, float]]:
    """The figures of one seed: contexts, and all that is drawn."""
    net = open("pico")
    batch, target = contexts(net, seed)
    inputs = inputs_of(net, batch, "tokens", "zero")
    inputs.limit = 64
    found: dict[str, dict[str, float]] = {}
    values: dict[str, Tensor] = {}
    for name, options in METHODS.items():
        before = inputs.passed
        drawn = {"seed": seed} if name in ("reagent", "random") else {}
        values[name] = signless(name, find(name, "attribute").object(inputs, target, **options, **drawn).detach())
        found[name] = {"passes": (inputs.passed - before) / len(batch)}
    counts = inputs.keep

    def value(rows: Tensor, gates: Tensor) -> Tensor:
        return inputs.sweep(gates, target, rows)
    for name, importance in values.items():
        for scaling in ("rank", "min-max") if name in (*NAMED, "reagent") else ("rank",):
            pair = soft(value, drawer(inputs, target, seed), importance, counts, scaling=scaling, draws=DRAWS)
            found[name] |= {f"{measure}, {scaling}": float(each.mean()) for measure, each in zip(MEASURES, pair, strict=True)}
        found[name] |= {"deletion": float(area(deletion(value, importance, counts, STEPS)).mean()),
                        "insertion": float(area(insertion(value, importance, counts, STEPS)).mean())}
    return found


@proof("reagent")
def tokens() -> Proof:
    """ReAGent's importances against gradients, attention and chance, by soft sufficiency and comprehensiveness."""
    return concluded(over_seeds(one, SEEDS))


def concluded(found: list[dict[str, dict[str, float]]]) -> Proof:
    """The proof from each seed's figures."""
    def of(name: str, figure: str) -> list[float]:
        return [row[name][figure] for row in found]

    def against(other: str, figure: str, better: str = "higher") -> Comparison:
        return compare("reagent", other, figure, of("reagent", figure), of(other, figure), better)

    others = [name for name in METHODS if name != "reagent"]
    unnamed = [name for name in others if name not in NAMED]
    return Proof(
        "reagent", "On a small language model, ReAGent's importances of tokens are more faithful (soft sufficiency and "
        "comprehensiveness) than those of the gradient, of attention and of chance.",
        comparisons=tuple(against(other, f"{measure}, rank") for measure in MEASURES for other in NAMED),
        beside=(*(against(other, f"{measure}, rank") for measure in MEASURES for other in unnamed),
                *(against(other, f"{measure}, min-max") for measure in MEASURES for other in NAMED),
                *(against(other, "deletion", "lower") for other in others), *(against(other, "insertion") for other in others)),
        figures={"by_seed": found},
        n={"contexts": ROWS, "tokens of a context": TOKENS - 1, "draws of masks": DRAWS, "runs": METHODS["reagent"]["runs"],
           "steps at most": METHODS["reagent"]["steps"]},
        seeds=SEEDS,
        notes=(f"pico on the test text of Python's standard library: the first {TOKENS - 1} tokens of rows whose next token "
               f"it predicts with a probability of {SURE} or more; a seed is a choice of contexts and all draws. "
               "Settings are the paper's; replacements are drawn evenly from the vocabulary, in the place of RoBERTa's.",
               "Each element of an embedding stays with its token's importance as its chance (sufficiency) or one less "
               "that (comprehensiveness), else it is zero, the begin token aside. Importance is scaled by rank, so that "
               "all ways give the same chances in different orders: with other scalings, and with softmax values that are "
               "nearly all 0, the measures tell more of the scale than of the order. Min-max stands beside.",
               "Smaller than the paper: GPT-2 to OPT-6.7B on three data sets there, seven other ways, and thousands of steps.")
    ).unless("Likely why: with few steps and random replacements the change of one probability is shared by all replaced "
             "tokens at once, so scores are noisy, and in code the answer often hangs on one or two near tokens, which "
             "gradients and attention name as well.")
