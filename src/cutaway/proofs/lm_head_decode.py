"""Neurons decoded by the LM head: whether the token is the one that they read, and whether clamping them raises it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..data.corpora import stdlib
from ..explain.lm_head import Decoded, clamped, lm_head_decode, place, vectors
from ..network import Network, open
from ..observe import activations
from .proof import Comparison, Proof, compare, say
from .scores import slices

SEEDS = (0, 1, 2)
PEAKED, DECODED = 20, 10             # neurons, and tokens of each
READ, MOVED = 20_480, 512            # tokens a seed: for top-activating tokens, and under each clamped neuron
TOP = 20                             # top-activating tokens of a neuron
SIGMAS = 3.0
NEAR = 32                            # neurons of the same block, nearest in norm, of which one is drawn as control
SIDES = ("reads", "writes")
Figures = dict[str, float]


@proof("lm-head-decode")
def lm_head() -> Proof:
    """Decoded neurons name a token, and clamping them raises it over random neurons."""
    return measured(open("pico"))


def measured(net: Network) -> Proof:
    """The proof on a network that reads text."""
    start = time.perf_counter()
    decoded = {side: lm_head_decode(net, side=side, k=DECODED) for side in SIDES}
    took = time.perf_counter() - start
    found: dict[str, list[Figures]] = {side: [] for side in SIDES}
    chosen = {side: decoded[side].peaked(PEAKED) for side in SIDES}
    for seed, text in zip(SEEDS, slices(stdlib(net, "test"), READ, len(SEEDS)), strict=True):
        for side in SIDES:
            found[side].append({**names(net, chosen[side], text, seed), **moves(net, chosen[side], text, seed)})
            say(f"seed {seed}, {side}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[side][-1].items()))
    same = (decoded["reads"].tokens[:, 0] == decoded["writes"].tokens[:, 0]).float().mean()
    words = {side: [f"{row.block}.{row.unit} {row.tokens[0]!r} {row.probability:.2f}" for row in part.frame.itertuples()]
             for side, part in chosen.items()}
    return concluded(found, {"seconds for all neurons on both sides": took, "neurons": len(decoded["reads"]),
                             "both sides have the same first token": float(same), "peaked": words}, net)


@torch.no_grad()
def names(net: Network, chosen: Decoded, text: Any, seed: int) -> Figures:
    """The share of neurons of whose decoded tokens one is a top-activating token, and the same with neurons re-paired.

    The token is that at which a neuron reads most, or that comes next where it writes most.
    """
    shift = int(chosen.side == "writes")
    values, tokens = [], []
    sites = {int(block): place(net, chosen.side, int(block)) for block in chosen.block.unique()}
    for seen in activations(net, text, [site for site, _ in sites.values()]):
        ids, keep = seen.batch.inputs["input_ids"], seen.batch.keep
        of = [seen.tensors[sites[int(b)][0]][..., sites[int(b)][1] + int(u)]
              for b, u in zip(chosen.block, chosen.unit, strict=True)]
        here, there = (slice(None, -1), slice(1, None)) if shift else (slice(None), slice(None))
        keep = keep[:, here] & keep[:, there]
        values.append(torch.stack(of, -1)[:, here][keep])
        tokens.append(ids[:, there][keep])
    top = torch.cat(tokens)[torch.cat(values).topk(TOP, 0).indices].T                 # [neurons, TOP]
    hit = (chosen.tokens[:, None, :, None] == top[None, :, None, :]).flatten(2).any(-1).double()  # decoded i, activating j
    order = np.random.default_rng(seed)
    paired = [float(hit[torch.arange(len(hit)), torch.from_numpy(order.permutation(len(hit)))].mean()) for _ in range(200)]
    return {"named": float(hit.diagonal().mean()), "re-paired": float(np.mean(paired))}


@torch.no_grad()
def moves(net: Network, chosen: Decoded, text: Any, seed: int) -> Figures:
    """How much clamping a neuron to 3 standard deviations raises the log probability of its token, and clamping another.

    The other neuron is drawn from those of the block whose push, the deviation times the norm of what it writes, is nearest.
    """
    part, random = text.take(MOVED).rows(slice(None)), np.random.default_rng(seed)
    keep = part.keep
    clean = net.logits(part).float().log_softmax(-1)[keep]
    spread = {int(b): _spread(net, chosen.side, int(b), text) for b in chosen.block.unique()}
    own: list[float] = []
    other: list[float] = []
    for block, unit, token in zip(chosen.block.tolist(), chosen.unit.tolist(), chosen.tokens[:, 0].tolist(), strict=True):
        push = spread[block] * vectors(net, block, "writes").norm(dim=1)
        near = (push - push[unit]).abs().argsort()[1: NEAR + 1].tolist()
        for kept, neuron in ((own, unit), (other, int(random.choice([i for i in near if i != unit])))):
            with net.edited(clamped(net, chosen.side, block, neuron, SIGMAS * float(spread[block][neuron]))):
                made = net.logits(part).float().log_softmax(-1)[keep]
            kept.append(float((made[:, token] - clean[:, token]).mean()))
    return {"raised": float(np.mean(own)), "raised by random": float(np.mean(other)),
            "share that raises": float(np.mean(np.array(own) > 0))}


def _spread(net: Network, side: str, block: int, text: Any) -> Tensor:
    """The standard deviation of each neuron of a block where it is clamped: [neurons]."""
    site, start = place(net, side, block)
    x = torch.cat([seen.kept(site) for seen in activations(net, text.take(8_192), [site])])
    return x[:, start:].float().std(0)


def concluded(found: dict[str, list[Figures]], figures: dict[str, Any], net: Network) -> Proof:
    """The proof from its figures."""
    def against(side: str, name: str, baseline: str, figure: str, method: str, other: str) -> Comparison:
        return compare(method, other, f"{figure} ({side})", [seed[name] for seed in found[side]],
                       [seed[baseline] for seed in found[side]], "higher")

    def pair(side: str) -> tuple[Comparison, Comparison]:
        return (against(side, "named", "re-paired", f"share whose {DECODED} decoded tokens hold a top-activating one",
                        "decoded tokens", "tokens of re-paired neurons"),
                against(side, "raised", "raised by random", "change of the log probability of the decoded token",
                        "its neuron clamped", "a random neuron clamped as strongly"))

    causal = pair("reads")[1]
    return Proof(
        "lm-head-decode", "A small GPT's MLP neurons decoded by the LM head name a token, and clamping the neuron raises that "
        "token's probability over random neurons.", pair("reads"), beside=pair("writes"),
        figures={**figures, "by_seed": found},
        n={"neurons": PEAKED, "decoded tokens": DECODED, "tokens of text of each seed": READ,
           "tokens under each clamped neuron": MOVED},
        seeds=SEEDS,
        notes=(f"On {net.name}, whose embeddings are tied, on the test split of the standard library's source. The neurons are "
               f"the {PEAKED} of all blocks whose first decoded token is likeliest. As in the paper, the row of the "
               "up-projection is decoded and the up-projection's output is clamped, to 3 of its standard deviations at every "
               "token; no norm is applied. Beside it, the same for what a neuron writes: the column of the down-projection, "
               "the neuron's activation, and the token that comes next.",
               "A seed is its own text and its own random neurons, of the same block and with the nearest push; the decoded "
               "neurons are the same, because they depend on weights alone. The paper's share of neurons that keep their "
               "token after tuning needs a tuned model, and is not shown here.")
    ).unless(
        f"Likely why: the up-projection's row is how the neuron reads, not what it writes, and in a gated MLP the gate decides "
        f"when and with which sign the clamped value acts; clamping changes the log probability by {causal.difference:+.3f} "
        "nats more than a random neuron does. What the neuron writes, decoded in the same way, stands beside it.")
