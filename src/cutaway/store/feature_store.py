"""The Python face of a store: everything that is known of every feature, without a network."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import frames, listing, pages, profiles, search, windows
from .features import Passage, Postings, StoredFeature
from .layout import KINDS, damage, number
from .names import Names
from .notes import Notes
from .reading import Files
from .rows import StoredRows

if TYPE_CHECKING:
    from torch import Tensor

    from ..dictionaries import Dictionary
    from ..network import Network


class FeatureStore:
    """A finished store, open for reading; notes and names are the only things that are written. Safe for many threads.

    A store that was opened through a run also has its `net` and `data`, which only naming and steering need.
    Results that are said to be JSON hold dict, list, str, int, float, bool and None alone.
    """

    def __init__(self, folder: str | Path, net: Network | None = None, data: Any = None):
        self.files = Files(folder)
        self._net, self._data = net, data
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()
        self.notes = Notes(self.folder / "notes.sqlite", self.width)
        self.names = Names(self.notes.file, self.width)
        if net is not None:
            self.check(net)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return self.files.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """Identity of network, dictionary and data, counts, and size and checksum of each file: JSON."""
        return self.files.manifest

    @property
    def width(self) -> int:
        return self.manifest["dictionary"]["width"]

    @property
    def wiring(self) -> dict[str, Any]:
        """JSON {kind, reads, writes}: the sites whose activations the dictionary reads, and those that it writes."""
        site = self.manifest["dictionary"]["site"]
        return self.manifest.get("wiring") or {"kind": "", "reads": [site], "writes": [site]}

    @property
    def site(self) -> str:
        """Where the dictionary lies, in words: its site, or what it reads -> what it writes."""
        reads, writes = (", ".join(self.wiring[name]) for name in ("reads", "writes"))
        return reads if reads == writes else f"{reads} -> {writes}"

    @property
    def n_tokens(self) -> int:
        """The tokens that count: no special tokens, no attention sinks."""
        return self.manifest["n_tokens"]

    @property
    def n_documents(self) -> int:
        return self.manifest["n_documents"]

    @property
    def has_text(self) -> bool:
        return self.manifest["has_text"]

    @cached_property
    def dictionary(self) -> Dictionary:
        """The store's own copy of the dictionary."""
        from ..dictionaries import Dictionary
        return Dictionary.load(self.folder / "dictionary.safetensors")

    @cached_property
    def unit_directions(self) -> Tensor:
        """The decoder rows at length 1: [width, d]; over all sites that are written, side by side and each in its own units."""
        import torch
        return torch.nn.functional.normalize((self.dictionary.W_dec / self.dictionary.units()).detach().float(), dim=1)

    @property
    def net(self) -> Network:
        """The network, where the store was opened through a run."""
        if self._net is None:
            raise ValueError("this store was opened without its network; open it through its run, as in "
                             "cw.load(folder, net).features.")
        return self._net

    @cached_property
    def data(self) -> Any:
        """The data of the run, or else the stored tokens with the same `tokens`, `pieces` and `text` by row."""
        return self._data if self._data is not None else StoredRows(self.files)

    def check(self, net: Network | None = None, dictionary: Dictionary | None = None) -> None:
        """Raise ValueError if the store was made from another network or dictionary."""
        from ..network.fingerprint import fingerprint
        from .identity import of_dictionary
        if net is not None and net not in self._checked:
            if (found := fingerprint(net)) != (own := self.manifest["network"])["fingerprint"]:
                raise ValueError(f"the store in {self.folder} was made from the network {own['name']} ({own['fingerprint']}), "
                                 f"and this is {net.name} ({found}), whose weights differ; open that network.")
            self._checked.add(net)
        if dictionary is not None and (found := of_dictionary(dictionary)) != self.manifest["dictionary"]["fingerprint"]:
            raise ValueError(f"the store in {self.folder} was made from another dictionary ({found} is not "
                             f"{self.manifest['dictionary']['fingerprint']}); build a store of this one in another folder.")

    def verify(self) -> list[str]:
        """A sentence for every damaged file, after reading all of them; none when the store is whole."""
        return damage(self.folder, self.manifest)

    @property
    def profile(self) -> dict[str, Any] | None:
        """JSON: the figures that `cutaway evaluate --profile` measured, each with its floor and ceiling; or None."""
        return profiles.read(self)

    def overview(self) -> dict[str, Any]:
        """JSON: what the store was made from, its size, and how its latents fire."""
        return pages.overview(self)

    # --- many features ------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> np.ndarray:
        """At how many tokens each feature fires: [width]."""
        return self.files.counts

    @property
    def frequency(self) -> np.ndarray:
        """The share of tokens at which each feature fires: [width]."""
        return self.counts / max(self.n_tokens, 1)

    def features(self, sort: str = "frequency", descending: bool = True, where: Mapping[str, Any] | None = None,
                 search: str = "", offset: int = 0, limit: int = 50) -> dict[str, Any]:
        """JSON {total, rows}: summaries of features, sorted by a column, some of them.

        where: columns with the value that they must have, or with the bounds (low, high) between which they must lie, None
        for no bound. Besides those of the summary there are `named` (by a person or an explainer), `clears` (its newest name
        has a score above floor and chance) and `above` (by how much it is above the floor). search: a feature's number, words
        in its label, name, notes or tags, or part of one of its five top tokens.
        """
        return listing.features(self, sort, descending, where or {}, search, offset, limit)

    def token_text(self, token: int) -> str | None:
        """What a token is called; None where there is none."""
        return self.files.vocabulary.name(token) if self.has_text and token >= 0 else None

    def frame(self, table: str = "summary", library: str = "pandas", parameters: Any = ()) -> Any:
        """A table as a data frame: summary, contexts, peaks, neighbours, logits, logit_histograms, vocabulary, or names (the
        newest of each feature with its score and floor); `postings`, every firing; or the answer to a query, as for `sql`.

        library: `pandas` or `polars`, which must then be installed.
        """
        return frames.frame(self, table, library, parameters)

    def sql(self, query: str, parameters: Any = ()) -> list[dict[str, Any]]:
        """A query in DuckDB's SQL over the tables and over `postings` (latent, position, activation), as JSON.

        parameters: in the place of each ? in it, or by name of each $name. It can read this store's folder and no other file,
        and may take 2 GB of memory. Raises ValueError for a query that cannot be answered.
        """
        return self.files.rows(query, parameters)

    # --- one feature --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.width

    def __getitem__(self, latent: int) -> StoredFeature:
        return StoredFeature(self.dictionary, self.known(latent), self)

    def __iter__(self) -> Iterator[StoredFeature]:
        return (self[i] for i in range(len(self)))

    def interesting(self, n: int = 12, least: int = 20, most: float = 0.02, seed: int = 0) -> list[StoredFeature]:
        """Some features that fire neither hardly ever nor nearly always, chosen at random."""
        fit = np.flatnonzero((self.counts >= least) & (self.frequency <= most))
        return [self[int(i)] for i in sorted(np.random.default_rng(seed).permutation(fit)[:n])]

    def known(self, latent: int) -> int:
        """A feature's number, checked."""
        return number(latent, self.width, "this dictionary has the features")

    def page(self, latent: int, n: int = 20, before: int = 20, after: int = 20) -> dict[str, Any]:
        """JSON: everything that a page about a feature shows."""
        return pages.page(self, latent, n, before, after)

    def summary(self, latent: int) -> dict[str, Any]:
        """JSON: count, frequency with its n, documents, mean, std, least, max, scale and offset of the stored levels,
        decoder_norm, encoder_bias, cosine of encoder with decoder, energy (its share of all decoded squared lengths),
        status (`alive`, `dead`, `rare`, `dense`), top_token, label, and name, as `Names.newest` gives it, or None. Where
        several sites are written also `share at SITE`: that site's part of the decoder's norms, each in its own units."""
        found = self.row_of(latent)
        return listing.named(self, [{name: found[name] for name in listing.plain_columns(self)}])[0]

    def row_of(self, latent: int) -> dict[str, Any]:
        """JSON: the whole row of a feature in the summary, histograms with it."""
        return self.files.table("summary").rows(self.known(latent))[0]

    def histogram(self, latent: int) -> dict[str, Any]:
        """JSON {edges, counts, n}: of the activations where it fires."""
        return pages.histogram(self.row_of(latent))

    def positions(self, latent: int) -> dict[str, Any]:
        """JSON {edges, counts}: at which places of its row it fires."""
        return pages.places(self, self.row_of(latent))

    def contexts(self, latent: int, kind: str = "top", n: int = 20, before: int = 20, after: int = 20,
                 distinct: bool = False) -> list[Passage]:
        """Stretches of text around tokens that were chosen when the store was built, at most 50 of a kind.

        kind: `top`, the strongest of each row; `quantiles`, from each tenth of its firings, from the strongest tenth down;
        `random` firings; `near-miss`, where a token stands that it often fires at, and it is silent.
        distinct: only the first of those whose peak token and the two before it are the same.
        """
        if kind not in KINDS:
            raise ValueError(f"contexts are of the kinds {', '.join(KINDS)}; found {kind!r}.")
        if not isinstance(n, int | np.integer):
            raise ValueError(f"n is how many contexts are wanted, such as 20; found {n!r}.")
        return pages.contexts(self, self.known(latent), (kind,), n, before, after, distinct)[kind]

    def interval(self, latent: int, low: float, high: float, n: int = 20, before: int = 20, after: int = 20,
                 seed: int = 0) -> list[Passage]:
        """Passages drawn at random from the firings with an activation from low to high, the strongest first."""
        if not all(isinstance(bound, int | float | np.number) for bound in (low, high)):
            raise ValueError(f"an interval lies between two activations; found {low!r} and {high!r}.")
        found = self.postings(latent)
        fit = np.flatnonzero((found.activations >= low) & (found.activations <= high))
        chosen = np.random.default_rng(seed).permutation(fit)[:max(0, n)]
        chosen = chosen[np.argsort(-found.activations[chosen], kind="stable")]
        strength = np.sort(found.activations)
        quantiles = np.searchsorted(strength, found.activations[chosen], side="right") / max(len(strength), 1)
        positions = found.rows[chosen].astype(np.int64) * self.manifest["row_length"] + found.positions[chosen]
        return windows.passages(self.files, int(latent), positions, before, after, ["interval"] * len(positions),
                                quantiles=quantiles)

    def passage(self, row: int, position: int, latent: int, before: int = 20, after: int = 20) -> Passage:
        """The passage around any token."""
        places = np.array([self._position(row, position)])
        return windows.passages(self.files, self.known(latent), places, before, after, [""])[0]

    def postings(self, latent: int) -> Postings:
        """Every firing in the order of the text; activations are kept to half a `scale`."""
        latent = self.known(latent)
        positions, levels = self.files.postings(latent)
        offset, scale = (values[latent] for values in self.files.scales)
        rows, places = np.divmod(positions, np.uint32(self.manifest["row_length"]))
        return Postings((offset + scale * levels).astype(np.float32), rows.astype(np.int64), places.astype(np.int64))

    def firings(self, latent: int) -> Postings:
        """`postings`, by the name that `run.features` has for it."""
        return self.postings(latent)

    def logits(self, latent: int) -> dict[str, Any] | None:
        """JSON: the tokens whose logits it raises and lowers most, and a histogram over n tokens; None where nothing can be
        said, and the manifest's `no_effects` says why. final_norm: whether the final norm's weights were applied; site: the
        one that is written, the last of several."""
        return pages.logits(self, latent)

    def neighbours(self, latent: int) -> dict[str, Any]:
        """JSON {cosine, coactive, n}: the latents with the closest decoder rows, and those that fire with it, by Jaccard's
        index, counted on n tokens."""
        return pages.neighbours(self, latent)

    def tokens(self, latent: int) -> list[dict[str, Any]]:
        """JSON: the tokens at which it fires most often: count, total (how often the token counts), share = count / total."""
        return pages.tokens(self, latent)

    def coactivation(self, latent: int, other: int) -> dict[str, Any]:
        """JSON {both, first, second, n, jaccard, lift, pmi}: at how many tokens two features fire, over the whole store."""
        (one, _), (two, _) = self.files.postings(self.known(latent)), self.files.postings(self.known(other))
        both, n = len(np.intersect1d(one, two, assume_unique=True)), self.n_tokens
        lift = both * n / (len(one) * len(two)) if len(one) and len(two) else None
        return {"both": both, "first": len(one), "second": len(two), "n": n, "lift": lift,
                "jaccard": both / (len(one) + len(two) - both) if len(one) or len(two) else None,
                "pmi": float(np.log2(lift)) if lift else None}

    # --- text ---------------------------------------------------------------------------------------------------------

    def _position(self, row: int, position: int) -> int:
        length = self.manifest["row_length"]
        row = number(row, self.manifest["n_rows"], "this store has the rows")
        return row * length + number(position, length, "its rows have the positions")

    def at(self, row: int, position: int) -> list[dict[str, Any]]:
        """JSON: the features that fire at a token, the strongest first."""
        place = self._position(row, position)
        fires = slice(int(self.files.starts[place]), int(self.files.starts[place + 1]))
        latents = self.files.latents[fires].astype(np.int64)
        offset, scale = self.files.scales
        values = offset[latents] + scale[latents] * self.files.levels[fires]
        labels = self.notes.labels(latents.tolist())
        return [{"latent": int(latents[i]), "activation": float(values[i]), "label": labels.get(int(latents[i]))}
                for i in np.argsort(-values, kind="stable")]

    def row(self, row: int) -> dict[str, Any]:
        """JSON: a whole row: its tokens, and the strongest feature at each as [latent, activation] or None."""
        first, length = self._position(row, 0), self.manifest["row_length"]
        starts = self.files.starts[first: first + length + 1].astype(np.int64)
        latents = self.files.latents[starts[0]: starts[-1]].astype(np.int64)
        offset, scale = self.files.scales
        values = offset[latents] + scale[latents] * self.files.levels[starts[0]: starts[-1]]
        top: list[list[Any] | None] = []
        for a, b in zip(starts[:-1] - starts[0], starts[1:] - starts[0], strict=True):
            best = a + int(values[a:b].argmax()) if b > a else -1
            top.append([int(latents[best]), float(values[best])] if best >= 0 else None)
        return {"row": row, "document": int(self.files.documents[first]), "tokens": self.text_of(row), "top": top}

    def text_of(self, row: int, start: int = 0, stop: int | None = None) -> list[str]:
        """The text of each token of a row; special tokens have none, half characters become ⟨e2⟩."""
        self._position(row, 0)
        start, stop, _ = slice(start, stop).indices(self.manifest["row_length"])
        return windows.text(self.files, row, start, max(start, stop))

    def document_of(self, row: int, position: int) -> int:
        """The number of the document that a token is in."""
        return int(self.files.documents[self._position(row, position)])

    def document(self, number: int, n: int = 20) -> dict[str, Any]:
        """JSON: the features of a document, by how much more often they fire in it than elsewhere."""
        place = np.flatnonzero(np.asarray(self.files.documents) == number)
        if len(place) == 0:
            raise IndexError(f"this store has documents from 0 to {self.n_documents - 1}, and none of the number {number}.")
        place = place[self.files.kept[place]]
        return {"document": int(number), "tokens": len(place), "features": search.ranked(self, place, n)}

    # --- search -------------------------------------------------------------------------------------------------------

    def by_token(self, token: int | str, n: int = 20) -> dict[str, Any]:
        """JSON {token, text, occurrences, n, features}: the features that fire at a token, given by id or as it is spelled,
        at n of its occurrences (at most 20,000, spread evenly); see `search.ranked` for their order."""
        return search.by_token(self, token, n)

    def by_text(self, text: str, n: int = 20) -> dict[str, Any]:
        """JSON {text, matches, complete, features, places}: the features that fire where this text stands in the store,
        at its first 2,000 places."""
        return search.by_text(self, text, n)

    def by_direction(self, vector: Any, n: int = 20, at: str = "") -> list[dict[str, Any]]:
        """JSON: the features whose decoder rows have the greatest cosine with a direction [d].

        at: which site the direction is at, of a dictionary that writes several; left out, it is of all of them side by side.
        """
        return search.by_direction(self, vector, n, at)

    def through(self, net: Network, text: str, n: int = 5) -> dict[str, Any]:
        """JSON {tokens, features}: the strongest features at each token of any text, by the store's own network."""
        return search.through(self, net, text, n)

    # ------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the database; everything else closes by itself."""
        self.files.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return (f"FeatureStore({self.folder}: {self.width:,} features at {self.site} of {self.manifest['network']['name']}, "
                f"{self.n_tokens:,} tokens of {self.manifest['data']['name']})")
