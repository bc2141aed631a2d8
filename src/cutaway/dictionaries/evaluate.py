"""How good a dictionary is: what it reconstructs, how sparsely, and what the network loses when it is spliced in."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import as_data
from ..metrics import Figure, Reconstruction, bootstrap, ratio
from ..network import Network
from ..observe import activations
from .dictionary import Dictionary
from .splicing import losses_under


@torch.no_grad()
def evaluate(net: Network, dictionary: Dictionary, data: Any, tokens: int | str | None = 50_000, batch_size: int = 16,
             progress: bool = False) -> dict[str, Figure]:
    """Every figure of a dictionary on data, each with its n and 95% interval over rows.

    FVU, L0, cosine, norm ratio, dead and dense latents; and, for networks with a loss, cross-entropy with the site as it is,
    with the reconstruction spliced in, and with the site set to zero and to its mean; the share of the loss recovered
    against both; and the KL divergence from the network as it is to the spliced one. All of these change the same
    activations: those that the dictionary speaks for.

    A transcoder is measured on what it writes. A dictionary that writes several sites has figures for each, named with it, and
    `fvu`, their mean; all of its sites are replaced together.
    """
    data = as_data(data) if tokens is None else as_data(data).take(tokens)
    dictionary = moved_to(dictionary, net.device)
    if len(dictionary.reads) == 1:
        dictionary.placed(net), dictionary.written(net)     # with words for a width or a name that does not fit
    reads, writes = ([net.site(name).name for name in names] for names in (dictionary.reads, dictionary.writes))
    found, named = [Reconstruction(dictionary.width) for _ in writes], f"{data.name} ({data.fingerprint[:8]})"
    bar = tqdm(total=2 * data.n_rows, desc="evaluate", unit="row", leave=False, disable=None if progress else True)
    for seen in activations(net, data, [*reads, *writes], batch_size):
        y, batch = [seen.tensors[name] for name in writes], seen.batch
        x = [seen.tensors[name].reshape(*y[0].shape[:-1], -1) for name in reads]
        keep = dictionary.speaks_for(x, dict(enumerate(y)))
        if batch.keep is not None and batch.keep.shape == keep.shape:
            keep = keep & batch.keep
        for row in range(len(keep)):
            kept, wanted = ([z[row][keep[row]] if keep.ndim > 1 else z[row: row + 1][keep[row: row + 1]] for z in some]
                            for some in (x, y))
            if len(kept[0]):
                codes, made = dictionary.passed(kept)
                for one, right, guess in zip(found, wanted, made, strict=True):
                    one.update(right, guess, codes)
        bar.update(len(keep))
    figures = _reconstructed(found, writes, named)
    if net.kind in ("causal", "masked", "image") and (net.kind == "causal" or seen.batch.labels is not None):
        means = [(torch.as_tensor(one.sum) / one.n).float() for one in found]
        figures.update(_spliced(net, dictionary, means, data, batch_size, named, bar))
    bar.close()
    return figures


def moved_to(dictionary: Dictionary, device: Any) -> Dictionary:
    """The dictionary on a device: itself, or a copy."""
    here = next(dictionary.parameters()).device
    return dictionary if here == torch.device(device) else deepcopy(dictionary).to(device)


def _reconstructed(found: Sequence[Reconstruction], sites: Sequence[str], named: str) -> dict[str, Figure]:
    """The figures of what is reconstructed at each site; of several, FVU is the mean and each has its own besides."""
    figures = found[0].figures(data=named)
    if len(found) == 1:
        return figures
    each = {site: one.figures(data=named) for site, one in zip(sites, found, strict=True)}
    sums = np.concatenate([np.stack(one.rows)[:, :3] for one in found], 1)
    squares = np.array([float((torch.as_tensor(one.sum) / one.n).pow(2).sum()) for one in found])

    def mean(sums: np.ndarray) -> np.ndarray:
        n, error, length = (sums[..., i::3] for i in range(3))
        return (error / (length - n * squares)).mean(-1)

    low, high = bootstrap(sums, mean)
    figures = {name: figure for name, figure in figures.items() if name in ("l0", "dead", "dense")}
    fvu = Figure("fvu", float(mean(sums.sum(0))), low, high, found[0].n, of=f"tokens, mean over {len(sites)} sites",
                 baseline="the mean of each dimension", data=named)
    apart = {f"{name} at {site}": replace(own[name], name=f"{name} at {site}") for site, own in each.items()
             for name in ("fvu", "cosine", "norm_ratio")}
    return {"fvu": fvu, **figures, **apart}


def _spliced(net: Network, dictionary: Dictionary, means: Sequence[Tensor], data: Any, batch_size: int, named: str,
             bar: tqdm) -> dict[str, Figure]:
    """Cross-entropy and KL with the sites as they are, spliced, zero and mean."""
    conditions: dict[str, Any] = {"spliced": (dictionary.splice(net),), "zero": (dictionary.instead(net, [0.0] * len(means)),),
                  "mean": (dictionary.instead(net, means),)}
    rows, of = losses_under(net, conditions, data, batch_size, divergent=("spliced",), bar=bar)
    n = rows["n"]
    facts: dict[str, Any] = {"n": int(n.sum()), "of": of, "data": named}
    made = {name: ratio(name, rows[condition], n, unit="nats", **facts) for name, condition in (
        ("loss", "plain"), ("loss_spliced", "spliced"), ("loss_zero", "zero"), ("loss_mean", "mean"))}
    made["kl"] = ratio("kl", rows["kl spliced"], n, unit="nats", baseline="the network as it is", **facts)
    for name in ("zero", "mean"):
        parts, said = np.stack([rows[name], rows["spliced"], rows["plain"]], 1), f"loss_recovered_{name}"
        reason = harmless(rows[name] - rows["plain"], n)
        value = (nan, nan, nan) if reason else (float(recovered(parts.sum(0))), *bootstrap(parts, recovered))
        made[said] = Figure(said, *value, baseline=f"{name} ablation", undefined=reason, **facts)
    return made


def harmless(cost: np.ndarray, n: np.ndarray) -> str:
    """Why no share can be had of what an ablation costs, from sums over rows of data; empty where it costs more than chance."""
    made = ratio("cost", cost, n)
    return f"the ablation costs {made.value:.2g} nats, no more than chance" if made.low <= 0 else ""


def recovered(sums: np.ndarray) -> np.ndarray:
    """(ablated - spliced) / (ablated - plain), from sums [..., 3] of the loss ablated, spliced and plain."""
    return (sums[..., 0] - sums[..., 1]) / (sums[..., 0] - sums[..., 2])
