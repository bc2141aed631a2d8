"""Essential sparsity: how many of the smallest weights can go before a network gets worse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import prune

from ...catalogue import method
from ...kinds import kind_of, sites_of
from ...metrics.measure import measure
from ...network import Edit, Network, Site, zero

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
HIGHER = ("accuracy",)                # metrics that are better when they are higher
Masks = dict[str, Tensor]             # by the weight's site, true for weights that stay


@dataclass(frozen=True)
class Sparsity:
    """A metric of a network as more and more of its smallest weights are left out.

    sparsity: the shares of weights that were left out; values: the metric at each; dense: with all weights.
    epsilon: how much worse, as a share of the dense value, is still as good.
    """

    how: str
    metric: str
    sparsity: tuple[float, ...]
    values: tuple[float, ...]
    dense: float
    epsilon: float

    @property
    def worse(self) -> tuple[float, ...]:
        """How much worse than the dense network it is at each sparsity, in units of the metric."""
        sign = -1 if self.metric in HIGHER else 1
        return tuple(sign * (value - self.dense) for value in self.values)

    @property
    def essential(self) -> float:
        """The last sparsity before the network first becomes worse by more than epsilon; 0 where the first already does."""
        found = 0.0
        for sparsity, worse in zip(self.sparsity, self.worse, strict=True):
            if worse > self.epsilon * abs(self.dense):
                break
            found = sparsity
        return found

    def slopes(self) -> tuple[float, float]:
        """How much worse it becomes for each unit of sparsity up to the essential one, and from there to the end."""
        knee = self.essential
        at = dict(zip((0.0, *self.sparsity), (0.0, *self.worse), strict=True))
        last = self.sparsity[-1]
        before = at[knee] / knee if knee else 0.0
        return before, (at[last] - at[knee]) / (last - knee) if last > knee else 0.0


def by_all(weights: Mapping[str, Tensor], sparsity: float, seed: int = 0) -> Masks:
    """The largest weights of all matrices together stay."""
    every = torch.cat([weight.abs().flatten() for weight in weights.values()])
    return _largest(every, weights, sparsity)


def by_layer(weights: Mapping[str, Tensor], sparsity: float, seed: int = 0) -> Masks:
    """The largest weights of each matrix stay."""
    return {name: _largest(weight.abs().flatten(), {name: weight}, sparsity)[name] for name, weight in weights.items()}


def by_chance(weights: Mapping[str, Tensor], sparsity: float, seed: int = 0) -> Masks:
    """Weights drawn from all matrices stay."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(weight.numel() for weight in weights.values())
    return _largest(torch.rand(n, generator=generator), weights, sparsity)


def by_group(weights: Mapping[str, Tensor], sparsity: float, seed: int = 0, m: int = 8) -> Masks:
    """The N largest of each M weights that are read side by side stay (N:M sparsity); a last group may be smaller."""
    n, found = round(m * (1 - sparsity)), {}
    for name, weight in weights.items():
        groups = torch.nn.functional.pad(weight.abs().flatten(1), (0, -weight[0].numel() % m), value=-1.0).unflatten(1, (-1, m))
        keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(n, dim=-1).indices, True)
        found[name] = keep.flatten(1)[:, : weight[0].numel()].reshape(weight.shape)
    return found


