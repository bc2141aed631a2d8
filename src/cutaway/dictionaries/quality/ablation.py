"""Ablation sparsity: does cutting one latent move few of the logits that follow, or all of them a little?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...network import At, Edit
from ..dictionary import Dictionary, raw
from .bench import Bench
from .contract import Metric, Results, Undefined, mean_of
from .wired import several

LATENTS, CONTEXTS, AFTER = 48, 3, 8
EARLY = 96              # tokens of a row in which a latent is cut, so that a pass needs no more of it
NAMES = ("ablation_sparsity", "ablation_effect")


def firings(dictionary: Dictionary, bench: Bench, seed: int = 0) -> list[np.ndarray]:
    """For some latents that fire, some activations on which they do, early enough in a row to see what follows."""
    matrix = bench.matrix(dictionary).tocsc()
    last = min(int(bench.position.max()) - AFTER + 1, EARLY)
    random, found = np.random.default_rng(seed), []
    for latent in random.permutation(np.flatnonzero(np.diff(matrix.indptr))).tolist():
        places = matrix.indices[matrix.indptr[latent]: matrix.indptr[latent + 1]]
        places = places[bench.position[places] <= last]
        if len(places) >= CONTEXTS:
            chosen = random.permutation(places)[:CONTEXTS]
            found.append(np.stack([np.full(CONTEXTS, latent), chosen], 1))
        if len(found) == LATENTS:
            break
    return found


@torch.no_grad()
def effects(dictionary: Dictionary, bench: Bench) -> Results:
    """(L1 / L2)^2 over T * V of the change of the next T tokens' logits, each token's about its median."""
    net = bench.net
    if reason := several(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    if net is None or net.kind != "causal":
        return dict.fromkeys(NAMES, Undefined("only causal language models have logits of next tokens"))
    found = firings(dictionary, bench)
    if len(found) < 10:
        return dict.fromkeys(NAMES, Undefined(f"{len(found)} latents fire {CONTEXTS} times or more, and 10 are needed"))
    pairs = np.concatenate(found)
    # By position, so that a pass needs no more of its rows than its latest token asks for.
    order = np.argsort(bench.position[pairs[:, 1]], kind="stable")
    sparsity, effect = np.empty(len(pairs)), np.empty(len(pairs))
    for chosen in np.array_split(order, -(-len(order) // bench.batch_size)):
        sparsity[chosen], effect[chosen] = measured(dictionary, bench, pairs[chosen])
    by_latent = sparsity.reshape(-1, CONTEXTS).mean(1), effect.reshape(-1, CONTEXTS).mean(1)
    of = f"latents in {CONTEXTS} contexts each"
    return {"ablation_sparsity": mean_of(by_latent[0], "lower", of), "ablation_effect": mean_of(by_latent[1], "", of, "logits")}


def measured(dictionary: Dictionary, bench: Bench, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sparsity and norm of the effect for pairs [m, 2] of latent and activation."""
    latents, places = pairs.T
    at = torch.from_numpy(bench.position[places])
    net = bench.net
    assert net is not None
    batch = bench.data.rows(bench.row[places]).to(net.device)
    ids = batch.inputs["input_ids"][:, : int(at.max()) + AFTER]
    rows = torch.arange(len(ids))
    strength = torch.from_numpy(np.asarray(bench.matrix(dictionary)[places, latents])).flatten()
    change = torch.zeros(*ids.shape, dictionary.W_dec.shape[1])
    change[rows, at] = -strength[:, None] * dictionary.W_dec[torch.from_numpy(latents)]

    def cut(x: Tensor, where: At) -> Tensor:
        return x + change.to(x).view_as(x)

    inputs = replace(batch, inputs={"input_ids": ids}, keep=None)
    before = net.logits(inputs)
    with net.edited(Edit(raw(net.site(dictionary.writes[0])), cut)):
        after = net.logits(inputs)
    window = at[:, None] + torch.arange(AFTER)
    moved = (after - before).cpu()[rows[:, None], window].double()
    moved = moved - moved.median(-1, keepdim=True).values
    return concentration(moved.flatten(1).numpy()), moved.flatten(1).norm(dim=1).numpy()


def concentration(x: np.ndarray) -> np.ndarray:
    """(L1 / L2)^2 over the length of each row: 1 where all are equal, 2 / pi = 0.637 for a Gaussian, 1 / n for one alone."""
    square = (x**2).sum(1)
    return np.where(square > 0, np.abs(x).sum(1) ** 2 / np.maximum(square, 1e-300) / x.shape[1], np.nan)


def anchors(dictionary: Dictionary, bench: Bench) -> dict[str, tuple[str, Results]]:
    """What a Gaussian change of all logits would give, by the same sum over as many contexts."""
    random = np.random.default_rng(0).standard_normal((LATENTS, AFTER * 512))
    return {"Gaussian effect": ("floor", {"ablation_sparsity": mean_of(concentration(random), "lower", "draws")})}


ABLATION = Metric(
    "ablation_sparsity", 1, "diagnostic",
    f"one latent is cut at one token on which it fires, the error stays; the logits of {AFTER} tokens from there on change by "
    "(L1 / L2)^2 / (T V), each token's about its median; low is sparse",
    "OpenAI's ablation sparsity (arXiv 2406.04093, section 4.5) with T = 8 in place of 16",
    {"random": "floor", "permuted": "floor", "neurons": "beside", "components": "beside"}, effects, anchors)
