"""A path of neurons, one in each block, that together have the most influence on what a network says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...catalogue import method
from ...network import At, Edit, Network, zero
from ..reading import Limits, Metric, measured, metric_name

EVERY = slice(None)
Chosen = slice | list[int]                           # units of a block's neurons


def answer_probability(net: Network, batch: Any) -> Tensor:
    """The probability of the right answer of each row [b]: of its label, or of its last token for causal models."""
    logits = net.logits(batch)
    if net.kind == "causal":
        return logits[:, -2].float().softmax(-1).gather(-1, batch.inputs["input_ids"][:, -1:])[:, 0]
    if batch.labels is None or batch.labels.shape != logits.shape[:1] or batch.labels.is_floating_point():
        raise ValueError(f"a network of kind {net.kind!r} has no right answer on this data; give labels, one class for "
                         "each row, or metric=.")
    return logits.float().softmax(-1).gather(-1, batch.labels.to(logits.device)[:, None])[:, 0]


@dataclass(frozen=True)
class NeuronPath:
    """units: the chosen neuron of each block, by its number; gains: the joint influence at which each was chosen.

    position: the token at which neurons are read and changed, of so many tokens.
    """

    units: tuple[int, ...]
    gains: tuple[float, ...]
    position: int
    tokens: int

    def edits(self, net: Network, factor: float = 0.0) -> list[Edit]:
        """Edits that multiply the path's neurons at its token by a factor: 0 removes them, 2 doubles them."""
        return scaling(net, self.units, self.position, self.tokens, factor)


def scaling(net: Network, units: Sequence[int], position: int, tokens: int, factor: float) -> list[Edit]:
    """Edits that multiply one neuron of each block at one of so many tokens by a factor."""
    edits = []
    for site, unit in zip(sites_of(net), units, strict=True):
        gate = torch.ones(tokens, net.site(site).n or 0)
        gate[position, unit] = factor
        edits.append(Edit(site, zero, gate, "t u"))
    return edits


def sites_of(net: Network) -> list[str]:
    """The sites of the MLP neurons of all blocks."""
    sites = [f"blocks.{i}.mlp.neurons" for i in range(net.n_blocks)]
    missing = [site for site in sites if site not in net.named]
    if missing or not sites:
        raise ValueError(f"{net.name} has no MLP neurons{f' at {missing[0]}' if missing else ' that Cutaway knows by name'}; a "
                         "path takes a transformer with dense MLPs in all blocks.")
    return sites


def most_active(net: Network, batch: Any, position: int) -> list[int]:
    """The neuron of each block that is the most active at a token, mean over rows: what a path is compared with."""
    seen = net.record(batch, sites_of(net))
    return [int(seen[site][:, position].mean(0).argmax()) for site in sites_of(net)]


@method("neuron-path", family="analysis", title="Influential neuron path by layer-progressive joint influence",
        paper="Wang et al. 2025, arXiv:2503.09046", roster="187")
def neuron_path(net: Network, data: Any, *, metric: Metric = answer_probability, position: int | None = None,
                steps: int = 20, tokens: int | None = None, batch_size: int = 16, progress: bool = False) -> NeuronPath:
    """Choose one MLP neuron in each block, from the first block on, by the joint influence with those chosen before.

    In block l all neurons and the path so far are scaled together from 0 to 1; the score of a neuron is (the sum of its and
    the path's gradients over the steps) x (the sum of its and the path's step sizes), mean over rows.
    metric: `(network, batch) -> [b]`, the score whose gradient is taken; the probability of the right answer by default.
    position: the token at which neurons are read and changed: the first for images, the last but one for causal models, whose
    last token is the answer. steps: of the path from 0 to 1 (left sum, as in the released code).

    Differs from the released code: a path for a set of rows, by the mean of their scores, and not for each image; and each
    row has its own label, where the code takes that of the batch's first.
    """
    from tqdm.auto import tqdm
    if steps < 1:
        raise ValueError(f"a path has at least one step; found steps={steps}.")
    sites, limits = sites_of(net), Limits(tokens, batch_size)
    place = position_of(net, position)
    units: list[int] = []
    gains: list[float] = []
    length = 0
    for block in tqdm(range(len(sites)), desc="path", unit="block", leave=False, disable=None if progress else True):
        total, rows = torch.zeros(()), 0
        for batch in limits.batches(data):
            batch = batch.to(net.device)
            sets: dict[int, Chosen] = {i: [unit] for i, unit in enumerate(units)}
            gradient, step, length = influences(net, batch, {**sets, block: EVERY}, metric, place, steps)
            score = (gradient[block] + _sum(gradient, units)) * (step[block] + _sum(step, units))
            total, rows = total + score.double().sum(0).cpu(), rows + len(batch)
        units.append(int(total.argmax()))
        gains.append(float(total.max()) / rows)
    return NeuronPath(tuple(units), tuple(gains), place % length, length)


def position_of(net: Network, position: int | None) -> int:
    """The token at which a path's neurons are: the one given, or the usual one of the kind of network."""
    place = {"image": 0, "vision": 0, "causal": -2}.get(net.kind) if position is None else position
    if place is None:
        raise ValueError(f"at which token neurons are changed is not known for a network of kind {net.kind!r}; give position=.")
    return place


def _sum(parts: dict[int, Tensor], units: Sequence[int]) -> Tensor | float:
    """What the neurons of the path so far add: [b, 1]."""
    return sum((parts[i] for i in range(len(units))), 0.0)


def influences(net: Network, batch: Any, sets: dict[int, Chosen], metric: Metric, position: int,
               steps: int) -> tuple[dict[int, Tensor], dict[int, Tensor], int]:
    """Gradients, summed over the steps, and step sizes of sets of neurons that are scaled together from 0 to 1.

    sets: by block, which of its neurons. Gives two tables by block [b, neurons of the set], and how many tokens there are.
    """
    sites = sites_of(net)
    seen = net.record(batch, [sites[i] for i in sets])
    values = {i: seen[sites[i]][:, position, units] for i, units in sets.items()}
    level = (torch.arange(steps, device=net.device) / steps).repeat(len(batch))[:, None]
    leaves = {i: (level * value.repeat_interleave(steps, 0)).requires_grad_() for i, value in values.items()}

    def put(i: int) -> Callable[[Tensor, At], Tensor]:
        def touch(x: Tensor, at: At) -> Tensor:
            x = x.clone()
            x[:, position, sets[i]] = leaves[i].to(x.dtype)
            return x
        return touch

    with torch.enable_grad(), net.watched({sites[i]: put(i) for i in sets}):
        said = measured(metric, net, batch.repeat(steps))
        if not said.requires_grad:
            raise ValueError(f"the metric {metric_name(metric)} has no gradient, and a path is chosen by gradients; give "
                             "another metric=.")
        gradients = torch.autograd.grad(said.sum(), list(leaves.values()))
    summed = {i: g.unflatten(0, (len(batch), steps)).sum(1) for i, g in zip(sets, gradients, strict=True)}
    return summed, {i: value / steps for i, value in values.items()}, next(iter(seen.values())).shape[1]