def _largest(scores: Tensor, weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """The masks of the largest scores of all weights together, exactly as many as asked for."""
    n = round(sparsity * len(scores))
    last = scores.kthvalue(n).values if n else scores.new_tensor(-1.0)
    keep = scores > last
    tied = (scores == last).nonzero()[:, 0]
    keep[tied[len(tied) - (len(scores) - n - int(keep.sum())):]] = True
    parts = keep.split([weight.numel() for weight in weights.values()])
    return {name: part.view(weight.shape) for part, (name, weight) in zip(parts, weights.items(), strict=True)}


HOW: dict[str, Callable[..., Masks]] = {
    "global": by_all, "layer": by_layer, "random": by_chance, "n:4": partial(by_group, m=4), "n:8": by_group}


@method("essential-sparsity", family="analysis", title="Essential sparsity: the knee of one-shot magnitude pruning",
        paper="Jaiswal et al. 2023, arXiv:2306.03805", roster="115")
def essential_sparsity(net: Network, data: Any, *, how: str = "global", metric: str = "loss",
                       grid: Sequence[float] = GRID, epsilon: float = 0.01, tune: Callable[[Network], None] | None = None,
                       sites: str | Sequence[str] | None = None, dense: float | None = None, seed: int = 0) -> Sparsity:
    """Leave out more and more of a network's smallest weights at once, and find where it becomes worse by more than epsilon.

    how: which weights stay: the largest of all (`global`), of each matrix (`layer`), of each group of inputs (`n:4`, `n:8`),
    or `random` ones as the baseline, drawn by the seed. metric: one of `cutaway.measure`'s. grid: the sparsities. epsilon:
    how much worse, as a share of the dense value, counts as no worse.
    tune: trains a network further, in place; a copy of the network is given to it at each sparsity, whose masks hold in
        training too. Left out, the pruned network is measured as it is, and the knee comes earlier.
    sites: which weights, such as `blocks.*.mlp`; all linear maps inside the blocks by default.
    dense: the metric with all weights, where another way of choosing them has measured it already in the same way.

    Differs from the paper: without `tune` nothing is trained after pruning, which the paper always does; and no iterative
    pruning with rewinding, its baseline, in whose place stand `random` weights.
    """
    if how not in HOW:
        raise ValueError(f"weights are chosen by {', '.join(HOW)}; found how={how!r}.")
    if not grid or list(grid) != sorted(set(grid)) or not 0 < grid[0] <= grid[-1] < 1:
        raise ValueError(f"a grid holds rising sparsities between 0 and 1; found {tuple(grid)}.")
    places = {site.name: site for site in sites_of(net, kind_of("rows"), sites)}
    weights = {name: _by_output(site, _weight(net, site)) for name, site in places.items()}
    every = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    dense = _measured(net, places, every, data, metric, tune) if dense is None else dense
    values, reached = list[float](), list[float]()
    for sparsity in grid:
        masks = HOW[how](weights, sparsity, seed=seed)
        values.append(_measured(net, places, masks, data, metric, tune))
        reached.append(1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values()))
    return Sparsity(how, metric, tuple(reached), tuple(values), dense, epsilon)


def masking(places: Mapping[str, Site], masks: Masks) -> list[Edit]:
    """Edits that leave out the weights whose mask is false; masks as `HOW` gives them, outputs first."""
    def axes(site: Site) -> str:
        return " ".join(site.cut.axes)  # type: ignore[attr-defined]

    return [Edit(site, zero, _by_output(site, masks[name]).float(), axes(site)) for name, site in places.items()]


def masked_copy(net: Network, places: Mapping[str, Site], masks: Masks) -> Network:
    """A copy of a network whose weights are held at zero where their mask is false, also while it is trained."""
    module = copy.deepcopy(net.module)
    for name, site in places.items():
        prune.custom_from_mask(module.get_submodule(site.path), "weight", _by_output(site, masks[name]))
    return Network(module, net.tokenizer, net.processor, net.name)


def _measured(net: Network, places: Mapping[str, Site], masks: Masks, data: Any, metric: str,
              tune: Callable[[Network], None] | None) -> float:
    if tune is None:
        with net.edited(masking(places, masks)):
            return measure(net, data, metric)[metric].value
    trained = masked_copy(net, places, masks)
    tune(trained)
    trained.module.eval()
    return measure(trained, data, metric)[metric].value


def _weight(net: Network, site: Site) -> Tensor:
    module: Any = net.module.get_submodule(site.path)
    return module.weight.detach()


def _by_output(site: Site, x: Tensor) -> Tensor:
    """A weight with its outputs first, whichever way round its module keeps it; the same again gives the module's way."""
    return x.T if site.cut.axes[0] == "i" else x  # type: ignore[attr-defined]
