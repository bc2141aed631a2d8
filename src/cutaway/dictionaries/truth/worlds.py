"""The worlds that methods are compared on, each with one thing that makes features hard to find."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .synth import synth_small
from .toy import toy_network
from .world import Firing, World

D, RATIO, ACTIVE = 64, 4, 5.0   # unless a world says otherwise: 4 features a dimension, of which 5 fire at once on average
MEAN, SPREAD = 1.5, 0.3


def directions(m: int, d: int, seed: int, r: int = 1) -> Tensor:
    """Random frames [m, r, d] of orthonormal rows."""
    made = torch.randn(m, d, r, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(made).Q.transpose(1, 2).contiguous()


def process(rate: Tensor, parents: Tensor | None = None, factor: Tensor | None = None) -> Firing:
    """Strengths of mean 1.5 and spread 0.3; children exclude each other."""
    m = len(rate)
    return Firing(rate, torch.full((m,), MEAN), torch.full((m,), SPREAD),
                  torch.full((m,), -1) if parents is None else parents, factor=factor)


def no_parents(m: int) -> Tensor:
    return torch.full((m,), -1)


def superposed(ratio: float, d: int = D, active: float = ACTIVE, seed: int = 0, name: str = "") -> World:
    """Independent features that all fire equally often: ratio * d of them in d dimensions."""
    m = round(ratio * d)
    rate = torch.full((m,), active / m)
    return World(name or f"superposed {ratio:g}", directions(m, d, seed), process(rate), torch.zeros(d), no_parents(m))


def independent(seed: int = 0) -> World:
    """As many features as dimensions, independent of each other."""
    return superposed(1, seed=seed, name="independent")


def correlated(seed: int = 0, groups: int = 16, loading: float = 0.8) -> World:
    """Features in groups that fire together: within a group, the Gaussians behind two features correlate by loading^2."""
    m = RATIO * D
    factor = torch.zeros(m, groups)
    factor[torch.arange(m), torch.arange(m) % groups] = loading
    rate = torch.full((m,), ACTIVE / m)
    return World("correlated", directions(m, D, seed), process(rate, factor=factor), torch.zeros(D), no_parents(m))


def hierarchical(seed: int = 0, roots: int = 16, children: int = 4, rate: float = 0.2) -> World:
    """Parents that fire in a fifth of cases, each half of the time with one of its children, and features without parents."""
    m, families = RATIO * D, roots * (1 + children)
    parents = no_parents(m)
    parents[roots: families] = torch.arange(families - roots) // children
    rates = torch.full((m,), (ACTIVE - roots * rate) / (m - families))
    # A child fires with a half / children, in spite of the others: 1 - (1 - p)^children = 1 / 2.
    rates[:roots], rates[roots: families] = rate, 1 - 0.5 ** (1 / children)
    return World("hierarchical", directions(m, D, seed), process(rates, parents), torch.zeros(D), parents)


def bidirectional(seed: int = 0) -> World:
    """Features with two poles: each fires along its direction or against it."""
    m = RATIO * D
    rate = torch.full((m,), ACTIVE / m)
    return World("bidirectional", directions(m, D, seed), process(rate), torch.zeros(D), no_parents(m), spheres=True)


def power_law(seed: int = 0, exponent: float = 1.0) -> World:
    """Independent features that fire by Zipf's law, none in more than half of the cases."""
    m = RATIO * D
    rate = torch.arange(1, m + 1) ** -exponent
    rate = (rate * ACTIVE / rate.sum()).clamp(max=0.5)
    return World("power law", directions(m, D, seed), process(rate), torch.zeros(D), no_parents(m))


def manifolds(seed: int = 0, m: int = 48, r: int = 2, active: float = 2.0) -> World:
    """Quadratic manifolds: circles (spheres, for r above 2) in planes of their own, of which two are there on average."""
    return World("manifolds", directions(m, D, seed, r), process(torch.full((m,), active / m)), torch.zeros(D), no_parents(m),
                 spheres=True)


WORLDS: dict[str, Callable[..., World]] = {
    "independent": independent, "superposed-2": lambda seed=0: superposed(2, seed=seed),
    "superposed-8": lambda seed=0: superposed(8, seed=seed), "correlated": correlated, "hierarchical": hierarchical,
    "bidirectional": bidirectional, "power-law": power_law, "manifolds": manifolds, "toy-network": toy_network,
    "synth-small": synth_small}

