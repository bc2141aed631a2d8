"""A shuffle buffer: activations of many rows, mixed before they become batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class ShuffleBuffer:
    """Holds up to `capacity` activations; once full, half of them leave in random order as batches.

    x: [n, d] goes in; batches [batch, d] come out. What has not left yet is part of the state.
    """

    def __init__(self, capacity: int, batch: int, generator: torch.Generator):
        self.capacity, self.batch, self.generator = max(capacity, 2 * batch), batch, generator
        self.held: Tensor | None = None
        self.n = 0

    def add(self, x: Tensor) -> Iterator[Tensor]:
        """Take activations in; give the batches that are ready."""
        if self.held is None:
            self.held = x.new_empty(self.capacity, x.shape[-1])
        while len(x):
            room = self.capacity - self.n
            self.held[self.n: self.n + len(x[:room])] = x[:room]
            self.n += len(x[:room])
            x = x[room:]
            if self.n == self.capacity:
                yield from self._release(self.capacity // 2)

    def drain(self) -> Iterator[Tensor]:
        """Whole batches of what is left."""
        yield from self._release(self.n)

    def _release(self, n: int) -> Iterator[Tensor]:
        if self.held is None:
            return
        order = torch.randperm(self.n, generator=self.generator)
        self.held[: self.n] = self.held[order]
        n = n // self.batch * self.batch
        leaving, self.n = self.held[self.n - n: self.n].clone(), self.n - n
        yield from leaving.split(self.batch)

    def state(self) -> dict[str, Tensor]:
        held = torch.empty(0, 0) if self.held is None else self.held[: self.n].clone()
        return {"held": held, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])
        held = state["held"]
        self.n = len(held)
        if held.numel():
            self.held = held.new_empty(self.capacity, held.shape[-1])
            self.held[: self.n] = held
