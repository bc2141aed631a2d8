"""How good a dictionary is: what it reconstructs, how sparsely, and what the network loses when it is spliced in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Figure, Reconstruction, bootstrap, ratio, token_loss, token_targets
from ..network import At, Edit, Network
from ..observe import activations
from .dictionary import Dictionary, raw


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
    site, named = dictionary.placed(net), f"{data.name} ({data.fingerprint[:8]})"
    reconstruction = Reconstruction(dictionary.width)
    bar = tqdm(total=2 * data.n_rows, desc="evaluate", unit="row", leave=False, disable=None if progress else True)
    for seen in activations(net, data, [site], batch_size):
        x, batch = seen.tensors[site.name], seen.batch
        keep = dictionary.keeps(x)
        if batch.keep is not None and batch.keep.shape == keep.shape:
            keep = keep & batch.keep
        for row in range(len(x)):
            kept = x[row][keep[row]] if keep.ndim > 1 else x[row: row + 1][keep[row: row + 1]]
            if len(kept):
                codes = dictionary.encode(kept)
                reconstruction.update(kept, dictionary.decode(codes), codes)
        bar.update(len(x))
    figures = reconstruction.figures(data=named)
    if net.kind in ("causal", "masked", "image") and (net.kind == "causal" or seen.batch.labels is not None):
        mean = (torch.as_tensor(reconstruction.sum) / reconstruction.n).float()
        figures.update(_spliced(net, dictionary, site, mean, data, batch_size, named, bar))
    bar.close()
    return figures


def _spliced(net: Network, dictionary: Dictionary, site: Any, mean: Tensor, data: Any, batch_size: int, named: str,
             bar: tqdm) -> dict[str, Figure]:
    """Cross-entropy and KL with the site as it is, spliced, zero and mean."""
    whole = raw(site)

    def to(value: Tensor | float) -> Edit:
        def ref(x: Tensor, at: At) -> Tensor:
            return torch.where(dictionary.keeps(x, at.tokens)[..., None], torch.as_tensor(value, dtype=x.dtype), x)
        return Edit(whole, ref)

    conditions = {"plain": (), "spliced": (dictionary.splice(net),), "zero": (to(0.0),), "mean": (to(mean),)}
    rows: list[np.ndarray] = []
    for batch in data.batches(batch_size):
        batch = batch.to(net.device)
        counts = token_targets(batch, net.kind)[1]
        sums, plain = [counts.double().reshape(len(counts), -1).sum(1)], torch.empty(0)
        for name, edits in conditions.items():
            with net.edited(*edits):
                logits = net.logits(batch)
            loss, _ = token_loss(logits, batch, net.kind)
            sums.append(loss.double().reshape(len(loss), -1).sum(1))
            if name in ("plain", "spliced"):
                logits = torch.log_softmax((logits[:, :-1] if net.kind == "causal" else logits).float(), -1)
            if name == "plain":
                plain = logits
            if name == "spliced":
                kl = (plain.exp() * (plain - logits)).sum(-1) * counts
                sums.append(kl.double().reshape(len(kl), -1).sum(1))
        rows.append(torch.stack(sums, 1).cpu().numpy())
        bar.update(len(batch.rows))
    parts = np.concatenate(rows)  # n, plain, spliced, KL, zero, mean
    n, of = parts[:, 0], "tokens" if counts.ndim == 2 else "rows"
    facts: dict[str, Any] = {"n": int(n.sum()), "of": of, "data": named}
    made = {name: ratio(name, parts[:, i], n, unit="nats", **facts)
            for name, i in (("loss", 1), ("loss_spliced", 2), ("loss_zero", 4), ("loss_mean", 5))}
    made["kl"] = ratio("kl", parts[:, 3], n, unit="nats", baseline="the network as it is", **facts)
    for name, i in (("zero", 4), ("mean", 5)):
        def recovered(sums: np.ndarray, i: int = i) -> np.ndarray:
            return (sums[..., i] - sums[..., 2]) / (sums[..., i] - sums[..., 1])
        low, high = bootstrap(parts, recovered)
        made[f"loss_recovered_{name}"] = Figure(f"loss_recovered_{name}", float(recovered(parts.sum(0))), low, high,
                                                baseline=f"{name} ablation", **facts)
    return made
