"""Induction heads found from ten examples by discrete codes, against the heads that ablation names."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..dictionaries.quality.probes import auc
from ..explain.sae_circuit import discrete_codes, head_outputs, nodes, sae_circuit
from ..network import At, Edit, Network, open
from .proof import Comparison, Proof, compare, say
from .repeats import reordered, repeated, second_half_loss

SEEDS = (0, 1, 2, 3, 4)
EXAMPLES, LENGTH = 10, 40          # of the task, and as many without it; tokens before the repetition
ABLATED = 16                       # sequences on which heads are ablated
FELT = 0.2                         # nats a token that the loss must rise for a head to count, and by two standard errors
MEANS = 25                         # iterations of k-means
QUICK = 60.0                       # seconds that a ranking may take


@torch.no_grad()
def truth(net: Network) -> tuple[np.ndarray, np.ndarray]:
    """The rise of the loss on repeated tokens with each head at its mean: mean and standard error, [blocks, heads]."""
    ids = repeated(net, ABLATED, LENGTH, 500)
    plain, n = second_half_loss(net, ids), net.n_heads or 1
    rises = np.zeros((net.n_blocks, n, ABLATED))
    for block in range(net.n_blocks):
        site = f"blocks.{block}.attn.heads"
        mean = net.record({"input_ids": ids}, site)[site].mean((0, 1)).unflatten(0, (n, -1))

        def at_mean(z: Tensor, at: At, mean: Tensor = mean) -> Tensor:
            return mean.expand_as(z)

        for head in range(n):
            gate = torch.ones(n)
            gate[head] = 0
            with net.edited(Edit(site, at_mean, gate, "u")):
                rises[block, head] = (second_half_loss(net, ids) - plain).numpy()
    return rises.mean(-1), rises.std(-1, ddof=1) / ABLATED**0.5


def k_means(x: Tensor, k: int, seed: int) -> np.ndarray:
    """The nearest of k centres for each head in each example, in the place of the dictionary's codes: [examples, heads]."""
    flat, generator = x.flatten(0, 1), torch.Generator().manual_seed(seed)
    centres = flat[torch.randperm(len(flat), generator=generator)[:k]]
    for _ in range(MEANS):
        near = torch.cdist(flat, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add(0, near, flat)
        counts = torch.bincount(near, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return near.view(x.shape[:2]).numpy()


def one(net: Network, heads: np.ndarray, seed: int) -> dict[str, float]:
    """The AUC of each way of ranking heads, from one draw of examples."""
    positives = repeated(net, EXAMPLES, LENGTH, 3000 + seed)
    negatives, others = reordered(positives, seed), repeated(net, EXAMPLES, LENGTH, 3000 + seed, repeat=False)
    start = time.perf_counter()
    found = sae_circuit(net, {"input_ids": positives}, {"input_ids": negatives}, seed=seed)
    took = time.perf_counter() - start
    last = sae_circuit(net, {"input_ids": positives}, {"input_ids": negatives}, positions="last", seed=seed)
    unlike = sae_circuit(net, {"input_ids": positives}, {"input_ids": others}, seed=seed)
    x = torch.cat([head_outputs(net, {"input_ids": ids}) for ids in (positives, negatives)])
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    y = heads.ravel()
    gap = (x[:EXAMPLES].mean(0) - x[EXAMPLES:].mean(0)).norm(dim=1).numpy()
    return {"codes": auc(found.nodes.ravel(), y), "codes, normalised": auc(nodes(found.codes, EXAMPLES, True), y),
            "codes at the last position": auc(last.nodes.ravel(), y),
            "codes, negatives of other tokens": auc(unlike.nodes.ravel(), y),
            "edges": auc(found.edges.max(1), y), "k-means": auc(nodes(k_means(x, 200, seed), EXAMPLES), y),
            "mean difference": auc(gap, y), "mean difference, relative": auc(gap / x.norm(dim=-1).mean(0).numpy(), y),
            "permuted": auc(nodes(discrete_codes(shuffled, 200, 0.02, 10, seed), EXAMPLES), y), "seconds": took}


@proof("sae-circuit")
def circuits() -> Proof:
    """Discrete codes of ten examples rank the heads of induction above others, in seconds."""
    net = open("pico")
    start = time.perf_counter()
    rises, errors = truth(net)
    took = time.perf_counter() - start
    heads = (rises >= FELT) & (rises > 2 * errors)
    say("heads by ablation: " + ", ".join(f"{b}.{h} {rises[b, h]:.2f}" for b, h in np.argwhere(heads)))
    found = []
    for seed in SEEDS:
        found.append(one(net, heads, seed))
        say(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[-1].items()))
    return concluded(found, rises, heads, took, net.name)


def concluded(found: list[dict[str, float]], rises: np.ndarray, heads: np.ndarray, took: float, name: str) -> Proof:
    """The proof from each seed's figures."""
    def of(way: str) -> list[float]:
        return [row[way] for row in found]

    def against(way: str, baseline: str) -> Comparison:
        return compare("discrete codes", baseline, "AUC of the ranking of heads", of("codes"), of(way), "higher")

    means = {way: float(np.mean(of(way))) for way in found[0]}
    return Proof(
        "sae-circuit", f"On a small GPT, the overlap of discrete codes from {EXAMPLES} examples ranks the ablation-verified "
        "heads of induction above others, in seconds.",
        comparisons=(against("permuted", "codes with the examples' labels permuted"),
                     against("mean difference", "norm of the difference of means")),
        checks={f"a ranking takes at most {QUICK:.0f} seconds": max(of("seconds")) <= QUICK},
        beside=(against("k-means", "nearest of 200 k-means centres in place of codes"),
                against("mean difference, relative", "norm of the difference of means over the mean norm"),
                compare("codes at the last position", "norm of the difference of means", "AUC of the ranking of heads",
                        of("codes at the last position"), of("mean difference"), "higher"),
                compare("codes at the last position", "codes of the average over positions", "AUC of the ranking of heads",
                        of("codes at the last position"), of("codes"), "higher")),
        figures={"by_seed": found, "mean": means, "loss rise by head": rises.tolist(),
                 "heads by ablation": [f"{b}.{h}" for b, h in np.argwhere(heads)], "seconds of the ablation": took},
        n={"heads": int(heads.size), "heads by ablation": int(heads.sum()), "examples with the task": EXAMPLES,
           "examples without": EXAMPLES, "sequences of the ablation": ABLATED},
        seeds=SEEDS,
        notes=(f"On {name}. Examples are sequences of {LENGTH} random tokens and the same again; those without the task have "
               "the same tokens in the second half in a random order. The heads to be found are those whose mean in their "
               f"place costs {FELT} nats a token or more on other repeated sequences, and more than two standard errors; "
               "what they feed on (heads that look at the token before) is among them.",
               "A seed is its own examples and initialisation. The settings are the authors': 200 latents, penalty 0.02, 500 "
               "epochs on 10 examples, heads' outputs averaged over positions, here scaled to variance 1.",
               "Smaller than the paper: 48 heads of a network of 6 blocks and one task; GPT-2 small and three tasks there.")
    ).unless(
        "Likely why: the norm of the difference of means, which needs no dictionary, ranks the heads with an AUC of "
        f"{means['mean difference']:.2f}, the codes with {means['codes']:.2f} and with permuted labels "
        f"{means['permuted']:.2f}. On average over positions an induction head has one code with and without the task, "
        "while heads that read nearby tokens have another code for every text, and so most codes that only one side shows.")
