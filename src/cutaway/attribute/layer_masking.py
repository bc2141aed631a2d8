"""Layer masking: LIME over parts of an image that are removed from every layer of a convolutional network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..catalogue import method
from .inputs import Inputs
from .masked import masked
from .target import Target


@method("layer-masking", family="attribute", title="Towards improved input masking for convolutional neural networks",
        paper="Balasubramanian and Feizi 2022", roster="170")
def layer_masking(inputs: Inputs, target: Target, *, samples: int = 512, stay: float = 0.5, seed: int = 0) -> Tensor:
    """LIME over pixels or patches that are removed from every layer of a convolutional network: [rows, *units].

    samples: draws of units for each row; stay: the chance that a unit stays in a draw. Values are the weights of a ridge
    regression of the target's value on which units are there. The baseline is not used: nothing is put in their place.
    """
    if inputs.pixels is None:
        raise ValueError("layer masking removes parts of images; give images, with over='patches' or over='pixels'.")
    x = inputs.x

    def value(rows: Tensor, gates: Tensor) -> Tensor:
        there = inputs.units.spread(gates.to(x).unflatten(1, inputs.shape), rows).expand(len(rows), 1, *x.shape[2:])
        return inputs.values(masked(x[rows], there[:, 0]), target, rows)

    return lime(value, len(x), inputs.keep[0].numel(), samples, stay, seed, inputs.limit).view(inputs.keep.shape)


def lime(value: Callable[[Tensor, Tensor], Tensor], rows: int, units: int, samples: int = 512, stay: float = 0.5,
         seed: int = 0, limit: int = 256, width: float = 0.25, ridge: float = 1.0) -> Tensor:
    """The weight of each unit in a local linear model of a value: [rows, units].

    value: `(rows [m], gates [m, units]) -> [m]`, asked for at most `limit` at a time; width: of the kernel
    exp(-d^2 / width^2) on the cosine distance d of a draw from all units, ridge: the penalty, both as in the lime package.
    """
    if not 0 < stay < 1:
        raise ValueError(f"stay is the chance that a unit stays, between 0 and 1; found {stay}.")
    draws = (torch.rand(samples, units, generator=torch.Generator().manual_seed(seed)) < stay).float()
    draws[0] = 1
    near = torch.exp(-(1 - draws.mean(1).sqrt())**2 / width**2).double()   # the cosine with all units is the share's root
    design = torch.cat([draws, torch.ones(samples, 1)], 1).double()
    penalty = ridge * torch.eye(units + 1, dtype=torch.float64)
    penalty[-1, -1] = 0
    solved = torch.linalg.solve(design.T @ (near[:, None] * design) + penalty, design.T * near)
    found = []
    with torch.no_grad():
        for row in range(rows):
            y = torch.cat([value(torch.full((len(part),), row), part) for part in draws.split(limit)])
            found.append((solved @ y.double().cpu())[:-1])
    return torch.stack(found).float()
