"""Small networks of digits that several proofs look into, and how they are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..network import Network, open
from .training import follow

BATCH = 64


def fitted(net: Network, x: Tensor, y: Tensor, epochs: int, rate: float, seed: int = 0) -> Network:
    """The same network, trained in place by AdamW to tell the classes y of images x; frozen weights stay."""
    generator = torch.Generator().manual_seed(seed)
    weights = [p for p in net.module.parameters() if p.requires_grad]
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.module.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(net.logits(x[chosen]), y[chosen])
            follow(loss, optimizer, schedule)
    net.module.eval()
    return net


def vit(labels: int, seed: int, blocks: int = 4, width: int = 32, neurons: int = 64) -> Network:
    """An untrained vision transformer for digits, 16 patches and a class token."""
    import transformers as hf
    shape: dict[str, Any] = dict(hidden_size=width, intermediate_size=neurons, num_hidden_layers=blocks, num_attention_heads=4,
                                 image_size=8, patch_size=2, num_channels=1, num_labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open(hf.ViTForImageClassification(hf.ViTConfig(**shape)))


def cnn(labels: int, seed: int) -> nn.Module:
    """An untrained network of four convolutions, a hidden layer and a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            _conv(1, 16), _conv(16, 32, 2), _conv(32, 32), _conv(32, 32, 2),
            nn.Sequential(nn.Flatten(), nn.Linear(32 * 4, 64), nn.ReLU()), nn.Linear(64, labels))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride), nn.ReLU())


@torch.no_grad()
def accuracy(net: Network, x: Tensor, y: Tensor) -> float:
    """The share of images whose class is the likeliest."""
    return float((net.logits(x).argmax(-1) == y).float().mean())
