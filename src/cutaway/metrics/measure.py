"""Measure a network, as it is or as it is edited, on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..data import as_data
from ..network import Network
from .figure import Figure, ratio
from .loss import token_loss, token_targets


def _loss(logits: Tensor, plain: Tensor | None, batch: Any, kind: str) -> Tensor:
    return token_loss(logits, batch, kind)[0]


def _accuracy(logits: Tensor, plain: Tensor | None, batch: Any, kind: str) -> Tensor:
    targets, counts = token_targets(batch, kind)
    guesses = (logits[:, :-1] if kind == "causal" else logits).argmax(-1)
    return (guesses == targets.to(guesses.device)) * counts.to(guesses.device)


def _kl(logits: Tensor, plain: Tensor | None, batch: Any, kind: str) -> Tensor:
    _, counts = token_targets(batch, kind)
    cut = slice(None, -1) if kind == "causal" else slice(None)
    now, before = (F.log_softmax(x.float(), -1) for x in (logits[:, cut], plain[:, cut]))  # type: ignore[index]
    return (before.exp() * (before - now)).sum(-1) * counts.to(now.device)


LN2 = float(np.log(2))

# name -> (numerator of each prediction, what the summed ratio becomes, unit, what it is measured against)
METRICS: dict[str, tuple[Callable, Callable, str, str | None]] = {
    "loss": (_loss, lambda x: x, "nats a token", None),
    "perplexity": (_loss, np.exp, "", None),
    "bits_per_byte": (_loss, lambda x: x / LN2, "bits a byte", None),
    "accuracy": (_accuracy, lambda x: x, "", None),
    "kl": (_kl, lambda x: x, "nats a token", "the network as it is"),
}


@torch.no_grad()
def measure(net: Network, data: Any, metrics: Iterable[str] | str = ("loss",), tokens: int | str | None = None,
            batch_size: int = 16, progress: bool = False, seed: int = 0) -> dict[str, Figure]:
    """Measure a network with the edits that are in force, each metric with its n and 95% interval over rows.

    metrics: of `loss` (nats a token), `perplexity`, `bits_per_byte` (text only), `accuracy`, `kl` (nats a token, from the
        network as it is to the network as edited). Special tokens are never counted.
    tokens: measure on the first so many tokens; all of the data otherwise.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"there is no metric {unknown[0]!r}; there are {', '.join(METRICS)}.")
    data = as_data(data) if tokens is None else as_data(data).take(tokens)
    sums: dict[str, list[np.ndarray]] = {name: [] for name in names}
    counted: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    bar = tqdm(total=data.n_rows, desc="measure", unit="row", disable=None if progress else True, leave=False)
    for batch in data.batches(batch_size):
        batch = batch.to(net.device)
        logits = net.logits(batch)
        plain = None
        if "kl" in names:
            with net.as_it_is():
                plain = net.logits(batch)
        counts = token_targets(batch, net.kind)[1]
        counted.append(_by_row(counts))
        for name in names:
            sums[name].append(_by_row(METRICS[name][0](logits, plain, batch, net.kind)))
        if "bits_per_byte" in names:
            lengths.append(byte_counts(data, batch))
        bar.update(len(batch.rows))
    bar.close()
    n = np.concatenate(counted)
    figures = {}
    for name in names:
        _, transform, unit, baseline = METRICS[name]
        denominator = np.concatenate(lengths) if name == "bits_per_byte" else n
        values = np.concatenate(sums[name])
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is not a number on this data: the network's outputs hold NaN or infinity.")
        figures[name] = ratio(name, values, denominator, transform, seed=seed, n=int(n.sum()), unit=unit,
                              of="tokens" if counts.ndim == 2 else "rows", baseline=baseline,
                              data=f"{data.name} ({data.fingerprint[:8]})")
    return figures


def byte_counts(data: Any, batch: Any) -> np.ndarray:
    """Bytes of text behind the predicted tokens of each row."""
    if not hasattr(data, "text"):
        raise ValueError("bits_per_byte is measured on text; this data has none.")
    return np.array([len(data.text(int(row), 1).encode()) for row in batch.rows])


def _by_row(x: Tensor) -> np.ndarray:
    return x.double().reshape(len(x), -1).sum(1).cpu().numpy()
