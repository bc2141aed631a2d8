"""The codes of whole rows of data, chunk after chunk: what a store is built from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..observe import activations

if TYPE_CHECKING:
    from ..data import Batch
    from ..dictionaries import Dictionary
    from ..network import Network

CHUNK = 65_536    # positions in a chunk, so that a place in it is a uint16
BATCH = 16        # rows in a pass of the network


@dataclass(frozen=True)
class Coded:
    """Some whole rows: what fires where.

    keep: bool [rows, length]; documents, tokens: [rows, length], tokens None where the data has none.
    places: [n] row * length + place in the row, ascending; latents, activations: [n].
    """

    keep: np.ndarray
    places: np.ndarray
    latents: np.ndarray
    activations: np.ndarray
    documents: np.ndarray
    tokens: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """Something to build a store from: `chunks(row)` gives the codes of all rows from a row on, always cut alike."""

    identity: dict[str, Any]
    n_rows: int
    row_length: int
    chunk_rows: int
    n_vocabulary: int
    chunks: Callable[[int], Iterator[Coded]]


def source_of(net: Network, dictionary: Dictionary, data: Any, identity: dict[str, Any], n_vocabulary: int) -> Source:
    """The codes of a dictionary on all of some data."""
    sites = looked_at(net, dictionary)
    try:
        found = net.record(data.rows([0]), sites)
    except (RuntimeError, TypeError, IndexError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{net.name} cannot read {data.name} ({said}); give data that is made for it.") from error
    for name, x in found.items():
        shape = x.shape
        if len(shape) not in (2, 3):
            raise ValueError(f"a store is made from activations [rows, positions, d] or [rows, d]; {name} has {list(shape)}.")
    length = shape[:-1].numel()
    batch = max(1, min(BATCH, CHUNK // length))
    rows = max(batch, CHUNK // length // batch * batch)

    def chunks(start: int) -> Iterator[Coded]:
        parts: list[Coded] = []
        for seen in activations(net, data, sites, batch, start=start):
            parts.append(_coded(dictionary, [seen.tensors[name] for name in sites], seen.batch, length, data))
            if sum(len(part.keep) for part in parts) >= rows or seen.next_row == data.n_rows:
                yield _joined(parts, length)
                parts = []

    return Source(identity, data.n_rows, length, rows, n_vocabulary, chunks)


def looked_at(net: Network, dictionary: Dictionary) -> list[str]:
    """The sites that say what fires where: those that are read, and those written whose attention sinks do not count."""
    if len(dictionary.reads) == 1:
        dictionary.placed(net)     # with words for a width or a name that does not fit
    return [net.site(name).name for name in (*dictionary.reads, *(dictionary.writes[j] for j in dictionary.guards))]


@torch.no_grad()
def _coded(dictionary: Dictionary, tensors: list[torch.Tensor], batch: Batch, length: int, data: Any) -> Coded:
    """One batch: tensors [b, t, d] or [b, d] of the sites of `looked_at`."""
    tensors = [x.reshape(len(batch.rows), -1, x.shape[-1]) for x in tensors]
    for tensor in tensors:
        if tensor.shape[1] != length:
            raise ValueError(f"all rows must be as long as the first, {length} positions; found {tensor.shape[1]}.")
    # Networks side by side are given the ids of text alone.
    ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, dict) else batch.inputs if hasattr(data, "stream") else None
    ids = ids if ids is not None and ids.shape == tensors[0].shape[:2] else None
    x, keep = counted(dictionary, tensors, ids)
    if batch.keep is not None and batch.keep.numel() == keep.numel():
        keep = keep & batch.keep.reshape(keep.shape)
    token, latents, values = fires(dictionary, [part[keep] for part in x])
    mask = keep.cpu().numpy()
    tokens = None if ids is None else ids.cpu().numpy()
    rows = batch.rows.cpu().numpy()
    return Coded(mask, np.flatnonzero(mask)[token], latents, values, documents_of(data, rows, length), tokens)


def counted(dictionary: Dictionary, tensors: list[torch.Tensor], ids: torch.Tensor | None) -> tuple[list[torch.Tensor],
                                                                                                    torch.Tensor]:
    """What is read at each site, of tensors at the sites of `looked_at`, and which tokens the dictionary speaks for."""
    n = len(dictionary.reads)
    return tensors[:n], dictionary.speaks_for(tensors[:n], dict(zip(dictionary.guards, tensors[n:], strict=True)), ids)


def fires(dictionary: Dictionary, x: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every firing on activations [n, d] at each site that is read, in their order: which of them [m], the latent [m] and its
    activation [m]."""
    codes = dictionary.encoded([part.to(dictionary.W_dec) for part in x])
    values, indices = codes.values.float().cpu().numpy(), codes.indices.cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"the activations at {', '.join(dictionary.reads)} or the dictionary's codes hold NaN or infinity.")
    token, place = values.nonzero()
    return token, indices[token, place], values[token, place]


def _joined(parts: list[Coded], length: int) -> Coded:
    before = np.cumsum([0, *(len(part.keep) for part in parts[:-1])]) * length
    return Coded(
        keep=np.concatenate([part.keep for part in parts]),
        places=np.concatenate([part.places + n for part, n in zip(parts, before, strict=True)]),
        latents=np.concatenate([part.latents for part in parts]),
        activations=np.concatenate([part.activations for part in parts]),
        tokens=None if parts[0].tokens is None else np.concatenate([p.tokens for p in parts if p.tokens is not None]),
        documents=np.concatenate([part.documents for part in parts]))


def documents_of(data: Any, rows: np.ndarray, length: int) -> np.ndarray:
    """The number of the document of each position [rows, length]; where data has no documents, the row is one."""
    layout, stream = getattr(data, "layout", None), getattr(data, "stream", None)
    if layout is None or stream is None:
        return np.repeat(rows[:, None], length, 1)
    # Special tokens around a row belong to the documents of the text beside them.
    place = np.clip(np.arange(length) - len(layout.opens), 0, layout.body - 1)
    token = data.index[rows][:, None] * layout.body + place
    return np.searchsorted(stream.starts, token, side="right") - 1
