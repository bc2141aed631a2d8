"""Channels of a small variational autoencoder's latent: do the parameters alone tell which matter?"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..catalogue import proof
from ..network import Edit, Network, open
from ..scores.findings.iscs import iscs
from ..scores.ranks import spearman
from .proof import Comparison, Proof, compare, say
from .sae_vision_eval import digits

SEEDS = (0, 1, 2, 3, 4)
CHANNELS, WIDTH = 16, 24
EPOCHS, BATCH, RATE = 30, 64, 3e-3
BETA = 3e-3                       # weight of the divergence from the prior, for each pixel's squared error
TESTED = 0.3
SCALES = 4.0                      # channels are multiplied by up to this, and divided again, in the control


class VAE(nn.Module):
    """A convolutional variational autoencoder of digits, with a latent of 16 channels of 2 by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, WIDTH, 3, 2, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.ReLU())
        self.mean, self.spread = nn.Conv2d(WIDTH, CHANNELS, 1), nn.Conv2d(WIDTH, CHANNELS, 1)
        self.grow = nn.ConvTranspose2d(CHANNELS, WIDTH, 4, 2, 1)
        self.decoder = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1), nn.ReLU(),
                                     nn.Conv2d(WIDTH, 1, 3, padding=1))

    def latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return self.mean(z), self.spread(z).clamp(-8, 8)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.grow(z))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.latent(x)[0])


def trained(x: Tensor, seed: int) -> Network:
    """An autoencoder of images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = VAE()
        optimizer = torch.optim.Adam(vae.parameters(), lr=RATE)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(x)).split(BATCH):
                mean, spread = vae.latent(x[chosen])
                error = (vae.decode(mean + torch.randn_like(mean) * (spread / 2).exp()) - x[chosen]).pow(2).sum((1, 2, 3))
                divergence = 0.5 * (mean.pow(2) + spread.exp() - spread - 1).sum((1, 2, 3))
                loss = (error + BETA * x[0].numel() * divergence).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return open(vae)


@torch.no_grad()
def ablation(net: Network, train: Tensor, test: Tensor) -> Tensor:
    """How much the squared error a pixel rises when a channel is its mean over training images: [channels]."""
    usual = net.record(train, "mean:out")["mean:out"].mean((0, 2, 3))[:, None, None]
    before, rises = (net.logits(test) - test).pow(2).mean(), []
    for channel in range(CHANNELS):
        gate = torch.ones(CHANNELS)
        gate[channel] = 0
        with net.edited(Edit("mean:out", lambda z, at: usual, gate, "u")):
            rises.append((net.logits(test) - test).pow(2).mean() - before)
    return torch.stack(rises)


@torch.no_grad()
def rescaled(net: Network, seed: int) -> Network:
    """The same function with each channel multiplied by a number of its own, and divided by it where it is read."""
    module: Any = copy.deepcopy(net.module)
    factor = torch.exp((torch.rand(CHANNELS, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * np.log(SCALES))
    module.mean.weight *= factor[:, None, None, None]
    module.mean.bias *= factor
    module.grow.weight /= factor[:, None, None, None]
    return open(module)


def one(x: Tensor, seed: int) -> dict[str, Any]:
    """The rank correlation of each order of channels with what their ablation does."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    test, train = x[order[: int(TESTED * len(x))]], x[order[int(TESTED * len(x)):]]
    net = trained(train, seed)
    truth = ablation(net, train, test).double().numpy()
    found, other = iscs(net, "mean", "grow"), iscs(rescaled(net, seed), "mean", "grow")
    activity = net.record(train, "mean:out")["mean:out"].var((0, 2, 3)).double().numpy()
    scores = {"variance and bias": found.scores.numpy(), "variance": found.spread.numpy(), "bias": found.bias.numpy(),
              "activation variance": activity, "random": random.random(CHANNELS),
              "variance and bias, rescaled": other.scores.numpy(), "variance, rescaled": other.spread.numpy(),
              "bias, rescaled": other.bias.numpy()}
    core = set(np.argsort(-truth)[: len(found.core)].tolist())
    return {**{name: float(spearman(values, truth)) for name, values in scores.items()}, "truth": truth.tolist(),
            "order": found.order.tolist(), "core in common": len(core & set(found.core.tolist())) / len(core)}


@proof("iscs")
def channels() -> Proof:
    """Weight variance and bias size alone order channels as their ablation does."""
    x, _ = digits()
    found = []
    for seed in SEEDS:
        found.append(one(x, seed))
        say(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in found[-1].items()
                                         if isinstance(value, float)))
    return concluded(found)


def concluded(found: list[dict[str, Any]]) -> Proof:
    """The proof from each seed's correlations."""
    named = "rank correlation with the rise of the squared error when a channel is ablated"

    def against(ours: str, theirs: str) -> Comparison:
        return compare(ours, theirs, named, [row[ours] for row in found], [row[theirs] for row in found], "higher")

    zero = [0.0] * len(found)
    return Proof(
        "iscs", "In a small digits convolutional VAE, the order of channels by weight variance and bias size alone predicts "
        "what each channel's ablation costs.",
        comparisons=(compare("variance and bias", "no correlation", named, [row["variance and bias"] for row in found], zero,
                             "higher"), against("variance and bias", "random")),
        beside=(against("variance and bias", "variance"), against("variance and bias", "bias"),
                against("variance and bias", "activation variance"),
                against("variance and bias", "variance and bias, rescaled"), against("variance", "variance, rescaled"),
                compare("core of the score", "chance", "share of the true core", [row["core in common"] for row in found],
                        [0.25] * len(found), "higher")),
        figures={"by seed": found},
        n={"channels": CHANNELS, "test images": int(TESTED * 1797)},
        seeds=SEEDS,
        notes=("A seed is its own network and its own images; a channel is ablated to its mean over training images, and the "
               "error is on test images. `activation variance` reads data and is what an order without data could hope for.",
               "Rescaled is the same function with each channel multiplied by a number between a quarter and four and divided "
               "again where it is read: the product of variances does not change by it, the size of the bias does.",
               "The paper's equations were not to be had; its abstract names variances, bias sizes and correlations, and the "
               "formula is ours. Smaller than the paper: a digits VAE in place of an image codec, and distortion alone in "
               "place of rate and distortion.")
    ).unless("Likely why: an unused channel of a VAE has small weights on both sides, but its bias says little, because the "
             "prior pulls every channel's mean to zero.")
