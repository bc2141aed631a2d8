"""The activations that count, in the order of the data, from any place on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Batch
from ..network import Network
from ..observe import Seen, activations
from .layout import TOKEN


@dataclass(frozen=True)
class Piece:
    """Some tokens: what is known of each (`TOKEN` [m]), and the activations x [m, d] at each site."""

    tokens: np.ndarray
    x: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, span: slice) -> Piece:
        return Piece(self.tokens[span], {site: x[span] for site, x in self.x.items()})


class Stream:
    """Activations at some sites in pieces of any size; position: the row at which a batch begins, and tokens of it to skip.

    Batches are the same wherever the stream begins, so that a second writing gives the same bits as the first.
    """

    def __init__(self, net: Network, data: Any, sites: Sequence[str], batch_size: int, seed: int, position: tuple[int, int]):
        self._row, self._skip = position
        self._next_row = self._row
        self._seen = activations(net, data, sites, batch_size, start=self._row, seed=seed)
        self._sites = list(sites)
        self._piece: Piece | None = None

    @property
    def position(self) -> tuple[int, int]:
        return self._row, self._skip

    def pieces(self, most: int) -> Iterator[Piece]:
        """The next `most` tokens, or as many as there are."""
        while most > 0 and (piece := self._current()) is not None:
            piece = piece[self._skip: self._skip + most]
            self._skip += len(piece)
            most -= len(piece)
            yield piece

    def _current(self) -> Piece | None:
        """The batch in which there are tokens left."""
        while self._piece is None or self._skip >= len(self._piece):
            seen = next(self._seen, None)
            if seen is None:
                return None
            if self._piece is not None:
                self._row, self._skip = self._next_row, 0
            self._next_row = seen.next_row
            self._piece = piece_of(seen, self._sites)
        return self._piece


def piece_of(seen: Seen, sites: Sequence[str]) -> Piece:
    """What counts of one batch; sites with other tokens than the first, and NaN, are refused."""
    first, *others = sites
    shape = seen.tensors[first].shape[:-1]
    for site in others:
        if seen.tensors[site].shape[:-1] != shape:
            raise ValueError(f"{first} has activations for {list(shape)} tokens and {site} for "
                             f"{list(seen.tensors[site].shape[:-1])}; harvest them into two folders.")
    x = {site: seen.kept(site).detach().float() for site in sites}
    for site, values in x.items():
        # Where all norms are finite everything is, and only a norm can overflow where nothing is wrong.
        if not torch.isfinite(values.norm(dim=-1)).all() and not torch.isfinite(values).all():
            raise ValueError(f"the activations at {site} hold NaN or infinity, in the rows {_span(seen.batch)} of the data.")
    return Piece(_tokens(seen.batch, tuple(shape)), x)


def _span(batch: Batch) -> str:
    return ", ".join(str(row) for row in batch.rows[:8].tolist()) + (", ..." if len(batch) > 8 else "")


def _tokens(batch: Batch, shape: tuple[int, ...]) -> np.ndarray:
    """Id (-1 where there are none), row, position and whether it was hidden, of each token that `Seen.kept` keeps."""
    keep = batch.keep if batch.keep is not None and tuple(batch.keep.shape) == shape else None
    kept = np.ones(shape, bool) if keep is None else keep.cpu().numpy()
    kept = kept.reshape(shape[0], -1)
    rows, positions = kept.nonzero()
    tokens = np.zeros(len(rows), TOKEN)
    tokens["row"], tokens["position"] = batch.rows.cpu().numpy()[rows], positions
    tokens["id"] = -1 if (ids := _ids(batch, kept.shape)) is None else ids[rows, positions]
    if batch.labels is not None and tuple(batch.labels.shape) == kept.shape:
        tokens["hidden"] = (batch.labels.cpu().numpy() != -100)[rows, positions]
    return tokens


def _ids(batch: Batch, shape: tuple[int, ...]) -> np.ndarray | None:
    ids = batch.inputs if isinstance(batch.inputs, Tensor) else batch.inputs.get("input_ids")
    if ids is None or ids.is_floating_point() or tuple(ids.shape) != shape:
        return None
    return ids.cpu().numpy()
