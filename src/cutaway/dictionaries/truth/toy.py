"""A toy network that computes in superposition; its hidden activations have known features."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .world import World

INPUTS, HIDDEN, PRESENT = 64, 48, 0.02     # inputs, hidden neurons, and how often each input is not zero
STEPS, BATCH, RATE = 1500, 512, 3e-3
DROPPED = 0.1                              # a feature that alone writes less than this is none


@lru_cache(maxsize=4)
def trained(seed: int, inputs: int = INPUTS, hidden: int = HIDDEN) -> tuple[Tensor, float]:
    """W [hidden, inputs], and the share of the target's variance that is left over.

    y = ReLU(V ReLU(W s) + b) learns |s| of sparse inputs s, uniform in [-1, 1], with fewer neurons than inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(hidden, inputs, generator=generator) / inputs**0.5,
               torch.randn(inputs, hidden, generator=generator) / hidden**0.5, torch.zeros(inputs)]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, lr=RATE, fused=True)
    w, v, b = weights
    left = 1.0
    for step in range(STEPS):
        s = torch.rand(BATCH, inputs, generator=generator) * 2 - 1
        s = s * (torch.rand(BATCH, inputs, generator=generator) < PRESENT)
        loss = (((s @ w.T).relu() @ v.T + b).relu() - s.abs()).pow(2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - step / STEPS))
        optimizer.step()
        left = float(loss.detach() / s.abs().var())
    return w.detach(), left


def toy_network(seed: int = 0) -> World:
    """Hidden activations ReLU(W s) of a network that learned |s| of more inputs than it has neurons ("Toy models of
    superposition", transformer-circuits.pub 2022, section on computing in superposition).

    A feature is one sign of one input: alone, s_i writes ReLU(W_i s_i), and the norm of that is its strength. Those that the
    network dropped, which write less than 0.1, are no features and are left out of s. Where several inputs are there the
    neurons' thresholds mix them, so that x is only about the sum of what its features write: that much is part of the truth.
    """
    w, _ = trained(seed)
    signed = torch.stack([w.T, -w.T], 1).flatten(0, 1)               # [2 * inputs, hidden]
    signed = signed[signed.relu().norm(dim=1) > DROPPED]
    norms = signed.relu().norm(dim=1)
    unit = F.normalize(signed, dim=1)
    other = (unit @ unit.T < -0.999).float()                         # the same input's other sign

    def strengths(n: int, generator: torch.Generator) -> Tensor:
        s = torch.rand(n, len(signed), generator=generator)
        on = torch.rand(s.shape, generator=generator) < PRESENT / 2
        first = on & ~((on.float() @ other.triu()) > 0)              # one input has one sign
        return s * first * norms

    return World("toy network", F.normalize(signed.relu(), dim=1)[:, None], strengths, torch.zeros(w.shape[0]),
                 torch.full((len(signed),), -1), write=lambda strength: (strength / norms @ signed).relu())
