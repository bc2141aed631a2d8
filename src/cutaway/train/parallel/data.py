"""Data parallel: every rank has the whole dictionary and a part of each batch.

Gradients of weights are sums of products codes.T @ x. Ranks exchange the products' factors, which are far smaller than what
they multiply out to, and each makes the same step from all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...dictionaries import Dictionary
from ...kernels import Product, Rows, backend_of
from ..adam import Adam
from .alone import Plan
from .group import Group
from .joined import Joined


class Data(Joined):
    """Ranks that hold different rows of a batch, and all latents."""

    split = "data"

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(0) if self.group.size == 1 else self.group.total(x.sum(0)) / self.rows(len(x))

    def rows(self, n: int) -> int:
        return n * self.group.size

    def own(self, plan: Plan, batch: int) -> Plan:
        for key, (_, recipe) in plan.items():
            if self.group.size > 1 and hasattr(recipe.sparsify, "after"):
                raise ValueError(f"{key} is to be learned with {recipe.name}, which chooses latents over whole batches, of "
                                 "which each rank has a part with split='data'; take split='sites'.")
        return super().own(plan, batch)

    def seen(self, fvu: float, fired: Tensor) -> tuple[float, Tensor]:
        if self.group.size == 1:
            return fvu, fired
        total = self.group.total(torch.cat([fired.double(), fired.new_full((1,), fvu, dtype=torch.float64)]))
        return float(total[-1]), total[:-1].to(fired.dtype)

    def exchange(self, dictionary: Dictionary, optimizer: Adam) -> None:
        if self.group.size > 1:
            exchange(self.group, optimizer)


@torch.no_grad()
def exchange(group: Group, optimizer: Adam) -> None:
    """Make an optimizer's collected gradients those of all ranks; on every rank they are then the same, in the same order.

    Products are gathered, blocks and dense gradients summed. Bytes a rank receives for a weight [width, d] of which n rows of
    a batch have k entries each: (size - 1) * n * (8 * k + 4 * d), or 8 * width * d * (size - 1) / size where that is less and
    the product is multiplied out.
    """
    weights = list(optimizer.rows.values())
    vectors = [p for name, p in optimizer.parameters.items() if name not in optimizer.rows]
    known = group.most([*(int(p.grad is not None) for p in vectors), *(fact for rows in weights for fact in _facts(rows))])
    facts = torch.tensor(known[len(vectors):]).view(-1, 3).tolist()
    sums: list[tuple[Any, Tensor]] = [(p, torch.zeros_like(p) if p.grad is None else p.grad)
                                      for p, has in zip(vectors, known, strict=False) if has]
    for rows, (dense, n, k) in zip(weights, facts, strict=True):
        width, d = rows.weight.shape
        multiplied = group.size * n * (2 * k + d) > 2 * width * d
        if multiplied:
            for product in rows.products:
                made = backend_of(rows.weight).transposed(*product, width)
                rows.weight.grad = made if rows.weight.grad is None else rows.weight.grad + made
            rows.products = []
        elif n:
            rows.products = [_gathered(group, _merged(rows, n, k))]
        if dense or (n and multiplied):
            sums.append((rows.weight, torch.zeros_like(rows.weight) if rows.weight.grad is None else rows.weight.grad))
        sums += [((rows, i), values) for i, (_, values) in enumerate(rows.blocks)]
    for (place, _), total in zip(sums, group.totals([x for _, x in sums]), strict=True):
        if isinstance(place, Tensor):
            place.grad = total
        else:
            rows, i = place
            rows.blocks[i] = (rows.blocks[i][0], total)


def _facts(rows: Rows) -> Sequence[int]:
    """Whether a weight has a dense gradient, the rows of its products, and the most entries that one of them has a row."""
    return (int(rows.weight.grad is not None), sum(len(p.x) for p in rows.products),
            max((p.values.shape[1] for p in rows.products), default=0))


def _merged(rows: Rows, n: int, k: int) -> Product:
    """A weight's products as one of n rows with k entries each; what is missing is zeros."""
    weight = rows.weight
    values, x = weight.new_zeros(n, k), weight.new_zeros(n, weight.shape[1])
    indices, first = torch.zeros(n, k, dtype=torch.int64, device=weight.device), 0
    for product in rows.products:
        if product.values.shape == values.shape:
            return product
        last, most = first + len(product.x), product.values.shape[1]
        values[first:last, :most], indices[first:last, :most], x[first:last] = product
        first = last
    return Product(values, indices, x)


def _gathered(group: Group, product: Product) -> Product:
    """The products of all ranks as one; indices travel in 32 bits, in one message with the values."""
    values, indices, x = product
    codes = group.stacked(torch.cat([values.contiguous().view(torch.int32), indices.int()], dim=1))
    values, indices = (part.contiguous() for part in codes.split(values.shape[1], dim=1))
    return Product(values.view(torch.float32), indices.long(), group.stacked(x))
