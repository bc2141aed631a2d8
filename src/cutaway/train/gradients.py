"""Activations with the gradient of the network's loss beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..dictionaries.wiring import GRADIENT
from ..metrics import token_loss
from ..network import At, Network
from ..observe import Seen


def loss_gradients(net: Network, batch: Any, sites: Iterable[str], ids: Tensor | None = None) -> dict[str, Tensor]:
    """The activations at some sites, by name, and the gradient there of the summed loss, by `gradient of NAME`.

    The loss is the cross-entropy in nats, summed over all predictions that count. ids: [b, t], other tokens to predict in the
    place of the batch's own. Raises ValueError for networks without a loss.
    """
    if net.kind not in ("causal", "masked", "image"):
        raise ValueError(f"{net.name} is of kind {net.kind!r} and has no loss, so there is no gradient to learn from.")
    names = [site.name for site in net.sites(sites)]
    seen: dict[str, Tensor] = {}
    moved: dict[str, Tensor] = {}

    def opener(name: str) -> Callable[[Tensor, At], Tensor]:
        def open_up(x: Tensor, at: At) -> Tensor:
            # Adding zeros changes nothing and leaves the way to earlier sites open.
            seen[name], moved[name] = x.detach().clone(), torch.zeros_like(x, requires_grad=True)
            return x + moved[name]
        return open_up

    with torch.enable_grad(), net.watched({name: opener(name) for name in names}):
        logits = net.logits(batch)
        asked = batch if ids is None else replace(batch, inputs={**batch.inputs, "input_ids": ids})
        losses, counts = token_loss(logits, asked, net.kind)
        missing = [name for name in names if name not in moved]
        if missing:
            raise ValueError(f"the network's pass did not reach {', '.join(missing)}.")
        found = torch.autograd.grad((losses * counts).sum(), [moved[name] for name in names])
    return {**seen, **{f"{GRADIENT}{name}": gradient for name, gradient in zip(names, found, strict=True)}}


def with_gradients(net: Network, data: Any, sites: Iterable[str], batch_size: int = 16, start: int = 0,
                   seed: int | None = None) -> Iterator[Seen]:
    """What `observe.activations` gives, with the gradients of the loss at those of the sites that are named with `gradient
    of`."""
    sites = list(sites)
    plain = sorted({name.removeprefix(GRADIENT) for name in sites})
    row = start
    for batch in data.batches(batch_size, start=start, seed=seed):
        batch = batch.to(net.device)
        found = loss_gradients(net, batch, plain)
        row += len(batch.rows)
        yield Seen({name: found[name] for name in sites}, batch, row)
