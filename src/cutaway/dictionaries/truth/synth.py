"""SynthSAEBench: the public process at its published constants, and a smaller sibling for two cores."""

from __future__ import annotations

import torch
from torch import Tensor

from .world import Firing, World, compensated

STEPS, RATE, CHUNK = 100, 3e-4, 1024       # of the orthogonalisation
MOST, LEAST, EXPONENT = 0.4, 5e-4, 0.5     # of the firing rates
STRONG, WEAK, SPREAD = 5.0, 4.0, 0.5       # mean strengths fall from the commonest feature to the rarest
RANK, LOADING, BIAS = 25, 0.1, 0.5
BRANCHES = 4


def synth_sae_bench(seed: int = 42) -> World:
    """SynthSAEBench-16k (arXiv 2602.14687; the constants are those of `sae_lens.synthetic`): 16,384 features in 768 dimensions.

    The orthogonalisation alone takes minutes on two cores. Directions, rates, mean strengths, loadings and bias come from the
    same seeds as in `sae_lens`, and agree with its own to rounding; what is sampled does not follow its random numbers.
    Published results are of 200 million samples.
    """
    return synth(16_384, 768, roots=128, depth=3, seed=seed, name="synth-sae-bench")


def synth_small(seed: int = 42) -> World:
    """The same process with 1,024 features in 128 dimensions and 32 roots with two generations below."""
    return synth(1024, 128, roots=32, depth=2, seed=seed, name="synth-small")


def synth(m: int, d: int, roots: int, depth: int, seed: int, name: str = "") -> World:
    """The process at any size: m features in d dimensions, `roots` trees of `depth` generations below the root."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, d, generator=generator)
    bias = torch.randn(d, generator=generator)
    parents = trees(m, roots, depth)
    loose = (WEAK - STRONG) * torch.linspace(0, 1, m) + STRONG
    spread = (SPREAD + SPREAD * torch.randn(m, generator=torch.Generator().manual_seed(seed + 1))).abs()
    factor = LOADING * torch.randn(m, RANK, generator=torch.Generator().manual_seed(seed + 4))
    factor = factor * (0.99 / factor.pow(2).sum(1, keepdim=True)).clamp(max=1).sqrt()
    firing = Firing(compensated(zipf(m), parents), loose, spread, parents, scaled=True, factor=factor)
    return World(name, orthogonal(rows)[:, None], firing, BIAS * bias / bias.norm(), parents)


def zipf(m: int) -> Tensor:
    """Firing rates [m]: rank^-0.5, stretched to lie between the least and the most."""
    rate = torch.arange(1, m + 1, dtype=torch.float32) ** -EXPONENT
    return LEAST + (MOST - LEAST) * (rate - rate[-1]) / (rate[0] - rate[-1])


def trees(m: int, roots: int, depth: int) -> Tensor:
    """Each feature's parent [m], or -1: generation by generation, four children each."""
    inner = roots * (BRANCHES**depth - 1) // (BRANCHES - 1)
    parents = torch.full((m,), -1)
    children = torch.arange(roots, min(m, roots + BRANCHES * inner))
    parents[children] = (children - roots) // BRANCHES
    return parents


def orthogonal(rows: Tensor, steps: int = STEPS) -> Tensor:
    """Unit rows [m, d] that Adam has turned away from each other.

    It descends on sum_{i != j} (e_i . e_j)^2 + m * sum_i (|e_i|^2 - 1)^2, whose gradient is written out here.
    """
    rows = (rows / rows.norm(dim=1, keepdim=True)).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=RATE)
    for _ in range(steps):
        with torch.no_grad():
            grad = torch.empty_like(rows)
            for start in range(0, len(rows), CHUNK):
                part = rows[start: start + CHUNK]
                dots = part @ rows.T
                own = dots.diagonal(start)[: len(part)]
                own.copy_(len(rows) * (own - 1))
                grad[start: start + CHUNK] = 4 * dots @ rows
        rows.grad = grad
        optimizer.step()
    rows = rows.detach()
    return rows / rows.norm(dim=1, keepdim=True)
