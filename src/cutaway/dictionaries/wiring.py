"""How a dictionary lies in a network: which tensors of a token it reads, and which it writes.

A source lays the tensors of a token side by side in one row, named by their places in the network, so that shuffling,
harvests and checkpoints need not know how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..network import Network, Site

if TYPE_CHECKING:
    from .dictionary import Dictionary, Facts
    from .recipe import Recipe

BESIDE = "&"                  # between the names of tensors that lie in one row
GRADIENT = "gradient of "     # before a site: the gradient there of the loss


def tensors_of(place: str) -> tuple[str, ...]:
    """The names of the tensors that lie in the rows of a place."""
    return tuple(place.split(BESIDE))


@dataclass(frozen=True)
class Row:
    """The tensors of a token in one row: their widths, and which of them are read and written."""

    widths: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    def read(self, rows: Tensor) -> Tensor:
        """What a dictionary reads of rows [n, sum of widths], side by side."""
        return self._some(rows, self.reads)

    def written(self, rows: Tensor) -> Tensor:
        """What it is to write, side by side."""
        return self._some(rows, self.writes)

    def of(self, which: Sequence[int]) -> tuple[int, ...]:
        """The widths of some of the tensors."""
        return tuple(self.widths[i] for i in which)

    def _some(self, rows: Tensor, which: tuple[int, ...]) -> Tensor:
        if len(which) == len(self.widths):
            return rows
        parts = rows.split(self.widths, -1)
        return torch.cat([parts[i] for i in which], -1)


@dataclass(frozen=True)
class Wiring:
    """A dictionary of one site, which it reads and writes; others are subclasses."""

    def places(self, net: Network, pattern: str) -> dict[str, str]:
        """The place of each dictionary that a pattern of sites asks for, by the dictionary's name."""
        return {site.name: site.name for site in sites_of(net, pattern)}

    def usual(self, blocks: int) -> str:
        """Where such a dictionary is learned in a network of so many blocks, when nobody says."""
        return f"blocks.{max(0, (blocks - 1) // 2)}"

    def row(self, widths: tuple[int, ...]) -> Row:
        """How a token's tensors lie in a row."""
        return Row(widths, (0,), (0,))

    def latents(self, recipe: Recipe, row: Row) -> int:
        """How many latents a dictionary has in all."""
        return recipe.width

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: torch.Generator) -> Any:
        """A dictionary at the start of training, from a sample [n, sum of widths] in normalised units."""
        return recipe.build(sample, generator)

    def empty(self, recipe: Recipe, row: Row, facts: Facts, limits: Sequence[float]) -> Dictionary:
        """A dictionary as it is used, whose tensors are still to be filled in.

        facts: with the names of the tensors as its site; limits: the largest norm of each tensor that is no attention sink.
        """
        from .dictionary import Dictionary
        return Dictionary(row.widths[0], recipe.width, recipe.sparsify, facts, recipe.tied)

    def fill(self, made: Any, tensors: dict[str, Tensor]) -> None:
        """Fill in the tensors of a dictionary in training."""
        made.load_state_dict(tensors)


def sites_of(net: Network, pattern: str) -> list[Site]:
    """The sites of a pattern, which may be several with commas; each must hold activations."""
    found = net.sites([part.strip() for part in pattern.split(",")])
    for site in found:
        if site.is_weight or site.io == "pattern":
            raise ValueError(f"{site.name} holds {site.io}, not activations, so no dictionary can be learned there.")
        if site.holds_maps:
            raise ValueError(f"{site.name} holds maps [b, channels, h, w], and a dictionary is learned from vectors [b, d] or "
                             "[b, t, d]; choose a site behind the convolutions.")
    return found


def several(widths: tuple[int, ...], least: int, what: str) -> None:
    """Refuse rows of too few tensors."""
    if len(widths) < least:
        raise ValueError(f"{what} of each token, and found {len(widths)} tensor; learn it with `cutaway.learn` from a network, "
                         "or give a Learner the tensors side by side, with their widths.")
