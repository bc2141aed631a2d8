"""The codes of a harvest's activations: a store is made from them without running the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..dictionaries import Dictionary
from ..harvest import Harvest
from .coded import CHUNK, Coded, Source, counted, fires

READ = 1 << 20     # tokens whose rows are looked at at a time
PART = 4096        # activations that are encoded at a time


@dataclass(frozen=True, eq=False)
class HarvestedRows:
    """A harvest by the rows of the data that it was made from, in the order in which they were read.

    rows: [n], each row's number in that data; starts: [n + 1], where the tokens of each begin in the harvest; length:
    positions in a row, as far as they were harvested. Positions that were not, such as those of special tokens, do not count.
    """

    harvest: Harvest
    rows: np.ndarray
    starts: np.ndarray
    length: int
    whole: bool = True

    @property
    def name(self) -> str:
        return self.harvest.name

    @property
    def fingerprint(self) -> str:
        return self.harvest.fingerprint + ("" if self.whole else f" ({len(self.rows)} rows)")

    def take(self, tokens: int) -> HarvestedRows:
        """The first rows, so many that they hold this number of tokens, or all."""
        n = min(int(np.searchsorted(self.starts, tokens)), len(self.rows))
        return replace(self, rows=self.rows[:n], starts=self.starts[:n + 1], whole=self.whole and n == len(self.rows))


def rows_of(harvest: Harvest) -> HarvestedRows:
    """The rows of a harvest; a last one that was cut short is left out where nothing could stand in its place."""
    rows, starts, length, before = list[np.ndarray](), list[np.ndarray](), 0, -1
    for first in range(0, harvest.n, READ):
        known = harvest.tokens(slice(first, first + READ))
        begins = np.flatnonzero(np.diff(known["row"].astype(np.int64), prepend=before))
        rows.append(known["row"][begins].astype(np.int64))
        starts.append(first + begins)
        length, before = max(length, int(known["position"].max()) + 1), int(known["row"][-1])
    found = HarvestedRows(harvest, np.concatenate(rows), np.concatenate([*starts, [harvest.n]]), length)
    if len(np.unique(found.rows)) < len(found.rows):
        raise ValueError(f"the harvest in {harvest.folder} holds rows of its data in pieces; harvest anew to make a store.")
    if not harvest.special_ids and found.starts[-1] - found.starts[-2] < length:
        found = replace(found, rows=found.rows[:-1], starts=found.starts[:-1])
    if not len(found.rows):
        raise ValueError(f"the harvest in {harvest.folder} holds no whole row of its data; harvest more tokens.")
    return found


def source_of(dictionary: Dictionary, data: HarvestedRows, identity: dict[str, Any], n_vocabulary: int) -> Source:
    """The codes of a dictionary on all of a harvest. A row is its own document, for a harvest does not say which it is of."""
    for name in harvested_sites(dictionary):
        data.harvest.d(name)       # with words for a site that was not harvested
    if (d := sum(data.harvest.d(name) for name in dictionary.reads)) != dictionary.d:
        raise ValueError(f"{data.name} holds activations of width {d} at {', '.join(dictionary.reads)}, and the dictionary "
                         f"reads {dictionary.d}.")
    rows = max(1, CHUNK // data.length)

    def chunks(start: int) -> Iterator[Coded]:
        for first in range(start, len(data.rows), rows):
            yield _coded(dictionary, data, first, min(first + rows, len(data.rows)))

    return Source(identity, len(data.rows), data.length, rows, n_vocabulary, chunks)


def harvested_sites(dictionary: Dictionary) -> list[str]:
    """The sites that a harvest must hold; see `coded.looked_at`."""
    return [*dictionary.reads, *(dictionary.writes[j] for j in dictionary.guards)]


@torch.no_grad()
def _coded(dictionary: Dictionary, data: HarvestedRows, first: int, last: int) -> Coded:
    """The rows from first to last."""
    harvest, shape = data.harvest, (last - first, data.length)
    low, high = int(data.starts[first]), int(data.starts[last])
    known = harvest.tokens(slice(low, high))
    place = np.repeat(np.arange(last - first), np.diff(data.starts[first: last + 1])) * data.length + known["position"]
    keep, found = np.zeros(shape, bool), []
    for start in range(low, high, PART):
        own = slice(start - low, min(start + PART, high) - low)
        tokens_here = slice(start, start + PART if start + PART < high else high)
        tensors = [harvest.read(name, tokens_here) for name in harvested_sites(dictionary)]
        ids = torch.from_numpy(known["id"][own].astype(np.int64)).to(tensors[0].device)
        x, counts = counted(dictionary, tensors, ids)
        token, latents, values = fires(dictionary, [part[counts] for part in x])
        here = place[own][counts.cpu().numpy()]
        keep.flat[here] = True
        found.append((here[token], latents, values))
    tokens = None
    if known["id"][0] >= 0:
        tokens = np.full(shape, harvest.special_ids[0] if harvest.special_ids else 0, np.int64)
        tokens.flat[place] = known["id"]
    documents = np.repeat(data.rows[first:last, None], data.length, 1)
    places, latents, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return Coded(keep, places, latents, values, documents, tokens)
