"""What all metrics of one dictionary share: the activations, their codes, and what is true of each token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...network import Network
from ...observe import activations
from ..anchored import Anchored
from ..codes import Codes
from ..dictionary import Dictionary
from .tasks import Tasks, tasks_of

SHARES = (0.5, 0.2, 0.3)          # of the documents: to train probes, to choose settings, to score
FEW_DOCUMENTS = 10                # with fewer, rows take their place in splits and intervals


@dataclass(eq=False)
class Bench:
    """Activations x [n, d] at the dictionary's site on held-out data, and where each comes from.

    Several sites lie side by side. y: [n, d_out] at the sites that are written, where these are others than those that are
    read; widths: of the sites that are written, where these are several.
    group: [n], the document of each activation, or its row where there are few documents or none; row, position: its place
    in `data`; seeds: of controls, splits and probes; others: dictionaries of the same recipe from other seeds;
    truth: what the activations were made from, where that is known.
    """

    x: Tensor
    group: np.ndarray
    row: np.ndarray
    position: np.ndarray
    grouped_by: str
    seeds: tuple[int, ...] = (0, 1, 2)
    net: Network | None = None
    data: Any = None
    others: tuple[Dictionary, ...] = ()
    truth: Any = None
    y: Tensor | None = None
    widths: tuple[int, ...] = ()
    batch_size: int = 16
    kept: dict[Any, Any] = field(default_factory=dict)      # what a metric found that it can use for the next dictionary
    _codes: dict[int, tuple[Dictionary, Codes]] = field(default_factory=dict)
    _matrices: dict[int, Any] = field(default_factory=dict)
    _splits: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    @property
    def written(self) -> Tensor:
        """What is to be written: [n, d_out]."""
        return self.x if self.y is None else self.y

    @cached_property
    def spread(self) -> Tensor:
        """The units of what is written [d_out]: 1, or of several sites the root of each one's variance, so that all count
        alike."""
        parts = self.written.split(self.widths or (self.written.shape[1],), 1)
        return torch.cat([part.new_full((part.shape[1],), float(part.var(0).sum().sqrt()) if len(parts) > 1 else 1.0)
                          for part in parts])

    @torch.no_grad()
    def codes(self, dictionary: Dictionary) -> Codes:
        """The codes of all activations, computed once for each dictionary."""
        if id(dictionary) not in self._codes:
            parts = [dictionary.encode(part) for part in self.x.split(4096)]
            most = max(part.values.shape[-1] for part in parts)
            padded = [torch.nn.functional.pad(part.values, (0, most - part.values.shape[-1])) for part in parts]
            # What pads a row names latent 0 with the value zero, which no sum notices.
            indices = [torch.nn.functional.pad(part.indices, (0, most - part.indices.shape[-1])) for part in parts]
            codes = Codes(torch.cat(padded), torch.cat(indices))
            starts = [part.start for part in parts if isinstance(part, Anchored) and part.start is not None]
            if starts:
                codes = Anchored(codes.values, codes.indices, start=torch.cat(starts))
            self._codes[id(dictionary)] = dictionary, codes
        return self._codes[id(dictionary)][1]

    def matrix(self, dictionary: Dictionary) -> Any:
        """The codes as a matrix [n, width] in compressed rows."""
        from scipy.sparse import csr_matrix
        if id(dictionary) in self._matrices:
            return self._matrices[id(dictionary)]
        codes = self.codes(dictionary)
        k = codes.values.shape[-1]
        made = csr_matrix((codes.values.numpy().ravel(), codes.indices.numpy().ravel(), np.arange(0, self.n * k + 1, k)),
                          shape=(self.n, dictionary.width), copy=True)
        made.sum_duplicates()
        made.eliminate_zeros()
        self._matrices[id(dictionary)] = made
        return made

    def dense(self, dictionary: Dictionary, rows: np.ndarray) -> np.ndarray:
        """The codes of some activations as they are: float32 [rows, width]."""
        return self.matrix(dictionary)[rows].toarray()

    @cached_property
    def tasks(self) -> Tasks:
        """What is true of each token."""
        return tasks_of(self)

    def split(self, seed: int) -> np.ndarray:
        """0, 1 or 2 for each activation: for training, for choosing and for scoring; whole documents each."""
        if seed not in self._splits:
            order = np.random.default_rng(seed).permutation(self.groups)
            sizes = np.bincount(self.group, minlength=self.groups)[order]
            before = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
            of = np.empty(self.groups, np.int64)
            of[order] = np.searchsorted(np.cumsum(SHARES)[:-1], before)
            self._splits[seed] = of[self.group]
        return self._splits[seed]


def rows_of(codes: Codes, rows: slice) -> Codes:
    """The codes of some activations."""
    start = {"start": codes.start[rows]} if isinstance(codes, Anchored) and codes.start is not None else {}
    return replace(codes, values=codes.values[rows], indices=codes.indices[rows], **start)


def sums_by(group: np.ndarray, groups: int, columns: list[np.ndarray]) -> np.ndarray:
    """Sums of some columns [n] over each group: [groups, columns]."""
    return np.stack([np.bincount(group, column, minlength=groups) for column in columns], 1)


@torch.no_grad()
def gather(net: Network, dictionary: Dictionary, data: Any, tokens: int, **options: Any) -> Bench:
    """See the dictionary's sites on `tokens` tokens, in rows that are drawn from all of the data.

    Rows are drawn by one fixed seed, so that every dictionary meets the same ones.
    """
    if len(dictionary.reads) == 1:
        dictionary.placed(net)     # with words for a width or a name that does not fit
    reads, writes = ([net.site(name).name for name in names] for names in (dictionary.reads, dictionary.writes))
    rows = min(-(-tokens // data.row_tokens), data.n_rows)
    chosen = np.sort(np.random.default_rng(0).permutation(data.n_rows)[:rows])
    data = replace(data, index=data.index[chosen])
    xs, ys, places, widths = list[Tensor](), list[Tensor](), [], tuple[int, ...]()
    for seen in activations(net, data, dict.fromkeys([*reads, *writes])):
        batch, y = seen.batch, [seen.tensors[name].float() for name in writes]
        x, widths = [seen.tensors[name].float().reshape(*y[0].shape[:-1], -1) for name in reads], tuple(z.shape[-1] for z in y)
        keep = dictionary.speaks_for(x, dict(enumerate(y)))
        if batch.keep is not None and batch.keep.shape == keep.shape:
            keep = keep & batch.keep
        at = keep.nonzero()
        xs.append(torch.cat([part[keep] for part in x], 1).cpu())
        if reads != writes:
            ys.append(torch.cat([part[keep] for part in y], 1).cpu())
        places.append(np.stack([batch.rows.cpu().numpy()[at[:, 0].cpu()],
                                at[:, 1].cpu().numpy() if keep.ndim > 1 else np.zeros(len(at), np.int64)], 1))
    if not xs or sum(map(len, xs)) == 0:
        raise ValueError(f"none of the activations of {data.name} count at {', '.join(reads)}, so nothing can be measured.")
    row, position = np.concatenate(places).T
    group = row
    if hasattr(data, "stream"):
        group = documents_of(data, row, position)
    found, numbered = np.unique(group, return_inverse=True)
    named = "documents"
    if not hasattr(data, "stream") or len(found) < FEW_DOCUMENTS:
        numbered, named = np.unique(row, return_inverse=True)[1], "rows"
    return Bench(torch.cat(xs), numbered, row, position, named, net=net, data=data, y=torch.cat(ys) if ys else None,
                 widths=widths if len(widths) > 1 else (), **options)


def place_in_stream(data: Any, row: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The number of each token of rows of text among all joined tokens."""
    return data.index[row] * data.layout.body + position - len(data.layout.opens)


def documents_of(data: Any, row: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The document of each token of rows of text."""
    return np.searchsorted(data.stream.starts, place_in_stream(data, row, position), side="right") - 1
