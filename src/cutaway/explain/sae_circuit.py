"""Which heads a task runs on, from the discrete codes of a small dictionary of all heads' outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from ..network import Network

EPOCHS, RATE = 500, 1e-3
POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda z: z.mean(1), "last": lambda z: z[:, -1]}


@dataclass(frozen=True)
class Circuit:
    """Scores of heads and of pairs of heads for a task, higher for those that it runs on.

    nodes: [blocks, heads]; edges: [n, n] with n = blocks * heads, block after block; codes: [examples, n], each head's
    code in each example, positives first.
    """

    nodes: np.ndarray
    edges: np.ndarray
    codes: np.ndarray


@method("sae-circuit", family="explain", title="Sparse autoencoders enable scalable and reliable circuit identification",
        paper="arXiv 2405.12522", roster="013")
def sae_circuit(net: Network, positives: Any, negatives: Any, width: int = 200, l1: float = 0.02, train: int = 10,
                normalise: bool = False, positions: str = "mean", seed: int = 0) -> Circuit:
    """Score every head by how many of its discrete codes are seen in examples of a task and never in others.

    positives, negatives: as many inputs of the network that ask for the task, and that look alike without asking for it.
    width, l1: of one ReLU autoencoder for the outputs of all heads; train: the examples that it is trained on, at random
    from both kinds; all examples are scored. normalise: divide by the codes that either kind shows. positions: a head's output
    is its `mean` over positions, or that of the `last` one.

    code(example, head) = argmax of the head's latents; node = |codes in positives without those in negatives|; edge = pairs
    of codes of two heads that are seen together in positives and never in negatives. Follows the authors' code, but for
    activations scaled to variance 1, which their penalty assumes. There is no threshold: heads are ranked.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions is one of {', '.join(POSITIONS)}; found {positions!r}.")
    with_task, without = (head_outputs(net, inputs, positions) for inputs in (positives, negatives))
    if len(with_task) != len(without):
        raise ValueError("positives and negatives must be equally many, because scores grow with them; found "
                         f"{len(with_task)} and {len(without)}.")
    x, half = torch.cat([with_task, without]), len(without)
    if train > len(x):
        raise ValueError(f"the autoencoder is to be trained on {train} examples, but there are {len(x)} in all.")
    codes = discrete_codes(x, width, l1, train, seed)
    blocks = net.n_blocks
    return Circuit(nodes(codes, half, normalise).reshape(blocks, -1), edges(codes, half, width), codes)


@torch.no_grad()
def head_outputs(net: Network, inputs: Any, positions: str = "mean") -> Tensor:
    """What each head adds to the residual stream, on average or at the last position: [examples, blocks * heads, d_model]."""
    sites = [net.site(f"blocks.{i}.attn.heads") for i in range(net.n_blocks)]
    found = net.record(inputs, sites)
    made = []
    for site in sites:
        mean, n = POSITIONS[positions](found[site.name]), site.n or 1
        alone = torch.zeros(n, *mean.shape).unflatten(-1, (n, -1))
        alone[range(n), :, range(n)] = mean.unflatten(-1, (n, -1)).transpose(0, 1)
        project = net.module.get_submodule(site.path)
        made.append((project(alone.flatten(-2)) - project(torch.zeros_like(mean))).transpose(0, 1))
    return torch.cat(made, 1).float()


def discrete_codes(x: Tensor, width: int, l1: float, train: int, seed: int) -> np.ndarray:
    """The strongest latent of each head in each example, of an autoencoder trained on a few: [examples, heads]."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=generator)[:train]
    x = x / x[chosen].std()
    sample, d = x[chosen].flatten(0, 1), x.shape[-1]
    encoder, decoder = (F.normalize(torch.randn(width, d, generator=generator), dim=1).requires_grad_() for _ in range(2))
    bias, center = torch.zeros(width, requires_grad=True), torch.zeros(d, requires_grad=True)
    optimizer = torch.optim.Adam([encoder, decoder, bias, center], lr=RATE)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            # Normalising inside the pass takes from the gradient what would only change a row's length.
            codes = F.linear(sample - center, F.normalize(encoder, dim=1), bias).relu()
            error = (codes @ F.normalize(decoder, dim=1) + center - sample).pow(2).mean()
            optimizer.zero_grad()
            (error + l1 * codes.sum(1).mean()).backward()
            optimizer.step()
    with torch.no_grad():
        return F.linear(x - center, F.normalize(encoder, dim=1), bias).relu().argmax(-1).numpy()


def nodes(codes: np.ndarray, half: int, normalise: bool = False) -> np.ndarray:
    """Codes seen in the first half of the examples and never in the second, for each head: [heads]."""
    found = []
    for head in codes.T:
        yes, no = set(head[:half].tolist()), set(head[half:].tolist())
        found.append(len(yes - no) / (len(yes | no) if normalise else 1))
    return np.array(found, float)


def edges(codes: np.ndarray, half: int, width: int) -> np.ndarray:
    """Pairs of codes seen together in the first half and never in the second, for each pair of heads: [heads, heads]."""
    n = codes.shape[1]
    pairs = codes[:, :, None] * width + codes[:, None, :]
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            found[i, j] = found[j, i] = len(set(pairs[:half, i, j].tolist()) - set(pairs[half:, i, j].tolist()))
    return found
