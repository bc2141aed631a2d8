"""The order of a latent's channels from the parameters on both of its sides alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...catalogue import method
from ...network import Network


@dataclass(frozen=True)
class Channels:
    """The channels of a latent, by what the parameters say of them: all [channels].

    scores: higher for more important; spread: variance of the weights that make a channel times that of those that read it;
    bias: |bias| over the largest one. order: channels from the first to the last to keep or send.
    core: the salient ones; group: the core channel that each belongs to. correlation: [channels, channels], of the weights that
    read them.
    """

    scores: Tensor
    spread: Tensor
    bias: Tensor
    order: Tensor
    core: Tensor
    group: Tensor
    correlation: Tensor


@method("iscs", family="analysis", title="Channel order and groups of a latent from parameters alone (ISCS)",
        paper="arXiv 2509.16853", roster="026")
@torch.no_grad()
def iscs(net: Network, producer: str, consumer: str, *, core: float = 0.25) -> Channels:
    """Order a latent's channels by the variances of their weights and the size of their biases; no data is needed.

    With W_c the weights of the producer that make channel c and V_c those of the consumer that read it: score =
    z(Var(W_c) Var(V_c)) + z(|b_c| / max |b|), z over channels. The product does not change when W_c is multiplied and V_c
    divided by one number. The order is that of the scores; its first channels are the core, and each other channel belongs
    to the core channel whose V correlates most with its own.
    producer, consumer: paths of the linear map or convolution before the latent and of the one after it; a linear consumer may
    read each channel flattened to several inputs. core: the share of channels in the core.

    Differs from the paper: only its abstract says what goes into the score (variances, bias sizes, correlations), so the
    formula is ours.
    """
    if not 0 < core <= 1:
        raise ValueError(f"core is the share of salient channels, above 0 and at most 1; found {core}.")
    made, bias = _makes(_module(net, producer), producer)
    n = len(made)
    read = _reads(_module(net, consumer), consumer, n)
    spread = made.var(1, correction=0) * read.var(1, correction=0)
    size = torch.zeros(n, dtype=torch.float64) if bias is None else bias.abs() / bias.abs().max().clamp(min=1e-12)
    scores = _z(spread) + _z(size)
    centred = read - read.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
    correlation = unit @ unit.T
    best = scores.argsort(descending=True, stable=True)
    chosen = best[: max(1, round(core * n))]
    group = chosen[correlation[:, chosen].abs().argmax(1)]
    group[chosen] = chosen
    return Channels(scores, spread, size, best, chosen, group, correlation)


def _z(x: Tensor) -> Tensor:
    """Standard scores; zero for all where they are all the same."""
    spread = x.std(correction=0)
    return (x - x.mean()) / spread if float(spread) > 1e-12 * float(x.abs().max()) else torch.zeros_like(x)


def _module(net: Network, path: str) -> Any:
    net.site(f"{path}:out")  # says what the nearest path is where there is none
    module = net.module.get_submodule(path)
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and type(module).__name__ != "Conv1D":
        raise ValueError(f"{path} is a {type(module).__name__}; channels are ordered between linear maps or convolutions.")
    return module


def _inputs_first(module: Any) -> bool:
    """Whether a module's weight has inputs on its first axis."""
    return isinstance(module, nn.ConvTranspose2d) or type(module).__name__ == "Conv1D"


def _makes(module: Any, path: str) -> tuple[Tensor, Tensor | None]:
    """The weights [channels, inputs] and biases [channels] that make each channel."""
    if getattr(module, "groups", 1) != 1:
        raise ValueError(f"{path} is a grouped convolution, whose channels have unequal inputs.")
    weight = module.weight.detach().double().cpu()
    weight = weight.transpose(0, 1) if _inputs_first(module) else weight
    return weight.flatten(1), None if module.bias is None else module.bias.detach().double().cpu()


def _reads(module: Any, path: str, n: int) -> Tensor:
    """The weights [channels, outputs] that read each of n channels."""
    if getattr(module, "groups", 1) != 1:
        raise ValueError(f"{path} is a grouped convolution, which does not read all channels together.")
    weight = module.weight.detach().double().cpu()
    weight = weight if _inputs_first(module) else weight.transpose(0, 1)
    if len(weight) % n or (len(weight) != n and not isinstance(module, nn.Linear)):
        raise ValueError(f"{path} reads {len(weight)} channels, but {n} are made.")
    return weight.reshape(n, -1)
