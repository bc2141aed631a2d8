"""Where each feature of a dictionary fires, from one pass over a bounded sample of data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import as_data
from ..network import Network
from ..observe import Seen, observe
from .apart import places
from .dictionary import Dictionary
from .logits import last_written, logit_effects

KINDS = ("top", "quantiles", "random")


@dataclass(frozen=True)
class Context:
    """A stretch of text around one token at which a feature fires.

    tokens: the text of each token; activations: of the feature at each of them (0 where it is silent); peak: the place in
    both of the token that this context was chosen for; quantile: of its activation among all at which the feature fires.
    """

    tokens: list[str]
    activations: list[float]
    peak: int
    row: int
    position: int
    quantile: float

    @property
    def activation(self) -> float:
        return self.activations[self.peak]

    def __str__(self) -> str:
        return "".join(f"[{token}]" if i == self.peak else token for i, token in enumerate(self.tokens))

    def _repr_html_(self) -> str:
        from ..report.cards import highlighted
        return highlighted(self)


class Features:
    """The codes of a sample of data: which features fire at which token. `features[12]` is one of them."""

    def __init__(self, net: Network, dictionary: Dictionary, data: Any):
        self.net, self.dictionary, self.data = net, dictionary, data
        self.sites, self.done = [*dictionary.reads, *(dictionary.writes[j] for j in dictionary.guards)], False
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.n_tokens = 0

    def update(self, seen: Seen) -> None:
        """Take the codes of one batch; an observer's part."""
        tensors = [seen.tensors[site] for site in self.sites]
        n, shape = len(self.dictionary.reads), tensors[-1].shape[:-1]
        x = [part.reshape(*shape, -1) for part in tensors[:n]]
        ids = seen.batch.inputs.get("input_ids") if isinstance(seen.batch.inputs, dict) else None
        keep = self.dictionary.speaks_for(x, dict(zip(self.dictionary.guards, tensors[n:], strict=True)), ids)
        if seen.batch.keep is not None and seen.batch.keep.shape == keep.shape:
            keep = keep & seen.batch.keep
        codes = self.dictionary.encoded([part[keep] for part in x])
        row, position = (index.cpu().numpy() for index in keep.reshape(len(keep), -1).nonzero(as_tuple=True))
        fires = (codes.values != 0).cpu().numpy()
        token, place = fires.nonzero()
        self._parts.append((codes.indices.cpu().numpy()[token, place].astype(np.int32),
                            codes.values.cpu().numpy()[token, place].astype(np.float32),
                            seen.batch.rows.cpu().numpy()[row[token]].astype(np.int32), position[token].astype(np.int32)))
        self.n_tokens += int(keep.sum())

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, ...]:
        """Latents, values, rows and positions of every firing, sorted by latent, and where each latent begins."""
        latents, values, rows, positions = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        self._parts.clear()
        order = np.argsort(latents, kind="stable")
        starts = np.searchsorted(latents[order], np.arange(self.dictionary.width + 1))
        return values[order], rows[order], positions[order], starts

    @property
    def counts(self) -> np.ndarray:
        """For how many tokens of the sample each feature fires: [width]."""
        return np.diff(self._sorted[3])

    @property
    def frequency(self) -> np.ndarray:
        """The share of tokens for which each feature fires: [width]."""
        return self.counts / self.n_tokens

    def firings(self, latent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Activations, rows and positions of one feature's firings."""
        values, rows, positions, starts = self._sorted
        place = slice(starts[latent], starts[latent + 1])
        return values[place], rows[place], positions[place]

    def __len__(self) -> int:
        return self.dictionary.width

    def __repr__(self) -> str:
        fired = int((self.counts > 0).sum())
        return (f"Features({len(self):,} at {places(self.dictionary)}: {fired:,} fire in {self.n_tokens:,} tokens of "
                f"{self.data.name})")

    def __getitem__(self, latent: int) -> Feature:
        return Feature(self.dictionary, int(latent), self)

    def __iter__(self) -> Iterator[Feature]:
        return (self[i] for i in range(len(self)))

    def interesting(self, n: int = 12, least: int = 20, most: float = 0.02, seed: int = 0) -> list[Feature]:
        """Some features that fire neither hardly ever nor nearly always, chosen at random."""
        fit = np.flatnonzero((self.counts >= least) & (self.frequency <= most))
        chosen = np.random.default_rng(seed).permutation(fit)[:n]
        return [self[int(i)] for i in sorted(chosen)]

    def active(self, text: str, n: int = 5) -> list[list[tuple[int, float]]]:
        """The strongest features at each token of a text, of either sign: lists of (feature, activation).

        There are none at special tokens and attention sinks, for which the dictionary does not speak.
        """
        inputs = self.net.tokens(text)
        found = self.net.record(inputs, self.dictionary.reads)
        x = [found[site].reshape(-1, found[site].shape[-1]) for site in self.dictionary.reads]
        codes, keep = self.dictionary.encoded(x), self.dictionary.speaks_for(x, {}, inputs["input_ids"].reshape(-1))
        result = []
        for values, indices, counts in zip(codes.values, codes.indices, keep, strict=True):
            top = values.abs().topk(min(n, len(values))).indices
            result.append([(int(indices[i]), float(values[i])) for i in top if counts and values[i] != 0])
        return result


@dataclass(frozen=True)
class Direction:
    """One latent of a dictionary, which is all that steering and clamping need to know."""

    dictionary: Dictionary
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.dictionary.width:
            raise IndexError(f"this dictionary has the features 0 to {self.dictionary.width - 1}; found {self.index}.")

    @property
    def direction(self) -> Tensor:
        """The decoder row [d]: what one unit of activation adds at the site that is written."""
        if len(self.dictionary.writes) > 1:
            raise ValueError(f"feature {self.index} writes at {', '.join(self.dictionary.writes)}, so it has no one direction; "
                             "its rows at each of them are in the dictionary's W_dec.")
        return self.dictionary.W_dec[self.index].detach()


@dataclass(frozen=True)
class Feature(Direction):
    """One feature: its direction, how often and how strongly it fires, and where."""

    features: Features

    @cached_property
    def activations(self) -> np.ndarray:
        """Its activations wherever it fires in the sample."""
        return self.features.firings(self.index)[0]

    @property
    def count(self) -> int:
        return len(self.activations)

    @property
    def frequency(self) -> float:
        return self.count / self.features.n_tokens

    @property
    def max(self) -> float:
        return float(self.activations.max()) if self.count else 0.0

    def contexts(self, n: int = 10, kind: str = "top", before: int = 20, after: int = 8, seed: int = 0) -> list[Context]:
        """Stretches of text in which it fires, one for each peak and row of data, so that neighbours do not fill the list.

        kind: `top` the strongest, `quantiles` evenly spread over all activations from strong to weak, `random` any.
        """
        if kind not in KINDS:
            raise ValueError(f"contexts are of the kinds {', '.join(KINDS)}; found {kind!r}.")
        if not hasattr(self.features.data, "pieces"):
            raise ValueError(f"contexts are stretches of text, and {self.features.data.name} is not text; `firings` gives the "
                             "rows and positions where a feature fires, and so does a store.")
        values, rows, positions = self.features.firings(self.index)
        order = np.argsort(-values, kind="stable")
        _, first = np.unique(rows[order], return_index=True)  # the strongest firing of each row
        peaks = order[np.sort(first)]
        everywhere = np.arange(len(values))
        if kind == "top":
            chosen = peaks[:n]
        elif kind == "quantiles":
            chosen = order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(int))]
        else:
            chosen = np.random.default_rng(seed).permutation(everywhere)[:n]
        strength = np.sort(values)
        return [self._context(int(rows[i]), int(positions[i]), values, rows, positions,
                              float(np.searchsorted(strength, values[i], side="right") / len(values)), before, after)
                for i in chosen]

    def _context(self, row: int, position: int, values: np.ndarray, rows: np.ndarray, positions: np.ndarray,
                 quantile: float, before: int, after: int) -> Context:
        data = self.features.data
        length = len(data.tokens(row))
        start, end = max(0, position - before), min(length, position + after + 1)
        here = rows == row
        own = dict(zip(positions[here].tolist(), values[here].tolist(), strict=True))
        return Context(data.pieces(row, start, end), [own.get(i, 0.0) for i in range(start, end)], position - start,
                       row, position, quantile)

    def logits(self, n: int = 8) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """The tokens whose logits its direction raises most, and those it lowers most.

        The direction goes straight to the unembedding through the final norm's weights; its scale, which depends on the
        token, is left out, and so are later blocks. Of several sites that are written it is the row into the last.
        """
        net = self.features.net
        j = last_written(net, self.dictionary)
        effect = logit_effects(net, self.dictionary.writes[j], self.dictionary.rows_into(j)[self.index, None].detach())[0]

        def named(ids: Tensor) -> list[tuple[str, float]]:
            return [(net.tokenizer.decode([int(i)]), float(effect[i])) for i in ids]
        return named(effect.topk(n).indices), named((-effect).topk(n).indices)

    def _repr_html_(self) -> str:
        from ..report.cards import card
        return card(self)

    def __repr__(self) -> str:
        return (f"Feature({self.index} at {places(self.dictionary)}: fires for {self.frequency:.3%} of tokens, "
                f"max {self.max:.3g})")


@torch.no_grad()
def watch(net: Network, dictionary: Dictionary, data: Any, tokens: int | str | None = 200_000,
          progress: bool = False) -> Features:
    """See where the features of a dictionary fire in the first `tokens` tokens of data; memory grows with tokens times k."""
    data = as_data(data) if tokens is None else as_data(data).take(tokens)
    features = Features(net, dictionary, data)
    observe(net, data, [features], progress="features" if progress else None)
    return features
