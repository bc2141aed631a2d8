"""What a network loses when the activations of a site are replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import token_loss, token_targets
from ..network import Edit, Network


@torch.no_grad()
def losses_under(net: Network, conditions: Mapping[str, Sequence[Edit | Iterable[Edit]]], data: Any, batch_size: int = 16,
                 divergent: Collection[str] = (), bar: tqdm | None = None) -> tuple[dict[str, np.ndarray], str]:
    """Sums over each row of data under each condition, a set of edits, and as the network is.

    Gives `n` (what counts), `plain` and each condition (cross-entropy in nats), and `kl NAME` for the conditions in
    `divergent` (from the network as it is), all float64 [rows]; and what is counted, tokens or rows.
    """
    found: dict[str, list[np.ndarray]] = {}
    of = "tokens"

    def add(name: str, x: Tensor) -> None:
        found.setdefault(name, []).append(x.double().reshape(len(x), -1).sum(1).cpu().numpy())

    for batch in data.batches(batch_size):
        batch = batch.to(net.device)
        counts, before = token_targets(batch, net.kind)[1], torch.empty(0)
        of = "tokens" if counts.ndim == 2 else "rows"
        add("n", counts)
        for name, edits in {"plain": (), **conditions}.items():
            with net.edited(*edits):
                logits = net.logits(batch)
            add(name, token_loss(logits, batch, net.kind)[0])
            if divergent and (name == "plain" or name in divergent):
                logits = torch.log_softmax((logits[:, :-1] if net.kind == "causal" else logits).float(), -1)
                if name == "plain":
                    before = logits
                else:
                    add(f"kl {name}", (before.exp() * (before - logits)).sum(-1) * counts)
        if bar is not None:
            bar.update(len(batch.rows))
    return {name: np.concatenate(parts) for name, parts in found.items()}, of
