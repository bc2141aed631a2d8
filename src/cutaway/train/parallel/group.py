"""The processes of one run, and what they say to one another; alone, a process says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...timing import part

BUCKET = 2**18   # tensors with fewer elements than this are sent together


@dataclass(frozen=True)
class Group:
    """One of `size` ranks. Every method but the first must be called by all of them, in the same order."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """This rank's part of n things that divide evenly."""
        return range(n // self.size * self.rank, n // self.size * (self.rank + 1))

    def total(self, x: Tensor) -> Tensor:
        """The sum of every rank's x, which is left as it is."""
        return x if self.size == 1 else self.totals([x.clone()])[0]

    def totals(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over the ranks; large ones are summed in place, small ones together."""
        if self.size == 1:
            return list(tensors)
        found = [x.contiguous() for x in tensors]
        small = [i for i, x in enumerate(found) if x.numel() < BUCKET]
        with part("exchange"):
            for i, x in enumerate(found):
                if i not in small:
                    dist.all_reduce(x)
            # One message for each type, since what is summed must be of one.
            for dtype in dict.fromkeys(found[i].dtype for i in small):
                chosen = [i for i in small if found[i].dtype == dtype]
                joined = torch.cat([found[i].flatten() for i in chosen])
                dist.all_reduce(joined)
                for i, x in zip(chosen, joined.split([found[i].numel() for i in chosen]), strict=True):
                    found[i] = x.view(found[i].shape)
        return found

    def most(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each number over the ranks."""
        if self.size == 1 or not numbers:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.int64)
        with part("exchange"):
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def stacked(self, x: Tensor) -> Tensor:
        """Every rank's x [n, ...] one after another: [size * n, ...]."""
        if self.size == 1:
            return x
        x = x.contiguous()
        found = x.new_empty(self.size * len(x), *x.shape[1:])
        with part("exchange"):
            gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor   # its name before torch 2.13
            gather(found, x)
        return found

    def swapped(self, x: Tensor) -> Tensor:
        """x [size * n, ...] in parts by the rank that they are for -> the parts for this rank, by the rank they are from."""
        if self.size == 1:
            return x
        x, found = x.contiguous(), torch.empty_like(x)
        with part("exchange"):
            dist.all_to_all_single(found, x)
        return found

    def copied(self, x: Tensor) -> Tensor:
        """The first rank's x, for all."""
        if self.size > 1:
            x = x.contiguous()
            dist.broadcast(x, 0)
        return x

    def joined(self, x: Tensor) -> Tensor | None:
        """Every rank's x [n, ...] one after another in the first rank's main memory, part by part; None elsewhere."""
        if self.size == 1:
            return x.cpu()
        if self.rank:
            dist.send(x.contiguous(), 0)
            return None
        found, received = torch.empty(self.size * len(x), *x.shape[1:], dtype=x.dtype), torch.empty_like(x)
        found[: len(x)] = x.cpu()
        for rank in range(1, self.size):
            dist.recv(received, rank)
            found[rank * len(x): (rank + 1) * len(x)] = received.cpu()
        return found

    def objects(self, value: Any) -> list[Any]:
        """A small value of every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found
