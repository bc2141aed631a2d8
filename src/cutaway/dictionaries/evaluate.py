"""How good a dictionary is: what it reconstructs, how sparsely, and what the network loses when it is spliced in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Figure, Reconstruction, bootstrap, ratio
from ..network import Network
from ..observe import activations
from .dictionary import Dictionary
from .splicing import losses_under, replaced


@torch.no_grad()
def evaluate(net: Network, dictionary: Dictionary, data: Any, tokens: int | None = 50_000, batch_size: int = 16,
             progress: bool = False) -> dict[str, Figure]:
    """Every figure of a dictionary on data, each with its n and 95% interval over rows.

    FVU, L0, cosine, norm ratio, dead and dense latents; and, for networks with a loss, cross-entropy with the site as it is,
    with the reconstruction spliced in, and with the site set to zero and to its mean; the share of the loss recovered
    against both; and the KL divergence from the network as it is to the spliced one. All of these change the same
    activations: those that the dictionary speaks for.
    """
    data = data if tokens is None else data.take(tokens)
    site, out, named = dictionary.placed(net), dictionary.written(net), f"{data.name} ({data.fingerprint[:8]})"
    reconstruction = Reconstruction(dictionary.width)
    bar = tqdm(total=2 * data.n_rows, desc="evaluate", unit="row", leave=False, disable=None if progress else True)
    for seen in activations(net, data, [site, out], batch_size):
        x, y, batch = seen.tensors[site.name], seen.tensors[out.name], seen.batch
        keep = dictionary.keeps(x)
        if batch.keep is not None and batch.keep.shape == keep.shape:
            keep = keep & batch.keep
        for row in range(len(x)):
            kept, wanted = (z[row][keep[row]] if keep.ndim > 1 else z[row: row + 1][keep[row: row + 1]] for z in (x, y))
            if len(kept):
                codes = dictionary.encode(kept)
                reconstruction.update(wanted, dictionary.decode(codes), codes)
        bar.update(len(x))
    figures = reconstruction.figures(data=named)
    if net.kind in ("causal", "masked", "image") and (net.kind == "causal" or seen.batch.labels is not None):
        mean = (torch.as_tensor(reconstruction.sum) / reconstruction.n).float()
        figures.update(_spliced(net, dictionary, out, mean, data, batch_size, named, bar))
    bar.close()
    return figures


def _spliced(net: Network, dictionary: Dictionary, site: Any, mean: Tensor, data: Any, batch_size: int, named: str,
             bar: tqdm) -> dict[str, Figure]:
    """Cross-entropy and KL with the site as it is, spliced, zero and mean."""
    conditions = {"spliced": (dictionary.splice(net),), "zero": (replaced(dictionary, site, 0.0),),
                  "mean": (replaced(dictionary, site, mean),)}
    rows, of = losses_under(net, conditions, data, batch_size, divergent=("spliced",), bar=bar)
    n = rows["n"]
    facts: dict[str, Any] = {"n": int(n.sum()), "of": of, "data": named}
    made = {name: ratio(name, rows[condition], n, unit="nats", **facts) for name, condition in (
        ("loss", "plain"), ("loss_spliced", "spliced"), ("loss_zero", "zero"), ("loss_mean", "mean"))}
    made["kl"] = ratio("kl", rows["kl spliced"], n, unit="nats", baseline="the network as it is", **facts)
    for name in ("zero", "mean"):
        parts = np.stack([rows[name], rows["spliced"], rows["plain"]], 1)
        low, high = bootstrap(parts, recovered)
        made[f"loss_recovered_{name}"] = Figure(f"loss_recovered_{name}", float(recovered(parts.sum(0))), low, high,
                                                baseline=f"{name} ablation", **facts)
    return made


def recovered(sums: np.ndarray) -> np.ndarray:
    """(ablated - spliced) / (ablated - plain), from sums [..., 3] of the loss ablated, spliced and plain."""
    return (sums[..., 0] - sums[..., 1]) / (sums[..., 0] - sums[..., 2])
